//! Intervals for people: the ratio and the difference of two error rates, valid at every look.
//!
//! Confidence sequences by inverting e-values (Waudby-Smith and Ramdas; Lindon and Malek): a value is kept until a
//! bet against it has won `1/alpha`. They are bisections of some hundred logarithms: for once a second, not for each tick.

use std::f64::consts::LN_2;

use crate::stats::{Labels, log_sum};

/// An interval; `high` may be infinite for a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Interval for `canary rate / stable rate`: `A(r) = X_c ln r - sum_k X_k ln(1 + w_k (r-1))`, `r` is kept if
/// `A(r) > lse_{i=0..40} A(2^((i-20)/2)) - ln 41 - ln(1/alpha)`.
pub fn ratio_interval(strata: &[Labels], alpha: f64) -> Interval {
    if strata.iter().map(Labels::bad).sum::<f64>() <= 0.0 {
        return Interval { low: 0.0, high: f64::INFINITY };
    }
    let canary_bad: f64 = strata.iter().map(|row| row.canary_bad).sum();
    let log_likelihood = |log_ratio: f64| {
        let null: f64 = strata.iter().map(|row| row.bad() * (row.weight * log_ratio.exp_m1()).ln_1p()).sum();
        canary_bad * log_ratio - null
    };
    let slope = |log_ratio: f64| {
        let expected =
            |row: &Labels| row.bad() * row.weight * log_ratio.exp() / (1.0 + row.weight * log_ratio.exp_m1());
        canary_bad - strata.iter().map(expected).sum::<f64>()
    };
    let grid = (-20_i8..=20).map(|half_octave| f64::from(half_octave) * 0.5 * LN_2);
    let cut = log_sum(grid.map(log_likelihood)) - 41.0_f64.ln() - (1.0 / alpha).ln();
    let widest = 20.0 * LN_2;
    let mode = crossing(|u| slope(u) > 0.0, -widest, widest);
    let end = |outermost: f64, open: f64| {
        if log_likelihood(outermost) > cut {
            open
        } else {
            crossing(|u| log_likelihood(u) > cut, mode, outermost).exp()
        }
    };
    Interval { low: end(-widest, 0.0), high: end(widest, f64::INFINITY) }
}

/// Interval for `canary rate - stable rate`: 12 linear bets per side, `alpha/2` each, inverted by bisection.
///
/// Lower side: fractions `0.98 (1-w) 2^-i / (1 + max(d, 0))`; upper side the same with the versions' parts changed.
pub fn difference_interval(strata: &[Labels], alpha: f64) -> Interval {
    if strata.iter().map(Labels::requests).sum::<f64>() <= 0.0 {
        return Interval { low: -1.0, high: 1.0 };
    }
    let limit = (2.0 / alpha).ln();
    let estimate = pooled_difference(strata).clamp(-0.999, 0.999);
    let refutes_low = |d: f64| evidence_above(strata, d) > limit;
    let refutes_high = |d: f64| evidence_below(strata, d) > limit;
    Interval { low: refuted_until(refutes_low, estimate), high: -refuted_until(|d| refutes_high(-d), -estimate) }
}

/// Where refutation ends between -0.999 and `estimate`.
fn refuted_until(refuted: impl Fn(f64) -> bool, estimate: f64) -> f64 {
    if refuted(estimate) {
        estimate
    } else if refuted(-0.999) {
        crossing(refuted, -0.999, estimate)
    } else {
        -0.999
    }
}

/// Difference of the pooled rates; a side without requests counts as 0.
fn pooled_difference(strata: &[Labels]) -> f64 {
    let rate = |bad: f64, requests: f64| if requests > 0.0 { bad / requests } else { 0.0 };
    let sum = |of: fn(&Labels) -> f64| strata.iter().map(of).sum::<f64>();
    rate(sum(|row| row.canary_bad), sum(|row| row.canary_requests))
        - rate(sum(|row| row.stable_bad), sum(|row| row.stable_requests))
}

/// Difference of the rates within the same weights (Mantel and Haenszel; Greenland and Robins 1985), so that a drift
/// of both between two weights does not pass for a difference. None without requests of both under one weight.
pub fn stratified_difference(strata: &[Labels]) -> Option<f64> {
    let (mut difference, mut weight) = (0.0, 0.0);
    for row in strata.iter().filter(|row| row.requests() > 0.0) {
        difference += (row.canary_bad * row.stable_requests - row.stable_bad * row.canary_requests) / row.requests();
        weight += row.canary_requests * row.stable_requests / row.requests();
    }
    (weight > 0.0).then(|| difference / weight)
}

/// Fractions of the largest stake that each side bets.
const FRACTIONS: [f64; 12] = [
    1.0,
    1.0 / 2.0,
    1.0 / 4.0,
    1.0 / 8.0,
    1.0 / 16.0,
    1.0 / 32.0,
    1.0 / 64.0,
    1.0 / 128.0,
    1.0 / 256.0,
    1.0 / 512.0,
    1.0 / 1024.0,
    1.0 / 2048.0,
];

/// Log e-value against "the difference is at most `d`".
fn evidence_above(strata: &[Labels], d: f64) -> f64 {
    linear_bets(strata, |row| 0.98 * (1.0 - row.weight) / (1.0 + d.max(0.0)), d)
}

/// Log e-value against "the difference is at least `d`": the same bets with the sign changed.
fn evidence_below(strata: &[Labels], d: f64) -> f64 {
    linear_bets(strata, |row| -0.98 * row.weight / (1.0 + (-d).max(0.0)), d)
}

/// Even mixture of `prod(1 + l (bad Z/w - bad (1-Z)/(1-w) - d))` over `l = largest 2^-i`.
fn linear_bets(strata: &[Labels], largest: impl Fn(&Labels) -> f64, d: f64) -> f64 {
    let wealth = |fraction: f64| -> f64 {
        let of_row = |row: &Labels| {
            let l = largest(row) * fraction;
            row.canary_bad * (1.0 + l * (1.0 / row.weight - d)).ln()
                + row.stable_bad * (1.0 - l * (1.0 / (1.0 - row.weight) + d)).ln()
                + row.good() * (-l * d).ln_1p()
        };
        strata.iter().map(of_row).sum()
    };
    log_sum(FRACTIONS.map(wealth).into_iter()) - 12.0_f64.ln()
}

/// Where `holds`, true at `inside`, stops to hold on the way to `outside`: the outer end of the last bracket.
/// Stops at 1e-9 relative, far below what is shown.
fn crossing(holds: impl Fn(f64) -> bool, inside: f64, outside: f64) -> f64 {
    let (mut inside, mut outside) = (inside, outside);
    for _ in 0..80 {
        if (outside - inside).abs() <= 1e-9 * outside.abs() {
            break;
        }
        let middle = 0.5 * (inside + outside);
        if holds(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    outside
}
