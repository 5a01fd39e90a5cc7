//! The live Service: it follows the traffic, one move behind going forward and never ahead, and whoever else changes it is
//! asked about, not fought.
//!
//! Line: service ► **phase** ► desired. A route without a live Service passes through here untouched.

use std::time::Duration;

use pointsman_config::{Split, VersionId};

use super::Rollout;
use crate::change::{Cause, Change, Decision};
use crate::input::{Refusal, Resume, Seen};
use crate::phase::{Paused, Phase, PhaseName, Promoting, Stage};
use crate::service::{Custody, Foreign, Selected, ServiceSeen};
use crate::time::Time;
use crate::trip::Role;

/// A live Service that was flipped and has no ready endpoint for this long goes back. Slices follow a selector within tens
/// of milliseconds; long enough for those of a large Service, one after the other.
const EMPTY_LIMIT: Duration = Duration::from_secs(1);

impl Rollout {
    /// Remembers what a tick shows of the live Service and of the other edges; whether somebody else has just changed the
    /// live Service. Whoever decides knows that before anything is decided: nothing of the same tick moves what is theirs.
    pub(super) fn look_around(&mut self, seen: &Seen<'_>, now: Time) -> bool {
        if self.edges != seen.edges {
            self.edges = seen.edges;
            if self.role == Role::Follower {
                // Another share of the budget.
                self.limit = None;
                self.arm_limit();
            }
        }
        if self.route.live_service.is_none() {
            return false;
        }
        let around = &mut self.around;
        if around.service.as_ref() != seen.service {
            around.service = seen.service.cloned();
        }
        if around.applied.as_ref() != Some(seen.applied) {
            around.applied = Some(seen.applied.clone());
        }
        if around.way_back != *seen.way_back {
            around.way_back.clone_from(seen.way_back);
        }
        around.acknowledged = seen.acknowledged;
        let is_touched = self.role == Role::Leader && !self.lets_alone() && self.note_foreign();
        self.emptied_since = if self.is_emptied() { self.emptied_since.or(Some(now)) } else { None };
        is_touched
    }

    /// What the live Service shall select; none: it is left as it is.
    ///
    /// Forward, the selector waits until every edge has moved, and for slices that are heard; back, only for this one. What it selects already may stay
    /// whatever the edges do, so that an edge that comes or goes moves nothing.
    pub(super) fn selection(&self) -> Option<VersionId> {
        let service = self.around.service.as_ref().filter(|_| self.holds_service())?;
        let is_theirs = service.foreign.is_some() && service.foreign != self.custody.answered;
        let wanted = self.resting();
        if is_theirs || self.bars(wanted) || self.readiness(wanted).up == 0 {
            return None;
        }
        let may_move = || self.may_move_to(wanted) && (service.heard || *wanted == self.route.stable);
        (service.selected.is(wanted) || may_move()).then(|| wanted.clone())
    }

    /// Whether the live Service is this edge's to move.
    fn holds_service(&self) -> bool {
        let custody = &self.custody;
        let decides = self.role == Role::Leader && !self.lets_alone();
        self.route.live_service.is_some() && decides && custody.taken && custody.open.is_none()
    }

    /// The version that the live Service selects once everything has come to rest.
    fn resting(&self) -> &VersionId {
        let flipped = match &self.phase {
            Phase::Promoting(promoting) => promoting.flipped,
            Phase::Baking => true,
            Phase::Steady => self.promoted,
            Phase::Paused(Paused { stage, .. }) => match stage {
                Stage::Promoting { flipped } => *flipped,
                Stage::Baking(_) => true,
                Stage::Warming | Stage::Step(_) => false,
            },
            Phase::Warming | Phase::Shifting(_) | Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        };
        self.identity.canary.as_ref().filter(|_| flipped).unwrap_or(&self.route.stable)
    }

    /// Whether the traffic is where the selector would go.
    fn may_move_to(&self, wanted: &VersionId) -> bool {
        let main = self.around.applied.as_ref().map(|applied| match applied {
            Split::Whole(version) | Split::Canary { stable: version, .. } => version,
        });
        let is_here = main == Some(wanted);
        match &self.phase {
            // Whatever it selects now, it is about to be flipped.
            Phase::Promoting(Promoting { flipped: false }) => false,
            // Every edge had moved before the flip; who fails to acknowledge since does not take it back.
            Phase::Promoting(Promoting { flipped: true })
            | Phase::Baking
            | Phase::RollingBack(_)
            | Phase::RolledBack(_) => is_here,
            Phase::Steady | Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) => {
                is_here && self.around.acknowledged
            }
        }
    }

    /// Whether the live Service selects `version` and all of its slices hold nothing else; always, without one.
    pub(super) fn has_flipped_to(&self, version: &VersionId) -> bool {
        let all_there =
            |service: &ServiceSeen| service.selected.is(version) && service.agreed && service.ready > Some(0);
        self.route.live_service.is_none() || self.around.service.as_ref().is_some_and(all_there)
    }

    /// Whether every edge applies what is granted; without a live Service there is but one.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.route.live_service.is_none() || self.around.acknowledged
    }

    /// All traffic is on its way to the canary: the weights move, then the selector, then the slices; each waits for all of
    /// the one before.
    pub(super) fn advance_promotion(&mut self, promoting: Promoting, seen: &Seen<'_>, now: Time) -> Option<Change> {
        let canary = self.identity.canary.clone()?;
        let has_moved = self.has_moved(seen);
        if self.route.live_service.is_none() {
            return has_moved.then(|| self.enter_bake("every request goes to it", now));
        }
        let reason = "every request goes to it, and the live Service selects nothing else";
        if promoting.flipped && has_moved && self.has_flipped_to(&canary) {
            return Some(self.enter_bake(reason, now));
        }
        let can_serve = self.readiness(&canary).up > 0 && self.custody.taken && self.hears_slices();
        if !promoting.flipped && has_moved && self.around.acknowledged && can_serve {
            let told = (Decision::Flip, Cause::Plan { reason: "every edge sends it every request".to_owned() });
            return Some(self.enter(Phase::Promoting(Promoting { flipped: true }), told, now));
        }
        let deadline = self.plan()?.step_deadline;
        let is_over = now.since(self.since) >= deadline && self.gates.let_end(deadline, now);
        is_over.then(|| self.pause_for(self.next_in_words(now), now))
    }

    /// Whether it is heard whom the live Service reaches: nobody would see otherwise that it is empty after a flip.
    pub(super) fn hears_slices(&self) -> bool {
        self.around.service.as_ref().is_some_and(|service| service.heard && service.ready.is_some())
    }

    fn enter_bake(&mut self, reason: &str, now: Time) -> Change {
        self.enter(Phase::Baking, (Decision::Bake, Cause::Plan { reason: reason.to_owned() }), now)
    }

    /// Whether the live Service selects the canary, after a flip, and has no ready endpoint.
    fn is_emptied(&self) -> bool {
        let flipped = match &self.phase {
            Phase::Promoting(promoting) => promoting.flipped,
            Phase::Baking => true,
            Phase::Paused(paused) => matches!(paused.stage, Stage::Promoting { flipped: true } | Stage::Baking(_)),
            Phase::Steady | Phase::Warming | Phase::Shifting(_) | Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        };
        let canary = self.identity.canary.as_ref().filter(|_| flipped && self.holds_service());
        canary
            .zip(self.around.service.as_ref())
            .is_some_and(|(canary, service)| service.ready == Some(0) && service.selected.is(canary))
    }

    /// That the live Service has been empty for too long.
    pub(super) fn emptied(&self, now: Time) -> Option<Cause> {
        let empty = self.emptied_since.map(|since| now.since(since)).filter(|empty| *empty >= EMPTY_LIMIT)?;
        Some(Cause::EmptyService { milliseconds: u64::try_from(empty.as_millis()).unwrap_or(u64::MAX) })
    }

    /// Why the way back is not proven, as the end of a sentence; none if it is, or if nobody asks for a proof.
    pub(super) fn way_back_doubt(&self) -> Option<&str> {
        self.route.live_service.as_ref().and_then(|_| self.around.way_back.doubt())
    }

    /// The old version, once the canary is production everywhere: on every edge, in the selector and in all slices.
    pub(super) fn retired(&self) -> Option<VersionId> {
        let canary = self.identity.canary.as_ref().filter(|_| self.identity.by_plan && self.promoted)?;
        let at_rest = matches!(self.phase, Phase::Steady) && self.by_hand.is_none() && self.holds_service();
        let everywhere = self.around.acknowledged && self.around.applied == Some(Split::Whole(canary.clone()));
        (at_rest && everywhere && self.has_flipped_to(canary)).then(|| self.route.stable.clone())
    }

    /// Looks whether somebody else has a hand on the live Service: whatever moves stops then, and nobody fights over it.
    pub(super) fn heed_foreign(&mut self, is_news: bool, now: Time) -> Option<Change> {
        let open = self.custody.open.clone().filter(|_| !self.lets_alone())?;
        let told = |open: Foreign| Cause::ForeignChange { by: open.by, what: open.what };
        if matches!(self.phase, Phase::Warming | Phase::Shifting(_) | Phase::Promoting(_) | Phase::Baking) {
            let cause = told(open);
            return Some(self.enter(self.stopped(cause.to_string(), now), (Decision::Pause, cause), now));
        }
        is_news.then(|| self.change((Decision::Alert, told(open)), self.phase.name(), self.desired().granted))
    }

    /// Takes note of what somebody else did; whether that is news.
    fn note_foreign(&mut self) -> bool {
        let Some(service) = &self.around.service else { return false };
        let fits = service.selected.is(self.resting());
        if service.foreign.is_none() {
            self.custody.answered = None;
        }
        if self.custody.open.is_some() {
            if fits && service.foreign.is_none() {
                // Whoever it was has put it back.
                self.custody = Custody { taken: true, ..Custody::default() };
            }
            return false;
        }
        let news = service.foreign.clone().filter(|foreign| Some(foreign) != self.custody.answered.as_ref());
        let news = news.or_else(|| (!self.custody.taken && !fits).then(|| self.found_otherwise(service)));
        self.custody.taken |= fits && news.is_none();
        self.custody.open = news;
        self.custody.open.is_some()
    }

    /// The live Service was found selecting something else than the file says, before Pointsman ever wrote to it.
    fn found_otherwise(&self, service: &ServiceSeen) -> Foreign {
        let what = format!(
            "it selects {} and was never flipped by Pointsman, which has {} in production",
            service.selected.in_words(),
            self.resting()
        );
        Foreign { by: "somebody".to_owned(), what, when: String::new() }
    }

    /// What was said about a change of the live Service that somebody else made, as long as it is still to be seen; whoever
    /// leads next carries it out, too.
    pub fn answer_to_foreign(&self) -> Option<(&Foreign, Resume)> {
        self.custody.answered.as_ref().map(|answered| (answered, self.custody.how))
    }

    /// The way on after somebody else changed the live Service: as it is now, or as it was.
    pub(super) fn order_resume_with(&mut self, how: Resume, cause: Cause, now: Time) -> Result<Change, Refusal> {
        let route = || self.route.name.to_string();
        match (&self.custody.open, how) {
            (None, Resume::GoOn) => self.order_resume(cause, now),
            (None, Resume::Adopt | Resume::Restore) => Err(Refusal::NothingForeign { route: route() }),
            (Some(open), Resume::GoOn) => {
                Err(Refusal::ForeignChange { route: route(), by: open.by.clone(), what: open.what.clone() })
            }
            (Some(_), Resume::Restore) => Ok(self.answer_foreign(Resume::Restore, cause, now)),
            (Some(_), Resume::Adopt) => self.adopt(cause, now),
        }
    }

    /// What somebody else did is answered; the rollout goes on.
    fn answer_foreign(&mut self, how: Resume, cause: Cause, now: Time) -> Change {
        let answered = self.around.service.as_ref().and_then(|service| service.foreign.clone());
        self.custody = Custody { taken: true, open: None, answered, how };
        match self.phase {
            Phase::Paused(_) => self.go_on_from_pause(cause, now),
            Phase::Steady
            | Phase::Warming
            | Phase::Shifting(_)
            | Phase::Promoting(_)
            | Phase::Baking
            | Phase::RollingBack(_)
            | Phase::RolledBack(_) => self.change((Decision::Resume, cause), self.phase.name(), self.desired().granted),
        }
    }

    /// The rollout follows what somebody else selected, if that is one of its states.
    fn adopt(&mut self, cause: Cause, now: Time) -> Result<Change, Refusal> {
        let chosen = self.adoptable()?;
        if chosen == *self.resting() {
            return Ok(self.answer_foreign(Resume::Adopt, cause, now));
        }
        self.refuse_quarantined(&chosen)?;
        if self.readiness(&chosen).up == 0 {
            return Err(Refusal::NotReady { route: self.route.name.to_string(), version: chosen });
        }
        if chosen == self.route.stable {
            let (canary, begins) = (self.resting().clone(), self.standing());
            self.answer_foreign(Resume::Adopt, cause.clone(), now);
            return Ok(Change { from: begins.0, before: begins.1, ..self.take_back(&canary, cause, now) });
        }
        if matches!(self.phase, Phase::Paused(Paused { stage: Stage::Promoting { .. }, .. })) {
            return Ok(self.answer_foreign(Resume::Adopt, cause, now));
        }
        self.refuse_without_way_back()?;
        let (from, before) = self.standing();
        self.answer_foreign(Resume::Adopt, cause.clone(), now);
        let promoted = self.enter(Phase::Promoting(Promoting::default()), (Decision::Promote, cause), now);
        Ok(Change { from, before, ..promoted })
    }

    /// Where a change begins that is one decision and takes more than one step.
    fn standing(&self) -> (PhaseName, Split) {
        (self.phase.name(), self.desired().granted)
    }

    /// The version that somebody else selected: stable, or the canary of a rollout that is under way.
    fn adoptable(&self) -> Result<VersionId, Refusal> {
        let refuse = |why: String| Refusal::NotAdoptable { route: self.route.name.to_string(), why };
        let chosen = match self.around.service.as_ref().map(|service| &service.selected) {
            Some(Selected::Version(version)) => version,
            Some(Selected::Other(words)) => {
                return Err(refuse(format!("it selects {words}, which is no version of this route")));
            }
            None => return Err(refuse("nothing is known of it at present".to_owned())),
        };
        let under_way = matches!(self.phase, Phase::Paused(_) | Phase::Warming | Phase::Shifting(_))
            || matches!(self.phase, Phase::Promoting(_) | Phase::Baking);
        let is_canary = self.identity.by_plan && under_way && self.identity.canary.as_ref() == Some(chosen);
        let stands_already = chosen == self.resting();
        if is_canary || stands_already || *chosen == self.route.stable {
            return Ok(chosen.clone());
        }
        Err(refuse(format!(
            "it selects {chosen}, which is not what this rollout could promote; name it as `stable` in the file"
        )))
    }

    /// Refuses to go forward while the way back is not proven.
    pub(super) fn refuse_without_way_back(&self) -> Result<(), Refusal> {
        match self.way_back_doubt() {
            Some(why) => Err(Refusal::NoProvenWayBack { route: self.route.name.to_string(), why: why.to_owned() }),
            None => Ok(()),
        }
    }
}
