//! The machine, and two yardsticks of it: what a system call and what the AEAD alone cost. The targets were set where these
//! were 53 ns, and 178 ns (aws-lc) and 102 ns (ipsec-mb) for 1,400 bytes.

use std::hint::black_box;

use dataplane::datachannel::aead::SealingKey;
use dataplane::datachannel::header::SendHeader;
use link::message::Cipher;
use rustix::time::{ClockId, clock_gettime};

use crate::figures::median;
use crate::subject::{Backend, OPEN, direction};

/// What the figures depend on.
#[derive(Debug)]
pub struct Machine {
    /// As /proc/cpuinfo names it.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// The shortest system call, in nanoseconds.
    pub call_ns: f64,
    /// Sealing of 1,400 bytes by AES-256-GCM, in nanoseconds.
    pub seal_ns: Vec<(Backend, f64)>,
}

impl Machine {
    /// Looks, and measures for some milliseconds.
    pub fn look(backends: &[Backend]) -> Self {
        Self {
            cpu: cpu(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
            call_ns: each(100_000, |_| {
                black_box(rustix::process::getppid());
            }),
            seal_ns: backends.iter().filter_map(|&backend| Some((backend, seal(backend)?))).collect(),
        }
    }
}

fn seal(backend: Backend) -> Option<f64> {
    let mut key = SealingKey::new(&backend.resolve().ok()?, Cipher::Aes256Gcm, &direction(&OPEN))?;
    let header = SendHeader::new(Some(5), 0);
    let (plaintext, mut out) = (vec![7; 1_400], vec![0; 1_400 + header.overhead()]);
    Some(each(10_000, |id| {
        assert!(key.seal(&header, id, black_box(&plaintext), &mut out));
    }))
}

/// CPU time of one call of `work`: the median of nine times so many.
fn each(count: u32, mut work: impl FnMut(u32)) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = thread_ns();
            (1..=count).for_each(&mut work);
            (thread_ns() - start) as f64 / f64::from(count)
        })
        .collect();
    median(&mut times)
}

fn thread_ns() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().replace(['"', '\\'], ""))
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    match (field("cpu family"), field("model")) {
        (Some(family), Some(number)) => format!("{model} (family {family}, model {number})"),
        _ => model,
    }
}
