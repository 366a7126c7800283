//! The list of options that a server pushes: what may stand in it, and how `push-remove` and a client's own file change it.

use std::net::IpAddr;

use controlplane::controlchannel::push::MAX_PUSHED;

use super::directives::{self, Role};
use super::lexer;
use super::values::{self, Trouble, quoted};

/// What is decided for each client by itself, and pushed then.
const NEGOTIATED: [&str; 4] = ["peer-id", "key-derivation", "protocol-flags", "push-continuation"];

/// Adds the text of a `push`. A warning, if clients will not do what it says.
///
/// # Errors
/// It cannot be sent, or would break the tunnel.
pub(super) fn add(list: &mut Vec<String>, text: &str) -> Result<Option<Trouble>, Trouble> {
    if text.contains(',') || text.contains(char::is_control) {
        return Err(Trouble::new(format!(
            "{} cannot be sent: a comma or a control character ends an option",
            quoted(text)
        ))
        .instead("write one `push` for each option"));
    }
    let words = lexer::split(text)?;
    let Some((name, args)) = words.split_first() else {
        return Err(
            Trouble::new("there is nothing in it").instead("write it like `push \"route 10.1.0.0 255.255.0.0\"`")
        );
    };
    if NEGOTIATED.contains(&name.as_str()) {
        return Err(Trouble::new(format!("{name} is decided for each client by itself")).instead("remove it"));
    }
    let harmless = matches!(args, [form] if name == "compress" && (form == "stub-v2" || form == "migrate"));
    if matches!(name.as_str(), "comp-lzo" | "compress") && !harmless {
        return Err(Trouble::new(directives::FRAMING.0).instead("remove it here and in the clients' profiles"));
    }
    if name == "cipher" {
        return Ok(Some(Trouble::new("push: it is left out, the cipher is negotiated with each client")));
    }
    if list.iter().map(|option| option.len().saturating_add(1)).sum::<usize>().saturating_add(text.len()) > MAX_PUSHED {
        return Err(Trouble::new(format!("more than {MAX_PUSHED} bytes of options")).instead("push fewer routes"));
    }
    list.push(text.to_owned());
    Ok(unheard(name))
}

/// Adds what a helper implies, unless it stands there.
pub(super) fn imply(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

/// `push-remove`: leaves out what starts like that.
pub(super) fn remove(list: &mut Vec<String>, start: &str) {
    list.retain(|option| !option.starts_with(start));
}

/// The network that a pushed `route` or `route-ipv6` leads to.
pub(super) fn route_of(option: &str) -> Option<(IpAddr, u8)> {
    let words = lexer::split(option).ok()?;
    match (words.first()?.as_str(), words.get(1)?, words.get(2)) {
        ("route", network, mask) => {
            let prefix = match mask.map(String::as_str) {
                None | Some("default") => 32,
                Some(mask) => values::netmask(values::ipv4(mask).ok()?).ok()?,
            };
            Some((values::ipv4_network(values::ipv4(network).ok()?, prefix).into(), prefix))
        }
        ("route-ipv6", network, _) => {
            let (address, prefix) = values::ipv6_with_bits(network).ok()?;
            Some((values::ipv6_network(address, prefix).into(), prefix))
        }
        _ => None,
    }
}

/// Clients of OpenVPN say so in their logs and go on.
fn unheard(name: &str) -> Option<Trouble> {
    match directives::find(name) {
        None => Some(Trouble::new(format!("push: no client of OpenVPN 2.6 knows {}", quoted(name)))),
        Some(row) if !row.places.pushed() && row.role != Role::Pushed => Some(
            Trouble::new(format!("push: clients do not let a server set {name}"))
                .instead("write it into their profiles"),
        ),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_to(list: &mut Vec<String>, text: &str) -> String {
        match add(list, text) {
            Ok(None) => String::new(),
            Ok(Some(warning)) => format!("warning: {}", warning.sentence()),
            Err(trouble) => trouble.sentence(),
        }
    }

    #[test]
    fn what_is_pushed_can_be_sent_and_is_understood() {
        let table = [
            ("route 10.1.0.0 255.255.0.0", "", true),
            ("redirect-gateway def1 bypass-dhcp", "", true),
            ("dhcp-option DNS 10.8.0.1", "", true),
            ("block-outside-dns", "", true),
            ("compress stub-v2", "", true),
            ("auth-token x", "", true),
            ("a,b", "cannot be sent", false),
            ("a\tb", "cannot be sent", false),
            ("", "there is nothing in it", false),
            ("# x", "there is nothing in it", false),
            ("route \"x", "has no partner", false),
            ("peer-id 3", "decided for each client", false),
            ("comp-lzo no", "compression framing", false),
            ("compress lz4", "compression framing", false),
            ("cipher AES-256-GCM", "warning: push: it is left out", false),
            ("no-such-thing 1", "warning: push: no client of OpenVPN 2.6 knows", true),
            ("remote vpn.example.com", "warning: push: clients do not let a server set remote", true),
        ];
        for (text, said, kept) in table {
            let mut list = Vec::new();
            let found = add_to(&mut list, text);
            assert!(found.contains(said) && found.is_empty() == said.is_empty(), "{text}: {found}");
            assert_eq!(list.len(), usize::from(kept), "{text}");
        }
    }

    #[test]
    fn a_list_is_not_longer_than_a_client_takes() {
        let mut list = Vec::new();
        let option = format!("echo {}", "x".repeat(240));
        let taken = (0..1_000).take_while(|_| add(&mut list, &option).is_ok()).count();
        assert_eq!(taken, MAX_PUSHED / (option.len() + 1));
        assert!(add_to(&mut list, &option).contains("bytes of options"));
    }

    #[test]
    fn what_is_removed_is_found_by_its_start() {
        let mut list: Vec<String> = ["route 10.1.0.0", "route-gateway 10.8.0.1", "ping 10"].map(str::to_owned).to_vec();
        remove(&mut list, "route ");
        assert_eq!(list, ["route-gateway 10.8.0.1", "ping 10"]);
        remove(&mut list, "route");
        assert_eq!(list, ["ping 10"]);
        imply(&mut list, "ping 10".into());
        imply(&mut list, "ping 11".into());
        assert_eq!(list, ["ping 10", "ping 11"]);
    }

    #[test]
    fn the_network_of_a_pushed_route_is_read() {
        let table: [(&str, Option<(&str, u8)>); 7] = [
            ("route 10.1.0.0 255.255.0.0", Some(("10.1.0.0", 16))),
            ("route 10.1.2.3 255.255.0.0 vpn_gateway 5", Some(("10.1.0.0", 16))),
            ("route 10.1.0.1", Some(("10.1.0.1", 32))),
            ("route 10.1.0.1 default", Some(("10.1.0.1", 32))),
            ("route-ipv6 fd00:1::/48", Some(("fd00:1::", 48))),
            ("route vpn_gateway", None),
            ("ping 10", None),
        ];
        for (option, expected) in table {
            assert_eq!(route_of(option), expected.map(|(network, bits)| (network.parse().unwrap(), bits)), "{option}");
        }
    }
}
