//! What the notebook predicted, in another language, another library and another precision, the server predicts.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::server::{Server, copy_of, program};

/// Rows that no training saw, and the notebook's predictions for them.
struct Expected {
    rows: Vec<Value>,
    predictions: Vec<f64>,
}

fn expected(version: &str) -> Expected {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/predictions_{version}.json"));
    let read: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let columns: Vec<&str> = read["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let mut expected = Expected { rows: vec![], predictions: vec![] };
    for row in read["rows"].as_array().unwrap() {
        let mut fields: Map<String, Value> = columns
            .iter()
            .zip(row.as_array().unwrap())
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        expected.predictions.push(fields.remove("prediction").unwrap().as_f64().unwrap());
        expected.rows.push(fields.into());
    }
    assert!(expected.rows.len() >= 1_000);
    expected
}

/// Rows that no training saw.
pub(crate) fn expected_rows() -> Vec<Value> {
    expected("v1").rows
}

fn assert_near(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (row, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= 1e-4, "row {row}: {found}, the notebook says {wanted}");
    }
}

fn single_predictions_agree(version: &str) {
    let server = Server::of(version);
    let expected = expected(version);
    let found: Vec<f64> = expected
        .rows
        .iter()
        .map(|row| {
            let reply = server.post("/v1/predict", &row.to_string());
            assert_eq!(reply.status, 200, "{}", reply.body);
            let answer = reply.json();
            assert_eq!(answer["model"], "delivery-time");
            assert_eq!(answer["version"], version);
            answer["prediction"].as_f64().unwrap()
        })
        .collect();
    assert_near(&found, &expected.predictions);
}

fn batch_predictions_agree(version: &str, size: usize) {
    let server = Server::of(version);
    let expected = expected(version);
    let mut found = vec![];
    for rows in expected.rows.chunks(size) {
        let reply = server.post("/v1/predict/batch", &json!({"instances": rows}).to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
        let answer = reply.json();
        assert_eq!(answer["version"], version);
        found.extend(answer["predictions"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()));
    }
    assert_near(&found, &expected.predictions);
}

#[test]
fn v1_predicts_what_the_notebook_predicts() {
    single_predictions_agree("v1");
}

#[test]
fn v2_predicts_what_the_notebook_predicts() {
    single_predictions_agree("v2");
}

#[test]
fn v1_predicts_batches_alike_whatever_their_size() {
    for size in [1, 7, 256, 300, 1_200] {
        batch_predictions_agree("v1", size);
    }
}

#[test]
fn v2_predicts_batches_alike() {
    batch_predictions_agree("v2", 1_200);
}

#[test]
fn the_versions_differ() {
    let differing = expected("v1")
        .predictions
        .iter()
        .zip(expected("v2").predictions)
        .filter(|(one, other)| (*one - other).abs() > 0.1)
        .count();
    assert!(differing > 900, "{differing}");
}

#[test]
fn a_model_that_does_not_give_its_golden_predictions_never_starts() {
    let folder = copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let known = &mut model["golden"]["examples"][5]["prediction"];
    *known = json!(known.as_f64().unwrap() + 0.01);
    fs::write(&file, model.to_string()).unwrap();
    let ended = program(folder.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("golden example 5 gives"), "{said}");
    assert_eq!(said.matches("error").count(), 1, "{said}");
}

#[test]
fn until_the_golden_examples_pass_nothing_is_predicted() {
    // So many examples that checking them takes a while.
    let folder = copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let examples = model["golden"]["examples"].as_array().unwrap().clone();
    model["golden"]["examples"] = examples.iter().cycle().take(20_000).cloned().collect();
    fs::write(&file, model.to_string()).unwrap();

    let server = Server::listening(&mut program(folder.path()));
    let ready = server.get("/ready");
    let refused = server.post("/v1/predict", &expected("v1").rows[0].to_string());
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["status"], "starting");
    assert!(ready.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["code"], "not_ready");
    assert_eq!(refused.header("x-pointsman-shed"), "1");
    assert_eq!(refused.header("retry-after"), "1");
    server.until("/ready answers 200", || server.get("/ready").status == 200);
    assert_eq!(server.post("/v1/predict", &expected("v1").rows[0].to_string()).status, 200);
}
