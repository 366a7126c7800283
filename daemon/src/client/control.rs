//! The control process as the client's supervisor sees it: started, talked to, and when it dies started anew. Its death is
//! a non-event: the worker goes on, and what it told last (the resume record) is all that its successor needs.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use controlplane::ClientSetup;
use link::WorkerEnd;
use tokio::io::unix::AsyncFd;

use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::messages::{FromControl, SupervisorEnd, ToControl};
use crate::sandbox::{self, ControlChild};
use crate::sys;

/// A control process that dies this often within [`DEATHS_WITHIN`] has a cause that starting it again does not mend.
const DEATHS: usize = 20;
/// See [`DEATHS`].
const DEATHS_WITHIN: Duration = Duration::from_secs(10);

/// What comes from the control process.
#[derive(Debug)]
pub(super) enum FromChild {
    /// It says something.
    Message(FromControl),
    /// It is no more; why, in a few words. Nothing else comes until [`Control::restart`].
    Died(String),
}

/// The running control process and our end of its link.
pub(super) struct Control {
    setup: ClientSetup,
    launched: Launched,
    life: Life,
    deaths: VecDeque<controlplane::Instant>,
}

/// A process and the descriptors by which it is heard.
struct Launched {
    child: ControlChild,
    end: SupervisorEnd,
    bell: AsyncFd<OwnedFd>,
    exit: AsyncFd<OwnedFd>,
}

/// How far its life has gone.
enum Life {
    /// It runs.
    Running,
    /// It broke the link's protocol and was killed; its exit is awaited, nothing it says counts.
    Condemned(String),
    /// It has ended; what it said before still counts.
    Ended(String),
    /// Its end has been told.
    Mourned,
}

impl Control {
    /// Starts a control process and gives it the client's setup. The worker's end goes to the worker.
    ///
    /// # Errors
    /// The process or its link could not be made.
    pub(super) fn start(setup: ClientSetup) -> Result<(Control, WorkerEnd), Fatal> {
        let (launched, worker) = Launched::new(&setup)?;
        Ok((Control { setup, launched, life: Life::Running, deaths: VecDeque::new() }, worker))
    }

    /// Starts its successor.
    ///
    /// # Errors
    /// As [`Control::start`]; also when it died too often lately.
    pub(super) fn restart(&mut self) -> Result<WorkerEnd, Fatal> {
        let now = clock::now().at;
        self.deaths.retain(|at| now.since(*at) < DEATHS_WITHIN);
        self.deaths.push_back(now);
        if self.deaths.len() > DEATHS {
            let within = DEATHS_WITHIN.as_secs();
            return Err(Fatal::new(
                Exit::Other,
                format!("the control process died {DEATHS} times in {within} s: giving up"),
            ));
        }
        let (launched, worker) = Launched::new(&self.setup)?;
        (self.launched, self.life) = (launched, Life::Running);
        Ok(worker)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.launched.child.pid()
    }

    /// Says something to it. A control process that cannot take it is ended, and [`Control::next`] says so.
    pub(super) fn send(&mut self, command: &ToControl) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        if let Err(error) = self.launched.end.send(command) {
            self.condemn(format!("its link broke: {error}"));
        }
    }

    /// Makes it look at its clock (after a suspend).
    pub(super) fn wake(&self) {
        self.launched.end.wake_control();
    }

    /// The next thing from it. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> FromChild {
        loop {
            if let Some(said) = self.heard() {
                return said;
            }
            let Launched { child, end, bell, exit } = &mut self.launched;
            match self.life {
                Life::Running if !end.prepare_sleep() => {}
                Life::Running => tokio::select! {
                    ready = bell.readable() => {
                        if let Ok(mut guard) = ready {
                            guard.clear_ready();
                        }
                        end.drain_bell();
                    }
                    _ = exit.readable() => self.life = Life::Ended(child.reap()),
                },
                Life::Condemned(ref why) => {
                    let _ = exit.readable().await;
                    child.reap();
                    self.life = Life::Ended(why.clone());
                }
                Life::Ended(_) => {}
                Life::Mourned => std::future::pending().await,
            }
            self.launched.end.awake();
        }
    }

    /// What can be told without waiting.
    fn heard(&mut self) -> Option<FromChild> {
        if matches!(self.life, Life::Condemned(_) | Life::Mourned) {
            return None;
        }
        match self.launched.end.recv() {
            Ok(Some(message)) => return Some(FromChild::Message(message)),
            Ok(None) => {}
            Err(error) if matches!(self.life, Life::Running) => {
                self.condemn(format!("it broke the link's protocol: {error}"))
            }
            Err(_) => {}
        }
        match std::mem::replace(&mut self.life, Life::Mourned) {
            Life::Ended(why) => Some(FromChild::Died(why)),
            other => {
                self.life = other;
                None
            }
        }
    }

    /// Ends a process that broke the rules; [`Control::next`] tells when it is gone.
    pub(super) fn condemn(&mut self, why: String) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        self.launched.child.kill();
        self.life = Life::Condemned(why);
    }
}

impl Launched {
    fn new(setup: &ClientSetup) -> Result<(Launched, WorkerEnd), Fatal> {
        let failed = |what: &str, error: std::io::Error| Fatal::new(Exit::Other, format!("{what}: {error}"));
        let (shared, mut end, workers) =
            link::create(1).map_err(|e| failed("the control process's shared memory could not be made", e))?;
        let child =
            sandbox::spawn_control(&shared).map_err(|e| failed("the control process could not be started", e))?;
        let descriptor = |fd: std::os::fd::BorrowedFd<'_>| {
            let own = fd.try_clone_to_owned().and_then(sys::readable);
            own.map_err(|e| failed("the control process could not be watched", e))
        };
        let (bell, exit) = (descriptor(end.bell_fd())?, descriptor(child.pidfd())?);
        let configure = ToControl::ConfigureClient(Box::new(setup.clone()));
        end.send(&configure).map_err(|e| {
            Fatal::new(
                Exit::Config,
                format!(
                    "the profile is too large for the control process ({e}): shorten its certificate bundle or CRL"
                ),
            )
        })?;
        let worker = workers.into_iter().next();
        let worker = worker.ok_or_else(|| Fatal::new(Exit::Other, "the link was made without a worker".to_owned()))?;
        Ok((Launched { child, end, bell, exit }, worker))
    }
}
