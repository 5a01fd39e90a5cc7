//! What copies of one route's requests came to, and how many may be under way.
//!
//! Line: mirror ► **books** ► (phase, metrics). Lock-free but for samples; kept by the publisher for one trial.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsman_config::VersionId;
use pointsman_rollout::MirrorTally;
use pointsman_telemetry::buckets;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::compare::Difference;
use crate::recorder::BUCKETS;
use crate::view::MirrorView;

/// How many disagreements are remembered for people.
const SAMPLES_KEPT: usize = 16;

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MirrorResult {
    /// Its answer agreed with stable's.
    Agreed,
    /// It did not.
    Disagreed,
    /// It got no whole answer in time, or one that says nothing of the model: the endpoint refused it for load, or had gone
    /// down by then.
    Failed,
    /// It was answered, but stable's request was not, or an answer was too large to be compared.
    Uncompared,
    /// It was not sent: too many were under way, no endpoint was ready, the edge was stopping, or the body was too large.
    Dropped,
}

impl MirrorResult {
    /// Every result.
    pub const ALL: [Self; 5] = [Self::Agreed, Self::Disagreed, Self::Failed, Self::Uncompared, Self::Dropped];

    /// The value of the metric label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Disagreed => "disagreed",
            Self::Failed => "failed",
            Self::Uncompared => "uncompared",
            Self::Dropped => "dropped",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Agreed => 0,
            Self::Disagreed => 1,
            Self::Failed => 2,
            Self::Uncompared => 3,
            Self::Dropped => 4,
        }
    }
}

/// Who gets a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The mirrored version.
    Mirror,
    /// Stable again, to learn how often it disagrees with itself.
    Noise,
}

/// A disagreement, kept as a sample for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disagreement {
    /// The `x-request-id` of the request and of its copy.
    pub request_id: String,
    /// Where: `status`, `body` or the JSON pointer.
    pub field: String,
    /// What stable said.
    pub stable: String,
    /// What the mirrored version said.
    pub copy: String,
}

/// Times to an answer's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// By latency bucket.
    pub histogram: [u64; BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

/// What the copies for one version came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyCounts {
    /// Who got them.
    pub version: VersionId,
    /// In the order of [`MirrorResult::ALL`].
    pub results: [u64; MirrorResult::ALL.len()],
    /// How long stable took for those that were answered by both.
    pub stable: Times,
    /// How long the copies took.
    pub copy: Times,
}

/// Everything counted of one route's mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorCounts {
    /// The copies for the mirrored version, and those for stable.
    pub copies: [CopyCounts; 2],
}

impl Times {
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.histogram.iter_mut().zip(other.histogram) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
    }
}

impl MirrorCounts {
    /// Adds what other books on the same two versions came to.
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.copies.iter_mut().zip(&other.copies) {
            for (count, more) in mine.results.iter_mut().zip(theirs.results) {
                *count += more;
            }
            mine.stable.add(&theirs.stable);
            mine.copy.add(&theirs.copy);
        }
    }
}

/// The books of one route's mirror.
#[derive(Debug)]
pub struct MirrorBooks {
    stable: VersionId,
    version: VersionId,
    under_way: AtomicU32,
    mirror: Side,
    noise: Side,
    samples: Mutex<VecDeque<Disagreement>>,
}

#[derive(Debug)]
struct Side {
    results: [AtomicU64; MirrorResult::ALL.len()],
    stable: TimeCounts,
    copy: TimeCounts,
}

#[derive(Debug)]
struct TimeCounts {
    histogram: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl TimeCounts {
    fn new() -> Self {
        Self { histogram: [const { AtomicU64::new(0) }; BUCKETS], sum_us: AtomicU64::new(0) }
    }

    fn add(&self, time: Duration) {
        if let Some(bucket) = self.histogram.get(buckets::bucket_index(time)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> Times {
        let histogram = std::array::from_fn(|i| self.histogram.get(i).map_or(0, |bucket| bucket.load(Relaxed)));
        Times { histogram, sum_us: self.sum_us.load(Relaxed) }
    }
}

impl Side {
    fn new() -> Self {
        let results = [const { AtomicU64::new(0) }; MirrorResult::ALL.len()];
        Self { results, stable: TimeCounts::new(), copy: TimeCounts::new() }
    }

    fn result(&self, result: MirrorResult) -> u64 {
        self.results.get(result.index()).map_or(0, |count| count.load(Relaxed))
    }

    fn read(&self, version: &VersionId) -> CopyCounts {
        CopyCounts {
            version: version.clone(),
            results: MirrorResult::ALL.map(|result| self.result(result)),
            stable: self.stable.read(),
            copy: self.copy.read(),
        }
    }
}

impl MirrorBooks {
    /// Empty books on copies of `stable`'s requests for `version`.
    pub fn new(stable: VersionId, version: VersionId) -> Self {
        let (mirror, noise) = (Side::new(), Side::new());
        Self { stable, version, under_way: AtomicU32::new(0), mirror, noise, samples: Mutex::default() }
    }

    /// Whose requests are copied.
    pub(crate) fn stable(&self) -> &VersionId {
        &self.stable
    }

    /// Who gets the copies.
    pub(crate) fn version(&self) -> &VersionId {
        &self.version
    }

    fn side(&self, target: Target) -> &Side {
        match target {
            Target::Mirror => &self.mirror,
            Target::Noise => &self.noise,
        }
    }

    /// A place for one more copy, if no more than `most` are under way with it.
    pub(crate) fn begin(self: &Arc<Self>, most: u32) -> Option<Permit> {
        let more = |under_way: u32| (under_way < most).then_some(under_way + 1);
        let begun = self.under_way.fetch_update(Relaxed, Relaxed, more).is_ok();
        begun.then(|| Permit(Arc::clone(self)))
    }

    /// What became of a copy.
    pub(crate) fn note(&self, target: Target, result: MirrorResult) {
        if let Some(count) = self.side(target).results.get(result.index()) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How long both sides took for a copy that both answered.
    pub(crate) fn note_times(&self, target: Target, stable: Duration, copy: Duration) {
        let side = self.side(target);
        side.stable.add(stable);
        side.copy.add(copy);
    }

    /// Remembers where the mirrored version disagreed; dropped when another thread is writing one.
    pub(crate) fn remember(&self, request_id: &str, difference: Difference) {
        if let Ok(mut samples) = self.samples.try_lock() {
            if samples.len() == SAMPLES_KEPT {
                samples.pop_front();
            }
            let Difference { field, stable, copy } = difference;
            samples.push_back(Disagreement { request_id: request_id.to_owned(), field, stable, copy });
        }
    }

    /// What was compared so far.
    pub fn tally(&self) -> MirrorTally {
        let of = |side: &Side| {
            let disagreed = side.result(MirrorResult::Disagreed);
            (side.result(MirrorResult::Agreed) + disagreed, disagreed)
        };
        let (compared, disagreed) = of(&self.mirror);
        let (noise_compared, noise_disagreed) = of(&self.noise);
        MirrorTally { compared, disagreed, noise_compared, noise_disagreed }
    }

    /// What came of all copies so far.
    pub fn counts(&self) -> MirrorCounts {
        MirrorCounts { copies: [self.mirror.read(&self.version), self.noise.read(&self.stable)] }
    }

    /// What they showed, for people.
    pub fn view(&self) -> MirrorView {
        let MirrorTally { compared, disagreed, noise_compared, noise_disagreed } = self.tally();
        let samples = self.samples.lock().map(|samples| samples.iter().cloned().collect()).unwrap_or_default();
        MirrorView { version: self.version.clone(), compared, disagreed, noise_compared, noise_disagreed, samples }
    }
}

/// The place of one copy; dropped with it.
#[derive(Debug)]
pub(crate) struct Permit(Arc<MirrorBooks>);

impl Permit {
    pub(crate) fn books(&self) -> &MirrorBooks {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Arc<MirrorBooks> {
        Arc::new(MirrorBooks::new("v1".parse().unwrap(), "v2".parse().unwrap()))
    }

    #[test]
    fn no_more_copies_are_under_way_than_may_be() {
        let books = books();
        let first = books.begin(2).unwrap();
        let _second = books.begin(2).unwrap();
        assert!(books.begin(2).is_none());
        drop(first);
        assert!(books.begin(2).is_some());
        assert!(books.begin(0).is_none());
    }

    #[test]
    fn only_what_was_compared_is_evidence() {
        let books = books();
        for result in MirrorResult::ALL {
            books.note(Target::Mirror, result);
        }
        books.note(Target::Mirror, MirrorResult::Agreed);
        books.note(Target::Noise, MirrorResult::Disagreed);
        let tally = MirrorTally { compared: 3, disagreed: 1, noise_compared: 1, noise_disagreed: 1 };
        assert_eq!(books.tally(), tally);
        assert_eq!(books.counts().copies.map(|side| side.results), [[2, 1, 1, 1, 1], [0, 1, 0, 0, 0]]);
    }

    #[test]
    fn the_last_disagreements_are_kept() {
        let books = books();
        for number in 0..20 {
            let difference =
                Difference { field: "/prediction".to_owned(), stable: "1".to_owned(), copy: "2".to_owned() };
            books.remember(&number.to_string(), difference);
        }
        let samples = books.view().samples;
        assert_eq!((samples.len(), samples[0].request_id.as_str()), (SAMPLES_KEPT, "4"));
    }
}
