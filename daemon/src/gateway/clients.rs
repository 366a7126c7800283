//! What can be done with the clients of a gateway: adding, renewing, revoking, and reading what their profiles are made
//! of. Each leaves the state directory whole, whenever the process is killed.

use controlplane::Random;
use serde::Serialize;
use zeroize::Zeroizing;

use super::index::{Holder, Standing};
use super::names::ClientName;
use super::pki::{DAY, Purpose};
use super::serial::Serial;
use super::state::{State, StateError, file_error};
use super::whole_file;

/// One certificate of a client, as `client list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Whose.
    pub name: ClientName,
    /// Its serial number.
    pub serial: Serial,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// End of its validity, in seconds since 1970.
    pub expires: u64,
    /// Days from today until then, by the calendar (UTC); negative afterwards.
    pub days_left: i64,
    /// What may be done with it.
    pub state: Standing,
    /// Whether `client show` can print the profile.
    pub key_kept: bool,
}

impl State {
    /// Issues a certificate to a client that has none that is good.
    ///
    /// # Errors
    /// [`StateError::Exists`], [`StateError::NoAuthority`], [`StateError::Pki`], what the files answer.
    pub fn add_client(
        &mut self,
        name: &ClientName,
        days: u64,
        now: u64,
        rng: &mut dyn Random,
    ) -> Result<Serial, StateError> {
        self.may_add(name, now)?;
        self.issue_to(name, days, now, rng)
    }

    /// Whether [`State::add_client`] has something to do.
    ///
    /// # Errors
    /// [`StateError::Exists`].
    pub fn may_add(&self, name: &ClientName, now: u64) -> Result<(), StateError> {
        let holder = Holder::Client(name.clone());
        match self.index.newest(&holder).is_some_and(|newest| newest.is_good(now)) {
            true => Err(StateError::Exists(name.clone(), self.suggest())),
            false => Ok(()),
        }
    }

    /// Issues a new certificate to a client that is known and not revoked. The former one stays good until it expires,
    /// so that the device works until it has the new profile; `revoke_old` revokes it at once, and the serial numbers of
    /// what was revoked are returned after the new one's.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Revoked`], and as [`State::add_client`].
    pub fn renew_client(
        &mut self,
        name: &ClientName,
        days: u64,
        revoke_old: bool,
        now: u64,
        rng: &mut dyn Random,
    ) -> Result<(Serial, Vec<Serial>), StateError> {
        self.may_renew(name)?;
        let holder = Holder::Client(name.clone());
        let serial = self.issue_to(name, days, now, rng)?;
        let revoked = if revoke_old { self.revoke(&holder, Some(serial), now)? } else { Vec::new() };
        Ok((serial, revoked))
    }

    /// Whether [`State::renew_client`] may do it.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Revoked`].
    pub fn may_renew(&self, name: &ClientName) -> Result<(), StateError> {
        let newest = self.index.newest(&Holder::Client(name.clone()));
        match newest.ok_or_else(|| StateError::Unknown(name.clone(), self.suggest()))?.revoked {
            Some(_) => Err(StateError::Revoked(name.clone(), self.suggest())),
            None => Ok(()),
        }
    }

    /// Revokes every good certificate of a client, and deletes its key. Returns their serial numbers, which are none when
    /// all were revoked or had expired before.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::NoAuthority`], what the files answer.
    pub fn revoke_client(&mut self, name: &ClientName, now: u64) -> Result<Vec<Serial>, StateError> {
        let holder = Holder::Client(name.clone());
        if self.index.newest(&holder).is_none() {
            return Err(StateError::Unknown(name.clone(), self.suggest()));
        }
        let revoked = self.revoke(&holder, None, now)?;
        let path = self.path(&State::pem_of(&holder));
        whole_file::remove(&path).map_err(file_error(&path))?;
        Ok(revoked)
    }

    /// A client's certificate and key, both PEM, in one text.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Revoked`], [`StateError::NoKey`], what the file answers.
    pub fn client_pem(&self, name: &ClientName) -> Result<Zeroizing<String>, StateError> {
        let holder = Holder::Client(name.clone());
        let newest = self.index.newest(&holder).ok_or_else(|| StateError::Unknown(name.clone(), self.suggest()))?;
        if newest.revoked.is_some() {
            return Err(StateError::Revoked(name.clone(), self.suggest()));
        }
        let file = State::pem_of(&holder);
        if !self.path(&file).exists() {
            let renew = self.suggest().client("renew", name);
            return Err(StateError::NoKey { name: name.clone(), path: self.path(&file), renew });
        }
        self.text(&file)
    }

    /// The clients, by name and then by age: each one's newest certificate, and older ones that are still good or that
    /// the revocation list still holds.
    pub fn clients(&self, now: u64) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .index
            .records()
            .iter()
            .filter_map(|record| {
                let name = record.client()?;
                let newest = self.index.newest(&record.holder).is_some_and(|newest| newest.serial == record.serial);
                let state = self.index.standing(record, now);
                let key_kept = newest && record.revoked.is_none() && self.path(&State::pem_of(&record.holder)).exists();
                (newest || record.not_after >= now).then(|| Row {
                    name: name.clone(),
                    serial: record.serial,
                    issued: record.issued,
                    expires: record.not_after,
                    days_left: days_left(record.not_after, now),
                    state,
                    key_kept,
                })
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    fn issue_to(&mut self, name: &ClientName, days: u64, now: u64, rng: &mut dyn Random) -> Result<Serial, StateError> {
        let identity = self.authority()?.issue(name.as_str(), &Purpose::Client, days, now, rng)?;
        self.adopt(&identity, Holder::Client(name.clone()), now)?;
        Ok(identity.serial)
    }

    /// The index first: should the process end before the list is signed, the next one sees what the list lacks.
    fn revoke(&mut self, holder: &Holder, but: Option<Serial>, now: u64) -> Result<Vec<Serial>, StateError> {
        // Nothing is half done when the key is missing.
        drop(self.authority()?);
        let revoked = self.index.revoke(holder, but, now);
        if !revoked.is_empty() {
            self.save_index()?;
            self.sign_crl(now)?;
        }
        Ok(revoked)
    }
}

/// Days between the two dates (UTC), as one counts them on a calendar: what was issued for 30 days has 30 left for the rest of that
/// day, and 0 on its last one. Negative afterwards.
pub fn days_left(then: u64, now: u64) -> i64 {
    let date = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
    date(then).saturating_sub(date(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::NOW;

    #[test]
    fn days_are_those_of_the_calendar() {
        let (midnight, until) = (NOW / DAY * DAY, NOW + 30 * DAY);
        assert_eq!(days_left(until, NOW), 30);
        assert_eq!(days_left(until, NOW + 1), 30, "a second later");
        assert_eq!(days_left(until, midnight + DAY - 1), 30, "the last second of that day");
        assert_eq!(days_left(until, midnight + DAY), 29);
        assert_eq!(days_left(until, until), 0);
        assert_eq!(days_left(until, midnight + 31 * DAY), -1);
        assert_eq!(days_left(until, midnight + 31 * DAY - 1), 0, "expired, but on that day");
    }
}
