//! Pointsman, the edge.

pub mod admin;
mod admission;
mod answer;
pub mod app;
mod asking;
mod assign;
pub mod build;
mod chunks;
pub mod cli;
mod cluster;
mod concurrency;
pub mod control;
mod edge;
mod ejection;
pub mod endpoint;
mod ewma;
mod failure;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod lane;
pub mod listen;
pub mod metrics;
pub mod mirror;
pub mod notify;
pub mod observe;
pub mod outcome;
mod outgoing;
pub mod pool;
pub mod protection;
mod rate_limit;
pub mod recorder;
mod request;
pub mod retry;
pub mod route;
pub mod snapshot;
mod streams;
pub mod ticket;
pub mod tls;
mod trace;
mod unseen;
pub mod upgrade;
pub mod upstream;
mod user_cookie;
pub mod view;
