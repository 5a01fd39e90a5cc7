//! The latency buckets that every histogram of ours counts in, so that counts of two servers, two versions or
//! two replicas can be added and compared. They hold the edges of the service level objectives: 50, 200, 500 ms.

use std::time::Duration;

/// Upper edges in seconds, ascending; an edge belongs to its bucket (Prometheus' `le`). One more bucket, +Inf,
/// follows the last edge. Neighbours lie a factor 1.3 to 2 apart up to 5 s, so that a quantile read from them
/// is off by less than that.
pub const LATENCY_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
];

/// How many buckets there are: one for each edge and one for +Inf.
pub const BUCKETS: usize = LATENCY_SECONDS.len() + 1;

/// The same edges in nanoseconds, for counting without floating point.
const LATENCY_NANOS: [u64; BUCKETS - 1] = [
    500_000,
    1_000_000,
    1_500_000,
    2_000_000,
    3_000_000,
    5_000_000,
    7_500_000,
    10_000_000,
    15_000_000,
    20_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    150_000_000,
    200_000_000,
    300_000_000,
    400_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    1_500_000_000,
    2_000_000_000,
    3_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Entry `n`: the first bucket that a number of nanoseconds with `n` leading zero bits can fall into. Edges lie
/// at least a factor 1.3 apart, so three comparisons at most remain from there.
#[expect(clippy::indexing_slicing, reason = "runs at compile time only, where a wrong index is a build error")]
const FIRST_BUCKET: [usize; 65] = {
    let mut table = [0; 65];
    let mut zeros = 0_u32;
    let mut entry = 0;
    while zeros < 64 {
        let least = 1_u64 << (63 - zeros);
        let mut bucket = 0;
        while bucket < LATENCY_NANOS.len() && LATENCY_NANOS[bucket] < least {
            bucket += 1;
        }
        table[entry] = bucket;
        zeros += 1;
        entry += 1;
    }
    table
};

/// The bucket that a latency is counted in, `0..BUCKETS`; the last is +Inf.
pub fn bucket_index(latency: Duration) -> usize {
    let nanos = latency.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(latency.subsec_nanos()));
    let first = usize::try_from(nanos.leading_zeros())
        .ok()
        .and_then(|zeros| FIRST_BUCKET.get(zeros))
        .copied()
        .unwrap_or_default();
    let below = LATENCY_NANOS.iter().skip(first).take_while(|edge| **edge < nanos).count();
    first + below
}

/// The `q`-quantile in seconds of latencies counted per bucket (not cumulative; `counts[i]` belongs to
/// [`bucket_index`] `i`, and missing buckets count nothing). Interpolates linearly inside the bucket, as
/// Prometheus' `histogram_quantile` does; a quantile in +Inf gives the last edge. `None` without any count and
/// for a `q` outside 0 to 1.
pub fn quantile(counts: &[u64], q: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 || !(0.0..=1.0).contains(&q) {
        return None;
    }
    let rank = q * real(total);
    let mut below = 0_u64;
    for (bucket, count) in counts.iter().copied().enumerate() {
        if count > 0 && real(below + count) >= rank {
            return Some(interpolate(bucket, (rank - real(below)) / real(count)));
        }
        below += count;
    }
    last_edge()
}

/// The latency a `fraction` into a bucket.
fn interpolate(bucket: usize, fraction: f64) -> f64 {
    let lower = bucket.checked_sub(1).and_then(|before| LATENCY_SECONDS.get(before)).copied().unwrap_or_default();
    LATENCY_SECONDS.get(bucket).map_or(lower, |upper| lower + (upper - lower) * fraction)
}

fn last_edge() -> Option<f64> {
    LATENCY_SECONDS.last().copied()
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts of requests stay far below 2^53; std has no lossless conversion"
)]
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the fast look-up must agree with.
    fn naive_index(latency: Duration) -> usize {
        LATENCY_SECONDS
            .iter()
            .position(|edge| latency <= Duration::from_secs_f64(*edge))
            .unwrap_or(LATENCY_SECONDS.len())
    }

    fn close(left: Option<f64>, right: f64) -> bool {
        left.is_some_and(|value| (value - right).abs() < 1e-12)
    }

    #[test]
    fn both_lists_of_edges_agree_and_ascend() {
        for (seconds, nanos) in LATENCY_SECONDS.iter().zip(LATENCY_NANOS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(nanos));
        }
        assert!(LATENCY_NANOS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn the_edges_of_the_objectives_are_there() {
        for objective in [0.05, 0.2, 0.5] {
            assert!(LATENCY_SECONDS.iter().any(|edge| (edge - objective).abs() < 1e-12), "{objective}");
        }
    }

    #[test]
    fn an_edge_belongs_to_its_bucket_and_a_nanosecond_more_does_not() {
        for (bucket, nanos) in LATENCY_NANOS.into_iter().enumerate() {
            assert_eq!(bucket_index(Duration::from_nanos(nanos)), bucket);
            assert_eq!(bucket_index(Duration::from_nanos(nanos + 1)), bucket + 1);
        }
    }

    #[test]
    fn nothing_and_everything_have_a_bucket() {
        assert_eq!(bucket_index(Duration::ZERO), 0);
        assert_eq!(bucket_index(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn three_comparisons_are_enough() {
        let worst = FIRST_BUCKET.windows(2).map(|pair| pair[0].saturating_sub(pair[1])).max();
        assert!(worst.is_some_and(|edges| (1..=3).contains(&edges)), "{worst:?}");
    }

    #[test]
    fn quantiles_interpolate_as_prometheus_does() {
        let mut counts = vec![0; BUCKETS];
        counts[12] = 10; // 40 to 50 ms
        assert!(close(quantile(&counts, 0.5), 0.045));
        assert!(close(quantile(&counts, 1.0), 0.05));
        assert!(close(quantile(&counts, 0.0), 0.04));
        counts[BUCKETS - 1] = 90;
        assert!(close(quantile(&counts, 0.99), 30.0));
        assert!(close(quantile(&counts, 0.05), 0.045));
    }

    #[test]
    fn no_counts_or_no_such_quantile_give_nothing() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[0; BUCKETS], 0.5), None);
        for q in [-0.1, 1.1, f64::NAN] {
            assert_eq!(quantile(&[1], q), None);
        }
    }

    proptest! {
        #[test]
        fn the_fast_index_is_the_naive_one(nanos in prop_oneof![0..60_000_000_000_u64, 0..20_000_000_u64, any::<u64>()]) {
            let latency = Duration::from_nanos(nanos);
            prop_assert_eq!(bucket_index(latency), naive_index(latency));
        }

        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(
            mut micros in proptest::collection::vec(1..40_000_000_u64, 1..200),
            q in 0.0..1.0_f64,
        ) {
            let mut counts = vec![0_u64; BUCKETS];
            for latency in &micros {
                counts[bucket_index(Duration::from_micros(*latency))] += 1;
            }
            micros.sort_unstable();
            let rank = micros.iter().enumerate().position(|(below, _)| real(u64::try_from(below + 1).unwrap()) >= q * real(u64::try_from(micros.len()).unwrap()));
            let truth = bucket_index(Duration::from_micros(micros[rank.unwrap()]));
            let lower = if truth == 0 { 0.0 } else { LATENCY_SECONDS[truth - 1] };
            let upper = LATENCY_SECONDS.get(truth).copied().unwrap_or(lower);
            let estimate = quantile(&counts, q).unwrap();
            prop_assert!((lower..=upper).contains(&estimate), "{estimate} is not within {lower} to {upper}");
        }
    }
}
