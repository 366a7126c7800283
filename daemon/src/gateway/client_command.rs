//! `minivpn client …`: one function for each command.

use std::path::Path;

use super::calls::{self, Answer};
use super::checklist::date;
use super::clients::Row;
use super::profile::{self, Destination, Placed};
use super::serial::Serial;
use super::settings::Settings;
use super::state::{State, missing};
use super::up::load_settings;
use crate::cli::client::{Client, Issue, List, Renew, Revoke, Show};
use crate::cli::gateway::Which;
use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::{out, outln};

/// `minivpn client …`
///
/// # Errors
/// What could not be done, and what to do about it.
pub fn run(command: &Client) -> Result<(), Fatal> {
    match command {
        Client::Add(options) => add(options),
        Client::List(options) => list(options),
        Client::Show(options) => show(options),
        Client::Revoke(options) => revoke(options),
        Client::Renew(options) => renew(options),
    }
}

fn add(options: &Issue) -> Result<(), Fatal> {
    let (mut state, settings) = open(&options.which)?;
    let (now, mut rng) = (clock::now().unix, controlplane::SystemRandom);
    state.may_add(&options.client, now)?;
    profile::check(&options.client, &destination(options))?;
    state.add_client(&options.client, options.days, now, &mut rng)?;
    hand_out(&state, &settings, options)
}

fn renew(options: &Renew) -> Result<(), Fatal> {
    let Renew { issue, revoke_old } = options;
    let (mut state, settings) = open(&issue.which)?;
    let (now, mut rng) = (clock::now().unix, controlplane::SystemRandom);
    state.may_renew(&issue.client)?;
    profile::check(&issue.client, &destination(issue))?;
    let (_, revoked) = state.renew_client(&issue.client, issue.days, *revoke_old, now, &mut rng)?;
    hand_out(&state, &settings, issue)?;
    drop(state);
    match revoked.is_empty() {
        true => Ok(()),
        false => tell_revoked(&issue.which, &revoked),
    }
}

fn show(options: &Show) -> Result<(), Fatal> {
    let (state, settings) = open(&options.which)?;
    let text = profile::text(&state, &settings, &options.client)?;
    let to = Destination::new(Some(&options.file), &options.client, Path::new("."));
    say(&profile::place(&text, &options.client, &to)?);
    Ok(())
}

fn revoke(options: &Revoke) -> Result<(), Fatal> {
    let (mut state, _) = open(&options.which)?;
    let revoked = state.revoke_client(&options.client, clock::now().unix)?;
    drop(state);
    if revoked.is_empty() {
        outln!("{} had no certificate that was still good", options.client);
        return Ok(());
    }
    outln!("{} is revoked ({})", options.client, serials(&revoked));
    tell_revoked(&options.which, &revoked)
}

fn list(options: &List) -> Result<(), Fatal> {
    let now = clock::now().unix;
    let state = State::open(&options.which.directory(), &options.which.name, now)?;
    let rows = state.clients(now);
    match options.json {
        true => outln!("{}", serde_json::to_string_pretty(&rows).unwrap_or_default()),
        false => out!("{}", table(&rows)),
    }
    Ok(())
}

fn open(which: &Which) -> Result<(State, Settings), Fatal> {
    let directory = which.directory();
    let state = State::open(&directory, &which.name, clock::now().unix)?;
    let settings = load_settings(&state)?.ok_or_else(|| missing(&directory, &which.name))?;
    Ok((state, settings))
}

fn destination(options: &Issue) -> Destination {
    Destination::new(options.file.as_deref(), &options.client, Path::new("."))
}

/// The certificate is issued: a profile that cannot be written, although that was tried before, is no reason to lose it.
fn hand_out(state: &State, settings: &Settings, options: &Issue) -> Result<(), Fatal> {
    let name = &options.client;
    let text = profile::text(state, settings, name)?;
    let placed = profile::place(&text, name, &destination(options)).map_err(|error| {
        let show = state.suggest().command(format_args!("client show {name} FILE"));
        Fatal::new(Exit::Other, format!("{error}\nThe certificate is issued: `{show}` writes the profile"))
    })?;
    say(&placed);
    let now = clock::now().unix;
    let newest = state.clients(now).into_iter().rev().find(|row| row.name == *name);
    if let Some(row) = newest.filter(|_| placed != Placed::Printed) {
        outln!("{}", validity(&row));
    }
    Ok(())
}

fn validity(row: &Row) -> String {
    format!("{} can connect until {} ({} days)", row.name, date(row.expires), row.days_left)
}

fn say(placed: &Placed) {
    if *placed != Placed::Printed {
        outln!("{placed}");
    }
}

fn tell_revoked(gateway: &Which, revoked: &[Serial]) -> Result<(), Fatal> {
    let socket = calls::whereabouts_of(&gateway.name, &gateway.directory());
    let (answer, ended) = calls::revoked(&socket, revoked);
    match answer {
        Answer::Done => outln!("{}", told(ended)),
        Answer::NotRunning => outln!("{NOT_FOUND}"),
        Answer::Failed(why) => {
            let what = format!("the revocation is signed, but the running gateway was not told: {why}. Restart it");
            return Err(Fatal::new(Exit::Other, what));
        }
    }
    Ok(())
}

const NOT_FOUND: &str = "no running gateway was found: the revocation counts from its next start. (One that runs all the same reads it \
                         within a minute, or at once when MINIVPN_SOCKET names its socket)";

/// What the running gateway did when it heard of a revocation.
fn told(ended: u64) -> String {
    match ended {
        0 => "the running gateway knows; there was no session to end".to_owned(),
        1 => "the running gateway knows, and has ended its session".to_owned(),
        many => format!("the running gateway knows, and has ended its {many} sessions"),
    }
}

fn serials(serials: &[Serial]) -> String {
    serials.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Columns for people: name, serial number, issued, expires, days left, state.
pub(super) fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.as_str().len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:<32}  {:<10}  {:<10}  {:>9}  STATE\n",
        "NAME", "SERIAL", "ISSUED", "EXPIRES", "DAYS LEFT"
    );
    for row in rows {
        let kept = if row.key_kept || row.state.word() != "active" { "" } else { ", key not kept" };
        let (name, serial) = (row.name.as_str(), row.serial.to_string());
        let (issued, expires) = (date(row.issued), date(row.expires));
        let (days, state) = (row.days_left, row.state.word());
        text.push_str(&format!(
            "{name:<width$}  {serial:<32}  {issued:<10}  {expires:<10}  {days:>9}  {state}{kept}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{self, DAY, Folder, NOW, Seeded, gateway};
    use crate::gateway::index::Standing;
    use std::path::PathBuf;

    /// A gateway that `gateway up` has made, and how alice is added to it.
    struct Scene {
        _folder: Folder,
        state: PathBuf,
        out: PathBuf,
    }

    impl Scene {
        fn new() -> Scene {
            let folder = Folder::new();
            let state = gateway(folder.path());
            state.write("settings.json", fixture::settings().to_text().as_bytes()).unwrap();
            Scene { state: state.directory().to_owned(), out: folder.path().join("out"), _folder: folder }
        }

        fn which(&self) -> Which {
            Which { name: "default".parse().unwrap(), state_dir: Some(self.state.clone()) }
        }

        fn issue(&self, days: u64) -> Issue {
            let file = Some(self.out.join("alice.ovpn"));
            Issue { client: "alice".parse().unwrap(), file, days, which: self.which() }
        }

        fn rows(&self) -> Vec<Row> {
            let now = clock::now().unix;
            State::open(&self.state, &self.which().name, now).unwrap().clients(now)
        }
    }

    #[test]
    fn a_profile_that_cannot_be_written_costs_no_certificate_and_a_second_try_succeeds() {
        let scene = Scene::new();
        let file = scene.out.join("alice.ovpn");
        let add = || run(&Client::Add(scene.issue(30)));
        assert!(add().unwrap_err().sentence.contains("is not there: make it"));
        std::fs::create_dir(&scene.out).unwrap();
        std::fs::write(&file, "my own").unwrap();
        assert!(add().unwrap_err().sentence.contains("is not a profile of alice"));
        assert_eq!(scene.rows(), [], "nothing was issued");
        std::fs::remove_file(&file).unwrap();
        add().unwrap();
        assert_eq!((scene.rows().len(), scene.rows()[0].days_left), (1, 30));

        let renew = || run(&Client::Renew(Renew { issue: scene.issue(60), revoke_old: false }));
        std::fs::write(&file, "my own").unwrap();
        renew().unwrap_err();
        assert_eq!(scene.rows().len(), 1, "the old certificate is the only one, and good");
        assert_eq!(scene.rows()[0].state, Standing::Active);
        std::fs::remove_file(&file).unwrap();
        renew().unwrap();
        assert_eq!(scene.rows().len(), 2);
    }

    #[test]
    fn commands_that_are_suggested_lead_to_the_gateway_that_was_named() {
        let scene = Scene::new();
        std::fs::create_dir(&scene.out).unwrap();
        let add = || run(&Client::Add(scene.issue(30)));
        let here = format!("--state-dir {}", scene.state.display());
        let show = || Client::Show(Show { client: "alice".parse().unwrap(), file: "-".into(), which: scene.which() });
        let unknown = run(&show()).unwrap_err().sentence;
        assert!(unknown.contains(&format!("`minivpn client list {here}`")), "{unknown}");
        add().unwrap();
        let again = add().unwrap_err().sentence;
        assert!(again.contains(&format!("`minivpn client renew alice {here}`")), "{again}");
        std::fs::remove_file(scene.state.join("clients/alice.pem")).unwrap();
        let lost = run(&show()).unwrap_err().sentence;
        assert!(lost.contains(&format!("`minivpn client renew alice {here}`")), "{lost}");
        std::fs::remove_file(scene.state.join("index.json")).unwrap();
        let gone = run(&show()).unwrap_err().sentence;
        assert!(gone.contains(&format!("`minivpn gateway up --endpoint HOST {here}`")), "{gone}");
    }

    #[test]
    fn a_session_that_was_not_there_is_not_said_to_be_ended() {
        assert!(told(0).contains("no session") && !told(0).contains("ended"));
        assert!(told(1).ends_with("ended its session"));
        assert!(told(2).ends_with("ended its 2 sessions"));
    }

    #[test]
    fn a_table_has_a_line_for_each_certificate() {
        let row = |name: &str, state, key_kept| Row {
            name: name.parse().unwrap(),
            serial: Serial::random(&mut Seeded(1)),
            issued: NOW,
            expires: NOW + 30 * DAY,
            days_left: 30,
            state,
            key_kept,
        };
        let text = table(&[row("alice@example.com", Standing::Active, false), row("bob", Standing::Revoked, false)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with("alice@example.com  ")
                && lines[1].ends_with("2026-11-22  2026-12-22         30  active, key not kept"),
            "{text}"
        );
        assert!(lines[2].ends_with("  30  revoked"), "{text}");
        assert!(table(&[]).starts_with("NAME"));
    }
}
