//! A super-packet that the TUN refused: its packets are written one by one, so that nothing is lost but the offload.

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::sys::{Observer, Trouble};
use crate::tun::split;
use crate::tun::virtio::{GSO_ECN, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};

/// Writes the packets of the super-packet `frame` (so many by its header), which `write` refused with `error`, each alone. When one of them is taken, the
/// offload is what was refused, and [`Trouble::TunOffloadLost`] says so; when the first is refused too (the interface is down), all are
/// dropped.
#[cold]
pub(super) fn write_singly(
    frame: &[u8],
    packets: u64,
    error: Errno,
    observer: &mut dyn Observer,
    write: &mut dyn FnMut(&[u8]) -> Result<usize, Errno>,
) {
    // Splitting writes into the frame, and the batch is not ours to change. This happens once in a worker's life.
    let mut copy = frame.to_vec();
    let (Ok(plan), Some(header)) = (split::plan(frame), VnetHeader::parse(frame)) else {
        return lost(observer, packets, error);
    };
    let mut left = plan.count() as u64;
    let mut taken = false;
    let mut segments = plan.segments(&mut copy);
    let mut single = Vec::with_capacity(VNET_HDR_LEN + plan.longest());
    while let Some(packet) = segments.next() {
        single.clear();
        single.extend(VnetHeader::default().to_bytes());
        single.extend_from_slice(packet);
        match again(write, &single) {
            Ok(_) => observer.written(1),
            Err(Errno::AGAIN | Errno::NOBUFS) => observer.dropped(DropReason::TunFull, 1),
            Err(error) if !taken => return lost(observer, left, error),
            Err(error) => lost(observer, 1, error),
        }
        taken = true;
        left -= 1;
    }
    observer.trouble(Trouble::TunOffloadLost { udp: header.gso_type & !GSO_ECN == GSO_UDP_L4 });
}

fn again(write: &mut dyn FnMut(&[u8]) -> Result<usize, Errno>, frame: &[u8]) -> Result<usize, Errno> {
    loop {
        match write(frame) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn lost(observer: &mut dyn Observer, packets: u64, error: Errno) {
    observer.dropped(DropReason::TunError, packets);
    observer.trouble(Trouble::Tun(error.raw_os_error()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::test_packets::Packet;

    /// What an observer is told.
    #[derive(Default)]
    struct Diary {
        written: u64,
        dropped: Vec<(DropReason, u64)>,
        troubles: Vec<Trouble>,
    }

    impl Observer for Diary {
        fn dropped(&mut self, reason: DropReason, packets: u64) {
            self.dropped.push((reason, packets));
        }
        fn sent(&mut self, _segments: u64, _bytes: u64) {}
        fn written(&mut self, packets: u64) {
            self.written += packets;
        }
        fn trouble(&mut self, trouble: Trouble) {
            self.troubles.push(trouble);
        }
    }

    /// Three packets of TCP or UDP in one frame, and the answers to their single writes.
    fn refused(udp: bool, answers: &[Result<usize, Errno>]) -> (Diary, Vec<Vec<u8>>) {
        let packet = Packet { udp, payload: (0..250).collect(), ..Default::default() };
        let frame = packet.super_frame(100);
        let (mut diary, mut frames) = (Diary::default(), Vec::new());
        let mut answers = answers.iter();
        write_singly(&frame, 3, Errno::INVAL, &mut diary, &mut |single| {
            let answer = *answers.next().unwrap();
            if answer.is_ok() {
                frames.push(single.to_vec());
            }
            answer
        });
        assert!(answers.next().is_none());
        (diary, frames)
    }

    #[test]
    fn the_packets_of_a_refused_super_packet_go_one_by_one() {
        for udp in [false, true] {
            let (diary, frames) = refused(udp, &[Ok(0); 3]);
            let packet = Packet { udp, payload: (0..250).collect(), ..Default::default() };
            let plain: Vec<Vec<u8>> =
                packet.segments(100).into_iter().map(|bytes| [&[0; VNET_HDR_LEN], &bytes[..]].concat()).collect();
            assert_eq!(frames, plain);
            assert_eq!((diary.written, diary.dropped), (3, vec![]));
            assert_eq!(diary.troubles, [Trouble::TunOffloadLost { udp }]);
        }
    }

    #[test]
    fn an_interface_that_takes_nothing_has_not_lost_an_offload() {
        let (diary, _) = refused(false, &[Err(Errno::IO)]);
        assert_eq!((diary.written, diary.dropped), (0, vec![(DropReason::TunError, 3)]));
        assert_eq!(diary.troubles, [Trouble::Tun(libc::EIO)]);
    }

    #[test]
    fn what_is_refused_alone_is_counted_alone() {
        let (diary, _) = refused(false, &[Ok(0), Err(Errno::INTR), Err(Errno::INVAL), Err(Errno::AGAIN)]);
        assert_eq!(diary.written, 1);
        assert_eq!(diary.dropped, [(DropReason::TunError, 1), (DropReason::TunFull, 1)]);
        assert_eq!(diary.troubles, [Trouble::Tun(libc::EINVAL), Trouble::TunOffloadLost { udp: false }]);
    }
}
