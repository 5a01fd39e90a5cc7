//! The real binary moves a live Service: after the traffic, never ahead of it, and never over somebody else's change.

use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fakes::api_server::{Effect, Key, Part, Refusal, Resource, Rule, Selection, Verb, Writer};
use serde_json::{Value, json};

use crate::kube::{Cluster, LIVE, NAMESPACE, eventually};
use crate::process::Edge;

const STATE: &str = "{ kubernetes: { namespace: default } }";
/// Waits for `pointsman promote`; the live Service follows.
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";

/// A cluster with a pod of each version, and the edge on it once going back is proven.
async fn ready(plan: &str) -> (Cluster, [FakeModel; 2], Edge) {
    let cluster = Cluster::new().await;
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let edge = cluster.start(STATE, plan).await;
    wait_until_ready(&edge).await;
    (cluster, models, edge)
}

async fn wait_until_ready(edge: &Edge) {
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.wait_for_route("both versions up", |route| {
        ["v1", "v2"].iter().all(|version| route["versions"][version]["endpoints"][0]["state"] == "up")
    })
    .await;
}

fn annotation(cluster: &Cluster) -> Value {
    let text = cluster.live()["metadata"]["annotations"]["pointsman.dev/state"].as_str().unwrap().to_owned();
    serde_json::from_str(&text).unwrap()
}

/// What the Kubernetes Events tell of, in a word each.
fn reasons_of_events(cluster: &Cluster) -> Vec<String> {
    let events = cluster.api.store().all(&Selection::all(Resource::Event, Some(NAMESPACE)));
    events.iter().filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_moves_the_weights_then_the_selector_and_tells_the_story() {
    let (cluster, _models, edge) = ready(PLAN).await;
    assert_eq!(cluster.selected(), "v1");
    let expected = edge.route().await["rollback_ready"]["expected_ms"].as_f64().unwrap();
    assert!(expected > 0.0);
    edge.wait_for_metric("pointsman_rollback_ready{route=\"model\"} ", 1.0).await;

    edge.command("promote").await;
    let route = edge.wait_for_phase("baking").await;
    assert_eq!(cluster.selected(), "v2");
    assert_eq!(route["live_service"]["selected"], "v2");
    assert_eq!(route["live_service"]["agreed"], true);
    assert_eq!(edge.version_for("").await, "v2");

    let decided: Vec<String> = edge.history().await.into_iter().map(|(_, decision, _)| decision).collect();
    assert_eq!(decided, ["start", "promote", "flip", "bake"]);
    eventually("the annotation says so", || annotation(&cluster)["saved"]["phase"]["name"] == "baking").await;
    eventually("the Events tell of it", || reasons_of_events(&cluster).contains(&"Bake".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_selector_cannot_be_moved_the_traffic_has_moved_and_a_rollback_waits_for_nobody() {
    let (cluster, _models, edge) = ready(PLAN).await;
    let refused = Effect::Refuse(Refusal::server_error(503));
    let patches = || Rule::on(Verb::Patch, Resource::Service).named(LIVE).dry_run(false);
    let rule = cluster.api.faults().add(patches(), refused.clone());
    edge.command("promote").await;
    edge.wait_for_weight(100.0).await;
    edge.wait_for_route("flip", |route| route["phase"] == "promoting").await;
    eventually("it is tried", || cluster.api.faults().met(rule) > 0).await;
    assert_eq!(cluster.selected(), "v1", "nobody moved it");
    let problem = |config: &Value| config["state"]["problem"].as_str().is_some_and(|why| why.contains("503"));
    edge.wait_for_config("the problem", problem).await;

    edge.command("rollback").await;
    edge.wait_for_weight(0.0).await;
    assert_eq!(edge.version_for("").await, "v1");
    cluster.api.faults().clear();
    edge.wait_for_phase("rolled_back").await;
    assert_eq!(cluster.selected(), "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_from_the_bake_moves_weights_and_then_the_selector_back() {
    let (cluster, _models, edge) = ready(PLAN).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    assert_eq!(cluster.selected(), "v1");
    assert_eq!(edge.version_for("").await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_change_pauses_says_who_and_waits_for_an_answer() {
    let (cluster, _models, edge) = ready(PLAN).await;
    cluster.edit_live("kubectl-edit", |live| live["spec"]["selector"]["version"] = json!("v2"));
    let route = edge.wait_for_phase("paused").await;
    let foreign = route["live_service"]["foreign"].as_str().unwrap();
    assert!(foreign.contains("kubectl-edit"), "{foreign}");
    assert_eq!(edge.order("resume", json!({})).await.status, 409);
    assert_eq!(cluster.selected(), "v2", "nobody fights over it");
    assert_eq!(edge.version_for("").await, "v1", "and traffic stays");

    let answer = edge.order("resume", json!({ "foreign": "restore" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    eventually("it is as it was", || cluster.selected() == "v1").await;
    edge.wait_for_route("nothing foreign", |route| route["live_service"]["foreign"].is_null()).await;
    wait_until_ready(&edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    assert_eq!(cluster.selected(), "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_change_is_followed_by_the_traffic() {
    let (cluster, _models, edge) = ready(PLAN).await;
    cluster.edit_live("kubectl-edit", |live| live["spec"]["selector"]["version"] = json!("v2"));
    edge.wait_for_phase("paused").await;
    let answer = edge.order("resume", json!({ "foreign": "adopt" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    edge.wait_for_phase("baking").await;
    assert_eq!(cluster.selected(), "v2");
    assert_eq!(edge.version_for("").await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_api_server_stops_no_traffic_and_the_rollout_goes_on_when_it_is_back() {
    let (mut cluster, _models, edge) = ready(PLAN).await;
    cluster.api.stop().await;
    edge.wait_for_log("the API server is not heard").await;
    for _ in 0..10 {
        assert_eq!(edge.predict().await.status, 200);
    }
    cluster.api.restart().await.unwrap();
    wait_until_ready(&edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    assert_eq!(cluster.selected(), "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_timed_out_and_lands_late_is_put_right() {
    let (cluster, _models, edge) = ready(PLAN).await;
    let late = Effect::Late { after: None, answer: None };
    let rule = Rule::on(Verb::Patch, Resource::Service).named(LIVE).dry_run(false).times(1);
    let rule = cluster.api.faults().add(rule, late);
    edge.command("promote").await;
    edge.wait_for_weight(100.0).await;
    eventually("it is on its way", || cluster.api.faults().met(rule) > 0).await;
    edge.command("rollback").await;
    edge.wait_for_weight(0.0).await;
    edge.wait_for_phase("rolled_back").await;
    cluster.api.land();
    edge.wait_for_route("all as it was", |route| route["live_service"]["selected"] == "v1").await;
    assert_eq!(cluster.selected(), "v1");
    eventually("the annotation is the last word", || annotation(&cluster)["saved"]["phase"]["name"] == "rolled_back")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_anew_goes_on_from_what_stands_on_the_live_service() {
    let (cluster, _models, mut edge) = ready(PLAN).await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    eventually("it stands there", || annotation(&cluster)["saved"]["phase"]["name"] == "rolled_back").await;
    let before = edge.history().await;
    edge.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(edge.ended().await.success());

    let edge = cluster.start_again().await;
    let route = edge.wait_for_phase("rolled_back").await;
    assert_eq!(route["quarantined"][0]["version"], "v2");
    assert_eq!(edge.history().await, before);
    assert_eq!(edge.version_for("").await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_service_that_is_empty_after_the_flip_goes_back() {
    let (cluster, _models, edge) = ready(PLAN).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    // The pod of v2 loses a label that the live Service selects by as well; the Service of v2 still finds it.
    let key = Key::new(Resource::Service, NAMESPACE, "model-v2");
    let by = Writer::new("test", std::time::SystemTime::now());
    cluster.api.store().edit(&key, &by, |service| service["spec"]["selector"] = json!({ "pod": "two" })).unwrap();
    let pod = Key::new(Resource::Pod, NAMESPACE, "two");
    cluster
        .api
        .store()
        .edit(&pod, &by, |pod| pod["metadata"]["labels"] = json!({ "app": "other", "version": "v2", "pod": "two" }))
        .unwrap();
    edge.wait_for_phase("rolled_back").await;
    assert_eq!(cluster.selected(), "v1");
    let why = edge.history().await.into_iter().map(|(_, _, sentence)| sentence).collect::<Vec<_>>().join("\n");
    assert!(why.contains("no ready endpoint"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_takes_the_lead_goes_on_from_what_the_one_before_wrote_last() {
    let (cluster, _models, mut first) = ready(PLAN).await;
    let second = cluster.start_again().await;
    second.wait_for_phase("warming").await;
    first.command("promote").await;
    first.wait_for_phase("baking").await;
    eventually("it stands there", || annotation(&cluster)["saved"]["phase"]["name"] == "baking").await;
    first.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(first.ended().await.success());

    second.wait_for_phase("baking").await;
    second.wait_for_weight(100.0).await;
    assert_eq!(cluster.selected(), "v2");
    assert_eq!(second.version_for("").await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_that_somebody_removes_before_the_first_flip_stop_the_rollout() {
    let (cluster, _models, edge) = ready(PLAN).await;
    eventually("it is claimed", || cluster.live()["metadata"]["annotations"]["pointsman.dev/state"].is_string()).await;
    cluster.edit_live("kubectl-edit", |live| live["metadata"]["annotations"] = json!({}));
    let route = edge.wait_for_phase("paused").await;
    let foreign = route["live_service"]["foreign"].as_str().unwrap();
    assert!(foreign.contains("were removed"), "{foreign}");
    assert_eq!(cluster.selected(), "v1");
    let answer = edge.order("resume", json!({ "foreign": "restore" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    edge.wait_for_route("nothing foreign", |route| route["live_service"]["foreign"].is_null()).await;
    assert_eq!(annotation(&cluster)["saved"]["phase"]["name"], "warming");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_was_marked_before_a_crash_is_scaled_down_after_it() {
    let state = "{ kubernetes: { namespace: default, lease_duration: 3s } }";
    let plan = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1s }
    kubernetes: { service: model, retire: { scale_to: 0 } }";
    let cluster = Cluster::new().await;
    cluster.add_deployment("v1");
    let _models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let scales = Rule::on(Verb::Patch, Resource::Deployment).part(Part::Scale);
    let scales = cluster.api.faults().add(scales, Effect::Hang);
    let edge = cluster.start(state, plan).await;
    wait_until_ready(&edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("steady").await;
    eventually("it is to be scaled down", || cluster.api.faults().met(scales) > 0).await;
    assert_eq!(cluster.live()["metadata"]["annotations"]["pointsman.dev/retired"], "v1");
    edge.kill_9();
    assert_eq!(cluster.replicas_of("v1"), 2);
    cluster.api.faults().clear();

    let edge = cluster.start_again().await;
    eventually("it is scaled down", || cluster.replicas_of("v1") == 0).await;
    let route = edge.wait_for_phase("steady").await;
    assert_eq!((&route["stable"], cluster.selected().as_str()), (&json!("v2"), "v2"));
    assert_eq!(edge.version_for("").await, "v2");

    eventually("that is noted", || annotation(&cluster)["scaled"]["version"] == "v1").await;
    let patched = || {
        let asked = cluster.api.journal().into_iter().filter(|asked| asked.verb == Verb::Patch);
        asked.filter(|asked| asked.target.resource == Resource::Deployment && asked.target.part == Part::Scale).count()
    };
    let (before, fence) = (patched(), cluster.live()["metadata"]["annotations"]["pointsman.dev/fence"].clone());
    edge.kill_9();
    cluster.scale("v1", 3);
    let edge = cluster.start_again().await;
    eventually("it leads", || cluster.live()["metadata"]["annotations"]["pointsman.dev/fence"] != fence).await;
    edge.wait_for_route("all slices agree", |route| route["live_service"]["agreed"] == true).await;
    // Its hand does one thing after the other: what it would have scaled down it has by then.
    edge.command("rollback").await;
    eventually("kept", || annotation(&cluster)["saved"]["phase"]["name"] == "rolled_back").await;
    assert_eq!((cluster.replicas_of("v1"), patched()), (json!(3), before), "it has the size that somebody gave it");
}
