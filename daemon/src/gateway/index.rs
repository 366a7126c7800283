//! The list of every certificate that a gateway has issued: the source of the revocation list and of `client list`.
//! Pure; the file is the state directory's.

use serde::{Deserialize, Serialize};

use super::names::ClientName;
use super::pki::Revoked;
use super::serial::Serial;

/// The version that is written into the file.
const VERSION: u32 = 1;

/// Every certificate of a gateway, in the order in which they were issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    version: u32,
    /// The number of the last revocation list that was signed, or was about to be.
    pub crl_number: u64,
    records: Vec<Record>,
}

/// Whom a certificate was issued to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// This gateway itself.
    Server,
    /// A client.
    Client(ClientName),
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its serial number.
    pub serial: Serial,
    /// Whose it is.
    pub holder: Holder,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// End of its validity, in seconds since 1970.
    pub not_after: u64,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// What may be done with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It opens the door, and no newer one of its holder does.
    Active,
    /// It opens the door, but its holder has a newer one.
    Replaced,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl Standing {
    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Active => "active",
            Standing::Replaced => "replaced",
            Standing::Expired => "expired",
            Standing::Revoked => "revoked",
        }
    }
}

impl Record {
    /// Whether it opens the door.
    pub fn is_good(&self, now: u64) -> bool {
        self.revoked.is_none() && now <= self.not_after
    }

    /// The client whose it is.
    pub fn client(&self) -> Option<&ClientName> {
        match &self.holder {
            Holder::Client(name) => Some(name),
            Holder::Server => None,
        }
    }
}

impl Default for Index {
    fn default() -> Index {
        Index { version: VERSION, crl_number: 0, records: Vec::new() }
    }
}

impl Index {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence: this is not an index, or a later version's.
    pub fn parse(text: &[u8]) -> Result<Index, String> {
        let index: Index = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match index.version {
            VERSION => Ok(index),
            other => Err(format!("version {other} is not known to this minivpn, which writes version {VERSION}")),
        }
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        // A structure of numbers and strings is always writable.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// All of them.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds the newest.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// The newest certificate of a holder.
    pub fn newest(&self, holder: &Holder) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.holder == *holder)
    }

    /// Takes a certificate out that was never given to anybody.
    pub fn forget(&mut self, serial: Serial) {
        self.records.retain(|record| record.serial != serial);
    }

    /// Revokes what of a holder opens the door, but one; returns the serial numbers.
    pub fn revoke(&mut self, holder: &Holder, but: Option<Serial>, now: u64) -> Vec<Serial> {
        let hit = |record: &&mut Record| record.holder == *holder && record.is_good(now) && Some(record.serial) != but;
        let revoke = |record: &mut Record| {
            record.revoked = Some(now);
            record.serial
        };
        self.records.iter_mut().filter(hit).map(revoke).collect()
    }

    /// What a revocation list signed now must hold: all that were revoked and have not expired since (RFC 5280, 3.3 lets
    /// them go then), sorted by serial number.
    pub fn revoked(&self, now: u64) -> Vec<Revoked> {
        let listed = self.records.iter().filter(|record| now <= record.not_after);
        let mut list: Vec<Revoked> =
            listed.filter_map(|record| Some(Revoked { serial: record.serial, at: record.revoked? })).collect();
        list.sort_unstable_by_key(|entry| entry.serial);
        list
    }

    /// What may be done with a certificate of this index.
    pub fn standing(&self, record: &Record, now: u64) -> Standing {
        match record {
            Record { revoked: Some(_), .. } => Standing::Revoked,
            record if !record.is_good(now) => Standing::Expired,
            record if self.newest(&record.holder).is_some_and(|newest| newest.serial != record.serial) => {
                Standing::Replaced
            }
            _ => Standing::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{DAY, NOW, Seeded};

    fn alice() -> Holder {
        Holder::Client("alice".parse().unwrap())
    }

    fn record(seed: u64, holder: Holder, days: u64) -> Record {
        let serial = Serial::random(&mut Seeded(seed));
        Record { serial, holder, issued: NOW, not_after: NOW + days * DAY, revoked: None }
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let mut index = Index { crl_number: 3, ..Index::default() };
        index.push(record(1, alice(), 10));
        index.push(record(2, Holder::Server, 10));
        index.revoke(&alice(), None, NOW);
        assert_eq!(Index::parse(index.to_text().as_bytes()), Ok(index.clone()));
        let later = index.to_text().replace("\"version\": 1", "\"version\": 2");
        assert!(Index::parse(later.as_bytes()).unwrap_err().contains("version 2"));
        let evil = index.to_text().replace("alice", "../alice");
        assert!(Index::parse(evil.as_bytes()).is_err());
        assert!(Index::parse(b"{}").is_err());
    }

    #[test]
    fn revoking_hits_all_of_a_holder_and_nobody_else() {
        let mut index = Index::default();
        let records = [record(1, alice(), 10), record(2, alice(), 20), record(3, Holder::Server, 20)];
        records.iter().cloned().for_each(|record| index.push(record));
        let (one, two) = (records[0].serial, records[1].serial);
        assert_eq!(index.revoke(&alice(), Some(two), NOW), [one]);
        assert_eq!(index.revoke(&alice(), None, NOW + 1), [two]);
        assert_eq!(index.revoke(&alice(), None, NOW + 2), [], "once is enough");
        let mut expected = [Revoked { serial: one, at: NOW }, Revoked { serial: two, at: NOW + 1 }];
        expected.sort_unstable_by_key(|entry| entry.serial);
        assert_eq!(index.revoked(NOW + 5), expected);
        assert_eq!(index.revoked(NOW + 10 * DAY).len(), 2);
        assert_eq!(index.revoked(NOW + 10 * DAY + 1).len(), 1, "an expired certificate needs no entry");
    }

    #[test]
    fn a_certificate_stands_as_its_dates_and_its_successors_say() {
        let mut index = Index::default();
        let (old, new) = (record(1, alice(), 10), record(2, alice(), 20));
        index.push(old.clone());
        assert_eq!(index.standing(&old, NOW), Standing::Active);
        assert_eq!(index.standing(&old, NOW + 10 * DAY), Standing::Active);
        assert_eq!(index.standing(&old, NOW + 10 * DAY + 1), Standing::Expired);
        index.push(new.clone());
        assert_eq!(index.standing(&old, NOW), Standing::Replaced);
        assert_eq!(index.standing(&new, NOW), Standing::Active);
        index.revoke(&alice(), None, NOW);
        let records = index.records();
        assert!(records.iter().all(|record| index.standing(record, NOW) == Standing::Revoked));
    }
}
