//! What is answered to the requests of the control socket, and the snapshot of everything that status is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::drop_reason::DropReason;
use dataplane::workers::manager::WorkerHandle;
use dataplane::workers::stats::DirectionSnapshot;
use serde_json::json;

use super::ending::traffic_of;
use super::reload::Asked;
use super::run::Gateway;
use super::sessions::{Session, Stage};
use super::socket::{Command, Request, Response};
use super::status::{Carried, ClientRow, DataPath, GatewayRow, PoolRow, SOCKET_BUFFER, Snapshot, WorkerRow};
use super::status_file::{self, Version};
use super::workers::Workers;
use crate::clock;
use crate::observe::statistics::{self, Figures, Lost, Reading};

impl Gateway {
    /// Somebody asks.
    pub(super) fn on_request(&mut self, request: Request) {
        let Request { command, reply } = request;
        let answer = match command {
            Command::Ping => Response::Done(self.health()),
            Command::Status => Response::Status(Box::new(self.snapshot())),
            Command::Reload => return self.reload(Some(Asked { reply, serial: None, ended: 0 })),
            Command::RevokeNow { serial } => {
                // They go at once, whatever else is wrong, and once more when the CRL keeps them out.
                let ended = self.end_serial(&serial);
                return self.reload(Some(Asked { reply, serial: Some(serial), ended }));
            }
            Command::Kill { common_name, client_id } => self.kill(common_name, client_id),
            Command::Stop => {
                self.leave();
                Response::Done(json!({}))
            }
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    /// Whether clients are served, for `minivpn healthcheck`.
    fn health(&self) -> serde_json::Value {
        let trouble = trouble(self.stopping, self.headless.map(|since| clock::now().at.since(since)));
        json!({
            "healthy": trouble.is_none(),
            "why": trouble,
            "device": self.interface.name,
            "clients": self.here(),
            "pid": std::process::id(),
            "name": self.facts.name,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn kill(&mut self, common_name: Option<String>, client_id: Option<u32>) -> Response {
        let found = match (&common_name, client_id) {
            (Some(name), _) => self.sessions.of_name(name),
            (None, Some(id)) => self.sessions.get(id).map(|session| session.generation).into_iter().collect(),
            (None, None) => return Response::Failed("say who: a common name or a client id".to_owned()),
        };
        if found.is_empty() {
            let who = common_name.or(client_id.map(|id| id.to_string())).unwrap_or_default();
            return Response::Failed(format!("no client is called {who}"));
        }
        for generation in &found {
            // It may come back, and at once.
            self.dismiss(*generation, "RESTART", "a command ended it");
        }
        Response::Done(json!({ "ended": found.len() }))
    }

    /// The gateway as it is now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = clock::now();
        let mut clients: Vec<ClientRow> = self
            .sessions
            .iter()
            .filter(|session| session.stage == Stage::Up)
            .map(|session| self.client_row(session, now))
            .collect();
        clients.sort_by_key(|client| client.peer_id);
        let connecting = self.sessions.len().saturating_sub(clients.len());
        Snapshot {
            gateway: self.gateway_row(u32::try_from(connecting).unwrap_or(u32::MAX)),
            taken: now.unix,
            workers: self.worker_rows(&clients),
            pool: self.pool_row(&clients),
            clients,
        }
    }

    fn gateway_row(&self, connecting: u32) -> GatewayRow {
        let data_path = self.workers.each().next().map(|(_, handle, _)| DataPath {
            engine: handle.engine().name.to_owned(),
            aead: handle.aead().name.to_owned(),
            notes: notes(handle, &self.workers, self.raised.as_ref().map_or(&[], |raised| raised.notes.as_slice())),
        });
        GatewayRow {
            name: self.facts.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: self.facts.gateway.since,
            listen: vec![self.facts.listen],
            device: self.interface.name.clone(),
            max_clients: self.profile.max_clients,
            connecting,
            control_restarts: self.restarts,
            data_path: data_path.unwrap_or_default(),
        }
    }

    fn client_row(&self, session: &Session, now: controlplane::Now) -> ClientRow {
        let said = |wanted: &str| {
            let mut all = session.facts.peer_info.iter();
            all.find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        let traffic = traffic_of(session);
        ClientRow {
            common_name: session.name.clone(),
            username: Some(session.facts.username.clone()).filter(|name| !name.is_empty()),
            real_address: session.path.remote,
            ipv4: session.addresses.ipv4.map(|own| own.address),
            ipv6: session.addresses.ipv6.map(|own| own.address),
            routes: session.own.iroutes.iter().map(|(network, prefix)| format!("{network}/{prefix}")).collect(),
            bytes_in: traffic.bytes_received,
            bytes_out: traffic.bytes_sent,
            rate_in: session.pace.rates.map(|[from, _]| from),
            rate_out: session.pace.rates.map(|[_, to]| to),
            since: session.since,
            last_heard: now.unix.saturating_sub(quiet(session, now.at).as_secs()),
            cipher: session.cipher.to_owned(),
            key_age: now.at.since(session.keyed).as_secs(),
            worker: self.workers.of(session.peer),
            peer_id: session.peer,
            client_id: session.generation,
            platform: said("IV_PLAT"),
            version: said("IV_VER"),
            gui_version: said("IV_GUI_VER"),
            certificate_until: session.certificate.as_ref().map(|certificate| certificate.not_after),
        }
    }

    fn worker_rows(&self, clients: &[ClientRow]) -> Vec<WorkerRow> {
        let row = |(worker, handle, seat): (u16, &WorkerHandle, &crate::data_path::Seat)| {
            let counters = handle.stats().snapshot();
            let carried = |sums: &DirectionSnapshot| Carried { packets: sums.inner_packets, bytes: sums.inner_bytes };
            let drops = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.dropped(*reason)));
            WorkerRow {
                worker,
                cpu: seat.cpu.and_then(|cpu| u32::try_from(cpu).ok()),
                offloads: counters.offloads.to_string(),
                peers: u32::try_from(clients.iter().filter(|client| client.worker == worker).count()).unwrap_or(0),
                inbound: carried(&counters.inbound),
                outbound: carried(&counters.outbound),
                relayed: Carried { packets: counters.relayed, bytes: 0 },
                handed_over: counters.inbound.taken_over.saturating_add(counters.outbound.taken_over),
                control: counters.control_received,
                drops: what_happened(drops, self.workers.lost(worker)),
            }
        };
        self.workers.each().map(row).collect()
    }

    fn pool_row(&self, clients: &[ClientRow]) -> PoolRow {
        let (_, size) = self.pool.fill();
        let (v4, v6) = self.pool.families();
        let held = |has: fn(&ClientRow) -> bool| clients.iter().filter(|client| has(client)).count() as u64;
        PoolRow {
            ipv4_used: held(|client| client.ipv4.is_some()),
            ipv4_size: if v4 { size } else { 0 },
            ipv6_used: held(|client| client.ipv6.is_some()),
            ipv6_size: if v6 { size } else { 0 },
        }
    }

    /// The counters of every worker as they stand.
    pub(super) fn readings(&self) -> Vec<Reading> {
        let at = Duration::from_nanos(clock::now().at.0);
        self.workers.counters().into_iter().map(|counters| Reading { at, counters }).collect()
    }

    /// All counters as blocks of lines, with rates since the last ones.
    pub(super) async fn log_statistics(&mut self) {
        let readings = self.readings();
        tracing::info!("{}", self.line());
        let tun = self.host.tx_dropped(&self.interface).await.unwrap_or(0);
        for ((worker, handle, _), now) in self.workers.each().zip(&readings) {
            let figures = Figures {
                worker,
                others: "clients",
                engine: handle.engine().name,
                aead: handle.aead().name,
                now: *now,
                before: self.statistics.get(usize::from(worker)).copied(),
                lost: Lost { tun: if worker == 0 { tun } else { 0 }, socket: self.workers.lost(worker) },
            };
            for line in statistics::block(&figures) {
                tracing::info!("{line}");
            }
        }
        self.statistics = readings;
    }

    /// Writes the status file, and when to do it next.
    pub(super) fn write_status(&mut self) {
        let Some(status) = &self.profile.status else { return };
        let pause = Duration::from_secs(u64::from(status.every_s.max(1)));
        self.timers.status = Some(clock::now().at + pause);
        let version = Version::from_number(status.version).unwrap_or(Version::One);
        let path = self.profile.directory.join(&status.path);
        if let Err(error) = status_file::write(&path, version, &self.snapshot()) {
            tracing::warn!("{}: the status file could not be written: {error}", path.display());
        }
    }
}

/// A control process is missed for so long before that counts: its successor takes moments.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a gateway is not healthy. `headless`: for so long no control process has said that it is ready.
fn trouble(stopping: bool, headless: Option<Duration>) -> Option<String> {
    if stopping {
        return Some("it is stopping".to_owned());
    }
    let long = headless.filter(|missing| *missing >= PATIENCE)?;
    Some(format!("nobody can log in: its control process died {} s ago and its successor is not ready", long.as_secs()))
}

/// Reasons without a packet are left out.
fn what_happened(drops: impl Iterator<Item = (String, u64)>, at_socket: u64) -> BTreeMap<String, u64> {
    drops.chain([(SOCKET_BUFFER.to_owned(), at_socket)]).filter(|(_, count)| *count > 0).collect()
}

/// What packets are moved and sealed with, why, and what of the host is not as it was wanted.
fn notes(handle: &WorkerHandle, workers: &Workers, of_the_host: &[String]) -> Vec<String> {
    let own = [handle.engine().to_string(), handle.aead().to_string()];
    let steering = workers.handing_over().map(str::to_owned);
    own.into_iter().chain(steering).chain(of_the_host.iter().cloned()).collect()
}

/// How long nothing came from a client.
fn quiet(session: &Session, now: controlplane::Instant) -> Duration {
    match session.counters.last_heard_ns() {
        0 => now.since(session.keyed),
        heard => now.since(controlplane::Instant(heard)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_the_kernel_are_among_those_that_happened() {
        let drops = || [("replayed".to_owned(), 0), ("no-route".to_owned(), 3)].into_iter();
        assert_eq!(what_happened(drops(), 0), BTreeMap::from([("no-route".to_owned(), 3)]));
        let with = BTreeMap::from([("no-route".to_owned(), 3), (SOCKET_BUFFER.to_owned(), 7)]);
        assert_eq!(what_happened(drops(), 7), with);
    }

    #[test]
    fn a_gateway_is_unhealthy_when_its_control_process_stays_dead_or_it_stops() {
        assert_eq!(trouble(false, None), None);
        assert_eq!(trouble(false, Some(PATIENCE - Duration::from_millis(1))), None, "its successor takes moments");
        assert!(trouble(false, Some(PATIENCE)).unwrap().contains("died 10 s ago"));
        assert_eq!(trouble(true, None).unwrap(), "it is stopping");
    }
}
