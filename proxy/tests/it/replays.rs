//! A trial of the real edge, decided again from what it recorded: alike under its own policy, otherwise under another one.

use std::process::{Command, Output};

use pointsman_chaos::fault::Faults;
use pointsman_chaos::load::Load;
use serde_json::Value;

use crate::process::{Edge, Site, weight_of};

fn replay(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("replay").arg(site.at("trial.json")).args(arguments).output().unwrap()
}

/// A canary that fails half of its requests, taken back by the edge; its record as `history --counts` prints it.
async fn taken_back(site: &Site) -> Edge {
    site.write(&site.weights(20));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = 500;
    load.bodies = vec![bytes::Bytes::from_static(b"12345")];
    let load = load.start().unwrap();
    edge.wait_for_route("compared", |route| route["versions"]["v2"]["requests"].as_u64().unwrap() > 50).await;
    site.v2.set_faults(Faults::none().failing(0.5, 500).unwrap());
    edge.wait_for_route("rolled back", |route| weight_of(route) == 0.0).await;
    edge.wait_for_phase("rolled_back").await;
    load.stop();
    load.finish().await.unwrap();
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_edge_decided_is_decided_again() {
    let site = Site::new().await;
    let edge = taken_back(&site).await;
    let admin = format!("http://{}", edge.admin);
    let recorded = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["history", "model", "--counts", "--admin", &admin])
        .output()
        .unwrap();
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    std::fs::write(site.at("trial.json"), &recorded.stdout).unwrap();

    let config = site.config();
    let same = replay(&site, &["--config", config.to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_slice(&same.stdout).unwrap();
    assert_eq!((same.status.code(), &told["same"]), (Some(0), &true.into()), "{told:#}");
    let decided: Vec<&Value> = told["replayed"].as_array().unwrap().iter().map(|at| &at["decision"]).collect();
    assert!(decided.contains(&&"rollback".into()), "{told:#}");

    let lenient = site.at("lenient.yaml");
    let weights = "weights: { v1: 80%, v2: 20% }\n    guard: { on_regression: alert }";
    std::fs::write(&lenient, site.text(weights)).unwrap();
    let other = replay(&site, &["--config", lenient.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&other.stdout);
    assert_eq!(other.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&other.stderr));
    assert!(text.contains("This policy decides otherwise") && text.contains("alert for v2"), "{text}");
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_says_what_to_do() {
    let site = Site::new().await;
    site.write(&site.weights(20));
    let config = site.config();
    let refused = |text: &str, words: &str| {
        std::fs::write(site.at("trial.json"), text).unwrap();
        let output = replay(&site, &["--config", config.to_str().unwrap()]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(words), "{told}");
    };
    refused("not a record", "--counts");
    refused("{\"decisions\": []}", "without the counts");
    std::fs::remove_file(site.at("trial.json")).unwrap();
    let output = replay(&site, &["--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
}
