//! The kernel: files, processes, signals, memory, sockets, the console.

pub mod carrier;
pub mod claim;
pub mod confine;
pub mod connections;
pub mod console;
pub mod credentials;
pub mod errand;
pub mod executable;
pub mod files;
pub mod fork;
pub mod interfaces;
pub mod libkrun;
pub mod memory;
pub mod notices;
pub mod process;
pub mod random;
pub mod reach;
pub mod reaper;
pub mod signals;
pub mod steps;
pub mod terminal;
pub mod watch;
