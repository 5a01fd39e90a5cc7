//! Real model servers behind the real edge: a canary that answers 200 with wrong numbers, a world that changed, a server
//! that tells nothing.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::endpoints::config;
use crate::harness::{Client, post};
use crate::models::{ModelServer, bundle, expected};
use crate::process::{Edge, Site, weight_of};

/// What was measured in minutes is now half an hour too long.
const OFF_BY: f32 = 30.0;

/// A bundle at `to` that is v1's but for the last bias. Its golden examples come from the same wrong model, as they do
/// where the training is at fault, so nothing but its predictions tells.
fn wrong_bundle(to: &Path) {
    fs::create_dir(to).unwrap();
    let mut weights = fs::read(bundle("v1").join("model.safetensors")).unwrap();
    let last = weights.len() - 4;
    let bias = f32::from_le_bytes(weights[last..].try_into().unwrap()) + OFF_BY;
    weights.splice(last.., bias.to_le_bytes());
    let description = fs::read_to_string(bundle("v1").join("model.json")).unwrap();
    let mut description: Value = serde_json::from_str(&description).unwrap();
    for example in description["golden"]["examples"].as_array_mut().unwrap() {
        example["prediction"] = json!(example["prediction"].as_f64().unwrap() + f64::from(OFF_BY));
    }
    let mut digest = String::new();
    for byte in Sha256::digest(&weights) {
        write!(digest, "{byte:02x}").unwrap();
    }
    description["digests"]["model.safetensors"] = json!(digest);
    fs::write(to.join("model.json"), description.to_string()).unwrap();
    fs::write(to.join("model.safetensors"), weights).unwrap();
}

/// A rollout that would go on in seconds, were it not for its guard.
fn guarded(stable: &[SocketAddr], canary: SocketAddr, drift: &str) -> String {
    let rest = format!(
        "health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}
    rollout: {{ canary: v2, steps: [{{ weight: 50%, hold: 1s }}, {{ weight: 60%, hold: 1h }}] }}
    guard: {{ latency: {{ threshold: 10s }}, drift: {{ every: 1s, window: 1m, min_rows: 200{drift} }} }}
    timeouts: {{ total: 20s, read: 20s }}"
    );
    config(stable, &[canary], &rest)
}

/// Sends the same rows again and again, until it is dropped.
struct Load {
    ends: Arc<AtomicBool>,
    sending: JoinHandle<u64>,
}

impl Load {
    fn start(edge: &Edge, rows: Vec<String>) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        Self { sending: tokio::spawn(send(edge.address, rows, Arc::clone(&ends))), ends }
    }

    /// How many requests were answered, each with 200.
    async fn end(self) -> u64 {
        self.ends.store(true, Relaxed);
        self.sending.await.unwrap()
    }
}

async fn send(address: SocketAddr, rows: Vec<String>, ends: Arc<AtomicBool>) -> u64 {
    let (mut client, mut answered) = (Client::connect(address).await, 0);
    for row in rows.iter().cycle().take_while(|_| !ends.load(Relaxed)) {
        client.send(post("/v1/predict", row).as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answered += 1;
    }
    answered
}

fn rows() -> Vec<String> {
    expected("v1").into_iter().map(|(row, _)| row).collect()
}

/// What the gate says, once it says `outcome` and these words.
async fn wait_for_gate(edge: &Edge, outcome: &str, words: &str) -> String {
    let said = |route: &Value| route["gates"][0]["words"].as_str().unwrap_or_default().to_owned();
    let is_said = |route: &Value| route["gates"][0]["outcome"] == outcome && said(route).contains(words);
    said(&edge.wait_for_route(&format!("{outcome}: {words}"), is_said).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_answers_200_with_wrong_numbers_is_taken_back_for_its_predictions() {
    let site = Site::new().await;
    wrong_bundle(&site.at("wrong"));
    let stable = [ModelServer::start("v1").await, ModelServer::start("v1").await];
    let canary = ModelServer::of(&site.at("wrong")).await;
    let stable_at = stable.each_ref().map(|server| server.address);
    site.write(&guarded(&stable_at, canary.address, ", action: rollback"));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = Load::start(&edge, rows());
    let route = edge.wait_for_phase("rolled_back").await;
    assert!(load.end().await >= 1200, "both had 200 requests three times");
    assert_eq!(weight_of(&route), 0.0);
    let why = route["why"].as_str().unwrap();
    assert!(
        why.starts_with("the gate `drift` fails: v2 drifted from v1's at the same time: its predictions (PSI "),
        "{why}"
    );
    assert_eq!(route["quarantined"][0]["why"], why);
    let history = edge.history().await;
    let (_, _, told) = history.iter().find(|(_, decision, _)| decision == "rollback").unwrap();
    assert_eq!(*told, format!("v2 taken back to 0%: {why}"));
    assert!(!history.iter().any(|(_, _, sentence)| sentence.contains("v2 now gets 60%")), "{history:?}");
    edge.wait_for_log("its predictions (PSI ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_changed_is_no_fault_of_the_canary_and_is_told_beside_its_training() {
    let far = |row: String| {
        let mut row: Value = serde_json::from_str(&row).unwrap();
        row["distance_km"] = json!(14.5);
        row.to_string()
    };
    let site = Site::new().await;
    let (stable, canary) = (ModelServer::start("v1").await, ModelServer::start("v1").await);
    site.write(&guarded(&[stable.address], canary.address, ""));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = Load::start(&edge, rows().into_iter().map(far).collect());
    let passes = wait_for_gate(&edge, "passes", "is distributed as v1's at the same time").await;
    assert!(passes.contains(" requests of v2 and "), "{passes}");
    edge.wait_for_weight(60.0).await;
    site.write(&guarded(&[stable.address], canary.address, ", against: training"));
    let holds = wait_for_gate(&edge, "holds", "v2 drifted from its training: ").await;
    for words in ["`distance_km` (PSI ", "v1 has drifted from its training too (`"] {
        assert!(holds.contains(words), "{holds}");
    }
    assert_eq!(edge.weight().await, 60.0, "to hold is not to take back");
    let metrics = edge.text("/metrics").await;
    let held = r#"pointsman_gate{route="model",gate="drift",outcome="holds"} 1"#;
    assert!(metrics.contains(held), "{metrics}");
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_no_drift_holds_the_rollout_and_says_so() {
    let site = Site::new().await;
    let stable = ModelServer::start("v1").await;
    site.write(&guarded(&[stable.address], site.v2.addr(), ""));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let load = Load::start(&edge, rows());
    let said = format!("drift cannot be known: {} of v2: ", site.v2.addr());
    wait_for_gate(&edge, "holds", &said).await;
    edge.wait_for_route("told", |route| route["last_decision"]["decision"] == "hold").await;
    let (_, _, told) = edge.history().await.pop().unwrap();
    assert!(
        told.starts_with("v2 held at 50%: the gate `drift` holds") && told.contains("drift cannot be known"),
        "{told}"
    );
    let route = edge.route().await;
    assert!(route["why"].as_str().unwrap().starts_with("the gate `drift` holds for"), "{route:#}");
    assert_eq!(weight_of(&route), 50.0);
    load.end().await;
}
