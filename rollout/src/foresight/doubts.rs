//! Plans that cannot decide: what is wrong with each, and what would do.

use std::time::Duration;

use pointsman_config::{Plan, Route, Step, Strategy};
use serde::{Deserialize, Serialize};

use super::course::Course;
use super::{Expected, FAILING_TICKS, Failures, Healthy, StepAhead, fail, share, spread, steps_of};
use crate::comparison::Comparison;
use crate::forecast::Traffic;

/// A weight below this many times the one before tells hardly more than that did.
const WORTH_A_STEP: f64 = 1.2;
/// A step lets a bad canary pass if it does so this often, as a ratio.
const LETS_PASS: f64 = 0.5;
/// A proof should be expected within this part of the time that is given for it.
const IN_GOOD_TIME: f64 = 0.7;
/// Larger margins than this many times the present one are no advice.
const WIDER_AT_MOST: f64 = 64.0;
/// A step that is held for so long is only left when something was found.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// Why a plan may not do what it is meant for. Steps count from 1, spans are seconds, rates ratios.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Doubt {
    /// The canary gets too few requests in the hold of a step, so that the step lasts longer.
    TooFewRequests {
        /// Which step.
        step: u64,
        /// How many are expected in the hold.
        expected: f64,
        /// How many it takes.
        needed: u64,
        /// How long it takes to get them.
        takes_s: f64,
    },
    /// It gets so few that the step's deadline pauses the rollout.
    NeverEnough {
        /// Which step.
        step: u64,
        /// How many it takes.
        needed: u64,
        /// How long it takes to get them.
        takes_s: f64,
        /// When the rollout pauses.
        pauses_s: f64,
    },
    /// A step is over before a canary that fails `rate` is found.
    HoldTooShort {
        /// Which step.
        step: u64,
        /// How much the canary fails: the guard's `max_error_rate`.
        rate: f64,
        /// How often it is let pass.
        passes: f64,
        /// The hold that finds nine of ten; none if that is more than the traffic will ever tell.
        hold_s: Option<f64>,
    },
    /// A step that tells hardly more than the one before.
    AddsNothing {
        /// Which step.
        step: u64,
        /// Its weight over the one before.
        factor: f64,
    },
    /// A good canary is not proven to be one in time: the margin is within the noise of the baseline.
    NotProven {
        /// What is to be proven: `errors` or `latency`.
        of: String,
        /// How long the proof takes at the last step's weight; none if it never comes.
        takes_s: Option<f64>,
        /// `promotion.difference` as it is, as a ratio.
        difference: f64,
        /// The smallest of some wider ones that is proven in good time; none if none is.
        would_do: Option<f64>,
    },
}

/// Everything doubtful about the plan of `route`.
pub(super) fn doubts(route: &Route, expected: Expected, steps: &[StepAhead], healthy: Option<&Healthy>) -> Vec<Doubt> {
    let deadline_s = match &route.plan {
        Plan::Rollout(plan) => plan.step_deadline.as_secs_f64(),
        Plan::Weights(_) => return Vec::new(),
    };
    let mut doubts: Vec<Doubt> = steps.iter().filter_map(|step| starved(step, expected, deadline_s)).collect();
    doubts.extend(adds_nothing(steps));
    doubts.extend(lets_pass(route, expected, steps));
    if healthy.is_some_and(|healthy| 2 * healthy.promoted < healthy.runs) {
        doubts.extend(not_proven(route, expected));
    }
    doubts.sort_by_key(Doubt::step);
    doubts
}

impl Doubt {
    /// The step it is about, from 1; none if it is about the whole plan.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::TooFewRequests { step, .. }
            | Self::NeverEnough { step, .. }
            | Self::HoldTooShort { step, .. }
            | Self::AddsNothing { step, .. } => Some(*step),
            Self::NotProven { .. } => None,
        }
    }
}

fn starved(ahead: &StepAhead, expected: Expected, deadline_s: f64) -> Option<Doubt> {
    let StepAhead { step, needed, hold_s, .. } = *ahead;
    let takes_s = crate::tally::to_f64(needed) / (expected.requests_per_s * ahead.weight.ratio());
    if takes_s > hold_s + deadline_s {
        Some(Doubt::NeverEnough { step, needed, takes_s, pauses_s: hold_s + deadline_s })
    } else {
        (takes_s > hold_s).then_some(Doubt::TooFewRequests { step, expected: ahead.requests, needed, takes_s })
    }
}

fn adds_nothing(steps: &[StepAhead]) -> impl Iterator<Item = Doubt> {
    steps.iter().zip(steps.iter().skip(1)).filter_map(|(before, ahead)| {
        let factor = ahead.weight.ratio() / before.weight.ratio();
        (factor < WORTH_A_STEP).then_some(Doubt::AddsNothing { step: ahead.step, factor })
    })
}

/// Steps that a canary failing at the absolute limit gets through more often than not. The last one is left only by a
/// proof, and one that has too few requests is told of already.
fn lets_pass(route: &Route, expected: Expected, steps: &[StepAhead]) -> Vec<Doubt> {
    let rate = route.guard.max_error_rate;
    let failures = fail(&[Course::begin(route, expected, 0)], rate, FAILING_TICKS);
    let passed = |step: &StepAhead| {
        let caught = failures.found_in.iter().flatten().filter(|found| to_step(**found) <= step.step).count();
        1.0 - share(caught, failures.runs)
    };
    let but_last = steps.split_last().map_or(&[][..], |(_, others)| others);
    let fed = but_last.iter().filter(|step| step.requests >= crate::tally::to_f64(step.needed));
    fed.map(|step| (step, passed(step)))
        .filter(|(_, passes)| *passes > LETS_PASS)
        .map(|(ahead, passes)| Doubt::HoldTooShort {
            step: ahead.step,
            rate,
            passes,
            hold_s: hold_that_finds(route, expected, ahead, rate),
        })
        .collect()
}

fn to_step(index: usize) -> u64 {
    u64::try_from(index + 1).unwrap_or(u64::MAX)
}

/// How long nine of ten canaries that fail `rate` last at the weight of a step.
fn hold_that_finds(route: &Route, expected: Expected, ahead: &StepAhead, rate: f64) -> Option<f64> {
    let mut route = route.clone();
    if let Plan::Rollout(plan) = &mut route.plan {
        plan.strategy = Strategy::Canary(vec![Step { weight: ahead.weight, hold: FOR_EVER }]);
    }
    let failures: Failures = fail(&[Course::begin(&route, expected, 0)], rate, FAILING_TICKS);
    let all_found = share(failures.found_s.len(), failures.runs) > 0.95;
    spread(failures.found_s).filter(|_| all_found).map(|seconds| seconds.high)
}

/// The proof that takes too long, and the margin that would do.
fn not_proven(route: &Route, expected: Expected) -> Option<Doubt> {
    let weight = steps_of(&route.plan).last()?.weight.ratio();
    let traffic = Traffic { weight, requests_per_s: expected.requests_per_s };
    let time_s = route.guard.promotion.max_duration.as_secs_f64();
    let takes = |difference: f64| {
        let mut guard = route.guard.clone();
        guard.promotion.difference = difference;
        Comparison::new(&guard).seconds_to_prove(traffic, expected.error_rate, expected.slow_rate)
    };
    let difference = route.guard.promotion.difference;
    let [errors, latency] = takes(difference);
    let is_latency = latency.is_none_or(|latency| errors.is_some_and(|errors| latency > errors));
    let (of, takes_s) = if is_latency { ("latency", latency) } else { ("errors", errors) };
    if takes_s.is_some_and(|takes_s| takes_s <= IN_GOOD_TIME * time_s) {
        return None;
    }
    let in_time =
        |wider: &f64| takes(*wider).iter().all(|needed| needed.is_some_and(|needed| needed <= IN_GOOD_TIME * time_s));
    let wider = std::iter::successors(Some(difference), |wider| Some(1.25 * wider))
        .skip(1)
        .take_while(|wider| *wider <= (difference * WIDER_AT_MOST).min(0.5));
    let would_do = wider.into_iter().find(in_time);
    Some(Doubt::NotProven { of: of.to_owned(), takes_s, difference, would_do })
}
