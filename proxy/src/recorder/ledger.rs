//! One route's books: every epoch that may still receive outcomes, and the totals of those that are over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Acquire, fence};
use std::time::Instant;

use pointsman_config::VersionId;
use pointsman_rollout::{Drawn, Requests, Row, Tally};

use super::{Arm, Counts, Epoch, Failure, Terms};

/// What was counted about each version since the process started.
pub type Totals = BTreeMap<VersionId, Counts>;

/// The epochs of one route, owned by the control loop.
#[derive(Debug)]
pub struct Ledger {
    threads: usize,
    live: Vec<Live>,
    retired: Totals,
}

/// What became known about one epoch.
#[derive(Debug)]
pub struct Taken {
    /// Which.
    pub epoch: Arc<Epoch>,
    /// Outcomes.
    pub row: Row,
    /// Outcomes request by request, where those of the row are users'; none elsewhere.
    pub requests: Option<Requests>,
    /// Draws.
    pub drawn: Drawn,
}

/// An epoch and what of it has been taken to the analysis.
#[derive(Debug)]
struct Live {
    epoch: Arc<Epoch>,
    /// Whether what comes of it is evidence.
    counts: bool,
    stable_taken: Tally,
    canary_taken: Tally,
    requests_taken: Requests,
    drawn_taken: Drawn,
}

impl Ledger {
    /// Empty books for `threads` writing threads.
    pub fn new(threads: usize) -> Self {
        Self { threads, live: Vec::new(), retired: Totals::new() }
    }

    /// The epoch for `terms`: the newest one if its terms are the same, else a new one.
    pub fn open(&mut self, terms: Terms) -> Arc<Epoch> {
        match self.live.last() {
            Some(newest) if newest.counts && newest.epoch.terms == terms => Arc::clone(&newest.epoch),
            Some(_) | None => {
                let epoch = Arc::new(Epoch::new(terms, self.threads));
                self.live.push(Live {
                    epoch: Arc::clone(&epoch),
                    counts: true,
                    stable_taken: Tally::default(),
                    canary_taken: Tally::default(),
                    requests_taken: Requests::default(),
                    drawn_taken: Drawn::default(),
                });
                epoch
            }
        }
    }

    /// What becomes known from now on of requests that have begun is no evidence; it counts for people as ever.
    pub fn disregard_what_is_under_way(&mut self) {
        self.live.iter_mut().for_each(|live| live.counts = false);
    }

    /// What became known since the last call, for each epoch in which anything did; retires what is over.
    pub fn take(&mut self, now: Instant) -> Vec<Taken> {
        // Who is alone with an epoch before reading it will see no later writes: nobody else can reach it.
        let over: Vec<bool> = self.live.iter().map(|live| Arc::strong_count(&live.epoch) == 1).collect();
        // The count is read relaxed; this makes the writes of whoever let go of the epoch visible.
        fence(Acquire);
        let newest = self.live.len().saturating_sub(1);
        let rows = self.live.iter_mut().filter_map(|live| live.take(now)).collect();
        let mut kept = Vec::with_capacity(self.live.len());
        for (position, (live, over)) in self.live.drain(..).zip(over).enumerate() {
            if over && position < newest {
                retire(&mut self.retired, &live.epoch);
            } else {
                kept.push(live);
            }
        }
        self.live = kept;
        rows
    }

    /// Everything counted so far, by version.
    pub fn totals(&self) -> Totals {
        let mut totals = self.retired.clone();
        for live in &self.live {
            retire(&mut totals, &live.epoch);
        }
        totals
    }

    /// Forgets the totals of versions that are neither to be kept nor named by an epoch that may still receive outcomes.
    pub fn forget_all_but(&mut self, kept: impl Fn(&VersionId) -> bool) {
        let live = &self.live;
        self.retired.retain(|version, _| kept(version) || live.iter().any(|live| live.names(version)));
    }

    /// The last failing requests of `version`, oldest first.
    pub fn failures(&self, version: &VersionId) -> Vec<Failure> {
        self.live.iter().flat_map(|live| failures_of(&live.epoch, version)).collect()
    }
}

impl Live {
    fn names(&self, version: &VersionId) -> bool {
        let terms = self.epoch.terms();
        terms.stable == *version || terms.canary.as_ref() == Some(version) || terms.others.contains(version)
    }

    fn take(&mut self, now: Instant) -> Option<Taken> {
        self.epoch.close_unanswered(now);
        let (stable, canary) = (self.epoch.read(Arm::Stable), self.epoch.read(Arm::Canary));
        let row = Row {
            weight: self.epoch.weight(),
            stable: less(stable.judged, self.stable_taken),
            canary: less(canary.judged, self.canary_taken),
        };
        let drawn = Drawn {
            canary: canary.drawn.saturating_sub(self.drawn_taken.canary),
            stable: stable.drawn.saturating_sub(self.drawn_taken.stable),
        };
        (self.stable_taken, self.canary_taken) = (stable.judged, canary.judged);
        self.drawn_taken = Drawn { canary: canary.drawn, stable: stable.drawn };
        let requests = Requests {
            canary: less(canary.by_request, self.requests_taken.canary),
            stable: less(stable.by_request, self.requests_taken.stable),
        };
        self.requests_taken = Requests { canary: canary.by_request, stable: stable.by_request };
        let outcomes = Requests { canary: row.canary, stable: row.stable };
        let quiet = [outcomes, requests] == [Requests::default(); 2] && drawn == Drawn::default();
        let requests = self.epoch.terms().users.is_some().then_some(requests);
        (self.counts && !quiet).then(|| Taken { epoch: Arc::clone(&self.epoch), row, requests, drawn })
    }
}

/// Adds an epoch's counts to `totals`.
fn retire(totals: &mut Totals, epoch: &Epoch) {
    let terms = epoch.terms();
    totals.entry(terms.stable.clone()).or_default().add(&epoch.read(Arm::Stable));
    if let Some(canary) = &terms.canary {
        totals.entry(canary.clone()).or_default().add(&epoch.read(Arm::Canary));
    }
    for (position, other) in terms.others.iter().enumerate() {
        totals.entry(other.clone()).or_default().add(&epoch.read(Arm::Other(position)));
    }
}

fn failures_of(epoch: &Epoch, version: &VersionId) -> Vec<Failure> {
    if epoch.terms().stable == *version {
        epoch.failures(Arm::Stable)
    } else if epoch.terms().canary.as_ref() == Some(version) {
        epoch.failures(Arm::Canary)
    } else {
        let position = epoch.terms().others.iter().position(|other| other == version);
        position.map(|position| epoch.failures(Arm::Other(position))).unwrap_or_default()
    }
}

/// `now - before`, field by field.
fn less(now: Tally, before: Tally) -> Tally {
    Tally {
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
        slow: now.slow.saturating_sub(before.slow),
    }
}
