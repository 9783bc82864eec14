//! The clients that a test needs: those of the machine, and what `scripts/clients` brought.

use std::process::Command;

/// What `scripts/clients` brought comes first: Debian's Node is too old.
pub fn path() -> String {
    let brought = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/clients");
    format!("{brought}:{}", std::env::var("PATH").unwrap())
}

/// Whether a shell can do that here, with the clients that were brought.
pub fn is_here(probe: &str) -> bool {
    let asked = Command::new("sh")
        .args(["-c", probe])
        .env("PATH", path())
        .env("CARGO", env!("CARGO"))
        .output();
    asked.is_ok_and(|output| output.status.success())
}
