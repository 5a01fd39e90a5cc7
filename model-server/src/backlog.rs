//! How long what comes next would wait. Pure: times come in as values; `queue` asks.

use std::time::Duration;

/// How long it takes until a worker is free for what comes behind the `waiting` work. Whoever calculates is free after
/// what is `left` of it, the others are free now; and whoever is free takes of what waits. So one long calculation keeps
/// one worker, and nobody waits for it who can go to another.
pub fn wait(waiting: Duration, left: impl IntoIterator<Item = Duration>, workers: usize) -> Duration {
    let mut left: Vec<Duration> = left.into_iter().collect();
    left.resize(workers.max(left.len()).max(1), Duration::ZERO);
    left.sort_unstable();
    let mut work = waiting;
    let mut sharing = 0_u32;
    for (position, own) in left.iter().enumerate() {
        work = work.saturating_add(*own);
        sharing += 1;
        let level = work / sharing;
        if left.get(position + 1).is_none_or(|next| level <= *next) {
            return level;
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[track_caller]
    fn check(waiting: u64, left: &[u64], workers: usize, wanted: u64) {
        assert_eq!(wait(ms(waiting), left.iter().copied().map(ms), workers), ms(wanted));
    }

    #[test]
    fn who_is_free_is_not_waited_for() {
        check(0, &[], 1, 0);
        check(0, &[2_200], 2, 0);
        check(0, &[70_000, 70_000], 3, 0);
    }

    #[test]
    fn one_long_calculation_keeps_one_worker() {
        check(0, &[2_200, 3], 2, 3);
        check(10, &[2_200, 3], 2, 13);
        check(10, &[2_200], 2, 10);
        check(0, &[2_200], 1, 2_200);
    }

    #[test]
    fn what_waits_is_shared_by_those_who_come_to_it() {
        check(100, &[], 4, 25);
        check(100, &[20, 20], 2, 70);
        check(100, &[0, 300], 2, 100);
        check(400, &[0, 300], 2, 350);
    }

    proptest! {
        /// By the time that comes out, workers have done just what waits.
        #[test]
        fn what_waits_is_done_by_then(
            waiting in 0_u64..1_000_000,
            left in prop::collection::vec(0_u64..1_000_000, 0..8),
            idle in 0_usize..4,
        ) {
            let workers = (left.len() + idle).max(1);
            let found = wait(ms(waiting), left.iter().copied().map(ms), workers);
            let free = left.iter().copied().map(ms).chain(std::iter::repeat_n(Duration::ZERO, workers - left.len()));
            let done: Duration = free.map(|free| found.saturating_sub(free)).sum();
            prop_assert!(done.abs_diff(ms(waiting)) < Duration::from_micros(1), "{found:?}");
        }
    }
}
