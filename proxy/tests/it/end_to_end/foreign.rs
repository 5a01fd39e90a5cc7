//! Somebody else changes the selector of the live Service.

use pointsman_testbed::Cluster;
use serde_json::json;

use super::stage::{Outside, Stage, alone, wait_until_ready};
use super::stories;

stories! {
    a_foreign_change_pauses_names_its_author_and_is_restored,
    a_foreign_change_is_adopted_and_the_traffic_follows,
}

const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";
const SOMEBODY: &str = "somebody-else";

/// An edge whose live Service somebody else has turned to v2.
async fn changed(cluster: Cluster) -> (Stage, [pointsman_chaos::fakes::FakeModel; 2], Outside) {
    let (stage, models) = Stage::new(cluster).await;
    let outside = stage.start(&alone(&stage.cluster, "3s"), PLAN).await;
    wait_until_ready(&outside.edge).await;
    stage.select_as(SOMEBODY, "v2").await;
    let route = outside.edge.wait_for_phase("paused").await;
    let foreign = route["live_service"]["foreign"].as_str().unwrap();
    assert!(foreign.contains(SOMEBODY), "{foreign}");
    assert_eq!(outside.edge.order("resume", json!({})).await.status, 409);
    assert_eq!(outside.edge.version_for("").await, "v1", "traffic stays");
    (stage, models, outside)
}

async fn answer(outside: &Outside, word: &str) {
    let answer = outside.edge.order("resume", json!({ "foreign": word })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

async fn a_foreign_change_pauses_names_its_author_and_is_restored(cluster: Cluster) {
    let (stage, _models, outside) = changed(cluster).await;
    stage.wait_for_selections(&["v1", "v2"]).await;
    answer(&outside, "restore").await;
    stage.wait_for_selected("v1").await;
    outside.edge.wait_for_route("nothing foreign", |route| route["live_service"]["foreign"].is_null()).await;
    wait_until_ready(&outside.edge).await;
    outside.edge.command("promote").await;
    outside.edge.wait_for_phase("baking").await;
    stage.wait_for_selections(&["v1", "v2", "v1", "v2"]).await;
}

async fn a_foreign_change_is_adopted_and_the_traffic_follows(cluster: Cluster) {
    let (stage, _models, outside) = changed(cluster).await;
    answer(&outside, "adopt").await;
    outside.edge.wait_for_phase("baking").await;
    assert_eq!(outside.edge.version_for("").await, "v2");
    stage.wait_for_kept_phase("baking").await;
    stage.wait_for_selections(&["v1", "v2"]).await;
}
