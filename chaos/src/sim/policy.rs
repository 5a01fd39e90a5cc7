//! Who decides: what the world asks of it and what it is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pointsman_config::{Route, Split, VersionId};
use pointsman_rollout::{Change, Decision, Observed, OrderKind, PhaseName, Ready, Time};

/// Who decides in a simulated world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chosen {
    /// The edge's own code.
    Pointsman,
    /// The same with the default of what is proven before a promotion.
    PointsmanDefault,
    /// Argo Rollouts with the analysis of its documentation: success rate of 5 minutes, every 5 minutes, at least 95 %, three
    /// failures allowed, on the scenario's plan.
    Argo,
    /// The same on the plan of that documentation: 20, 40, 60 and 80 % for 10 minutes each, judged from 40 % on, by the rate between
    /// the last two readings.
    ArgoPlan,
    /// The same as a team in a hurry would set it: of 1 minute, every 30 seconds, at least 99 %, no failure allowed.
    ArgoQuick,
    /// Flagger with the analysis of its documentation: every minute 10 % more up to 50 %, success rate of 1 minute at least
    /// 99 % and 99 % of the answers in time, five failures.
    Flagger,
}

impl Chosen {
    /// Everyone, Pointsman first.
    pub const ALL: [Self; 6] =
        [Self::Pointsman, Self::PointsmanDefault, Self::Argo, Self::ArgoPlan, Self::ArgoQuick, Self::Flagger];

    /// Whether Pointsman decides.
    pub fn is_pointsman(self) -> bool {
        matches!(self, Self::Pointsman | Self::PointsmanDefault)
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pointsman => "Pointsman",
            Self::PointsmanDefault => "Pointsman, default proof",
            Self::Argo => "Argo-like",
            Self::ArgoPlan => "Argo-like, own plan",
            Self::ArgoQuick => "Argo-like, quick",
            Self::Flagger => "Flagger-like",
        })
    }
}

/// Something that was decided.
pub(crate) struct Told {
    pub(crate) decision: Decision,
    /// For people.
    pub(crate) sentence: String,
    /// As the edge records it; none for a peer.
    pub(crate) change: Option<Change>,
}

/// How many endpoints of each version are thought ready.
pub(crate) type ReadyMap = BTreeMap<VersionId, Ready>;

/// Who decides. What a peer cannot be told (orders, edits, restarts) it is never told: such scenarios are not compared.
pub(crate) trait Policy {
    /// How requests are divided now.
    fn split(&self, ready: &ReadyMap) -> Split;
    /// One tick has passed, and these outcomes became known in it.
    fn tick(&mut self, rows: &[Observed], applied: &Split, ready: &ReadyMap, now: Time) -> Vec<Told>;
    /// The number of the present trial, which outcomes are marked with.
    fn trial(&self) -> u64 {
        0
    }
    fn phase(&self) -> Option<PhaseName> {
        None
    }
    fn order(&mut self, _kind: &OrderKind, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    fn edit(&mut self, _route: &Arc<Route>, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    fn kill(&mut self, _now: Time) {}
    fn start_again(&mut self, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    /// What the last restart lost, in words.
    fn lost_at_restart(&mut self) -> Option<String> {
        None
    }
}
