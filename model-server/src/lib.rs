//! Serves one version of a model over HTTP and gRPC.
//!
//! A request goes one way: `listener` (accepts, deals out) → `connection` (a serving thread, a `wire`, under a `watch`) → `http`
//! (path, limits, body within the `budget`) → `predict` or `oip`, by `json` and `schema` (bytes to columns, everything wrong named at once) →
//! `deployment` → `queue` (at once, or by a worker, with others as `batching` has it) → `model` → `drift` (counted) →
//! `answer`.
//!
//! A start goes another: `settings` → `threads` → `app` (listens at once) → `source` (brings the bundle here) →
//! `artifact` and `bundle` (files, digests, description) → `model` (weights) → `golden` (known predictions) →
//! `deployment` (measured, workers started) → `health` says ready. `cli` goes the second way without serving.

pub mod answer;
pub mod app;
pub mod artifact;
pub mod backlog;
pub mod batching;
pub mod budget;
pub mod bundle;
pub mod cli;
pub mod connection;
pub mod deadline;
pub mod deployment;
pub mod descriptors;
pub mod drift;
pub mod findings;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod golden;
pub mod health;
pub mod http;
pub mod json;
pub mod listener;
pub mod metrics;
pub mod model;
pub mod oip;
pub mod openapi;
pub mod panics;
pub mod predict;
pub mod queue;
pub mod schema;
pub mod settings;
pub mod source;
pub mod threads;
pub mod watch;
pub mod wire;
