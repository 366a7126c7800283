//! What processes and their threads have used so far, as proc(5) tells it: processor time and memory.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Processor time of a process, all its threads, in user and kernel mode (`utime` and `stime` of `stat`); counted in ticks
/// of 10 ms. Zero where it is gone.
pub fn processor_time(pid: i32) -> Duration {
    let stat = read(pid, "stat");
    // The name, in brackets, may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// Resident memory that belongs to a process alone (`RssAnon` of `status`), in bytes: without the pages of its executable and
/// those that it shares with others. Zero where it is gone.
pub fn private_memory(pid: i32) -> u64 {
    1024 * kibibytes(&read(pid, "status"), "RssAnon:")
}

/// All resident memory of a process (`VmRSS` of `status`), in bytes. Zero where it is gone.
pub fn resident_memory(pid: i32) -> u64 {
    1024 * kibibytes(&read(pid, "status"), "VmRSS:")
}

/// Processor time of a process's threads with this name, from `schedstat`, which counts nanoseconds.
pub fn time_of_threads(pid: i32, name: &str) -> Duration {
    let tasks = fs::read_dir(directory(pid).join("task")).into_iter().flatten().flatten();
    let of = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
    let named = tasks.map(|task| task.path()).filter(|task| of(task.join("comm")).trim_end() == name);
    let times = named.filter_map(|task| of(task.join("schedstat")).split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(times.sum())
}

fn directory(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(directory(pid).join(file)).unwrap_or_default()
}

fn kibibytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn own() -> i32 {
        i32::try_from(std::process::id()).expect("a process id fits 32 bits")
    }

    #[test]
    fn work_shows_in_the_time_of_process_and_thread() {
        let worker = std::thread::Builder::new().name("busy-one".into()).spawn(|| {
            let start = Instant::now();
            while processor_time(own()) < Duration::from_millis(50) && start.elapsed() < Duration::from_secs(60) {
                std::hint::black_box((0..10_000u32).sum::<u32>());
            }
            time_of_threads(own(), "busy-one")
        });
        let spent = worker.expect("a thread can be started").join().expect("it does not panic");
        assert!(spent > Duration::ZERO);
        assert!(processor_time(own()) >= Duration::from_millis(50));
        assert_eq!(time_of_threads(own(), "nobody"), Duration::ZERO);
        assert_eq!(processor_time(i32::MAX), Duration::ZERO);
    }

    #[test]
    fn memory_that_is_written_is_private_and_resident() {
        let before = private_memory(own());
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(private_memory(own()) >= before + (48 << 20), "{} bytes were written", block.len());
        assert!(resident_memory(own()) > private_memory(own()));
        assert_eq!((private_memory(i32::MAX), resident_memory(i32::MAX)), (0, 0));
    }
}
