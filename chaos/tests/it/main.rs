//! Faults, fakes and load over real sockets, each checked against what the other side saw; and every scenario of the
//! repository in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by failing"
)]

mod client;
mod command;
mod fake_model;
mod fault_proxy;
mod load;
mod scenarios;
