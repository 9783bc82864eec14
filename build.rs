//! Keeps the shipped binary small: what only an unwinder reads is left out of it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no-unwind.ld");
    println!("cargo::rerun-if-env-changed=SIDECAR_BUILD_EPOCH");
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("PROFILE") != "release" || variable("CARGO_CFG_TARGET_ENV") != "musl" {
        return;
    }
    let script = format!("{}/no-unwind.ld", variable("CARGO_MANIFEST_DIR"));
    for argument in [
        // Functions with the same code are kept once.
        "--icf=all",
        // Relocations of a position-independent executable, packed: a tenth of the size.
        "--pack-dyn-relocs=relr",
        // A panic aborts, so the standard library's unwind tables (90 KiB) are never read.
        "--no-eh-frame-hdr",
        &format!("-T{script}"),
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
