//! Every metric of the edge: name, kind, labels, meaning, and how it is read from the [`View`].
//!
//! Stands beside the line: what was counted is counted by the recorder and the control loop; here it is only written
//! out, at scrape time. `docs/METRICS.md` is written from [`ALL`], and a test keeps it equal.

mod process;
mod read;

use std::fmt::Write as _;

use pointsman_telemetry::exposition::ExpositionError;
use prometheus::TextEncoder;
use prometheus::proto;

pub use process::Process;

use crate::control::handle::ControlHandle;
use crate::view::View;

/// Of which kind a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by latency bucket, in seconds; buckets as in [`pointsman_telemetry::buckets`].
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    const fn field_type(self) -> proto::MetricType {
        match self {
            Self::Counter => proto::MetricType::COUNTER,
            Self::Gauge => proto::MetricType::GAUGE,
            Self::Histogram => proto::MetricType::HISTOGRAM,
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, base unit last.
    pub name: &'static str,
    /// Of which kind it is.
    pub kind: Kind,
    /// Its labels; their values come from the config file or from a fixed list, so their number is bounded.
    pub labels: &'static [&'static str],
    /// What it says, for `# HELP` and for `docs/METRICS.md`.
    pub help: &'static str,
    read: fn(&Scrape<'_>) -> Vec<Sample>,
}

/// What one scrape is written from.
#[derive(Debug, Clone, Copy)]
struct Scrape<'a> {
    view: &'a View,
    process: &'a Process,
}

/// One line of a metric, or the lines of one histogram.
#[derive(Debug, Clone)]
struct Sample {
    /// In the order of [`Metric::labels`].
    labels: Vec<String>,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Histogram(proto::Histogram),
}

/// Every metric, in the order of `docs/METRICS.md`.
pub const ALL: &[Metric] = &[
    Metric {
        name: "pointsman_requests_total",
        kind: Kind::Counter,
        labels: &["route", "version", "outcome"],
        help: "Client requests that ended, by what came of them: success, error (5xx), timeout, connect, reset, client_abort, rejected. The last two never count against a version. One that was retried counts once, as what its first attempt came to, for the version that it was assigned to.",
        read: read::requests,
    },
    Metric {
        name: "pointsman_retries_total",
        kind: Kind::Counter,
        labels: &["route", "version", "result"],
        help: "Retries of requests that the version was assigned and failed, by what came of them: success (the user got a good answer), failure, abandoned (its client went) and budget_exhausted (there was none: the user got the failure, or the answer that came late). The failure itself is in pointsman_requests_total.",
        read: read::retries,
    },
    Metric {
        name: "pointsman_stale_connections_total",
        kind: Kind::Counter,
        labels: &["route", "version", "result"],
        help: "Requests that met a kept connection which the version had closed, and were repeated on a fresh one: excused as what closing idle connections explains (1 % of the requests and one a second), or charged to the version as a reset.",
        read: read::stale_connections,
    },
    Metric {
        name: "pointsman_mirror_total",
        kind: Kind::Counter,
        labels: &["route", "version", "result"],
        help: "Copies of stable's requests, by who got them (the mirrored version, or stable again to learn how often it disagrees with itself) and what came of them: agreed, disagreed, failed (no whole answer in time), uncompared (stable had no answer, or one was too large) and dropped (not sent). None of them is in pointsman_requests_total.",
        read: read::mirrored,
    },
    Metric {
        name: "pointsman_mirror_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route", "version", "side"],
        help: "Time to the head of the answer for requests that were answered and whose copies were: to stable's own (side stable) and to the copy's (side copy).",
        read: read::mirror_durations,
    },
    Metric {
        name: "pointsman_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route", "version"],
        help: "Time from a request's first byte to its answer's last, whatever came of it.",
        read: read::durations,
    },
    Metric {
        name: "pointsman_refusals_total",
        kind: Kind::Counter,
        labels: &["route", "code"],
        help: "Requests that the edge answered itself, by the code of the answer, such as rate_limited, overloaded or bad_request; route is empty where none took the request. One that was assigned before, such as with upstream_timeout, is in pointsman_requests_total as well. A series begins with its first refusal.",
        read: read::refusals,
    },
    Metric {
        name: "pointsman_weight_ratio",
        kind: Kind::Gauge,
        labels: &["route", "version", "kind"],
        help: "Share of the route's traffic, 0 to 1: desired (what file, plan or operator asks), effective (what the edge applies), observed (what the split gave it of the requests that began in the last 10 s, overrides not among them; absent without).",
        read: read::weights,
    },
    Metric {
        name: "pointsman_rollout_phase",
        kind: Kind::Gauge,
        labels: &["route", "phase"],
        help: "1 for the phase that the route is in, 0 for every other: steady, warming, shifting, paused, promoting, baking, rolling_back, rolled_back.",
        read: read::phases,
    },
    Metric {
        name: "pointsman_decisions_total",
        kind: Kind::Counter,
        labels: &["route", "decision"],
        help: "Decisions since the process started, as the decision log names them.",
        read: read::decisions,
    },
    Metric {
        name: "pointsman_analysis_evidence",
        kind: Kind::Gauge,
        labels: &["route", "test"],
        help: "Natural logarithm of the e-value of a test of the canary; it decides when it reaches pointsman_analysis_evidence_limit. Against it: slow, fast, latency, absolute (judged by itself), mirror (answers to copied requests); for it: promotion, promotion_latency, promotion_mirror; against the comparison itself: split (requests are not divided as configured).",
        read: read::evidence,
    },
    Metric {
        name: "pointsman_analysis_evidence_limit",
        kind: Kind::Gauge,
        labels: &["route", "test"],
        help: "Natural logarithm of the e-value at which a test decides.",
        read: read::evidence_limits,
    },
    Metric {
        name: "pointsman_gate",
        kind: Kind::Gauge,
        labels: &["route", "gate", "outcome"],
        help: "What others say about the canary, such as the gate drift: 1 for the outcome that holds now, 0 for the others: passes, holds (no step and no promotion; also while nothing is known), fails (the canary goes back). Only while they are asked, by the edge that decides.",
        read: read::gates,
    },
    Metric {
        name: "pointsman_version_quarantined",
        kind: Kind::Gauge,
        labels: &["route", "version"],
        help: "1 for a version that was taken back and stays at weight 0 until its revision changes or an operator says retry, 0 for every other.",
        read: read::quarantined,
    },
    Metric {
        name: "pointsman_rollback_ready",
        kind: Kind::Gauge,
        labels: &["route"],
        help: "1 while going back is proven to work: within the last 30 s the old version, which carries all requests, passed its checks and gave its golden answers, every other edge answered, and the write that goes back was rehearsed; else 0. Only of routes with a live Service, while there is something to go back from; a follower says what the leader found.",
        read: read::rollback_ready,
    },
    Metric {
        name: "pointsman_rollback_expected_seconds",
        kind: Kind::Gauge,
        labels: &["route"],
        help: "How long going back would take, as last measured: until every edge has in force what it is told, and then the write on the live Service; absent while going back is not proven to work.",
        read: read::rollback_expected,
    },
    Metric {
        name: "pointsman_endpoint_up",
        kind: Kind::Gauge,
        labels: &["route", "version", "endpoint"],
        help: "1 while the endpoint takes requests: it passes its health check and does not sit out; else 0.",
        read: read::endpoints_up,
    },
    Metric {
        name: "pointsman_endpoint_ejections_total",
        kind: Kind::Counter,
        labels: &["route", "version"],
        help: "Times that an endpoint of the version sat out because its requests failed.",
        read: read::ejections,
    },
    Metric {
        name: "pointsman_endpoint_requests_in_flight",
        kind: Kind::Gauge,
        labels: &["route", "version", "endpoint"],
        help: "Requests that the endpoint is working on for this edge.",
        read: read::endpoints_in_flight,
    },
    Metric {
        name: "pointsman_config_reloads_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Changes of the config file since the process started that were put in force (ok) or refused (failed).",
        read: read::reloads,
    },
    Metric {
        name: "pointsman_config_generation",
        kind: Kind::Gauge,
        labels: &[],
        help: "Number of the config in force; counts up by one with every accepted change of the file, 1 at the start.",
        read: read::generation,
    },
    Metric {
        name: "pointsman_leader",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 if this edge decides, 0 if it follows another one; the sum over all edges should be 1.",
        read: read::leader,
    },
    Metric {
        name: "pointsman_replicas",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Other edges, as the leader sees them: heard within the last second, or silent.",
        read: read::replicas,
    },
    Metric {
        name: "pointsman_config_refused",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the file holds a text that was refused, so that an older config is in force; else 0.",
        read: read::refused,
    },
    Metric {
        name: "pointsman_standstill_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Time that counted for no step, soak or bake, each of which took so much longer, since the process stood still: it was stopped, or its machine was paused or suspended. The first second of each counts, but of a suspension none.",
        read: read::stood_still,
    },
    Metric {
        name: "pointsman_tls_certificate_end_seconds",
        kind: Kind::Gauge,
        labels: &["file"],
        help: "When the certificate in force ends that was read from this file, in seconds since 1970.",
        read: read::certificate_ends,
    },
    Metric {
        name: "pointsman_tls_certificate_stale",
        kind: Kind::Gauge,
        labels: &["file"],
        help: "1 while the file (or its key) holds what cannot be used, so that an older certificate is in force; else 0.",
        read: read::certificate_stale,
    },
    Metric {
        name: "pointsman_state_problem",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while decisions cannot be written to the state file, so that a restart would forget them; else 0.",
        read: read::state_problem,
    },
    Metric {
        name: "pointsman_access_log_lines_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Lines of the access log that were written, and those that were dropped because the disk was too slow or could not be written.",
        read: read::log_lines,
    },
    Metric {
        name: "pointsman_trace_spans_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Spans that the collector took (exported), and those that were dropped because it refused them, could not be reached or was too slow.",
        read: read::spans,
    },
    Metric {
        name: "pointsman_notifications_total",
        kind: Kind::Counter,
        labels: &["webhook", "result"],
        help: "Rows for webhooks, by what became of them: delivered, given_up (the receiver did not take them, however often they were tried) and dropped (too many waited, and the oldest went).",
        read: read::notifications,
    },
    Metric {
        name: "pointsman_notification_retries_total",
        kind: Kind::Counter,
        labels: &["webhook"],
        help: "Tries to deliver a row after the first one.",
        read: read::notification_retries,
    },
    Metric {
        name: "pointsman_notifications_waiting",
        kind: Kind::Gauge,
        labels: &["webhook"],
        help: "Rows that are neither delivered nor given up yet.",
        read: read::notifications_waiting,
    },
    Metric {
        name: "pointsman_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        help: "Always 1; the label names the build.",
        read: read::build_info,
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Processor time that the process has used, user and system.",
        read: process::cpu_seconds,
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory of the process that is in RAM.",
        read: process::resident_bytes,
    },
    Metric {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: &[],
        help: "Threads of the process.",
        read: process::threads,
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "File descriptors that the process has open; every connection is one.",
        read: process::open_fds,
    },
    Metric {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "File descriptors that the process may have open (its soft limit).",
        read: process::max_fds,
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the process started, in seconds since the Unix epoch.",
        read: process::start_time,
    },
];

/// Writes the metrics out at scrape time; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: ControlHandle,
    process: Process,
}

impl Metrics {
    /// Metrics of the edge behind `handle`; made once, at the start of the process.
    pub fn new(handle: ControlHandle) -> Self {
        Self { handle, process: Process::started_now() }
    }

    /// Everything at this moment, in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// If a metric is not well formed, which a test rules out.
    pub fn render(&self) -> Result<String, ExpositionError> {
        render(&self.handle.view(), &self.process)
    }
}

/// One view in Prometheus' text format 0.0.4.
///
/// # Errors
/// If a metric is not well formed, which a test rules out.
pub fn render(view: &View, process: &Process) -> Result<String, ExpositionError> {
    let scrape = Scrape { view, process };
    let families: Vec<_> = ALL.iter().filter_map(|metric| family(metric, &scrape)).collect();
    Ok(TextEncoder::new().encode_to_string(&families)?)
}

/// The lines of one metric; none while it has no sample, which the text format has no way to say.
fn family(metric: &Metric, scrape: &Scrape<'_>) -> Option<proto::MetricFamily> {
    let samples = (metric.read)(scrape);
    if samples.is_empty() {
        return None;
    }
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(metric.kind.field_type());
    family.set_metric(samples.into_iter().map(|sample| line(metric, sample)).collect());
    Some(family)
}

fn line(metric: &Metric, sample: Sample) -> proto::Metric {
    let labels = metric.labels.iter().zip(sample.labels).map(|(name, value)| label(name, value)).collect();
    let mut line = proto::Metric::from_label(labels);
    match (metric.kind, sample.value) {
        (_, Value::Histogram(histogram)) => line.set_histogram(histogram),
        (Kind::Counter, Value::Number(value)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            line.set_counter(counter);
        }
        (Kind::Gauge | Kind::Histogram, Value::Number(value)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            line.set_gauge(gauge);
        }
    }
    line
}

fn label(name: &str, value: String) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

/// `docs/METRICS.md`: what [`ALL`] says, as a page.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Written from proxy/src/metrics.rs; `UPDATE_DOCS=1 cargo test -p pointsman metrics` writes it anew. -->\n\n\
         `GET /metrics` on the admin address, in Prometheus' text format, without a token. Base units: seconds, bytes, \
         ratios from 0 to 1. Every label takes its values from the config file or from a fixed list, so the number of \
         series is bounded: a route with two versions and two endpoints has about 120.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in ALL {
        let labels =
            if metric.labels.is_empty() { "none".to_owned() } else { format!("`{}`", metric.labels.join("`, `")) };
        // Writing to a String cannot fail.
        let written = writeln!(page, "| `{}` | {} | {labels} | {} |", metric.name, metric.kind.as_str(), metric.help);
        debug_assert!(written.is_ok(), "a String takes every text");
    }
    page.push_str(&buckets());
    page
}

fn buckets() -> String {
    let edges: Vec<String> = pointsman_telemetry::buckets::LATENCY_SECONDS.iter().map(ToString::to_string).collect();
    format!(
        "\nLatency buckets, in seconds: {}. The edges 0.05, 0.2 and 0.5 are those of the service level objectives. A \
         counter that has not counted yet is there with 0, so that `increase()` sees the first event.\n",
        edges.join(", ")
    )
}
