//! Testers who ask for a version: at every weight, in every phase, and never as evidence.

use pointsman_chaos::fault::Faults;
use serde_json::Value;

use crate::process::{Edge, Site};

const OVERRIDES: &str = "overrides:
      - { header: x-version }
      - { cookie: beta, value: \"1\", version: v2 }";

/// Both versions can be asked for, in both ways.
async fn check_wishes(edge: &Edge, when: &str) {
    for (headers, version) in [
        ("x-version: v1\r\n", "v1"),
        ("x-version: v2\r\n", "v2"),
        ("cookie: a=b\r\ncookie: beta=1\r\n", "v2"),
        ("x-version: v1\r\ncookie: beta=1\r\n", "v1"),
    ] {
        assert_eq!(edge.version_for(headers).await, version, "{when}: {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_holds_through_a_whole_promotion_and_after_it() {
    let site = Site::new().await;
    let plan = "rollout: { canary: v2, steps: [ { weight: 1%, hold: 1h }, { weight: 2%, hold: 1h } ], promotion: manual, bake: 1s }";
    site.write(&site.text(&format!("{plan}\n    {OVERRIDES}")));
    let edge = site.start().await;
    edge.wait_for_weight(1.0).await;
    check_wishes(&edge, "shifting").await;
    edge.command("pause").await;
    check_wishes(&edge, "paused").await;
    edge.command("promote").await;
    check_wishes(&edge, "promoting").await;
    edge.wait_for_weight(100.0).await;
    check_wishes(&edge, "baking").await;
    let route = edge.wait_for_phase("steady").await;
    assert_eq!(route["stable"], "v2", "{route:#}");
    check_wishes(&edge, "promoted").await;
    assert_eq!(edge.version_for("").await, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_taken_back_can_still_be_asked_for() {
    let site = Site::new().await;
    site.write(&site.text(&format!("weights: {{ v1: 80%, v2: 20% }}\n    {OVERRIDES}")));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    check_wishes(&edge, "rolled back").await;
    assert_eq!(edge.version_for("").await, "v1");
    assert_eq!(edge.version_for("x-version: v9\r\n").await, "v1", "a version that is not there is no wish");
    assert_eq!(edge.version_for("cookie: beta=2\r\n").await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_testers_do_is_no_evidence_and_moves_no_observed_weight() {
    let site = Site::new().await;
    site.v2.set_faults(Faults::none().failing(1.0, 500).unwrap());
    site.write(&site.text(&format!("weights: {{ v1: 99.9999%, v2: 0.0001% }}\n    {OVERRIDES}")));
    let edge = site.start().await;
    edge.wait_for_weight(0.0001).await;
    for _ in 0..300 {
        assert_eq!(edge.predict_with("x-version: v2\r\n").await.status, 500);
    }
    for _ in 0..20 {
        // One in a million of them would fail.
        edge.predict().await;
    }
    let route =
        edge.wait_for_route("counted", |route| requests(route, "v1") >= 19 && compared(route, "stable") >= 19).await;
    assert!(requests(&route, "v2") >= 300, "they are requests all the same: {route:#}");
    assert!(compared(&route, "canary") <= 1, "{route:#}");
    assert!(route["weights"]["v2"]["observed"].as_f64().unwrap() < 10.0, "{route:#}");
    assert_eq!((&route["phase"], &route["quarantined"][0]), (&"steady".into(), &Value::Null), "{route:#}");
}

fn requests(route: &Value, version: &str) -> u64 {
    route["versions"][version]["requests"].as_u64().unwrap()
}

fn compared(route: &Value, side: &str) -> u64 {
    route["analysis"]["summary"][side]["requests"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tester_is_never_sent_to_another_version_than_the_one_asked_for() {
    let mut site = Site::new().await;
    site.write(&site.text(&format!("weights: {{ v1: 80%, v2: 20% }}\n    {OVERRIDES}")));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    site.v2.stop().await;
    // As soon as checks know it: before, the connection is refused.
    edge.wait_for_route("v2 down", |route| route["versions"]["v2"]["endpoints"][0]["state"] == "down").await;
    let before = site.v1.predictions();
    let answer = edge.predict_with("x-version: v2\r\n").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no_healthy_endpoint"));
    assert_eq!(answer.header("x-pointsman-version"), Some("v2"));
    assert_eq!(site.v1.predictions(), before);
    assert_eq!(edge.version_for("x-version: v1\r\n").await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tester_gets_what_the_version_said_and_not_what_a_retry_would_have() {
    let site = Site::new().await;
    site.v2.set_faults(Faults::none().failing(1.0, 500).unwrap());
    let retries = "retries: { replay: predictions }";
    site.write(&site.text(&format!("weights: {{ v1: 99.9999%, v2: 0.0001% }}\n    {retries}\n    {OVERRIDES}")));
    let edge = site.start().await;
    edge.wait_for_weight(0.0001).await;
    let answer = edge.predict_with("x-version: v2\r\n").await;
    assert_eq!((answer.status, answer.header("x-pointsman-version")), (500, Some("v2")));
    assert_eq!(site.v1.predictions(), 0);
}
