//! How a daemon that does not answer is doing: at work, overloaded, or neither. Touches the
//! kernel: its processor clock, and `/proc`.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::sys::connections;
use crate::sys::files::read_kernel_file;
use crate::sys::process::sees_processes;

/// More connections than this waiting to be accepted are more than a daemon that merely
/// stopped would collect from probes: the longest queue listen(2) gave before Linux 5.4.
const LONGEST_QUEUE: u64 = 128;

/// The processor time all threads of a process have used; `None` where it is gone.
///
/// By its clock (`clock_getcpuclockid(3)`): that one is exact, needs no `/proc`, and lets
/// itself be read where another user's `/proc` is hidden.
#[must_use]
pub fn processor_time(pid: i32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    clock_gettime(clock).ok().map(Duration::from)
}

/// Whether a process has no memory any more: it has ended, or is about to; false as well where
/// nobody tells.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    let memory = || read_kernel_file(format!("/proc/{pid}/statm"));
    sees_processes().is_ok() && memory().is_ok_and(|text| text.starts_with("0 "))
}

/// Whether a process is this user's; false as well where nobody tells.
#[must_use]
pub fn is_of(pid: i32, uid: u32) -> bool {
    let status = read_kernel_file(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let real = line.and_then(|ids| ids.split_ascii_whitespace().next());
    real.is_some_and(|id| id.parse() == Ok(uid))
}

/// Whether a daemon works without a pause, by its processor time at one probe and the next.
///
/// It tells no request that it holds back for scanning, and no client that goes away
/// meanwhile: this is all that can be seen of either.
#[derive(Debug, Default)]
pub struct Work {
    last: Option<Look>,
    /// Seconds since 1970.
    since: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    date: u64,
    used: Duration,
}

impl Work {
    /// Between two looks that are compared: in less a burst would pass for work.
    const APART: Duration = Duration::from_secs(1);

    /// Takes in the processor time used by now; `date` in seconds since 1970.
    pub fn note(&mut self, used: Duration, at: Instant, date: u64) {
        let look = Look { at, date, used };
        let Some(last) = self.last else {
            self.last = Some(look);
            return;
        };
        let apart = at.saturating_duration_since(last.at);
        if apart < Self::APART {
            return;
        }
        // A quarter of one processor: one that is shared gives no more, and what is probed
        // and logged takes a hundredth.
        if used.saturating_sub(last.used) * 4 >= apart {
            self.since.get_or_insert(last.date);
        } else {
            self.since = None;
        }
        self.last = Some(look);
    }

    /// Since when, in seconds since 1970; `None` while it rests.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        self.since
    }
}

/// What the daemon's clients have exhausted, in words; `None` where nothing is, or nobody
/// tells.
#[must_use]
pub fn overload(pid: i32, listen: SocketAddr) -> Option<String> {
    if let Some(limit) = most_descriptors(pid)
        && descriptors(pid).is_some_and(|used| nearly_all(used, limit))
    {
        return Some(format!("its {limit} descriptors are in use"));
    }
    let waiting = connections::waiting(listen);
    (waiting > LONGEST_QUEUE)
        .then(|| format!("it accepts nobody, and {waiting} connections to {listen} wait"))
}

/// Those that were refused one close theirs again: it is never all of them for long.
fn nearly_all(used: u64, limit: u64) -> bool {
    used.saturating_mul(20) >= limit.saturating_mul(19)
}

fn descriptors(pid: i32) -> Option<u64> {
    let directory = format!("/proc/{pid}/fd");
    match fs::read_dir(&directory) {
        Ok(entries) => Some(entries.count() as u64),
        // Its size is their number (Linux 6.2), and needs no right to look inside.
        Err(_) => fs::metadata(directory).ok().map(|it| it.len()),
    }
}

/// The soft limit of a process.
fn most_descriptors(pid: i32) -> Option<u64> {
    let limits = read_kernel_file(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn work_is_a_quarter_of_a_processor_from_one_probe_to_the_next() {
        let begin = Instant::now();
        let mut work = Work::default();
        for (second, used_ms, since) in [
            (0, 100, None),
            (5, 1350, Some(1000)),
            (10, 11_350, Some(1000)),
            (11, 11_350, None),
            (16, 12_500, None),
            (21, 13_750, Some(1016)),
        ] {
            let at = begin + Duration::from_secs(second);
            work.note(Duration::from_millis(used_ms), at, 1000 + second);
            assert_eq!(work.since(), since, "at {second}");
            // A burst: too soon after the last look to say anything.
            let burst = Duration::from_millis(used_ms + 500);
            work.note(burst, at + Duration::from_millis(500), 1000 + second);
            assert_eq!(work.since(), since, "right after {second}");
        }
    }

    #[test]
    fn tells_a_process_at_work_from_one_that_sleeps() {
        // The name holds what a reader of /proc/<pid>/stat would trip over.
        let name = std::env::temp_dir().join(format!("x) R 1 ({}", std::process::id()));
        fs::copy("/bin/sh", &name).unwrap();
        let mut sleeps = Command::new("sleep").arg("60").spawn().unwrap();
        let mut works = Command::new(&name)
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while processor_time(pid(&works)).unwrap() < Duration::from_millis(50) {
            assert!(Instant::now() < end, "it does not work");
            std::thread::yield_now();
        }
        assert!(processor_time(pid(&sleeps)).unwrap() < Duration::from_millis(50));
        let gone = pid(&works);
        for child in [&mut sleeps, &mut works] {
            assert!(!has_ended(pid(child)));
            child.kill().unwrap();
            while !has_ended(pid(child)) {
                assert!(Instant::now() < end, "a zombie has no memory");
                std::thread::yield_now();
            }
            child.wait().unwrap();
        }
        fs::remove_file(name).unwrap();
        assert_eq!(processor_time(gone), None);
    }

    #[test]
    fn counts_descriptors_against_the_limit() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(descriptors(own).unwrap() >= 3);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        assert_eq!(most_descriptors(own), Some(limit.unwrap().0));
        assert_eq!(most_descriptors(i32::MAX), None);
        assert!(nearly_all(1024, 1024) && nearly_all(973, 1024) && !nearly_all(512, 1024));
    }

    #[test]
    fn a_queue_that_nobody_empties_is_an_overload_and_a_few_in_it_are_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let few: Vec<_> = (0..5)
            .map(|_| TcpStream::connect(listen).unwrap())
            .collect();
        assert_eq!(connections::waiting(listen), 5);
        assert_eq!(overload(own, listen), None);
        drop((few, listener));
        // What another test forks this moment holds the listener too, until it executes something.
        let end = Instant::now() + Duration::from_secs(20);
        while connections::waiting(listen) > 0 {
            assert!(Instant::now() < end, "a queue outlives its listener");
            std::thread::yield_now();
        }
    }
}
