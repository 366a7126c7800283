//! Directives without effect that take a value: a wrong value is an error all the same, because its author meant something by it.

use super::values::{self, Trouble};

/// The only device node there is for TUN (the kernel's Documentation/networking/tuntap.rst).
const TUN_NODE: &str = "/dev/net/tun";

/// Looks at the value of a directive that has no effect. `Some` says why this value should have had one.
///
/// # Errors
/// What is wrong with the value.
pub(super) fn check(name: &str, args: &[String]) -> Result<Option<&'static str>, Trouble> {
    match (name, args) {
        ("resolv-retry", [after]) if after != "infinite" => {
            values::seconds(after)?;
        }
        ("connect-retry", pauses) => {
            for pause in pauses {
                values::number32(pause, 1..=86_400, "seconds")?;
            }
        }
        ("route-ipv6-gateway", [gateway]) => {
            values::ipv6(gateway)?;
        }
        ("verb", [level]) => {
            values::number(level, 0..=15, "")?;
        }
        ("mute", [count]) => {
            values::number32(count, 0..=u32::MAX, "messages")?;
        }
        ("dev-node", [node]) if node != TUN_NODE => return Ok(Some("only /dev/net/tun is used")),
        _ => {}
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(line: &str) -> Result<Option<&'static str>, Trouble> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        check(&words[0], &words[1..])
    }

    #[test]
    fn a_value_without_effect_still_has_a_form() {
        for good in [
            "resolv-retry infinite",
            "resolv-retry 0",
            "connect-retry 5",
            "connect-retry 5 300",
            "route-ipv6-gateway fd00::1",
            "verb 0",
            "verb 15",
            "mute 0",
            "dev-node /dev/net/tun",
            "persist-key",
        ] {
            assert_eq!(look(good), Ok(None), "{good}");
        }
        for wrong in [
            "resolv-retry forever",
            "resolv-retry -1",
            "connect-retry 0",
            "connect-retry 5 x",
            "connect-retry 5 86401",
            "route-ipv6-gateway 10.8.0.1",
            "verb 16",
            "verb high",
            "mute -1",
        ] {
            assert!(look(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_device_node_is_not_passed_over_in_silence() {
        assert_eq!(look("dev-node /dev/tun"), Ok(Some("only /dev/net/tun is used")));
    }
}
