//! What is said of one client.

use super::*;

fn read(
    files: &'static [(&'static str, &'static str)],
    name: &str,
    exclusive: bool,
) -> Result<Option<ClientConfig>, Vec<String>> {
    let open = move |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new("ccd").join(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(io::ErrorKind::NotFound.into())
    };
    client_dir::read_with(Path::new("ccd"), name, exclusive, &open)
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn parse(text: &str) -> ClientConfig {
    let config = client_dir::parse(text, "alice").unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(config.warnings.is_empty(), "{:#?}", config.warnings);
    config
}

fn wrong(text: &str) -> Vec<String> {
    client_dir::parse(text, "alice").unwrap_err().iter().map(Problem::to_string).collect()
}

#[test]
fn everything_that_is_said_of_it_arrives() {
    let config = parse(
        "# alice\nifconfig-push 10.8.0.6 255.255.255.0\nifconfig-ipv6-push fd00::6/64 fd00::1\niroute 10.1.0.0 255.255.0.0\n\
         iroute 10.1.0.0 255.255.0.0\niroute 10.2.0.1\niroute-ipv6 fd01::/64\npush \"route 10.3.0.0 255.255.0.0\"\ndisable\n",
    );
    assert_eq!(config.ifconfig_push, Some(("10.8.0.6".parse().unwrap(), "255.255.255.0".parse().unwrap())));
    assert_eq!(config.ifconfig_ipv6_push, Some(("fd00::6".parse().unwrap(), 64)));
    let network = |text: &str, bits| (text.parse().unwrap(), bits);
    assert_eq!(config.iroutes, [network("10.1.0.0", 16), network("10.2.0.1", 32), network("fd01::", 64)]);
    assert_eq!(config.push, ["route 10.3.0.0 255.255.0.0"]);
    assert!(config.disable && !config.push_reset);
    assert_eq!(parse(""), ClientConfig::default());
}

#[test]
fn its_list_is_the_servers_as_it_changes_it_in_order() {
    let all = ["route 10.1.0.0 255.255.0.0", "route-gateway 10.8.0.1", "ping 10"].map(str::to_owned);
    let list = |text: &str| parse(text).push_list(&all);
    assert_eq!(list(""), all);
    assert_eq!(list("push \"ping 5\"\n")[3], "ping 5");
    assert_eq!(list("push \"ping 5\"\npush-reset\npush \"ping 6\"\n"), ["ping 6"]);
    assert_eq!(
        list("push \"ping 5\"\npush-remove ping\npush \"ping 6\"\n"),
        [all[0].as_str(), all[1].as_str(), "ping 6"]
    );
    assert_eq!(list("push-remove route\n"), ["ping 10"]);
    assert_eq!(list("iroute 10.1.0.0 255.255.0.0\n"), all[1..], "the way to itself is not pushed");
    assert_eq!(list("iroute 10.1.0.0 255.255.255.0\n"), all, "a part of it is");
    assert!(parse("push-remove ifconfig-ipv6\n").removes("ifconfig-ipv6"));
    assert!(!parse("push-remove ifconfig-ipv6\n").removes("ifconfig"));
}

#[test]
fn an_address_fits_the_topology() {
    let fits = |second: &str, topology| parse(&format!("ifconfig-push 10.8.0.6 {second}\n")).check(topology).is_ok();
    for (second, subnet, others) in [
        ("255.255.255.0", true, false),
        ("10.8.0.5", false, true),
        ("10.8.0.6", false, false),
        ("255.0.255.0", false, false),
        ("0.0.0.0", true, false),
    ] {
        assert_eq!(fits(second, Topology::Subnet), subnet, "{second}");
        assert_eq!(fits(second, Topology::Net30), others, "{second}");
        assert_eq!(fits(second, Topology::P2p), others, "{second}");
    }
    assert!(parse("").check(Topology::Net30).is_ok());
}

#[test]
fn a_mistake_is_an_error_with_its_line() {
    for (text, expected) in [
        (
            "\niroute 10.1.0.5 255.255.0.0",
            "alice:2: error: iroute: 10.1.0.5 is not the first address of a network of /16: write 10.1.0.0",
        ),
        (
            "iroute-ipv6 fd01::1/64",
            "alice:1: error: iroute-ipv6: fd01::1 is not the first address of a network of /64: write fd01::",
        ),
        (
            "iroute 10.1.0.0 255.0.255.0",
            "alice:1: error: iroute: 255.0.255.0 is not a netmask: write one like 255.255.255.0",
        ),
        ("ifconfig-push 0.0.0.0 10.8.0.1", "alice:1: error: ifconfig-push: 0.0.0.0 cannot be a tunnel's address"),
        (
            "ifconfig-push 10.8.0.6",
            "alice:1: error: ifconfig-push takes 2 to 3 arguments, and this line has 1: write it like `ifconfig-push 10.8.0.6 10.8.0.5`",
        ),
        ("ifconfig-ipv6-push ff02::1/64", "alice:1: error: ifconfig-ipv6-push: ff02::1 cannot be a tunnel's address"),
        (
            "ifconfig-ipv6-push fd00::1/129",
            "alice:1: error: ifconfig-ipv6-push: \"129\" is not a number of bits from 0 to 128",
        ),
        ("disabel", "alice:1: error: unknown directive \"disabel\": did you mean \"disable\"?"),
        (
            "push \"comp-lzo yes\"",
            "alice:1: error: push: it puts a byte of compression framing before every packet (`comp-lzo no` does, too), which is not supported: remove it here and in the clients' profiles",
        ),
        (
            "port 1194",
            "alice:1: error: port: it does not belong to a single client: write it into the server's configuration",
        ),
        (
            "cd /etc",
            "alice:1: error: cd: it does not belong to a single client: write it into the server's configuration",
        ),
        ("peer-id 3", "alice:1: error: peer-id: only a server sends it: remove it"),
        (
            "<connection>\nremote a\n</connection>",
            "alice:1: error: connection: it does not belong to a single client: write it into the server's configuration",
        ),
    ] {
        assert_eq!(wrong(text), [expected], "{text}");
    }
    assert!(wrong("config /etc/shadow")[0].contains("permission denied"), "what a command wrote includes no files");
    assert!(wrong(&"#\n".repeat(40_000))[0].contains("file too large"));
}

#[test]
fn what_is_not_for_one_client_is_left_out_with_a_warning() {
    let config = client_dir::parse("inactive 3600\nping 5\ncipher AES-128-GCM\nsetenv opt zzzzzzz\n", "alice").unwrap();
    assert_eq!(config.warnings.len(), 3, "{:#?}", config.warnings);
    assert!(config.warnings.iter().all(|problem| !problem.is_error()));
    let config = client_dir::parse("ifconfig-push 10.8.0.6 10.8.0.5 192.0.2.1\n", "alice").unwrap();
    assert_eq!((config.warnings.len(), config.ifconfig_push.is_some()), (1, true));
    assert!(parse("ignore-unknown-option zzzzzzz\nzzzzzzz 1\n") == ClientConfig::default());
}

const FILES: &[(&str, &str)] = &[
    ("alice", "disable\n"),
    ("DEFAULT", "push-reset\n"),
    ("more", "config ccd/alice\npush-reset\n"),
    ("bad", "nonsense-line\n"),
    (".hidden", "disable\n"),
    ("-x", "disable\n"),
    ("sub/file", "disable\n"),
    ("../outside", "disable\n"),
    ("John Doe", "disable\n"),
    ("jürgen", "disable\n"),
];

#[test]
fn a_client_has_its_own_file_or_the_default_one() {
    assert!(read(FILES, "alice", false).unwrap().unwrap().disable);
    assert!(read(FILES, "alice", true).unwrap().unwrap().disable);
    assert!(read(FILES, "John Doe", true).unwrap().unwrap().disable);
    assert!(read(FILES, "jürgen", true).unwrap().unwrap().disable);
    let default = read(FILES, "bob", false).unwrap().unwrap();
    assert!(default.push_reset && !default.disable);
    assert_eq!(
        read(FILES, "bob", true).unwrap_err(),
        ["ccd: error: ccd-exclusive, and \"bob\" has no file here: make one, which may be empty"],
        "DEFAULT is nobody's own"
    );
    assert_eq!(read(&[], "bob", false), Ok(None));
    let both = read(FILES, "more", false).unwrap().unwrap();
    assert!(both.disable && both.push_reset);
    assert_eq!(read(FILES, "bad", false).unwrap_err().len(), 1, "it is not passed over for DEFAULT");
}

#[test]
fn a_hostile_name_has_no_file() {
    let long = "x".repeat(client_dir::MAX_NAME + 1);
    for name in
        ["", ".", "..", ".hidden", "-x", "sub/file", "../outside", "/etc/passwd", "a\0b", "a\nb", "DEFAULT", &long]
    {
        assert_eq!(client_dir::file_name(name), None, "{name}");
        assert!(!read(FILES, name, false).unwrap().unwrap().disable, "{name}");
        assert!(read(FILES, name, true).is_err(), "{name}");
    }
    assert_eq!(client_dir::file_name(&long[1..]), Some(&long[1..]));
    assert_eq!(client_dir::file_name("a.b-c@d"), Some("a.b-c@d"));
}

#[test]
fn a_file_that_cannot_be_read_refuses_its_client() {
    let denied = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::PermissionDenied.into()) };
    assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &denied).is_err());
    let large = |_: &Path| -> io::Result<Vec<u8>> { Ok(vec![b'\n'; client_dir::MAX_CLIENT_FILE + 1]) };
    assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &large).is_err());
    let fits = |_: &Path| -> io::Result<Vec<u8>> { Ok(vec![b'\n'; client_dir::MAX_CLIENT_FILE]) };
    assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &fits).is_ok());
}
