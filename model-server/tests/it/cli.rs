//! `verify` and `describe`: what is said of a bundle, and the exit code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::embedding::tiny;
use crate::server::{Server, bundle, copy_of};
use crate::trees::kept;

fn asked(order: &str, bundle: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-server"));
    command.env_clear().arg(order).arg(bundle).args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn whole_bundles_of_every_architecture_are_verified() {
    for (bundle, words) in [
        (bundle("v1"), "16 examples pass"),
        (kept("xgboost"), "fit gradient_boosted_trees on cpu"),
        (tiny(), "would be served"),
    ] {
        let found = said(&asked("verify", &bundle, &[]));
        assert!(found.contains(words), "`{words}` not in: {found}");
        assert!(found.contains("golden"), "{found}");
    }
}

#[test]
fn a_bundle_that_would_not_be_served_ends_in_exit_code_1() {
    let folder = copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    model["golden"]["examples"][3]["prediction"] = 1.into();
    fs::write(&file, model.to_string()).unwrap();
    let output = asked("verify", folder.path(), &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("golden example 3 gives"), "{error}");
    let output = asked("verify", &bundle("v1"), &["--sha256", &"0".repeat(64)]);
    assert_eq!(output.status.code(), Some(1));
    let output = asked("verify", &bundle("v1"), &["--sha256", "short"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_bundle_is_described_in_words() {
    let found = said(&asked("describe", &bundle("v1"), &[]));
    for wanted in [
        "model         delivery-time v1",
        "architecture  mlp",
        "distance_km   number, 0.1 to 15 km",
        "vehicle       one of on_foot, bicycle, scooter, car",
        "output        delivery_minutes, 0 to 480 min",
        "golden        16 examples, tolerance 0.001",
    ] {
        assert!(found.contains(wanted), "`{wanted}` not in: {found}");
    }
    let found = said(&asked("describe", &tiny(), &[]));
    assert!(found.contains("a vector of 24 values") && found.contains("text of 0 to 8192 characters"), "{found}");
}

#[test]
fn machines_read_what_the_server_would_answer() {
    let found: Value = serde_json::from_str(&said(&asked("describe", &bundle("v1"), &["--json"]))).unwrap();
    assert_eq!(found, Server::of("v1").get("/v1/model").json());
}
