//! A canary that fails is taken back, at once and by itself.

use std::time::Instant;

use nix::sys::signal::Signal;
use pointsman_chaos::fault::Faults;
use pointsman_testbed::Cluster;

use super::stage::{Stage, alone, load, wait_until_ready};
use super::stories;
use crate::kube::Cluster as Site;

stories! {
    a_canary_that_fails_is_taken_back_and_the_selector_never_moves,
    a_canary_that_fails_after_the_flip_is_taken_back_and_so_is_the_selector,
}

const CANARY: &str =
    "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 1h }
    kubernetes: { service: model }";
const BLUE_GREEN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";

fn failing() -> Faults {
    Faults::none().failing(1.0, 500).unwrap()
}

async fn a_canary_that_fails_is_taken_back_and_the_selector_never_moves(cluster: Cluster) {
    let (stage, [_first, canary]) = Stage::new(cluster).await;
    let mut outside = stage.start(&alone(&stage.cluster, "3s"), CANARY).await;
    outside.edge.wait_for_weight(20.0).await;
    wait_until_ready(&outside.edge).await;
    let load = load(&outside.edge, 200);
    outside.edge.wait_for_route("counted", |route| route["versions"]["v2"]["requests"].as_u64() > Some(30)).await;
    canary.set_faults(failing());
    let began = Instant::now();
    outside.edge.wait_for_weight(0.0).await;
    eprintln!("taken back {} ms after it began to fail", began.elapsed().as_millis());
    outside.edge.wait_for_phase("rolled_back").await;
    load.stop();
    load.finish().await.unwrap();
    assert_eq!(outside.edge.version_for("").await, "v1");
    stage.wait_for_kept_phase("rolled_back").await;
    stage.wait_for_event("Rollback").await;

    // Whoever starts next reads that it was taken back.
    outside.edge.signal(Signal::SIGTERM);
    assert!(outside.edge.ended().await.success());
    let config = Site::text(&alone(&stage.cluster, "3s"), CANARY);
    let edge = stage.start_by("edge", &outside.way, &config).await;
    let route = edge.wait_for_phase("rolled_back").await;
    assert_eq!(route["quarantined"][0]["version"], "v2");
    assert_eq!(edge.version_for("").await, "v1");
    stage.wait_for_selections(&["v1"]).await;
}

async fn a_canary_that_fails_after_the_flip_is_taken_back_and_so_is_the_selector(cluster: Cluster) {
    let (stage, [_first, canary]) = Stage::new(cluster).await;
    let outside = stage.start(&alone(&stage.cluster, "3s"), BLUE_GREEN).await;
    let edge = &outside.edge;
    wait_until_ready(edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    stage.wait_for_selected("v2").await;
    let load = load(edge, 200);
    edge.wait_for_route("counted", |route| route["versions"]["v2"]["requests"].as_u64() > Some(100)).await;
    canary.set_faults(failing());
    let began = Instant::now();
    edge.wait_for_weight(0.0).await;
    let weights = began.elapsed();
    stage.wait_for_selected("v1").await;
    eprintln!("weights back after {} ms, the selector after {} ms", weights.as_millis(), began.elapsed().as_millis());
    edge.wait_for_phase("rolled_back").await;
    load.stop();
    load.finish().await.unwrap();
    stage.wait_for_kept_phase("rolled_back").await;
    stage.wait_for_selections(&["v1", "v2", "v1"]).await;
}
