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

/// What identifies one content of a file, as far as its metadata can tell.
type Mark = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// Looks at the files the configuration is made of.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    seen: Vec<Mark>,
    /// Look once more even if nothing seems to change: an edit may go on within the
    /// clock tick of the marks.
    again: bool,
    next: Instant,
}

impl Watch {
    /// Takes the present state for known.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, now: Instant) -> Self {
        let seen = paths.iter().map(|path| mark(path)).collect();
        Self {
            paths,
            seen,
            again: false,
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
        let current: Vec<Mark> = self.paths.iter().map(|path| mark(path)).collect();
        let changed = current != self.seen;
        self.seen = current;
        let read = changed || self.again;
        self.again = changed;
        read
    }
}

fn mark(path: &Path) -> Mark {
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
