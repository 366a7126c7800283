//! Whether the name servers in the tunnel answer at all. One name without an answer says nothing about them; a name without an answer
//! while no server said a word about any name does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::rarely::Rarely;

/// What is heard of the name servers of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Voice {
    /// Datagrams and connections of theirs so far.
    words: AtomicU64,
    silent: AtomicBool,
    /// The log says that they are silent.
    told: AtomicBool,
    rarely: Rarely,
}

impl Voice {
    /// A name server said something.
    pub(super) fn is_heard(&self) {
        self.words.fetch_add(1, Ordering::Relaxed);
        if self.silent.swap(false, Ordering::Relaxed) && self.told.swap(false, Ordering::Relaxed) {
            tracing::info!("the name servers in the tunnel answer again");
        }
    }

    /// To be given to [`is_missed`](Self::is_missed).
    pub(super) fn words(&self) -> u64 {
        self.words.load(Ordering::Relaxed)
    }

    /// A question that was asked when there were so many [`words`](Self::words) got no answer.
    pub(super) fn is_missed(&self, before: u64) {
        if self.words() == before && !self.silent.swap(true, Ordering::Relaxed) && self.rarely.may() {
            self.told.store(true, Ordering::Relaxed);
            tracing::warn!(
                "no name server in the tunnel answers: names cannot be reached, addresses can; --dns names other servers"
            );
        }
    }

    /// The last question got no answer, and nothing was heard since.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_is_who_answered_nobody_while_somebody_asked() {
        let voice = Voice::default();
        assert!(!voice.is_silent());
        let before = voice.words();
        voice.is_heard();
        voice.is_missed(before);
        assert!(!voice.is_silent(), "another name was answered meanwhile");
        voice.is_missed(voice.words());
        assert!(voice.is_silent());
        voice.is_heard();
        assert!(!voice.is_silent());
    }
}
