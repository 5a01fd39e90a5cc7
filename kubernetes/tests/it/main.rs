//! What the crate asks of an API server, on the fake one and, where `KUBECONFIG` names one, on a real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and says why it was left out"
)]

mod contract;
mod discovery;
mod events;
mod faults;
mod histories;
mod lease;
mod live_service;
mod retire;
mod world;
