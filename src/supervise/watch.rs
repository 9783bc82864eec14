//! Notices that the manifest changed. Touches the file system.
//!
//! Polled, because a virtiofs share has no inotify for changes made by the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks. A removed host is out of reach within 5 s: 2 s until this look,
/// 1 s of attribute cache, 1 s of grace.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// In a directory no more files than this are looked at.
const MOST_FILES: usize = 256;

/// What identifies one content of a file, as far as its metadata can tell.
type Mark = (u64, u64, u64, i64, i64, i64, i64);
/// A file, or a directory and the files in it, by name: editing one in place leaves
/// no trace in the directory itself.
type Marks = Vec<(PathBuf, Mark)>;

/// Looks at the files the configuration is made of.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    seen: Vec<Marks>,
    /// Look once more even if nothing seems to change: an edit may go on within the
    /// clock tick of the marks.
    again: bool,
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
            next: now + INTERVAL,
        }
    }

    /// When to look next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time; true when the files should be read again.
    pub fn look(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + INTERVAL;
        let current: Vec<Marks> = self.paths.iter().map(|path| marks(path)).collect();
        let changed = current != self.seen;
        self.seen = current;
        let read = changed || self.again;
        self.again = changed;
        read
    }
}

fn marks(path: &Path) -> Marks {
    let mut paths = vec![path.to_owned()];
    if let Ok(entries) = fs::read_dir(path) {
        paths.extend(entries.flatten().take(MOST_FILES).map(|entry| entry.path()));
        paths.sort();
    }
    paths
        .into_iter()
        .filter_map(|path| mark(&path).map(|mark| (path, mark)))
        .collect()
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}
