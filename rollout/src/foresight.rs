//! What a plan will do before it does it: how long a good canary takes, how many bad answers a bad one costs, and which
//! steps cannot decide anything.
//!
//! Nothing is estimated beside the decision: the very phase machine runs on traffic that chance makes (Poisson counts in
//! every tick of 100 ms, a fixed seed), as often as a bounded number of ticks allows. So whatever changes the decision
//! changes the forecast. What it cannot know: errors that come in bursts, rates that change over the day, copies of
//! requests, endpoints that come and go.

mod chance;
mod course;
mod doubts;

use pointsman_config::{OnRegression, Plan, Promotion, Route, Share, Split, Step, Strategy};
use serde::{Deserialize, Serialize};

use self::course::{Course, End, TICK_S, end_of};
pub use self::doubts::Doubt;
use crate::change::{Change, Decision};
use crate::tally::to_f64;

/// Ticks that runs of a healthy canary may take together: the most of what a forecast costs.
const HEALTHY_TICKS: u32 = 250_000;
/// Runs of a healthy canary at most.
const HEALTHY_RUNS: u32 = 12;
/// Ticks that the runs of one failing canary may take together.
const FAILING_TICKS: u32 = 60_000;
/// Runs of one failing canary at most.
const FAILING_RUNS: u32 = 100;
/// Healthy runs whose last step is kept, for canaries that fail from there on.
const KEPT: usize = 4;

/// What is expected of a route's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Requests per second of the whole route.
    pub requests_per_s: f64,
    /// The share of stable's requests that fail, as a ratio.
    pub error_rate: f64,
    /// The share of answers of both versions that are slower than the guard's threshold, as a ratio.
    pub slow_rate: f64,
}

/// What a plan will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Foresight {
    /// What that rests on.
    pub expected: Expected,
    /// Whether the guard takes nothing back: what is found is told, and the canary keeps its traffic.
    pub alerts_only: bool,
    /// Whether the plan waits for a person where it would be promoted.
    pub promotion_by_hand: bool,
    /// A canary that is as good as stable; none where weights are set by hand.
    pub healthy: Option<Healthy>,
    /// The steps of the plan.
    pub steps: Vec<StepAhead>,
    /// Canaries that fail.
    pub failing: Vec<Failing>,
    /// What someone should look at before the plan begins.
    pub doubts: Vec<Doubt>,
}

/// What becomes of a canary that is as good as stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Healthy {
    /// How often it was tried.
    pub runs: u32,
    /// How often it was promoted; where a person does that: could have been.
    pub promoted: u32,
    /// How often it was taken back.
    pub taken_back: u32,
    /// How often the guard alerted, and the plan stopped.
    #[serde(default)]
    pub alerted: u32,
    /// How often it waited for a person in the end.
    pub stuck: u32,
    /// What it waited for then, in words; none if it never did.
    pub stuck_on: Option<String>,
    /// Seconds from the start of the plan to the promotion, or to where a person may promote, where it came so far.
    pub seconds: Option<Spread>,
}

/// A step of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepAhead {
    /// Which, from 1.
    pub step: u64,
    /// The canary's share.
    pub weight: Share,
    /// How long it is held at least, in seconds.
    pub hold_s: f64,
    /// Requests of the canary that are expected within the hold.
    pub requests: f64,
    /// Requests of the canary that it takes.
    pub needed: u64,
    /// How long it lasts with a healthy canary, in seconds; none if no run got beyond it.
    pub lasts_s: Option<f64>,
}

/// What becomes of a canary that fails from some step on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    /// The share of its requests that fails, beside what stable fails, as a ratio.
    pub rate: f64,
    /// The step in which that begins, from 1; none where the plan has no steps.
    pub from_step: Option<u64>,
    /// How often it was tried.
    pub runs: u32,
    /// How often it was taken back, or told of where the guard only alerts.
    pub found: u32,
    /// Seconds from its first request to the rollback or the alert, where there was one; none without.
    pub seconds: Option<Spread>,
    /// Bad answers of the canary until the rollback or the alert, or until nothing moves any more.
    pub bad_answers: Measured,
    /// Bad answers a minute after the alert, until somebody acts; none where it is taken back, or was not found.
    #[serde(default)]
    pub then_per_minute: Option<f64>,
}

/// How runs differed: a tenth of them lies below `low`, a tenth above `high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// 10 %.
    pub low: f64,
    /// 50 %.
    pub median: f64,
    /// 90 %.
    pub high: f64,
}

/// A mean over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The mean.
    pub mean: f64,
    /// A tenth of the runs lies above.
    pub high: f64,
}

/// What the plan of `route` will do under such traffic, for canaries that fail these shares of their requests; none where
/// no version is tried or no request is expected.
pub fn foresee(route: &Route, expected: Expected, failing: &[f64]) -> Option<Foresight> {
    let plan = &route.plan;
    if !tries_a_version(plan) || expected.requests_per_s <= 0.0 {
        return None;
    }
    let walk = matches!(plan, Plan::Rollout(_)).then(|| Walk::through(route, expected));
    let steps = steps_ahead(route, expected, walk.as_ref());
    let mut outcomes = Vec::new();
    let first = Course::begin(route, expected, 0);
    for &rate in failing {
        outcomes
            .push(fail(std::slice::from_ref(&first), rate, FAILING_TICKS).outcome((!steps.is_empty()).then_some(1)));
    }
    if let Some(walk) = walk.as_ref().filter(|walk| steps.len() > 1 && !walk.at_last_step.is_empty()) {
        let last = u64::try_from(steps.len()).ok();
        outcomes.extend(failing.iter().map(|&rate| fail(&walk.at_last_step, rate, FAILING_TICKS).outcome(last)));
    }
    let healthy = walk.map(Walk::healthy);
    let doubts = doubts::doubts(route, expected, &steps, healthy.as_ref());
    let alerts_only = route.guard.on_regression == OnRegression::Alert;
    let promotion_by_hand = matches!(plan, Plan::Rollout(plan) if plan.promotion == Promotion::Manual);
    Some(Foresight { expected, alerts_only, promotion_by_hand, healthy, steps, failing: outcomes, doubts })
}

/// Whether there is a canary in `plan`, without which there is nothing to foresee.
pub fn tries_a_version(plan: &Plan) -> bool {
    match plan {
        Plan::Rollout(_) => true,
        Plan::Weights(Split::Canary { share, .. }) => Share::ZERO < *share && *share < Share::WHOLE,
        Plan::Weights(Split::Whole(_)) => false,
    }
}

/// The steps of a plan; none for blue-green and for weights by hand.
fn steps_of(plan: &Plan) -> &[Step] {
    match plan {
        Plan::Rollout(pointsman_config::Rollout { strategy: Strategy::Canary(steps), .. }) => steps,
        Plan::Rollout(_) | Plan::Weights(_) => &[],
    }
}

fn steps_ahead(route: &Route, expected: Expected, walk: Option<&Walk>) -> Vec<StepAhead> {
    let needed = crate::rollout::step_requests(&route.guard);
    let ahead = |(index, step): (usize, &Step)| StepAhead {
        step: u64::try_from(index + 1).unwrap_or(u64::MAX),
        weight: step.weight,
        hold_s: step.hold.as_secs_f64(),
        requests: expected.requests_per_s * step.weight.ratio() * step.hold.as_secs_f64(),
        needed,
        lasts_s: walk.and_then(|walk| walk.lasted(index)),
    };
    steps_of(&route.plan).iter().enumerate().map(ahead).collect()
}

/// Runs of a healthy canary through the whole plan.
#[derive(Debug, Default)]
struct Walk {
    runs: u32,
    taken_back: u32,
    alerted: u32,
    stuck: Vec<String>,
    promoted_s: Vec<f64>,
    /// By step: how long it lasted in each run.
    lasted_s: Vec<Vec<f64>>,
    at_last_step: Vec<Course>,
}

impl Walk {
    fn through(route: &Route, expected: Expected) -> Self {
        let steps = steps_of(&route.plan).len();
        let mut walk = Self { lasted_s: vec![Vec::new(); steps], ..Self::default() };
        let mut left = HEALTHY_TICKS;
        while walk.runs < HEALTHY_RUNS && left > 0 {
            left -= walk.run(Course::begin(route, expected, u64::from(walk.runs)), left);
        }
        walk
    }

    /// One run to its promotion, or to where it is stuck; the bake decides nothing of a healthy canary.
    fn run(&mut self, mut course: Course, ticks: u32) -> u32 {
        let (mut entered_at, mut spent) = (0, 0);
        while spent < ticks {
            spent += 1;
            for change in course.tick() {
                self.note_step(&course, &change, spent - entered_at);
                if moves_on(&change) {
                    entered_at = spent;
                }
                if self.has_ended(&change, spent) {
                    self.runs += 1;
                    return spent;
                }
            }
        }
        // The first run that is too long tells that; later ones only ran out of what was left for them.
        if self.runs == 0 {
            self.runs = 1;
            self.stuck.push(format!("nothing: it is not over after {} h", spent / 36_000));
        }
        spent
    }

    fn note_step(&mut self, course: &Course, change: &Change, ticks: u32) {
        let step = course.step();
        let left = if change.decision == Decision::Promote { Some(self.lasted_s.len()) } else { step };
        let left = left.filter(|_| moves_on(change)).and_then(|next| next.checked_sub(1));
        if let Some(lasted) = left.and_then(|left| self.lasted_s.get_mut(left)) {
            lasted.push(f64::from(ticks) * TICK_S);
        }
        let is_last = step.is_some_and(|step| step + 1 == self.lasted_s.len());
        if change.decision == Decision::Step && is_last && self.at_last_step.len() < KEPT {
            self.at_last_step.push(course.clone());
        }
    }

    fn has_ended(&mut self, change: &Change, spent: u32) -> bool {
        if change.decision == Decision::Promote {
            self.promoted_s.push(f64::from(spent) * TICK_S);
            return true;
        }
        match end_of(change) {
            Some(End::Found) => self.taken_back += 1,
            Some(End::Told) => self.alerted += 1,
            Some(End::Stuck(on)) => self.stuck.push(on),
            Some(End::Through | End::TooLong) | None => return false,
        }
        true
    }

    fn lasted(&self, step: usize) -> Option<f64> {
        spread(self.lasted_s.get(step)?.clone()).map(|seconds| seconds.median)
    }

    fn healthy(self) -> Healthy {
        Healthy {
            runs: self.runs,
            promoted: count(self.promoted_s.len()),
            taken_back: self.taken_back,
            alerted: self.alerted,
            stuck: count(self.stuck.len()),
            stuck_on: self.stuck.first().cloned(),
            seconds: spread(self.promoted_s),
        }
    }
}

/// Whether a step began, or the last one is over.
fn moves_on(change: &Change) -> bool {
    matches!(change.decision, Decision::Step | Decision::Promote)
}

/// Runs of a canary that fails.
#[derive(Debug, Default)]
struct Failures {
    rate: f64,
    runs: u32,
    found_s: Vec<f64>,
    /// The step in which it was found, from 0.
    found_in: Vec<Option<usize>>,
    bad: Vec<f64>,
    /// Bad answers a minute where the guard only told of it.
    then_per_minute: Vec<f64>,
}

/// Runs canaries that fail `rate` of their requests from where `starts` stand, in turns.
fn fail(starts: &[Course], rate: f64, ticks: u32) -> Failures {
    let mut failures = Failures { rate, ..Failures::default() };
    let mut left = ticks;
    for (seed, start) in (1..=u64::from(FAILING_RUNS)).zip(starts.iter().cycle()) {
        if left == 0 {
            break;
        }
        let mut course = start.clone();
        course.break_canary(rate, seed);
        let mut step = None;
        let (end, spent) = course.run(left, |course, change, _| {
            if change.decision == Decision::Step {
                step = course.step();
            }
        });
        left -= spent;
        // A run for which too little was left tells nothing, unless there is no other.
        if end != End::TooLong || failures.runs == 0 {
            failures.note(&course, &end, f64::from(spent) * TICK_S, step);
        }
    }
    failures
}

impl Failures {
    fn note(&mut self, course: &Course, end: &End, seconds: f64, step: Option<usize>) {
        self.runs += 1;
        self.bad.push(course.failures());
        match end {
            End::Found => {}
            End::Told => self.then_per_minute.push(course.bad_answers_per_minute()),
            End::Through | End::Stuck(_) | End::TooLong => return,
        }
        self.found_s.push(seconds);
        self.found_in.push(step);
    }

    fn outcome(self, from_step: Option<u64>) -> Failing {
        let found = count(self.found_s.len());
        let mean = mean_of(&self.bad).unwrap_or_default();
        Failing {
            rate: self.rate,
            from_step,
            runs: self.runs,
            found,
            seconds: spread(self.found_s),
            bad_answers: Measured { mean, high: spread(self.bad).map_or(mean, |bad| bad.high) },
            then_per_minute: mean_of(&self.then_per_minute),
        }
    }
}

/// Where a tenth, half and nine tenths of `values` lie; none without values.
fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let tenths = |tenths: usize| values.get((values.len().saturating_sub(1) * tenths + 5) / 10).copied();
    Some(Spread { low: tenths(1)?, median: tenths(5)?, high: tenths(9)? })
}

/// None of no values.
fn mean_of(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / f64::from(count(values.len())))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A share of runs.
fn share(part: usize, whole: u32) -> f64 {
    to_f64(u64::try_from(part).unwrap_or(u64::MAX)) / f64::from(whole.max(1))
}
