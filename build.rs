//! Says what is being built (`SIDECAR_COMMIT`, `SIDECAR_BUILD_EPOCH`), and keeps the shipped
//! binary small: what only an unwinder reads is left out of it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the binary is made of: a change elsewhere makes it no other one.
const SOURCES: [&str; 7] = [
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "build.rs",
    "no-unwind.ld",
    "rust-toolchain.toml",
    "src",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    for variable in ["SIDECAR_COMMIT", "SIDECAR_BUILD_EPOCH", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let variable = |name| env::var(name).unwrap_or_default();
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    // Only what is shipped says what it is: a test's build need not be made anew for every
    // commit.
    let release = variable("PROFILE") == "release";
    let checkout = if release { Checkout::of(&root) } else { None };
    name_build(checkout.as_ref());
    if release && variable("CARGO_CFG_TARGET_ENV") == "musl" {
        leave_out_unwinder(&root);
    }
}

fn name_build(checkout: Option<&Checkout>) {
    let named = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let commit = named("SIDECAR_COMMIT").or_else(|| checkout.map(|found| found.commit.clone()));
    println!(
        "cargo::rustc-env=SIDECAR_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
    let epoch = named("SIDECAR_BUILD_EPOCH")
        .or_else(|| named("SOURCE_DATE_EPOCH"))
        .or_else(|| checkout.map(|found| found.time.clone()));
    // Without any, src/boot/clock.rs has a default.
    if let Some(epoch) = epoch {
        println!("cargo::rustc-env=SIDECAR_BUILD_EPOCH={epoch}");
    }
}

/// The git checkout whose top is this crate.
struct Checkout {
    /// Its commit; with ", modified" where the sources differ from it.
    commit: String,
    /// When that was made, in seconds since 1970.
    time: String,
}

impl Checkout {
    /// Nothing where this is no checkout, but an archive of the source, or a copy of it
    /// inside the checkout of something else.
    fn of(root: &Path) -> Option<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(root).arg("--no-optional-locks");
            let output = command.args(arguments).output().ok()?;
            let printed = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| printed.trim().to_owned())
        };
        let top = git(&["rev-parse", "--show-toplevel"])?;
        if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
            return None;
        }
        // Where git writes when the commit becomes another. A file that is not there would
        // make every build a new one.
        let reference = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
        for name in ["HEAD", "packed-refs", &reference] {
            let path = git(&["rev-parse", "--git-path", name]).unwrap_or_default();
            if !name.is_empty() && root.join(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
        let mut commit = git(&["rev-parse", "HEAD"])?;
        let mut differing = vec!["status", "--porcelain", "--"];
        differing.extend(SOURCES);
        if !git(&differing)?.is_empty() {
            commit.push_str(", modified");
        }
        let time = git(&["log", "-1", "--format=%ct"])?;
        Some(Self { commit, time })
    }
}

/// Measured on x86_64, of the same sources: with this and `src/no_unwind.rs`, which leaves
/// out the unwinder itself, some 1,109,500 bytes; with neither, 1,523,328, which is more
/// than `tests/quick/binary.rs` allows.
fn leave_out_unwinder(root: &Path) {
    for argument in [
        // One copy of functions that came out the same: 12 KiB.
        "--icf=all",
        // Relocations of a position-independent executable, packed: 32 KiB.
        "--pack-dyn-relocs=relr",
        // A panic aborts, so the standard library's unwind tables (94 KiB) are never read.
        &format!("-T{}", root.join("no-unwind.ld").display()),
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
