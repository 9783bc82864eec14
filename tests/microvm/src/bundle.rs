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

    /// The architecture that machines are booted for: the one `SIDECAR_ARCH` names, else
    /// this machine's.
    pub fn chosen() -> Result<Arch, Error> {
        match std::env::var_os("SIDECAR_ARCH") {
            None => Ok(Arch::host()),
            Some(name) => Arch::named(&name.to_string_lossy()),
        }
    }

    /// The architecture of that name.
    pub fn named(name: &str) -> Result<Arch, Error> {
        match name {
            "x86_64" => Ok(Arch::X86_64),
            "aarch64" => Ok(Arch::Aarch64),
            _ => Err(Error::NoArch { name: name.into() }),
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

/// The init as it is shipped for an architecture: the release build, or for the chosen
/// architecture the program that `SIDECAR_INIT_BIN` names. It may not be built.
pub fn shipped_init(arch: Arch) -> Result<PathBuf, Error> {
    match std::env::var_os("SIDECAR_INIT_BIN") {
        Some(program) if arch == Arch::chosen()? => Ok(program.into()),
        _ => Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../target")
            .join(format!("{}-unknown-linux-musl", arch.name()))
            .join("release/sidecar-init")),
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
    /// The bundle of the chosen architecture: in the directory `SIDECAR_BUNDLE` names, else
    /// in the checkout's `target/bundle/<arch>`.
    pub fn from_target() -> Result<Bundle, Error> {
        Bundle::for_arch(Arch::chosen()?)
    }

    /// The same for another architecture; `SIDECAR_BUNDLE` speaks only for the chosen one.
    pub fn for_arch(arch: Arch) -> Result<Bundle, Error> {
        match std::env::var_os("SIDECAR_BUNDLE") {
            Some(directory) if arch == Arch::chosen()? => Bundle::in_directory(arch, directory),
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
