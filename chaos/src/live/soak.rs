//! Random faults on the live system, drawn from a seed, and what such a run may not leave behind.

use std::fmt::Write as _;
use std::time::Duration;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::record::{EdgeFigures, Record};
use crate::count::exact;
use crate::scenario::{Scenario, ScenarioError};

/// How far apart faults begin, in seconds.
const APART: std::ops::Range<u64> = 2..7;
/// How long each lasts, in milliseconds.
const LASTS: std::ops::Range<u64> = 500..6_000;
/// At the end everything is left alone for so long, in seconds.
const CALM: u64 = 15;
/// And at the beginning, so that it is known what the edge holds while nothing is wrong.
const CALM_FIRST: u64 = 10;
/// An operator tries the canary again this often, in seconds.
const RETRY_EVERY: u64 = 20;

/// What may have grown since the beginning without being a leak: caches and buffers fill for a while.
const GROWTH_BYTES: u64 = 48 << 20;
/// Connections come and go.
const GROWTH_DESCRIPTORS: u64 = 64;

const HEAD: &str = "about: Random faults from a seed, on a rollout that never ends by itself.
worlds: [live]
live: { connections: 256 }
route:
  stable: v1
  rollout:
    canary: v2
    steps: [ { weight: 20%, hold: 3s }, { weight: 50%, hold: 23h } ]
    promotion: manual
    step_deadline: 24h
  timeouts: { read: 2s }
  health_check: { path: /ready, interval: 200ms, timeout: 200ms }
  retries: { replay: predictions }
  ejection: { base_time: 1s, max_time: 5s }
versions: { v1: { endpoints: 3, errors: 0.1% }, v2: { endpoints: 3, errors: 0.1% } }
holds: { availability_at_least: 90% }
";

/// The scenario of a soak: the same seed gives the same one.
///
/// # Errors
/// When it lasts longer than a scenario may.
pub fn scenario(seed: u64, lasts: Duration, rate: u32) -> Result<Scenario, ScenarioError> {
    Scenario::parse(&text(seed, lasts, rate), &format!("soak-{seed}"))
}

/// The same as a file.
pub fn text(seed: u64, lasts: Duration, rate: u32) -> String {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let end = lasts.as_secs().max(CALM_FIRST + CALM + 1);
    let mut text = format!("{HEAD}rate: {rate}\nevents:\n");
    let mut at = CALM_FIRST + chance.random_range(APART);
    while at + LASTS.end / 1_000 + CALM < end {
        let fault = fault(&mut chance);
        // Writing to a string does not fail.
        writeln!(text, "  - {{ at: {at}s, {fault} }}").ok();
        at += chance.random_range(APART);
    }
    for at in (RETRY_EVERY..end.saturating_sub(CALM)).step_by(usize::try_from(RETRY_EVERY).unwrap_or(1)) {
        writeln!(text, "  - {{ at: {at}s, order: retry, version: v2 }}").ok();
    }
    writeln!(text, "end: {end}s").ok();
    text
}

fn fault(chance: &mut ChaCha8Rng) -> String {
    let version = if chance.random_bool(0.5) { "v1" } else { "v2" };
    let share = chance.random_range(1..40_u32);
    let lasts = chance.random_range(LASTS);
    let kinds = ["errors", "slow", "hang", "reset", "torn", "trickle", "garbage"];
    match chance.random_range(0..16_usize) {
        kind @ 0..7 => {
            format!("for: {lasts}ms, version: {version}, {}: {share}%", kinds.get(kind).copied().unwrap_or("errors"))
        }
        7 => format!("for: {lasts}ms, version: {version}, down: 1"),
        8 => format!("for: {lasts}ms, version: {version}, down: 1, by: frozen"),
        9 => format!("for: {lasts}ms, version: {version}, down: 1, every: 700ms"),
        10 => format!("for: {lasts}ms, version: {version}, down: 1, cold: 1500ms"),
        11 => format!("for: {lasts}ms, clients: {{ idle: {} }}", share * 20),
        12 => format!("for: {lasts}ms, traffic: {}", chance.random_range(0..6_u32)),
        13 => format!("for: {lasts}ms, config: {}", one_of(chance, &["half_written", "garbage", "flapping"])),
        14 => format!("for: {lasts}ms, config: {}", one_of(chance, &["deleted", "unreadable"])),
        _ => format!("for: {lasts}ms, version: {version}, latency: {{ median: 20ms, p99: {}ms }}", 20 + 10 * share),
    }
}

fn one_of<'a>(chance: &mut ChaCha8Rng, all: &[&'a str]) -> &'a str {
    all.get(chance.random_range(0..all.len().max(1))).copied().unwrap_or_default()
}

/// What grew and did not shrink again.
pub fn leaks(record: &Record) -> Vec<String> {
    let EdgeFigures { early_resident_bytes, end_resident_bytes, early_descriptors, end_descriptors, .. } = record.edge;
    let mut leaks = Vec::new();
    if end_resident_bytes > early_resident_bytes.saturating_add(GROWTH_BYTES) {
        leaks.push(format!(
            "the edge held {:.0} MiB before the first fault at most, and {:.0} MiB at the end",
            mib(early_resident_bytes),
            mib(end_resident_bytes)
        ));
    }
    if end_descriptors > early_descriptors.saturating_add(GROWTH_DESCRIPTORS) {
        leaks.push(format!(
            "the edge held {early_descriptors} descriptors before the first fault, and {end_descriptors} at the end"
        ));
    }
    if record.edge.end_threads > record.edge.early_threads {
        leaks.push(format!(
            "the edge had {} threads before the first fault, and {} at the end",
            record.edge.early_threads, record.edge.end_threads
        ));
    }
    leaks
}

fn mib(bytes: u64) -> f64 {
    exact(bytes >> 10) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_scenario_and_the_same_seed_the_same_one() {
        for seed in 0..50 {
            let lasts = Duration::from_mins(5);
            let scenario = scenario(seed, lasts, 200).unwrap();
            assert!(scenario.events.len() > 40, "{}", scenario.events.len());
            let last = scenario.events.iter().filter_map(|event| event.until).max().unwrap();
            assert!(last + Duration::from_secs(CALM) <= scenario.end);
            assert!(scenario.events[0].at >= Duration::from_secs(CALM_FIRST));
            assert_eq!(text(seed, lasts, 200), text(seed, lasts, 200));
        }
        assert_ne!(text(1, Duration::from_mins(5), 200), text(2, Duration::from_mins(5), 200));
    }

    #[test]
    fn what_stays_is_a_leak_and_what_came_and_went_is_none() {
        let edge = EdgeFigures {
            early_resident_bytes: 50 << 20,
            peak_resident_bytes: 500 << 20,
            end_resident_bytes: 60 << 20,
            early_descriptors: 100,
            peak_descriptors: 9_000,
            end_descriptors: 110,
            early_threads: 8,
            end_threads: 8,
            ..EdgeFigures::default()
        };
        let mut record = Record { edge, ..Record::default() };
        assert_eq!(leaks(&record), Vec::<String>::new());
        record.edge.end_resident_bytes = 120 << 20;
        record.edge.end_descriptors = 200;
        record.edge.end_threads = 9;
        assert_eq!(leaks(&record).len(), 3);
    }
}
