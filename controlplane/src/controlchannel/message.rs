//! Control messages: NUL-terminated lines of text over TLS. Split, checked for unprintable characters, and parsed.

use crate::setup::{Advance, Ending};

/// The most bytes that may wait for their NUL.
pub const MAX_WAITING: usize = 64 * 1024;

/// The most characters of a peer's words that are handed on to people. Longer ones are cut.
pub const MAX_WORDS: usize = 512;
/// The longest pause in seconds that `AUTH_FAILED,TEMP[backoff n]` may ask for: a server that wants more is tried again
/// all the same, so that a wrong number does not silence a client for years.
pub const MAX_BACKOFF: u32 = 3_600;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `PUSH_REQUEST`
    PushRequest,
    /// `PUSH_REPLY`, with what follows that word.
    PushReply(String),
    /// `AUTH_FAILED` in one of its forms, as the ending that it causes.
    AuthFailed(Ending),
    /// `AUTH_PENDING`, with its timeout in seconds.
    AuthPending(Option<u32>),
    /// `RESTART`, as the ending that it causes.
    Restart(Ending),
    /// `HALT`, as the ending that it causes.
    Halt(Ending),
    /// `EXIT`
    Exit,
    /// `INFO` and `INFO_PRE`: text for people.
    Info(String),
    /// Anything else.
    Unknown(String),
}

impl Message {
    /// What kind of message it is, in lower case.
    pub const fn name(&self) -> &'static str {
        match self {
            Message::PushRequest => "push_request",
            Message::PushReply(_) => "push_reply",
            Message::AuthFailed(_) => "auth_failed",
            Message::AuthPending(_) => "auth_pending",
            Message::Restart(_) => "restart",
            Message::Halt(_) => "halt",
            Message::Exit => "exit",
            Message::Info(_) => "info",
            Message::Unknown(_) => "unknown_message",
        }
    }

    /// Understands a line without its NUL.
    pub fn parse(line: &str) -> Message {
        let (word, rest) = match line.split_once(',') {
            Some((word, rest)) => (word, Some(rest)),
            None => (line, None),
        };
        let text = || words(rest.unwrap_or_default());
        match word {
            "PUSH_REQUEST" => Message::PushRequest,
            "PUSH_REPLY" => Message::PushReply(rest.unwrap_or_default().to_owned()),
            "AUTH_FAILED" => Message::AuthFailed(auth_failed(rest.unwrap_or_default())),
            "AUTH_PENDING" => Message::AuthPending(pending_timeout(rest.unwrap_or_default())),
            "RESTART" => Message::Restart(restart(rest.unwrap_or_default())),
            "HALT" => Message::Halt(Ending::Halt(text())),
            "EXIT" => Message::Exit,
            "INFO" | "INFO_PRE" => Message::Info(text()),
            _ => Message::Unknown(words(line)),
        }
    }
}

/// A peer's words, cut at [`MAX_WORDS`] characters.
pub(crate) fn words(text: &str) -> String {
    text.chars().take(MAX_WORDS).collect()
}

/// Cuts a stream of plaintext into messages.
#[derive(Debug, Default)]
pub struct Lines {
    waiting: Vec<u8>,
}

impl Lines {
    /// Adds plaintext. Text that never ends is thrown away at [`MAX_WAITING`] bytes.
    pub fn extend(&mut self, plaintext: &[u8]) {
        if self.waiting.len().saturating_add(plaintext.len()) > MAX_WAITING {
            self.waiting.clear();
            return;
        }
        self.waiting.extend_from_slice(plaintext);
    }

    /// Gives back the memory that nothing waits in.
    pub fn rest(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// The next line that is complete, without its NUL and final CR and LF; `Some(Err)` when it has a character
    /// that cannot be printed.
    pub fn next_line(&mut self) -> Option<Result<String, Unprintable>> {
        let end = self.waiting.iter().position(|b| *b == 0)?;
        let line: Vec<u8> = self.waiting.drain(..=end).take(end).collect();
        let text = String::from_utf8(line).map_err(|_| Unprintable);
        Some(text.and_then(|text| {
            let text = text.trim_end_matches(['\r', '\n']);
            if text.chars().any(char::is_control) { Err(Unprintable) } else { Ok(text.to_owned()) }
        }))
    }
}

/// A line with characters that cannot be printed: it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprintable;

/// `AUTH_FAILED`, after its comma.
fn auth_failed(text: &str) -> Ending {
    let refused = |reason: &str, retry_after, session_token| Ending::AuthFailed {
        reason: words(reason),
        retry_after,
        session_token,
        advance: Advance::Same,
    };
    if text.starts_with("CRV1:") {
        return refused(
            "the server asks a challenge (second factor), which is not supported: ask the server's operator for a \
             login without it",
            None,
            false,
        );
    }
    if let Some(rest) = text.strip_prefix("SESSION") {
        let reason = rest.trim_start_matches([':', ' ']);
        return refused(if reason.is_empty() { "the session has expired" } else { reason }, None, true);
    }
    match text.strip_prefix("TEMP") {
        Some(rest) if rest.is_empty() || rest.starts_with(['[', ':']) => {
            let (flags, reason) = temp_parts(rest);
            Ending::AuthFailed {
                reason: words(reason),
                retry_after: Some(backoff(flags)),
                session_token: false,
                advance: advance(flags),
            }
        }
        _ => refused(text, None, false),
    }
}

/// Flags and message of `TEMP[flags]:message`.
fn temp_parts(rest: &str) -> (&str, &str) {
    match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((flags, message)) => (flags, message.trim_start_matches(':')),
        None => ("", rest.trim_start_matches(':')),
    }
}

fn backoff(flags: &str) -> u32 {
    let mut words = flags.split(',').filter_map(|f| f.trim().strip_prefix("backoff "));
    words.next().and_then(|n| n.trim().parse::<u32>().ok()).unwrap_or(0).min(MAX_BACKOFF)
}

/// The last one that is understood counts.
fn advance(flags: &str) -> Advance {
    flags
        .split(',')
        .filter_map(|f| match f.trim().strip_prefix("advance ")?.trim() {
            "no" => Some(Advance::Same),
            "addr" => Some(Advance::Address),
            "remote" => Some(Advance::Remote),
            _ => None,
        })
        .next_back()
        .unwrap_or_default()
}

fn pending_timeout(text: &str) -> Option<u32> {
    text.split(',').find_map(|word| word.trim().strip_prefix("timeout ")).and_then(|n| n.trim().parse().ok())
}

/// `RESTART`, after its comma: `[flags]message`, where N means the next remote.
fn restart(text: &str) -> Ending {
    let (flags, message) = match text.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((flags, message)) => (flags, message.trim_start_matches(':')),
        None => ("", text),
    };
    Ending::Restart { message: words(message), next_remote: flags.contains('N') }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<String, Unprintable>> {
        let mut l = Lines::default();
        l.extend(bytes);
        std::iter::from_fn(|| l.next_line()).collect()
    }

    #[test]
    fn lines_are_split_at_nul_and_unprintable_ones_are_refused() {
        let got = lines(b"valid control message\r\n\0\0Invalid\r\none\0valid one again\0");
        assert_eq!(
            got,
            [Ok("valid control message".into()), Ok(String::new()), Err(Unprintable), Ok("valid one again".into())]
        );
        assert_eq!(lines(b"tab\there\0"), [Err(Unprintable)]);
        assert_eq!(lines(b"\xff\xfe\0"), [Err(Unprintable)]);
        assert_eq!(lines("grün\0".as_bytes()), [Ok("grün".into())]);
    }

    #[test]
    fn a_line_in_pieces_is_waited_for_but_not_for_ever() {
        let mut l = Lines::default();
        l.extend(b"PUSH_");
        assert_eq!(l.next_line(), None);
        l.extend(b"REQUEST\0");
        assert_eq!(l.next_line(), Some(Ok("PUSH_REQUEST".into())));
        for _ in 0..100 {
            l.extend(&[b'x'; 1000]);
            assert!(l.waiting.len() <= MAX_WAITING);
        }
    }

    fn failed(reason: &str, retry_after: Option<u32>, session_token: bool) -> Message {
        Message::AuthFailed(Ending::AuthFailed {
            reason: reason.into(),
            retry_after,
            session_token,
            advance: Advance::Same,
        })
    }

    fn failed_for_now(reason: &str, seconds: u32, advance: Advance) -> Message {
        Message::AuthFailed(Ending::AuthFailed {
            reason: reason.into(),
            retry_after: Some(seconds),
            session_token: false,
            advance,
        })
    }

    #[test]
    fn the_forms_of_auth_failed_are_told_apart() {
        assert_eq!(Message::parse("AUTH_FAILED"), failed("", None, false));
        assert_eq!(Message::parse("AUTH_FAILED,go away"), failed("go away", None, false));
        assert_eq!(Message::parse("AUTH_FAILED,SESSION: token expired"), failed("token expired", None, true));
        assert_eq!(
            Message::parse("AUTH_FAILED,TEMP:There are no flags here [really not]"),
            failed_for_now("There are no flags here [really not]", 0, Advance::Same)
        );
        assert_eq!(Message::parse("AUTH_FAILED,TEMP[backoff 42,advance no]"), failed_for_now("", 42, Advance::Same));
        assert_eq!(
            Message::parse("AUTH_FAILED,TEMP[advance remote,backoff 77]:go round and round"),
            failed_for_now("go round and round", 77, Advance::Remote)
        );
        assert_eq!(Message::parse("AUTH_FAILED,TEMP[advance addr]:full"), failed_for_now("full", 0, Advance::Address));
        assert_eq!(Message::parse("AUTH_FAILED,TEMP[advance home,backoff 3]"), failed_for_now("", 3, Advance::Same));
        assert_eq!(
            Message::parse("AUTH_FAILED,TEMP:[advance remote]"),
            failed_for_now("[advance remote]", 0, Advance::Same)
        );
        assert_eq!(Message::parse("AUTH_FAILED,TEMPERED"), failed("TEMPERED", None, false));
        assert!(matches!(
            Message::parse("AUTH_FAILED,CRV1:R,E:x:YQ==:code"),
            Message::AuthFailed(Ending::AuthFailed { reason, .. }) if reason.contains("challenge")
        ));
    }

    #[test]
    fn a_pause_of_years_is_cut_to_an_hour() {
        assert_eq!(Message::parse("AUTH_FAILED,TEMP[backoff 4294967295]:x"), failed("x", Some(MAX_BACKOFF), false));
        assert_eq!(Message::parse("AUTH_FAILED,TEMP[backoff 3600]:x"), failed("x", Some(3_600), false));
    }

    #[test]
    fn words_for_people_are_cut_and_a_push_reply_is_not() {
        let long = "x".repeat(MAX_WORDS + 1);
        let cut = &long[1..];
        let restart = Ending::Restart { message: cut.into(), next_remote: false };
        for (word, expected) in [
            ("AUTH_FAILED", failed(cut, None, false)),
            ("HALT", Message::Halt(Ending::Halt(cut.into()))),
            ("RESTART", Message::Restart(restart)),
            ("INFO", Message::Info(cut.into())),
            ("PUSH_REPLY", Message::PushReply(long.clone())),
        ] {
            assert_eq!(Message::parse(&format!("{word},{long}")), expected);
        }
    }

    #[test]
    fn restart_says_whether_to_take_the_next_remote() {
        let restart =
            |message: &str, next_remote| Message::Restart(Ending::Restart { message: message.into(), next_remote });
        assert_eq!(Message::parse("RESTART"), restart("", false));
        assert_eq!(Message::parse("RESTART,[N]"), restart("", true));
        assert_eq!(Message::parse("RESTART,[P]:bye"), restart("bye", false));
        assert_eq!(Message::parse("RESTART,Now"), restart("Now", false));
    }

    #[test]
    fn the_other_messages_are_understood() {
        assert_eq!(Message::parse("PUSH_REQUEST"), Message::PushRequest);
        assert_eq!(Message::parse("PUSH_REPLY,ping 1,x"), Message::PushReply("ping 1,x".into()));
        assert_eq!(Message::parse("AUTH_PENDING"), Message::AuthPending(None));
        assert_eq!(Message::parse("AUTH_PENDING,timeout 90"), Message::AuthPending(Some(90)));
        assert_eq!(Message::parse("HALT,why"), Message::Halt(Ending::Halt("why".into())));
        assert_eq!(Message::parse("EXIT"), Message::Exit);
        assert_eq!(Message::parse("INFO_PRE,OPEN_URL:x"), Message::Info("OPEN_URL:x".into()));
        assert_eq!(Message::parse("PUSH_REPLYx"), Message::Unknown("PUSH_REPLYx".into()));
    }
}
