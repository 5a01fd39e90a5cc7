//! Alerts and dashboard: what they name exists, promtool takes them, and they fire when they should.

use std::path::Path;
use std::process::Command;

use pointsman_manifests::monitoring::{Series, dashboards, questions, rules};
use pointsman_manifests::{Finding, Objects, Read};
use serde_json::{Value, json};

use crate::render::{file, overlay};

fn series() -> Series {
    let series = Series::listed(&file("docs/METRICS.md"));
    assert!(series.len() > 30, "the table of docs/METRICS.md is read: {series:?}");
    series
}

fn none(found: &[Finding]) {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What promtool says to files in a folder; nothing where it is not installed and nobody insists.
fn promtool(folder: &Path, arguments: &[&str]) {
    match Command::new("promtool").args(arguments).current_dir(folder).output() {
        Ok(output) => {
            let said =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(output.status.success(), "promtool {arguments:?}: {said}");
        }
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_PROMTOOL").is_none(), "promtool cannot be started: {error}");
            eprintln!("skipped: promtool cannot be started ({error}); REQUIRE_PROMTOOL=1 makes this a failure");
        }
    }
}

/// The groups of the rule file, as JSON, which is YAML.
fn groups(objects: &Objects) -> Value {
    json!({ "groups": objects.find("PrometheusRule", "pointsman").unwrap().0.at("/spec/groups") })
}

#[test]
fn rules_and_dashboard_name_what_exists() {
    let Some(objects) = overlay("production") else { return };
    let listed = series();
    none(&dashboards(&objects, &listed));
    none(&rules(&objects, &mut listed.clone()));
    assert!(questions(&objects).len() > 40);
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    let Some(objects) = overlay("production") else { return };
    let listed = series();
    let check = |kind: &str, name: &str, from: &str, to: &str, expected: &str| {
        let position = objects.0.iter().position(|one| one.kind() == kind && one.name() == name).unwrap();
        let mut changed = objects.clone();
        let text = changed.0[position].0.to_string();
        let escaped = json!(from).to_string();
        let from = if text.contains(from) { from } else { escaped.trim_matches('"') };
        assert!(text.contains(from), "{from}");
        changed.0[position].0 = serde_json::from_str(&text.replace(from, to)).unwrap();
        let mut found = rules(&changed, &mut listed.clone());
        found.extend(dashboards(&changed, &listed));
        assert!(found.iter().any(|one| one.problem.contains(expected)), "{expected}: {found:?}");
    };
    let rule = |from, to, expected| check("PrometheusRule", "pointsman", from, to, expected);
    rule("pointsman_refusals_total", "pointsman_refused_total", "`pointsman_refused_total` does not exist");
    rule("phase=", "state=", "has no label `state`");
    rule("$labels.pod", "$labels.node", "names the label `node`");
    rule("\"runbook\":", "\"playbook\":", "names no runbook");
    rule("\"severity\":\"page\"", "\"severity\":\"critical\"", "says neither page nor ticket");
    let dashboard = |from, to, expected| check("ConfigMap", "pointsman-dashboard", from, to, expected);
    dashboard("pointsman_mirror_total", "pointsman_copies_total", "`pointsman_copies_total` does not exist");
    dashboard("{{code}}", "{{status}}", "its legend names `status`");
    dashboard("${datasource}", "prometheus", "a fixed data source");
}

#[test]
fn the_objectives_are_those_of_the_service() {
    let Some(objects) = overlay("production") else { return };
    let alerts = groups(&objects);
    let all: Vec<&Value> = alerts.items("/groups").iter().flat_map(|group| group.items("/rules")).collect();
    let burns = |name: &str, budget: &str| {
        let of: Vec<&&Value> = all.iter().filter(|rule| rule.text("/alert") == name).collect();
        assert!(of.iter().all(|rule| rule.text("/expr").contains(budget)), "{name} {budget}");
        of.iter()
            .map(|rule| (rule.text("/labels/long"), rule.text("/labels/short"), rule.text("/labels/severity")))
            .collect::<Vec<_>>()
    };
    let windows = [("1h", "5m", "page"), ("6h", "30m", "page"), ("1d", "2h", "ticket"), ("3d", "6h", "ticket")];
    assert_eq!(burns("PointsmanErrors", "* 0.001"), windows);
    assert_eq!(burns("PointsmanUnavailable", "* 0.001"), windows);
    assert_eq!(burns("PointsmanSlowP99", "* 0.01"), windows);
    assert_eq!(burns("PointsmanSlowP95", "* 0.05"), windows);
    assert_eq!(burns("PointsmanSlowP50", "* 0.5"), [("1h", "5m", "ticket")]);
    for (name, edge) in [("slower_than_50ms", "0.05"), ("slower_than_200ms", "0.2"), ("slower_than_500ms", "0.5")] {
        let record = format!("route:pointsman_{name}:ratio_rate5m");
        let rule = all.iter().find(|rule| rule.text("/record") == record).unwrap();
        assert!(rule.text("/expr").contains(&format!("le=\"{edge}\"")), "{record}");
    }
}

#[test]
fn promtool_takes_the_rules_and_the_questions_of_the_dashboard() {
    let Some(objects) = overlay("production") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), groups(&objects).to_string()).unwrap();
    let asked: Vec<Value> = questions(&objects)
        .iter()
        .enumerate()
        .map(|(position, question)| json!({ "record": format!("dashboard:question:{position}"), "expr": question }))
        .collect();
    let asked = json!({ "groups": [{ "name": "dashboard", "rules": asked }] });
    std::fs::write(folder.path().join("dashboard.yaml"), asked.to_string()).unwrap();
    promtool(folder.path(), &["check", "rules", "rules.yaml", "dashboard.yaml"]);
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let Some(objects) = overlay("production") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), groups(&objects).to_string()).unwrap();
    std::fs::write(folder.path().join("alerts.yaml"), file("manifests/checks/tests/it/alerts.yaml")).unwrap();
    promtool(folder.path(), &["test", "rules", "alerts.yaml"]);
}
