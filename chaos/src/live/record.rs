//! What came of a scenario that was played live: for people as a row, for programs as JSON.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::iter::successors;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LiveError;
use crate::count::exact;
use crate::scenario::{Models, Scenario};

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The scenario.
    pub scenario: String,
    /// What happens in it.
    pub about: String,
    /// So many of its seconds in each real one.
    pub speed: f64,
    /// What answered.
    pub models: String,
    /// How long it took, in real seconds, starts and ends of processes left out.
    pub seconds: f64,
    /// What the load saw.
    pub requests: Requests,
    /// Seconds from the first thing that went wrong until the edge showed that something is wrong; none if nothing went wrong,
    /// or it never did.
    pub notice_s: Option<f64>,
    /// Seconds from the first thing that went wrong until the canary was taken back.
    pub rollback_s: Option<f64>,
    /// Seconds from one thing that went wrong until clients saw the last of it, the longest of all: 0 if they never saw any.
    pub recover_s: Option<f64>,
    /// The phase at the end.
    pub ends: Option<String>,
    /// What was done, by its kind, and how often.
    pub faults: BTreeMap<String, u64>,
    /// How often each kind struck: requests that met it, endpoints and edges that went, connections that were held or cut, edits
    /// that were refused, or that the edge showed it.
    #[serde(default)]
    pub struck: BTreeMap<String, u64>,
    /// Requests that were none, and files that were no configs or states.
    pub bad_inputs: u64,
    /// What the edge held.
    pub edge: EdgeFigures,
    /// Decisions and faults, a line each.
    pub trace: Vec<String>,
    /// What did not hold.
    pub broken: Vec<String>,
    /// The rules that it broke, one for each of those.
    #[serde(default)]
    pub rules: Vec<String>,
    /// Why it was not played at all.
    pub skipped: Option<String>,
}

impl Record {
    /// Of a scenario that has not been played yet.
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            speed: scenario.live.speed,
            models: match scenario.live.models {
                Models::Fake => "fakes".to_owned(),
                Models::ModelServer => "model-server".to_owned(),
            },
            ..Self::default()
        }
    }

    /// Of one whose world broke down on the way.
    pub fn broken_down(scenario: &Scenario, error: &LiveError) -> Self {
        let causes = successors(Some::<&dyn Error>(error), |cause: &&dyn Error| (*cause).source());
        let words: Vec<String> = causes.map(ToString::to_string).collect();
        let broken = format!("the world broke down: {}", words.join(": "));
        Self { broken: vec![broken], rules: vec!["the world stands".to_owned()], ..Self::of(scenario) }
    }
}

/// Requests of the load, by what became of them: `due = good + bad + unanswered_as_planned + lost + not_sent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// That fell due.
    pub due: u64,
    /// That were written to a connection.
    pub sent: u64,
    /// Answered well.
    pub good: u64,
    /// Answered badly: with a status of 400 or above, or a wrong number.
    pub bad: u64,
    /// Those, by who answered (`edge` for itself) and how.
    pub bad_by: BTreeMap<String, u64>,
    /// Cut off by what the scenario did: an edge that was killed, an answer that was torn.
    pub unanswered_as_planned: u64,
    /// Sent, and neither answered nor cut off by what the scenario did.
    pub lost: u64,
    /// The first of those, for who looks for the reason.
    pub first_lost: Vec<String>,
    /// Not sent, since nobody listened or no connection came free.
    pub not_sent: u64,
    /// Those among them while the edge was down.
    pub not_sent_as_planned: u64,
    /// What the edge counted; none where its counters ended with it, or counted others as well.
    pub counted_by_edge: Option<u64>,
    /// Latency of answers from the time they were due: median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

impl Requests {
    /// The share that was answered well; 1 of none.
    pub fn availability(&self) -> f64 {
        if self.due == 0 { 1.0 } else { exact(self.good) / exact(self.due) }
    }
}

/// What the edge held at most, and at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeFigures {
    /// Times that a process was started.
    pub starts: u32,
    /// Resident memory at most, in bytes.
    pub peak_resident_bytes: u64,
    /// At most before anything happened.
    pub early_resident_bytes: u64,
    /// At the end.
    pub end_resident_bytes: u64,
    /// File descriptors at most.
    pub peak_descriptors: u64,
    /// At most before anything happened.
    pub early_descriptors: u64,
    /// At the end.
    pub end_descriptors: u64,
    /// Threads at most before anything happened.
    pub early_threads: u64,
    /// At the end.
    pub end_threads: u64,
}

/// A table of what came of several scenarios.
pub fn table(records: &[Record]) -> String {
    let mut text = String::from(
        "| scenario | due | good | bad, by whom | cut off as planned | not sent | lost | counted by the edge | noticed after | users hurt for | ends | edge: peak MiB, descriptors | struck | held |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for record in records {
        // Writing to a string does not fail.
        writeln!(text, "{}", row(record)).ok();
    }
    text
}

/// One line of the table.
pub fn row(record: &Record) -> String {
    if let Some(why) = &record.skipped {
        return format!("| {} | | | | | | | | | | | | | skipped: {why} |", record.scenario);
    }
    let Record { requests, edge, .. } = record;
    let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s"));
    let by: Vec<String> = requests.bad_by.iter().map(|(who, count)| format!("{who}: {count}")).collect();
    let by = if by.is_empty() { "0".to_owned() } else { format!("{} ({})", requests.bad, by.join(", ")) };
    let counted = requests.counted_by_edge.map_or_else(|| "–".to_owned(), |counted| counted.to_string());
    let struck: Vec<String> = record.struck.iter().map(|(kind, times)| format!("{kind}: {times}")).collect();
    let struck = if struck.is_empty() { "–".to_owned() } else { struck.join(", ") };
    let held = if record.broken.is_empty() {
        "yes".to_owned()
    } else {
        format!("**no**: {}", record.broken.join("; ").replace('\n', " / "))
    };
    format!(
        "| {} | {} | {} | {by} | {} | {} | {} | {counted} | {} | {} | {} | {}, {} | {struck} | {held} |",
        record.scenario,
        requests.due,
        requests.good,
        requests.unanswered_as_planned,
        requests.not_sent,
        requests.lost,
        seconds(record.notice_s),
        seconds(record.recover_s),
        record.ends.as_deref().unwrap_or("–"),
        edge.peak_resident_bytes >> 20,
        edge.peak_descriptors,
    )
}

/// The page that `chaos live` writes; `took` is how long all of it took, several scenarios at a time.
pub fn page(records: &[Record], machine: &str, took: Duration) -> String {
    let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>();
    let faults: u64 = records.iter().flat_map(|record| record.faults.values()).sum();
    let seconds: f64 = records.iter().map(|record| record.seconds).sum();
    let abouts: Vec<String> = records
        .iter()
        .map(|record| format!("- **{}** ({}x): {}", record.scenario, record.speed, record.about))
        .collect();
    format!(
        "# Scenarios on real processes\n\nPlayed by `chaos live` on {machine}; [docs/chaos.md](../../docs/chaos.md) says what the words mean.\n\n\
         - Scenarios: {} of {seconds:.0} s in {:.0} s, {} of them skipped\n- Requests sent: {}, answered well: {}\n- Requests lost: {}\n\
         - Faults survived: {faults}\n- Bad inputs tried: {}\n\n{}\n{}\n",
        records.len(),
        took.as_secs_f64(),
        records.iter().filter(|record| record.skipped.is_some()).count(),
        sum(|record| record.requests.sent),
        sum(|record| record.requests.good),
        sum(|record| record.requests.lost),
        sum(|record| record.bad_inputs),
        table(records),
        abouts.join("\n"),
    )
}
