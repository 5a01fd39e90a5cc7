//! When each request is due: while the rate stays, request `n` at start + n / rate. Exact in whole nanoseconds, so that an
//! hour of load drifts by nothing. Knows no clock.

use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// The due times of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// When the first of them is due, and how many were due before the rate became this one.
    start: Instant,
    first: u64,
    /// Per second; 0: nothing is due until it is another one.
    rate: u32,
    end: Option<Instant>,
    /// How many there are; `None` for no end.
    requests: Option<u64>,
}

impl Schedule {
    /// `rate` per second from `start` on; those due before `duration` has passed.
    pub(super) fn new(start: Instant, rate: u32, duration: Option<Duration>) -> Self {
        Self::after(0, start, rate, duration.map(|duration| start + duration))
    }

    fn after(first: u64, start: Instant, rate: u32, end: Option<Instant>) -> Self {
        let fall_due = |end: Instant| {
            let left = end.saturating_duration_since(start).as_nanos();
            first + narrow((left * u128::from(rate)).div_ceil(NANOS))
        };
        Self { start, first, rate, end, requests: end.map(fall_due) }
    }

    /// Another rate from `now` on. What of the gap before the next request has passed is not waited for again.
    pub(super) fn at_rate(self, now: Instant, rate: u32) -> Self {
        let first = self.due_by(now);
        let left = if self.rests() { Duration::ZERO } else { self.due(first).saturating_duration_since(now) };
        let scaled = left.as_nanos() * u128::from(self.rate) / u128::from(rate.max(1));
        Self::after(first, now + Duration::from_nanos(narrow(scaled)), rate, self.end)
    }

    /// Whether nothing falls due as long as the rate stays.
    pub(super) fn rests(&self) -> bool {
        self.rate == 0
    }

    /// When request `n` is due, as long as the rate stays.
    pub(super) fn due(&self, n: u64) -> Instant {
        let nanos = u128::from(n.saturating_sub(self.first)) * NANOS / u128::from(self.rate.max(1));
        self.start + Duration::from_nanos(narrow(nanos))
    }

    /// How many requests are due at `now` or were before.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else {
            return self.first;
        };
        // Request n is due when (n - first) * NANOS / rate, rounded down, has passed: solved for n.
        let due = self.first + narrow(((elapsed.as_nanos() + 1) * u128::from(self.rate)).div_ceil(NANOS));
        self.requests.map_or(due, |requests| due.min(requests))
    }

    /// Whether nothing falls due after the first `n`, whatever the rate becomes.
    pub(super) fn ends_with(&self, n: u64) -> bool {
        !self.rests() && self.requests.is_some_and(|requests| n >= requests)
    }
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_holds_rate_times_seconds() {
        let start = Instant::now();
        for (rate, seconds, requests) in [(1000, 10, 10_000), (3, 1, 3), (7, 60, 420)] {
            let schedule = Schedule::new(start, rate, Some(Duration::from_secs(seconds)));
            assert_eq!(schedule.due_by(start + Duration::from_hours(1)), requests);
            assert!(schedule.ends_with(requests) && !schedule.ends_with(requests - 1));
            assert!(schedule.due(requests - 1) < start + Duration::from_secs(seconds));
        }
    }

    #[test]
    fn an_hour_does_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3, None);
        assert_eq!(schedule.due(3 * 3600), start + Duration::from_hours(1));
        assert!(!schedule.ends_with(u64::MAX));
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let before = Instant::now();
        assert_eq!(Schedule::new(before + Duration::from_nanos(1), 1000, None).due_by(before), 0);
    }

    #[test]
    fn a_rest_lets_nothing_fall_due_and_what_was_due_is_not_due_again() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let resting = Schedule::new(start, 10, None).at_rate(at(450), 0);
        assert!(resting.rests() && !resting.ends_with(u64::MAX));
        assert_eq!((resting.due_by(at(450)), resting.due_by(at(90_000))), (5, 5));
        let again = resting.at_rate(at(90_000), 10);
        assert_eq!((again.due(5), again.due_by(at(90_000)), again.due_by(at(90_099))), (at(90_000), 6, 6));
    }

    proptest! {
        #[test]
        fn however_often_the_rate_changes_no_request_comes_or_goes_with_it(
            parts in prop::collection::vec((1..5_000_u32, 1..400_u64), 1..40),
        ) {
            let start = Instant::now();
            let mut schedule = Schedule::new(start, parts[0].0, None);
            let (mut now, mut wanted, mut last) = (start, 0.0, None);
            for (rate, millis) in parts {
                schedule = schedule.at_rate(now, rate);
                let next = schedule.due_by(now);
                // Each in its turn, and none before the one before it.
                prop_assert!(last.is_none_or(|last| schedule.due(next) > last));
                now += Duration::from_millis(millis);
                wanted += f64::from(rate) * Duration::from_millis(millis).as_secs_f64();
                last = schedule.due_by(now).checked_sub(1).filter(|n| *n >= next).map(|n| schedule.due(n)).or(last);
            }
            let due = f64::from(u32::try_from(schedule.due_by(now)).unwrap());
            prop_assert!((due - wanted).abs() <= 1.5, "{due} due, {wanted} wanted");
        }

        #[test]
        fn exactly_those_are_due_whose_time_has_come(rate in 1..200_000_u32, n in 0..10_000_000_u64) {
            let schedule = Schedule::new(Instant::now(), rate, None);
            let due = schedule.due(n);
            prop_assert_eq!(schedule.due_by(due), n + 1);
            prop_assert!(schedule.due_by(due.checked_sub(Duration::from_nanos(1)).unwrap()) <= n);
        }
    }
}
