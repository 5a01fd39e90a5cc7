//! What is evidence about a version, and what only looks like it: on the real edge, through its sockets.

use pointsman_chaos::fault::Faults;
use serde_json::{Value, json};

use crate::process::{Edge, Site};

const STICKY: &str = "sticky: { header: x-user }";

fn failing(share: f64) -> Faults {
    Faults::none().failing(share, 500).unwrap()
}

fn compared(route: &Value, side: &str, what: &str) -> u64 {
    route["analysis"]["summary"][side][what].as_u64().unwrap_or_default()
}

fn user(name: usize) -> String {
    format!("x-user: user-{name}\r\n")
}

/// Requests that chance gave to either side, or users.
fn drawn(route: &Value) -> u64 {
    let drawn = &route["analysis"]["summary"]["split"]["drawn"];
    ["canary", "stable"].iter().filter_map(|side| drawn[side].as_u64()).sum()
}

/// Sends requests with these header lines, each other ones, until the canary that fails them is taken back.
async fn taken_back_by(edge: &Edge, headers: impl Fn(usize) -> String) {
    for number in 10_000..30_000 {
        edge.predict_with(&headers(number)).await;
        if number % 100 == 0 && edge.route().await["phase"] == "rolled_back" {
            return;
        }
    }
    panic!("not taken back: {:#}", edge.route().await);
}

/// So many users whom the draw gives this version.
async fn users_of(edge: &Edge, version: &str, count: usize) -> Vec<usize> {
    let mut found = Vec::new();
    for name in 0..2_000 {
        if found.len() == count {
            break;
        }
        if edge.version_for(&user(name)).await == version {
            found.push(name);
        }
    }
    assert_eq!(found.len(), count);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_choose_their_keys_void_the_comparison_and_stop_the_rollout() {
    let site = Site::new().await;
    let plan = "rollout: { canary: v2, steps: [ { weight: 20%, hold: 1h } ], promotion: manual, bake: 1s }";
    site.write(&site.text(&format!("{plan}\n    {STICKY}")));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    // Found out by one edge, used on the next: draws are the same for ever, evidence is a process's own.
    let canaries = users_of(&edge, "v2", 20).await;
    let route = edge.route().await;
    assert_eq!(route["phase"], "shifting", "asking in turn chooses nobody: {route:#}");
    edge.kill_9();
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    for name in canaries {
        for _ in 0..5 {
            assert_eq!(edge.version_for(&user(name)).await, "v2");
        }
    }
    let route = edge.wait_for_phase("paused").await;
    assert_eq!(route["weights"]["v2"]["effective"], 20.0, "traffic stays: {route:#}");
    let why = route["why"].as_str().unwrap();
    assert!(why.contains("100.00%") && why.contains("instead of 20.00%") && why.contains("choose their keys"), "{why}");
    assert!(why.contains("`pointsman resume model` compares anew"), "{why}");
    let route = edge.wait_for_route("void", |route| route["analysis"]["reason"] == "split_mismatch").await;
    let split = &route["analysis"]["summary"]["split"];
    assert!(
        split["drawn"]["canary"].as_u64() >= Some(6) && split["drawn"]["stable"] == 0,
        "users, not requests: {split:#}"
    );
    let (_, decision, sentence) = edge.history().await.pop().unwrap();
    assert!(decision == "pause" && sentence.contains("the split is not as configured"), "{decision}: {sentence}");
    let metrics = edge.text("/metrics").await;
    let odds = metrics
        .lines()
        .find_map(|line| line.strip_prefix("pointsman_analysis_evidence{route=\"model\",test=\"split\"} "));
    assert!(odds.unwrap().parse::<f64>().unwrap() >= 9.2, "{odds:?}");

    let resumed = edge.order("resume", json!({ "reason": "clients were mended" })).await;
    assert_eq!(resumed.status, 200);
    for name in 5_000..5_060 {
        edge.version_for(&user(name)).await;
    }
    let route = edge.wait_for_route("compared anew", |route| {
        let drawn = &route["analysis"]["summary"]["split"]["drawn"];
        drawn["stable"].as_u64() > Some(20) && drawn["canary"].as_u64() < Some(40)
    });
    assert_eq!(route.await["phase"], "shifting");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_with_hundreds_of_errors_is_one_error() {
    let site = Site::new().await;
    site.write(&site.text(&format!("weights: {{ v1: 80%, v2: 20% }}\n    {STICKY}")));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    let unlucky = users_of(&edge, "v2", 1).await[0];
    let before = edge.route().await;
    site.v2.set_faults(failing(1.0));
    for _ in 0..300 {
        assert_eq!(edge.predict_with(&user(unlucky)).await.status, 500);
    }
    let route = edge
        .wait_for_route("counted", |route| {
            route["versions"]["v2"]["errors"] == 300 && compared(route, "canary", "errors") == 1
        })
        .await;
    assert_eq!(route["phase"], "steady", "{route:#}");
    assert!(compared(&route, "canary", "requests") <= compared(&before, "canary", "requests") + 2, "{route:#}");
    // Many users are another matter.
    taken_back_by(&edge, user).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_again_under_one_id_is_counted_once() {
    let site = Site::new().await;
    site.v2.set_faults(failing(1.0));
    site.write(&site.text("weights: { v1: 50%, v2: 50% }"));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let mut failed = 0;
    for _ in 0..300 {
        failed += u64::from(edge.predict_with("x-request-id: the-same\r\n").await.status == 500);
    }
    assert!(failed > 50, "{failed}");
    let route = edge.wait_for_route("counted", |route| route["versions"]["v2"]["errors"] == failed).await;
    assert_eq!(route["phase"], "steady", "{route:#}");
    // Once a minute at most.
    assert!(compared(&route, "canary", "requests") + compared(&route, "stable", "requests") <= 4, "{route:#}");
    let route = edge.wait_for_route("summarised", |route| drawn(route) > 0).await;
    assert!(drawn(&route) <= 4, "{route:#}");
    taken_back_by(&edge, |number| format!("x-request-id: id-{number}\r\n")).await;
}
