//! `minivpn pki …`: expiries at a glance, and renewing what is the gateway's own.

use serde::Serialize;

use super::calls::{self, Answer};
use super::checklist::date;
use super::client_command::table;
use super::clients::{Row, days_left};
use super::pki;
use super::state::{Renewed, State, StateError, missing};
use super::up::load_settings;
use crate::cli::client::{List, Pki, RenewServer};
use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::{out, outln};

/// What `pki show --json` prints. Moments in seconds since 1970.
#[derive(Debug, Serialize)]
struct Overview {
    authority: Expiry,
    server: Expiry,
    crl: Expiry,
    revoked: usize,
    /// Whether certificates can be issued and revoked here.
    authority_key_here: bool,
    clients: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Expiry {
    name: String,
    expires: u64,
    days_left: i64,
}

/// `minivpn pki …`
///
/// # Errors
/// What could not be done, and what to do about it.
pub fn run(command: &Pki) -> Result<(), Fatal> {
    match command {
        Pki::Show(options) => show(options),
        Pki::Renew(options) => renew(options),
    }
}

fn show(options: &List) -> Result<(), Fatal> {
    let now = clock::now().unix;
    let state = State::open(&options.which.directory(), &options.which.name, now)?;
    let overview = overview(&state, now)?;
    match options.json {
        true => outln!("{}", serde_json::to_string_pretty(&overview).unwrap_or_default()),
        false => out!("{}", overview.text()),
    }
    Ok(())
}

fn renew(options: &RenewServer) -> Result<(), Fatal> {
    let (now, mut rng) = (clock::now().unix, controlplane::SystemRandom);
    let directory = options.which.directory();
    let mut state = State::open(&directory, &options.which.name, now)?;
    let settings = load_settings(&state)?.ok_or_else(|| missing(&directory, &options.which.name))?;
    let renewed = match options.if_due {
        true => state.maintain(&settings.endpoint, now, &mut rng)?,
        false => {
            state.renew_server(&settings.endpoint, now, &mut rng)?;
            state.sign_crl(now)?;
            vec![Renewed::Server, Renewed::Crl]
        }
    };
    let overview = overview(&state, now)?;
    drop(state);
    for what in &renewed {
        match what {
            Renewed::Server => outln!("the gateway's certificate is new, until {}", date(overview.server.expires)),
            Renewed::Crl => outln!("the revocation list is signed anew, until {}", date(overview.crl.expires)),
        }
    }
    if renewed.is_empty() {
        outln!("nothing is about to expire");
        return Ok(());
    }
    match calls::reload(&calls::whereabouts_of(&options.which.name, &options.which.directory())) {
        Answer::Done => outln!("the running gateway has read them; nobody was disconnected"),
        Answer::NotRunning => outln!("the gateway does not run; they count from its next start"),
        Answer::Failed(why) => {
            return Err(Fatal::new(Exit::Other, format!("the running gateway has not read them: {why}. Restart it")));
        }
    }
    Ok(())
}

fn overview(state: &State, now: u64) -> Result<Overview, StateError> {
    let certificate = |file: &str| {
        let facts = pki::certificate_facts(&state.text(file)?)?;
        Ok::<_, StateError>(expiry(facts.common_name, facts.not_after, now))
    };
    let crl = state.crl()?;
    Ok(Overview {
        authority: certificate("ca.crt")?,
        server: certificate("server.pem")?,
        crl: expiry("revocation list".to_owned(), crl.next_update, now),
        revoked: crl.revoked.len(),
        authority_key_here: state.path("ca.key").exists(),
        clients: state.clients(now),
    })
}

fn expiry(name: String, expires: u64, now: u64) -> Expiry {
    Expiry { name, expires, days_left: days_left(expires, now) }
}

impl Overview {
    fn text(&self) -> String {
        let line = |what: &str, expiry: &Expiry, note: &str| {
            format!("{what:<16}  {}  {:>9} days left  {}{note}\n", date(expiry.expires), expiry.days_left, expiry.name)
        };
        let away = if self.authority_key_here { "" } else { " (its key is not here)" };
        let mut text = line("authority", &self.authority, away);
        text.push_str(&line("gateway", &self.server, ""));
        text.push_str(&line("revocations", &self.crl, &format!(" with {}", self.revoked)));
        text.push('\n');
        text.push_str(&table(&self.clients));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{Folder, gateway};

    #[test]
    fn everything_that_expires_is_shown() {
        let folder = Folder::new();
        let mut state = gateway(folder.path());
        let now = clock::now().unix;
        state.add_client(&"alice".parse().unwrap(), 30, now, &mut controlplane::SystemRandom).unwrap();
        let overview = overview(&state, now).unwrap();
        let days = |expiry: &Expiry| u64::try_from(expiry.days_left).unwrap();
        // Midnight may have come between the two readings.
        assert!((pki::CA_DAYS - 1..=pki::CA_DAYS).contains(&days(&overview.authority)));
        assert!((pki::SERVER_DAYS - 1..=pki::SERVER_DAYS).contains(&days(&overview.server)));
        assert!((pki::CRL_DAYS - 1..=pki::CRL_DAYS).contains(&days(&overview.crl)));
        let text = overview.text();
        for wanted in ["minivpn default CA", "minivpn-default", "with 0", "alice"] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("not here"));
        std::fs::remove_file(state.path("ca.key")).unwrap();
        assert!(super::overview(&state, now).unwrap().text().contains("its key is not here"));
    }
}
