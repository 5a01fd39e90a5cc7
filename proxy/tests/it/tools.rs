//! What shells, `man`, editors and programs hold on to: completions, manual pages, the form of all JSON, forecasts in CI.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pointsman::view::{ReplicaView, ReplicasView, RouteView, View};
use pointsman_rollout::{Cause, Decision};
use serde_json::Value;

use crate::fixture::{Edge, decisions, rolled_back, row, shifting, troubled, view};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).stdin(Stdio::null()).env_remove("POINTSMAN_ADMIN").env_remove("POINTSMAN_TOKEN_FILE");
    command
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What bash offers for `words`, the last of which is being written.
fn offered(edge: &Edge, words: &[&str]) -> BTreeSet<String> {
    let mut command = program(&["--"]);
    command.args(words).env("POINTSMAN_COMPLETE", "bash").env("POINTSMAN_ADMIN", edge.url(""));
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    out(&command.output().unwrap()).lines().map(str::to_owned).collect()
}

#[test]
fn completions_know_commands_routes_and_versions() {
    let edge = Edge::new(view(vec![shifting()]));
    let commands = offered(&edge, &["pointsman", "ro"]);
    assert_eq!(commands, ["rollback".to_owned()].into());
    assert_eq!(offered(&edge, &["pointsman", "rollback", "del"]), ["delivery-time".to_owned()].into());
    assert!(offered(&edge, &["pointsman", "retry", "delivery-time", "v"]).contains("v2"));
    assert!(offered(&edge, &["pointsman", "weights", "delivery-time", "v"]).contains("v2="));
    let gone = edge.url("");
    drop(edge);
    let mut alone = program(&["--", "pointsman", "rollback", "del"]);
    alone.env("POINTSMAN_COMPLETE", "bash").env("POINTSMAN_ADMIN", gone).env("_CLAP_COMPLETE_INDEX", "2");
    assert_eq!(out(&alone.output().unwrap()).trim(), "", "an edge that is gone offers nothing, and is no error");
}

#[test]
fn every_shell_gets_a_script_that_it_can_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&program(&["completions", shell]).output().unwrap());
        assert!(script.contains("POINTSMAN_COMPLETE") && script.contains("pointsman"), "{shell}: {script}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
    assert_eq!(program(&["completions", "dash"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let out_folder = folder.path().join("man1");
    out(&program(&["man", "--out", out_folder.to_str().unwrap()]).output().unwrap());
    let page = |name: &str| std::fs::read_to_string(out_folder.join(name)).unwrap();
    assert!(page("pointsman.1").contains(".TH POINTSMAN 1"), "{}", page("pointsman.1"));
    for command in ["run", "check", "status", "rollback", "explain", "completions"] {
        let text = page(&format!("pointsman-{command}.1"));
        assert!(text.contains(".SH SYNOPSIS"), "{command}: {text}");
    }
    let refused = program(&["man", "--out", "/proc/nowhere"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--out"));
}

#[test]
fn the_version_names_what_it_was_built_from() {
    let text = out(&program(&["--version"]).output().unwrap());
    assert!(text.starts_with(concat!("pointsman ", env!("CARGO_PKG_VERSION"), " (")), "{text}");
}

const PLAN: &str = "\
listeners:
  - address: 127.0.0.1:0
routes:
  - name: delivery-time
    stable: v1
    versions:
      v1: { endpoints: [127.0.0.1:9001] }
      v2: { endpoints: [127.0.0.1:9002] }
    rollout:
      canary: v2
      steps:
        - { weight: 1%, hold: 2m }
        - { weight: 25%, hold: 5m }
";

fn check(arguments: &[&str]) -> Output {
    check_of(PLAN, arguments)
}

fn check_of(plan: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.yaml"), plan).unwrap();
    program(&["check", "edge.yaml"]).args(arguments).current_dir(folder.path()).output().unwrap()
}

#[test]
fn check_forecasts_a_plan_and_warns_of_what_cannot_decide() {
    let starved = check(&["--rps", "20"]);
    let text = out(&starved);
    assert!(text.contains("edge.yaml:12:11: warning: step 1 gives the canary about 24 requests"), "{text}");
    for words in ["What to expect of delivery-time", "is promoted after", "bad answers", "50% from step 1 on"] {
        assert!(text.contains(words), "`{words}` is missing:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains(": warning: ")), "{text}");
    assert_eq!(check(&["--rps", "20", "--deny-warnings"]).status.code(), Some(2));
    assert_eq!(check(&["--rps", "2000", "--deny-warnings"]).status.code(), Some(0));
    assert!(!out(&check(&[])).contains("What to expect"), "nothing is foreseen of unknown traffic");
    for never in ["none", "0", "-1", "inf", "1e300"] {
        assert_eq!(check(&[&format!("--rps={never}")]).status.code(), Some(2), "{never}");
    }
}

#[test]
fn check_forecasts_what_the_plan_does_and_not_what_another_would() {
    let plan = format!("{PLAN}      promotion: manual\n    guard: {{ on_regression: alert }}\n");
    let output = check_of(&plan, &["--rps", "500"]);
    let text = out(&output);
    for words in [
        "could be promoted by hand after",
        "waits for `pointsman promote delivery-time`",
        "alert after",
        "then per min",
        "`pointsman rollback delivery-time`",
    ] {
        let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(words), "`{words}` is missing:\n{text}");
    }
    for false_words in ["is promoted after", "rollback after"] {
        assert!(!text.contains(false_words), "{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains(": warning: ")), "{text}");
}

#[test]
fn check_takes_the_rates_of_a_running_edge() {
    let edge = Edge::new(view(vec![shifting()]));
    let output = check(&["--from", &edge.url(""), "--json"]);
    let told: Value = serde_json::from_str(&out(&output)).unwrap();
    let expected = &told["forecasts"][0]["expected"];
    let rates = shifting();
    let per_second: f64 = rates.versions.values().map(|version| version.requests_per_second).sum();
    assert!((expected["requests_per_s"].as_f64().unwrap() - per_second).abs() < 1e-9, "{expected}");
    let gone = edge.url("");
    drop(edge);
    assert_eq!(check(&["--from", &gone]).status.code(), Some(1));
}

#[test]
fn one_of_several_edges_is_not_taken_for_all_of_them() {
    let other = ReplicaView {
        address: "10.0.0.8:9901".to_owned(),
        name: Some("edge-b".to_owned()),
        age_s: Some(0.1),
        heard: true,
        serves: true,
        gone: false,
    };
    let leader = ReplicasView {
        name: "edge-a".to_owned(),
        role: "leader".to_owned(),
        leader: Some("edge-a".to_owned()),
        leader_age_s: None,
        replicas: vec![other.clone()],
        uncounted: 0,
    };
    let follower = ReplicasView { role: "follower".to_owned(), replicas: Vec::new(), ..leader.clone() };
    let alone = ReplicasView { replicas: vec![ReplicaView { gone: true, ..other }], ..leader.clone() };
    let mut at_rest = shifting();
    at_rest.analysis.summary = None;
    let told = |replicas: ReplicasView, route: RouteView| {
        let edge = Edge::new(View { replicas: Some(replicas), ..view(vec![route]) });
        check(&["--from", &edge.url(""), "--json"])
    };
    for (replicas, route) in [(follower, shifting()), (leader.clone(), at_rest)] {
        let output = told(replicas, route);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("one of several edges") && said.contains("--rps"), "{said}");
    }
    let trial = shifting().analysis.summary.unwrap();
    let of_all = f64::from(u32::try_from(trial.canary.requests + trial.stable.requests).unwrap());
    let of_it: f64 = shifting().versions.values().map(|version| version.requests_per_second).sum();
    for (replicas, expected) in [(leader, of_all / trial.elapsed_seconds), (alone, of_it)] {
        let told: Value = serde_json::from_str(&out(&told(replicas, shifting()))).unwrap();
        let rate = told["forecasts"][0]["expected"]["requests_per_s"].as_f64().unwrap();
        assert!((rate - expected).abs() < 1e-9, "{rate} beside {expected}");
    }
}

/// Every path of fields in `value`, with `[]` for items of lists and `*` for keys that are names.
fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            let by_name = ["weights", "versions", "evidence", "running"];
            let is_map = by_name.iter().any(|map| path.ends_with(&format!(".{map}")))
                && !path.ends_with("change.evidence")
                && !path.ends_with("summary.evidence");
            if path.ends_with(".running") || path.ends_with(".change") || path.ends_with(".summary") {
                into.insert(format!("{path}: object"));
                return;
            }
            for (key, below) in entries {
                let key = if is_map { "*" } else { key };
                fields(below, &format!("{path}.{key}"), into);
            }
        }
        Value::Array(items) => {
            into.insert(format!("{path}: list"));
            for item in items {
                fields(item, &format!("{path}[]"), into);
            }
        }
        Value::Null => {}
        Value::Bool(_) => drop(into.insert(format!("{path}: boolean"))),
        Value::Number(_) => drop(into.insert(format!("{path}: number"))),
        Value::String(_) => drop(into.insert(format!("{path}: text"))),
    }
}

/// What each command prints, as the paths of its fields.
fn printed() -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut log = decisions();
    log.push(row(40, Decision::Rollback, Cause::NotReady { seconds: 10 }));
    let edge = Edge::with(troubled(view(vec![shifting(), rolled_back()])), log, None);
    let admin = edge.url("");
    let commands: [(&str, Vec<&str>); 5] = [
        ("status", vec!["status", "--json"]),
        ("history", vec!["history", "delivery-time", "--json"]),
        ("explain", vec!["explain", "delivery-time", "--json"]),
        ("rollback (and every other order)", vec!["rollback", "delivery-time", "--json"]),
        ("check", vec![]),
    ];
    let mut printed = BTreeMap::new();
    for (name, arguments) in commands {
        let output = if arguments.is_empty() {
            check(&["--rps", "20", "--json"])
        } else {
            program(&arguments).args(["--admin", &admin]).output().unwrap()
        };
        let value: Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!(value["schema_version"], 1, "{name}");
        let mut found = BTreeSet::new();
        fields(&value, "", &mut found);
        printed.insert(name, found.into_iter().map(|field| field.trim_start_matches('.').to_owned()).collect());
    }
    printed
}

const HEAD: &str = "\
# What `--json` prints

Every command that prints JSON says `schema_version`. It grows when a field is taken away or changes its meaning; new
fields come without notice, so programs should ignore those they do not know. A field without a value is `null` or
absent. This page lists the fields; a test holds the program to it, so that none vanishes.
";

#[test]
fn no_field_of_any_json_vanishes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/JSON.md");
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let printed = printed();
    for (name, found) in &printed {
        let section = kept.split("\n## ").find(|section| section.starts_with(&format!("`{name}`"))).unwrap_or_default();
        let promised = section.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`'));
        for field in promised {
            assert!(found.contains(field), "`{field}` vanished from `{name}`; schema_version must grow for that");
        }
    }
    let section = |(name, found): (&&str, &BTreeSet<String>)| {
        let list: Vec<String> = found.iter().map(|field| format!("- `{field}`")).collect();
        format!("\n## `{name}`\n\n{}\n", list.join("\n"))
    };
    let text = format!("{HEAD}{}", printed.iter().map(section).collect::<String>());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept, text, "docs/JSON.md is not what is printed; UPDATE_DOCS=1 cargo test -p pointsman json");
}
