//! Where log events go: standard error, as text or as one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// `--log-level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Only what ends the process.
    Error,
    /// What a user should look at.
    Warn,
    /// Connections, renegotiations, changes to the host.
    Info,
    /// Every decision.
    Debug,
    /// Every control packet.
    Trace,
}

impl Level {
    fn directive(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// True when a stream may be coloured: it is a terminal and `NO_COLOR` is unset or empty (no-color.org).
pub fn colour_allowed(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Installs the process's log output. Called once, before anything is logged; a second call is ignored.
pub fn init(format: Format, level: Level) {
    // Only our own crates speak: libraries below us log at their own rate and with their own idea of secrets.
    let own = ["minivpn", "controlplane", "dataplane", "link"];
    let spec = own.map(|target| format!("{target}={}", level.directive())).join(",");
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(spec))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour_allowed(std::io::stderr().is_terminal()));
    let _ = match format {
        Format::Text => builder.compact().try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
