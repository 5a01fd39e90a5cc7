//! How endpoints are asked, warmed, favoured and left out.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an endpoint is asked whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// HTTP path that answers 2xx when ready; none means that an accepted TCP connection is enough.
    pub path: Option<String>,
    /// Between two checks of one endpoint. Default 1 s.
    pub interval: Duration,
    /// For one check. Default 500 ms.
    pub timeout: Duration,
    /// So many good checks in a row bring an endpoint up. Default 1.
    pub healthy_after: u32,
    /// So many bad checks in a row take it down. Default 2.
    pub unhealthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            healthy_after: 1,
            unhealthy_after: 2,
        }
    }
}

/// Calls that an endpoint answers rightly before it gets its first request: they fill caches, and a model that answers
/// them wrongly gets no request at all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WarmUp {
    /// Where the calls are posted. Default `/v1/predict`.
    pub path: String,
    /// What is posted.
    pub golden: Golden,
    /// What of the features that the model takes; with [`Golden::Model`] only. Default `same`.
    pub signature: Signature,
    /// How many calls; the examples are gone through again and again. Default 10.
    pub calls: u32,
    /// For each call. Default 5 s.
    pub timeout: Duration,
}

/// Whether versions may take other features than stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// A version whose model description has another `signature` than stable's gets no weight.
    #[default]
    Same,
    /// Any will do: clients know of the difference.
    Any,
}

/// Examples and what they must give.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Golden {
    /// The endpoint's own, from the model description at this path, such as `/v1/model`: its `golden` holds a `tolerance` and
    /// `examples`, each with an `input` and its `prediction`.
    Model(String),
    /// These.
    Examples(Vec<Example>),
}

/// One example.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// The JSON body.
    pub body: String,
    /// The number at `/prediction`; none if any 2xx answer will do.
    pub expect: Option<f64>,
    /// How far from it is fine.
    pub tolerance: f64,
}

/// When an endpoint that fails requests sits out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ejection {
    /// Failures in a row; 0 turns this off. Default 5.
    pub consecutive_failures: u32,
    /// An endpoint whose success rate is so many standard deviations, and five points, below that of the others sits out,
    /// where the pool has at least three endpoints with enough requests; 0 turns this off. Default 1.9.
    pub success_rate_deviations: f64,
    /// Requests in one interval from which a success rate means something. Default 100.
    pub success_rate_requests: u32,
    /// Between two looks at success rates. Default 10 s.
    pub interval: Duration,
    /// How long the first time; doubled each time after that. Default 10 s.
    pub base_time: Duration,
    /// How long at most. Default 5 min.
    pub max_time: Duration,
    /// The largest part of a pool that sits out, in parts per million; when more would, nobody more does. Default 50 %.
    pub max_ejected_ppm: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate_deviations: 1.9,
            success_rate_requests: 100,
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(10),
            max_time: Duration::from_mins(5),
            max_ejected_ppm: 500_000,
        }
    }
}

/// What endpoints of a route speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, known beforehand.
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

/// How the edge proves to endpoints who it is, and they to it. Certificates are always verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamTls {
    /// File with the certificates that sign those of endpoints; none: the system's.
    pub ca: Option<PathBuf>,
    /// The edge's own certificate and key, for endpoints that ask (mTLS).
    pub identity: Option<CertificateFiles>,
    /// The name that endpoints prove; none: the host as written under `endpoints`.
    pub server_name: Option<String>,
}

/// A certificate (with its chain) and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct CertificateFiles {
    /// The certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// The key.
    pub private_key: PathBuf,
}
