//! One address: packets, timers and signals until a session is established and left again, or failed.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use controlplane::trace::{Record, Stage, What};
use controlplane::{Ending, Established, Event as Told, Instant, KeyEvent, Now, Output, Path, Random};

use super::event::{Agreed, Event, More, Operation, seconds};
use super::run::Run;
use super::{farewell, reasons, socket};
use crate::client::credentials::Offer;
use crate::client::endings::{self, Failure, Verdict};
use crate::client::silence::Silence;
use crate::config::agreed::{AuthRetry, Remote};
use crate::exit::{Exit, Fatal};
use crate::signals::Signal;
use crate::{clock, messages};

/// The longest datagram (RFC 768).
const LONGEST: usize = 65_535;

/// What became of an address.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A session was established, and left.
    Established,
    /// It was not; another address may be better.
    Failed(Failure),
    /// It was not, and `connect` would end here.
    Fatal(Fatal),
    /// Somebody wants us to stop.
    Interrupted,
}

/// An attempt that is under way.
struct Ongoing {
    address: SocketAddr,
    generation: u32,
    began: Instant,
    /// Sends; what receives is a copy of it.
    socket: UdpSocket,
    answered: bool,
    /// The key of the session, for the farewell.
    key: Option<link::InstallKey>,
    auth_token: bool,
    established: bool,
    ended: Option<Ending>,
    /// What the kernel said when something was sent.
    trouble: Option<io::Error>,
    silence: Silence,
}

/// What woke an attempt.
enum Woken {
    Signal(Signal),
    Received(io::Result<usize>),
    Time,
}

/// The present, once there are random bytes. For the first of them the library gathers entropy, some 20 ms long; the reset, which needs
/// them, is noted as sent at this moment, and its answer would seem to come so much later.
fn present(rng: &mut dyn Random, clock: impl FnOnce() -> Now) -> Now {
    rng.fill(&mut [0]);
    clock()
}

impl Run {
    /// Traces the handshake with one address.
    pub(super) async fn attempt(&mut self, remote: &Remote, address: SocketAddr) -> Outcome {
        self.attempts = self.attempts.saturating_add(1);
        self.stage = Stage::Initial;
        self.journal.in_error = false;
        let opened = socket::open(&self.profile, remote, address).and_then(|socket| {
            let receiver = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
            let local = socket.local_addr()?;
            Ok((socket, receiver, local))
        });
        let (socket, receiver, local) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.fails("no_way", Failure::NoWay(address, error.to_string()), ""),
        };
        self.emit(Operation::Attempt, More::Attempt { remote: address.to_string(), local: local.to_string() });
        let now = present(&mut self.rng, clock::now);
        let mut on = Ongoing {
            address,
            generation: self.attempts,
            began: now.at,
            socket,
            answered: false,
            key: None,
            auth_token: false,
            established: false,
            ended: None,
            trouble: None,
            silence: Silence::default(),
        };
        let path = Path { worker: 0, local: None, ifindex: 0, remote: address, stream: None };
        self.client.connect(now, &mut self.rng, on.generation, path, self.wallet.credentials());
        let outcome = self.until_it_ends(&mut on, &receiver, remote, &path).await;
        self.client.forget(on.generation);
        outcome
    }

    async fn until_it_ends(
        &mut self,
        on: &mut Ongoing,
        receiver: &tokio::net::UdpSocket,
        remote: &Remote,
        path: &Path,
    ) -> Outcome {
        let mut buffer = vec![0; LONGEST];
        loop {
            let wake = self.drain(on);
            if let Some(ending) = on.ended.take() {
                return self.ends(on, ending);
            }
            if let Some(error) = on.trouble.take()
                && let Some(outcome) = self.on_trouble(on, &error)
            {
                return outcome;
            }
            let now = clock::now().at;
            let limit = self.limit(on, remote);
            if limit.is_some_and(|limit| limit <= now) {
                return self.runs_out_of_time(on, remote);
            }
            if wake.is_some_and(|wake| wake <= now) {
                self.client.handle_timeout(clock::now(), &mut self.rng);
                continue;
            }
            let until = [wake, limit].into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
            // A minute too early does no harm, and a timer must not overflow.
            let pause = until.since(now).min(Duration::from_secs(60));
            let woken = tokio::select! {
                biased;
                signal = self.signals.next() => Woken::Signal(signal),
                received = receiver.recv(&mut buffer) => Woken::Received(received),
                () = tokio::time::sleep(pause) => Woken::Time,
            };
            match woken {
                Woken::Signal(Signal::Stop) if !on.established => return self.is_interrupted(),
                Woken::Signal(_) | Woken::Time => {}
                Woken::Received(Ok(len)) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    self.client.handle_datagram(clock::now(), &mut self.rng, path, bytes);
                }
                Woken::Received(Err(error)) => on.trouble = Some(error),
            }
        }
    }

    /// Takes what the control plane has to tell and to send; when it wants to be woken.
    fn drain(&mut self, on: &mut Ongoing) -> Option<Instant> {
        loop {
            let trace = self.client.take_trace();
            self.journal.sums.not_shown = self.journal.sums.not_shown.saturating_add(trace.missed);
            trace.records.iter().for_each(|record| self.note(on, record));
            match self.client.poll_output() {
                Output::Idle { wake } => return wake.map(|(at, _)| at),
                Output::Transmit { bytes, .. } => {
                    if let Err(error) = on.socket.send(&bytes)
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        on.trouble = Some(error);
                    }
                }
                Output::Event(Told::InstallKey(key)) => {
                    // There is no worker: the key is kept for the farewell, and counts as installed.
                    let name = key.name;
                    if let Ok(link::WorkerCommand::InstallKey(key)) = messages::worker_command(Told::InstallKey(key)) {
                        on.key = Some(key);
                    }
                    self.client.handle_key_event(clock::now(), &mut self.rng, KeyEvent::KeyInstalled(name));
                }
                Output::Event(Told::AuthToken { .. }) => on.auth_token = true,
                Output::Event(Told::Established(established)) => self.is_established(on, &established),
                Output::Event(Told::Ended { generation, ending }) if generation == on.generation => {
                    on.ended = Some(ending);
                }
                Output::Event(_) => {}
            }
        }
    }

    fn note(&mut self, on: &mut Ongoing, record: &Record) {
        match &record.what {
            What::Stage if record.stage != Stage::Error => self.stage = record.stage,
            What::In(_) => on.answered = true,
            What::Stage | What::Out(_) | What::Dropped(..) => {}
        }
        on.silence.note(record);
        self.journal.emit(Event::of_record(record, self.journal.started));
    }

    fn is_established(&mut self, on: &mut Ongoing, established: &Established) {
        on.established = true;
        let took = seconds(on.began, clock::now().at);
        let agreed = Agreed::new(established, on.auth_token, took);
        self.emit(Operation::Established, More::Established(Box::new(agreed)));
        self.client.disconnect(clock::now(), on.generation);
    }

    /// Until when the address has time; for ever once it is established, since leaving takes a second at most.
    fn limit(&self, on: &Ongoing, remote: &Remote) -> Option<Instant> {
        let answer = Duration::from_secs(u64::from(remote.connect_timeout));
        let limit = self.options.timeout.or((!on.answered).then_some(answer));
        limit.filter(|_| !on.established).map(|limit| on.began + limit)
    }

    fn ends(&mut self, on: &Ongoing, ending: Ending) -> Outcome {
        if on.established {
            self.leaves(on, &ending);
            return Outcome::Established;
        }
        let reason = word(&ending);
        // What connect does about passwords and tokens is to come again; here there is one try.
        match endings::judge(ending, AuthRetry::None, self.offer(), false) {
            Verdict::Fatal(fatal) => self.ends_with(reason, fatal),
            Verdict::NextAddress => self.fails(reason, Failure::Silence(on.address), &on.silence.words()),
            Verdict::Again { why, .. } => self.fails(reason, Failure::Answered(why), &on.silence.ignored_words()),
            Verdict::WithPassword | Verdict::AskPassword(_) | Verdict::Left { .. } => {
                self.ends_with(reason, Fatal::new(Exit::Other, "the session ended"))
            }
        }
    }

    fn offer(&self) -> Offer {
        self.wallet.offers()
    }

    fn leaves(&mut self, on: &Ongoing, ending: &Ending) {
        self.journal.sums.farewell = match ending {
            Ending::Disconnected { exit_sent: true } => Some("control_channel"),
            Ending::Disconnected { exit_sent: false } => {
                let datagram = on.key.as_ref().and_then(farewell::datagram);
                let sent = datagram.is_some_and(|datagram| on.socket.send(&datagram).is_ok());
                sent.then_some("data_channel")
            }
            _ => None,
        };
    }

    /// The kernel refused to send, or an ICMP error came. Anybody can send one, so a server that answered outweighs it.
    fn on_trouble(&mut self, on: &Ongoing, error: &io::Error) -> Option<Outcome> {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        if on.answered || on.established {
            let why = format!("ignored, because the server has answered: {error}");
            self.emit(Operation::Icmp, More::Reason { reason: if refused { "refused" } else { "no_way" }, why });
            return None;
        }
        Some(if refused {
            self.fails("refused", Failure::Refused(on.address), "")
        } else {
            self.fails("no_way", Failure::NoWay(on.address, error.to_string()), "")
        })
    }

    fn runs_out_of_time(&mut self, on: &Ongoing, remote: &Remote) -> Outcome {
        if !on.answered {
            return self.fails("unanswered", Failure::Silence(on.address), &on.silence.words());
        }
        let limit = self.options.timeout.unwrap_or(Duration::from_secs(u64::from(remote.connect_timeout)));
        let stage = reasons::stage(self.stage.as_str());
        let why = format!("the handshake was not complete within {} s; it stopped here: {stage}", limit.as_secs_f64());
        self.fails("timeout", Failure::Answered(why), &on.silence.ignored_words())
    }

    fn is_interrupted(&mut self) -> Outcome {
        let why = "interrupted".to_owned();
        self.errs();
        self.emit(Operation::Failure, More::Failure { reason: "interrupted", why, exit_status: Exit::Other.status() });
        Outcome::Interrupted
    }

    fn fails(&mut self, reason: &'static str, failure: Failure, more: &str) -> Outcome {
        let exit_status = Exit::Unreachable.status();
        self.errs();
        self.emit(Operation::Failure, More::Failure { reason, why: format!("{failure}{more}"), exit_status });
        Outcome::Failed(failure)
    }

    fn ends_with(&mut self, reason: &'static str, fatal: Fatal) -> Outcome {
        let (why, exit_status) = (fatal.sentence.clone(), fatal.exit.status());
        self.errs();
        self.emit(Operation::Failure, More::Failure { reason, why, exit_status });
        Outcome::Fatal(fatal)
    }

    /// The control plane says by itself when a session of its own failed.
    fn errs(&mut self) {
        if !self.journal.in_error {
            let t = seconds(self.journal.started, clock::now().at);
            self.journal.emit(Event::plain(Operation::State, Stage::Error, t, self.attempts, More::None {}));
        }
    }
}

/// An ending in one word.
fn word(ending: &Ending) -> &'static str {
    match ending {
        Ending::AuthFailed { .. } => "auth_failed",
        Ending::Tls(_) => "tls",
        Ending::Incompatible(_) => "incompatible",
        Ending::Unanswered => "unanswered",
        Ending::HandshakeTimeout { .. } => "timeout",
        Ending::Restart { .. } => "restart",
        Ending::Halt(_) => "halt",
        Ending::PeerExited => "peer_exited",
        Ending::Disconnected { .. } | Ending::Replaced | Ending::Internal(_) => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that takes a second for its first byte, by a clock that it moves.
    struct Slow<'a>(&'a std::cell::Cell<u64>);

    impl Random for Slow<'_> {
        fn fill(&mut self, out: &mut [u8]) {
            assert!(!out.is_empty(), "nothing is gathered for nothing");
            self.0.set(self.0.get().max(1_000_000_000));
        }
    }

    #[test]
    fn what_gathering_entropy_takes_is_not_counted_as_the_servers() {
        let clock = std::cell::Cell::new(0);
        let now = present(&mut Slow(&clock), || Now { at: Instant(clock.get()), unix: 0 });
        assert_eq!(now.at, Instant(1_000_000_000));
    }
}
