//! Everything that needs neither a machine nor an image to be built: the pure rooms from
//! outside, and the real binary as a process. In one process, two tests at a time on two
//! processors: each has a directory and a loopback address of its own, changes nothing of the
//! process (no variable, no directory, no mask), and mounts only in a namespace it makes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod alone;
mod architecture;
mod binary;
mod budgets;
mod bundle;
mod ca;
mod cli;
mod clients;
mod companions;
mod completions;
mod consoles;
mod containers;
mod control;
mod credentials;
mod documents;
mod egress;
mod executables;
mod export;
mod families;
mod faults;
mod grant;
mod grants;
mod hints;
mod hung;
mod import;
mod kubernetes;
mod laptop;
mod line;
mod lockdown;
mod machine;
mod manifest;
mod metrics;
mod mounted;
mod names;
mod operator;
mod pair;
mod pipelock_bin;
mod real_daemon;
mod refusals;
mod render;
mod supervision;
mod surroundings;
mod systemd;
mod trust;
mod words;
