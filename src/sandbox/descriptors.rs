//! What the daemon inherits besides its streams: nothing. Touches the kernel: the
//! daemon's `/proc/<pid>/fd` once it was executed.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

use crate::sys::process::shares_open_file;

/// The first number that is no standard stream.
const FIRST: RawFd = 3;
/// What the process `pid`, executed a moment ago, has open above its standard streams and
/// can only have from us, in words; `None` where that cannot be told: no `/proc`, or no
/// right to look into the process (`super::connections::listens`).
///
/// What it opens itself gets numbers that may be open here as well, so that each is asked
/// whether it is the same open file.
#[must_use]
pub fn inherited_by(pid: i32) -> Option<Vec<String>> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let numbers = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST);
    let inherited = numbers.filter(|number| is_ours(pid, *number));
    Some(
        inherited
            .map(|number| {
                let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
                format!("it inherited descriptor {number}, {}", target.display())
            })
            .collect(),
    )
}

/// Whether descriptor `number` of that process is the open file that it is here.
fn is_ours(pid: i32, number: RawFd) -> bool {
    match shares_open_file(pid, number) {
        Ok(shared) => shared,
        // Closed here or there.
        Err(Errno::EBADF) => false,
        // A kernel without it (CONFIG_KCMP), or a filter: by the file, which may be open
        // twice, is better than not at all. What is no file shares one inode with all its
        // kind, and tells nothing.
        Err(_) => {
            let file = |process: &dyn std::fmt::Display| {
                let path = format!("/proc/{process}/fd/{number}");
                let anonymous = fs::read_link(&path).is_ok_and(|to| to.starts_with("anon_inode:"));
                let found = fs::metadata(Path::new(&path)).ok()?;
                (!anonymous).then(|| (found.dev(), found.ino()))
            };
            file(&pid).is_some_and(|theirs| file(&"self") == Some(theirs))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    #[test]
    fn tells_what_was_inherited_from_what_is_its_own() {
        let file = fs::File::open("/etc/passwd").unwrap();
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .unwrap();
        let mut heir = Command::new("sleep").arg("60").spawn().unwrap();
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )
        .unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let of =
            |child: &std::process::Child| inherited_by(i32::try_from(child.id()).unwrap()).unwrap();
        let wanted = format!("it inherited descriptor {}, /etc/passwd", file.as_raw_fd());
        let (heirs, others) = (of(&heir), of(&other));
        for child in [&mut heir, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(heirs.contains(&wanted), "{heirs:?}");
        assert!(!others.contains(&wanted), "{others:?}");
        assert_eq!(inherited_by(i32::MAX), None);
    }
}
