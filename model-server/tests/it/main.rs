//! The real binary on a free port, and the way of a request through the library.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says on stderr what it skips"
)]

mod bundles;
mod calls;
mod cli;
#[cfg(feature = "cuda")]
mod cuda;
mod described;
mod drain;
mod drift;
mod embedding;
mod golden;
mod http;
mod image;
mod limits;
mod oip;
mod overload;
mod python;
mod schema;
mod server;
mod source;
mod stalls;
mod store;
mod trees;
