//! Alerts and dashboard name metrics and labels that exist, and say what to do.

mod promql;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Finding;
use crate::objects::{Object, Objects, Read};
pub use promql::Expression;

/// Labels that Prometheus adds to whatever it scrapes from these pods.
const OF_THE_TARGET: [&str; 6] = ["namespace", "pod", "container", "service", "job", "instance"];
/// Who an alert is for.
const SEVERITIES: [&str; 2] = ["page", "ticket"];

/// What can be asked for: series and their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series(BTreeMap<String, BTreeSet<String>>);

impl Series {
    /// Those that the table of docs/METRICS.md lists, each with the labels of its target.
    pub fn listed(metrics: &str) -> Self {
        let mut series = Self::default();
        for line in metrics.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let (Some(name), Some(kind), Some(labels)) = (cells.next(), cells.next(), cells.next()) else {
                continue;
            };
            let mut labels: BTreeSet<String> = quoted(labels).collect();
            labels.extend(OF_THE_TARGET.map(str::to_owned));
            for name in quoted(name) {
                series.add_metric(&name, kind, &labels);
            }
        }
        series
    }

    fn add_metric(&mut self, name: &str, kind: &str, labels: &BTreeSet<String>) {
        if kind != "histogram" {
            self.0.insert(name.to_owned(), labels.clone());
            return;
        }
        let mut with_edges = labels.clone();
        with_edges.insert("le".to_owned());
        self.0.insert(format!("{name}_bucket"), with_edges);
        self.0.insert(format!("{name}_sum"), labels.clone());
        self.0.insert(format!("{name}_count"), labels.clone());
    }

    /// The labels of a series.
    fn labels(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Rules that name what does not exist, and alerts that do not say whom they are for, what to do, or where that stands. The series that the
/// rules record are added to `series`.
pub fn rules(objects: &Objects, series: &mut Series) -> Vec<Finding> {
    let mut found = Vec::new();
    for object in objects.of("PrometheusRule") {
        let groups = object.0.items("/spec/groups");
        for rule in groups.iter().flat_map(|group| group.items("/rules")) {
            let expression = Expression::read(rule.text("/expr"), series);
            let name = format!("{}{}", rule.text("/record"), rule.text("/alert"));
            let mut problems = expression.problems;
            if rule.has("/record") {
                series.0.insert(name.clone(), expression.labels);
            } else {
                problems.extend(alert(rule, expression.labels));
            }
            found.extend(problems.into_iter().map(|problem| object.finding(format!("{name}: {problem}"))));
        }
    }
    found
}

fn alert(rule: &Value, mut labels: BTreeSet<String>) -> Vec<String> {
    labels.extend(rule.labels("/labels").into_keys());
    let mut found = Vec::new();
    if !SEVERITIES.contains(&rule.text("/labels/severity")) {
        found.push("says neither page nor ticket".to_owned());
    }
    if rule.text("/annotations/runbook").is_empty() {
        found.push("names no runbook".to_owned());
    }
    for part in ["summary", "description"] {
        let text = rule.text(&format!("/annotations/{part}"));
        if text.is_empty() {
            found.push(format!("has no {part}"));
        }
        found.extend(
            unknown(text, "$labels.", &labels)
                .map(|label| format!("its {part} names the label `{label}`, which it has not")),
        );
    }
    found
}

/// Labels that a template names, each behind `prefix` and before the next space or brace, and that are not there.
fn unknown<'a>(template: &'a str, prefix: &str, labels: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
    let named = template.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim);
    let labels_named: Vec<&str> = named.filter_map(|inside| inside.strip_prefix(prefix)).collect();
    labels_named.into_iter().filter(|label| !labels.contains(*label))
}

/// Whatever is wrong with a Grafana dashboard in a `ConfigMap`.
pub fn dashboards(objects: &Objects, series: &Series) -> Vec<Finding> {
    with_dashboards(objects).flat_map(|config_map| in_config_map(config_map, series)).collect()
}

fn with_dashboards(objects: &Objects) -> impl Iterator<Item = &Object> {
    objects.of("ConfigMap").filter(|one| one.0.labels("/metadata/labels").contains_key("grafana_dashboard"))
}

fn in_config_map(config_map: &Object, series: &Series) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, text) in config_map.0.entries("/data") {
        let problems = match serde_json::from_str(text.as_str().unwrap_or_default()) {
            Ok(dashboard) => dashboard_problems(&dashboard, series),
            Err(error) => vec![format!("is no JSON: {error}")],
        };
        found.extend(problems.into_iter().map(|problem| config_map.finding(format!("{file}: {problem}"))));
    }
    found
}

fn dashboard_problems(dashboard: &Value, series: &Series) -> Vec<String> {
    let panels = dashboard.items("/panels");
    let mut found = overlaps(panels);
    for panel in panels.iter().filter(|panel| panel.text("/type") != "row") {
        let title = panel.text("/title");
        let mut problems = Vec::new();
        if panel.items("/targets").is_empty() {
            problems.push("asks for nothing".to_owned());
        }
        for target in panel.items("/targets") {
            let expression = Expression::read(&asked(target.text("/expr")), series);
            problems.extend(expression.problems);
            let legend = target.text("/legendFormat");
            let missing = unknown(legend, "", &expression.labels)
                .map(|label| format!("its legend names `{label}`, which is not there"));
            problems.extend(missing);
            if target.text("/datasource/uid") != "${datasource}" {
                problems.push("asks a fixed data source".to_owned());
            }
        }
        found.extend(problems.into_iter().map(|problem| format!("panel `{title}`: {problem}")));
    }
    for annotation in dashboard.items("/annotations/list") {
        found.extend(Expression::read(&asked(annotation.text("/expr")), series).problems);
    }
    found
}

/// Panels that lie on each other, or share a number.
fn overlaps(panels: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for (position, panel) in panels.iter().enumerate() {
        for other in panels.iter().take(position) {
            if panel.at("/id") == other.at("/id") || meets(panel.at("/gridPos"), other.at("/gridPos")) {
                found.push(format!(
                    "panel `{}` lies on `{}`, or has its number",
                    panel.text("/title"),
                    other.text("/title")
                ));
            }
        }
    }
    found
}

fn meets(one: &Value, other: &Value) -> bool {
    let number = |place: &Value, key: &str| place.at(key).as_u64().unwrap_or_default();
    let along = |start: &str, size: &str| {
        number(one, start) < number(other, start) + number(other, size)
            && number(other, start) < number(one, start) + number(one, size)
    };
    along("/x", "/w") && along("/y", "/h")
}

/// A panel's question as Grafana asks it.
fn asked(expression: &str) -> String {
    expression.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$route", ".*")
}

/// Every question of every dashboard, as Grafana asks it.
pub fn questions(objects: &Objects) -> Vec<String> {
    let files = with_dashboards(objects).flat_map(|one| one.0.entries("/data"));
    let read = files.filter_map(|(_, text)| serde_json::from_str::<Value>(text.as_str()?).ok());
    let panels = read.flat_map(|dashboard| dashboard.items("/panels").to_vec());
    panels
        .flat_map(|panel| panel.items("/targets").iter().map(|target| asked(target.text("/expr"))).collect::<Vec<_>>())
        .collect()
}
