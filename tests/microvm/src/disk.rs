//! Disk images made of a directory, without privileges.

use std::path::Path;
use std::process::Command;

use crate::process::find_program;
use crate::{Error, ScratchDir};

/// A filesystem the guest's kernel can mount from a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Read-only.
    Erofs,
    /// Read and write.
    Ext4,
}

impl FileSystem {
    /// Its name for mount(2).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Erofs => "erofs",
            FileSystem::Ext4 => "ext4",
        }
    }
}

/// Make a disk image with the contents of `directory`; an ext4 one has 16 MiB.
pub fn make_disk(kind: FileSystem, directory: &Path, image: &Path) -> Result<(), Error> {
    match kind {
        FileSystem::Erofs => run("mkfs.erofs", "erofs-utils", |command| {
            command
                .args(["--quiet", "--all-root"])
                .arg(image)
                .arg(directory);
        }),
        FileSystem::Ext4 => run("mkfs.ext4", "e2fsprogs", |command| {
            command
                .args(["-q", "-F", "-E", "root_owner=0:0", "-d"])
                .arg(directory)
                .arg(image)
                .arg("16M");
        }),
    }
}

/// Make an empty ext4 disk image of 16 MiB.
pub fn make_empty_disk(image: &Path) -> Result<(), Error> {
    let nothing = ScratchDir::new()?;
    make_disk(FileSystem::Ext4, nothing.path(), image)
}

fn run(
    program: &'static str,
    package: &'static str,
    arguments: impl FnOnce(&mut Command),
) -> Result<(), Error> {
    let path = find_program(program).ok_or(Error::NoProgram { program, package })?;
    let mut command = Command::new(path);
    arguments(&mut command);
    let output = command
        .output()
        .map_err(Error::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Program { program, output })
}
