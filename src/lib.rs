//! PID 1 of the sidecar bundle, from left to right:
//!
//! ```text
//!  manifest.yaml ──▶ Manifest ──▶ Policy ──▶ pipelock.yaml ─┐
//!                                                           ├─▶ spawn ─▶ supervise ─▶ result
//!  clock, entropy ──────────────▶ CertificateAuthority ─────┘              ▲   │
//!                                                     signals, exits, probes   └─ status.json
//! ```
//!
//! [`story`] tells that, stage by stage; [`command`] has what `check`, `status` and the others
//! do, which end by themselves. A value goes down through the rooms. The raw kernel, and all
//! that is unsafe, is in [`sys`] alone; every other room forbids it.
//!
//! | room | job | touches |
//! |---|---|---|
//! | [`cli`], [`environment`] | arguments to a command; the variables that are read | nothing |
//! | [`story`] | a run, from the first step to the result | through the others |
//! | [`command`] | the commands that end by themselves, a file each | files, standard output |
//! | [`boot`] | where we are; a machine's mounts, clock, network | through `sys` |
//! | [`bottle`] | reads the manifest and the roots beside it, has them judged and rendered | files |
//! | [`manifest`] | the keys there are, and where in the file each stands | nothing |
//! | [`policy`] | what a manifest means, and everything wrong with it | nothing |
//! | [`import`] | the allowlists of others, as a manifest | nothing |
//! | [`daemon`] | what we know of a kind of daemon, a folder each; `pipelock` renders its configuration and reads its words | nothing |
//! | [`ca`] | the certificate authority that pipelock intercepts with, and its files; the roots others have | files |
//! | [`sandbox`] | what a daemon may be: a file for each mechanism, and the read-back | through `sys` |
//! | [`supervise`] | daemons, kept running: the loop, a roster for their order, a unit and a machine for each | through `sandbox` and `sys` |
//! | [`status`] | what the host, its service manager and its clients are told | files |
//! | [`shutdown`], [`exit`] | the end; the exit codes | through `sys` |
//! | [`plain`] | what others wrote, fit to be printed | nothing |
//! | [`sys`] | files, processes, signals, memory, sockets, the console | the kernel |
//!
//! Where something new goes:
//!
//! | a new | goes to |
//! |---|---|
//! | key of the manifest | `manifest/schema.rs`, judged in `policy`, rendered in `daemon/pipelock/render.rs` |
//! | edit of a manifest's text | `manifest/edit.rs` |
//! | reason of pipelock's for a refusal | a row of `daemon/pipelock/refusals.rs` |
//! | signal | its meaning in `sys/signals.rs`, what follows in `supervise` |
//! | rule of the sandbox | its mechanism's file in `sandbox` |
//! | kind of daemon | a folder in `daemon`, what it is to run on in `bottle`, its place in `supervise/roster.rs` |
//! | field of the status | `status/schema.rs`, told as a fact in `status/reporter/facts.rs` |
//! | list of others' to import | a file in `import`, a row of `Kind` in its `mod.rs` |
//! | command | `cli.rs`, and a file in `command` |
//! | system call | `sys`, by its subject |

pub mod boot;
pub mod bottle;
pub mod ca;
pub mod cli;
pub mod command;
pub mod daemon;
pub mod environment;
pub mod exit;
pub mod import;
pub mod manifest;
pub mod plain;
pub mod policy;
pub mod sandbox;
pub mod shutdown;
pub mod status;
pub mod story;
pub mod supervise;
pub mod sys;
