//! What completions mean for the buffers, without a kernel: Miri runs it.

use super::*;
use crate::networkio::gso::MAX_UDP_PAYLOAD;

const F_MORE: u32 = 1 << 1;
const F_NOTIF: u32 = 1 << 3;
const COPIED: i32 = i32::MIN;

/// With buffers, and without a ring.
fn alone() -> ZeroCopy {
    let message = Message {
        // SAFETY: msghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        header: unsafe { zeroed() },
        // SAFETY: as above.
        iovec: unsafe { zeroed() },
        control: Control::default(),
        name: Name::default(),
    };
    ZeroCopy {
        choice: ZeroCopyChoice::Auto,
        known: true,
        way: Way::Anywhere,
        pool: Some(Pool::unregistered(MAX_UDP_PAYLOAD)),
        message: Box::new(message),
        outcome: None,
        copied: 0,
        refused: 0,
        least: (LEAST_FIXED, LEAST),
    }
}

/// A batch that has a buffer of the pool: its slot.
fn lend(zero_copy: &mut ZeroCopy, batch: &mut WireBatch) -> u64 {
    zero_copy.part(batch);
    batch.buffer().tag().unwrap().1.into()
}

#[test]
fn a_buffer_comes_back_with_the_last_notification() {
    let mut zero_copy = alone();
    let mut batch = WireBatch::new(0, 64, true);
    assert_eq!(batch.buffer().tag(), None);
    let slot = lend(&mut zero_copy, &mut batch);
    assert_eq!(lend(&mut zero_copy, &mut batch), slot, "what the kernel does not read stays");
    for _ in 0..2 {
        zero_copy.completed(slot, 100, F_MORE);
        assert_eq!(zero_copy.take_outcome(), Some(Ok(())));
        assert_eq!(zero_copy.take_outcome(), None, "once");
    }
    assert_ne!(lend(&mut zero_copy, &mut batch), slot);
    assert!(zero_copy.is_read());
    assert_eq!(zero_copy.free(), 6);
    zero_copy.completed(slot, 0, F_NOTIF);
    assert_eq!(zero_copy.free(), 6, "one is still to come");
    zero_copy.completed(slot, 0, F_NOTIF);
    assert_eq!((zero_copy.free(), zero_copy.is_read()), (7, false));
}

#[test]
fn a_notification_that_comes_before_the_batch_is_done_leaves_it_its_buffer() {
    let mut zero_copy = alone();
    let mut batch = WireBatch::new(0, 64, true);
    let slot = lend(&mut zero_copy, &mut batch);
    zero_copy.completed(slot, 100, F_MORE);
    zero_copy.completed(slot, 0, F_NOTIF);
    assert_eq!(lend(&mut zero_copy, &mut batch), slot);
    assert_eq!(zero_copy.free(), 7, "it is not free as well");
}

#[test]
fn copies_in_a_row_end_it_and_those_of_sends_that_failed_do_not_count() {
    let mut zero_copy = alone();
    for _ in 0..ENOUGH + 5 {
        zero_copy.completed(0, -libc::EAGAIN, F_MORE);
        assert_eq!(zero_copy.take_outcome(), Some(Err(Errno::AGAIN)));
        zero_copy.completed(0, COPIED, F_NOTIF);
    }
    assert!(!zero_copy.gives_up() && zero_copy.is_on());
    // One that was not copied: the row begins anew.
    for says in [COPIED, COPIED, COPIED, COPIED, COPIED, COPIED, COPIED, 0, COPIED] {
        zero_copy.completed(1, 100, F_MORE);
        zero_copy.completed(1, says, F_NOTIF);
        assert!(!zero_copy.gives_up());
    }
    for _ in 0..ENOUGH - 1 {
        zero_copy.completed(1, 100, F_MORE);
        zero_copy.completed(1, COPIED, F_NOTIF);
    }
    zero_copy.choice = ZeroCopyChoice::On;
    assert!(!zero_copy.gives_up(), "it was told to");
    zero_copy.choice = ZeroCopyChoice::Auto;
    assert!(zero_copy.gives_up() && !zero_copy.is_on());
    assert!(!zero_copy.gives_up(), "said once");
}

#[test]
fn a_kernel_that_refuses_is_asked_no_more() {
    let mut zero_copy = alone();
    zero_copy.pool.as_mut().unwrap().fixed = true;
    zero_copy.choice = ZeroCopyChoice::On;
    let refuse = |zero_copy: &mut ZeroCopy, errno: i32| {
        zero_copy.completed(0, -errno, 0);
        zero_copy.take_outcome().unwrap().unwrap_err();
        zero_copy.gives_up()
    };
    assert!(!refuse(&mut zero_copy, libc::EINVAL));
    assert!(!zero_copy.pool.as_ref().unwrap().fixed, "first it is tried without registered buffers");
    for errno in [libc::EAGAIN, libc::ENOBUFS, libc::EMSGSIZE, libc::EIO, libc::ECONNREFUSED].repeat(5) {
        assert!(!refuse(&mut zero_copy, errno), "what a copy would have met too");
    }
    for _ in 0..ENOUGH - 1 {
        assert!(!refuse(&mut zero_copy, libc::ENOMEM));
    }
    zero_copy.completed(0, 100, F_MORE);
    assert_eq!(zero_copy.take_outcome(), Some(Ok(())));
    for _ in 0..ENOUGH - 1 {
        assert!(!refuse(&mut zero_copy, libc::EINVAL));
    }
    assert!(refuse(&mut zero_copy, libc::EOPNOTSUPP));
}

#[test]
fn buffers_of_other_pools_and_sizes_are_not_ours() {
    let mut zero_copy = alone();
    let mut other = alone();
    let mut batch = WireBatch::new(0, 64, true);
    lend(&mut other, &mut batch);
    assert_eq!(zero_copy.pool.as_ref().unwrap().slot_of(batch.buffer()), None);
    let mut large = WireBatch::new(MAX_UDP_PAYLOAD + 1, 64, true);
    zero_copy.part(&mut large);
    assert_eq!((large.buffer().tag(), zero_copy.free()), (None, 8));
    zero_copy.completed(99, 0, F_NOTIF);
    assert_eq!(zero_copy.free(), 8, "no such slot");
}

#[test]
fn an_entry_says_which_buffer_it_sends_from() {
    let words = |buffer| {
        let entry = entry(Fd(7), std::ptr::dangling(), buffer);
        // SAFETY: an entry is 64 bytes of integers, all of which were written.
        unsafe { std::mem::transmute_copy::<squeue::Entry, [u8; 64]>(&entry) }
    };
    let (fixed, any) = (words(Some(0x0305)), words(None));
    assert_eq!((fixed[0], any[0]), (opcode::SendMsgZc::CODE, opcode::SendMsgZc::CODE));
    assert_eq!((&fixed[2..4], &any[2..4]), (&[12, 0][..], &[8, 0][..]), "ioprio");
    assert_eq!((&fixed[40..42], &any[40..42]), (&[5, 3][..], &[0, 0][..]), "buf_index");
    assert_eq!(fixed[28..32], (libc::MSG_DONTWAIT as u32).to_ne_bytes(), "msg_flags");
}
