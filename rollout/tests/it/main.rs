//! What the crate promises, as stories.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod absolute;
mod budget;
mod cluster;
mod comparison;
mod evidence;
mod findings;
mod foresight;
mod labels;
mod live_service;
mod mirror;
mod properties;
mod replay;
mod replicas;
mod split;
mod stories;
mod traffic;
mod vectors;
mod world;
