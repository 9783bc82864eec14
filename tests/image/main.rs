//! The images, as they are built: the container image, and the pipelock that is pinned for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

#[allow(dead_code, reason = "the quick tests need the rest of it")]
#[path = "../support/mod.rs"]
mod support;

mod oci;
mod pipelock;
