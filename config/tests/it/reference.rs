//! docs/CONFIG.md is what the types say, and the JSON schema knows the same keys, requirements and defaults.

use std::fs;
use std::path::Path;

use pointsman_config::{json_schema, reference_markdown};
use serde_json::Value;

#[test]
fn docs_config_md_is_written_from_the_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIG.md");
    let written = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &written).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == written, "docs/CONFIG.md is out of date: run UPDATE_DOCS=1 cargo test -p pointsman-config");
}

/// Every struct of the schema that has properties.
fn structs(schema: &Value) -> Vec<&Value> {
    let defined = schema["$defs"].as_object().unwrap().values();
    defined.chain([schema]).filter(|definition| definition.get("properties").is_some()).collect()
}

#[test]
fn the_schema_refuses_unknown_keys_and_explains_each_known_one() {
    let schema = json_schema();
    let structs = structs(&schema);
    assert!(structs.len() >= 14, "{} structs", structs.len());
    for definition in structs {
        assert_eq!(definition["additionalProperties"], false, "{definition}");
        for (key, property) in definition["properties"].as_object().unwrap() {
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{key} is not explained");
        }
    }
}

#[test]
fn the_schema_names_what_is_required() {
    let schema = json_schema();
    assert_eq!(schema["required"], serde_json::json!(["listeners", "routes"]));
    assert_eq!(schema["$defs"]["Route"]["required"], serde_json::json!(["name", "stable", "versions"]));
}

/// The defaults that the schema names, put into a file, give what an empty mapping gives.
#[test]
#[expect(clippy::too_many_lines, reason = "one entry for each mapping of the file")]
fn the_documented_defaults_are_the_real_ones() {
    let schema = json_schema();
    let of = |name: &str| -> Value {
        let properties = schema["$defs"][name]["properties"].as_object().unwrap();
        properties
            .iter()
            .filter_map(|(key, property)| Some((key.clone(), property.get("default")?.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut guard = of("Guard");
    guard["tolerance"] = of("Tolerance");
    guard["promotion"] = of("PromotionGuard");
    guard["latency"] = of("Latency");
    let query = |rest: &Value| {
        both(&serde_json::json!({ "name": "q", "prometheus": "http://p:9090", "query": "{{version}}", "max": 1 }), rest)
    };
    let gate = |rest: &Value| both(&serde_json::json!({ "name": "g", "url_env": "G" }), rest);
    guard["queries"] = serde_json::json!([query(&of("Query"))]);
    guard["gates"] = serde_json::json!([gate(&of("OutsideGate"))]);
    let mut retries = of("Retries");
    retries["budget"] = of("RetryBudget");
    let mirror = |rest: &Value| both(&serde_json::json!({ "version": "v2", "share": "1%" }), rest);
    let warm_up = |rest: &Value| both(&serde_json::json!({ "model": "/v1/model" }), rest);
    let traces = |rest: &Value| both(&serde_json::json!({ "endpoint": "http://127.0.0.1:4318" }), rest);
    let webhook = |rest: &Value| serde_json::json!([both(&serde_json::json!({ "name": "a", "url_env": "A" }), rest)]);
    let mut rollout = of("Rollout");
    rollout["canary"] = "v2".into();
    let route = |rest: &Value| {
        both(
            &serde_json::json!({ "name": "r", "stable": "v1", "versions": { "v1": { "endpoints": ["a:1"] }, "v2": { "endpoints": ["a:2"] } } }),
            rest,
        )
    };
    let file = |top: &Value, route: Value| {
        let file = serde_json::json!({ "listeners": [{ "address": "127.0.0.1:0" }], "routes": [route] });
        let text = both(&file, top).to_string();
        pointsman_config::Config::parse(&text, "defaults").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    };
    let nothing = serde_json::json!({});
    let rate = serde_json::json!({ "requests": 100, "per": "1s" });
    let mut given = of("Route");
    for (key, value) in [
        ("guard", guard),
        ("timeouts", of("Timeouts")),
        ("limits", both(&of("Limits"), &serde_json::json!({ "rate": [both(&rate, &of("RateLimit"))] }))),
        ("retries", retries),
        ("mirror", mirror(&both(&of("Mirror"), &serde_json::json!({ "compare": of("Compare") })))),
        ("health_check", of("HealthCheck")),
        ("warm_up", warm_up(&of("WarmUp"))),
        ("ejection", of("Ejection")),
        ("match", of("Match")),
        ("rollout", rollout),
    ] {
        given[key] = value;
    }
    let mut top = serde_json::json!({ "admin": of("Admin"), "state": of("State"), "access_log": of("AccessLog"), "traces": traces(&of("Traces")) });
    top["notifications"] = webhook(&of("Webhook"));
    let freeze = |rest: &Value| {
        serde_json::json!([both(&serde_json::json!({ "name": "f", "cron": "0 18 * * 5", "duration": "62h" }), rest)])
    };
    top["freeze"] = freeze(&of("Freeze"));
    top["fast_lane"] = schema["properties"]["fast_lane"]["default"].clone();
    let written_out = file(&top, route(&given));
    let bare = serde_json::json!({
        "guard": { "queries": [query(&nothing)], "gates": [gate(&nothing)] },
        "rollout": { "canary": "v2" }, "mirror": mirror(&nothing), "warm_up": warm_up(&nothing), "limits": { "rate": [rate] }
    });
    let top = serde_json::json!({ "access_log": {}, "traces": traces(&nothing), "notifications": webhook(&nothing), "freeze": freeze(&nothing) });
    let left_out = file(&top, route(&bare));
    assert_eq!(written_out, left_out);
}

/// The entries of two mappings.
fn both(one: &Value, other: &Value) -> Value {
    let entries = [one, other].into_iter().flat_map(|mapping| mapping.as_object().unwrap().clone());
    Value::Object(entries.collect())
}

/// The same for what only a cluster has.
#[test]
fn the_documented_defaults_of_a_cluster_are_the_real_ones() {
    let schema = json_schema();
    let default = |name: &str, key: &str| schema["$defs"][name]["properties"][key]["default"].clone();
    let file = |state: Value, replicas: &Value, live: &Value| {
        let token = serde_json::json!({ "service": "edges", "token_file": "token" });
        let text = serde_json::json!({
            "listeners": [{ "address": "127.0.0.1:0" }],
            "state": { "kubernetes": state },
            "replicas": both(&token, replicas),
            "routes": [{
                "name": "r", "stable": "v1", "versions": { "v1": { "service": "a-v1", "port": "http" } },
                "kubernetes": both(&serde_json::json!({ "service": "a" }), live),
            }],
        });
        pointsman_config::Config::parse(&text.to_string(), "defaults").unwrap_or_else(|errors| panic!("{errors}"))
    };
    let nothing = serde_json::json!({});
    let written_out = file(
        serde_json::json!({
            "lease": default("KubernetesState", "lease"),
            "lease_duration": default("KubernetesState", "lease_duration"),
        }),
        &serde_json::json!({ "address": default("Replicas", "address") }),
        &serde_json::json!({ "selector_key": default("LiveService", "selector_key"), "retire": default("LiveService", "retire") }),
    );
    assert_eq!(written_out, file(nothing.clone(), &nothing, &nothing));
}
