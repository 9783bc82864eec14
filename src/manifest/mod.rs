//! The manifest as it is written: bytes to typed fields, each with its position. Pure.
//!
//! The document is read as a stream of parser events against the schema, and
//! only what the schema names is kept: memory follows the hosts, depth costs
//! nothing, and every problem of shape is found in one pass.
#![forbid(unsafe_code)]

mod document;
pub mod edit;
mod events;
mod input;
mod problem;
mod reader;
mod runs;
mod scalar;
mod schema;
mod section;
mod suggest;
mod text;
mod value;
mod wanted;

pub use document::{Reading, parse};
pub use problem::{
    MAX_REPORTED, Position, Problem, Problems, Rejection, escaped, join_problems, quoted,
};
pub use scalar::{Kind, Scalar};
pub use schema::{
    Bottle, Daemon, Egress, Grant, Manifest, Network, Pipelock, Probe, Route, Supervisor,
};
pub use section::{Name, Section};
pub use suggest::nearest;
pub use value::{MAX_DAEMONS, WordOr};
pub use wanted::{Advise, Element, Wanted};

/// The largest manifest that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A manifest is judged in up to eighteen times its size of memory: `{}` as a route is
/// three bytes of text. A machine whose PID 1 runs out of memory is lost, so somewhat more
/// than half of what is available is all that may be needed.
const SHARE_OF_MEMORY: u64 = 32;

/// What may be read however little memory is available: some thousand hosts, so that no
/// shortage, which a daemon may bring about, keeps one of them from being revoked.
const ALWAYS_READ: usize = 128 * 1024;

/// The largest manifest that is read, in bytes, where so much memory is available, or
/// where nobody says how much.
#[must_use]
pub fn largest(available: Option<u64>) -> usize {
    let share = available.map_or(u64::MAX, |bytes| bytes / SHARE_OF_MEMORY);
    usize::try_from(share)
        .unwrap_or(MAX_BYTES)
        .clamp(ALWAYS_READ, MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, largest};

    #[test]
    fn reads_as_much_as_the_memory_can_bear() {
        // Eighteen times that is 36 of 64 MiB.
        assert_eq!(largest(Some(64 << 20)), 2 << 20);
        // As docs/manifest.md has them: 128 KiB and 16 MiB.
        assert_eq!(largest(Some(0)), 131_072);
        assert_eq!(largest(Some(u64::MAX)), 16_777_216);
        assert_eq!(largest(None), MAX_BYTES);
    }
}
