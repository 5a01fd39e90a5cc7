//! Every example parses without a warning, and what is printed back parses to the same config.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pointsman_config::{Against, Config, DriftGuard, OnDrift, Parsed, Plan, Share, Split, State, Strategy};

fn example(name: &str) -> Parsed {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let text = fs::read_to_string(&file).unwrap();
    Config::parse(&text, name).unwrap_or_else(|errors| panic!("{errors}"))
}

fn first_plan(text: &str) -> Plan {
    Config::parse(text, "plan.yaml").unwrap_or_else(|errors| panic!("{errors}")).config.routes.remove(0).plan
}

#[test]
fn every_example_parses_without_a_warning_and_prints_back_to_itself() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")).collect();
    assert!(examples.len() >= 5, "{examples:?}");
    for file in examples {
        let name = file.file_name().unwrap().to_str().unwrap();
        let parsed = example(name);
        assert_eq!(parsed.warnings, [], "{name}");
        let printed = parsed.config.to_yaml();
        let again = Config::parse(&printed, name).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
        assert_eq!(again, parsed, "{printed}");
    }
}

#[test]
fn the_minimal_example_has_every_default() {
    let config = example("minimal.yaml").config;
    let route = &config.routes[0];
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9900");
    assert_eq!(config.state, State::File("/var/lib/pointsman/state.db".into()));
    assert_eq!(route.plan, Plan::Weights(Split::Whole(route.stable.clone())));
    assert_eq!(route.guard, pointsman_config::Guard::default());
    assert_eq!(route.timeouts, pointsman_config::Timeouts::default());
    assert_eq!(route.limits, pointsman_config::Limits::default());
    assert_eq!(route.health_check, pointsman_config::HealthCheck::default());
    assert_eq!(route.matches.path_prefix, "/");
    assert!(route.version_header);
}

#[test]
fn the_production_example_shares_its_guard_by_an_alias() {
    let config = example("production.yaml").config;
    assert_eq!(config.routes[0].guard, config.routes[1].guard);
    assert_eq!(config.admin.token_file.as_deref(), Some(Path::new("admin-token")), "relative paths stay relative");
}

/// The paths of an example, in the order of `paths_mut`.
fn paths(name: &str) -> Vec<String> {
    let mut config = example(name).config;
    config.paths_mut().map(|path| path.display().to_string()).collect()
}

#[test]
fn every_path_of_a_file_is_found() {
    assert_eq!(
        paths("production.yaml"),
        ["/var/lib/pointsman/state.db", "admin-token", "access.log", "on-call-url", "audit-secret"]
    );
    assert_eq!(paths("sticky.yaml"), ["state.db", "cookie-secret"]);
    let tls = paths("tls.yaml");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tls.yaml")).unwrap();
    let in_folder = text.matches(" tls/").count();
    assert_eq!(tls.iter().filter(|path| path.starts_with("tls/")).count(), in_folder, "{tls:?}");
}

#[test]
fn the_default_steps_are_those_of_the_canary_example() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/canary.yaml")).unwrap();
    let other_lines = text.split_inclusive('\n').filter(|line| !line.contains("steps:") && !line.contains("hold:"));
    let without_steps: String = other_lines.collect();
    let Plan::Rollout(rollout) = first_plan(&without_steps) else { panic!("no rollout") };
    assert_eq!(Plan::Rollout(rollout.clone()), first_plan(&text));
    let Strategy::Canary(steps) = rollout.strategy else { panic!("no canary") };
    assert_eq!(steps.iter().map(|step| step.weight.to_string()).collect::<Vec<_>>(), ["1%", "5%", "25%", "50%"]);
}

/// The split that `weights` gives to versions v1 (stable), v2 and v3.
#[track_caller]
fn check_split(weights: &str, canary: Option<(&str, &str)>) {
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ name: r, stable: v1, weights: {weights}, versions: {{ v1: {{ endpoints: [a:1] }}, v2: {{ endpoints: [a:2] }}, v3: {{ endpoints: [a:3] }} }} }}]"
    );
    let stable: pointsman_config::VersionId = "v1".parse().unwrap();
    let wanted = match canary {
        None => Split::Whole(stable),
        Some((canary, share)) => {
            Split::Canary { stable, canary: canary.parse().unwrap(), share: share.parse::<Share>().unwrap() }
        }
    };
    assert_eq!(first_plan(&text), Plan::Weights(wanted), "{weights}");
}

#[test]
fn weights_become_stable_and_one_canary() {
    check_split("{ v1: 100% }", None);
    check_split("{ v1: 95%, v2: 5% }", Some(("v2", "5%")));
    check_split("{ v2: 0.0001%, v1: 99.9999% }", Some(("v2", "0.0001%")));
    check_split("{ v1: 100%, v2: 0% }", Some(("v2", "0%")));
    check_split("{ v1: 60%, v2: 0%, v3: 40% }", Some(("v3", "40%")));
    check_split("{ v1: 100%, v2: 0%, v3: 0% }", None);
    check_split("{ v1: 0%, v2: 100% }", Some(("v2", "100%")));
    check_split("{ v2: 100% }", Some(("v2", "100%")));
}

#[test]
fn names_that_yaml_takes_for_something_else_stay_names() {
    let text = include_str!("../../../fuzz/corpus/config/strange-names.yaml");
    let parsed = Config::parse(text, "strange-names.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let route = &parsed.config.routes[0];
    let names: Vec<&str> = route.versions.keys().map(pointsman_config::VersionId::as_str).collect();
    assert_eq!(names, ["1.10", "no", "null"]);
    assert_eq!(route.versions.values().next().unwrap().revision.as_deref(), Some("1.10"), "not the number 1.1");
    let endpoints: Vec<String> =
        route.versions.values().flat_map(pointsman_config::Version::endpoints).map(ToString::to_string).collect();
    assert_eq!(endpoints, ["x:2", "x:3", "[::1]:1", "a_b.c:65535"]);
    assert_eq!(Config::parse(&parsed.config.to_yaml(), "printed.yaml").map(|again| again.config), Ok(parsed.config));
}

/// The drift guard of a route whose guard has this written under `drift`.
#[track_caller]
fn drift_guard(written: &str) -> DriftGuard {
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ name: r, stable: v1, versions: {{ v1: {{ endpoints: [a:1] }} }}, guard: {{ drift: {written} }} }}]"
    );
    let parsed = Config::parse(&text, "drift.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let printed = parsed.config.to_yaml();
    assert_eq!(Config::parse(&printed, "drift.yaml").unwrap().config, parsed.config, "{printed}");
    parsed.config.routes[0].guard.drift.clone().unwrap()
}

#[test]
fn a_drift_guard_holds_and_takes_back_only_where_that_is_written() {
    let default = DriftGuard::default();
    assert_eq!((drift_guard("{}"), default.action), (default.clone(), OnDrift::Hold));
    let training = DriftGuard { against: Against::Training, ..default.clone() };
    assert_eq!(drift_guard("{ against: training }"), training);
    assert_eq!(drift_guard("{ action: rollback }"), DriftGuard { action: OnDrift::Rollback, ..default.clone() });
    let written = "{ path: /counts, against: training, max_psi: 0.1, max_ks: 1, min_rows: 200, every: 1s, window: 3s, action: rollback }";
    let wanted = DriftGuard {
        path: "/counts".to_owned(),
        against: Against::Training,
        max_psi: 0.1,
        max_ks: 1.0,
        min_rows: 200,
        every: Duration::from_secs(1),
        window: Duration::from_secs(3),
        action: OnDrift::Rollback,
    };
    assert_eq!(drift_guard(written), wanted);
}
