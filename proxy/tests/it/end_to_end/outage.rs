//! The API server is out of reach.

use pointsman_chaos::fault::Faults;
use pointsman_testbed::Cluster;

use super::stage::{Stage, alone, load, wait_until_ready};
use super::stories;

stories! {
    without_its_api_server_an_edge_serves_on_takes_a_canary_back_and_says_so_later,
    an_edge_cut_off_makes_up_for_what_it_missed,
}

const ALL_V1: &str = "weights: { v1: 100%, v2: 0% }
    kubernetes: { service: model }";
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }";

async fn without_its_api_server_an_edge_serves_on_takes_a_canary_back_and_says_so_later(cluster: Cluster) {
    let (stage, [_first, canary]) = Stage::new(cluster).await;
    let outside = stage.start(&alone(&stage.cluster, "3s"), PLAN).await;
    let edge = &outside.edge;
    wait_until_ready(edge).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    stage.wait_for_kept_phase("baking").await;

    outside.way.link.cut(true);
    edge.wait_for_log("the API server is not heard").await;
    edge.wait_for_metric("pointsman_leader ", 0.0).await;
    for _ in 0..20 {
        assert_eq!(edge.version_for("").await, "v2");
    }
    let load = load(edge, 200);
    edge.wait_for_route("counted", |route| route["versions"]["v2"]["requests"].as_u64() > Some(100)).await;
    canary.set_faults(Faults::none().failing(1.0, 500).unwrap());
    edge.wait_for_weight(0.0).await;
    load.stop();
    load.finish().await.unwrap();
    assert_eq!(edge.version_for("").await, "v1");
    assert_eq!(stage.selected().await, "v2", "nobody can write");

    outside.way.link.cut(false);
    stage.wait_for_selected("v1").await;
    edge.wait_for_phase("rolled_back").await;
    stage.wait_for_kept_phase("rolled_back").await;
    stage.wait_for_selections(&["v1", "v2", "v1"]).await;
}

async fn an_edge_cut_off_makes_up_for_what_it_missed(cluster: Cluster) {
    let (stage, [first, _canary]) = Stage::new(cluster).await;
    let outside = stage.start(&alone(&stage.cluster, "3s"), ALL_V1).await;
    let edge = &outside.edge;
    edge.wait_for_route("v1 up", |route| route["versions"]["v1"]["endpoints"][0]["state"] == "up").await;
    outside.way.link.cut(true);
    edge.wait_for_log("the API server is not heard").await;
    let second = stage.add_pod("three", "v1").await;
    stage.cluster.remove_pod("one").await;
    for _ in 0..20 {
        assert_eq!(edge.predict().await.status, 200);
    }
    assert_eq!(second.predictions(), 0);
    outside.way.link.cut(false);
    let is_second = |route: &serde_json::Value| {
        let endpoints = route["versions"]["v1"]["endpoints"].as_array().unwrap();
        endpoints.len() == 1 && endpoints[0]["address"].as_str().unwrap().contains(&second.addr().to_string())
    };
    edge.wait_for_route("the second alone", is_second).await;
    edge.wait_for_route("up", |route| route["versions"]["v1"]["endpoints"][0]["state"] == "up").await;
    let before = first.predictions();
    assert_eq!(edge.predict().await.status, 200);
    assert_eq!((first.predictions(), second.predictions()), (before, 1));
}
