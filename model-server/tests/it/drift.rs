//! Drift as others measure it, and as an operator sees it.

use std::path::Path;
use std::time::{Duration, Instant};

use model_server::drift::{Drift, Verdict};
use model_server::schema::{Rows, Schema};
use pointsman_telemetry::drift::{Report, Sketch, Values};
use serde_json::{Value, json};

use crate::server::{Server, row};

fn near(found: Option<f64>, wanted: &Value) -> bool {
    (found.unwrap() - wanted.as_f64().unwrap()).abs() < 1e-9
}

#[test]
fn scipy_and_the_plain_formula_find_the_same() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/drift.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut verdicts = vec![];
    for case in cases["cases"].as_array().unwrap() {
        let features = json!([{"name": "x", "type": "numeric", "unit": "1", "range": [-100, 100]}]);
        let rows: u64 = case["trained"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
        let histogram = json!({"edges": case["edges"], "counts": case["trained"]});
        let reference = json!({"rows": rows, "features": {"x": histogram}, "prediction": histogram});
        let schema = Schema::new(serde_json::from_value(features).unwrap()).unwrap();
        let reference = serde_json::from_value(reference).unwrap();
        let drift = Drift::new(&schema, &reference, Duration::from_hours(1));
        let values: Vec<f32> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let rows = Rows { columns: values.clone(), count: values.len(), ..Rows::default() };
        drift.note(&rows, &values, Instant::now());
        let report = drift.report(Instant::now());
        for found in report.features.iter().chain(&report.prediction) {
            assert_eq!(json!(found.counts), case["counts"], "{}", case["name"]);
            assert!(near(found.psi, &case["psi"]) && near(found.ks, &case["ks"]), "{}: {found:?}", case["name"]);
            // What bins cannot see is at most the largest of them.
            let unseen = case["ks_without_bins"].as_f64().unwrap() - found.ks.unwrap();
            assert!((-1e-9..0.11).contains(&unseen), "{}: {unseen}", case["name"]);
        }
        verdicts.push(report.verdict);
    }
    let wanted = [Verdict::Stable, Verdict::Drifted, Verdict::Drifted, Verdict::Drifted, Verdict::Drifted];
    assert_eq!(verdicts, wanted);
}

#[test]
fn golden_calls_are_no_traffic_and_what_is_refused_is_told() {
    let server = Server::of("v1");
    let mut unknown = row();
    unknown["weather"] = json!("hail");
    let send = |body: &Value, golden: bool| {
        let request = ureq::http::Request::post(server.url("/v1/predict"));
        let request = if golden { request.header("x-pointsman-golden", "1") } else { request };
        server.send(request.body(body.to_string())).status
    };
    for (body, status) in [(&row(), 200), (&unknown, 422)] {
        assert_eq!((send(body, false), send(body, true)), (status, status));
    }
    let text = json!({"inputs": [{"name": "weather", "datatype": "BYTES", "shape": [1], "data": ["hail"]}]});
    assert_eq!(server.post("/v2/models/delivery-time/infer", &text.to_string()).status, 400, "too few inputs");
    let tensor = |(name, value): (&String, &Value)| {
        let datatype = match value {
            Value::String(_) => "BYTES",
            Value::Bool(_) => "BOOL",
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => "FP64",
        };
        json!({"name": name, "datatype": datatype, "shape": [1], "data": [value]})
    };
    let inputs: Vec<Value> = unknown.as_object().unwrap().iter().map(tensor).collect();
    assert_eq!(server.post("/v2/models/delivery-time/infer", &json!({"inputs": inputs}).to_string()).status, 422);
    let report = server.get("/v1/drift").json();
    assert_eq!((&report["rows"], &report["refused"]), (&json!(1), &json!(2)));
}

#[test]
fn an_operator_sees_which_feature_moved() {
    let server = Server::of("v1");
    let before = server.get("/v1/drift").json();
    assert_eq!((&before["verdict"], &before["rows"]), (&json!("too_few_rows"), &json!(0)));
    server.post("/v1/predict", &row().to_string());
    assert!(!server.get("/metrics").body.contains("drift_psi{"), "one row is no drift");
    let mut far = row();
    far["distance_km"] = json!(14.5);
    for _ in 0..5 {
        server.post("/v1/predict/batch", &json!({"instances": vec![far.clone(); 100]}).to_string());
    }
    let report = server.get("/v1/drift").json();
    assert_eq!((&report["verdict"], &report["rows"]), (&json!("drifted"), &json!(501)));
    assert_eq!(report["reference_rows"], 8000);
    assert!(report["summary"].as_str().unwrap().contains("distance_km (PSI"), "{}", report["summary"]);
    let distance = &report["features"][0];
    assert_eq!(distance["name"], "distance_km");
    assert_eq!(distance["counts"].as_array().unwrap().last(), Some(&json!(500)));
    assert!(report["prediction"]["psi"].as_f64().unwrap() > 0.25);
    let metrics = server.get("/metrics").body;
    for series in [
        r#"model_server_drift_psi{feature="distance_km",model="delivery-time",version="v1"} "#,
        r#"model_server_prediction_drift_psi{model="delivery-time",version="v1"} "#,
    ] {
        let line = metrics.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series}"));
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.25, "{line}");
    }
}

#[test]
fn counts_since_the_start_are_told_for_whoever_adds_them_up() {
    let server = Server::of("v1");
    server.post("/v1/predict/batch", &json!({"instances": vec![row(); 30]}).to_string());
    let mut far = row();
    far["distance_km"] = json!(14.5);
    server.post("/v1/predict", &far.to_string());
    let told: Report = serde_json::from_str(&server.get("/v1/drift/sketch").body).unwrap();
    assert_eq!((told.format, told.model.as_str(), told.version.as_str(), told.rows), (1, "delivery-time", "v1", 31));
    assert_eq!(told.requests, Some(2), "rows of one request are alike");
    for (name, found) in &told.distributions {
        let counted = match &found.values {
            Values::Numbers(sketch) => sketch.total(),
            Values::Categories { counts } => counts.values().sum(),
        };
        let training = found.training.as_ref().unwrap();
        assert_eq!((counted, training.counts.iter().sum::<u64>()), (31, 31), "{name}");
        assert_eq!(found.is_prediction, name == "prediction");
    }
    let Values::Numbers(distance) = &told.distributions["distance_km"].values else { panic!("{told:?}") };
    let mut same = Sketch::default();
    let near = row()["distance_km"].as_f64().unwrap() as f32;
    for _ in 0..30 {
        same.count(near);
    }
    same.count(14.5);
    assert_eq!(*distance, same);
    let Values::Categories { counts } = &told.distributions["priority"].values else { panic!("{told:?}") };
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["false", "true"]);
    let again: Report = serde_json::from_str(&server.get("/v1/drift/sketch").body).unwrap();
    assert_eq!(again, told, "the process is the same, and nothing was counted");
    let other: Report = serde_json::from_str(&Server::of("v1").get("/v1/drift/sketch").body).unwrap();
    assert_ne!(other.instance, told.instance);
}

#[test]
fn refused_rows_and_golden_examples_are_no_traffic() {
    let server = Server::of("v1");
    server.post("/v1/predict", "{}");
    assert_eq!(server.get("/v1/drift").json()["rows"], 0);
}
