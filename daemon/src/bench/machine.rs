//! What a figure is worth nothing without: the machine it was measured on, and when.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::sys::affinity;

use super::results::Machine;

/// This machine.
pub(super) fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let unknown = || "unknown".to_owned();
    let kernel = |name: &str| read(&format!("/proc/sys/kernel/{name}"));
    Machine {
        cpu: field(&cpuinfo, "model name").or_else(|| field(&cpuinfo, "Model")).unwrap_or_else(unknown),
        cores: affinity::allowed().len(),
        memory_bytes: memory(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
        kernel: format!("{} {}", kernel("osrelease").trim(), kernel("version").trim()),
        os: os_name(&read("/etc/os-release")).unwrap_or_else(unknown),
        virtualization: virtualization(&cpuinfo),
    }
}

/// Memory that programs could have now, in bytes; `None` where the kernel does not tell.
pub(super) fn available_memory() -> Option<u64> {
    memory(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// The value behind `name :` in the first such line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// A figure of /proc/meminfo, which counts in KiB, in bytes.
fn memory(meminfo: &str, name: &str) -> Option<u64> {
    field(meminfo, name)?.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
}

/// PRETTY_NAME of os-release(5).
fn os_name(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME=").map(|name| name.trim_matches(['"', '\'']).to_owned()))
}

fn virtualization(cpuinfo: &str) -> String {
    let mut found = Vec::new();
    if field(cpuinfo, "flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")) {
        let dmi = |name: &str| std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
        let vendor = format!("{} {}", dmi("sys_vendor").trim(), dmi("product_name").trim()).trim().to_owned();
        found.push(if vendor.is_empty() {
            "virtual machine".to_owned()
        } else {
            format!("virtual machine ({vendor})")
        });
    }
    let container = ["/run/.containerenv", "/.dockerenv", "/run/systemd/container"];
    if container.iter().any(|file| Path::new(file).exists()) {
        found.push("container".to_owned());
    }
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

/// Now, in UTC, by RFC 3339, to the second.
pub(super) fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date, by the proleptic Gregorian calendar: years begin in March, so that the leap day is the
/// last, and 400 of them are always as long.
fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_and_the_epoch() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn files_of_the_kernel_are_read_by_field() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU @ 3 GHz"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(memory("MemTotal:       16 kB\n", "MemTotal"), Some(16_384));
        assert_eq!(memory("MemTotal: lots\n", "MemTotal"), None);
        assert_eq!(os_name("ID=x\nPRETTY_NAME=\"Some Linux 1\"\n").as_deref(), Some("Some Linux 1"));
        assert!(virtualization("flags : fpu hypervisor\n").starts_with("virtual machine"));
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let machine = describe();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20);
        assert!(available_memory().is_some_and(|bytes| bytes < machine.memory_bytes));
    }
}
