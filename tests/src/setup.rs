//! What client and server agree on in one scenario, written out once as the server's config and once as the profile.

use crate::netns::{ROUTER4, ROUTER6, SERVER4, SERVER6};
use crate::pki::{Authority, Identity, Role, static_key};
use crate::temp::Temp;
use std::fmt::Write as _;
use std::net::IpAddr;

/// How control packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// Not at all.
    None,
    /// tls-auth with `key-direction` 0 on the server and 1 on the client.
    TlsAuth,
    /// tls-auth with one key for both directions.
    TlsAuthBidirectional,
    /// tls-crypt.
    TlsCrypt,
}

/// The TLS version that both are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// The family of the addresses outside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One scenario's settings. Change fields, then start the server and the client from it.
#[derive(Debug)]
pub struct Setup {
    /// Control packet protection.
    pub wrap: Wrap,
    /// The static key of the server's wrap.
    pub server_static: String,
    /// The static key of the client's wrap; the same unless a test wants otherwise.
    pub client_static: String,
    /// The one data cipher offered by the server.
    pub cipher: &'static str,
    /// The TLS version.
    pub tls: Tls,
    /// Outer addresses.
    pub family: Family,
    /// Where the client finds the server; with [`Setup::through_relay`] the router.
    pub remote: IpAddr,
    /// The port the client sends to; the server listens on 1194.
    pub port: u16,
    /// `keepalive a b` of the server, seconds, which pushes ping a and ping-restart b.
    pub keepalive: (u32, u32),
    /// `--io` of whatever is ours: uring, syscall or auto.
    pub io: &'static str,
    /// Workers of our gateway.
    pub workers: u16,
    /// More words of our client's command line.
    pub options: Vec<&'static str>,
    /// Bits of `IV_PROTO` that our client does not advertise, so as to be an older peer.
    pub iv_proto_mask: u32,
    /// User and password that the client sends.
    pub login: Option<(String, String)>,
    /// User and password that the server takes; `None` asks for none.
    pub accepts: Option<(String, String)>,
    /// The authority that the client trusts.
    pub client_trusts: String,
    /// The authority that the server trusts.
    pub server_trusts: String,
    /// The server's certificate and key.
    pub server_id: Identity,
    /// The client's certificate and key.
    pub client_id: Identity,
    /// More lines of the server's config.
    pub server_lines: Vec<String>,
    /// More lines of the client's profile.
    pub client_lines: Vec<String>,
}

impl Setup {
    /// The plainest: no wrap, AES-256-GCM, TLS 1.3, IPv4, everything valid.
    pub fn new() -> Self {
        Self::under(&Authority::new("Test Root"))
    }

    /// The same with certificates of this authority, which a test keeps to issue and to revoke more.
    pub fn under(root: &Authority) -> Self {
        let key = static_key();
        Self {
            wrap: Wrap::None,
            server_static: key.clone(),
            client_static: key,
            cipher: "AES-256-GCM",
            tls: Tls::V13,
            family: Family::V4,
            remote: SERVER4.into(),
            port: 1194,
            keepalive: (10, 60),
            io: "auto",
            workers: 2,
            options: Vec::new(),
            iv_proto_mask: 0,
            login: None,
            accepts: None,
            client_trusts: root.cert.clone(),
            server_trusts: root.cert.clone(),
            server_id: root.issue("server", Role::Server),
            client_id: root.issue("client", Role::Client),
            server_lines: Vec::new(),
            client_lines: Vec::new(),
        }
    }

    /// Uses this family outside the tunnel.
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self.remote = match family {
            Family::V4 => SERVER4.into(),
            Family::V6 => SERVER6.into(),
        };
        self
    }

    /// Lets the client send to the router, where a relay listens.
    pub fn through_relay(mut self) -> Self {
        self.remote = match self.family {
            Family::V4 => ROUTER4.into(),
            Family::V6 => ROUTER6.into(),
        };
        self
    }

    /// Adds a line to the server's config.
    pub fn server(mut self, line: &str) -> Self {
        self.server_lines.push(line.to_owned());
        self
    }

    /// Adds a line to the client's profile.
    pub fn client(mut self, line: &str) -> Self {
        self.client_lines.push(line.to_owned());
        self
    }

    /// The server's config; scripts it names are written to `temp`.
    pub fn server_config(&self, temp: &Temp) -> String {
        let dir = temp.path().display();
        let (ping, restart) = self.keepalive;
        let mut text = format!(
            "mode server\ntls-server\ndev tun\nproto {}\nport 1194\ntopology subnet\nserver 10.8.0.0 255.255.255.0\n\
             server-ipv6 fd08::/64\nkeepalive {ping} {restart}\ndata-ciphers {}\ndisable-dco\ndh none\nverb 4\n\
             management {dir}/management unix\n",
            self.proto(),
            self.cipher,
        );
        if let Some((user, password)) = &self.accepts {
            let body = format!("[ \"$(head -n1 \"$1\")\" = '{user}' ] && [ \"$(tail -n1 \"$1\")\" = '{password}' ]");
            let script = temp.script("verify", &body);
            let _ = writeln!(text, "script-security 2\nauth-user-pass-verify {} via-file", script.display());
        }
        self.common(&mut text, &self.server_trusts, &self.server_id, &self.server_static, 0);
        append(text, &self.server_lines)
    }

    /// The client's profile, all inline.
    pub fn profile(&self) -> String {
        self.profile_of(&self.client_id)
    }

    /// The profile of another client.
    pub fn profile_of(&self, id: &Identity) -> String {
        let mut text = format!(
            "client\ndev tun\nproto {}\nremote {} {}\nnobind\npersist-key\npersist-tun\nremote-cert-tls server\n\
             data-ciphers AES-256-GCM:AES-192-GCM:AES-128-GCM:CHACHA20-POLY1305\nverb 4\nexplicit-exit-notify 1\n",
            self.proto(),
            self.remote,
            self.port,
        );
        if let Some((user, password)) = &self.login {
            let _ = write!(text, "<auth-user-pass>\n{user}\n{password}\n</auth-user-pass>\n");
        }
        self.common(&mut text, &self.client_trusts, id, &self.client_static, 1);
        append(text, &self.client_lines)
    }

    fn proto(&self) -> &'static str {
        match self.family {
            Family::V4 => "udp4",
            Family::V6 => "udp6",
        }
    }

    fn common(&self, text: &mut String, ca: &str, id: &Identity, key: &str, direction: u8) {
        let version = match self.tls {
            Tls::V12 => "tls-version-max 1.2",
            Tls::V13 => "tls-version-min 1.3",
        };
        let _ = writeln!(text, "{version}");
        let _ = match self.wrap {
            Wrap::None => Ok(()),
            Wrap::TlsAuth => writeln!(text, "key-direction {direction}\n<tls-auth>\n{key}</tls-auth>"),
            Wrap::TlsAuthBidirectional => writeln!(text, "<tls-auth>\n{key}</tls-auth>"),
            Wrap::TlsCrypt => writeln!(text, "<tls-crypt>\n{key}</tls-crypt>"),
        };
        let _ = writeln!(text, "<ca>\n{ca}</ca>\n<cert>\n{}</cert>\n<key>\n{}</key>", id.cert, id.key);
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

fn append(text: String, lines: &[String]) -> String {
    lines.iter().fold(text, |text, line| text + line + "\n")
}
