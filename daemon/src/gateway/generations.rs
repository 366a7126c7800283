//! Which generations of sessions a control process may use. It gives the numbers itself, from one on that it was told, and what it says of
//! others is not believed: a number near the end, once it was believed, would leave none for its successors. Pure.

/// One control process opens fewer sessions than this; one that would open more is replaced, which costs nobody anything.
const EACH: u32 = 1 << 24;

/// Of the present control process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generations {
    first: u32,
    newest: u32,
}

/// What a generation that was never told of before is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A session of this control process.
    New,
    /// One of a predecessor's, which is over.
    Over,
    /// One that this control process cannot have come to.
    Forged,
}

impl Generations {
    /// Of the first control process.
    pub(super) fn new() -> Generations {
        Generations { first: 1, newest: 0 }
    }

    /// Where the present control process began.
    pub(super) fn first(self) -> u32 {
        self.first
    }

    /// The next control process begins above all that workers may have heard of.
    pub(super) fn succeed(&mut self) {
        self.first = self.newest.saturating_add(1);
    }

    /// Judges the generation of a session that nobody has heard of.
    pub(super) fn judge(&mut self, generation: u32) -> Verdict {
        if generation < self.first {
            return Verdict::Over;
        }
        if generation - self.first >= EACH {
            return Verdict::Forged;
        }
        self.newest = self.newest.max(generation);
        Verdict::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_begins_above_everything_that_was_told() {
        let mut all = Generations::new();
        assert_eq!(all.first(), 1);
        assert_eq!([3, 1, 7, 2].map(|n| all.judge(n)), [Verdict::New; 4]);
        all.succeed();
        assert_eq!(all.first(), 8);
        assert_eq!((all.judge(7), all.judge(8)), (Verdict::Over, Verdict::New));
        all.succeed();
        all.succeed();
        assert_eq!(all.first(), 9, "one that told of none leaves it as it was");
    }

    #[test]
    fn a_forged_number_leaves_enough_for_the_successors() {
        let mut all = Generations::new();
        assert_eq!(all.judge(u32::MAX), Verdict::Forged);
        assert_eq!(all.judge(EACH + 1), Verdict::Forged);
        assert_eq!(all.judge(EACH), Verdict::New);
        assert_eq!(all.judge(EACH + 1), Verdict::Forged, "not step by step either");
        all.succeed();
        assert_eq!(all.first(), EACH + 1);
        assert_eq!(all.judge(EACH + 1), Verdict::New);
        assert_eq!(all.judge(0), Verdict::Over);
    }
}
