//! Timers that have names: a point in time for each, or none. What is due comes out one by one, in the order of the names.

use std::collections::BTreeMap;

use controlplane::Instant;

/// The names of somebody's timers. Of several that are due the smallest comes first.
pub(crate) trait Timer: Copy + Ord + 'static {
    /// Those that belong to a session and end with it.
    const OF_SESSION: &'static [Self];
}

/// What is to happen when.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    set: BTreeMap<T, Instant>,
}

impl<T> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { set: BTreeMap::new() }
    }
}

impl<T: Timer> Timers<T> {
    /// It goes off then, and not when it was to before; `None` stops it.
    pub(crate) fn set(&mut self, timer: T, at: impl Into<Option<Instant>>) {
        match at.into() {
            Some(at) => _ = self.set.insert(timer, at),
            None => self.stop(timer),
        }
    }

    /// It does not go off.
    pub(crate) fn stop(&mut self, timer: T) {
        self.set.remove(&timer);
    }

    /// When it goes off; `None` when it is not set.
    pub(crate) fn at(&self, timer: T) -> Option<Instant> {
        self.set.get(&timer).copied()
    }

    /// Whether it will go off.
    pub(crate) fn is_set(&self, timer: T) -> bool {
        self.set.contains_key(&timer)
    }

    /// When the first of them goes off.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.set.values().copied().min()
    }

    /// One that is due. It is off then.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<T> {
        let (&timer, _) = self.set.iter().find(|(_, at)| **at <= now)?;
        self.set.remove(&timer);
        Some(timer)
    }

    /// Stops those that belong to a session.
    pub(crate) fn forget_session(&mut self) {
        T::OF_SESSION.iter().for_each(|timer| self.stop(*timer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Due {
        Goodbye,
        Attempt,
        Answer,
    }

    impl Timer for Due {
        const OF_SESSION: &'static [Due] = &[Due::Answer];
    }

    #[test]
    fn what_is_due_comes_once_and_the_more_important_first() {
        let mut timers = Timers::default();
        timers.set(Due::Answer, Instant(1));
        timers.set(Due::Goodbye, Instant(3));
        timers.set(Due::Attempt, Instant(4));
        assert_eq!((timers.next(), timers.take_due(Instant(0))), (Some(Instant(1)), None));
        assert_eq!(timers.take_due(Instant(3)), Some(Due::Goodbye));
        assert_eq!(timers.take_due(Instant(3)), Some(Due::Answer));
        assert_eq!(timers.take_due(Instant(3)), None);
        assert_eq!((timers.next(), timers.is_set(Due::Answer)), (Some(Instant(4)), false));
    }

    #[test]
    fn a_timer_is_set_anew_stopped_or_ends_with_its_session() {
        let mut timers = Timers::default();
        timers.set(Due::Attempt, Instant(1));
        timers.set(Due::Attempt, Instant(5));
        assert_eq!((timers.at(Due::Attempt), timers.take_due(Instant(4))), (Some(Instant(5)), None));
        timers.set(Due::Answer, Instant(2));
        timers.forget_session();
        assert!(timers.is_set(Due::Attempt) && !timers.is_set(Due::Answer));
        timers.set(Due::Attempt, None);
        assert_eq!(timers.next(), None);
    }
}
