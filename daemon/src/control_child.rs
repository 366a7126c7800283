//! The control process as a supervisor sees it, a client's and a gateway's: started, talked to, and when it dies started
//! anew. Its death is a non-event: the workers go on, and what it told last (the resume records) is all that its successor
//! needs. One that hangs is killed, and has died then (`heartbeat.rs`).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use link::WorkerEnd;
use tokio::io::unix::AsyncFd;

use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::heartbeat::{Beat, Heartbeat};
use crate::messages::{FromControl, SupervisorEnd, ToControl};
use crate::sandbox::{self, ControlChild};
use crate::sys;

/// A control process that dies this often within [`DEATHS_WITHIN`] has a cause that starting it again does not mend.
const DEATHS: usize = 20;
/// See [`DEATHS`].
const DEATHS_WITHIN: Duration = Duration::from_secs(10);

/// Messages that wait for room in its ring: one for each of very many clients, when all of them are told something. A control
/// process that lets more of them wait does not read.
const BACKLOG: usize = 1 << 18;
/// The same in bytes, each message counted as it is encoded and with [`BESIDE`]: settings of ten thousand clients who all have long ones.
const BACKLOG_BYTES: usize = 128 << 20;
/// What a waiting message takes besides its texts, in bytes.
const BESIDE: usize = size_of::<ToControl>();

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
    backlog: Backlog,
    heartbeat: Heartbeat,
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
        let (backlog, deaths) = (Backlog::default(), VecDeque::new());
        let heartbeat = Heartbeat::new(clock::now().at);
        Ok((Control { configure, workers, launched, backlog, heartbeat, life: Life::Running, deaths }, ends))
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
        (self.launched, self.backlog, self.life) = (launched, Backlog::default(), Life::Running);
        self.heartbeat = Heartbeat::new(clock::now().at);
        Ok(ends)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.launched.child.pid()
    }

    /// Says something to it; what does not fit into its ring waits here. A control process that cannot take it is ended, and
    /// [`Control::next`] says so.
    pub(crate) fn send(&mut self, command: &ToControl) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        if let Err(why) = self.backlog.send(&mut self.launched.end, command) {
            self.condemn(why);
        }
    }

    /// Moves what waits for room in its ring; true when nothing waits. Who has thousands of messages at hand that can as well
    /// be made later asks first.
    pub(crate) fn has_room(&mut self) -> bool {
        let waited = self.backlog.waiting.len();
        // A broken link is noticed where it is read.
        let has_room =
            matches!(self.life, Life::Running) && self.backlog.flush(&mut self.launched.end).unwrap_or(false);
        if self.backlog.waiting.len() < waited {
            // It reads, and has too much to do to answer yet.
            self.heartbeat.heard(clock::now().at);
        }
        has_room
    }

    /// Makes it look at its clock (after a suspend).
    pub(crate) fn wake(&self) {
        self.launched.end.wake_control();
    }

    /// The next thing from it. Safe to drop and call again: at least once a second, or a process that hangs is not noticed.
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
        self.has_room();
        loop {
            match self.launched.end.recv() {
                Ok(Some(message)) => {
                    self.heartbeat.heard(clock::now().at);
                    if message != FromControl::Heartbeat {
                        return Some(FromChild::Message(message));
                    }
                }
                Ok(None) => break,
                Err(error) if matches!(self.life, Life::Running) => {
                    self.condemn(format!("it broke the link's protocol: {error}"));
                    break;
                }
                Err(_) => break,
            }
        }
        self.feel_the_pulse();
        match std::mem::replace(&mut self.life, Life::Mourned) {
            Life::Ended(why) => Some(FromChild::Died(why)),
            other => {
                self.life = other;
                None
            }
        }
    }

    fn feel_the_pulse(&mut self) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        match self.heartbeat.look(clock::now().at) {
            Beat::Fine => {}
            Beat::Ask => self.send(&ToControl::Heartbeat),
            Beat::Gone(quiet) => self.condemn(format!("it hangs: it has not answered for {} s", quiet.as_secs())),
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

/// What it is told, in order, as its ring has room.
#[derive(Default)]
struct Backlog {
    /// With the bytes that each counts for.
    waiting: VecDeque<(usize, ToControl)>,
    bytes: usize,
}

impl Backlog {
    /// # Errors
    /// Why the process is to be ended.
    fn send(&mut self, end: &mut SupervisorEnd, command: &ToControl) -> Result<(), String> {
        if self.flush(end)? {
            return end.send(command).map_err(|error| broke(&error));
        }
        let bytes = weight(command);
        if self.waiting.len() >= BACKLOG || self.bytes.saturating_add(bytes) > BACKLOG_BYTES {
            let (messages, bytes) = (self.waiting.len(), self.bytes);
            return Err(format!("it does not read what it is told: {messages} messages wait, {bytes} bytes"));
        }
        self.waiting.push_back((bytes, command.clone()));
        self.bytes += bytes;
        Ok(())
    }

    /// True when nothing waits any more. While something does, our bell rings when there is room.
    fn flush(&mut self, end: &mut SupervisorEnd) -> Result<bool, String> {
        while end.flush().map_err(|error| broke(&error))? {
            let Some((bytes, next)) = self.waiting.pop_front() else { return Ok(true) };
            self.bytes = self.bytes.saturating_sub(bytes);
            end.send(&next).map_err(|error| broke(&error))?;
        }
        Ok(false)
    }
}

fn broke(error: &link::LinkError) -> String {
    format!("its link broke: {error}")
}

/// What a waiting message counts for, in bytes.
fn weight(command: &ToControl) -> usize {
    let encoded = postcard::serialize_with_flavor(command, postcard::ser_flavors::Size::default());
    encoded.unwrap_or(BACKLOG_BYTES).saturating_add(BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than its ring and the ring's own queue hold.
    const CLIENTS: u32 = 20_000;

    #[test]
    fn thousands_of_messages_at_once_wait_for_a_control_process_that_has_other_things_to_do() {
        let (shared, mut end, _workers) = link::create::<ToControl, FromControl>(1).unwrap();
        let mut control: crate::messages::ControlEnd = shared.into_control_end();
        let mut backlog = Backlog::default();
        for generation in 0..CLIENTS {
            backlog.send(&mut end, &ToControl::Dismiss { generation, text: "RESTART".into() }).unwrap();
        }
        for expected in 0..CLIENTS {
            let heard = loop {
                if let Some(heard) = control.recv_from_supervisor().unwrap() {
                    break heard;
                }
                backlog.flush(&mut end).unwrap();
            };
            assert_eq!(heard, ToControl::Dismiss { generation: expected, text: "RESTART".into() });
        }
        assert!(backlog.flush(&mut end).unwrap() && backlog.waiting.is_empty() && backlog.bytes == 0);
        assert_eq!(control.recv_from_supervisor().unwrap(), None);
    }

    #[test]
    fn a_control_process_that_never_reads_is_found_out() {
        let (_shared, mut end, _workers) = link::create::<ToControl, FromControl>(1).unwrap();
        let mut backlog = Backlog::default();
        let close = |generation| ToControl::Close { generation };
        let most = u32::try_from(BACKLOG).unwrap() + 2_000;
        let refused = (0..most).find_map(|generation| backlog.send(&mut end, &close(generation)).err());
        assert!(refused.unwrap().contains("does not read"));
        assert_eq!(backlog.waiting.len(), BACKLOG);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_as_well() {
        let (_shared, mut end, _workers) = link::create::<ToControl, FromControl>(1).unwrap();
        let mut backlog = Backlog::default();
        let text = "x".repeat(64 * 1024);
        let dismiss = |generation| ToControl::Dismiss { generation, text: text.clone() };
        let refused = (0..u32::try_from(BACKLOG).unwrap()).find_map(|n| backlog.send(&mut end, &dismiss(n)).err());
        assert!(refused.unwrap().contains("bytes"));
        assert!(backlog.bytes <= BACKLOG_BYTES && backlog.bytes + 65 * 1024 > BACKLOG_BYTES, "{}", backlog.bytes);
        assert!(backlog.waiting.len() < 2_100, "{}", backlog.waiting.len());
    }
}
