//! `kill -9` in every phase: after a restart the route stands where it stood.

use pointsman_chaos::fault::Faults;
use pointsman_chaos::load::Load;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::process::{Edge, Site, weight_of};

const PLAN: &str = "rollout:
      canary: v2
      steps: [ { weight: 5%, hold: 1h }, { weight: 50%, hold: 1h } ]
      promotion: manual
      bake: 1h";

/// What must be the same before and after.
fn standing(route: &Value) -> Value {
    // Elsewhere `why` tells what the comparison thinks, which starts anew.
    let stands_still = ["paused", "rolled_back"].iter().any(|phase| route["phase"] == *phase);
    json!({
        "phase": route["phase"], "step": route["step"], "stable": route["stable"], "canary": route["canary"],
        "quarantined": route["quarantined"], "why": stands_still.then_some(&route["why"]), "weight": weight_of(route),
    })
}

/// Kills the edge and starts it again: same standing, same history; gives the new one.
async fn survive(site: &Site, edge: Edge) -> Edge {
    let (before, history) = (edge.route().await, edge.history().await);
    edge.kill_9();
    let edge = site.start().await;
    let expected = standing(&before);
    edge.wait_for_route(&format!("as before: {expected:#}"), |route| standing(route) == expected).await;
    assert_eq!(edge.history().await, history);
    let elapsed = |route: &Value| route["since_s"].as_f64().unwrap();
    let after = edge.route().await;
    if before["phase"] == "shifting" || before["phase"] == "baking" {
        assert!(elapsed(&after) + 0.5 >= elapsed(&before), "a hold does not start anew: {before:#} {after:#}");
    }
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_survives_a_kill_in_every_phase() {
    let site = Site::new().await;
    site.v2.set_ready(false);
    site.write(&site.text(PLAN));
    let edge = site.start().await;
    edge.wait_for_phase("warming").await;
    let edge = survive(&site, edge).await;

    site.v2.set_ready(true);
    edge.wait_for_phase("shifting").await;
    edge.wait_for_weight(5.0).await;
    let edge = survive(&site, edge).await;

    edge.command("pause").await;
    edge.wait_for_phase("paused").await;
    let edge = survive(&site, edge).await;

    edge.command("promote").await;
    // Killed at once: in `promoting`, or just after it.
    let history = edge.history().await;
    edge.kill_9();
    let edge = site.start().await;
    let route = edge.wait_for_phase("baking").await;
    assert_eq!(weight_of(&route), 100.0);
    assert_eq!(edge.history().await[..history.len()], history);
    let edge = survive(&site, edge).await;

    edge.command("rollback").await;
    let history = edge.history().await;
    edge.kill_9();
    let edge = site.start().await;
    let route = edge.wait_for_phase("rolled_back").await;
    assert_eq!((weight_of(&route), &route["quarantined"][0]["version"]), (0.0, &"v2".into()));
    assert_eq!(edge.history().await[..history.len()], history);
    let edge = survive(&site, edge).await;
    assert_eq!(edge.predict().await.header("x-pointsman-version"), Some("v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_by_hand_and_a_finished_rollout_survive() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    let answer = edge.order("weights", json!({ "weights": { "v1": "65%", "v2": "35%" }, "reason": "a test" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    edge.wait_for_weight(35.0).await;
    let edge = survive(&site, edge).await;

    let finished = PLAN.replace("bake: 1h", "bake: 1s");
    site.write(&site.text(&finished));
    edge.wait_for_phase("shifting").await;
    edge.command("promote").await;
    edge.wait_for_route("finished", |route| route["phase"] == "steady" && route["stable"] == "v2").await;
    survive(&site, edge).await;
}

/// Half of a hold is over when the edge is killed: the other half is left, not the whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_goes_on_where_a_kill_cut_it_off() {
    let site = Site::new().await;
    let plan = "guard: { max_error_rate: 50% }
    rollout: { canary: v2, steps: [ { weight: 50%, hold: 6s }, { weight: 60%, hold: 1h } ] }";
    site.write(&site.text(plan));
    let edge = site.start().await;
    let since = |route: &Value| route["since_s"].as_f64().unwrap();
    let before = edge.wait_for_route("half way", |route| route["step"] == 1 && since(route) >= 3.0).await;
    edge.kill_9();
    let edge = site.start().await;
    let after = edge.route().await;
    assert_eq!(after["step"], 1, "{after:#}");
    // What was kept is one second old at most, if the disk keeps up.
    assert!(since(&after) >= since(&before) - 2.0, "{before:#} {after:#}");
    for _ in 0..60 {
        assert_eq!(edge.predict().await.status, 200);
    }
    edge.wait_for_route("the next step", |route| route["step"] == 2).await;
}

/// The moment that matters most: right after the evidence, before anybody has seen anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_was_taken_back_never_comes_back_by_a_kill() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    site.v2.set_faults(Faults::none().failing(1.0, 500).unwrap());
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = 500;
    let load = load.start().unwrap();
    assert!(eventually(|| edge.log().contains("canary taken back")).await, "{}", edge.log());
    // A disk that is too slow is not waited for, and the log says so; then nothing is promised before it is done.
    if edge.log().contains("before it was kept") {
        let kept = rusqlite::Connection::open(site.state()).unwrap();
        let taken_back = "SELECT EXISTS (SELECT 1 FROM decision WHERE json LIKE '%\"rollback\"%')";
        assert!(
            eventually(|| kept.query_row(taken_back, [], |row| row.get(0)).unwrap_or(false)).await,
            "{}",
            edge.log()
        );
    }
    edge.kill_9();
    drop(load);
    let edge = site.start().await;
    let route = edge.route().await;
    assert_eq!((weight_of(&route), &route["quarantined"][0]["version"]), (0.0, &"v2".into()), "{route:#}");
    for _ in 0..50 {
        assert_eq!(edge.predict().await.header("x-pointsman-version"), Some("v1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_survives_the_routes_absence_from_the_file() {
    let site = Site::new().await;
    site.write(&site.weights(20));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    site.write(&site.weights(20).replace("name: model", "name: other"));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    edge.kill_9();
    let edge = site.start().await;
    site.write(&site.weights(20));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    let route = edge.route().await;
    assert_eq!((weight_of(&route), &route["quarantined"][0]["version"]), (0.0, &"v2".into()), "{route:#}");
}
