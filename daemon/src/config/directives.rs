//! The table of directives: one row for each that we know, with what it takes and what we do about it in a client's profile, in a
//! server's configuration and in the file of one client. Everything else that reads one of these, or a pushed option, asks this table
//! first; a name that is not in it is an error.

/// One directive.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Whose directive it is.
    pub role: Role,
    /// Fewest and most arguments.
    pub args: (u8, u8),
    /// What we do about it in a client profile.
    pub does: Disposition,
    /// What we do about it in a server's configuration.
    pub serves: Disposition,
    /// What we do about it in the file of one client, or in what a `client-connect` command wrote.
    pub alone: Disposition,
    /// Where else than on a line of its own it may stand.
    pub places: Places,
    /// Lines that show it; every one is parsed by a test.
    pub samples: &'static [&'static str],
}

impl Row {
    /// What we do about it there.
    pub const fn on(&self, side: Side) -> Disposition {
        match side {
            Side::Client => self.does,
            Side::Server => self.serves,
            Side::OneClient => self.alone,
        }
    }

    /// The same row with another disposition in a server's configuration.
    const fn server(self, serves: Disposition) -> Row {
        Row { serves, ..self }
    }

    /// The same row, which may stand in the file of one client.
    const fn alone(self, alone: Disposition) -> Row {
        Row { alone, ..self }
    }
}

/// Which kind of text a directive stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's profile.
    Client,
    /// A server's configuration.
    Server,
    /// The file of one client in `client-config-dir`, and what a `client-connect` command writes.
    OneClient,
}

/// Whose directive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Of a client's profile only.
    Client,
    /// Of a server's only: an error in a client's.
    Server,
    /// Of both.
    Both,
    /// Only ever pushed by a server.
    Pushed,
}

/// What we do about a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It does what it says. Single values may still be refused where they are read.
    Implemented,
    /// Nothing needs to be done: we behave so anyway, or it never concerned this system. Says why; no warning.
    NoEffect(&'static str),
    /// It is not done, and the tunnel works all the same. A warning says why.
    Ignored(&'static str),
    /// Without it the tunnel would not work or be less safe than its author meant: an error, with what to write instead.
    Refused(&'static str, &'static str),
}

/// Where a directive may stand, besides a line of its own in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u8);

impl Places {
    /// It may be pushed by a server.
    pub const fn pushed(self) -> bool {
        self.0 & PUSH.0 != 0
    }

    /// It may stand in `<connection>`.
    pub const fn connection(self) -> bool {
        self.0 & CONN.0 != 0
    }

    /// It may be an inline block, `<name>…</name>`.
    pub const fn block(self) -> bool {
        self.0 & BLOCK.0 != 0
    }
}

const LINE: Places = Places(0);
const PUSH: Places = Places(1);
const CONN: Places = Places(2);
const BLOCK: Places = Places(4);
const CONN_PUSH: Places = Places(CONN.0 | PUSH.0);
const CONN_BLOCK: Places = Places(CONN.0 | BLOCK.0);

/// The row of a directive.
pub fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// The known name nearest to a misspelt one, if it is near enough to have been meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let bound = match name.len() {
        0..=2 => return None,
        3..=5 => 1,
        6..=40 => 2,
        _ => return None,
    };
    // Each letter more is an insertion: most of the table need not be compared.
    let rows = TABLE.iter().filter(|row| row.name.len().abs_diff(name.len()) <= bound);
    let distances = rows.map(|row| (distance(name, row.name), row.name));
    distances.filter(|(distance, _)| *distance <= bound).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Why compression framing is refused, and what to do about it. The byte is there with `comp-lzo no` too, in both directions, so that
/// leaving out the line helps exactly when the server does not have it.
pub const FRAMING: (&str, &str) = (
    "it puts a byte of compression framing before every packet (`comp-lzo no` does, too), which is not supported",
    "remove the line; if the server has comp-lzo or compress as well, its operator must remove it there",
);

use Disposition::{Ignored, Implemented, NoEffect, Refused};
use Role::{Both, Client, Pushed, Server};

const fn row(
    name: &'static str,
    role: Role,
    min: u8,
    max: u8,
    does: Disposition,
    places: Places,
    samples: &'static [&'static str],
) -> Row {
    let (does, serves) = match (role, does) {
        (Server, _) => (OF_SERVERS, does),
        (Client, Implemented | Ignored(_)) => (does, OF_CLIENTS),
        _ => (does, does),
    };
    Row { name, role, args: (min, max), does, serves, alone: NOT_ALONE, places, samples }
}

const SCRIPT: Disposition = Ignored("scripts are not run");
const WINDOWS: Disposition = NoEffect("concerns Windows only");
const OBSOLETE: Disposition = NoEffect("obsolete; OpenVPN 2.6 ignores it too");
const SUITES: Disposition = Ignored("TLS offers its own list: TLS 1.3, and ECDHE with AES-GCM or ChaCha20 in TLS 1.2");
const LOG_FILE: Disposition = Ignored("logs go to standard error; use the service manager or redirect them");
const NAME_SERVERS: Disposition =
    Ignored("name servers are logged, not applied; set them yourself, as with `resolvectl dns DEVICE ADDRESS`");
const MANAGEMENT: Disposition = Ignored("there is no management interface in this version");
const PROXY: Disposition =
    Refused("proxies are not supported in this version", "remove it, and connect over UDP without a proxy");
const PKCS11: Disposition = Refused("keys on tokens are not supported", "use cert and key with PEM files");
const COMMAND: Disposition = Refused("it is a command of the openvpn executable, not a setting", "remove it");
const OF_SERVERS: Disposition = Refused(
    "it belongs to a server's configuration",
    "remove it, or serve this file with `minivpn gateway run --config FILE`",
);
const OF_CLIENTS: Disposition = Refused("it belongs to a client's profile", "remove it");
const NOT_ALONE: Disposition =
    Refused("it does not belong to a single client", "write it into the server's configuration");
/// In a server's configuration: what OpenVPN takes there without a word.
const IDLE: Disposition = NoEffect("it concerns clients");
const NOT_SINGLY: Disposition = Ignored("it is set for all clients, not for single ones");
const ONE: Disposition =
    Refused("it belongs to a single client", "write it into that client's file in client-config-dir");
const TCP: Disposition = Refused("it concerns TCP, and only UDP is served in this version", "remove it");
const TAP: Disposition =
    Refused("it concerns Ethernet (TAP), which is not supported", "use `dev tun` with `server`, and remove it");
const V2: Disposition =
    Refused("tls-crypt-v2 is not supported in this version", "use `tls-crypt`, with one key for all clients");
const SERVER_PLUGIN: Disposition = Refused(
    "plugins are not loaded",
    "use `auth-user-pass-verify` with a program that asks whom the plugin asked, or client certificates alone",
);
const HERE: Disposition = Refused(
    "it would change the way of this server's own traffic",
    "write `push \"…\"` around it: it is meant for clients",
);
const NO_UP: Disposition =
    Ignored("it is not run; a unit of the service manager that starts after this one can do the same");
const SERVER_FRAMING: Disposition = Refused(FRAMING.0, "remove it here, in push lines and in the clients' profiles");
const CONTROL: Disposition = NoEffect("the control channel takes it from the server");

/// Every directive we know, by theme.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    // What we are.
    row("client", Client, 0, 0, Implemented, LINE, &["client"]),
    row("pull", Client, 0, 0, Implemented, LINE, &["pull"]),
    row("tls-client", Client, 0, 0, Implemented, LINE, &["tls-client"]),
    row("mode", Both, 1, 1, Implemented, LINE, &["mode p2p"]),
    row("config", Both, 1, 1, Implemented, LINE, &["config included.conf"]).alone(Implemented),
    row("cd", Both, 1, 1, Implemented, LINE, &["cd ."]),
    row("connection", Client, 0, 0, Implemented, BLOCK, &["<connection>\nremote vpn.example.com 443\n</connection>"]),
    row("ignore-unknown-option", Both, 1, 15, Implemented, LINE, &["ignore-unknown-option no-such-thing\nno-such-thing 1 2"]).alone(Implemented),
    row("setenv", Both, 1, 2, Implemented, LINE, &["setenv UV_ID abc", "setenv CLIENT_CERT 0", "setenv opt no-such-thing", "setenv FORWARD_COMPATIBLE 1", "setenv PUSH_PEER_INFO"]),
    row("setenv-safe", Both, 1, 2, NoEffect("no scripts run that could read it"), PUSH, &["setenv-safe NAME value"]).server(Implemented),

    // Where to.
    row("remote", Client, 1, 3, Implemented, CONN, &["remote vpn.example.com", "remote 192.0.2.1 443", "remote 2001:db8::1 1194 udp6"]),
    row("proto", Both, 1, 1, Implemented, CONN, &["proto udp", "proto udp4", "proto udp6"]),
    row("proto-force", Client, 1, 1, Implemented, LINE, &["proto-force udp"]),
    row("port", Both, 1, 1, Implemented, CONN, &["port 1194"]),
    row("rport", Both, 1, 1, Implemented, CONN, &["rport 1194"]).server(IDLE),
    row("lport", Both, 1, 1, Implemented, CONN, &["lport 0", "lport 1194"]),
    row("local", Both, 1, 1, Implemented, CONN, &["local 192.0.2.7"]),
    row("bind", Both, 0, 1, Implemented, CONN, &["bind", "bind ipv6only"]),
    row("nobind", Both, 0, 0, Implemented, CONN, &["nobind"]).server(Refused("a server has to be bound to a port", "remove it")),
    row("float", Both, 0, 0, Ignored("the server is expected at the address that was connected to"), CONN, &["float"]).server(Implemented),
    row("remote-random", Client, 0, 0, Implemented, LINE, &["remote-random"]).server(IDLE),
    row("remote-random-hostname", Client, 0, 0, Ignored("host names are resolved as they are written"), LINE, &["remote-random-hostname"]).server(IDLE),
    row("resolv-retry", Client, 1, 1, NoEffect("names are resolved anew in every round"), LINE, &["resolv-retry infinite", "resolv-retry 30"]).server(IDLE),
    row("preresolve", Client, 0, 0, NoEffect("names are resolved when they are tried"), LINE, &["preresolve"]).server(IDLE),
    row("connect-retry", Client, 1, 2, NoEffect("pauses grow from 1 s to 15 s"), CONN, &["connect-retry 5", "connect-retry 5 60"]).server(IDLE),
    row("connect-retry-max", Client, 1, 1, Implemented, LINE, &["connect-retry-max 3", "connect-retry-max infinite"]).server(IDLE),
    row("connect-timeout", Client, 1, 1, Implemented, CONN, &["connect-timeout 20"]).server(IDLE),
    row("server-poll-timeout", Client, 1, 1, Implemented, CONN, &["server-poll-timeout 4"]).server(IDLE),
    row("explicit-exit-notify", Both, 0, 1, Implemented, CONN_PUSH, &["explicit-exit-notify", "explicit-exit-notify 3"]),
    row("multihome", Both, 0, 0, NoEffect("answers leave from the address that was asked"), LINE, &["multihome"]).server(Implemented),
    row("mark", Both, 1, 1, Implemented, LINE, &["mark 51820"]),
    row("bind-dev", Both, 1, 1, Implemented, LINE, &["bind-dev eth0"]),
    row("sndbuf", Both, 1, 1, Implemented, PUSH, &["sndbuf 393216", "sndbuf 0"]),
    row("rcvbuf", Both, 1, 1, Implemented, PUSH, &["rcvbuf 524288"]),
    row("socket-flags", Both, 1, 3, NoEffect("concerns TCP only"), PUSH, &["socket-flags TCP_NODELAY"]).alone(NoEffect("concerns TCP only")),
    row("tcp-nodelay", Server, 0, 0, NoEffect("concerns TCP only"), LINE, &["tcp-nodelay"]),
    row("fast-io", Both, 0, 0, NoEffect("the fast way is the only one"), LINE, &["fast-io"]),
    row("passtos", Both, 0, 0, Ignored("the TOS byte of inner packets is not copied in this version"), LINE, &["passtos"]),
    row("shaper", Both, 1, 1, Ignored("traffic is not shaped; use tc(8) on the device"), PUSH, &["shaper 100000"]),
    row("http-proxy", Client, 1, 4, PROXY, CONN, &["http-proxy proxy.example.com 3128"]),
    row("http-proxy-option", Client, 1, 4, PROXY, CONN, &["http-proxy-option VERSION 1.1"]),
    row("http-proxy-user-pass", Client, 1, 1, PROXY, CONN_BLOCK, &["http-proxy-user-pass pass.txt"]),
    row("http-proxy-retry", Client, 0, 0, OBSOLETE, CONN, &["http-proxy-retry"]),
    row("http-proxy-timeout", Client, 1, 1, OBSOLETE, CONN, &["http-proxy-timeout 5"]),
    row("http-proxy-override", Client, 2, 4, PROXY, LINE, &["http-proxy-override proxy.example.com 3128"]),
    row("socks-proxy", Client, 1, 3, PROXY, CONN, &["socks-proxy 127.0.0.1 1080"]),
    row("socks-proxy-retry", Client, 0, 0, OBSOLETE, CONN, &["socks-proxy-retry"]),

    // The device and its MTU.
    row("dev", Both, 1, 1, Implemented, LINE, &["dev tun", "dev tun0"]),
    row("dev-type", Both, 1, 1, Implemented, LINE, &["dev-type tun"]),
    row("dev-node", Both, 1, 1, NoEffect("/dev/net/tun is the one that is used; another is warned of"), LINE, &["dev-node /dev/net/tun"]),
    row("txqueuelen", Both, 1, 1, Implemented, LINE, &["txqueuelen 1000"]),
    row("lladdr", Both, 1, 1, Ignored("a TUN device has no link-layer address"), PUSH, &["lladdr 00:11:22:33:44:55"]),
    row("tun-mtu", Both, 1, 2, Implemented, CONN_PUSH, &["tun-mtu 1500", "tun-mtu 1400"]),
    row("tun-mtu-max", Both, 1, 1, NoEffect("1600 is what a server may push"), LINE, &["tun-mtu-max 1600"]).server(IDLE),
    row("tun-mtu-extra", Both, 1, 1, NoEffect("receive buffers always have room"), CONN, &["tun-mtu-extra 32"]),
    row("link-mtu", Both, 1, 1, Ignored("obsolete; use tun-mtu or mssfix"), CONN, &["link-mtu 1542"]),
    row("udp-mtu", Both, 1, 1, Ignored("obsolete; use tun-mtu or mssfix"), CONN, &["udp-mtu 1542"]),
    row("tun-max-mtu", Both, 1, 1, NoEffect("1600 is what a server may push"), LINE, &["tun-max-mtu 1600"]).server(IDLE),
    row("max-packet-size", Both, 1, 1, Implemented, CONN, &["max-packet-size 1250"]),
    row("mssfix", Both, 0, 2, Implemented, CONN, &["mssfix", "mssfix 0", "mssfix 1450", "mssfix 1450 mtu", "mssfix 1400 fixed"]),
    row("mtu-disc", Both, 1, 1, Implemented, CONN, &["mtu-disc yes"]),
    row("mtu-test", Both, 0, 0, Ignored("the MTU is not probed"), LINE, &["mtu-test"]),
    row("fragment", Both, 1, 2, Implemented, CONN, &["fragment 0"]),
    row("disable-dco", Both, 0, 0, NoEffect("the kernel's OpenVPN module is not used"), LINE, &["disable-dco"]),
    row("tun-ipv6", Both, 0, 0, NoEffect("IPv6 is always on"), PUSH, &["tun-ipv6"]),
    row("iproute", Both, 1, 1, Ignored("addresses and routes are set over netlink, not by a command"), LINE, &["iproute /sbin/ip"]),

    // Addresses and routes.
    row("ifconfig", Both, 2, 2, Implemented, PUSH, &["ifconfig 10.8.0.2 10.8.0.1"]),
    row("ifconfig-ipv6", Both, 1, 2, Implemented, PUSH, &["ifconfig-ipv6 fd00::2/64 fd00::1"]),
    row("ifconfig-noexec", Both, 0, 0, Implemented, PUSH, &["ifconfig-noexec"]),
    row("ifconfig-nowarn", Both, 0, 0, NoEffect("there is no such warning"), PUSH, &["ifconfig-nowarn"]),
    row("topology", Both, 1, 1, Implemented, PUSH, &["topology subnet"]),
    row("route", Both, 1, 4, Implemented, PUSH, &["route 10.0.0.0 255.0.0.0 vpn_gateway 5", "route 0.0.0.0 0.0.0.0", "route remote_host 255.255.255.255 net_gateway"]),
    row("route-ipv6", Both, 1, 3, Implemented, PUSH, &["route-ipv6 2000::/3", "route-ipv6 fd00::/48 fd00::1 5"]),
    row("route-gateway", Both, 1, 1, Implemented, PUSH, &["route-gateway 10.8.0.1", "route-gateway dhcp"]),
    row("route-ipv6-gateway", Both, 1, 1, NoEffect("IPv6 routes lead to the device itself"), PUSH, &["route-ipv6-gateway fd00::1"]),
    row("route-metric", Both, 1, 1, Implemented, PUSH, &["route-metric 50"]),
    row("route-delay", Both, 0, 2, NoEffect("routes are set as soon as the device is up"), PUSH, &["route-delay", "route-delay 5 30"]),
    row("route-method", Both, 1, 1, WINDOWS, LINE, &["route-method exe"]),
    row("route-noexec", Both, 0, 0, Implemented, LINE, &["route-noexec"]),
    row("route-nopull", Client, 0, 0, Implemented, LINE, &["route-nopull"]).server(IDLE),
    row("max-routes", Both, 1, 1, NoEffect("obsolete; 4096 routes at most"), LINE, &["max-routes 100"]),
    row("allow-pull-fqdn", Client, 0, 0, Ignored("pushed host names are not resolved"), LINE, &["allow-pull-fqdn"]).server(IDLE),
    row("redirect-gateway", Both, 0, 8, Implemented, PUSH, &["redirect-gateway", "redirect-gateway def1 bypass-dhcp ipv6"]).server(HERE),
    row("redirect-private", Both, 0, 8, Implemented, PUSH, &["redirect-private def1"]).server(HERE),
    row("block-ipv6", Both, 0, 0, Ignored("IPv6 is not blocked; only what is routed there enters the tunnel"), PUSH, &["block-ipv6"]).server(Ignored("packets without a way are dropped, not answered")),
    row("allow-recursive-routing", Both, 0, 0, Ignored("packets to the server never enter the tunnel"), LINE, &["allow-recursive-routing"]).server(IDLE),
    row("client-nat", Both, 4, 4, Refused("addresses are not translated", "remove it, or translate with nftables"), PUSH, &["client-nat snat 10.0.0.0 255.0.0.0 10.1.0.0"]),
    row("pull-filter", Client, 2, 2, Implemented, LINE, &["pull-filter ignore \"dhcp-option DNS\"", "pull-filter accept route", "pull-filter reject route-ipv6"]),
    row("dhcp-option", Both, 1, 3, NAME_SERVERS, PUSH, &["dhcp-option DNS 10.8.0.1"]).server(Ignored("this host's name servers are not changed; write `push \"…\"` around it to give it to clients")),
    row("dns", Both, 2, 15, NAME_SERVERS, PUSH, &["dns server 0 address 10.8.0.1"]).server(Ignored("this host's name servers are not changed; write `push \"…\"` around it to give it to clients")),

    // Keepalive and ends.
    row("keepalive", Both, 2, 2, Implemented, LINE, &["keepalive 10 60"]),
    row("ping", Both, 1, 1, Implemented, PUSH, &["ping 15"]).alone(NOT_SINGLY),
    row("ping-restart", Both, 1, 1, Implemented, PUSH, &["ping-restart 60", "ping-restart 0"]).alone(NOT_SINGLY),
    row("ping-exit", Both, 1, 1, Implemented, PUSH, &["ping-exit 60"]).alone(NOT_SINGLY),
    row("ping-timer-rem", Both, 0, 0, NoEffect("silence counts only while connected"), PUSH, &["ping-timer-rem"]).server(NoEffect("silence counts for each client that is there")),
    row("inactive", Both, 1, 2, Implemented, PUSH, &["inactive 3600", "inactive 3600 1000000"]).server(Ignored("clients are not dropped for being idle; write `push \"inactive …\"`")).alone(NOT_SINGLY),
    row("session-timeout", Both, 1, 1, Implemented, PUSH, &["session-timeout 86400"]).server(Ignored("sessions are not limited in time; write `push \"session-timeout …\"`")).alone(NOT_SINGLY),
    row("persist-key", Both, 0, 0, NoEffect("keys are kept across reconnects"), PUSH, &["persist-key"]).server(NoEffect("keys are read when the gateway starts and at a reload")),
    row("persist-tun", Both, 0, 0, NoEffect("the device is kept across reconnects"), PUSH, &["persist-tun"]).server(NoEffect("the device is kept until the gateway ends")),
    row("persist-local-ip", Both, 0, 0, NoEffect("the kernel chooses the local address"), LINE, &["persist-local-ip"]).server(IDLE),
    row("persist-remote-ip", Both, 0, 0, NoEffect("the remotes are tried in order at each reconnect"), LINE, &["persist-remote-ip"]).server(IDLE),
    row("remap-usr1", Both, 1, 1, Ignored("SIGUSR1 always means reconnecting"), LINE, &["remap-usr1 SIGHUP"]).server(Ignored("signals have one meaning")),
    row("tls-exit", Both, 0, 0, NoEffect("a TLS error of the first connection ends the client"), LINE, &["tls-exit"]).server(NoEffect("a client's TLS error ends nobody but that client")),
    row("single-session", Both, 0, 0, NoEffect("a client has one session"), LINE, &["single-session"]).server(NoEffect("a client has one session, unless duplicate-cn allows more")),

    // The control channel's protection.
    row("tls-auth", Both, 1, 2, Implemented, CONN_BLOCK, &["tls-auth ta.key 1", "tls-auth ta.key"]),
    row("tls-crypt", Both, 1, 1, Implemented, CONN_BLOCK, &["tls-crypt ta.key"]),
    row("tls-crypt-v2", Both, 1, 2, Refused("tls-crypt-v2 is not supported in this version", "ask the provider for a tls-crypt or tls-auth profile"), CONN_BLOCK, &["tls-crypt-v2 v2.key"]).server(V2),
    row("key-direction", Both, 1, 1, Implemented, CONN, &["tls-auth ta.key\nkey-direction 1"]),
    row("secret", Both, 1, 2, Refused("static-key mode has no key exchange and is not supported", "use TLS with certificates"), BLOCK, &["secret static.key"]),

    // TLS.
    row("ca", Both, 1, 1, Implemented, BLOCK, &["ca ca.crt"]),
    row("cert", Both, 1, 1, Implemented, BLOCK, &["cert client.crt\nkey client.key"]),
    row("key", Both, 1, 1, Implemented, BLOCK, &["key client.key\ncert client.crt"]),
    row("extra-certs", Both, 1, 1, Implemented, BLOCK, &["extra-certs ca.crt\ncert client.crt\nkey client.key"]),
    row("pkcs12", Both, 1, 1, Refused("PKCS#12 is not supported", "convert it: `openssl pkcs12 -in FILE -nodes`, and use ca, cert and key"), BLOCK, &["pkcs12 client.p12"]),
    row("capath", Both, 1, 1, Refused("directories of certificates are not supported", "put the certificates into one file, and write `ca FILE`"), LINE, &["capath /etc/ssl/certs"]),
    row("dh", Both, 1, 1, NoEffect("concerns servers"), BLOCK, &["dh none"]).server(Implemented),
    row("crl-verify", Both, 1, 2, Implemented, BLOCK, &["crl-verify crl.pem"]),
    row("peer-fingerprint", Both, 1, 1, Implemented, BLOCK, &["peer-fingerprint 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"]),
    row("verify-hash", Both, 1, 2, Refused("the issuer's fingerprint is not checked in this version", "write `peer-fingerprint` with the server's own, or rely on <ca>"), BLOCK, &["verify-hash 00:11:22 SHA256"]).server(Refused("the issuer's fingerprint is not checked in this version", "write `peer-fingerprint` with those of the clients, or rely on `ca`")),
    row("verify-x509-name", Both, 1, 2, Implemented, LINE, &["verify-x509-name server name", "verify-x509-name srv name-prefix", "verify-x509-name \"C=DE, CN=x\"", "verify-x509-name \"C=DE, CN=x\" subject"]),
    row("remote-cert-tls", Both, 1, 1, Implemented, LINE, &["remote-cert-tls server"]),
    row("ns-cert-type", Both, 1, 1, Implemented, LINE, &["ns-cert-type server"]),
    row("remote-cert-ku", Both, 0, 15, Refused("single key-usage bits are not checked", "write `remote-cert-tls server`"), LINE, &["remote-cert-ku a0"]).server(Refused("single key-usage bits are not checked", "write `remote-cert-tls client`")),
    row("remote-cert-eku", Both, 1, 1, Refused("single key usages are not checked", "write `remote-cert-tls server`"), LINE, &["remote-cert-eku \"TLS Web Server Authentication\""]).server(Refused("single key usages are not checked", "write `remote-cert-tls client`")),
    row("tls-remote", Both, 1, 1, Refused("OpenVPN 2.4 removed it", "write `verify-x509-name NAME name`"), LINE, &["tls-remote server"]),
    row("tls-verify", Both, 1, 2, Refused("scripts are not run, and this one decides whether a certificate is good", "write `verify-x509-name NAME name` or `peer-fingerprint`"), LINE, &["tls-verify /bin/true\nscript-security 2"]).server(Implemented),
    row("tls-export-cert", Both, 1, 1, SCRIPT, LINE, &["tls-export-cert /tmp"]).server(Ignored("certificates are not written to files")),
    row("tls-version-min", Both, 1, 2, Implemented, LINE, &["tls-version-min 1.2", "tls-version-min 1.3 or-highest", "tls-version-min 1.0"]),
    row("tls-version-max", Both, 1, 1, Implemented, LINE, &["tls-version-max 1.2"]),
    row("tls-cipher", Both, 1, 1, SUITES, LINE, &["tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"]),
    row("tls-ciphersuites", Both, 1, 1, SUITES, LINE, &["tls-ciphersuites TLS_AES_256_GCM_SHA384"]),
    row("tls-groups", Both, 1, 1, SUITES, LINE, &["tls-groups X25519"]),
    row("ecdh-curve", Both, 1, 1, NoEffect("concerns servers"), LINE, &["ecdh-curve prime256v1"]).server(Ignored("TLS chooses the curve itself, from its own list")),
    row("tls-cert-profile", Both, 1, 1, Ignored("TLS has its own rules, between `preferred` and `legacy`"), LINE, &["tls-cert-profile preferred"]),
    row("x509-track", Both, 1, 1, SCRIPT, LINE, &["x509-track CN"]).server(Ignored("commands are given the name fields of certificates, and nothing else of them")),
    row("keying-material-exporter", Both, 2, 2, SCRIPT, LINE, &["keying-material-exporter EXPORTER-x 20"]).server(Ignored("commands are given no keying material")),
    row("askpass", Both, 0, 1, Refused("encrypted private keys are not supported", "decrypt the key (`openssl pkey -in client.key -out plain.key`), name the new file in `key`, and remove this line"), LINE, &["askpass pass.txt"]).server(Refused("encrypted private keys are not supported", "decrypt the key (`openssl pkey -in server.key -out plain.key`), name the new file in `key`, and remove this line")),
    row("engine", Both, 0, 1, NoEffect("OpenSSL is not used"), LINE, &["engine"]),
    row("providers", Both, 1, 15, NoEffect("OpenSSL is not used"), LINE, &["providers default"]),
    row("pkcs11-providers", Both, 1, 15, PKCS11, LINE, &["pkcs11-providers /usr/lib/p11.so"]),
    row("pkcs11-id", Both, 1, 1, PKCS11, LINE, &["pkcs11-id abc"]),
    row("pkcs11-id-management", Both, 0, 0, PKCS11, LINE, &["pkcs11-id-management"]),
    row("pkcs11-pin-cache", Both, 1, 1, PKCS11, LINE, &["pkcs11-pin-cache 300"]),
    row("pkcs11-protected-authentication", Both, 1, 15, PKCS11, LINE, &["pkcs11-protected-authentication 1"]),
    row("pkcs11-cert-private", Both, 1, 15, PKCS11, LINE, &["pkcs11-cert-private 1"]),
    row("pkcs11-private-mode", Both, 1, 15, PKCS11, LINE, &["pkcs11-private-mode 1"]),
    row("cryptoapicert", Client, 1, 1, PKCS11, LINE, &["cryptoapicert SUBJ:me"]),
    row("management-external-key", Client, 0, 15, PKCS11, LINE, &["management-external-key"]),
    row("management-external-cert", Client, 1, 1, PKCS11, LINE, &["management-external-cert hint"]),

    // The data channel.
    row("cipher", Both, 1, 1, Implemented, PUSH, &["cipher AES-256-GCM", "cipher AES-256-CBC", "cipher aes-128-gcm"]).alone(NOT_SINGLY),
    row("data-ciphers", Both, 1, 1, Implemented, LINE, &["data-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-256-CBC", "data-ciphers DEFAULT"]).alone(NOT_SINGLY),
    row("ncp-ciphers", Both, 1, 1, Implemented, LINE, &["ncp-ciphers AES-256-GCM:AES-128-GCM"]).alone(NOT_SINGLY),
    row("data-ciphers-fallback", Both, 1, 1, Implemented, LINE, &["data-ciphers-fallback AES-256-GCM", "data-ciphers-fallback AES-256-CBC"]).alone(NOT_SINGLY),
    row("auth", Both, 1, 1, Implemented, LINE, &["auth SHA256", "auth sha512", "auth RSA-SHA1"]),
    row("keysize", Both, 1, 1, OBSOLETE, LINE, &["keysize 256"]),
    row("key-method", Both, 1, 1, OBSOLETE, LINE, &["key-method 2"]),
    row("ncp-disable", Both, 0, 0, OBSOLETE, LINE, &["ncp-disable"]),
    row("prng", Both, 1, 2, OBSOLETE, LINE, &["prng sha256"]),
    row("use-prediction-resistance", Both, 0, 0, OBSOLETE, LINE, &["use-prediction-resistance"]),
    row("no-name-remapping", Both, 0, 0, OBSOLETE, LINE, &["no-name-remapping"]),
    row("compat-names", Both, 0, 1, OBSOLETE, LINE, &["compat-names"]),
    row("no-iv", Both, 0, 0, OBSOLETE, LINE, &["no-iv"]),
    row("no-replay", Both, 0, 0, NoEffect("replays are always refused"), LINE, &["no-replay"]),
    row("replay-window", Both, 1, 2, Implemented, LINE, &["replay-window 256", "replay-window 64 15"]),
    row("replay-persist", Both, 1, 1, Ignored("replay state lives as long as its keys"), LINE, &["replay-persist file"]),
    row("mute-replay-warnings", Both, 0, 0, NoEffect("replays are counted, not logged"), LINE, &["mute-replay-warnings"]),
    row("compat-mode", Both, 1, 1, Ignored("the defaults of 2.6 hold; write what the server needs (`data-ciphers`)"), LINE, &["compat-mode 2.4.0"]).server(Ignored("the defaults of 2.6 hold; write what the clients need (`data-ciphers`)")),
    row("disable-occ", Both, 0, 0, OBSOLETE, LINE, &["disable-occ"]),
    row("force-tls-key-material-export", Both, 0, 0, Ignored("the server decides how keys are derived"), LINE, &["force-tls-key-material-export"]).server(Ignored("keys are exported from TLS for every client that can do it, and derived as before for others")),
    row("comp-lzo", Both, 0, 1, Refused(FRAMING.0, FRAMING.1), PUSH, &["comp-lzo", "comp-lzo no", "comp-lzo adaptive"]).server(SERVER_FRAMING).alone(NOT_SINGLY),
    row("compress", Both, 0, 1, Implemented, PUSH, &["compress stub-v2", "compress migrate"]).server(Implemented).alone(NOT_SINGLY),
    row("comp-noadapt", Both, 0, 0, OBSOLETE, LINE, &["comp-noadapt"]),
    row("allow-compression", Both, 1, 1, Implemented, LINE, &["allow-compression no"]),

    // Timers.
    row("tls-timeout", Both, 1, 1, Implemented, LINE, &["tls-timeout 2"]),
    row("hand-window", Both, 1, 1, Implemented, LINE, &["hand-window 60"]),
    row("tran-window", Both, 1, 1, Implemented, LINE, &["tran-window 3600"]),
    row("reneg-sec", Both, 1, 2, Implemented, LINE, &["reneg-sec 0", "reneg-sec 3600", "reneg-sec 3600 3000"]),
    row("reneg-bytes", Both, 1, 1, Implemented, LINE, &["reneg-bytes 0", "reneg-bytes 67108864"]),
    row("reneg-pkts", Both, 1, 1, Implemented, LINE, &["reneg-pkts 1000000"]),

    // Passwords.
    row("auth-user-pass", Client, 0, 1, Implemented, BLOCK, &["auth-user-pass", "auth-user-pass pass.txt"]),
    row("auth-nocache", Client, 0, 0, Implemented, LINE, &["auth-nocache"]).server(IDLE),
    row("auth-retry", Client, 1, 1, Implemented, LINE, &["auth-retry nointeract"]).server(IDLE),
    row("auth-token", Pushed, 1, 1, CONTROL, PUSH, &["auth-token SESS_ID_AT_x"]),
    row("auth-token-user", Pushed, 1, 1, CONTROL, PUSH, &["auth-token-user dXNlcg=="]),
    row("static-challenge", Client, 2, 3, Refused("challenges are not supported in this version", "ask for a profile without one-time codes, or type password and code together if the server takes that"), LINE, &["static-challenge \"Enter PIN\" 1", "static-challenge text 0 scrv1"]),
    row("push-peer-info", Client, 0, 0, Implemented, LINE, &["push-peer-info"]).server(IDLE),

    // Only from the server; the control process has dealt with them.
    row("peer-id", Pushed, 1, 1, CONTROL, PUSH, &["peer-id 7"]),
    row("key-derivation", Pushed, 1, 1, CONTROL, PUSH, &["key-derivation tls-ekm"]),
    row("protocol-flags", Pushed, 1, 15, CONTROL, PUSH, &["protocol-flags cc-exit tls-ekm"]),
    row("push-continuation", Pushed, 1, 1, CONTROL, PUSH, &["push-continuation 1"]),
    row("echo", Both, 0, 15, NoEffect("text for people"), PUSH, &["echo hello"]).alone(NoEffect("text for people")),
    row("parameter", Both, 0, 15, NoEffect("text for people"), PUSH, &["parameter hello"]),

    // The process.
    row("user", Both, 1, 1, Implemented, LINE, &["user nobody"]),
    row("group", Both, 1, 1, Implemented, LINE, &["group nogroup"]),
    row("chroot", Both, 1, 1, Ignored("the control process has a stricter sandbox"), LINE, &["chroot /var/empty"]),
    row("setcon", Both, 1, 1, Ignored("SELinux contexts are not changed"), LINE, &["setcon ctx"]),
    row("nice", Both, 1, 1, Ignored("priorities are the service manager's"), LINE, &["nice -5"]),
    row("mlock", Both, 0, 0, Ignored("memory is not locked"), LINE, &["mlock"]),
    row("daemon", Both, 0, 1, Ignored("the client stays in the foreground; use a service manager"), LINE, &["daemon", "daemon ovpn"]).server(Ignored("the gateway stays in the foreground; use a service manager")),
    row("inetd", Server, 0, 2, Refused("a server is not started by inetd", "remove it, and let a service manager start it"), LINE, &["inetd"]),
    row("writepid", Both, 1, 1, Ignored("no pid file is written; use a service manager"), LINE, &["writepid /run/x.pid"]),
    row("tmp-dir", Both, 1, 1, NoEffect("no temporary files are made"), LINE, &["tmp-dir /tmp"]).server(Implemented),
    row("verb", Both, 1, 1, NoEffect("use --log-level"), PUSH, &["verb 3"]),
    row("mute", Both, 1, 1, NoEffect("use --log-level"), PUSH, &["mute 20"]),
    row("log", Both, 1, 1, LOG_FILE, LINE, &["log /var/log/x.log"]),
    row("log-append", Both, 1, 1, LOG_FILE, LINE, &["log-append /var/log/x.log"]),
    row("syslog", Both, 0, 1, Ignored("logs go to standard error; the service manager keeps them"), LINE, &["syslog"]),
    row("errors-to-stderr", Both, 0, 0, NoEffect("they go there"), LINE, &["errors-to-stderr"]),
    row("machine-readable-output", Both, 0, 0, NoEffect("use --log-format json"), LINE, &["machine-readable-output"]),
    row("suppress-timestamps", Both, 0, 0, NoEffect("the command line decides how logs look"), LINE, &["suppress-timestamps"]),
    row("status", Both, 1, 2, Ignored("no status file is written"), LINE, &["status status.log 10"]).server(Implemented),
    row("status-version", Both, 0, 1, NoEffect("no status file is written"), LINE, &["status-version 2"]).server(Implemented),
    row("management", Both, 2, 3, MANAGEMENT, LINE, &["management 127.0.0.1 7505"]).server(Ignored("there is no management interface; `minivpn status` and `minivpn client` speak to the gateway over its own socket")),
    row("management-client", Both, 0, 0, MANAGEMENT, LINE, &["management-client"]),
    row("management-client-user", Both, 1, 1, MANAGEMENT, LINE, &["management-client-user root"]),
    row("management-client-group", Both, 1, 1, MANAGEMENT, LINE, &["management-client-group root"]),
    row("management-client-auth", Server, 0, 0, Refused("there is no management interface that could decide who comes in", "use `auth-user-pass-verify`"), LINE, &["management-client-auth"]),
    row("management-client-pf", Both, 0, 0, MANAGEMENT, LINE, &["management-client-pf"]),
    row("management-forget-disconnect", Both, 0, 0, MANAGEMENT, LINE, &["management-forget-disconnect"]),
    row("management-hold", Both, 0, 0, MANAGEMENT, LINE, &["management-hold"]),
    row("management-log-cache", Both, 1, 1, MANAGEMENT, LINE, &["management-log-cache 100"]),
    row("management-query-passwords", Both, 0, 0, MANAGEMENT, LINE, &["management-query-passwords"]),
    row("management-query-proxy", Both, 0, 0, MANAGEMENT, LINE, &["management-query-proxy"]),
    row("management-query-remote", Both, 0, 0, MANAGEMENT, LINE, &["management-query-remote"]),
    row("management-signal", Both, 0, 0, MANAGEMENT, LINE, &["management-signal"]),
    row("management-up-down", Both, 0, 0, MANAGEMENT, LINE, &["management-up-down"]),
    row("plugin", Both, 1, 15, Refused("plugins are not loaded", "remove it"), LINE, &["plugin x.so"]).server(SERVER_PLUGIN),
    row("script-security", Both, 1, 2, NoEffect("scripts are not run"), LINE, &["script-security 2"]).server(Implemented),
    row("up", Both, 1, 1, SCRIPT, LINE, &["up /etc/openvpn/update-resolv-conf"]).server(NO_UP),
    row("down", Both, 1, 1, SCRIPT, LINE, &["down /etc/openvpn/update-resolv-conf"]).server(NO_UP),
    row("up-restart", Both, 0, 0, NoEffect("scripts are not run"), LINE, &["up-restart"]).server(NoEffect("up and down are not run")),
    row("up-delay", Both, 0, 0, NoEffect("scripts are not run"), LINE, &["up-delay"]).server(NoEffect("up and down are not run")),
    row("down-pre", Both, 0, 0, NoEffect("scripts are not run"), LINE, &["down-pre"]).server(NoEffect("up and down are not run")),
    row("route-up", Both, 1, 1, SCRIPT, LINE, &["route-up /bin/x"]).server(NO_UP),
    row("route-pre-down", Both, 1, 1, SCRIPT, LINE, &["route-pre-down /bin/x"]).server(NO_UP),
    row("ipchange", Both, 1, 1, SCRIPT, LINE, &["ipchange /bin/x"]).server(NO_UP),
    row("dns-updown", Client, 1, 1, SCRIPT, LINE, &["dns-updown /bin/x"]),

    row("memstats", Both, 1, 1, NoEffect("a debugging aid of OpenVPN"), LINE, &["memstats file"]),
    row("gremlin", Both, 1, 1, NoEffect("a debugging aid of OpenVPN"), LINE, &["gremlin 0"]),
    row("help", Both, 0, 0, COMMAND, LINE, &["help"]),
    row("version", Both, 0, 0, COMMAND, LINE, &["version"]),
    row("genkey", Both, 0, 3, COMMAND, LINE, &["genkey secret x"]),
    row("mktun", Both, 0, 0, COMMAND, LINE, &["mktun"]),
    row("rmtun", Both, 0, 0, COMMAND, LINE, &["rmtun"]),
    row("test-crypto", Both, 0, 0, COMMAND, LINE, &["test-crypto"]),
    row("show-ciphers", Both, 0, 0, COMMAND, LINE, &["show-ciphers"]),
    row("show-curves", Both, 0, 0, COMMAND, LINE, &["show-curves"]),
    row("show-digests", Both, 0, 0, COMMAND, LINE, &["show-digests"]),
    row("show-engines", Both, 0, 0, COMMAND, LINE, &["show-engines"]),
    row("show-gateway", Both, 0, 1, COMMAND, LINE, &["show-gateway"]),
    row("show-groups", Both, 0, 0, COMMAND, LINE, &["show-groups"]),
    row("show-tls", Both, 0, 0, COMMAND, LINE, &["show-tls"]),
    row("show-pkcs11-ids", Both, 0, 2, COMMAND, LINE, &["show-pkcs11-ids"]),
    row("show-adapters", Client, 0, 0, COMMAND, LINE, &["show-adapters"]),
    row("show-net", Client, 0, 0, COMMAND, LINE, &["show-net"]),
    row("show-valid-subnets", Client, 0, 0, COMMAND, LINE, &["show-valid-subnets"]),

    // Windows.
    row("msg-channel", Client, 1, 1, WINDOWS, LINE, &["msg-channel 5"]),
    row("block-outside-dns", Client, 0, 0, WINDOWS, PUSH, &["block-outside-dns"]),
    row("register-dns", Client, 0, 0, WINDOWS, PUSH, &["register-dns"]),
    row("ip-win32", Client, 1, 3, WINDOWS, PUSH, &["ip-win32 dynamic"]),
    row("win-sys", Client, 1, 1, WINDOWS, LINE, &["win-sys env"]),
    row("windows-driver", Client, 1, 1, WINDOWS, LINE, &["windows-driver wintun"]),
    row("tap-sleep", Client, 1, 1, WINDOWS, LINE, &["tap-sleep 5"]),
    row("dhcp-renew", Client, 0, 0, WINDOWS, PUSH, &["dhcp-renew"]),
    row("dhcp-release", Client, 0, 0, WINDOWS, PUSH, &["dhcp-release"]),
    row("dhcp-pre-release", Client, 0, 0, WINDOWS, PUSH, &["dhcp-pre-release"]),
    row("show-net-up", Client, 0, 0, WINDOWS, LINE, &["show-net-up"]),
    row("pause-exit", Client, 0, 0, WINDOWS, LINE, &["pause-exit"]),
    row("service", Client, 1, 2, WINDOWS, LINE, &["service x"]),
    row("allow-nonadmin", Client, 0, 1, WINDOWS, LINE, &["allow-nonadmin"]),

    // Servers.
    row("server", Server, 2, 3, Implemented, LINE, &["server 10.8.0.0 255.255.255.0", "server 10.8.0.0 255.255.255.0 nopool"]),
    row("server-ipv6", Server, 1, 1, Implemented, LINE, &["server-ipv6 fd00::/64"]),
    row("server-bridge", Server, 0, 4, TAP, LINE, &["server-bridge"]),
    row("tls-server", Server, 0, 0, Implemented, LINE, &["tls-server"]),
    row("push", Server, 1, 1, Implemented, LINE, &["push \"redirect-gateway def1\"", "push \"route 10.1.0.0 255.255.0.0\""]).alone(Implemented),
    row("push-reset", Server, 0, 0, ONE, LINE, &["push-reset"]).alone(Implemented),
    row("push-remove", Server, 1, 1, Implemented, LINE, &["push-remove route"]).alone(Implemented),
    row("ifconfig-pool", Server, 2, 3, Implemented, LINE, &["ifconfig-pool 10.9.0.4 10.9.0.250", "ifconfig-pool 10.9.0.4 10.9.0.250 255.255.255.0"]),
    row("ifconfig-pool-persist", Server, 1, 2, Implemented, LINE, &["ifconfig-pool-persist ipp.txt", "ifconfig-pool-persist ipp.txt 0"]),
    row("ifconfig-pool-linear", Server, 0, 0, Implemented, LINE, &["ifconfig-pool-linear"]),
    row("ifconfig-ipv6-pool", Server, 1, 1, Implemented, LINE, &["ifconfig-ipv6-pool fd00::1000/64"]),
    row("ifconfig-push", Server, 2, 3, ONE, LINE, &["ifconfig-push 10.8.0.6 10.8.0.5", "ifconfig-push 10.8.0.6 255.255.255.0"]).alone(Implemented),
    row("ifconfig-ipv6-push", Server, 1, 2, ONE, LINE, &["ifconfig-ipv6-push fd00::6/64", "ifconfig-ipv6-push fd00::6/64 fd00::1"]).alone(Implemented),
    row("ifconfig-push-constraint", Server, 2, 2, Refused("addresses of ifconfig-push are not held against a network", "remove it, and look at the files of client-config-dir"), LINE, &["ifconfig-push-constraint 10.8.0.0 255.255.255.0"]),
    row("iroute", Server, 1, 2, ONE, LINE, &["iroute 10.1.0.0 255.255.0.0", "iroute 10.1.0.7"]).alone(Implemented),
    row("iroute-ipv6", Server, 1, 1, ONE, LINE, &["iroute-ipv6 fd01::/64"]).alone(Implemented),
    row("client-to-client", Server, 0, 0, Implemented, LINE, &["client-to-client"]),
    row("duplicate-cn", Server, 0, 0, Implemented, LINE, &["duplicate-cn"]),
    row("max-clients", Server, 1, 1, Implemented, LINE, &["max-clients 100", "max-clients 16777215"]),
    row("max-routes-per-client", Server, 1, 1, NoEffect("addresses are not learnt from packets: a client has its own and its iroutes"), LINE, &["max-routes-per-client 256"]).alone(NOT_SINGLY),
    row("client-config-dir", Server, 1, 1, Implemented, LINE, &["client-config-dir ccd"]),
    row("ccd-exclusive", Server, 0, 0, Implemented, LINE, &["ccd-exclusive\nclient-config-dir ccd"]),
    row("client-connect", Server, 1, 1, Implemented, LINE, &["client-connect x\nscript-security 2", "client-connect \"/bin/x 'a b' c\"\nscript-security 2"]),
    row("client-disconnect", Server, 1, 1, Implemented, LINE, &["client-disconnect x\nscript-security 2"]),
    row("client-crresponse", Server, 1, 1, Refused("challenges are not supported in this version", "remove it"), LINE, &["client-crresponse x"]),
    row("learn-address", Server, 1, 1, Implemented, LINE, &["learn-address x\nscript-security 2"]),
    row("connect-freq", Server, 2, 2, Ignored("a limit for all clients together would let a flood lock everybody out; connect-freq-initial limits each source network"), LINE, &["connect-freq 10 1"]),
    row("connect-freq-initial", Server, 2, 2, Implemented, LINE, &["connect-freq-initial 100 10"]),
    row("verify-client-cert", Server, 0, 1, Implemented, LINE, &["verify-client-cert", "verify-client-cert require", "verify-client-cert optional\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("client-cert-not-required", Server, 0, 0, Implemented, LINE, &["client-cert-not-required\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("auth-user-pass-verify", Server, 2, 2, Implemented, LINE, &["auth-user-pass-verify x via-file\nscript-security 2", "auth-user-pass-verify x via-env\nscript-security 3"]),
    row("auth-user-pass-optional", Server, 0, 0, Implemented, LINE, &["auth-user-pass-optional\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("username-as-common-name", Server, 0, 0, Implemented, LINE, &["username-as-common-name\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("override-username", Server, 1, 1, Refused("user names are not replaced in this version", "remove it"), LINE, &["override-username x"]).alone(Refused("user names are not replaced in this version", "remove it")),
    row("auth-gen-token", Server, 0, 3, Implemented, LINE, &["auth-gen-token\nauth-user-pass-verify x via-file\nscript-security 2", "auth-gen-token 3600 600 external-auth\nauth-user-pass-verify x via-file\nscript-security 2", "auth-gen-token 3600 external-auth\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("auth-gen-token-secret", Server, 1, 1, Implemented, BLOCK, &["auth-gen-token-secret token.key\nauth-gen-token\nauth-user-pass-verify x via-file\nscript-security 2"]),
    row("port-share", Server, 2, 3, TCP, LINE, &["port-share 127.0.0.1 443"]),
    row("bcast-buffers", Server, 1, 1, NoEffect("there is no queue of broadcasts"), LINE, &["bcast-buffers 256"]),
    row("tcp-queue-limit", Server, 1, 1, NoEffect("concerns TCP only"), LINE, &["tcp-queue-limit 64"]),
    row("hash-size", Server, 2, 2, NoEffect("tables grow by themselves"), LINE, &["hash-size 256 256"]),
    row("opt-verify", Server, 0, 0, Ignored("OpenVPN 2.4 made it obsolete: a client's options string is not compared"), LINE, &["opt-verify"]),
    row("stale-routes-check", Server, 1, 2, NoEffect("addresses are not learnt from packets: none grows stale"), LINE, &["stale-routes-check 60"]),
    row("disable", Server, 0, 0, ONE, LINE, &["disable"]).alone(Implemented),
    row("x509-username-field", Server, 1, 15, Implemented, LINE, &["x509-username-field CN"]),
    row("tls-crypt-v2-verify", Server, 1, 1, V2, LINE, &["tls-crypt-v2-verify x"]),
    row("tls-crypt-v2-max-age", Server, 1, 1, V2, LINE, &["tls-crypt-v2-max-age 30"]),
    row("vlan-tagging", Server, 0, 0, TAP, LINE, &["vlan-tagging"]),
    row("vlan-accept", Server, 1, 1, TAP, LINE, &["vlan-accept all"]),
    row("vlan-pvid", Server, 1, 1, TAP, LINE, &["vlan-pvid 1"]).alone(Ignored("it concerns Ethernet (TAP)")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_name_has_two_rows_and_every_row_has_a_sample() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for row in TABLE {
            assert!(!row.samples.is_empty(), "{}", row.name);
            assert!(row.args.0 <= row.args.1, "{}", row.name);
        }
    }

    #[test]
    fn what_may_be_pushed_never_touches_identity_or_the_transport() {
        for name in [
            "up",
            "down",
            "script-security",
            "plugin",
            "remote",
            "proto",
            "ca",
            "cert",
            "key",
            "dev",
            "config",
            "fragment",
            "mssfix",
            "user",
            "group",
        ] {
            assert!(!find(name).unwrap().places.pushed(), "{name}");
        }
        for row in TABLE.iter().filter(|row| row.name.starts_with("tls-") || row.name.starts_with("verify-")) {
            assert!(!row.places.pushed(), "{}", row.name);
        }
        for name in ["route", "ifconfig", "cipher", "auth-token", "tun-mtu", "dns", "echo"] {
            assert!(find(name).unwrap().places.pushed(), "{name}");
        }
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_nonsense_finds_none() {
        for (wrong, right) in [
            ("remot", "remote"),
            ("cleint", "client"),
            ("auth-userpass", "auth-user-pass"),
            ("tls-crypto", "tls-crypt"),
            ("protoo", "proto"),
        ] {
            assert_eq!(nearest(wrong), Some(right), "{wrong}");
        }
        for wrong in ["x", "", "zzzzzzzz", "blockchain", &"a".repeat(200)] {
            assert_eq!(nearest(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn distance_counts_single_changes() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("ab", "ab", 0), ("ab", "ba", 1), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
