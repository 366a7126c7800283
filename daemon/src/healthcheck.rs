//! `minivpn healthcheck`: whether the gateway serves, for container runtimes and service managers. The gateway is asked over its
//! control socket, and its device is looked at; nobody else is asked for anything. One line says what was found; exit 0 or 1.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::gateway::requests::Whom;
use crate::gateway::whereabouts;
use crate::outln;

/// The version of the control protocol.
const VERSION: u64 = 1;

/// The longest answer, in bytes: a status of some 30,000 clients.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// `minivpn healthcheck …`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The control socket of the gateway [default: where it noted that it listens]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The gateway's name; not needed where one runs, or with --socket
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Seconds that it may take to answer
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub timeout: u64,
}

/// `minivpn healthcheck`.
pub fn main(options: &Options, quiet: bool) -> Exit {
    let whom = Whom { name: options.name.clone(), socket: options.socket.clone() };
    let found = whom
        .path()
        .map_err(|fatal| fatal.sentence)
        .and_then(|socket| check(&socket, Duration::from_secs(options.timeout), Path::new("/")));
    match found {
        Ok(sentence) => {
            if !quiet {
                outln!("healthy: {sentence}");
            }
            Exit::Ok
        }
        Err(sentence) => {
            outln!("unhealthy: {sentence}");
            Exit::Other
        }
    }
}

/// Asks, and looks at the device under `root` (tests have their own).
fn check(socket: &Path, patience: Duration, root: &Path) -> Result<String, String> {
    let unreachable = |error: io::Error| format!("{}: {}", socket.display(), reason(&error, patience));
    let stream = whereabouts::connect(socket, Some(patience)).map_err(unreachable)?;
    let mut stream = BufReader::new(stream);
    let ping = ask(&mut stream, "ping").map_err(unreachable)??;
    if ping.get("healthy") == Some(&Value::Bool(false)) {
        return Err(text(&ping, "why").unwrap_or("the gateway says so").to_owned());
    }
    let facts = match ping.get("healthy") {
        Some(_) => ping,
        None => of_status(&ask(&mut stream, "status").map_err(unreachable)??)?,
    };
    if let Some(device) = text(&facts, "device") {
        device_works(device, facts.get("pid").and_then(Value::as_u64), root)?;
    }
    Ok(summary(&facts))
}

fn reason(error: &io::Error, patience: Duration) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket: the gateway does not run".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody serves it: the gateway has ended".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {} s", patience.as_secs()),
        _ => error.to_string(),
    }
}

/// One request and its result; a sentence when the gateway refuses.
fn ask(stream: &mut BufReader<UnixStream>, command: &str) -> io::Result<Result<Value, String>> {
    let mut request = json!({ "v": VERSION, "command": command }).to_string();
    request.push('\n');
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.by_ref().take(MAX_ANSWER).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut answer: Value = serde_json::from_str(&line).map_err(|_| io::Error::other("its answer is no JSON"))?;
    if answer.get("ok") == Some(&Value::Bool(true)) {
        return Ok(Ok(answer.get_mut("result").map(Value::take).unwrap_or_default()));
    }
    let refused = text(&answer, "error").unwrap_or("it refuses to answer");
    Ok(Err(refused.to_owned()))
}

/// What a status says of serving: sockets and workers are there.
fn of_status(status: &Value) -> Result<Value, String> {
    let count = |of: Option<&Value>| of.and_then(Value::as_array).map_or(0, Vec::len);
    let gateway = status.get("gateway").cloned().unwrap_or_default();
    if count(gateway.get("listen")) == 0 {
        return Err("the gateway listens on no address".to_owned());
    }
    if count(status.get("workers")) == 0 {
        return Err("the gateway has no worker".to_owned());
    }
    Ok(json!({
        "name": gateway.get("name"), "device": gateway.get("device"), "pid": gateway.get("pid"),
        "clients": count(status.get("clients")),
    }))
}

/// IFF_UP and IFF_RUNNING (linux/if.h), the latter as `carrier`: a TUN device has one while somebody holds its queues.
fn device_works(device: &str, pid: Option<u64>, root: &Path) -> Result<(), String> {
    if device.is_empty() || device.contains('/') || device.starts_with('.') {
        return Ok(());
    }
    let directory = root.join("sys/class/net").join(device);
    if !directory.exists() {
        return match shares_network(pid, root) {
            true => Err(format!("the device {device} is gone")),
            false => Ok(()),
        };
    }
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let flags = u32::from_str_radix(read("flags").trim().trim_start_matches("0x"), 16).unwrap_or(0);
    if flags & 1 == 0 {
        return Err(format!("the device {device} is down"));
    }
    match read("carrier").trim() {
        "0" => Err(format!("the device {device} has no carrier: nobody reads from it")),
        _ => Ok(()),
    }
}

/// Whether that process is known to be in our network namespace. In another, its device is not for us to see.
fn shares_network(pid: Option<u64>, root: &Path) -> bool {
    let namespace = |who: &str| std::fs::read_link(root.join("proc").join(who).join("ns/net")).ok();
    pid.is_some_and(|pid| namespace("self").is_some_and(|own| namespace(&pid.to_string()) == Some(own)))
}

fn summary(facts: &Value) -> String {
    let name = text(facts, "name").filter(|name| !name.is_empty()).unwrap_or("gateway");
    let device = text(facts, "device").map(|device| format!(" on {device}")).unwrap_or_default();
    match facts.get("clients").and_then(Value::as_u64) {
        Some(1) => format!("{name} serves{device}, 1 client"),
        Some(clients) => format!("{name} serves{device}, {clients} clients"),
        None => format!("{name} serves{device}"),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    /// A directory of its own, which goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("minivpn-health-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn device(&self, flags: &str, carrier: &str) {
            let net = self.0.join("sys/class/net/tun7");
            std::fs::create_dir_all(&net).unwrap();
            std::fs::write(net.join("flags"), flags).unwrap();
            std::fs::write(net.join("carrier"), carrier).unwrap();
        }

        fn namespaces(&self, own: &str, of_7: &str) {
            for (who, namespace) in [("self", own), ("7", of_7)] {
                let directory = self.0.join("proc").join(who).join("ns");
                std::fs::create_dir_all(&directory).unwrap();
                std::os::unix::fs::symlink(namespace, directory.join("net")).unwrap();
            }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A gateway that gives these answers, one after the other, and what `check` says of it.
    fn asked(dir: &Dir, answers: &[Value]) -> Result<String, String> {
        let path = dir.0.join("vpn.sock");
        // A gateway that was asked before has left its own.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let answers = answers.to_vec();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut asked = Vec::new();
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                asked.push(serde_json::from_str::<Value>(&line).unwrap());
                stream.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
            asked
        });
        let said = check(&path, Duration::from_secs(5), &dir.0);
        for (request, command) in server.join().unwrap().iter().zip(["ping", "status"]) {
            assert_eq!(request, &json!({ "v": 1, "command": command }));
        }
        said
    }

    fn pong(healthy: bool) -> Value {
        let result = json!({
            "healthy": healthy, "why": "the control process is starting", "name": "vpn", "device": "tun7", "clients": 2,
            "pid": 7,
        });
        json!({ "v": 1, "ok": true, "result": result })
    }

    #[test]
    fn a_gateway_that_serves_is_healthy() {
        let dir = Dir::new();
        dir.device("0x1091\n", "1\n");
        assert_eq!(asked(&dir, &[pong(true)]), Ok("vpn serves on tun7, 2 clients".to_owned()));
        let mut one = pong(true);
        one["result"]["clients"] = json!(1);
        assert_eq!(asked(&dir, &[one]), Ok("vpn serves on tun7, 1 client".to_owned()));
    }

    #[test]
    fn a_gateway_that_says_that_it_does_not_serve_is_believed() {
        assert_eq!(asked(&Dir::new(), &[pong(false)]), Err("the control process is starting".to_owned()));
        let refused = json!({ "v": 1, "ok": false, "error": "the gateway is ending" });
        assert_eq!(asked(&Dir::new(), &[refused]), Err("the gateway is ending".to_owned()));
    }

    #[test]
    fn a_device_that_is_down_or_held_by_nobody_or_gone_is_unhealthy() {
        let (down, silent, gone, elsewhere) = (Dir::new(), Dir::new(), Dir::new(), Dir::new());
        down.device("0x1090\n", "1\n");
        assert_eq!(asked(&down, &[pong(true)]), Err("the device tun7 is down".to_owned()));
        silent.device("0x1091\n", "0\n");
        assert!(asked(&silent, &[pong(true)]).unwrap_err().contains("no carrier"));
        gone.namespaces("net:[1]", "net:[1]");
        assert_eq!(asked(&gone, &[pong(true)]), Err("the device tun7 is gone".to_owned()));
        elsewhere.namespaces("net:[1]", "net:[2]");
        assert!(asked(&elsewhere, &[pong(true)]).is_ok());
    }

    #[test]
    fn a_gateway_that_only_answers_is_asked_for_its_status() {
        let pong = json!({ "v": 1, "ok": true, "result": { "pid": 7 } });
        let status = |listen: Value, workers: Value| {
            let gateway = json!({ "name": "vpn", "device": "tun7", "listen": listen });
            json!({ "v": 1, "ok": true, "result": { "gateway": gateway, "workers": workers, "clients": [] } })
        };
        let good = status(json!(["0.0.0.0:1194"]), json!([{}]));
        assert_eq!(asked(&Dir::new(), &[pong.clone(), good]), Ok("vpn serves on tun7, 0 clients".to_owned()));
        let deaf = status(json!([]), json!([{}]));
        assert!(asked(&Dir::new(), &[pong.clone(), deaf]).unwrap_err().contains("no address"));
        let lame = status(json!(["0.0.0.0:1194"]), json!([]));
        assert!(asked(&Dir::new(), &[pong, lame]).unwrap_err().contains("no worker"));
    }

    #[test]
    fn nobody_there_is_unhealthy_in_a_sentence() {
        let dir = Dir::new();
        let path = dir.0.join("vpn.sock");
        let missing = check(&path, Duration::from_secs(5), &dir.0).unwrap_err();
        assert!(missing.contains("the gateway does not run"), "{missing}");
        drop(UnixListener::bind(&path).unwrap());
        let dead = check(&path, Duration::from_secs(5), &dir.0).unwrap_err();
        assert!(dead.contains("the gateway has ended"), "{dead}");
    }

    #[test]
    fn a_gateway_that_hangs_is_unhealthy() {
        let dir = Dir::new();
        let path = dir.0.join("vpn.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let hung = check(&path, Duration::from_millis(50), &dir.0).unwrap_err();
        assert!(hung.contains("no answer within"), "{hung}");
    }

    #[test]
    fn an_answer_that_is_none_is_unhealthy() {
        assert!(asked(&Dir::new(), &[json!("yes")]).is_err());
        assert!(asked(&Dir::new(), &[json!({ "v": 1 })]).is_err());
    }
}
