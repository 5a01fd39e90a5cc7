//! `/metrics`: what it says, that promtool takes it, and that docs/METRICS.md says the same.

use crate::pki::Pki;
use pointsman::listen::Listeners;
use pointsman_config::Listener;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use pointsman::metrics::{self, Process};
use pointsman::view::{GateView, View};

use crate::fixture::{rolled_back, shifting, steady, troubled, view};

fn rendered(view: &View) -> String {
    metrics::render(view, &Process::started_now()).unwrap()
}

fn busy() -> String {
    let mut shifting = shifting();
    shifting.gates = vec![GateView {
        gate: "drift".to_owned(),
        outcome: "holds".to_owned(),
        words: "nothing has been found out yet".to_owned(),
        for_s: 3.5,
        observed_s_ago: None,
    }];
    rendered(&view(vec![shifting, steady("ranking")]))
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|written| written == line), "no `{line}` in\n{text}");
}

#[test]
fn requests_are_counted_by_outcome_and_start_at_zero() {
    let text = busy();
    has(&text, "# TYPE pointsman_requests_total counter");
    has(&text, r#"pointsman_requests_total{route="delivery-time",version="v2",outcome="success"} 90"#);
    has(&text, r#"pointsman_requests_total{route="delivery-time",version="v2",outcome="client_abort"} 1"#);
    has(&text, r#"pointsman_decisions_total{route="delivery-time",decision="rollback"} 1"#);
    has(&text, r#"pointsman_decisions_total{route="ranking",decision="rollback"} 0"#);
}

#[test]
fn a_gate_is_told_by_its_outcome() {
    let text = busy();
    has(&text, r#"pointsman_gate{route="delivery-time",gate="drift",outcome="holds"} 1"#);
    has(&text, r#"pointsman_gate{route="delivery-time",gate="drift",outcome="passes"} 0"#);
}

#[test]
fn what_was_repeated_is_told_by_what_came_of_it() {
    let text = busy();
    has(&text, r#"pointsman_retries_total{route="delivery-time",version="v2",result="success"} 7"#);
    has(&text, r#"pointsman_retries_total{route="delivery-time",version="v2",result="budget_exhausted"} 4"#);
    has(&text, r#"pointsman_stale_connections_total{route="delivery-time",version="v2",result="excused"} 3"#);
    has(&text, r#"pointsman_stale_connections_total{route="delivery-time",version="v2",result="charged"} 5"#);
}

#[test]
fn copies_are_told_by_who_got_them_and_what_came_of_them() {
    let text = busy();
    has(&text, r#"pointsman_mirror_total{route="delivery-time",version="v2",result="disagreed"} 5"#);
    has(&text, r#"pointsman_mirror_total{route="delivery-time",version="v2",result="dropped"} 3"#);
    has(&text, r#"pointsman_mirror_total{route="delivery-time",version="v1",result="agreed"} 10"#);
    has(&text, r#"pointsman_mirror_duration_seconds_count{route="delivery-time",version="v2",side="copy"} 100"#);
    has(&text, r#"pointsman_mirror_duration_seconds_sum{route="delivery-time",version="v2",side="stable"} 2"#);
    assert!(!text.contains(r#"pointsman_mirror_total{route="ranking""#), "{text}");
}

#[test]
fn the_histogram_adds_up_and_has_the_edges_of_the_objectives() {
    let text = busy();
    let of_v1 = r#"pointsman_request_duration_seconds_bucket{route="delivery-time",version="v1",le="#;
    has(&text, "# TYPE pointsman_request_duration_seconds histogram");
    has(&text, &format!(r#"{of_v1}"0.0015"}} 0"#));
    has(&text, &format!(r#"{of_v1}"0.002"}} 60"#));
    has(&text, &format!(r#"{of_v1}"0.05"}} 99"#));
    has(&text, &format!(r#"{of_v1}"0.2"}} 99"#));
    has(&text, &format!(r#"{of_v1}"0.5"}} 99"#));
    assert!(text.contains("version=\"v1\",le=\"+Inf\"} 100\n"), "{text}");
    has(&text, r#"pointsman_request_duration_seconds_count{route="delivery-time",version="v1"} 100"#);
    has(&text, r#"pointsman_request_duration_seconds_sum{route="delivery-time",version="v1"} 1.5"#);
}

#[test]
fn weights_are_ratios_and_an_unobserved_one_is_absent() {
    let text = busy();
    has(&text, r#"pointsman_weight_ratio{route="delivery-time",version="v2",kind="desired"} 0.05"#);
    has(&text, r#"pointsman_weight_ratio{route="delivery-time",version="v2",kind="observed"} 0.052000000000000005"#);
    assert!(!text.contains(r#"route="ranking",version="v1",kind="observed""#), "{text}");
}

#[test]
fn just_one_phase_is_the_present_one() {
    let text = busy();
    let ones: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with(r#"pointsman_rollout_phase{route="delivery-time""#) && line.ends_with(" 1"))
        .collect();
    assert_eq!(ones, [r#"pointsman_rollout_phase{route="delivery-time",phase="shifting"} 1"#]);
    assert_eq!(text.matches(r#"pointsman_rollout_phase{route="delivery-time""#).count(), 8);
}

#[test]
fn evidence_endpoints_and_quarantine_are_told() {
    let text = busy();
    has(&text, r#"pointsman_analysis_evidence{route="delivery-time",test="slow"} 0.8"#);
    has(&text, r#"pointsman_analysis_evidence_limit{route="delivery-time",test="promotion"} 4.605"#);
    has(&text, r#"pointsman_endpoint_up{route="delivery-time",version="v2",endpoint="127.0.0.1:9002"} 1"#);
    has(&text, r#"pointsman_endpoint_up{route="delivery-time",version="v2",endpoint="127.0.0.1:9004"} 0"#);
    has(&text, r#"pointsman_version_quarantined{route="delivery-time",version="v2"} 0"#);
    let after = rendered(&view(vec![rolled_back()]));
    has(&after, r#"pointsman_version_quarantined{route="delivery-time",version="v2"} 1"#);
}

#[test]
fn config_and_state_are_told() {
    let text = busy();
    has(&text, r#"pointsman_config_reloads_total{result="ok"} 2"#);
    has(&text, r#"pointsman_config_reloads_total{result="failed"} 1"#);
    has(&text, "pointsman_config_generation 3");
    has(&text, "pointsman_config_refused 0");
    has(&text, "pointsman_state_problem 0");
    has(&text, "pointsman_standstill_seconds_total 600.5");
    assert!(text.contains("pointsman_build_info{version=\""), "{text}");
    let troubled = rendered(&troubled(view(vec![shifting()])));
    has(&troubled, "pointsman_config_refused 1");
    has(&troubled, "pointsman_state_problem 1");
}

#[test]
fn the_process_is_told() {
    let text = busy();
    let value = |name: &str| -> f64 {
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
        line.parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") < value("process_max_fds"));
    assert!(value("process_cpu_seconds_total") >= 0.0 && value("process_threads") >= 1.0);
    assert!(value("process_start_time_seconds") > 1.7e9);
}

#[test]
fn every_metric_is_written_out_and_nothing_else_is() {
    // Certificates are told for as long as somebody uses them.
    let pki = Pki::new();
    let tls = Some(Pki::listener(vec![pki.issue("edge", &["model.test"])]));
    let _listening = Listeners::bind(&[Listener { address: ([127, 0, 0, 1], 0).into(), tls }], 1).unwrap();
    let text = busy();
    let mut written: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut known: Vec<&str> = metrics::ALL.iter().map(|metric| metric.name).collect();
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn promtool_has_nothing_against_it() {
    for view in [view(vec![shifting(), steady("ranking")]), troubled(view(vec![rolled_back()])), View::default()] {
        promtool(&rendered(&view));
    }
}

fn promtool(text: &str) {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if std::env::var_os("REQUIRE_PROMTOOL").is_none() => {
            eprintln!("skipped: promtool cannot be started ({error}); REQUIRE_PROMTOOL=1 makes this a failure");
            return;
        }
        Err(error) => panic!("promtool cannot be started: {error}"),
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn the_page_says_what_the_code_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
    let page = metrics::reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == page,
        "docs/METRICS.md is out of date; UPDATE_DOCS=1 cargo test -p pointsman metrics writes it anew"
    );
}
