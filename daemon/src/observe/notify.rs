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

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// In a child, whose environment a test may choose.
    pub(crate) fn say_everything() {
        println!("{:?}", watchdog_pause());
        ready("serving");
        reloading();
        status("busy");
        watchdog();
        stopping("bye");
    }

    fn child() -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(["test-child", "notify"]).env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.env_remove("WATCHDOG_PID");
        command
    }

    #[test]
    fn the_manager_hears_every_state() {
        let path = std::env::temp_dir().join(format!("minivpn-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        let output = child().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "30000000").output().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Some(15s)\n");
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1_024];
        let mut heard = Vec::new();
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        let [ready, reloading, status, watchdog, stopping] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!(ready, "READY=1\nSTATUS=serving\n");
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!((status.as_str(), watchdog.as_str()), ("STATUS=busy\n", "WATCHDOG=1\n"));
        assert_eq!(stopping, "STOPPING=1\nSTATUS=bye\n");
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_nothing_fails() {
        let output = child().output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "None\n");
    }
}
