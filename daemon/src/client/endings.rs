//! What each way a session can end means to a client: try again, when and where, or end with which exit code and which
//! sentence.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use controlplane::{Advance, Ending, Wrap};

use super::credentials::Offer;
use crate::config::agreed::AuthRetry;
use crate::exit::{Exit, Fatal};

/// A server's wish for patience is honoured up to here.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The process ends.
    Fatal(Fatal),
    /// Nobody answered: the next address, at once.
    NextAddress,
    /// Something answered and it failed: again after the backoff, and not before `at_least`.
    Again {
        /// For people.
        why: String,
        /// What the server asked for.
        at_least: Duration,
        /// Where.
        place: Place,
    },
    /// The session token was refused: with the password, at once.
    WithPassword,
    /// The password was refused and somebody may be asked: then again.
    AskPassword(String),
    /// We left, as asked.
    Left {
        /// EXIT went over the control channel; otherwise OCC exit is due.
        exit_sent: bool,
    },
}

/// Where the next attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nobody says: a server that served us is met again, any other is passed over for now.
    Usual,
    /// The same remote, at fresh addresses.
    Same,
    /// The next address of the same remote; after its last one, the next remote.
    NextAddress,
    /// The next remote.
    NextRemote,
}

impl From<Advance> for Place {
    fn from(advance: Advance) -> Place {
        match advance {
            Advance::Same => Place::Same,
            Advance::Address => Place::NextAddress,
            Advance::Remote => Place::NextRemote,
        }
    }
}

/// Judges an ending. `offer` is what the session logs in with; `was_up` says whether it carried traffic.
pub(crate) fn judge(ending: Ending, auth_retry: AuthRetry, offer: Offer, was_up: bool) -> Verdict {
    let again = |why: String| Verdict::Again { why, at_least: Duration::ZERO, place: Place::Usual };
    match ending {
        // A server that is busy has not looked at the token: it stays good.
        Ending::AuthFailed { reason, retry_after: Some(seconds), advance, .. } => Verdict::Again {
            why: format!("the server refuses us for now: {reason}"),
            at_least: Duration::from_secs(u64::from(seconds)).min(LONGEST_PAUSE),
            place: advance.into(),
        },
        Ending::AuthFailed { .. } if offer == Offer::Token => Verdict::WithPassword,
        Ending::AuthFailed { reason, .. } => refused(&reason, auth_retry, offer),
        Ending::Tls(sentence) => Verdict::Fatal(Fatal::new(Exit::Tls, sentence)),
        Ending::Incompatible(sentence) => Verdict::Fatal(Fatal::new(Exit::Config, sentence)),
        Ending::Unanswered if was_up => again("the server does not answer any more".into()),
        Ending::Unanswered => Verdict::NextAddress,
        // TLS 1.3 is complete here before the server has looked at our certificate, and OpenVPN says nothing when it refuses it.
        Ending::HandshakeTimeout { awaiting } if awaiting.contains("key message") => again(format!(
            "the server fell silent once it had our certificate ({awaiting} did not come in time): most likely it refuses it (revoked, \
             expired, or of another CA). Ask the server's operator for a new profile"
        )),
        Ending::HandshakeTimeout { awaiting } => again(format!(
            "the server answered, but {awaiting} did not come in time: it may refuse our certificate, or the path drops large packets"
        )),
        Ending::Restart { message, next_remote } => {
            let place = if next_remote { Place::NextRemote } else { Place::Usual };
            Verdict::Again {
                why: format!("the server asks us to reconnect {message}").trim_end().to_owned(),
                at_least: Duration::ZERO,
                place,
            }
        }
        Ending::Halt(message) => {
            Verdict::Fatal(Fatal::new(Exit::Other, format!("the server told us to stop: {message}")))
        }
        Ending::PeerExited => again("the server has left".into()),
        Ending::Disconnected { exit_sent } => Verdict::Left { exit_sent },
        // Said by gateways only.
        Ending::Replaced => again("another session has taken its place".into()),
        Ending::Internal(why) => again(why),
    }
}

fn refused(reason: &str, auth_retry: AuthRetry, offer: Offer) -> Verdict {
    let words = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    match auth_retry {
        // Whatever else it was given: a new password helps nobody.
        AuthRetry::None if reason.to_ascii_lowercase().contains("revoked") => Verdict::Fatal(Fatal::new(
            Exit::Auth,
            format!(
                "AUTH_FAILED: the server refused us{words}: the certificate of this profile is not accepted any more. Ask the \
                 server's operator for a new profile"
            ),
        )),
        AuthRetry::None if offer == Offer::Nothing => Verdict::Fatal(Fatal::new(
            Exit::Auth,
            format!(
                "AUTH_FAILED: the server refused us{words}. The profile gives a certificate and no password: either the \
                 server does not accept this certificate (any more), and a new profile is needed, or it wants \
                 `auth-user-pass`"
            ),
        )),
        AuthRetry::None => Verdict::Fatal(Fatal::new(
            Exit::Auth,
            format!(
                "AUTH_FAILED: the server refused our user name or password{words}. Check both: what was typed, or what \
                 `auth-user-pass` of the profile gives"
            ),
        )),
        AuthRetry::NoInteract => {
            Verdict::Again { why: format!("AUTH_FAILED{words}"), at_least: Duration::from_secs(10), place: Place::Same }
        }
        AuthRetry::Interact => Verdict::AskPassword(format!("AUTH_FAILED{words}")),
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// ICMP: nothing listens on the port.
    Refused(SocketAddr),
    /// No packet can be sent there.
    NoWay(SocketAddr, String),
    /// The name has no address.
    Unresolved(String),
    /// Nothing came back.
    Silence(SocketAddr),
    /// Something came back, and then this.
    Answered(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(address) => write!(f, "{address} refuses our packets: nothing listens on that UDP port"),
            Failure::NoWay(address, why) => write!(f, "{address} cannot be reached: {why}"),
            Failure::Unresolved(why) | Failure::Answered(why) => f.write_str(why),
            Failure::Silence(address) => write!(f, "no answer from {address}"),
        }
    }
}

/// The sentence of exit code 4: nobody let us in. A server drops what it cannot verify without an answer, so silence has
/// several causes, and then all are named.
pub(crate) fn unreachable(tried: &[String], last: Option<&Failure>, wrap: &Wrap) -> Fatal {
    let advice = match last {
        Some(Failure::Refused(_)) => "check the port, and whether the server runs and speaks UDP".to_owned(),
        Some(Failure::NoWay(..)) => "check the address and this host's routes".to_owned(),
        Some(Failure::Unresolved(_)) => "check the name and this host's name servers".to_owned(),
        Some(Failure::Answered(_)) => "look at the server's log".to_owned(),
        Some(Failure::Silence(_)) | None => silence(wrap),
    };
    let last = last.map_or_else(|| "nothing was tried".to_owned(), Failure::to_string);
    let others = if tried.len() > 1 { format!(" (tried {})", tried.join(", ")) } else { String::new() };
    Fatal::new(Exit::Unreachable, format!("no server let us in: {last}{others}: {advice}"))
}

/// What to look at where nobody answers.
pub(crate) fn silence(wrap: &Wrap) -> String {
    let key = match wrap {
        Wrap::None => "the server may want a tls-auth or tls-crypt key that the profile does not have",
        Wrap::TlsAuth { .. } => "the tls-auth key, its key-direction or `auth` may differ from the server's",
        Wrap::TlsCrypt { .. } => "the tls-crypt key may differ from the server's",
    };
    format!("check the address and the port, and that UDP gets there; {key}; or the server refuses our certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(reason: &str, retry_after: Option<u32>, session_token: bool) -> Ending {
        Ending::AuthFailed { reason: reason.into(), retry_after, session_token, advance: Advance::Same }
    }

    #[test]
    fn a_wrong_password_ends_with_three_unless_told_to_try_again() {
        let Verdict::Fatal(fatal) = judge(auth("no", None, false), AuthRetry::None, Offer::Password, false) else {
            panic!()
        };
        assert_eq!(fatal.exit, Exit::Auth);
        assert!(matches!(
            judge(auth("", None, false), AuthRetry::NoInteract, Offer::Password, false),
            Verdict::Again { .. }
        ));
        assert!(matches!(
            judge(auth("", None, false), AuthRetry::Interact, Offer::Password, false),
            Verdict::AskPassword(_)
        ));
    }

    #[test]
    fn only_who_gave_a_password_is_told_to_check_it() {
        let sentence = |offer| match judge(auth("not today", None, false), AuthRetry::None, offer, true) {
            Verdict::Fatal(fatal) if fatal.exit == Exit::Auth => fatal.sentence,
            other => panic!("{other:?}"),
        };
        let (with, without) = (sentence(Offer::Password), sentence(Offer::Nothing));
        assert!(with.contains("our user name or password (not today)"), "{with}");
        assert!(without.contains("refused us (not today)") && without.contains("certificate and no password"));
        assert!(!without.contains("user name"), "{without}");
    }

    #[test]
    fn a_server_that_falls_silent_at_our_certificate_most_likely_refuses_it() {
        let why = |awaiting: &str| {
            let ending = Ending::HandshakeTimeout { awaiting: awaiting.into() };
            match judge(ending, AuthRetry::None, Offer::Nothing, false) {
                Verdict::Again { why, .. } => why,
                other => panic!("{other:?}"),
            }
        };
        let silent = why("the peer's key message");
        assert!(silent.contains("revoked") && silent.contains("new profile"), "{silent}");
        assert!(!why("PUSH_REPLY").contains("revoked"));
    }

    #[test]
    fn who_is_revoked_is_told_to_get_a_new_profile() {
        for offer in [Offer::Nothing, Offer::Password] {
            match judge(auth("certificate revoked", None, false), AuthRetry::None, offer, true) {
                Verdict::Fatal(fatal) => {
                    assert_eq!(fatal.exit, Exit::Auth);
                    assert!(fatal.sentence.contains("(certificate revoked)") && fatal.sentence.contains("new profile"));
                    assert!(!fatal.sentence.contains("password"), "{fatal}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_refused_token_is_followed_by_the_password() {
        assert_eq!(judge(auth("", None, true), AuthRetry::None, Offer::Token, true), Verdict::WithPassword);
        assert_eq!(judge(auth("", None, false), AuthRetry::None, Offer::Token, true), Verdict::WithPassword);
    }

    #[test]
    fn a_server_that_refuses_a_token_we_do_not_have_refuses_the_password() {
        let Verdict::Fatal(fatal) = judge(auth("", None, true), AuthRetry::None, Offer::Password, true) else {
            panic!()
        };
        assert_eq!(fatal.exit, Exit::Auth);
    }

    #[test]
    fn a_temporary_refusal_waits_as_long_as_the_server_says() {
        let Verdict::Again { at_least, .. } =
            judge(auth("busy", Some(42), false), AuthRetry::None, Offer::Password, false)
        else {
            panic!()
        };
        assert_eq!(at_least, Duration::from_secs(42));
        let Verdict::Again { at_least, .. } =
            judge(auth("", Some(u32::MAX), false), AuthRetry::None, Offer::Password, false)
        else {
            panic!()
        };
        assert_eq!(at_least, LONGEST_PAUSE);
    }

    #[test]
    fn a_temporary_refusal_keeps_the_token() {
        for (session_token, offer, seconds) in
            [(false, Offer::Token, 42), (true, Offer::Token, 0), (true, Offer::Password, 7)]
        {
            let verdict = judge(auth("busy", Some(seconds), session_token), AuthRetry::None, offer, true);
            let Verdict::Again { at_least, place, .. } = verdict else { panic!("{verdict:?}") };
            assert_eq!((at_least, place), (Duration::from_secs(u64::from(seconds)), Place::Same));
        }
    }

    #[test]
    fn a_temporary_refusal_says_where_to_try_again() {
        let places = [
            (Advance::Same, Place::Same),
            (Advance::Address, Place::NextAddress),
            (Advance::Remote, Place::NextRemote),
        ];
        for (advance, expected) in places {
            let ending =
                Ending::AuthFailed { reason: "busy".into(), retry_after: Some(1), session_token: false, advance };
            let Verdict::Again { place, .. } = judge(ending, AuthRetry::None, Offer::Password, false) else { panic!() };
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn a_restart_moves_on_only_when_it_says_so() {
        for (next_remote, expected) in [(false, Place::Usual), (true, Place::NextRemote)] {
            let ending = Ending::Restart { message: String::new(), next_remote };
            let Verdict::Again { place, .. } = judge(ending, AuthRetry::None, Offer::Password, true) else { panic!() };
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn tls_failures_are_five_and_disagreements_two() {
        for (ending, exit) in [(Ending::Tls("x".into()), Exit::Tls), (Ending::Incompatible("x".into()), Exit::Config)] {
            let Verdict::Fatal(fatal) = judge(ending, AuthRetry::None, Offer::Password, true) else { panic!() };
            assert_eq!(fatal.exit, exit);
        }
    }

    #[test]
    fn silence_names_every_candidate() {
        let silence = Failure::Silence(([192, 0, 2, 1], 1194).into());
        let fatal = unreachable(&[], Some(&silence), &Wrap::TlsCrypt { key: controlplane::Secret(vec![]) });
        assert_eq!(fatal.exit, Exit::Unreachable);
        for word in ["address", "port", "tls-crypt key", "certificate", "192.0.2.1:1194"] {
            assert!(fatal.sentence.contains(word), "{word}");
        }
    }

    #[test]
    fn a_closed_port_and_an_unknown_name_are_not_taken_for_silence() {
        let address = ([192, 0, 2, 1], 1194).into();
        let table = [
            (Failure::Refused(address), "nothing listens"),
            (Failure::NoWay(address, "no route".into()), "routes"),
            (Failure::Unresolved("no such name".into()), "name servers"),
        ];
        for (failure, word) in table {
            let fatal = unreachable(&[], Some(&failure), &Wrap::None);
            assert_eq!(fatal.exit, Exit::Unreachable);
            assert!(fatal.sentence.contains(word) && !fatal.sentence.contains("certificate"), "{}", fatal.sentence);
        }
    }
}
