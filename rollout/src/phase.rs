//! The phases of a route: each owns just what it needs.

use std::fmt;
use std::time::Duration;

use pointsman_config::{Split, VersionId};
use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// Where a route stands.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Nothing moves by itself.
    Steady,
    /// The canary is not ready yet, or waits for its gate; it gets no traffic.
    Warming,
    /// The canary has the weight of one step.
    Shifting(Shifting),
    /// Stopped where it stood; a rollback is still armed.
    Paused(Paused),
    /// All traffic shall go to the canary, and then the live Service.
    Promoting(Promoting),
    /// All traffic goes to the canary; the old version stays warm.
    Baking,
    /// No traffic shall go to the canary.
    RollingBack(Setback),
    /// No traffic goes to the canary.
    RolledBack(Setback),
}

/// One step of a canary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shifting {
    /// Which step, from 0.
    pub(crate) step: usize,
    /// What the canary answered under this step's weight.
    pub(crate) fresh: Tally,
}

/// On the way to all traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promoting {
    /// Whether every edge had moved, so that the live Service selects the canary from then on. Stays, whoever goes away
    /// afterwards.
    pub(crate) flipped: bool,
}

/// Stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    /// Where to go on.
    pub(crate) stage: Stage,
    /// The split that is held.
    pub(crate) split: Split,
    /// Why, for people.
    pub(crate) why: String,
    /// Whether the weights were set by hand, so that the next change of the file ends the pause.
    pub(crate) by_hand: bool,
}

/// Where a paused rollout goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Getting the canary ready.
    Warming,
    /// At this step, from 0.
    Step(usize),
    /// On the way to all traffic, of a route with a live Service.
    Promoting {
        /// As of [`Promoting`].
        flipped: bool,
    },
    /// Baking, with this much done.
    Baking(Duration),
}

/// A version was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setback {
    /// Which.
    pub(crate) version: VersionId,
    /// Why, for people.
    pub(crate) why: String,
}

/// The name of a phase: the value of the metric label `phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Nothing moves by itself.
    Steady,
    /// The canary gets ready.
    Warming,
    /// The canary has the weight of one step.
    Shifting,
    /// Stopped where it stood.
    Paused,
    /// All traffic moves to the canary.
    Promoting,
    /// The old version stays warm.
    Baking,
    /// The canary is taken back.
    RollingBack,
    /// The canary was taken back.
    RolledBack,
}

impl PhaseName {
    /// Every phase, in the order of a rollout.
    pub const ALL: [Self; 8] = [
        Self::Steady,
        Self::Warming,
        Self::Shifting,
        Self::Paused,
        Self::Promoting,
        Self::Baking,
        Self::RollingBack,
        Self::RolledBack,
    ];

    /// The value of the metric label `phase`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Warming => "warming",
            Self::Shifting => "shifting",
            Self::Paused => "paused",
            Self::Promoting => "promoting",
            Self::Baking => "baking",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Phase {
    pub(crate) fn name(&self) -> PhaseName {
        match self {
            Self::Steady => PhaseName::Steady,
            Self::Warming => PhaseName::Warming,
            Self::Shifting(_) => PhaseName::Shifting,
            Self::Paused(_) => PhaseName::Paused,
            Self::Promoting(_) => PhaseName::Promoting,
            Self::Baking => PhaseName::Baking,
            Self::RollingBack(_) => PhaseName::RollingBack,
            Self::RolledBack(_) => PhaseName::RolledBack,
        }
    }
}
