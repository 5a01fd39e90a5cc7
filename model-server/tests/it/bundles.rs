//! A bundle that is not whole gives one clear error and exit code 1.

use std::fs;
use std::path::Path;

use model_server::artifact::Sha256;
use serde_json::{Value, json};

use crate::embedding::tiny;
use crate::server::{bundle, copy_of, program};
use crate::trees::kept;

/// Starts the server on what `damage` left of a good bundle.
fn check(damage: impl FnOnce(&Path), wanted: &str) {
    let folder = copy_of("v1");
    damage(folder.path());
    let ended = program(folder.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(wanted), "`{wanted}` not in: {said}");
    assert_eq!(said.lines().count(), 1, "one error, on one line: {said}");
    assert!(said.starts_with("error: "), "{said}");
}

/// Starts the server on what `damage` left of a copy of another bundle.
fn check_other(bundle: &Path, damage: impl FnOnce(&Path), wanted: &str) {
    let inside = |folder: &Path| {
        for entry in fs::read_dir(bundle).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
        damage(folder);
    };
    check(inside, wanted);
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let file = folder.join("model.json");
    let mut model: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut model);
    fs::write(file, model.to_string()).unwrap();
}

/// Replaces the weights, and their digest with them.
fn replace_weights(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let file = folder.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(file, &bytes).unwrap();
    let digest = Sha256::of(&bytes).to_string();
    edit(folder, |model| model["digests"]["model.safetensors"] = json!(digest));
}

#[test]
fn weights_that_are_not_those_of_the_digest() {
    let flip = |folder: &Path| {
        let file = folder.join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    check(flip, "has the SHA-256");
}

#[test]
fn weights_that_were_cut_off() {
    let cut = |folder: &Path| {
        let file = folder.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    };
    check(cut, "has the SHA-256");
    check(
        |folder| replace_weights(folder, |bytes| bytes.truncate(bytes.len() / 2)),
        "model.safetensors cannot be read",
    );
    check(|folder| replace_weights(folder, |bytes| bytes.truncate(5)), "model.safetensors cannot be read");
    check(|folder| replace_weights(folder, Vec::clear), "model.safetensors cannot be read");
    check(|folder| replace_weights(folder, |bytes| bytes[..8].fill(0xff)), "model.safetensors cannot be read");
}

#[test]
fn weights_that_are_no_numbers() {
    for wrong in [f32::NAN, f32::INFINITY] {
        let spoil = |bytes: &mut Vec<u8>| {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&wrong.to_le_bytes());
        };
        check(|folder| replace_weights(folder, spoil), "holds NaN or an infinite weight");
    }
}

#[test]
fn weights_of_another_shape() {
    check(
        |folder| edit(folder, |model| model["mlp"]["hidden"] = json!([64, 64])),
        "by model.json it should be f32 [64, 24]",
    );
    check(|folder| edit(folder, |model| model["mlp"]["hidden"] = json!([128])), "the tensor `layers.1.weight` is");
    check(
        |folder| edit(folder, |model| model["mlp"]["hidden"] = json!([128, 64, 1])),
        "has no tensor `layers.3.weight`",
    );
    let fewer = |model: &mut Value| {
        model["features"].as_array_mut().unwrap().pop();
        model["reference"]["features"].as_object_mut().unwrap().remove("apartment");
    };
    check(|folder| edit(folder, fewer), "by model.json it should be f32 [128, 23]");
    check(
        |folder| edit(folder, |model| model["mlp"]["scaler"]["scale"][3] = json!(0.0)),
        "the scaler in model.json needs 24",
    );
}

#[test]
fn descriptions_that_nobody_here_understands() {
    check(|folder| fs::write(folder.join("model.json"), "{ not json").unwrap(), "model.json cannot be understood");
    check(|folder| fs::write(folder.join("model.json"), "").unwrap(), "model.json cannot be understood");
    check(
        |folder| edit(folder, |model| model["architecture"] = json!("transformer")),
        "the architecture `transformer` is unknown",
    );
    check(|folder| edit(folder, |model| model["format"] = json!(2)), "format 2");
    check(|folder| edit(folder, |model| model["features"][0]["rnage"] = json!([0, 1])), "unknown field `rnage`");
    check(|folder| edit(folder, |model| drop(model.as_object_mut().unwrap().remove("mlp"))), "model.json needs `mlp`");
    check(
        |folder| edit(folder, |model| drop(model.as_object_mut().unwrap().remove("golden"))),
        "missing field `golden`",
    );
    check(|folder| edit(folder, |model| model["golden"]["examples"] = json!([])), "at least one golden example");
    check(|folder| edit(folder, |model| model["features"][0]["range"] = json!([9, 1])), "the range of `distance_km`");
    check(|folder| edit(folder, |model| model["features"][1]["name"] = json!("hour")), "`hour` is listed twice");
    check(
        |folder| edit(folder, |model| model["reference"]["features"]["day"]["counts"] = json!([1, 2])),
        "the training reference of `day`",
    );
}

#[test]
fn shapes_that_are_not_those_of_the_architecture() {
    let shape = json!({"trees": 1, "nodes": 1, "start": 0.0, "link": "identity"});
    check(
        |folder| edit(folder, |model| model["gradient_boosted_trees"] = shape),
        "model.json has `gradient_boosted_trees`, but its architecture is `mlp`",
    );
    check(|folder| edit(folder, |model| model["output"]["size"] = json!(3)), "the training reference of `prediction`");
    let text = |model: &mut Value| {
        let histogram = json!({"edges": [0, 1], "counts": [8000]});
        model["reference"]["features"]["note"] = histogram;
        model["features"].as_array_mut().unwrap().push(json!({"name": "note", "type": "text", "length": [0, 9]}));
    };
    check(|folder| edit(folder, text), "the architecture `mlp` reads numbers, booleans and categories, and no text");
    check(
        |folder| edit(folder, |model| model["mlp"]["hidden"] = json!([128, 0])),
        "that a hidden layer has no neurons",
    );
}

#[test]
fn trees_that_are_none() {
    let of = |change: fn(&mut Value), wanted: &str| {
        check_other(&kept("xgboost"), |folder| edit(folder, change), wanted);
    };
    of(|model| model["gradient_boosted_trees"]["nodes"] = json!(7), "the tensor `nodes.column` is");
    of(|model| model["gradient_boosted_trees"]["link"] = json!("softmax"), "unknown variant `softmax`");
    of(|model| model["gradient_boosted_trees"]["nodes"] = json!(u64::MAX), "the tensor `nodes.column` is");
    // The last of 8 bytes of the last leaf, then the right child of the last inner node: past the end.
    let spoil = |folder: &Path| {
        replace_weights(folder, |bytes| {
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&[0xf0, 0x7f]);
        });
    };
    check_other(&kept("xgboost"), spoil, "the tensor `nodes.value` holds NaN");
}

#[test]
fn encoders_that_do_not_fit() {
    let of = |change: fn(&mut Value), wanted: &str| check_other(&tiny(), |folder| edit(folder, change), wanted);
    of(|model| model["bert"]["heads"] = json!(5), "24 values are looked at in 5 equal parts");
    of(|model| model["bert"]["heads"] = json!(0), "24 values are looked at in 0 equal parts");
    of(|model| model["bert"]["truncate_at_tokens"] = json!(33), "texts end at 33 tokens, but that takes 3 to 32");
    of(|model| model["bert"]["layers"] = json!(1), "that model.json gives no place");
    of(|model| model["bert"]["layers"] = json!(3), "has no tensor `encoder.layer.2.attention.output.dense.weight`");
    of(|model| model["bert"]["vocabulary"] = json!(u64::MAX), "the tensor `embeddings.word_embeddings.weight` is");
    of(|model| model["bert"]["vocabulary"] = json!(9), "there are 9 tokens, but tokenizer.json has");
    of(|model| model["bert"]["intermediate"] = json!(0), "0 in the middle");
    of(|model| model["output"]["size"] = json!(23), "a prediction of this model has 24 values");
    of(
        |model| drop(model["digests"].as_object_mut().unwrap().remove("tokenizer.json")),
        "`tokenizer.json` is not listed",
    );
    of(|model| model["golden"]["examples"][0]["prediction"] = json!(1.0), "lists 1 values, but a prediction");
    let tokenizer = |folder: &Path, text: &str| {
        fs::write(folder.join("tokenizer.json"), text).unwrap();
        let digest = Sha256::of(text.as_bytes()).to_string();
        edit(folder, |model| model["digests"]["tokenizer.json"] = json!(digest));
    };
    check_other(&tiny(), |folder| tokenizer(folder, "{}"), "tokenizer.json cannot be understood");
    // The library that reads it panics at both.
    let spoilt = |of: &str, by: &str| {
        let text = fs::read_to_string(tiny().join("tokenizer.json")).unwrap();
        assert!(text.contains(of), "{of} is not there to be spoilt");
        let text = text.replacen(of, by, 1);
        check_other(&tiny(), |folder| tokenizer(folder, &text), "tokenizer.json cannot be understood");
    };
    spoilt(r#""vocab": {"#, r#""vocab": {,"#);
    spoilt(r#""special_tokens": {"[CLS]""#, r#""special_tokens": {"[CLX]""#);
    let bare = |folder: &Path| {
        let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
        let mut described: Value = serde_json::from_str(&text).unwrap();
        described["post_processor"] = Value::Null;
        tokenizer(folder, &described.to_string());
    };
    check_other(&tiny(), bare, "tokenizer.json adds no tokens of its own");
}

#[test]
fn golden_examples_that_the_schema_refuses() {
    check(
        |folder| edit(folder, |model| model["golden"]["examples"][0]["input"]["hour"] = json!(99)),
        "golden example 0 cannot be predicted: the body does not fit the schema: body.hour",
    );
}

#[test]
fn files_that_are_missing_or_lie_elsewhere() {
    check(|folder| fs::remove_file(folder.join("model.json")).unwrap(), "model.json cannot be read");
    check(|folder| fs::remove_file(folder.join("model.safetensors")).unwrap(), "model.safetensors cannot be read");
    check(
        |folder| edit(folder, |model| model["digests"] = json!({})),
        "`model.safetensors` is not listed under `digests`",
    );
    check(|folder| edit(folder, |model| model["digests"]["../secret"] = json!("00")), "is no plain file name");
    check(|folder| edit(folder, |model| model["digests"]["/etc/passwd"] = json!("00")), "is no plain file name");
    check(|folder| fs::remove_dir_all(folder).unwrap(), "is not a folder");
}

#[test]
fn the_operators_own_digest_is_compared() {
    let promised = |digest: &str| program(&bundle("v1")).env("MODEL_SHA256", digest).output().unwrap();
    let ended = promised(&"0".repeat(64));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("MODEL_SHA256 promises 0000"), "{said}");
    let text = fs::read(bundle("v1").join("model.json")).unwrap();
    let digest = Sha256::of(&text).to_string();
    let mut command = program(&bundle("v1"));
    let server = crate::server::Server::start(command.env("MODEL_SHA256", &digest));
    assert_eq!(server.get("/v1/model").json()["sha256"], json!(digest));
}
