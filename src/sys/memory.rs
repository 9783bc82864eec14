//! How much memory the daemon may count on. Touches the kernel: `/proc`, `/sys`.

use std::path::{Path, PathBuf};

use crate::sys::files::read_kernel_file;

/// The Go runtime's soft limit, as `GOMEMLIMIT` is written; `None` where nobody says
/// how much memory there is. `own`: the limit of the daemon's own group, where it has one.
///
/// Three quarters of what all may have: the rest is for the kernel, the init, and what Go
/// does not count. Seven eighths of what it alone may have.
#[must_use]
pub fn go_memory_limit(own: Option<u64>) -> Option<String> {
    let limits = groups().into_iter().filter_map(|group| group.limit());
    let of_all = limits.chain(machine_total()).min();
    let soft = [of_all.map(|all| all / 4 * 3), own.map(|own| own / 8 * 7)];
    soft.into_iter().flatten().min().map(render)
}

/// The memory in bytes that can be had before something has to go for it; `None` where
/// nobody says.
#[must_use]
pub fn available() -> Option<u64> {
    let machine = read_kernel_file("/proc/meminfo").unwrap_or_default();
    let total = figure(&machine, "MemTotal:").unwrap_or(u64::MAX);
    let left = groups().into_iter().filter_map(|group| group.left(total));
    left.chain(figure(&machine, "MemAvailable:")).min()
}

/// The machine's memory in bytes, without what the kernel took for itself.
#[must_use]
pub fn machine_total() -> Option<u64> {
    figure(&read_kernel_file("/proc/meminfo").ok()?, "MemTotal:")
}

/// A line of `/proc/meminfo`, in bytes.
fn figure(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The names by which one version of control groups says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    mount: &'static str,
    limit: &'static str,
    /// What the kernel slows down and presses for memory above, before the limit is reached.
    pressed: Option<&'static str>,
    /// Of `memory.stat`: the smallest limit of a group and of all around it, seen or not.
    around: Option<&'static str>,
    used: &'static str,
    /// Of `memory.stat`: files in memory that nobody has asked for lately.
    cached: &'static str,
}

/// cgroups(7); the kernel's admin-guide/cgroup-v2.rst. A mount of both versions has the
/// controllers in one of them.
const UNIFIED: Names = Names {
    mount: "/sys/fs/cgroup",
    limit: "memory.max",
    pressed: Some("memory.high"),
    around: None,
    used: "memory.current",
    cached: "inactive_file",
};
/// The kernel's admin-guide/cgroup-v1/memory.rst. No limit is a number larger than any
/// memory.
const LEGACY: Names = Names {
    mount: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    pressed: None,
    around: Some("hierarchical_memory_limit"),
    used: "memory.usage_in_bytes",
    cached: "total_inactive_file",
};

/// A control group that may limit this process.
#[derive(Debug, PartialEq, Eq)]
struct Limiting {
    names: Names,
    path: PathBuf,
}

impl Limiting {
    fn number(&self, file: &str) -> Option<u64> {
        let text = read_kernel_file(self.path.join(file)).ok()?;
        text.trim().parse().ok()
    }

    fn stat(&self, key: &str) -> Option<u64> {
        let stat = read_kernel_file(self.path.join("memory.stat")).ok()?;
        flat_keyed(&stat, key)
    }

    /// In bytes; none for "max", or where there is no such group or no such file.
    fn limit(&self) -> Option<u64> {
        let own = self.number(self.names.limit);
        let pressed = self.names.pressed.and_then(|file| self.number(file));
        // A container's mount ends with its own group, and others may limit that from outside.
        let is_outermost = self.path == Path::new(self.names.mount);
        let around = self.names.around.filter(|_| is_outermost);
        let around = around.and_then(|key| self.stat(key));
        [own, pressed, around].into_iter().flatten().min()
    }

    /// What can still be had below the limit, in bytes: files that are only kept in memory
    /// go for it. `None` for one that a machine of `total` bytes never reaches.
    fn left(&self, total: u64) -> Option<u64> {
        let limit = self.limit().filter(|limit| *limit < total)?;
        let used = self.number(self.names.used).unwrap_or(0);
        let cached = self.stat(self.names.cached).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    }
}

/// The groups this process is in, outwards to the mount. A container may be told the path
/// its group has on the host, and see that group as the mount itself.
fn groups() -> Vec<Limiting> {
    let own = read_kernel_file("/proc/self/cgroup").unwrap_or_default();
    [UNIFIED, LEGACY]
        .into_iter()
        .flat_map(|names| {
            let place = place(&own, names);
            outwards(names, place)
        })
        .collect()
}

/// Where `/proc/self/cgroup` says we are; the root where it does not.
fn place(own: &str, names: Names) -> &Path {
    let found = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let wanted = if names == UNIFIED {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == "memory")
        };
        wanted.then_some(path)
    });
    Path::new(found.unwrap_or("/"))
}

fn outwards(names: Names, place: &Path) -> Vec<Limiting> {
    place
        .ancestors()
        // Outside of what the mount shows, there is nothing to read.
        .filter(|path| !path.components().any(|part| part.as_os_str() == ".."))
        .map(|path| Limiting {
            names,
            path: Path::new(names.mount).join(path.strip_prefix("/").unwrap_or(path)),
        })
        .collect()
}

/// A number of a file of lines with a name and a number.
#[must_use]
pub fn flat_keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// At most 15 bytes, whatever the memory: pipelock's `scan_env` takes longer values
/// for secrets.
fn render(bytes: u64) -> String {
    let mib = (bytes / (1024 * 1024)).clamp(24, 99_999_999);
    format!("{mib}MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_in_whole_mebibytes_and_stays_short() {
        assert_eq!(render(60 << 20), "60MiB");
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
    fn looks_at_every_group_outwards_whatever_its_version() {
        let paths = |groups: Vec<Limiting>| -> Vec<String> {
            let path = |group: Limiting| group.path.to_string_lossy().into_owned();
            groups.into_iter().map(path).collect()
        };
        let own = "4:cpu,memory:/a/b\n1:name=systemd:/x\n0::/c\n";
        assert_eq!(
            paths(outwards(LEGACY, place(own, LEGACY))),
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/memory/a",
                "/sys/fs/cgroup/memory/"
            ]
        );
        assert_eq!(
            paths(outwards(UNIFIED, place(own, UNIFIED))),
            ["/sys/fs/cgroup/c", "/sys/fs/cgroup/"]
        );
        // In a namespace of control groups that another one's process looks into.
        let outside = "0::/../../d\n";
        assert_eq!(
            paths(outwards(UNIFIED, place(outside, UNIFIED))),
            ["/sys/fs/cgroup/"]
        );
        assert_eq!(place("", LEGACY), Path::new("/"));
        assert_eq!(place("no cgroup at all", UNIFIED), Path::new("/"));
    }

    #[test]
    fn heeds_what_presses_and_what_limits_from_outside_of_the_mount() {
        let scratch = std::env::temp_dir().join(format!("sidecar-memory-{}", std::process::id()));
        std::fs::create_dir_all(scratch.join("inner")).unwrap();
        let write = |file: &str, text: &str| std::fs::write(scratch.join(file), text).unwrap();
        let group = |names, place: &str| Limiting {
            names,
            path: scratch.join(place),
        };
        write("memory.max", "max\n");
        assert_eq!(group(UNIFIED, "").limit(), None);
        write("memory.high", "4096\n");
        assert_eq!(group(UNIFIED, "").limit(), Some(4096));
        write("memory.max", "2048\n");
        assert_eq!(group(UNIFIED, "").limit(), Some(2048));

        let mount: &'static str = scratch.to_string_lossy().into_owned().leak();
        let legacy = Names { mount, ..LEGACY };
        for place in [".", "inner"] {
            write(
                &format!("{place}/memory.limit_in_bytes"),
                "9223372036854771712\n",
            );
            write(
                &format!("{place}/memory.stat"),
                "cache 1\nhierarchical_memory_limit 8192\n",
            );
        }
        assert_eq!(group(legacy, "").limit(), Some(8192));
        let inner = group(legacy, "inner").limit();
        assert_eq!(
            inner,
            Some(9_223_372_036_854_771_712),
            "the outermost has told it"
        );
        std::fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn reads_the_key_it_is_asked_for() {
        let stat = "inactive_file 1\ntotal_inactive_file 4096\n";
        assert_eq!(flat_keyed(stat, LEGACY.cached), Some(4096));
        assert_eq!(flat_keyed(stat, "file"), None);
    }
}
