//! How much memory the daemon may count on. Touches the kernel: `/proc`, `/sys`.

use crate::install::read_kernel_file;

/// The Go runtime's soft limit, as `GOMEMLIMIT` is written; `None` where nobody says
/// how much memory there is.
///
/// Three quarters: the rest is for the kernel, the init, and what Go does not count.
#[must_use]
pub fn go_memory_limit() -> Option<String> {
    smaller(machine_total(), group_limit()).map(render)
}

/// The memory in bytes that can be had before something has to go for it; `None` where
/// nobody says.
#[must_use]
pub fn available() -> Option<u64> {
    smaller(machine_memory("MemAvailable:"), group_limit())
}

fn smaller(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// A container's limit. A machine's outermost group has none.
fn group_limit() -> Option<u64> {
    let text = read_kernel_file("/sys/fs/cgroup/memory.max").ok()?;
    text.trim().parse().ok()
}

/// The machine's memory in bytes, without what the kernel took for itself.
#[must_use]
pub fn machine_total() -> Option<u64> {
    machine_memory("MemTotal:")
}

fn machine_memory(name: &str) -> Option<u64> {
    figure(&read_kernel_file("/proc/meminfo").ok()?, name)
}

/// A line of `/proc/meminfo`, in bytes.
fn figure(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
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
    }

    #[test]
    fn reads_the_line_it_is_asked_for() {
        let meminfo = "MemTotal:       81920 kB\nMemFree: 1 kB\nMemAvailable:   40960 kB\n";
        assert_eq!(figure(meminfo, "MemTotal:"), Some(80 << 20));
        assert_eq!(figure(meminfo, "MemAvailable:"), Some(40 << 20));
        // Kernels before 3.14 have no such line.
        assert_eq!(figure("MemTotal: 81920 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn counts_with_the_smaller_of_two_and_with_what_is_known() {
        assert_eq!(smaller(Some(2), Some(1)), Some(1));
        assert_eq!(smaller(None, Some(1)), Some(1));
        assert_eq!(smaller(Some(2), None), Some(2));
        assert_eq!(smaller(None, None), None);
    }
}
