//! The edge's own decisions: the rollout as the edge runs it, its state kept as the edge keeps it.

use std::sync::Arc;

use pointsman_config::{Route, Split, VersionId};
use pointsman_rollout::{Change, Input, Observed, Order, OrderKind, PhaseName, Rollout, Saved, Seen, Time};

use super::policy::{Policy, ReadyMap, Told};
use crate::scenario::Scenario;

/// One edge and what it keeps.
pub(super) struct Edge {
    rollout: Rollout,
    /// What was kept, while the process is down, and how traffic was divided then.
    kept: Option<(Result<Saved, String>, Split)>,
    lost: Option<String>,
}

impl Edge {
    pub(super) fn start(scenario: &Scenario) -> (Self, Vec<Told>) {
        let (rollout, changes) = Rollout::start(Arc::clone(&scenario.route), Time::default());
        (Self { rollout, kept: None, lost: None }, told(changes))
    }

    fn step(&mut self, input: Input<'_>, now: Time) -> Vec<Told> {
        // A refused order changes nothing, as it does at the edge.
        self.rollout.step(input, now).map(told).unwrap_or_default()
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

    fn quarantined(&self, now: Time) -> Vec<VersionId> {
        self.rollout.status(now).quarantined.into_iter().map(|quarantined| quarantined.version).collect()
    }

    fn order(&mut self, kind: &OrderKind, now: Time) -> Vec<Told> {
        let order = Order { kind: kind.clone(), actor: "operator".to_owned(), reason: "the scenario".to_owned() };
        self.step(Input::Order(&order), now)
    }

    fn edit(&mut self, route: &Arc<Route>, now: Time) -> Vec<Told> {
        self.step(Input::Edit(Arc::clone(route)), now)
    }

    /// State goes through the form that it is kept in.
    fn kill(&mut self, now: Time) {
        let kept = serde_json::to_string(&self.rollout.saved(now))
            .and_then(|text| serde_json::from_str(&text))
            .map_err(|error| error.to_string());
        self.kept = Some((kept, self.rollout.desired().granted));
    }

    fn start_again(&mut self, now: Time) -> Vec<Told> {
        let Some((kept, before)) = self.kept.take() else { return Vec::new() };
        let route = Arc::clone(self.rollout.route());
        let saved = match kept {
            Ok(saved) => saved,
            Err(error) => {
                self.lost = Some(format!("what was kept cannot be read again: {error}"));
                return Vec::new();
            }
        };
        let (rollout, changes) = Rollout::resume(route, saved, now);
        self.rollout = rollout;
        let after = self.rollout.desired().granted;
        if after != before {
            self.lost = Some(format!("a restart made {after:?} of {before:?}"));
        }
        told(changes)
    }

    fn lost_at_restart(&mut self) -> Option<String> {
        self.lost.take()
    }
}
