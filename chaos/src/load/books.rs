//! What became of each request: one entry each, by second and in total.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::unix_us;

/// A quantile is off by 0.1 % at most.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The longest time that is told apart from longer ones: queue and answer, ten minutes each.
const LONGEST_MICROS: u64 = 1_200_000_000;

/// Where answers without `x-pointsman-version` are booked.
const NO_VERSION: &str = "none";

/// How one request ended.
#[derive(Debug)]
pub(super) enum Entry {
    Answered { status: u16, version: Option<Box<str>> },
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Connect,
    Reset,
    Timeout,
    Malformed,
    Unsent,
}

/// Answers by class of status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusClasses {
    /// 200 to 299.
    #[serde(rename = "2xx")]
    pub success: u64,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// 500 to 599, and whatever lies outside the other classes.
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

impl StatusClasses {
    /// Answers of all classes.
    pub fn sum(&self) -> u64 {
        self.success + self.redirection + self.client_error + self.server_error
    }

    fn count(&mut self, status: u16) {
        let class = match status {
            200..300 => &mut self.success,
            300..400 => &mut self.redirection,
            400..500 => &mut self.client_error,
            _ => &mut self.server_error,
        };
        *class += 1;
    }

    fn add(&mut self, other: &Self) {
        self.success += other.success;
        self.redirection += other.redirection;
        self.client_error += other.client_error;
        self.server_error += other.server_error;
    }
}

/// Requests without an answer, by what was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Errors {
    /// No connection: refused, or not there within the timeout.
    pub connect: u64,
    /// The connection ended before the whole answer was there.
    pub reset: u64,
    /// No whole answer within the timeout.
    pub timeout: u64,
    /// Bytes that are no HTTP.
    pub malformed: u64,
    /// Never sent: no connection came free within the timeout.
    pub unsent: u64,
}

impl Errors {
    /// Errors of all kinds.
    pub fn sum(&self) -> u64 {
        self.connect + self.reset + self.timeout + self.malformed + self.unsent
    }

    fn count(&mut self, failure: Failure) {
        let kind = match failure {
            Failure::Connect => &mut self.connect,
            Failure::Reset => &mut self.reset,
            Failure::Timeout => &mut self.timeout,
            Failure::Malformed => &mut self.malformed,
            Failure::Unsent => &mut self.unsent,
        };
        *kind += 1;
    }

    fn add(&mut self, other: &Self) {
        self.connect += other.connect;
        self.reset += other.reset;
        self.timeout += other.timeout;
        self.malformed += other.malformed;
        self.unsent += other.unsent;
    }
}

/// Latencies in milliseconds, 0 without any.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of them were shorter.
    pub p50_ms: f64,
    /// 95 % were shorter.
    pub p95_ms: f64,
    /// 99 % were shorter.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// What became of requests. Over a whole load `intended = answered + errors.sum()`; in one second they differ
/// by what was under way at its edges.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Requests that fell due.
    pub intended: u64,
    /// Requests that were written to a connection.
    pub sent: u64,
    /// Requests with a whole answer, of any status.
    pub answered: u64,
    /// Those answers by class of status.
    pub status: StatusClasses,
    /// The same for each value of `x-pointsman-version`; answers without it under `none`.
    pub versions: BTreeMap<String, StatusClasses>,
    /// Requests without an answer.
    pub errors: Errors,
    /// What a client would call an error: no answer, or a status of 500 and above.
    pub failed: u64,
    /// When the first request failed; microseconds since 1970.
    pub first_failed_unix_us: Option<u64>,
    /// When the last request failed; microseconds since 1970.
    pub last_failed_unix_us: Option<u64>,
    /// From the time a request was due to the end of its answer. A timeout counts as an answer that came when
    /// it was given up; other errors are not in it.
    pub latency: Latency,
    /// From the time a request was due to its sending, 99 % were shorter: what the generator itself and the
    /// wait for a free connection add.
    pub send_lag_p99_ms: f64,
}

/// The figures of one second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its number, from 1.
    pub second: u64,
    /// When it ended; microseconds since 1970.
    pub unix_us: u64,
    /// What ended in it.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures of a whole load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// How long it took in seconds, the wait for the last answers included.
    pub seconds: f64,
    /// What became of all its requests.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The books of a load.
#[derive(Debug)]
pub(super) struct Books {
    started: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    closed_seconds: u64,
    open: Page,
    total: Page,
}

/// Counts without their quantiles, and what the quantiles are taken from.
#[derive(Debug)]
struct Page {
    figures: Figures,
    latencies: Histogram<u64>,
    send_lags: Histogram<u64>,
}

impl Books {
    pub(super) fn new() -> Self {
        let pages = Pages { closed_seconds: 0, open: Page::new(), total: Page::new() };
        Self { started: Instant::now(), pages: Mutex::new(pages) }
    }

    /// A request fell due.
    pub(super) fn intend(&self) {
        self.with(|pages| pages.open.figures.intended += 1);
    }

    /// A request is being written, so long after it was due.
    pub(super) fn send(&self, lag: Duration) {
        self.with(|pages| {
            pages.open.figures.sent += 1;
            pages.open.send_lags.saturating_record(micros(lag));
        });
    }

    /// A request ended, so long after it was due.
    pub(super) fn enter(&self, entry: &Entry, latency: Duration) {
        self.with(|pages| pages.open.enter(entry, latency));
    }

    /// Ends the present second and begins another.
    pub(super) fn close_second(&self) -> Second {
        self.with(|pages| {
            let closed = std::mem::replace(&mut pages.open, Page::new());
            pages.total.add(&closed);
            pages.closed_seconds += 1;
            Second { second: pages.closed_seconds, unix_us: unix_us(), figures: closed.into_figures() }
        })
    }

    /// Whether something was booked since the last second was closed.
    pub(super) fn has_open_entries(&self) -> bool {
        self.with(|pages| pages.open.figures != Figures::default())
    }

    /// All closed seconds together.
    pub(super) fn total(&self) -> Total {
        let seconds = self.started.elapsed().as_secs_f64();
        let figures = self.with(|pages| std::mem::replace(&mut pages.total, Page::new()).into_figures());
        Total { seconds, figures }
    }

    /// A panic while the lock was held leaves plain counts behind.
    fn with<T>(&self, act: impl FnOnce(&mut Pages) -> T) -> T {
        act(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Page {
    fn new() -> Self {
        Self { figures: Figures::default(), latencies: histogram(), send_lags: histogram() }
    }

    fn enter(&mut self, entry: &Entry, latency: Duration) {
        match entry {
            Entry::Answered { status, version } => self.answer(*status, version.as_deref()),
            Entry::Failed(failure) => {
                self.figures.errors.count(*failure);
                self.fail();
            }
        }
        if matches!(entry, Entry::Answered { .. } | Entry::Failed(Failure::Timeout)) {
            self.latencies.saturating_record(micros(latency));
        }
    }

    fn answer(&mut self, status: u16, version: Option<&str>) {
        self.figures.answered += 1;
        self.figures.status.count(status);
        self.count_version(version.unwrap_or(NO_VERSION), status);
        if status >= 500 {
            self.fail();
        }
    }

    fn count_version(&mut self, name: &str, status: u16) {
        if let Some(classes) = self.figures.versions.get_mut(name) {
            return classes.count(status);
        }
        let mut classes = StatusClasses::default();
        classes.count(status);
        self.figures.versions.insert(name.to_owned(), classes);
    }

    fn fail(&mut self) {
        let now = unix_us();
        self.figures.failed += 1;
        self.figures.first_failed_unix_us.get_or_insert(now);
        self.figures.last_failed_unix_us = Some(now);
    }

    /// Adds a later page.
    fn add(&mut self, later: &Self) {
        let (sum, more) = (&mut self.figures, &later.figures);
        sum.intended += more.intended;
        sum.sent += more.sent;
        sum.answered += more.answered;
        sum.status.add(&more.status);
        for (version, classes) in &more.versions {
            sum.versions.entry(version.clone()).or_default().add(classes);
        }
        sum.errors.add(&more.errors);
        sum.failed += more.failed;
        sum.first_failed_unix_us = sum.first_failed_unix_us.or(more.first_failed_unix_us);
        sum.last_failed_unix_us = more.last_failed_unix_us.or(sum.last_failed_unix_us);
        merge(&mut self.latencies, &later.latencies);
        merge(&mut self.send_lags, &later.send_lags);
    }

    fn into_figures(self) -> Figures {
        let at = |quantile| millis(self.latencies.value_at_quantile(quantile));
        let latency =
            Latency { p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), max_ms: millis(self.latencies.max()) };
        let send_lag_p99_ms = millis(self.send_lags.value_at_quantile(0.99));
        Figures { latency, send_lag_p99_ms, ..self.figures }
    }
}

#[expect(clippy::expect_used, reason = "depends on constants only, and every test of this module passes here")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, SIGNIFICANT_DIGITS).expect("the bounds of the histogram are sound")
}

/// Histograms of the same bounds always add up.
fn merge(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    if let Err(error) = sum.add(more) {
        tracing::error!(%error, "latencies of a second are lost");
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(micros: u64) -> f64 {
    // The histogram holds nothing near the 71 minutes of a u32, and a quotient prints with three decimals.
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, version: Option<&str>) -> Entry {
        Entry::Answered { status, version: version.map(Into::into) }
    }

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() <= wanted * 0.002
    }

    #[test]
    fn each_entry_counts_once_in_its_second_and_in_the_total() {
        let books = Books::new();
        books.enter(&answered(200, Some("v1")), Duration::from_millis(1));
        books.enter(&answered(503, Some("v2")), Duration::from_millis(1));
        let first = books.close_second();
        books.enter(&answered(422, None), Duration::from_millis(1));
        for failure in [Failure::Connect, Failure::Reset, Failure::Timeout, Failure::Malformed, Failure::Unsent] {
            books.enter(&Entry::Failed(failure), Duration::from_millis(1));
        }
        assert!(books.has_open_entries());
        let second = books.close_second();
        assert!(!books.has_open_entries());
        let total = books.total().figures;
        assert_eq!((first.second, first.figures.answered, first.figures.failed), (1, 2, 1));
        assert_eq!((second.second, second.figures.answered, second.figures.failed), (2, 1, 5));
        assert_eq!(total.errors, Errors { connect: 1, reset: 1, timeout: 1, malformed: 1, unsent: 1 });
        assert_eq!((total.answered, total.failed, total.status.sum()), (3, 6, 3));
        assert_eq!(total.versions.keys().collect::<Vec<_>>(), ["none", "v1", "v2"]);
        assert_eq!(total.first_failed_unix_us, first.figures.first_failed_unix_us);
        assert_eq!(total.last_failed_unix_us, second.figures.last_failed_unix_us);
    }

    #[test]
    fn quantiles_are_those_of_answers_and_timeouts() {
        let books = Books::new();
        for ms in 1..=99 {
            books.enter(&answered(200, None), Duration::from_millis(ms));
        }
        books.enter(&Entry::Failed(Failure::Timeout), Duration::from_secs(5));
        books.enter(&Entry::Failed(Failure::Connect), Duration::from_mins(1));
        let second = books.close_second().figures.latency;
        assert!(near(second.p50_ms, 50.0) && near(second.p95_ms, 95.0) && near(second.p99_ms, 99.0), "{second:?}");
        assert!(near(second.max_ms, 5_000.0), "{second:?}");
        assert_eq!(books.total().figures.latency, second);
    }

    #[test]
    fn figures_read_back_from_their_json() {
        let books = Books::new();
        books.intend();
        books.send(Duration::from_micros(30));
        books.enter(&answered(200, Some("v1")), Duration::from_millis(1));
        let second = books.close_second();
        let text = serde_json::to_string(&second).unwrap();
        assert!(text.contains(r#""versions":{"v1":{"2xx":1,"3xx":0,"4xx":0,"5xx":0}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Second>(&text).unwrap(), second);
    }
}
