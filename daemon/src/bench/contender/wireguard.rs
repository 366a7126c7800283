//! WireGuard in its three forms: wireguard-go and boringtun, configured over their socket (the cross-platform userspace
//! interface of wireguard.com), and the kernel's, configured by `wg`. Keys are of this run.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::{Place, READY, Running, configure, pass};
use crate::bench::child::Child;
use crate::bench::net::{End, Ground};

/// Where the programs put their sockets.
const SOCKETS: &str = "/var/run/wireguard";

/// An X25519 key pair.
struct Pair {
    private: [u8; 32],
    public: [u8; 32],
}

pub(super) fn raise_go(program: PathBuf, ground: &Ground, place: &Place, stop: &AtomicBool) -> io::Result<Running> {
    let device = place.device();
    raise(ground, place, stop, || {
        let mut command = Command::new(&program);
        command.args(["-f", &device]).env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        command
    })
}

pub(super) fn raise_boringtun(
    program: PathBuf,
    ground: &Ground,
    place: &Place,
    stop: &AtomicBool,
) -> io::Result<Running> {
    let device = place.device();
    raise(ground, place, stop, || {
        let mut command = Command::new(&program);
        command.args(["--foreground", "--disable-drop-privileges", &device]);
        command
    })
}

fn raise(ground: &Ground, place: &Place, stop: &AtomicBool, program: impl Fn() -> Command) -> io::Result<Running> {
    let (a, b) = (Pair::new()?, Pair::new()?);
    let mut children = Vec::new();
    for (end, own, peer) in [(End::A, &a, &b), (End::B, &b, &a)] {
        if !ground.end(end).has_private_run() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a private /run cannot be mounted here"));
        }
        children.push(Child::start(ground.end(end), program(), place.cpus(end), "", true)?);
        let socket = format!("{SOCKETS}/{}.sock", place.device());
        let text = settings(own, peer, place, end);
        let start = Instant::now();
        loop {
            let (socket, text) = (socket.clone(), text.clone());
            match ground.end(end).run(move || apply(Path::new(&socket), &text)) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Err(error) if start.elapsed() > READY => return Err(error),
                Err(_) => {}
            }
            if let Some(child) = children.iter_mut().find_map(|child| child.ended().then_some(child)) {
                return Err(io::Error::other(format!("{} ended: {}", child.name(), child.last_words())));
            }
            pass(start, stop)?;
        }
    }
    configure(ground, place, &mut children, stop)?;
    let offloads = format!("ChaCha20-Poly1305, offloads of its own choice; {}", place.pinning());
    Ok(Running { offloads, addresses: place.addresses(), in_user_space: true, children, _home: None })
}

pub(super) fn raise_kernel(wg: &Path, ground: &Ground, place: &Place) -> io::Result<Running> {
    let (a, b) = (Pair::new()?, Pair::new()?);
    for (end, own, peer) in [(End::A, &a, &b), (End::B, &b, &a)] {
        ground.end(end).add_wireguard(&place.device()).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                io::Error::new(io::ErrorKind::Unsupported, "this kernel has no WireGuard (module wireguard)")
            }
            _ => error,
        })?;
        let text = format!(
            "[Interface]\nPrivateKey={}\nListenPort={}\n[Peer]\nPublicKey={}\nAllowedIPs={}/32\nEndpoint={}\n",
            base64(&own.private),
            place.port(),
            base64(&peer.public),
            end.other().inner(place.number),
            SocketAddr::from((end.other().outer(), place.port())),
        );
        let (wg, device) = (wg.to_owned(), place.device());
        ground.end(end).run(move || {
            let mut command = Command::new(wg);
            command.args(["setconf", &device, "/dev/stdin"]);
            tell(command, &text).map(drop)
        })?;
    }
    configure(ground, place, &mut [], &AtomicBool::new(false))?;
    let offloads = "ChaCha20-Poly1305, in the kernel, unpinned".into();
    Ok(Running { offloads, addresses: place.addresses(), in_user_space: false, children: Vec::new(), _home: None })
}

/// One `set` operation.
fn settings(own: &Pair, peer: &Pair, place: &Place, end: End) -> String {
    format!(
        "set=1\nprivate_key={}\nlisten_port={}\npublic_key={}\nendpoint={}\nreplace_allowed_ips=true\nallowed_ip={}/32\n\n",
        hex(&own.private),
        place.port(),
        hex(&peer.public),
        SocketAddr::from((end.other().outer(), place.port())),
        end.other().inner(place.number),
    )
}

/// Sends it and reads `errno=0`.
fn apply(socket: &Path, text: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(text.as_bytes())?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 256]);
    while !answer.ends_with(b"\n\n") && answer.len() < 4_096 {
        match stream.read(&mut bytes)? {
            0 => break,
            read => answer.extend(bytes.iter().take(read)),
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.lines().any(|line| line == "errno=0") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it refused its settings: {}", answer.trim())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 4648, of 32 bytes.
fn base64(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            let digit = DIGITS.get((number >> (18 - 6 * place)) as usize & 63);
            text.push(digit.copied().map_or('=', char::from));
        }
        (group.len()..3).for_each(|_| text.push('='));
    }
    text
}

/// Gives a program its input and takes its output.
fn tell(mut command: Command, input: &str) -> io::Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

impl Pair {
    #[cfg(feature = "aws-lc")]
    fn new() -> io::Result<Pair> {
        use aws_lc_rs::agreement::{PrivateKey, X25519};
        use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
        let failed = |_| io::Error::other("no X25519 key could be made");
        let key = PrivateKey::generate(&X25519).map_err(failed)?;
        let seed: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(failed)?;
        let public = key.compute_public_key().map_err(failed)?;
        match (seed.as_ref().try_into(), public.as_ref().try_into()) {
            (Ok(private), Ok(public)) => Ok(Pair { private, public }),
            _ => Err(io::Error::other("an X25519 key of the wrong length")),
        }
    }

    /// ring gives no private key away, so `wg` makes them.
    #[cfg(not(feature = "aws-lc"))]
    fn new() -> io::Result<Pair> {
        let wg = super::find("wg").ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "wg, which makes its keys, is not installed (package wireguard-tools)",
            )
        })?;
        let ask = |word: &str, input: &str| {
            let mut command = Command::new(&wg);
            command.arg(word);
            tell(command, input)
        };
        let private = ask("genkey", "")?;
        let public = ask("pubkey", &private)?;
        let odd = || io::Error::other("wg printed no key");
        Ok(Pair { private: unbase64(&private).ok_or_else(odd)?, public: unbase64(&public).ok_or_else(odd)? })
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
fn unbase64(text: &str) -> Option<[u8; 32]> {
    let bits = text.trim().trim_end_matches('=').bytes().map(|byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let (mut bytes, mut number, mut have) = (Vec::new(), 0u32, 0);
    for digit in bits {
        number = number << 6 | u32::from(digit?);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((number >> have) as u8);
            number &= (1 << have) - 1;
        }
    }
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_base64_reads_back() {
        let key: [u8; 32] = std::array::from_fn(|at| (at * 37) as u8);
        let text = base64(&key);
        assert_eq!((text.len(), text.ends_with('=')), (44, true));
        assert_eq!(unbase64(&text), Some(key));
        assert_eq!(base64(&[0; 32]), "A".repeat(43) + "=");
        assert_eq!(unbase64("short"), None);
        assert_eq!(unbase64(&"?".repeat(44)), None);
    }

    #[cfg(feature = "aws-lc")]
    #[test]
    fn two_pairs_differ_and_are_not_zero() {
        let (a, b) = (Pair::new().unwrap(), Pair::new().unwrap());
        assert!(a.private != b.private && a.public != b.public && a.private != a.public);
        assert!(a.public.iter().any(|byte| *byte != 0));
    }

    #[test]
    fn the_settings_name_the_other_end() {
        let (own, peer) = (Pair { private: [1; 32], public: [2; 32] }, Pair { private: [3; 32], public: [4; 32] });
        let place = Place { number: 5, a: vec![0], b: vec![1] };
        let text = settings(&own, &peer, &place, End::A);
        assert!(text.contains(&format!("private_key={}\n", "01".repeat(32))));
        assert!(text.contains(&format!("public_key={}\n", "04".repeat(32))));
        assert!(text.contains("endpoint=192.0.2.2:20005\n") && text.contains("allowed_ip=10.77.5.2/32\n"));
        assert!(text.ends_with("\n\n"));
    }
}
