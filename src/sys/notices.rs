//! Hears from the kernel that somebody has written, renamed or removed a file. Touches the
//! kernel: inotify(7), which tells of changes made on this system and of no others: a share's
//! host, or another machine, may change what is there without a word.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// In a directory no more directories than this are listened to.
const MOST_DIRECTORIES: usize = 64;

/// Kubernetes' and others' way to replace what is in a directory: a link with such a name is
/// renamed, and the files' own names stay.
const HIDDEN: &[u8] = b"..";

/// Listens to files and directories that may come and go.
#[derive(Debug)]
pub struct Notices {
    inotify: Inotify,
    paths: Vec<PathBuf>,
    /// Directories of which every file is meant.
    inside: Vec<WatchDescriptor>,
}

impl Notices {
    /// Listens to these, and to the directories they are in for their names; `None` where the
    /// kernel tells nobody, or has told all it may.
    #[must_use]
    pub fn of(paths: Vec<PathBuf>) -> Option<Self> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let mut notices = Self {
            inotify: Inotify::init(flags).ok()?,
            paths,
            inside: Vec::new(),
        };
        notices.listen();
        Some(notices)
    }

    /// Listens to what is there now as well. To what is listened to already that changes
    /// nothing.
    pub fn listen(&mut self) {
        self.inside.clear();
        let mut last = None;
        for path in &self.paths {
            let parent = path.parent();
            if let Some(parent) = parent.filter(|_| parent != last) {
                self.add(parent);
            }
            last = parent;
            let Some(inside) = self.add(path).filter(|_| path.is_dir()) else {
                continue;
            };
            self.inside.push(inside);
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let directories = entries.map(|entry| entry.path()).filter(|it| it.is_dir());
            for directory in directories.take(MOST_DIRECTORIES) {
                self.inside.extend(self.add(&directory));
            }
        }
    }

    fn add(&self, path: &Path) -> Option<WatchDescriptor> {
        // Not while it is being written: the end of that is told, too.
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        self.inotify.add_watch(path, what).ok()
    }

    /// Whether something was told since the last call that is about them.
    pub fn take(&mut self) -> bool {
        let mut is_told = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => is_told |= events.iter().any(|event| self.is_meant(event)),
                Err(Errno::EINTR) => {}
                Err(_) => return is_told,
            }
        }
    }

    fn is_meant(&self, event: &InotifyEvent) -> bool {
        // More was told than could be kept, or it is about the file itself.
        let Some(name) = &event.name else {
            return true;
        };
        let is_named = |path: &PathBuf| path.file_name() == Some(OsString::as_os_str(name));
        self.inside.contains(&event.wd)
            || name.as_encoded_bytes().starts_with(HIDDEN)
            || self.paths.iter().any(is_named)
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hears_of_its_files_however_they_change_and_of_no_others() {
        let name = format!("sidecar-notices-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("trust/deep")).unwrap();
        let at = |name: &str| directory.join(name);
        fs::write(at("manifest.yaml"), "1").unwrap();
        symlink("none", at("..data")).unwrap();
        fs::write(at("linked"), "1").unwrap();
        symlink("linked", at("link.yaml")).unwrap();
        let paths = ["manifest.yaml", "trust", "link.yaml", "comes"].map(at);
        let mut notices = Notices::of(paths.into()).unwrap();
        assert!(!notices.take(), "nothing has changed");
        let write = |name: &str| fs::write(at(name), "2").unwrap();
        let rename = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
        let changes: [(&str, bool, &dyn Fn()); 11] = [
            ("written", true, &|| write("manifest.yaml")),
            ("another written", false, &|| write("other")),
            ("another renamed", false, &|| rename("other", "new")),
            ("renamed into place", true, &|| {
                rename("new", "manifest.yaml");
            }),
            ("written where that was", true, &|| write("manifest.yaml")),
            ("inside", true, &|| write("trust/root.pem")),
            ("deep inside", true, &|| write("trust/deep/root.pem")),
            ("behind a link", true, &|| write("linked")),
            ("a link renamed", true, &|| {
                symlink("trust", at("..new")).unwrap();
                rename("..new", "..data");
            }),
            ("one that comes", true, &|| write("comes")),
            ("one that goes", true, &|| {
                fs::remove_file(at("manifest.yaml")).unwrap();
            }),
        ];
        for (what, is_told, change) in changes {
            change();
            assert_eq!(notices.take(), is_told, "{what}");
            assert!(!notices.take(), "{what}: once");
            notices.listen();
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
