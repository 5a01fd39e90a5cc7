//! Gates: what a route's guard has others say about the canary, who asks them, and what they said last.
//!
//! Line: control ► **gates** ► (whoever is asked) ► board ► control ► [`pointsman_rollout::Gate`]. Those who ask run beside
//! the loop, are told by it what to ask about, and write what they find on a board that the loop reads in every tick. Only
//! an edge that decides has anything asked. A new kind of gate is a name in [`of_route`], a question in [`Askers::ask`] and
//! a task that answers it on the [`Board`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pointsman_config::{Route, RouteName, VersionId};
use pointsman_rollout::{Asked, Finding, Gate, Outcome, Time};

use super::controlled::ControlledRoute;
use super::drift::{Pulls, Question};

/// What the drift guard is called among the gates.
pub(crate) const DRIFT: &str = "drift";
/// A finding counts until so many looks more should have replaced it.
const LOOKS_UNTIL_STALE: u32 = 3;

/// The gates of a route, in the order in which they are told; none has been answered.
pub(crate) fn of_route(route: &Route) -> Vec<Gate> {
    let drift = route.guard.drift.as_ref().map(|guard| Gate {
        name: DRIFT.to_owned(),
        asked: Asked::WithTraffic,
        stale_after: guard.every.saturating_mul(LOOKS_UNTIL_STALE),
        finding: None,
    });
    drift.into_iter().collect()
}

/// What somebody found out, and when the asking began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// About which version.
    pub(crate) version: VersionId,
    /// About which trial of it.
    pub(crate) trial: u64,
    /// What follows.
    pub(crate) outcome: Outcome,
    /// What was found, for people.
    pub(crate) words: String,
    /// When the asking began.
    pub(crate) at: Instant,
}

/// Where findings are written. Clones are the same board.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<(RouteName, &'static str), Found>>>);

impl Board {
    fn findings(&self) -> MutexGuard<'_, BTreeMap<(RouteName, &'static str), Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This was found for `gate`; what was found before is forgotten.
    pub(crate) fn write(&self, route: &RouteName, gate: &'static str, found: Found) {
        self.findings().insert((route.clone(), gate), found);
    }

    /// What was found last, in the loop's time.
    fn read(&self, route: &RouteName, gate: &str, (now, clock): (Time, Instant)) -> Option<Finding> {
        let findings = self.findings();
        let (_, found) = findings.iter().find(|((of, name), _)| of == route && *name == gate)?;
        Some(Finding {
            version: found.version.clone(),
            trial: found.trial,
            outcome: found.outcome,
            is_suspicion: false,
            words: found.words.clone(),
            at: now.minus(clock.saturating_duration_since(found.at)),
        })
    }
}

/// Everybody who asks.
#[derive(Debug)]
pub(crate) struct Askers {
    board: Board,
    drift: Pulls,
}

impl Askers {
    /// Starts them on `runtime`.
    pub(crate) fn start(runtime: &tokio::runtime::Handle) -> Self {
        let board = Board::default();
        Self { drift: Pulls::start(runtime, board.clone()), board }
    }

    /// Has just this asked from now on.
    pub(crate) fn ask(&self, drift: BTreeMap<RouteName, Question>) {
        self.drift.ask(drift);
    }

    /// Puts the last findings into the gates of `route`; `clock` is when it is `now`.
    pub(crate) fn answer(&self, route: &mut ControlledRoute, (now, clock): (Time, Instant)) {
        let of = Arc::clone(route.route());
        for gate in route.gates_mut() {
            let found = self.board.read(&of.name, &gate.name, (now, clock));
            // The same finding keeps its moment, however the two clocks are rounded.
            let is_same = |known: &Finding, found: &Finding| {
                let apart = known.at.since(found.at).max(found.at.since(known.at));
                apart.as_millis() < 1 && Finding { at: known.at, ..found.clone() } == *known
            };
            let is_known =
                gate.finding.as_ref().zip(found.as_ref()).is_some_and(|(known, found)| is_same(known, found));
            if !is_known {
                gate.finding = found;
            }
        }
    }
}
