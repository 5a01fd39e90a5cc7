//! What the server says about itself: to programs at `/openapi.json`, to people at `/docs`.

use std::process::Command;

use serde_json::{Value, json};

use crate::python;
use crate::server::{Server, bundle, copy_of, program};

/// What `reference` points to.
fn at<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
    document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}

/// Every `$ref` of a document leads somewhere.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(entries) => {
            if entries.contains_key("$ref") {
                at(document, part);
            }
            entries.values().for_each(|value| check_references(document, value));
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(document, item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_description_has_the_request_type_of_this_model() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_BATCH_ROWS", "77"));
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], "v1");
    check_references(&document, &document);
    let body = &document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"];
    assert_eq!(body["schema"]["$ref"], "#/components/schemas/DeliveryTimeRow");
    let row = at(&document, &body["schema"]);
    assert_eq!(row["required"].as_array().unwrap().len(), 11);
    assert_eq!(row["additionalProperties"], false);
    assert_eq!(row["properties"]["distance_km"]["maximum"], 15.0);
    assert_eq!(row["properties"]["weather"]["enum"], json!(["clear", "cloudy", "rain", "snow", "storm"]));
    let batch = &document["components"]["schemas"]["DeliveryTimeBatch"];
    assert_eq!(batch["properties"]["instances"]["description"], "at most 77, else 413");
}

#[test]
fn its_examples_are_predicted() {
    let server = Server::of("v1");
    let document = server.get("/openapi.json").json();
    for path in ["/v1/predict", "/v1/predict/batch"] {
        let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
        let examples = body["examples"].as_object().unwrap();
        assert!(!examples.is_empty());
        for example in examples.values() {
            let reply = server.post(path, &example["value"].to_string());
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    }
}

#[test]
fn every_described_path_answers_as_described() {
    let server = Server::of("v1");
    let document = server.get("/openapi.json").json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        if let Some(responses) = methods.get("get").map(|get| &get["responses"]) {
            let reply = server.get(path);
            let kinds = responses[reply.status.to_string()]["content"].as_object().unwrap();
            let kind = reply.header("content-type").split(';').next().unwrap().to_owned();
            assert!(kinds.contains_key(&kind), "{path}: {kind}");
        }
    }
}

/// Among what fits the description is a deadline of one millisecond, which a busy machine misses, and, at the very edges of
/// what its features may be, a row of which the example model predicts less than no time. Both are answered as described; no
/// other failure of the server is.
const DESCRIBED_FAILURES: &str = r#"
import schemathesis

DESCRIBED = {(504, "deadline_exceeded"), (500, "prediction_out_of_range")}


@schemathesis.check
def no_failure_but_those_described(context, response, case):
    if response.status_code >= 500:
        code = response.json().get("code")
        assert (response.status_code, code) in DESCRIBED, f"{response.status_code} `{code}`"
"#;

/// Schemathesis makes requests that fit the description, and some that do not, and holds the answers to it. How many
/// it makes for each operation can be said with `SCHEMATHESIS_CASES`.
#[test]
fn what_is_described_is_what_is_done() {
    let Some(python) = python::with("schemathesis", &["schemathesis==4.32.5"]) else {
        return;
    };
    let server = Server::of("v1");
    let cases = std::env::var("SCHEMATHESIS_CASES").unwrap_or_else(|_| "50".to_owned());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hooks.py"), DESCRIBED_FAILURES).unwrap();
    let config = "hooks = \"hooks.py\"\n[checks.not_a_server_error]\nenabled = false\n";
    std::fs::write(folder.path().join("schemathesis.toml"), config).unwrap();
    let mut schemathesis = Command::new(python.program().with_file_name("schemathesis"));
    schemathesis.current_dir(folder.path()).arg("run").arg(server.url("/openapi.json"));
    let ended = schemathesis.args(["--seed", "1", "--max-examples", &cases]).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    // For whoever looks on, as `make conformance` does: how many there were.
    print!("{said}");
}

#[test]
fn the_page_for_people_needs_nothing_from_elsewhere() {
    let server = Server::of("v1");
    let page = server.get("/docs");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(page.body.contains("openapi.json"));
    for elsewhere in ["http://", "https://", "src=", "@import", "url(", "<link"] {
        assert!(!page.body.contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn a_clamped_value_is_let_in_and_named() {
    let folder = copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    model["features"][0]["out_of_range"] = json!("clamp");
    std::fs::write(&file, model.to_string()).unwrap();
    let server = Server::start(&mut program(folder.path()));
    let ask = |distance: f64| {
        let mut row = crate::server::row();
        row["distance_km"] = json!(distance);
        server.post("/v1/predict", &row.to_string()).json()
    };
    let (clamped, at_the_end) = (ask(99.0), ask(15.0));
    assert_eq!(clamped["prediction"], at_the_end["prediction"]);
    let warning = json!({"loc": ["body", "distance_km"], "msg": "Input was lowered to 15", "type": "clamped"});
    assert_eq!(clamped["warnings"], json!([warning]));
    assert_eq!(at_the_end.get("warnings"), None);
}
