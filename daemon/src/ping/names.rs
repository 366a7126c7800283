//! Names become addresses by asking the name servers that the server pushed, through the tunnel: small questions over UDP (RFC 1035). The
//! messages are `hickory-proto`'s, the headers `smoltcp`'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use controlplane::Random;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

use super::wire::{Came, LONGEST, Wire};
use crate::exit::Fatal;

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How often each of them is asked.
const ROUNDS: usize = 2;
/// How many of them are asked.
const SERVERS: usize = 3;
/// How long this host's own resolver may take.
const OUTSIDE: Duration = Duration::from_secs(10);
/// The port of name servers.
const PORT: u16 = 53;
const UDP_HEADER: usize = 8;

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4, or else IPv6, as far as the tunnel has them.
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Our addresses in the tunnel, and what can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// Our IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Our IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Name servers, the best first.
    pub servers: Vec<IpAddr>,
}

impl Inside {
    /// Our address of the family of that one.
    pub(super) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        if to.is_ipv4() { self.ipv4.map(IpAddr::V4) } else { self.ipv6.map(IpAddr::V6) }
    }

    /// The kinds of addresses that are wanted and of use, the best first.
    fn kinds(&self, family: Family) -> Vec<RecordType> {
        let v4 = (family != Family::V6 && self.ipv4.is_some()).then_some(RecordType::A);
        let v6 = (family != Family::V4 && self.ipv6.is_some()).then_some(RecordType::AAAA);
        v4.into_iter().chain(v6).collect()
    }
}

/// Why a name has no address.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What is wrong with it, for the user.
    Name(String),
    /// The tunnel has ended.
    Ended(Fatal),
    /// The user has had enough.
    Interrupted,
}

/// What came of one question.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    Refused(String),
    Silence,
}

/// Asks for the address of `name`.
///
/// # Errors
/// There is none, or nobody could be asked; the tunnel ended; the user interrupted.
pub(super) async fn resolve(
    wire: &mut impl Wire,
    inside: &Inside,
    name: &str,
    family: Family,
    random: &mut dyn Random,
) -> Result<IpAddr, Trouble> {
    let trouble = |why: String| Trouble::Name(why);
    let mut name = Name::from_utf8(name).map_err(|_| trouble("it is neither an address nor a name".into()))?;
    name.set_fqdn(true);
    if !inside.servers.iter().any(|server| inside.source(*server).is_some()) {
        let why = "the server pushed no name server: give its address, or ask this host's with --resolve-outside";
        return Err(trouble(why.into()));
    }
    let kinds = inside.kinds(family);
    if kinds.is_empty() {
        return Err(trouble("the server gave us no address of that family".into()));
    }
    for kind in kinds {
        match ask(wire, inside, &Query::query(name.clone(), kind), random).await? {
            Answer::Addresses(found) => {
                if let Some(first) = found.first() {
                    return Ok(*first);
                }
            }
            Answer::NoSuchName => return Err(trouble("there is no such name".into())),
            Answer::Refused(why) => return Err(trouble(why)),
            Answer::Silence => return Err(trouble("no name server answers in the tunnel".into())),
        }
    }
    Err(trouble("it has no address of a family that the tunnel carries".into()))
}

/// Asks this host's own resolver, outside of the tunnel.
///
/// # Errors
/// It does not know the name, or takes too long.
pub(super) async fn outside(inside: &Inside, name: &str, family: Family) -> Result<IpAddr, Trouble> {
    let found = tokio::time::timeout(OUTSIDE, tokio::net::lookup_host((name, 0))).await;
    let found = found.map_err(|_| Trouble::Name("this host's name servers do not answer".into()))?;
    let found = found.map_err(|error| Trouble::Name(format!("this host's resolver: {error}")))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    best(inside, &addresses, family)
        .ok_or_else(|| Trouble::Name("it has no address of a family that the tunnel carries".into()))
}

/// The first address of the best kind.
fn best(inside: &Inside, addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    let of = |kind: RecordType| addresses.iter().copied().find(|address| address.is_ipv4() == (kind == RecordType::A));
    inside.kinds(family).into_iter().find_map(of)
}

/// Asks one server after the other.
async fn ask(wire: &mut impl Wire, inside: &Inside, query: &Query, random: &mut dyn Random) -> Result<Answer, Trouble> {
    let reachable = inside.servers.iter().filter_map(|server| Some((inside.source(*server)?, *server)));
    let reachable: Vec<(IpAddr, IpAddr)> = reachable.take(SERVERS).collect();
    let mut last = Answer::Silence;
    for (source, server) in reachable.repeat(ROUNDS) {
        let mut chance = [0; 4];
        random.fill(&mut chance);
        let [a, b, c, d] = chance;
        let (id, port) = (u16::from_be_bytes([a, b]), 0xC000 | u16::from_be_bytes([c, d]));
        let question = Question { id, port, source, server, query };
        let Some(packet) = question.packet() else { continue };
        wire.send(&packet).await.map_err(Trouble::Ended)?;
        match listen(wire, &question).await? {
            Answer::Silence => {}
            Answer::Refused(why) => last = Answer::Refused(why),
            found => return Ok(found),
        }
    }
    Ok(last)
}

/// Waits for the answer to a question.
async fn listen(wire: &mut impl Wire, question: &Question<'_>) -> Result<Answer, Trouble> {
    let until = wire.now() + PATIENCE;
    let mut packet = vec![0; LONGEST];
    while wire.now() < until {
        match wire.receive(&mut packet, until).await.map_err(Trouble::Ended)? {
            Came::Packet(length) => {
                if let Some(answer) = packet.get(..length).and_then(|packet| question.answer(packet)) {
                    return Ok(answer);
                }
            }
            Came::Nothing => {}
            Came::Interrupt => return Err(Trouble::Interrupted),
        }
    }
    Ok(Answer::Silence)
}

/// A question that was asked, with what its answer must have.
struct Question<'a> {
    id: u16,
    port: u16,
    source: IpAddr,
    server: IpAddr,
    query: &'a Query,
}

impl Question<'_> {
    fn packet(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        datagram((self.source, self.port), (self.server, PORT), &message.to_vec().ok()?)
    }

    /// What a packet says to it; `None` when it is something else.
    fn answer(&self, packet: &[u8]) -> Option<Answer> {
        let message = Message::from_vec(payload(packet, (self.server, PORT), (self.source, self.port))?).ok()?;
        let asked = message.queries.first().is_some_and(|query| query == self.query);
        if message.metadata.id != self.id || message.metadata.message_type != MessageType::Response || !asked {
            return None;
        }
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        };
        let wanted = message.answers.iter().filter(|record| record.record_type() == self.query.query_type());
        let found: Vec<IpAddr> = wanted.filter_map(|record| address(&record.data)).collect();
        Some(match message.metadata.response_code {
            ResponseCode::NoError if found.is_empty() && message.metadata.truncation => {
                Answer::Refused("the name server's answer does not fit into a datagram".into())
            }
            ResponseCode::NoError => Answer::Addresses(found),
            ResponseCode::NXDomain => Answer::NoSuchName,
            other => Answer::Refused(format!("the name server {} says: {other}", self.server)),
        })
    }
}

/// An IP packet with a UDP datagram.
fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let payload_len = UDP_HEADER + payload.len();
    let (next_header, hop_limit) = (IpProtocol::Udp, 64);
    let checksums = ChecksumCapabilities::default();
    let header = if to.0.is_ipv4() { 20 } else { 40 };
    let mut packet = vec![0; header + payload_len];
    match (from.0, to.0) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
        }
        _ => return None,
    }
    let udp = UdpRepr { src_port: from.1, dst_port: to.1 };
    let (source, destination) = (IpAddress::from(from.0), IpAddress::from(to.0));
    let mut place = UdpPacket::new_unchecked(packet.get_mut(header..)?);
    udp.emit(&mut place, &source, &destination, payload.len(), |body| body.copy_from_slice(payload), &checksums);
    Some(packet)
}

/// The payload of a packet, if it is a whole UDP datagram from there to there.
fn payload(packet: &[u8], from: (IpAddr, u16), to: (IpAddr, u16)) -> Option<&[u8]> {
    let checksums = ChecksumCapabilities::default();
    let (source, destination, next_header, body): (IpAddr, IpAddr, _, _) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            let header = Ipv4Repr::parse(&ip, &checksums).ok()?;
            (header.src_addr.into(), header.dst_addr.into(), header.next_header, ip.payload())
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.payload())
        }
        _ => return None,
    };
    if next_header != IpProtocol::Udp || (source, destination) != (from.0, to.0) {
        return None;
    }
    let udp = UdpPacket::new_checked(body).ok()?;
    let header = UdpRepr::parse(&udp, &source.into(), &destination.into(), &checksums).ok()?;
    ((header.src_port, header.dst_port) == (from.1, to.1)).then(|| udp.payload())
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use controlplane::SystemRandom;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, AAAA};

    use super::super::responder::{Answers, Responder};
    use super::*;

    fn inside() -> Inside {
        Inside {
            ipv4: Some(Ipv4Addr::new(10, 8, 0, 2)),
            ipv6: Some("fd00::2".parse().unwrap()),
            servers: vec!["10.8.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        }
    }

    /// What never has to wait is ready at once.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn look_up(wire: &mut Responder, inside: &Inside, name: &str, family: Family) -> Result<IpAddr, String> {
        now(resolve(wire, inside, name, family, &mut SystemRandom)).map_err(|trouble| match trouble {
            Trouble::Name(why) => why,
            other => format!("{other:?}"),
        })
    }

    /// Who was asked, and the question.
    fn question(packet: &[u8]) -> (IpAddr, IpAddr, u16, Message) {
        let (source, server, at): (IpAddr, IpAddr, usize) = match packet[0] >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).unwrap();
                (ip.src_addr().into(), ip.dst_addr().into(), 20)
            }
            _ => {
                let ip = Ipv6Packet::new_checked(packet).unwrap();
                (ip.src_addr().into(), ip.dst_addr().into(), 40)
            }
        };
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let body = payload(packet, (source, port), (server, PORT)).expect("a datagram with right sums");
        (source, server, port, Message::from_vec(body).unwrap())
    }

    /// Answers with the addresses of a book.
    fn answered(packet: &[u8], change: impl Fn(&mut Message)) -> Answers {
        let (source, server, port, message) = question(packet);
        let query = message.queries[0].clone();
        let mut answer = Message::response(message.metadata.id, OpCode::Query);
        let name = query.name().clone();
        let data = match query.query_type() {
            RecordType::A => RData::A(A(Ipv4Addr::new(192, 0, 2, 9))),
            _ => RData::AAAA(AAAA("2001:db8::9".parse().unwrap())),
        };
        answer.add_query(query);
        answer.add_answer(Record::from_rdata(name, 60, data));
        change(&mut answer);
        vec![(Duration::from_millis(5), datagram((server, PORT), (source, port), &answer.to_vec().unwrap()).unwrap())]
    }

    #[test]
    fn the_family_decides_which_address_is_asked_for() {
        for (family, expected) in [(Family::Any, "192.0.2.9"), (Family::V4, "192.0.2.9"), (Family::V6, "2001:db8::9")] {
            let mut wire = Responder::new(|packet| answered(packet, |_| {}));
            assert_eq!(
                look_up(&mut wire, &inside(), "www.example.org", family).unwrap(),
                expected.parse::<IpAddr>().unwrap()
            );
            assert_eq!(wire.sent.len(), 1);
            let (_, server, port, message) = question(&wire.sent[0].1);
            assert_eq!((server, port >= 0xC000), (inside().servers[0], true));
            assert!(message.metadata.recursion_desired);
            assert_eq!(message.queries[0].name().to_string(), "www.example.org.");
        }
        let only_v6 = Inside { ipv4: None, ..inside() };
        let mut wire = Responder::new(|packet| answered(packet, |_| {}));
        assert_eq!(look_up(&mut wire, &only_v6, "a", Family::Any).unwrap(), "2001:db8::9".parse::<IpAddr>().unwrap());
        assert_eq!(question(&wire.sent[0].1).1, inside().servers[1], "the server that can be reached");
        assert!(look_up(&mut wire, &only_v6, "a", Family::V4).unwrap_err().contains("no address of that family"));
    }

    #[test]
    fn a_name_without_ipv4_is_asked_for_again() {
        let mut wire = Responder::new(|packet| {
            answered(packet, |answer| {
                if answer.queries[0].query_type() == RecordType::A {
                    answer.answers.clear();
                }
            })
        });
        let found = look_up(&mut wire, &inside(), "six.example.org", Family::Any).unwrap();
        assert_eq!((found, wire.sent.len()), ("2001:db8::9".parse().unwrap(), 2));
        assert!(look_up(&mut wire, &inside(), "six.example.org", Family::V4).unwrap_err().contains("no address"));
    }

    #[test]
    fn silent_servers_are_asked_twice_each_and_then_it_is_over() {
        let mut wire = Responder::new(|_| Vec::new());
        assert!(look_up(&mut wire, &inside(), "a", Family::Any).unwrap_err().contains("no name server answers"));
        let asked: Vec<IpAddr> = wire.sent.iter().map(|(_, packet)| question(packet).1).collect();
        assert_eq!(asked, inside().servers.repeat(2));
        assert_eq!(wire.now(), 4 * PATIENCE);
        let mut second =
            Responder::new(|packet| if packet[0] >> 4 == 6 { answered(packet, |_| {}) } else { Vec::new() });
        assert!(look_up(&mut second, &inside(), "a", Family::Any).is_ok(), "the second one knows");
    }

    #[test]
    fn what_a_server_refuses_is_said() {
        for (code, words, asked) in [
            (ResponseCode::NXDomain, "there is no such name", 1),
            (ResponseCode::ServFail, "the name server", 4),
            (ResponseCode::Refused, "the name server", 4),
        ] {
            let mut wire = Responder::new(move |packet| {
                answered(packet, |answer| {
                    answer.metadata.response_code = code;
                    answer.answers.clear();
                })
            });
            let why = look_up(&mut wire, &inside(), "a", Family::Any).unwrap_err();
            assert!(why.contains(words), "{why}");
            assert_eq!(wire.sent.len(), asked, "another server may know better, unless there is no such name");
        }
        let mut cut = Responder::new(|packet| {
            answered(packet, |answer| {
                answer.metadata.truncation = true;
                answer.answers.clear();
            })
        });
        assert!(look_up(&mut cut, &inside(), "a", Family::Any).unwrap_err().contains("does not fit"));
    }

    /// The same IPv4 datagram between others, with right sums.
    fn readdressed(packet: &[u8], change: fn(&mut (IpAddr, u16), &mut (IpAddr, u16))) -> Vec<u8> {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        let (mut from, mut to) = ((ip.src_addr().into(), udp.src_port()), (ip.dst_addr().into(), udp.dst_port()));
        change(&mut from, &mut to);
        datagram(from, to, udp.payload()).unwrap()
    }

    #[test]
    fn an_answer_that_is_not_to_our_question_is_not_taken() {
        let wrong: [fn(&mut Message); 3] = [
            |answer| answer.metadata.id ^= 1,
            |answer| answer.metadata.message_type = MessageType::Query,
            |answer| {
                answer.queries[0].set_name(Name::from_ascii("other.").unwrap());
            },
        ];
        for change in wrong {
            let mut wire = Responder::new(move |packet| answered(packet, change));
            assert!(look_up(&mut wire, &inside(), "a", Family::Any).unwrap_err().contains("no name server answers"));
        }
        // From another address or port, to another address or port, with a wrong sum, cut off.
        let mangle: [fn(&mut Vec<u8>); 6] = [
            |packet| *packet = readdressed(packet, |from, _| from.0 = "10.8.0.9".parse().unwrap()),
            |packet| *packet = readdressed(packet, |from, _| from.1 = 54),
            |packet| *packet = readdressed(packet, |_, to| to.0 = "10.8.0.9".parse().unwrap()),
            |packet| *packet = readdressed(packet, |_, to| to.1 ^= 1),
            |packet| *packet.last_mut().unwrap() ^= 1,
            |packet| packet.truncate(packet.len() - 1),
        ];
        for change in mangle {
            let only_v4 = Inside { ipv6: None, ..inside() };
            let mut wire = Responder::new(move |packet| {
                let mut answers = answered(packet, |_| {});
                change(&mut answers[0].1);
                answers
            });
            assert!(look_up(&mut wire, &only_v4, "a", Family::Any).unwrap_err().contains("no name server answers"));
        }
    }

    #[test]
    fn without_a_server_or_a_name_nobody_is_asked() {
        let mut wire = Responder::new(|_| Vec::new());
        let alone = Inside { servers: Vec::new(), ..inside() };
        assert!(look_up(&mut wire, &alone, "a", Family::Any).unwrap_err().contains("--resolve-outside"));
        let long = "a".repeat(70);
        assert!(look_up(&mut wire, &inside(), &long, Family::Any).unwrap_err().contains("neither"));
        assert!(wire.sent.is_empty());
    }

    #[test]
    fn outside_the_first_address_of_the_best_kind_is_taken() {
        let found: [IpAddr; 3] =
            ["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let only_v6 = Inside { ipv4: None, ..inside() };
        assert_eq!(best(&inside(), &found, Family::Any), Some(found[1]));
        assert_eq!(best(&inside(), &found, Family::V6), Some(found[0]));
        assert_eq!(best(&only_v6, &found, Family::Any), Some(found[0]));
        assert_eq!(best(&only_v6, &found, Family::V4), None);
    }

    #[test]
    fn an_interrupt_and_an_end_stop_the_search() {
        let mut wire = Responder::new(|_| Vec::new());
        wire.interrupt = Some(Duration::from_millis(100));
        let found = now(resolve(&mut wire, &inside(), "a", Family::Any, &mut SystemRandom));
        assert!(matches!(found, Err(Trouble::Interrupted)));
        let mut wire = Responder::new(|_| Vec::new());
        wire.end = Some(Duration::from_millis(100));
        let found = now(resolve(&mut wire, &inside(), "a", Family::Any, &mut SystemRandom));
        assert!(matches!(found, Err(Trouble::Ended(_))));
    }
}
