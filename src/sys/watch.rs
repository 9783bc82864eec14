//! Notices that the manifest changed. Touches the file system.
//!
//! Polled, because a virtiofs share has no inotify for changes made by the host; where the
//! kernel tells of a change, it is looked at once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks. A removed host is out of reach within 4 s: 2 s until this look,
/// [`LONGEST_SETTLING`], 0.4 s of grace; where the kernel tells of changes within 1 s:
/// [`SHORTEST`], [`SETTLING`], 0.4 s of grace.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// But no sooner than this, however much is told: another's files may be in the directory.
pub const SHORTEST: Duration = Duration::from_millis(50);
/// A change counts once the files have stood still this long: whoever writes them in
/// place leaves a part of a manifest there for a moment, and a valid part would revoke
/// the hosts that are still to come.
pub const SETTLING: Duration = Duration::from_millis(300);
/// Files that never stand still are read all the same after this long.
pub const LONGEST_SETTLING: Duration = Duration::from_secs(1);

/// In a directory no more files than this are looked at, and in all that is below it no more
/// than this.
const MOST_FILES: usize = 256;
const MOST_BELOW: usize = 2048;
/// Of what is in a directory: its files, and those of the directories in it.
const LEVELS: usize = 2;

/// What identifies one content of a file, as far as its metadata can tell.
pub type Mark = (u64, u64, u64, i64, i64, i64, i64);
/// A file, or a directory and the files in it, by name: editing one in place leaves
/// no trace in the directory itself.
pub type Marks = Vec<(PathBuf, Mark)>;

/// Looks at the files the configuration is made of.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    seen: Vec<Marks>,
    /// Look once more even if nothing seems to change: an edit may go on within the
    /// clock tick of the marks.
    again: bool,
    /// A change was seen then, and nothing was read since.
    unsettled_since: Option<Instant>,
    looked: Instant,
    next: Instant,
}

impl Watch {
    /// Takes the present state for known.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, now: Instant) -> Self {
        let seen = paths.iter().map(|path| marks(path)).collect();
        Self {
            paths,
            seen,
            // What is known was read a little earlier, and may have changed in between.
            again: true,
            unsettled_since: None,
            looked: now,
            next: now + INTERVAL,
        }
    }

    /// When to look next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Something may have changed: the next look is at once. What was seen to change already
    /// is left to stand still.
    pub fn hasten(&mut self, now: Instant) {
        if self.unsettled_since.is_none() {
            self.next = self.next.min(now.max(self.looked + SHORTEST));
        }
    }

    /// Looks, if it is time; true when the files should be read again.
    pub fn look(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let current: Vec<Marks> = self.paths.iter().map(|path| marks(path)).collect();
        let changed = current != self.seen;
        self.seen = current;
        self.looked = now;
        if changed {
            let since = *self.unsettled_since.get_or_insert(now);
            let latest = since + LONGEST_SETTLING;
            if now < latest {
                self.next = latest.min(now + SETTLING);
                return false;
            }
        }
        let changed = self.unsettled_since.take().is_some();
        let read = changed || self.again;
        self.again = changed;
        self.next = now + INTERVAL;
        read
    }
}

/// What there is at this path and, where that is a directory, below it: nothing where there
/// is none.
#[must_use]
pub fn marks(path: &Path) -> Marks {
    refresh(path);
    let mut marks = Marks::new();
    collect(path, LEVELS, &mut marks);
    marks
}

fn collect(path: &Path, levels: usize, marks: &mut Marks) {
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    marks.push((path.to_owned(), mark_of(&metadata)));
    if levels == 0 || !metadata.is_dir() {
        return;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.take(MOST_FILES).map(|it| it.path()).collect();
    paths.sort_unstable();
    for path in paths {
        if marks.len() < MOST_BELOW {
            collect(&path, levels - 1, marks);
        }
    }
}

/// Makes a share look at the host's side. It may take what it knows of a name for true
/// for seconds (libkrun: five), so that a file replaced by renaming stays the old one;
/// reading the directory is what brings names and attributes up to date (READDIRPLUS).
fn refresh(path: &Path) {
    if let Some(Ok(entries)) = path.parent().map(fs::read_dir) {
        entries.take(MOST_FILES).for_each(drop);
    }
}

/// What tells whether a file is the one that was seen before; `None` where there is none.
#[must_use]
pub fn mark(path: &Path) -> Option<Mark> {
    fs::metadata(path).ok().as_ref().map(mark_of)
}

fn mark_of(metadata: &fs::Metadata) -> Mark {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest and its `trust/`, and a watch at a time of its own.
    struct Bench {
        directory: PathBuf,
        watch: Watch,
        now: Instant,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let own = format!("sidecar-watch-{name}-{}", std::process::id());
            let directory = std::env::temp_dir().join(own);
            fs::create_dir_all(directory.join("trust")).unwrap();
            fs::write(directory.join("manifest.yaml"), "1").unwrap();
            let now = Instant::now();
            let paths = vec![directory.join("manifest.yaml"), directory.join("trust")];
            let mut bench = Self {
                watch: Watch::new(paths, now),
                directory,
                now,
            };
            assert_eq!(bench.look(), (INTERVAL, true), "the first look reads");
            assert_eq!(bench.look(), (INTERVAL, false), "nothing has changed");
            bench
        }

        /// Lets time pass until the next look; how long, and whether it reads.
        fn look(&mut self) -> (Duration, bool) {
            let waited = self.watch.deadline() - self.now;
            self.now = self.watch.deadline();
            (waited, self.watch.look(self.now))
        }

        /// Another content; of another length each time, whatever the clock's tick.
        fn write(&self, name: &str, length: usize) {
            fs::write(self.directory.join(name), "x".repeat(length)).unwrap();
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn reads_a_change_once_it_has_stood_still_and_once_more() {
        for name in ["manifest.yaml", "trust/root.pem"] {
            let mut bench = Bench::new(&name.replace('/', "-"));
            bench.write(name, 10);
            assert_eq!(bench.look(), (INTERVAL, false), "{name}");
            assert_eq!(bench.look(), (SETTLING, true), "{name}");
            assert_eq!(bench.look(), (INTERVAL, true), "{name}");
            assert_eq!(bench.look(), (INTERVAL, false), "{name}");
        }
    }

    #[test]
    fn reads_nothing_that_is_still_being_written() {
        let mut bench = Bench::new("part");
        bench.write("manifest.yaml", 0);
        assert_eq!(bench.look(), (INTERVAL, false));
        bench.write("manifest.yaml", 10);
        assert_eq!(bench.look(), (SETTLING, false));
        bench.write("manifest.yaml", 20);
        assert_eq!(bench.look(), (SETTLING, false));
        assert_eq!(bench.look(), (SETTLING, true));
    }

    #[test]
    fn reads_what_never_stands_still_in_time_all_the_same() {
        let mut bench = Bench::new("never");
        bench.write("manifest.yaml", 1000);
        assert_eq!(bench.look(), (INTERVAL, false));
        let first_seen = bench.now;
        for length in 1001.. {
            bench.write("manifest.yaml", length);
            if bench.look().1 {
                break;
            }
        }
        assert_eq!(bench.now - first_seen, LONGEST_SETTLING);
    }

    #[test]
    fn looks_at_once_where_it_is_told_to_but_not_all_the_time() {
        let mut bench = Bench::new("hasten");
        let told_after = |bench: &mut Bench, waited: Duration| {
            bench.now += waited;
            bench.watch.hasten(bench.now);
            bench.watch.deadline() - bench.now
        };
        assert_eq!(told_after(&mut bench, SHORTEST / 4), SHORTEST * 3 / 4);
        assert!(!bench.look().1, "nothing has changed");
        assert_eq!(told_after(&mut bench, SHORTEST), Duration::ZERO);
        bench.write("manifest.yaml", 10);
        assert!(!bench.look().1, "it has to stand still");
        assert_eq!(told_after(&mut bench, SETTLING / 2), SETTLING / 2);
        assert!(bench.look().1);
        assert_eq!(bench.look(), (INTERVAL, true), "and once more");
    }

    #[test]
    fn notices_what_is_renamed_into_place_and_what_is_deleted() {
        let mut bench = Bench::new("rename");
        bench.write("new", 1);
        fs::rename(
            bench.directory.join("new"),
            bench.directory.join("manifest.yaml"),
        )
        .unwrap();
        assert_eq!(bench.look(), (INTERVAL, false));
        assert_eq!(bench.look(), (SETTLING, true));
        fs::remove_file(bench.directory.join("manifest.yaml")).unwrap();
        assert_eq!(bench.look(), (INTERVAL, false));
        assert_eq!(bench.look(), (SETTLING, true));
    }
}
