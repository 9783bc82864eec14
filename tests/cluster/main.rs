//! A bottle on a real Kubernetes of one node: what its NetworkPolicies stop is tried with packets,
//! and what happens to it in its life is done to it. `scripts/cluster test` runs this; without a
//! cluster each test says that it checked nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bottle;
mod companions;
mod life;
mod many;
mod observed;
mod packets;
#[path = "../support/said.rs"]
mod said;
