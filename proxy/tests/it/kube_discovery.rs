//! The real binary finds endpoints through an API server.

use pointsman_chaos::fakes::FakeModel;
use serde_json::Value;

use crate::kube::Cluster;
use crate::process::Edge;

const FILE: &str = "{ file: state.db }";

/// The states of the endpoints of a version that the edge knows, by address.
fn endpoints(route: &Value, version: &str) -> Vec<(String, String)> {
    let endpoints = route["versions"][version]["endpoints"].as_array().unwrap();
    let text = |endpoint: &Value, key: &str| endpoint[key].as_str().unwrap().to_owned();
    endpoints.iter().map(|endpoint| (text(endpoint, "address"), text(endpoint, "state"))).collect()
}

/// Waits until just these models are known as endpoints of a version, and up.
async fn wait_for_endpoints(edge: &Edge, version: &str, models: &[&FakeModel]) {
    let mut addresses: Vec<_> = models.iter().map(|model| model.addr()).collect();
    addresses.sort_unstable();
    let up = |address| (format!("model-{version}:http ({address})"), "up".to_owned());
    let expected: Vec<_> = addresses.into_iter().map(up).collect();
    edge.wait_for_route(&format!("{version} at {expected:?}"), |route| endpoints(route, version) == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_come_and_go_are_endpoints_that_come_and_go() {
    let cluster = Cluster::new().await;
    let first = cluster.add_pod("one", "v1").await;
    let canary = cluster.add_pod("canary", "v2").await;
    let edge = cluster.start(FILE, "weights: { v1: 50%, v2: 50% }").await;
    wait_for_endpoints(&edge, "v1", &[&first]).await;
    wait_for_endpoints(&edge, "v2", &[&canary]).await;
    edge.wait_for_weight(50.0).await;

    let second = cluster.add_pod("two", "v1").await;
    wait_for_endpoints(&edge, "v1", &[&first, &second]).await;
    cluster.delete_pod("one");
    wait_for_endpoints(&edge, "v1", &[&second]).await;
    for _ in 0..20 {
        assert_eq!(edge.predict().await.status, 200);
    }
    assert!(canary.predictions() + second.predictions() >= 20);

    cluster.delete_pod("canary");
    edge.wait_for_weight(0.0).await;
    assert_eq!(edge.version_for("").await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_api_server_changes_nothing_and_what_happened_meanwhile_is_made_up_for() {
    let mut cluster = Cluster::new().await;
    let first = cluster.add_pod("one", "v1").await;
    let edge = cluster.start(FILE, "weights: { v1: 100%, v2: 0% }").await;
    wait_for_endpoints(&edge, "v1", &[&first]).await;

    cluster.api.stop().await;
    edge.wait_for_log("the API server is not heard").await;
    let second = cluster.add_pod("two", "v1").await;
    for _ in 0..20 {
        assert_eq!(edge.predict().await.status, 200);
    }
    wait_for_endpoints(&edge, "v1", &[&first]).await;

    // Whoever comes back has forgotten what was.
    cluster.api.store().forget_history();
    cluster.api.restart().await.unwrap();
    wait_for_endpoints(&edge, "v1", &[&first, &second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_to_a_port_that_no_slice_has_keeps_what_serves() {
    let cluster = Cluster::new().await;
    let first = cluster.add_pod("one", "v1").await;
    let edge = cluster.start(FILE, "weights: { v1: 100%, v2: 0% }").await;
    wait_for_endpoints(&edge, "v1", &[&first]).await;
    let path = cluster.folder.path().join("pointsman.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("model-v1, port: http", "model-v1, port: web");
    std::fs::write(&path, text).unwrap();
    edge.wait_for_log("have no TCP port `web`").await;
    assert_eq!(edge.predict().await.status, 200);
    assert_eq!(edge.config().await["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_needs_an_api_server_where_there_is_none_is_refused_in_words() {
    let cluster = Cluster::new().await;
    cluster.write(FILE, "weights: { v1: 100%, v2: 0% }");
    let mut command = crate::process::command(&cluster.folder.path().join("pointsman.yaml"));
    let folder = cluster.folder.path();
    command.env_remove("KUBERNETES_SERVICE_HOST").env("KUBECONFIG", folder.join("none")).env("HOME", folder);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("set KUBECONFIG"), "{said}");
}
