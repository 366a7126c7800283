//! OpenVPN's status file (`status FILE SECONDS`, `status-version`), for the tools that read it: the fields, separators and
//! dates of OpenVPN 2.6. OpenVPN writes names as they are; here a separator or a control character in a name becomes `_`,
//! so that every row has its fields whatever a client is called.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::status::{ClientRow, Snapshot};
use super::whole_file;

/// `status-version`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 1: lists with headings, separated by commas.
    #[default]
    One,
    /// 2: each line begins with what it is, separated by commas.
    Two,
    /// 3: like 2, separated by tabs.
    Three,
}

impl Version {
    /// The version with this number.
    pub fn from_number(number: u8) -> Option<Version> {
        match number {
            1 => Some(Version::One),
            2 => Some(Version::Two),
            3 => Some(Version::Three),
            _ => None,
        }
    }
}

/// Writes the file as a whole: whoever reads it sees the old one or the new one. Where no second file can be made beside
/// it (a directory that is not ours), it is overwritten in place, as OpenVPN does.
///
/// # Errors
/// What the kernel says; the old file is then still there, unless it was overwritten in place.
pub fn write(path: &Path, version: Version, snapshot: &Snapshot) -> io::Result<()> {
    let text = text(snapshot, version, &crate::clock::ascii);
    whole_file::replace(path, text.as_bytes())
}

/// The file's text. `date` writes a moment (seconds since 1970) by the local calendar.
pub fn text(snapshot: &Snapshot, version: Version, date: &dyn Fn(u64) -> String) -> String {
    match version {
        Version::One => lists(snapshot, date),
        Version::Two => rows(snapshot, ',', date),
        Version::Three => rows(snapshot, '\t', date),
    }
}

fn lists(snapshot: &Snapshot, date: &dyn Fn(u64) -> String) -> String {
    let mut out = format!(
        "OpenVPN CLIENT LIST\nUpdated,{}\nCommon Name,Real Address,Bytes Received,Bytes Sent,Connected Since\n",
        date(snapshot.taken)
    );
    for client in &snapshot.clients {
        let (name, real) = (name(client, ','), real(client.real_address));
        let since = date(client.since);
        let _ = writeln!(out, "{name},{real},{},{},{since}", client.bytes_in, client.bytes_out);
    }
    out.push_str("ROUTING TABLE\nVirtual Address,Common Name,Real Address,Last Ref\n");
    for client in &snapshot.clients {
        let (name, real, last) = (name(client, ','), real(client.real_address), date(client.last_heard));
        for address in inner(client, ',') {
            let _ = writeln!(out, "{address},{name},{real},{last}");
        }
    }
    out.push_str("GLOBAL STATS\nMax bcast/mcast queue length,0\nEND\n");
    out
}

const CLIENT_FIELDS: [&str; 12] = [
    "Common Name",
    "Real Address",
    "Virtual Address",
    "Virtual IPv6 Address",
    "Bytes Received",
    "Bytes Sent",
    "Connected Since",
    "Connected Since (time_t)",
    "Username",
    "Client ID",
    "Peer ID",
    "Data Channel Cipher",
];
const ROUTE_FIELDS: [&str; 5] = ["Virtual Address", "Common Name", "Real Address", "Last Ref", "Last Ref (time_t)"];

fn rows(snapshot: &Snapshot, separator: char, date: &dyn Fn(u64) -> String) -> String {
    let mut out = String::new();
    let mut row = |fields: &[&str]| {
        for (at, field) in fields.iter().enumerate() {
            if at > 0 {
                out.push(separator);
            }
            out.push_str(field);
        }
        out.push('\n');
    };
    row(&["TITLE", &clean(&format!("minivpn {}", snapshot.gateway.version), separator)]);
    row(&["TIME", &date(snapshot.taken), &snapshot.taken.to_string()]);
    row(&[&["HEADER", "CLIENT_LIST"], CLIENT_FIELDS.as_slice()].concat());
    for client in &snapshot.clients {
        row(&[
            "CLIENT_LIST",
            &name(client, separator),
            &real(client.real_address),
            &client.ipv4.map_or_else(String::new, |address| address.to_string()),
            &client.ipv6.map_or_else(String::new, |address| address.to_string()),
            &client.bytes_in.to_string(),
            &client.bytes_out.to_string(),
            &date(client.since),
            &client.since.to_string(),
            &known(client.username.as_deref().unwrap_or_default(), separator),
            &client.client_id.to_string(),
            &client.peer_id.to_string(),
            &clean(&client.cipher, separator),
        ]);
    }
    row(&[&["HEADER", "ROUTING_TABLE"], ROUTE_FIELDS.as_slice()].concat());
    for client in &snapshot.clients {
        let (name, real) = (name(client, separator), real(client.real_address));
        let (last, last_time) = (date(client.last_heard), client.last_heard.to_string());
        for address in inner(client, separator) {
            row(&["ROUTING_TABLE", &address, &name, &real, &last, &last_time]);
        }
    }
    row(&["GLOBAL_STATS", "Max bcast/mcast queue length", "0"]);
    row(&["GLOBAL_STATS", "dco_enabled", "0"]);
    row(&["END"]);
    out
}

/// Everything that is routed to a client.
fn inner(client: &ClientRow, separator: char) -> impl Iterator<Item = String> {
    let addresses = client.ipv4.map(|address| address.to_string()).into_iter();
    let addresses = addresses.chain(client.ipv6.map(|address| address.to_string()));
    addresses.chain(client.routes.iter().map(move |route| clean(route, separator)))
}

/// OpenVPN writes the port beside an IPv4 address only.
fn real(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
        std::net::IpAddr::V6(ip) => ip.to_string(),
    }
}

fn name(client: &ClientRow, separator: char) -> String {
    known(&client.common_name, separator)
}

fn known(text: &str, separator: char) -> String {
    if text.is_empty() { "UNDEF".to_owned() } else { clean(text, separator) }
}

fn clean(text: &str, separator: char) -> String {
    text.chars().map(|c| if c == separator || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::snapshot;
    use super::*;

    fn date(unix: u64) -> String {
        format!("day {unix}")
    }

    #[test]
    fn version_1_is_lists_with_headings() {
        let expected = "\
OpenVPN CLIENT LIST
Updated,day 1795373215
Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since
client_ x,127.0.0.1:43673,2090,2212,day 1795373212
UNDEF,2001:db8::7,0,0,day 1795373200
ROUTING TABLE
Virtual Address,Common Name,Real Address,Last Ref
10.99.0.2,client_ x,127.0.0.1:43673,day 1795373214
fd99::1000,client_ x,127.0.0.1:43673,day 1795373214
10.1.0.0/16,client_ x,127.0.0.1:43673,day 1795373214
10.99.0.3,UNDEF,2001:db8::7,day 1795373201
GLOBAL STATS
Max bcast/mcast queue length,0
END
";
        assert_eq!(text(&snapshot(), Version::One, &date), expected);
    }

    #[test]
    fn version_2_says_in_each_line_what_it_is() {
        let expected = "\
TITLE,minivpn 0.1.0
TIME,day 1795373215,1795373215
HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Virtual IPv6 Address,Bytes Received,Bytes Sent,Connected Since,Connected Since (time_t),Username,Client ID,Peer ID,Data Channel Cipher
CLIENT_LIST,client_ x,127.0.0.1:43673,10.99.0.2,fd99::1000,2090,2212,day 1795373212,1795373212,us er;$(x),0,0,AES-256-GCM
CLIENT_LIST,UNDEF,2001:db8::7,10.99.0.3,,0,0,day 1795373200,1795373200,UNDEF,7,1,CHACHA20-POLY1305
HEADER,ROUTING_TABLE,Virtual Address,Common Name,Real Address,Last Ref,Last Ref (time_t)
ROUTING_TABLE,10.99.0.2,client_ x,127.0.0.1:43673,day 1795373214,1795373214
ROUTING_TABLE,fd99::1000,client_ x,127.0.0.1:43673,day 1795373214,1795373214
ROUTING_TABLE,10.1.0.0/16,client_ x,127.0.0.1:43673,day 1795373214,1795373214
ROUTING_TABLE,10.99.0.3,UNDEF,2001:db8::7,day 1795373201,1795373201
GLOBAL_STATS,Max bcast/mcast queue length,0
GLOBAL_STATS,dco_enabled,0
END
";
        assert_eq!(text(&snapshot(), Version::Two, &date), expected);
    }

    #[test]
    fn version_3_is_version_2_with_tabs_and_a_comma_may_stay() {
        let two = text(&snapshot(), Version::Two, &date);
        let three = text(&snapshot(), Version::Three, &date);
        assert_eq!(three, two.replace(',', "\t").replace("client_ x", "client, x"));
    }

    #[test]
    fn a_hostile_name_makes_no_row_and_no_field() {
        let mut hostile = snapshot();
        hostile.clients[0].common_name = "a,b\nCLIENT_LIST\tc\u{1b}".to_owned();
        hostile.clients[0].username = Some("x\r\ny,z".to_owned());
        for version in [Version::One, Version::Two, Version::Three] {
            let (plain, hostile) = (text(&snapshot(), version, &date), text(&hostile, version, &date));
            let separator = if version == Version::Three { '\t' } else { ',' };
            let shape = |text: &str| text.lines().map(|line| line.matches(separator).count()).collect::<Vec<_>>();
            assert_eq!(shape(&plain), shape(&hostile));
            assert!(!hostile.contains('\u{1b}') && !hostile.contains('\r'));
        }
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let path = std::env::temp_dir().join(format!("minivpn-status-{}", std::process::id()));
        std::fs::write(&path, "old ".repeat(10_000)).unwrap();
        write(&path, Version::Two, &snapshot()).unwrap();
        let content = std::fs::read_to_string(&path).unwrap();
        assert!(content.starts_with("TITLE,minivpn 0.1.0\nTIME,2026-11-2") && content.ends_with("\nEND\n"));
        assert!(!Path::new(&format!("{}.new", path.display())).exists());
        std::fs::remove_file(&path).unwrap();
        assert!(write(Path::new("/proc/no/such"), Version::One, &snapshot()).is_err());
    }

    #[test]
    fn versions_are_three() {
        let known: Vec<u8> = (0..=255).filter(|number| Version::from_number(*number).is_some()).collect();
        assert_eq!(known, [1, 2, 3]);
    }
}
