//! An operator's order: obeyed at once, or refused with the way out.

use pointsman_config::{Share, Split, VersionId};

use super::Rollout;
use crate::change::{Cause, Change, Decision};
use crate::input::{Order, OrderKind, Refusal};
use crate::phase::{Paused, Phase, Stage};
use crate::recover::ByHand;
use crate::time::Time;
use crate::trip::Role;
use crate::verdict::Verdict;

impl Rollout {
    pub(super) fn obey(&mut self, order: &Order, now: Time) -> Result<Vec<Change>, Refusal> {
        let cause = Cause::Operator { actor: order.actor.clone(), reason: order.reason.clone() };
        if self.role == Role::Follower && order.kind != OrderKind::Rollback {
            return Err(Refusal::Follows { route: self.route.name.to_string() });
        }
        self.refuse_without_the_file(order)?;
        match &order.kind {
            OrderKind::Promote | OrderKind::ForcePromotion => self.order_promote(cause, now),
            OrderKind::Rollback => self.order_rollback(cause, now),
            OrderKind::Pause => self.order_pause(cause, now),
            OrderKind::Resume(how) => self.order_resume_with(*how, cause, now),
            OrderKind::Retry(version) => self.order_retry(version, cause, now),
            OrderKind::SetWeights(split) => self.order_weights(&self.towards_stable(split), cause, now),
        }
        .map(|change| vec![change])
    }

    fn order_promote(&mut self, cause: Cause, now: Time) -> Result<Change, Refusal> {
        let canary = self.planned_canary("be promoted")?;
        self.refuse_foreign()?;
        self.refuse_quarantined(&canary)?;
        match &self.phase {
            Phase::Warming
            | Phase::Shifting(_)
            | Phase::Paused(Paused { stage: Stage::Warming | Stage::Step(_), .. }) => {}
            Phase::Paused(_) => {
                return Err(self.wrong_phase("be promoted", "it was promoted already: `pointsman resume` goes on"));
            }
            Phase::Promoting(_) | Phase::Baking | Phase::Steady => {
                return Err(self.wrong_phase("be promoted", "its canary has all traffic already"));
            }
            Phase::RollingBack(_) | Phase::RolledBack(_) => {
                return Err(
                    self.wrong_phase("be promoted", "a rollout that was taken back starts anew with `pointsman retry`")
                );
            }
        }
        self.refuse_without_way_back()?;
        let not_ready = Refusal::NotReady { route: self.route.name.to_string(), version: canary };
        self.promote((Decision::Promote, cause), now).ok_or(not_ready)
    }

    fn order_rollback(&mut self, cause: Cause, now: Time) -> Result<Change, Refusal> {
        if let Some(taken_back) = self.take_back_elsewhere(&cause) {
            return taken_back;
        }
        let canary = self.canary().filter(|canary| self.can_be_taken_back(canary));
        let Some(canary) = canary else {
            return Err(Refusal::NothingToTakeBack {
                route: self.route.name.to_string(),
                stable: self.route.stable.clone(),
            });
        };
        if self.readiness(&self.route.stable).up == 0 {
            return Err(Refusal::NoWayBack { route: self.route.name.to_string(), stable: self.route.stable.clone() });
        }
        Ok(self.take_back(&canary, cause, now))
    }

    /// Whether `canary` has traffic, or is on its way to some.
    fn can_be_taken_back(&self, canary: &VersionId) -> bool {
        match &self.phase {
            Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) | Phase::Promoting(_) | Phase::Baking => true,
            Phase::Steady => self.desired().granted.share_of(canary) > Share::ZERO,
            Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        }
    }

    fn order_pause(&mut self, cause: Cause, now: Time) -> Result<Change, Refusal> {
        self.planned_canary("be paused")?;
        match &self.phase {
            Phase::Warming | Phase::Shifting(_) | Phase::Baking => {
                Ok(self.enter(self.stopped(cause.to_string(), now), (Decision::Pause, cause), now))
            }
            Phase::Paused(_) => {
                Err(self.wrong_phase("be paused", "it stands still already; `pointsman resume` goes on"))
            }
            Phase::Steady | Phase::Promoting(_) | Phase::RollingBack(_) | Phase::RolledBack(_) => {
                Err(self.wrong_phase("be paused", "nothing is waiting there; `pointsman rollback` takes a canary back"))
            }
        }
    }

    pub(super) fn order_resume(&mut self, cause: Cause, now: Time) -> Result<Change, Refusal> {
        self.planned_canary("be resumed")?;
        if matches!(self.phase, Phase::Paused(_)) {
            Ok(self.go_on_from_pause(cause, now))
        } else {
            Err(self.wrong_phase("be resumed", "it is not paused"))
        }
    }

    /// Goes on where the pause began.
    pub(super) fn go_on_from_pause(&mut self, cause: Cause, now: Time) -> Change {
        let stage = self.stage(now);
        let (phase, since) = self.at_stage(stage, now);
        if matches!(self.verdict, Verdict::Rollback(_)) || self.comparison.is_void() {
            // What was only told has been seen by the operator: what is judged from here on is fresh.
            self.begin_trial();
        }
        self.limit = None;
        self.by_request = None;
        let change = self.enter(phase, (Decision::Resume, cause), now);
        self.since = since;
        change
    }

    fn order_retry(&mut self, version: &VersionId, cause: Cause, now: Time) -> Result<Change, Refusal> {
        let serial = self.next_serial();
        if !self.quarantine.lift(&self.route, version, serial) {
            return Err(Refusal::NotQuarantined { route: self.route.name.to_string(), version: version.clone() });
        }
        self.tripped.take_if(|trip| self.quarantine.lifts(trip));
        let (from, before) = (self.phase.name(), self.desired().granted);
        let set_back = matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_));
        let planned = self.identity.canary.as_ref() == Some(version);
        if planned && self.by_hand.as_ref().is_some_and(|by_hand| by_hand.split.share_of(version) == Share::ZERO) {
            // Weights by hand for another version give way to the version that is named now.
            self.by_hand = None;
        }
        if set_back && (planned || self.canary().as_ref() == Some(version) || !self.is_barred()) {
            self.begin(&before, from, now);
        }
        let mut change = self.change((Decision::Retry, cause), from, before);
        change.canary = Some(version.clone());
        Ok(change)
    }

    fn order_weights(&mut self, split: &Split, cause: Cause, now: Time) -> Result<Change, Refusal> {
        self.check_split(split)?;
        let rolling = matches!(
            self.phase,
            Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) | Phase::Promoting(_) | Phase::Baking
        );
        let phase = if rolling {
            let why = format!("weights were set {cause}");
            Phase::Paused(Paused { stage: self.stage(now), split: split.clone(), why, by_hand: true })
        } else {
            Phase::Steady
        };
        let by_hand = (!rolling).then(|| ByHand { split: split.clone(), instead_of: self.file_split() });
        let (from, before) = (self.phase.name(), self.desired().granted);
        self.by_hand = by_hand;
        self.limit = None;
        self.by_request = None;
        if self.comparison.is_void() || super::tick::compared(split).is_none() {
            self.begin_trial();
        }
        self.enter(phase, (Decision::SetWeights, cause.clone()), now);
        Ok(self.change((Decision::SetWeights, cause), from, before))
    }

    /// The same weights with the file's stable version as the side that is compared with and gone back to, whoever
    /// serves now.
    fn towards_stable(&self, split: &Split) -> Split {
        match split {
            Split::Canary { stable, canary, share } if *canary == self.route.stable => {
                Split::Canary { stable: canary.clone(), canary: stable.clone(), share: share.rest() }
            }
            Split::Canary { .. } | Split::Whole(_) => split.clone(),
        }
    }

    /// Whether the route can be split like this.
    fn check_split(&self, split: &Split) -> Result<(), Refusal> {
        let named: Vec<&VersionId> = match split {
            Split::Whole(whole) => vec![whole],
            Split::Canary { stable, canary, .. } => vec![stable, canary],
        };
        for version in &named {
            if !self.route.versions.contains_key(*version) {
                return Err(self.unknown_version(version));
            }
            if split.share_of(version) > Share::ZERO {
                self.refuse_quarantined(version)?;
            }
        }
        if named.len() > 1 && !named.contains(&&self.route.stable) {
            return Err(Refusal::WithoutStable { stable: self.route.stable.clone() });
        }
        Ok(())
    }

    /// Refuses to go forward while nobody has said what counts of what somebody else did to the live Service.
    fn refuse_foreign(&self) -> Result<(), Refusal> {
        match &self.custody.open {
            Some(open) => Err(Refusal::ForeignChange {
                route: self.route.name.to_string(),
                by: open.by.clone(),
                what: open.what.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn refuse_quarantined(&self, version: &VersionId) -> Result<(), Refusal> {
        match self.quarantine.held(&self.route, version) {
            Some(held) => Err(Refusal::Quarantined {
                route: self.route.name.to_string(),
                version: version.clone(),
                why: held.why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The canary of the plan; refused for weights by hand.
    fn planned_canary(&self, verb: &'static str) -> Result<VersionId, Refusal> {
        let no_rollout = || Refusal::NoRollout { route: self.route.name.to_string(), verb, phase: self.phase.name() };
        self.plan().map(|plan| plan.canary.clone()).ok_or_else(no_rollout)
    }

    fn wrong_phase(&self, verb: &'static str, way_out: &str) -> Refusal {
        Refusal::WrongPhase {
            route: self.route.name.to_string(),
            verb,
            phase: self.phase.name(),
            way_out: way_out.to_owned(),
        }
    }

    fn unknown_version(&self, version: &VersionId) -> Refusal {
        let known: Vec<&str> = self.route.versions.keys().map(VersionId::as_str).collect();
        Refusal::UnknownVersion {
            route: self.route.name.to_string(),
            version: version.clone(),
            known: known.join(", "),
        }
    }
}
