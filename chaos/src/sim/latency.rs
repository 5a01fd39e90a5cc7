//! How much of a log-normal distribution of latencies lies beyond a time.

use std::f64::consts::SQRT_2;
use std::time::Duration;

use crate::scenario::Latency;

/// The 99th percentile of the normal distribution, in standard deviations.
const Z99: f64 = 2.326_347_874_040_841;

/// The share of answers that take longer than `limit`: `1 - Φ((ln limit - ln median) / σ)`, with
/// `σ = (ln p99 - ln median) / Φ⁻¹(0.99)`.
pub(super) fn share_above(latency: Latency, limit: Duration) -> f64 {
    let beyond = (limit.as_secs_f64() / latency.median.as_secs_f64()).ln();
    let sigma = (latency.p99.as_secs_f64() / latency.median.as_secs_f64()).ln() / Z99;
    if sigma <= 0.0 {
        return if beyond < 0.0 { 1.0 } else { 0.0 };
    }
    libm::erfc(beyond / sigma / SQRT_2) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_lies_beyond_the_median_and_a_hundredth_beyond_the_99th_percentile() {
        let latency = Latency { median: Duration::from_millis(20), p99: Duration::from_secs(2) };
        for (millis, wanted) in [(20, 0.5), (2000, 0.01)] {
            let share = share_above(latency, Duration::from_millis(millis));
            assert!((share - wanted).abs() < 1e-9, "{millis} ms: {share}");
        }
        let sharp = Latency { median: Duration::from_millis(20), p99: Duration::from_millis(20) };
        let [below, above] = [19, 21].map(|millis| share_above(sharp, Duration::from_millis(millis)));
        assert!(below > 0.5 && above < 0.5, "all of it lies at the median");
    }
}
