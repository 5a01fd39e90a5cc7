//! What endpoints counted between two looks, added up by version over a window that moves. Pure: moments come in.
//!
//! Line: (looks) ► **books** ► judge. Servers count from their start on, so what happened since the last look is a
//! difference; the first look at an endpoint is only where its differences begin, and one that started anew since then
//! has counted nothing but since then. Both versions are looked at together, so each slice of the window is about the same
//! time for both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pointsman_telemetry::drift::{Distribution, Report, Training, Values};

use super::Side;

/// In how many slices a window is kept at most.
const SLICES: u32 = 30;
/// Distributions that are kept of a version: predictions, and features in the order of their names.
const MOST_DISTRIBUTIONS: usize = 64;

/// Everything that is known of both versions.
#[derive(Debug)]
pub(super) struct Books {
    window: Duration,
    last: BTreeMap<(Side, SocketAddr), Report>,
    slices: VecDeque<Slice>,
    /// How often the books were closed.
    closed: u64,
}

/// What came after the books were closed for so often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Since(u64);

/// What happened in a part of the window.
#[derive(Debug)]
struct Slice {
    /// How often the books had been closed before it.
    after: u64,
    began: Instant,
    ended: Instant,
    stable: Counted,
    canary: Counted,
}

/// What a version counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counted {
    /// Rows.
    pub(super) rows: u64,
    /// Requests in which they came: those are drawn by chance, and rows of one are alike. Rows, where a server tells none.
    pub(super) requests: u64,
    /// By name.
    pub(super) distributions: BTreeMap<String, Distribution>,
}

impl Books {
    /// Nothing is known.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, last: BTreeMap::new(), slices: VecDeque::new(), closed: 0 }
    }

    /// Forgets where differences of other endpoints than these begin.
    pub(super) fn keep_only(&mut self, endpoints: &BTreeSet<(Side, SocketAddr)>) {
        self.last.retain(|endpoint, _| endpoints.contains(endpoint));
    }

    /// Takes in what endpoints told at a look that began `at`; gives what cannot be added up, in words.
    pub(super) fn note(&mut self, told: BTreeMap<(Side, SocketAddr), Report>, at: Instant) -> Vec<String> {
        let mut problems = Vec::new();
        let (mut stable, mut canary) = (Counted::default(), Counted::default());
        for ((side, address), report) in told {
            let report = bounded(report);
            let before = self.last.insert((side, address), report.clone());
            let Some(before) = before else { continue };
            let sum = match side {
                Side::Stable => &mut stable,
                Side::Canary => &mut canary,
            };
            let added = since(report, &before).and_then(|counted| sum.add(counted));
            problems.extend(added.err().map(|why| format!("{address}: {why}")));
        }
        problems.extend(self.file(Slice { after: self.closed, began: at, ended: at, stable, canary }).err());
        while self.slices.front().is_some_and(|slice| at.saturating_duration_since(slice.ended) > self.window) {
            self.slices.pop_front();
        }
        problems
    }

    /// Into the last slice while that is short enough, so that no window takes more than its place.
    fn file(&mut self, new: Slice) -> Result<(), String> {
        let length = self.window / SLICES;
        match self.slices.back_mut() {
            Some(last) if last.after == new.after && new.ended.saturating_duration_since(last.began) < length => {
                last.ended = new.ended;
                last.stable.add(new.stable)?;
                last.canary.add(new.canary)
            }
            Some(_) | None => {
                self.slices.push_back(new);
                Ok(())
            }
        }
    }

    /// What comes from here on is another sample, which has nothing in common with what came before.
    pub(super) fn close(&mut self) -> Since {
        self.closed += 1;
        Since(self.closed)
    }

    /// What both counted within the window and `since`: each of them alone, or only while the other did as well.
    ///
    /// # Errors
    /// When parts of it cannot be added up, in words.
    pub(super) fn within(&self, Since(closed): Since, together: bool) -> Result<[Counted; 2], String> {
        let (mut stable, mut canary) = (Counted::default(), Counted::default());
        let counts = |slice: &&Slice| !together || (slice.stable.rows > 0 && slice.canary.rows > 0);
        for slice in self.slices.iter().filter(|slice| slice.after >= closed).filter(counts) {
            stable.add(slice.stable.clone())?;
            canary.add(slice.canary.clone())?;
        }
        Ok([stable, canary])
    }
}

/// A report with no more distributions than are kept.
fn bounded(mut report: Report) -> Report {
    if report.distributions.len() > MOST_DISTRIBUTIONS {
        let mut left =
            MOST_DISTRIBUTIONS - report.distributions.values().filter(|found| found.is_prediction).count().min(1);
        report.distributions.retain(|_, found| {
            let is_kept = found.is_prediction || left > 0;
            left -= usize::from(is_kept && !found.is_prediction);
            is_kept
        });
    }
    report
}

/// In how many requests the rows of a report came. Where it does not say, each is taken for one of its own.
fn requests(report: &Report) -> u64 {
    report.requests.unwrap_or(report.rows)
}

/// What happened between two reports of one endpoint.
fn since(now: Report, before: &Report) -> Result<Counted, String> {
    if now.instance != before.instance {
        return Ok(Counted { rows: now.rows, requests: requests(&now), distributions: now.distributions });
    }
    let back = || "its counts went back although it did not start anew".to_owned();
    let rows = now.rows.checked_sub(before.rows).ok_or_else(back)?;
    let requests = requests(&now).checked_sub(requests(before)).ok_or_else(back)?;
    let mut distributions = BTreeMap::new();
    for (name, found) in now.distributions {
        let of_before = before.distributions.get(&name).ok_or_else(back)?;
        distributions.insert(name, difference(found, of_before).ok_or_else(back)?);
    }
    Ok(Counted { rows, requests, distributions })
}

fn difference(now: Distribution, before: &Distribution) -> Option<Distribution> {
    let values = match (now.values, &before.values) {
        (Values::Numbers(now), Values::Numbers(before)) => Values::Numbers(now.since(before).ok()?),
        (Values::Categories { counts: now }, Values::Categories { counts: before }) => {
            let since = |(name, count): (String, u64)| {
                let before = before.get(&name).copied().unwrap_or_default();
                Some((name, count.checked_sub(before)?))
            };
            Values::Categories { counts: now.into_iter().map(since).collect::<Option<_>>()? }
        }
        (Values::Numbers(_) | Values::Categories { .. }, _) => return None,
    };
    let training = match (now.training, &before.training) {
        (Some(now), Some(before)) if now.counts.len() == before.counts.len() => {
            let counts = now.counts.iter().zip(&before.counts).map(|(now, before)| now.checked_sub(*before));
            Some(Training { counts: counts.collect::<Option<_>>()?, ..now })
        }
        (None, None) => None,
        (Some(_), _) | (None, Some(_)) => return None,
    };
    Some(Distribution { values, training, ..now })
}

impl Counted {
    /// Adds what another endpoint, or another slice, counted.
    fn add(&mut self, other: Self) -> Result<(), String> {
        if self.distributions.is_empty() && self.rows == 0 {
            *self = other;
            return Ok(());
        }
        if other.distributions.is_empty() && other.rows == 0 {
            return Ok(());
        }
        self.rows = self.rows.saturating_add(other.rows);
        self.requests = self.requests.saturating_add(other.requests);
        for (name, found) in other.distributions {
            match self.distributions.get_mut(&name) {
                None => drop(self.distributions.insert(name, found)),
                Some(sum) => add(sum, found).ok_or_else(|| {
                    format!("`{name}` is counted otherwise than by other endpoints of the same version")
                })?,
            }
        }
        Ok(())
    }
}

/// Adds up two of the same kind and of the same training.
fn add(sum: &mut Distribution, other: Distribution) -> Option<()> {
    match (&mut sum.values, other.values) {
        (Values::Numbers(sum), Values::Numbers(other)) => sum.add(&other),
        (Values::Categories { counts: sum }, Values::Categories { counts: other }) => {
            for (name, count) in other {
                let sum = sum.entry(name).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        (Values::Numbers(_) | Values::Categories { .. }, _) => return None,
    }
    match (&mut sum.training, other.training) {
        (None, None) => Some(()),
        (Some(sum), Some(other))
            if sum.trained == other.trained && sum.edges == other.edges && sum.counts.len() == other.counts.len() =>
        {
            for (sum, count) in sum.counts.iter_mut().zip(other.counts) {
                *sum = sum.saturating_add(count);
            }
            Some(())
        }
        (Some(_) | None, _) => None,
    }
}
