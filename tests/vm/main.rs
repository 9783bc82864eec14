//! The bundle in machines: the init as PID 1 under QEMU, seen from outside.
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

mod boot;
mod bundle;
mod clock;
mod companions;
mod contract;
mod faults;
mod grants;
mod lockdown;
mod operator;
mod smolmachines;
mod transcript;
mod work;
