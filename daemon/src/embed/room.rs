//! skeleton
use std::sync::Arc;

use super::error::{ConnectError, TunnelError};
use super::fate::Fate;
use super::options::Options;
use super::tunnel::Tunnel;
use crate::config::agreed::ClientProfile;

/// A program's place.
#[derive(Debug)]
pub(super) struct Seat {
    fate: Arc<Fate>,
}

impl Seat {
    pub(super) fn leave(&self) {
        self.fate.end(TunnelError::Closed);
        self.fate.set_gone();
    }

    pub(super) fn why(&self) -> TunnelError {
        self.fate.why()
    }

    pub(super) async fn gone(&self) -> Result<(), TunnelError> {
        self.fate.gone().await
    }

    pub(super) fn gone_blocking(&self) -> Result<(), TunnelError> {
        self.fate.gone_blocking()
    }
}

/// Being connected.
pub(super) struct Begun {
    _seat: Seat,
}

pub(super) fn begin(_profile: ClientProfile, _options: Options) -> Result<Begun, ConnectError> {
    Err(ConnectError::System(std::io::ErrorKind::Unsupported.into()))
}

impl Begun {
    pub(super) async fn established(self) -> Result<Tunnel, ConnectError> {
        Err(ConnectError::System(std::io::ErrorKind::Unsupported.into()))
    }

    pub(super) fn established_blocking(self) -> Result<Tunnel, ConnectError> {
        Err(ConnectError::System(std::io::ErrorKind::Unsupported.into()))
    }
}
