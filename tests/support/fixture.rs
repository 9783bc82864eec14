//! Compiles the programs that tests put into a machine or in the daemon's place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Compiles `tests/fixtures/NAME.rs` to `program`, static, with the toolchain of this
/// checkout and these variables for its `env!`.
pub fn compile(name: &str, variables: &[(&str, &str)], program: &Path) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let compiled = Command::new("rustc")
        .current_dir(checkout)
        .envs(variables.iter().copied())
        .args(["--edition", "2024", "--target", &target])
        .args(["-C", "linker=rust-lld", "-C", "strip=symbols"])
        .args(["-C", "panic=abort", "-o"])
        .arg(program)
        .arg(checkout.join(format!("tests/fixtures/{name}.rs")))
        .output()
        .expect("rustc, which compiled this test, is needed once more");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
}

/// The daemon beside pipelock that does as it is told.
pub fn worker() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("worker");
        compile("worker", &[], &program);
        program
    })
}
