//! What a server pushed, checked and laid over the profile. A server is not trusted to be right: what cannot be understood or is not a
//! server's business is left out with a warning; only what would make the tunnel garbage ends the session.

use super::agreed::{ClientProfile, FilterAction};
use super::connection::exit_notify;
use super::directives::{self, Disposition, Row};
use super::idle;
use super::lexer;
use super::tunnel::{self, MAX_PUSHED_MTU, MIN_MTU, TunnelSettings};
use super::values::{self, Trouble, quoted};

/// More warnings than this are only counted.
const MAX_WARNINGS: usize = 32;

/// The settings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedSettings {
    /// The profile's settings with the pushed ones over them.
    pub settings: TunnelSettings,
    /// What was left out and why: printable sentences, none of which holds a secret. At most 33.
    pub warnings: Vec<String>,
    /// `Some`: the session must end, with this sentence (`pull-filter reject`, compression).
    pub refusal: Option<String>,
}

/// Reads the options of a PUSH_REPLY, without its first word, in order. Each is one option as it was sent.
pub fn read(profile: &ClientProfile, options: &[String]) -> PushedSettings {
    let mut reader =
        Reader { profile, settings: profile.settings.clone(), warnings: Vec::new(), unsaid: 0, refusal: None };
    for option in options {
        reader.option(option);
    }
    reader.finish()
}

struct Reader<'a> {
    profile: &'a ClientProfile,
    settings: TunnelSettings,
    warnings: Vec<String>,
    unsaid: usize,
    refusal: Option<String>,
}

impl Reader<'_> {
    fn option(&mut self, option: &str) {
        let words = lexer::split(option);
        // Filters see what will be obeyed: quotes, escapes and spaces must not hide an option from them.
        let plain = words.as_ref().map_or(option.to_owned(), |words| words.join(" "));
        match self.filter(&plain) {
            FilterAction::Accept => {}
            FilterAction::Ignore => return,
            FilterAction::Reject => {
                self.refuse(format!("the server pushed {}, which pull-filter rejects", first_word(option)));
                return;
            }
        }
        let words = match words {
            Ok(words) => words,
            Err(trouble) => return self.warn(option, &trouble.what),
        };
        let Some((name, args)) = words.split_first() else {
            return;
        };
        match directives::find(name) {
            None => self.warn(option, "it is unknown"),
            Some(row) if !row.places.pushed() => self.warn(option, "a server may not set it"),
            Some(row) if !(row.args.0..=row.args.1).contains(&u8::try_from(args.len()).unwrap_or(u8::MAX)) => {
                self.warn(option, "it has a wrong number of arguments");
            }
            Some(row) => self.known(option, row, args),
        }
    }

    /// The first prefix that matches decides.
    fn filter(&self, option: &str) -> FilterAction {
        let hit = self.profile.pull_filters.iter().find(|filter| option.starts_with(&filter.prefix));
        hit.map_or(FilterAction::Accept, |filter| filter.action)
    }

    fn known(&mut self, option: &str, row: &'static Row, args: &[String]) {
        if self.profile.route_nopull && concerns_routes(row.name) {
            return;
        }
        let harmless = matches!(args, [form] if form == "stub-v2" || form == "migrate");
        match row.does {
            _ if matches!(row.name, "comp-lzo" | "compress") && !harmless => {
                self.refuse("the server pushes comp-lzo or compress: compression framing, even that of `comp-lzo no`, is not supported, and only the server's operator can turn it off: remove comp-lzo and compress from its configuration and from its push lines".to_owned());
            }
            Disposition::NoEffect(_) => {
                if let Err(trouble) = idle::check(row.name, args) {
                    self.warn(option, &trouble.what);
                }
            }
            Disposition::Refused(why, _) => self.warn(option, why),
            Disposition::Ignored(why) if !matches!(row.name, "dhcp-option" | "dns") => self.warn(option, why),
            Disposition::Ignored(_) | Disposition::Implemented => {
                if let Err(trouble) = self.apply(row.name, args) {
                    self.warn(option, &trouble.what);
                }
            }
        }
    }

    fn apply(&mut self, name: &str, args: &[String]) -> Result<(), Trouble> {
        match (name, args) {
            // The cipher is the control channel's; a harmless form of compression is none.
            ("cipher" | "compress", _) => {}
            // They come too late: the socket is open, with what the profile says or with more than servers push.
            ("sndbuf" | "rcvbuf", [bytes]) => {
                tunnel::buffer_size(bytes)?;
            }
            ("explicit-exit-notify", count) => {
                self.settings.explicit_exit_notify = Some(exit_notify(count.first())?.unwrap_or(0))
            }
            ("tun-mtu", [mtu, ..]) => self.tun_mtu(mtu)?,
            _ => {
                if !self.settings.apply(name, args)? {
                    return Err(Trouble::new("it cannot have this form"));
                }
            }
        }
        Ok(())
    }

    fn tun_mtu(&mut self, text: &str) -> Result<(), Trouble> {
        let mtu = values::number16(text, MIN_MTU..=u16::MAX, "bytes")?;
        self.settings.tun_mtu = mtu.min(MAX_PUSHED_MTU);
        if mtu > MAX_PUSHED_MTU {
            return Err(Trouble::new(format!("it is more than {MAX_PUSHED_MTU}, which is taken instead")));
        }
        Ok(())
    }

    fn warn(&mut self, option: &str, why: &str) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("pushed option {} is not taken: {why}", first_word(option)));
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
        }
    }

    fn refuse(&mut self, why: String) {
        self.refusal.get_or_insert(why);
    }

    fn finish(mut self) -> PushedSettings {
        if self.unsaid > 0 {
            self.warnings.push(format!("and {} more", self.unsaid));
        }
        PushedSettings { settings: self.settings, warnings: self.warnings, refusal: self.refusal }
    }
}

/// What `route-nopull` leaves out.
fn concerns_routes(name: &str) -> bool {
    matches!(
        name,
        "route"
            | "route-ipv6"
            | "route-metric"
            | "redirect-gateway"
            | "redirect-private"
            | "block-ipv6"
            | "dhcp-option"
            | "dns"
    )
}

/// The option's name for a sentence. Its arguments may be a token and are never shown.
fn first_word(option: &str) -> String {
    quoted(option.split_ascii_whitespace().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::agreed::PullFilter;
    use super::super::tests::profile;
    use super::super::tunnel::{Ipv4Setup, Redirect, Silence, Topology};
    use super::*;
    use proptest::prelude::*;

    fn push(profile: &ClientProfile, options: &[&str]) -> PushedSettings {
        read(profile, &options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_ordinary_reply_is_taken_as_a_whole() {
        let pushed = push(
            &profile(""),
            &[
                "redirect-gateway def1 bypass-dhcp",
                "dhcp-option DNS 10.8.0.1",
                "route-gateway 10.8.0.1",
                "topology subnet",
                "ping 10",
                "ping-restart 60",
                "ifconfig-ipv6 fd00::1000/64 fd00::1",
                "ifconfig 10.8.0.2 255.255.255.0",
                "route 192.168.0.0 255.255.0.0",
                "route-ipv6 fd01::/64",
                "peer-id 0",
                "auth-token SESS_ID_AT_secret",
                "cipher AES-256-GCM",
                "protocol-flags cc-exit tls-ekm dyn-tls-crypt",
                "tun-mtu 1420",
                "explicit-exit-notify 3",
                "ping-timer-rem",
                "sndbuf 393216",
                "inactive 300 1000",
                "session-timeout 600",
                "compress stub-v2",
            ],
        );
        assert_eq!(pushed.warnings, Vec::<String>::new());
        assert_eq!(pushed.refusal, None);
        let settings = pushed.settings;
        assert_eq!(settings.ipv4(), Ok(Some(Ipv4Setup::Subnet { address: "10.8.0.2".parse().unwrap(), prefix: 24 })));
        assert_eq!(settings.topology, Topology::Subnet);
        assert_eq!((settings.ping, settings.silence), (Some(10), Some(Silence::Restart(60))));
        assert_eq!((settings.routes.len(), settings.routes_ipv6.len()), (1, 1));
        assert_eq!((settings.tun_mtu, settings.explicit_exit_notify, settings.sndbuf), (1_420, Some(3), None));
        assert_eq!(settings.dns, ["dhcp-option DNS 10.8.0.1"]);
        assert_eq!(
            settings.redirect,
            Some(Redirect { default_route: true, def1: true, bypass_dhcp: true, ..Redirect::default() })
        );
    }

    #[test]
    fn pushed_options_are_laid_over_those_of_the_profile() {
        let profile = profile("route 10.1.0.0 255.255.0.0\nping 15\nsndbuf 1000\n");
        let pushed = push(&profile, &["route 10.2.0.0 255.255.0.0", "ping 5"]);
        assert_eq!(pushed.settings.routes.len(), 2);
        assert_eq!((pushed.settings.ping, pushed.settings.sndbuf), (Some(5), Some(1_000)));
        assert_eq!(pushed.settings.silence, Some(Silence::Restart(120)));
        assert_eq!(profile.settings.routes.len(), 1);
    }

    #[test]
    fn what_is_not_a_servers_business_is_left_out_with_a_warning() {
        let profile = profile("");
        for option in [
            "up /bin/sh",
            "script-security 2",
            "remote evil 1",
            "tls-cipher x",
            "plugin x",
            "user root",
            "mssfix 100",
            "config x",
            "log /etc/passwd",
            "zzzzzzz",
            "route",
            "route x",
            "ifconfig 10.0.0.1",
            "topology ring",
            "tun-mtu 99",
            "tun-mtu x",
            "ping -1",
            "client-nat snat a b c",
            "shaper 1",
            "route \"10.0.0.0",
            "route-gateway x",
            "inactive x",
            "sndbuf 999999999999",
            "rcvbuf x",
            "verb x",
            "mute x",
            "route-ipv6-gateway x",
            "block-ipv6",
            "float",
            "log-append x",
            "<ca>",
        ] {
            let pushed = push(&profile, &[option]);
            assert_eq!(pushed.warnings.len(), 1, "{option}");
            assert_eq!(pushed.settings, profile.settings, "{option}");
            assert_eq!(pushed.refusal, None, "{option}");
        }
        assert_eq!(
            push(&profile, &["", "  ", "# x", "echo hello world", "verb 11", "block-outside-dns"]).warnings,
            Vec::<String>::new()
        );
    }

    #[test]
    fn compression_framing_ends_the_session() {
        for option in ["comp-lzo no", "comp-lzo", "compress", "compress stub", "compress lz4-v2", "compress lzo"] {
            assert!(push(&profile(""), &[option]).refusal.is_some(), "{option}");
        }
        assert_eq!(push(&profile(""), &["compress stub-v2"]).refusal, None);
    }

    #[test]
    fn an_mtu_above_the_limit_is_the_limit() {
        let pushed = push(&profile(""), &["tun-mtu 9000"]);
        assert_eq!((pushed.settings.tun_mtu, pushed.warnings.len()), (MAX_PUSHED_MTU, 1));
        let pushed = push(&profile(""), &["tun-mtu 1600"]);
        assert_eq!((pushed.settings.tun_mtu, pushed.warnings.len()), (MAX_PUSHED_MTU, 0));
        assert_eq!(push(&profile(""), &["tun-mtu 100"]).settings.tun_mtu, 100);
    }

    #[test]
    fn the_first_pull_filter_that_matches_decides() {
        let mut profile = profile("");
        let filter = |action, prefix: &str| PullFilter { action, prefix: prefix.to_owned() };
        profile.pull_filters = vec![
            filter(FilterAction::Accept, "route 10.1."),
            filter(FilterAction::Ignore, "route "),
            filter(FilterAction::Reject, "route-ipv6"),
        ];
        let pushed =
            push(&profile, &["route 10.1.0.0 255.255.0.0", "route 10.2.0.0 255.255.0.0", "route-gateway 10.8.0.1"]);
        assert_eq!((pushed.settings.routes.len(), pushed.refusal), (1, None));
        assert!(pushed.settings.route_gateway.is_some());
        assert!(push(&profile, &["route-ipv6 fd00::/8"]).refusal.is_some());
    }

    #[test]
    fn spelling_does_not_hide_an_option_from_a_filter() {
        let mut profile = profile("");
        profile.pull_filters = vec![
            PullFilter { action: FilterAction::Ignore, prefix: "redirect-gateway".to_owned() },
            PullFilter { action: FilterAction::Ignore, prefix: "route 10.".to_owned() },
        ];
        for option in [
            "redirect-gateway def1",
            "\"redirect-gateway\" def1",
            "'redirect-gateway' def1",
            "  redirect-gateway",
            "route \t 10.0.0.0 255.0.0.0",
            "route \"10.0.0.0\" 255.0.0.0",
        ] {
            let settings = push(&profile, &[option]).settings;
            assert_eq!((settings.redirect, settings.routes.len()), (None, 0), "{option}");
        }
        assert_eq!(push(&profile, &["route \"11.0.0.0\" 255.0.0.0"]).settings.routes.len(), 1);
    }

    #[test]
    fn a_network_that_would_take_half_the_internet_is_no_tunnel() {
        let address = |mask: &str| {
            push(&profile(""), &["topology subnet", &format!("ifconfig 200.0.0.1 {mask}")]).settings.ipv4()
        };
        assert!(address("255.0.0.0").is_ok());
        for mask in ["254.0.0.0", "128.0.0.0", "0.0.0.0"] {
            assert!(address(mask).is_err(), "{mask}");
        }
        let ipv6 = |bits: u8| {
            push(&profile(""), &[&format!("ifconfig-ipv6 2001:db8::2/{bits} 2001:db8::1")]).settings.ifconfig_ipv6
        };
        assert!(ipv6(32).is_some() && ipv6(128).is_some());
        assert!(ipv6(31).is_none() && ipv6(3).is_none() && ipv6(0).is_none());
    }

    #[test]
    fn route_nopull_leaves_out_routes_and_name_servers_only() {
        let profile = profile("route-nopull\n");
        let options = [
            "route 10.1.0.0",
            "route-ipv6 fd00::/8",
            "redirect-gateway",
            "dhcp-option DNS 1.1.1.1",
            "block-ipv6",
            "ping 3",
            "ifconfig 10.8.0.6 10.8.0.5",
        ];
        let pushed = push(&profile, &options);
        assert_eq!(pushed.warnings, Vec::<String>::new());
        let settings = pushed.settings;
        assert!(settings.routes.is_empty() && settings.routes_ipv6.is_empty() && settings.redirect.is_none());
        assert!(settings.dns.is_empty());
        assert!(settings.ping == Some(3) && settings.ifconfig.is_some());
    }

    #[test]
    fn an_address_that_does_not_fit_the_topology_is_no_address() {
        let subnet = ["topology subnet", "ifconfig 10.8.0.6 10.8.0.5"];
        assert!(push(&profile(""), &subnet).settings.ipv4().is_err());
        assert!(push(&profile(""), &subnet[1..]).settings.ipv4().is_ok());
    }

    #[test]
    fn what_is_pushed_without_effect_is_said_where_it_matters() {
        let pushed = push(&profile("sndbuf 1000\n"), &["block-ipv6", "sndbuf 2000", "rcvbuf 2000", "verb 3"]);
        assert_eq!(
            pushed.warnings,
            [
                "pushed option \"block-ipv6\" is not taken: IPv6 is not blocked; only what is routed there enters the tunnel"
            ]
        );
        assert_eq!((pushed.settings.sndbuf, pushed.settings.rcvbuf), (Some(1_000), None));
    }

    #[test]
    fn warnings_are_bounded_and_never_show_arguments() {
        let options: Vec<String> =
            (0..1_000).map(|n| format!("zzz{n} hunter2")).chain(["auth-token hunter2 x".to_owned()]).collect();
        let pushed = read(&profile(""), &options);
        assert_eq!(pushed.warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(pushed.warnings.last().unwrap(), "and 969 more");
        let pushed = push(&profile(""), &["auth-token hunter2 x", "auth-token \"hunter2"]);
        assert!(pushed.warnings.iter().all(|warning| !warning.contains("hunter2")), "{:?}", pushed.warnings);
    }

    proptest! {
        #[test]
        fn no_option_makes_the_reader_panic(options in proptest::collection::vec("(?s).{0,60}", 0..8)) {
            read(&profile(""), &options);
        }

        #[test]
        fn no_likely_option_makes_the_reader_panic(options in proptest::collection::vec(
            "(route|ifconfig|ifconfig-ipv6|route-ipv6|tun-mtu|ping|inactive|topology|dns|redirect-gateway)( ([0-9]{1,12}|10.8.0.1|255.0.255.0|fd00::/[0-9]{1,3}|subnet|default|-1|\")){0,4}", 0..8)) {
            let pushed = read(&profile(""), &options);
            prop_assert!((MIN_MTU..=MAX_PUSHED_MTU).contains(&pushed.settings.tun_mtu));
        }
    }
}
