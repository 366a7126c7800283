//! The whole run: what is missing is named before anything is done, tunnels are raised once and measured in turns, and what
//! came out goes to the report.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dataplane::datachannel::aead::{Aead, AeadChoice};
use dataplane::sys::affinity;
use link::message::Cipher;

use super::contender::{self, Contender, Place, Running};
use super::machine;
use super::measure::{Scene, measure};
use super::net::Ground;
use super::plan::{self, Plan, Step};
use super::progress::{Progress, clock};
use super::results::{CryptoRow, Link, Results, SCHEMA, Series, Skipped};
use super::{OutDir, crypto};
use crate::cli::{Bench, BenchCrypto};
use crate::exit::{Exit, Fatal};
use crate::host::privileges;
use crate::sys;

/// What one contender takes of memory with its two ends, and the generator besides, in bytes; both rounded up.
const MEMORY_EACH: u64 = 64 << 20;
const MEMORY_BASE: u64 = 128 << 20;

/// `minivpn bench`
pub(super) fn tunnels(options: &Bench, quiet: bool) -> Result<(), Fatal> {
    let old = options.against.as_deref().map(load).transpose()?;
    let plan = plan_of(options)?;
    let contenders = contenders_of(options)?;
    let stop = stop_flag()?;
    check_host(contenders.len())?;
    let mut results = blank();
    let out = OutDir::prepare(options.out.as_deref(), &results.started)?;
    {
        let ground = Ground::new().map_err(no_ground)?;
        if !quiet {
            eprintln!("{}", announcement(&plan, contenders.iter().filter(|one| one.is_installed()).count()));
        }
        let mut run = Run::raise(contenders, &ground, plan, stop, &mut results, quiet)?;
        run.udp_rate = options.udp_rate;
        run.measure(&mut results)?;
    }
    let choices = aeads(&options.aead);
    if results.series.iter().any(|series| series.contender.starts_with("minivpn")) {
        let time = if options.quick { Duration::from_millis(10) } else { Duration::from_millis(50) };
        results.crypto = crypto_rows(&choices, time, stop, &mut Vec::new());
    }
    out.fill(&results, old.as_ref(), quiet)
}

/// `minivpn bench crypto`
pub(super) fn crypto(options: &BenchCrypto, quiet: bool) -> Result<(), Fatal> {
    let old = options.against.as_deref().map(load).transpose()?;
    let stop = stop_flag()?;
    let mut results = blank();
    let out = OutDir::prepare(options.out.as_deref(), &results.started)?;
    let time = if options.quick { Duration::from_millis(10) } else { Duration::from_millis(300) };
    results.crypto = crypto_rows(&aeads(&options.aead), time, stop, &mut results.skipped);
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(interrupted());
    }
    if results.crypto.is_empty() {
        return Err(Fatal::new(Exit::Config, nobody(&results.skipped)));
    }
    out.fill(&results, old.as_ref(), quiet)
}

fn crypto_rows(
    choices: &[AeadChoice],
    time: Duration,
    stop: &AtomicBool,
    skipped: &mut Vec<Skipped>,
) -> Vec<CryptoRow> {
    let mut rows = Vec::new();
    for choice in choices {
        let backend = match Aead::resolve(*choice) {
            Ok(backend) => backend,
            Err(error) => {
                skipped.push(Skipped { contender: choice.name().into(), reason: error.to_string() });
                continue;
            }
        };
        // ipsec-mb does AES-GCM; the rest is the library's, whose row stands by itself.
        let own = |cipher: &Cipher| backend.info().name != "ipsec-mb" || *cipher != Cipher::ChaCha20Poly1305;
        for cipher in crypto::CIPHERS.into_iter().filter(own) {
            for size in crypto::SIZES {
                if !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    rows.extend(crypto::row(&backend, cipher, size, time));
                }
            }
        }
    }
    rows
}

/// The choices to compare: those given, or the library of this build and ipsec-mb.
fn aeads(wish: &[AeadChoice]) -> Vec<AeadChoice> {
    if wish.is_empty() {
        let own = Aead::default().info().name.parse().ok();
        return own.into_iter().chain([AeadChoice::IpsecMb]).collect();
    }
    let mut choices = wish.to_vec();
    choices.dedup();
    choices
}

fn load(path: &Path) -> Result<Results, Fatal> {
    Results::load(path).map_err(|error| Fatal::new(Exit::Config, error.to_string()))
}

fn plan_of(options: &Bench) -> Result<Plan, Fatal> {
    let wrong = |sentence| Fatal::new(Exit::Config, sentence);
    let quick = options.quick;
    let links = match (options.links.is_empty(), quick) {
        (true, true) => vec![Link::Offloaded],
        (true, false) => vec![Link::Offloaded, Link::Segmented],
        (false, _) => plan::links(&options.links).map_err(wrong)?,
    };
    let tests = match (options.tests.is_empty(), quick) {
        (true, true) => plan::tests(&plan::QUICK).map_err(wrong)?,
        (true, false) => plan::TESTS.iter().map(|(_, test)| *test).collect(),
        (false, _) => plan::tests(&options.tests).map_err(wrong)?,
    };
    let rounds = options.rounds.unwrap_or(if quick { 2 } else { 5 });
    let window = Duration::from_secs(options.seconds.unwrap_or(1).into());
    let warm_up = (window / 4).clamp(Duration::from_millis(250), Duration::from_secs(1));
    Ok(Plan { rounds, links, tests, window, warm_up })
}

fn contenders_of(options: &Bench) -> Result<Vec<Contender>, Fatal> {
    let engines = match options.engines.is_empty() {
        true => vec![contender::Engine::Uring, contender::Engine::Syscall],
        false => options.engines.clone(),
    };
    let all = Contender::all(&engines, &aeads(&options.aead));
    if options.only.is_empty() {
        return Ok(all);
    }
    for word in &options.only {
        if !all.iter().any(|contender| contender.is_meant_by(word)) {
            let known: Vec<String> = all.iter().map(Contender::name).collect();
            let sentence = format!("--only {word}: there is no such contender; there are {}", known.join(", "));
            return Err(Fatal::new(Exit::Config, sentence));
        }
    }
    Ok(all.into_iter().filter(|contender| options.only.iter().any(|word| contender.is_meant_by(word))).collect())
}

fn stop_flag() -> Result<&'static AtomicBool, Fatal> {
    sys::stop_flag().map_err(|error| Fatal::new(Exit::Other, format!("signals cannot be taken: {error}")))
}

fn check_host(contenders: usize) -> Result<(), Fatal> {
    privileges::check().map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))?;
    let wanted = MEMORY_BASE + MEMORY_EACH * contenders as u64;
    match machine::available_memory() {
        Some(bytes) if bytes < wanted => Err(Fatal::new(
            Exit::Other,
            format!(
                "{} MiB of memory are available, and {contenders} contenders want {} MiB; measure fewer with --only",
                bytes >> 20,
                wanted >> 20
            ),
        )),
        _ => Ok(()),
    }
}

/// Why the namespaces could not be made.
fn no_ground(error: io::Error) -> Fatal {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Fatal::new(
            Exit::Privilege,
            "two network namespaces are needed, and the kernel refuses them (EPERM): run as root (sudo minivpn bench); \
             in a container also --cap-add SYS_ADMIN --cap-add NET_ADMIN",
        ),
        Some(libc::EOPNOTSUPP) => {
            Fatal::new(Exit::Privilege, "this kernel makes no veth pair: load the module with `modprobe veth`")
        }
        Some(libc::ENOSPC | libc::EINVAL) => Fatal::new(
            Exit::Privilege,
            format!("network namespaces cannot be made: {error} (sysctl user.max_net_namespaces, CONFIG_NET_NS)"),
        ),
        _ => Fatal::new(Exit::Other, format!("the two namespaces could not be joined: {error}")),
    }
}

fn interrupted() -> Fatal {
    Fatal::new(Exit::Other, "interrupted; everything is removed, and nothing was written")
}

fn nobody(skipped: &[Skipped]) -> String {
    let why: Vec<String> = skipped.iter().map(|skip| format!("{}: {}", skip.contender, skip.reason)).collect();
    format!("there is nothing to measure: {}", why.join("; "))
}

/// Results with nothing measured yet.
fn blank() -> Results {
    let own = ("minivpn".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Results {
        schema: SCHEMA,
        started: machine::now(),
        command_line: std::env::args().collect(),
        machine: machine::describe(),
        versions: BTreeMap::from([own]),
        series: Vec::new(),
        skipped: Vec::new(),
        crypto: Vec::new(),
    }
}

/// A tunnel that is measured. `None` once it is down.
struct Lane {
    name: String,
    offloads: String,
    running: Option<Running>,
}

/// A run under way.
struct Run<'a> {
    lanes: Vec<Lane>,
    ground: &'a Ground,
    plan: Plan,
    udp_rate: u64,
    stop: &'a AtomicBool,
    quiet: bool,
}

impl<'a> Run<'a> {
    /// Raises every tunnel; what cannot be is skipped.
    fn raise(
        contenders: Vec<Contender>,
        ground: &'a Ground,
        plan: Plan,
        stop: &'a AtomicBool,
        results: &mut Results,
        quiet: bool,
    ) -> Result<Run<'a>, Fatal> {
        let (a, b) = contender::halves(&affinity::allowed());
        let mut lanes = Vec::new();
        for (contender, number) in contenders.iter().zip(1u8..) {
            let place = Place { number, a: a.clone(), b: b.clone() };
            match contender::raise(contender, ground, &place, stop) {
                Ok(running) => {
                    results.versions.extend(contender.version());
                    let (name, offloads) = (contender.name(), running.offloads.clone());
                    lanes.push(Lane { name, offloads, running: Some(running) });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(interrupted()),
                Err(error) => {
                    if !quiet {
                        eprintln!("{} is skipped: {error}", contender.name());
                    }
                    results.skipped.push(Skipped { contender: contender.name(), reason: error.to_string() });
                }
            }
        }
        if lanes.is_empty() {
            return Err(Fatal::new(Exit::Other, nobody(&results.skipped)));
        }
        Ok(Run { lanes, ground, plan, udp_rate: 0, stop, quiet })
    }

    /// Takes all measurements. When the user wants an end, what was complete by then is kept.
    fn measure(&mut self, results: &mut Results) -> Result<(), Fatal> {
        self.check_links(results)?;
        let steps = self.plan.steps(self.lanes.len());
        let mut progress = Progress::new(steps.len(), self.plan.step_time(), self.quiet);
        progress.say(&format!(
            "{} tunnels, {} rounds, {} measurements: about {} minutes",
            self.lanes.len(),
            self.plan.rounds,
            steps.len(),
            clock(self.plan.time(self.lanes.len()))
        ));
        let mut link = None;
        for step in steps {
            if link != Some(step.link) {
                self.ground.carry_trains(step.link == Link::Offloaded).map_err(|error| {
                    Fatal::new(Exit::Other, format!("the offloads of the link could not be switched: {error}"))
                })?;
                link = Some(step.link);
            }
            if !self.step(&step, &mut progress, results) {
                return self.cut_short(step.round, results);
            }
        }
        Ok(())
    }

    /// One measurement; false when the user wants an end.
    fn step(&mut self, step: &Step, progress: &mut Progress, results: &mut Results) -> bool {
        let Some(lane) = self.lanes.get_mut(step.contender) else { return true };
        let Some(running) = &mut lane.running else { return true };
        let link = if step.link == Link::Offloaded { "offloaded" } else { "segmented" };
        let what = format!("round {}: {}, {link} link, {}", step.round + 1, lane.name, plan::name(step.test));
        progress.step(&what);
        let scene =
            Scene { ground: self.ground, tunnel: running, plan: &self.plan, udp_rate: self.udp_rate, stop: self.stop };
        let measured = measure(&scene, step.test);
        let dead = running.dead();
        match measured {
            // Of a tunnel that broke in the middle no figure counts.
            Ok(mut sample) if dead.is_none() => {
                sample.round = step.round;
                let series = series_of(results, &lane.name, &lane.offloads, step);
                series.samples.push(sample);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return false,
            failed => {
                let error = failed.err().map(|error| error.to_string()).unwrap_or_default();
                let reason = format!("{what}: {}", dead.clone().unwrap_or(error));
                progress.say(&reason);
                results.skipped.push(Skipped { contender: lane.name.clone(), reason });
                if dead.is_some() {
                    lane.running = None;
                }
            }
        }
        true
    }

    /// Leaves the segmented link out where the kernel cannot make one.
    fn check_links(&mut self, results: &mut Results) -> Result<(), Fatal> {
        if self.plan.links.contains(&Link::Segmented)
            && let Err(error) = self.ground.carry_trains(false)
        {
            self.plan.links.retain(|link| *link != Link::Segmented);
            let reason = format!("the veth cannot be told to cut trains of datagrams: {error}");
            if self.plan.links.is_empty() {
                return Err(Fatal::new(Exit::Other, reason));
            }
            results.skipped.push(Skipped { contender: "segmented link".into(), reason });
        }
        Ok(())
    }

    /// Keeps the rounds that were complete.
    fn cut_short(&self, round: u32, results: &mut Results) -> Result<(), Fatal> {
        keep_rounds_below(round, results);
        if results.series.is_empty() {
            return Err(interrupted());
        }
        eprintln!("interrupted: {round} of {} rounds are complete and are reported", self.plan.rounds);
        Ok(())
    }
}

/// What is said before the first tunnel is raised, of this many that may be.
fn announcement(plan: &Plan, contenders: usize) -> String {
    format!(
        "measuring {contenders} contenders takes about {} minutes; --quick, --only, --tests and --rounds make it shorter",
        clock(plan.time(contenders))
    )
}

fn keep_rounds_below(round: u32, results: &mut Results) {
    for series in &mut results.series {
        series.samples.retain(|sample| sample.round < round);
    }
    results.series.retain(|series| !series.samples.is_empty());
}

fn series_of<'r>(results: &'r mut Results, name: &str, offloads: &str, step: &Step) -> &'r mut Series {
    let is = |series: &Series| series.contender == name && series.link == step.link && series.test == step.test;
    let at = match results.series.iter().position(is) {
        Some(at) => at,
        None => {
            let (contender, offloads) = (name.to_owned(), offloads.to_owned());
            results.series.push(Series { contender, offloads, link: step.link, test: step.test, samples: Vec::new() });
            results.series.len() - 1
        }
    };
    &mut results.series[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn options(line: &str) -> Bench {
        match Cli::try_parse_from(["minivpn", "bench"].into_iter().chain(line.split_whitespace())).unwrap().command {
            Command::Bench(bench) => bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn quick_means_less_unless_more_is_asked_for() {
        let quick = plan_of(&options("--quick")).unwrap();
        assert_eq!((quick.rounds, quick.links.len(), quick.tests.len()), (2, 1, 4));
        assert_eq!(quick.window, Duration::from_secs(1));
        let full = plan_of(&options("")).unwrap();
        assert_eq!((full.rounds, full.links.len(), full.tests.len()), (5, 2, 9));
        assert_eq!(full.window, Duration::from_secs(1));
        let asked = plan_of(&options("--quick --rounds 7 --links segmented --tests udp --seconds 2")).unwrap();
        assert_eq!((asked.rounds, asked.tests.len(), asked.links), (7, 3, vec![Link::Segmented]));
        assert_eq!(asked.window, Duration::from_secs(2));
        assert_eq!(plan_of(&options("--tests ping")).unwrap_err().exit, Exit::Config);
    }

    #[test]
    fn how_long_it_takes_is_said_before_it_begins() {
        let plan = plan_of(&options("--rounds 3 --seconds 2 --tests tcp-up --links segmented")).unwrap();
        assert_eq!(plan.time(2), (plan.step_time()) * 6);
        assert!(announcement(&plan, 2).contains("2 contenders takes about 0:15 minutes"), "{}", announcement(&plan, 2));
    }

    #[test]
    fn contenders_are_chosen_by_name_and_an_unknown_one_is_an_error() {
        let names = |line: &str| -> Vec<String> {
            contenders_of(&options(line)).unwrap().iter().map(Contender::name).collect()
        };
        assert_eq!(names("--only veth,openvpn"), ["veth", "openvpn"]);
        assert_eq!(names("--only minivpn --engines syscall --aead ipsec-mb"), ["minivpn/syscall/ipsec-mb"]);
        assert_eq!(names("").len(), 1 + 2 * 2 + 5);
        let error = contenders_of(&options("--only wiregard")).unwrap_err();
        assert!(error.exit == Exit::Config && error.sentence.contains("wireguard-go"), "{error}");
    }

    #[test]
    fn an_interrupted_run_keeps_its_complete_rounds() {
        let kept = |round: u32, rounds: &[u32]| {
            let mut results = blank();
            let step = Step { round: 0, link: Link::Offloaded, test: plan::TESTS[0].1, contender: 0 };
            let series = series_of(&mut results, "veth", "", &step);
            series.samples.extend(
                rounds.iter().map(|round| super::super::results::Sample { round: *round, ..Default::default() }),
            );
            keep_rounds_below(round, &mut results);
            results.series.first().map_or(0, |series| series.samples.len())
        };
        assert_eq!(kept(2, &[0, 1, 2]), 2);
        assert_eq!(kept(0, &[0]), 0);
    }

    #[test]
    fn samples_of_one_kind_go_into_one_series() {
        let mut results = blank();
        let step = Step { round: 0, link: Link::Offloaded, test: plan::TESTS[0].1, contender: 0 };
        series_of(&mut results, "veth", "", &step);
        series_of(&mut results, "veth", "", &Step { round: 1, ..step });
        series_of(&mut results, "veth", "", &Step { link: Link::Segmented, ..step });
        series_of(&mut results, "openvpn", "", &step);
        assert_eq!(results.series.len(), 3);
    }
}
