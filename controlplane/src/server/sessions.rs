//! The sessions of a server and the ways to find them: by generation, by peer, by address and session id, by deadline. Every
//! way costs O(log n) and no turn walks over all of them. The maps are ordered ones: their keys are chosen by strangers,
//! who can make no two of them collide, and a seed replays the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::peer_ids::PeerIds;
use crate::ids::SessionId;
use crate::session::{Session, Settings, Standing};
use crate::setup::Path;
use crate::timers::{Instant, TimerReason};

/// Where a peer is: its transport address, and on TCP its connection.
pub(super) type Place = (SocketAddr, Option<u32>);

/// The place of a path.
pub(super) fn place(path: &Path) -> Place {
    (path.remote, path.stream)
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    entries: BTreeMap<u32, Box<Entry>>,
    by_peer: BTreeMap<u32, u32>,
    by_name: BTreeMap<(Place, SessionId), u32>,
    by_place: BTreeMap<Place, Occupants>,
    /// How many sessions have this id of the client's, wherever they are.
    sids: BTreeMap<SessionId, u32>,
    timers: BTreeMap<(Instant, u32), TimerReason>,
    /// In the order of their age.
    half_open: BTreeSet<u32>,
    peer_ids: PeerIds,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    since: Instant,
    /// As last seen; `None` before it was looked at.
    standing: Option<Standing>,
    wake: Option<Instant>,
}

/// Who is at a place: at most one session that is still beginning, and one that carries data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Occupants {
    beginning: Option<u32>,
    settled: Option<u32>,
}

/// What [`Sessions::refresh`] found.
#[derive(Debug)]
pub(super) struct Refreshed {
    /// It carries data from now on.
    pub(super) has_settled: bool,
    /// The session whose place it took.
    pub(super) displaced: Option<u32>,
    /// It has ended and is no longer here.
    pub(super) ended: Option<Box<Session>>,
}

impl Sessions {
    pub(super) fn new() -> Sessions {
        Sessions {
            entries: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_place: BTreeMap::new(),
            sids: BTreeMap::new(),
            timers: BTreeMap::new(),
            half_open: BTreeSet::new(),
            peer_ids: PeerIds::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many have not shown who they are.
    pub(super) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// The oldest of those, and since when it is here.
    pub(super) fn oldest_half_open(&self) -> Option<(u32, Instant)> {
        let generation = *self.half_open.first()?;
        self.entries.get(&generation).map(|entry| (generation, entry.since))
    }

    pub(super) fn get(&self, generation: u32) -> Option<&Session> {
        self.entries.get(&generation).map(|entry| &entry.session)
    }

    /// Call [`Sessions::refresh`] afterwards.
    pub(super) fn get_mut(&mut self, generation: u32) -> Option<&mut Session> {
        self.entries.get_mut(&generation).map(|entry| &mut entry.session)
    }

    pub(super) fn of_peer(&self, peer: u32) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// The session of the client with this id at this place.
    pub(super) fn find(&self, place: Place, sid: SessionId) -> Option<u32> {
        self.by_name.get(&(place, sid)).copied()
    }

    /// Whether a client with this session id is here, wherever it is.
    pub(super) fn knows(&self, sid: SessionId) -> bool {
        self.sids.contains_key(&sid)
    }

    /// The session at this place that carries data.
    pub(super) fn settled_at(&self, place: Place) -> Option<u32> {
        self.by_place.get(&place).and_then(|o| o.settled)
    }

    /// The next deadline.
    pub(super) fn wake(&self) -> Option<(Instant, TimerReason)> {
        self.timers.first_key_value().map(|((at, _), reason)| (*at, *reason))
    }

    /// The sessions whose deadline has come, the earliest first, and no more than this.
    pub(super) fn due(&self, now: Instant, most: usize) -> Vec<u32> {
        self.timers.range(..=(now, u32::MAX)).take(most).map(|((_, generation), _)| *generation).collect()
    }

    /// The lowest free handle.
    pub(super) fn take_peer(&mut self) -> Option<u32> {
        self.peer_ids.take_lowest()
    }

    /// This handle, if it is free.
    pub(super) fn take_this_peer(&mut self, peer: u32) -> bool {
        self.peer_ids.take(peer)
    }

    /// A handle that was taken and is not used after all.
    pub(super) fn give_peer_back(&mut self, peer: u32) {
        self.peer_ids.give_back(peer);
    }

    /// Takes in a session whose generation and handle are new. Call [`Sessions::refresh`] afterwards.
    pub(super) fn insert(&mut self, session: Session, now: Instant) {
        let generation = session.generation;
        self.by_peer.insert(session.peer(), generation);
        if let Some(sid) = session.remote_sid() {
            self.by_name.insert((place(&session.path), sid), generation);
            let count = self.sids.entry(sid).or_default();
            *count = count.saturating_add(1);
        }
        let entry = Entry { session, since: now, standing: None, wake: None };
        self.entries.insert(generation, Box::new(entry));
    }

    /// The peer of a session is somewhere else from now on.
    pub(super) fn move_to(&mut self, generation: u32, path: Path) {
        let Some(entry) = self.entries.get_mut(&generation) else {
            return;
        };
        let from = place(&std::mem::replace(&mut entry.session.path, path));
        let to = place(&path);
        if let Some(sid) = entry.session.remote_sid() {
            self.forget_name((from, sid), generation);
            self.by_name.insert((to, sid), generation);
        }
        self.leave(from, generation);
        self.by_place.entry(to).or_default().settled = Some(generation);
    }

    /// After every call into a session: its deadline, its standing, and what follows from it.
    pub(super) fn refresh(&mut self, generation: u32, settings: &Settings) -> Option<Refreshed> {
        let entry = self.entries.get_mut(&generation)?;
        let wake = entry.session.wake(settings);
        if let Some(before) = entry.wake.take() {
            self.timers.remove(&(before, generation));
        }
        if let Some((at, reason)) = wake {
            entry.wake = Some(at);
            self.timers.insert((at, generation), reason);
        }
        let (was, is) = (entry.standing, entry.session.standing());
        entry.standing = Some(is);
        let mut refreshed = Refreshed { has_settled: false, displaced: None, ended: None };
        if was == Some(is) {
            return Some(refreshed);
        }
        let at = place(&entry.session.path);
        self.leave(at, generation);
        self.half_open.remove(&generation);
        match is {
            Standing::HalfOpen => {
                self.half_open.insert(generation);
                refreshed.displaced = self.by_place.entry(at).or_default().beginning.replace(generation);
            }
            Standing::Proven => self.by_place.entry(at).or_default().beginning = Some(generation),
            Standing::Settled => {
                refreshed.has_settled = true;
                refreshed.displaced = self.by_place.entry(at).or_default().settled.replace(generation);
            }
            Standing::Leaving => {}
            Standing::Ended => refreshed.ended = self.remove(generation),
        }
        Some(refreshed)
    }

    /// It no longer counts as somebody at this place.
    fn leave(&mut self, place: Place, generation: u32) {
        let Some(occupants) = self.by_place.get_mut(&place) else {
            return;
        };
        for occupant in [&mut occupants.beginning, &mut occupants.settled] {
            if *occupant == Some(generation) {
                *occupant = None;
            }
        }
        if *occupants == Occupants::default() {
            self.by_place.remove(&place);
        }
    }

    fn forget_name(&mut self, name: (Place, SessionId), generation: u32) {
        // A session that moved here may have taken the name over.
        if self.by_name.get(&name) == Some(&generation) {
            self.by_name.remove(&name);
        }
    }

    fn remove(&mut self, generation: u32) -> Option<Box<Session>> {
        let entry = self.entries.remove(&generation)?;
        let session = entry.session;
        if let Some(wake) = entry.wake {
            self.timers.remove(&(wake, generation));
        }
        if let Some(sid) = session.remote_sid() {
            self.forget_name((place(&session.path), sid), generation);
            let count = self.sids.get_mut(&sid).map_or(0, |count| {
                *count = count.saturating_sub(1);
                *count
            });
            if count == 0 {
                self.sids.remove(&sid);
            }
        }
        self.by_peer.remove(&session.peer());
        self.peer_ids.give_back(session.peer());
        Some(Box::new(session))
    }
}

#[cfg(test)]
impl Sessions {
    /// Every index holds exactly what the sessions say.
    pub(super) fn assert_consistent(&self) {
        let live = self.entries.len();
        assert_eq!(self.by_peer.len(), live);
        assert_eq!(self.by_name.len(), live);
        assert_eq!(self.sids.values().sum::<u32>() as usize, live);
        assert_eq!(self.timers.len(), self.entries.values().filter(|e| e.wake.is_some()).count());
        assert!(self.half_open.iter().all(|g| self.entries.contains_key(g)));
        for occupants in self.by_place.values() {
            assert!([occupants.beginning, occupants.settled].iter().flatten().all(|g| self.entries.contains_key(g)));
        }
    }
}
