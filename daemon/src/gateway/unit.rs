//! The systemd unit of a gateway: its text, writing and starting it, and taking it away.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::checklist::{Checklist, Mark};
use super::names::GatewayName;
use super::up::executable;
use super::whole_file;
use crate::exit::{Exit, Fatal};

/// Where units of the host's owner are (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
/// This directory exists where systemd runs the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The unit of gateways that are configured by hand, hardened as far as a gateway can be.
const TEMPLATE: &str = include_str!("../../../deploy/systemd/minivpn-gateway@.service");

/// What became of `--install`.
#[derive(Debug)]
pub struct Installed {
    path: PathBuf,
    written: io::Result<()>,
    /// `None`: systemd does not run here.
    started: Option<Result<(), String>>,
}

/// The unit's name.
pub fn name_of(gateway: &GatewayName) -> String {
    format!("minivpn-gateway-{gateway}.service")
}

/// Writes the unit, and starts it now and at every boot where systemd runs.
pub fn install(gateway: &GatewayName, directory: &Path) -> Installed {
    let path = Path::new(UNITS).join(name_of(gateway));
    let written = std::fs::create_dir_all(UNITS).and_then(|()| {
        whole_file::write(&path, text(gateway, directory, &executable()).as_bytes())?;
        // Anybody may read a unit, and systemd wants it so.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
    });
    let started = (written.is_ok() && Path::new(BOOTED).exists()).then(|| {
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", &name_of(gateway)])?;
        systemctl(&["restart", &name_of(gateway)])
    });
    Installed { path, written, started }
}

/// Whether there is a unit of this gateway.
pub fn is_installed(gateway: &GatewayName) -> bool {
    Path::new(UNITS).join(name_of(gateway)).exists()
}

/// Stops and deletes the unit; sentences about what was done, none where there is no unit.
///
/// # Errors
/// systemd or the file system refuses.
pub fn remove(gateway: &GatewayName) -> Result<Vec<String>, Fatal> {
    let path = Path::new(UNITS).join(name_of(gateway));
    if !is_installed(gateway) {
        return Ok(Vec::new());
    }
    let failed = |what: String| Fatal::new(Exit::Other, what);
    let running = Path::new(BOOTED).exists();
    if running {
        systemctl(&["disable", "--now", &name_of(gateway)]).map_err(failed)?;
    }
    whole_file::remove(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    if running {
        systemctl(&["daemon-reload"]).map_err(failed)?;
    }
    Ok(vec![format!("stopped and removed: {}", path.display())])
}

impl Installed {
    /// Adds what was done to the list.
    pub fn describe(&self, list: &mut Checklist) {
        let path = self.path.display();
        let start = format!("systemctl daemon-reload && systemctl enable --now {}", unit_name(&self.path));
        match (&self.written, &self.started) {
            (Err(_), _) => {}
            (Ok(()), None) => {
                list.add(Mark::Attention, "unit", format!("{path}; systemd does not run here. Where it does: {start}"))
            }
            (Ok(()), Some(Ok(()))) => list.add(Mark::New, "unit", format!("{path}, started now and at every boot")),
            (Ok(()), Some(Err(_))) => list.add(Mark::Attention, "unit", format!("{path}, but it could not be started")),
        }
    }

    /// Whether everything that can be done here was done.
    ///
    /// # Errors
    /// The unit could not be written or started.
    pub fn into_result(self) -> Result<(), Fatal> {
        self.written.map_err(|error| Fatal::new(Exit::Other, format!("{}: {error}", self.path.display())))?;
        match self.started {
            Some(Err(why)) => {
                let unit = unit_name(&self.path);
                Err(Fatal::new(Exit::Other, format!("{why}\n`journalctl -u {unit}` tells more")))
            }
            _ => Ok(()),
        }
    }
}

fn unit_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn systemctl(words: &[&str]) -> Result<(), String> {
    let command = format!("systemctl {}", words.join(" "));
    let output = Command::new("systemctl").args(words).output().map_err(|error| format!("{command}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The unit: the one of `deploy/`, for this gateway alone. It names no setting, because those are in the state directory.
fn text(gateway: &GatewayName, directory: &Path, executable: &Path) -> String {
    let (directory, executable) = (escaped(directory), escaped(executable));
    let mut text = "# Written by `minivpn gateway up --install`; `minivpn gateway down` removes it.\n".to_owned();
    // What stands before the first section tells how the template is used.
    let lines = TEMPLATE.lines().skip_while(|line| !line.starts_with('['));
    for line in lines.filter(|line| !line.starts_with("EnvironmentFile=")) {
        match line.starts_with("ExecStart=") {
            true => {
                let start = format!("{executable} gateway up --name {gateway} --state-dir {directory}");
                text.push_str(&format!("ExecStart={start}\nReadWritePaths={directory}"));
            }
            false => text.push_str(&line.replace("%i", gateway.as_str())),
        }
        text.push('\n');
    }
    text
}

/// A path as one word of a unit (systemd.syntax(7), systemd.service(5)): specifiers and variables are doubled.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%").replace('$', "$$");
    if text.chars().any(|c| c.is_whitespace() || "\"'\\;".contains(c)) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_starts_this_executable_with_this_directory() {
        let name = "eu".parse().unwrap();
        let text = text(&name, Path::new("/srv/my vpn/100%"), Path::new("/usr/bin/minivpn"));
        let start = "ExecStart=/usr/bin/minivpn gateway up --name eu --state-dir \"/srv/my vpn/100%%\"";
        assert!(text.lines().any(|line| line == start), "{text}");
        for wanted in [
            "[Unit]",
            "Description=minivpn gateway eu",
            "[Service]",
            "Type=notify",
            "ProtectSystem=strict",
            "WorkingDirectory=-/etc/minivpn",
            "[Install]",
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
        }
        assert_eq!(text.matches("ExecStart=").count(), 1);
        assert!(text.lines().any(|line| line == "ReadWritePaths=\"/srv/my vpn/100%%\""), "{text}");
        assert!(!text.contains("%i") && !text.contains("EnvironmentFile"), "{text}");
        assert_eq!(name_of(&name), "minivpn-gateway-eu.service");
    }

    #[test]
    fn removing_a_unit_that_was_never_written_does_nothing() {
        assert_eq!(remove(&"no-such-gateway-here".parse().unwrap()).unwrap(), Vec::<String>::new());
    }
}
