//! Pushed options as a trace shows them: those that are known to hold nothing secret in full, of all others the name.

/// Options whose values say nothing that has to be kept.
const HARMLESS: [&str; 34] = [
    "block-ipv6",
    "block-outside-dns",
    "comp-lzo",
    "compress",
    "dhcp-option",
    "dns",
    "explicit-exit-notify",
    "fragment",
    "ifconfig",
    "ifconfig-ipv6",
    "inactive",
    "keepalive",
    "mssfix",
    "persist-key",
    "persist-tun",
    "ping",
    "ping-exit",
    "ping-restart",
    "ping-timer-rem",
    "rcvbuf",
    "redirect-gateway",
    "redirect-private",
    "register-dns",
    "reneg-sec",
    "route",
    "route-delay",
    "route-gateway",
    "route-ipv6",
    "route-metric",
    "session-timeout",
    "sndbuf",
    "socket-flags",
    "topology",
    "tun-mtu",
];

/// The option as it is shown.
pub(super) fn shown(option: &str) -> String {
    let (name, rest) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
    if rest.trim().is_empty() || HARMLESS.contains(&name) {
        return option.to_owned();
    }
    format!("{name} …")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_options_show_their_values() {
        for option in ["route 10.0.0.0 255.0.0.0", "dhcp-option DNS 10.8.0.1", "ping 10", "block-ipv6"] {
            assert_eq!(shown(option), option);
        }
        for (option, expected) in [
            ("auth-token SESS_ID_AT_secret", "auth-token …"),
            ("auth-token\tsecret", "auth-token …"),
            ("auth-token-user YWxpY2U=", "auth-token-user …"),
            ("setenv-safe KEY secret", "setenv-safe …"),
            ("echo secret", "echo …"),
            ("routes secret", "routes …"),
            ("something", "something"),
        ] {
            assert_eq!(shown(option), expected);
        }
    }

    #[test]
    fn the_list_is_sorted_and_without_repetition() {
        assert!(HARMLESS.windows(2).all(|two| two[0] < two[1]));
    }
}
