//! What a server does about what happened: logins, its key message, PUSH_REPLY. A peer can use a key only after
//! the worker has confirmed it: of a first key the PUSH_REPLY is held back, of a later one the key message.

use std::time::Duration;

use super::{Agreed, Context, Installing, KEY_INSTALL, Phase, Session, Side, Slot};
use crate::controlchannel::key_method::{ClientKeyMethod, ServerSource};
use crate::controlchannel::message::Message;
use crate::controlchannel::options::cipher_of;
use crate::controlchannel::peer_info::{PeerInfo, iv_proto};
use crate::controlchannel::push::split_reply;
use crate::crypto::ct_eq;
use crate::negotiation::{Happening, Negotiation};
use crate::output::Event;
use crate::setup::{Advance, Ending, Established, Pushed};

/// A refused session is kept this long, so that its last message arrives.
const LINGER: Duration = Duration::from_secs(5);

impl Session {
    pub(super) fn server_happening(&mut self, ctx: &mut Context<'_>, slot: Slot, happening: Happening) {
        match happening {
            Happening::ClientKeyMethod(message) => self.server_has_client_key_method(ctx, slot, &message),
            Happening::Message(Message::PushRequest) => {
                if let Phase::Installing(installing) = &mut self.phase {
                    installing.push_wanted = true;
                }
                self.server_pushes(ctx);
            }
            Happening::Message(Message::Exit) => self.end(ctx, Ending::PeerExited),
            _ => {}
        }
    }

    fn server_has_client_key_method(&mut self, ctx: &mut Context<'_>, slot: Slot, message: &ClientKeyMethod) {
        let source = ServerSource::new_random(ctx.rng);
        if let Some(n) = self.slot(slot).as_mut() {
            n.choose_server_source(source);
        }
        if !server_accepts_login(&ctx.settings.side, message) {
            return self.server_refuses(ctx, slot, "AUTH_FAILED", "wrong user name or password");
        }
        if slot == Slot::Next {
            if let Err(why) = self.install(ctx, slot) {
                self.renegotiation_failed(ctx, why);
            }
            return;
        }
        let info = PeerInfo::parse(&message.peer_info);
        let cipher = info.choose(&ctx.settings.data_ciphers, cipher_of(&message.options), ctx.settings.fallback);
        let Some(cipher) = cipher else {
            const WHY: &str = "Data channel cipher negotiation failed (no shared cipher)";
            return self.server_refuses(ctx, slot, &format!("AUTH_FAILED,{WHY}"), WHY);
        };
        let has = |bit| info.proto & bit != 0;
        self.agreed = Some(Agreed {
            cipher,
            use_exporter: has(iv_proto::TLS_KEY_EXPORT),
            cc_exit: has(iv_proto::CC_EXIT_NOTIFY),
            wire_peer_id: has(iv_proto::DATA_V2).then_some(self.peer),
        });
        self.server_sends_key_method(ctx, slot);
        self.server_prepares_push(ctx, &info);
        if let Err(why) = self.install(ctx, slot) {
            self.end(ctx, Ending::Tls(why));
        }
    }

    fn server_prepares_push(&mut self, ctx: &mut Context<'_>, info: &PeerInfo) {
        let (Side::Server { push, .. }, Some(agreed)) = (&ctx.settings.side, self.agreed) else {
            return;
        };
        let mut options = push.clone();
        options.extend(agreed.wire_peer_id.map(|id| format!("peer-id {id}")));
        if info.ciphers.is_some() || info.ncp >= 2 {
            options.push(format!("cipher {}", agreed.cipher.name()));
        }
        options.extend(match (agreed.cc_exit, agreed.use_exporter) {
            (true, true) => Some("protocol-flags cc-exit tls-ekm".to_owned()),
            (true, false) => Some("protocol-flags cc-exit".to_owned()),
            (false, true) => Some("key-derivation tls-ekm".to_owned()),
            (false, false) => None,
        });
        let (tls, peer_subject) = self.current.as_ref().map(Negotiation::describe).unwrap_or_default();
        let established = Box::new(Established {
            generation: self.generation,
            pushed: Pushed { options },
            cipher: agreed.cipher,
            peer_id: agreed.wire_peer_id,
            tls,
            peer_subject,
            cc_exit: agreed.cc_exit,
        });
        let push_wanted = info.proto & iv_proto::REQUEST_PUSH != 0;
        let deadline = Some(ctx.now.at + KEY_INSTALL);
        self.phase = Phase::Installing(Installing { established, deadline, push_wanted });
    }

    pub(super) fn server_key_is_installed(&mut self, ctx: &mut Context<'_>) {
        if let Phase::Installing(installing) = &mut self.phase {
            installing.deadline = None;
        }
        self.server_pushes(ctx);
    }

    /// PUSH_REPLY, once the key is installed and the client wants it.
    fn server_pushes(&mut self, ctx: &mut Context<'_>) {
        match &self.phase {
            Phase::Installing(i) if i.push_wanted && self.installing.is_none() => {}
            _ => return,
        }
        let Phase::Installing(installing) = std::mem::replace(&mut self.phase, Phase::Up) else {
            return;
        };
        if let Some(current) = self.current.as_mut() {
            split_reply(&installing.established.pushed.options).iter().for_each(|part| current.send_text(part));
        }
        ctx.out.event(Event::Established(installing.established));
        self.key_is_new(ctx);
    }

    pub(super) fn server_sends_held_key_method(&mut self, ctx: &mut Context<'_>) {
        self.server_sends_key_method(ctx, Slot::Next);
    }

    /// A server's renegotiation is complete when the client has acknowledged its key message.
    pub(super) fn server_promotes_when_acknowledged(&mut self, ctx: &mut Context<'_>) {
        let is_server = matches!(ctx.settings.side, Side::Server { .. });
        let installed = |n: &Negotiation| self.newest.is_some_and(|k| k.name.negotiation == n.number);
        if is_server && self.next.as_ref().is_some_and(|n| installed(n) && n.all_acknowledged()) {
            self.promote(ctx);
        }
    }

    fn server_sends_key_method(&mut self, ctx: &mut Context<'_>, slot: Slot) {
        let options = if self.path.stream.is_some() { &ctx.settings.options[1] } else { &ctx.settings.options[0] };
        let Some(negotiation) = self.slot(slot).as_mut() else {
            return;
        };
        if let Err(e) = negotiation.send_server_key_method(options) {
            self.end(ctx, Ending::Internal(e.to_string()));
        }
    }

    /// Ends the session with a last message to the client.
    fn server_refuses(&mut self, ctx: &mut Context<'_>, slot: Slot, text: &str, reason: &str) {
        self.server_sends_key_method(ctx, slot);
        if let Some(n) = self.slot(slot).as_mut() {
            n.send_text(text);
        }
        let ending = Ending::AuthFailed {
            reason: reason.into(),
            retry_after: None,
            session_token: false,
            advance: Advance::Same,
        };
        self.phase = Phase::Lingering { deadline: ctx.now.at + LINGER, ending };
    }

    /// Sends a message such as RESTART or HALT to the client and ends the session a moment later.
    pub(crate) fn server_dismisses(&mut self, ctx: &mut Context<'_>, text: &str) {
        if let Some(current) = self.current.as_mut() {
            current.send_text(text);
        }
        let ending = Ending::Disconnected { exit_sent: true };
        self.phase = Phase::Lingering { deadline: ctx.now.at + LINGER, ending };
        self.settle(ctx);
    }
}

/// Whether the login is one of those that are listed; every listed one is compared.
fn server_accepts_login(side: &Side, message: &ClientKeyMethod) -> bool {
    let Side::Server { users, .. } = side else {
        return false;
    };
    let Some(users) = users else { return true };
    users.iter().fold(false, |found, user| {
        let same =
            ct_eq(user.username.as_bytes(), message.username.as_bytes()) & ct_eq(&user.password.0, &message.password.0);
        found | same
    })
}
