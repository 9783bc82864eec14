//! PID 1 of the sidecar bundle.
#![warn(missing_docs)]
pub mod ca;
pub mod manifest;
pub mod pipelock;
pub mod policy;
