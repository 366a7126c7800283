//! What the service manager is told (`Type=notify`, `WatchdogSec=` of systemd.service(5)), over the socket that `NOTIFY_SOCKET`
//! names. Without one nothing is said. A lost message is no reason to fail: each is tried once.

use std::time::Duration;

use sd_notify::NotifyState;

/// It serves.
pub fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its configuration again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// It ends.
pub fn stopping(status: &str) {
    say(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    say(&[NotifyState::Status(status)]);
}

/// It lives. To be said from the loop that does the work, every [`watchdog_pause`].
pub fn watchdog() {
    say(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] is to be said: half of the time after which the manager ends a silent process. `None`: it does not watch.
pub fn watchdog_pause() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|pause| !pause.is_zero())
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}
