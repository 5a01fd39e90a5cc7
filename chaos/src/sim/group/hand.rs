//! The leader's hand on the live Service: what shall stand there, one write at a time, and the way back that is rehearsed. What
//! to write is planned by the code that the edge runs.

use std::time::{Duration, SystemTime};

use pointsman_config::{Share, Split, VersionId};
use pointsman_kubernetes::annotation::{Decided, Fence, State};
use pointsman_kubernetes::{Document, Observed, Obstacle, OnForeign, Selected, Wanted, claim, plan};
use pointsman_rollout::{Change, PhaseName, Ready, Resume, Role, Saved, WayBack};
use rand::RngExt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::cluster::{Call, DEADLINE, Fate};
use super::Around;
use super::member::{HEARD_WITHIN, Member, Standing};
use super::witness::Write;

/// The first pause after something went wrong; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two rehearsals of the way back, and how old one may be.
const REHEARSE_EVERY: Duration = Duration::from_secs(10);
const FRESH: Duration = Duration::from_secs(30);
/// What is late lands this long after nobody waits for it any more, at most.
const LATEST: Duration = Duration::from_secs(6);
/// Elapsed time is kept when it has grown by a tenth, within these bounds.
const SAVE_EVERY_AT_LEAST: Duration = Duration::from_secs(1);
const SAVE_EVERY_AT_MOST: Duration = Duration::from_secs(10);
/// Decisions that are kept at most.
const DECISIONS: usize = 64;

/// What shall stand on the live Service, and what came of it.
#[derive(Default)]
pub(super) struct Hand {
    saved: Option<Saved>,
    decisions: Vec<Decided>,
    cut: u64,
    last_id: u64,
    /// The number of what shall be kept last, and of what stands there.
    put: u64,
    written: u64,
    saved_at: Duration,
    decided_at: Duration,
    /// The writing of the state that this process has weighed.
    looked_at: Option<u64>,
    busy_until: Duration,
    pause: Duration,
    /// That for which nothing is left to be done.
    done: Option<Done>,
    /// When going back was rehearsed last, and whether it would have worked.
    rehearsed: Option<(Duration, bool)>,
}

/// Everything that a plan depends on.
#[derive(PartialEq)]
struct Done {
    put: u64,
    made_from: String,
    selected: Option<VersionId>,
    retired: Option<VersionId>,
    on_foreign: OnForeign,
    fence: Fence,
}

impl Hand {
    /// What shall be kept from now on.
    pub(super) fn put(&mut self, saved: Saved, now: Duration) {
        self.put += 1;
        (self.saved, self.saved_at) = (Some(saved), now);
    }

    /// This was decided, at this time of day.
    pub(super) fn decided(&mut self, changes: &[Change], at: SystemTime, now: Duration) {
        self.decided_at = now;
        let at = OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default();
        for change in changes {
            self.last_id += 1;
            self.decisions.push(Decided { id: self.last_id, at: at.clone(), change: change.clone() });
        }
        let many = self.decisions.len().saturating_sub(DECISIONS);
        self.decisions.drain(..many);
        self.cut += u64::try_from(many).unwrap_or_default();
    }

    /// This was decided before, by whoever wrote it.
    pub(super) fn go_on_after(&mut self, state: Option<&State>) {
        self.looked_at = state.map(|state| state.serial);
        let Some(state) = state else { return };
        self.last_id = self.last_id.max(state.decisions.last().map_or(0, |decided| decided.id));
        (self.decisions, self.cut) = (state.decisions.clone(), state.cut);
    }

    /// Whether everything that was put stands there.
    pub(super) fn is_written(&self) -> bool {
        self.written >= self.put
    }

    fn is_save_due(&self, phase: PhaseName, now: Duration) -> bool {
        let patience = now.saturating_sub(self.decided_at) / 10;
        let due = now.saturating_sub(self.saved_at) >= patience.clamp(SAVE_EVERY_AT_LEAST, SAVE_EVERY_AT_MOST);
        due && matches!(phase, PhaseName::Warming | PhaseName::Shifting | PhaseName::Baking)
    }

    /// A call came to nothing after `took`.
    fn fails(&mut self, took: Duration, now: Duration) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.busy_until = now + took + self.pause;
    }

    /// A call was answered.
    pub(super) fn is_free(&mut self, now: Duration) {
        (self.pause, self.busy_until) = (Duration::ZERO, now);
    }
}

impl Member {
    /// One round: at most one write.
    pub(super) fn reconcile(&mut self, around: &mut Around) {
        let (now, clock) = (around.now, self.lease_clock(around.now));
        if self.hand.is_save_due(self.rollout.phase(), now) {
            self.hand.put(self.rollout.kept(self.clock(now)), now);
        }
        let Standing::Leads { term } = self.standing else { return };
        let fence = self.seat.fence(clock).filter(|fence| fence.term == term);
        let Some((fence, observed)) = fence.zip(self.sight.observed.clone()) else { return };
        if now < self.hand.busy_until || self.was_overtaken(&observed, &fence, around) {
            return;
        }
        let done = self.wish(&observed, &fence);
        if self.hand.done.as_ref() == Some(&done) {
            self.rehearse(around);
            return;
        }
        let is_answered = matches!(done.on_foreign, OnForeign::Adopt | OnForeign::Restore);
        let is_claim = !is_answered && observed.fence.read() != Some(&fence);
        match self.document(&observed, &done, is_claim) {
            Ok(Some(document)) => self.send(document, (&done, is_claim), &observed, around),
            Ok(None) => {
                (self.hand.written, self.hand.done) = (done.put, Some(done));
            }
            Err(Obstacle::Superseded { by }) => self.seat.raise_above(by.term),
            Err(Obstacle::Foreign(_)) => self.hand.done = Some(done),
            Err(obstacle @ (Obstacle::Unclaimed | Obstacle::NoSelector | Obstacle::TooLarge(_))) => {
                around.witness.found("a write that is never made", now, &obstacle.to_string());
                self.hand.done = Some(done);
            }
        }
    }

    /// Whether another process wrote since this one looked: what it wrote last is weighed before it is written over.
    fn was_overtaken(&mut self, observed: &Observed, fence: &Fence, around: &mut Around) -> bool {
        let state = observed.state.read().filter(|state| state.route == self.route.name);
        let serial = state.map(|state| state.serial);
        if observed.fence.read() == Some(fence) || serial <= self.hand.looked_at {
            return false;
        }
        let found = state.map(|state| state.saved.clone());
        self.hand.looked_at = serial;
        self.knows.learn(&around.witness.on_service().clone());
        let changes = self.rollout.weigh(found, self.clock(around.now));
        self.note(&changes, around);
        true
    }

    fn wish(&self, observed: &Observed, fence: &Fence) -> Done {
        let desired = self.rollout.desired();
        Done {
            put: self.hand.put,
            made_from: observed.resource_version.clone(),
            on_foreign: self.on_foreign(observed, desired.selected.as_ref()),
            selected: desired.selected,
            retired: desired.retired,
            fence: fence.clone(),
        }
    }

    /// What to do about somebody else's change: what was said about just that one; until then it stays to be seen.
    fn on_foreign(&self, observed: &Observed, selected: Option<&VersionId>) -> OnForeign {
        let Some(foreign) = observed.foreign(&self.route.name) else { return OnForeign::Refuse };
        let Some((to, how)) = self.rollout.answer_to_foreign() else { return OnForeign::Leave };
        let is_about = (&to.by, &to.what, &to.when) == (&foreign.by, &foreign.what, &foreign.when);
        match how {
            Resume::Adopt if is_about => OnForeign::Adopt,
            Resume::Restore if is_about && selected.is_some() => OnForeign::Restore,
            Resume::Adopt | Resume::Restore | Resume::GoOn => OnForeign::Leave,
        }
    }

    fn document(&self, observed: &Observed, done: &Done, is_claim: bool) -> Result<Option<Document>, Obstacle> {
        let Some((saved, live)) = self.hand.saved.as_ref().zip(self.route.live_service.as_ref()) else {
            return Ok(None);
        };
        let selected = done.selected.as_ref().map(|version| Selected { key: &live.selector_key, version });
        let wanted = Wanted {
            selected,
            decisions: &self.hand.decisions,
            cut: self.hand.cut,
            retired: done.retired.as_ref(),
            on_foreign: done.on_foreign,
            ..Wanted::of(&self.route.name, &done.fence, saved)
        };
        if is_claim { claim(observed, &wanted) } else { plan(observed, &wanted) }
    }

    fn send(&mut self, document: Document, (done, is_claim): (&Done, bool), observed: &Observed, around: &mut Around) {
        let now = around.now;
        let is_touched = observed.foreign(&self.route.name).is_some();
        let mut write = Write {
            document,
            fence: done.fence.clone(),
            edge: self.edge,
            by: self.name.clone(),
            lands: now,
            is_awaited: true,
            is_claim,
            on_foreign: is_touched.then_some(done.on_foreign),
            main: self.main_version(),
            barred: self.barred(),
            knew: self.knows.clone(),
            had_ready: around.witness.had_ready_of_late(now),
        };
        let fate = if self.is_reached(now) { around.cluster.fate(Call::Patch) } else { Fate::Never };
        match fate {
            Fate::After(Duration::ZERO) => {
                around.land(&write);
                self.hear_of_write(around);
            }
            Fate::After(span) => {
                (write.lands, self.hand.busy_until) = (now + span, now + span);
                around.under_way.push(write);
            }
            Fate::Refused => self.hand.fails(Duration::ZERO, now),
            Fate::Never => self.hand.fails(DEADLINE, now),
            Fate::Late => {
                let late = around.chance.random_range(0..=LATEST.as_secs());
                (write.lands, write.is_awaited) = (now + DEADLINE + Duration::from_secs(late), false);
                around.under_way.push(write);
                self.hand.fails(DEADLINE, now);
            }
        }
    }

    /// A write was answered: what stands there now is looked at once more.
    pub(super) fn hear_of_write(&mut self, around: &mut Around) {
        self.hand.is_free(around.now);
        let shown = around.cluster.shown();
        self.sight.take_in(&shown, around.now);
    }

    /// The version to which a rollback would go; none where there is nothing to go back from.
    fn goes_back_to(&self) -> Option<&VersionId> {
        let at_rest = matches!(self.rollout.phase(), PhaseName::Steady | PhaseName::RolledBack);
        let has_share = |asked: &Split| matches!(asked, Split::Canary { share, .. } if *share > Share::ZERO);
        (!at_rest || has_share(&self.rollout.desired().asked)).then_some(&self.route.stable)
    }

    /// Tries the write that would go back, now and then; it is answered and not done.
    fn rehearse(&mut self, around: &mut Around) {
        let now = around.now;
        let is_due = self.hand.rehearsed.is_none_or(|(at, _)| now.saturating_sub(at) >= REHEARSE_EVERY);
        if self.goes_back_to().is_none() || !is_due {
            return;
        }
        let works = self.is_reached(now) && matches!(around.cluster.fate(Call::Patch), Fate::After(_));
        self.hand.rehearsed = Some((now, works));
    }

    /// Whether one could go back; `others` are the edges that serve beside this one.
    pub(super) fn judge_way_back(&self, others: &[usize], now: Duration) -> WayBack {
        if self.rollout.role() == Role::Follower {
            let told = self.following.way_back.as_ref().filter(|(_, at)| now.saturating_sub(*at) < HEARD_WITHIN);
            return told
                .map_or_else(|| unproven("the edge that leads has not been heard of late"), |(told, _)| told.clone());
        }
        let Ready { up, total } = self.ready.get(&self.route.stable).copied().unwrap_or_default();
        if up == 0 || up * 7 < total * 5 {
            return unproven("too few endpoints of the old version are ready");
        }
        let fresh = self.hand.rehearsed.filter(|(at, _)| now.saturating_sub(*at) <= FRESH);
        match fresh {
            None => return unproven("going back was not rehearsed of late"),
            Some((_, false)) => return unproven("going back was rehearsed and failed"),
            Some((_, true)) => {}
        }
        let is_heard = |edge: &usize| {
            self.heard
                .get(edge)
                .is_some_and(|heard| heard.applied.is_some() && now.saturating_sub(heard.at) < HEARD_WITHIN)
        };
        if others.iter().all(is_heard) {
            WayBack::Proven { took: Duration::from_millis(50) }
        } else {
            unproven("an edge does not answer, so it could not be told")
        }
    }
}

fn unproven(why: &str) -> WayBack {
    WayBack::Unproven { why: why.to_owned() }
}
