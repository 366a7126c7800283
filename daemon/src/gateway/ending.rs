//! Endings: of one session, by itself or by us; of the gateway, whose clients are told and whose host is put back as it was.

use std::rc::Rc;
use std::time::Duration;

use controlplane::Ending;
use dataplane::workers::manager::WorkerOrder;

use super::admission::session_facts;
use super::lines::Kind;
use super::run::Gateway;
use super::scripts::{Learned, Traffic};
use super::sessions::{Session, Stage};
use crate::clock;
use crate::messages::ToControl;
use crate::observe::notify;

/// Clients have so long to be told that the gateway stops.
const GOODBYE: Duration = Duration::from_secs(2);
/// Scripts of sessions that are over have so long to end.
const FAREWELLS: Duration = Duration::from_secs(2);
/// Workers send what they were ordered within this time.
const WORKERS_SEND: Duration = Duration::from_millis(50);

impl Gateway {
    /// A session ended, as the control process says.
    pub(super) fn on_ended(&mut self, generation: u32, ending: Ending) {
        // One that we ended ourselves is not in the book any more.
        let why = match ending {
            Ending::PeerExited => "it left".to_owned(),
            Ending::Replaced => "it came back with a new session".to_owned(),
            Ending::AuthFailed { reason, .. } => format!("refused: {reason}"),
            Ending::HandshakeTimeout { awaiting } => format!("no {awaiting} came in time"),
            Ending::Tls(why) | Ending::Incompatible(why) | Ending::Internal(why) => why,
            Ending::Disconnected { .. } => "it was told to go".to_owned(),
            other => format!("{other:?}"),
        };
        if self.sessions.get(generation).is_some() {
            self.drop_session(generation, &why);
        } else {
            tracing::debug!("a session that never logged in, or was ended before, is over: {why}");
        }
    }

    /// A worker says that a peer is gone.
    pub(super) fn on_peer_gone(&mut self, peer: u32, why: &str) {
        if let Some(generation) = self.sessions.of_peer(peer) {
            self.close(generation, why);
        }
    }

    /// Ends a session at once. The client is told nothing.
    pub(super) fn close(&mut self, generation: u32, why: &str) {
        self.control.send(&ToControl::Close { generation });
        self.drop_session(generation, why);
    }

    /// Ends a session at once: its traffic stops. The client is told `text` over the control channel, if it listens.
    pub(super) fn dismiss(&mut self, generation: u32, text: &str, why: &str) {
        self.control.send(&ToControl::Dismiss { generation, text: text.to_owned() });
        self.drop_session(generation, why);
    }

    /// Strikes a session out that is over for the control process, or was never known to it.
    pub(super) fn drop_session(&mut self, generation: u32, why: &str) {
        if let Some(session) = self.drop_quietly(generation)
            && self.lines.permit(Kind::Gone, clock::now().at)
        {
            tracing::info!("{} is gone: {why}", session.who());
        }
    }

    pub(super) fn drop_quietly(&mut self, generation: u32) -> Option<Rc<Session>> {
        let mut session = self.sessions.remove(generation)?;
        session.judge = None;
        if session.has_peer() {
            self.workers.order_for(session.peer, WorkerOrder::RemovePeer { peer: session.peer });
            self.publication.want();
        }
        if let Some(lease) = session.lease {
            self.pool.release(lease);
        }
        self.held.retain(
            |admission| !matches!(admission, ToControl::Admit { generation: other, .. } if *other == generation),
        );
        let session = Rc::new(session);
        if session.announced {
            self.bid_farewell(Rc::clone(&session));
        }
        Some(session)
    }

    /// client-disconnect and learn-address hear of the end.
    fn bid_farewell(&mut self, session: Rc<Session>) {
        let passwords = Rc::clone(&self.passwords);
        let traffic = traffic_of(&session);
        let turn = self.turns.of(&session.name);
        self.farewells.spawn_local(async move {
            let _turn = turn.lock().await;
            let scripts = &passwords.scripts;
            if session.has_peer() {
                scripts.client_disconnect(&session_facts(&session), traffic).await;
            }
            let own = session.addresses.all().map(|address| (address, None));
            let behind = session.own.iroutes.iter().map(|(network, prefix)| (*network, Some(*prefix)));
            for address in own.chain(behind) {
                if let Err(sentence) = scripts.learn_address(Learned::Delete, address, None).await {
                    tracing::warn!("{sentence}");
                }
            }
        });
        // Those that have ended are forgotten here, so that they never pile up.
        while self.farewells.try_join_next().is_some() {}
    }

    /// Tells the clients that the gateway stops (`explicit-exit-notify`), then ends with 0. Ends at once when nobody is to be
    /// told.
    pub(super) fn leave(&mut self) {
        self.stopping = true;
        self.resuming.clear();
        notify::stopping("telling the clients");
        // 1: come back here; 2: try the next server (the flag of RESTART).
        let text = match self.profile.explicit_exit_notify {
            None | Some(0) => None,
            Some(2) => Some("RESTART,[N]"),
            Some(_) => Some("RESTART"),
        };
        let up: Vec<u32> = self
            .sessions
            .iter()
            .filter(|session| session.stage == Stage::Up)
            .map(|session| session.generation)
            .collect();
        match text {
            Some(text) if !up.is_empty() => {
                tracing::info!("stopping: {} clients are told", up.len());
                for generation in up {
                    self.control.send(&ToControl::Dismiss { generation, text: text.to_owned() });
                }
                self.answer_no_more_resets();
                self.timers.goodbye = Some(clock::now().at + GOODBYE);
            }
            _ => self.end(Ok(())),
        }
    }

    /// Whoever comes back now goes on asking until the successor answers. Once it has begun to negotiate it would wait for us
    /// until its hand-window ends.
    fn answer_no_more_resets(&mut self) {
        let mut setup = super::parts::server_setup(&self.profile, &self.cookie_secret, self.workers.count(), 1);
        setup.replies.count = 0;
        self.control.send(&ToControl::ReloadGateway(Box::new(setup)));
    }

    /// Ends every session, puts the host back as it was and stops the workers.
    pub(super) async fn take_down(&mut self) {
        notify::stopping("undoing host changes");
        for generation in self.sessions.generations() {
            self.drop_quietly(generation);
        }
        // What was ordered last leaves before the sockets are closed.
        tokio::time::sleep(WORKERS_SEND).await;
        self.log_statistics().await;
        self.store_leases();
        self.write_status();
        let farewells = async { while self.farewells.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELLS, farewells).await.is_err() {
            tracing::warn!("scripts of the last sessions did not end in time");
        }
        self.socket = None;
        self.workers.order_all(|| WorkerOrder::DetachTun);
        if let Some(raised) = self.raised.take() {
            for failure in raised.applied.undo(&self.host, &mut self.journal).await {
                tracing::warn!("while undoing: {failure}");
            }
        }
        self.workers.order_all(|| WorkerOrder::Stop);
    }
}

/// What a session carried.
pub(super) fn traffic_of(session: &Session) -> Traffic {
    let seconds = clock::now().unix.saturating_sub(session.since);
    let counters = &session.counters;
    Traffic { bytes_received: counters.bytes_in(), bytes_sent: counters.bytes_out(), seconds }
}
