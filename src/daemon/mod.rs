//! What PID 1 knows of the daemons it runs. Pure.
#![forbid(unsafe_code)]

pub mod companion;
pub mod pipelock;
