//! Where and how urgently a thread runs: pinned to a CPU, which CPUs stand near a network device, real-time priority.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

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

/// Gives the calling thread SCHED_FIFO with this priority (1 to 99, sched(7)) and says in a few words what became of it. It needs
/// CAP_SYS_NICE or RLIMIT_RTPRIO; refused, the thread goes on as it was. Threads that it starts do not inherit it.
pub fn make_fifo(priority: u8) -> String {
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: thread 0 is the calling one; the kernel reads one `sched_param`, which lives through the call.
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const param) };
    match answer {
        0 => format!("SCHED_FIFO {priority}"),
        _ => format!("SCHED_FIFO {priority} refused: {}", io::Error::last_os_error()),
    }
}

/// The policy and priority of the calling thread (sched(7)), `None` when the kernel does not say.
pub fn scheduling() -> Option<(i32, i32)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: thread 0 is the calling one; no pointer is given.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: the kernel writes one `sched_param`, which is an exclusive borrow that lives through the call.
    let answer = unsafe { libc::sched_getparam(0, &raw mut param) };
    (policy >= 0 && answer == 0).then_some((policy & !libc::SCHED_RESET_ON_FORK, param.sched_priority))
}

/// Reads a list of CPUs as the kernel writes it: `0-3,8`. At most [`CpuSet::MAX_CPU`] of them, in the order given, each once.
/// `None`: it is no such list.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        for cpu in first..=last {
            if !cpus.contains(&cpu) {
                cpus.push(cpu);
            }
        }
    }
    Some(cpus)
}

/// A list of CPUs as the kernel writes it: `[0, 1, 2, 8]` is `0-2,8`.
pub fn list_text(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some(&first) = rest.first() {
        let len = rest.iter().zip(first..).take_while(|&(&cpu, expected)| cpu == expected).count();
        let comma = if text.is_empty() { "" } else { "," };
        let last = first + len - 1;
        let _ = if len == 1 { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}-{last}") };
        rest = rest.get(len..).unwrap_or_default();
    }
    text
}

fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The NUMA node that a network device is attached to, and its CPUs. `sys` is where sysfs is mounted. `None`: a device without a
/// place (a virtual one), a machine of one node, or no sysfs.
pub fn node_of(sys: &Path, device: &str) -> Option<(u32, Vec<usize>)> {
    let nodes = std::fs::read_dir(sys.join("devices/system/node")).ok()?;
    let is_node = |name: &str| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let count = nodes.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count();
    // A virtio device has no place of its own, the PCI device above it has.
    let base = sys.join("class/net").join(device).join("device");
    let node = ["numa_node", "../numa_node"].iter().find_map(|file| read_number(&base.join(file)))?;
    let list = std::fs::read_to_string(sys.join(format!("devices/system/node/node{node}/cpulist"))).ok()?;
    (count > 1).then_some((node, parse_list(&list)?))
}

fn read_number(file: &Path) -> Option<u32> {
    // -1 is "nowhere in particular".
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
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

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list("5"), Some(vec![5]));
        assert_eq!(parse_list("2,0-2"), Some(vec![2, 0, 1]));
        for bad in ["", ",", "a", "1-", "-1", "3-2", "1,,2", "0-99999", "+1", " 1 2"] {
            assert_eq!(parse_list(bad), None, "{bad:?}");
        }
        for text in ["0-3,8", "5", "0,2,4-5"] {
            assert_eq!(list_text(&parse_list(text).unwrap()), text);
        }
        assert_eq!(list_text(&[]), "");
    }

    /// A sysfs with two nodes; `place` is what eth9 says, `above` what the device above it says.
    fn sysfs(name: &str, nodes: u32, place: Option<&str>, above: Option<&str>) -> std::path::PathBuf {
        let sys = std::env::temp_dir().join(format!("minivpn-sysfs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&sys);
        for node in 0..nodes {
            let at = sys.join(format!("devices/system/node/node{node}"));
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join("cpulist"), format!("{}-{}\n", 4 * node, 4 * node + 3)).unwrap();
        }
        std::fs::write(sys.join("devices/system/node/online"), "0-1\n").unwrap();
        let device = sys.join("class/net/eth9/device");
        std::fs::create_dir_all(&device).unwrap();
        for (file, text) in [("numa_node", place), ("../numa_node", above)] {
            if let Some(text) = text {
                std::fs::write(device.join(file), text).unwrap();
            }
        }
        sys
    }

    #[test]
    fn the_cpus_near_a_device_are_found() {
        let near = |name: &str, nodes, place, above, device| {
            let sys = sysfs(name, nodes, place, above);
            let found = node_of(&sys, device);
            std::fs::remove_dir_all(&sys).unwrap();
            found
        };
        assert_eq!(near("own", 2, Some("1\n"), None, "eth9"), Some((1, vec![4, 5, 6, 7])));
        assert_eq!(near("above", 2, None, Some("0\n"), "eth9"), Some((0, vec![0, 1, 2, 3])));
        assert_eq!(near("nowhere", 2, Some("-1\n"), None, "eth9"), None);
        assert_eq!(near("absent", 2, None, None, "eth9"), None);
        assert_eq!(near("other", 2, Some("1\n"), None, "eth8"), None);
        assert_eq!(near("one", 1, Some("0\n"), None, "eth9"), None, "one node is no choice");
        assert_eq!(node_of(Path::new("/nonexistent"), "eth9"), None);
    }

    #[test]
    fn a_priority_that_does_not_exist_is_said_and_changes_nothing() {
        std::thread::spawn(|| {
            let before = scheduling();
            assert!(make_fifo(0).contains("refused"));
            assert!(make_fifo(100).contains("refused"));
            assert_eq!(scheduling(), before);
        })
        .join()
        .unwrap();
    }
}
