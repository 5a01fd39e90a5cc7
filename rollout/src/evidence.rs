//! Everything that a judge's verdict rests on, under the names of the analysis' specification.

use serde::{Serialize, Serializer};

use crate::confidence::Interval;
use crate::verdict::Verdict;

/// A snapshot of one judge. Logarithms are natural; minus infinity is written as null, infinity as `"inf"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evidence {
    /// Seconds since the canary began, or until its regression was proven.
    pub t: f64,
    /// The verdict and its reason.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Log e-value of the fast path.
    pub log_e_fast: f64,
    /// Of path A, persistent differences.
    pub log_e_a: f64,
    /// Of path B, spikes.
    pub log_e_b: f64,
    /// Of A and B together.
    pub log_e_slow: f64,
    /// For promotion, by ratio.
    pub log_e_ni_ratio: f64,
    /// For promotion, by difference.
    pub log_e_ni_delta: f64,
    /// For promotion, both together.
    pub log_e_ni: f64,
    /// Nats taken off the last slice's bets.
    pub burst_discount: f64,
    /// Burst size of stable.
    pub icc: f64,
    /// Stable's long-run rate.
    pub pbar: f64,
    /// Stable's present rate.
    pub pcur: f64,
    /// Whether stable itself is failing.
    pub hold: bool,
    /// Interval for the ratio of the rates.
    #[serde(serialize_with = "as_pair")]
    pub ratio_cs: Interval,
    /// Interval for the difference of the rates.
    #[serde(serialize_with = "as_pair")]
    pub diff_cs: Interval,
    /// The canary's requests.
    pub n_c: u64,
    /// The canary's bad ones.
    pub x_c: u64,
    /// Stable's requests.
    pub n_b: u64,
    /// Stable's bad ones.
    pub x_b: u64,
}

/// `[low, high]`, with `"inf"` for an open end.
fn as_pair<S: Serializer>(interval: &Interval, serializer: S) -> Result<S::Ok, S::Error> {
    if interval.high.is_finite() {
        (interval.low, interval.high).serialize(serializer)
    } else {
        (interval.low, "inf").serialize(serializer)
    }
}
