//! What a server does about what happened: logins, its key message, PUSH_REPLY. A peer can use a key only after
//! the worker has confirmed it: of a first key the PUSH_REPLY is held back, of a later one the key message. No key is made
//! before the caller has accepted the login that belongs to it.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{Agreed, Context, Installing, KEY_INSTALL, LoggingIn, Phase, Session, Side, Slot};
use crate::controlchannel::key_method::{ClientKeyMethod, MAX_PASSWORD, MAX_USERNAME, ServerSource};
use crate::controlchannel::message::Message;
use crate::controlchannel::options::cipher_of;
use crate::controlchannel::peer_info::{self, PeerInfo, iv_proto};
use crate::controlchannel::push::{PART_BYTES, split_reply};
use crate::negotiation::{Happening, Negotiation};
use crate::output::Event;
use crate::setup::{Admission, Advance, ClientCertificateInfo, Ending, Established, Login, LoginLock, Pushed, Secret};

/// A refused session is kept this long, so that its last message arrives.
const LINGER: Duration = Duration::from_secs(5);

impl Session {
    pub(super) fn server_happening(&mut self, ctx: &mut Context<'_>, slot: Slot, happening: Happening) {
        match happening {
            Happening::ClientKeyMethod(message) => self.server_has_client_key_method(ctx, slot, &message),
            Happening::Message(Message::PushRequest) => {
                match &mut self.phase {
                    Phase::LoggingIn(login) => login.push_wanted = true,
                    Phase::Installing(installing) => installing.push_wanted = true,
                    _ => {}
                }
                self.server_pushes(ctx);
            }
            Happening::Message(Message::Exit) => self.end(ctx, Ending::PeerExited),
            _ => {}
        }
    }

    fn server_has_client_key_method(&mut self, ctx: &mut Context<'_>, slot: Slot, message: &ClientKeyMethod) {
        let source = ServerSource::new_random(ctx.rng);
        let Some(negotiation) = self.slot(slot).as_mut() else {
            return;
        };
        negotiation.choose_server_source(source);
        let certificate = ctx.settings.tls.client_certificate(negotiation.peer_chain());
        let username = printable(&message.username);
        if username.len() > MAX_USERNAME || message.password.0.len() > MAX_PASSWORD {
            return self.server_refuses(ctx, slot, "AUTH_FAILED", "the user name or the password is too long");
        }
        if let Err(why) = self.check_lock(&username, certificate.as_ref()) {
            return self.server_refuses(ctx, slot, "AUTH_FAILED", why);
        }
        if slot == Slot::Current && !self.server_agrees(ctx, message) {
            return;
        }
        self.server_asks(ctx, slot, username, certificate, message);
    }

    /// Whoever logs in again must be who logged in first; the first login decides who that is.
    fn check_lock(&mut self, username: &str, certificate: Option<&ClientCertificateInfo>) -> Result<(), &'static str> {
        let lock = self.lock.get_or_insert_with(|| LoginLock {
            username: username.to_owned(),
            common_name: certificate.map(|c| c.common_name.clone()),
            certificate: certificate.map(|c| c.sha256),
        });
        if lock.username != username {
            return Err("the user name is another than at the first login");
        }
        if lock.common_name.as_deref() != certificate.map(|c| c.common_name.as_str()) {
            return Err("the certificate's common name is another than at the first login");
        }
        if lock.certificate != certificate.map(|c| c.sha256) {
            return Err("the certificate is another than at the first login");
        }
        Ok(())
    }

    /// Agrees on the cipher and the flags, and sends our key message; false when the client was refused.
    fn server_agrees(&mut self, ctx: &mut Context<'_>, message: &ClientKeyMethod) -> bool {
        let info = PeerInfo::parse(&message.peer_info);
        let cipher = info.choose(&ctx.settings.data_ciphers, cipher_of(&message.options), ctx.settings.fallback);
        let Some(cipher) = cipher else {
            const WHY: &str = "Data channel cipher negotiation failed (no shared cipher)";
            self.server_refuses(ctx, Slot::Current, &format!("AUTH_FAILED,{WHY}"), WHY);
            return false;
        };
        let has = |bit| info.proto & bit != 0;
        self.agreed = Some(Agreed {
            cipher,
            use_exporter: has(iv_proto::TLS_KEY_EXPORT),
            cc_exit: has(iv_proto::CC_EXIT_NOTIFY),
            wire_peer_id: has(iv_proto::DATA_V2).then_some(self.peer),
        });
        // Without PUSH_REPLY the client has no use for it, so it need not wait for the login.
        self.server_sends_key_method(ctx, Slot::Current);
        self.phase = Phase::LoggingIn(LoggingIn {
            deadline: ctx.now.at + ctx.settings.hand_window,
            push_wanted: has(iv_proto::REQUEST_PUSH),
            names_cipher: info.ciphers.is_some() || info.ncp >= 2,
            waits: has(iv_proto::AUTH_PENDING_KW),
        });
        true
    }

    /// Has the caller judge the login.
    fn server_asks(
        &mut self,
        ctx: &mut Context<'_>,
        slot: Slot,
        username: String,
        certificate: Option<ClientCertificateInfo>,
        message: &ClientKeyMethod,
    ) {
        let (generation, peer, path) = (self.generation, self.peer, self.path);
        let (Some(agreed), Some(negotiation)) = (self.agreed, self.slot(slot).as_ref()) else {
            return;
        };
        let (number, (tls, _)) = (negotiation.number, negotiation.describe());
        self.judging = Some(number);
        ctx.out.event(Event::Login(Box::new(Login {
            generation,
            negotiation: number,
            peer,
            path,
            username,
            password: message.password.clone(),
            certificate,
            peer_info: peer_info::pairs(&message.peer_info),
            cipher: agreed.cipher,
            tls,
            wire_peer_id: agreed.wire_peer_id,
        })));
    }

    /// Accepts the login of this negotiation; false when none is waiting.
    pub(crate) fn server_admits(&mut self, ctx: &mut Context<'_>, negotiation: u32, admission: Admission) -> bool {
        if self.judging != Some(negotiation) {
            return false;
        }
        match &self.phase {
            Phase::LoggingIn(_) => {
                self.judging = None;
                self.server_prepares_push(ctx, admission);
                if let Err(why) = self.install(ctx, Slot::Current) {
                    self.end(ctx, Ending::Tls(why));
                }
            }
            Phase::Up if self.next.as_ref().is_some_and(|next| next.number == negotiation) => {
                self.judging = None;
                self.token_to_tell = admission.token;
                if let Err(why) = self.install(ctx, Slot::Next) {
                    self.renegotiation_failed(ctx, why);
                }
            }
            _ => return false,
        }
        self.settle(ctx);
        true
    }

    /// The first login's answer takes up to so many seconds more: waits, and asks the client to wait, if it understands that, with a text for
    /// its user. False when no first login is waiting for its answer.
    pub(crate) fn server_defers(
        &mut self,
        ctx: &mut Context<'_>,
        negotiation: u32,
        seconds: u32,
        info: Option<&str>,
    ) -> bool {
        let Phase::LoggingIn(login) = &mut self.phase else { return false };
        if self.judging != Some(negotiation) {
            return false;
        }
        login.deadline = login.deadline.max(ctx.now.at + Duration::from_secs(seconds.into()));
        if let Some(current) = self.current.as_mut().filter(|_| login.waits) {
            current.send_text(&format!("AUTH_PENDING,timeout {seconds}"));
            if let Some(info) = info {
                current.send_text(&message(&format!("INFO_PRE,{info}")));
            }
        }
        self.settle(ctx);
        true
    }

    /// Refuses the login of this negotiation, which ends the session whatever other keys it has; false when there is no
    /// such negotiation.
    pub(crate) fn server_refuses_login(
        &mut self,
        ctx: &mut Context<'_>,
        negotiation: u32,
        text: &str,
        reason: &str,
    ) -> bool {
        if negotiation >= self.next_number || matches!(self.phase, Phase::Lingering { .. } | Phase::Ended) {
            return false;
        }
        let has_key_method = |n: &Option<Negotiation>| n.as_ref().is_some_and(Negotiation::is_active);
        if has_key_method(&self.next) {
            self.server_refuses(ctx, Slot::Next, text, reason);
        } else if has_key_method(&self.current) {
            self.server_refuses(ctx, Slot::Current, text, reason);
        } else {
            // A resumed session that has no TLS session yet: there is no way to tell.
            self.end(ctx, refusal(reason));
        }
        self.settle(ctx);
        true
    }

    /// Nobody judged the first login in time.
    pub(super) fn server_login_expires(&mut self, ctx: &mut Context<'_>) {
        self.server_refuses(ctx, Slot::Current, "AUTH_FAILED", "the login was not judged within hand-window");
    }

    fn server_prepares_push(&mut self, ctx: &mut Context<'_>, admission: Admission) {
        let (Phase::LoggingIn(login), Some(agreed)) = (&self.phase, self.agreed) else {
            return;
        };
        let (push_wanted, names_cipher) = (login.push_wanted, login.names_cipher);
        let mut options: Vec<String> = admission.push.into_iter().filter(|o| fits_a_push(o)).collect();
        options.extend(agreed.wire_peer_id.map(|id| format!("peer-id {id}")));
        let token_place = options.len();
        if names_cipher {
            options.push(format!("cipher {}", agreed.cipher.name()));
        }
        options.extend(match (agreed.cc_exit, agreed.use_exporter) {
            (true, true) => Some("protocol-flags cc-exit tls-ekm".to_owned()),
            (true, false) => Some("protocol-flags cc-exit".to_owned()),
            (false, true) => Some("key-derivation tls-ekm".to_owned()),
            (false, false) => None,
        });
        let mut all = Zeroizing::new(options.clone());
        if let Some(token) = admission.token.as_ref().and_then(token_option) {
            all.insert(token_place, token);
        }
        let reply = Zeroizing::new(split_reply(&all));
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
        let deadline = Some(ctx.now.at + KEY_INSTALL);
        self.phase = Phase::Installing(Installing { established, deadline, push_wanted, reply });
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
            installing.reply.iter().for_each(|part| current.send_text(part));
        }
        ctx.out.event(Event::Established(installing.established));
        self.key_is_new(ctx);
    }

    pub(super) fn server_sends_held_key_method(&mut self, ctx: &mut Context<'_>) {
        self.server_sends_key_method(ctx, Slot::Next);
    }

    /// A server's renegotiation is complete when the client has acknowledged its key message.
    pub(super) fn server_promotes_when_acknowledged(&mut self, ctx: &mut Context<'_>) {
        let is_server = matches!(ctx.settings.side, Side::Server);
        let installed = |n: &Negotiation| self.newest.is_some_and(|k| k.name.negotiation == n.number);
        if is_server && self.next.as_ref().is_some_and(|n| installed(n) && n.all_acknowledged()) {
            self.promote(ctx);
            if let (Some(token), Some(current)) = (self.token_to_tell.take(), self.current.as_mut())
                && let Some(option) = token_option(&token)
            {
                let option = Zeroizing::new(option);
                current.send_text(&Zeroizing::new(format!("PUSH_REPLY,{}", *option)));
            }
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

    /// Ends the session with a last message to the client. Its keys are dropped at once: whoever fails to log in again is
    /// no longer who the keys were made for.
    fn server_refuses(&mut self, ctx: &mut Context<'_>, slot: Slot, text: &str, reason: &str) {
        self.server_sends_key_method(ctx, slot);
        if self.has_ended() {
            return;
        }
        if let Some(n) = self.slot(slot).as_mut() {
            n.send_text(&message(text));
        }
        if self.has_keys() {
            self.keys_dropped = true;
            ctx.out.event(Event::DropKeys { peer: self.peer, generation: self.generation });
        }
        self.judging = None;
        self.phase = Phase::Lingering { deadline: ctx.now.at + LINGER, ending: refusal(reason) };
    }

    /// Sends a message such as RESTART or HALT to the client and ends the session a moment later. Said once: what comes
    /// after does not prolong it.
    pub(crate) fn server_dismisses(&mut self, ctx: &mut Context<'_>, text: &str) {
        if matches!(self.phase, Phase::Lingering { .. } | Phase::Ended) {
            return;
        }
        if let Some(current) = self.current.as_mut() {
            current.send_text(text);
        }
        let ending = Ending::Disconnected { exit_sent: true };
        self.phase = Phase::Lingering { deadline: ctx.now.at + LINGER, ending };
        self.settle(ctx);
    }
}

fn refusal(reason: &str) -> Ending {
    Ending::AuthFailed { reason: reason.into(), retry_after: None, session_token: false, advance: Advance::Same }
}

/// The longest message to a client, in bytes without its NUL, that stock clients read.
const MAX_MESSAGE: usize = 1_000;

/// A message that a client takes: printable and not too long. An operator's reason, or a script's, may be neither.
fn message(text: &str) -> String {
    let mut message = printable(text);
    while message.len() > MAX_MESSAGE {
        message.pop();
    }
    message
}

/// Control characters become `_`, as OpenVPN does with names.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

/// Whether an option can be pushed: one with a control character would spoil the whole message, and a longer one fits none.
fn fits_a_push(option: &str) -> bool {
    !option.is_empty() && option.len() < PART_BYTES && !option.contains(char::is_control)
}

/// `auth-token …`; `None` for a token that is not one word of text.
fn token_option(token: &Secret) -> Option<String> {
    let text = std::str::from_utf8(&token.0).ok()?;
    let word = !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == ',');
    word.then(|| format!("auth-token {text}"))
}
