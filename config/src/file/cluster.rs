//! What is said of a cluster, as written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::read::{Either, Written};
use crate::scalar::{Count, LabelKey, ObjectName, RetireWord, Text, Value};
use crate::{Endpoint, ServicePort};

use super::List;

/// State in a cluster: that of each route on its live Service (selector and annotation `pointsman.dev/state`), and a Lease
/// that says which edge decides.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`state.kubernetes`")]
#[schemars(rename = "KubernetesState")]
pub(crate) struct KubernetesStateFile {
    /// Where the Lease is, and everything else of the cluster unless a route names another; the edge's own namespace, if left
    /// out.
    pub(crate) namespace: Value<ObjectName>,
    /// The Lease's name; made if it is not there.
    #[schemars(extend("default" = "pointsman"))]
    pub(crate) lease: Value<ObjectName>,
    /// How long others wait for a leader that is not heard of; whole seconds, from 2 to 60. It leads for seven tenths of that
    /// after each renewal, and renews every fifth.
    #[schemars(extend("default" = "10s"))]
    pub(crate) lease_duration: Value<Duration>,
}

/// How the edges of one installation talk to each other: one of them decides on what all of them counted, and each takes a
/// canary back by itself when that is a catastrophe. Needs `state.kubernetes`. Either `service` or `endpoints`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`replicas`")]
#[schemars(rename = "Replicas", extend("required" = ["token_file"]))]
pub(crate) struct ReplicasFile {
    /// IP address and port on which this edge hears the others.
    #[schemars(extend("default" = "0.0.0.0:9901"))]
    pub(crate) address: Value<SocketAddr>,
    /// The headless Service of the edges, in the namespace of the state. All listen on the same port.
    pub(crate) service: Value<ObjectName>,
    /// Where they are, this one too.
    pub(crate) endpoints: List<Text<Endpoint>>,
    /// File with the bearer token that all of them share.
    pub(crate) token_file: Value<PathBuf>,
}

/// The Service that everybody uses who does not go through the edge: its selector follows the rollout, after the weights.
/// Every version of the route names a Service of its own then, and `state.kubernetes` keeps the state.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`kubernetes`")]
#[schemars(rename = "LiveService", extend("required" = ["service"]))]
pub(crate) struct LiveServiceFile {
    /// Its name; no version's own Service.
    pub(crate) service: Value<ObjectName>,
    /// The key of its selector whose value is the name of the version; pods carry it as a label.
    #[schemars(extend("default" = "version"))]
    pub(crate) selector_key: Value<LabelKey>,
    /// Where it is, and the Services of the versions; the namespace of the state, if left out.
    pub(crate) namespace: Value<ObjectName>,
    /// What becomes of the old version after the bake, when every edge has acknowledged that nothing goes to it.
    #[schemars(extend("default" = "none"))]
    pub(crate) retire: Written<RetireFile>,
}

/// A word, or how far the old version is scaled down.
pub(crate) type RetireFile = Either<Text<RetireWord>, ScaleFile>;

/// How far the old version is scaled down.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`retire`")]
#[schemars(rename = "Scale", extend("required" = ["scale_to"]))]
pub(crate) struct ScaleFile {
    /// So many replicas.
    pub(crate) scale_to: Value<Count>,
}

impl JsonSchema for RetireFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "retire".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let scale = generator.subschema_for::<ScaleFile>();
        json_schema!({
            "anyOf": [{ "const": "none" }, scale],
            "description": "`none` leaves the old version as it is and says on the live Service that it may go; `{ scale_to: 0 }` scales its workload.",
        })
    }
}

/// The port of a version's Service.
pub(crate) type PortFile = Value<ServicePort>;
