//! The edge's own decisions: the rollout as the edge runs it, its state kept as the edge keeps it.

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, Split};
use pointsman_rollout::{Change, Input, Observed, Order, OrderKind, PhaseName, Rollout, Saved, Seen, Time};

use super::policy::{Policy, ReadyMap, Told};
use crate::scenario::{Scenario, What};

/// How old elapsed time gets before it is kept again: what the edge allows itself at most.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// One edge and what it keeps.
pub(super) struct Edge {
    rollout: Rollout,
    /// What was kept last, and when; none where no edge is ever killed.
    kept: Option<(Saved, Time)>,
    /// How traffic was divided when the process was killed.
    before: Option<Split>,
    lost: Option<String>,
}

impl Edge {
    pub(super) fn start(scenario: &Scenario) -> (Self, Vec<Told>) {
        let (rollout, changes) = Rollout::start(Arc::clone(&scenario.route), Time::default());
        let is_killed = scenario.events.iter().any(|event| matches!(event.what, What::Edge { .. }));
        let kept = is_killed.then(|| (rollout.saved(Time::default()), Time::default()));
        (Self { rollout, kept, before: None, lost: None }, told(changes))
    }

    fn step(&mut self, input: Input<'_>, now: Time) -> Vec<Told> {
        // A refused order changes nothing, as it does at the edge.
        let told = self.rollout.step(input, now).map(told).unwrap_or_default();
        self.keep(!told.is_empty(), now);
        told
    }

    /// With each decision, and what has elapsed every now and then.
    fn keep(&mut self, is_decided: bool, now: Time) {
        if let Some((saved, at)) = &mut self.kept
            && (is_decided || now.since(*at) >= KEPT_EVERY)
        {
            (*saved, *at) = (self.rollout.saved(now), now);
        }
    }
}

fn told(changes: Vec<Change>) -> Vec<Told> {
    let one = |change: Change| Told { decision: change.decision, sentence: change.sentence(), change: Some(change) };
    changes.into_iter().map(one).collect()
}

impl Policy for Edge {
    fn split(&self, ready: &ReadyMap) -> Split {
        self.rollout.desired().effective(ready)
    }

    fn tick(&mut self, rows: &[Observed], applied: &Split, ready: &ReadyMap, now: Time) -> Vec<Told> {
        let seen = Seen::alone(rows, ready, applied, &[]);
        self.step(Input::Tick(&seen), now)
    }

    fn trial(&self) -> u64 {
        self.rollout.trial()
    }

    fn phase(&self) -> Option<PhaseName> {
        Some(self.rollout.phase())
    }

    fn order(&mut self, kind: &OrderKind, now: Time) -> Vec<Told> {
        let order = Order { kind: kind.clone(), actor: "operator".to_owned(), reason: "the scenario".to_owned() };
        self.step(Input::Order(&order), now)
    }

    fn edit(&mut self, route: &Arc<Route>, now: Time) -> Vec<Told> {
        self.step(Input::Edit(Arc::clone(route)), now)
    }

    fn kill(&mut self, _now: Time) {
        self.before = Some(self.rollout.desired().granted);
    }

    /// State goes through the form that it is kept in.
    fn start_again(&mut self, now: Time) -> Vec<Told> {
        let Some((kept, before)) = self.kept.as_ref().zip(self.before.take()) else { return Vec::new() };
        let read = serde_json::to_string(&kept.0).and_then(|text| serde_json::from_str::<Saved>(&text));
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
        if after != before {
            self.lost = Some(format!("a restart made {after:?} of {before:?}"));
        }
        self.keep(true, now);
        told(changes)
    }

    fn lost_at_restart(&mut self) -> Option<String> {
        self.lost.take()
    }
}
