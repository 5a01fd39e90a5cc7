//! The books of a simulated world: every request is in one of them.

use std::collections::BTreeMap;

use pointsman_config::VersionId;
use pointsman_rollout::Tally;

use crate::count::exact;

/// Requests and what came of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// By version.
    pub versions: BTreeMap<VersionId, VersionBooks>,
    /// Requests that came while the edge was down, or that waited for one that stood still until their clients gave up.
    pub unserved: u64,
    /// Requests that were under way when the edge was killed.
    pub cut_off: u64,
    /// Requests whose outcome is still to come at the end.
    pub under_way: u64,
}

/// One version's part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VersionBooks {
    /// Requests that it was given.
    pub assigned: u64,
    /// Answers that were right.
    pub good: u64,
    /// Answers that were not, or never came.
    pub bad: u64,
}

impl Books {
    /// One version's part.
    pub fn of(&self, version: &VersionId) -> VersionBooks {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// The share of requests that were answered well, of those whose end is known; 1 of none.
    pub fn availability(&self) -> f64 {
        let good: u64 = self.versions.values().map(|books| books.good).sum();
        let bad: u64 = self.versions.values().map(|books| books.bad).sum();
        let all = good + bad + self.unserved + self.cut_off;
        if all == 0 { 1.0 } else { exact(good) / exact(all) }
    }

    pub(crate) fn assigned(&mut self, version: &VersionId, requests: u64) {
        if requests > 0 {
            self.entry(version).assigned += requests;
        }
    }

    pub(crate) fn answered(&mut self, version: &VersionId, tally: Tally) {
        if tally.requests > 0 {
            let books = self.entry(version);
            books.good += tally.requests - tally.errors;
            books.bad += tally.errors;
        }
    }

    fn entry(&mut self, version: &VersionId) -> &mut VersionBooks {
        self.versions.entry(version.clone()).or_default()
    }

    /// Requests that are in no book or in two, in words.
    pub(crate) fn gap(&self) -> Option<String> {
        let assigned: u64 = self.versions.values().map(|books| books.assigned).sum();
        let known: u64 = self.versions.values().map(|books| books.good + books.bad).sum();
        let accounted = known + self.cut_off + self.under_way;
        (assigned != accounted).then(|| format!("{assigned} requests were assigned and {accounted} are accounted for"))
    }
}
