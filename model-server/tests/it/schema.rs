//! Whatever a body holds: everything wrong is named, nothing panics, nothing wrong reaches the model.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use model_server::artifact::Folder;
use model_server::bundle::Bundle;
use model_server::model::DeviceName;
use model_server::predict::{Form, PredictError, Served};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::server::{Server, bundle, row};

/// `loc` and `type` of every finding.
fn findings(answer: &Value) -> Vec<(Value, String)> {
    let details = answer["detail"].as_array().unwrap();
    details
        .iter()
        .map(|detail| {
            assert!(detail["msg"].as_str().is_some_and(|msg| !msg.is_empty()));
            (detail["loc"].clone(), detail["type"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn check(server: &Server, path: &str, body: &str, wanted: &[(Value, &str)]) {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 422, "{body}: {}", reply.body);
    assert_eq!(reply.header("content-type"), "application/json");
    let wanted: Vec<_> = wanted.iter().map(|(loc, kind)| (loc.clone(), (*kind).to_owned())).collect();
    assert_eq!(findings(&reply.json()), wanted, "{body}");
}

/// The row with one field replaced by a text that need not be JSON.
fn with(field: &str, raw: &str) -> String {
    let mut row = row();
    row[field] = json!("@");
    row.to_string().replace("\"@\"", raw)
}

#[test]
fn every_kind_of_wrong_field_is_named() {
    let server = Server::of("v1");
    for (field, raw, kind) in [
        ("distance_km", "\"4.2\"", "float_type"),
        ("distance_km", "true", "float_type"),
        ("distance_km", "null", "float_type"),
        ("distance_km", "[1]", "float_type"),
        ("distance_km", "{\"km\":{}}", "float_type"),
        ("distance_km", "NaN", "finite_number"),
        ("distance_km", "Infinity", "finite_number"),
        ("distance_km", "-Infinity", "finite_number"),
        ("distance_km", "1e999", "finite_number"),
        ("distance_km", "0.09", "greater_than_equal"),
        ("distance_km", "15.01", "less_than_equal"),
        ("weather", "\"sunny\"", "literal_error"),
        ("weather", "3", "string_type"),
        ("priority", "1", "bool_type"),
        ("priority", "\"true\"", "bool_type"),
    ] {
        check(&server, "/v1/predict", &with(field, raw), &[(json!(["body", field]), kind)]);
    }
    for (edge, field) in [("0.1", "distance_km"), ("15", "distance_km"), ("24.0", "hour")] {
        assert_eq!(server.post("/v1/predict", &with(field, edge)).status, 200, "{field} {edge}");
    }
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let server = Server::of("v1");
    let mut wrong = row();
    wrong.as_object_mut().unwrap().remove("hour");
    wrong["distanse"] = json!(1);
    wrong["distance_km"] = json!(-1);
    wrong["weather"] = json!("hail");
    let body = wrong.to_string().replacen("\"day\":", "\"traffic\":0.1,\"day\":", 1);
    let mut found = findings(&server.post("/v1/predict", &body).json());
    found.sort_by_key(|(loc, kind)| (loc.to_string(), kind.clone()));
    let wanted = [
        ("distance_km", "greater_than_equal"),
        ("distanse", "extra_forbidden"),
        ("hour", "missing"),
        ("traffic", "duplicate_key"),
        ("weather", "literal_error"),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(field, kind)| (json!(["body", field]), (*kind).to_owned())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_empty_object_lacks_everything() {
    let server = Server::of("v1");
    let found = findings(&server.post("/v1/predict", "{}").json());
    assert_eq!(found.len(), 11);
    assert!(found.iter().all(|(_, kind)| kind == "missing"));
}

#[test]
fn what_is_no_object_or_no_json_is_placed() {
    let server = Server::of("v1");
    for body in ["1", "null", "[]", "\"row\""] {
        check(&server, "/v1/predict", body, &[(json!(["body"]), "dict_type")]);
    }
    for (body, offset) in [("", 0), ("{", 1), ("{\"a\" 1}", 5), ("nonsense", 0)] {
        check(&server, "/v1/predict", body, &[(json!(["body", offset]), "json_invalid")]);
    }
    let whole = row().to_string();
    check(&server, "/v1/predict", &format!("{whole}x"), &[(json!(["body", whole.len()]), "json_invalid")]);
    let deep = with("distance_km", &("[".repeat(5_000) + &"]".repeat(5_000)));
    let found = findings(&server.post("/v1/predict", &deep).json());
    assert_eq!(found.last().map(|(_, kind)| kind.as_str()), Some("json_invalid"));
    let placed = server.post("/v1/predict", "{\n\"hour\": 24.5,\n \"day\" }").json();
    let said = placed["detail"][1]["msg"].as_str().unwrap();
    assert!(said.ends_with("at line 3 column 8"), "{said}");
    assert_eq!(placed["detail"][0]["type"], "less_than_equal");
}

#[test]
fn a_batch_names_the_row() {
    let server = Server::of("v1");
    let mut late = row();
    late["hour"] = json!(25);
    let body = json!({"instances": [row(), late, 7], "extra": {}}).to_string();
    let mut found = findings(&server.post("/v1/predict/batch", &body).json());
    found.sort_by_key(|(loc, _)| loc.to_string());
    let wanted = [
        (json!(["body", "extra"]), "extra_forbidden".to_owned()),
        (json!(["body", "instances", 1, "hour"]), "less_than_equal".to_owned()),
        (json!(["body", "instances", 2]), "dict_type".to_owned()),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_batch_that_is_none_is_named() {
    let server = Server::of("v1");
    let path = "/v1/predict/batch";
    let instances = json!(["body", "instances"]);
    check(&server, path, "[]", &[(json!(["body"]), "dict_type")]);
    check(&server, path, "{}", &[(instances.clone(), "missing")]);
    check(&server, path, r#"{"instances":{}}"#, &[(instances.clone(), "list_type")]);
    check(&server, path, r#"{"instances":[]}"#, &[(instances.clone(), "too_short")]);
    let twice = format!(r#"{{"instances":[{0}],"instances":[{0}]}}"#, row());
    check(&server, path, &twice, &[(instances, "duplicate_key")]);
}

#[test]
fn the_list_of_findings_is_bounded() {
    let server = Server::of("v1");
    let answer = server.post("/v1/predict/batch", &json!({"instances": vec![json!({}); 1_000]}).to_string()).json();
    let listed = answer["detail"].as_array().unwrap().len();
    assert_eq!(listed + usize::try_from(answer["omitted"].as_u64().unwrap()).unwrap(), 11_000);
    assert!(listed < 300);
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED
        .get_or_init(|| Served::new(Bundle::load(&Folder::new(bundle("v1")), None).unwrap(), DeviceName::Cpu).unwrap())
}

/// What is done to one field of a good row, and what should then be found.
#[derive(Debug, Clone, Copy)]
enum Change {
    None,
    Remove,
    Null,
    List,
    Twice,
    NotANumber,
}

fn changed(changes: &[Change]) -> (String, BTreeSet<(String, &'static str)>) {
    let mut members = vec![];
    let mut wanted = BTreeSet::new();
    for ((name, value), change) in row().as_object().unwrap().iter().zip(changes) {
        let wrong_type = match value {
            Value::Number(_) => "float_type",
            Value::Bool(_) => "bool_type",
            Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => "string_type",
        };
        let not_a_number = if value.is_number() { "finite_number" } else { wrong_type };
        let (texts, kind) = match change {
            Change::None => (vec![value.to_string()], None),
            Change::Remove => (vec![], Some("missing")),
            Change::Null => (vec!["null".to_owned()], Some(wrong_type)),
            Change::List => (vec!["[{\"a\":[]}]".to_owned()], Some(wrong_type)),
            Change::Twice => (vec![value.to_string(), value.to_string()], Some("duplicate_key")),
            Change::NotANumber => (vec!["NaN".to_owned()], Some(not_a_number)),
        };
        members.extend(texts.iter().map(|text| format!("{}:{text}", json!(name))));
        wanted.extend(kind.map(|kind| (name.clone(), kind)));
    }
    (format!("{{{}}}", members.join(",")), wanted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_is_found_is_exactly_what_was_done(
        changes in prop::collection::vec(
            prop::sample::select(vec![
                Change::None, Change::None, Change::Remove, Change::Null, Change::List, Change::Twice, Change::NotANumber,
            ]),
            11,
        ),
    ) {
        let (body, wanted) = changed(&changes);
        let found = match served().read(Form::One, body.as_bytes()) {
            Ok(_) => BTreeSet::new(),
            Err(PredictError::Invalid(found)) => {
                let found = findings(&json!(found));
                prop_assert_eq!(found.len(), wanted.len());
                found.into_iter().map(|(loc, kind)| (loc[1].as_str().unwrap().to_owned(), kind)).collect()
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let wanted: BTreeSet<_> = wanted.into_iter().map(|(field, kind)| (field, kind.to_owned())).collect();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn a_damaged_body_gives_an_answer_or_findings(
        batch in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4),
    ) {
        let row = row().to_string();
        let mut body = if batch { format!(r#"{{"instances":[{row},{row}]}}"#) } else { row }.into_bytes();
        for (place, byte, how) in damage {
            let at = place.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.split_off(at.max(1))),
            }
        }
        let form = if batch { Form::Many(8) } else { Form::One };
        match served().read(form, &body) {
            Ok(rows) => prop_assert_eq!(rows.columns.len(), rows.count * 24),
            Err(PredictError::Invalid(found)) => prop_assert!(!found.is_empty()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }

    #[test]
    fn garbage_is_only_ever_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(matches!(served().read(Form::One, &bytes), Err(PredictError::Invalid(_))));
        prop_assert!(matches!(served().read(Form::Many(8), &bytes), Err(PredictError::Invalid(_))));
    }
}
