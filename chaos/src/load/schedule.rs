//! When each request is due: request `n` at start + n / rate. Exact in whole nanoseconds, so that an hour of
//! load drifts by nothing. Knows no clock.

use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// The due times of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: Instant,
    rate: u32,
    /// How many there are; `None` for no end.
    requests: Option<u64>,
}

impl Schedule {
    /// `rate` per second from `start` on; those due before `duration` has passed.
    pub(super) fn new(start: Instant, rate: u32, duration: Option<Duration>) -> Self {
        let requests = duration.map(|duration| narrow((duration.as_nanos() * u128::from(rate)).div_ceil(NANOS)));
        Self { start, rate, requests }
    }

    /// When request `n` is due.
    pub(super) fn due(&self, n: u64) -> Instant {
        let nanos = u128::from(n) * NANOS / u128::from(self.rate.max(1));
        self.start + Duration::from_nanos(narrow(nanos))
    }

    /// How many requests are due at `now` or were before.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else {
            return 0;
        };
        // Request n is due when n * NANOS / rate, rounded down, has passed: solved for n.
        let due = narrow(((elapsed.as_nanos() + 1) * u128::from(self.rate)).div_ceil(NANOS));
        self.requests.map_or(due, |requests| due.min(requests))
    }

    /// Whether nothing falls due after the first `n`.
    pub(super) fn ends_with(&self, n: u64) -> bool {
        self.requests.is_some_and(|requests| n >= requests)
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

    proptest! {
        #[test]
        fn exactly_those_are_due_whose_time_has_come(rate in 1..200_000_u32, n in 0..10_000_000_u64) {
            let schedule = Schedule::new(Instant::now(), rate, None);
            let due = schedule.due(n);
            prop_assert_eq!(schedule.due_by(due), n + 1);
            prop_assert!(schedule.due_by(due.checked_sub(Duration::from_nanos(1)).unwrap()) <= n);
        }
    }
}
