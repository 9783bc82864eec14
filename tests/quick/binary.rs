//! The shipped binary: one file that needs nothing beside it, and a small one.
//! `SIDECAR_ARCH` names another architecture than this machine's, `SIDECAR_INIT_BIN` another
//! program than its release build.

use std::fs;

use microvm::{Arch, shipped_init};

// <elf.h>
const EM_AARCH64: u64 = 183;
const ET_EXEC: u64 = 2;
const ET_DYN: u64 = 3;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_PIE: u64 = 0x0800_0000;

/// A 64-bit little-endian ELF file.
struct Elf(Vec<u8>);

impl Elf {
    fn shipped() -> Self {
        let arch = Arch::chosen().unwrap();
        let path = shipped_init(arch).unwrap();
        let bytes = fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "cannot read {}: {error}\nhint: build it with \"cargo build --release --target \
                 {}-unknown-linux-musl\", or name another with SIDECAR_INIT_BIN",
                path.display(),
                arch.name()
            )
        });
        assert!(
            bytes.starts_with(b"\x7fELF\x02\x01"),
            "{} is not a 64-bit little-endian ELF file",
            path.display()
        );
        Self(bytes)
    }

    fn number(&self, at: usize, length: usize) -> u64 {
        self.0[at..at + length]
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn offset(&self, at: usize) -> usize {
        usize::try_from(self.number(at, 8)).unwrap()
    }

    /// Of each segment the type, and where in the file it is.
    fn segments(&self) -> Vec<(u64, std::ops::Range<usize>)> {
        let (table, size) = (self.offset(32), self.number(54, 2));
        (0..self.number(56, 2))
            .map(|index| {
                let header = table + usize::try_from(index * size).unwrap();
                let start = self.offset(header + 8);
                (
                    self.number(header, 4),
                    start..start + self.offset(header + 32),
                )
            })
            .collect()
    }

    /// The tags and values of the dynamic section; none where there is no such section.
    fn dynamic(&self) -> Vec<(u64, u64)> {
        let segments = self.segments();
        let places = segments.iter().filter(|(kind, _)| *kind == PT_DYNAMIC);
        places
            .flat_map(|(_, place)| place.clone().step_by(16))
            .map(|at| (self.number(at, 8), self.number(at + 8, 8)))
            .collect()
    }
}

#[test]
fn needs_no_loader_and_no_library() {
    let elf = Elf::shipped();
    let kinds: Vec<u64> = elf.segments().into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains(&PT_LOAD), "{kinds:?}");
    assert!(!kinds.contains(&PT_INTERP), "{kinds:?}");
    assert!(elf.dynamic().iter().all(|(tag, _)| *tag != DT_NEEDED));
}

#[test]
fn is_loaded_at_an_address_nobody_can_foresee() {
    let elf = Elf::shipped();
    let kind = elf.number(16, 2);
    if elf.number(18, 2) == EM_AARCH64 {
        // rustc 1.95 links this target at a fixed address and offers no other way; the
        // day it does, this says so.
        assert_eq!(kind, ET_EXEC);
        return;
    }
    assert_eq!(kind, ET_DYN);
    assert!(
        elf.dynamic()
            .iter()
            .any(|(tag, flags)| *tag == DT_FLAGS_1 && flags & DF_1_PIE != 0)
    );
}

#[test]
fn is_no_larger_than_its_budget() {
    let elf = Elf::shipped();
    // 2 MiB and an eighth. A fifth of it is libraries for what is read and made: YAML, JSON,
    // X.509 and four curves; another, the commands that people use by hand, in the one file
    // there is. The eighth is what `import` takes to leave nothing out without a word, in nine
    // formats; PID 1 never reads it.
    let limit = 2176 * 1024;
    let size = elf.0.len();
    assert!(size <= limit, "{size} bytes, of {limit} allowed");
}
