//! What was repeated on one route, and how much more may be.
//!
//! Line: retry ► **books** ► metrics. They outlive snapshots, so that neither a reload nor a new weight gives a route a
//! new budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use pointsman_config::{Retries, VersionId};

use super::budget::{Allowance, Requests, Spent, second};
use crate::outcome::Outcome;
use crate::recorder::thread_number;

/// How many kept connections may turn out to be closed without that counting against the version: a server that closes
/// idle ones meets a request with it now and then. Who resets them as a habit has no such excuse.
const STALE: Allowance = Allowance { ppm: 10_000, floor: 1 };

/// What came of a retry, or why there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryResult {
    /// It was answered well.
    Success,
    /// It failed as well.
    Failure,
    /// Its client did not wait for it.
    Abandoned,
    /// There was none, for want of budget.
    BudgetExhausted,
}

impl RetryResult {
    /// Every result.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Abandoned, Self::BudgetExhausted];

    /// What a retry came to that ended with `outcome`.
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::ClientAbort => Self::Abandoned,
            Outcome::Error | Outcome::Timeout | Outcome::Connect | Outcome::Reset | Outcome::Rejected => Self::Failure,
        }
    }

    /// The value of the metric label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Abandoned => "abandoned",
            Self::BudgetExhausted => "budget_exhausted",
        }
    }
}

/// What was repeated for one version since its route is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryCounts {
    /// Retries after its failures, in the order of [`RetryResult::ALL`].
    pub results: [u64; RetryResult::ALL.len()],
    /// Requests that met a connection which it had closed, and were repeated on a fresh one without blame.
    pub stale_excused: u64,
    /// The same, when there were too many to excuse: each is a reset of the version.
    pub stale_charged: u64,
}

/// One version's part of the books.
#[derive(Debug)]
pub(crate) struct VersionRetries {
    since: Instant,
    requests: Requests,
    stale: Spent,
    results: [AtomicU64; RetryResult::ALL.len()],
    stale_excused: AtomicU64,
    stale_charged: AtomicU64,
}

impl VersionRetries {
    fn new(since: Instant, threads: usize) -> Self {
        Self {
            since,
            requests: Requests::new(threads),
            stale: Spent::new(),
            results: [const { AtomicU64::new(0) }; RetryResult::ALL.len()],
            stale_excused: AtomicU64::new(0),
            stale_charged: AtomicU64::new(0),
        }
    }

    /// A request was assigned to the version.
    pub(crate) fn assigned(&self, now: Instant) {
        self.requests.count(thread_number(), second(self.since, now));
    }

    /// What came of a retry after one of its failures.
    pub(crate) fn note(&self, result: RetryResult) {
        let position = RetryResult::ALL.iter().position(|known| *known == result);
        if let Some(count) = position.and_then(|position| self.results.get(position)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// A kept connection turned out to be closed; true if that is excused.
    pub(crate) fn excuses_stale(&self, now: Instant) -> bool {
        let second = second(self.since, now);
        let excused = self.stale.spend(STALE, self.requests.of_late(second), second);
        let count = if excused { &self.stale_excused } else { &self.stale_charged };
        count.fetch_add(1, Relaxed);
        excused
    }

    fn read(&self) -> RetryCounts {
        RetryCounts {
            results: std::array::from_fn(|i| self.results.get(i).map_or(0, |count| count.load(Relaxed))),
            stale_excused: self.stale_excused.load(Relaxed),
            stale_charged: self.stale_charged.load(Relaxed),
        }
    }
}

/// The books of one route; clones are the same books.
#[derive(Debug, Clone)]
pub struct RetryBooks {
    since: Instant,
    threads: usize,
    spent: Arc<Spent>,
    versions: BTreeMap<VersionId, Arc<VersionRetries>>,
}

impl RetryBooks {
    /// Empty books, for `threads` workers.
    pub fn new(threads: usize) -> Self {
        Self { since: Instant::now(), threads, spent: Arc::new(Spent::new()), versions: BTreeMap::new() }
    }

    /// Keeps books on just these versions.
    pub(crate) fn keep<'a>(&mut self, versions: impl Iterator<Item = &'a VersionId>) {
        let mut before = std::mem::take(&mut self.versions);
        let (since, threads) = (self.since, self.threads);
        let kept = versions.map(|version| {
            let old = before.remove(version);
            (version.clone(), old.unwrap_or_else(|| Arc::new(VersionRetries::new(since, threads))))
        });
        self.versions = kept.collect();
    }

    /// The part of a version.
    pub(crate) fn of(&self, version: &VersionId) -> Option<&Arc<VersionRetries>> {
        self.versions.get(version)
    }

    /// Takes one retry out of the budget; false if there is none.
    pub(crate) fn spend(&self, settings: &Retries, now: Instant) -> bool {
        let second = second(self.since, now);
        let requests = self.versions.values().map(|version| version.requests.of_late(second)).sum();
        let allowance = Allowance { ppm: settings.budget_ppm, floor: settings.budget_floor };
        self.spent.spend(allowance, requests, second)
    }

    /// What was repeated so far, by version.
    pub(crate) fn counts(&self) -> BTreeMap<VersionId, RetryCounts> {
        self.versions.iter().map(|(version, books)| (version.clone(), books.read())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn books(versions: &[&str]) -> RetryBooks {
        let mut books = RetryBooks::new(2);
        books.keep(versions.iter().map(|name| id(name)).collect::<Vec<_>>().iter());
        books
    }

    #[test]
    fn a_route_has_one_budget_and_every_version_earns_for_it() {
        let books = books(&["v1", "v2"]);
        let now = books.since + Duration::from_secs(3);
        for version in ["v1", "v2"] {
            (0..50).for_each(|_| books.of(&id(version)).unwrap().assigned(now));
        }
        let settings = Retries { budget_floor: 0, ..Retries::default() };
        assert_eq!((0..100).filter(|_| books.spend(&settings, now)).count(), 10);
    }

    #[test]
    fn a_reload_gives_no_new_budget_and_forgets_only_versions_that_are_gone() {
        let mut books = books(&["v1", "v2"]);
        let now = books.since;
        let settings = Retries { budget_ppm: 0, budget_floor: 1, ..Retries::default() };
        assert_eq!((0..100).filter(|_| books.spend(&settings, now)).count(), 10);
        books.of(&id("v1")).unwrap().note(RetryResult::Success);
        books.keep([id("v1"), id("v3")].iter());
        assert!(!books.clone().spend(&settings, now));
        assert!(books.of(&id("v2")).is_none());
        assert_eq!(books.counts()[&id("v1")].results, [1, 0, 0, 0]);
        assert_eq!(books.counts()[&id("v3")], RetryCounts::default());
    }

    #[test]
    fn closed_connections_are_excused_as_long_as_they_are_few() {
        let books = books(&["v1"]);
        let (v1, now) = (books.of(&id("v1")).unwrap(), books.since);
        (0..1_000).for_each(|_| v1.assigned(now));
        assert_eq!((0..500).filter(|_| v1.excuses_stale(now)).count(), 20, "one in a hundred, and one a second");
        let counts = v1.read();
        assert_eq!((counts.stale_excused, counts.stale_charged), (20, 480));
    }
}
