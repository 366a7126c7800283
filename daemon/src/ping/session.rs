//! The command from the moment the tunnel is up: who is meant, pinging, the summary. Over any wire, so that tests need no tunnel.

use std::net::IpAddr;

use controlplane::{Random, SystemRandom};

use super::echo;
use super::host::News;
use super::names::{self, Family, Inside, Trouble};
use super::pinger::{Pinger, Plan, Target};
use super::report::{Report, Skipped};
use super::wire::{self, Wire};
use crate::Parameters;
use crate::cli::ping::Ping;
use crate::exit::{Exit, Fatal};

/// One run of the command.
pub(super) struct Session<'a> {
    /// What the user typed.
    pub options: &'a Ping,
    /// How things are said.
    pub report: Report,
    /// What the tunnel is like.
    pub tunnel: &'a Parameters,
    /// Where lines go.
    pub say: &'a mut dyn FnMut(&str),
}

impl Session<'_> {
    /// Pings, and says so.
    ///
    /// # Errors
    /// There is nobody to ping, requests do not fit into the tunnel, or the tunnel ended.
    pub(super) async fn run(&mut self, wire: &mut impl Wire) -> Result<Exit, Fatal> {
        (self.say)(&self.report.connected(self.tunnel));
        let Some((targets, skipped)) = self.targets(wire).await? else { return Ok(Exit::Other) };
        self.check_size(&targets)?;
        for skipped in &skipped {
            (self.say)(&self.report.skipped(skipped));
        }
        let mut ident = [0; 2];
        SystemRandom.fill(&mut ident);
        let begun = wire.now();
        let mut pinger = Pinger::new(self.plan(begun), targets, u16::from_be_bytes(ident), begun);
        for host in pinger.hosts() {
            (self.say)(&self.report.host(host));
        }
        let (report, say) = (self.report, &mut *self.say);
        let mut tell = |now, pinger: &Pinger, at: usize, news: &News| {
            let host = pinger.hosts().get(at);
            if let Some(line) = host.and_then(|host| report.news(now, host, news)) {
                say(&line);
            }
        };
        let ran = wire::run(wire, &mut pinger, &mut tell).await;
        let took = wire.now().saturating_sub(begun);
        (self.say)(&self.report.summary(took, self.tunnel.handshake, pinger.hosts(), &skipped));
        ran?;
        Ok(if skipped.is_empty() && pinger.all_answered() { Exit::Ok } else { Exit::Other })
    }

    fn plan(&self, begun: std::time::Duration) -> Plan {
        let options = self.options;
        Plan {
            count: options.count,
            interval: options.interval,
            size: options.size,
            timeout: options.timeout,
            deadline: options.deadline.map(|deadline| begun + deadline),
            hop_limit: options.ttl,
        }
    }

    /// Whom to ping, and whom not; `None` when the user interrupted.
    async fn targets(&self, wire: &mut impl Wire) -> Result<Option<(Vec<Target>, Vec<Skipped>)>, Fatal> {
        let inside = Inside {
            ipv4: self.tunnel.ipv4.map(|v4| v4.address),
            ipv6: self.tunnel.ipv6.map(|v6| v6.address),
            servers: self.tunnel.dns.clone(),
        };
        let (mut targets, mut skipped) = (Vec::new(), Vec::new());
        for name in self.names()? {
            let found = match self.address(wire, &inside, &name).await {
                Ok(address) => inside.source(address).map(|source| (source, address)).ok_or_else(|| {
                    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                    format!("the server gave us no {family} address")
                }),
                Err(Trouble::Name(why)) => Err(why),
                Err(Trouble::Ended(fatal)) => return Err(fatal),
                Err(Trouble::Interrupted) => return Ok(None),
            };
            match found {
                Ok((source, address)) => targets.push(Target { name, source, address }),
                Err(why) => skipped.push(Skipped { name, why }),
            }
        }
        Ok(Some((targets, skipped)))
    }

    /// Those that were named, or the gateway.
    fn names(&self) -> Result<Vec<String>, Fatal> {
        if !self.options.hosts.is_empty() {
            return Ok(self.options.hosts.clone());
        }
        let gateway = self.tunnel.ipv4.and_then(|v4| v4.gateway).filter(|_| !self.options.ipv6);
        let gateway = gateway.ok_or_else(|| {
            let why = "the server did not say what its gateway's address is: name a host to ping";
            Fatal::new(Exit::Config, why)
        })?;
        Ok(vec![gateway.to_string()])
    }

    async fn address(&self, wire: &mut impl Wire, inside: &Inside, name: &str) -> Result<IpAddr, Trouble> {
        if let Ok(address) = name.parse() {
            return Ok(address);
        }
        let family = match (self.options.ipv4, self.options.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        };
        if self.options.numeric {
            return Err(Trouble::Name("it is no address, and -n says to resolve nothing".into()));
        }
        if self.options.resolve_outside {
            return names::outside(inside, name, family).await;
        }
        names::resolve(wire, inside, name, family, &mut SystemRandom).await
    }

    /// A request goes through the tunnel whole, or not at all.
    fn check_size(&self, targets: &[Target]) -> Result<(), Fatal> {
        let (size, mtu) = (usize::from(self.options.size), usize::from(self.tunnel.mtu));
        match targets.iter().find(|target| echo::headers(target.address) + size > mtu) {
            None => Ok(()),
            Some(target) => {
                let most = mtu.saturating_sub(echo::headers(target.address));
                let why = format!(
                    "requests of {size} bytes to {} do not fit into this tunnel (MTU {mtu}): at most -s {most}",
                    target.name
                );
                Err(Fatal::new(Exit::Config, why))
            }
        }
    }
}
