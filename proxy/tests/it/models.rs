//! Real model servers behind the real edge: what they prove before they get traffic, and that a prediction is the
//! notebook's, whichever version gives it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pointsman_chaos::fakes::Link;
use serde_json::{Map, Value};

use crate::endpoints::{config, endpoint};
use crate::harness::{Client, post};
use crate::process::{Site, weight_of};

/// The real model server on a bundle of the repository; ends with the value.
pub(crate) struct ModelServer {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl ModelServer {
    pub(crate) async fn start(version: &str) -> Self {
        Self::of(&bundle(version)).await
    }

    pub(crate) async fn of(bundle: &Path) -> Self {
        let program = tokio::task::spawn_blocking(model_server).await.unwrap();
        let mut command = Command::new(program);
        command.env("MODEL_PATH", bundle).env("HOST", "127.0.0.1").env("PORT", "0").env("THREADS", "1");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = said.find_map(|line| line.strip_prefix("listening on ").map(|at| at.parse().unwrap())).unwrap();
        Self { child, address }
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A bundle of the repository.
pub(crate) fn bundle(version: &str) -> PathBuf {
    root().join("model-server/models/delivery-time").join(version)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The real model server.
pub(crate) fn model_server() -> PathBuf {
    built("model-server", "model-server")
}

/// A program of another package: built beside the edge by whoever tests the whole workspace; else here.
pub(crate) fn built(program: &str, package: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_pointsman")).parent().unwrap();
    let program = folder.join(program);
    if !program.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--quiet", "--package", package, "--target-dir"]);
        assert!(build.arg(folder.parent().unwrap()).status().unwrap().success(), "{package} is built");
    }
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_server_proves_its_golden_examples_before_its_first_request() {
    let (site, server) = (Site::new().await, ModelServer::start("v2").await);
    let with = |warm_up: &str| {
        let rest = format!(
            "health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}
    warm_up: {warm_up}
    weights: {{ v1: 50%, v2: 50% }}"
        );
        config(&[site.v1.addr()], &[server.address], &rest)
    };
    let input = r#"{"distance_km": 5.35, "item_count": 1.0, "prep_minutes": 43.69, "hour": 1.55, "traffic": 0.2, "open_orders": 0.0, "day": "sun", "weather": "rain", "vehicle": "on_foot", "priority": false, "apartment": false}"#;
    site.write(&with(&format!("{{ examples: [{{ body: '{input}', expect: 40, tolerance: 0.5 }}] }}")));
    let edge = site.start().await;
    let problem =
        |route: &Value| endpoint(route, "v2", server.address)["problem"].as_str().unwrap_or_default().to_owned();
    let wrong = "warm-up: example 1 should give 40 within 0.5, and gave 113.1";
    let route = edge.wait_for_route("wrong", |route| problem(route).starts_with(wrong)).await;
    assert_eq!(endpoint(&route, "v2", server.address)["state"], "down");
    for _ in 0..20 {
        assert_eq!(edge.predict().await.header("x-pointsman-version"), Some("v1"));
    }
    site.write(&with("{ model: /v1/model, calls: 25 }"));
    edge.wait_for_weight(50.0).await;
    edge.wait_for_route("up", |route| endpoint(route, "v2", server.address)["state"] == "up").await;
    // The endpoint's own examples are its training's; the counters of the server tell of the calls.
    let mut client = Client::connect(server.address).await;
    client.send(b"GET /metrics HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await;
    let metrics = String::from_utf8(client.answer().await.unwrap().body).unwrap();
    let predicted: f64 = metrics
        .lines()
        .filter(|line| {
            line.starts_with("model_server_requests_total") && line.contains("predict") && line.contains("200")
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!(predicted >= 26.0, "{predicted}\n{metrics}");
}

/// What a sentence encoder predicts is a vector, for its golden examples too. Those calls are nobody's traffic.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_embeddings_proves_its_golden_vectors() {
    let encoder = root().join("model-server/tests/data/bert");
    let (site, stable, canary) = (Site::new().await, ModelServer::of(&encoder).await, ModelServer::of(&encoder).await);
    let rest = "health_check: { path: /ready, interval: 50ms, timeout: 1s }
    warm_up: { model: /v1/model, calls: 5 }
    weights: { v1: 50%, v2: 50% }";
    site.write(&config(&[stable.address], &[canary.address], rest));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    edge.wait_for_route("up", |route| endpoint(route, "v2", canary.address)["state"] == "up").await;
    let ask = async |request: &str| {
        let mut client = Client::connect(canary.address).await;
        client.send(request.as_bytes()).await;
        client.answer().await.unwrap()
    };
    let drift = async || ask("GET /v1/drift HTTP/1.1\r\nhost: m\r\n\r\n").await.json();
    assert_eq!(drift().await["rows"], 0);
    assert_eq!(ask(&post("/v1/predict", r#"{"text":"rain"}"#)).await.status, 200);
    assert_eq!(drift().await["rows"], 1);
}

/// Its golden examples are as right as ever; but kilometres would be taken for miles.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_other_features_than_stable_gets_no_weight_and_says_which() {
    let site = Site::new().await;
    let in_miles = site.at("in-miles");
    fs::create_dir(&in_miles).unwrap();
    fs::copy(bundle("v2").join("model.safetensors"), in_miles.join("model.safetensors")).unwrap();
    let description = fs::read_to_string(bundle("v2").join("model.json")).unwrap();
    fs::write(in_miles.join("model.json"), description.replacen("\"unit\": \"km\"", "\"unit\": \"mi\"", 1)).unwrap();
    let (stable, canary) = (ModelServer::start("v1").await, ModelServer::of(&in_miles).await);
    let with = |signature: &str| {
        let rest = format!(
            "health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}
    warm_up: {{ model: /v1/model, calls: 2{signature} }}
    overrides: [ {{ header: x-version }} ]
    weights: {{ v1: 50%, v2: 50% }}"
        );
        config(&[stable.address], &[canary.address], &rest)
    };
    site.write(&with(""));
    let edge = site.start().await;
    let problem =
        |route: &Value| endpoint(route, "v2", canary.address)["problem"].as_str().unwrap_or_default().to_owned();
    let said = "gets no weight: it takes other features than v1: `distance_km` is in mi, not km. If clients know";
    let route = edge.wait_for_route("told", |route| problem(route).starts_with(said)).await;
    assert_eq!(weight_of(&route), 0.0, "{route:#}");
    for _ in 0..20 {
        assert_eq!(edge.ask_path("/v1/model").await.header("x-pointsman-version"), Some("v1"));
    }
    let tester = edge.ask_with("/v1/model", "x-version: v2\r\n").await;
    assert_eq!(tester.header("x-pointsman-version"), Some("v2"), "who asks for it by name still gets it");
    site.write(&with(", signature: any"));
    edge.wait_for_weight(50.0).await;
    edge.wait_for_route("no problem", |route| problem(route).is_empty()).await;
}

/// Stable counts as up from the start, so nobody hears of it that it is: only of what its model takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_was_ready_before_stable_said_what_its_model_takes_is_ready_once_it_does() {
    let (site, v1, v2) = (Site::new().await, ModelServer::start("v1").await, ModelServer::start("v2").await);
    let stable = Link::to(v1.address).await.unwrap();
    stable.hold(true);
    let rest = "health_check: { path: /ready, interval: 100ms, timeout: 30s }
    warm_up: { model: /v1/model, calls: 2 }
    weights: { v1: 50%, v2: 50% }";
    site.write(&config(&[stable.address()], &[v2.address], rest));
    let edge = site.start().await;
    let waits =
        |route: &Value| endpoint(route, "v2", v2.address)["problem"].as_str().is_some_and(|it| it.contains("v1"));
    let route = edge.wait_for_route("a canary that waits for stable", waits).await;
    assert_eq!(weight_of(&route), 0.0, "{route:#}");
    stable.hold(false);
    edge.wait_for_weight(50.0).await;
}

/// Rows that no training saw, as requests, and what the notebook predicts for them.
pub(crate) fn expected(version: &str) -> Vec<(String, f64)> {
    let file = root().join(format!("model-server/tests/data/predictions_{version}.json"));
    let file: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let columns: Vec<&str> = file["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let row = |row: &Value| {
        let cells = columns.iter().zip(row.as_array().unwrap());
        let mut cells: Map<String, Value> = cells.map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
        let prediction = cells.remove("prediction").unwrap().as_f64().unwrap();
        (Value::Object(cells).to_string(), prediction)
    };
    file["rows"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_through_the_edge_is_the_notebooks_for_the_version_that_gave_it() {
    let (site, v1, v2) = (Site::new().await, ModelServer::start("v1").await, ModelServer::start("v2").await);
    site.write(&config(&[v1.address], &[v2.address], "weights: { v1: 50%, v2: 50% }"));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let (of_v1, of_v2) = (expected("v1"), expected("v2"));
    let mut client = Client::connect(edge.address).await;
    let mut answered = [0, 0];
    for ((body, by_v1), (same, by_v2)) in of_v1.iter().zip(&of_v2) {
        assert_eq!(body, same, "both files hold the same rows");
        client.send(post("/v1/predict", body).as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let (given, said) = (answer.json(), answer.header("x-pointsman-version").unwrap());
        let (wanted, place) = if said == "v1" { (by_v1, 0) } else { (by_v2, 1) };
        answered[place] += 1;
        let prediction = given["prediction"].as_f64().unwrap();
        assert!((prediction - wanted).abs() <= 1e-4, "{body}: {prediction}, the notebook of {said} says {wanted}");
        assert_eq!(given["version"], said);
    }
    assert!(of_v1.len() >= 1_000 && answered[0] > 300 && answered[1] > 300, "{answered:?}");
}
