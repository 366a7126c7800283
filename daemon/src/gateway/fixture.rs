//! What the tests of this folder share: a directory of their own, randomness from a seed, a fixed present.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use controlplane::Random;

use super::settings::{Settings, Surroundings, Wishes};
use super::state::State;

/// The present of tests, in seconds since 1970: 2026-11-22 12:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_348_800;
/// Seconds of a day.
pub(crate) const DAY: u64 = 86_400;

/// A directory that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("minivpn-gateway-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that follow from a seed.
#[derive(Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            // splitmix64's step and finish, one byte at a time.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (mixed >> 32) as u8;
        }
    }
}

/// Settings as of a first run on a host with IPv6.
pub(crate) fn settings() -> Settings {
    let wishes = Wishes {
        endpoint: "vpn.example.com".parse().ok(),
        pool_ipv6: Some("fd00:1::/64".parse().ok()),
        ..Wishes::default()
    };
    let around = Surroundings { networks: Vec::new(), name_servers: vec![[192, 0, 2, 53].into()], ipv6: true };
    Settings::first(&wishes, &"default".parse().unwrap(), &around, &mut Seeded(1)).unwrap()
}

/// A gateway made just now, by the real clock and real randomness, in `state` within a directory.
pub(crate) fn gateway(directory: &Path) -> State {
    let now = crate::clock::now().unix;
    let mut state = State::create(&directory.join("state"), &"default".parse().unwrap(), now).unwrap();
    state.ensure(&settings().endpoint, now, &mut controlplane::SystemRandom).unwrap();
    state
}
