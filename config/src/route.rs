//! A route: which requests it takes, which versions can answer them, and what protects them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::assign::{Override, Sticky};
use crate::endpoints::{Ejection, HealthCheck, Protocol, UpstreamTls, WarmUp};
use crate::kubernetes::{LiveService, VersionService};
use crate::limits::Limits;
use crate::mirror::Mirror;
use crate::plan::{Guard, Plan};
use crate::retries::Retries;
use crate::split::{RouteName, Split, VersionId};

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
    /// The Service whose selector follows the rollout; none: only the edge's weights move.
    pub live_service: Option<LiveService>,
    /// What takes a version back.
    pub guard: Guard,
    /// How long each part of a request may take.
    pub timeouts: Timeouts,
    /// How large, how many and how often requests may be.
    pub limits: Limits,
    /// What makes a user; none: every request is assigned anew.
    pub sticky: Option<Sticky>,
    /// How testers get a version; the first that fits counts.
    pub overrides: Vec<Override>,
    /// What is repeated when it fails.
    pub retries: Retries,
    /// What is copied to another version.
    pub mirror: Option<Mirror>,
    /// How an endpoint is asked whether it is ready.
    pub health_check: HealthCheck,
    /// What an endpoint must answer before its first request.
    pub warm_up: Option<WarmUp>,
    /// How long an endpoint that came up takes to get its full part of the requests; zero: none. Default 10 s.
    pub slow_start: Duration,
    /// When an endpoint sits out.
    pub ejection: Ejection,
    /// What endpoints speak.
    pub protocol: Protocol,
    /// Whether endpoints are spoken to over TLS, and how.
    pub upstream_tls: Option<UpstreamTls>,
    /// Whether answers name the version that gave them (`x-pointsman-version`).
    pub version_header: bool,
    /// Whether answers say how long the version took (`server-timing`).
    pub server_timing: bool,
}

impl Route {
    /// A route for every host and path, with everything that has a default at it, and all traffic on `stable`.
    pub fn new(name: RouteName, stable: VersionId, versions: BTreeMap<VersionId, Version>) -> Self {
        Self {
            name,
            matches: Match { host: Host::Any, path_prefix: "/".to_owned() },
            plan: Plan::Weights(Split::Whole(stable.clone())),
            stable,
            versions,
            live_service: None,
            guard: Guard::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            sticky: None,
            overrides: Vec::new(),
            retries: Retries::default(),
            mirror: None,
            health_check: HealthCheck::default(),
            warm_up: None,
            slow_start: DEFAULT_SLOW_START,
            ejection: Ejection::default(),
            protocol: Protocol::default(),
            upstream_tls: None,
            version_header: true,
            server_timing: false,
        }
    }
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
    /// Where it answers.
    #[serde(flatten)]
    pub backends: Backends,
    /// Free text that names the build; a new one lifts the quarantine.
    pub revision: Option<String>,
}

/// Where a version answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backends {
    /// At these endpoints; at least one.
    Endpoints(Vec<Endpoint>),
    /// Where the endpoint slices of this Service say.
    Service(VersionService),
}

impl Version {
    /// A version at these endpoints, without a revision.
    pub fn at(endpoints: Vec<Endpoint>) -> Self {
        Self { backends: Backends::Endpoints(endpoints), revision: None }
    }

    /// The endpoints that the file lists; none where a Service discovers them.
    pub fn endpoints(&self) -> &[Endpoint] {
        match &self.backends {
            Backends::Endpoints(endpoints) => endpoints,
            Backends::Service(_) => &[],
        }
    }

    /// The Service that discovers its endpoints, if one does.
    pub fn service(&self) -> Option<&VersionService> {
        match &self.backends {
            Backends::Endpoints(_) => None,
            Backends::Service(service) => Some(service),
        }
    }
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
    /// How long a stream may be silent once its answer has begun: server-sent events, gRPC, WebSocket. `total` and `read`
    /// end with the answer's head there. Default 5 min.
    pub stream_idle: Duration,
}

/// How long an endpoint that came up takes to get its full part of the requests.
pub const DEFAULT_SLOW_START: Duration = Duration::from_secs(10);

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            read: Duration::from_secs(30),
            total: Duration::from_mins(1),
            idle: Duration::from_mins(1),
            stream_idle: Duration::from_mins(5),
        }
    }
}
