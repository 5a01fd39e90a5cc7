//! The config file was edited: what is the same goes on, what is not starts anew.

use std::sync::Arc;

use pointsman_config::{Plan, Route, Split};

use super::{Origin, Rollout, gate_of};
use crate::change::{Cause, Change, Decision};
use crate::phase::{Paused, Phase, PhaseName, Setback};
use crate::recover::Identity;
use crate::service::{Custody, Surroundings};
use crate::time::Time;
use crate::trip::Role;

impl Rollout {
    pub(super) fn edit(&mut self, route: Arc<Route>, now: Time) -> Vec<Change> {
        if *route == *self.route {
            return Vec::new();
        }
        let (from, before) = (self.phase.name(), self.desired().granted);
        let served = self.serving().clone();
        let identity = Identity::of(&route);
        let same = identity == self.identity;
        let same_mirror = route.mirror == self.route.mirror
            && route.protocol == self.route.protocol
            && route.guard.promotion == self.route.guard.promotion;
        if route.guard != self.route.guard {
            self.by_request = None;
        }
        if is_another_service(&self.route, &route) {
            (self.custody, self.around) = (Custody::default(), Surroundings::default());
            self.elsewhere = None;
        }
        self.route = route;
        if let Some(changes) = (!same).then(|| self.go_on_elsewhere(now)).flatten() {
            return changes;
        }
        self.identity = identity;
        self.by_hand = None;
        self.comparison.regauge(&self.route.guard);
        self.trust_stable();
        if !same_mirror {
            self.begin_mirror();
        }
        if self.comparison.is_void() {
            // Whoever edits the route has seen it, or has put right what was wrong.
            self.begin_trial();
        }
        if same {
            return self.go_on(&before, from, now);
        }
        self.promoted = false;
        self.edition = self.edition.max(self.known_edition) + u64::from(self.role == Role::Leader);
        if served != self.route.stable {
            self.comparison.new_baseline();
            self.formerly = self.route.versions.contains_key(&served).then_some(served);
        }
        self.begin(&before, from, now)
    }

    /// Lifts the quarantine of the version that the file names as stable: that is naming it anew.
    pub(super) fn trust_stable(&mut self) {
        let route = Arc::clone(&self.route);
        let serial = self.next_serial();
        self.quarantine.lift(&route, &route.stable, serial);
    }

    /// Starts what the file asks, from the beginning.
    pub(super) fn begin(&mut self, before: &Split, from: PhaseName, now: Time) -> Vec<Change> {
        self.begin_trial();
        self.begin_mirror();
        self.limit = None;
        self.unready_since = None;
        self.been_up.clear();
        self.emptied_since = None;
        self.origin = match self.role {
            Role::Leader => Origin::Decisions,
            Role::Follower if self.origin == Origin::File => Origin::File,
            Role::Follower => Origin::Edited,
        };
        self.alert = None;
        self.gates.forget_told();
        self.since = now;
        self.phase = self.first_phase();
        self.arm_limit();
        let decision = if matches!(self.phase, Phase::Warming) { Decision::Start } else { Decision::Edit };
        self.told_if_changed(decision, before, from)
    }

    /// What copies of requests show from here on is fresh.
    pub(super) fn begin_mirror(&mut self) {
        self.mirror = gate_of(&self.route);
        self.disagreement_told = false;
    }

    /// Where the file's plan begins; weights by hand go before it.
    fn first_phase(&self) -> Phase {
        let canary = self.identity.canary.as_ref();
        let barred = canary.and_then(|canary| Some((canary, self.quarantine.held(&self.route, canary)?)));
        match (barred, &self.route.plan) {
            _ if self.by_hand.is_some() => Phase::Steady,
            (Some((version, held)), _) => {
                Phase::RolledBack(Setback { version: version.clone(), why: held.why.clone() })
            }
            (None, Plan::Rollout(_)) => Phase::Warming,
            (None, Plan::Weights(_)) => Phase::Steady,
        }
    }

    /// The same rollout under an edited plan: it goes on where it stood.
    fn go_on(&mut self, before: &Split, from: PhaseName, now: Time) -> Vec<Change> {
        if let Some((phase, since)) = self.moved_by_edit(before, now) {
            self.phase = phase;
            self.since = since;
            self.alert = None;
        }
        self.arm_limit();
        self.told_if_changed(Decision::Edit, before, from)
    }

    /// Where an edit of the plan moves the phase, and since when that counts; none if it goes on as it was. A step whose
    /// weight was edited starts anew, at the last step if there are fewer now. Weights set by hand end with the edit, and
    /// so does the rest after another version was taken back than the one that the file names.
    fn moved_by_edit(&self, before: &Split, now: Time) -> Option<(Phase, Time)> {
        match &self.phase {
            Phase::Shifting(shifting) if self.step_split(shifting.step) == *before => None,
            Phase::Shifting(shifting) => Some((self.at_step(shifting.step), now)),
            Phase::Paused(Paused { stage, by_hand: true, .. }) => Some(self.at_stage(*stage, now)),
            Phase::Steady if self.identity.by_plan && !self.promoted => Some((self.first_phase(), now)),
            Phase::RolledBack(_) if !self.is_barred() => Some((self.first_phase(), now)),
            Phase::Steady
            | Phase::Warming
            | Phase::Paused(_)
            | Phase::Promoting(_)
            | Phase::Baking
            | Phase::RollingBack(_)
            | Phase::RolledBack(_) => None,
        }
    }

    fn told_if_changed(&self, decision: Decision, before: &Split, from: PhaseName) -> Vec<Change> {
        let change = self.change((decision, Cause::File), from, before.clone());
        let quiet = decision == Decision::Edit && change.after == *before && change.to == from;
        // What the file changes is told once, by who decides.
        if quiet || self.role == Role::Follower { Vec::new() } else { vec![change] }
    }
}

/// Whether the live Service of an edited route is another one, of which nothing is known.
fn is_another_service(before: &Route, after: &Route) -> bool {
    let place = |route: &Route| {
        let live = route.live_service.as_ref()?;
        Some((live.namespace.clone(), live.service.clone(), live.selector_key.clone()))
    };
    place(before) != place(after)
}
