//! Debian's OpenVPN 2.6 as the peer: a server started from a [`Setup`], its log, its counters and its management socket.

use crate::netns::Net;
use crate::process::{Process, until};
use crate::setup::Setup;
use crate::steady;
use crate::temp::Temp;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// What OpenVPN and minivpn both print when a tunnel is up.
pub const UP: &str = "Initialization Sequence Completed";

/// What an OpenVPN server logs once for each key negotiation that ended well.
pub const NEGOTIATED: &str = "Control Channel: TLSv";

/// A stock server, stopped on drop.
#[derive(Debug)]
pub struct Server {
    /// The process and its log.
    pub process: Process,
    dir: PathBuf,
}

/// One client's line of the server's status report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The certificate's common name.
    pub name: String,
    /// Where its packets come from, `address:port`.
    pub real_address: String,
    /// Bytes of datagrams that the server received from it.
    pub received: u64,
    /// Bytes of datagrams that the server sent to it.
    pub sent: u64,
    /// The server's number for this client instance; a client that comes anew gets another one.
    pub id: u64,
    /// The data cipher agreed on.
    pub cipher: String,
}

impl Server {
    /// Starts a server in the server's namespace and waits until it listens. A log of the same `temp` is continued.
    pub fn start(net: &Net, temp: &Temp, setup: &Setup) -> Self {
        let config = temp.write("server.conf", &setup.server_config(temp));
        let log = temp.path().join("server.log");
        let before = fs::read_to_string(&log).unwrap_or_default().matches(UP).count();
        let mut command = net.server.command("openvpn");
        command.arg("--config").arg(config);
        let process = Process::start("the OpenVPN server", command, &log);
        steady::run_early(process.pid());
        let mut server = Self { process, dir: temp.path().to_owned() };
        let up = server.process.wait_count(&[UP], before + 1, Duration::from_secs(20));
        assert!(up, "the OpenVPN server does not start:\n{}", server.process.log());
        steady::deepen_all_of(server.process.pid());
        server
    }

    /// The clients with their counters at this moment, asked over the management socket: the status file is
    /// rewritten only while something happens.
    pub fn clients(&self) -> Vec<Row> {
        self.manage("status 2").iter().filter_map(|line| row(line)).collect()
    }

    /// Whether a client said goodbye, by a control message or inside the data channel.
    pub fn saw_exit(&mut self, limit: Duration) -> bool {
        self.process.wait_log(&["exit message received by peer", "remote-exit"], limit)
    }

    /// Waits until the server has a client of which `holds` is true.
    pub fn wait_client(&self, limit: Duration, mut holds: impl FnMut(&Row) -> bool) -> Option<Row> {
        let mut found = None;
        until(limit, || {
            found = self.clients().into_iter().find(|row| holds(row));
            found.is_some()
        });
        found
    }

    /// Key negotiations that the server finished so far.
    pub fn negotiations(&self) -> usize {
        self.process.count(NEGOTIATED)
    }

    /// Says one command on the management socket and returns the answer's lines up to `END`, `SUCCESS` or `ERROR`.
    pub fn manage(&self, command: &str) -> Vec<String> {
        let stream = UnixStream::connect(self.dir.join("management")).expect("the management socket is there");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit can be set");
        let mut writer = stream.try_clone().expect("a descriptor can be copied");
        writeln!(writer, "{command}").expect("the management socket can be written");
        let mut answer = Vec::new();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let last = ["END", "SUCCESS", "ERROR"].iter().any(|word| line.starts_with(word));
            answer.push(line);
            if last {
                break;
            }
        }
        answer
    }
}

/// Reads a `CLIENT_LIST` row of a status report, version 2.
fn row(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split(',').collect();
    if fields.first() != Some(&"CLIENT_LIST") {
        return None;
    }
    Some(Row {
        name: (*fields.get(1)?).to_owned(),
        real_address: (*fields.get(2)?).to_owned(),
        received: fields.get(5)?.parse().ok()?,
        sent: fields.get(6)?.parse().ok()?,
        id: fields.get(10)?.parse().ok()?,
        cipher: (*fields.get(12)?).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_row_is_read() {
        let line = "CLIENT_LIST,client,10.71.1.2:40000,10.8.0.2,fd08::1000,4242,77,2026-01-01 00:00:00,1,UNDEF,3,0,AES-256-GCM";
        let got = row(line).expect("it is a row");
        assert_eq!((got.received, got.sent, got.cipher.as_str()), (4242, 77, "AES-256-GCM"));
        assert_eq!(got.id, 3);
        assert_eq!(got.real_address, "10.71.1.2:40000");
        assert_eq!(row("HEADER,CLIENT_LIST,Common Name"), None);
        assert_eq!(row("CLIENT_LIST,client,10.71.1.2:40000"), None);
    }
}
