//! What an endpoint's latency is like, of late: an average that jumps up at once and comes down with time.
//!
//! Line: endpoint ► **ewma**. Two relaxed atomics and no lock: of two answers that arrive in the same nanosecond one may
//! count for a little more than it should, which is nothing to wait for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// An answer this old weighs e times less than one of now: the default of Finagle's `p2cPeakEwma`.
const DECAY_S: f64 = 10.0;
/// Up to this part of the decay, a line is as good as the exponential: it errs by less than one in a million.
const SOON: f64 = 1e-3;
/// No estimate is below this: a pool that rested for long is chosen from by what is in flight, as one without estimates.
const LEAST_S: f64 = 1e-6;
/// A failure counts as an answer that took at least this long: one that fails in a moment must attract nobody.
const FAILURE_AT_LEAST_S: f64 = 1.0;
/// Each failure doubles the estimate, up to this.
const FAILURE_AT_MOST_S: f64 = 60.0;

/// An exponentially weighted moving average that takes every peak as it is.
///
/// Finagle's `PeakEwma`: `cost = latency` where that is more, else `cost·w + latency·(1 − w)` with
/// `w = exp(−age / decay)`; read at a later moment, `cost·w`, so that whoever was slow is tried again in time.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    /// Seconds, as bits; not a number before the first answer.
    cost: AtomicU64,
    /// When it was last brought up to date, in seconds, as bits.
    at: AtomicU64,
}

impl PeakEwma {
    pub(crate) fn new() -> Self {
        Self { cost: AtomicU64::new(f64::NAN.to_bits()), at: AtomicU64::new(0) }
    }

    /// An answer took this long, as of `now`, in seconds.
    pub(crate) fn answered(&self, latency: Duration, now: f64) {
        let latency = latency.as_secs_f64();
        self.take(now, |_| latency);
    }

    /// A failure became known after this long, as of `now`, in seconds.
    pub(crate) fn failed(&self, after: Duration, now: f64) {
        let after = after.as_secs_f64().max(FAILURE_AT_LEAST_S);
        let doubled = |cost: f64| if cost.is_nan() { after } else { after.max((2.0 * cost).min(FAILURE_AT_MOST_S)) };
        self.take(now, doubled);
    }

    /// Takes in what `sample` makes of the cost so far.
    fn take(&self, now: f64, sample: impl Fn(f64) -> f64) {
        let kept = self.kept(now);
        let update = |bits: u64| {
            let cost = f64::from_bits(bits);
            let sample = sample(cost);
            // Holds for the first answer too, which is compared with no number.
            let eased = if sample < cost { cost.mul_add(kept, sample * (1.0 - kept)) } else { sample };
            Some(eased.to_bits())
        };
        // It always updates, so it cannot fail.
        _ = self.cost.fetch_update(Relaxed, Relaxed, update);
        self.at.store(now.to_bits(), Relaxed);
    }

    /// The estimate at `now`, in seconds; none before the first answer.
    pub(crate) fn seconds(&self, now: f64) -> Option<f64> {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        (!cost.is_nan()).then(|| (cost * self.kept(now)).max(LEAST_S))
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.cost.store(f64::NAN.to_bits(), Relaxed);
    }

    /// How much of the cost is left at `now`, 0 to 1.
    fn kept(&self, now: f64) -> f64 {
        let age = (now - f64::from_bits(self.at.load(Relaxed))) / DECAY_S;
        if age > SOON {
            (-age).exp()
        } else {
            // What matters of exp(-age) then, for a fifth of its price; a clock that lags a little counts as one that stands.
            1.0 - age.max(0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[track_caller]
    fn check(ewma: &PeakEwma, now: f64, wanted: f64) {
        let found = ewma.seconds(now).unwrap();
        assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
    }

    #[test]
    fn nothing_is_known_before_the_first_answer_nor_after_it_was_forgotten() {
        let ewma = PeakEwma::new();
        assert_eq!(ewma.seconds(5.0), None);
        ewma.answered(ms(20), 5.0);
        check(&ewma, 5.0, 0.020);
        ewma.forget();
        assert_eq!(ewma.seconds(5.0), None);
        ewma.answered(ms(10), 5.0);
        check(&ewma, 5.0, 0.010);
    }

    #[test]
    fn it_jumps_up_at_once_and_comes_down_with_time() {
        let ewma = PeakEwma::new();
        ewma.answered(ms(10), 0.0);
        ewma.answered(ms(100), 0.0);
        check(&ewma, 0.0, 0.100);
        ewma.answered(ms(10), 0.0);
        check(&ewma, 0.0, 0.100);
        let left = (-1.0_f64).exp();
        ewma.answered(ms(10), 10.0);
        check(&ewma, 10.0, 0.1 * left + 0.01 * (1.0 - left));
    }

    #[test]
    fn who_is_not_asked_is_forgiven_but_never_costs_nothing() {
        let ewma = PeakEwma::new();
        ewma.answered(ms(100), 0.0);
        check(&ewma, 20.0, 0.1 * (-2.0_f64).exp());
        check(&ewma, 1e6, LEAST_S);
    }

    #[test]
    fn a_fast_failure_is_slow_and_the_next_one_slower_up_to_a_limit() {
        let ewma = PeakEwma::new();
        ewma.answered(ms(1), 0.0);
        ewma.failed(ms(1), 0.0);
        check(&ewma, 0.0, 1.0);
        ewma.failed(ms(1), 0.0);
        check(&ewma, 0.0, 2.0);
        for _ in 0..20 {
            ewma.failed(ms(1), 0.0);
        }
        check(&ewma, 0.0, FAILURE_AT_MOST_S);
        ewma.failed(Duration::from_secs(90), 0.0);
        check(&ewma, 0.0, 90.0);
        let first = PeakEwma::new();
        first.failed(ms(1), 0.0);
        check(&first, 0.0, 1.0);
    }

    proptest! {
        #[test]
        fn it_stays_between_the_fastest_and_the_slowest_answer(answers in proptest::collection::vec((1..2_000_u64, 0..5_000_u32), 1..50)) {
            let ewma = PeakEwma::new();
            let mut now = 0.0;
            for (latency, pause) in &answers {
                now += f64::from(*pause) / 1_000.0;
                ewma.answered(ms(*latency), now);
            }
            let found = ewma.seconds(now).unwrap();
            let seconds: Vec<f64> = answers.iter().map(|(latency, _)| ms(*latency).as_secs_f64()).collect();
            let (least, most) = (seconds.iter().copied().fold(f64::MAX, f64::min), seconds.iter().copied().fold(0.0, f64::max));
            prop_assert!(found >= least - 1e-12 && found <= most + 1e-12, "{} not in {}..{}", found, least, most);
            prop_assert!(found >= seconds.last().unwrap() - 1e-12 || answers.len() > 1);
        }
    }
}
