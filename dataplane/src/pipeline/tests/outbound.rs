//! What comes from the TUN, and what cannot be sent.

use super::*;

#[test]
fn a_full_batch_leaves_the_frame_as_it_was() {
    let (mut a, mut b) = pair();
    let packet = Packet::with_payload(60_000);
    let mut sent = 0;
    loop {
        let mut frame = packet.super_frame(1000);
        match a.pipeline.outbound(1, &mut frame, &mut a.out) {
            Ok(()) => sent += 60,
            Err(BatchFull) => {
                assert_eq!(frame, packet.super_frame(1000));
                assert!(a.out.bytes().len() + 60 * 1064 > 256 * 1024);
                break;
            }
        }
    }
    let wire = a.send(&packet.super_frame(1000));
    let id = u32::from_be_bytes(wire[0][4..8].try_into().unwrap());
    assert_eq!(id, sent + 1, "no packet id was used for it");
    for datagram in &wire {
        b.receive(datagram);
    }
    assert_eq!(b.packets(), [packet.partial_bytes()]);
    assert_eq!(a.stats.snapshot().dropped_total(), 0);
}

#[test]
fn what_cannot_be_sent_is_counted_packet_by_packet() {
    let mut end = End::without_key(setup(), RouteTable::all_to(0));
    assert!(end.send(&Packet::with_payload(1000).super_frame(100)).is_empty());
    assert_eq!(end.dropped(DropReason::NoKey), 10);

    let mut end = End::without_key(setup(), RouteTable::default());
    assert!(end.send(&Packet::default().frame()).is_empty());
    assert_eq!(end.dropped(DropReason::NoRoute), 1);

    let mut end = End::new(setup());
    assert!(end.send(&[0; 50]).is_empty());
    assert_eq!(end.dropped(DropReason::NotIp), 1);

    let mut end = End::new(setup());
    assert!(end.send(&Packet::with_payload(65_507 - 24 - 40 + 1).frame()).is_empty());
    assert_eq!(end.dropped(DropReason::TooLarge), 1);
    assert_eq!(end.send(&Packet::with_payload(65_507 - 24 - 40).frame())[0].len(), 65_507);

    let limits = KeyLimits { hard_packet_id: 3, ..LIMITS };
    let mut end = End::without_key(setup(), RouteTable::all_to(0));
    end.install(InstallKey { limits, ..key(0, 0) });
    assert!(end.send(&Packet::with_payload(1000).super_frame(100)).is_empty());
    assert_eq!(end.dropped(DropReason::KeyExhausted), 10);
    assert!(end.pipeline.wants_tick());
    end.tick(1);
    assert_eq!(end.heard.events.last(), Some(&WorkerEvent::KeyUsage(key(0, 0).name, UsageReason::PacketId)));
}

#[test]
fn what_is_taken_over_for_a_peer_that_is_gone_has_no_route() {
    let mut end = End::new(setup());
    let mut frame = Packet::with_payload(1000).super_frame(100);
    assert_eq!(end.pipeline.take_frame(1, 3, &mut frame, &mut end.out), Ok(()));
    assert_eq!((end.stats.dropped(DropReason::NoRoute), end.stats.snapshot().outbound.taken_over), (10, 10));
    assert_eq!(end.pipeline.take_frame(1, 0, &mut frame, &mut end.out), Ok(()));
    assert_eq!(end.datagrams().len(), 10);
    assert_eq!(end.pipeline.take_frame(1, 0, &mut [0; 20], &mut end.out), Ok(()));
    assert_eq!((end.stats.dropped(DropReason::NotIp), end.stats.snapshot().dropped_total()), (1, 11));
}

#[test]
fn a_packet_of_every_length_is_sealed_without_padding() {
    let ciphers = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    for cipher in ciphers.into_iter().filter(|&cipher| crate::datachannel::aead::supports(cipher)) {
        let mut ends = [0, 1].map(|_| End::without_key(setup(), RouteTable::all_to(0)));
        for end in &mut ends {
            end.install(with_cipher(cipher, Some(5)));
        }
        // Every remainder of a block, several times over, and both sides of a full packet.
        for payload in (0..=80).chain(1_300..=1_400) {
            let packet = Packet::with_payload(payload).bytes();
            let wire = ends[0].send(&Packet::with_payload(payload).frame());
            assert_eq!((wire.len(), wire[0].len()), (1, packet.len() + 24), "{cipher:?}, {payload}");
            ends[1].receive(&wire[0]);
            assert_eq!(ends[1].packets(), [packet], "{cipher:?}, {payload}");
        }
        assert_eq!(ends[1].stats.snapshot().dropped_total(), 0);
    }
}
