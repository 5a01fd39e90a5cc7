//! What a file says of a cluster: where versions are discovered, which Service is flipped, where state is kept, and which
//! other edges there are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::route::Endpoint;

/// A Service whose endpoint slices say where a version answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VersionService {
    /// Where the Service is; none: the namespace of the edge itself. As the route says, else as the state does.
    pub namespace: Option<String>,
    /// Its name.
    pub service: String,
    /// Which of its ports.
    pub port: ServicePort,
    /// The Deployment that runs the version; it is what is scaled down when the version is retired. Default the Service's name.
    pub workload: String,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServicePort {
    /// By its name in the Service.
    Name(String),
    /// By the number that pods listen on (the Service's `targetPort`), 1 to 65535.
    Number(u16),
}

/// The Service that everybody else uses, whose selector follows the rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveService {
    /// Where it is; none: the namespace of the edge itself. As written, else as the state says.
    pub namespace: Option<String>,
    /// Its name; no version's own Service, and of one route only.
    pub service: String,
    /// The key of its selector whose value is the name of the version. Default `version`.
    pub selector_key: String,
    /// What becomes of the old version after the bake.
    pub retire: Retire,
}

/// What becomes of the old version once its successor has come through the bake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retire {
    /// It stays as it is; the live Service is annotated, so that others know that it may go.
    #[default]
    None,
    /// Its workload is scaled to so many replicas.
    ScaleTo(u32),
}

/// State in a cluster: that of each route on its live Service, and a Lease that says who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KubernetesState {
    /// Where the Lease is, and what routes use that name no other; none: the namespace of the edge itself.
    pub namespace: Option<String>,
    /// The Lease's name. Default `pointsman`.
    pub lease: String,
    /// How long others wait for a leader that is not heard of; whole seconds, from 2 to 60. Default 10 s.
    pub lease_duration: Duration,
}

/// How the edges of one installation talk to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Where this one listens for the others. Default 0.0.0.0:9901.
    pub address: SocketAddr,
    /// Where the others are.
    pub peers: Peers,
    /// File with the bearer token that they all share.
    pub token_file: PathBuf,
}

/// Where the edges of one installation are; this one may be among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// Behind a headless Service in the namespace of the state; all listen on the same port.
    Service(String),
    /// At these addresses.
    Endpoints(Vec<Endpoint>),
}
