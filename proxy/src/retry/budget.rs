//! How much may be repeated: a part of the requests of late, and a little on top.
//!
//! Stands beside the line: what fails under load must not be asked twice as often for it. The budget is that of Finagle
//! (`com.twitter.finagle.service.RetryBudget`: a tenth to a fifth of the requests of the last 10 s, and a minimum per
//! second), which Envoy has as `retry_budget` with a minimum of 3. Time is an argument, counted in whole seconds.

use std::array::from_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crossbeam_utils::CachePadded;

/// How long a request counts.
const SPAN_SECONDS: u64 = 10;
/// Slots of a ring: more than the span, so that a late writer does not meet the oldest second that counts.
const SLOTS: u64 = 16;
/// The lower half of a slot counts; the upper half says of which second.
const COUNT: u64 = 0xffff_ffff;
const SECOND_SHIFT: u32 = 32;

/// Counts of the last seconds.
#[derive(Debug)]
struct Ring {
    slots: [AtomicU64; 16],
}

impl Ring {
    fn new() -> Self {
        Self { slots: from_fn(|_| AtomicU64::new(0)) }
    }

    fn add(&self, second: u64) {
        self.change(second, |count| count.saturating_add(1));
    }

    fn take_back(&self, second: u64) {
        self.change(second, |count| count.saturating_sub(1));
    }

    fn change(&self, second: u64, change: impl Fn(u64) -> u64) {
        let of_second = second << SECOND_SHIFT;
        let changed = |slot: u64| {
            let count = if slot & !COUNT == of_second { slot & COUNT } else { 0 };
            Some(of_second | change(count).min(COUNT))
        };
        if let Some(slot) = usize::try_from(second % SLOTS).ok().and_then(|slot| self.slots.get(slot)) {
            // The closure always gives a value.
            let written = slot.fetch_update(Relaxed, Relaxed, changed);
            debug_assert!(written.is_ok(), "a slot takes every count");
        }
    }

    /// Everything counted in the span that ends with `second`.
    fn sum(&self, second: u64) -> u64 {
        let counts = |slot: &AtomicU64| {
            let slot = slot.load(Relaxed);
            let age = second.saturating_sub(slot >> SECOND_SHIFT);
            if age < SPAN_SECONDS { slot & COUNT } else { 0 }
        };
        self.slots.iter().map(counts).sum()
    }
}

/// Requests of late, counted by each thread in a place of its own.
#[derive(Debug)]
pub(crate) struct Requests {
    shards: Box<[CachePadded<Ring>]>,
}

impl Requests {
    pub(crate) fn new(threads: usize) -> Self {
        Self { shards: (0..threads.max(1)).map(|_| CachePadded::new(Ring::new())).collect() }
    }

    /// Counts one request in `second`, for the thread of this number.
    pub(crate) fn count(&self, thread: usize, second: u64) {
        if let Some(shard) = self.shards.get(thread % self.shards.len()) {
            shard.add(second);
        }
    }

    /// Requests in the span that ends with `second`.
    pub(crate) fn of_late(&self, second: u64) -> u64 {
        self.shards.iter().map(|shard| shard.sum(second)).sum()
    }
}

/// How much of something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Per request, in parts per million.
    pub(crate) ppm: u32,
    /// Per second, however few requests there are.
    pub(crate) floor: u32,
}

impl Allowance {
    fn of(self, requests: u64) -> u64 {
        let share = u128::from(requests) * u128::from(self.ppm) / 1_000_000;
        u64::try_from(share).unwrap_or(u64::MAX).saturating_add(u64::from(self.floor) * SPAN_SECONDS)
    }
}

/// What has been spent of an allowance of late.
#[derive(Debug)]
pub(crate) struct Spent(Ring);

impl Spent {
    pub(crate) fn new() -> Self {
        Self(Ring::new())
    }

    /// Spends one in `second`; false, and nothing is spent, if that is more than `allowance` grants for so many
    /// `requests` of late. Of several that ask at the same moment for the last one, none may get it; more never do.
    pub(crate) fn spend(&self, allowance: Allowance, requests: u64, second: u64) -> bool {
        self.0.add(second);
        let granted = self.0.sum(second) <= allowance.of(requests);
        if !granted {
            self.0.take_back(second);
        }
        granted
    }
}

/// The whole seconds from `since` to `now`, one-based, so that an empty slot belongs to none.
pub(crate) fn second(since: Instant, now: Instant) -> u64 {
    (now.saturating_duration_since(since).as_secs() + 1) & COUNT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TENTH: Allowance = Allowance { ppm: 100_000, floor: 0 };

    fn requests(count: usize, second: u64) -> Requests {
        let requests = Requests::new(2);
        for number in 0..count {
            requests.count(number, second);
        }
        requests
    }

    /// How many of many that ask in `second` are granted.
    fn granted(spent: &Spent, allowance: Allowance, requests: u64, second: u64) -> usize {
        (0..1_000).filter(|_| spent.spend(allowance, requests, second)).count()
    }

    #[test]
    fn a_tenth_of_the_requests_of_the_last_ten_seconds_may_be_repeated() {
        let (requests, spent) = (requests(500, 7), Spent::new());
        assert_eq!(granted(&spent, TENTH, requests.of_late(7), 7), 50);
        assert_eq!(granted(&spent, TENTH, requests.of_late(16), 16), 0, "spent in the same span");
        assert_eq!((requests.of_late(16), requests.of_late(17)), (500, 0));
        for _ in 0..100 {
            requests.count(0, 17);
        }
        assert_eq!(granted(&spent, TENTH, requests.of_late(17), 17), 10, "what was spent is forgotten as well");
    }

    #[test]
    fn the_floor_is_there_without_requests_and_no_share_means_the_floor_alone() {
        let floor = Allowance { ppm: 0, floor: 3 };
        let spent = Spent::new();
        assert_eq!(granted(&spent, floor, 0, 4), 30);
        assert_eq!(granted(&spent, floor, 1_000_000, 13), 0);
        assert_eq!(granted(&spent, floor, 1_000_000, 14), 30);
        assert_eq!(granted(&Spent::new(), Allowance { ppm: 0, floor: 0 }, 1_000_000, 1), 0);
    }

    #[test]
    fn a_ring_that_went_round_has_forgotten() {
        let requests = requests(5, 3);
        requests.count(0, 3 + SLOTS);
        assert_eq!(requests.of_late(3 + SLOTS), 1);
        requests.count(1, 3 + 40 * SLOTS);
        assert_eq!(requests.of_late(3 + 40 * SLOTS), 1);
    }

    #[test]
    fn threads_that_spend_together_never_spend_more_than_is_granted() {
        let (spent, granted) = (Spent::new(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..10_000).filter(|_| spent.spend(TENTH, 10_000, 5)).count();
                    granted.fetch_add(u64::try_from(mine).unwrap(), Relaxed);
                });
            }
        });
        let granted = granted.load(Relaxed);
        assert!((900..=1_000).contains(&granted), "{granted}");
    }

    proptest! {
        #[test]
        fn no_span_of_ten_seconds_has_more_retries_than_it_was_granted(
            steps in proptest::collection::vec((0..4_u64, any::<bool>()), 1..300),
            ppm in 0..500_000_u32,
            floor in 0..3_u32,
        ) {
            let allowance = Allowance { ppm, floor };
            let (requests, spent) = (Requests::new(1), Spent::new());
            let (mut second, mut asked, mut got) = (1, Vec::new(), Vec::new());
            for (pause, retries) in steps {
                second += pause;
                requests.count(0, second);
                asked.push(second);
                if retries && spent.spend(allowance, requests.of_late(second), second) {
                    got.push(second);
                    let of_late = |times: &[u64]| times.iter().map(|time| u64::from(second - time < SPAN_SECONDS)).sum::<u64>();
                    prop_assert!(of_late(&got) <= of_late(&asked) * u64::from(ppm) / 1_000_000 + u64::from(floor) * SPAN_SECONDS);
                }
            }
        }
    }
}
