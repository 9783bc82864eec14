//! What `image/build` made: a root filesystem and a kernel for one architecture.

use std::path::{Path, PathBuf};

use crate::Error;

/// A processor architecture the bundle is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, under QEMU's `microvm` machine.
    X86_64,
    /// 64-bit Arm, under QEMU's `virt` machine.
    Aarch64,
}

impl Arch {
    /// The architecture of the machine this runs on.
    #[must_use]
    pub fn host() -> Arch {
        if cfg!(target_arch = "aarch64") {
            Arch::Aarch64
        } else {
            Arch::X86_64
        }
    }

    /// Its name as in target triples.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }
}

/// The files a machine is started from.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What they were built for.
    pub arch: Arch,
    /// The read-only erofs root.
    pub root: PathBuf,
    /// A kernel for QEMU's `-kernel`.
    pub kernel: PathBuf,
}

impl Bundle {
    /// The bundle of this machine's architecture: in the directory `SIDECAR_BUNDLE`
    /// names, else in the checkout's `target/bundle/<arch>`.
    pub fn from_target() -> Result<Bundle, Error> {
        Bundle::for_arch(Arch::host())
    }

    /// The same for another architecture; `SIDECAR_BUNDLE` speaks only for the host's.
    pub fn for_arch(arch: Arch) -> Result<Bundle, Error> {
        match std::env::var_os("SIDECAR_BUNDLE") {
            Some(directory) if arch == Arch::host() => Bundle::in_directory(arch, directory),
            _ => Bundle::in_directory(
                arch,
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("../../target/bundle")
                    .join(arch.name()),
            ),
        }
    }

    /// The bundle in a directory of one's choice.
    pub fn in_directory(arch: Arch, directory: impl AsRef<Path>) -> Result<Bundle, Error> {
        let file = |name: &str| {
            let path = directory.as_ref().join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(Error::NoBundle { missing: path })
            }
        };
        Ok(Bundle {
            arch,
            root: file("root.erofs")?,
            kernel: file("kernel")?,
        })
    }
}
