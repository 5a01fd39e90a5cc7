//! A route in virtual time: traffic as chance gives it, an edge that applies what is desired, and the very phase machine
//! that decides on the edge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Plan, Promotion, Route, Share, Split, VersionId};

use super::Expected;
use super::chance::{Chance, Poisson};
use crate::change::{Change, Decision};
use crate::input::{Input, Observed, Ready, Seen};
use crate::rollout::Rollout;
use crate::tally::{Drawn, Row, Tally, to_f64};
use crate::time::Time;

/// The step of virtual time: a tick of the edge.
const TICK: Duration = Duration::from_millis(100);
/// The same in seconds.
pub(super) const TICK_S: f64 = 0.1;
/// What is known of stable when the rollout begins: a minute of it alone.
const BEFORE: u32 = 600;

/// The counts of one version in a tick.
#[derive(Debug, Clone)]
struct Flow {
    fine: Poisson,
    errors: Poisson,
    slow: Poisson,
}

impl Flow {
    fn new(requests: f64, error_rate: f64, slow_rate: f64) -> Self {
        let fine = (1.0 - error_rate - slow_rate).max(0.0);
        Self {
            fine: Poisson::new(requests * fine),
            errors: Poisson::new(requests * error_rate),
            slow: Poisson::new(requests * slow_rate),
        }
    }

    fn tick(&self, chance: &mut Chance) -> Tally {
        let (errors, slow) = (self.errors.draw(chance), self.slow.draw(chance));
        Tally { requests: self.fine.draw(chance) + errors + slow, errors, slow }
    }
}

/// Both versions under one split.
#[derive(Debug, Clone)]
struct Flows {
    split: Split,
    stable: Flow,
    canary: Flow,
}

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Course {
    rollout: Rollout,
    ready: BTreeMap<VersionId, Ready>,
    applied: Split,
    flows: Option<Flows>,
    expected: Expected,
    canary_errors: f64,
    chance: Chance,
    now: Time,
    failures: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// The canary was taken back.
    Found,
    /// The guard only alerts: the canary was told of, and keeps its traffic.
    Told,
    /// Every gate is passed: the canary has all traffic, and the bake is over where it was waited for.
    Through,
    /// Nobody decided: it waits for a person.
    Stuck(String),
    /// Nothing of this within the ticks that may be spent.
    TooLong,
}

/// What of a plan depends on counts of the rollout alone: copies, the cluster and the operator have no part in it. A plan
/// that is promoted by hand is taken for one whose operator does so as soon as a plan would by itself.
fn counted_alone(route: &Route) -> Route {
    let mut route = Route { live_service: None, mirror: None, ..route.clone() };
    if let Plan::Rollout(plan) = &mut route.plan {
        plan.promotion = Promotion::Automatic;
    }
    route
}

impl Course {
    /// A minute after the edge began with all traffic on stable; the plan begins now.
    pub(super) fn begin(route: &Route, expected: Expected, seed: u64) -> Self {
        let route = counted_alone(route);
        let home = Split::Whole(route.stable.clone());
        let at_rest = Arc::new(Route { plan: Plan::Weights(home.clone()), ..route.clone() });
        let (rollout, _) = Rollout::start(at_rest, Time::default());
        let ready = route.versions.keys().map(|version| (version.clone(), Ready { up: 1, total: 1 })).collect();
        let mut course = Self {
            rollout,
            ready,
            applied: home,
            flows: None,
            expected,
            canary_errors: expected.error_rate,
            chance: Chance::of_seed(seed),
            now: Time::default(),
            failures: 0,
        };
        for _ in 0..BEFORE {
            course.tick();
        }
        // Only an order can be refused.
        let changed = course.rollout.step(Input::Edit(Arc::new(route)), course.now);
        debug_assert!(changed.is_ok(), "an edit is never refused");
        course.apply();
        course
    }

    /// From here on the canary fails `rate` of its requests beside what stable fails, drawn by stream `seed`.
    pub(super) fn break_canary(&mut self, rate: f64, seed: u64) {
        self.canary_errors = self.expected.error_rate + rate * (1.0 - self.expected.error_rate);
        self.chance = Chance::of_seed(seed);
        self.flows = None;
        self.failures = 0;
    }

    /// The present step, from 0.
    pub(super) fn step(&self) -> Option<usize> {
        self.rollout.status(self.now).step
    }

    /// Bad answers of the canary since it was broken.
    pub(super) fn failures(&self) -> f64 {
        to_f64(self.failures)
    }

    /// Bad answers of the canary in a minute, as traffic is divided now.
    pub(super) fn bad_answers_per_minute(&self) -> f64 {
        let share = match &self.applied {
            Split::Whole(whole) if *whole == self.rollout.route().stable => 0.0,
            Split::Whole(_) => 1.0,
            Split::Canary { share, .. } => share.ratio(),
        };
        60.0 * self.expected.requests_per_s * share * self.canary_errors
    }

    /// One tick: traffic flows, the rollout decides, the edge applies it.
    pub(super) fn tick(&mut self) -> Vec<Change> {
        self.now = self.now.plus(TICK);
        let rows = [self.traffic()];
        let seen = Seen::alone(&rows, &self.ready, &self.applied, &[]);
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Tick(&seen), self.now).unwrap_or_default();
        if !changes.is_empty() {
            self.apply();
        }
        changes
    }

    fn apply(&mut self) {
        self.applied = self.rollout.desired().effective(&self.ready);
    }

    fn traffic(&mut self) -> Observed {
        let flows = match self.flows.take().filter(|flows| flows.split == self.applied) {
            Some(flows) => flows,
            None => self.flows_of(&self.applied),
        };
        let (stable, canary, weight) = match &self.applied {
            Split::Whole(whole) => (whole.clone(), None, Share::ZERO),
            Split::Canary { stable, canary, share } => (stable.clone(), Some(canary.clone()), *share),
        };
        let row =
            Row { weight, stable: flows.stable.tick(&mut self.chance), canary: flows.canary.tick(&mut self.chance) };
        let alone = stable != self.rollout.route().stable;
        self.failures += row.canary.errors + if alone { row.stable.errors } else { 0 };
        let drawn = Drawn { canary: row.canary.requests, stable: row.stable.requests };
        self.flows = Some(flows);
        Observed { stable, canary, trial: self.rollout.trial(), row, requests: None, drawn }
    }

    /// The side that a row calls stable is the canary where that has all traffic.
    fn flows_of(&self, split: &Split) -> Flows {
        let all = self.expected.requests_per_s * TICK_S;
        let (main, share) = match split {
            Split::Whole(whole) => (whole, 0.0),
            Split::Canary { stable, share, .. } => (stable, share.ratio()),
        };
        let main_errors =
            if *main == self.rollout.route().stable { self.expected.error_rate } else { self.canary_errors };
        let slow = self.expected.slow_rate;
        Flows {
            split: split.clone(),
            stable: Flow::new(all * (1.0 - share), main_errors, slow),
            canary: Flow::new(all * share, self.canary_errors, slow),
        }
    }

    /// Runs to its end, or for `ticks` at most, telling `seen` of each tick's changes; gives the ticks it took.
    pub(super) fn run(&mut self, ticks: u32, mut seen: impl FnMut(&Self, &Change, u32)) -> (End, u32) {
        for spent in 1..=ticks {
            for change in self.tick() {
                seen(self, &change, spent);
                if let Some(end) = end_of(&change) {
                    return (end, spent);
                }
            }
        }
        (End::TooLong, ticks)
    }
}

/// What a change means for a run.
pub(super) fn end_of(change: &Change) -> Option<End> {
    match change.decision {
        Decision::Rollback => Some(End::Found),
        Decision::Alert => Some(End::Told),
        Decision::Finish => Some(End::Through),
        Decision::Pause => Some(End::Stuck(change.cause.to_string())),
        Decision::Start
        | Decision::Step
        | Decision::Resume
        | Decision::Hold
        | Decision::Promote
        | Decision::Flip
        | Decision::Bake
        | Decision::RollbackDone
        | Decision::SetWeights
        | Decision::Retry
        | Decision::Edit => None,
    }
}
