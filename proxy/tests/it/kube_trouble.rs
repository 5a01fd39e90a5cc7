//! What the real binary says when something in the cluster is not as it should be: which thing, where, and the way out.

use std::process::Command;

use pointsman_chaos::fakes::FakeModel;
use serde_json::{Value, json};

use crate::kube::{Cluster, NAMESPACE};
use crate::process::{self, Edge};

const STATE: &str = "{ kubernetes: { namespace: default } }";
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";

async fn cluster_with_pods() -> (Cluster, [FakeModel; 2]) {
    let cluster = Cluster::new().await;
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    (cluster, models)
}

/// What `pointsman status` says, on one line.
async fn status(edge: &Edge) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(["status", "model", "--admin", &format!("http://{}", edge.admin)]).env("NO_COLOR", "1");
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits for a problem of the state, and checks that `pointsman status` shows all of `words`, and the log the first.
async fn check(edge: &Edge, words: &[&str]) {
    let first = words.first().unwrap();
    let is_told = |config: &Value| config["state"]["problem"].as_str().is_some_and(|problem| problem.contains(first));
    edge.wait_for_config(first, is_told).await;
    let said = status(edge).await;
    for words in words {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(!edge.log().contains("kube_runtime"), "{}", edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_the_edge_is_not_ready_until_one_has_said_where_versions_run() {
    let (mut cluster, _models) = cluster_with_pods().await;
    cluster.api.stop().await;
    let edge = cluster.start(STATE, PLAN).await;
    check(
        &edge,
        &[
            "the Lease cannot be kept, and nobody is promoted while nobody leads: the API server cannot be reached for `get Lease pointsman`",
            "model was not seen yet; the Service default/model was never seen: the API server cannot be reached for `list Service default/model`",
            "look at the address in KUBECONFIG, or at what the pod may reach (NetworkPolicy)",
            "v1 model-v1:http is unresolved: the API server cannot be reached for `list endpoints of default/model-v1`",
        ],
    )
    .await;
    assert_eq!((edge.status_of("/readyz").await, edge.status_of("/livez").await), (503, 200));
    assert!(edge.text("/readyz").await.contains("the API server has not said yet where versions run"));

    cluster.api.restart().await.unwrap();
    edge.wait_for_route("v1 up", |route| route["versions"]["v1"]["endpoints"][0]["state"] == "up").await;
    edge.wait_until_ready().await;
    edge.wait_for_route("all of it heard", |route| route["rollback_ready"]["ready"] == true).await;
    cluster.api.stop().await;
    assert_eq!(edge.status_of("/readyz").await, 200, "it serves on");
    let shown =
        |route: &Value| route["live_service"]["problem"].as_str().unwrap_or_default().contains("as it was last seen");
    edge.wait_for_route("that it is lost", shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_right_the_edge_names_what_it_may_not_and_is_not_ready() {
    let (cluster, _models) = cluster_with_pods().await;
    cluster.api.access().restrict("pointsman", Vec::new());
    let edge = cluster.start(STATE, PLAN).await;
    check(
        &edge,
        &[
            "the API server forbids `get Lease pointsman`",
            "the API server forbids `list Service default/model`",
            "the API server forbids `list endpoints of default/model-v1`",
            "User \"pointsman\" cannot list resource \"endpointslices\"",
            "grant it to the service account of Pointsman (Role in `manifests/`)",
        ],
    )
    .await;
    assert_eq!(edge.status_of("/readyz").await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_wrong_namespace_the_edge_says_what_it_does_not_find_there() {
    let (cluster, _models) = cluster_with_pods().await;
    let edge = cluster.start("{ kubernetes: { namespace: elsewhere } }", PLAN).await;
    check(
        &edge,
        &[
            "there is no Service elsewhere/model; create it, or correct its name in the config file",
            "namespaces \"elsewhere\" not found; create it, or correct its name in the config file",
            "`kubectl -n elsewhere get endpointslices -l kubernetes.io/service-name=model-v1` shows them",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_service_that_is_not_there_is_named_and_found_when_it_comes() {
    let (cluster, _models) = cluster_with_pods().await;
    let edge = cluster.start(STATE, &PLAN.replace("service: model", "service: shop")).await;
    check(&edge, &["there is no Service default/shop; create it", "shop was not seen yet"]).await;
    assert_eq!(edge.predict().await.status, 200, "traffic needs no live Service");
    cluster.add_service("shop", "v1");
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    assert_eq!(edge.config().await["state"]["problem"], Value::Null);
}

/// Who is asked about it is told whose Service it is and what the two answers would do.
#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_names_no_version_pauses_and_says_what_it_selects() {
    let (cluster, _models) = cluster_with_pods().await;
    cluster.edit_live("kubectl-edit", |live| live["spec"]["selector"] = json!({ "app": "other" }));
    let edge = cluster.start(STATE, PLAN).await;
    edge.wait_for_phase("paused").await;
    let said = status(&edge).await;
    for words in [
        "service model selects nothing by `version`; its slices do not agree yet, 0 ready",
        "`pointsman resume model --adopt` goes on from there, `--restore` puts it back",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert_eq!(edge.order("promote", json!({})).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_in_place_is_refused_and_says_how_a_new_binary_comes() {
    let cluster = Cluster::new().await;
    cluster.write(STATE, PLAN);
    let kubeconfig = cluster.folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.api.kubeconfig("pointsman", NAMESPACE)).unwrap();
    let mut command = process::command(&cluster.folder.path().join("pointsman.yaml"));
    command.env("KUBECONFIG", kubeconfig).arg("--upgrade");
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("`kubectl rollout restart deployment/pointsman`"), "{said}");
}

/// Whatever somebody writes there by hand: traffic stays, it is told, and `--restore` puts it right.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_annotations_stops_the_rollout_until_it_is_restored() {
    let (cluster, _models) = cluster_with_pods().await;
    let edge = cluster.start(STATE, PLAN).await;
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    for (name, text, words) in [
        ("state", "hello".to_owned(), "it is not what Pointsman writes"),
        ("state", "[".repeat(100_000), "recursion limit"),
        ("state", "x".repeat(200_000), "it is not what Pointsman writes"),
        ("state", "{\"format\":99}".to_owned(), "it has format 99"),
        ("state", String::new(), "EOF"),
        ("fence", format!("{}/x", u64::MAX), "is no fence"),
        ("fence", String::new(), "is no fence"),
    ] {
        cluster.edit_live("kubectl-edit", |live| {
            live["metadata"]["annotations"][format!("pointsman.dev/{name}")] = json!(text);
        });
        let told = |route: &Value| route["live_service"]["foreign"].as_str().is_some_and(|told| told.contains(words));
        let route = edge.wait_for_route(words, told).await;
        assert!(route["live_service"]["foreign"].as_str().unwrap().contains("kubectl-edit"), "{route:#}");
        edge.wait_for_phase("paused").await;
        assert_eq!(edge.version_for("").await, "v1");
        let answer = edge.order("resume", json!({ "foreign": "restore" })).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        edge.wait_for_route("restored", |route| route["live_service"]["foreign"].is_null()).await;
    }
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    assert_eq!(cluster.selected(), "v2");
}
