//! The size of a Deployment, read and set apart from the rest of it.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::cluster::{Cluster, refusal, version_of};
use super::contract;

contract! {
    a_deployment_is_scaled,
    a_scale_below_nothing_is_invalid,
}

async fn made(cluster: &Cluster) -> Deployment {
    let labels = json!({ "app": "model", "version": "v1" });
    let deployment = json!({
        "metadata": { "name": "v1" },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "model", "image": "model.invalid/none:1" }] },
            },
        },
    });
    cluster.create(deployment).await.unwrap()
}

async fn a_deployment_is_scaled(cluster: Cluster) {
    let deployments = cluster.api::<Deployment>();
    let before = made(&cluster).await;
    assert_eq!(before.metadata.generation, Some(1));
    let scale = deployments.get_scale("v1").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas.unwrap_or(0), 0);
    let status = scale.status.unwrap();
    let mut selector: Vec<String> = status.selector.unwrap().split(',').map(str::to_owned).collect();
    selector.sort();
    assert_eq!(selector, ["app=model", "version=v1"]);
    let fields = json!({ "spec": { "replicas": 2 } });
    let scaled = deployments.patch_scale("v1", &PatchParams::default(), &Patch::Merge(fields)).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(2));
    let after = deployments.get("v1").await.unwrap();
    assert_eq!((after.spec.as_ref().unwrap().replicas, after.metadata.generation), (Some(2), Some(2)));
    assert_ne!(version_of(&after), version_of(&before));
}

async fn a_scale_below_nothing_is_invalid(cluster: Cluster) {
    made(&cluster).await;
    let fields = json!({ "spec": { "replicas": -1 } });
    let refused = cluster.api::<Deployment>().patch_scale("v1", &PatchParams::default(), &Patch::Merge(fields)).await;
    assert_eq!(refusal(refused).code, 422);
}
