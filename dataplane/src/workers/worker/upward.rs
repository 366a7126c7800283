//! What the pipeline wants to tell, on its way to the rings and to the supervisor.

use std::rc::Rc;
use std::sync::Arc;

use link::message::{Datagram, MAX_DATAGRAM, Path, WorkerEvent};
use link::{LinkError, WorkerEnd};

use crate::drop_reason::DropReason;
use crate::pipeline::{PeerReport, Up};
use crate::workers::halves::{OpeningThread, Said};
use crate::workers::manager::{Report, WorkerReport};
use crate::workers::stats::WorkerStats;

/// What the pipeline wants to tell, on its way to the rings and to the supervisor.
pub(super) struct Upward {
    pub(super) link: Option<WorkerEnd>,
    /// What a thread that seals has instead of a link.
    pub(super) back: Option<OpeningThread>,
    pub(super) failed: Option<LinkError>,
    /// Peers that floated, for the thread that seals.
    pub(super) moved: Vec<(u32, Path)>,
    /// A peer proved a newer key, for the thread that seals.
    pub(super) proven: bool,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) report: Rc<Report>,
}

impl Up for Upward {
    fn control(&mut self, path: Path, bytes: &[u8], known: bool) {
        if bytes.len() > MAX_DATAGRAM {
            return self.stats.drop_many(DropReason::ControlTooLong, 1);
        }
        // Without a control process this is loss on the wire, which its protocol expects.
        let taken = self.link.as_mut().is_some_and(|link| link.send_datagram(known, &Datagram { path, bytes }));
        if !taken {
            self.stats.drop_many(DropReason::ControlRingFull, 1);
        }
    }

    fn event(&mut self, event: WorkerEvent) {
        if self.back.is_some() {
            return self.say(Said::Event(event));
        }
        if let WorkerEvent::Floated { peer, path } = event {
            self.moved.push((peer, path));
        }
        if let Some(link) = self.link.as_mut()
            && let Err(error) = link.send_event(&event)
        {
            self.failed = Some(error);
        }
    }

    fn report(&mut self, report: PeerReport) {
        (self.report)(WorkerReport::Peer(report));
    }

    fn proven(&mut self) {
        self.proven = true;
    }
}

impl Upward {
    /// On a thread that seals.
    pub(super) fn say(&self, said: Said) {
        if let Some(back) = &self.back {
            back.say(said);
        }
    }
}
