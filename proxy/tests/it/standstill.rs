//! A process that stands still, as a machine does that is paused: what was under way then was late because of that, and says
//! nothing of any version; what has to last has not lasted while nobody watched.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use pointsman_chaos::fault::Faults;
use pointsman_chaos::load::{Figures, Load, Running};
use serde_json::Value;

use crate::process::{Edge, Site};

/// Longer than a request may stay without an answer before it is judged, in every test.
const STANDS_STILL: Duration = Duration::from_secs(6);
const BAKE: Duration = Duration::from_secs(8);
/// Of so few the machine's own hiccups may be the cause; many times as many are under way when the edge is stopped.
const HICCUPS: u64 = 20;

fn load(edge: &Edge, rate: u32) -> Running {
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    (load.rate, load.connections, load.timeout) = (rate, 2_000, Duration::from_mins(1));
    load.bodies = vec![Bytes::from_static(b"12345")];
    load.start().unwrap()
}

async fn stop_for_a_while(edge: &Edge) {
    edge.signal(Signal::SIGSTOP);
    tokio::time::sleep(STANDS_STILL).await;
    edge.signal(Signal::SIGCONT);
}

async fn finished(load: Running) -> Figures {
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert_eq!((total.errors.sum(), total.status.server_error), (0, 0), "every request is answered: {total:?}");
    total
}

fn requests_of_v2(route: &Value) -> u64 {
    route["versions"]["v2"]["requests"].as_u64().unwrap()
}

/// Requests, errors and slow answers of one side that went to the analysis.
fn judged(tally: &Value) -> [u64; 3] {
    ["requests", "errors", "slow"].map(|what| tally[what].as_u64().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_in_a_pause_of_the_edge_is_no_evidence_and_is_answered_all_the_same() {
    let site = Site::new().await;
    let takes = Faults::none().delaying(1.0, 1_000..=1_000).unwrap();
    site.v1.set_faults(takes);
    site.v2.set_faults(takes);
    // Judged as unanswered after 5.6 s.
    site.write(&site.text("weights: { v1: 50%, v2: 50% }\n    guard: { latency: { threshold: 1400ms } }"));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let before = load(&edge, 300);
    let route = edge.wait_for_route("served", |route| requests_of_v2(route) > 200).await;
    let sides = |route: &Value| ["stable", "canary"].map(|side| judged(&route["analysis"]["summary"][side]));
    let known = sides(&route);
    // Some hundreds are under way. Nothing comes meanwhile, so that nobody waits for anybody else when it goes on.
    before.stop();
    stop_for_a_while(&edge).await;
    let total = finished(before).await;
    assert!(total.latency.max_ms > 4_000.0, "some were under way: {total:?}");
    edge.wait_for_log("this process stood still").await;
    let after = load(&edge, 100);
    let is_judged = |route: &Value| sides(route).iter().zip(known).all(|(now, before)| now[0] > before[0] + 100);
    let route = edge.wait_for_route("judged", is_judged).await;
    for ([_, errors, slow], [_, _, slow_before]) in sides(&route).into_iter().zip(known) {
        assert_eq!(errors, 0, "{:#}\n{}", route["analysis"]["summary"], edge.log());
        assert!(slow < slow_before + HICCUPS, "{:#}\n{}", route["analysis"]["summary"], edge.log());
    }
    finished(after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_bakes_as_long_as_ever_whatever_its_edge_slept_and_nothing_is_held_against_it_for_that() {
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
    let before = load(&edge, 300);
    edge.wait_for_route("served", |route| requests_of_v2(route) > 200).await;
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    let of_the_bake = |route: &Value| judged(&route["analysis"]["alone"]["tally"]);
    // What was assigned before the bake is over, and what is under way is the bake's.
    let route = edge.wait_for_route("judged", |route| of_the_bake(route)[0] > 200).await;
    let [known, _, slow_before] = of_the_bake(&route);
    before.stop();
    stop_for_a_while(&edge).await;
    let woke = Instant::now();
    finished(before).await;
    let after = load(&edge, 100);
    let route = edge.wait_for_route("judged", |route| of_the_bake(route)[0] > known + 50).await;
    let [_, errors, slow] = of_the_bake(&route);
    assert_eq!(errors, 0, "{:#}\n{}", route["analysis"], edge.log());
    assert!(slow < slow_before + HICCUPS, "{:#}\n{}", route["analysis"], edge.log());
    edge.wait_for_phase("steady").await;
    // Before the pause it had baked for some seconds.
    assert!(woke.elapsed() > Duration::from_secs(2), "the bake went on while nobody watched: {:?}", woke.elapsed());
    edge.wait_for_log("this process stood still").await;
    edge.wait_for_metric("pointsman_standstill_seconds_total ", 4.5).await;
    assert!(edge.config().await["stood_still_s"].as_f64() >= Some(4.5));
    finished(after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_after_a_pause_is_taken_back_as_ever() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let before = load(&edge, 300);
    edge.wait_for_route("served", |route| requests_of_v2(route) > 100).await;
    before.stop();
    stop_for_a_while(&edge).await;
    finished(before).await;
    site.v2.set_faults(Faults::none().failing(0.5, 500).unwrap());
    let after = load(&edge, 300);
    edge.wait_for_weight(0.0).await;
    after.stop();
    assert_eq!(after.finish().await.unwrap().figures.errors.sum(), 0);
}
