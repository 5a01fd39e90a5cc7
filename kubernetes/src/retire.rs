//! What becomes of the old version once the bake is over and every replica agrees: its Deployment is scaled to a set size.
//!
//! Whether it is free to go is not decided here. A version that is only to be marked gets its mark with the state of the
//! live Service ([`crate::annotation::RETIRED`]).

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::client::Cluster;
use crate::error::CallError;
use crate::live_service::FIELD_MANAGER;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// It was scaled down from so many replicas.
    From(i32),
    /// It had no more than it shall have; nothing was done.
    SmallAlready,
}

/// Scales the Deployment `name` in `namespace` down to `replicas`, never up. If its size or anything else of it was changed
/// meanwhile, nothing is done. Needs `get` and `patch` on `deployments/scale`.
///
/// # Errors
/// If a call failed, or somebody else was faster ([`CallError::Conflict`]); try again. Within the deadline of two calls.
pub async fn scale_down(cluster: &Cluster, namespace: &str, name: &str, replicas: i32) -> Result<Retired, CallError> {
    let deployments: Api<Deployment> = cluster.api(namespace);
    let what = format!("scale of Deployment {namespace}/{name}");
    let scale = cluster.call(&format!("get {what}"), Box::pin(deployments.get_scale(name))).await?;
    let present = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    if present <= replicas {
        return Ok(Retired::SmallAlready);
    }
    let operations = document(scale.metadata.resource_version.as_deref(), present, replicas);
    let call = format!("patch {what}");
    let patch = serde_json::from_value(operations)
        .map(Patch::Json::<()>)
        .map_err(|error| CallError::Unreadable { call: call.clone(), reason: error.to_string() })?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let asked = Box::pin(deployments.patch_scale(name, &params, &patch));
    match cluster.call(&call, asked).await {
        Ok(_) => Ok(Retired::From(present)),
        Err(CallError::Refused { call, status: 422, reason }) => Err(CallError::Conflict { call, reason }),
        Err(error) => Err(error),
    }
}

/// The JSON Patch that goes from `present` to `replicas` on one writing of the scale, and on no other.
fn document(version: Option<&str>, present: i32, replicas: i32) -> Value {
    json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": version },
        { "op": "test", "path": "/spec/replicas", "value": present },
        { "op": "replace", "path": "/spec/replicas", "value": replicas },
    ])
}
