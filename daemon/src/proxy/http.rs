//! HTTP CONNECT (RFC 9110, section 9.3.6) as clients of proxies speak it. No other method: what is not a tunnel would have to be
//! understood.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::login::Login;
use super::network::Target;

/// Bytes of the longest request head.
const LONGEST_HEAD: usize = 16 * 1024;

/// Lines of the longest request head.
const MOST_LINES: usize = 64;

/// How long, and for how many bytes, a client that is told no is still listened to. Closing with bytes unread would be a reset, which may
/// overtake the answer.
const FAREWELL: (Duration, usize) = (Duration::from_secs(1), 128 * 1024);

/// A request that can be tried.
#[derive(Debug)]
pub(super) struct Request {
    /// Where to.
    pub target: Target,
    /// What the client sent behind the head.
    pub early: Vec<u8>,
}

/// Why a request is answered without being tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no HTTP, or not what CONNECT looks like.
    Malformed,
    /// Its head is too long.
    TooLong,
    /// Another method.
    Method,
    /// The user name and password are missing or wrong.
    Login,
}

/// Reads a request; one that is refused has been answered.
///
/// # Errors
/// The client's socket failed or ended.
pub(super) async fn request(client: &mut TcpStream, login: Option<&Login>) -> io::Result<Result<Request, Refused>> {
    // It may hold a password: no copy of it is left where it grew from.
    let mut head = Zeroizing::new(Vec::with_capacity(LONGEST_HEAD + 1_024));
    loop {
        match parse(&head, login) {
            Ok(Some(request)) => return Ok(Ok(request)),
            Ok(None) if head.len() >= LONGEST_HEAD => return refuse(client, Refused::TooLong).await.map(Err),
            Ok(None) => {}
            Err(refused) => return refuse(client, refused).await.map(Err),
        }
        let mut part = Zeroizing::new([0; 1_024]);
        let count = client.read(&mut part[..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(part.get(..count).unwrap_or_default());
    }
}

/// The client may send from now on.
///
/// # Errors
/// The client's socket failed.
pub(super) async fn accept(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await
}

/// Says why not.
///
/// # Errors
/// The client's socket failed.
pub(super) async fn fail(client: &mut TcpStream, failure: Failure) -> io::Result<()> {
    let (status, reason) = failure.http();
    answer(client, status, reason, "", &failure.to_string()).await
}

/// Says that the request did not come in time.
///
/// # Errors
/// The client's socket failed.
pub(super) async fn late(client: &mut TcpStream) -> io::Result<()> {
    answer(client, 408, "Request Timeout", "", "the request did not come in time").await
}

async fn refuse(client: &mut TcpStream, refused: Refused) -> io::Result<Refused> {
    let (status, reason, field, sentence) = match refused {
        Refused::Malformed => (400, "Bad Request", "", "this is no request that a proxy understands"),
        Refused::TooLong => (431, "Request Header Fields Too Large", "", "the request is too long"),
        Refused::Method => {
            (405, "Method Not Allowed", "Allow: CONNECT\r\n", "this proxy has no method but CONNECT (and SOCKS5)")
        }
        Refused::Login => (
            407,
            "Proxy Authentication Required",
            "Proxy-Authenticate: Basic realm=\"minivpn\", charset=\"UTF-8\"\r\n",
            "this proxy wants a user name and a password",
        ),
    };
    answer(client, status, reason, field, sentence).await.map(|()| refused)
}

async fn answer(client: &mut TcpStream, status: u16, reason: &str, field: &str, sentence: &str) -> io::Result<()> {
    let length = sentence.len() + 1;
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\n{field}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{sentence}\n"
    );
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    let (limit, bytes) = FAREWELL;
    // Whether it ends or goes on: it has been told.
    let _ = tokio::time::timeout(limit, tokio::io::copy(&mut client.take(bytes as u64), &mut tokio::io::sink())).await;
    Ok(())
}

/// `None` while the head is not whole.
fn parse(bytes: &[u8], login: Option<&Login>) -> Result<Option<Request>, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_LINES];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLong),
        Err(_) => return Err(Refused::Malformed),
    };
    if request.method != Some("CONNECT") {
        return Err(Refused::Method);
    }
    if let Some(login) = login
        && !request.headers.iter().any(|field| admits(login, field))
    {
        return Err(Refused::Login);
    }
    let target = request.path.and_then(authority).ok_or(Refused::Malformed)?;
    Ok(Some(Request { target, early: bytes.get(length..).unwrap_or_default().to_vec() }))
}

/// Whether a field is `Proxy-Authorization: Basic` (RFC 7617) with the right user name and password.
fn admits(login: &Login, field: &httparse::Header<'_>) -> bool {
    if !field.name.eq_ignore_ascii_case("proxy-authorization") {
        return false;
    }
    let Some((scheme, value)) = field.value.split_first_chunk::<6>() else { return false };
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return false;
    }
    let Ok(pair) = BASE64_STANDARD.decode(value.trim_ascii()).map(Zeroizing::new) else { return false };
    let Some(colon) = pair.iter().position(|&byte| byte == b':') else { return false };
    let (user, password) = pair.split_at(colon);
    login.admits(user, password.get(1..).unwrap_or_default())
}

fn authority(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    let bare_six = host.contains(':') && !host.starts_with('[');
    if host.is_empty() || bare_six || host.contains(['/', '@']) {
        return None;
    }
    Some(Target::new(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane::Secret;

    fn target(head: &str) -> Result<Option<Target>, Refused> {
        parse(head.as_bytes(), None).map(|request| request.map(|request| request.target))
    }

    #[test]
    fn the_authority_is_a_host_and_a_port() {
        let connect = |to: &str| target(&format!("CONNECT {to} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(connect("a.example:443"), Ok(Some(Target::Name("a.example".into(), 443))));
        assert_eq!(connect("10.0.0.1:80"), Ok(Some(Target::Address("10.0.0.1:80".parse().unwrap()))));
        assert_eq!(connect("[::1]:443"), Ok(Some(Target::Address("[::1]:443".parse().unwrap()))));
        assert_eq!(connect("[fd00::1]:80"), Ok(Some(Target::Address("[fd00::1]:80".parse().unwrap()))));
        for wrong in ["a.example", ":80", "a.example:", "a.example:x", "a.example:65536", "fd00::1:80", "u@a:80", "/"] {
            assert_eq!(connect(wrong), Err(Refused::Malformed), "{wrong}");
        }
    }

    #[test]
    fn only_connect_is_understood() {
        assert_eq!(target("GET http://a.example/ HTTP/1.1\r\n\r\n"), Err(Refused::Method));
        assert_eq!(target("CONNECT a:1 HTTP/1.1\r\nHost"), Ok(None));
        assert_eq!(target("CONNECT a:1 SMTP\r\n\r\n"), Err(Refused::Malformed));
        assert_eq!(target("CONNECT a:1 HTTP/1.1\r\n\u{0}\r\n\r\n"), Err(Refused::Malformed));
        let long = format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_LINES + 1));
        assert_eq!(target(&long), Err(Refused::TooLong));
    }

    #[test]
    fn what_follows_the_head_is_kept() {
        let request = parse(b"CONNECT a:1 HTTP/1.1\r\n\r\nearly", None).unwrap().unwrap();
        assert_eq!(request.early, b"early");
    }

    #[test]
    fn the_password_has_to_be_right_where_there_is_one() {
        let login = Login::new("ann".into(), Secret(b"s3:cret".to_vec()));
        let with = |line: &str| {
            let head = format!("CONNECT a:1 HTTP/1.1\r\n{line}\r\n\r\n");
            parse(head.as_bytes(), Some(&login)).map(|request| request.is_some())
        };
        let right = BASE64_STANDARD.encode("ann:s3:cret");
        assert_eq!(with(&format!("Proxy-Authorization: Basic {right}")), Ok(true));
        assert_eq!(with(&format!("proxy-authorization: bAsIc  {right}")), Ok(true));
        for wrong in [
            "X: y".to_owned(),
            format!("Authorization: Basic {right}"),
            format!("Proxy-Authorization: Bearer {right}"),
            format!("Proxy-Authorization: Basic {}", BASE64_STANDARD.encode("ann:s3")),
            format!("Proxy-Authorization: Basic {}", BASE64_STANDARD.encode("ann")),
            "Proxy-Authorization: Basic !".to_owned(),
            "Proxy-Authorization:".to_owned(),
        ] {
            assert_eq!(with(&wrong), Err(Refused::Login), "{wrong}");
        }
    }
}
