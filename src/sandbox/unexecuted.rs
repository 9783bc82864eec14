//! Why a program could not be executed, beyond the kernel's one word for it. Touches the file
//! system, after an exec has failed.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::landlock;
use crate::sys::executable::Form;
use crate::sys::reach::{Barrier, Use, User, Ways};

/// As many scripts may be each other's interpreters (`exec_binprm`).
const MOST_SCRIPTS: usize = 5;

/// What an exec lacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The interpreter of a script, which is not there.
    Interpreter(PathBuf),
    /// The loader that a program is linked to, which is not there.
    Loader(PathBuf),
    /// Something to execute: it is a directory.
    File(PathBuf),
    /// Anybody's right to execute it.
    Executable(PathBuf, u32),
    /// The daemon's.
    Way(Barrier),
    /// A file system from which programs may be executed.
    Mount(PathBuf),
    /// A place of the interpreter from which the sandbox lets it be executed.
    Grant(PathBuf),
    /// This machine's instructions: these are of the `e_machine`.
    Machine(u16),
    /// Any content.
    Content,
    /// A content that the kernel could execute.
    Form,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interpreter(path) => {
                let named = path.to_string_lossy();
                write!(f, "its first line names {named:?}, which is not there")?;
                if named.ends_with('\r') {
                    f.write_str(
                        "\nhint: its lines end as on Windows; end them with a line feed alone, as dos2unix does",
                    )?;
                }
                Ok(())
            }
            Self::Loader(path) => write!(
                f,
                "its loader {} is not there\nhint: it was linked to the C library of another system; link it \
                 statically, or bring that loader and its libraries",
                path.display()
            ),
            Self::File(path) => write!(f, "{} is a directory", path.display()),
            Self::Executable(path, mode) => write!(
                f,
                "the mode of {} is {mode:04o}\nhint: chmod +x {}",
                path.display(),
                path.display()
            ),
            Self::Way(barrier) => barrier.fmt(f),
            Self::Mount(path) => write!(
                f,
                "{} is on a file system that is mounted noexec\nhint: have it on another one",
                path.display()
            ),
            Self::Grant(path) => write!(
                f,
                "its interpreter {} is where the sandbox lets nothing be executed\nhint: have it in {}",
                path.display(),
                landlock::PROGRAMS.join(", ")
            ),
            Self::Machine(number) => write!(
                f,
                "it is a program for {}, and this machine is {}",
                architecture(*number),
                std::env::consts::ARCH
            ),
            Self::Content => f.write_str("it is empty"),
            Self::Form => f.write_str("it is neither a program nor a script that begins with #!"),
        }
    }
}

/// What the exec of `program` by `user` lacked that failed with `errno`; `None` where there is
/// no more to say, as of one that is not there. `is_restricted`: by Landlock.
pub fn lack(program: &Path, errno: Errno, user: User, is_restricted: bool) -> Option<Lack> {
    let mut executed = program.to_owned();
    for depth in 0..=MOST_SCRIPTS {
        // Relative ones are found from where the daemon begins.
        let path = Path::new("/").join(&executed);
        let metadata = fs::metadata(&path).ok()?;
        if metadata.is_dir() {
            return Some(Lack::File(path));
        }
        if errno == Errno::EACCES {
            let mode = metadata.permissions().mode() & 0o7777;
            if mode & 0o111 == 0 {
                return Some(Lack::Executable(path, mode));
            }
            if let Some(barrier) = Ways::default().barrier(&path, Use::Execute, user) {
                return Some(Lack::Way(barrier));
            }
            if statvfs(&path).is_ok_and(|it| it.flags().contains(FsFlags::ST_NOEXEC)) {
                return Some(Lack::Mount(path));
            }
            if depth > 0 && is_restricted && !is_granted(&path) {
                return Some(Lack::Grant(path));
            }
        }
        let form = Form::of(&path)?;
        let Some(interpreter) = form.interpreter() else {
            return match form {
                _ if errno != Errno::ENOEXEC => None,
                Form::Alone(machine) => Some(Lack::Machine(machine)),
                Form::Empty => Some(Lack::Content),
                _ => Some(Lack::Form),
            };
        };
        if !Path::new("/").join(interpreter).exists() && errno == Errno::ENOENT {
            return Some(match form {
                Form::Script(interpreter) => Lack::Interpreter(interpreter),
                _ => Lack::Loader(interpreter.to_owned()),
            });
        }
        if let (Form::Loaded(machine, _), Errno::ENOEXEC) = (&form, errno) {
            return Some(Lack::Machine(*machine));
        }
        executed = interpreter.to_owned();
    }
    None
}

fn is_granted(path: &Path) -> bool {
    let is_below = |path: &Path| landlock::PROGRAMS.iter().any(|it| path.starts_with(it));
    path.canonicalize().is_ok_and(|path| is_below(&path))
}

/// elf(5), for what one may meet; the number of another.
fn architecture(number: u16) -> String {
    let name = match number {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        258 => "loongarch",
        _ => return format!("the machine {number} of elf(5)"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    /// A directory with a file of these bytes.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8], mode: u32) -> Self {
            let name = format!("sidecar-unexecuted-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            let scratch = Self(path);
            fs::write(scratch.program(), bytes).unwrap();
            fs::set_permissions(scratch.program(), Permissions::from_mode(mode)).unwrap();
            scratch
        }

        fn program(&self) -> PathBuf {
            self.0.join("program")
        }

        fn lack(&self, errno: Errno) -> Option<Lack> {
            let own = (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            );
            lack(&self.program(), errno, own, true)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn says_of_what_the_kernel_cannot_execute_what_it_is() {
        for (name, bytes, wanted) in [
            ("empty", &b""[..], Lack::Content),
            ("text", b"exit 1\n", Lack::Form),
        ] {
            let scratch = Scratch::new(name, bytes, 0o755);
            assert_eq!(scratch.lack(Errno::ENOEXEC), Some(wanted));
        }
        // A program without program headers, of another machine.
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 22;
        let scratch = Scratch::new("machine", &elf, 0o755);
        let lack = scratch.lack(Errno::ENOEXEC).unwrap();
        assert!(
            lack.to_string().starts_with("it is a program for s390x"),
            "{lack}"
        );
        assert_eq!(scratch.lack(Errno::ENOMEM), None, "that is another matter");
    }

    #[test]
    fn names_the_interpreter_that_is_missing_however_far_away() {
        let scratch = Scratch::new("missing", b"#!/nowhere/sh -e\n", 0o755);
        let wanted = Lack::Interpreter("/nowhere/sh".into());
        assert_eq!(scratch.lack(Errno::ENOENT), Some(wanted.clone()));
        let first = format!("#!{}\n", scratch.program().display());
        let outer = Scratch::new("outer", first.as_bytes(), 0o755);
        assert_eq!(outer.lack(Errno::ENOENT), Some(wanted));
        let windows = Scratch::new("windows", b"#!/bin/sh\r\n", 0o755);
        let said = windows.lack(Errno::ENOENT).unwrap().to_string();
        assert!(
            said.starts_with("its first line names \"/bin/sh\\r\", which"),
            "{said}"
        );
        assert!(said.contains("hint: its lines end as on Windows"), "{said}");
        fs::remove_file(windows.program()).unwrap();
        assert_eq!(windows.lack(Errno::ENOENT), None);
        // Its own interpreter: there is an end of it.
        let own = Scratch::new("own", b"", 0o755);
        fs::write(own.program(), format!("#!{}\n", own.program().display())).unwrap();
        assert_eq!(own.lack(Errno::ENOENT), None);
    }

    #[test]
    fn says_what_is_in_the_way_of_executing_it() {
        let scratch = Scratch::new("mode", b"#!/bin/sh\n", 0o644);
        let wanted = Lack::Executable(scratch.program(), 0o644);
        assert_eq!(scratch.lack(Errno::EACCES), Some(wanted));
        fs::set_permissions(scratch.program(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(scratch.lack(Errno::EACCES), None, "nothing is");
        let inner = Scratch::new("inner", b"#!/bin/sh\n", 0o755);
        let first = format!("#!{}\n", inner.program().display());
        let outer = Scratch::new("outside", first.as_bytes(), 0o755);
        assert_eq!(
            outer.lack(Errno::EACCES),
            Some(Lack::Grant(inner.program()))
        );
        let directory = Scratch::new("directory", b"", 0o755);
        fs::remove_file(directory.program()).unwrap();
        fs::create_dir(directory.program()).unwrap();
        let wanted = Lack::File(directory.program());
        assert_eq!(directory.lack(Errno::EACCES), Some(wanted));
    }
}
