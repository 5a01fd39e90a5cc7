//! Only Pointsman flips: the admission policy, decided as the API server does.

use cel::{Context, Program, Value as Cel};
use pointsman_manifests::Read;
use serde_json::{Value, json};

use crate::render::guarded_production;

const EDGE: &str = "system:serviceaccount:models:pointsman";
const PERSON: &str = "alice@example.com";

/// What the policy says to a change: the messages of what is refused.
fn refusals(policy: &Value, user: &str, (before, after): (&Value, &Value)) -> Vec<String> {
    let mut context = Context::default();
    let request = json!({ "namespace": "models", "operation": "UPDATE", "userInfo": { "username": user } });
    for (name, value) in [("request", &request), ("oldObject", before), ("object", after)] {
        context.add_variable(name, value).unwrap();
    }
    let mut variables = serde_json::Map::new();
    for variable in policy.items("/spec/variables") {
        context.add_variable("variables", &variables).unwrap();
        let value = match evaluate(variable.text("/expression"), &context) {
            Cel::Bool(value) => json!(value),
            Cel::String(value) => json!(*value),
            other => panic!("{}: {other:?}", variable.text("/name")),
        };
        variables.insert(variable.text("/name").to_owned(), value);
    }
    context.add_variable("variables", &variables).unwrap();
    let refused = policy.items("/spec/validations").iter();
    let refused = refused.filter(|one| evaluate(one.text("/expression"), &context) != Cel::Bool(true));
    refused.map(|one| one.text("/message").to_owned()).collect()
}

fn evaluate(expression: &str, context: &Context<'_, '_>) -> Cel {
    let program = Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    program.execute(context).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

fn changed(service: &Value, place: &str, key: &str, value: Value) -> Value {
    let mut service = service.clone();
    let parent = service.pointer_mut(place).and_then(Value::as_object_mut).unwrap();
    match value {
        Value::Null => drop(parent.remove(key)),
        value => drop(parent.insert(key.to_owned(), value)),
    }
    service
}

#[test]
fn only_pointsman_flips_a_live_service() {
    let Some(objects) = guarded_production() else { return };
    let policy = &objects.find("ValidatingAdmissionPolicy", "pointsman-live-service").unwrap().0;
    let live = objects.find("Service", "delivery-time").unwrap().0.clone();
    let live = changed(&live, "/metadata/annotations", "pointsman.dev/state", json!("{}"));
    let check = |user: &str, after: &Value, refused: Option<&str>| {
        let said = refusals(policy, user, (&live, after));
        match refused {
            Some(part) => assert!(said.iter().any(|message| message.contains(part)), "{user}: {said:?}"),
            None => assert_eq!(said, Vec::<String>::new(), "{user}"),
        }
    };
    let flipped = changed(&live, "/spec/selector", "version", json!("v2"));
    check(EDGE, &flipped, None);
    check(PERSON, &flipped, Some("Pointsman moves this selector"));
    check("system:serviceaccount:other:pointsman", &flipped, Some("Pointsman moves this selector"));
    check(PERSON, &changed(&live, "/spec", "selector", Value::Null), Some("Pointsman moves this selector"));
    let state = changed(&live, "/metadata/annotations", "pointsman.dev/state", json!("{\"phase\":\"steady\"}"));
    check(EDGE, &state, None);
    check(PERSON, &state, Some("are the rollout's state"));
    check(
        PERSON,
        &changed(&live, "/metadata/annotations", "pointsman.dev/state", Value::Null),
        Some("are the rollout's state"),
    );
    let fence = changed(&live, "/metadata/annotations", "pointsman.dev/fence", json!("7"));
    check(EDGE, &fence, None);
    check(PERSON, &fence, Some("are the rollout's state"));
    let unguarded = changed(&live, "/metadata/labels", "pointsman.dev/live-service", Value::Null);
    check(PERSON, &unguarded, Some("keeps the Service's selector"));
    check(PERSON, &changed(&live, "/metadata/labels", "team", json!("models")), None);
    check(PERSON, &changed(&live, "/spec", "ports", json!([])), None);
}

#[test]
fn a_reason_breaks_the_glass_once() {
    let Some(objects) = guarded_production() else { return };
    let policy = &objects.find("ValidatingAdmissionPolicy", "pointsman-live-service").unwrap().0;
    let live = &objects.find("Service", "delivery-time").unwrap().0;
    let flipped = changed(live, "/spec/selector", "version", json!("v2"));
    let because = |service: &Value, reason: &str| {
        changed(service, "/metadata/annotations", "pointsman.dev/break-glass", json!(reason))
    };
    assert_eq!(refusals(policy, PERSON, (live, &because(&flipped, "the edges are down"))), Vec::<String>::new());
    assert_eq!(refusals(policy, PERSON, (live, &because(&flipped, ""))).len(), 1, "a reason, and not none");
    let broken = because(live, "the edges are down");
    assert_eq!(refusals(policy, PERSON, (&broken, &because(&flipped, "the edges are down"))).len(), 1, "not twice");
    assert_eq!(refusals(policy, PERSON, (&broken, &flipped)).len(), 1, "taking the reason off opens nothing");
}

#[test]
fn the_policy_asks_for_changes_of_services_and_fails_closed() {
    let Some(objects) = guarded_production() else { return };
    let policy = &objects.find("ValidatingAdmissionPolicy", "pointsman-live-service").unwrap().0;
    assert_eq!(policy.text("/spec/failurePolicy"), "Fail");
    let rule = policy.at("/spec/matchConstraints/resourceRules/0");
    assert_eq!((rule.texts("/operations"), rule.texts("/resources")), (vec!["UPDATE"], vec!["services"]));
    let binding = &objects.find("ValidatingAdmissionPolicyBinding", "pointsman-live-service").unwrap().0;
    assert_eq!(binding.texts("/spec/validationActions"), ["Deny"]);
}
