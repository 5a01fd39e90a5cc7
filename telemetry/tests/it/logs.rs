//! What a process logs, and that it never waits for whoever reads it.

use crate::child::Player;
use pointsman_telemetry::logs::{self, LogFormat, LogsError};
use tracing_log::log as old_log;

fn logged(child: &str, rust_log: Option<&str>) -> String {
    Player::start(child, rust_log).finish()
}

#[test]
fn text_lines_carry_fields_and_no_colours_off_a_terminal() {
    let text = logged("logs::child_speaks_text", None);
    assert!(text.contains("INFO it::logs: canary taken back version=\"v2\" requests=7"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(!text.contains("details"), "{text}");
}

#[test]
fn json_lines_carry_fields_beside_the_message() {
    let text = logged("logs::child_speaks_json", None);
    let line = text.lines().find(|line| line.contains("canary taken back")).unwrap();
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    for part in [r#""level":"INFO""#, r#""message":"canary taken back""#, r#""version":"v2""#, r#""requests":7"#] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn records_of_the_log_crate_are_caught_and_pingora_is_quiet_by_default() {
    let text = logged("logs::child_speaks_text", None);
    assert!(text.contains("WARN pingora_core::server: look at this"), "{text}");
    assert!(!text.contains("service started"), "{text}");
}

#[test]
fn rust_log_is_honoured() {
    let text = logged("logs::child_speaks_text", Some("debug"));
    assert!(text.contains("DEBUG it::logs: details"), "{text}");
    assert!(text.contains("INFO pingora_core::server: service started"), "{text}");
    let text = logged("logs::child_speaks_text", Some("error"));
    assert!(!text.contains("canary taken back"), "{text}");
}

#[test]
fn a_bad_rust_log_is_refused() {
    logged("logs::child_refuses", Some("pointsman=loudly"));
}

#[test]
fn the_level_changes_while_running() {
    let text = logged("logs::child_changes_its_level", None);
    assert!(text.contains("DEBUG it::logs: heard"), "{text}");
    assert!(text.contains("DEBUG old: heard from log"), "{text}");
    assert!(!text.contains("unheard"), "{text}");
}

#[test]
fn a_reader_that_does_not_read_stops_nobody() {
    let mut child = Player::start("logs::child_talks_into_a_full_pipe", None);
    let line = child.wait_for("dropped");
    let dropped: usize = line.split_whitespace().last().unwrap().parse().unwrap();
    assert!(dropped > 0, "{line}");
    let text = child.finish();
    assert!(text.contains("line 0 "), "the oldest lines wait for the reader");
}

#[test]
#[ignore = "played in a child"]
fn child_speaks_text() {
    let _logs = logs::init(LogFormat::Text).unwrap();
    speak();
}

#[test]
#[ignore = "played in a child"]
fn child_speaks_json() {
    let _logs = logs::init(LogFormat::Json).unwrap();
    speak();
}

fn speak() {
    tracing::info!(version = "v2", requests = 7, "canary taken back");
    tracing::debug!("details");
    old_log::info!(target: "pingora_core::server", "service started");
    old_log::warn!(target: "pingora_core::server", "look at this");
}

#[test]
#[ignore = "played in a child"]
fn child_refuses() {
    assert!(matches!(logs::init(LogFormat::Text), Err(LogsError::Directives { .. })));
}

#[test]
#[ignore = "played in a child"]
fn child_changes_its_level() {
    let logs = logs::init(LogFormat::Text).unwrap();
    tracing::debug!("unheard");
    logs.set_level("debug").unwrap();
    tracing::debug!("heard");
    old_log::debug!(target: "old", "heard from log");
    assert!(logs.set_level("loudly,=").is_err());
    assert_eq!(logs.level().unwrap(), "debug");
    logs.set_level("warn").unwrap();
    tracing::info!("unheard again");
    assert!(matches!(logs::init(LogFormat::Text), Err(LogsError::AlreadySetUp(_))));
}

#[test]
#[ignore = "played in a child"]
fn child_talks_into_a_full_pipe() {
    let logs = logs::init(LogFormat::Text).unwrap();
    let mut line = 0;
    while logs.dropped_lines() == 0 {
        tracing::info!("line {line} {:200}", "");
        line += 1;
    }
    println!("dropped {}", logs.dropped_lines());
}
