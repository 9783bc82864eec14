//! A daemon that really proxies: `PIPELOCK_BIN`, else the stand-in.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where it is.
fn program() -> PathBuf {
    let standin = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standin/target");
    let program = std::env::var_os("PIPELOCK_BIN").map_or_else(
        || {
            Path::new(standin)
                .join(format!("{}-unknown-linux-musl", std::env::consts::ARCH))
                .join("release/pipelock")
        },
        PathBuf::from,
    );
    assert!(
        program.exists(),
        "cannot test with a pipelock: {} is missing\nhint: scripts/test builds it; PIPELOCK_BIN names another",
        program.display()
    );
    program
}

/// Puts it into `directory`, where its user may go: a checkout can lie in somebody's private
/// home. Not `fs::copy`, so that nothing another test forks holds it open for writing.
pub fn copy_into(directory: &Path) {
    let copied = Command::new("cp")
        .arg(program())
        .arg(directory.join("pipelock"))
        .status();
    assert!(copied.unwrap().success());
}
