//! Keys of the config file and metrics that pages name are those of the references.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pointsman_docs::literals::{is_printed, of_source};
use pointsman_docs::tree::Tree;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The first cell of each row, where it is code alone.
fn first_cells(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(name, _)| name))
}

/// Every key by its path, as people write it: without the marks of lists, and from a route on.
fn keys() -> BTreeSet<String> {
    let page = read("docs/CONFIG.md");
    let mut keys = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap().trim_matches('`');
        let inside = title.replace("[]", "").replace(".NAME", "");
        let from =
            if title == "The file" { String::new() } else { format!("{}.", inside.trim_start_matches("routes.")) };
        keys.extend(first_cells(section).map(|key| format!("{from}{key}").trim_start_matches("routes.").to_owned()));
    }
    keys
}

#[test]
fn a_key_that_a_page_names_is_there() {
    let keys = keys();
    assert!(keys.contains("guard.promotion.min_soak") && keys.contains("state.kubernetes.lease"), "{keys:?}");
    let parents: BTreeSet<&str> = keys.iter().filter_map(|key| key.split_once('.').map(|(parent, _)| parent)).collect();
    let is_path = |text: &str| {
        text.contains('.') && text.chars().all(|letter| letter.is_ascii_lowercase() || "._".contains(letter))
    };
    // The API's page names fields of answers, which look alike.
    let pages = Tree::read(&root()).unwrap().pages.into_iter().filter(|(path, _)| !path.ends_with("API.md"));
    let (mut seen, mut unknown) = (0, Vec::new());
    for (path, page) in pages {
        for (code, line) in page.codes {
            let key = code.split(&[':', ' '][..]).next().unwrap().replace("[]", "");
            let key = key.trim_start_matches("routes.");
            let parent = key.split('.').next().unwrap();
            if is_path(key)
                && parents.contains(parent)
                && ![".rs", ".md", ".upgrade"].iter().any(|end| key.ends_with(end))
            {
                seen += 1;
                if !keys.contains(key) {
                    unknown.push(format!("{}:{line}: `{code}`", path.display()));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "these are no keys of docs/CONFIG.md: {unknown:#?}");
    assert!(seen > 50, "{seen}");
}

#[test]
fn a_metric_that_a_page_names_is_there() {
    let known: BTreeSet<String> = first_cells(&read("docs/METRICS.md")).map(str::to_owned).collect();
    assert!(known.contains("pointsman_requests_total"), "{known:?}");
    let (mut seen, mut unknown) = (0, Vec::new());
    for (path, page) in Tree::read(&root()).unwrap().pages {
        // What is recorded has a colon in its name.
        for (code, line) in page.codes.into_iter().filter(|(code, _)| !code.starts_with("route:")) {
            for name in code.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
                // A cookie of the examples, and packages.
                if name.starts_with("pointsman_") && name != "pointsman_user" && !path.starts_with("docs/checks") {
                    seen += 1;
                    if !known.contains(name) {
                        unknown.push(format!("{}:{line}: `{name}`", path.display()));
                    }
                }
            }
        }
    }
    assert!(unknown.is_empty(), "these are not in docs/METRICS.md: {unknown:#?}");
    assert!(seen > 30, "{seen}");
}

/// The alerts of a row of the table in the runbooks, and the place that the row sends to, from the root.
fn row_of_alerts(line: &str) -> Option<(Vec<&str>, String)> {
    let (alerts, way) = line.strip_prefix("| `Pointsman").and(line.strip_prefix("| "))?.split_once(" | ")?;
    let target = way.split_once("](").and_then(|(_, rest)| rest.split_once(')')).map_or("#from-an-alert", |(to, _)| to);
    let page = if target.starts_with('#') { "runbooks.md" } else { "" };
    Some((alerts.split('`').skip(1).step_by(2).collect(), format!("docs/{page}{target}")))
}

#[test]
fn every_alert_names_the_place_in_the_runbooks_that_its_row_sends_to() {
    let rules = read("manifests/components/monitoring/rules.yaml");
    let after = |line: &'static str| move |text: &'_ str| text.trim().strip_prefix(line).map(str::to_owned);
    let alerts = rules.lines().filter_map(after("- alert: "));
    let named: Vec<(String, String)> = alerts.zip(rules.lines().filter_map(after("runbook: "))).collect();
    assert_eq!(rules.matches("- alert: ").count(), rules.matches(" runbook: ").count());
    let runbooks = read("docs/runbooks.md");
    let rows: Vec<_> = runbooks.lines().filter_map(row_of_alerts).collect();
    let tree = Tree::read(&root()).unwrap();
    assert!(named.len() > 30, "{named:?}");
    for (alert, runbook) in named {
        let (_, wanted) = rows.iter().find(|(alerts, _)| alerts.contains(&alert.as_str())).unwrap();
        assert_eq!(&runbook, wanted, "{alert}");
        let (page, anchor) = runbook.split_once('#').unwrap_or((&runbook, ""));
        let page = tree.pages.get(Path::new(page)).unwrap_or_else(|| panic!("{alert}: no page {runbook}"));
        assert!(anchor.is_empty() || page.anchors.contains(anchor), "{alert}: no place {runbook}");
    }
}

/// Every string literal of what ships, but for its tests.
fn literals() -> Vec<String> {
    let (mut found, mut folders) =
        (Vec::new(), ["config", "rollout", "kubernetes", "proxy"].map(|name| root().join(name).join("src")).to_vec());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                found.extend(of_source(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

/// What stands in the first column of a table that says so in its head; in italics stands what is no quotation.
fn quotations(page: &str) -> Vec<String> {
    let (mut quoted, mut in_table, mut before) = (Vec::new(), false, "");
    for line in page.lines().map(str::trim) {
        let first = line.strip_prefix("| ").and_then(|row| row.split(" | ").next());
        let is_ruler = line.starts_with("|---");
        if is_ruler {
            in_table = ["| `explain`", "| `next`", "| reason |"].iter().any(|head| before.starts_with(head));
        }
        in_table &= line.starts_with('|');
        quoted.extend(first.filter(|cell| in_table && !is_ruler && !cell.starts_with('*')).map(str::to_owned));
        before = line;
    }
    quoted
}

#[test]
fn what_the_runbooks_quote_is_what_is_printed() {
    let (literals, quoted) = (literals(), quotations(&read("docs/runbooks.md")));
    assert!(literals.len() > 1_000 && quoted.len() > 40, "{} {quoted:#?}", literals.len());
    let invented: Vec<&String> = quoted.iter().filter(|quotation| !is_printed(quotation, &literals)).collect();
    assert!(invented.is_empty(), "nothing prints these: {invented:#?}");
}

#[test]
fn the_runbooks_know_every_alert_and_no_other() {
    let rules = read("manifests/components/monitoring/rules.yaml");
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbooks = Tree::read(&root()).unwrap().pages.remove(Path::new("docs/runbooks.md")).unwrap();
    let named: BTreeSet<&str> =
        runbooks.codes.iter().map(|(code, _line)| code.as_str()).filter(|code| code.starts_with("Pointsman")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    assert_eq!(named, alerts);
}
