//! Faults, fakes and load over real sockets, each checked against what the other side saw.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client;
mod command;
mod fake_model;
mod fault_proxy;
mod load;
