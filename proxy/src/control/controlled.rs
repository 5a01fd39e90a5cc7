//! One route under control: its phase machine, what is applied, and what its versions did of late.
//!
//! Line: recorder ► window ► analysis ► **phase** ► desired ► publisher.

mod shared;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pointsman_config::{Before, Plan, Route, Share, Split, VersionId};
use pointsman_rollout::{
    AloneSummary, Capacity, Cause, Change, Decision, Gate, Identity, Input, Journal, Mirrored, Observed, Order,
    PhaseName, Ready, Refusal, Role, Rollout, Saved, Seen, Status, Subject, Summary, Time, WayBack,
};

pub(crate) use self::shared::{Around, AroundWayBack, Followed};

use super::actuator::{Aim, Answer, Mandate, Report};
use super::endpoints::Addresses;
use super::events::now_in_words;
use super::gates;
use super::way_back;
use super::window::Window;
use crate::asking;
use crate::outcome::ErrorPolicy;
use crate::recorder::Totals;

/// The elapsed time of a route that is moving is kept whenever it has grown by this part of itself (one tenth), so that
/// a crash repeats little of a hold, and a long one is not written every second.
const SAVE_AFTER_PART: u32 = 10;
/// But not more often than this.
const SAVE_EVERY_AT_LEAST: Duration = Duration::from_secs(1);
/// And not more seldom.
const SAVE_EVERY_AT_MOST: Duration = Duration::from_secs(10);

/// One route, as the control loop drives it.
#[derive(Debug)]
pub(crate) struct ControlledRoute {
    route: Arc<Route>,
    rollout: Rollout,
    /// What the published snapshot does.
    applied: Split,
    /// The trial that it counts users for.
    counted_trial: u64,
    ready: BTreeMap<VersionId, Ready>,
    /// What of that weights count on.
    capacity: Capacity,
    addresses: Addresses,
    windows: BTreeMap<VersionId, Window>,
    summary: Option<Summary>,
    saved_at: Time,
    /// When something was last decided.
    decided_at: Time,
    /// Whether something was ordered, edited or decided that a state read late must not undo.
    has_news: bool,
    /// Whether it was heard where the route stands: from what was kept, or from a leader.
    is_placed: bool,
    /// How things stand with its live Service, if it has one.
    report: Option<Report>,
    way_back: WayBack,
    /// How many endpoints carried the requests since there was something to go back from: so many must be there to go back.
    carried: usize,
    /// What the leader said of it last, and when, as long as this edge follows.
    told_way_back: Option<(WayBack, Time)>,
    around: Around,
    /// What others are asked about the canary, and what they said last.
    gates: Vec<Gate>,
    /// The same of who is outside.
    outside: Vec<Gate>,
    /// What trials are decided on, for who wants to decide them again.
    journal: Arc<Mutex<Journal>>,
}

impl ControlledRoute {
    /// Takes a route over, as it was saved or from its beginning. Nothing is applied before the first publication.
    pub(crate) fn begin(route: Arc<Route>, saved: Option<Saved>, now: Time) -> (Self, Vec<Change>) {
        let is_placed = saved.is_some();
        let (rollout, changes) = match saved {
            Some(saved) => Rollout::resume(Arc::clone(&route), saved, now),
            None => Rollout::start(Arc::clone(&route), now),
        };
        (Self { is_placed, ..Self::of(route, rollout, now) }, changes)
    }

    fn of(route: Arc<Route>, rollout: Rollout, now: Time) -> Self {
        Self {
            counted_trial: rollout.trial(),
            applied: Split::Whole(route.stable.clone()),
            gates: gates::of_route(&route),
            outside: Vec::new(),
            route,
            rollout,
            ready: BTreeMap::new(),
            capacity: Capacity::default(),
            addresses: Addresses::new(),
            windows: BTreeMap::new(),
            summary: None,
            saved_at: now,
            decided_at: now,
            has_news: false,
            is_placed: false,
            report: None,
            way_back: WayBack::Unproven { why: String::new() },
            carried: 0,
            told_way_back: None,
            around: Around::default(),
            journal: Arc::default(),
        }
    }

    /// The route as the file has it.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// What the published snapshot does.
    pub(crate) fn applied(&self) -> &Split {
        &self.applied
    }

    /// Who serves now; after a promotion the former canary.
    pub(crate) fn serving(&self) -> &VersionId {
        self.rollout.serving()
    }

    /// The version that has all traffic that is not the canary's.
    pub(crate) fn main(&self) -> VersionId {
        match self.rollout.desired().granted {
            Split::Whole(version) | Split::Canary { stable: version, .. } => version,
        }
    }

    /// Where its versions run.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its endpoints moved.
    pub(crate) fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    /// Some of its endpoints came up or went down.
    pub(crate) fn set_ready(&mut self, ready: BTreeMap<VersionId, Ready>, now: Time) {
        self.capacity.note(&ready, now);
        self.ready = ready;
    }

    /// Whether it is known where the route stands, of one about whose live Service this is the `report`: what was kept there
    /// was heard, or nothing was kept there, or a leader said so.
    pub(crate) fn is_placed(&self, report: &Report) -> bool {
        self.is_placed || report.was_kept == Some(false)
    }

    /// What shall be applied now.
    pub(crate) fn effective(&self) -> Split {
        self.rollout.desired().effective(self.capacity.ready())
    }

    /// Why a canary gets less than it is granted; none if it does not.
    pub(crate) fn cut_in_words(&self) -> Option<String> {
        self.rollout.desired().cut_in_words(self.capacity.ready())
    }

    /// The present snapshot does `split`, and counts for the present trial.
    pub(crate) fn set_applied(&mut self, split: Split) {
        self.applied = split;
        self.counted_trial = self.rollout.trial();
    }

    /// Whether the present snapshot does `split` already, and counts for the present trial.
    pub(crate) fn is_in_force(&self, split: &Split) -> bool {
        self.applied == *split && self.counted_trial == self.rollout.trial()
    }

    /// The number of the present trial.
    pub(crate) fn trial(&self) -> u64 {
        self.rollout.trial()
    }

    /// Versions that the file gives traffic, now or step by step, and that were taken back.
    pub(crate) fn held_back(&self, now: Time) -> Vec<VersionId> {
        let named = |version: &VersionId| match &self.route.plan {
            Plan::Weights(split) => split.share_of(version) > Share::ZERO,
            Plan::Rollout(plan) => plan.canary == *version,
        };
        let quarantined = self.rollout.status(now).quarantined.into_iter();
        quarantined.map(|held| held.version).filter(named).collect()
    }

    /// What the file, the plan or an operator asks.
    pub(crate) fn asked(&self) -> Split {
        self.rollout.desired().asked
    }

    /// What is known of its live Service, and of the way back to the version that [`ControlledRoute::goes_back_to`] names.
    pub(crate) fn hear(&mut self, report: Option<Report>, around: &AroundWayBack, now: Time) {
        self.note_who_carries();
        if report.is_some() || self.report.is_some() {
            self.way_back = self.judge_way_back(report.as_ref(), around, now);
        }
        self.report = report;
    }

    /// Remembers the most endpoints of the old version that took requests while it had them, and those of the new one once
    /// it has half of them: an autoscaler shrinks a version that gets less, and what is left of it carries no more.
    fn note_who_carries(&mut self) {
        let up = |version: &VersionId| self.ready.get(version).map_or(0, |ready| ready.up);
        let Some(stable) = self.goes_back_to() else {
            self.carried = 0;
            return;
        };
        let has_half = |version: &VersionId| self.applied.share_of(version).ppm() >= Share::PARTS / 2;
        let of_canary = self.rollout.canary().filter(has_half);
        self.carried = self.carried.max(up(stable)).max(of_canary.as_ref().map_or(0, up));
    }

    fn judge_way_back(&self, report: Option<&Report>, around: &AroundWayBack, now: Time) -> WayBack {
        if self.role() == Role::Follower {
            return self.told_way_back(now);
        }
        let stable = &self.route.stable;
        let ready = self.ready.get(stable).copied().unwrap_or_default();
        let AroundWayBack { checked, pushed } = around;
        let (carried, pushed) = (self.carried, pushed.clone());
        way_back::judge(stable, &way_back::Evidence { ready, carried, checked, pushed, report })
    }

    /// What shall become of its live Service; none if it has none.
    pub(crate) fn aim(&self) -> Option<Aim> {
        self.route.live_service.as_ref()?;
        let desired = self.rollout.desired();
        Some(Aim {
            selected: desired.selected,
            retired: desired.retired,
            mandate: Mandate::Alone,
            answer: self.rollout.answer_to_foreign().map(|(to, how)| Answer { to: to.clone(), how }),
            way_back: self.goes_back_to().cloned(),
        })
    }

    /// The version to which a rollback would go, and with it the live Service; none where there is nothing to go back from.
    pub(crate) fn goes_back_to(&self) -> Option<&VersionId> {
        self.route.live_service.as_ref()?;
        let at_rest = matches!(self.rollout.phase(), PhaseName::Steady | PhaseName::RolledBack);
        let has_share = |asked: &Split| matches!(asked, Split::Canary { share, .. } if *share > Share::ZERO);
        let under_way = !at_rest || has_share(&self.rollout.desired().asked);
        under_way.then_some(&self.route.stable)
    }

    /// Whether going back is proven to work; none where there is nothing to go back from.
    pub(crate) fn way_back(&self) -> Option<&WayBack> {
        self.goes_back_to().map(|_| &self.way_back)
    }

    /// How things stand with its live Service.
    pub(crate) fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// What others are asked about the canary.
    pub(crate) fn gates_mut(&mut self) -> &mut [Gate] {
        &mut self.gates
    }

    /// The canary, while others are to be asked about it: on the edge that decides.
    pub(crate) fn asked_about(&self) -> Option<Subject> {
        if self.gates.is_empty() || self.role() == Role::Follower { None } else { self.rollout.on_trial() }
    }

    /// What who is outside says of the canary.
    pub(crate) fn set_outside(&mut self, gates: Vec<Gate>) {
        self.outside = gates;
    }

    /// What who is outside is asked about, on the edge that decides; none while nobody is tried.
    pub(crate) fn outside_subject(&self, now: Time) -> Option<asking::Subject> {
        let wants = !self.route.guard.queries.is_empty() || !self.route.guard.gates.is_empty();
        let tried = self.rollout.on_trial().filter(|_| self.role() == Role::Leader)?;
        let steps = self.rollout.route().plan.steps();
        let (phase, present) = (self.rollout.phase(), if wants { self.status(now).step } else { None });
        let goes_forward = matches!(phase, PhaseName::Warming | PhaseName::Shifting | PhaseName::Paused);
        let coming = present.map_or(0, |step| step + 1);
        let (next, step, weight) = match steps.get(coming) {
            Some(step) => (Before::Step, Some(coming + 1), step.weight),
            None => (Before::Promotion, None, Share::WHOLE),
        };
        Some(asking::Subject {
            route: self.route.name.clone(),
            stable: self.route.stable.clone(),
            revision: self.route.versions.get(&tried.version).and_then(|version| version.revision.clone()),
            canary: tried.version,
            trial: tried.trial,
            next,
            step,
            weight_ppm: weight.ppm(),
            traffic_since: tried.traffic_since,
            goes_forward,
        })
    }

    /// A tick passed.
    pub(crate) fn tick(&mut self, rows: &[Observed], mirrored: &[Mirrored], around: Around, now: Time) -> Vec<Change> {
        if self.capacity.waits() {
            self.capacity.note(&self.ready, now);
        }
        self.around = around;
        let mut seen = Seen::alone(rows, &self.ready, &self.applied, mirrored);
        seen.service = self.report.as_ref().and_then(|report| report.seen.as_ref());
        seen.way_back = &self.way_back;
        let gates = [self.gates.as_slice(), self.outside.as_slice()].concat();
        seen.gates = &gates;
        (seen.acknowledged, seen.edges) = (around.acknowledged, around.edges);
        let recorded = self.rollout.role() == Role::Leader;
        if recorded {
            self.journal().tick(&self.rollout, rows, (&self.ready, &self.applied), (now, now_in_words));
        }
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Tick(&seen), now).unwrap_or_default();
        if recorded {
            self.record_changes(&changes, now);
        }
        self.note(&changes, now);
        changes
    }

    /// What trials are decided on.
    pub(crate) fn journal_handle(&self) -> Arc<Mutex<Journal>> {
        Arc::clone(&self.journal)
    }

    /// How many records of trials it keeps.
    pub(crate) fn records(&self) -> usize {
        self.journal().records()
    }

    /// Each of them takes no more than `most_bytes` from here on.
    pub(crate) fn keep_records_within(&self, most_bytes: usize) {
        self.journal().keep_within(most_bytes);
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Held for as long as a tick is noted, or a record is copied for who asks.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_changes(&self, changes: &[Change], now: Time) {
        self.journal().decided(&self.rollout, changes, &self.applied, (now, now_in_words));
    }

    /// The route's part of the file changed.
    pub(crate) fn edit(&mut self, route: Arc<Route>, now: Time) -> Vec<Change> {
        self.has_news |= *route != *self.route;
        if Identity::of(&route) != Identity::of(&self.route) {
            self.carried = 0;
        }
        self.route = Arc::clone(&route);
        self.gates = gates::of_route(&route);
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Edit(route), now).unwrap_or_default();
        self.journal().edit();
        self.record_changes(&changes, now);
        self.note(&changes, now);
        changes
    }

    /// An operator wants something.
    ///
    /// # Errors
    /// If the route's state forbids it.
    pub(crate) fn obey(&mut self, order: &Order, now: Time) -> Result<Vec<Change>, Refusal> {
        let changes = self.rollout.step(Input::Order(order), now)?;
        self.journal().order(order, now);
        self.record_changes(&changes, now);
        self.note(&changes, now);
        Ok(changes)
    }

    /// Goes on from what the state file turned out to hold, unless something was ordered, edited or decided since the
    /// start: that is newer. What the file bars is barred either way.
    pub(crate) fn reconsider(&mut self, saved: Saved, now: Time) -> Vec<Change> {
        self.is_placed = true;
        if self.has_news {
            self.rollout.adopt_quarantine(&saved);
            return Vec::new();
        }
        let (mut rollout, changes) = Rollout::resume(Arc::clone(&self.route), saved, now);
        rollout.number_trials_after(self.rollout.trial());
        self.journal().leave();
        self.rollout = rollout;
        changes
    }

    fn note(&mut self, changes: &[Change], now: Time) {
        if let Some(change) = changes.last() {
            self.has_news |= !is_beginning(change);
            self.decided_at = now;
            self.summary.clone_from(&change.evidence);
        }
    }

    /// What outlives the process; to be kept now.
    pub(crate) fn save(&mut self, now: Time) -> Saved {
        self.saved_at = now;
        self.rollout.kept(now)
    }

    /// Whether the elapsed time of a phase that has one was kept too long ago.
    pub(crate) fn is_save_due(&self, now: Time) -> bool {
        let patience = now.since(self.decided_at) / SAVE_AFTER_PART;
        let due = now.since(self.saved_at) >= patience.clamp(SAVE_EVERY_AT_LEAST, SAVE_EVERY_AT_MOST);
        due && has_elapsed_time(self.rollout.phase())
    }

    /// What was counted so far, for the sliding windows.
    pub(crate) fn record(&mut self, totals: Totals, now: Time) {
        let versions: Vec<_> = self.route.versions.keys().cloned().collect();
        self.windows.retain(|version, _| versions.contains(version) || totals.contains_key(version));
        for version in versions {
            self.windows.entry(version).or_insert_with(|| Window::new(now, crate::recorder::Counts::default()));
        }
        for (version, counts) in totals {
            let window =
                self.windows.entry(version).or_insert_with(|| Window::new(now, crate::recorder::Counts::default()));
            window.record(now, counts);
        }
    }

    /// Judges the comparison for people; costs some bisections, so once a second is enough.
    pub(crate) fn summarise(&mut self) {
        self.summary = Some(self.rollout.summary());
    }

    /// How the canary does that is held to an absolute limit.
    pub(crate) fn judged_alone(&self) -> Option<AloneSummary> {
        self.rollout.judged_alone()
    }

    /// The last judgement.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Where it stands.
    pub(crate) fn status(&self, now: Time) -> Status {
        self.rollout.status(now)
    }

    /// Whether a rollout that is under way is kept from going on, by anything but a gate.
    pub(crate) fn is_held(&self) -> bool {
        self.rollout.is_held()
    }

    /// What one of its versions did of late.
    pub(crate) fn window(&self, version: &VersionId) -> Option<&Window> {
        self.windows.get(version)
    }

    /// Which outcomes count as errors.
    pub(crate) fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::new(&self.route.guard.count_as_error)
    }
}

/// Whether a change only begins what the file asks, as every start does that knows nothing.
fn is_beginning(change: &Change) -> bool {
    match (&change.decision, &change.cause) {
        (Decision::Start | Decision::Step | Decision::Edit, Cause::File | Cause::Plan { .. }) => {
            matches!(change.to, PhaseName::Steady | PhaseName::Warming | PhaseName::Shifting)
        }
        (_, _) => false,
    }
}

/// Whether what is saved of a phase changes while nothing is decided.
fn has_elapsed_time(phase: PhaseName) -> bool {
    match phase {
        PhaseName::Warming | PhaseName::Shifting | PhaseName::Baking => true,
        PhaseName::Steady
        | PhaseName::Paused
        | PhaseName::Promoting
        | PhaseName::RollingBack
        | PhaseName::RolledBack => false,
    }
}

#[cfg(test)]
mod tests {
    use pointsman_config::Config;
    use pointsman_rollout::OrderKind;

    use super::*;

    fn route(canary: &str) -> Arc<Route> {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:1] }}, v2: {{ endpoints: [127.0.0.1:2] }}, v3: {{ endpoints: [127.0.0.1:3] }} }}
    weights: {{ v1: 90%, {canary}: 10% }}
"
        );
        Arc::new(Config::parse(&text, "test").unwrap().config.routes.remove(0))
    }

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(1_000_000 + seconds))
    }

    #[test]
    fn who_carries_is_the_most_that_the_old_version_had_and_the_new_one_once_it_has_half() {
        let live = pointsman_config::LiveService {
            namespace: None,
            service: "live".to_owned(),
            selector_key: "version".to_owned(),
            retire: pointsman_config::Retire::None,
        };
        let route = Route { live_service: Some(live), ..Route::clone(&route("v2")) };
        let (mut controlled, _) = ControlledRoute::begin(Arc::new(route.clone()), None, at(0));
        let hear = |controlled: &mut ControlledRoute, v1: usize, v2: usize| {
            let up = |up| Ready { up, total: up };
            controlled.set_ready([("v1".parse().unwrap(), up(v1)), ("v2".parse().unwrap(), up(v2))].into(), at(1));
            controlled.hear(None, &AroundWayBack::default(), at(1));
            controlled.carried
        };
        assert_eq!(hear(&mut controlled, 10, 30), 10, "v2 has a tenth");
        assert_eq!(hear(&mut controlled, 2, 30), 10, "fewer are left, and no less is to be carried");
        by_hand(&mut controlled, 60, at(1));
        controlled.set_applied(controlled.effective());
        assert_eq!(hear(&mut controlled, 2, 12), 12);
        let mut edited = route;
        edited.versions.get_mut(&"v2".parse().unwrap()).unwrap().revision = Some("r2".to_owned());
        controlled.edit(Arc::new(edited), at(2));
        controlled.set_applied(Split::Whole("v1".parse().unwrap()));
        assert_eq!(hear(&mut controlled, 4, 12), 4, "another rollout begins");
    }

    fn barred(route: &ControlledRoute) -> Vec<String> {
        route.status(at(9)).quarantined.into_iter().map(|held| held.version.to_string()).collect()
    }

    /// A route whose canary was taken back by hand.
    fn taken_back(canary: &str) -> ControlledRoute {
        let (mut controlled, _) = ControlledRoute::begin(route(canary), None, at(0));
        let up = Ready { up: 1, total: 1 };
        controlled.set_ready(["v1", "v2", "v3"].map(|version| (version.parse().unwrap(), up)).into(), at(0));
        controlled.tick(&[], &[], Around::default(), at(0));
        let order = Order { kind: OrderKind::Rollback, actor: "test".to_owned(), reason: String::new() };
        controlled.obey(&order, at(1)).unwrap();
        assert_eq!(barred(&controlled), [canary]);
        controlled
    }

    #[test]
    fn what_a_state_file_that_was_read_late_bars_is_barred_beside_what_we_bar_ourselves() {
        let theirs = taken_back("v2").save(at(2));
        let mut ours = taken_back("v3");
        ours.reconsider(theirs, at(3));
        assert_eq!(barred(&ours), ["v2", "v3"]);
        ours.edit(route("v2"), at(4));
        assert_eq!(ours.effective().share_of(&"v2".parse().unwrap()), Share::ZERO);
    }

    fn by_hand(controlled: &mut ControlledRoute, percent: u32, now: Time) {
        let share = Share::from_ppm(percent * 10_000).unwrap();
        let split = Split::canary("v1".parse().unwrap(), "v2".parse().unwrap(), share);
        let order = Order { kind: OrderKind::SetWeights(split), actor: "test".to_owned(), reason: String::new() };
        controlled.obey(&order, now).unwrap();
    }

    #[test]
    fn a_state_that_was_read_late_undoes_neither_an_order_nor_an_edit() {
        let share = |controlled: &ControlledRoute| controlled.asked().share_of(&"v2".parse().unwrap()).ppm();
        let (mut before, _) = ControlledRoute::begin(route("v2"), None, at(0));
        by_hand(&mut before, 30, at(0));
        let (mut ours, _) = ControlledRoute::begin(route("v2"), None, at(0));
        by_hand(&mut ours, 2, at(1));
        ours.reconsider(before.save(at(1)), at(2));
        assert_eq!(share(&ours), 20_000);
        let (mut edited, _) = ControlledRoute::begin(route("v3"), None, at(0));
        edited.edit(route("v2"), at(1));
        edited.reconsider(before.save(at(1)), at(2));
        assert_eq!(share(&edited), 100_000, "as the file says now");
    }

    #[test]
    fn a_state_that_was_read_late_is_gone_on_from_where_nothing_was_decided_and_begins_a_new_trial() {
        let (mut before, _) = ControlledRoute::begin(route("v2"), None, at(0));
        by_hand(&mut before, 30, at(0));
        let (mut ours, _) = ControlledRoute::begin(route("v2"), None, at(0));
        let trial = ours.trial();
        ours.reconsider(before.save(at(1)), at(2));
        assert_eq!(ours.asked().share_of(&"v2".parse().unwrap()).ppm(), 300_000);
        assert!(ours.trial() > trial, "what was assigned before is no evidence");
    }

    #[test]
    fn only_phases_with_an_elapsed_time_are_saved_again_and_a_long_one_more_seldom() {
        let (mut idle, _) = ControlledRoute::begin(route("v2"), None, at(0));
        assert!(!idle.is_save_due(at(3_600)), "nothing of it would be different");
        idle.save(at(0));
        let plan = Plan::Rollout(pointsman_config::Rollout {
            canary: "v2".parse().unwrap(),
            strategy: pointsman_config::Strategy::BlueGreen,
            promotion: pointsman_config::Promotion::Manual,
            bake: Duration::from_mins(1),
            step_deadline: Duration::from_hours(2),
        });
        let waiting = Arc::new(Route { plan, ..Route::clone(&route("v2")) });
        let (mut moving, _) = ControlledRoute::begin(waiting, None, at(0));
        assert_eq!(moving.status(at(0)).phase, PhaseName::Warming);
        let saves = (1..=3_600).filter(|second| {
            let due = moving.is_save_due(at(*second));
            if due {
                moving.save(at(*second));
            }
            due
        });
        let saves: Vec<_> = saves.collect();
        assert_eq!(saves[..3], [1, 2, 3]);
        assert!((360..450).contains(&saves.len()), "{}", saves.len());
    }

    /// A leader that has recorded a second of v2's trial.
    fn recorded() -> ControlledRoute {
        let (mut controlled, _) = ControlledRoute::begin(route("v2"), None, at(0));
        let up = Ready { up: 1, total: 1 };
        controlled.set_ready(["v1", "v2", "v3"].map(|version| (version.parse().unwrap(), up)).into(), at(0));
        controlled.tick(&[], &[], Around::default(), at(0));
        controlled.tick(&[], &[], Around::default(), at(1));
        controlled
    }

    fn record(controlled: &ControlledRoute) -> String {
        serde_json::to_string(controlled.journal().record().unwrap()).unwrap()
    }

    fn trip() -> pointsman_rollout::Trip {
        let mut another = recorded();
        another.step_down();
        let order = Order { kind: OrderKind::Rollback, actor: "test".to_owned(), reason: String::new() };
        another.obey(&order, at(2)).unwrap();
        another.trip().unwrap().clone()
    }

    #[test]
    fn the_trip_of_another_edge_is_the_end_of_the_leaders_record() {
        let mut controlled = recorded();
        let changes = controlled.take_trip(&trip(), "edge-2", at(3));
        assert_eq!(changes[0].decision, Decision::Rollback);
        assert!(record(&controlled).contains(&changes[0].sentence()), "{}", record(&controlled));
        assert_eq!(controlled.records(), 1);
        let ended = record(&controlled);
        controlled.tick(&[], &[], Around::default(), at(4));
        assert_eq!(record(&controlled), ended, "and nothing comes after it");
    }

    #[test]
    fn a_trip_that_changes_nothing_ends_no_record() {
        let mut controlled = recorded();
        let late = trip();
        controlled.take_trip(&late, "edge-2", at(3));
        controlled.tick(&[], &[], Around::default(), at(4));
        let kind = OrderKind::Retry("v2".parse().unwrap());
        let order = Order { kind, actor: "test".to_owned(), reason: String::new() };
        controlled.obey(&order, at(5)).unwrap();
        controlled.tick(&[], &[], Around::default(), at(6));
        let before = record(&controlled);
        assert!(controlled.take_trip(&late, "edge-2", at(7)).is_empty(), "it was retried since");
        controlled.tick(&[], &[], Around::default(), at(8));
        let after = record(&controlled);
        assert_ne!(after, before, "the new trial is recorded on");
        assert!(after.contains("\"complete\":true"), "{after}");
    }

    #[test]
    fn the_window_of_a_version_that_is_gone_goes_with_its_totals() {
        let (mut controlled, _) = ControlledRoute::begin(route("v2"), None, at(0));
        let gone: VersionId = "v0".parse().unwrap();
        controlled.record([(gone.clone(), crate::recorder::Counts::default())].into(), at(1));
        assert!(controlled.window(&gone).is_some());
        controlled.record(Totals::new(), at(2));
        assert!(controlled.window(&gone).is_none() && controlled.window(&"v1".parse().unwrap()).is_some());
    }
}
