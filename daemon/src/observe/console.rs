//! Standard output of `connect`: one line per state, by the names of OpenVPN's management interface, and on a terminal
//! a live line with rates and totals.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::log::Format;
use super::statistics::Lost;

/// State lines that are remembered so as not to be repeated.
const REMEMBERED: usize = 64;

/// What wrappers of OpenVPN look for, verbatim.
pub const COMPLETED: &str = "Initialization Sequence Completed";

/// A state of the client, by the names of OpenVPN's management interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Looking up the remote's name.
    Resolve,
    /// A reset was sent; no answer yet.
    Wait,
    /// The server answered: TLS and key exchange.
    Auth,
    /// The server makes up its mind (`AUTH_PENDING`).
    AuthPending,
    /// Waiting for the pushed settings.
    GetConfig,
    /// Giving the TUN device its addresses.
    AssignIp,
    /// Adding routes.
    AddRoutes,
    /// Traffic flows.
    Connected,
    /// Starting over.
    Reconnecting,
    /// Leaving.
    Exiting,
}

impl State {
    /// The management interface's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Resolve => "RESOLVE",
            State::Wait => "WAIT",
            State::Auth => "AUTH",
            State::AuthPending => "AUTH_PENDING",
            State::GetConfig => "GET_CONFIG",
            State::AssignIp => "ASSIGN_IP",
            State::AddRoutes => "ADD_ROUTES",
            State::Connected => "CONNECTED",
            State::Reconnecting => "RECONNECTING",
            State::Exiting => "EXITING",
        }
    }
}

/// Bytes carried inside the tunnel so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// From the server to the TUN device.
    pub received: u64,
    /// From the TUN device to the server.
    pub sent: u64,
}

/// Standard output.
#[derive(Debug)]
pub struct Console {
    format: Format,
    quiet: bool,
    live: bool,
    live_line_shown: bool,
    said: Vec<String>,
    last: Option<(Duration, Totals)>,
}

impl Console {
    /// `quiet` prints nothing; the live line appears only on a terminal and in text format.
    pub fn new(format: Format, quiet: bool) -> Console {
        let live = !quiet && format == Format::Text && std::io::stdout().is_terminal();
        Console { format, quiet, live, live_line_shown: false, said: Vec::new(), last: None }
    }

    /// How it prints.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Prints a state with a few words on it. While one attempt follows the other (a server is down), each line is
    /// printed once; a connection, or the loss of one, begins anew.
    pub fn state(&mut self, state: State, detail: &str) {
        if matches!(state, State::Connected | State::Reconnecting | State::Exiting) {
            self.said.clear();
        }
        let said = format!("{} {detail}", state.name());
        if self.said.contains(&said) {
            return;
        }
        if self.said.len() < REMEMBERED {
            self.said.push(said);
        }
        let line = match self.format {
            Format::Text if detail.is_empty() => state.name().to_owned(),
            Format::Text => format!("{} {}", state.name(), printable(detail)),
            Format::Json => serde_json::json!({ "state": state.name(), "detail": detail }).to_string(),
        };
        self.line(&line);
    }

    /// Prints [`COMPLETED`].
    pub fn completed(&mut self) {
        let line = match self.format {
            Format::Text => COMPLETED.to_owned(),
            Format::Json => serde_json::json!({ "message": COMPLETED }).to_string(),
        };
        self.line(&line);
    }

    /// Redraws the live line; `now` is any steady clock. What the kernel dropped is shown when there is some.
    pub fn live(&mut self, now: Duration, totals: Totals, lost: Lost) {
        let Some((then, before)) = self.last.replace((now, totals)) else { return };
        if !self.live {
            return;
        }
        let seconds = now.saturating_sub(then).as_secs_f64().max(0.001);
        let rate = |new: u64, old: u64| bits(new.saturating_sub(old) as f64 * 8.0 / seconds);
        let line = format!(
            "\r\x1b[K↓ {} ↑ {}   total ↓ {} ↑ {}{}",
            rate(totals.received, before.received),
            rate(totals.sent, before.sent),
            bytes(totals.received),
            bytes(totals.sent),
            dropped(lost)
        );
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        self.live_line_shown = true;
    }

    /// True when a live line is wanted at all.
    pub fn wants_live(&self) -> bool {
        self.live
    }

    fn line(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        let mut out = std::io::stdout().lock();
        if std::mem::take(&mut self.live_line_shown) {
            let _ = out.write_all(b"\r\x1b[K");
        }
        // A closed standard output must not end the tunnel.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.live_line_shown {
            crate::outln!();
        }
    }
}

/// Words that may have come from afar, without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn dropped(lost: Lost) -> String {
    let counts = [("the TUN", lost.tun), ("the socket", lost.socket)];
    let list: Vec<String> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(place, count)| format!("{count} at {place}")).collect();
    if list.is_empty() { String::new() } else { format!("   dropped {}", list.join(", ")) }
}

/// `1.25 Gb/s`: decimal, three significant digits.
pub fn bits(per_second: f64) -> String {
    scaled(per_second, &["b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"])
}

/// `1.25 GB`: decimal, three significant digits.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "kB", "MB", "GB", "TB", "PB"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units.get(unit).copied().unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (1_250_000_000, "1.25 GB"),
        ];
        for (count, text) in table {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bits(9_870_000_000.0), "9.87 Gb/s");
    }

    #[test]
    fn drops_are_shown_when_there_are_some() {
        assert_eq!(dropped(Lost::default()), "");
        assert_eq!(dropped(Lost { tun: 3, socket: 0 }), "   dropped 3 at the TUN");
        assert_eq!(dropped(Lost { tun: 3, socket: 4 }), "   dropped 3 at the TUN, 4 at the socket");
    }

    #[test]
    fn words_from_afar_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b]0;b\x07c\u{9b}2J\r\nd é"), "a]0;bc2Jd é");
    }

    #[test]
    fn states_carry_the_management_names() {
        assert_eq!(State::GetConfig.name(), "GET_CONFIG");
        assert_eq!(State::AddRoutes.name(), "ADD_ROUTES");
    }
}
