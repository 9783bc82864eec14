//! How much memory the daemon may count on. Touches the kernel: `/proc`, `/sys`.

use std::fs;

/// The Go runtime's soft limit, as `GOMEMLIMIT` is written; `None` where nobody says
/// how much memory there is.
///
/// Three quarters: the rest is for the kernel, the init, and what Go does not count.
#[must_use]
pub fn go_memory_limit() -> Option<String> {
    let machine = machine_total();
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let bytes = match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (one, other) => one.or(other)?,
    };
    Some(render(bytes))
}

/// The machine's memory in bytes, without what the kernel took for itself.
#[must_use]
pub fn machine_total() -> Option<u64> {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total(&text))
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// At most 15 bytes, whatever the memory: pipelock's `scan_env` takes longer values
/// for secrets.
fn render(bytes: u64) -> String {
    let mib = (bytes / 4 * 3 / (1024 * 1024)).clamp(24, 99_999_999);
    format!("{mib}MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_a_quarter_and_stays_short() {
        assert_eq!(render(80 << 20), "60MiB");
        assert_eq!(render(0), "24MiB");
        assert!(render(u64::MAX).len() < 16);
        assert_eq!(
            total("MemTotal:       81920 kB\nMemFree: 1 kB\n"),
            Some(80 << 20)
        );
    }
}
