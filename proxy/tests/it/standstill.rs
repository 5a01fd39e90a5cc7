//! A process that stands still, as a machine does that is paused: what was under way then was late because of that, and says
//! nothing of any version; what has to last has not lasted while nobody watched.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use pointsman_chaos::fault::Faults;
use pointsman_chaos::load::{Load, Running};
use serde_json::Value;

use crate::process::{Edge, Site};

/// Longer than a request may stay without an answer before it is judged.
const STANDS_STILL: Duration = Duration::from_secs(6);
const BAKE: Duration = Duration::from_secs(8);

fn load(edge: &Edge) -> Running {
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    (load.rate, load.connections, load.timeout) = (300, 2_000, Duration::from_mins(1));
    load.bodies = vec![Bytes::from_static(b"12345")];
    load.start().unwrap()
}

async fn stop_for_a_while(edge: &Edge) {
    edge.signal(Signal::SIGSTOP);
    tokio::time::sleep(STANDS_STILL).await;
    edge.signal(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_in_a_pause_of_the_edge_is_no_evidence_and_is_answered_all_the_same() {
    let site = Site::new().await;
    let takes = Faults::none().delaying(1.0, 1_500..=1_500).unwrap();
    site.v1.set_faults(takes);
    site.v2.set_faults(takes);
    site.write(&site.text("weights: { v1: 50%, v2: 50% }\n    guard: { latency: { threshold: 4s } }"));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = load(&edge);
    let requests = |route: &Value| route["versions"]["v2"]["requests"].as_u64().unwrap();
    let before = requests(&edge.wait_for_route("served", |route| requests(route) > 200).await);
    // Some hundreds are under way.
    stop_for_a_while(&edge).await;
    let judged = |route: &Value, side: &str, what: &str| route["analysis"]["summary"][side][what].as_u64().unwrap();
    let route = edge
        .wait_for_route("judged", |route| {
            let enough = |side| judged(route, side, "requests") > 200;
            requests(route) > before + 1_000 && enough("stable") && enough("canary")
        })
        .await;
    for side in ["stable", "canary"] {
        assert!(judged(&route, side, "slow") < 50, "{side}: {:#}\n{}", route["analysis"]["summary"], edge.log());
    }
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert_eq!((total.errors.sum(), total.status.server_error), (0, 0), "every request is answered: {total:?}");
    assert!(total.latency.max_ms > 4_000.0, "some were under way: {total:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_bakes_as_long_as_ever_whatever_its_edge_slept_and_is_not_taken_back_for_that() {
    let site = Site::new().await;
    let takes = Faults::none().delaying(1.0, 300..=300).unwrap();
    site.v1.set_faults(takes);
    site.v2.set_faults(takes);
    site.write(&site.text(&format!(
        "rollout: {{ canary: v2, steps: [ {{ weight: 50%, hold: 1h }} ], step_deadline: 2h, promotion: manual, bake: {}s }}",
        BAKE.as_secs()
    )));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = load(&edge);
    edge.wait_for_route("served", |route| route["versions"]["v2"]["requests"].as_u64() > Some(200)).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    // What was assigned before the bake is over, and what is under way is the bake's.
    edge.wait_for_route("served", |route| route["versions"]["v2"]["requests"].as_u64() > Some(600)).await;
    stop_for_a_while(&edge).await;
    let woke = Instant::now();
    edge.wait_for_log("this process stood still").await;
    edge.wait_for_phase("steady").await;
    // Before the pause it had baked for some seconds.
    assert!(woke.elapsed() > Duration::from_secs(2), "the bake went on while nobody watched: {:?}", woke.elapsed());
    let told: Vec<String> = edge.history().await.into_iter().map(|(_, decision, _)| decision).collect();
    assert!(!told.iter().any(|decision| decision == "rollback"), "{told:?}");
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert_eq!((total.errors.sum(), total.status.server_error), (0, 0), "every request is answered: {total:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_after_a_pause_is_taken_back_as_ever() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = load(&edge);
    edge.wait_for_route("served", |route| route["versions"]["v2"]["requests"].as_u64() > Some(100)).await;
    stop_for_a_while(&edge).await;
    site.v2.set_faults(Faults::none().failing(0.5, 500).unwrap());
    edge.wait_for_weight(0.0).await;
    load.stop();
    assert_eq!(load.finish().await.unwrap().figures.errors.sum(), 0);
}
