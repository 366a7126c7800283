//! What a client does about what happened: its key message, the push exchange, the server's messages.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{Agreed, Context, GetConfig, Installing, KEY_INSTALL, Phase, Session, Side, Slot};
use crate::controlchannel::key_method::{ClientKeyMethod, ClientSource};
use crate::controlchannel::message::Message;
use crate::controlchannel::options::cipher_of;
use crate::controlchannel::push::{PushCollector, PushReply, agree_cipher};
use crate::negotiation::Happening;
use crate::output::Event;
use crate::setup::{Ending, Established, Pushed, Secret, State};

/// The first PUSH_REQUEST comes this long after the key exchange (a server may push without being asked).
const FIRST_PUSH_REQUEST: Duration = Duration::from_secs(1);
/// PUSH_REQUEST is repeated this often.
const PUSH_REQUEST: Duration = Duration::from_secs(5);

impl Session {
    pub(super) fn client_happening(&mut self, ctx: &mut Context<'_>, slot: Slot, happening: Happening) {
        match happening {
            Happening::Answered if slot == Slot::Current => {
                ctx.out.event(Event::State { generation: self.generation, state: State::Auth });
            }
            Happening::TlsDone => self.client_sends_key_method(ctx, slot),
            Happening::ServerKeyMethod { options } => self.client_has_server_key_method(ctx, slot, options),
            Happening::Message(message) => self.client_message(ctx, message),
            Happening::Answered | Happening::ClientKeyMethod(_) | Happening::Failed(_) => {}
        }
    }

    fn client_sends_key_method(&mut self, ctx: &mut Context<'_>, slot: Slot) {
        let Side::Client { pull, peer_info, .. } = &ctx.settings.side else {
            return;
        };
        let (username, password) = self.login();
        let options = if self.path.stream.is_some() { &ctx.settings.options[1] } else { &ctx.settings.options[0] };
        let message = ClientKeyMethod {
            source: ClientSource::new_random(ctx.rng),
            options: options.clone(),
            username,
            password,
            peer_info: if *pull { peer_info.clone() } else { String::new() },
        };
        let Some(negotiation) = self.slot(slot).as_mut() else {
            return;
        };
        if let Err(e) = negotiation.send_client_key_method(&message) {
            self.end(ctx, Ending::Internal(e.to_string()));
        }
    }

    /// The session token, where the server gave one, and else the password.
    fn login(&self) -> (String, Secret) {
        let given = self.credentials.clone();
        let username = self.token_user.clone().or(given.as_ref().map(|c| c.username.clone())).unwrap_or_default();
        let password = self.token.clone().or(given.map(|c| c.password)).unwrap_or_default();
        (username, password)
    }

    fn client_has_server_key_method(&mut self, ctx: &mut Context<'_>, slot: Slot, options: String) {
        let Side::Client { pull, .. } = ctx.settings.side else {
            return;
        };
        if slot == Slot::Next {
            // The server may use the key as soon as its key message is acknowledged.
            if let Some(next) = self.next.as_mut() {
                next.transport.acks.hold(true);
            }
            if let Err(why) = self.install(ctx, slot) {
                self.renegotiation_failed(ctx, why);
            }
            return;
        }
        if !pull {
            return self.client_agrees(ctx, PushReply::default(), &options);
        }
        let now = ctx.now.at;
        self.phase = Phase::GetConfig(Box::new(GetConfig {
            since: now,
            request_at: now + FIRST_PUSH_REQUEST,
            deadline: now + ctx.settings.hand_window,
            collector: PushCollector::default(),
            options,
        }));
        ctx.out.event(Event::State { generation: self.generation, state: State::GetConfig });
    }

    pub(super) fn client_get_config_timers(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now.at;
        let Phase::GetConfig(get_config) = &mut self.phase else {
            return;
        };
        if get_config.deadline <= now {
            return self.end(ctx, Ending::HandshakeTimeout { awaiting: "PUSH_REPLY".into() });
        }
        if get_config.request_at <= now {
            get_config.request_at = now + PUSH_REQUEST;
            if let Some(current) = self.current.as_mut() {
                current.send_text("PUSH_REQUEST");
            }
        }
    }

    fn client_message(&mut self, ctx: &mut Context<'_>, message: Message) {
        match message {
            Message::PushReply(text) => self.client_push_reply(ctx, &text),
            Message::AuthFailed(Ending::AuthFailed { reason, retry_after, session_token, advance }) => {
                // A refusal of a login by token may be cured by the password.
                let session_token = session_token || (self.token.is_some() && retry_after.is_none());
                self.end(ctx, Ending::AuthFailed { reason, retry_after, session_token, advance });
            }
            Message::AuthFailed(ending) | Message::Restart(ending) | Message::Halt(ending) => self.end(ctx, ending),
            Message::Exit => self.end(ctx, Ending::PeerExited),
            Message::AuthPending(timeout) => self.client_auth_pending(ctx, timeout),
            Message::Info(text) if self.words.permit(ctx.now.at) => {
                ctx.out.event(Event::Info { generation: self.generation, text })
            }
            Message::Info(_) | Message::PushRequest | Message::Unknown(_) => {}
        }
    }

    /// The server may make us wait, but not for ever.
    fn client_auth_pending(&mut self, ctx: &mut Context<'_>, timeout: Option<u32>) {
        let longest = ctx.settings.hand_window.max(ctx.settings.reneg.unwrap_or_default() / 2);
        let Phase::GetConfig(get_config) = &mut self.phase else {
            return;
        };
        let asked = timeout.map_or(ctx.settings.hand_window, |s| Duration::from_secs(s.into()));
        get_config.deadline = get_config.deadline.max(get_config.since + asked.min(longest));
        if self.words.permit(ctx.now.at) {
            ctx.out.event(Event::State { generation: self.generation, state: State::AuthPending });
        }
    }

    fn client_push_reply(&mut self, ctx: &mut Context<'_>, text: &str) {
        match &mut self.phase {
            Phase::GetConfig(get_config) => match get_config.collector.take(text) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    let options = std::mem::take(&mut get_config.options);
                    self.client_agrees(ctx, reply, &options);
                }
                Err(_) => self.end(ctx, Ending::Incompatible("the server pushed more than 64 KiB of options".into())),
            },
            // After the first one, only a renewed token matters.
            _ => {
                if let Ok(Some(reply)) = PushCollector::default().take(text) {
                    self.client_takes_token(ctx, &reply);
                }
            }
        }
    }

    fn client_takes_token(&mut self, ctx: &mut Context<'_>, reply: &PushReply) {
        let Some(token) = reply.auth_token.clone() else {
            return;
        };
        if reply.auth_token_user.is_some() {
            self.token_user = reply.auth_token_user.clone();
        }
        self.token = Some(token.clone());
        let username = self.token_user.clone();
        if self.words.permit(ctx.now.at) {
            ctx.out.event(Event::AuthToken { generation: self.generation, token, username });
        }
    }

    /// All is said: cipher, peer-id and flags are known, and the first key can be made.
    fn client_agrees(&mut self, ctx: &mut Context<'_>, reply: PushReply, server_options: &str) {
        if let Some(flag) = &reply.unknown_flag {
            let why = format!(
                "the server pushed the protocol flag `{flag}`, which was not offered and changes the wire: have it \
                 follow the client's IV_PROTO"
            );
            return self.end(ctx, Ending::Incompatible(why));
        }
        let occ = cipher_of(server_options);
        let (ours, fallback) = (&ctx.settings.data_ciphers, ctx.settings.fallback);
        let cipher = match agree_cipher(reply.cipher.as_deref(), occ, ours, fallback) {
            Ok(cipher) => cipher,
            Err(why) => return self.end(ctx, Ending::Incompatible(why)),
        };
        self.agreed =
            Some(Agreed { cipher, use_exporter: reply.tls_ekm, cc_exit: reply.cc_exit, wire_peer_id: reply.peer_id });
        self.client_takes_token(ctx, &reply);
        let (tls, peer_subject) = self.current.as_ref().map(|n| n.describe()).unwrap_or_default();
        let established = Box::new(Established {
            generation: self.generation,
            pushed: Pushed { options: reply.pushed.options },
            cipher,
            peer_id: reply.peer_id,
            tls,
            peer_subject,
            cc_exit: reply.cc_exit,
        });
        let deadline = Some(ctx.now.at + KEY_INSTALL);
        let reply = Zeroizing::default();
        self.phase = Phase::Installing(Installing { established, deadline, push_wanted: false, reply });
        if let Err(why) = self.install(ctx, Slot::Current) {
            self.end(ctx, Ending::Tls(why));
        }
    }

    /// The first key is installed.
    pub(super) fn client_is_up(&mut self, ctx: &mut Context<'_>) {
        if let Phase::Installing(installing) = std::mem::replace(&mut self.phase, Phase::Up) {
            ctx.out.event(Event::Established(installing.established));
        }
        if let (Side::Client { auth_nocache: true, .. }, Some(credentials)) =
            (&ctx.settings.side, self.credentials.as_mut())
        {
            credentials.password = Secret::default();
        }
        self.key_is_new(ctx);
    }
}
