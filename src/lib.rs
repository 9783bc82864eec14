//! PID 1 of the sidecar bundle, from left to right:
//!
//! ```text
//!  manifest.yaml ──▶ Manifest ──▶ Policy ──▶ pipelock.yaml ─┐
//!                                                           ├─▶ spawn ─▶ supervise ─▶ result
//!  clock, entropy ──────────────▶ CertificateAuthority ─────┘              ▲   │
//!                                                     signals, exits, probes   └─ status.json
//! ```
//!
//! [`story`] tells that, and [`command`] the rest. A value goes down through the rooms in
//! this order. The raw kernel, and all that is unsafe, is in [`sys`] alone; every other room
//! forbids it:
//!
//! | room | job | touches |
//! |---|---|---|
//! | [`cli`] | arguments to a command | nothing |
//! | [`environment`] | the variables that are read | the environment |
//! | [`story`] | a run, from the first step to the result | through the others |
//! | [`command`] | check, render, ca, status, healthcheck | files, standard output |
//! | [`boot`] | where we are; a machine's mounts, clock, network | the kernel |
//! | [`bottle`] | everything that is read, made into what a daemon is to run on | the file system |
//! | [`manifest`] | the schema, and where in the file a thing stands | nothing |
//! | [`policy`] | what a manifest means, and everything wrong with it | nothing |
//! | [`ca`] | the certificate authority that pipelock intercepts with | the file system |
//! | [`daemon`] | all we know of a daemon: pipelock | nothing |
//! | [`supervise`] | the daemons of a bundle, kept running | through `sandbox` and `sys` |
//! | [`sandbox`] | what a daemon may be, a file for each mechanism, and its read-back | the kernel |
//! | [`status`] | what the host, its service manager and its clients are told | the file system |
//! | [`plain`] | what others wrote, fit to be printed | nothing |
//! | [`shutdown`] | the end | the kernel |
//! | [`exit`] | the exit codes | nothing |
//! | [`sys`] | files, processes, signals, memory, the console | the kernel |

pub mod boot;
pub mod bottle;
pub mod ca;
pub mod cli;
pub mod command;
pub mod daemon;
pub mod environment;
pub mod exit;
pub mod manifest;
pub mod plain;
pub mod policy;
pub mod sandbox;
pub mod shutdown;
pub mod status;
pub mod story;
pub mod supervise;
pub mod sys;
