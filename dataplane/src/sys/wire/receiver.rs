//! Receiving: recvmmsg into a few buffers that stay in the cache, handed out one by one. Nothing here waits.

use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{null, null_mut};

use link::message::Path;
use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::sys::cmsg::{self, CONTROL, Control};
#[cfg(feature = "faults")]
use crate::sys::faults;
use crate::sys::name::{self, NAME, Name};
use crate::sys::socket::WireSocket;
use crate::sys::wire::{Why, last_errno};
use crate::sys::{Observer, Step, Trouble};

/// The arrays that recvmmsg fills, and the datagrams that are not handed out yet.
pub(in crate::sys) struct Receiver {
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    names: Box<[Name]>,
    buffers: Box<[u8]>,
    next: usize,
    filled: usize,
    /// How many the last call asked for.
    asked: usize,
    /// How many the next one will ask for.
    width: usize,
}

/// Datagrams in one recvmmsg.
const RECEIVES: usize = 16;
/// Trains in one recvmmsg: 256 KiB, which are still in the second-level cache when the last of them is opened.
const TRAINS: usize = 4;
/// From so many bytes on, on average, what comes is trains.
const TRAIN_BYTES: usize = 8192;
/// Datagrams or trains in one turn: enough to amortise the rest of the loop, few enough to keep the TUN waiting shortly.
const TURN: usize = 64;
/// From one buffer to the next: not a power of two, which would put the beginnings of all into the same cache sets.
const STRIDE: usize = DATAGRAM + 33 * 64;
/// Bytes for one datagram or train: the longest that UDP carries.
const DATAGRAM: usize = 65_536;

impl Receiver {
    pub(in crate::sys) fn new() -> Self {
        // SAFETY: mmsghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        let (header, iovec) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        Self {
            headers: vec![header; RECEIVES].into(),
            iovecs: vec![iovec; RECEIVES].into(),
            controls: vec![Control::default(); RECEIVES].into(),
            names: vec![Name::default(); RECEIVES].into(),
            buffers: vec![0; RECEIVES * STRIDE].into(),
            next: 0,
            filled: 0,
            asked: 0,
            width: TRAINS,
        }
    }

    /// Forgets what was received and not handed out.
    pub(in crate::sys) fn clear(&mut self) {
        self.filled = 0;
        self.next = 0;
    }

    /// Whether something received waits to be handed out.
    pub(in crate::sys) fn has_more(&self) -> bool {
        self.next < self.filled
    }

    /// Hands out what there is, at most a turn's worth: how many, and why no more.
    pub(in crate::sys) fn receive(
        &mut self,
        socket: &WireSocket,
        path: &Path,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(Train<'_>) -> Step,
    ) -> (usize, Why) {
        let mut short = false;
        for count in 0..TURN {
            if !self.has_more() {
                if short {
                    return (count, Why::Short);
                }
                match self.fill(socket) {
                    Ok(0) | Err(Errno::AGAIN) => return (count, Why::Empty),
                    Ok(filled) => short = filled < self.asked,
                    Err(Errno::INTR) => continue,
                    // Often what ICMP said of an earlier datagram; behind it there may be more.
                    Err(error) => {
                        observer.trouble(Trouble::Socket(error.raw_os_error()));
                        return (count, Why::Enough);
                    }
                }
            }
            if let Some(arrived) = self.next()
                && hand_out(arrived, path, observer, each) != Step::More
            {
                return (count + 1, Why::Enough);
            }
        }
        (TURN, Why::Enough)
    }

    /// The next datagram that was received, as bytes, control, name and whether it was cut.
    pub(in crate::sys) fn next(&mut self) -> Option<Arrived<'_>> {
        let slot = self.next;
        if slot >= self.filled {
            return None;
        }
        self.next += 1;
        let header = &self.headers[slot];
        let len = (header.msg_len as usize).min(DATAGRAM);
        let control = header.msg_hdr.msg_controllen.min(CONTROL);
        let name_len = (header.msg_hdr.msg_namelen as usize).min(NAME);
        Some(Arrived {
            bytes: &mut self.buffers[slot * STRIDE..slot * STRIDE + len],
            control: &self.controls[slot].as_mut_bytes()[..control],
            remote: name::read(&self.names[slot].as_mut_bytes()[..name_len]),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Fills the buffers with what is there. Only when everything was handed out.
    pub(in crate::sys) fn fill(&mut self, socket: &WireSocket) -> Result<usize, Errno> {
        debug_assert!(!self.has_more());
        self.clear();
        self.asked = self.width;
        #[cfg(feature = "faults")]
        faults::receive()?;
        let headers = self.aim(socket.remote().is_none());
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `asked` is at most RECEIVES, and `headers` points to RECEIVES headers, each of which `aim` has just pointed to its own iovec over its
        // own DATAGRAM bytes of `buffers`, to its own control buffer of CONTROL bytes and, when named, to its own name
        // of NAME bytes (`Control` and `Name` begin with their only field), with these lengths. All are boxed in
        // `self`, which stays mutably borrowed, and nothing of them is lent out (`Arrived` borrows `self`). Whatever
        // bytes the kernel writes there are valid: they are integers. The null pointer means: no timeout.
        let count = unsafe {
            libc::recvmmsg(fd, headers, self.asked as _, libc::MSG_DONTWAIT as _, null::<libc::timespec>().cast_mut())
        };
        self.filled = usize::try_from(count).map_err(|_| last_errno())?;
        let bytes: usize = self.headers.iter().take(self.filled).map(|header| header.msg_len as usize).sum();
        self.width = if bytes >= self.filled * TRAIN_BYTES { TRAINS } else { RECEIVES };
        Ok(self.filled)
    }

    /// Points every header at its slot, as [`Sender`] does.
    fn aim(&mut self, named: bool) -> *mut libc::mmsghdr {
        let (controls, names) = (self.controls.as_mut_ptr(), self.names.as_mut_ptr());
        let buffers = self.buffers.as_mut_ptr();
        for (slot, iovec) in self.iovecs.iter_mut().enumerate() {
            let iov_base = buffers.wrapping_add(slot * STRIDE).cast();
            *iovec = libc::iovec { iov_base, iov_len: DATAGRAM };
        }
        let iovecs = self.iovecs.as_mut_ptr();
        for (slot, header) in self.headers.iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_iov = iovecs.wrapping_add(slot);
            header.msg_iovlen = 1;
            header.msg_control = controls.wrapping_add(slot).cast();
            header.msg_controllen = CONTROL as _;
            header.msg_name = if named { names.wrapping_add(slot).cast() } else { null_mut() };
            header.msg_namelen = if named { NAME as _ } else { 0 };
            header.msg_flags = 0;
        }
        self.headers.as_mut_ptr()
    }
}

/// One datagram or train.
pub(in crate::sys) struct Arrived<'a> {
    pub(in crate::sys) bytes: &'a mut [u8],
    pub(in crate::sys) control: &'a [u8],
    /// `None` on a connected socket.
    pub(in crate::sys) remote: Option<SocketAddr>,
    pub(in crate::sys) truncated: bool,
}

/// Gives one received train to the pipeline, with its path.
fn hand_out(
    arrived: Arrived<'_>,
    path: &Path,
    observer: &mut dyn Observer,
    each: &mut dyn FnMut(Train<'_>) -> Step,
) -> Step {
    if arrived.truncated {
        observer.dropped(DropReason::Truncated, 1);
        return Step::More;
    }
    let beside = cmsg::read(arrived.control);
    let mut path = *path;
    if let Some(remote) = arrived.remote {
        path.remote = remote;
        path.local = beside.local;
        path.ifindex = beside.ifindex;
    }
    let segment = beside.segment.unwrap_or(arrived.bytes.len());
    each(Train { bytes: arrived.bytes, segment, path })
}

#[cfg(test)]
mod tests {
    //! What the kernel would do with the arrays, done here: Miri (`cargo +nightly miri test -p dataplane --lib wire`)
    //! sees every pointer that it follows.

    use super::*;
    use crate::networkio::gso::MAX_UDP_PAYLOAD;

    /// The address that datagram `slot` asked. Of an IPv4 one the kernel writes another field than it reads.
    fn local(slot: usize) -> std::net::IpAddr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, slot as u16].into()
    }

    /// Writes a datagram as recvmmsg(2) does; as many as there are slots.
    fn receive(receiver: &mut Receiver, named: bool, payload: impl Fn(usize) -> Vec<u8>) {
        receiver.clear();
        let headers = receiver.aim(named);
        for slot in 0..RECEIVES {
            let bytes = payload(slot);
            let mut control = Control::default();
            let control_len = control.write(None, Some((local(slot), 3)));
            let mut name = Name::default();
            let name_len = name.write(([192, 0, 2, 1], slot as u16 + 1).into());
            // SAFETY: `aim` gives RECEIVES headers, `slot` is one of them; each points to one iovec of DATAGRAM bytes, a
            // control buffer of CONTROL bytes and a name of NAME bytes or null, as their lengths (asserted) say, all in
            // the receiver, which is borrowed for the whole function and not used but through these pointers.
            unsafe {
                let header = &mut *headers.add(slot);
                let iovec = *header.msg_hdr.msg_iov;
                assert_eq!((iovec.iov_len, header.msg_hdr.msg_controllen), (DATAGRAM, CONTROL));
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), iovec.iov_base.cast(), bytes.len());
                let source = control.as_mut_bytes().as_ptr();
                std::ptr::copy_nonoverlapping(source, header.msg_hdr.msg_control.cast(), control_len);
                if named {
                    assert_eq!(header.msg_hdr.msg_namelen as usize, NAME);
                    let source = name.as_mut_bytes().as_ptr();
                    std::ptr::copy_nonoverlapping(source, header.msg_hdr.msg_name.cast(), name_len);
                }
                header.msg_len = bytes.len() as u32;
                header.msg_hdr.msg_controllen = control_len as _;
                header.msg_hdr.msg_namelen = if named { name_len as _ } else { 0 };
                header.msg_hdr.msg_flags = if slot == 3 { libc::MSG_TRUNC } else { 0 };
            }
        }
        receiver.filled = RECEIVES;
    }

    #[test]
    fn what_the_kernel_wrote_is_handed_out_slot_by_slot() {
        let mut receiver = Receiver::new();
        for (round, named) in [true, false, true].into_iter().enumerate() {
            let payload = |slot: usize| vec![(slot + round) as u8; if slot == 5 { MAX_UDP_PAYLOAD } else { slot }];
            receive(&mut receiver, named, payload);
            for slot in 0..RECEIVES {
                let arrived = receiver.next().unwrap();
                assert_eq!(arrived.bytes, payload(slot));
                // The pipeline opens in place.
                arrived.bytes.fill(0xff);
                assert_eq!(cmsg::read(arrived.control).local, Some(local(slot)));
                assert_eq!(arrived.remote, named.then(|| ([192, 0, 2, 1], slot as u16 + 1).into()));
                assert_eq!(arrived.truncated, slot == 3);
            }
            assert!(receiver.next().is_none() && !receiver.has_more());
        }
    }
}
