//! A canary that fails is taken back within seconds, for good; a failure of both versions is no reason to.

use std::time::{Duration, Instant};

use pointsman_chaos::fault::Faults;
use pointsman_chaos::load::{Load, Running};
use serde_json::{Value, json};

use crate::process::{Edge, Site, weight_of};

fn failing() -> Faults {
    Faults::none().failing(0.5, 500).unwrap()
}

fn load(edge: &Edge, rate: u32) -> Running {
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = rate;
    load.bodies = vec![bytes::Bytes::from_static(b"12345")];
    load.start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_canary_is_taken_back_in_seconds_and_stays_away_whatever_the_file_says() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    let load = load(&edge, 1_000);
    edge.wait_for_route("compared", |route| route["versions"]["v2"]["requests"].as_u64().unwrap() > 50).await;
    site.v2.set_faults(failing());
    let broken = Instant::now();
    let route = edge.wait_for_route("rolled back", |route| weight_of(route) == 0.0).await;
    assert!(broken.elapsed() < Duration::from_secs(4), "{:?}", broken.elapsed());
    assert_eq!(route["quarantined"][0]["version"], "v2", "{route:#}");
    edge.wait_for_phase("rolled_back").await;
    check_explained(&edge).await;

    site.write(&site.weights(60));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    let route = edge.route().await;
    assert_eq!((weight_of(&route), &route["weights"]["v2"]["desired"]), (0.0, &60.0.into()), "{route:#}");
    assert!(edge.log().contains("the file names a version that was taken back"), "{}", edge.log());
    let before = site.v2.predictions();
    edge.wait_for_route("served", |now| {
        now["versions"]["v1"]["requests"].as_u64() > route["versions"]["v1"]["requests"].as_u64().map(|n| n + 200)
    })
    .await;
    assert_eq!(site.v2.predictions(), before, "no request goes to a version that was taken back");

    site.v2.set_faults(Faults::none());
    let answer = edge.order("retry", json!({ "version": "v2", "reason": "fixed" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    edge.wait_for_weight(60.0).await;
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert_eq!(total.versions["v1"].server_error, 0, "stable's requests are untouched: {total:?}");
    assert_eq!(total.errors.sum(), 0, "{total:?}");
}

/// The decision says why, with counts and with failing requests.
async fn check_explained(edge: &Edge) {
    let answer = edge.get("/api/v1/routes/model/decisions").await;
    let decisions = answer["decisions"].as_array().unwrap();
    let rollback = decisions.iter().find(|row| row["change"]["decision"] == "rollback").unwrap();
    let evidence = &rollback["change"]["evidence"];
    assert!(evidence["canary"]["errors"].as_u64().unwrap() > 0, "{rollback:#}");
    let failures = rollback["failures"].as_array().unwrap();
    assert!(
        !failures.is_empty()
            && failures.iter().all(|failure| failure["outcome"] == "error" && failure["request_id"].is_string()),
        "{rollback:#}"
    );
    assert_eq!(edge.log().matches("canary taken back").count(), 1, "{}", edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_lifts_the_quarantine() {
    let site = Site::new().await;
    site.write(&site.weights(20));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    edge.command("rollback").await;
    edge.wait_for_weight(0.0).await;
    let weights = "weights: { v1: 80%, v2: 20% }";
    site.write(&format!("# touched\n{}", site.text_with_revision("r1", weights)));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    assert_eq!(edge.weight().await, 0.0, "the same revision stays away");
    site.write(&site.text_with_revision("r2", weights));
    edge.wait_for_weight(20.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_versions_fail_alike_nothing_is_taken_back() {
    let site = Site::new().await;
    site.write(&site.weights(30));
    let edge = site.start().await;
    edge.wait_for_weight(30.0).await;
    let load = load(&edge, 500);
    let requests = |route: &Value, version: &str| route["versions"][version]["requests"].as_u64().unwrap();
    edge.wait_for_route("a baseline", |route| requests(route, "v1") > 500).await;
    site.v1.set_faults(failing());
    site.v2.set_faults(failing());
    let route = edge
        .wait_for_route("many failures", |route| {
            assert_eq!(weight_of(route), 30.0, "{route:#}");
            route["versions"]["v2"]["errors"].as_u64().unwrap() > 150
        })
        .await;
    assert_eq!(route["phase"], "steady", "{route:#}");
    assert!(route["quarantined"].as_array().unwrap().is_empty());
    load.stop();
    load.finish().await.unwrap();
}
