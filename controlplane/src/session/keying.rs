//! Keys of a session: renegotiation, handing keys to the worker, taking its answers, and the record from which
//! another process can go on. A key is used only where it surely is installed.

use std::time::Duration;

use super::{Context, NewestKey, Phase, Session, Slot};
use crate::crypto::Random;
use crate::ids::{KeyId, Role};
use crate::negotiation::Negotiation;
use crate::output::Event;
use crate::setup::{Ending, InstallKey, KeyName, KeyRefusal, ResumeRecord};

/// Wrap packet ids are reserved in the record in blocks of this many.
const WRAP_BLOCK: u32 = 128;
/// The longest pause before a failed renegotiation is tried again.
const AGAIN: Duration = Duration::from_secs(10);

impl Session {
    /// Begins a renegotiation, whether we want it or the peer: both ends send a SOFT_RESET of the next key-id.
    pub(super) fn start_renegotiation(&mut self, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Up) || self.next.is_some() {
            return;
        }
        // The peer forgets the key before the current one now: stop using it.
        if let Some(newest) = self.newest.as_mut().filter(|n| !n.sending) {
            newest.sending = true;
            ctx.out.event(Event::SendWith(newest.name));
        }
        let terms = ctx.settings.terms(&self.wrapper);
        let begun = Negotiation::begin(&terms, self.next_number, self.next_key_id, ctx.now.at);
        let (Ok(negotiation), Some(following)) = (begun, self.next_number.checked_add(1)) else {
            return self.end(ctx, Ending::Internal("no further key can be negotiated".into()));
        };
        self.next_number = following;
        self.next_key_id = self.next_key_id.next();
        self.next = Some(negotiation);
        self.renegotiating = true;
        self.last_begun = Some(ctx.now.at);
        self.deadlines.renegotiate = None;
        self.deadlines.again = None;
        self.deadlines.expire.get_or_insert(ctx.now.at + ctx.settings.tran_window);
    }

    /// The old key goes on; another attempt follows.
    pub(super) fn renegotiation_failed(&mut self, ctx: &mut Context<'_>, why: String) {
        self.flush(ctx); // an alert may be waiting
        let Some(failed) = self.next.take() else {
            return;
        };
        // A peer that never saw our reset still expects this key-id.
        if !failed.heard {
            self.next_key_id = failed.key_id;
        }
        self.renegotiating = false;
        self.installing = None;
        self.judging = None;
        self.token_to_tell = None;
        self.deadlines.again = Some(ctx.now.at + ctx.settings.hand_window.min(AGAIN));
        ctx.out.event(Event::RenegotiationFailed { generation: self.generation, why });
    }

    /// The timers of a session that is up.
    pub(super) fn expire_keys(&mut self, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Up) {
            return;
        }
        let now = ctx.now.at;
        let due = |at: Option<crate::timers::Instant>| at.is_some_and(|at| at <= now);
        if due(self.deadlines.resume) {
            return self.end(ctx, Ending::Unanswered);
        }
        if due(self.deadlines.expire) {
            let awaiting = "a new key before the old one expired".into();
            return self.end(ctx, Ending::HandshakeTimeout { awaiting });
        }
        match &self.next {
            Some(next) if next.begun + ctx.settings.hand_window <= now => {
                let awaited = if self.judging.is_some() { "the answer to its login" } else { next.awaiting() };
                let why = format!("it did not complete within hand-window; awaited {awaited}");
                self.renegotiation_failed(ctx, why);
            }
            None if due(self.deadlines.renegotiate) || due(self.deadlines.again) => self.start_renegotiation(ctx),
            _ => {}
        }
    }

    /// Derives the keys of a negotiation and hands them to the worker.
    pub(super) fn install(&mut self, ctx: &mut Context<'_>, slot: Slot) -> Result<(), String> {
        let role = ctx.settings.role();
        let agreed = self.agreed.ok_or("nothing was agreed")?;
        let remote = self.remote_sid.ok_or("the peer is not known")?;
        let local = self.local_sid;
        let (generation, peer) = (self.generation, self.peer);
        let negotiation = self.slot(slot).as_ref().ok_or("there is no negotiation")?;
        let block = negotiation.key_block(agreed.use_exporter, local, remote)?;
        let (seal, open) = block.directions(role, agreed.cipher).map_err(|e| e.to_string())?;
        let first = negotiation.key_id == KeyId::FIRST;
        let name = KeyName { peer, generation, negotiation: negotiation.number, key_id: negotiation.key_id.get() };
        let send_from = if first { ctx.now.at } else { negotiation.begun + ctx.settings.switch_after() };
        let retire_previous = ctx.now.at + ctx.settings.tran_window;
        self.installing = Some(name);
        ctx.out.event(Event::InstallKey(InstallKey {
            name,
            cipher: agreed.cipher,
            seal,
            open,
            wire_peer_id: agreed.wire_peer_id,
            send_from_ns: send_from.0,
            retire_previous_ns: retire_previous.0,
            limits: ctx.settings.limits,
        }));
        Ok(())
    }

    pub(super) fn on_key_installed(&mut self, ctx: &mut Context<'_>, name: KeyName) {
        if self.installing != Some(name) || self.keys_dropped {
            return;
        }
        self.installing = None;
        let first = name.negotiation == 0;
        self.newest = Some(NewestKey { name, sending: first });
        match (ctx.settings.role(), first) {
            (Role::Client, true) => self.client_is_up(ctx),
            (Role::Client, false) => {
                if let Some(next) = self.next.as_mut() {
                    next.transport.acks.hold(false);
                }
                self.promote(ctx);
            }
            (Role::Server, true) => self.server_key_is_installed(ctx),
            (Role::Server, false) => self.server_sends_held_key_method(ctx),
        }
    }

    pub(super) fn on_key_refused(&mut self, ctx: &mut Context<'_>, name: KeyName, why: KeyRefusal) {
        if self.installing != Some(name) {
            return;
        }
        self.installing = None;
        let sentence = format!("the worker refused the key: {why:?}");
        if name.negotiation == 0 {
            self.end(ctx, Ending::Internal(sentence));
        } else {
            self.renegotiation_failed(ctx, sentence);
        }
    }

    /// The next negotiation becomes the current one.
    pub(super) fn promote(&mut self, ctx: &mut Context<'_>) {
        let Some(next) = self.next.take() else { return };
        self.previous = self.current.replace(next);
        self.renegotiating = false;
        // Its keys live in the worker until tran-window ends; here it only answers what the peer repeats.
        self.deadlines.retire = Some(ctx.now.at + ctx.settings.tran_window.min(ctx.settings.hand_window));
        self.deadlines.expire = None;
        self.deadlines.again = None;
        self.key_is_new(ctx);
        if let Some(newest) = self.newest {
            ctx.out.event(Event::Renegotiated { name: newest.name });
        }
    }

    /// Sets the age at which the newest key is replaced: `reneg-sec`, less up to a tenth by chance, so that many
    /// sessions do not renegotiate at once.
    pub(super) fn key_is_new(&mut self, ctx: &mut Context<'_>) {
        self.deadlines.renegotiate = ctx.settings.reneg.map(|reneg| ctx.now.at + jittered(reneg, ctx.rng));
    }

    /// The newest key at the time of the record, as far as the record tells: if the last negotiation had failed,
    /// the worker knows no such key and ignores it.
    pub(super) fn key_before_resume(&self) -> Option<NewestKey> {
        let negotiation = self.next_number.checked_sub(1)?;
        let key_id = match (negotiation, self.next_key_id.get()) {
            (0, _) => 0,
            (_, 1) => 7,
            (_, id) => id.saturating_sub(1),
        };
        let name = KeyName { peer: self.peer, generation: self.generation, negotiation, key_id };
        Some(NewestKey { name, sending: false })
    }

    /// Says the record anew, when it has changed.
    pub(super) fn keep_record(&mut self, ctx: &mut Context<'_>) {
        let Some(mut record) = self.record() else {
            return;
        };
        if let Some(last) = &self.last_record {
            // While it cannot be resumed, the peer's window does not matter.
            if !record.resumable {
                record.wrap_recv = last.wrap_recv;
            }
            if *last == record {
                return;
            }
        }
        self.last_record = Some(record.clone());
        ctx.out.event(Event::Record(Box::new(record)));
    }

    /// Before a wrap packet id is used: reserves it, and those that follow, in the record.
    pub(super) fn reserve_wrap_id(&mut self, ctx: &mut Context<'_>) {
        if self.wrapper.send_next() >= self.wrap_reserved {
            self.wrap_reserved = self.wrapper.send_next().saturating_add(WRAP_BLOCK);
            if self.last_record.is_some() {
                self.keep_record(ctx);
            }
        }
    }

    /// The record, once there is a key that can be followed by another.
    fn record(&self) -> Option<ResumeRecord> {
        let agreed = self.agreed?;
        self.newest?;
        Some(ResumeRecord {
            generation: self.generation,
            peer: self.peer,
            resumable: matches!(self.phase, Phase::Up) && !self.renegotiating,
            local_sid: *self.local_sid.as_bytes(),
            remote_sid: *self.remote_sid?.as_bytes(),
            next_negotiation: self.next_number,
            next_key_id: self.next_key_id.get(),
            cipher: agreed.cipher,
            use_exporter: agreed.use_exporter,
            cc_exit: agreed.cc_exit,
            wire_peer_id: agreed.wire_peer_id,
            auth_token: self.token.clone(),
            auth_token_user: self.token_user.clone(),
            wrap_send_next: self.wrap_reserved,
            wrap_send_time: self.wrapper.send_time(),
            wrap_recv: self.wrapper.recv_high(),
            login: self.lock.clone(),
        })
    }
}

fn jittered(span: Duration, rng: &mut dyn Random) -> Duration {
    let mut bytes = [0; 4];
    rng.fill(&mut bytes);
    let tenth = span / 10;
    span.saturating_sub(tenth.mul_f64(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)))
}
