//! A tunnel whose packets come as a TUN queue with offloads would give them: those of one TCP flow joined, with checksums that were looked
//! at; and that takes them so. It is for a stack that knows what to do with them. Everybody else has a [`Tunnel`], of single packets.

use std::io;

use super::error::{ConnectError, TunnelError};
use super::frames::Frames;
use super::options::Options;
use super::parameters::Parameters;
use super::pipe::{Pipe, Way};
use super::room;
use super::supervisor::Form;
use super::tunnel::Tunnel;
use crate::config::agreed::ClientProfile;

/// See the file's text.
#[derive(Debug)]
pub(crate) struct Trunk(Tunnel);

impl Trunk {
    /// As [`Tunnel::connect`].
    ///
    /// # Errors
    /// Likewise.
    pub(crate) async fn connect(profile: ClientProfile, options: Options) -> Result<Trunk, ConnectError> {
        room::begin(profile, options, Form::Joined)?.established().await.map(Trunk)
    }

    /// What was settled when the tunnel came up.
    pub(crate) fn parameters(&self) -> &Parameters {
        self.0.parameters()
    }

    /// Waits for frames and fills `frames` with those that are there (what it held is forgotten).
    ///
    /// # Errors
    /// As [`Tunnel::recv`].
    pub(crate) async fn receive(&self, frames: &mut Frames) -> Result<(), TunnelError> {
        frames.clear();
        let ends = &self.0.ends;
        let (pipe, first) = (&ends.pipe, &mut *frames);
        let came = pipe.ready(Way::In, move || take(pipe, first)).await;
        ends.received(came)?;
        // An end that comes now comes again with the next call.
        while matches!(take(pipe, frames), Ok(1..)) {}
        Ok(())
    }

    /// Sends every frame, in order; waits while the tunnel has no room.
    ///
    /// # Errors
    /// As [`Tunnel::send`]. When the future is dropped, an unknown number of them was sent.
    pub(crate) async fn send(&self, frames: &Frames) -> Result<(), TunnelError> {
        let ends = &self.0.ends;
        for frame in frames.iter() {
            let sent = ends.pipe.ready(Way::Out, || ends.pipe.try_send_frame(frame)).await;
            sent.map_err(|error| ends.failed(error))?;
        }
        Ok(())
    }

    /// As [`Tunnel::close`].
    ///
    /// # Errors
    /// Likewise.
    pub(crate) async fn close(self) -> Result<(), TunnelError> {
        self.0.close().await
    }
}

/// The next frame into the next place: its length, 0 at the end or when there is no room.
fn take(pipe: &Pipe, frames: &mut Frames) -> io::Result<usize> {
    let Some(place) = frames.vacant() else { return Ok(0) };
    let length = pipe.try_recv_frame(place)?;
    if length > 0 {
        frames.taken(length);
    }
    Ok(length)
}
