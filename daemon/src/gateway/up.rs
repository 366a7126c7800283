//! `minivpn gateway up`: no questions. Makes what is missing, changes what was asked for, says both, and serves. A second
//! run with the same arguments changes nothing and serves again.

use std::path::{Path, PathBuf};

use controlplane::Random;
use dataplane::datachannel::aead::{Aead, AeadChoice};

use super::calls;
use super::checklist::{Checklist, Mark, date};
use super::index::Holder;
use super::names::ClientName;
use super::pki;
use super::profile::{self, Destination, Placed};
use super::server_conf;
use super::settings::{Settings, Surroundings};
use super::started::Started;
use super::state::{Made, Renewed, State, StateError};
use super::suggestion::Suggestions;
use super::{running, state, unit};
use crate::cli::gateway::Up;
use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::observe::console::Console;

/// `minivpn gateway up …`
///
/// # Errors
/// What could not be made, and why serving ended.
pub fn up(options: &Up, console: Console) -> Result<(), Fatal> {
    let format = console.format();
    // Before a directory is made for a gateway that cannot run.
    super::start::check(&options.serve)?;
    // A unit that is there is started anew by --install; nobody else's gateway is.
    let no_second_one = options.no_serve || options.install && unit::is_installed(&options.which.name);
    if !no_second_one {
        running::refuse(&options.which.name, &options.serve, &options.which.directory())?;
    }
    let mut list = Checklist::default();
    let settings =
        prepare(options, &Surroundings::look(), clock::now().unix, &mut controlplane::SystemRandom, &mut list)?;
    let (directory, name) = (options.which.directory(), &options.which.name);
    if !options.install && !options.no_serve {
        // The files are made, whatever becomes of the rest.
        list.print(format);
        let served = settings.clone();
        let suggest = Suggestions::of(name, &directory);
        let ready = move |started: &Started| checklist_of(started, &served, &suggest).print(format);
        return calls::serve(name, &directory, &settings, options.serve.clone(), console, ready);
    }
    describe_host(&settings, &mut list);
    describe_data_path(&mut list);
    let outcome = options.install.then(|| unit::install(name, &directory));
    if let Some(outcome) = &outcome {
        outcome.describe(&mut list);
    }
    list.print(format);
    outcome.map_or(Ok(()), unit::Installed::into_result)
}

/// Everything but the host: the state directory, the configuration, the profiles.
fn prepare(
    options: &Up,
    around: &Surroundings,
    now: u64,
    rng: &mut dyn Random,
    list: &mut Checklist,
) -> Result<Settings, Fatal> {
    let (directory, name) = (options.which.directory(), &options.which.name);
    // Wrong arguments make no directory.
    let known = directory.join("settings.json").try_exists();
    if !known.map_err(state::file_error(&directory))? {
        Settings::first(&options.wishes(), name, around, rng).map_err(wrong)?;
    }
    let mut state = State::create(&directory, name, now)?;
    let (settings, endpoint_moved) = settle(&state, options, around, rng, list)?;
    let made = state.ensure(&settings.endpoint, now, rng)?;
    let mut renewed = state.maintain(&settings.endpoint, now, rng)?;
    if endpoint_moved && !made.contains(&Made::Server) && !renewed.contains(&Renewed::Server) {
        state.renew_server(&settings.endpoint, now, rng)?;
        renewed.push(Renewed::Server);
    }
    describe_state(&state, &made, &renewed, list)?;
    // Last, so that a run that failed in between is repeated as a whole.
    let config = server_conf::text(&settings, &directory);
    let written = state.write("server.conf", config.as_bytes())?;
    list.add(
        if written { Mark::New } else { Mark::Kept },
        "configuration",
        directory.join("server.conf").display().to_string(),
    );
    state.write("settings.json", settings.to_text().as_bytes())?;
    for client in &options.client {
        give_profile(&mut state, &settings, client, &options.out, now, rng, list)?;
    }
    if state.clients(now).is_empty() {
        let add = state.suggest().command("client add NAME");
        list.add(Mark::Attention, "clients", format!("there are none: {add}"));
    }
    Ok(settings)
}

/// The settings, and whether the endpoint is another than before.
fn settle(
    state: &State,
    options: &Up,
    around: &Surroundings,
    rng: &mut dyn Random,
    list: &mut Checklist,
) -> Result<(Settings, bool), Fatal> {
    let Some(before) = load_settings(state)? else {
        let settings = Settings::first(&options.wishes(), state.name(), around, rng).map_err(wrong)?;
        list.add(Mark::New, "gateway", format!("{} in {}", state.name(), state.directory().display()));
        return Ok((settings, false));
    };
    let (settings, changes) = before.again(&options.wishes()).map_err(wrong)?;
    list.add(Mark::Kept, "gateway", format!("{} in {}", state.name(), state.directory().display()));
    for change in &changes {
        list.add(Mark::New, "changed", change.clone());
    }
    // Profiles that are out there say what was true before.
    if before.endpoint != settings.endpoint || before.port != settings.port {
        list.add(
            Mark::Attention,
            "profiles",
            format!(
                "those given out name the old endpoint: {} prints the new one",
                state.suggest().command("client show NAME")
            ),
        );
    }
    let moved = before.endpoint != settings.endpoint;
    Ok((settings, moved))
}

/// What the last run was asked for; `None` before the first is complete.
pub(super) fn load_settings(state: &State) -> Result<Option<Settings>, Fatal> {
    let Some(text) = state.read("settings.json")? else { return Ok(None) };
    let path = state.path("settings.json");
    let parsed = Settings::parse(&text);
    parsed.map(Some).map_err(|what| Fatal::new(Exit::Config, format!("{}: {what}", path.display())))
}

/// A client that nobody has heard of gets a certificate; one that is known gets its profile again. Whoever was revoked
/// stays revoked, however often this runs.
fn give_profile(
    state: &mut State,
    settings: &Settings,
    client: &ClientName,
    out: &Path,
    now: u64,
    rng: &mut dyn Random,
    list: &mut Checklist,
) -> Result<(), Fatal> {
    let what = format!("client {client}");
    let to = Destination::new(None, client, out);
    let newest = state.index().newest(&Holder::Client(client.clone())).cloned();
    let mark = match newest {
        None => {
            profile::check(client, &to)?;
            state.add_client(client, pki::CLIENT_DAYS, now, rng)?;
            Mark::New
        }
        Some(record) if record.revoked.is_some() => {
            list.add(
                Mark::Attention,
                &what,
                format!("is revoked; to let it in again: {}", state.suggest().client("add", client)),
            );
            return Ok(());
        }
        Some(record) if !record.is_good(now) => {
            list.add(
                Mark::Attention,
                &what,
                format!("its certificate has expired: {}", state.suggest().client("renew", client)),
            );
            return Ok(());
        }
        Some(_) => Mark::Kept,
    };
    let text = match profile::text(state, settings, client) {
        Err(error @ StateError::NoKey { .. }) => {
            list.add(Mark::Kept, &what, error.to_string());
            return Ok(());
        }
        text => text?,
    };
    let placed = profile::place(&text, client, &to)?;
    let mark = if matches!(placed, Placed::Written(_)) { Mark::New } else { mark };
    list.add(mark, &what, format!("profile {placed}"));
    Ok(())
}

fn describe_state(state: &State, made: &[Made], renewed: &[Renewed], list: &mut Checklist) -> Result<(), Fatal> {
    let mark = |was_made: bool| if was_made { Mark::New } else { Mark::Kept };
    let ca = pki::certificate_facts(&state.text("ca.crt")?).map_err(StateError::from)?;
    list.add(
        mark(made.contains(&Made::Authority)),
        "authority",
        format!("{}, until {}", ca.common_name, date(ca.not_after)),
    );
    let server = pki::certificate_facts(&state.text("server.pem")?).map_err(StateError::from)?;
    let new = made.contains(&Made::Server) || renewed.contains(&Renewed::Server);
    list.add(
        mark(new),
        "certificate",
        format!("{}, until {}, renewed on its own", server.common_name, date(server.not_after)),
    );
    let crl = state.crl()?;
    let new = made.contains(&Made::Crl) || renewed.contains(&Renewed::Crl);
    list.add(
        mark(new),
        "revocation list",
        format!("{} revoked, until {}, signed anew on its own", crl.revoked.len(), date(crl.next_update)),
    );
    list.add(
        mark(made.contains(&Made::WrappingKey)),
        "tls-crypt key",
        "control packets are encrypted; strangers get no answer",
    );
    Ok(())
}

/// What came of the start.
fn checklist_of(started: &Started, settings: &Settings, suggest: &Suggestions) -> Checklist {
    let mut list = Checklist::default();
    for change in &started.changes {
        list.add(Mark::New, "host", change.clone());
    }
    for note in &started.notes {
        list.add(Mark::Attention, "host", note.clone());
    }
    describe_hints(settings, &mut list);
    for line in &started.data_path {
        list.add(Mark::Kept, "data path", line.clone());
    }
    if let Some(path) = &started.socket {
        let status = suggest.to_running("status");
        list.add(Mark::Kept, "commands", format!("{status} asks {}", path.display()));
    }
    let listen = started.listen.map_or_else(String::new, |address| address.to_string());
    let endpoint = &settings.endpoint;
    list.add(Mark::Kept, "serving", format!("UDP {listen} on {}; clients connect to {endpoint}", started.device));
    list
}

/// What serving will change, from how it is now.
fn describe_host(settings: &Settings, list: &mut Checklist) {
    let on = |path: &str| std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    let forwarding = [
        (true, "IPv4 forwarding", "/proc/sys/net/ipv4/ip_forward"),
        (settings.pool_ipv6.is_some(), "IPv6 forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
    ];
    for (_, what, path) in forwarding.iter().filter(|(wanted, ..)| *wanted) {
        match on(path) {
            true => list.add(Mark::Kept, what, "is on"),
            false => list.add(Mark::Later, what, "is switched on while the gateway runs"),
        }
    }
    let pools =
        settings.pool_ipv6.map_or_else(|| settings.pool.to_string(), |six| format!("{} and {six}", settings.pool));
    if settings.nat {
        list.add(Mark::Later, "NAT", format!("an nftables table of its own, for {pools}; nothing else is touched"));
    }
    describe_hints(settings, list);
    let listen = settings.listen.map_or_else(|| "every address".to_owned(), |address| address.to_string());
    let (port, endpoint) = (settings.port, &settings.endpoint);
    list.add(Mark::Later, "listening", format!("UDP port {port} of {listen}; clients connect to {endpoint}"));
}

/// What others must do, or may want to.
fn describe_hints(settings: &Settings, list: &mut Checklist) {
    if !settings.nat {
        let pools =
            settings.pool_ipv6.map_or_else(|| settings.pool.to_string(), |six| format!("{} and {six}", settings.pool));
        list.add(Mark::Attention, "NAT", format!("is off, as asked for: others must route {pools} to this host"));
    }
    if settings.dns.is_empty() && settings.routes.is_empty() {
        list.add(Mark::Attention, "name servers", "clients are told none, and keep theirs: give some with --dns");
    }
    for sentence in calls::foreign_drops(settings) {
        list.add(Mark::Attention, "firewall", sentence);
    }
}

/// Which data path will run, and why.
fn describe_data_path(list: &mut Checklist) {
    let io = match dataplane::sys::uring::available() {
        Ok(_) => "io_uring".to_owned(),
        Err(error) => format!("system calls (io_uring is refused here: {error})"),
    };
    let aead = Aead::resolve(AeadChoice::Auto).map_or_else(|error| error.to_string(), |aead| aead.info().to_string());
    list.add(Mark::Later, "data path", format!("in user space; {io}; {aead}"));
}

fn wrong(error: impl std::fmt::Display) -> Fatal {
    Fatal::new(Exit::Config, error.to_string())
}

/// Where a unit or a person finds this executable.
pub(super) fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/minivpn"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, gateway::Gateway};
    use crate::gateway::fixture::{DAY, Folder, NOW, Seeded};
    use clap::Parser;
    use std::collections::BTreeMap;

    struct Place {
        folder: Folder,
    }

    impl Place {
        fn new() -> Place {
            let folder = Folder::new();
            std::fs::create_dir(folder.path().join("out")).unwrap();
            Place { folder }
        }

        fn state(&self) -> PathBuf {
            self.folder.path().join("state")
        }

        fn run(&self, words: &[&str], now: u64) -> Result<Checklist, Fatal> {
            let (state, out) = (self.state(), self.folder.path().join("out"));
            let fixed =
                ["minivpn", "gateway", "up", "--state-dir", state.to_str().unwrap(), "--out", out.to_str().unwrap()];
            let Ok(Cli { command: Command::Gateway { command: Gateway::Up(options) }, .. }) =
                Cli::try_parse_from([&fixed, words].concat())
            else {
                panic!("{words:?}");
            };
            let mut list = Checklist::default();
            let around = Surroundings { ipv6: true, ..Surroundings::default() };
            prepare(&options, &around, now, &mut Seeded(now), &mut list).map(|_| list)
        }

        fn profile(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("out/alice.ovpn")).unwrap()
        }

        /// Every file with its content.
        fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
            let mut files = BTreeMap::new();
            let mut rooms = vec![self.folder.path().to_owned()];
            while let Some(room) = rooms.pop() {
                for entry in std::fs::read_dir(room).unwrap().map(|entry| entry.unwrap().path()) {
                    if entry.is_dir() {
                        rooms.push(entry);
                    } else {
                        files.insert(entry.clone(), std::fs::read(&entry).unwrap());
                    }
                }
            }
            files
        }
    }

    fn marks(list: &Checklist, mark: Mark) -> Vec<&str> {
        list.items().iter().filter(|item| item.mark == mark).map(|item| item.what.as_str()).collect()
    }

    const FIRST: [&str; 4] = ["--endpoint", "vpn.example.com", "--client", "alice"];

    #[test]
    fn the_same_again_changes_nothing() {
        let place = Place::new();
        let list = place.run(&FIRST, NOW).unwrap();
        assert!(marks(&list, Mark::New).contains(&"client alice"));
        let files = place.files();
        for words in [&FIRST[..], &[]] {
            let list = place.run(words, NOW + 5).unwrap();
            assert_eq!(marks(&list, Mark::New), Vec::<&str>::new());
            assert!(place.files() == files, "a file changed");
        }
    }

    #[test]
    fn a_first_run_without_an_endpoint_makes_nothing() {
        let place = Place::new();
        let error = place.run(&["--client", "alice"], NOW).unwrap_err();
        assert!(error.exit == Exit::Config && error.sentence.contains("--endpoint"), "{error}");
        assert!(!place.state().exists());
        assert!(place.run(&["--endpoint", "x.example", "--pool", "10.0.0.0/30"], NOW).is_err());
        assert!(!place.state().exists());
    }

    #[test]
    fn a_profile_that_cannot_be_written_costs_no_certificate() {
        let place = Place::new();
        std::fs::remove_dir(place.folder.path().join("out")).unwrap();
        place.run(&FIRST, NOW).unwrap_err();
        let name = "default".parse().unwrap();
        assert_eq!(State::open(&place.state(), &name, NOW).unwrap().clients(NOW), []);
        std::fs::create_dir(place.folder.path().join("out")).unwrap();
        assert!(marks(&place.run(&FIRST, NOW).unwrap(), Mark::New).contains(&"client alice"));
    }

    #[test]
    fn another_endpoint_is_in_certificate_and_profile() {
        let place = Place::new();
        place.run(&FIRST, NOW).unwrap();
        let list = place.run(&["--endpoint", "192.0.2.1", "--port", "443", "--client", "alice"], NOW + 5).unwrap();
        let said: Vec<&str> = list.items().iter().map(|item| item.detail.as_str()).collect();
        assert!(said.contains(&"endpoint vpn.example.com → 192.0.2.1") && said.contains(&"port 1194 → 443"));
        assert!(marks(&list, Mark::Attention).contains(&"profiles"));
        let pem = std::fs::read_to_string(place.state().join("server.pem")).unwrap();
        assert_eq!(pki::certificate_facts(&pem).unwrap().alternative_names, ["192.0.2.1"]);
        assert!(place.profile().contains("remote 192.0.2.1 443\n"));
        let config = std::fs::read_to_string(place.state().join("server.conf")).unwrap();
        assert!(config.contains("port 443\n"));
    }

    #[test]
    fn a_revoked_client_is_not_let_in_by_running_again() {
        let place = Place::new();
        place.run(&FIRST, NOW).unwrap();
        let name = "default".parse().unwrap();
        let mut state = State::open(&place.state(), &name, NOW).unwrap();
        state.revoke_client(&"alice".parse().unwrap(), NOW).unwrap();
        drop(state);
        let before = place.files();
        let list = place.run(&FIRST, NOW + 5).unwrap();
        assert!(marks(&list, Mark::Attention).contains(&"client alice"));
        assert!(place.files() == before);
    }

    #[test]
    fn a_key_that_was_taken_away_stays_away() {
        let place = Place::new();
        place.run(&FIRST, NOW).unwrap();
        std::fs::remove_file(place.state().join("clients/alice.pem")).unwrap();
        let list = place.run(&FIRST, NOW + 5).unwrap();
        assert!(marks(&list, Mark::Kept).contains(&"client alice"));
        assert!(!place.state().join("clients/alice.pem").exists());
        let list = place.run(&FIRST, NOW + (pki::CLIENT_DAYS + 1) * DAY).unwrap();
        assert!(marks(&list, Mark::Attention).contains(&"client alice"), "expired");
    }

    #[test]
    fn a_run_long_after_renews_what_is_about_to_expire() {
        let place = Place::new();
        place.run(&FIRST, NOW).unwrap();
        let list = place.run(&[], NOW + (pki::SERVER_DAYS - 10) * DAY).unwrap();
        assert_eq!(marks(&list, Mark::New), ["certificate", "revocation list"]);
    }
}
