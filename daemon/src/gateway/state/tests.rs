use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use super::*;
use crate::gateway::fixture::{DAY, Folder, NOW, Seeded};
use crate::gateway::index::Standing;
use crate::gateway::serial::Serial;

fn name() -> GatewayName {
    "default".parse().unwrap()
}

fn endpoint() -> Endpoint {
    "vpn.example.com".parse().unwrap()
}

fn client(name: &str) -> ClientName {
    name.parse().unwrap()
}

struct Place(Folder);

impl Place {
    fn new() -> Place {
        Place(Folder::new())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// A gateway that is complete.
    fn made(&self) -> State {
        let mut state = State::create(&self.path(), &name(), NOW).unwrap();
        state.ensure(&endpoint(), NOW, &mut Seeded(1)).unwrap();
        state
    }

    fn open(&self) -> State {
        State::open(&self.path(), &name(), NOW).unwrap()
    }
}

fn add(state: &mut State, name: &str) -> Serial {
    state.add_client(&client(name), 30, NOW, &mut controlplane::SystemRandom).unwrap()
}

#[test]
fn everything_is_made_once() {
    let place = Place::new();
    let mut state = State::create(&place.path(), &name(), NOW).unwrap();
    let made = state.ensure(&endpoint(), NOW, &mut Seeded(1)).unwrap();
    assert_eq!(made, [Made::Authority, Made::WrappingKey, Made::Server, Made::Crl]);
    assert_eq!(state.ensure(&endpoint(), NOW, &mut Seeded(2)).unwrap(), []);
    assert_eq!(state.maintain(&endpoint(), NOW, &mut Seeded(3)).unwrap(), []);
    drop(state);
    let state = place.open();
    assert_eq!(state.index.records().len(), 1);
    let facts = pki::certificate_facts(&state.text("server.pem").unwrap()).unwrap();
    assert_eq!((facts.common_name.as_str(), facts.serial), ("minivpn-default", Some(state.index.records()[0].serial)));
}

#[test]
fn directories_and_files_are_their_owners_alone() {
    let place = Place::new();
    let mut state = place.made();
    add(&mut state, "alice");
    let mut rooms = vec![place.path()];
    let mut seen = 0;
    while let Some(room) = rooms.pop() {
        assert_eq!(std::fs::metadata(&room).unwrap().permissions().mode() & 0o7777, 0o700, "{}", room.display());
        for entry in std::fs::read_dir(room).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                rooms.push(entry);
                continue;
            }
            let mode = std::fs::metadata(&entry).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", entry.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 8, "ca.crt ca.key tls-crypt.key server.pem crl.pem index.json lock alice.pem");
}

#[test]
fn a_directory_that_others_can_read_is_closed_to_them() {
    let place = Place::new();
    drop(place.made());
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    drop(place.open());
    assert_eq!(std::fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_is_a_link_or_not_there_is_refused() {
    let place = Place::new();
    assert!(matches!(State::open(&place.path(), &name(), NOW), Err(StateError::Missing(..))));
    let other = Place::new();
    drop(other.made());
    symlink(other.path(), place.path()).unwrap();
    assert!(matches!(State::open(&place.path(), &name(), NOW), Err(StateError::File { .. })));
}

#[test]
fn a_directory_that_cannot_be_looked_into_is_not_said_to_be_empty() {
    let place = Place::new();
    // Longer than any name may be: the kernel does not say whether it is there, as it does not to who may not look.
    let unknown = place.0.path().join("x".repeat(300));
    assert!(matches!(State::open(&unknown, &name(), NOW), Err(StateError::File { .. })));
    assert!(matches!(is_there(&unknown), Err(StateError::File { .. })));
    assert!(matches!(is_there(&place.path()), Ok(false)));
    drop(place.made());
    assert!(matches!(is_there(&place.path()), Ok(true)));
}

#[test]
fn who_was_refused_is_told_with_the_exit_code_and_by_whom() {
    let denied = |path: &str| file_error(Path::new(path))(io::ErrorKind::PermissionDenied.into());
    assert_eq!(Fatal::from(denied("/x")).exit, Exit::Privilege);
    let roots = StateError::Foreign { path: "/x".into(), owner: 0 }.to_string();
    assert!(roots.contains("belongs to root: run it as root (sudo)"), "{roots}");
    let anothers = StateError::Foreign { path: "/x".into(), owner: 1_000 }.to_string();
    assert!(anothers.contains("uid 1000") && !anothers.contains("sudo"), "{anothers}");
}

#[test]
fn two_writers_are_one_too_many() {
    let place = Place::new();
    let state = place.made();
    assert!(matches!(State::open(&place.path(), &name(), NOW), Err(StateError::Locked(_))));
    drop(state);
    drop(place.open());
}

#[test]
fn a_client_is_added_once_and_can_be_added_again_after_its_end() {
    let place = Place::new();
    let mut state = place.made();
    let first = add(&mut state, "alice");
    let again = |state: &mut State, now| state.add_client(&client("alice"), 30, now, &mut controlplane::SystemRandom);
    assert!(matches!(again(&mut state, NOW), Err(StateError::Exists(..))));
    assert_eq!(state.revoke_client(&client("alice"), NOW).unwrap(), [first]);
    let second = again(&mut state, NOW).unwrap();
    assert_ne!(first, second, "a new certificate has a new serial number");
    assert_eq!(state.crl().unwrap().revoked, [first], "and the old one stays revoked");
    assert!(again(&mut state, NOW + 31 * DAY).is_ok(), "one that has expired is no obstacle");
}

#[test]
fn revoking_hits_every_certificate_of_a_client_and_no_other() {
    let place = Place::new();
    let mut state = place.made();
    let (one, bob) = (add(&mut state, "alice"), add(&mut state, "bob"));
    let mut rng = controlplane::SystemRandom;
    let (two, revoked) = state.renew_client(&client("alice"), 30, false, NOW, &mut rng).unwrap();
    assert_eq!(revoked, []);
    assert_eq!(state.crl().unwrap().revoked, []);
    let revoked: BTreeSet<Serial> = state.revoke_client(&client("alice"), NOW).unwrap().into_iter().collect();
    assert_eq!(revoked, BTreeSet::from([one, two]));
    assert_eq!(state.crl().unwrap().revoked, revoked.iter().copied().collect::<Vec<_>>());
    assert!(!state.crl().unwrap().revoked.contains(&bob));
    assert!(!state.path("clients/alice.pem").exists() && state.path("clients/bob.pem").exists());
    assert_eq!(state.revoke_client(&client("alice"), NOW).unwrap(), [], "twice is once");
    assert!(matches!(state.client_pem(&client("alice")), Err(StateError::Revoked(..))));
    assert!(matches!(state.revoke_client(&client("carol"), NOW), Err(StateError::Unknown(..))));
    drop(state);
    let state = place.open();
    assert_eq!(state.crl().unwrap().revoked.len(), 2, "revoked stays revoked");
    let states: Vec<Standing> = state.clients(NOW).iter().map(|row| row.state).collect();
    assert_eq!(states, [Standing::Revoked, Standing::Revoked, Standing::Active]);
}

#[test]
fn a_renewal_replaces_the_key_and_may_revoke_the_old_certificate() {
    let place = Place::new();
    let mut state = place.made();
    let mut rng = controlplane::SystemRandom;
    let renew = |state: &mut State, name: &str, revoke| {
        state.renew_client(&client(name), 30, revoke, NOW, &mut controlplane::SystemRandom)
    };
    assert!(matches!(renew(&mut state, "alice", false), Err(StateError::Unknown(..))));
    let one = add(&mut state, "alice");
    let before = state.client_pem(&client("alice")).unwrap();
    let (two, revoked) = renew(&mut state, "alice", true).unwrap();
    assert_eq!((revoked, state.crl().unwrap().revoked), (vec![one], vec![one]));
    let after = state.client_pem(&client("alice")).unwrap();
    assert_ne!(*before, *after);
    assert_eq!(pki::certificate_facts(&after).unwrap().serial, Some(two));
    state.revoke_client(&client("alice"), NOW).unwrap();
    assert!(matches!(renew(&mut state, "alice", false), Err(StateError::Revoked(..))));
    // An expired certificate can be renewed: nobody has taken the right away.
    state.add_client(&client("bob"), 1, NOW, &mut rng).unwrap();
    assert!(state.renew_client(&client("bob"), 30, false, NOW + 9 * DAY, &mut rng).is_ok());
}

#[test]
fn a_key_that_was_deleted_is_told_from_one_that_never_was() {
    let place = Place::new();
    let mut state = place.made();
    add(&mut state, "alice");
    std::fs::remove_file(state.path("clients/alice.pem")).unwrap();
    assert!(matches!(state.client_pem(&client("alice")), Err(StateError::NoKey { .. })));
    assert!(matches!(state.client_pem(&client("bob")), Err(StateError::Unknown(..))));
    assert!(!state.clients(NOW)[0].key_kept);
}

#[test]
fn without_the_authoritys_key_nothing_is_issued_and_nothing_half_revoked() {
    let place = Place::new();
    let mut state = place.made();
    add(&mut state, "alice");
    let key = state.text("ca.key").unwrap();
    std::fs::remove_file(state.path("ca.key")).unwrap();
    let before = state.index.clone();
    let mut rng = controlplane::SystemRandom;
    assert!(matches!(state.add_client(&client("bob"), 1, NOW, &mut rng), Err(StateError::NoAuthority(_))));
    assert!(matches!(state.revoke_client(&client("alice"), NOW), Err(StateError::NoAuthority(_))));
    assert!(matches!(state.renew_server(&endpoint(), NOW, &mut rng), Err(StateError::NoAuthority(_))));
    assert_eq!(state.index, before);
    assert!(state.client_pem(&client("alice")).is_ok());
    let late = NOW + (pki::CRL_DAYS + 900) * DAY;
    assert_eq!(state.maintain(&endpoint(), late, &mut rng).unwrap(), [], "the daemon goes on without it");
    assert_eq!(state.ensure(&endpoint(), NOW, &mut rng).unwrap(), []);
    state.write("ca.key", key.as_bytes()).unwrap();
    assert!(state.revoke_client(&client("alice"), NOW).is_ok());
}

#[test]
fn what_profiles_depend_on_is_never_made_anew() {
    let place = Place::new();
    let mut state = place.made();
    add(&mut state, "alice");
    std::fs::rename(state.path("tls-crypt.key"), state.path("gone")).unwrap();
    assert!(matches!(state.ensure(&endpoint(), NOW, &mut Seeded(5)), Err(StateError::NoWrappingKey(_))));
    std::fs::rename(state.path("gone"), state.path("tls-crypt.key")).unwrap();
    std::fs::remove_file(state.path("ca.crt")).unwrap();
    std::fs::remove_file(state.path("ca.key")).unwrap();
    assert!(matches!(state.ensure(&endpoint(), NOW, &mut Seeded(5)), Err(StateError::Content { .. })));
}

#[test]
fn what_is_about_to_expire_is_renewed_and_nothing_else() {
    let place = Place::new();
    let mut state = place.made();
    let mut rng = controlplane::SystemRandom;
    let due = |days: u64, renew: u64| NOW + (days - renew) * DAY;
    let crl_due = due(pki::CRL_DAYS, pki::CRL_RENEW_DAYS);
    assert_eq!(state.maintain(&endpoint(), crl_due, &mut rng).unwrap(), []);
    assert_eq!(state.maintain(&endpoint(), crl_due + 1, &mut rng).unwrap(), [Renewed::Crl]);
    assert_eq!(state.crl().unwrap().next_update, crl_due + 1 + pki::CRL_DAYS * DAY);
    assert_eq!(state.crl().unwrap().number, Serial::from_bytes(&[2]), "the number grows");
    let server_due = due(pki::SERVER_DAYS, pki::SERVER_RENEW_DAYS) + 1;
    let before = state.text("server.pem").unwrap();
    assert!(state.maintain(&endpoint(), server_due, &mut rng).unwrap().contains(&Renewed::Server));
    let after = state.text("server.pem").unwrap();
    assert_ne!(*before, *after);
    let facts = pki::certificate_facts(&after).unwrap();
    assert_eq!(
        (facts.not_after, facts.alternative_names),
        (server_due + pki::SERVER_DAYS * DAY, vec!["vpn.example.com".into()])
    );
}

/// What a process that is killed leaves on the disk, step by step.
mod killed {
    use super::*;

    #[test]
    fn before_the_index_knew_the_new_certificate() {
        let place = Place::new();
        let state = place.made();
        let identity = state.authority().unwrap().issue("alice", &Purpose::Client, 30, NOW, &mut Seeded(9)).unwrap();
        let path = state.path("clients/alice.pem");
        drop(whole_file::stage(&path, identity.pem().as_bytes()).unwrap());
        drop(state);
        let mut state = place.open();
        assert!(!path.exists() && !whole_file::staged_name(&path).exists());
        assert_eq!(state.clients(NOW), []);
        add(&mut state, "alice");
    }

    #[test]
    fn after_the_index_knew_it_and_before_it_had_its_name() {
        let place = Place::new();
        let mut state = place.made();
        let path = state.path("clients/alice.pem");
        let serial = add(&mut state, "alice");
        let whole = std::fs::read(&path).unwrap();
        drop(state);
        std::fs::rename(&path, whole_file::staged_name(&path)).unwrap();
        let state = place.open();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(!whole_file::staged_name(&path).exists());
        assert_eq!(state.clients(NOW)[0].serial, serial);
        assert!(state.client_pem(&client("alice")).is_ok());
    }

    #[test]
    fn the_same_of_the_servers_certificate() {
        let place = Place::new();
        let mut state = place.made();
        let before = state.text("server.pem").unwrap();
        state.renew_server(&endpoint(), NOW, &mut controlplane::SystemRandom).unwrap();
        let (path, after) = (state.path("server.pem"), state.text("server.pem").unwrap());
        drop(state);
        std::fs::rename(&path, whole_file::staged_name(&path)).unwrap();
        std::fs::write(&path, before.as_bytes()).unwrap();
        assert_eq!(*place.open().text("server.pem").unwrap(), *after);
    }

    #[test]
    fn half_a_certificate_is_thrown_away() {
        let place = Place::new();
        let mut state = place.made();
        add(&mut state, "alice");
        let path = state.path("clients/alice.pem");
        let whole = std::fs::read(&path).unwrap();
        drop(state);
        std::fs::write(whole_file::staged_name(&path), &whole[..whole.len() / 4]).unwrap();
        drop(place.open());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(!whole_file::staged_name(&path).exists());
    }

    #[test]
    fn between_revoking_and_signing_the_list() {
        let place = Place::new();
        let mut state = place.made();
        let serial = add(&mut state, "alice");
        state.index.revoke(&Holder::Client(client("alice")), None, NOW);
        state.save_index().unwrap();
        assert_eq!(state.crl().unwrap().revoked, []);
        drop(state);
        assert_eq!(place.open().crl().unwrap().revoked, [serial]);
    }

    #[test]
    fn at_any_point_of_the_first_run() {
        // What is made, in its order: every beginning of this list is what a killed first run leaves.
        let steps = ["ca.key", "ca.crt", "tls-crypt.key", "server.pem", "crl.pem"];
        for kept in 0..steps.len() {
            let place = Place::new();
            drop(place.made());
            for lost in &steps[kept..] {
                std::fs::remove_file(place.path().join(lost)).unwrap();
            }
            if kept < 3 {
                std::fs::write(place.path().join("index.json"), Index::default().to_text()).unwrap();
            }
            let mut state = place.open();
            assert!(!state.ensure(&endpoint(), NOW, &mut Seeded(7)).unwrap().is_empty());
            state.authority().unwrap();
            add(&mut state, "alice");
            state.revoke_client(&client("alice"), NOW).unwrap();
        }
    }
}

#[test]
fn an_index_that_cannot_be_read_stops_everything() {
    let place = Place::new();
    drop(place.made());
    std::fs::write(place.path().join("index.json"), "{}").unwrap();
    let error = State::open(&place.path(), &name(), NOW).unwrap_err();
    assert!(error.to_string().contains("index.json"), "{error}");
}
