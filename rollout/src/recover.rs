//! What of a route outlives the process, and the rollout made from it again.

use std::time::Duration;

use pointsman_config::{Plan, Route, Split, VersionId};
use serde::{Deserialize, Serialize};

use crate::phase::{Paused, PhaseName, Setback};
use crate::quarantine::Quarantine;
use crate::service::Custody;

/// What makes two plans the same rollout: route (the key under which this is kept), stable, canary and its revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version in production, as the file names it.
    pub stable: VersionId,
    /// The version that is tried.
    pub canary: Option<VersionId>,
    /// The canary's revision.
    pub revision: Option<String>,
    /// Whether the plan moves by itself.
    pub by_plan: bool,
}

impl Identity {
    /// The identity of what the file asks.
    pub fn of(route: &Route) -> Self {
        let (canary, by_plan) = match &route.plan {
            Plan::Weights(Split::Canary { canary, .. }) => (Some(canary.clone()), false),
            Plan::Weights(Split::Whole(all)) => ((*all != route.stable).then(|| all.clone()), false),
            Plan::Rollout(plan) => (Some(plan.canary.clone()), true),
        };
        let revision = canary.as_ref().and_then(|version| revision_of(route, version));
        Self { stable: route.stable.clone(), canary, revision, by_plan }
    }
}

/// The revision that the file gives a version.
pub(crate) fn revision_of(route: &Route, version: &VersionId) -> Option<String> {
    route.versions.get(version).and_then(|version| version.revision.clone())
}

/// What of a route outlives the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub(crate) identity: Identity,
    pub(crate) phase: SavedPhase,
    pub(crate) promoted: bool,
    pub(crate) quarantine: Quarantine,
    /// Weights that an operator set, and what the file asked then.
    pub(crate) by_hand: Option<ByHand>,
    /// Who served before the file named another stable version that has not been ready yet.
    #[serde(default)]
    pub(crate) formerly: Option<VersionId>,
    /// The error rate that the canary is held to by itself, frozen when its control group ended; none while it has one.
    #[serde(default)]
    pub(crate) limit: Option<f64>,
    /// The number of the present trial.
    #[serde(default)]
    pub(crate) trial: u64,
    /// How often something was decided.
    #[serde(default)]
    pub(crate) serial: u64,
    /// How many rollouts were begun before this one: of two states of different rollouts the one with more is newer.
    #[serde(default)]
    pub(crate) edition: u64,
    /// What became of the live Service in other hands.
    #[serde(default)]
    pub(crate) custody: Custody,
    /// How long ago the calendar last held what has a deadline; none if it has not, or nothing has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thawed: Option<Duration>,
}

impl Saved {
    /// The phase in which it was saved.
    pub fn phase(&self) -> PhaseName {
        match &self.phase {
            SavedPhase::Steady => PhaseName::Steady,
            SavedPhase::Warming { .. } => PhaseName::Warming,
            SavedPhase::Shifting { .. } => PhaseName::Shifting,
            SavedPhase::Paused(_) => PhaseName::Paused,
            SavedPhase::Promoting { .. } => PhaseName::Promoting,
            SavedPhase::Baking { .. } => PhaseName::Baking,
            SavedPhase::RollingBack(_) => PhaseName::RollingBack,
            SavedPhase::RolledBack(_) => PhaseName::RolledBack,
        }
    }

    /// How often something was decided for the route: of two states of one rollout the one with more is newer.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// How many rollouts, and how many decisions, stand behind it: of two states of one rollout the one with more is newer.
    pub fn depth(&self) -> (u64, u64) {
        (self.edition, self.serial)
    }

    /// The number of the trial in which it was saved, as [`Rollout::trial`](crate::Rollout::trial) counts.
    pub fn trial(&self) -> u64 {
        self.trial
    }

    /// Whether the rollout stands where it does in `other`, however long it has stood there.
    pub(crate) fn stands_like(&self, other: &Self) -> bool {
        let decided =
            |saved: &Self| (saved.identity.clone(), saved.phase.at_its_beginning(), saved.promoted, saved.trial);
        decided(self) == decided(other) && self.by_hand == other.by_hand
    }

    /// The version that was in production.
    pub(crate) fn serving(&self) -> &VersionId {
        let canary = self.identity.canary.as_ref().filter(|_| self.promoted && self.by_hand.is_none());
        canary.unwrap_or(&self.identity.stable)
    }

    /// Which rollout it is of.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Weights that an operator set, valid until the file asks something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByHand {
    pub(crate) split: Split,
    pub(crate) instead_of: Split,
}

/// A phase with elapsed times in place of moments, which mean nothing to another process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub(crate) enum SavedPhase {
    Steady,
    Warming {
        elapsed: Duration,
    },
    Shifting {
        step: usize,
        elapsed: Duration,
    },
    Paused(Paused),
    Promoting {
        #[serde(default)]
        flipped: bool,
    },
    Baking {
        elapsed: Duration,
    },
    RollingBack(Setback),
    RolledBack(Setback),
}

impl SavedPhase {
    /// The same before any time has passed in it.
    fn at_its_beginning(&self) -> Self {
        match self {
            Self::Warming { .. } => Self::Warming { elapsed: Duration::ZERO },
            Self::Shifting { step, .. } => Self::Shifting { step: *step, elapsed: Duration::ZERO },
            Self::Baking { .. } => Self::Baking { elapsed: Duration::ZERO },
            Self::Paused(paused) => Self::Paused(paused.clone()),
            Self::Promoting { flipped } => Self::Promoting { flipped: *flipped },
            Self::Steady => Self::Steady,
            Self::RollingBack(setback) => Self::RollingBack(setback.clone()),
            Self::RolledBack(setback) => Self::RolledBack(setback.clone()),
        }
    }
}
