//! The control thread that all tunnels of a process share: who is on it, what is said to them, when it sleeps. It begins with the first
//! tunnel and ends with the last one. The supervisors and control planes that run on it take turns and never block it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controlplane::Instant;
use dataplane::datachannel::aead::Aead;
use dataplane::workers::crew::Crew;
use dataplane::workers::manager::WorkerReport;
use link::EventBell;

use super::error::{ConnectError, TunnelError};
use super::fate::Fate;
use super::options::Options;
use super::supervisor::{Entry, Form, Next, Supervisor};
use super::tunnel::Tunnel;
use crate::client::credentials::Wallet;
use crate::clock;
use crate::config::agreed::ClientProfile;
use crate::host::resolve::ResolveError;

/// The room that is open, if there are tunnels.
static OPEN: Mutex<Option<Door>> = Mutex::new(None);
/// Tunnels are numbered.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The way to say something to the control thread.
#[derive(Clone, Debug)]
pub(super) struct Door {
    words: Sender<Word>,
    bell: EventBell,
}

/// What is said to the control thread.
#[derive(Debug)]
pub(super) enum Word {
    /// A tunnel wants to be made.
    Enter(Box<Entry>),
    /// The program does not want this one any more.
    Leave(u64),
    /// The worker of this one says something.
    Said(u64, WorkerReport),
    /// The name that this one asked for, by the number of its question.
    Resolved(u64, u32, Result<Vec<SocketAddr>, ResolveError>),
    /// A test has something done on the thread.
    #[cfg(test)]
    Do(Deed),
}

impl Door {
    /// What wakes the thread.
    pub(super) fn bell(&self) -> &EventBell {
        &self.bell
    }

    /// Says it; the word comes back when nobody is there any more.
    pub(super) fn say(&self, word: Word) -> Result<(), Word> {
        self.words.send(word).map_err(|unheard| unheard.0)?;
        self.bell.ring();
        Ok(())
    }
}

/// A program's place in the room; leaving it ends the tunnel.
#[derive(Debug)]
pub(super) struct Seat {
    id: u64,
    door: Door,
    fate: Arc<Fate>,
}

impl Seat {
    /// Begins the end. May be said more than once.
    pub(super) fn leave(&self) {
        self.fate.end(TunnelError::Closed);
        // Nobody there: it is over.
        let _ = self.door.say(Word::Leave(self.id));
    }

    /// Why the tunnel carries nothing any more.
    pub(super) fn why(&self) -> TunnelError {
        self.fate.why()
    }

    /// See [`Fate::gone`].
    pub(super) async fn gone(&self) -> Result<(), TunnelError> {
        self.fate.gone().await
    }

    /// See [`Fate::gone_blocking`].
    pub(super) fn gone_blocking(&self) -> Result<(), TunnelError> {
        self.fate.gone_blocking()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A tunnel that is being made. Dropping it gives up.
#[derive(Debug)]
pub(super) struct Begun {
    seat: Seat,
}

impl Begun {
    /// Waits until it is up.
    ///
    /// # Errors
    /// Why it will not be.
    pub(super) async fn established(self) -> Result<Tunnel, ConnectError> {
        let (pipe, parameters) = self.seat.fate.answered().await?;
        Ok(Tunnel::new(pipe, parameters, self.seat))
    }

    /// [`established`](Self::established) that blocks the thread.
    pub(super) fn established_blocking(self) -> Result<Tunnel, ConnectError> {
        let (pipe, parameters) = self.seat.fate.answered_blocking()?;
        Ok(Tunnel::new(pipe, parameters, self.seat))
    }
}

/// Begins to make a tunnel.
///
/// # Errors
/// Something that needs no server to be found out.
pub(super) fn begin(profile: ClientProfile, mut options: Options, form: Form) -> Result<Begun, ConnectError> {
    let wallet = Wallet::given(&profile.credentials, options.credentials.take()).ok_or_else(|| {
        let sentence = "the profile asks for a user name and password: give them in `Options::credentials`";
        ConnectError::Credentials(sentence.to_owned())
    })?;
    let aead = Aead::resolve(options.aead)
        .map_err(|error| ConnectError::Profile(format!("the AEAD {}: {error}", options.aead)))?;
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let fate = Arc::<Fate>::default();
    let entry = Entry::new(id, profile, options, form, wallet, aead, Arc::clone(&fate));
    let door = enter(Word::Enter(Box::new(entry)))?;
    Ok(Begun { seat: Seat { id, door, fate } })
}

/// Says the word in the room that is open, or opens one.
fn enter(mut word: Word) -> Result<Door, ConnectError> {
    // Held until the word is said: a room closes only under this lock, and only when nobody has said anything.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(door) = &*open {
        match door.say(word) {
            Ok(()) => return Ok(door.clone()),
            // Its thread has failed.
            Err(unheard) => word = unheard,
        }
    }
    let (words, inbox) = channel();
    let door = Door { words, bell: EventBell::new()? };
    let room = Room { inbox, door: door.clone(), tunnels: BTreeMap::new(), crew: None };
    std::thread::Builder::new().name("minivpn-control".into()).spawn(move || room.run())?;
    // The thread cannot have gone: it ends under the lock.
    let _ = door.say(word);
    *open = Some(door.clone());
    Ok(door)
}

/// What the control thread has.
struct Room {
    inbox: Receiver<Word>,
    door: Door,
    tunnels: BTreeMap<u64, Supervisor>,
    /// The worker thread that the tunnels share, once one of them wants it. Goes after them.
    crew: Option<Crew>,
}

impl Room {
    fn run(mut self) {
        loop {
            while let Ok(word) = self.inbox.try_recv() {
                self.hear(word);
            }
            let next = self.take_turns();
            if self.tunnels.is_empty() {
                if self.closes() {
                    return;
                }
                continue;
            }
            self.sleep(next);
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Enter(entry) => {
                let id = entry.id();
                if let Some(supervisor) = Supervisor::new(*entry, &self.door, &mut self.crew) {
                    self.tunnels.insert(id, supervisor);
                }
            }
            Word::Leave(id) => self.tell(id, Supervisor::leave),
            Word::Said(id, report) => self.tell(id, |supervisor| supervisor.on_report(report)),
            Word::Resolved(id, question, found) => self.tell(id, |supervisor| supervisor.on_resolved(question, found)),
            #[cfg(test)]
            Word::Do(deed) => deed.0(&mut self.crew),
        }
    }

    /// Of one that is over nothing is awaited any more.
    fn tell(&mut self, id: u64, what: impl FnOnce(&mut Supervisor)) {
        if let Some(supervisor) = self.tunnels.get_mut(&id) {
            what(supervisor);
        }
    }

    /// One turn of each. When the next ones are due; `Some(0)` is at once.
    fn take_turns(&mut self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.tunnels.retain(|_, supervisor| match supervisor.turn() {
            Next::At(at) => {
                next = next.into_iter().chain(at).min();
                true
            }
            Next::Over => false,
        });
        next
    }

    fn sleep(&mut self, next: Option<Instant>) {
        let now = clock::now().at;
        let mut pause = next.map(|at| at.since(now));
        for supervisor in self.tunnels.values_mut() {
            if !supervisor.prepare_sleep() {
                pause = Some(Duration::ZERO);
            }
        }
        if pause != Some(Duration::ZERO) {
            self.door.bell.wait(pause);
        }
        // Before anything is looked at: what is said from now on rings again.
        self.door.bell.drain();
        for supervisor in self.tunnels.values() {
            supervisor.awake();
        }
    }

    /// Whether nobody has come in meanwhile; then the room is closed.
    fn closes(&mut self) -> bool {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        match self.inbox.try_recv() {
            Ok(word) => {
                drop(open);
                self.hear(word);
                false
            }
            Err(_) => {
                *open = None;
                true
            }
        }
    }
}

/// Something that a test does on the control thread, to the thread of the workers or to its own.
#[cfg(test)]
pub(super) struct Deed(Act);

#[cfg(test)]
type Act = Box<dyn FnOnce(&mut Option<Crew>) + Send>;

#[cfg(test)]
impl std::fmt::Debug for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deed")
    }
}

/// Has it done in the room that is open.
#[cfg(test)]
pub(super) fn have_done(deed: impl FnOnce(&mut Option<Crew>) + Send + 'static) {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.as_ref().unwrap().say(Word::Do(Deed(Box::new(deed)))).unwrap();
}
