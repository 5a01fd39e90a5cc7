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
mod api_page;
mod asking;
mod cli;
mod dashboard;
mod documents;
mod drift;
mod end_to_end;
mod endpoints;
mod evidence;
mod fast_lane;
mod fixture;
mod framework;
mod grpc;
mod harness;
mod http2;
mod image;
mod kube;
mod kube_discovery;
mod kube_edges;
mod kube_flip;
mod kube_replicas;
mod kube_rights;
mod kube_slow;
mod kube_trouble;
mod kube_way_back;
mod kubectl;
mod lanes;
mod limits;
mod live;
mod malformed;
mod metrics;
mod mirror;
mod models;
mod notify;
mod overrides;
mod packing;
mod pki;
mod plugin;
mod process;
mod protocols;
mod recorder;
mod recovery;
mod reload;
mod replays;
mod rollback;
mod seeing;
mod speak;
mod standstill;
mod state;
mod sticky;
mod streams;
mod terminal;
mod tls;
mod tools;
mod trio;
mod upgrade;
mod websocket;
