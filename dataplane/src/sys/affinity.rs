//! Pinning a thread to a CPU.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pins the calling thread to `cpu` and says in one line what became of it. A CPU that does not exist or is not
/// allowed (cpuset) is no reason to stop: the thread then runs where the scheduler puts it.
pub fn pin(name: &str, cpu: usize) -> String {
    if cpu >= CpuSet::MAX_CPU {
        return format!("{name} not pinned: there is no CPU {cpu}");
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    match sched_setaffinity(None, &set) {
        Ok(()) => format!("{name} pinned to CPU {cpu}"),
        Err(error) => format!("{name} not pinned to CPU {cpu}: {error}"),
    }
}

/// The CPUs that the calling thread may run on, in order.
pub fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_on_that_cpu_only() {
        std::thread::spawn(|| {
            let cpu = *allowed().last().unwrap();
            assert_eq!(pin("t", cpu), format!("t pinned to CPU {cpu}"));
            assert_eq!(allowed(), vec![cpu]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_said_and_changes_nothing() {
        std::thread::spawn(|| {
            let before = allowed();
            assert!(pin("t", 1_000_000).contains("not pinned"));
            assert!(pin("t", CpuSet::MAX_CPU - 1).contains("not pinned"));
            assert_eq!(allowed(), before);
        })
        .join()
        .unwrap();
    }
}
