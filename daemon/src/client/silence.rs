//! A server that does not answer: what was sent to it, what came and was ignored, and what that may mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use controlplane::Wrap;
use controlplane::packet::Opcode;
use controlplane::trace::{Record, What};

use super::endings::{self, Failure};

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Silence {
    resets: u32,
    /// Packets that came and were ignored, by reason.
    ignored: BTreeMap<&'static str, u64>,
}

impl Silence {
    /// Something happened.
    pub(crate) fn note(&mut self, record: &Record) {
        match &record.what {
            What::Out(packet) if packet.opcode.is_some_and(Opcode::is_hard_reset) => {
                self.resets = self.resets.saturating_add(1);
            }
            What::Dropped(_, reason) => {
                let count = self.ignored.entry(reason.as_str()).or_default();
                *count = count.saturating_add(1);
            }
            What::Stage | What::In(_) | What::Out(_) => {}
        }
    }

    /// Resets that were sent.
    pub(crate) fn resets(&self) -> u32 {
        self.resets
    }

    /// All of it in one line: who, how often, what came instead, and what to look at.
    pub(crate) fn sentence(&self, from: SocketAddr, wrap: &Wrap) -> String {
        format!("{}{}: {}", Failure::Silence(from), self.words(), endings::silence(wrap))
    }

    /// What follows "no answer from somebody".
    pub(crate) fn words(&self) -> String {
        let mut words = match self.resets {
            0 => String::new(),
            1 => " to 1 reset".to_owned(),
            resets => format!(" to {resets} resets"),
        };
        words.push_str(&self.ignored_words());
        words
    }

    /// What came and was ignored; empty when nothing did.
    pub(crate) fn ignored_words(&self) -> String {
        let all = self.ignored.values().fold(0u64, |sum, count| sum.saturating_add(*count));
        let mut words = String::new();
        for (reason, count) in &self.ignored {
            let before = if words.is_empty() { "" } else { ", " };
            let _ = write!(words, "{before}{reason} {count}");
        }
        match all {
            0 => words,
            1 => format!("; 1 packet came and was ignored ({words})"),
            all => format!("; {all} packets came and were ignored ({words})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use controlplane::error::DropReason;
    use controlplane::trace::{Packet, Stage};
    use controlplane::{Instant, Secret};

    use super::*;

    fn record(what: What) -> Record {
        Record { at: Instant(0), generation: 1, stage: Stage::PreStart, what }
    }

    fn of(opcode: Opcode) -> Packet {
        Packet { opcode: Some(opcode), ..Packet::default() }
    }

    #[test]
    fn resets_and_what_was_ignored_are_counted_and_nothing_else_is() {
        let mut silence = Silence::default();
        assert_eq!(silence.words(), "");
        silence.note(&record(What::Out(of(Opcode::HardResetClientV2))));
        assert_eq!(silence.words(), " to 1 reset");
        silence.note(&record(What::Out(of(Opcode::HardResetClientV2))));
        silence.note(&record(What::Out(of(Opcode::AckV1))));
        silence.note(&record(What::In(of(Opcode::HardResetServerV2))));
        silence.note(&record(What::Stage));
        assert_eq!((silence.words(), silence.resets()), (" to 2 resets".to_owned(), 2));
        silence.note(&record(What::Dropped(of(Opcode::HardResetServerV2), DropReason::BadTag)));
        assert!(silence.words().starts_with(" to 2 resets; 1 packet came and was ignored (bad"), "{}", silence.words());
        silence.note(&record(What::Dropped(Packet::default(), DropReason::Empty)));
        assert!(silence.ignored_words().starts_with("; 2 packets came and were ignored ("));
    }

    #[test]
    fn the_sentence_says_who_how_often_and_what_to_look_at() {
        let mut silence = Silence::default();
        (0..5).for_each(|_| silence.note(&record(What::Out(of(Opcode::HardResetClientV2)))));
        let sentence = silence.sentence(([192, 0, 2, 1], 1194).into(), &Wrap::TlsCrypt { key: Secret(vec![]) });
        assert!(sentence.starts_with("no answer from 192.0.2.1:1194 to 5 resets: check the address"), "{sentence}");
        assert!(sentence.contains("tls-crypt key") && sentence.contains("UDP"), "{sentence}");
    }
}
