//! One key negotiation: reset, TLS handshake, key messages. Role-agnostic: it says what happened, and `session`
//! decides what follows. A state is a struct named for what it waits for.
//!
//! ```text
//! ExpectReset → ExpectTls → ExpectKeyMethod → Active → (kept by the session as a lame duck)
//! ```

mod watch;

use std::collections::VecDeque;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use crate::controlchannel::key_method::{ClientKeyMethod, ClientSource, ServerKeyMethod, ServerSource};
use crate::controlchannel::message::{Lines, Message};
use crate::error::{DropReason, Error};
use crate::ids::{KeyId, MessageId, Role, SessionId};
use crate::keys::KeyBlock;
use crate::packet::control::{AckList, ControlPacket};
use crate::packet::opcode::Opcode;
use crate::reliabletransport::ReliableTransport;
use crate::timers::Instant;
use crate::tlssession::{TlsConfig, TlsSession};
use crate::trace::Stage as Standing;

use watch::Watch;

/// The most plaintext that may wait for the peer's key message to be complete, in bytes.
const MAX_KEY_METHOD: usize = 16 * 1024;
/// The most bytes of TLS records that may wait for the send window.
const MAX_TLS_OUT: usize = 128 * 1024;
/// What an onlooker is told of a key message.
const KEY_MESSAGE: &str = "key_message";
/// The largest IP and UDP headers (IPv6), which `max-packet-size` includes.
const IP_UDP: usize = 48;

/// The payload that fits into one control packet, in bytes.
pub(crate) fn max_payload(max_packet_size: u16, wrap_overhead: usize) -> usize {
    let acks = AckList::wire_len(crate::reliabletransport::acks::MAX_IN_CONTROL);
    let headers = IP_UDP + ControlPacket::HEADER_LEN + acks + 4 + wrap_overhead;
    usize::from(max_packet_size).saturating_sub(headers).max(64)
}

/// What happened in a negotiation, in order.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The peer's reset came: TLS has begun.
    Answered,
    /// As a client: our key message may be sent.
    TlsDone,
    /// As a client: the server's key message.
    ServerKeyMethod {
        /// The server's options string.
        options: String,
    },
    /// As a server: the client's key message.
    ClientKeyMethod(Box<ClientKeyMethod>),
    /// A control message.
    Message(Message),
    /// TLS is over, for the reason in the sentence.
    Failed(String),
}

/// One negotiation.
#[derive(Debug)]
pub(crate) struct Negotiation {
    pub(crate) number: u32,
    pub(crate) key_id: KeyId,
    /// When its reset was queued (or, on a server, when its first packet came).
    pub(crate) begun: Instant,
    /// The peer has answered with a packet of this key-id.
    pub(crate) heard: bool,
    pub(crate) transport: ReliableTransport,
    role: Role,
    stage: Stage,
    max_payload: usize,
    tls_out: VecDeque<u8>,
    plaintext: Vec<u8>,
    lines: Lines,
    happenings: VecDeque<Happening>,
    /// While somebody looks on.
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
enum Stage {
    ExpectReset,
    ExpectTls(ExpectTls),
    ExpectKeyMethod(ExpectKeyMethod),
    Active(Active),
    Failed,
}

/// Waits for the TLS handshake.
#[derive(Debug)]
struct ExpectTls {
    tls: Box<TlsSession>,
}

/// Waits for the peer's key message; as a client, ours may have been sent.
#[derive(Debug)]
struct ExpectKeyMethod {
    tls: Box<TlsSession>,
    ours: Option<ClientSource>,
}

/// Has the peer's key message. As a server, `server` is there once ours was chosen.
#[derive(Debug)]
struct Active {
    tls: Box<TlsSession>,
    client: ClientSource,
    server: Option<ServerSource>,
    /// As a server: our key message was sent.
    answered: bool,
}

/// What every negotiation of a session has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) role: Role,
    pub(crate) tls_timeout: Duration,
    pub(crate) max_payload: usize,
    /// Somebody looks on.
    pub(crate) observed: bool,
}

impl Negotiation {
    /// Begins with a reset of ours: `HardResetClientV2` for the first, `SoftResetV1` for every other.
    pub(crate) fn begin(terms: &Terms, number: u32, key_id: KeyId, now: Instant) -> Result<Negotiation, Error> {
        let transport = ReliableTransport::new(terms.tls_timeout);
        let mut negotiation = Negotiation::new(terms, number, key_id, now, transport);
        let opcode = if key_id == KeyId::FIRST { Opcode::HardResetClientV2 } else { Opcode::SoftResetV1 };
        negotiation.transport.sender.push(Vec::new(), opcode, now)?;
        Ok(negotiation)
    }

    /// The server's first negotiation, after the cookie was proved: both resets have happened.
    pub(crate) fn accepted(terms: &Terms, tls: &TlsConfig, now: Instant) -> Negotiation {
        let transport = ReliableTransport::skipped(terms.tls_timeout);
        let mut negotiation = Negotiation::new(terms, 0, KeyId::FIRST, now, transport);
        negotiation.start_tls(tls);
        negotiation
    }

    fn new(terms: &Terms, number: u32, key_id: KeyId, now: Instant, transport: ReliableTransport) -> Negotiation {
        Negotiation {
            number,
            key_id,
            begun: now,
            heard: false,
            transport,
            role: terms.role,
            stage: Stage::ExpectReset,
            max_payload: terms.max_payload,
            tls_out: VecDeque::new(),
            plaintext: Vec::new(),
            lines: Lines::default(),
            happenings: VecDeque::new(),
            watch: terms.observed.then(Box::default),
        }
    }

    /// Takes a packet of this key-id whose session ids were checked.
    pub(crate) fn receive(&mut self, packet: ControlPacket, tls: &TlsConfig) -> Result<(), DropReason> {
        // The first message of a key-id is its reset, and nothing else is a reset.
        if packet.message_id.is_some_and(|id| (id == MessageId(0)) != packet.opcode.is_reset()) {
            return Err(DropReason::UnexpectedState);
        }
        if packet.opcode.is_reset() && packet.opcode.is_hard_reset() != (self.key_id == KeyId::FIRST) {
            return Err(DropReason::UnexpectedOpcode);
        }
        self.heard = true;
        self.transport.receive(packet)?;
        while let Some((id, payload)) = self.transport.receiver.pop_in_order() {
            if id == MessageId(0) {
                // A reset's payload is early negotiation, not TLS.
                self.on_reset(tls);
            } else {
                self.on_tls_bytes(&payload);
            }
        }
        Ok(())
    }

    /// The next thing that happened.
    pub(crate) fn pop(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// What is waited for, for people.
    pub(crate) fn awaiting(&self) -> &'static str {
        match self.stage {
            Stage::ExpectReset => "the peer's reset",
            Stage::ExpectTls(_) => "the end of the TLS handshake",
            Stage::ExpectKeyMethod(_) => "the peer's key message",
            Stage::Active(_) => "the peer's settings",
            Stage::Failed => "nothing",
        }
    }

    /// Where it stands, for an onlooker; `None` when it failed, and so stands where it stood.
    pub(crate) fn standing(&self) -> Option<Standing> {
        match &self.stage {
            Stage::ExpectReset => Some(Standing::PreStart),
            Stage::ExpectTls(_) | Stage::ExpectKeyMethod(ExpectKeyMethod { ours: None, .. }) => Some(Standing::Start),
            Stage::ExpectKeyMethod(ExpectKeyMethod { ours: Some(_), .. }) => Some(Standing::SentKey),
            Stage::Active(_) => Some(Standing::GotKey),
            Stage::Failed => None,
        }
    }

    /// The names of what the last packet held; empty while nobody looks on.
    pub(crate) fn take_heard(&mut self) -> Vec<&'static str> {
        self.watch.as_mut().map(|watch| watch.take_heard()).unwrap_or_default()
    }

    /// The names of what begins in this message of ours; empty while nobody looks on.
    pub(crate) fn names_of(&self, id: MessageId) -> Vec<&'static str> {
        self.watch.as_ref().map(|watch| watch.names_of(id)).unwrap_or_default()
    }

    pub(crate) fn expects_reset(&self) -> bool {
        matches!(self.stage, Stage::ExpectReset)
    }

    /// Whether the peer's key message is here.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active(_))
    }

    /// Whether all that we said has been acknowledged.
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.tls_out.is_empty() && self.transport.sender.is_empty()
    }

    /// As a client, after [`Happening::TlsDone`].
    pub(crate) fn send_client_key_method(&mut self, message: &ClientKeyMethod) -> Result<(), Error> {
        let bytes = zeroize::Zeroizing::new(message.encode()?);
        if let Stage::ExpectKeyMethod(state) = &mut self.stage {
            state.ours = Some(message.source.clone());
        }
        self.write(&bytes, KEY_MESSAGE);
        self.on_plaintext();
        Ok(())
    }

    /// As a server: chooses our randoms, from which (and the client's) keys can be made from now on.
    pub(crate) fn choose_server_source(&mut self, source: ServerSource) {
        if let Stage::Active(state) = &mut self.stage {
            state.server = Some(source);
        }
    }

    /// As a server: sends our key message, once.
    pub(crate) fn send_server_key_method(&mut self, options: &str) -> Result<(), Error> {
        let Stage::Active(Active { server: Some(source), answered, .. }) = &mut self.stage else {
            return Err(Error::Misuse("the server's randoms were not chosen"));
        };
        if std::mem::replace(answered, true) {
            return Ok(());
        }
        let message = ServerKeyMethod { source: source.clone(), options: options.to_owned() };
        let bytes = zeroize::Zeroizing::new(message.encode()?);
        self.write(&bytes, KEY_MESSAGE);
        Ok(())
    }

    /// Sends a control message, as one TLS record.
    pub(crate) fn send_text(&mut self, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.write(&bytes, if self.watch.is_some() { Message::parse(text).name() } else { "" });
    }

    /// The data keys, once both key messages are known.
    pub(crate) fn key_block(&self, by_exporter: bool, local: SessionId, remote: SessionId) -> Result<KeyBlock, String> {
        let Stage::Active(active) = &self.stage else {
            return Err("the keys are not negotiated yet".into());
        };
        if by_exporter {
            return KeyBlock::from_exporter(&active.tls).map_err(|e| e.0);
        }
        let server = active.server.as_ref().ok_or("the server's randoms are not known yet")?;
        let (client_sid, server_sid) = match self.role {
            Role::Client => (local, remote),
            Role::Server => (remote, local),
        };
        Ok(KeyBlock::from_prf(&active.client, server, client_sid, server_sid))
    }

    /// TLS version and suite, and the peer's subject.
    pub(crate) fn describe(&self) -> (String, String) {
        match &self.stage {
            Stage::ExpectKeyMethod(ExpectKeyMethod { tls, .. }) | Stage::Active(Active { tls, .. }) => {
                (tls.describe(), tls.peer_subject())
            }
            _ => (String::new(), String::new()),
        }
    }

    /// The certificates that the peer showed, leaf first; empty when it showed none.
    pub(crate) fn peer_chain(&self) -> &[CertificateDer<'static>] {
        match &self.stage {
            Stage::ExpectKeyMethod(ExpectKeyMethod { tls, .. }) | Stage::Active(Active { tls, .. }) => {
                tls.peer_certificates()
            }
            _ => &[],
        }
    }

    /// Moves TLS records into the send window, as far as it is open.
    pub(crate) fn pump(&mut self, now: Instant) {
        while !self.tls_out.is_empty() && self.transport.sender.can_send() {
            let len = self.tls_out.len().min(self.max_payload);
            let payload: Vec<u8> = self.tls_out.drain(..len).collect();
            let Ok(id) = self.transport.sender.push(payload, Opcode::ControlV1, now) else {
                break;
            };
            if let Some(watch) = &mut self.watch {
                watch.packs(id, len);
            }
        }
    }

    /// Gives back the memory of what a finished exchange has left empty: a session may be idle for hours.
    pub(crate) fn rest(&mut self) {
        if self.is_active() && self.all_acknowledged() {
            self.tls_out.shrink_to_fit();
            self.happenings.shrink_to_fit();
            self.plaintext.shrink_to_fit();
            self.lines.rest();
        }
    }

    fn start_tls(&mut self, config: &TlsConfig) {
        match TlsSession::new(config) {
            Ok(tls) => {
                self.stage = Stage::ExpectTls(ExpectTls { tls: Box::new(tls) });
                self.take_tls_output();
            }
            Err(e) => self.fail(e.0),
        }
    }

    fn on_reset(&mut self, config: &TlsConfig) {
        if self.expects_reset() {
            self.happenings.push_back(Happening::Answered);
            self.start_tls(config);
        }
    }

    fn on_tls_bytes(&mut self, bytes: &[u8]) {
        let mut plaintext = Vec::new();
        if let Some(watch) = &mut self.watch {
            watch.receives(bytes, matches!(self.stage, Stage::ExpectTls(_)));
        }
        let Some(tls) = self.tls() else { return };
        let result = tls.read(bytes, &mut plaintext);
        let handshaking = tls.is_handshaking();
        self.take_tls_output();
        self.advance(handshaking);
        self.keep_plaintext(plaintext);
        self.on_plaintext();
        if let Err(e) = result {
            self.fail(e.0);
        }
    }

    /// ExpectTls → ExpectKeyMethod.
    fn advance(&mut self, handshaking: bool) {
        if handshaking || !matches!(self.stage, Stage::ExpectTls(_)) {
            return;
        }
        if let Stage::ExpectTls(ExpectTls { tls }) = std::mem::replace(&mut self.stage, Stage::Failed) {
            self.stage = Stage::ExpectKeyMethod(ExpectKeyMethod { tls, ours: None });
            if self.role == Role::Client {
                self.happenings.push_back(Happening::TlsDone);
            }
        }
    }

    fn keep_plaintext(&mut self, mut plaintext: Vec<u8>) {
        if self.is_active() {
            self.lines.extend(&plaintext);
        } else if self.plaintext.len().saturating_add(plaintext.len()) > MAX_KEY_METHOD {
            self.fail("the peer sent more than a key message can be".into());
        } else {
            self.plaintext.append(&mut plaintext);
        }
    }

    fn on_plaintext(&mut self) {
        if matches!(self.stage, Stage::ExpectKeyMethod(_)) && !self.plaintext.is_empty() {
            let result = match self.role {
                Role::Client => self.take_server_key_method(),
                Role::Server => self.take_client_key_method(),
            };
            if let Err(e) = result {
                self.fail(e.to_string());
            }
        }
        while let Some(line) = self.lines.next_line() {
            // A line that cannot be printed, or an empty one, says nothing.
            match line {
                Ok(line) if !line.is_empty() => {
                    let message = Message::parse(&line);
                    if let Some(watch) = &mut self.watch {
                        watch.hears(message.name());
                    }
                    self.happenings.push_back(Happening::Message(message));
                }
                _ => {}
            }
        }
    }

    fn take_server_key_method(&mut self) -> Result<(), Error> {
        // Before ours was sent there is nothing that the server could answer.
        if !matches!(&self.stage, Stage::ExpectKeyMethod(ExpectKeyMethod { ours: Some(_), .. })) {
            return Ok(());
        }
        let Some((message, len)) = ServerKeyMethod::decode(&self.plaintext)? else {
            return Ok(());
        };
        if let Stage::ExpectKeyMethod(ExpectKeyMethod { tls, ours: Some(client) }) =
            std::mem::replace(&mut self.stage, Stage::Failed)
        {
            self.stage = Stage::Active(Active { tls, client, server: Some(message.source), answered: true });
        }
        if let Some(watch) = &mut self.watch {
            watch.hears(KEY_MESSAGE);
        }
        self.rest_is_text(len);
        self.happenings.push_back(Happening::ServerKeyMethod { options: message.options });
        Ok(())
    }

    fn take_client_key_method(&mut self) -> Result<(), Error> {
        let Some((message, len)) = ClientKeyMethod::decode(&self.plaintext)? else {
            return Ok(());
        };
        if let Stage::ExpectKeyMethod(ExpectKeyMethod { tls, .. }) = std::mem::replace(&mut self.stage, Stage::Failed) {
            self.stage = Stage::Active(Active { tls, client: message.source.clone(), server: None, answered: false });
        }
        if let Some(watch) = &mut self.watch {
            watch.hears(KEY_MESSAGE);
        }
        self.rest_is_text(len);
        self.happenings.push_back(Happening::ClientKeyMethod(Box::new(message)));
        Ok(())
    }

    fn rest_is_text(&mut self, consumed: usize) {
        let plaintext = zeroize::Zeroizing::new(std::mem::take(&mut self.plaintext));
        self.lines.extend(plaintext.get(consumed..).unwrap_or_default());
    }

    fn write(&mut self, message: &[u8], name: &'static str) {
        let Some(tls) = self.tls() else { return };
        match tls.write(message) {
            Ok(()) => {
                if let Some(watch) = &mut self.watch {
                    watch.says(name);
                }
                self.take_tls_output();
            }
            Err(e) => self.fail(e.0),
        }
    }

    fn take_tls_output(&mut self) {
        let mut out = Vec::new();
        if let Some(tls) = self.tls() {
            tls.take_output(&mut out);
        }
        if let Some(watch) = &mut self.watch {
            watch.sends(&out, matches!(self.stage, Stage::ExpectTls(_)));
        }
        self.tls_out.extend(out);
        if self.tls_out.len() > MAX_TLS_OUT {
            self.fail("the peer does not take what it asked for".into());
        }
    }

    fn tls(&mut self) -> Option<&mut TlsSession> {
        match &mut self.stage {
            Stage::ExpectTls(ExpectTls { tls })
            | Stage::ExpectKeyMethod(ExpectKeyMethod { tls, .. })
            | Stage::Active(Active { tls, .. }) => Some(tls),
            Stage::ExpectReset | Stage::Failed => None,
        }
    }

    fn fail(&mut self, sentence: String) {
        if !matches!(self.stage, Stage::Failed) {
            self.stage = Stage::Failed;
            self.happenings.push_back(Happening::Failed(sentence));
        }
    }
}
