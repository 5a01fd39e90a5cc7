//! The edge's own decisions: the rollout as the edge runs it, its state kept as the edge keeps it.

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, Split};
use pointsman_rollout::{Change, Input, Order, OrderKind, PhaseName, Rollout, Saved, Time};

use super::policy::{Policy, ReadyMap, Seen, Told};
use crate::scenario::{Edit, Scenario, StateFault, What, Who};

/// How old elapsed time gets before it is kept again: what the edge allows itself at most.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// One edge and what it keeps.
pub(super) struct Edge {
    rollout: Rollout,
    /// Whether anything is kept: not where no edge is ever killed, and not in a file of a newer format.
    keeps: bool,
    /// What was kept last, and when.
    kept: Option<(Saved, Time)>,
    /// How traffic was divided when the process was killed.
    before: Option<Split>,
    lost: Option<String>,
    is_frozen: bool,
    /// For how long it stood still in all: that does not count.
    stood_still: Duration,
    /// The file as it was edited meanwhile.
    unread: Option<Arc<Route>>,
}

impl Edge {
    pub(super) fn start(scenario: &Scenario) -> (Self, Vec<Told>) {
        let (rollout, changes) = Rollout::start(Arc::clone(&scenario.route), Time::default());
        let keeps = scenario.events.iter().any(|event| matches!(event.what, What::Edge { .. }));
        let kept = keeps.then(|| (rollout.saved(Time::default()), Time::default()));
        let (is_frozen, stood_still) = (false, Duration::ZERO);
        (Self { rollout, keeps, kept, before: None, lost: None, is_frozen, stood_still, unread: None }, told(changes))
    }

    fn step(&mut self, input: Input<'_>, now: Time) -> Vec<Told> {
        let now = now.minus(self.stood_still);
        // A refused order changes nothing, as it does at the edge.
        let told = self.rollout.step(input, now).map(told).unwrap_or_default();
        self.keep(!told.is_empty(), now);
        told
    }

    /// With each decision, and what has elapsed every now and then.
    fn keep(&mut self, is_decided: bool, now: Time) {
        let is_old = self.kept.as_ref().is_none_or(|(_, at)| now.since(*at) >= KEPT_EVERY);
        if self.keeps && (is_decided || is_old) {
            self.kept = Some((self.rollout.saved(now), now));
        }
    }

    /// Goes on from a state as it was kept, in the form that it is kept in.
    fn resume(&mut self, kept: &Saved, now: Time) -> Vec<Change> {
        let read = serde_json::to_string(kept).and_then(|text| serde_json::from_str::<Saved>(&text));
        let saved = match read {
            Ok(saved) => saved,
            Err(error) => {
                self.lost = Some(format!("what was kept cannot be read again: {error}"));
                return Vec::new();
            }
        };
        let (rollout, changes) = Rollout::resume(Arc::clone(self.rollout.route()), saved, now);
        self.rollout = rollout;
        let after = self.rollout.desired().granted;
        if let Some(before) = self.before.take().filter(|before| *before != after) {
            self.lost = Some(format!("a restart made {after:?} of {before:?}"));
        }
        changes
    }
}

fn told(changes: Vec<Change>) -> Vec<Told> {
    let one =
        |change: Change| Told { decision: Some(change.decision), sentence: change.sentence(), change: Some(change) };
    changes.into_iter().map(one).collect()
}

impl Policy for Edge {
    fn split(&self, _edge: usize, ready: &ReadyMap) -> Split {
        self.rollout.desired().effective(ready)
    }

    fn tick(&mut self, seen: &[Option<Seen<'_>>], now: Time) -> Vec<Told> {
        let Some(Seen { rows, applied, ready }) = seen.iter().flatten().next() else { return Vec::new() };
        let seen = pointsman_rollout::Seen::alone(rows, ready, applied, &[]);
        self.step(Input::Tick(&seen), now)
    }

    fn trial(&self, _edge: usize) -> u64 {
        self.rollout.trial()
    }

    fn phase(&self) -> Option<PhaseName> {
        Some(self.rollout.phase())
    }

    fn order(&mut self, kind: &OrderKind, _who: Who, now: Time) -> Vec<Told> {
        if self.is_frozen {
            return Vec::new();
        }
        let order = Order { kind: kind.clone(), actor: "operator".to_owned(), reason: "the scenario".to_owned() };
        self.step(Input::Order(&order), now)
    }

    fn edit(&mut self, edit: &Edit, now: Time) -> Vec<Told> {
        if self.is_frozen {
            self.unread = Some(Arc::clone(&edit.route));
            return Vec::new();
        }
        self.step(Input::Edit(Arc::clone(&edit.route)), now)
    }

    fn freeze(&mut self, _edge: usize) {
        self.is_frozen = true;
    }

    fn go_on(&mut self, _edge: usize, stood_still: Duration, now: Time) -> Vec<Told> {
        self.is_frozen = false;
        self.stood_still += stood_still;
        self.unread.take().map(|route| self.step(Input::Edit(route), now)).unwrap_or_default()
    }

    fn kill(&mut self, edge: usize, state: Option<StateFault>, now: Time) {
        // What it has not read the next process reads.
        drop(self.go_on(edge, Duration::ZERO, now));
        self.before = Some(self.rollout.desired().granted);
        if state.is_some() {
            (self.kept, self.keeps) = (None, state != Some(StateFault::Newer));
        }
    }

    /// Of a state that is lost nothing is known but the file.
    fn start_again(&mut self, _edge: usize, now: Time) -> Vec<Told> {
        let now = now.minus(self.stood_still);
        let changes = if let Some((kept, _)) = self.kept.take() {
            self.resume(&kept, now)
        } else {
            let (rollout, changes) = Rollout::start(Arc::clone(self.rollout.route()), now);
            self.rollout = rollout;
            changes
        };
        self.keep(true, now);
        told(changes)
    }

    fn lost_at_restart(&mut self) -> Option<String> {
        self.lost.take()
    }
}
