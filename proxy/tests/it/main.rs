//! One test binary: the edge from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod admin;
mod cli;
mod drain;
mod edge;
mod endpoints;
mod evidence;
mod fixture;
mod grpc;
mod harness;
mod http2;
mod limits;
mod malformed;
mod metrics;
mod mirror;
mod outcomes;
mod overrides;
mod pki;
mod process;
mod protocols;
mod recorder;
mod recovery;
mod reload;
mod retries;
mod rollback;
mod seeing;
mod smuggling;
mod speak;
mod state;
mod sticky;
mod streams;
mod timeouts;
mod tls;
mod upgrade;
mod websocket;
