//! How far a promotion is: the evidence still missing, divided by what a request brings.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::judge::{Judge, NonInferiority, log_limit, tempering};
use crate::stats::{Labels, log_add};
use crate::tally::to_f64;

/// What a promotion still takes if rates, traffic and weight stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Further requests of the canary until the evidence suffices; 0 if it does already.
    pub requests: u64,
    /// Seconds until both the evidence suffices and the soak is over.
    pub seconds: f64,
}

/// Traffic as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Traffic {
    /// The canary's share, between 0 and 1.
    pub(crate) weight: f64,
    /// Requests per second of both versions.
    pub(crate) requests_per_s: f64,
}

/// When `judges` have all proven non-inferiority; none if one of them never will at this rate or there is no traffic.
pub(crate) fn forecast(judges: &[(&Judge, ExpectedRates)], traffic: Traffic, soak_left_s: f64) -> Option<Forecast> {
    if traffic.requests_per_s <= 0.0 || traffic.weight <= 0.0 || traffic.weight >= 1.0 {
        return None;
    }
    let mut missing_s = 0.0_f64;
    for (judge, rates) in judges {
        missing_s = missing_s.max(missing_seconds(judge, *rates, traffic)?);
    }
    let requests = (missing_s * traffic.requests_per_s * traffic.weight).ceil();
    Some(Forecast { requests: to_u64(requests), seconds: missing_s.max(soak_left_s) })
}

/// The rates that a forecast expects of both versions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ExpectedRates {
    canary: f64,
    stable: f64,
}

impl ExpectedRates {
    /// Both fail this share.
    pub(crate) fn alike(rate: f64) -> Self {
        Self { canary: rate, stable: rate }
    }

    /// Stable as it is now; the canary as it was all along, leaning on stable while it had few requests.
    pub(crate) fn new(judge: &Judge, canary_requests: u64, canary_bad: u64) -> Self {
        let stable = judge.history().present_rate();
        let prior = judge.params().cur_prior_n;
        Self { canary: (to_f64(canary_bad) + prior * stable) / (to_f64(canary_requests) + prior), stable }
    }
}

/// Seconds until `judge` has proven non-inferiority; none if it never will at these rates.
pub(crate) fn missing_seconds(judge: &Judge, rates: ExpectedRates, traffic: Traffic) -> Option<f64> {
    let limit = log_limit(judge.params().alpha_promote);
    let held = judge.non_inferiority();
    if held.log_e() >= limit {
        return Some(0.0);
    }
    let gain = gain_per_second(judge, rates, traffic);
    let alone = |held: f64, gain: f64| if gain > 0.0 { (limit + LN_2 - held) / gain } else { f64::INFINITY };
    let latest = alone(held.ratio, gain.ratio).min(alone(held.difference, gain.difference));
    let log_e_after = |s: f64| log_add(held.ratio + gain.ratio * s, held.difference + gain.difference * s) - LN_2;
    latest.is_finite().then(|| first_above(log_e_after, limit, latest))
}

/// The moment at which `log_e` reaches `limit`; below it now, above it at `latest`, and convex in between.
fn first_above(log_e: impl Fn(f64) -> f64, limit: f64, latest: f64) -> f64 {
    let (mut before, mut after) = (0.0, latest);
    for _ in 0..50 {
        let middle = 0.5 * (before + after);
        if log_e(middle) >= limit {
            after = middle;
        } else {
            before = middle;
        }
    }
    after
}

/// What a second of expected traffic adds to the promotion evidence, in nats.
fn gain_per_second(judge: &Judge, rates: ExpectedRates, traffic: Traffic) -> NonInferiority {
    let canary = traffic.requests_per_s * traffic.weight;
    let stable = traffic.requests_per_s - canary;
    let second = Labels {
        weight: traffic.weight,
        canary_requests: canary,
        canary_bad: canary * rates.canary,
        stable_requests: stable,
        stable_bad: stable * rates.stable,
    };
    let slice_requests = traffic.requests_per_s * judge.params().slice_s();
    let eta = tempering(traffic.weight, slice_requests, judge.icc(), 1.0);
    let gain = NonInferiority::gain(&second, rates.stable.max(1e-5), judge.params());
    NonInferiority { ratio: eta * gain.ratio, difference: eta * gain.difference }
}

/// A count from a float that is none; what is beyond `u64` becomes its maximum.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and the value is a whole number not below 0"
)]
pub(crate) fn to_u64(count: f64) -> u64 {
    count as u64
}
