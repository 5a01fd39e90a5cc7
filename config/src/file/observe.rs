//! What is written down about single requests, as written in the file.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::{CollectorUrl, Percent, Value};

/// One JSON line for each request that has ended.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`access_log`")]
#[schemars(rename = "AccessLog")]
pub(crate) struct AccessLogFile {
    /// Where the lines go; standard output, if left out.
    pub(crate) file: Value<PathBuf>,
    /// The part of good requests that is written; failed ones all are.
    #[schemars(extend("default" = "100%"))]
    pub(crate) sample: Value<Percent>,
}

/// Spans for OpenTelemetry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`traces`")]
#[schemars(rename = "Traces", extend("required" = ["endpoint"]))]
pub(crate) struct TracesFile {
    /// Where they are sent: a collector that takes OTLP over HTTP.
    pub(crate) endpoint: Value<CollectorUrl>,
    /// The part of traces begun here that is kept; those begun by clients are kept as their `traceparent` says.
    #[schemars(extend("default" = "1%"))]
    pub(crate) sample: Value<Percent>,
    /// What the edge is called in them (`service.name`).
    #[schemars(extend("default" = "pointsman"))]
    pub(crate) service_name: Value<String>,
}
