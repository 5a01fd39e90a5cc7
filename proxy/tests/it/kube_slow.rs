//! The real binary where an API server answers some things and others late, or never: what is not known moves nothing.

use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fakes::api_server::{Effect, Resource, Rule, Verb};

use crate::kube::{Cluster, eventually};
use crate::process::Edge;

const STATE: &str = "{ kubernetes: { namespace: default } }";
/// Waits for `pointsman promote`; the live Service follows.
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";
/// By this the slices of the live Service are asked for.
const LIVE_SLICES: &str = "kubernetes.io/service-name=model";

/// A cluster with a pod of each version, and the edge on it once going back is proven.
async fn ready() -> (Cluster, [FakeModel; 2], Edge) {
    let cluster = Cluster::new().await;
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let edge = cluster.start(STATE, PLAN).await;
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.wait_for_route("both versions up", |route| {
        ["v1", "v2"].iter().all(|version| route["versions"][version]["endpoints"][0]["state"] == "up")
    })
    .await;
    (cluster, models, edge)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_in_a_bake_takes_nothing_back_for_slices_that_it_has_not_heard() {
    let (cluster, _models, edge) = ready().await;
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
