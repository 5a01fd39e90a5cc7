//! How endpoints are asked, warmed, favoured, left out and spoken to, as written.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::read::Written;
use crate::scalar::{CheckPath, Count, Factor, JsonBody, ServerName, SignedNumber, Value};
use crate::{Share, Signature};

use super::List;

/// How an endpoint is asked whether it is ready.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`health_check`")]
#[schemars(rename = "HealthCheck")]
pub(crate) struct HealthCheckFile {
    /// HTTP path that answers 2xx when ready; if left out, an accepted TCP connection is enough.
    pub(crate) path: Value<CheckPath>,
    /// Between two checks of one endpoint.
    #[schemars(extend("default" = "1s"))]
    pub(crate) interval: Value<Duration>,
    /// For one check.
    #[schemars(extend("default" = "500ms"))]
    pub(crate) timeout: Value<Duration>,
    /// So many good checks in a row bring an endpoint up, 1 to 100.
    #[schemars(extend("default" = 1))]
    pub(crate) healthy_after: Value<Count>,
    /// So many bad checks in a row take it down, 1 to 100.
    #[schemars(extend("default" = 2))]
    pub(crate) unhealthy_after: Value<Count>,
}

/// Calls that an endpoint answers rightly before it gets its first request: they fill caches, and a model that answers them
/// wrongly gets no request at all. Either `model` or `examples`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`warm_up`")]
#[schemars(rename = "WarmUp")]
pub(crate) struct WarmUpFile {
    /// Where the calls are posted.
    #[schemars(extend("default" = "/v1/predict"))]
    pub(crate) path: Value<CheckPath>,
    /// The endpoint's own examples: those under `golden` of the model description at this path, such as /v1/model.
    pub(crate) model: Value<CheckPath>,
    /// Whether a version may take other features than stable, by the `signature` in that description. `same`: it gets no
    /// weight; `any`: clients know of the difference. With `model` only.
    #[schemars(extend("default" = "same"))]
    pub(crate) signature: Written<Signature>,
    /// These examples, at most 100.
    pub(crate) examples: List<ExampleFile>,
    /// How many calls, 1 to 1000; the examples are gone through again and again.
    #[schemars(extend("default" = 10))]
    pub(crate) calls: Value<Count>,
    /// For each call.
    #[schemars(extend("default" = "5s"))]
    pub(crate) timeout: Value<Duration>,
}

/// One example, and what it must give.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "an example")]
#[schemars(rename = "Example", extend("required" = ["body"]))]
pub(crate) struct ExampleFile {
    /// The JSON body, between quotes.
    pub(crate) body: Value<JsonBody>,
    /// The number at `/prediction`; any 2xx answer will do, if left out.
    pub(crate) expect: Value<SignedNumber>,
    /// How far from it is fine; 0.000001, if left out. With `expect` only.
    pub(crate) tolerance: Value<Factor>,
}

/// When an endpoint that fails requests sits out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`ejection`")]
#[schemars(rename = "Ejection")]
pub(crate) struct EjectionFile {
    /// Failures in a row; 0 turns this off.
    #[schemars(extend("default" = 5))]
    pub(crate) consecutive_failures: Value<Count>,
    /// An endpoint whose success rate is so many standard deviations, and five points, below that of the others sits out,
    /// where the pool has at least three endpoints with enough requests. 0 to 10; 0 turns this off.
    #[schemars(extend("default" = 1.9))]
    pub(crate) success_rate_deviations: Value<Factor>,
    /// Requests in one interval from which a success rate means something, at least 1.
    #[schemars(extend("default" = 100))]
    pub(crate) success_rate_requests: Value<Count>,
    /// Between two looks at success rates.
    #[schemars(extend("default" = "10s"))]
    pub(crate) interval: Value<Duration>,
    /// How long the first time; doubled each time after that.
    #[schemars(extend("default" = "10s"))]
    pub(crate) base_time: Value<Duration>,
    /// How long at most.
    #[schemars(extend("default" = "5m"))]
    pub(crate) max_time: Value<Duration>,
    /// The largest part of a pool that sits out; when more would, nobody more does.
    #[schemars(extend("default" = "50%"))]
    pub(crate) max_ejected: Value<Share>,
}

/// How the edge proves to endpoints who it is, and they to it. Certificates are always verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`upstream_tls`")]
#[schemars(rename = "UpstreamTls")]
pub(crate) struct UpstreamTlsFile {
    /// PEM file with the certificates that sign those of endpoints; the system's, if left out.
    pub(crate) ca: Value<PathBuf>,
    /// PEM file with the edge's own certificate, for endpoints that ask for one. Together with `private_key`.
    pub(crate) certificate: Value<PathBuf>,
    /// PEM file with its key.
    pub(crate) private_key: Value<PathBuf>,
    /// The name that endpoints prove; the host as written under `endpoints`, if left out. Needed where endpoints are
    /// written as IP addresses.
    pub(crate) server_name: Value<ServerName>,
}
