//! Keys of the config file and metrics that pages name are those of the references.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
