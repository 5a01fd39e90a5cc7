//! Time passes: judge what was seen, take back what is bad, move on what is proven.

use std::time::Duration;

use pointsman_config::{Guard, OnRegression, Promotion, Route, Share, Split, Step, Strategy, VersionId};

use super::{Alert, Rollout};
use crate::by_request::ByRequest;
use crate::change::{Cause, Change, Decision};
use crate::findings::Subject;
use crate::input::{Mirrored, Observed, Ready, Seen};
use crate::mirror_gate::{MirrorGate, MirrorVerdict};
use crate::phase::{Paused, Phase, Promoting, Setback, Shifting, Stage};
use crate::tally::{Requests, Row, Tally};
use crate::time::Time;
use crate::trip::Role;
use crate::verdict::{Regression, Verdict, Waiting};

/// A canary that has traffic and no ready endpoint is taken back after this long; the edge sends its share to stable
/// in the meantime. Long enough for a restart of one process, short enough for a person who waits. One that has not been
/// ready since this rollout began here, as after a restart of the edge, gets the time that its first checks may take.
const UNREADY_LIMIT: Duration = Duration::from_secs(10);
/// A step is long enough when a canary that fails at `max_error_rate` would have shown an error with this probability.
const STEP_POWER: f64 = 0.9;

impl Rollout {
    pub(super) fn tick(&mut self, seen: &Seen<'_>, now: Time) -> Vec<Change> {
        if self.ready != *seen.ready {
            self.ready.clone_from(seen.ready);
        }
        let is_touched = self.look_around(seen, now);
        if self.role == Role::Follower {
            return self.tick_following(seen, now).into_iter().collect();
        }
        self.look_at_gates(seen, now);
        if !seen.acknowledged {
            self.note_opposition();
        }
        let found = self.judge(seen.rows);
        self.compare_mirrored(seen.mirrored);
        self.note_readiness(now);
        if let Some(cause) = self.setback(found, now) {
            let changes = self.answer_setback(cause, now).into_iter().collect();
            return self.with_foreign(changes, is_touched, now);
        }
        self.alert = None;
        let changes = self.doubt(now).into_iter().collect();
        let changes = self.with_foreign(changes, is_touched, now);
        if changes.is_empty() { self.advance(seen, now).into_iter().collect() } else { changes }
    }

    /// What was decided, and what that somebody else has a hand on the live Service means for the rest.
    fn with_foreign(&mut self, mut changes: Vec<Change>, is_news: bool, now: Time) -> Vec<Change> {
        changes.extend(self.heed_foreign(is_news, now));
        changes
    }

    /// What the tests prove against the canary, with what was seen in this tick.
    fn judge(&mut self, seen: &[Observed]) -> Option<Regression> {
        let (compared, over_limit) = self.feed(seen);
        match self.verdict {
            Verdict::Rollback(regression) if compared => Some(regression),
            Verdict::Rollback(_) | Verdict::Promote | Verdict::Continue(_) | Verdict::Inconclusive => {
                over_limit.then_some(Regression::AbsoluteLimit)
            }
        }
    }

    /// Feeds the tests; whether there is a comparison, and whether the limit for a canary by itself is broken.
    pub(super) fn feed(&mut self, seen: &[Observed]) -> (bool, bool) {
        let granted = self.desired().granted;
        let pair = compared(&granted);
        let over_by_request = if let Some(pair) = &pair {
            self.compare(pair, seen)
        } else {
            let serving = self.serving().clone();
            self.comparison.baseline(tally_of(&serving, seen));
            false
        };
        let over_limit = self.judge_alone(&granted, seen) || over_by_request;
        (pair.is_some(), over_limit)
    }

    /// Compares the two; true once the canary's requests, one by one, are proven to fail more than is allowed.
    fn compare(&mut self, pair: &(VersionId, VersionId), seen: &[Observed]) -> bool {
        if self.pair.as_ref() != Some(pair) {
            self.comparison.restart();
            self.by_request = None;
            self.pair = Some(pair.clone());
        }
        let (stable, canary) = pair;
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let trial = self.trial;
        let of_pair =
            |seen: &&Observed| seen.trial == trial && seen.stable == *stable && seen.canary.as_ref() == Some(canary);
        for seen in seen.iter().filter(of_pair) {
            self.comparison.draw(seen.row.weight, seen.drawn);
            rows.push(seen.row);
        }
        let over = self.judge_by_request(seen.iter().filter(of_pair));
        let verdict = self.comparison.tick(&rows);
        self.verdict = self.told(verdict);
        if let Phase::Shifting(Shifting { step, fresh }) = &mut self.phase {
            let weight = self.route.plan.step(*step).map(|step| step.weight);
            for row in rows.iter().filter(|row| Some(row.weight) == weight) {
                *fresh += row.canary;
            }
        }
        self.rows = rows;
        over
    }

    /// Looks at every request where the comparison counts users.
    fn judge_by_request<'a>(&mut self, seen: impl Iterator<Item = &'a Observed>) -> bool {
        let mut tick = None::<Requests>;
        for requests in seen.filter_map(|seen| seen.requests) {
            *tick.get_or_insert_default() += requests;
        }
        if tick.is_some() && self.by_request.is_none() {
            self.by_request = Some(ByRequest::new(&self.route.guard));
        }
        self.by_request.as_mut().is_some_and(|judge| judge.tick(tick.unwrap_or_default()))
    }

    /// Feeds the absolute limit where the canary is judged by itself; true once it is broken. While stable is still there
    /// and fails as well, the canary cannot be blamed.
    fn judge_alone(&mut self, granted: &Split, seen: &[Observed]) -> bool {
        let excused = self.is_void() && self.comparison.is_in_hold();
        let Some(limit) = self.limit.as_mut().filter(|_| !excused) else { return false };
        let alone = match granted {
            Split::Whole(whole) => whole,
            Split::Canary { canary, .. } => canary,
        };
        let trial = self.trial;
        limit.tick(tally_of(alone, seen.iter().filter(|seen| seen.trial == trial)))
    }

    /// Feeds the gate with what copies of stable's requests showed.
    fn compare_mirrored(&mut self, mirrored: &[Mirrored]) {
        let (stable, Some(gate)) = (&self.route.stable, &mut self.mirror) else { return };
        for seen in mirrored {
            if seen.stable == *stable && seen.version == *gate.version() {
                gate.observe(seen.tally);
            }
        }
    }

    /// What others say about the canary.
    fn look_at_gates(&mut self, seen: &Seen<'_>, now: Time) {
        let subject = if seen.gates.is_empty() { None } else { self.on_trial() };
        self.gates.look(seen.gates, subject, now);
    }

    /// Whom gates are asked about: the canary while it is tried, until its bake is over.
    pub fn on_trial(&self) -> Option<Subject> {
        let version = self.canary()?;
        let has_traffic = self.desired().granted.share_of(&version) > Share::ZERO;
        let is_tried = match &self.phase {
            Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) | Phase::Promoting(_) | Phase::Baking => true,
            Phase::Steady => has_traffic && (!self.promoted || self.by_hand.is_some()),
            Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        };
        // The phase, or its step, came with the traffic that it has now, whichever edge decided that.
        let traffic_since = has_traffic.then_some(self.since);
        is_tried.then_some(Subject { version, trial: self.trial, traffic_since })
    }

    /// What copies of requests say about the canary of this rollout, as long as there is something to hold: not once it
    /// has all traffic, nor when it was taken back.
    pub(super) fn mirror_verdict(&self) -> MirrorVerdict {
        let on_trial = match &self.phase {
            Phase::Steady | Phase::Warming | Phase::Shifting(_) | Phase::Paused(_) => !self.promoted,
            Phase::Promoting(_) | Phase::Baking | Phase::RollingBack(_) | Phase::RolledBack(_) => false,
        };
        let is_canary = |gate: &&MirrorGate| on_trial && self.identity.canary.as_ref() == Some(gate.version());
        self.mirror.as_ref().filter(is_canary).map_or(MirrorVerdict::Open, MirrorGate::verdict)
    }

    /// `verdict`, unless something beside the comparison holds what it would allow.
    pub(super) fn told(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Promote | Verdict::Continue(Waiting::Collecting) if self.looks_worse_by_request() => {
                Verdict::Continue(Waiting::Suspect)
            }
            Verdict::Promote | Verdict::Continue(_) | Verdict::Inconclusive | Verdict::Rollback(_) => {
                self.with_gates(self.with_mirror(verdict))
            }
        }
    }

    /// `verdict`, unless somebody else holds the promotion that it would allow.
    fn with_gates(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Promote if !self.gates.are_open() => Verdict::Continue(Waiting::GateHolds),
            Verdict::Promote | Verdict::Continue(_) | Verdict::Inconclusive | Verdict::Rollback(_) => verdict,
        }
    }

    fn looks_worse_by_request(&self) -> bool {
        self.by_request.as_ref().is_some_and(ByRequest::looks_worse)
    }

    /// `verdict`, unless copies of requests hold what it would allow, or are what is wrong.
    fn with_mirror(&self, verdict: Verdict) -> Verdict {
        match (verdict, self.mirror_verdict()) {
            (Verdict::Promote | Verdict::Continue(Waiting::Collecting), MirrorVerdict::Disagrees) => {
                Verdict::Continue(Waiting::MirrorDisagreement)
            }
            (Verdict::Promote, MirrorVerdict::Pending) => Verdict::Continue(Waiting::MirrorPending),
            (_, MirrorVerdict::Open | MirrorVerdict::Pending | MirrorVerdict::Disagrees) => verdict,
        }
    }

    /// Tells, once, what makes the evidence doubtful or forbids going on without being the canary's regression.
    fn doubt(&mut self, now: Time) -> Option<Change> {
        if self.is_void() && !self.mismatch_told {
            self.mismatch_told = true;
            let change = self.stop_for_mismatch(now);
            self.arm_limit();
            return Some(change);
        }
        if self.mirror_verdict() == MirrorVerdict::Disagrees && !self.disagreement_told {
            self.disagreement_told = true;
            let cause = self.mirror.as_ref().and_then(disagreement)?;
            return Some(self.change((Decision::Alert, cause), self.phase.name(), self.desired().granted));
        }
        None
    }

    /// A plan that moves by itself stops where it stands, since its evidence is void; everything else is only told.
    fn stop_for_mismatch(&mut self, now: Time) -> Change {
        let cause = self.mismatch();
        if matches!(self.phase, Phase::Shifting(_)) {
            let why = self.mismatch_in_words();
            self.enter(self.stopped(why, now), (Decision::Pause, cause), now)
        } else {
            self.change((Decision::Alert, cause), self.phase.name(), self.desired().granted)
        }
    }

    /// How far the split is from what is configured.
    pub(super) fn mismatch(&self) -> Cause {
        let split = self.comparison.split();
        Cause::SplitMismatch {
            observed: split.observed.unwrap_or_default(),
            configured: split.configured.unwrap_or_default(),
            drawn: split.drawn.canary + split.drawn.stable,
        }
    }

    /// Remembers since when a canary that should serve cannot. A version that was promoted long ago is no canary any
    /// more: the old one takes over while it has no ready endpoint, and that is all.
    fn note_readiness(&mut self, now: Time) {
        if self.readiness(&self.route.stable).up > 0 {
            self.formerly = None;
        }
        for (version, ready) in &self.ready {
            if ready.up > 0 && !self.been_up.contains(version) {
                self.been_up.insert(version.clone());
            }
        }
        let finished = self.promoted && matches!(self.phase, Phase::Steady) && self.by_hand.is_none();
        let granted = self.desired().granted;
        let should_serve = match &granted {
            Split::Canary { canary, share, .. } => (*share > Share::ZERO).then_some(canary),
            Split::Whole(whole) => (*whole != self.route.stable && !finished).then_some(whole),
        };
        let down = |version: &VersionId| self.ready.get(version).is_some_and(|ready| ready.up == 0);
        // While stable is down as well the cause is likely a common one, and there is nothing to go back to.
        let cannot = should_serve.is_some_and(down) && !down(&self.route.stable);
        self.unready_since = if cannot { self.unready_since.or(Some(now)) } else { None };
    }

    /// Why the canary must go back, if it must. An empty Service comes before everything: it is answered whatever the guard
    /// says, and what the guard only tells of must not stand in its way. Of the rest it is the first that was not told yet.
    fn setback(&self, found: Option<Regression>, now: Time) -> Option<Cause> {
        if matches!(self.phase, Phase::RollingBack(_) | Phase::RolledBack(_)) {
            return None;
        }
        if let Some(emptied) = self.emptied(now) {
            return Some(emptied);
        }
        let proven = found.map(|regression| Cause::Evidence { regression });
        let unready = self.unready_since.map(|since| now.since(since));
        let unready = unready.filter(|unready| *unready >= self.unready_limit());
        let unready = unready.map(|unready| Cause::NotReady { seconds: unready.as_secs() });
        let mut causes = proven.into_iter().chain(unready).chain(self.gates.failures());
        let first = causes.next()?;
        let is_news = |cause: &Cause| !self.alert.as_ref().is_some_and(|alert| alert.tells_of(cause));
        if is_news(&first) {
            return Some(first);
        }
        Some(causes.find(is_news).unwrap_or(first))
    }

    /// How long the canary may be without a ready endpoint.
    fn unready_limit(&self) -> Duration {
        let has_been_up = self.canary().is_some_and(|canary| self.been_up.contains(&canary));
        if has_been_up { UNREADY_LIMIT } else { UNREADY_LIMIT.max(first_checks(&self.route)) }
    }

    /// Takes the canary back, or, where the guard or the state of stable forbids that, alerts once.
    pub(super) fn answer_setback(&mut self, cause: Cause, now: Time) -> Option<Change> {
        let canary = self.canary()?;
        let way_back = self.readiness(&self.route.stable).up > 0;
        // An empty Service is no regression that a guard could tolerate: whoever uses it gets nothing.
        let is_empty = matches!(cause, Cause::EmptyService { .. });
        if way_back && (is_empty || self.route.guard.on_regression == OnRegression::Rollback) {
            return Some(self.take_back(&canary, cause, now));
        }
        if self.alert.as_ref().is_some_and(|alert| alert.tells_of(&cause)) {
            return None;
        }
        let mut told = self.alert.take().map(|alert| alert.told).unwrap_or_default();
        told.push(cause.clone());
        let stays = if way_back { "the guard only alerts" } else { "stable has no ready endpoint" };
        let why = format!("{cause}; not taken back because {stays}");
        let change = self.stop_for_alert(cause, &why, now);
        self.alert = Some(Alert { told, why });
        Some(change)
    }

    /// A plan that moves by itself stops with an alert; weights by hand stay as they are.
    fn stop_for_alert(&mut self, cause: Cause, why: &str, now: Time) -> Change {
        let told = (Decision::Alert, cause);
        let may_pause = self.route.guard.on_regression == OnRegression::Alert;
        if may_pause && matches!(self.phase, Phase::Shifting(_) | Phase::Baking) {
            self.enter(self.stopped(why.to_owned(), now), told, now)
        } else {
            self.change(told, self.phase.name(), self.desired().granted)
        }
    }

    /// Moves on where the phase's condition is met.
    fn advance(&mut self, seen: &Seen<'_>, now: Time) -> Option<Change> {
        if self.lets_alone() {
            return self.begin_unopposed(seen.acknowledged, now);
        }
        if self.custody.open.is_some() {
            return None;
        }
        match self.phase.clone() {
            Phase::Steady | Phase::Paused(_) | Phase::RolledBack(_) => None,
            Phase::Warming => self.advance_warming(now),
            Phase::Shifting(shifting) => self.advance_step(shifting, now),
            Phase::Promoting(promoting) => self.advance_promotion(promoting, seen, now),
            Phase::Baking => self.advance_bake(now),
            Phase::RollingBack(setback) => {
                let told = plan(Decision::RollbackDone, "every request goes to stable");
                let is_home = self.is_acknowledged() && self.has_flipped_to(&self.route.stable);
                (is_home && self.has_moved(seen)).then(|| self.enter(self.after_setback(setback), told, now))
            }
        }
    }

    /// Whether the edge applies what is granted.
    pub(super) fn has_moved(&self, seen: &Seen<'_>) -> bool {
        *seen.applied == self.desired().granted
    }

    /// A plan whose own canary was not the one that was taken back waits for a person; everything else rests.
    fn after_setback(&self, setback: Setback) -> Phase {
        if !self.identity.by_plan || self.is_barred() {
            return Phase::RolledBack(setback);
        }
        let split = Split::Whole(self.route.stable.clone());
        let why = format!("{}, set by hand, was taken back: {}", setback.version, setback.why);
        Phase::Paused(Paused { stage: Stage::Warming, split, why, by_hand: true })
    }

    fn advance_warming(&mut self, now: Time) -> Option<Change> {
        let plan_of_route = self.plan()?;
        let ready = self.readiness(&plan_of_route.canary);
        let blue_green = plan_of_route.strategy == Strategy::BlueGreen;
        let automatic = plan_of_route.promotion == Promotion::Automatic;
        let deadline = plan_of_route.step_deadline;
        let may_move = if blue_green { automatic } else { self.readiness(&self.route.stable).up > 0 };
        if all_up(ready) && self.mirror_verdict() == MirrorVerdict::Open && may_move {
            let change = match self.gates.are_open() {
                false => self.tell_hold(),
                true if blue_green => {
                    self.promote(plan(Decision::Promote, "blue-green: every endpoint of the canary is ready"), now)
                }
                true => Some(self.enter_step(0, "every endpoint of the canary is ready", now)),
            };
            if change.is_some() {
                return change;
            }
        }
        let is_over = now.since(self.since) >= deadline && self.gates.let_end(deadline, now);
        is_over.then(|| self.pause_for(self.next_in_words(now), now))
    }

    fn advance_step(&mut self, shifting: Shifting, now: Time) -> Option<Change> {
        let step = *self.steps().get(shifting.step)?;
        let (deadline, automatic) =
            self.plan().map(|plan| (plan.step_deadline, plan.promotion == Promotion::Automatic))?;
        let lasted = now.since(self.since);
        let last = shifting.step + 1 == self.steps().len();
        if self.step_is_done(&shifting, &step, now) {
            let change = if last {
                self.advance_last_step(automatic, now)
            } else if self.gates.are_open() {
                let reason = "the step held, with enough requests and no suspicion";
                Some(self.enter_step(shifting.step + 1, reason, now))
            } else {
                self.tell_hold()
            };
            if change.is_some() {
                return change;
            }
        }
        let is_over = lasted >= step.hold.saturating_add(deadline) && self.gates.let_end(deadline, now);
        is_over.then(|| self.pause_for(self.next_in_words(now), now))
    }

    /// What becomes of the last step, once it has held.
    fn advance_last_step(&mut self, automatic: bool, now: Time) -> Option<Change> {
        match self.verdict {
            Verdict::Promote if automatic => {
                self.promote(plan(Decision::Promote, "proven to be no worse than stable"), now)
            }
            Verdict::Continue(Waiting::GateHolds) if automatic => self.tell_hold(),
            Verdict::Inconclusive if automatic && self.gates.let_end(self.route.guard.promotion.max_duration, now) => {
                Some(self.pause_for("the proof that the canary is no worse than stable".to_owned(), now))
            }
            Verdict::Promote | Verdict::Continue(_) | Verdict::Inconclusive | Verdict::Rollback(_) => None,
        }
    }

    /// Tells, once in each step, of a gate that holds what would go on otherwise.
    fn tell_hold(&mut self) -> Option<Change> {
        let cause = self.gates.tell_hold()?;
        Some(self.change((Decision::Hold, cause), self.phase.name(), self.desired().granted))
    }

    fn advance_bake(&mut self, now: Time) -> Option<Change> {
        let bake = self.plan()?.bake;
        if now.since(self.since) < bake {
            return None;
        }
        if self.gates.are_suspicious() {
            return self.tell_hold();
        }
        self.promoted = true;
        self.by_hand = None;
        self.comparison.new_baseline();
        self.begin_trial();
        self.begin_mirror();
        Some(self.enter(Phase::Steady, plan(Decision::Finish, "it served well through the bake"), now))
    }

    /// Whether a step has held long enough, seen enough fresh requests, and nothing speaks against going on.
    pub(super) fn step_is_done(&self, shifting: &Shifting, step: &Step, now: Time) -> bool {
        now.since(self.since) >= step.hold && shifting.fresh.requests >= self.step_requests() && !self.held_back()
    }

    /// Whether the evidence, apart from gates, forbids going on: a suspicion, a common cause, no data, a split that is not as configured, or
    /// answers to copied requests that may be other ones.
    pub(super) fn held_back(&self) -> bool {
        let waiting = matches!(
            self.verdict,
            Verdict::Continue(
                Waiting::Suspect
                    | Waiting::CommonCauseHold
                    | Waiting::BaselineFailingHold
                    | Waiting::NoCanaryTraffic
                    | Waiting::SplitMismatch
                    | Waiting::MirrorPending
                    | Waiting::MirrorDisagreement
            )
        );
        waiting
            || self.comparison.is_suspect()
            || self.looks_worse_by_request()
            || self.mirror_verdict() != MirrorVerdict::Open
    }

    /// How many answers of the canary a step needs.
    pub(super) fn step_requests(&self) -> u64 {
        step_requests(&self.route.guard)
    }

    /// Gives the canary the weight of step `index`.
    fn enter_step(&mut self, index: usize, reason: &str, now: Time) -> Change {
        let phase = self.at_step(index);
        self.enter(phase, plan(Decision::Step, reason), now)
    }

    /// Gives the canary all traffic, if it can take it and the way back is proven.
    pub(super) fn promote(&mut self, told: (Decision, Cause), now: Time) -> Option<Change> {
        let canary = self.identity.canary.clone()?;
        let may = self.readiness(&canary).up > 0 && self.way_back_doubt().is_none();
        may.then(|| self.enter(Phase::Promoting(Promoting::default()), told, now))
    }

    /// Stops because something stayed undecided for too long.
    pub(super) fn pause_for(&mut self, waiting_for: String, now: Time) -> Change {
        let cause = Cause::Deadline { waiting_for };
        self.enter(self.stopped(cause.to_string(), now), (Decision::Pause, cause), now)
    }
}

/// How many answers of the canary a step needs: so many that a canary failing at `max_error_rate` would have shown
/// an error with probability 0.9, that is `ln(1 - 0.9) / ln(1 - max_error_rate)` rounded up.
pub(crate) fn step_requests(guard: &Guard) -> u64 {
    let rate = guard.max_error_rate.clamp(1e-6, 0.999_999);
    let needed = (-STEP_POWER).ln_1p() / (-rate).ln_1p();
    ceil_to_count(needed)
}

/// What copies of requests showed; none where nothing is to be held for it.
fn disagreement(gate: &MirrorGate) -> Option<Cause> {
    let seen = gate.summary()?;
    Some(Cause::MirrorDisagreement {
        disagreement: seen.disagreement.unwrap_or_default(),
        noise: seen.noise.unwrap_or_default(),
        gate: seen.gate?,
    })
}

/// A decision of the plan.
fn plan(decision: Decision, reason: &str) -> (Decision, Cause) {
    (decision, Cause::Plan { reason: reason.to_owned() })
}

/// Who is compared with whom: both must have traffic at the same time.
pub(super) fn compared(split: &Split) -> Option<(VersionId, VersionId)> {
    match split {
        Split::Canary { stable, canary, share } if Share::ZERO < *share && *share < Share::WHOLE => {
            Some((stable.clone(), canary.clone()))
        }
        Split::Canary { .. } | Split::Whole(_) => None,
    }
}

/// Whether every endpoint of a version is ready, and there is one.
fn all_up(ready: Ready) -> bool {
    ready.up > 0 && ready.up == ready.total
}

/// What an endpoint may take to pass its first checks: those that bring it up, and every call of its warm-up.
fn first_checks(route: &Route) -> Duration {
    let check = &route.health_check;
    let checks = check.interval.saturating_add(check.timeout).saturating_mul(check.healthy_after);
    let warm_up =
        route.warm_up.as_ref().map_or(Duration::ZERO, |warm_up| warm_up.timeout.saturating_mul(warm_up.calls));
    checks.saturating_add(warm_up)
}

/// Every request that was seen of one version, whatever side it stood on.
fn tally_of<'a>(version: &VersionId, seen: impl IntoIterator<Item = &'a Observed>) -> Tally {
    let mut tally = Tally::default();
    for observed in seen {
        let Row { stable, canary, .. } = observed.row;
        let requests = observed.requests.unwrap_or(Requests { canary, stable });
        if observed.stable == *version {
            tally += requests.stable;
        }
        if observed.canary.as_ref() == Some(version) {
            tally += requests.canary;
        }
    }
    tally
}

/// A positive number rounded up to a count.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number below 2^53"
)]
fn ceil_to_count(number: f64) -> u64 {
    number.ceil() as u64
}
