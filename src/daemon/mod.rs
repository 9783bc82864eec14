//! What PID 1 knows of the daemons it runs. Pure.

pub mod pipelock;
