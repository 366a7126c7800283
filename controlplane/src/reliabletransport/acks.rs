//! Which of the peer's message ids we owe an acknowledgement for, and which we acknowledged lately.
//! Acknowledgements can be lost, so recent ones are repeated wherever a packet has room for them.

use crate::ids::MessageId;
use crate::packet::control::AckList;

/// The most ids that OpenVPN 2.x puts into a control packet with a message.
pub const MAX_IN_CONTROL: usize = 4;
/// The most ids that OpenVPN 2.x puts into ACK_V1.
pub const MAX_IN_ACK: usize = 8;

/// Ids owed, at most eight, and the last eight distinct ids acknowledged, newest first.
#[derive(Debug, Clone, Default)]
pub struct AckState {
    pending: AckList,
    recent: AckList,
    held: bool,
}

impl AckState {
    /// Nothing owed.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: AckList::new(), recent: AckList::new(), held: false }
    }

    /// Owes an acknowledgement for `id`. Owing it twice changes nothing. When eight are owed already the
    /// id is forgotten: the peer will send it again.
    pub fn owe(&mut self, id: MessageId) {
        if !self.pending.as_slice().contains(&id) {
            let _full = !self.pending.push(id);
        }
    }

    /// Takes note that `id` was acknowledged in a packet that was not made here, so that it is repeated.
    pub fn note_sent(&mut self, id: MessageId) {
        self.remember(&[id]);
    }

    /// While held, no packet carries acknowledgements, neither new nor repeated ones, and nothing counts as
    /// pending. What is owed meanwhile is kept.
    pub const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether acknowledgements are held back.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// Whether an ACK_V1 must be sent if no other packet goes out.
    #[must_use]
    pub const fn has_pending(&self) -> bool {
        !self.held && !self.pending.is_empty()
    }

    /// The array of a packet with a message: at most [`MAX_IN_CONTROL`] ids.
    #[must_use]
    pub fn take_for_control(&mut self) -> AckList {
        self.take(MAX_IN_CONTROL)
    }

    /// The array of an ACK_V1: at most [`MAX_IN_ACK`] ids.
    #[must_use]
    pub fn take_for_ack(&mut self) -> AckList {
        self.take(MAX_IN_ACK)
    }

    /// An array of at most `max` ids: those owed, in the order in which they came, then recent ones to fill
    /// it. The ids taken are no longer owed.
    #[must_use]
    pub fn take(&mut self, max: usize) -> AckList {
        if self.held {
            return AckList::new();
        }
        let pending = self.pending;
        let (now, later) = pending.as_slice().split_at(max.min(pending.len()));
        self.remember(now);
        self.pending = AckList::from_slice(later).unwrap_or_default();
        let mut list = AckList::new();
        for id in self.recent.iter().take(max) {
            let _full = !list.push(id);
        }
        list
    }

    /// Puts `ids`, in their order, in front of the recent ones; what is then beyond eight is forgotten.
    fn remember(&mut self, ids: &[MessageId]) {
        let mut recent = AckList::new();
        for id in ids.iter().copied().chain(self.recent.iter()) {
            if !recent.as_slice().contains(&id) && !recent.push(id) {
                break;
            }
        }
        self.recent = recent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &AckList) -> Vec<u32> {
        list.iter().map(|id| id.0).collect()
    }

    fn recent_after(state: &mut AckState, sent: &[u32]) -> Vec<u32> {
        let sent: Vec<_> = sent.iter().map(|&id| MessageId(id)).collect();
        state.remember(&sent);
        ids(&state.recent)
    }

    fn owing(owed: impl IntoIterator<Item = u32>) -> AckState {
        let mut state = AckState::new();
        owed.into_iter().for_each(|id| state.owe(MessageId(id)));
        state
    }

    /// The table of OpenVPN's own unit test.
    #[test]
    fn the_recent_ids_are_the_last_eight_distinct_ones_newest_first() {
        let mut state = AckState::new();
        assert_eq!(recent_after(&mut state, &[2, 1, 3, 2]), [2, 1, 3]);
        let mut other = state.clone();
        let eight = [5, 6, 7, 8, 9, 10, 11, 2];
        assert_eq!(recent_after(&mut state, &[5, 6, 7, 8, 9, 10, 11]), eight);
        assert_eq!(recent_after(&mut state, &[11]), [11, 5, 6, 7, 8, 9, 10, 2]);

        [3, 2, 42].into_iter().for_each(|id| other.owe(MessageId(id)));
        assert_eq!(ids(&other.take(2)), [3, 2]);
        assert_eq!(ids(&other.recent), [3, 2, 1]);
        assert_eq!(ids(&other.pending), [42]);
    }

    #[test]
    fn a_control_packet_has_at_most_four_ids_and_an_ack_packet_eight() {
        let mut state = owing(0..8);
        assert_eq!(ids(&state.clone().take_for_ack()), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ids(&state.take_for_control()), [0, 1, 2, 3]);
        assert!(state.has_pending());
        assert_eq!(ids(&state.take_for_control()), [4, 5, 6, 7]);
        assert!(!state.has_pending());
    }

    #[test]
    fn older_acknowledgements_fill_the_room_behind_fresh_ones() {
        let mut state = owing([0]);
        assert_eq!(ids(&state.take_for_control()), [0]);
        assert_eq!(ids(&state.take_for_control()), [0], "repeated while nothing new is owed");
        state.owe(MessageId(1));
        state.owe(MessageId(2));
        assert_eq!(ids(&state.take_for_control()), [1, 2, 0]);
        [3, 4, 5].into_iter().for_each(|id| state.owe(MessageId(id)));
        assert_eq!(ids(&state.take_for_control()), [3, 4, 5, 1]);
        assert_eq!(ids(&state.take_for_ack()), [3, 4, 5, 1, 2, 0]);
    }

    #[test]
    fn a_ninth_owed_id_is_left_to_the_peer_s_retransmission() {
        let mut state = owing(0..9);
        assert_eq!(ids(&state.take_for_ack()), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(!state.has_pending());
        state.owe(MessageId(8));
        assert_eq!(ids(&state.take(1)), [8]);
    }

    #[test]
    fn an_id_is_owed_once_however_often_it_came() {
        let mut state = owing([1, 1, 2, 1]);
        assert_eq!(ids(&state.pending), [1, 2]);
        assert_eq!(ids(&state.take_for_ack()), [1, 2]);
    }

    #[test]
    fn while_held_no_packet_carries_acknowledgements_and_none_is_lost() {
        let mut state = owing([0]);
        assert_eq!(ids(&state.take_for_control()), [0]);
        state.owe(MessageId(1));
        state.hold(true);
        state.owe(MessageId(2));
        assert!(state.is_held());
        assert!(!state.has_pending());
        assert!(state.take_for_control().is_empty());
        assert!(state.take_for_ack().is_empty());
        state.hold(false);
        assert!(state.has_pending());
        assert_eq!(ids(&state.take_for_ack()), [1, 2, 0]);
    }
}
