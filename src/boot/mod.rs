//! A machine's first steps: where are we, what is mounted, is the clock sane, does
//! the network stand. Touches the kernel, and nothing after it assumes a machine.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cmdline;
pub mod mode;
pub mod mounts;
pub mod network;
pub mod protect;
