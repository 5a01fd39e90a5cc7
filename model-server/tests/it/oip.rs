//! The Open Inference Protocol: with Triton's own clients, and byte by byte.

use std::path::Path;

use serde_json::{Value, json};

use crate::embedding::tiny;
use crate::python::{self, TRITON_CLIENTS};
use crate::server::{Reply, Server, program, row};

#[test]
fn clients_of_triton_get_what_the_notebook_predicts() {
    let Some(python) = python::with("triton", TRITON_CLIENTS) else {
        return;
    };
    let server = Server::of("v1");
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/predictions_v1.json");
    python.run("triton_clients.py", &[&server.address.to_string(), expected.to_str().unwrap()]);
    let metrics = server.get("/metrics").body;
    for counted in [r#"code="200",endpoint="v2_infer""#, r#"code="422",endpoint="grpc""#, r#"code="404",endpoint="v2""#]
    {
        assert!(metrics.contains(counted), "{counted} not in\n{metrics}");
    }
}

/// The row as tensors of JSON.
fn tensors() -> Vec<Value> {
    let tensor = |(name, value): (&String, &Value)| {
        let datatype = match value {
            Value::Bool(_) => "BOOL",
            Value::String(_) => "BYTES",
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => "FP64",
        };
        json!({"name": name, "shape": [1, 1], "datatype": datatype, "data": [[value]]})
    };
    row().as_object().unwrap().iter().map(tensor).collect()
}

fn infer(server: &Server, body: &Value) -> Reply {
    server.post("/v2/models/delivery-time/infer", &body.to_string())
}

#[test]
fn a_tensor_of_one_row_and_a_row_predict_the_same() {
    let server = Server::of("v1");
    let wanted = server.post("/v1/predict", &row().to_string()).json()["prediction"].as_f64().unwrap();
    let answer = infer(&server, &json!({"id": "a b", "inputs": tensors()}));
    assert_eq!(answer.header("content-type"), "application/json");
    let output = json!({"name": "delivery_minutes", "datatype": "FP32", "shape": [1, 1], "data": [wanted]});
    let whole = json!({"model_name": "delivery-time", "model_version": "v1", "id": "a b", "outputs": [output]});
    assert_eq!(answer.json(), whole);
    let versioned =
        server.post("/v2/models/delivery%2Dtime/versions/v1/infer", &json!({"inputs": tensors()}).to_string());
    assert_eq!(versioned.status, 200, "{}", versioned.body);
}

#[test]
fn texts_and_vectors_are_tensors_too() {
    let server = Server::start(&mut program(&tiny()));
    let model = server.get("/v1/model").json();
    let name = model["name"].as_str().unwrap();
    let described = server.get(&format!("/v2/models/{name}")).json();
    assert_eq!(described["inputs"], json!([{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]));
    assert_eq!(described["outputs"], json!([{"name": "embedding", "datatype": "FP32", "shape": [-1, 24]}]));
    let texts = ["A courier rides through the rain.", "Soup, hot."];
    let instances: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    let wanted = server.post("/v1/predict/batch", &json!({"instances": instances}).to_string()).json();
    let inputs = json!([{"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}]);
    let answer = server.post(&format!("/v2/models/{name}/infer"), &json!({"inputs": inputs}).to_string()).json();
    let output = &answer["outputs"][0];
    assert_eq!(output["shape"], json!([2, 24]));
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let wanted: Vec<f64> = wanted["predictions"].as_array().unwrap().iter().flat_map(numbers).collect();
    let found = numbers(&output["data"]);
    assert!(found.len() == 48 && found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-5));
    assert_eq!(server.get("/v1/drift").json()["rows"], 4);
    let document = server.get("/openapi.json").json();
    let text =
        document["components"]["schemas"].as_object().unwrap().values().find_map(|s| s["properties"].get("text"));
    assert_eq!(text.unwrap()["maxLength"], 8192);
}

#[test]
fn what_is_wrong_is_said_as_the_protocol_has_it() {
    let server = Server::of("v1");
    let check = |change: fn(&mut Value), status: u16, words: &str| {
        let mut body = json!({"inputs": tensors()});
        change(&mut body);
        let reply = infer(&server, &body);
        let said = reply.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, status, "{said}");
        assert!(said.contains(words), "`{words}` not in `{said}`");
    };
    check(|body| body["inputs"][0]["datatype"] = json!("FP16"), 400, "`FP16` is not taken");
    check(|body| body["inputs"][2]["data"] = json!([1, 2]), 400, "holds 2 elements");
    check(|body| body["inputs"][0]["shape"] = json!([0]), 400, "has the shape [0]");
    check(|body| body["inputs"][0]["shape"] = json!([-1, 1]), 400, "has the shape [-1, 1]");
    check(|body| body["inputs"][0]["name"] = json!("altitude"), 400, "there is no input `altitude`");
    check(|body| body["inputs"][1] = body["inputs"][0].clone(), 400, "stands twice");
    check(|body| body["inputs"] = json!([]), 400, "is missing");
    check(|body| body["outputs"] = json!([{"name": "price"}]), 400, "no output `price`");
    check(|body| body["inputs"][0]["parameters"] = json!({"binary_data_size": 4}), 400, "fewer bytes");
    check(|body| body["inputs"][0]["data"] = json!("x"), 400, "");
    check(|body| *body = json!({"inputs": 7}), 400, "not understood");
    check(|body| body["inputs"][0]["datatype"] = json!("BYTES"), 400, "data that is not BYTES");
    let invalid = {
        let mut body = json!({"inputs": tensors()});
        for input in body["inputs"].as_array_mut().unwrap() {
            if input["datatype"] == "FP64" {
                input["data"] = json!([-1e9]);
            }
        }
        infer(&server, &body)
    };
    assert_eq!(invalid.status, 422);
    assert_eq!(invalid.json()["detail"].as_array().unwrap().len(), 6);
    assert_eq!(invalid.json()["detail"][0]["loc"].as_array().unwrap().len(), 4);
}

#[test]
fn other_paths_and_models_are_not_found_in_the_protocols_own_form() {
    let server = Server::of("v1");
    for path in ["/v2/", "/v2/models", "/v2/models/other", "/v2/models/delivery-time/versions/v2", "/v2/nothing"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}: {}", reply.body);
    }
    let get = server.get("/v2/models/delivery-time/infer");
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    assert_eq!(server.get("/v2/health/live").json(), json!({"live": true}));
}
