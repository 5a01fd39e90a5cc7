//! The paths, as a client sees them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::server::{PATIENCE, Server, Wire, bundle, predict_request, program, row};

fn check_problem(reply: &crate::server::Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{}", reply.body);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    let problem = reply.json();
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

#[test]
fn every_path_answers() {
    let server = Server::of("v1");
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    assert_eq!(server.get("/ready").json(), json!({"status": "ready"}));
    let predicted = server.post("/v1/predict", &row().to_string());
    assert_eq!(predicted.status, 200);
    assert_eq!(predicted.header("content-type"), "application/json");
    let keys: Vec<_> = predicted.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["model", "prediction", "version"]);
    let batch = server.post("/v1/predict/batch", &json!({"instances": [row(), row()]}).to_string());
    assert_eq!(batch.json()["predictions"].as_array().unwrap().len(), 2);
}

#[test]
fn the_model_is_described_without_its_weights() {
    let described = |version| Server::of(version).get("/v1/model").json();
    let (one, other) = (described("v1"), described("v2"));
    assert_eq!(one["name"], "delivery-time");
    assert_eq!(one["version"], "v1");
    assert_eq!(one["features"].as_array().unwrap().len(), 11);
    assert!(one["reference"]["features"]["distance_km"]["counts"].is_array());
    assert_eq!(one["signature"].as_str().unwrap().len(), 64);
    assert_eq!(one["signature"], other["signature"]);
    assert_ne!(one["sha256"], other["sha256"]);
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    let server = Server::of("v1");
    check_problem(&server.get("/v3/predict"), 404, "not_found");
    let get = server.get("/v1/predict");
    check_problem(&get, 405, "method_not_allowed");
    assert_eq!(get.header("allow"), "POST");
    let post = server.post("/ready", "");
    check_problem(&post, 405, "method_not_allowed");
    assert_eq!(post.header("allow"), "GET, HEAD");
}

#[test]
fn large_bodies_and_batches_are_refused() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_BODY_BYTES", "4000").env("MAX_BATCH_ROWS", "3"));
    let batch = |rows: usize| json!({"instances": vec![row(); rows]}).to_string();
    assert_eq!(server.post("/v1/predict/batch", &batch(3)).status, 200);
    check_problem(&server.post("/v1/predict/batch", &batch(4)), 413, "batch_too_large");
    check_problem(&server.post("/v1/predict/batch", &batch(100)), 413, "body_too_large");
    check_problem(&server.post("/v1/predict", &" ".repeat(3_000_000)), 413, "body_too_large");
}

#[test]
fn a_body_without_a_length_is_held_to_the_same_limit() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_BODY_BYTES", "4000"));
    let chunked = |body: &str| {
        let mut wire = Wire::to(server.address).unwrap();
        wire.write("POST /v1/predict HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        for piece in body.as_bytes().chunks(100) {
            let piece = std::str::from_utf8(piece).unwrap();
            wire.write(&format!("{:x}\r\n{piece}\r\n", piece.len())).unwrap();
        }
        wire.write("0\r\n\r\n").unwrap();
        wire.read().unwrap()
    };
    assert_eq!(chunked(&row().to_string()).0, 200);
    let (status, _, body) = chunked(&" ".repeat(5_000));
    assert_eq!(status, 413, "{body}");
}

#[test]
fn a_compressed_body_is_named_as_such() {
    let server = Server::of("v1");
    let request = ureq::http::Request::post(server.url("/v1/predict")).header("content-encoding", "gzip");
    check_problem(&server.send(request.body("x".to_owned())), 415, "body_encoded");
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for_forever() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("REQUEST_SECONDS", "1"));
    let mut wire = Wire::to(server.address).unwrap();
    wire.write("POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n{").unwrap();
    let (status, _, body) = wire.read().unwrap();
    assert_eq!(status, 408, "{body}");
}

#[test]
fn a_connection_is_kept_for_further_requests_even_after_a_refusal() {
    let server = Server::of("v1");
    let mut wire = Wire::to(server.address).unwrap();
    for (body, status) in [(row().to_string(), 200), ("{".to_owned(), 422), (row().to_string(), 200)] {
        wire.write(&predict_request(&body)).unwrap();
        assert_eq!(wire.read().unwrap().0, status);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::of("v1");
    let mut wire = Wire::to(server.address).unwrap();
    wire.write(&(predict_request("1") + &predict_request(&row().to_string()))).unwrap();
    assert_eq!(wire.read().unwrap().0, 422);
    assert_eq!(wire.read().unwrap().0, 200);
}

#[test]
fn a_prediction_that_nobody_should_believe_is_an_error() {
    let folder = crate::server::copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let first = model["golden"]["examples"][0].clone();
    let known = first["prediction"].as_f64().unwrap();
    model["golden"]["examples"] = json!([first]);
    model["output"]["range"] = json!([known - 0.5, known + 0.5]);
    std::fs::write(&file, model.to_string()).unwrap();
    let server = Server::start(&mut program(folder.path()));
    let within = server.post("/v1/predict", &first["input"].to_string());
    assert_eq!(within.status, 200);
    let mut far = first["input"].clone();
    far["distance_km"] = json!(15.0);
    far["prep_minutes"] = json!(60.0);
    let batch = json!({"instances": [first["input"], far]}).to_string();
    check_problem(&server.post("/v1/predict", &far.to_string()), 500, "prediction_out_of_range");
    check_problem(&server.post("/v1/predict/batch", &batch), 500, "prediction_out_of_range");
}

#[test]
fn what_was_answered_is_counted() {
    let server = Server::of("v1");
    for _ in 0..3 {
        server.post("/v1/predict", &row().to_string());
    }
    server.post("/v1/predict", "{}");
    server.post("/v1/predict/batch", &json!({"instances": vec![row(); 5]}).to_string());
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        r#"model_server_requests_total{code="200",endpoint="predict",model="delivery-time",version="v1"} 3"#,
        r#"model_server_requests_total{code="422",endpoint="predict",model="delivery-time",version="v1"} 1"#,
        r#"model_server_requests_total{code="200",endpoint="predict_batch",model="delivery-time",version="v1"} 1"#,
        r#"model_server_batch_size_sum{model="delivery-time",version="v1"} 8"#,
        r#"model_server_batch_size_count{model="delivery-time",version="v1"} 4"#,
        r#"model_server_inference_duration_seconds_count{model="delivery-time",version="v1"} 4"#,
        r#"model_server_request_duration_seconds_count{endpoint="predict",model="delivery-time",version="v1"} 4"#,
        r#"model_server_build_info{version="0.1.0"} 1"#,
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} not in\n{}", metrics.body);
    }
    for edge in ["0.05", "0.2", "0.5"] {
        assert!(metrics.body.contains(&format!(r#"version="v1",le="{edge}""#)), "{edge}");
    }
}

#[test]
fn prometheus_finds_nothing_to_complain_about() {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        assert!(std::env::var_os("REQUIRE_PROMTOOL").is_none(), "promtool is not installed");
        eprintln!("skipped: promtool is not installed");
        return;
    };
    let server = Server::of("v1");
    server.post("/v1/predict", &row().to_string());
    server.get("/nowhere");
    let text = server.get("/metrics").body;
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let words = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.status.success() && words.is_empty(), "{words}");
}

#[test]
fn two_servers_never_share_a_port_unseen() {
    let first = Server::of("v1");
    let mut second = program(&bundle("v2"));
    let ended = second.env("PORT", first.address.port().to_string()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("cannot listen on") && said.contains("PORT"), "{said}");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let refused = |name: &str, value: &str| {
        let ended = program(&bundle("v1")).env(name, value).output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    for (name, value, way_out) in [
        ("MODEL_PATH", "ftp://host/v1", "takes a path, or file://, s3://"),
        ("PORT", "99999", "PORT"),
        ("DEVICE", "tpu", "`cpu` or `cuda:0`"),
        ("MODEL_SHA256", "abc", "64 hex digits"),
        ("THREADS", "0", "THREADS"),
        ("LOG_FORMAT", "xml", "`text` or `json`"),
    ] {
        let (code, said) = refused(name, value);
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.contains(way_out) || said.to_uppercase().contains(way_out), "{said}");
    }
}

#[test]
fn flags_override_the_environment() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.arg("--model-path").arg(bundle("v2")).args(["--threads", "1"]));
    assert_eq!(server.get("/v1/model").json()["version"], "v2");
}

#[test]
fn logs_are_json_when_asked_for() {
    let mut command = program(&bundle("v1"));
    command.args(["--log-format", "json"]).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let logged: Value = serde_json::from_str(&line).expect(&line);
    assert_eq!(logged["message"], "ready");
    assert_eq!(logged["version"], "v1");
}

#[test]
fn it_is_ready_at_once() {
    let start = std::time::Instant::now();
    let server = Server::of("v1");
    // The figure to reach is 0.1 s in a release build; a debug build on a busy machine gets more.
    assert!(start.elapsed() < PATIENCE / 10, "{:?}", start.elapsed());
    drop(server);
}
