//! Many clients at once, each in a namespace of its own: stock and ours, with a certificate each.

use crate::echo;
use crate::netns::{INNER4, Net, Ns};
use crate::ours::{Client, Launch, addresses_in};
use crate::pki::{Authority, Identity, Role};
use crate::setup::Setup;
use crate::steady;
use crate::temp::Temp;
use crate::traffic::{Report, Shape, Stream};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

/// One client.
#[derive(Debug)]
pub struct Member {
    /// The running client. Before its namespace, so that it is stopped while that is there.
    pub client: Client,
    /// Where it runs.
    pub ns: Ns,
    /// Whether it is stock OpenVPN.
    pub stock: bool,
    /// The common name of its certificate.
    pub name: String,
    /// Its certificate.
    pub id: Identity,
    /// Its address inside the tunnel.
    pub inner4: Ipv4Addr,
    /// Its IPv6 address inside the tunnel.
    pub inner6: Ipv6Addr,
    /// Its files.
    pub temp: Temp,
}

/// Starts `count` clients with certificates `client-N` of this authority, every second one stock, and waits until all are up.
pub fn gather(net: &Net, setup: &Setup, root: &Authority, count: u16) -> Vec<Member> {
    let started: Vec<_> = (0..).zip(net.crowd(count)).map(|(n, ns)| start(setup, root, n, ns)).collect();
    started.into_iter().map(Starting::up).collect()
}

/// A client on its way up.
#[derive(Debug)]
struct Starting {
    client: Client,
    ns: Ns,
    stock: bool,
    name: String,
    id: Identity,
    temp: Temp,
}

fn start(setup: &Setup, root: &Authority, n: u16, ns: Ns) -> Starting {
    let (name, stock) = (format!("client-{n}"), n.is_multiple_of(2));
    let (id, temp) = (root.issue(&name, Role::Client), Temp::new());
    let launch = Launch { stock, ..Launch::default() };
    let client = Client::launch_in(&ns, &temp, setup, &setup.profile_of(&id), &launch);
    Starting { client, ns, stock, name, id, temp }
}

impl Starting {
    fn up(mut self) -> Member {
        self.client.expect_up();
        let (inner4, inner6) = addresses_in(&self.ns);
        let Self { client, ns, stock, name, id, temp } = self;
        Member { client, ns, stock, name, id, inner4, inner6, temp }
    }
}

impl Member {
    /// Starts it anew with the same certificate; does not wait.
    pub fn again(&mut self, setup: &Setup) {
        let launch = Launch { stock: self.stock, ..Launch::default() };
        self.client = Client::launch_in(&self.ns, &self.temp, setup, &setup.profile_of(&self.id), &launch);
    }

    /// How often it has come up, of one start.
    pub fn ups(&self) -> usize {
        self.client.process.count(crate::stock::UP)
    }
}

/// Every client asks every other one by IPv4 and IPv6, all at once; who of whom got no answer.
pub fn unanswered_pairs(members: &[Member]) -> Vec<(String, IpAddr)> {
    let ask = |member: &Member| {
        let others = members.iter().filter(|other| other.name != member.name);
        let targets: Vec<IpAddr> = others.flat_map(|other| [other.inner4.into(), other.inner6.into()]).collect();
        let silent = echo::silent(&member.ns, &targets);
        silent.into_iter().map(|to| (member.name.clone(), to)).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let asking: Vec<_> = members.iter().map(|member| scope.spawn(move || ask(member))).collect();
        asking.into_iter().flat_map(|thread| thread.join().expect("asking does not panic")).collect()
    })
}

/// Numbered datagrams from and to each of some clients, at the gateway's inner address.
#[derive(Debug)]
pub struct Streams(Vec<(String, Stream)>);

impl Streams {
    /// Starts one each way for every client.
    pub fn start<'a>(net: &Net, members: impl IntoIterator<Item = &'a Member>, shape: Shape) -> Self {
        steady::deepen_tuns_of(&net.server);
        let pair = |(n, member): (u16, &Member)| {
            steady::deepen_tuns_of(&member.ns);
            if member.stock {
                steady::deepen_all_of(member.client.process.pid());
            }
            let (here, there) = (SocketAddr::from((member.inner4, 7000)), SocketAddr::from((INNER4, 7000 + n)));
            let up = Stream::start(&member.ns, here.ip(), &net.server, there, shape);
            let down = Stream::start(&net.server, there.ip(), &member.ns, here, shape);
            [(format!("from {}", member.name), up), (format!("to {}", member.name), down)]
        };
        Self((0u16..).zip(members).flat_map(pair).collect())
    }

    /// Ends them all; what became of each.
    pub fn finish(self) -> Vec<(String, Report)> {
        let streams: Vec<_> = self.0;
        thread::scope(|scope| {
            let end = |(what, stream): (String, Stream)| scope.spawn(|| (what, stream.finish(Duration::from_secs(2))));
            let ending: Vec<_> = streams.into_iter().map(end).collect();
            ending.into_iter().map(|thread| thread.join().expect("a stream ends")).collect()
        })
    }

    /// Ends them all and panics where one lost a datagram.
    pub fn finish_complete(self) {
        let reports = self.finish();
        reports.iter().for_each(|(what, report)| println!("{what}: {report}"));
        for (what, report) in reports {
            assert!(report.complete() && report.sent > 0, "{what}: {report}");
        }
    }
}
