//! What one version did of late: a thin series of its running totals, from which the counts of any recent span follow.
//!
//! Line: recorder ► **window** ► view. Pure: moments and totals come in as values.

use std::collections::VecDeque;
use std::time::Duration;

use pointsman_rollout::{Tally, Time};
use pointsman_telemetry::buckets;

use crate::outcome::{ErrorPolicy, Outcome, Weighs};
use crate::recorder::Counts;

/// Between two samples of the series.
const SPACING: Duration = Duration::from_secs(1);
/// The longest span that is asked for.
pub(crate) const LONGEST: Duration = Duration::from_mins(1);

/// The totals of one version over the last minute.
#[derive(Debug)]
pub(crate) struct Window {
    born: Time,
    /// Moments at which the totals had changed, at least [`SPACING`] apart; the first one is the base of everything.
    samples: VecDeque<(Time, Counts)>,
    latest: Counts,
}

impl Window {
    /// Begins at `now` with `totals`; what was counted before does not belong to it.
    pub(crate) fn new(now: Time, totals: Counts) -> Self {
        Self { born: now, samples: VecDeque::from([(now, totals.clone())]), latest: totals }
    }

    /// The totals at `now`, which never go down.
    pub(crate) fn record(&mut self, now: Time, totals: Counts) {
        let last_at = self.samples.back().map_or(self.born, |(at, _)| *at);
        let news = self.samples.back().is_none_or(|(_, last)| *last != totals);
        if now.since(last_at) >= SPACING && news {
            // The old totals held until just before now: without this a burst after an idle hour would look an hour long.
            if now.since(last_at) >= SPACING * 2 {
                self.samples.push_back((now.minus(SPACING), self.latest.clone()));
            }
            self.samples.push_back((now, totals.clone()));
        }
        self.latest = totals;
        self.forget(now);
    }

    fn forget(&mut self, now: Time) {
        let old = |sample: Option<&(Time, Counts)>| sample.is_some_and(|(at, _)| now.since(*at) >= LONGEST);
        while old(self.samples.get(1)) {
            self.samples.pop_front();
        }
    }

    /// The totals since the window began.
    pub(crate) fn totals(&self) -> &Counts {
        &self.latest
    }

    /// What was counted in the last `span` before `now`, up to one sample more.
    pub(crate) fn last(&self, span: Duration, now: Time) -> Counts {
        let base = self.samples.iter().rev().find(|(at, _)| now.since(*at) >= span).or_else(|| self.samples.front());
        base.map_or_else(|| self.latest.clone(), |(_, base)| difference(&self.latest, base))
    }

    /// Answers per second over the last `span` before `now`.
    pub(crate) fn rate(&self, span: Duration, now: Time) -> f64 {
        let lived = now.since(self.born).min(span).max(SPACING);
        to_f64(answers(&self.last(span, now))) / lived.as_secs_f64()
    }
}

/// Requests that say something about the version: neither client aborts nor refusals.
pub(crate) fn answers(counts: &Counts) -> u64 {
    Outcome::ALL.iter().zip(counts.outcomes).filter(|(outcome, _)| outcome.is_answer()).map(|(_, count)| count).sum()
}

/// Those among the answers that count as errors under `policy`.
pub(crate) fn errors(counts: &Counts, policy: ErrorPolicy) -> u64 {
    let bad = Outcome::ALL.into_iter().filter(|outcome| policy.weigh(*outcome) == Weighs::Bad);
    bad.filter_map(|outcome| counts.outcomes.get(outcome.index())).sum()
}

/// The `q`-quantile of latency in milliseconds; none without requests.
pub(crate) fn latency_ms(counts: &Counts, q: f64) -> Option<f64> {
    buckets::quantile(&counts.histogram, q).map(|seconds| seconds * 1_000.0)
}

/// `part / whole`; none if the whole is zero.
pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| to_f64(part) / to_f64(whole))
}

/// A count as a float; exact up to 2^53, which no counter here reaches.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// `now - before`, field by field.
pub(crate) fn difference(now: &Counts, before: &Counts) -> Counts {
    Counts {
        outcomes: subtract(now.outcomes, before.outcomes),
        histogram: subtract(now.histogram, before.histogram),
        sum_us: now.sum_us.saturating_sub(before.sum_us),
        judged: less(now.judged, before.judged),
        by_request: less(now.by_request, before.by_request),
        drawn: now.drawn.saturating_sub(before.drawn),
        split: now.split.saturating_sub(before.split),
    }
}

fn less(now: Tally, before: Tally) -> Tally {
    Tally {
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
        slow: now.slow.saturating_sub(before.slow),
    }
}

fn subtract<const N: usize>(mut now: [u64; N], before: [u64; N]) -> [u64; N] {
    for (now, before) in now.iter_mut().zip(before) {
        *now = now.saturating_sub(before);
    }
    now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Time {
        Time::after_start(Duration::from_secs_f64(seconds))
    }

    fn successes(count: u64) -> Counts {
        let mut counts = Counts::default();
        counts.outcomes[Outcome::Success.index()] = count;
        counts
    }

    /// A window that gets `per_second` answers from its birth at 100 s on, looked at ten times a second.
    fn steady(per_second: u32, seconds: u32) -> Window {
        let mut window = Window::new(at(100.0), Counts::default());
        for tick in 1..=seconds * 10 {
            window.record(at(100.0 + f64::from(tick) / 10.0), successes(u64::from(tick * per_second / 10)));
        }
        window
    }

    #[track_caller]
    fn check_rate(window: &Window, now: f64, expected: f64) {
        let rate = window.rate(TEN, at(now));
        assert!((rate - expected).abs() < expected / 9.0 + 1e-9, "{rate} is not about {expected}");
    }

    #[test]
    fn a_steady_flow_has_its_rate_from_the_first_seconds_on() {
        check_rate(&steady(200, 3), 103.0, 200.0);
        check_rate(&steady(200, 300), 400.0, 200.0);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut window = steady(200, 30);
        for tick in 1..=200 {
            window.record(at(130.0 + f64::from(tick) / 10.0), successes(6_000));
        }
        check_rate(&window, 150.0, 0.0);
        assert_eq!(answers(&window.last(LONGEST, at(150.0))), 6_000);
        assert_eq!(answers(&window.last(LONGEST, at(192.0))), 0);
        assert_eq!(answers(window.totals()), 6_000, "totals stay");
    }

    #[test]
    fn a_burst_after_an_idle_hour_is_seen_whole() {
        let mut window = Window::new(at(0.0), Counts::default());
        window.record(at(3_600.0), successes(50));
        assert_eq!(answers(&window.last(TEN, at(3_600.1))), 50);
        check_rate(&window, 3_600.1, 5.0);
        assert_eq!(answers(&window.last(TEN, at(3_611.0))), 0);
    }

    #[test]
    fn what_was_counted_before_the_window_does_not_belong_to_it() {
        let window = Window::new(at(5.0), successes(1_000));
        assert_eq!(answers(&window.last(LONGEST, at(6.0))), 0);
    }

    #[test]
    fn only_answers_count_and_only_what_the_operator_calls_an_error_is_one() {
        let counts = Counts { outcomes: [10, 1, 2, 3, 4, 500, 600], ..Counts::default() };
        assert_eq!(answers(&counts), 20);
        let policy =
            ErrorPolicy::new(&[pointsman_config::ErrorKind::Timeout, pointsman_config::ErrorKind::Reset].into());
        assert_eq!(errors(&counts, policy), 6);
    }

    proptest! {
        /// Against a plain list of every arrival: never less than the span holds, never more than one sample beyond it.
        #[test]
        fn a_span_holds_what_arrived_in_it(gaps_ms in proptest::collection::vec(1_u64..5_000, 1..200), span_s in 1_u64..60) {
            let mut window = Window::new(at(0.0), Counts::default());
            let mut now_ms = 0;
            let mut arrivals = Vec::new();
            for gap in gaps_ms {
                let target = now_ms + gap;
                while now_ms < target {
                    now_ms = (now_ms + 100).min(target);
                    if now_ms == target {
                        arrivals.push(now_ms);
                    }
                    window.record(Time::after_start(Duration::from_millis(now_ms)), successes(u64::try_from(arrivals.len()).unwrap()));
                }
                let counted = answers(&window.last(Duration::from_secs(span_s), Time::after_start(Duration::from_millis(now_ms))));
                let within = |ms: u64| u64::try_from(arrivals.iter().filter(|at| **at + ms > now_ms).count()).unwrap();
                prop_assert!(counted >= within(span_s * 1_000), "too few: {counted}");
                prop_assert!(counted <= within(span_s * 1_000 + 2_100), "too many: {counted}");
            }
        }
    }
}
