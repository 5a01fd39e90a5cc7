//! The state machine of one route: `step(input, now)` decides, `desired()` says how traffic shall be divided.
//!
//! Line: analysis ► **phase** ► desired. Nothing here reads a clock or does I/O; a shell feeds it and carries out
//! what it desires, as often as it likes.

mod edits;
mod elsewhere;
mod flip;
mod follow;
mod orders;
mod tick;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Plan, Protocol, Rollout as RolloutPlan, Route, Share, Split, Step, Strategy, VersionId};

use self::elsewhere::Elsewhere;
pub(crate) use self::tick::step_requests;
use crate::absolute::Alone;
use crate::by_request::ByRequest;
use crate::change::{Cause, Change, Decision};
use crate::comparison::Comparison;
use crate::desired::Desired;
use crate::findings::Gates;
use crate::input::{Input, Ready, Refusal};
use crate::journal::Start;
use crate::mirror_gate::MirrorGate;
use crate::phase::{Paused, Phase, PhaseName, Promoting, Setback, Shifting, Stage};
use crate::quarantine::{Held, Quarantine};
use crate::recover::{ByHand, Identity, Saved, SavedPhase, revision_of};
use crate::service::{Custody, Surroundings};
use crate::summary::{AloneSummary, Summary};
use crate::tally::{Row, Tally};
use crate::time::Time;
use crate::trip::{Role, Trip};
use crate::verdict::{Regression, Verdict, Waiting};

/// What a follower judges a canary by that has all traffic: "at most 20 % fail", as the fast path does beside stable.
const CATASTROPHIC_RATE: f64 = 0.2;

/// Trouble that was reported and not answered by moving traffic.
#[derive(Debug, Clone)]
struct Alert {
    /// What of it was reported; other trouble is reported as well.
    told: Vec<Cause>,
    /// What was found last and why traffic stayed, for people.
    why: String,
}

impl Alert {
    /// Whether this trouble was reported.
    fn tells_of(&self, cause: &Cause) -> bool {
        self.told.iter().any(|told| told.is_same_trouble(cause))
    }
}

/// What the numbers of decisions that were made here have to do with those that were made before, or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lineage {
    /// Nothing: it began without knowing of any, and has not heard since.
    Own,
    /// They go on from those.
    Shared,
}

/// Where an edge has it from where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// From the file that it started with: there is nothing to keep.
    File,
    /// From an edit of its file, while it followed: the same, but what was begun since it last heard may be newer.
    Edited,
    /// From decisions: its own, or those of a leader that it followed.
    Decisions,
}

/// One route: where it stands, what was counted, and which versions are barred.
#[derive(Debug, Clone)]
pub struct Rollout {
    route: Arc<Route>,
    identity: Identity,
    phase: Phase,
    /// When the phase, in steps the step, began.
    since: Time,
    /// Whether the canary of this identity has become stable.
    promoted: bool,
    quarantine: Quarantine,
    by_hand: Option<ByHand>,
    comparison: Comparison,
    /// The pair that the comparison is about; a new pair starts a new one.
    pair: Option<(VersionId, VersionId)>,
    /// Counts up whenever evidence begins from nothing.
    trial: u64,
    verdict: Verdict,
    /// Whether it was told that the split is not as configured.
    mismatch_told: bool,
    /// What copies of requests show, where there are any.
    mirror: Option<MirrorGate>,
    /// Whether it was told that they show another model.
    disagreement_told: bool,
    /// What others say of the canary.
    gates: Gates,
    /// What judges a canary that has all traffic, where there is no control group.
    limit: Option<Alone>,
    /// The limit of a state that was taken over, for when this edge decides.
    frozen_limit: Option<f64>,
    /// What judges every request of the canary beside the comparison, where that counts users.
    by_request: Option<ByRequest>,
    ready: BTreeMap<VersionId, Ready>,
    /// Versions that have had a ready endpoint since this rollout began here.
    been_up: BTreeSet<VersionId>,
    /// Since when the canary has had no ready endpoint although it should serve.
    unready_since: Option<Time>,
    /// The trouble that was reported and not answered by moving traffic.
    alert: Option<Alert>,
    /// Who served before the file named another stable version; takes over until that one is ready.
    formerly: Option<VersionId>,
    /// Whether this edge decides.
    role: Role,
    /// Where this edge has it from where the rollout stands.
    origin: Origin,
    /// What this edge knows to be taken back and the leader does not; of a leader, what it took back and is not stored yet.
    tripped: Option<Trip>,
    /// How many edges serve the route.
    edges: usize,
    /// How often something was decided, by whomever.
    serial: u64,
    /// Whether what it counts goes on from what was decided before.
    lineage: Lineage,
    /// How many rollouts of this route were begun before this one; one that begins for another file has more.
    edition: u64,
    /// The most that it has heard of.
    known_edition: u64,
    /// The newer rollout of a file that this edge does not have, while it has to let that alone.
    elsewhere: Option<Elsewhere>,
    /// What the last tick showed of the live Service and of other edges.
    around: Surroundings,
    /// What became of the live Service in other hands.
    custody: Custody,
    /// Since when the live Service has been empty after a flip.
    emptied_since: Option<Time>,
    /// Rows of the tick in hand; kept to spare an allocation each tick.
    rows: Vec<Row>,
}

impl Rollout {
    /// A route that nobody remembers: it starts as its file says.
    pub fn start(route: Arc<Route>, now: Time) -> (Self, Vec<Change>) {
        let mut rollout = Self::blank(route, now);
        let before = Split::Whole(rollout.route.stable.clone());
        let mut changes = rollout.begin(&before, PhaseName::Steady, now);
        // Weights that the file has from the beginning are no edit of it.
        changes.retain(|change| change.decision != Decision::Edit);
        rollout.serial += u64::from(!changes.is_empty());
        (rollout, changes)
    }

    /// A route as it was saved. A file that asks for another rollout than the saved one starts that anew; what was
    /// taken back stays taken back either way.
    pub fn resume(route: Arc<Route>, saved: Saved, now: Time) -> (Self, Vec<Change>) {
        let mut rollout = Self::blank(route, now);
        rollout.trial = saved.trial;
        if saved.identity == rollout.identity {
            rollout.take_over(saved, now);
            rollout.thaw_limit();
            rollout.arm_limit();
            return (rollout, Vec::new());
        }
        rollout.learn_quarantine(&saved);
        rollout.edition = saved.edition + 1;
        rollout.formerly = rollout.known_to_serve(&saved);
        rollout.custody = saved.custody;
        rollout.trust_stable();
        let before = Split::Whole(rollout.route.stable.clone());
        let changes = rollout.begin(&before, PhaseName::Steady, now);
        rollout.serial = saved.serial + 1;
        rollout.serial = rollout.serial.max(rollout.quarantine.newest());
        (rollout, changes)
    }

    /// Who has served so far, where the file names another stable version.
    fn known_to_serve(&self, saved: &Saved) -> Option<VersionId> {
        let served = saved.serving();
        if *served == self.route.stable {
            return saved.formerly.clone();
        }
        self.route.versions.contains_key(served).then(|| served.clone())
    }

    /// Stands where a state of the same rollout stood.
    fn take_over(&mut self, saved: Saved, now: Time) {
        self.learn_quarantine(&saved);
        self.formerly = saved.formerly;
        self.custody = saved.custody;
        self.serial = saved.serial;
        self.edition = saved.edition;
        self.elsewhere.take_if(|newer| newer.edition() <= saved.edition);
        self.frozen_limit = saved.limit;
        self.gates.recall_freeze(saved.thawed.map(|ago| now.minus(ago)));
        self.origin = Origin::Decisions;
        self.trust_stable();
        self.promoted = saved.promoted;
        let file_split = self.file_split();
        self.by_hand = saved.by_hand.filter(|by_hand| by_hand.instead_of == file_split);
        self.restore(saved.phase, now);
        self.bar_what_is_set_back();
    }

    /// A route as it stood when a record of it began.
    pub(crate) fn as_recorded(route: Arc<Route>, start: &Start, now: Time) -> Self {
        let (mut rollout, _) = Self::resume(route, start.saved.clone(), now);
        rollout.comparison.learn(&start.known);
        rollout.been_up.extend(start.been_up.iter().cloned());
        rollout.ready.clone_from(&start.ready);
        rollout
    }

    /// Where it stands for a record that begins at `at_ns`; none once a comparison has begun, whose evidence is not
    /// written down.
    pub(crate) fn start_of_record(&self, applied: &Split, (at_ns, now): (u64, Time)) -> Option<Start> {
        self.pair.is_none().then(|| Start {
            at_ns,
            saved: self.saved(now),
            known: self.comparison.known(),
            been_up: self.been_up.iter().cloned().collect(),
            ready: self.ready.clone(),
            applied: applied.clone(),
        })
    }

    /// Takes over what `saved` bars and lifts, where that is newer than what is known here.
    fn learn_quarantine(&mut self, saved: &Saved) {
        self.restamp(saved);
        self.quarantine.merge(&saved.quarantine);
    }

    /// What was barred here without knowing of `saved` was decided after it, for all that is known.
    fn restamp(&mut self, saved: &Saved) {
        if self.lineage == Lineage::Own {
            self.quarantine.decided_after(saved.serial);
        }
        self.lineage = Lineage::Shared;
    }

    /// The version that a state has set back is barred, whatever was decided elsewhere without this state.
    fn bar_what_is_set_back(&mut self) {
        let (Phase::RollingBack(setback) | Phase::RolledBack(setback)) = &self.phase else { return };
        let Setback { version, why } = setback.clone();
        if self.identity.canary.as_ref() == Some(&version) && !self.bars(&version) {
            let serial = self.next_serial();
            self.quarantine.bar(&self.route, &version, (why, serial));
        }
    }

    /// Bars what `saved` bars as well: what a state file that could not be read in time turns out to hold. Lifts
    /// nothing but what is known to have been lifted since.
    pub fn adopt_quarantine(&mut self, saved: &Saved) {
        match self.lineage {
            Lineage::Own => self.quarantine.adopt(&saved.quarantine),
            Lineage::Shared => self.quarantine.merge_from_another(&saved.quarantine, &saved.identity.stable),
        }
        self.trust_stable();
        self.set_back_if_barred();
    }

    /// A canary that has traffic, or is on its way to some, goes back once it is barred.
    fn set_back_if_barred(&mut self) {
        let Some((version, held)) = self.barred_on_trial() else { return };
        self.promoted = false;
        self.phase = Phase::RollingBack(Setback { version, why: held.why });
    }

    /// The canary that has traffic, or is on its way to some, although it is barred.
    fn barred_on_trial(&self) -> Option<(VersionId, Held)> {
        let canary = self.canary()?;
        let on_trial = match &self.phase {
            Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) | Phase::Promoting(_) | Phase::Baking => true,
            Phase::Steady => self.asked().share_of(&canary) > Share::ZERO,
            Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        };
        let held = self.quarantine.held(&self.route, &canary).filter(|_| on_trial)?.clone();
        Some((canary, held))
    }

    /// Judges a canary by itself by the limit that was frozen when its control group ended.
    fn thaw_limit(&mut self) {
        let budget = self.route.guard.false_rollback_budget;
        if let Some(limit) = self.frozen_limit.take() {
            self.limit = Some(Alone::new(limit, budget));
        }
    }

    fn blank(route: Arc<Route>, now: Time) -> Self {
        Self {
            identity: Identity::of(&route),
            comparison: Comparison::new(&route.guard),
            phase: Phase::Steady,
            since: now,
            promoted: false,
            quarantine: Quarantine::default(),
            by_hand: None,
            pair: None,
            trial: 0,
            verdict: Verdict::Continue(Waiting::NoCanaryTraffic),
            mismatch_told: false,
            mirror: gate_of(&route),
            disagreement_told: false,
            gates: Gates::default(),
            limit: None,
            frozen_limit: None,
            by_request: None,
            ready: BTreeMap::new(),
            been_up: BTreeSet::new(),
            unready_since: None,
            alert: None,
            formerly: None,
            role: Role::Leader,
            origin: Origin::File,
            tripped: None,
            edges: 1,
            serial: 0,
            lineage: Lineage::Own,
            edition: 0,
            known_edition: 0,
            elsewhere: None,
            around: Surroundings::default(),
            custody: Custody::default(),
            emptied_since: None,
            rows: Vec::new(),
            route,
        }
    }

    fn restore(&mut self, phase: SavedPhase, now: Time) {
        let (phase, lasted) = match phase {
            SavedPhase::Steady => (Phase::Steady, Duration::ZERO),
            SavedPhase::Warming { elapsed } => (Phase::Warming, elapsed),
            SavedPhase::Shifting { step, elapsed } => (self.at_step(step), elapsed),
            SavedPhase::Paused(paused) => (Phase::Paused(paused), Duration::ZERO),
            SavedPhase::Promoting { flipped } => (Phase::Promoting(Promoting { flipped }), Duration::ZERO),
            SavedPhase::Baking { elapsed } => (Phase::Baking, elapsed),
            SavedPhase::RollingBack(setback) => (Phase::RollingBack(setback), Duration::ZERO),
            SavedPhase::RolledBack(setback) => (Phase::RolledBack(setback), Duration::ZERO),
        };
        self.phase = phase;
        self.since = now.minus(lasted);
    }

    /// One thing happened at `now`: what it changed, in order; nothing if it changed nothing.
    ///
    /// # Errors
    /// Only an order can be refused; nothing has changed then.
    pub fn step(&mut self, input: Input<'_>, now: Time) -> Result<Vec<Change>, Refusal> {
        let changes = match input {
            Input::Tick(seen) => self.tick(seen, now),
            Input::Edit(route) => self.edit(route, now),
            Input::Order(order) => self.obey(order, now)?,
        };
        self.count_decision(&changes);
        Ok(changes)
    }

    /// What a leader decides counts; a follower's trip is the leader's to decide.
    fn count_decision(&mut self, changes: &[Change]) {
        if self.role == Role::Leader && !changes.is_empty() {
            // What was barred or lifted by this decision has its number.
            self.serial = (self.serial + 1).max(self.quarantine.newest());
        }
    }

    /// The number of a decision that is made now: later than all that is known.
    fn next_serial(&self) -> u64 {
        self.serial.max(self.quarantine.newest()) + 1
    }

    /// How often something was decided, by whomever; grows with every decision.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// As of [`Saved::depth`].
    pub fn depth(&self) -> (u64, u64) {
        (self.edition, self.serial)
    }

    /// How traffic shall be divided now.
    pub fn desired(&self) -> Desired {
        let asked = self.asked();
        let granted = self.granted(&asked);
        let fallback = match &granted {
            Split::Whole(whole) if *whole == self.route.stable => {
                self.formerly.clone().filter(|formerly| !self.bars(formerly))
            }
            Split::Whole(_) => Some(self.route.stable.clone()),
            Split::Canary { .. } => None,
        };
        Desired { asked, granted, fallback, selected: self.selection(), retired: self.retired() }
    }

    /// Where the route stands, as it outlives the process and is told to others; [`Self::kept`] is what to keep of it.
    pub fn saved(&self, now: Time) -> Saved {
        let elapsed = now.since(self.since);
        let phase = match &self.phase {
            Phase::Steady => SavedPhase::Steady,
            Phase::Warming => SavedPhase::Warming { elapsed },
            Phase::Shifting(shifting) => SavedPhase::Shifting { step: shifting.step, elapsed },
            Phase::Paused(paused) => SavedPhase::Paused(paused.clone()),
            Phase::Promoting(promoting) => SavedPhase::Promoting { flipped: promoting.flipped },
            Phase::Baking => SavedPhase::Baking { elapsed },
            Phase::RollingBack(setback) => SavedPhase::RollingBack(setback.clone()),
            Phase::RolledBack(setback) => SavedPhase::RolledBack(setback.clone()),
        };
        Saved {
            identity: self.identity.clone(),
            phase,
            promoted: self.promoted,
            quarantine: self.quarantine.clone(),
            by_hand: self.by_hand.clone(),
            formerly: self.formerly.clone(),
            limit: match self.role {
                Role::Leader => self.limit.as_ref().map(|limit| limit.test().limit()),
                Role::Follower => self.frozen_limit,
            },
            trial: self.trial,
            serial: self.serial,
            edition: self.edition,
            custody: self.custody.clone(),
            thawed: self.gates.thawed_for(now).filter(|_| self.has_step_deadline()),
        }
    }

    /// Whether it is in a phase that ends when it has lasted for too long, counted from before the process began.
    fn has_step_deadline(&self) -> bool {
        matches!(self.phase, Phase::Warming | Phase::Shifting(_))
    }

    /// The comparison as it stands; costs some bisections.
    pub fn summary(&self) -> Summary {
        self.summary_with(self.alone())
    }

    fn summary_with(&self, alone: Option<&Alone>) -> Summary {
        let summary = self.comparison.summary();
        let compared = matches!(summary.verdict, Verdict::Rollback(_)) && self.pair.is_some();
        let verdict = if alone.is_some_and(Alone::is_passed) && !compared {
            Verdict::Rollback(Regression::AbsoluteLimit)
        } else {
            self.told(summary.verdict)
        };
        let mirror = self.mirror.as_ref().and_then(MirrorGate::summary);
        Summary { verdict, mirror, alone: alone.map(Alone::summary), gates: self.gates.summaries(), ..summary }
    }

    /// The canary as it is judged by itself: because it has no control group, or beside one that counts users.
    fn alone(&self) -> Option<&Alone> {
        self.limit.as_ref().or(self.by_request.as_ref().map(ByRequest::canary))
    }

    /// What the canary did by itself, where it is held to an absolute limit.
    pub fn judged_alone(&self) -> Option<AloneSummary> {
        self.alone().map(Alone::summary)
    }

    /// Where the route stands.
    pub fn phase(&self) -> PhaseName {
        self.phase.name()
    }

    /// The number of the present trial of the canary: whatever outlives single requests and belongs to the evidence,
    /// such as which users have had an error, begins anew with a new number. Goes on where the state that was taken over stood.
    pub fn trial(&self) -> u64 {
        self.trial
    }

    /// Numbers trials after `last`, the last one of a rollout that this one takes the place of in the same process: what
    /// was assigned in that one's trials is no evidence here.
    pub fn number_trials_after(&mut self, last: u64) {
        self.trial += last + 1;
    }

    /// The route as the file has it.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The version in production now.
    pub fn serving(&self) -> &VersionId {
        match &self.identity.canary {
            Some(canary) if self.promoted && self.by_hand.is_none() => canary,
            Some(_) | None => &self.route.stable,
        }
    }

    /// The version that is tried, or was.
    pub fn canary(&self) -> Option<VersionId> {
        if let Phase::RollingBack(setback) | Phase::RolledBack(setback) = &self.phase {
            return Some(setback.version.clone());
        }
        match self.asked() {
            Split::Canary { canary, .. } => Some(canary),
            Split::Whole(whole) if whole != self.route.stable => Some(whole),
            Split::Whole(_) => self.identity.canary.clone(),
        }
    }

    /// What the file, the plan or an operator asks.
    fn asked(&self) -> Split {
        let stable = || Split::Whole(self.route.stable.clone());
        match &self.phase {
            Phase::Steady => self.by_hand.as_ref().map_or_else(|| self.file_split(), |by_hand| by_hand.split.clone()),
            Phase::Warming => stable(),
            Phase::Shifting(shifting) => self.step_split(shifting.step),
            Phase::Paused(paused) => paused.split.clone(),
            Phase::Promoting(_) | Phase::Baking => self.identity.canary.clone().map_or_else(stable, Split::Whole),
            Phase::RollingBack(_) | Phase::RolledBack(_) => {
                self.by_hand.as_ref().map_or_else(|| self.file_split(), |by_hand| by_hand.split.clone())
            }
        }
    }

    /// `asked` without quarantined versions.
    fn granted(&self, asked: &Split) -> Split {
        let home = || Split::Whole(self.route.stable.clone());
        match (&self.phase, asked) {
            (Phase::RollingBack(_) | Phase::RolledBack(_), _) => home(),
            (_, Split::Whole(whole)) if self.bars(whole) => home(),
            (_, Split::Canary { canary, stable, .. }) if self.bars(canary) => Split::Whole(stable.clone()),
            (_, Split::Whole(_) | Split::Canary { .. }) => asked.clone(),
        }
    }

    /// What the file asks of a route that does not move by itself, or that has finished moving.
    fn file_split(&self) -> Split {
        match &self.route.plan {
            Plan::Weights(split) => split.clone(),
            Plan::Rollout(plan) if self.promoted => Split::Whole(plan.canary.clone()),
            Plan::Rollout(_) => Split::Whole(self.route.stable.clone()),
        }
    }

    /// The plan that moves by itself, if the route has one.
    fn plan(&self) -> Option<&RolloutPlan> {
        match &self.route.plan {
            Plan::Rollout(plan) => Some(plan),
            Plan::Weights(_) => None,
        }
    }

    /// The steps of the plan; none for blue-green and for weights by hand.
    fn steps(&self) -> &[Step] {
        match self.plan().map(|plan| &plan.strategy) {
            Some(Strategy::Canary(steps)) => steps,
            Some(Strategy::BlueGreen) | None => &[],
        }
    }

    /// The split of step `index`.
    fn step_split(&self, index: usize) -> Split {
        let share = self.steps().get(index).map_or(Share::ZERO, |step| step.weight);
        match &self.identity.canary {
            Some(canary) => Split::canary(self.route.stable.clone(), canary.clone(), share),
            None => Split::Whole(self.route.stable.clone()),
        }
    }

    /// At step `index` of the plan as it is now, or at its last one; getting ready if it has no steps.
    fn at_step(&self, index: usize) -> Phase {
        match self.steps().len() {
            0 => Phase::Warming,
            steps => Phase::Shifting(Shifting { step: index.min(steps - 1), fresh: Tally::default() }),
        }
    }

    /// How many endpoints of `version` are ready.
    fn readiness(&self, version: &VersionId) -> Ready {
        self.ready.get(version).copied().unwrap_or_default()
    }

    /// Starts or ends the test that judges a canary by itself: one with all traffic, or one whose comparison is void.
    fn arm_limit(&mut self) {
        let desired = self.desired();
        let alone = match &desired.granted {
            Split::Whole(whole) => {
                *whole != self.route.stable && !(self.promoted && matches!(self.phase, Phase::Steady))
            }
            Split::Canary { share, .. } => *share == Share::WHOLE,
        };
        if !alone && !self.is_void() {
            self.limit = None;
        } else if self.limit.is_none() {
            let guard = &self.route.guard;
            self.limit = Some(match self.role {
                Role::Leader => Alone::new(self.comparison.bake_limit(guard), guard.false_rollback_budget),
                Role::Follower => Alone::new(CATASTROPHIC_RATE, self.comparison.fast_budget(self.edges)),
            });
        }
    }

    /// Moves to `phase` and tells of it.
    fn enter(&mut self, phase: Phase, told: (Decision, Cause), now: Time) -> Change {
        let (from, before) = (self.phase.name(), self.desired().granted);
        let evidence = self.evidence(told.0);
        self.phase = phase;
        self.since = now;
        self.alert = None;
        self.gates.forget_told();
        self.arm_limit();
        Change { evidence, ..self.change(told, from, before) }
    }

    /// What a decision rests on, as it stands before the decision is carried out; none where it rests on nothing seen.
    fn evidence(&self, decision: Decision) -> Option<Summary> {
        let alone = self.alone();
        let seen = self.pair.is_some() || alone.is_some();
        (seen && decision.rests_on_evidence()).then(|| self.summary_with(alone))
    }

    /// A change from `from` and `before` to where things stand now.
    fn change(&self, (decision, cause): (Decision, Cause), from: PhaseName, before: Split) -> Change {
        Change {
            decision,
            from,
            to: self.phase.name(),
            stable: self.route.stable.clone(),
            canary: self.canary(),
            before,
            after: self.desired().granted,
            cause,
            evidence: self.evidence(decision),
        }
    }

    /// Takes the canary back: weight 0, quarantine.
    fn take_back(&mut self, canary: &VersionId, cause: Cause, now: Time) -> Change {
        let serial = self.next_serial();
        self.take_back_as(serial, (canary, cause), now)
    }

    /// The same by decision number `serial`.
    fn take_back_as(&mut self, serial: u64, (canary, cause): (&VersionId, Cause), now: Time) -> Change {
        let (from, before) = (self.phase.name(), self.desired().granted);
        let evidence = self.evidence(Decision::Rollback);
        let why = cause.to_string();
        self.quarantine.bar(&self.route, canary, (why.clone(), serial));
        // A leader's own, too: it may be replaced before anybody has heard.
        let revision = revision_of(&self.route, canary);
        self.tripped = Some(Trip { version: canary.clone(), revision, why: why.clone(), serial });
        self.phase = Phase::RollingBack(Setback { version: canary.clone(), why });
        self.since = now;
        self.promoted = false;
        self.alert = None;
        self.unready_since = None;
        self.emptied_since = None;
        self.gates.forget_told();
        self.arm_limit();
        Change { evidence, ..self.change((Decision::Rollback, cause), from, before) }
    }

    /// Where a rollout that is stopped now would go on.
    fn stage(&self, now: Time) -> Stage {
        match &self.phase {
            Phase::Shifting(shifting) => Stage::Step(shifting.step),
            Phase::Baking => Stage::Baking(now.since(self.since)),
            Phase::Promoting(promoting) if self.route.live_service.is_some() => {
                Stage::Promoting { flipped: promoting.flipped }
            }
            Phase::Promoting(_) => Stage::Step(self.steps().len().saturating_sub(1)),
            Phase::Paused(paused) => paused.stage,
            Phase::Steady | Phase::Warming | Phase::RollingBack(_) | Phase::RolledBack(_) => Stage::Warming,
        }
    }

    /// Stopped where it stands.
    fn stopped(&self, why: String, now: Time) -> Phase {
        Phase::Paused(Paused { stage: self.stage(now), split: self.desired().granted, why, by_hand: false })
    }

    /// The phase of a stage that starts, or goes on, at `now`; and since when it counts.
    fn at_stage(&self, stage: Stage, now: Time) -> (Phase, Time) {
        match stage {
            Stage::Warming => (Phase::Warming, now),
            Stage::Step(step) => (self.at_step(step), now),
            Stage::Promoting { flipped } => (Phase::Promoting(Promoting { flipped }), now),
            Stage::Baking(done) => (Phase::Baking, now.minus(done)),
        }
    }

    /// What is judged from here on is fresh.
    fn begin_trial(&mut self) {
        self.pair = None;
        self.trial += 1;
        self.by_request = None;
        self.mismatch_told = false;
        self.verdict = Verdict::Continue(Waiting::NoCanaryTraffic);
    }

    /// Whether the present comparison means nothing, because requests are not divided as the weights say.
    fn is_void(&self) -> bool {
        let is_present = || self.pair.is_some() && tick::compared(&self.desired().granted) == self.pair;
        self.comparison.is_void() && is_present()
    }

    /// Whether the present build of `version` was taken back.
    fn bars(&self, version: &VersionId) -> bool {
        self.quarantine.held(&self.route, version).is_some()
    }

    /// Whether the canary of the plan was taken back.
    fn is_barred(&self) -> bool {
        self.identity.canary.as_ref().is_some_and(|canary| self.bars(canary))
    }
}

/// The gate that copies of the route's requests are for; none where none can be sent (they go over HTTP/1.1).
fn gate_of(route: &Route) -> Option<MirrorGate> {
    let is_sent = match route.protocol {
        Protocol::Http1 => true,
        Protocol::H2c | Protocol::H2 => false,
    };
    let mirror = route.mirror.as_ref().filter(|mirror| is_sent && mirror.share > Share::ZERO)?;
    Some(MirrorGate::new(mirror, &route.guard))
}
