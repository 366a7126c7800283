//! The TUN's read and write: one frame a call, none of which waits, and what is tried next when the kernel refuses.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::drop_reason::DropReason;
#[cfg(feature = "faults")]
use crate::sys::faults;
use crate::sys::resplit;
use crate::sys::wire::Why;
use crate::sys::{Observer, Step, Trouble};
use crate::tun::coalesce::TunBatch;
use crate::tun::virtio::{GSO_NONE, VNET_HDR_LEN, VnetHeader};

/// The longest frame of a TUN: header and 65,535 bytes; some slack for whoever writes behind the packet.
const FRAME: usize = VNET_HDR_LEN + 65_535 + 247;
/// TUN reads in one turn: enough to fill a send with small packets.
const TUN_READS: usize = 64;

/// Reads from the TUN, with the one buffer that stays warm in the cache.
pub(in crate::sys) struct TunPort {
    buffer: Box<[u8]>,
    /// A frame that was read, and that the pipeline wants again.
    kept: Option<usize>,
}

impl TunPort {
    pub(in crate::sys) fn new() -> Self {
        Self { buffer: vec![0; FRAME].into(), kept: None }
    }

    /// Forgets the frame that was kept.
    pub(in crate::sys) fn clear(&mut self) {
        self.kept = None;
    }

    /// Whether a frame waits to be handed out again.
    pub(in crate::sys) fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Hands out frames: how many, and why no more.
    pub(in crate::sys) fn read(
        &mut self,
        tun: BorrowedFd<'_>,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&mut [u8]) -> Step,
    ) -> (usize, Why) {
        for count in 0..TUN_READS {
            let len = match self.kept.take() {
                Some(len) => len,
                None => match read_frame(tun, &mut self.buffer) {
                    Err(Errno::AGAIN) => return (count, Why::Empty),
                    Err(Errno::INTR) => continue,
                    Ok(0) => {
                        observer.trouble(Trouble::Tun(libc::EPIPE));
                        return (count, Why::Gone);
                    }
                    Ok(len) => len,
                    // An interface that is down has nothing to read; one that fails has been deleted.
                    Err(error) => {
                        observer.trouble(Trouble::Tun(error.raw_os_error()));
                        return (count, Why::Gone);
                    }
                },
            };
            match each(&mut self.buffer[..len]) {
                Step::More => {}
                Step::Stop => return (count + 1, Why::Enough),
                Step::Again => {
                    self.kept = Some(len);
                    return (count, Why::Enough);
                }
            }
        }
        (TUN_READS, Why::Enough)
    }

    /// Writes the batch and clears it.
    pub(in crate::sys) fn write(tun: Option<BorrowedFd<'_>>, observer: &mut dyn Observer, batch: &mut TunBatch) {
        for frame in batch.frames() {
            let packets = packets_in(frame);
            let Some(tun) = tun else {
                observer.dropped(DropReason::TunError, packets);
                continue;
            };
            loop {
                match write_frame(tun, frame) {
                    Ok(len) if len == frame.len() => observer.written(packets),
                    // A TUN takes a frame whole or not at all; of one that was cut, nobody can read the packets.
                    Ok(_) => {
                        observer.dropped(DropReason::TunError, packets);
                        observer.trouble(Trouble::Tun(libc::EMSGSIZE));
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN | Errno::NOBUFS) => observer.dropped(DropReason::TunFull, packets),
                    // Not the packets, but their being joined may be what this kernel does not take.
                    Err(error @ (Errno::INVAL | Errno::IO)) if packets > 1 => {
                        resplit::write_singly(frame, packets, error, observer, &mut |single| {
                            rustix::io::write(tun, single)
                        });
                    }
                    Err(error) => {
                        observer.dropped(DropReason::TunError, packets);
                        observer.trouble(Trouble::Tun(error.raw_os_error()));
                    }
                }
                break;
            }
        }
        batch.clear();
    }
}

fn read_frame(tun: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    #[cfg(feature = "faults")]
    faults::read_tun()?;
    rustix::io::read(tun, buffer)
}

fn write_frame(tun: BorrowedFd<'_>, frame: &[u8]) -> Result<usize, Errno> {
    #[cfg(feature = "faults")]
    if let Some(outcome) = faults::write_tun(frame.len()) {
        return outcome;
    }
    rustix::io::write(tun, frame)
}

/// How many packets a frame of ours stands for.
fn packets_in(frame: &[u8]) -> u64 {
    match VnetHeader::parse(frame) {
        Some(header) if header.gso_type != GSO_NONE && header.gso_size > 0 => {
            let payload = frame.len().saturating_sub(VNET_HDR_LEN + usize::from(header.hdr_len));
            payload.div_ceil(usize::from(header.gso_size)).max(1) as u64
        }
        _ => 1,
    }
}
