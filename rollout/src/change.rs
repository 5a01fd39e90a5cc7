//! What changed and why: the one record that log lines, history rows, events and explanations are all printed from.

use std::fmt;
use std::mem::discriminant;

use pointsman_config::{Share, Split, VersionId};
use serde::{Deserialize, Serialize};

use crate::phase::PhaseName;
use crate::summary::Summary;
use crate::verdict::Regression;

/// One change of a route, with everything needed to explain it later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What was done.
    pub decision: Decision,
    /// The phase before.
    pub from: PhaseName,
    /// The phase after.
    pub to: PhaseName,
    /// The version that the canary was compared with.
    pub stable: VersionId,
    /// The version that is tried, if any.
    pub canary: Option<VersionId>,
    /// The split before.
    pub before: Split,
    /// The split after.
    pub after: Split,
    /// Who or what caused it.
    pub cause: Cause,
    /// The evidence as it stood; only where a comparison was going on.
    pub evidence: Option<Summary>,
}

/// What was done: the value of the metric label `decision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A rollout began.
    Start,
    /// The canary was given its first or its next weight.
    Step,
    /// The rollout stopped where it stood.
    Pause,
    /// It would have gone on, and somebody beside the comparison holds it.
    Hold,
    /// It went on.
    Resume,
    /// The canary was given all traffic.
    Promote,
    /// Every edge has moved, and the live Service follows.
    Flip,
    /// All traffic has moved; the old version stays warm.
    Bake,
    /// The bake is over; the canary is the new stable.
    Finish,
    /// The canary was taken back.
    Rollback,
    /// No new request goes to the version that was taken back.
    RollbackDone,
    /// Someone should look; traffic stayed as it was.
    Alert,
    /// An operator set the weights.
    SetWeights,
    /// The quarantine of a version was lifted.
    Retry,
    /// The config file changed what is asked of the route.
    Edit,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::Step,
        Self::Pause,
        Self::Hold,
        Self::Resume,
        Self::Promote,
        Self::Flip,
        Self::Bake,
        Self::Finish,
        Self::Rollback,
        Self::RollbackDone,
        Self::Alert,
        Self::SetWeights,
        Self::Retry,
        Self::Edit,
    ];

    /// Whether the comparison had a part in it; the others only say that traffic has followed, or what the file asks.
    pub const fn rests_on_evidence(self) -> bool {
        match self {
            Self::Step
            | Self::Pause
            | Self::Hold
            | Self::Resume
            | Self::Promote
            | Self::Rollback
            | Self::Alert
            | Self::SetWeights => true,
            Self::Start | Self::Flip | Self::Bake | Self::Finish | Self::RollbackDone | Self::Retry | Self::Edit => {
                false
            }
        }
    }

    /// The value of the metric label `decision`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Step => "step",
            Self::Pause => "pause",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Flip => "flip",
            Self::Bake => "bake",
            Self::Finish => "finish",
            Self::Rollback => "rollback",
            Self::RollbackDone => "rollback_done",
            Self::Alert => "alert",
            Self::SetWeights => "set_weights",
            Self::Retry => "retry",
            Self::Edit => "edit",
        }
    }
}

/// Who or what caused a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// The plan: a hold was over, a proof was complete, traffic had moved.
    Plan {
        /// What was fulfilled.
        reason: String,
    },
    /// The comparison proved a regression.
    Evidence {
        /// Of which kind.
        regression: Regression,
    },
    /// The canary had no ready endpoint for too long.
    NotReady {
        /// How long, in seconds.
        seconds: u64,
    },
    /// The live Service had no ready endpoint after it was flipped.
    EmptyService {
        /// How long, in milliseconds.
        milliseconds: u64,
    },
    /// Somebody else changed the live Service.
    ForeignChange {
        /// Who: the field manager that wrote it.
        by: String,
        /// What was changed.
        what: String,
    },
    /// Another edge took the canary back by itself.
    Tripped {
        /// Which edge.
        by: String,
        /// What it found.
        why: String,
    },
    /// It was taken back before whoever decides now did, and not known where this went on from.
    Remembered {
        /// What was found then.
        why: String,
    },
    /// Something stayed undecided for too long.
    Deadline {
        /// What was waited for.
        waiting_for: String,
    },
    /// An operator, through the admin API.
    Operator {
        /// Who: the name that the API knows the caller by.
        actor: String,
        /// Why, in the operator's words.
        reason: String,
    },
    /// The config file.
    File,
    /// Requests were divided otherwise than the weights say.
    SplitMismatch {
        /// The canary's share of the draws, as a ratio.
        observed: f64,
        /// The share that the weights asked for, as a ratio.
        configured: f64,
        /// How many requests, or users where assignment is sticky, were drawn.
        drawn: u64,
    },
    /// The canary answers copied requests otherwise than stable.
    MirrorDisagreement {
        /// The share of the compared answers that disagreed, as a ratio.
        disagreement: f64,
        /// Stable's own, as a ratio.
        noise: f64,
        /// What is tolerated above it, as a ratio.
        gate: f64,
    },
    /// Somebody beside the comparison found that the canary must go back.
    GateFails {
        /// Which gate.
        gate: String,
        /// What was found.
        found: String,
    },
    /// Somebody beside the comparison holds what would have gone on.
    GateHolds {
        /// Which gate.
        gate: String,
        /// Why.
        why: String,
        /// For how long, in seconds.
        seconds: u64,
    },
}

impl Cause {
    /// Whether `other` is the same trouble, whatever its figures are by now: every gate that fails is trouble of its own.
    pub(crate) fn is_same_trouble(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::GateFails { gate: one, .. }, Self::GateFails { gate: another, .. }) => one == another,
            (one, another) => discriminant(one) == discriminant(another),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { reason } => f.write_str(reason),
            Self::Evidence { regression } => f.write_str(regression.in_words()),
            Self::NotReady { seconds } => write!(f, "the canary had no ready endpoint for {seconds} s"),
            Self::EmptyService { milliseconds } => {
                write!(f, "the live Service had no ready endpoint for {milliseconds} ms after it was flipped")
            }
            Self::ForeignChange { by, what } => write!(f, "{by} changed the live Service: {what}"),
            Self::Tripped { by, why } => write!(f, "the edge {by} took it back: {why}"),
            Self::Remembered { why } => write!(f, "it was taken back before: {why}"),
            Self::Deadline { waiting_for } => write!(f, "waited too long: {waiting_for}"),
            Self::Operator { actor, reason } if reason.is_empty() => write!(f, "by {actor}"),
            Self::Operator { actor, reason } => write!(f, "by {actor}: {reason}"),
            Self::File => f.write_str("the config file was changed"),
            Self::SplitMismatch { observed, configured, drawn } => write!(
                f,
                "the split is not as configured: the canary got {:.2}% of {drawn} draws instead of {:.2}%, so its evidence is void",
                100.0 * observed,
                100.0 * configured
            ),
            Self::MirrorDisagreement { disagreement, noise, gate } => write!(
                f,
                "it answers {:.2}% of the copied requests otherwise than stable, which answers {:.2}% otherwise itself; {:.2} points more are tolerated",
                100.0 * disagreement,
                100.0 * noise,
                100.0 * gate
            ),
            Self::GateFails { gate, found } => write!(f, "the gate `{gate}` fails: {found}"),
            Self::GateHolds { gate, why, seconds: 0 } => write!(f, "the gate `{gate}` holds: {why}"),
            Self::GateHolds { gate, why, seconds } => write!(f, "the gate `{gate}` holds for {seconds} s: {why}"),
        }
    }
}

impl Change {
    /// One sentence for people: what was done to what, and why.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.headline(), self.cause)
    }

    /// What was done to what.
    fn headline(&self) -> String {
        let canary = self.canary.as_ref().map_or("the canary", VersionId::as_str);
        let share = self.canary.as_ref().map_or(Share::ZERO, |version| self.after.share_of(version));
        match self.decision {
            Decision::Start => format!("rollout of {canary} started"),
            Decision::Step => format!("{canary} now gets {share}"),
            Decision::Pause => format!("paused with {canary} at {share}"),
            Decision::Hold => format!("{canary} held at {share}"),
            Decision::Resume => format!("resumed with {canary} at {share}"),
            Decision::Promote => format!("{canary} promoted to all traffic"),
            Decision::Flip => format!("the live Service selects {canary}"),
            Decision::Bake => format!("all traffic is on {canary}; {} stays warm", self.stable),
            Decision::Finish => format!("bake is over; {canary} is stable now"),
            Decision::Rollback => format!("{canary} taken back to 0%"),
            Decision::RollbackDone => format!("no new request goes to {canary}"),
            Decision::Alert => format!("alert for {canary} at {share}"),
            Decision::SetWeights => format!("weights set to {}", in_words(&self.after)),
            Decision::Retry => format!("quarantine of {canary} lifted"),
            Decision::Edit => format!("weights are now {}", in_words(&self.after)),
        }
    }
}

/// `v1 95%, v2 5%`.
pub(crate) fn in_words(split: &Split) -> String {
    match split {
        Split::Whole(version) => format!("{version} {}", Share::WHOLE),
        Split::Canary { stable, canary, share } => format!("{stable} {}, {canary} {share}", share.rest()),
    }
}
