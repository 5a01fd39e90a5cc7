//! Many edges, one that decides: taking over what it says, taking over from it, and what each does by itself.
//!
//! Line: (leader) ► **follow** ► desired. A follower never moves forward. It takes a canary back when that fails most of the
//! requests that it sees itself, and keeps it back until the leader has heard.

use std::sync::Arc;

use pointsman_config::{OnRegression, Route, Share, Split};

use super::Rollout;
use crate::absolute::Alone;
use crate::change::{Cause, Change, Decision};
use crate::input::Seen;
use crate::phase::{Phase, PhaseName, Setback};
use crate::quarantine::Held;
use crate::recover::{Saved, revision_of};
use crate::time::Time;
use crate::trip::{Role, Trip};
use crate::verdict::Regression;

impl Rollout {
    /// An edge that follows another one from the beginning. Until it hears of a state, all traffic is stable's.
    pub fn follower(route: Arc<Route>, saved: Option<Saved>, now: Time) -> Self {
        let mut rollout = Self::blank(route, now);
        rollout.role = Role::Follower;
        rollout.phase = Phase::Warming;
        if let Some(saved) = saved {
            rollout.follow(saved, now);
        }
        rollout
    }

    /// Whether this edge decides.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes over what the leader says, without deciding anything; true if that is about the same rollout as this edge's
    /// file. If not, only what it bars counts, until the files are the same again.
    ///
    /// A canary that this edge took back by itself stays back until the leader bars it too, or has heard and decided
    /// otherwise ([`Self::trip_was_heard`]).
    pub fn follow(&mut self, saved: Saved, now: Time) -> bool {
        self.become_follower();
        if saved.identity != self.identity {
            self.adopt_quarantine(&saved);
            return false;
        }
        if saved.trial != self.trial {
            self.begin_trial();
            self.trial = saved.trial;
        }
        self.take_over(saved, now);
        self.hold_back_what_tripped();
        self.arm_limit();
        true
    }

    /// Decides no more, and goes on from where it stands until it hears of a state, or leads again. What it took back and
    /// nobody has heard of stays to be told.
    pub fn step_down(&mut self) {
        self.become_follower();
        self.arm_limit();
    }

    fn become_follower(&mut self) {
        if self.role == Role::Leader {
            self.role = Role::Follower;
            self.limit = None;
            self.alert = None;
        }
    }

    /// Decides from now on, from the newer one of the state that it followed and of what was `kept`. What was decided stays
    /// decided: no step back, no second promotion.
    pub fn lead(&mut self, kept: Option<Saved>, now: Time) -> Vec<Change> {
        if self.role == Role::Leader {
            return Vec::new();
        }
        self.role = Role::Leader;
        let changes = match kept.filter(|kept| kept.serial > self.serial || self.taken_over_at.is_none()) {
            Some(kept) => self.go_on_from(kept, now),
            None if self.taken_over_at.is_some() => Vec::new(),
            None => {
                let before = Split::Whole(self.route.stable.clone());
                self.begin(&before, PhaseName::Steady, now)
            }
        };
        self.count_decision(&changes);
        self.settle_as_leader();
        changes
    }

    /// Starts from a state that is newer than what this edge heard, keeping what it saw itself.
    fn go_on_from(&mut self, kept: Saved, now: Time) -> Vec<Change> {
        let same_trial = kept.identity == self.identity && kept.trial == self.trial;
        let (mut rollout, changes) = Self::resume(Arc::clone(&self.route), kept, now);
        (rollout.tripped, rollout.edges) = (self.tripped.take(), self.edges);
        std::mem::swap(&mut rollout.ready, &mut self.ready);
        std::mem::swap(&mut rollout.around, &mut self.around);
        if same_trial {
            std::mem::swap(&mut rollout.comparison, &mut self.comparison);
            rollout.pair = self.pair.take();
        }
        *self = rollout;
        changes
    }

    fn settle_as_leader(&mut self) {
        self.hold_back_what_tripped();
        self.tripped = None;
        self.thaw_limit();
        self.unready_since = None;
        self.arm_limit();
    }

    /// What this edge took back and nobody else is known to have heard: a follower tells the leader until that has
    /// answered; a leader tells its successor, if it is replaced before its state was stored or taken over.
    pub fn trip(&self) -> Option<&Trip> {
        self.tripped.as_ref()
    }

    /// The leader has heard of the trip, and what it says next says so; or this is the leader, and its state was stored.
    pub fn trip_was_heard(&mut self) {
        self.tripped = None;
    }

    /// Another edge, `by`, took a canary back by itself: so does this one, if it is the build that is on trial here. A version
    /// that has come through its bake meanwhile is production; that is told, and traffic stays.
    pub fn take_trip(&mut self, trip: &Trip, by: &str, now: Time) -> Vec<Change> {
        let on_trial = self.canary().filter(|canary| *canary == trip.version && *canary != self.route.stable);
        let same_build = revision_of(&self.route, &trip.version) == trip.revision;
        let set_back = matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_));
        let cause = Cause::Tripped { by: by.to_owned(), why: trip.why.clone() };
        let Some(canary) = on_trial.filter(|_| same_build && !set_back) else {
            if trip.version != self.route.stable || !same_build {
                self.bar_tripped(trip);
            }
            return Vec::new();
        };
        if self.promoted && matches!(self.phase, Phase::Steady) {
            let granted = self.desired().granted;
            return vec![self.change((Decision::Alert, cause), self.phase.name(), granted)];
        }
        let change = match self.role {
            Role::Leader => self.answer_setback(cause, now),
            Role::Follower => self.may_trip().then(|| self.take_back(&canary, cause, now)),
        };
        let changes: Vec<Change> = change.into_iter().collect();
        self.count_decision(&changes);
        changes
    }

    fn bar_tripped(&mut self, trip: &Trip) {
        let held = Held { revision: trip.revision.clone(), why: trip.why.clone() };
        self.quarantine.bar_build(&trip.version, held);
    }

    /// What this edge took back by itself stays back, whatever was decided without knowing of it.
    fn hold_back_what_tripped(&mut self) {
        let Some(trip) = self.tripped.clone() else { return };
        if self.quarantine.has_build(&trip.version, trip.revision.as_deref()) && self.role == Role::Follower {
            self.tripped = None;
            return;
        }
        self.bar_tripped(&trip);
        let on_trial = self.canary().is_some_and(|canary| canary == trip.version);
        let set_back = matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_));
        if on_trial && !set_back && self.bars(&trip.version) {
            self.promoted = false;
            self.phase = Phase::RollingBack(Setback { version: trip.version, why: trip.why });
        }
    }

    /// What a follower does with a tick: it learns, and takes the canary back if that fails most of its requests here.
    pub(super) fn tick_following(&mut self, seen: &Seen<'_>, now: Time) -> Option<Change> {
        let (compared, _) = self.feed(seen.rows);
        let proven = compared && self.comparison.is_catastrophe_among(self.edges);
        let over_limit = self.limit.as_ref().is_some_and(Alone::is_passed);
        if !(proven || over_limit) || !self.may_trip() {
            return None;
        }
        let canary = self.canary()?;
        let has_traffic = self.desired().granted.share_of(&canary) > Share::ZERO;
        let cause = Cause::Evidence { regression: Regression::Catastrophic };
        has_traffic.then(|| self.take_back(&canary, cause, now))
    }

    /// Whether the guard lets an edge act, and there is somewhere to go back to.
    fn may_trip(&self) -> bool {
        let set_back = matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_));
        let may = self.route.guard.on_regression == OnRegression::Rollback && self.readiness(&self.route.stable).up > 0;
        !set_back && may
    }
}
