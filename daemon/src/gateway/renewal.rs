//! What a running gateway renews before it expires, while the key of its authority is here: the revocation list and its own
//! certificate. Clients do not notice.

use std::path::PathBuf;
use std::time::Duration;

use controlplane::Random;

use super::calls::{self, Answer};
use super::names::{Endpoint, GatewayName};
use super::state::{Renewed, State, StateError};
use crate::clock;

/// Between two looks. What is renewed has months left.
const PAUSE: Duration = Duration::from_secs(6 * 3_600);

/// Which gateway.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Its name.
    pub name: GatewayName,
    /// Its state directory.
    pub directory: PathBuf,
    /// What its certificate names.
    pub endpoint: Endpoint,
}

impl Renewal {
    /// Looks now and then until the runtime ends. The work is done on a thread of its own: it writes files, and asks this
    /// very process to read them again.
    pub async fn for_ever(self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let renewal = self.clone();
            let looked =
                tokio::task::spawn_blocking(move || renewal.look(clock::now().unix, &mut controlplane::SystemRandom));
            match looked.await {
                Ok(Ok(_)) => {}
                // Somebody is just adding a client.
                Ok(Err(StateError::Locked(_))) => {}
                Ok(Err(error)) => tracing::warn!("certificates could not be looked after: {error}"),
                Err(error) => tracing::warn!("certificates could not be looked after: {error}"),
            }
        }
    }

    fn look(&self, now: u64, rng: &mut dyn Random) -> Result<Vec<Renewed>, StateError> {
        let mut state = State::open(&self.directory, &self.name, now)?;
        let renewed = state.maintain(&self.endpoint, now, rng)?;
        drop(state);
        for what in &renewed {
            tracing::info!(
                "renewed before it expires: {}",
                match what {
                    Renewed::Server => "the gateway's certificate",
                    Renewed::Crl => "the revocation list",
                }
            );
        }
        if !renewed.is_empty()
            && let Answer::Failed(why) = calls::reload(&calls::whereabouts_of(&self.name, &self.directory))
        {
            tracing::warn!("what was renewed is not in use yet: {why}");
        }
        Ok(renewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{DAY, Folder, gateway, settings};
    use crate::gateway::pki::{CRL_DAYS, CRL_RENEW_DAYS};

    #[test]
    fn a_look_renews_what_is_due_and_nothing_before() {
        let folder = Folder::new();
        let state = gateway(folder.path());
        // Nobody serves a gateway of this name.
        let name: GatewayName = "no-such-gateway-here".parse().unwrap();
        let renewal = Renewal { name, directory: state.directory().to_owned(), endpoint: settings().endpoint };
        let mut rng = controlplane::SystemRandom;
        let now = clock::now().unix;
        assert!(matches!(renewal.look(now, &mut rng), Err(StateError::Locked(_))));
        drop(state);
        assert_eq!(renewal.look(now, &mut rng).unwrap(), []);
        assert_eq!(renewal.look(now + (CRL_DAYS - CRL_RENEW_DAYS + 1) * DAY, &mut rng).unwrap(), [Renewed::Crl]);
    }
}
