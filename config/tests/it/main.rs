//! One test binary: the examples, the broken files, the reference, and text that nobody would write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bad;
mod cluster;
mod examples;
mod fuzz;
mod places;
mod reference;
mod traffic;
