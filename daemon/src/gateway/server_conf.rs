//! The gateway's configuration as OpenVPN writes it, from its settings: one way of configuring, and a stock server could
//! take over.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use super::network::AnyNetwork;
use super::settings::Settings;

/// The ciphers of data packets, best first; clients choose none that is not here.
pub const DATA_CIPHERS: &str = "AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305";

/// The text of `server.conf` for a gateway whose state is in this directory.
pub fn text(settings: &Settings, directory: &Path) -> String {
    let mut text = String::from(
        "# Written by `minivpn gateway up`, and written anew when it is run with other arguments: what you change here is lost.\n\
         # To keep a configuration of your own, copy it and run `minivpn gateway run --config FILE`.\n",
    );
    listen(&mut text, settings);
    addresses(&mut text, settings, directory);
    credentials(&mut text, directory);
    pushed(&mut text, settings);
    text
}

fn listen(text: &mut String, settings: &Settings) {
    let proto = match settings.listen {
        Some(IpAddr::V4(_)) => "udp4",
        Some(IpAddr::V6(_)) => "udp6",
        // A socket of IPv6 takes IPv4 as well.
        None if settings.dual_stack => "udp6",
        None => "udp4",
    };
    line(text, &["proto", proto]);
    if let Some(address) = settings.listen {
        line(text, &["local", &address.to_string()]);
    }
    line(text, &["port", &settings.port.to_string()]);
    line(text, &["dev", &settings.device]);
    line(text, &["dev-type", "tun"]);
}

fn addresses(text: &mut String, settings: &Settings, directory: &Path) {
    line(text, &["topology", "subnet"]);
    line(text, &["server", &settings.pool.address().to_string(), &settings.pool.netmask().to_string()]);
    if let Some(pool) = settings.pool_ipv6 {
        line(text, &["server-ipv6", &pool.to_string()]);
    }
    line(text, &["ifconfig-pool-persist", &file(directory, "leases.txt")]);
    line(text, &["client-config-dir", &file(directory, "ccd")]);
    if settings.client_to_client {
        line(text, &["client-to-client"]);
    }
    line(text, &["max-clients", &settings.most_clients().to_string()]);
    line(text, &["keepalive", "10", "60"]);
    line(text, &["explicit-exit-notify", "1"]);
    line(text, &["persist-key"]);
    line(text, &["persist-tun"]);
}

fn credentials(text: &mut String, directory: &Path) {
    line(text, &["ca", &file(directory, "ca.crt")]);
    line(text, &["cert", &file(directory, "server.pem")]);
    line(text, &["key", &file(directory, "server.pem")]);
    line(text, &["crl-verify", &file(directory, "crl.pem")]);
    line(text, &["tls-crypt", &file(directory, "tls-crypt.key")]);
    line(text, &["dh", "none"]);
    line(text, &["remote-cert-tls", "client"]);
    line(text, &["tls-version-min", "1.2"]);
    line(text, &["data-ciphers", DATA_CIPHERS]);
}

fn pushed(text: &mut String, settings: &Settings) {
    let mut push = |option: String| line(text, &["push", &option]);
    match (settings.routes.as_slice(), settings.pool_ipv6) {
        ([], Some(_)) => push("redirect-gateway def1 ipv6".to_owned()),
        ([], None) => {
            push("redirect-gateway def1".to_owned());
            // Nothing of a client goes past the tunnel, as little by IPv6 as by IPv4.
            push("block-ipv6".to_owned());
        }
        (routes, _) => routes.iter().for_each(|route| {
            push(match route {
                AnyNetwork::V4(network) => format!("route {} {}", network.address(), network.netmask()),
                AnyNetwork::V6(network) => format!("route-ipv6 {network}"),
            });
        }),
    }
    for server in &settings.dns {
        push(match server {
            IpAddr::V4(address) => format!("dhcp-option DNS {address}"),
            IpAddr::V6(address) => format!("dhcp-option DNS6 {address}"),
        });
    }
    push("explicit-exit-notify 1".to_owned());
}

fn file(directory: &Path, name: &str) -> String {
    directory.join(name).to_string_lossy().into_owned()
}

fn line(text: &mut String, words: &[&str]) {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    // Writing into a string does not fail.
    let _ = writeln!(text, "{}", words.join(" "));
}

/// A word that OpenVPN reads as one: in quotation marks where it must be.
fn quoted(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !"\"'\\#;".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::settings;

    fn text_of(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        text(&settings, Path::new("/var/lib/minivpn/default"))
    }

    fn has(text: &str, wanted: &str) -> bool {
        text.lines().any(|line| line == wanted)
    }

    #[test]
    fn a_configuration_says_everything_that_was_asked_for() {
        let text = text_of(|_| ());
        for wanted in [
            "proto udp6",
            "port 1194",
            "dev mvpn-default",
            "server 10.8.0.0 255.255.255.0",
            "server-ipv6 fd00:1::/64",
            "max-clients 253",
            "cert /var/lib/minivpn/default/server.pem",
            "crl-verify /var/lib/minivpn/default/crl.pem",
            "push \"redirect-gateway def1 ipv6\"",
            "push \"dhcp-option DNS 192.0.2.53\"",
        ] {
            assert!(has(&text, wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("client-to-client") && !text.contains("block-ipv6") && !text.contains("local "));
    }

    #[test]
    fn without_ipv6_in_the_tunnel_clients_send_none_past_it() {
        let text = text_of(|settings| settings.pool_ipv6 = None);
        assert!(has(&text, "push block-ipv6") && has(&text, "push \"redirect-gateway def1\""));
        assert!(!text.contains("server-ipv6"));
    }

    #[test]
    fn single_routes_take_the_place_of_everything() {
        let text = text_of(|settings| {
            settings.routes = vec!["10.0.0.0/8".parse().unwrap(), "fd00:2::/64".parse().unwrap()];
            settings.dns = vec!["2001:db8::53".parse().unwrap()];
        });
        assert!(has(&text, "push \"route 10.0.0.0 255.0.0.0\"") && has(&text, "push \"route-ipv6 fd00:2::/64\""));
        assert!(has(&text, "push \"dhcp-option DNS6 2001:db8::53\""));
        assert!(!text.contains("redirect-gateway"));
    }

    #[test]
    fn the_transport_follows_the_address() {
        assert!(has(&text_of(|settings| settings.dual_stack = false), "proto udp4"));
        let text = text_of(|settings| settings.listen = Some([192, 0, 2, 1].into()));
        assert!(has(&text, "proto udp4") && has(&text, "local 192.0.2.1"));
        assert!(has(&text_of(|settings| settings.listen = "2001:db8::1".parse().ok()), "proto udp6"));
        assert!(has(&text_of(|settings| settings.client_to_client = true), "client-to-client"));
    }

    #[test]
    fn a_path_with_blanks_is_one_word() {
        assert_eq!(quoted("/a b/c\"d\\e"), "\"/a b/c\\\"d\\\\e\"");
        assert_eq!(quoted("/plain-1.x"), "/plain-1.x");
        assert_eq!(quoted("/a#b"), "\"/a#b\"");
        assert_eq!(quoted(""), "\"\"");
    }
}
