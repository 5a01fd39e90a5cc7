//! Stories of who owns what.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::fakes::api_server::patch::Patch;
use crate::fakes::api_server::resource::Key;
use crate::fakes::api_server::store::Store;

fn by(manager: &str) -> Writer {
    Writer::new(manager, SystemTime::UNIX_EPOCH + Duration::from_mins(1))
}

fn live() -> Key {
    Key::new(Resource::Service, "default", "live")
}

fn config(version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "live", "labels": { "team": "models" } },
        "spec": { "selector": { "app": "model", "version": version }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

fn applying(config: Value) -> Patch {
    Patch::Apply { config, force: false }
}

fn patch(store: &mut Store, patch: &Patch, manager: &str) -> Result<Value, Refusal> {
    store.patch(&live(), Part::Whole, patch, &by(manager))
}

fn fields_of(object: &Value, manager: &str) -> Value {
    let entries = list(object, "/metadata/managedFields");
    let found = entries.iter().find(|entry| text(entry, "/manager") == manager);
    found.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

/// A store in which `argocd` applied the Service.
fn applied() -> Store {
    let mut store = Store::new();
    patch(&mut store, &applying(config("v1")), "argocd").unwrap();
    store
}

#[test]
fn who_makes_an_object_owns_what_it_named() {
    let mut store = Store::new();
    let made = store.create(Resource::Service, "default", config("v1"), &by("kubectl")).unwrap();
    let fields = fields_of(&made, "kubectl");
    assert_eq!(fields["f:metadata"], json!({ "f:labels": { ".": {}, "f:team": {} } }));
    assert_eq!(fields["f:spec"]["f:selector"], json!({}), "a selector is owned whole");
    let item = json!({ ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {} });
    let key = r#"k:{"port":80,"protocol":"TCP"}"#;
    assert_eq!(fields["f:spec"]["f:ports"], json!({ ".": {}, key: item }));
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["time"]),
        (&json!("Update"), &json!("v1"), &json!("1970-01-01T00:01:00Z"))
    );
}

#[test]
fn an_update_takes_what_it_changes_and_nothing_else() {
    let mut store = applied();
    let flip = Patch::Merge(json!({
        "metadata": { "annotations": { "pointsman.dev/state": "x" } }, "spec": { "selector": { "version": "v2" } },
    }));
    let after = patch(&mut store, &flip, "pointsman").unwrap();
    let own = json!({
        "f:metadata": { "f:annotations": { ".": {}, "f:pointsman.dev/state": {} } }, "f:spec": { "f:selector": {} },
    });
    assert_eq!(fields_of(&after, "pointsman"), own);
    assert_eq!(fields_of(&after, "argocd")["f:spec"].get("f:selector"), None);
    assert!(fields_of(&after, "argocd")["f:spec"].get("f:ports").is_some());
}

#[test]
fn who_wrote_last_is_seen_by_the_time_of_its_entry() {
    let mut store = applied();
    let later = Writer::new("kubectl-edit", SystemTime::UNIX_EPOCH + Duration::from_hours(1));
    let flip = Patch::Merge(json!({ "spec": { "selector": { "version": "v2" } } }));
    let after = store.patch(&live(), Part::Whole, &flip, &later).unwrap();
    let entries = list(&after, "/metadata/managedFields");
    let last = entries.iter().max_by_key(|entry| text(entry, "/time")).unwrap();
    assert_eq!((text(last, "/manager"), text(last, "/time")), ("kubectl-edit", "1970-01-01T01:00:00Z"));
}

#[test]
fn an_apply_over_the_change_of_another_is_a_conflict_unless_forced() {
    let mut store = applied();
    patch(&mut store, &Patch::Merge(json!({ "spec": { "selector": { "version": "v2" } } })), "pointsman").unwrap();
    let refused = patch(&mut store, &applying(config("v1")), "argocd").unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    let words = "Apply failed with 1 conflict: conflict with \"pointsman\" using v1: .spec.selector";
    assert_eq!(refused.message, words);
    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "other" } } }));
    patch(&mut store, &label, "kubectl").unwrap();
    let words = "Apply failed with 2 conflicts: conflicts with \"kubectl\" using v1:\n- .metadata.labels.team\n\
                 conflicts with \"pointsman\" using v1:\n- .spec.selector";
    assert_eq!(patch(&mut store, &applying(config("v1")), "argocd").unwrap_err().message, words);
    let forced = Patch::Apply { config: config("v1"), force: true };
    let after = patch(&mut store, &forced, "argocd").unwrap();
    assert_eq!(after["spec"]["selector"]["version"], "v1");
    assert_eq!(fields_of(&after, "pointsman"), Value::Null);
}

#[test]
fn an_apply_replaces_a_selector_whole() {
    let mut store = applied();
    let mut config = config("v1");
    config["spec"]["selector"] = json!({ "version": "v2" });
    let after = patch(&mut store, &applying(config), "argocd").unwrap();
    assert_eq!(after["spec"]["selector"], json!({ "version": "v2" }));
}

#[test]
fn an_apply_takes_away_what_it_no_longer_names_and_what_nobody_else_owns() {
    let mut store = applied();
    patch(&mut store, &Patch::Merge(json!({ "metadata": { "labels": { "other": "x" } } })), "kubectl").unwrap();
    let mut config = config("v1");
    remove(&mut config, &["metadata", "labels"]);
    config["spec"]["ports"] = json!([{ "name": "http", "port": 8080 }]);
    let after = patch(&mut store, &applying(config.clone()), "argocd").unwrap();
    assert_eq!(after["metadata"]["labels"], json!({ "other": "x" }));
    assert_eq!(after["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(after["spec"]["ports"][0]["port"], 8080);
    patch(&mut store, &Patch::Merge(json!({ "metadata": { "labels": { "other": null } } })), "kubectl").unwrap();
    let after = patch(&mut store, &applying(config), "argocd").unwrap();
    assert!(super::super::object::is_empty(&after, "/metadata/labels"));
}

#[test]
fn an_apply_of_the_same_makes_no_revision() {
    let mut store = applied();
    let before = store.revision();
    let later = Writer::new("argocd", SystemTime::UNIX_EPOCH + Duration::from_hours(1));
    store.patch(&live(), Part::Whole, &applying(config("v1")), &later).unwrap();
    assert_eq!(store.revision(), before);
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut object = config("v1");
    object["metadata"]["finalizers"] = json!(["a/b"]);
    let fields: FieldSet = fields::of(Resource::Service, &object).into_keys().collect();
    assert_eq!(fields::from_json(&fields::to_json(&fields)), fields);
}
