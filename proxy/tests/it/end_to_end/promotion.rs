//! A canary becomes what production is.

use k8s_openapi::api::apps::v1::Deployment;
use pointsman_testbed::{Cluster, eventually};
use serde_json::json;

use super::stage::{Stage, alone, load, wait_until_ready};
use super::stories;

stories! {
    a_promotion_moves_weights_then_the_selector_once_bakes_and_retires,
}

/// The selector is held up for a while, so the Lease is long.
const LEASE: &str = "20s";
const PLAN: &str =
    "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1s }], promotion: manual, bake: 1s }
    kubernetes: { service: model, retire: { scale_to: 0 } }";

/// A Deployment whose controller starts nothing.
async fn add_deployment(cluster: &Cluster) {
    let labels = json!({ "app": "workload" });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": { "containers": [{ "name": "model", "image": "model.invalid/none:1" }] },
    });
    let spec = json!({ "replicas": 2, "paused": true, "selector": { "matchLabels": labels }, "template": template });
    cluster.create::<Deployment>(json!({ "metadata": { "name": "model-v1" }, "spec": spec })).await.unwrap();
}

async fn a_promotion_moves_weights_then_the_selector_once_bakes_and_retires(cluster: Cluster) {
    let (stage, [_first, canary]) = Stage::new(cluster).await;
    add_deployment(&stage.cluster).await;
    let outside = stage.start(&alone(&stage.cluster, LEASE), PLAN).await;
    let edge = &outside.edge;
    let load = load(edge, 50);
    edge.wait_for_weight(20.0).await;
    wait_until_ready(edge).await;

    outside.way.link.hold(true);
    edge.command("promote").await;
    edge.wait_for_weight(100.0).await;
    assert_eq!(edge.version_for("").await, "v2");
    assert_eq!(stage.selected().await, "v1", "traffic moves first");
    outside.way.link.hold(false);

    stage.wait_for_selected("v2").await;
    edge.wait_for_route("all slices agree", |route| {
        (&route["live_service"]["selected"], &route["live_service"]["agreed"]) == (&json!("v2"), &json!(true))
    })
    .await;
    let slices = stage.cluster.slices("model").await;
    let addresses: Vec<String> =
        slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).map(|one| one.addresses[0].clone()).collect();
    assert_eq!(addresses, [canary.addr().ip().to_string()]);
    let route = edge.wait_for_phase("steady").await;
    assert_eq!(route["stable"], "v2");

    eventually("the old version is free to go", || async {
        (stage.annotation("retired").await.as_deref() == Some("v1")).then_some(())
    })
    .await;
    eventually("and scaled down", || async {
        let deployment = stage.cluster.api::<Deployment>().get("model-v1").await.unwrap();
        (deployment.spec.unwrap().replicas == Some(0)).then_some(())
    })
    .await;
    let decided: Vec<String> = edge.history().await.into_iter().map(|(_, decision, _)| decision).collect();
    assert_eq!(decided, ["start", "step", "promote", "flip", "bake", "finish"]);
    for reason in ["Promote", "Flip", "Bake", "Finish"] {
        stage.wait_for_event(reason).await;
    }
    stage.wait_for_selections(&["v1", "v2"]).await;
    crate::trio::all_answered(load).await;
}
