//! What another user can get at, and what keeps it out. Touches the file system; where the
//! modes say no, it asks as that user: an access control list may say otherwise.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, getegid, geteuid};

use crate::sys::{credentials, errand};

/// A user and a group, and no group besides.
pub type User = (u32, u32);

/// What somebody is to do with a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Read a file.
    Read,
    /// Read a directory's list and what is in it.
    List,
    /// Execute a file; of a directory, reach what is in it.
    Execute,
}

impl Use {
    /// As bits of a mode.
    fn bits(self) -> u32 {
        match self {
            Self::Read => 0o4,
            Self::List => 0o5,
            Self::Execute => 0o1,
        }
    }

    fn flags(self) -> AccessFlags {
        match self {
            Self::Read => AccessFlags::R_OK,
            Self::List => AccessFlags::R_OK | AccessFlags::X_OK,
            Self::Execute => AccessFlags::X_OK,
        }
    }
}

/// The file or directory that keeps a user out, by its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// Where it is.
    pub at: PathBuf,
    mode: u32,
    /// Whose bits of the mode count for that user, as chmod(1) calls them.
    class: char,
    lacking: u32,
    is_directory: bool,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, class) = (self.at.display(), self.class);
        let lacking = match self.lacking {
            0o4 => "r",
            0o5 => "rx",
            _ => "x",
        };
        write!(
            f,
            "the mode of {at} is {:04o}\nhint: chmod {class}+{lacking} {at}",
            self.mode
        )?;
        if self.is_directory {
            f.write_str(", or name a place outside of it")?;
        }
        Ok(())
    }
}

/// What keeps users from places. Places that belong together have most of their way in common,
/// and each piece of it is looked at once.
#[derive(Debug, Default)]
pub struct Ways {
    passed: Vec<PathBuf>,
}

impl Ways {
    /// What keeps `user` from that use of `path`; `None` where nothing does, or nothing can be
    /// told, as of what is not there.
    pub fn barrier(&mut self, path: &Path, to: Use, user: User) -> Option<Barrier> {
        let barrier = self.by_modes(path, to, user)?;
        (is_let_in(path, to, user) == Some(false)).then_some(barrier)
    }

    /// The first on the way, links followed, whose mode says so.
    fn by_modes(&mut self, path: &Path, to: Use, user: User) -> Option<Barrier> {
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        for place in way {
            let is_last = place == path;
            if place.as_os_str().is_empty()
                || (!is_last && self.passed.iter().any(|it| it == place))
            {
                continue;
            }
            let to = if is_last { to } else { Use::Execute };
            let metadata = fs::symlink_metadata(place).ok()?;
            let barrier = if metadata.is_symlink() {
                // All of the way that it leads: one without links, so this ends.
                self.by_modes(&place.canonicalize().ok()?, to, user)
            } else {
                judge(place, &metadata, to.bits(), user)
            };
            if barrier.is_some() {
                return barrier;
            }
            if !is_last {
                self.passed.push(place.to_owned());
            }
        }
        None
    }
}

/// By its owner, group and mode (path_resolution(7)).
fn judge(place: &Path, metadata: &fs::Metadata, wanted: u32, (uid, gid): User) -> Option<Barrier> {
    let mode = metadata.mode() & 0o7777;
    let (class, allowed) = if metadata.uid() == uid {
        ('u', mode >> 6)
    } else if metadata.gid() == gid {
        ('g', mode >> 3)
    } else {
        ('o', mode)
    };
    (allowed & wanted != wanted).then(|| Barrier {
        at: place.to_owned(),
        mode,
        class,
        lacking: wanted,
        is_directory: metadata.is_dir(),
    })
}

/// What the kernel says to that user itself; `None` where it cannot be asked.
fn is_let_in(path: &Path, to: Use, user: User) -> Option<bool> {
    /// The file system may not answer.
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut errand = errand::send(&[], || match become_powerless(user) {
        Ok(()) => vec![u8::from(access(path, to.flags()) != Err(Errno::EACCES))],
        Err(_) => Vec::new(),
    })
    .ok()?;
    let answer = errand.wait(PATIENCE);
    if answer.is_none() {
        errand.kill();
    }
    answer??.first().map(|answer| *answer != 0)
}

/// Becomes that user, without any capability.
fn become_powerless((uid, gid): User) -> Result<(), Errno> {
    // Whoever cannot change has its own groups, and so has what it starts.
    if (geteuid().as_raw(), getegid().as_raw()) != (uid, gid) {
        credentials::drop_groups()?;
        credentials::become_group(gid)?;
        credentials::become_user(uid)?;
    }
    credentials::drop_capabilities()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const STRANGER: User = (65_534, 65_534);

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sidecar-reach-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(path.join("private/below")).unwrap();
            fs::write(path.join("private/below/file"), "").unwrap();
            Self(path)
        }

        fn chmod(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn by_modes(path: &Path, to: Use, user: User) -> Option<(PathBuf, String)> {
        let barrier = Ways::default().by_modes(path, to, user)?;
        let hint = barrier
            .to_string()
            .split_once("hint: ")
            .unwrap()
            .1
            .to_owned();
        Some((barrier.at, hint))
    }

    #[test]
    fn finds_the_first_directory_on_the_way_that_keeps_a_user_out() {
        let scratch = Scratch::new("way");
        let private = scratch.chmod("private", 0o700);
        let file = scratch.chmod("private/below/file", 0o644);
        let hint = format!(
            "chmod o+x {}, or name a place outside of it",
            private.display()
        );
        let kept = Some((private.clone(), hint));
        for to in [Use::Read, Use::Execute] {
            assert_eq!(by_modes(&file, to, STRANGER), kept);
        }
        // By way of links, too.
        symlink(private.join("below"), scratch.0.join("link")).unwrap();
        symlink("link/file", scratch.0.join("second")).unwrap();
        for name in ["link/file", "second"] {
            assert_eq!(by_modes(&scratch.0.join(name), Use::Read, STRANGER), kept);
        }
        assert_eq!(by_modes(Path::new("/"), Use::List, STRANGER), None);
        assert_eq!(
            by_modes(Path::new("/nonexistent/x"), Use::Read, STRANGER),
            None
        );
        scratch.chmod("private", 0o711);
        assert_eq!(by_modes(&file, Use::Read, STRANGER), None);
    }

    #[test]
    fn wants_what_the_use_takes_of_whom_it_is_for() {
        let scratch = Scratch::new("use");
        let file = scratch.chmod("private/below/file", 0o640);
        let below = scratch.chmod("private/below", 0o751);
        let owner = fs::metadata(&file).unwrap();
        let (owner, group) = ((owner.uid(), 1), (1, owner.gid()));
        let hint = |path: &Path, to, user| by_modes(path, to, user).map(|(_, hint)| hint);
        assert_eq!(hint(&file, Use::Read, owner), None);
        assert_eq!(hint(&file, Use::Read, group), None);
        let file_name = file.display();
        assert_eq!(
            hint(&file, Use::Read, STRANGER),
            Some(format!("chmod o+r {file_name}"))
        );
        assert_eq!(
            hint(&file, Use::Execute, owner),
            Some(format!("chmod u+x {file_name}"))
        );
        assert_eq!(
            hint(&file, Use::Execute, group),
            Some(format!("chmod g+x {file_name}"))
        );
        let listed = hint(&below, Use::List, STRANGER).unwrap();
        assert!(listed.starts_with("chmod o+rx "), "{listed}");
    }

    #[test]
    fn believes_the_kernel_before_the_modes() {
        let scratch = Scratch::new("kernel");
        scratch.chmod("private/below/file", 0o644);
        let private = scratch.chmod("private", 0o700);
        let file = private.join("below/file");
        let barrier = |user| Ways::default().barrier(&file, Use::Read, user);
        let own = (geteuid().as_raw(), getegid().as_raw());
        assert_eq!(barrier(own), None);
        if own.0 != 0 {
            assert_eq!(barrier(STRANGER), None, "nobody can ask as another");
            return;
        }
        assert_eq!(barrier(STRANGER).map(|it| it.at), Some(private.clone()));
        let listed = ["-m", "u:65534:x"];
        let set = std::process::Command::new("setfacl")
            .args(listed)
            .arg(&private)
            .status();
        if set.is_ok_and(|status| status.success()) {
            assert_eq!(barrier(STRANGER), None, "the list lets it in");
        }
    }
}
