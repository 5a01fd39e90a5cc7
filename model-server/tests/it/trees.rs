//! Gradient-boosted trees predict what the library predicts that trained them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::golden::expected_rows;
use crate::python;
use crate::server::{Server, program};

/// A bundle of trees that ships with the tests.
pub(crate) fn kept(library: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trees").join(library)
}

/// Compares the server with the library's own predictions for 1,200 rows that no training saw.
fn check(bundle: &Path) {
    let server = Server::start(&mut program(bundle));
    let wanted: Vec<f64> = serde_json::from_str(&fs::read_to_string(bundle.join("expected.json")).unwrap()).unwrap();
    let rows = expected_rows();
    assert_eq!(rows.len(), wanted.len());
    assert!(rows.len() >= 1_000);
    let answer = server.post("/v1/predict/batch", &json!({"instances": rows}).to_string()).json();
    let batch: Vec<f64> = answer["predictions"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_near(&batch, &wanted);
    let single = |row: &Value| server.post("/v1/predict", &row.to_string()).json()["prediction"].as_f64().unwrap();
    assert_near(&rows.iter().take(100).map(single).collect::<Vec<_>>(), &wanted[..100]);
}

fn assert_near(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (row, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let off = (found - wanted).abs();
        assert!(off <= 1e-5 * wanted.abs().max(1.0), "row {row}: {found}, the library says {wanted}");
    }
}

#[test]
fn trees_of_scikit_learn_predict_what_it_predicts() {
    check(&kept("scikit-learn"));
}

#[test]
fn trees_of_xgboost_predict_what_it_predicts() {
    check(&kept("xgboost"));
}

#[test]
fn trees_of_a_classifier_give_its_chances() {
    check(&kept("late"));
}

#[test]
fn whatever_is_trained_now_predicts_what_its_library_predicts() {
    let Some(python) = python::with("trees", &["numpy", "scikit-learn", "xgboost-cpu"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    python.run("train_trees.py", &[folder.path().to_str().unwrap()]);
    for library in ["scikit-learn", "hist", "xgboost", "late"] {
        check(&folder.path().join(library));
    }
}
