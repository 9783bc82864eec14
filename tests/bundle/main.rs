//! The whole bundle with real parts: mitmproxy as egress, git's own http-backend behind a gate,
//! a service that is asked for approvals; as processes and in a container. What a machine does
//! with them is in `tests/vm`.
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

mod bed;
mod chain;
mod container;
