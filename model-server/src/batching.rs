//! When requests go through the model together, and what they are expected to cost. Pure: times come in as values.
//! `queue` asks; nothing here waits.
//!
//! No batch is ever waited for. A worker that is free takes what has gathered while it was busy: a lone request goes
//! at once, and under load batches grow by themselves.

use std::time::Duration;

/// By how much less a row must cost in a batch of 32 than alone before requests are put together.
const LEAST_GAIN: f64 = 0.2;

/// How much one measured batch changes the estimate of the next.
const LEARNING: f64 = 0.1;

/// How wrong an estimate is allowed to become, in either direction: a machine that stalls for a moment must not
/// close the server for long.
const CORRECTION: std::ops::RangeInclusive<f64> = 0.25..=16.0;

/// How many times as slow as expected one batch may seem: a longer stall says nothing about the model.
const SLOWEST: f64 = 2.0;

/// How long a model calculated in a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// How many rows went in.
    pub rows: u32,
    /// Their weight: columns, and bytes of text.
    pub weight: usize,
    /// How long it took.
    pub took: Duration,
}

/// What a calculation costs: `fixed` each time, and `per_weight` for what goes in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    fixed_seconds: f64,
    seconds_per_weight: f64,
    correction: f64,
    pays: bool,
}

impl Costs {
    /// The line through a trial of one row and a trial of many.
    pub fn measured(one: Trial, many: Trial) -> Self {
        let (lone, together) = (one.took.as_secs_f64(), many.took.as_secs_f64());
        let heavier = number(many.weight.saturating_sub(one.weight).max(1));
        let slope = ((together - lone) / heavier).max(together / number(many.weight.max(1)) / 2.0);
        let fixed = (lone - slope * number(one.weight)).max(0.0);
        let each = together / f64::from(many.rows.max(1));
        Self {
            fixed_seconds: fixed,
            seconds_per_weight: slope,
            correction: 1.0,
            pays: each <= (1.0 - LEAST_GAIN) * lone,
        }
    }

    /// What so much is expected to take.
    pub fn estimate(&self, weight: usize) -> Duration {
        let seconds = self.correction * (self.fixed_seconds + self.seconds_per_weight * number(weight));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Whether putting requests together pays.
    pub fn pays(&self) -> bool {
        self.pays
    }

    /// Takes to heart what so much has really taken.
    pub fn learn(&mut self, weight: usize, took: Duration) {
        let expected = self.estimate(weight).as_secs_f64();
        if expected > 0.0 {
            let wanted = self.correction * (took.as_secs_f64() / expected).min(SLOWEST);
            let moved = self.correction + LEARNING * (wanted - self.correction);
            self.correction = moved.clamp(*CORRECTION.start(), *CORRECTION.end());
        }
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "weights stay far below 2^52")]
fn number(weight: usize) -> f64 {
    weight as f64
}

/// One request that waits, as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its rows.
    pub rows: usize,
    /// Its weight.
    pub weight: usize,
    /// How long its client still waits, when it said so.
    pub patience: Option<Duration>,
}

/// How much goes through the model at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Rows.
    pub most_rows: usize,
    /// Columns and bytes of text.
    pub most_weight: usize,
}

impl Policy {
    /// How many from the front of the queue go through the model now: at least one when any waits, since what is too
    /// large for a batch goes alone. A batch closes before the request that would make it too large, or so slow that
    /// a client inside of it, which would be served in time without, gives up.
    pub fn take(&self, costs: &Costs, mut waiting: impl Iterator<Item = Waiting>) -> usize {
        let Some(first) = waiting.next() else {
            return 0;
        };
        if !costs.pays() {
            return 1;
        }
        let mut batch = first;
        let mut taken = 1;
        for next in waiting {
            let grown = batch.with(next);
            let in_time = grown.patience.is_none_or(|patience| costs.estimate(grown.weight) <= patience);
            if grown.rows > self.most_rows || grown.weight > self.most_weight || !in_time {
                break;
            }
            batch = grown;
            taken += 1;
        }
        taken
    }
}

impl Waiting {
    fn with(self, other: Self) -> Self {
        let patience = match (self.patience, other.patience) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self { rows: self.rows + other.rows, weight: self.weight.saturating_add(other.weight), patience }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy { most_rows: 32, most_weight: 320 };

    fn trial(rows: u32, micros: u64) -> Trial {
        Trial { rows, weight: usize::try_from(rows).unwrap() * 10, took: Duration::from_micros(micros) }
    }

    /// 100 µs alone, 40 µs of them whatever goes in.
    fn gainful() -> Costs {
        Costs::measured(trial(1, 100), trial(32, 40 + 32 * 60))
    }

    fn waiting(rows: usize, patience_ms: Option<u64>) -> Waiting {
        Waiting { rows, weight: rows * 10, patience: patience_ms.map(Duration::from_millis) }
    }

    fn near(found: Duration, micros: f64) -> bool {
        (found.as_secs_f64() * 1e6 - micros).abs() < 0.01 * micros
    }

    #[test]
    fn costs_are_a_line_through_what_was_measured() {
        let costs = gainful();
        assert!(near(costs.estimate(10), 100.0), "{:?}", costs.estimate(10));
        assert!(near(costs.estimate(160), 40.0 + 16.0 * 60.0), "{:?}", costs.estimate(160));
    }

    #[test]
    fn a_measurement_that_cannot_be_still_gives_a_cost_that_grows() {
        let costs = Costs::measured(trial(1, 100), trial(32, 50));
        assert!(costs.estimate(1000) > costs.estimate(10));
    }

    #[test]
    fn requests_go_together_only_where_that_pays() {
        let queue = || std::iter::repeat_n(waiting(1, None), 5);
        assert!(gainful().pays());
        assert_eq!(POLICY.take(&gainful(), queue()), 5);
        let dull = Costs::measured(trial(1, 100), trial(32, 32 * 90));
        assert!(!dull.pays());
        assert_eq!(POLICY.take(&dull, queue()), 1);
    }

    #[test]
    fn a_batch_closes_by_rows_and_what_is_too_large_goes_alone() {
        assert_eq!(POLICY.take(&gainful(), [20, 12, 1].into_iter().map(|rows| waiting(rows, None))), 2);
        assert_eq!(POLICY.take(&gainful(), [500, 1].into_iter().map(|rows| waiting(rows, None))), 1);
        assert_eq!(POLICY.take(&gainful(), std::iter::empty()), 0);
    }

    #[test]
    fn a_batch_closes_before_it_makes_a_client_give_up() {
        let hurried = [waiting(10, Some(1)), waiting(10, None), waiting(10, None)];
        assert_eq!(POLICY.take(&gainful(), hurried.into_iter()), 1);
        let patient = [waiting(10, Some(2)), waiting(10, None), waiting(10, None)];
        assert_eq!(POLICY.take(&gainful(), patient.into_iter()), 3);
    }

    #[test]
    fn estimates_follow_a_slower_machine_and_stay_bounded() {
        let mut costs = gainful();
        for _ in 0..100 {
            costs.learn(10, Duration::from_micros(300));
        }
        assert!(near(costs.estimate(10), 300.0), "{:?}", costs.estimate(10));
        for _ in 0..1000 {
            costs.learn(10, Duration::from_secs(10));
        }
        assert!(costs.estimate(10) <= Duration::from_micros(1601), "{:?}", costs.estimate(10));
    }

    #[test]
    fn one_stall_hardly_changes_the_estimates() {
        let mut costs = gainful();
        costs.learn(10, Duration::from_mins(1));
        assert!(costs.estimate(10) <= Duration::from_micros(111), "{:?}", costs.estimate(10));
    }

    proptest! {
        #[test]
        fn what_is_taken_fits_and_is_never_nothing(
            queue in prop::collection::vec((1_usize..50, prop::option::of(0_u64..5)), 0..40),
        ) {
            let queue: Vec<_> = queue.into_iter().map(|(rows, patience)| waiting(rows, patience)).collect();
            let taken = POLICY.take(&gainful(), queue.iter().copied());
            prop_assert_eq!(taken == 0, queue.is_empty());
            prop_assert!(taken <= queue.len());
            if taken > 1 {
                let rows: usize = queue.iter().take(taken).map(|waiting| waiting.rows).sum();
                prop_assert!(rows <= POLICY.most_rows);
            }
        }
    }
}
