//! Where versions run, as pods come, turn unready, end and go.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DeleteParams;
use pointsman_chaos::fakes::FakeModel;
use pointsman_testbed::Cluster;
use serde_json::{Value, json};

use super::stage::{Stage, alone, pod};
use super::stories;
use crate::process::Edge;

stories! {
    endpoints_come_turn_unready_end_and_go,
    endpoints_stand_in_slices_made_by_hand,
}

const HALVES: &str = "weights: { v1: 50%, v2: 50% }
    kubernetes: { service: model }";
const ALL_V1: &str = "weights: { v1: 100%, v2: 0% }
    kubernetes: { service: model }";

/// Waits until just these models are endpoints of a version that take requests.
async fn wait_for_endpoints(edge: &Edge, version: &str, models: &[&FakeModel]) {
    let mut expected: Vec<_> = models.iter().map(|model| model.addr().to_string()).collect();
    expected.sort_unstable();
    let is_up = |route: &Value| {
        let all = route["versions"][version]["endpoints"].as_array().unwrap().iter();
        let up = all.filter(|endpoint| endpoint["state"] == "up").filter_map(|endpoint| endpoint["address"].as_str());
        let mut up: Vec<_> = up.map(|text| text.rsplit_once('(').unwrap().1.trim_end_matches(')').to_owned()).collect();
        up.sort_unstable();
        up == expected
    };
    edge.wait_for_route(&format!("{version} at {expected:?}"), is_up).await;
}

async fn check_served(edge: &Edge) {
    for _ in 0..20 {
        assert_eq!(edge.predict().await.status, 200);
    }
}

async fn endpoints_come_turn_unready_end_and_go(cluster: Cluster) {
    let (stage, [first, canary]) = Stage::new(cluster).await;
    let outside = stage.start(&alone(&stage.cluster, "3s"), HALVES).await;
    let edge = &outside.edge;
    wait_for_endpoints(edge, "v1", &[&first]).await;
    wait_for_endpoints(edge, "v2", &[&canary]).await;
    edge.wait_for_weight(50.0).await;

    let second = stage.add_pod("three", "v1").await;
    wait_for_endpoints(edge, "v1", &[&first, &second]).await;
    stage.cluster.set_pod(&pod("one", "v1", first.addr()), false).await;
    wait_for_endpoints(edge, "v1", &[&second]).await;
    stage.cluster.set_pod(&pod("one", "v1", first.addr()), true).await;
    wait_for_endpoints(edge, "v1", &[&first, &second]).await;

    // One that ends gets nothing more while another is ready, and everything once none is.
    stage.cluster.end_pod("one").await;
    wait_for_endpoints(edge, "v1", &[&second]).await;
    stage.cluster.end_pod("three").await;
    wait_for_endpoints(edge, "v1", &[&first, &second]).await;
    check_served(edge).await;
    stage.cluster.remove_pod("one").await;
    wait_for_endpoints(edge, "v1", &[&second]).await;
    check_served(edge).await;

    stage.cluster.remove_pod("two").await;
    edge.wait_for_weight(0.0).await;
    assert_eq!(edge.version_for("").await, "v1");
}

/// Endpoints that no pod stands behind.
fn slice(name: &str, service: &str, models: &[&FakeModel]) -> Value {
    let endpoints: Vec<Value> = models
        .iter()
        .map(|model| json!({ "addresses": [model.addr().ip()], "conditions": { "ready": true } }))
        .collect();
    let family = if models[0].addr().is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": family, "endpoints": endpoints,
        "ports": [{ "name": "http", "port": models[0].addr().port(), "protocol": "TCP" }],
    })
}

async fn endpoints_stand_in_slices_made_by_hand(cluster: Cluster) {
    let stage = Stage::empty(cluster).await;
    let services = stage.cluster.api::<Service>();
    services.delete("model-v1", &DeleteParams::default()).await.unwrap();
    let spec = json!({ "ports": [{ "name": "http", "port": 80 }] });
    stage.cluster.create::<Service>(json!({ "metadata": { "name": "model-v1" }, "spec": spec })).await.unwrap();
    let [first, second] = [stage.model("v1").await, stage.model("v1").await];
    stage.cluster.create::<EndpointSlice>(slice("a", "model-v1", &[&first])).await.unwrap();

    let outside = stage.start(&alone(&stage.cluster, "3s"), ALL_V1).await;
    let edge = &outside.edge;
    wait_for_endpoints(edge, "v1", &[&first]).await;
    stage.cluster.create::<EndpointSlice>(slice("b", "model-v1", &[&second])).await.unwrap();
    wait_for_endpoints(edge, "v1", &[&first, &second]).await;
    stage.cluster.api::<EndpointSlice>().delete("a", &DeleteParams::default()).await.unwrap();
    wait_for_endpoints(edge, "v1", &[&second]).await;
    check_served(edge).await;
}
