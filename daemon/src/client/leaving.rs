//! Leaving: the server is told, the host is put back as it was.

use std::time::Duration;

use dataplane::workers::manager::WorkerOrder;

use super::run::{Client, Due, PEER, Phase, Session};
use super::tunnel::Tunnel;
use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::messages::ToControl;
use crate::observe::console::State;

/// The goodbye over the control channel is waited for so long.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);
/// More than so many lose nothing but time.
pub(crate) const MOST_GOODBYES: u32 = 5;
/// The worker sends what it was ordered within this time.
const WORKER_SENDS: Duration = Duration::from_millis(50);

impl Client {
    /// Tells the server, then ends with 0. Ends at once when there is nobody to tell.
    pub(super) fn leave(&mut self) {
        self.console.state(State::Exiting, "");
        self.timers.stop(Due::Attempt);
        match &self.session {
            Some(session) if matches!(session.phase, Phase::Up(_)) => {
                // `explicit-exit-notify n`: in the data channel a goodbye is not acknowledged, so it may be said n times.
                let pushed = self.tunnel.as_ref().and_then(Tunnel::explicit_exit_notify);
                self.goodbyes = pushed.or(session.remote.explicit_exit_notify).unwrap_or(1).min(MOST_GOODBYES);
                self.timers.set(Due::Goodbye, clock::now().at + GOODBYE);
                self.control.send(&ToControl::Disconnect { generation: session.generation });
            }
            _ => self.end(Ok(())),
        }
    }

    /// `session-timeout` and `inactive` end a connection as a signal does.
    pub(super) fn leave_because(&mut self, why: &str) {
        tracing::info!("{why}: the time is over");
        self.leave();
    }

    /// The control process has said goodbye, or could not (`exit_sent` false): then the worker says it.
    pub(super) fn on_left(&mut self, exit_sent: bool) {
        if exit_sent { self.end(Ok(())) } else { self.say_goodbye_by_worker() }
    }

    /// OCC exit in the data channel: for servers without `cc-exit`, or when the control process cannot say it.
    pub(super) fn say_goodbye_by_worker(&mut self) {
        self.timers.stop(Due::Goodbye);
        for _ in 0..self.goodbyes.max(1) {
            self.order(WorkerOrder::OccExit { peer: PEER });
        }
        self.end(Ok(()));
    }

    /// A peer that was silent for too long.
    pub(super) fn on_silence(&mut self, quiet: Duration) {
        let exits = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.exits_on_silence());
        if exits {
            let sentence = format!("ping-exit: the server was silent for {} s", quiet.as_secs());
            return self.end(Err(Fatal::new(Exit::Unreachable, sentence)));
        }
        if let Some(Session { phase: Phase::Up(since), .. }) = &self.session {
            let now = clock::now().at;
            self.flapping.lost(now, now.since(*since));
        }
        self.start_over(&format!("ping-restart: the server was silent for {} s", quiet.as_secs()));
    }

    /// `inactive n [bytes]`: fewer bytes than that within n seconds end the connection.
    pub(super) fn look_at_activity(&mut self) {
        let totals = self.totals();
        let Some(tunnel) = &mut self.tunnel else { return };
        match tunnel.next_activity_check(totals.received.saturating_add(totals.sent)) {
            Some(pause) => self.timers.set(Due::Inactive, clock::now().at + pause),
            None => self.leave_because("inactive"),
        }
    }

    /// Puts the host back as it was and stops the worker.
    pub(super) async fn take_down(&mut self) {
        // What was ordered last (a goodbye) leaves before the socket is closed.
        tokio::time::sleep(WORKER_SENDS).await;
        if self.had_success {
            // Of the whole run.
            self.statistics = None;
            self.log_statistics().await;
        }
        self.losses.release();
        if let Some(tunnel) = self.tunnel.take() {
            self.order(WorkerOrder::DetachTun);
            tunnel.take_down(&mut self.host).await;
        }
        self.order(WorkerOrder::Stop);
    }
}
