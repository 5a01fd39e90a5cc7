//! Three real edges behind a headless Service, as it publishes them: before they are ready, while they fail, and gone from
//! its slices for a moment.

use std::time::{Duration, SystemTime};

use pointsman_chaos::fakes::api_server::{Deletion, Key, Part, Patch, Resource, Writer};
use serde_json::{Value, json};

use crate::kube::NAMESPACE;
use crate::trio::{PORT, Trio, Ways, all_answered};

/// Waits at 20 % for an order.
const PLAN: &str =
    "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 1h }
    kubernetes: { service: model }";

fn by(who: &str) -> Writer {
    Writer::new(who, SystemTime::now())
}

/// How many other edges the leader sees.
async fn others(trio: &Trio, leader: usize) -> usize {
    trio.replicas(leader).await["replicas"].as_array().unwrap().len()
}

async fn wait_for_others(trio: &Trio, leader: usize, count: usize) {
    for _ in 0..4_000 {
        if others(trio, leader).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {count} others: {:#}", trio.replicas(leader).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_published_and_never_comes_up_holds_up_nobody() {
    let trio = Trio::start(Ways::Service, PLAN).await;
    let store = || trio.cluster.api.store();
    let edges = Key::new(Resource::Service, NAMESPACE, "edges");
    store().edit(&edges, &by("kubectl"), |service| service["spec"]["publishNotReadyAddresses"] = json!(true)).unwrap();
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    trio.wait_for_way_back(leader).await;
    // One more of a rolling update, which fails again and again.
    let address = std::net::SocketAddr::from(([127, 200, 0, 1], PORT));
    trio.cluster.add_labelled_pod("edge-surge", &json!({ "app": "edge" }), address);
    let fails = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    let pod = Key::new(Resource::Pod, NAMESPACE, "edge-surge");
    store().patch(&pod, Part::Status, &Patch::Merge(fails), &by("kubelet")).unwrap();
    let is_no_part = |config: &Value| {
        let others = config["replicas"]["replicas"].as_array().into_iter().flatten();
        others.filter(|one| one["address"] == address.to_string()).any(|one| one["serves"] == false)
    };
    trio.edge(leader).wait_for_config("it is published and not waited for", is_no_part).await;
    trio.wait_for_way_back(leader).await;
    trio.edge(leader).command("promote").await;
    trio.wait_for_phase("baking").await;
    assert_eq!(trio.selections(), ["v1", "v2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_leaves_the_slices_for_a_moment_is_counted_once() {
    let trio = Trio::start(Ways::Service, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let flapping = trio.followers_of(leader)[0];
    let name = format!("edge-{flapping}");
    let load = trio.load(flapping, 200);
    for _ in 0..5 {
        let at_once = Deletion { grace: Some(Duration::ZERO), ..Deletion::default() };
        let pod = Key::new(Resource::Pod, NAMESPACE, &name);
        trio.cluster.api.store().delete(&pod, &at_once, &by("test")).unwrap();
        wait_for_others(&trio, leader, 1).await;
        trio.cluster.add_labelled_pod(&name, &json!({ "app": "edge" }), trio.places[flapping].address);
        wait_for_others(&trio, leader, 2).await;
        trio.wait_for_way_back(leader).await;
    }
    let counted = all_answered(load).await;
    let sums = |route: &Value| {
        let summary = &route["analysis"]["summary"];
        ["stable", "canary"].map(|side| summary[side]["requests"].as_u64().unwrap_or_default())
    };
    let all = |route: &Value| sums(route).iter().sum::<u64>() >= counted.iter().sum();
    let route = trio.edge(leader).wait_for_route(&format!("all of {counted:?}"), all).await;
    assert_eq!(sums(&route), counted);
}
