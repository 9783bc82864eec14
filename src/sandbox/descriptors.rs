//! What the daemon inherits besides its streams: nothing. Touches the kernel: between fork
//! and exec, and the daemon's `/proc/<pid>/fd` once it was executed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// The first number that is no standard stream.
const FIRST: libc::c_int = 3;
/// Without `/proc`, every number is tried up to this limit: a fifth of a second. The
/// kernel's own limit is the same where nobody raised it (`fs.nr_open`).
const MOST_TRIED: libc::rlim_t = 1 << 20;

/// Has the exec close everything above the standard streams: a runtime may have left
/// something open without close-on-exec. Only for the child between fork and exec: calls
/// nothing that allocates or locks.
///
/// close_range(2) can be missing (before Linux 5.11) or refused by a filter around us.
/// Then each open descriptor is marked by itself; an error where it is not known which
/// are open.
#[allow(unsafe_code)]
pub(super) fn close_on_exec() -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let closed = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if closed == 0 {
        return Ok(());
    }
    let refused = Errno::last();
    if mark_listed().is_ok() {
        return Ok(());
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is ours and lives through the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if !known || limit.rlim_max > MOST_TRIED {
        return Err(refused);
    }
    (FIRST..libc::c_int::try_from(limit.rlim_max).unwrap_or(libc::c_int::MAX)).try_for_each(mark)
}

/// One that is not open needs no mark.
#[allow(unsafe_code)]
fn mark(number: libc::c_int) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let marked = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    match Errno::result(marked) {
        Ok(_) | Err(Errno::EBADF) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Marks what `/proc/self/fd` lists; to mark one changes nothing of the list.
#[allow(unsafe_code)]
fn mark_listed() -> Result<(), Errno> {
    /// `struct linux_dirent64`: inode, offset, length of the record, type, name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    // SAFETY: a string that ends in a zero.
    let directory = Errno::result(unsafe {
        libc::open(
            c"/proc/self/fd".as_ptr(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    })?;
    let mut buffer = [0_u8; 2048];
    loop {
        // SAFETY: the buffer is ours and as long as said.
        let filled = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        })?;
        let filled = usize::try_from(filled).unwrap_or(0);
        if filled == 0 {
            // Itself close-on-exec.
            return Ok(());
        }
        let mut records = buffer.get(..filled).unwrap_or_default();
        while let Some((record, rest)) = records
            .get(LENGTH..LENGTH + 2)
            .and_then(|length| length.try_into().ok())
            .and_then(|length| records.split_at_checked(u16::from_ne_bytes(length).into()))
            .filter(|(record, _)| !record.is_empty())
        {
            if let Some(number) = record.get(NAME..).and_then(leading_number)
                && number >= FIRST
            {
                mark(number)?;
            }
            records = rest;
        }
    }
}

/// A name of decimal digits that ends in a zero; `None` for "." and "..".
fn leading_number(name: &[u8]) -> Option<libc::c_int> {
    let end = name.iter().position(|byte| *byte == 0)?;
    let digits = std::str::from_utf8(name.get(..end)?).ok()?;
    digits.parse().ok()
}

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
#[allow(unsafe_code)]
fn is_ours(pid: i32, number: libc::c_int) -> bool {
    /// kcmp(2): whether two descriptors are one open file.
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: plain numbers.
    let compared = Errno::result(unsafe {
        libc::syscall(libc::SYS_kcmp, own, pid, KCMP_FILE, number, number)
    });
    match compared {
        Ok(order) => order == 0,
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
    fn reads_numbers_as_the_kernel_writes_names() {
        assert_eq!(leading_number(b"17\0\0\0\0\0"), Some(17));
        for name in [&b".\0"[..], b"..\0", b"17", b"\0", b""] {
            assert_eq!(leading_number(name), None, "{name:?}");
        }
    }

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
