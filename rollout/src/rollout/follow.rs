//! Many edges, one that decides: taking over what it says, taking over from it, and what each does by itself.
//!
//! Line: (leader) ► **follow** ► desired. A follower never moves forward. It takes a canary back when that fails most of the
//! requests that it sees itself, and keeps it back until the leader has heard.

use std::sync::Arc;

use pointsman_config::{OnRegression, Route, Share, Split, VersionId};

use super::{Lineage, Origin, Rollout};
use crate::absolute::Alone;
use crate::change::{Cause, Change, Decision};
use crate::input::Seen;
use crate::phase::{Phase, PhaseName};
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
    /// What this edge knows to be taken back, by itself or by a leader that was replaced since, stays back until this leader
    /// has heard of it ([`Self::trip`]) and says what counts.
    pub fn follow(&mut self, saved: Saved, now: Time) -> bool {
        self.become_follower();
        self.known_edition = self.known_edition.max(saved.edition);
        let known_there = saved.quarantine.clone();
        let is_same = saved.identity == self.identity;
        if is_same {
            if saved.trial != self.trial {
                self.begin_trial();
                self.trial = saved.trial;
            }
            self.take_over(saved, now);
        } else {
            if self.origin == Origin::File {
                // It is taken at its word: what its file begins is newer than all that it has heard of.
                self.edition = self.known_edition;
            }
            self.adopt_quarantine(&saved);
        }
        self.tripped = self.quarantine.unknown_to(&known_there);
        self.set_back_if_barred();
        self.arm_limit();
        is_same
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
            self.gates = self.gates.without_findings();
        }
    }

    /// Decides from now on, from the newer one of the state that it followed and of what was `kept`. What was decided stays
    /// decided: no step back, no second promotion; and what either of them knows to be taken back stays back.
    pub fn lead(&mut self, kept: Option<Saved>, now: Time) -> Vec<Change> {
        if self.role == Role::Leader {
            return Vec::new();
        }
        self.role = Role::Leader;
        self.limit = None;
        let changes = match kept {
            Some(kept) if self.is_of_another(&kept) => self.learn_from_another(kept),
            Some(kept) if self.origin != Origin::Decisions || self.is_behind(&kept, now) => self.go_on_from(kept, now),
            Some(kept) => self.learn_what_is_barred(&kept),
            None if self.origin == Origin::Decisions => Vec::new(),
            None => {
                let before = Split::Whole(self.route.stable.clone());
                self.edition += 1;
                self.begin(&before, PhaseName::Steady, now)
            }
        };
        self.thaw_limit();
        self.unready_since = None;
        self.settle_as_leader(changes, now)
    }

    /// Weighs what somebody else `kept` who led since this edge last did, or before it began without knowing of that: the
    /// newer state counts, and what either of them knows to be taken back stays back.
    pub fn weigh(&mut self, kept: Option<Saved>, now: Time) -> Vec<Change> {
        let changes = match kept {
            Some(kept) if self.is_of_another(&kept) => self.learn_from_another(kept),
            Some(kept) if self.is_behind(&kept, now) => self.go_on_from(kept, now),
            Some(kept) => self.learn_what_is_barred(&kept),
            None => Vec::new(),
        };
        self.settle_as_leader(changes, now)
    }

    /// Whether `kept` is newer than what this edge knows. Of two decisions with the same number, made by leaders that did not
    /// hear of each other, the one that was kept counts.
    pub fn is_behind(&self, kept: &Saved, now: Time) -> bool {
        let is_other = || kept.identity == self.identity && !kept.stands_like(&self.saved(now));
        kept.depth() > self.depth() || (kept.depth() == self.depth() && is_other())
    }

    /// Whether `kept` is about another rollout than this edge's, which stands where it does by a decision: an edit reaches
    /// edges one after the other, and whoever leads meanwhile begins nothing anew for it. Its own edit does that, unless
    /// `kept` was begun without this edge hearing of it before that edit: of two edits either may be the newer one.
    fn is_of_another(&self, kept: &Saved) -> bool {
        let may_be_newer = match self.origin {
            Origin::Decisions => true,
            Origin::Edited => kept.edition > self.edition,
            Origin::File => false,
        };
        may_be_newer && kept.identity != self.identity
    }

    /// Goes on where it stands, and counts on from there; what became of the live Service in other hands is the same for
    /// every rollout. One that is newer is let alone.
    fn learn_from_another(&mut self, kept: Saved) -> Vec<Change> {
        let changes = self.learn_what_is_barred(&kept);
        if kept.serial > self.serial {
            (self.serial, self.custody) = (kept.serial, kept.custody.clone());
        }
        self.formerly = self.formerly.take().or_else(|| kept.formerly.clone());
        self.known_edition = self.known_edition.max(kept.edition);
        self.let_alone(kept);
        changes
    }

    fn learn_what_is_barred(&mut self, kept: &Saved) -> Vec<Change> {
        self.learn_quarantine(kept);
        self.trust_stable();
        Vec::new()
    }

    /// Starts from a state that is newer than what this edge heard, keeping what it saw itself.
    pub(super) fn go_on_from(&mut self, kept: Saved, now: Time) -> Vec<Change> {
        let same_trial = kept.identity == self.identity && kept.trial == self.trial;
        self.restamp(&kept);
        let (mut rollout, changes) = Self::resume(Arc::clone(&self.route), kept, now);
        rollout.quarantine.merge(&self.quarantine);
        rollout.trust_stable();
        rollout.bar_what_is_set_back();
        (rollout.edges, rollout.serial) = (self.edges, rollout.serial.max(self.serial));
        rollout.known_edition = self.known_edition.max(rollout.edition);
        rollout.elsewhere = self.elsewhere.take().filter(|newer| newer.edition() > rollout.edition);
        std::mem::swap(&mut rollout.ready, &mut self.ready);
        std::mem::swap(&mut rollout.around, &mut self.around);
        if same_trial {
            std::mem::swap(&mut rollout.comparison, &mut self.comparison);
            rollout.pair = self.pair.take();
        }
        *self = rollout;
        changes
    }

    /// Counts what was decided by taking the lead, and takes back what is on its way although somebody took it back.
    pub(super) fn settle_as_leader(&mut self, mut changes: Vec<Change>, now: Time) -> Vec<Change> {
        self.lineage = Lineage::Shared;
        self.tripped = None;
        self.count_decision(&changes);
        let remembered = self.answer_what_is_remembered(now);
        self.count_decision(remembered.as_slice());
        changes.extend(remembered);
        self.arm_limit();
        changes
    }

    fn answer_what_is_remembered(&mut self, now: Time) -> Option<Change> {
        let (canary, held) = self.barred_on_trial()?;
        let cause = Cause::Remembered { why: held.why };
        if self.is_production_since(held.serial) {
            return Some(self.keep_in_production((&canary, held.revision), cause));
        }
        Some(self.take_back(&canary, cause, now))
    }

    /// Whether the canary came through its bake without anybody knowing of decision number `serial`, which took it back.
    fn is_production_since(&self, serial: u64) -> bool {
        self.promoted && matches!(self.phase, Phase::Steady) && serial <= self.serial
    }

    /// What has come through its bake stays where it is; that it was taken back before is told.
    fn keep_in_production(&mut self, (canary, revision): (&VersionId, Option<String>), cause: Cause) -> Change {
        let serial = self.next_serial();
        self.quarantine.lift_build(canary, revision, serial);
        self.change((Decision::Alert, cause), self.phase.name(), self.desired().granted)
    }

    /// What this edge knows to be taken back and nobody else is known to have heard: a follower tells the leader until that
    /// says what counts; a leader tells its successor, if it is replaced before its state was stored or taken over.
    pub fn trip(&self) -> Option<&Trip> {
        self.tripped.as_ref()
    }

    /// The leader has heard of the trip, and what it says next says what counts; or this is the leader, and its state was
    /// stored.
    pub fn trip_was_heard(&mut self) {
        self.tripped = None;
    }

    /// Another edge, `by`, knows that a canary was taken back: so does this one, if it is the build that is on trial here and
    /// was not retried since. The leader answers each trip by what it bars or lifts: a version that has come through its bake
    /// meanwhile is production, and where stable has no ready endpoint there is nothing to go back to; that is told, and
    /// traffic stays.
    pub fn take_trip(&mut self, trip: &Trip, by: &str, now: Time) -> Vec<Change> {
        let is_tried_elsewhere = self.bar_there(trip);
        if self.quarantine.lifts(trip) {
            return Vec::new();
        }
        let same_build = revision_of(&self.route, &trip.version) == trip.revision;
        let is_stable = self.is_stable(trip);
        let set_back = matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_));
        let on_trial = !is_stable && !set_back && same_build && self.canary().as_ref() == Some(&trip.version);
        if !on_trial {
            if !is_stable || is_tried_elsewhere {
                self.quarantine.bar_tripped(trip);
            }
            return Vec::new();
        }
        let cause = Cause::Tripped { by: by.to_owned(), why: trip.why.clone() };
        let change = match self.role {
            Role::Leader => Some(self.answer_trip(trip, cause, now)),
            Role::Follower => self.follow_trip(trip, cause, now),
        };
        let changes: Vec<Change> = change.into_iter().collect();
        self.count_decision(&changes);
        changes
    }

    /// Whether it is about the build that this edge's file calls stable.
    fn is_stable(&self, trip: &Trip) -> bool {
        trip.version == self.route.stable && revision_of(&self.route, &trip.version) == trip.revision
    }

    fn answer_trip(&mut self, trip: &Trip, cause: Cause, now: Time) -> Change {
        if self.is_production_since(trip.serial) {
            return self.keep_in_production((&trip.version, trip.revision.clone()), cause);
        }
        let serial = self.next_serial().max(trip.serial + 1);
        if self.readiness(&self.route.stable).up > 0 {
            return self.take_back_as(serial, (&trip.version, cause), now);
        }
        self.quarantine.lift_build(&trip.version, trip.revision.clone(), serial);
        self.change((Decision::Alert, cause), self.phase.name(), self.desired().granted)
    }

    /// A follower goes back with whoever tripped, and leaves it to the leader what that means for a finished rollout.
    fn follow_trip(&mut self, trip: &Trip, cause: Cause, now: Time) -> Option<Change> {
        let may = !self.is_production_since(trip.serial) && self.readiness(&self.route.stable).up > 0;
        may.then(|| self.take_back_as(trip.serial, (&trip.version, cause), now))
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
