//! Where the route stands, in words.

use pointsman_config::{OnRegression, Promotion, Split, Strategy, VersionId};

use super::Rollout;
use crate::change::in_words;
use crate::mirror_gate::{MirrorGate, MirrorVerdict};
use crate::phase::{Phase, Promoting, Shifting, Stage};
use crate::quarantine::Held;
use crate::service::Foreign;
use crate::status::{Quarantined, Status, span_in_words};
use crate::time::Time;
use crate::verdict::{Verdict, Waiting};

/// Why a canary waits whose copies have not been compared often enough.
const MIRROR_PENDING: &str = "it is not excluded yet that the canary answers copied requests otherwise than stable";
/// Why it waits when none has been compared.
const NOTHING_MIRRORED: &str = "no copied request has been answered by the canary and compared yet";

impl Rollout {
    /// Where the route stands at `now`.
    pub fn status(&self, now: Time) -> Status {
        Status {
            phase: self.phase.name(),
            stable: self.serving().clone(),
            canary: self.canary().filter(|canary| canary != self.serving()),
            step: match &self.phase {
                Phase::Shifting(shifting) => Some(shifting.step),
                Phase::Paused(paused) => match paused.stage {
                    Stage::Step(step) => Some(step),
                    Stage::Warming | Stage::Promoting { .. } | Stage::Baking(_) => None,
                },
                Phase::Steady
                | Phase::Warming
                | Phase::Promoting(_)
                | Phase::Baking
                | Phase::RollingBack(_)
                | Phase::RolledBack(_) => None,
            },
            steps: self.plan().map(|_| self.steps().len()),
            since: now.since(self.since),
            next: self.next_in_words(now),
            why: self.why_in_words(),
            way_back: self.route.live_service.as_ref().map(|_| self.around.way_back.clone()),
            quarantined: self.quarantined(),
            comparing: super::tick::compared(&self.desired().granted).is_some(),
            gates: self.gates.summaries(),
        }
    }

    fn quarantined(&self) -> Vec<Quarantined> {
        let entry = |(version, held): (&VersionId, &Held)| Quarantined {
            version: version.clone(),
            revision: held.revision.clone(),
            why: held.why.clone(),
        };
        self.quarantine.of(&self.route).map(entry).collect()
    }

    /// Whether a rollout that is under way is kept from going on, by anything but a gate: what a gate holds is a decision of
    /// its own ([`Decision::Hold`](crate::Decision::Hold)), told once the rollout would go on otherwise.
    pub fn is_held(&self) -> bool {
        let is_under_way = matches!(self.phase, Phase::Warming | Phase::Shifting(_));
        is_under_way && self.why_beside_gates().is_some_and(|why| !why.is_empty())
    }

    fn why_in_words(&self) -> String {
        let gates_count = matches!(self.phase, Phase::Steady | Phase::Warming | Phase::Shifting(_));
        let by_gate = || if gates_count { self.gates.hold_in_words() } else { None };
        self.why_beside_gates().or_else(by_gate).unwrap_or_default()
    }

    /// Why it stands where it does, apart from what gates say.
    fn why_beside_gates(&self) -> Option<String> {
        if let Some(open) = &self.custody.open {
            return Some(self.foreign_in_words(open));
        }
        match &self.phase {
            Phase::Paused(paused) => Some(paused.why.clone()),
            Phase::Steady | Phase::Shifting(_) if self.is_void() => Some(self.mismatch_in_words()),
            Phase::RollingBack(setback) | Phase::RolledBack(setback) => Some(setback.why.clone()),
            Phase::Steady | Phase::Shifting(_) | Phase::Promoting(_) | Phase::Baking if self.alert.is_some() => {
                self.alert.as_ref().map(|alert| alert.why.clone())
            }
            Phase::Steady if self.by_hand.is_some() => {
                Some("weights were set by hand; they hold until the route's next change in the file".to_owned())
            }
            Phase::Steady | Phase::Shifting(_) => self.held_in_words(),
            Phase::Warming => self.mirror_in_words(),
            Phase::Promoting(_) | Phase::Baking => None,
        }
    }

    /// What the comparison holds against going on.
    fn held_in_words(&self) -> Option<String> {
        self.pair.as_ref()?;
        match self.verdict {
            Verdict::Continue(Waiting::Suspect) => {
                Some("the canary looks worse than stable, not yet beyond doubt".to_owned())
            }
            Verdict::Continue(Waiting::CommonCauseHold) => {
                Some("both versions fail alike: held, neither promoted nor rolled back".to_owned())
            }
            Verdict::Continue(Waiting::BaselineFailingHold) => {
                Some("stable fails more than the canary: held until it recovers".to_owned())
            }
            Verdict::Continue(Waiting::NoCanaryTraffic) => Some("the canary has had no request yet".to_owned()),
            Verdict::Continue(Waiting::SplitMismatch) => Some(self.mismatch_in_words()),
            Verdict::Continue(Waiting::MirrorPending) => Some(self.pending_in_words()),
            Verdict::Continue(Waiting::MirrorDisagreement) => Some(self.disagreement_in_words()),
            Verdict::Continue(Waiting::Collecting) if self.mirror_verdict() == MirrorVerdict::Pending => {
                Some(self.pending_in_words())
            }
            Verdict::Continue(Waiting::Collecting | Waiting::GateHolds)
            | Verdict::Promote
            | Verdict::Inconclusive
            | Verdict::Rollback(_) => None,
        }
    }

    /// How far a split is off, what can be wrong with it, and the way out.
    pub(super) fn mismatch_in_words(&self) -> String {
        let causes = if self.route.sticky.is_some() {
            "likely causes: clients choose their keys so that they get one version, or something before the edge that \
             divides users as well sends only some of them here"
        } else {
            "each request draws by itself here, so nothing outside the edge can do this: look for a defect of the edge"
        };
        let name = &self.route.name;
        let way_out = if matches!(self.phase, Phase::Shifting(_) | Phase::Paused(_)) {
            format!("`pointsman resume {name}` compares anew")
        } else {
            format!("any edit of `{name}` in the file, or `pointsman weights`, compares anew")
        };
        format!("{}; {causes}; when that is put right, {way_out}", self.mismatch())
    }

    fn pending_in_words(&self) -> String {
        let seen = self.mirror.as_ref().and_then(MirrorGate::summary);
        if seen.is_some_and(|seen| seen.tally.compared > 0) { MIRROR_PENDING } else { NOTHING_MIRRORED }.to_owned()
    }

    /// What copies of requests hold against going on.
    fn mirror_in_words(&self) -> Option<String> {
        match self.mirror_verdict() {
            MirrorVerdict::Open => None,
            MirrorVerdict::Pending => Some(self.pending_in_words()),
            MirrorVerdict::Disagrees => Some(self.disagreement_in_words()),
        }
    }

    fn disagreement_in_words(&self) -> String {
        format!(
            "the canary answers copied requests otherwise than stable; `pointsman promote {}` promotes it all the same",
            self.route.name
        )
    }

    /// What will happen next, and when or on which condition.
    pub(super) fn next_in_words(&self, now: Time) -> String {
        if let Some(waits) = self.elsewhere_in_words() {
            return waits;
        }
        match &self.phase {
            Phase::Steady => self.steady_in_words(),
            Phase::Warming => self.warming_in_words(),
            Phase::Shifting(shifting) => self.step_in_words(shifting, now),
            Phase::Paused(_) => {
                format!(
                    "nothing until `pointsman resume`, `promote` or `rollback`; a regression still {}",
                    self.on_regression()
                )
            }
            Phase::Promoting(promoting) => self.promotion_in_words(*promoting),
            Phase::Baking => {
                let bake = self.plan().map_or(std::time::Duration::ZERO, |plan| plan.bake);
                if now.since(self.since) >= bake
                    && let Some(held) = self.gates.hold_in_words().filter(|_| self.gates.are_suspicious())
                {
                    return format!("the bake is over and does not end, since {held}");
                }
                let left = span_in_words(bake.saturating_sub(now.since(self.since)));
                format!("{} stays warm for {left} more, then the rollout is finished", self.route.stable)
            }
            Phase::RollingBack(_) => self.way_back_in_words(),
            Phase::RolledBack(_) => self.rolled_back_in_words(),
        }
    }

    /// Who changed the live Service, and the way out.
    fn foreign_in_words(&self, open: &Foreign) -> String {
        format!(
            "{} changed the live Service: {}; `pointsman resume {} --adopt` goes on from there, `--restore` puts it back",
            open.by, open.what, self.route.name
        )
    }

    /// What a promotion waits for.
    fn promotion_in_words(&self, promoting: Promoting) -> String {
        match &self.route.live_service {
            Some(live) if promoting.flipped => {
                format!("waits until all slices of the Service {} hold the canary and nothing else", live.service)
            }
            Some(_) if !self.hears_slices() => "waits until the live Service and its slices can be seen".to_owned(),
            Some(_) => {
                "waits until every edge sends all traffic to the canary; the live Service follows then".to_owned()
            }
            None => "all traffic is moving to the canary".to_owned(),
        }
    }

    /// What a rollback waits for: traffic has moved already.
    fn way_back_in_words(&self) -> String {
        match &self.route.live_service {
            Some(live) if !self.has_flipped_to(&self.route.stable) => {
                format!("waits until the Service {} selects {} alone again", live.service, self.route.stable)
            }
            Some(_) | None => "all traffic is moving back to stable".to_owned(),
        }
    }

    fn steady_in_words(&self) -> String {
        match self.desired().granted {
            Split::Canary { .. } => {
                format!("weights stay until an operator changes them; a regression {}", self.on_regression())
            }
            Split::Whole(_) => "nothing; all traffic stays where it is".to_owned(),
        }
    }

    /// What the guard does about a regression, as the end of a sentence.
    fn on_regression(&self) -> &'static str {
        match self.route.guard.on_regression {
            OnRegression::Rollback => "takes the canary back",
            OnRegression::Alert => "only raises an alert",
        }
    }

    fn warming_in_words(&self) -> String {
        let Some(plan) = self.plan() else { return String::new() };
        let ready = self.readiness(&plan.canary);
        if ready.up < ready.total || ready.total == 0 {
            return format!(
                "waits until every endpoint of {} is ready: {} of {} are",
                plan.canary, ready.up, ready.total
            );
        }
        if self.mirror_verdict() != MirrorVerdict::Open {
            return format!("waits until {} is known to answer copied requests as stable does", plan.canary);
        }
        if let Some(held) = self.gates.hold_in_words() {
            return format!("waits since {held}");
        }
        match (&plan.strategy, plan.promotion) {
            (Strategy::Canary(_), _) if self.readiness(&self.route.stable).up == 0 => {
                format!("waits until {} has a ready endpoint to compare with", self.route.stable)
            }
            (Strategy::BlueGreen, _) if self.way_back_doubt().is_some() => self.doubt_in_words(),
            (Strategy::BlueGreen, Promotion::Manual) => format!("waits for `pointsman promote {}`", self.route.name),
            (Strategy::BlueGreen | Strategy::Canary(_), Promotion::Automatic | Promotion::Manual) => {
                "the canary is about to get traffic".to_owned()
            }
        }
    }

    fn step_in_words(&self, shifting: &Shifting, now: Time) -> String {
        let Some(step) = self.steps().get(shifting.step) else { return String::new() };
        let last = shifting.step + 1 == self.steps().len();
        let goal = if last { "promotion".to_owned() } else { in_words(&self.step_split(shifting.step + 1)) };
        let left = step.hold.saturating_sub(now.since(self.since));
        if !left.is_zero() {
            return format!("{goal} in {} at the earliest", span_in_words(left));
        }
        let missing = self.step_requests().saturating_sub(shifting.fresh.requests);
        if missing > 0 {
            return format!("{goal} after {missing} more answers of the canary");
        }
        if self.held_back() {
            return format!("{goal} when nothing speaks against it any more");
        }
        if let Some(held) = self.gates.hold_in_words() {
            return format!("{goal} waits since {held}");
        }
        match self.plan().map(|plan| plan.promotion) {
            Some(_) if last && self.way_back_doubt().is_some() => self.doubt_in_words(),
            Some(Promotion::Manual) if last => format!("waits for `pointsman promote {}`", self.route.name),
            Some(Promotion::Automatic | Promotion::Manual) | None if last => {
                "promotion when the canary is proven to be no worse than stable".to_owned()
            }
            Some(_) | None => goal,
        }
    }

    /// Why a promotion waits although nothing speaks against the canary.
    fn doubt_in_words(&self) -> String {
        format!("promotion when the way back is proven: {}", self.way_back_doubt().unwrap_or_default())
    }

    fn rolled_back_in_words(&self) -> String {
        let canary = self.canary().map_or_else(|| "VERSION".to_owned(), |version| version.to_string());
        format!("{canary} stays at 0% until its revision changes or `pointsman retry {} {canary}`", self.route.name)
    }
}
