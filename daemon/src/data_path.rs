//! From the flags of the data path to what a worker is started with: where each sits, what encrypts, which engine and
//! offloads. The same for a client's one worker and a gateway's many.

use std::path::Path;

use dataplane::datachannel::aead::Aead;
use dataplane::pipeline::PipelineConfig;
use dataplane::sys::{IoChoice, ZeroCopyChoice, affinity};
use dataplane::workers::manager::{OffloadChoice, Split, Tuning, WorkerConfig};

use crate::cli::{DataPath, Io, Pinning, ZeroCopy};
use crate::exit::{Exit, Fatal};

/// Where a worker sits, and why there, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The processor; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// For the thread that seals, when each direction has its own: never the same one.
    pub sealing_cpu: Option<usize>,
    /// What is added to the line that says so.
    pub why: String,
}

/// One seat for each worker. `device` is where the traffic leaves by, if that is known: processors of its NUMA node are
/// preferred. There may be more workers than processors; then some share one.
///
/// # Errors
/// [`Exit::Config`]: processors were asked for that this process may not run on, or one for many workers.
pub(crate) fn seats(options: &DataPath, workers: usize, device: Option<String>) -> Result<Vec<Seat>, Fatal> {
    let allowed = affinity::allowed();
    let not_allowed = |what: String| {
        let list = affinity::list_text(&allowed);
        Fatal::new(Exit::Config, format!("{what}: this process may run on the processors {list} only"))
    };
    if let Some(list) = &options.cpu_list {
        let usable: Vec<usize> = list.0.iter().copied().filter(|cpu| allowed.contains(cpu)).collect();
        if usable.is_empty() {
            return Err(not_allowed(format!("--cpu-list {}", affinity::list_text(&list.0))));
        }
        return Ok(around(&usable, 0, workers, options.split_directions, ""));
    }
    match options.cpu {
        Pinning::None => Ok(vec![Seat::default(); workers]),
        Pinning::To(cpu) if workers > 1 => {
            let sentence =
                format!("--cpu {cpu} is for one worker: give {workers} workers a --cpu-list, or say --workers 1");
            Err(Fatal::new(Exit::Config, sentence))
        }
        Pinning::To(cpu) if allowed.contains(&cpu) => Ok(around(&[cpu], 0, workers, false, "")),
        Pinning::To(cpu) => Err(not_allowed(format!("--cpu {cpu}"))),
        Pinning::Auto => {
            let (cpus, why) = near_the_network(&allowed, device);
            // Processes started one after the other get different ones.
            let turn = usize::try_from(std::process::id()).unwrap_or(0);
            Ok(around(&cpus, turn, workers, options.split_directions, &why))
        }
    }
}

/// The processors in turn, from that one on; two for each worker whose directions are split.
fn around(cpus: &[usize], first: usize, workers: usize, split: bool, why: &str) -> Vec<Seat> {
    let threads = if split { 2 } else { 1 };
    let cpu = |thread: usize| {
        let turn = first.wrapping_add(thread).checked_rem(cpus.len())?;
        cpus.get(turn).copied()
    };
    let seat = |worker: usize| {
        let own = cpu(worker * threads);
        let sealing_cpu = cpu(worker * threads + 1).filter(|cpu| split && Some(*cpu) != own);
        Seat { cpu: own, sealing_cpu, why: why.to_owned() }
    };
    (0..workers).map(seat).collect()
}

/// Those of the allowed processors that are on the NUMA node of the device that the traffic leaves by, where it has one.
fn near_the_network(allowed: &[usize], device: Option<String>) -> (Vec<usize>, String) {
    let node = device.and_then(|device| Some((affinity::node_of(Path::new("/sys"), &device)?, device)));
    let Some(((node, cpus), device)) = node else {
        return (allowed.to_vec(), String::new());
    };
    let near: Vec<usize> = allowed.iter().copied().filter(|cpu| cpus.contains(cpu)).collect();
    match near.is_empty() {
        true => (allowed.to_vec(), format!(", no processor of {device}'s NUMA node {node} is allowed")),
        false => (near, format!(", on {device}'s NUMA node {node}")),
    }
}

/// What encrypts.
///
/// # Errors
/// [`Exit::Config`]: this host or this build has not what was asked for.
pub(crate) fn aead(options: &DataPath) -> Result<Aead, Fatal> {
    Aead::resolve(options.aead).map_err(|error| Fatal::new(Exit::Config, format!("--aead {}: {error}", options.aead)))
}

/// What the worker of that number is started with.
pub(crate) fn worker_config(options: &DataPath, index: u16, seat: &Seat, config: PipelineConfig) -> WorkerConfig {
    WorkerConfig {
        index,
        cpu: seat.cpu,
        split: options.split_directions.then_some(Split { cpu: seat.sealing_cpu }),
        tuning: Tuning { fifo: options.sched_fifo, busy_poll_us: options.busy_poll, ..Tuning::default() },
        io: match options.io {
            Io::Auto => IoChoice::Auto,
            Io::Uring => IoChoice::Uring,
            Io::Syscall => IoChoice::Syscall,
        },
        offload: OffloadChoice {
            tun: options.tun_offload.is_on(),
            udp_gso: options.udp_gso.is_on(),
            udp_gro: options.udp_gro.is_on(),
            zero_copy: match options.zero_copy {
                ZeroCopy::Auto => ZeroCopyChoice::Auto,
                ZeroCopy::On => ZeroCopyChoice::On,
                ZeroCopy::Off => ZeroCopyChoice::Off,
            },
        },
        config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(seats: &[Seat]) -> Vec<Option<usize>> {
        seats.iter().map(|seat| seat.cpu).collect()
    }

    #[test]
    fn workers_take_processors_in_turn_and_share_them_when_there_are_too_few() {
        assert_eq!(cpus(&around(&[4, 7], 1, 3, false, "")), [Some(7), Some(4), Some(7)]);
        assert_eq!(cpus(&around(&[4, 7, 9], 0, 2, false, "")), [Some(4), Some(7)]);
        assert_eq!(cpus(&around(&[], 5, 2, false, "")), [None, None]);
    }

    #[test]
    fn split_directions_sit_on_two_processors_or_the_second_floats() {
        let seats = around(&[4, 7, 9, 11], 0, 2, true, "");
        let pairs: Vec<_> = seats.iter().map(|seat| (seat.cpu, seat.sealing_cpu)).collect();
        assert_eq!(pairs, [(Some(4), Some(7)), (Some(9), Some(11))]);
        assert_eq!(around(&[4], 0, 1, true, "")[0].sealing_cpu, None, "never the same one");
        assert_eq!(around(&[4, 7], 0, 1, false, "")[0].sealing_cpu, None);
    }
}
