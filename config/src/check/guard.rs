//! What takes a version back: every figure within the range for which the analysis is proven.

use std::time::Duration;

use crate::error::{Findings, Spot};
use crate::file::{GuardFile, PromotionFile, RouteFile, ToleranceFile};
use crate::read::Written;
use crate::units::print_duration;
use crate::{Guard, PromotionGuard, Timeouts, Tolerance};

use super::drift::drift;
use super::outside::asked;
use super::range::{BELOW_ONE, above_zero, factor, percent, positive};
use super::retries::kinds;

/// The guard, with the defaults for what is left out.
pub(super) fn guard(file: &Written<GuardFile>, findings: &Findings) -> Guard {
    let default = Guard::default();
    let Some(file) = file.value() else { return default };
    let latency = file.latency.value();
    let (queries, gates) = asked(file, findings);
    Guard {
        on_regression: file.on_regression.value().copied().unwrap_or(default.on_regression),
        false_rollback_budget: percent(
            &file.false_rollback_budget,
            default.false_rollback_budget,
            above_zero(0.05),
            "more than 0%, at most 5%",
            findings,
        ),
        tolerance: tolerance(&file.tolerance, default.tolerance, findings),
        promotion: promotion(&file.promotion, default.promotion, findings),
        max_error_rate: percent(
            &file.max_error_rate,
            default.max_error_rate,
            above_zero(BELOW_ONE),
            "more than 0%, less than 100%",
            findings,
        ),
        latency_threshold: latency.map_or(default.latency_threshold, |latency| {
            positive(&latency.threshold, default.latency_threshold, findings)
        }),
        count_as_error: kinds(&file.count_as_error, default.count_as_error, findings),
        drift: drift(&file.drift, findings),
        queries,
        gates,
    }
}

fn tolerance(file: &Written<ToleranceFile>, default: Tolerance, findings: &Findings) -> Tolerance {
    let Some(file) = file.value() else { return default };
    Tolerance {
        ratio: factor(&file.ratio, default.ratio, 1.0..=10.0, "a factor from 1 to 10, such as 1.1", findings),
        // The label test stays a test only while the difference is at most a point (ANALYSIS: labels, not rates).
        difference: percent(
            &file.difference,
            default.difference,
            0.0..=0.01,
            "0% to 1%, since the evidence means nothing above that",
            findings,
        ),
    }
}

fn promotion(file: &Written<PromotionFile>, default: PromotionGuard, findings: &Findings) -> PromotionGuard {
    let Some(file) = file.value() else { return default };
    let guard = PromotionGuard {
        ratio: factor(
            &file.ratio,
            default.ratio,
            1.0 + f64::EPSILON..=10.0,
            "a factor of more than 1, at most 10, such as 1.5",
            findings,
        ),
        difference: percent(&file.difference, default.difference, 0.0..=0.01, "0% to 1%", findings),
        confidence: percent(
            &file.confidence,
            default.confidence,
            0.5 + f64::EPSILON..=BELOW_ONE,
            "more than 50%, less than 100%, such as 99%",
            findings,
        ),
        min_soak: file.min_soak.or(default.min_soak),
        max_duration: positive(&file.max_duration, default.max_duration, findings),
    };
    let spot = file.min_soak.spot().or(file.max_duration.spot());
    if let (Some(spot), true) = (spot, guard.min_soak > guard.max_duration) {
        let what = format!(
            "`min_soak` ({}) is longer than `max_duration` ({})",
            print_duration(guard.min_soak),
            print_duration(guard.max_duration)
        );
        findings.error(spot, what, "make `max_duration` longer, or no canary can ever be promoted");
    }
    guard
}

/// An answer is never slower than the timeout that ends it, so the latency test would see no slow one.
pub(super) fn warn_of_mute_latency(file: &RouteFile, guard: &Guard, timeouts: &Timeouts, findings: &Findings) {
    let threshold: Option<(&Spot, Duration)> = file
        .guard
        .value()
        .and_then(|guard| guard.latency.value())
        .and_then(|latency| latency.threshold.good())
        .map(|(spot, _)| (spot, guard.latency_threshold));
    if let Some((spot, _)) = threshold.filter(|(_, threshold)| *threshold >= timeouts.total) {
        let what = format!(
            "no answer can be slower than this, since `timeouts.total` ends a request after {}",
            print_duration(timeouts.total)
        );
        findings.warning(spot, what, "make the threshold shorter than `timeouts.total`");
    }
}
