//! PID 1 of the sidecar bundle, from left to right:
//!
//! ```text
//!  manifest.yaml ──▶ Manifest ──▶ Policy ──▶ pipelock.yaml ─┐
//!                                                           ├─▶ spawn ─▶ supervise ─▶ result
//!  clock, entropy ──────────────▶ CertificateAuthority ─────┘              ▲   │
//!                                                     signals, exits, probes   └─ status.json
//! ```
//!
//! [`run`] is that story. Everything left of `spawn` is pure: bytes in, bytes or an
//! error out. The modules, in reading order:
//!
//! | module | job | touches |
//! |---|---|---|
//! | [`cli`] | arguments to a command | nothing |
//! | [`manifest`] | the schema, and where in the file a thing stands | nothing |
//! | [`policy`] | what a manifest means, and everything wrong with it | nothing |
//! | [`pipelock`] | all we know of the daemon | nothing |
//! | [`ca`] | the certificate authority it intercepts with | nothing |
//! | [`plain`] | what others wrote, fit to be printed | nothing |
//! | [`console`] | standard output and error, never waited for | the kernel |
//! | [`carrier`] | a process that writes where a write may never end | the kernel |
//! | [`exit`] | the exit codes | nothing |
//! | [`boot`] | where we are; a machine's mounts, clock, network | the kernel |
//! | [`install`] | files, whole or not at all | the file system |
//! | [`claim`] | one init to a run directory | the file system |
//! | [`supervise`] | one daemon, kept running | the kernel |
//! | [`errand`] | what may hang, in a process of its own | the kernel |
//! | [`denials`] | what was refused, counted | the file system |
//! | [`status`] | what the host sees | the file system |
//! | [`notify`] | what a service manager hears | the kernel |
//! | [`export`] | what a client needs | the file system |
//! | [`teller`] | the export, kept as it should be | the kernel, through `errand` |
//! | [`report`] | what is left of a failure | the file system, the kernel's log |
//! | [`timeline`] | a start as a picture | nothing |
//! | [`shutdown`] | the end | the kernel |
//! | [`run`] | the story, and the other commands | through the above |

pub mod boot;
pub mod ca;
pub mod carrier;
pub mod claim;
pub mod cli;
pub mod console;
pub mod denials;
pub mod errand;
pub mod exit;
pub mod export;
pub mod install;
pub mod manifest;
pub mod notify;
pub mod pipelock;
pub mod plain;
pub mod policy;
pub mod report;
pub mod run;
pub mod shutdown;
pub mod status;
pub mod supervise;
pub mod teller;
pub mod timeline;
