//! What is written down about single requests.

use std::path::PathBuf;

use serde::Serialize;

/// One JSON line for a request that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessLog {
    /// Where the lines go; none: standard output.
    pub file: Option<PathBuf>,
    /// The part of good requests that is written; failed ones all are. Default 1.
    pub sample: f64,
}

/// Spans for OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traces {
    /// Where they are sent: OTLP over HTTP, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// The part of traces begun here that is kept; those begun by clients are kept as their `traceparent` says. Default
    /// 0.01.
    pub sample: f64,
    /// `service.name`. Default `pointsman`.
    pub service_name: String,
}
