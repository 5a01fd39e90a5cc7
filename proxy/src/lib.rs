//! Pointsman, the edge.

pub mod admin;
mod admission;
mod answer;
pub mod app;
mod assign;
mod chunks;
pub mod cli;
pub mod control;
mod edge;
pub mod endpoint;
mod failure;
mod forward;
mod guard;
pub mod listen;
pub mod metrics;
pub mod outcome;
pub mod pool;
pub mod recorder;
mod request;
pub mod retry;
pub mod route;
pub mod snapshot;
mod ticket;
pub mod upgrade;
mod upstream;
mod user_cookie;
pub mod view;
