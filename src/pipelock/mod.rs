//! All the init knows of pipelock.

pub mod render;
