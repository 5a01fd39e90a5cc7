//! A route: which requests it takes, which versions can answer them, and what protects them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::plan::{Guard, Plan};
use crate::split::{RouteName, VersionId};

/// One route of the config file, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// Its unique name.
    pub name: RouteName,
    /// Which requests it takes.
    pub matches: Match,
    /// The version in production; always a key of `versions`.
    pub stable: VersionId,
    /// Every version that can serve; at least `stable`.
    pub versions: BTreeMap<VersionId, Version>,
    /// How traffic is to be divided.
    pub plan: Plan,
    /// What takes a version back.
    pub guard: Guard,
    /// How long each part of a request may take.
    pub timeouts: Timeouts,
    /// How large a request may be.
    pub limits: Limits,
    /// How an endpoint is asked whether it is ready.
    pub health_check: HealthCheck,
    /// Whether answers name the version that gave them (`x-pointsman-version`).
    pub version_header: bool,
}

/// Which requests a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The host asked for.
    pub host: Host,
    /// The path's beginning, at a segment border: `/v1` takes `/v1` and `/v1/predict`, not `/v10`. Starts with `/`.
    pub path_prefix: String,
}

/// A host pattern; lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// Every host.
    Any,
    /// Just this host.
    Exact(String),
    /// Every host below this domain: `example.com` for `*.example.com`.
    Suffix(String),
}

/// One version: where it runs and which build of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Where it answers; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Free text that names the build; a new one lifts the quarantine.
    pub revision: Option<String>,
}

/// An endpoint as written: an IP address or a name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// IPv4, IPv6 (without brackets) or a DNS name.
    pub host: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    /// `127.0.0.1:9001`, `[::1]:9001`, `model.internal:9001`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How long each part of a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// To open a connection to an endpoint. Default 1 s.
    pub connect: Duration,
    /// Between two reads from an endpoint, the first answer byte included; a client that stalls in its body this long gets
    /// 408. Default 30 s.
    pub read: Duration,
    /// From the request's first byte to the answer's last. Default 60 s.
    pub total: Duration,
    /// How long a client's idle connection is kept. Default 60 s.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            read: Duration::from_secs(30),
            total: Duration::from_mins(1),
            idle: Duration::from_mins(1),
        }
    }
}

/// How large a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Largest body in bytes; a larger one is answered 413. Default 64 MiB.
    pub body_bytes: u64,
    /// Largest request head (request line and headers) in bytes; a larger one is answered 431. Default 64 KiB.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 64 << 20, header_bytes: 64 << 10 }
    }
}

/// How an endpoint is asked whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// HTTP path that answers 2xx when ready; none means that an accepted TCP connection is enough.
    pub path: Option<String>,
    /// Between two checks of one endpoint. Default 1 s.
    pub interval: Duration,
    /// For one check. Default 500 ms.
    pub timeout: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(1), timeout: Duration::from_millis(500) }
    }
}
