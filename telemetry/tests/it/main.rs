//! Logs and signals are set up once a process, so each of these stories plays in a child: this same binary,
//! told to run one ignored test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a child answers on its standard output"
)]

mod child;
mod logs;
mod shutdown;
