//! What `/openapi.json` answers: an `OpenAPI` 3.1 description made from the bundle's schema, so that each model has a
//! request type of its own, with its ranges, categories and examples. `docs` shows it to people.

use serde_json::{Map, Value, json};

use crate::bundle::Output;
use crate::findings::LISTED;
use crate::http::Limits;
use crate::schema::{Feature, OutOfRange, Schema};

/// How many of the golden examples are shown.
const EXAMPLES: usize = 3;

/// What the description is made of.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The model's version.
    pub version: &'a str,
    /// What a row holds.
    pub schema: &'a Schema,
    /// What is predicted.
    pub output: &'a Output,
    /// `model.json`.
    pub manifest: &'a Value,
}

/// The description, as JSON.
pub fn document(model: Described<'_>, limits: Limits) -> Value {
    let kind = type_name(model.name);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": model.name,
            "version": model.version,
            "description": format!(
                "{}\n\nThe Open Inference Protocol v2 is served under `/v2` and, as gRPC, on the same port; its own description holds for it.",
                model.manifest["description"].as_str().unwrap_or("A model.")
            ),
        },
        "paths": paths(model, &kind),
        "components": { "schemas": schemas(model, &kind, limits) },
    })
}

/// `delivery-time` becomes `DeliveryTime`.
fn type_name(model: &str) -> String {
    let words = model.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let joined: String = words
        .flat_map(|word| {
            let (first, rest) = word.split_at(1);
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect();
    if joined.is_empty() { "Model".to_owned() } else { joined }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn paths(model: Described<'_>, kind: &str) -> Value {
    let rows = example_rows(model.manifest);
    let batch = json!({"instances": rows});
    let single: Map<String, Value> = rows
        .iter()
        .enumerate()
        .map(|(number, row)| (format!("golden example {}", number + 1), json!({"value": row})))
        .collect();
    let many = json!({"golden examples": {"value": batch}});
    json!({
        "/v1/predict": predict("predict", "One prediction", [&format!("{kind}Row"), &format!("{kind}Prediction")], &single.into()),
        "/v1/predict/batch": predict("predictBatch", "Many predictions at once", [&format!("{kind}Batch"), &format!("{kind}Predictions")], &many),
        "/v1/model": read("describeModel", "The bundle without its weights", &json!({"type": "object", "required": ["name", "version", "features", "signature", "sha256"]})),
        "/v1/drift": read("drift", "How the traffic differs from training", &json!({"type": "object", "required": ["verdict", "summary", "rows", "features"]})),
        "/v1/drift/sketch": read("driftSketch", "Counts of inputs and predictions since the start, which add up over servers", &json!({"type": "object", "required": ["format", "instance", "model", "version", "rows", "distributions"]})),
        "/health": read("health", "200 while the process can work", &status_schema(&["ok"])),
        "/ready": ready(),
        "/metrics": text("metrics", "Prometheus' text format", "text/plain"),
        "/openapi.json": read("openapi", "This description", &json!({"type": "object", "required": ["openapi", "info", "paths"]})),
        "/docs": text("docs", "This description, for people", "text/html"),
    })
}

fn example_rows(manifest: &Value) -> Vec<&Value> {
    let examples = manifest.pointer("/golden/examples").and_then(Value::as_array);
    examples.into_iter().flatten().filter_map(|example| example.get("input")).take(EXAMPLES).collect()
}

fn predict(id: &str, summary: &str, [request, answer]: [&str; 2], examples: &Value) -> Value {
    json!({ "post": {
        "operationId": id,
        "summary": summary,
        "parameters": [{
            "name": crate::deadline::HEADER,
            "in": "header",
            "description": "Milliseconds after which nobody waits for the answer any more",
            "schema": {"type": "integer", "minimum": 1, "maximum": crate::deadline::LONGEST_MS},
        }],
        "requestBody": {
            "required": true,
            "content": {"application/json": {"schema": reference(request), "examples": examples}},
        },
        "responses": {
            "200": answered("The prediction", "application/json", &reference(answer)),
            "400": problem("The header with the deadline is no number, or the body broke off"),
            "408": problem("The body did not come in time"),
            "413": problem("The body, or the batch, is too large"),
            "415": problem("The body is compressed"),
            "422": answered("Everything that is wrong with the body", "application/json", &reference("ValidationErrors")),
            "429": problem("The queue is full; `retry-after` says when to come again"),
            "500": problem("The model failed, or predicted what nobody should believe"),
            "503": problem("The model is not loaded yet"),
            "504": problem("The deadline passed"),
        },
    }})
}

fn read(id: &str, summary: &str, schema: &Value) -> Value {
    json!({ "get": {
        "operationId": id,
        "summary": summary,
        "responses": {
            "200": answered(summary, "application/json", schema),
            "503": problem("The model is not loaded yet"),
        },
    }})
}

fn ready() -> Value {
    json!({ "get": {
        "operationId": "ready",
        "summary": "200 when the model is loaded and its golden examples pass",
        "responses": {
            "200": answered("Ready", "application/json", &status_schema(&["ready"])),
            "503": answered("Not ready, and why", "application/json", &status_schema(&["starting", "failing", "draining"])),
        },
    }})
}

fn text(id: &str, summary: &str, kind: &str) -> Value {
    json!({ "get": {
        "operationId": id,
        "summary": summary,
        "responses": {"200": answered(summary, kind, &json!({"type": "string"}))},
    }})
}

fn status_schema(states: &[&str]) -> Value {
    json!({"type": "object", "required": ["status"], "properties": {"status": {"enum": states}, "reason": {"type": "string"}}})
}

fn answered(description: &str, kind: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {kind: {"schema": schema}}})
}

fn problem(description: &str) -> Value {
    answered(description, "application/problem+json", &reference("Problem"))
}

fn schemas(model: Described<'_>, kind: &str, limits: Limits) -> Map<String, Value> {
    let prediction = prediction(model.output);
    [
        (format!("{kind}Row"), row(model.schema)),
        (format!("{kind}Batch"), batch(kind, limits.batch_rows)),
        (format!("{kind}Prediction"), answer("prediction", &prediction)),
        (format!("{kind}Predictions"), answer("predictions", &json!({"type": "array", "items": prediction}))),
        ("ValidationErrors".to_owned(), validation_errors()),
        ("ValidationError".to_owned(), validation_error()),
        ("Problem".to_owned(), problem_schema()),
    ]
    .into_iter()
    .collect()
}

fn row(schema: &Schema) -> Value {
    let names: Vec<&str> = schema.features().map(Feature::name).collect();
    let properties: Map<String, Value> =
        schema.features().map(|feature| (feature.name().to_owned(), value(feature))).collect();
    json!({"type": "object", "required": names, "properties": properties, "additionalProperties": false})
}

fn value(feature: &Feature) -> Value {
    match feature {
        Feature::Numeric { unit, range: [low, high], out_of_range: OutOfRange::Refuse, .. } => {
            json!({"type": "number", "minimum": low, "maximum": high, "description": format!("in {unit}")})
        }
        Feature::Numeric { unit, range: [low, high], out_of_range: OutOfRange::Clamp, .. } => json!({
            "type": "number",
            "description": format!("in {unit}; below {low} and above {high} the nearest of the two is taken, with a warning"),
        }),
        Feature::Boolean { .. } => json!({"type": "boolean"}),
        Feature::Categorical { categories, .. } => json!({"type": "string", "enum": categories}),
        Feature::Text { length: [shortest, longest], .. } => {
            json!({"type": "string", "minLength": shortest, "maxLength": longest})
        }
    }
}

fn batch(kind: &str, most_rows: usize) -> Value {
    json!({
        "type": "object",
        "required": ["instances"],
        "properties": {
            // What is too long is 413 and not 422, as the contract has it, so it is no matter of the schema.
            "instances": {
                "type": "array",
                "items": reference(&format!("{kind}Row")),
                "minItems": 1,
                "description": format!("at most {most_rows}, else 413"),
            },
        },
        "additionalProperties": false,
    })
}

fn prediction(output: &Output) -> Value {
    let [low, high] = output.range;
    let Output { name, unit, size, .. } = output;
    let description = format!("{name}, in {unit}");
    match size {
        None => json!({"type": "number", "minimum": low, "maximum": high, "description": description}),
        Some(size) => json!({
            "type": "array",
            "items": {"type": "number", "minimum": low, "maximum": high},
            "minItems": size,
            "maxItems": size,
            "description": description,
        }),
    }
}

fn answer(key: &str, prediction: &Value) -> Value {
    json!({
        "type": "object",
        "required": [key, "model", "version"],
        "properties": {
            key: prediction,
            "model": {"type": "string"},
            "version": {"type": "string"},
            "warnings": {"type": "array", "items": reference("ValidationError"), "maxItems": LISTED},
        },
    })
}

fn validation_errors() -> Value {
    json!({
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {"type": "array", "items": reference("ValidationError")},
            "omitted": {"type": "integer", "description": "How many more there are than are listed"},
        },
    })
}

fn validation_error() -> Value {
    json!({
        "type": "object",
        "required": ["loc", "msg", "type"],
        "properties": {
            "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            "msg": {"type": "string"},
            "type": {"type": "string"},
        },
    })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": "string"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_gives_its_types_a_name() {
        assert_eq!(type_name("delivery-time"), "DeliveryTime");
        assert_eq!(type_name("eta_v2.1"), "EtaV21");
        assert_eq!(type_name("über"), "Ber");
        assert_eq!(type_name("-"), "Model");
    }

    #[test]
    fn a_clamped_number_has_no_bounds_that_a_client_would_be_held_to() {
        let features = r#"[{"name":"a","type":"numeric","unit":"km","range":[0,2],"out_of_range":"clamp"},
            {"name":"b","type":"numeric","unit":"km","range":[0,2]}]"#;
        let schema = Schema::new(serde_json::from_str(features).unwrap()).unwrap();
        let row = row(&schema);
        assert_eq!(row["properties"]["a"]["maximum"], Value::Null);
        assert_eq!(row["properties"]["b"]["maximum"], 2.0);
    }
}
