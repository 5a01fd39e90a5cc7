//! The real binary where an API server answers some things and others late, or never: what is not known moves nothing, and
//! what was wrong is over once it is.

use std::time::SystemTime;

use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fakes::api_server::{Effect, Key, Part, Refusal, Resource, Rule, Verb, Writer};
use serde_json::{Value, json};

use crate::kube::{Cluster, LIVE, NAMESPACE, eventually};
use crate::process::Edge;

const STATE: &str = "{ kubernetes: { namespace: default } }";
/// Waits for `pointsman promote`; the live Service follows.
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";
/// By this the slices of the live Service are asked for.
const LIVE_SLICES: &str = "kubernetes.io/service-name=model";

/// A cluster with a pod of each version, and the edge on it once going back is proven.
async fn ready(plan: &str) -> (Cluster, [FakeModel; 2], Edge) {
    let cluster = Cluster::new().await;
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let edge = cluster.start(STATE, plan).await;
    wait_until_ready(&edge).await;
    (cluster, models, edge)
}

/// Somebody edits an object.
fn edit(cluster: &Cluster, object: &Key, change: impl FnOnce(&mut Value)) {
    cluster.api.store().edit(object, &Writer::new("ada", SystemTime::now()), change).unwrap();
}

async fn wait_until_ready(edge: &Edge) {
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.wait_for_route("both versions up", |route| {
        ["v1", "v2"].iter().all(|version| route["versions"][version]["endpoints"][0]["state"] == "up")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_in_a_bake_takes_nothing_back_for_slices_that_it_has_not_heard() {
    let (cluster, _models, edge) = ready(PLAN).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    edge.kill_9();
    let unheard = Rule::on(Verb::List, Resource::EndpointSlice).labelled(LIVE_SLICES);
    let unheard = cluster.api.faults().add(unheard, Effect::Hang);
    let edge = cluster.start_again().await;
    edge.wait_for_phase("baking").await;
    eventually("they were asked for", || cluster.api.faults().met(unheard) > 0).await;
    // Long enough for a Service that is known to be empty.
    let seen = edge.wait_for_route("two seconds", |route| {
        route["phase"] != "baking" || route["since_s"].as_f64() > Some(4.0) && route["live_service"]["selected"] == "v2"
    });
    assert_eq!(seen.await["phase"], "baking");
    assert_eq!((cluster.selected(), edge.version_for("").await), ("v2".to_owned(), "v2".to_owned()));
    cluster.api.faults().clear();
    edge.wait_for_route("its slices", |route| route["live_service"]["ready"] == 1).await;
    assert_eq!(edge.route().await["phase"], "baking");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_is_not_ready_before_it_has_heard_where_its_route_stands() {
    let (cluster, _models, edge) = ready(&PLAN.replace("1h", "1s")).await;
    edge.command("promote").await;
    edge.wait_for_phase("steady").await;
    let kept = || cluster.live()["metadata"]["annotations"]["pointsman.dev/state"].as_str().unwrap().to_owned();
    eventually("it is kept", || kept().contains(r#""name":"steady""#)).await;
    edge.kill_9();
    // The old version is gone for good, as after its retirement.
    cluster.delete_pod("one");
    let unheard = cluster.api.faults().add(Rule::on(Verb::List, Resource::Service), Effect::Hang);
    let edge = cluster.start_again().await;
    eventually("it was asked for", || cluster.api.faults().met(unheard) > 0).await;
    edge.wait_for_route("both versions heard of", |route| {
        let [v1, v2] = ["v1", "v2"].map(|version| &route["versions"][version]["endpoints"][0]);
        v1["problem"].as_str().is_some_and(|why| why.contains("no ready endpoint")) && v2["state"] == "up"
    })
    .await;
    assert_eq!(edge.status_of("/readyz").await, 503, "it would answer 503");
    assert_eq!(edge.predict().await.status, 503, "it begins as its file says");
    cluster.api.faults().clear();
    edge.wait_for_phase("steady").await;
    edge.wait_for_route("v2 in production", |route| route["stable"] == "v2").await;
    assert_eq!(edge.status_of("/readyz").await, 200);
    assert_eq!(edge.version_for("").await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_could_not_write_is_no_problem_of_the_follower_that_it_becomes() {
    let (cluster, _models, edge) = ready(PLAN).await;
    let refused = Effect::Refuse(Refusal::server_error(503));
    let patches = Rule::on(Verb::Patch, Resource::Service).named(LIVE).dry_run(false);
    cluster.api.faults().add(patches, refused);
    edge.command("pause").await;
    let has_problem = |config: &Value| config["state"]["problem"].as_str().is_some_and(|why| why.contains("patch"));
    edge.wait_for_config("the problem", has_problem).await;
    // Another one takes the Lease.
    edit(&cluster, &Key::new(Resource::Lease, NAMESPACE, "pointsman"), |lease| {
        lease["spec"]["holderIdentity"] = json!("another");
        lease["spec"]["leaseDurationSeconds"] = json!(3_600);
    });
    edge.wait_for_config("no problem", |config| config["state"]["problem"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_version_is_scaled_down_after_every_build_that_took_its_place() {
    let plan = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1s }
    kubernetes: { service: model, retire: { scale_to: 0 } }";
    let (cluster, _models, edge) = ready(plan).await;
    let labels = json!({ "app": "model", "version": "v1" });
    let template = json!({
        "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "model", "image": "model:1" }] },
    });
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": labels }, "template": template });
    cluster.create(Resource::Deployment, json!({ "metadata": { "name": "model-v1" }, "spec": spec }));
    let deployment = Key::new(Resource::Deployment, NAMESPACE, "model-v1");
    let replicas = || cluster.api.store().get(&deployment).unwrap()["spec"]["replicas"].clone();
    edge.command("promote").await;
    eventually("it is scaled down", || replicas() == 0).await;

    edit(&cluster, &deployment, |deployment| deployment["spec"]["replicas"] = json!(2));
    let path = cluster.folder.path().join("pointsman.yaml");
    let edited = std::fs::read_to_string(&path).unwrap().replace("revision: r1", "revision: r2");
    std::fs::write(&path, edited).unwrap();
    edge.wait_for_phase("warming").await;
    eventually("the selector is home", || cluster.selected() == "v1").await;
    wait_until_ready(&edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("steady").await;
    eventually("it is scaled down again", || replicas() == 0).await;
    let scaled = cluster.api.journal().into_iter().filter(|asked| {
        asked.verb == Verb::Patch && asked.target.resource == Resource::Deployment && asked.target.part == Part::Scale
    });
    assert_eq!(scaled.count(), 2);
}
