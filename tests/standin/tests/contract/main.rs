//! What sidecar-init relies on in pipelock, asked of a running binary. The same
//! cases run against the stand-in and, with `PIPELOCK_BIN=/path/to/pipelock`,
//! against pipelock itself.

#![allow(missing_docs)]
// Helpers of tests fail as tests do; clippy knows only functions marked #[test].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bed;
mod ca;
mod configuration;
mod events;
mod faults;
mod output;
mod rate;
mod reload;
mod scanning;
mod signals;
mod start;
mod traffic;
mod tunnels;
