//! The control process as a supervisor sees it, a client's and a gateway's: started, talked to, and when it dies started
//! anew. Its death is a non-event: the workers go on, and what it told last (the resume records) is all that its successor
//! needs.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

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
pub(crate) enum FromChild {
    /// It says something.
    Message(FromControl),
    /// It is no more; why, in a few words. Nothing else comes until [`Control::restart`].
    Died(String),
}

/// The running control process and our end of its link.
pub(crate) struct Control {
    /// What every control process is told first.
    configure: ToControl,
    workers: usize,
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
    /// Starts a control process and gives it its configuration ([`ToControl::ConfigureClient`] or
    /// [`ToControl::ConfigureGateway`]). The workers' ends, in order, go to the workers.
    ///
    /// # Errors
    /// The process or its link could not be made.
    pub(crate) fn start(configure: ToControl, workers: usize) -> Result<(Control, Vec<WorkerEnd>), Fatal> {
        let (launched, ends) = Launched::new(&configure, workers)?;
        Ok((Control { configure, workers, launched, life: Life::Running, deaths: VecDeque::new() }, ends))
    }

    /// What a successor is told first, from now on.
    pub(crate) fn set_configuration(&mut self, configure: ToControl) {
        self.configure = configure;
    }

    /// Starts its successor.
    ///
    /// # Errors
    /// As [`Control::start`]; also when it died too often lately.
    pub(crate) fn restart(&mut self) -> Result<Vec<WorkerEnd>, Fatal> {
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
        let (launched, ends) = Launched::new(&self.configure, self.workers)?;
        (self.launched, self.life) = (launched, Life::Running);
        Ok(ends)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.launched.child.pid()
    }

    /// Says something to it. A control process that cannot take it is ended, and [`Control::next`] says so.
    pub(crate) fn send(&mut self, command: &ToControl) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        if let Err(error) = self.launched.end.send(command) {
            self.condemn(format!("its link broke: {error}"));
        }
    }

    /// Moves what waits for room in its ring; true when nothing waits. Who has thousands of messages to send asks first, because
    /// a queue that is longer than a burst ends the link.
    pub(crate) fn has_room(&mut self) -> bool {
        // A broken link is noticed where it is read.
        matches!(self.life, Life::Running) && self.launched.end.flush().unwrap_or(false)
    }

    /// Makes it look at its clock (after a suspend).
    pub(crate) fn wake(&self) {
        self.launched.end.wake_control();
    }

    /// The next thing from it. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> FromChild {
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
    pub(crate) fn heard(&mut self) -> Option<FromChild> {
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
    pub(crate) fn condemn(&mut self, why: String) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        self.launched.child.kill();
        self.life = Life::Condemned(why);
    }
}

impl Launched {
    fn new(configure: &ToControl, workers: usize) -> Result<(Launched, Vec<WorkerEnd>), Fatal> {
        let failed = |what: &str, error: std::io::Error| Fatal::new(Exit::Other, format!("{what}: {error}"));
        let (shared, mut end, ends) =
            link::create(workers).map_err(|e| failed("the control process's shared memory could not be made", e))?;
        let child =
            sandbox::spawn_control(&shared).map_err(|e| failed("the control process could not be started", e))?;
        let descriptor = |fd: std::os::fd::BorrowedFd<'_>| {
            let own = fd.try_clone_to_owned().and_then(sys::readable);
            own.map_err(|e| failed("the control process could not be watched", e))
        };
        let (bell, exit) = (descriptor(end.bell_fd())?, descriptor(child.pidfd())?);
        end.send(configure).map_err(|e| {
            Fatal::new(
                Exit::Config,
                format!(
                    "the configuration is too large for the control process ({e}): shorten its certificate bundle or CRL"
                ),
            )
        })?;
        Ok((Launched { child, end, bell, exit }, ends))
    }
}
