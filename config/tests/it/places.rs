//! Where a problem is said to stand: line, column, path, and the same as JSON.

use std::time::{Duration, Instant};

use pointsman_config::{Config, ConfigErrors, Parsed, Severity};

const FILE: &str = "\
listeners: [{ address: 0.0.0.0:8080 }]
routes:
  - name: größe
    stable: v1
    versions:
      v1: { endpoints: [127.0.0.1:9001, nowhere] }
    timeouts: { total: 1s, connect: 5s }
";

#[test]
fn a_problem_names_line_column_and_path() {
    let errors = Config::parse(FILE, "edge.yaml").unwrap_err();
    let seen: Vec<_> =
        errors.problems().iter().map(|p| (p.severity, p.place.line, p.place.column, p.path.as_str())).collect();
    assert_eq!(
        seen,
        [
            (Severity::Error, 3, 11, "routes[0].name"),
            (Severity::Error, 6, 41, "routes[0].versions.v1.endpoints[1]"),
            (Severity::Warning, 7, 37, "routes[0].timeouts.connect"),
        ]
    );
    assert_eq!(errors.error_count(), 2);
}

#[test]
fn problems_are_json_for_machines() {
    let errors = Config::parse("listeners: [{ address: here }]\nroutes: 1\n", "edge.yaml").unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    let wanted = serde_json::json!({
        "severity": "error",
        "place": { "origin": "edge.yaml", "line": 1, "column": 24 },
        "what": "`here` is no address to listen on",
        "way_out": "write an IP address and a port such as 0.0.0.0:8080 or [::]:8080 (names are not looked up here)",
        "path": "listeners[0].address",
    });
    assert_eq!(json[0], wanted);
}

#[test]
fn a_warning_does_not_refuse_the_file() {
    let text = FILE.replace("größe", "size").replace(", nowhere", "");
    let parsed = Config::parse(&text, "edge.yaml").unwrap();
    let said: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "edge.yaml:7:37: warning: `connect` is longer than `total` (1s), which ends the request before; make `total` longer, or `connect` shorter"
        ]
    );
}

#[test]
fn a_byte_order_mark_windows_line_ends_and_json_are_read() {
    let text = FILE.replace("größe", "size").replace(", nowhere", "");
    let plain = Config::parse(&text, "edge.yaml").unwrap();
    let windows = Config::parse(&format!("\u{feff}{}", text.replace('\n', "\r\n")), "edge.yaml").unwrap();
    assert_eq!(windows, plain);
    let json = r#"{"listeners": [{"address": "0.0.0.0:8080"}], "routes": [{"name": "a", "stable": "v1", "versions": {"v1": {"endpoints": ["a:1"]}}}]}"#;
    assert_eq!(Config::parse(json, "edge.json").unwrap().warnings, []);
}

#[test]
fn a_file_of_many_megabytes_is_not_even_tried() {
    let text = format!("# {}\n{FILE}", "x".repeat(2 << 20));
    let errors = Config::parse(&text, "edge.yaml").unwrap_err();
    assert!(errors.to_string().contains("reads at most 1048576"), "{errors}");
}

/// The longest that a text of a mebibyte may take; far more than it does, since other tests run beside this one.
const LONGEST: Duration = Duration::from_secs(10);

#[track_caller]
fn check_is_quick(text: &str) -> Result<Parsed, ConfigErrors> {
    let started = Instant::now();
    let result = Config::parse(text, "large.yaml");
    assert!(started.elapsed() < LONGEST, "{:?}", started.elapsed());
    result
}

#[test]
fn a_thousand_routes_are_read() {
    let route = |n: usize| {
        format!(
            "  - {{ name: r{n}, match: {{ path_prefix: /r{n} }}, stable: v1, versions: {{ v1: {{ endpoints: [a:{n}] }} }} }}\n"
        )
    };
    let routes: String = (1..=1000).map(route).collect();
    let parsed = check_is_quick(&format!("listeners: [{{ address: 0.0.0.0:8080 }}]\nroutes:\n{routes}")).unwrap();
    assert_eq!(parsed.config.routes.len(), 1000);
}

#[test]
fn a_large_file_full_of_nonsense_does_not_keep_the_parser_busy() {
    let many = |item: &dyn Fn(usize) -> String, count: usize| (0..count).map(item).collect::<String>();
    let listeners = many(&|n| format!("{{address: 1.1.1.1:{}}},", n % 60_000), 30_000);
    let unknown_keys = many(&|n| format!("    weightz{n}: 1\n"), 40_000);
    let versions = many(&|n| format!("v{n}: {{}}, "), 20_000);
    let weights = many(&|n| format!("w{n}: 1%, "), 20_000);
    for text in [
        format!("listeners: [{listeners}]\nroutes: []"),
        format!("listeners: []\nroutes:\n  - name: a\n{unknown_keys}"),
        format!("routes: [{{ versions: {{ {versions} }}, weights: {{ {weights} }} }}]"),
        "[".repeat(1 << 20),
        "- ".repeat(1 << 19),
        "a: ".repeat(300_000),
        format!("\"{}", "\\x41".repeat(1 << 18)),
    ] {
        let errors = check_is_quick(&text).unwrap_err();
        assert!(errors.error_count() > 0);
    }
}

#[test]
fn an_edit_of_one_route_is_seen_in_that_route_only() {
    let text = include_str!("../../examples/production.yaml");
    let before = Config::parse(text, "edge.yaml").unwrap().config;
    let after =
        Config::parse(&text.replace("small: 10%", "small: 20%").replace("large: 90%", "large: 80%"), "edge.yaml")
            .unwrap()
            .config;
    assert_eq!(before.routes[0], after.routes[0]);
    assert_ne!(before.routes[1], after.routes[1]);
}

#[test]
fn what_can_be_used_has_places_too() {
    let text = "\
listeners: [{ address: 0.0.0.0:8080 }]
routes:
  - name: one
    stable: v1
    rollout:
      steps:
        - { weight: 1%, hold: 2m }
        - weight: 5%
";
    let at = |path| {
        let place = pointsman_config::place_of(text, "edge.yaml", path);
        (place.line, place.column)
    };
    assert_eq!(at("routes[0].rollout.steps[1].weight"), (8, 11));
    assert_eq!(at("routes[0].rollout.steps[0]"), (7, 11));
    assert_eq!(at("routes[0].guard.promotion"), (3, 5), "what is not written stands where it would");
    assert_eq!(at("routes[0].rollout.step"), (5, 5), "a name that only begins alike is another one");
    assert_eq!(at(""), (1, 1));
}
