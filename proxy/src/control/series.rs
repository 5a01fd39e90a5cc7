//! What every version did, second by second, over the last half hour: what charts show of the time before a page was opened.
//!
//! Line: recorder ► window ► **series** ► (admin API). Nothing is counted for it: it keeps the differences of totals that
//! the control loop takes anyway. A second without requests takes no place, and all seconds of all routes together
//! take no more than [`POINTS`] places.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pointsman_config::{RouteName, VersionId};
use pointsman_rollout::Time;

use super::window;
use crate::outcome::ErrorPolicy;
use crate::recorder::{Counts, Totals};
use crate::view::{EvidenceView, RouteView, SecondOfVersion, SecondView, SeriesView};

/// Seconds that are kept of a version, as long as there is room for all.
const LONGEST: usize = 1_800;
/// Seconds that are kept of a version however many there are.
const SHORTEST: usize = 60;
/// Seconds of all versions together; with some 50 bytes each they take 25 MB at most.
const POINTS: usize = 1 << 19;
/// Between two looks that lie further apart than this nothing is known of the single second.
const ONE_LOOK: Duration = Duration::from_secs(3);
/// Tests that take a canary back, by the name that the API gives them.
const AGAINST: [&str; 4] = ["slow", "fast", "latency", "absolute"];
/// Tests that a promotion waits for.
const FOR: [&str; 3] = ["promotion", "promotion_latency", "promotion_mirror"];

/// What was seen of one route.
#[derive(Debug)]
pub(crate) struct Look<'loop_> {
    /// When, by a clock that no standstill stops: what was seen before one lies as far back as the wall clock says.
    pub(crate) now: Time,
    /// Milliseconds since 1970 at that moment.
    pub(crate) unix_ms: u64,
    /// What counts as an error.
    pub(crate) policy: ErrorPolicy,
    /// What was counted since the start.
    pub(crate) totals: &'loop_ Totals,
    /// The route as people see it.
    pub(crate) view: &'loop_ RouteView,
}

/// The seconds of every route; clones share them.
#[derive(Debug, Clone, Default)]
pub struct SeriesBook(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    routes: BTreeMap<RouteName, OfRoute>,
    /// Rows of seconds that share the room.
    rings: usize,
}

/// The seconds of one route.
#[derive(Debug, Default)]
struct OfRoute {
    versions: BTreeMap<VersionId, OfVersion>,
    judged: VecDeque<(Time, Judged)>,
    /// The last look, by both clocks: moments are told by the present one, so that setting it moves all alike.
    last: Option<(Time, u64)>,
}

#[derive(Debug)]
struct OfVersion {
    totals: Counts,
    looked: Time,
    seconds: VecDeque<(Time, SecondOfVersion)>,
}

/// How far each way the evidence had come.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged {
    rollback: Option<f64>,
    promotion: Option<f64>,
}

impl SeriesBook {
    /// Keeps another second, and gives it.
    pub(crate) fn record(&self, look: &Look<'_>) -> SecondView {
        let mut book = self.lock();
        let kept = (POINTS / book.rings.max(1)).clamp(SHORTEST, LONGEST);
        let route = book.routes.entry(look.view.name.clone()).or_default();
        let before = route.rings();
        let second = route.record(look, kept);
        let after = route.rings();
        book.rings = book.rings + after - before;
        second
    }

    /// Forgets a route.
    pub(crate) fn forget(&self, route: &RouteName) {
        let mut book = self.lock();
        let gone = book.routes.remove(route).map_or(0, |route| route.rings());
        book.rings -= gone;
    }

    /// What is kept of a route; empty before its first second.
    pub fn of(&self, route: &RouteName) -> SeriesView {
        self.lock().routes.get(route).map(OfRoute::view).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfRoute {
    fn rings(&self) -> usize {
        // One of each version that was counted, and one of what was judged.
        self.last.map_or(0, |_| self.versions.len() + 1)
    }

    fn record(&mut self, look: &Look<'_>, kept: usize) -> SecondView {
        self.last = Some((look.now, look.unix_ms));
        self.versions.retain(|version, _| look.totals.contains_key(version));
        let mut versions = BTreeMap::new();
        for (name, totals) in look.totals {
            let version =
                self.versions.entry(name.clone()).or_insert_with(|| OfVersion::begin(look.now, totals.clone()));
            let weight = look.view.weights.get(name).map_or(0.0, |weight| weight.effective);
            if let Some(second) = version.record(totals, look, weight) {
                push(&mut version.seconds, (look.now, second), kept);
                versions.insert(name.clone(), second);
            }
        }
        let judged = judged(&look.view.analysis.evidence);
        if judged.rollback.is_some() || judged.promotion.is_some() {
            push(&mut self.judged, (look.now, judged), kept);
        }
        SecondView {
            route: look.view.name.clone(),
            at_ms: look.unix_ms,
            versions,
            rollback: judged.rollback,
            promotion: judged.promotion,
        }
    }

    fn view(&self) -> SeriesView {
        let mut view = SeriesView::default();
        let Some((now, unix_ms)) = self.last else { return view };
        let at_ms = |at: Time| unix_ms.saturating_sub(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
        for (name, version) in &self.versions {
            let series = view.versions.entry(name.clone()).or_default();
            for (at, second) in &version.seconds {
                series.at_ms.push(at_ms(*at));
                series.requests_per_second.push(second.requests_per_second);
                series.error_rate.push(second.error_rate);
                series.p50_ms.push(second.p50_ms);
                series.p99_ms.push(second.p99_ms);
                series.weight.push(second.weight);
            }
        }
        for (at, judged) in &self.judged {
            view.judged.at_ms.push(at_ms(*at));
            view.judged.rollback.push(judged.rollback);
            view.judged.promotion.push(judged.promotion);
        }
        (view.now_ms, view.spacing_s) = (unix_ms, 1);
        view
    }
}

impl OfVersion {
    fn begin(now: Time, totals: Counts) -> Self {
        Self { totals, looked: now, seconds: VecDeque::new() }
    }

    /// What came since the last look; none without requests.
    fn record(&mut self, totals: &Counts, look: &Look<'_>, weight: f64) -> Option<SecondOfVersion> {
        let passed = look.now.since(self.looked).clamp(Duration::from_millis(1), ONE_LOOK);
        let new = window::difference(totals, &self.totals);
        (self.totals, self.looked) = (totals.clone(), look.now);
        let answers = window::answers(&new);
        let error_rate = window::ratio(window::errors(&new, look.policy), answers)?;
        Some(SecondOfVersion {
            requests_per_second: rounded(window::to_f64(answers) / passed.as_secs_f64()),
            error_rate: rounded(error_rate),
            p50_ms: window::latency_ms(&new, 0.50).map(rounded),
            p99_ms: window::latency_ms(&new, 0.99).map(rounded),
            weight,
        })
    }
}

fn push<T>(ring: &mut VecDeque<T>, point: T, kept: usize) {
    while ring.len() >= kept {
        ring.pop_front();
    }
    ring.push_back(point);
}

/// Four digits after the point are more than a chart shows, and few bytes.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn judged(evidence: &BTreeMap<String, EvidenceView>) -> Judged {
    let way = |test: &&str| evidence.get(*test).and_then(way_to_the_line);
    Judged {
        rollback: AGAINST.iter().filter_map(way).reduce(f64::max),
        promotion: FOR.iter().filter_map(way).reduce(f64::min),
    }
}

/// Which part of the way to its line a test has come, 0 to 1 and beyond; evidence for the opposite is 0.
fn way_to_the_line(test: &EvidenceView) -> Option<f64> {
    let part = test.log_e? / test.limit;
    part.is_finite().then(|| rounded(part.max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::view::{AnalysisView, WeightView};

    fn at(seconds: f64) -> Time {
        Time::after_start(Duration::from_secs_f64(1_000.0 + seconds))
    }

    fn view() -> RouteView {
        let evidence = |log_e, limit| EvidenceView { log_e: Some(log_e), limit };
        let tests = [("slow", -3.0, 7.0), ("fast", 4.0, 8.0), ("promotion", 2.0, 4.0), ("promotion_latency", 1.0, 4.0)];
        let evidence = tests.map(|(name, log_e, limit)| (name.to_owned(), evidence(log_e, limit))).into();
        let weight = WeightView { desired: 5.0, effective: 5.0, observed: None };
        RouteView {
            name: "r".parse().unwrap(),
            phase: "shifting".to_owned(),
            stable: "v1".parse().unwrap(),
            canary: Some("v2".parse().unwrap()),
            step: None,
            steps: None,
            since_s: 0.0,
            next: String::new(),
            why: String::new(),
            weights: [("v2".parse().unwrap(), weight)].into(),
            versions: BTreeMap::new(),
            analysis: AnalysisView { evidence, ..AnalysisView::default() },
            mirror: None,
            gates: Vec::new(),
            quarantined: Vec::new(),
            last_decision: None,
            live_service: None,
            rollback_ready: None,
            acknowledged: None,
        }
    }

    fn counted(good: u64, bad: u64) -> Totals {
        let mut counts = Counts::default();
        counts.outcomes[Outcome::Success.index()] = good;
        counts.outcomes[Outcome::Error.index()] = bad;
        counts.histogram[3] = good + bad;
        [("v2".parse().unwrap(), counts)].into()
    }

    /// A look at `seconds`, by a wall clock that reads `unix_ms`.
    fn look(book: &SeriesBook, seconds: f64, unix_ms: u64, totals: &Totals) -> SecondView {
        let policy = ErrorPolicy::new(&[pointsman_config::ErrorKind::Status5xx].into());
        book.record(&Look { now: at(seconds), unix_ms, policy, totals, view: &view() })
    }

    #[test]
    fn a_second_holds_what_came_since_the_last_look_and_an_idle_one_takes_no_place() {
        let (book, v2) = (SeriesBook::default(), "v2".parse().unwrap());
        assert!(look(&book, 0.0, 50_000, &counted(500, 0)).versions.is_empty(), "what was before belongs to no second");
        let second = look(&book, 1.0, 51_000, &counted(590, 10)).versions[&v2];
        assert_eq!((second.requests_per_second, second.error_rate, second.weight), (100.0, 0.1, 5.0));
        assert!(second.p50_ms.is_some() && second.p99_ms.is_some());
        assert!(look(&book, 2.0, 52_000, &counted(590, 10)).versions.is_empty());
        look(&book, 3.0, 53_000, &counted(600, 10));
        let series = book.of(&"r".parse().unwrap());
        assert_eq!(series.versions[&v2].at_ms, [51_000, 53_000]);
        assert_eq!(series.versions[&v2].requests_per_second, [100.0, 10.0]);
        assert_eq!(series.versions[&v2].error_rate, [0.1, 0.0]);
    }

    #[test]
    fn the_nearest_line_counts_against_a_canary_and_the_farthest_for_it() {
        let book = SeriesBook::default();
        let second = look(&book, 0.0, 1, &counted(0, 0));
        assert_eq!((second.rollback, second.promotion), (Some(0.5), Some(0.25)));
        assert_eq!(book.of(&"r".parse().unwrap()).judged.rollback, [Some(0.5)]);
    }

    #[test]
    fn a_clock_that_is_set_moves_every_second_alike() {
        let (book, v2) = (SeriesBook::default(), "v2".parse().unwrap());
        for second in 0_u32..4 {
            look(
                &book,
                f64::from(second),
                90_000 + u64::from(second) * 1_000,
                &counted(10 * (u64::from(second) + 1), 0),
            );
        }
        look(&book, 4.0, 20_000, &counted(50, 0));
        assert_eq!(book.of(&"r".parse().unwrap()).versions[&v2].at_ms, [17_000, 18_000, 19_000, 20_000]);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (book, v2) = (SeriesBook::default(), "v2".parse().unwrap());
        for second in 0_u32..2_000 {
            look(&book, f64::from(second), u64::from(second) * 1_000, &counted(u64::from(second + 1), 0));
        }
        let series = book.of(&"r".parse().unwrap());
        assert_eq!((series.versions[&v2].at_ms.len(), series.judged.at_ms.len()), (LONGEST, LONGEST));
        assert_eq!(series.versions[&v2].at_ms.last(), Some(&1_999_000));
        assert_eq!(book.lock().rings, 2, "one of v2, and one of what was judged");
        book.forget(&"r".parse().unwrap());
        assert_eq!(book.lock().rings, 0);
        assert_eq!(book.of(&"r".parse().unwrap()), SeriesView::default());
    }
}
