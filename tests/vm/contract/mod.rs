//! What the sidecar does to traffic, shown from outside the VM by real clients with real
//! TLS. Each case is written once and holds for whatever daemon the bundle has:
//! pipelock itself, or the stand-in, which therefore cannot drift from it.
//! `docs/contract.md` says which rule each case proves.

mod bed;
mod client;

mod bare;
mod brief;
mod empty;
mod impostor;
mod model;
mod passed;
mod reloaded;
mod rescanned;
mod untrusting;
mod workbench;
