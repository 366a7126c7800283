//! Commands and datagrams over one ring of a real mapping; the other side is honest, slow or hostile.

use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::bell::{Bell, EventBell};
use crate::message::Path;
use crate::ring::Memory;
use crate::shm::{Mapping, Sleeper};
use crate::sync::Ordering;

const AT: usize = 4_096;
const SPEC: RingSpec = RingSpec { slots: 4, max_message: 3 * 2_048 };
const BOUND: QueueBound = QueueBound { messages: 3, bytes: 100 };

struct Setup {
    mapping: Arc<Mapping>,
    bell: EventBell,
}

impl Setup {
    fn new() -> Setup {
        let bytes = (AT + SPEC.bytes()).next_multiple_of(4_096);
        Setup { mapping: Arc::new(Mapping::create(bytes).unwrap().0), bell: EventBell::new().unwrap() }
    }
    fn region(&self) -> Region {
        Region::new(&self.mapping, AT, SPEC)
    }
    fn remote(&self) -> Remote {
        Remote::new(Sleeper::new(&self.mapping, 0), Bell::Event(self.bell.clone()))
    }
    fn sender(&self) -> CommandSender<String> {
        CommandSender::new(self.region(), SPEC, self.remote(), BOUND)
    }
    fn receiver(&self) -> CommandReceiver<String> {
        CommandReceiver::new(self.region(), SPEC, self.remote())
    }
    /// Everything after the indices is zero.
    fn is_wiped(&self) -> bool {
        self.mapping.words()[(AT + 256) / 8..].iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
    fn raw(&self) -> Producer<Region> {
        Producer::new(self.region(), SPEC.max_message)
    }
}

fn datagram(bytes: &[u8]) -> Datagram<'_> {
    let remote = SocketAddr::from(([192, 0, 2, 1], 1_194));
    Datagram { path: Path { worker: 3, local: None, ifindex: 2, remote, stream: None }, bytes }
}

fn word(index: usize) -> String {
    format!("command {index}")
}

#[test]
fn a_command_arrives_and_leaves_no_trace() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    let secret = "secret ".repeat(600);
    sender.send(&secret).unwrap();
    assert!(!setup.is_wiped());
    assert!(sender.scratch.iter().all(|byte| *byte == 0), "the sender's scratch buffer is wiped");
    assert!(receiver.is_ready());
    assert_eq!(receiver.recv().unwrap().as_ref(), Some(&secret));
    assert!(setup.is_wiped());
    assert!(receiver.scratch.iter().all(|byte| *byte == 0), "the receiver's scratch buffer is wiped");
    assert_eq!(receiver.recv(), Ok(None));
}

#[test]
fn commands_for_a_full_ring_wait_and_arrive_in_order() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    for index in 0..7 {
        sender.send(&word(index)).unwrap();
    }
    assert_eq!(sender.queued(), 3);
    assert_eq!(sender.flush(), Ok(false));
    for index in 0..7 {
        assert_eq!(receiver.recv(), Ok(Some(word(index))));
        sender.flush().unwrap();
    }
    assert_eq!(sender.flush(), Ok(true));
    assert_eq!((sender.queued(), sender.queued_bytes), (0, 0));
    assert_eq!(receiver.recv(), Ok(None));
}

#[test]
fn a_new_command_never_overtakes_a_queued_one() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    for index in 0..6 {
        sender.send(&word(index)).unwrap();
    }
    receiver.recv().unwrap();
    sender.send(&word(6)).unwrap();
    for index in 1..7 {
        assert_eq!(receiver.recv(), Ok(Some(word(index))));
        sender.flush().unwrap();
    }
}

#[test]
fn a_queue_overflows_by_messages_and_keeps_what_it_has() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    for index in 0..7 {
        sender.send(&word(index)).unwrap();
    }
    assert_eq!(sender.send(&word(7)), Err(LinkError::Overflow));
    assert_eq!(sender.queued(), 3);
    receiver.recv().unwrap();
    sender.send(&word(7)).unwrap();
    assert_eq!(receiver.recv(), Ok(Some(word(1))));
}

#[test]
fn a_queue_overflows_by_bytes() {
    let setup = Setup::new();
    let mut sender = setup.sender();
    for index in 0..4 {
        sender.send(&word(index)).unwrap();
    }
    // A length byte and 99 bytes fill the bound exactly.
    assert_eq!(sender.send(&"x".repeat(100)), Err(LinkError::Overflow));
    sender.send(&"x".repeat(99)).unwrap();
    assert_eq!(sender.send(&String::from("x")), Err(LinkError::Overflow));
}

#[test]
fn a_command_too_long_for_its_channel_is_refused_and_wiped() {
    let setup = Setup::new();
    let mut sender = setup.sender();
    assert_eq!(sender.send(&"x".repeat(SPEC.max_message)), Err(LinkError::TooLong));
    assert!(sender.scratch.iter().all(|byte| *byte == 0));
    assert!(setup.is_wiped());
    sender.send(&"x".repeat(SPEC.max_message - 2)).unwrap();
}

#[test]
fn a_sleeping_consumer_is_rung_and_an_awake_one_is_not() {
    let setup = Setup::new();
    let mut sender = setup.sender();
    sender.send(&word(0)).unwrap();
    assert!(!setup.bell.drain());
    crate::sleep::announce(Sleeper::new(&setup.mapping, 0).need_wake());
    sender.send(&word(1)).unwrap();
    assert!(setup.bell.drain());
    sender.send(&word(2)).unwrap();
    assert!(!setup.bell.drain());
}

#[test]
fn a_producer_that_waits_for_room_is_rung() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    let sleeper = Sleeper::new(&setup.mapping, 0);
    for index in 0..4 {
        sender.send(&word(index)).unwrap();
    }
    crate::sleep::announce(sleeper.need_wake());
    receiver.recv().unwrap();
    assert!(!setup.bell.drain(), "nothing is queued: nobody waits for room");
    sender.send(&word(4)).unwrap();
    sender.send(&word(5)).unwrap();
    assert_eq!(sender.queued(), 1);
    setup.bell.drain();
    crate::sleep::announce(sleeper.need_wake());
    receiver.recv().unwrap();
    assert!(setup.bell.drain());
}

#[test]
fn bytes_that_are_no_message_are_garbage() {
    let too_short: &[u8] = &[5, b'a', b'b'];
    let too_long: &[u8] = &[1, b'a', 0];
    let no_utf8: &[u8] = &[1, 0xFF];
    let huge: &[u8] = &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
    let endless: &[u8] = &[0xFF; 64];
    for bytes in [too_short, too_long, no_utf8, huge, endless] {
        let setup = Setup::new();
        let mut receiver = setup.receiver();
        setup.raw().push(bytes).unwrap();
        assert_eq!(receiver.recv(), Err(LinkError::Garbage), "{bytes:?}");
        assert!(setup.is_wiped(), "garbage is wiped as well");
    }
}

#[test]
fn an_impossible_index_is_told_to_the_receiver_and_the_sender() {
    let setup = Setup::new();
    let (mut sender, mut receiver) = (setup.sender(), setup.receiver());
    setup.region().tail().store(5, Ordering::Relaxed);
    assert_eq!(receiver.recv(), Err(LinkError::Corrupt));
    for index in 0..4 {
        sender.send(&word(index)).unwrap();
    }
    setup.region().head().store(5, Ordering::Relaxed);
    assert_eq!(sender.send(&word(4)), Err(LinkError::Corrupt));
}

#[test]
fn datagrams_beyond_a_full_ring_are_dropped_and_counted() {
    let setup = Setup::new();
    let mut sender = DatagramSender::new(setup.region(), SPEC, setup.remote());
    let mut receiver = DatagramReceiver::new(setup.region(), SPEC);
    for index in 0..4 {
        assert!(sender.send(&datagram(&[index; 10])));
    }
    assert_eq!(sender.dropped(), 0);
    assert!(!sender.send(&datagram(&[4; 10])));
    assert!(!sender.send(&datagram(&[5; 10])));
    assert_eq!(sender.dropped(), 2);
    assert!(!sender.is_corrupt());
    assert_eq!(receiver.recv().unwrap().unwrap(), datagram(&[0; 10]));
    assert!(sender.send(&datagram(&[6; 10])));
    for index in [1, 2, 3, 6] {
        assert_eq!(receiver.recv().unwrap().unwrap(), datagram(&[index; 10]));
    }
    assert_eq!(receiver.recv(), Ok(None));
    assert!(setup.is_wiped());
}

#[test]
fn a_datagram_that_is_too_long_is_dropped_and_counted() {
    let setup = Setup::new();
    let mut sender = DatagramSender::new(setup.region(), SPEC, setup.remote());
    assert!(!sender.send(&datagram(&[0; MAX_DATAGRAM + 1])));
    assert_eq!(sender.dropped(), 1);
    assert!(sender.send(&datagram(&[0; MAX_DATAGRAM])));
    assert_eq!(sender.dropped(), 1);
}

#[test]
fn the_longest_datagram_with_the_longest_path_takes_one_slot() {
    let path = Path {
        worker: u16::MAX,
        local: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
        ifindex: u32::MAX,
        remote: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
        stream: Some(u32::MAX),
    };
    let bytes = [0xFF; MAX_DATAGRAM];
    let setup = Setup::new();
    let mut sender = DatagramSender::new(setup.region(), SPEC, setup.remote());
    assert!(sender.send(&Datagram { path, bytes: &bytes }));
    assert_eq!(setup.region().tail().load(Ordering::Relaxed), 1);
}

#[test]
fn a_datagram_longer_than_agreed_is_garbage() {
    let setup = Setup::new();
    let mut receiver = DatagramReceiver::new(setup.region(), SPEC);
    let mut raw = setup.raw();
    raw.push(&postcard::to_stdvec(&datagram(&[1; MAX_DATAGRAM + 1])).unwrap()).unwrap();
    raw.push(&postcard::to_stdvec(&datagram(&[1; MAX_DATAGRAM])).unwrap()).unwrap();
    raw.push(&[0xFF; 40]).unwrap();
    assert_eq!(receiver.recv(), Err(LinkError::Garbage));
    assert_eq!(receiver.recv().unwrap().unwrap().bytes.len(), MAX_DATAGRAM);
    assert_eq!(receiver.recv(), Err(LinkError::Garbage));
}

#[test]
fn a_datagram_sender_notices_a_broken_ring() {
    let setup = Setup::new();
    let mut sender = DatagramSender::new(setup.region(), SPEC, setup.remote());
    for _ in 0..4 {
        assert!(sender.send(&datagram(b"x")));
    }
    setup.region().head().store(9, Ordering::Relaxed);
    assert!(!sender.send(&datagram(b"x")));
    assert!(sender.is_corrupt());
    assert_eq!(sender.dropped(), 1);
}
