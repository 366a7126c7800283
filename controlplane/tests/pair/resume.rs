//! A control process dies; another goes on with its session from the last record.

use controlplane::{Client, Ending, Event, KeyEvent, Output, ResumeRecord, Wrap};

use crate::util::{Network, Pair, Pki, Side, client_path, client_setup, server_setup, static_key};

fn wrapped() -> (Pki, Pair) {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    let mut server = server_setup(&pki);
    client.wrap = Wrap::TlsCrypt { key: static_key() };
    server.wrap = Wrap::TlsCrypt { key: static_key() };
    let mut pair = Pair::new(client, server, 50);
    pair.establish();
    (pki, pair)
}

/// The client's process is gone; a new one gets the record.
fn die_and_resume(pki: &Pki, pair: &mut Pair, record: ResumeRecord) {
    let mut setup = client_setup(pki);
    setup.wrap = Wrap::TlsCrypt { key: static_key() };
    pair.drop_in_flight();
    pair.client = Client::new(setup, pair.now).unwrap();
    pair.client.resume(pair.now, &mut pair.rng, record, client_path(), None);
    pair.drain();
}

#[test]
fn a_session_goes_on_by_a_soft_reset() {
    let (pki, mut pair) = wrapped();
    pair.run_for(2);
    for death in 1..=9 {
        let record = pair.last_record().unwrap();
        assert!(record.resumable);
        die_and_resume(&pki, &mut pair, record);
        assert!(pair.run_until(5, |p| p.renegotiated(Side::Client).len() == death), "{death}: {}", pair.story());
        pair.run_for(1);
    }
    assert_eq!(pair.renegotiated(Side::Server).len(), 9);
    assert_eq!(pair.server.sessions(), 1, "the server saw one session only");
    pair.assert_keys_agree();
    let names: Vec<u32> = pair.keys(Side::Client).iter().map(|k| k.name.negotiation).collect();
    assert_eq!(names, (0..=9).collect::<Vec<_>>(), "no key is ever named twice");
}

#[test]
fn no_wrap_id_is_used_twice_across_a_death_at_any_moment() {
    let (pki, mut pair) = wrapped();
    for _ in 0..3 {
        let record = pair.last_record().unwrap();
        let used = pair
            .sent
            .iter()
            .filter(|(from, _, _)| *from == Side::Client)
            .map(|(_, _, b)| u32::from_be_bytes([b[9], b[10], b[11], b[12]]))
            .max();
        assert!(Some(record.wrap_send_next) > used);
        die_and_resume(&pki, &mut pair, record);
        pair.run_for(3);
    }
}

#[test]
fn the_record_leaves_before_the_datagrams_that_it_protects() {
    let (_, mut pair) = wrapped();
    pair.client.renegotiate(pair.now, &mut pair.rng, 1);
    let Output::Event(Event::Record(record)) = pair.client.poll_output() else { panic!("a record comes first") };
    assert!(!record.resumable, "a negotiation is under way");
    assert_eq!((record.next_negotiation, record.next_key_id), (2, 2));
    assert!(matches!(pair.client.poll_output(), Output::Transmit { .. }));
}

#[test]
fn a_record_of_a_negotiation_under_way_is_not_taken() {
    let (pki, mut pair) = wrapped();
    let mut record = pair.last_record().unwrap();
    record.resumable = false;
    die_and_resume(&pki, &mut pair, record);
    assert!(matches!(pair.ended(Side::Client), Some(Ending::Internal(_))));
}

#[test]
fn damaged_records_are_refused() {
    let (pki, mut pair) = wrapped();
    let good = pair.last_record().unwrap();
    let bad = [
        ResumeRecord { local_sid: [0; 8], ..good.clone() },
        ResumeRecord { remote_sid: [0; 8], ..good.clone() },
        ResumeRecord { next_key_id: 0, ..good.clone() },
        ResumeRecord { next_key_id: 8, ..good.clone() },
        ResumeRecord { wrap_send_next: 0, ..good.clone() },
    ];
    for record in bad {
        pair.client_events.clear();
        die_and_resume(&pki, &mut pair, record);
        assert!(matches!(pair.ended(Side::Client), Some(Ending::Internal(_))));
    }
}

#[test]
fn a_server_that_does_not_answer_the_soft_reset_is_unanswered_after_ten_seconds() {
    let (pki, mut pair) = wrapped();
    let record = pair.last_record().unwrap();
    pair.network = Network::DEAD;
    let from = pair.sent.len();
    die_and_resume(&pki, &mut pair, record);
    pair.run_for(9);
    assert_eq!(pair.ended(Side::Client), None);
    pair.run_for(2);
    assert_eq!(pair.ended(Side::Client), Some(Ending::Unanswered));
    assert!(pair.sent.len() - from >= 5, "it is repeated every two seconds");
}

#[test]
fn what_was_recorded_before_the_death_cannot_be_replayed_after_it() {
    let (pki, mut pair) = wrapped();
    let old: Vec<Vec<u8>> =
        pair.sent.iter().filter(|(from, _, _)| *from == Side::Server).map(|(_, _, b)| b.clone()).collect();
    pair.run_for(2);
    let record = pair.last_record().unwrap();
    die_and_resume(&pki, &mut pair, record);
    pair.client.take_dropped();
    for bytes in &old {
        pair.deliver(Side::Client, bytes);
    }
    assert_eq!(pair.client.take_dropped(), [("replayed".to_owned(), old.len() as u64)]);
}

#[test]
fn before_it_goes_on_it_sends_with_the_newest_key() {
    let (pki, mut pair) = wrapped();
    let first = pair.keys(Side::Client)[0].name;
    pair.key_event(Side::Client, KeyEvent::KeySending(first));
    let record = pair.last_record().unwrap();
    pair.client_events.clear();
    die_and_resume(&pki, &mut pair, record);
    assert!(pair.client_events.iter().any(|e| matches!(e, Event::SendWith(name) if *name == first)));
}
