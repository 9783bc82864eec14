//! What stands at the beginning of a program, as far as execve(2) reads it: what has to be
//! there besides. Touches the file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A program, by what executes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// An ELF file that needs no other, for this `e_machine`.
    Alone(u16),
    /// An ELF file and its loader: the C library's, for a program that is linked to one.
    Loaded(u16, PathBuf),
    /// A script and the interpreter that its first line names.
    Script(PathBuf),
    /// A file without a byte in it.
    Empty,
    /// Anything else.
    Other,
}

/// The kernel reads no more of a script's first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;
/// Where every linker puts the program headers; the kernel takes a page of them at most.
const HEAD: usize = 4096;

impl Form {
    /// Of the file at `path`; `None` where it cannot be read.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut head = Vec::with_capacity(HEAD);
        (&file).take(HEAD as u64).read_to_end(&mut head).ok()?;
        Some(if head.is_empty() {
            Self::Empty
        } else if let Some(line) = head.strip_prefix(b"#!") {
            script(line)
        } else {
            elf(&file, &head).unwrap_or(Self::Other)
        })
    }

    /// What else the kernel has to find to execute it.
    #[must_use]
    pub fn interpreter(&self) -> Option<&Path> {
        match self {
            Self::Loaded(_, interpreter) | Self::Script(interpreter) => Some(interpreter),
            Self::Alone(_) | Self::Empty | Self::Other => None,
        }
    }
}

/// Whether a program needs no other file to run. What is no program at all is judged by the
/// exec.
#[must_use]
pub fn is_static(program: &Path) -> bool {
    Form::of(program).is_none_or(|form| form.interpreter().is_none())
}

/// What follows on `#!`: blanks, the interpreter, and perhaps an argument.
fn script(line: &[u8]) -> Form {
    let line = line.get(..FIRST_LINE - 2).unwrap_or(line);
    let named = line
        .split(|byte| matches!(byte, b'\n' | b'\0'))
        .next()
        .into_iter()
        .flat_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')))
        .find(|word| !word.is_empty());
    match named {
        Some(named) => Form::Script(OsStr::from_bytes(named).into()),
        None => Form::Other,
    }
}

/// elf(5), both sizes, in this machine's order of bytes.
fn elf(file: &File, head: &[u8]) -> Option<Form> {
    const PT_INTERP: u64 = 3;
    let wide = match head.get(..6)? {
        b"\x7fELF\x02\x01" => true,
        b"\x7fELF\x01\x01" => false,
        _ => return None,
    };
    let pick = |of_64, of_32| if wide { of_64 } else { of_32 };
    let word = pick(8, 4);
    let machine = u16::try_from(number(head, 18, 2)?).ok()?;
    let headers = number(head, pick(32, 28), word)?;
    let size = number(head, pick(54, 42), 2)?;
    let count = number(head, pick(56, 44), 2)?;
    for index in 0..count {
        let header = part(file, head, headers.checked_add(index * size)?, size)?;
        if number(&header, 0, 4)? != PT_INTERP {
            continue;
        }
        let at = number(&header, pick(8, 4), word)?;
        let path = part(file, head, at, number(&header, pick(32, 16), word)?)?;
        let path = path.split(|byte| *byte == 0).next()?;
        return Some(Form::Loaded(machine, OsStr::from_bytes(path).into()));
    }
    Some(Form::Alone(machine))
}

/// A number of so many bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut number = [0; 8];
    let found = bytes.get(at..at.checked_add(size)?)?;
    number.get_mut(..size)?.copy_from_slice(found);
    Some(u64::from_le_bytes(number))
}

/// So much of the file from there on, out of what was read of it already where that has it.
fn part(file: &File, head: &[u8], at: u64, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok()?.min(HEAD);
    let from = usize::try_from(at).ok()?;
    if let Some(read) = head.get(from..from.checked_add(length)?) {
        return Some(read.to_owned());
    }
    let mut read = vec![0; length];
    file.read_exact_at(&mut read, at).ok()?;
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of a file with these bytes.
    fn form(bytes: &[u8]) -> Form {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sidecar-executable-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        let form = Form::of(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        form
    }

    /// An ELF file with a program header of no interest and, where there is a loader, one
    /// that names it at `at`.
    fn elf_file(wide: bool, loader: Option<(&str, usize)>) -> Vec<u8> {
        let (word, head, header) = if wide { (8, 64, 56) } else { (4, 52, 32) };
        let mut bytes = vec![0; head + 2 * header];
        let mut put = |at: usize, size: usize, number: usize| {
            bytes[at..at + size].copy_from_slice(&number.to_le_bytes()[..size]);
        };
        put(18, 2, 183);
        put(if wide { 32 } else { 28 }, word, head);
        put(if wide { 54 } else { 42 }, 2, header);
        put(if wide { 56 } else { 44 }, 2, 2);
        put(head, 4, 6);
        if let Some((path, at)) = loader {
            let second = head + header;
            put(second, 4, 3);
            put(second + if wide { 8 } else { 4 }, word, at);
            put(second + if wide { 32 } else { 16 }, word, path.len() + 1);
            bytes.resize(at, 0);
            bytes.extend(path.as_bytes());
            bytes.push(0);
        }
        bytes[..6].copy_from_slice(if wide {
            b"\x7fELF\x02\x01"
        } else {
            b"\x7fELF\x01\x01"
        });
        bytes
    }

    #[test]
    fn finds_the_loader_wherever_in_the_file_it_is_named() {
        for wide in [false, true] {
            assert_eq!(form(&elf_file(wide, None)), Form::Alone(183));
            for at in [200, 3 * HEAD] {
                let named = form(&elf_file(wide, Some(("/lib/ld-linux.so.2", at))));
                assert_eq!(named, Form::Loaded(183, "/lib/ld-linux.so.2".into()));
            }
        }
        // Cut off anywhere, it is something else, and no panic.
        let whole = elf_file(true, Some(("/lib/ld.so", 200)));
        for length in 0..whole.len() {
            let _ = form(&whole[..length]);
        }
        assert_eq!(form(b"\x7fELF\x02\x01"), Form::Other);
    }

    #[test]
    fn reads_a_first_line_as_the_kernel_does() {
        for (line, named) in [
            (&b"#!/bin/sh\n"[..], "/bin/sh"),
            (b"#! \t/usr/bin/env python3\n", "/usr/bin/env"),
            (b"#!/bin/sh", "/bin/sh"),
            (b"#!/bin/sh\r\n", "/bin/sh\r"),
            (b"#!relative -x", "relative"),
        ] {
            assert_eq!(form(line), Form::Script(named.into()));
        }
        for (bytes, what) in [
            (&b"#!\n/bin/sh"[..], Form::Other),
            (b"#!", Form::Other),
            (b"#", Form::Other),
            (b"exit 1\n", Form::Other),
            (b"", Form::Empty),
        ] {
            assert_eq!(form(bytes), what);
        }
    }

    #[test]
    fn tells_a_static_program_from_one_that_needs_others() {
        let script = std::env::temp_dir().join(format!("sidecar-script-{}", std::process::id()));
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(!is_static(&script));
        std::fs::remove_file(&script).unwrap();
        assert!(
            is_static(Path::new("/nonexistent")),
            "the exec says it better"
        );
        // Built for glibc, as tests are, this one names the dynamic loader.
        if cfg!(target_env = "gnu") {
            assert!(!is_static(Path::new("/proc/self/exe")));
        }
    }
}
