//! What a comparison can say, and the words it says it in.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the evidence says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Words", try_from = "Words")]
pub enum Verdict {
    /// The canary is proven worse; stays so.
    Rollback(Regression),
    /// The canary is proven non-inferior.
    Promote,
    /// Neither is proven yet.
    Continue(Waiting),
    /// Neither was proven in time.
    Inconclusive,
}

/// Why a canary is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regression {
    /// It fails most of its requests.
    Catastrophic,
    /// It fails more than stable does.
    ErrorRegression,
    /// It is slower than stable is.
    LatencyRegression,
    /// It fails more than is ever allowed: judged by itself, without a control group or request by request.
    AbsoluteLimit,
}

/// Why nothing is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Not enough has been seen.
    Collecting,
    /// Something looks wrong, without being proven.
    Suspect,
    /// Both versions fail alike.
    CommonCauseHold,
    /// Stable fails, the canary does not.
    BaselineFailingHold,
    /// The canary has had no request.
    NoCanaryTraffic,
    /// Requests were not divided as the weights say, so that no comparison of their outcomes means anything.
    SplitMismatch,
    /// It is not excluded yet that the canary answers copied requests otherwise than stable.
    MirrorPending,
    /// The canary answers copied requests otherwise than stable.
    MirrorDisagreement,
    /// The canary is proven non-inferior, and somebody beside the comparison holds the promotion.
    GateHolds,
}

impl Verdict {
    /// Every verdict there is.
    pub const ALL: [Self; 15] = [
        Self::Rollback(Regression::Catastrophic),
        Self::Rollback(Regression::ErrorRegression),
        Self::Rollback(Regression::LatencyRegression),
        Self::Rollback(Regression::AbsoluteLimit),
        Self::Promote,
        Self::Continue(Waiting::Collecting),
        Self::Continue(Waiting::Suspect),
        Self::Continue(Waiting::CommonCauseHold),
        Self::Continue(Waiting::BaselineFailingHold),
        Self::Continue(Waiting::NoCanaryTraffic),
        Self::Continue(Waiting::SplitMismatch),
        Self::Continue(Waiting::MirrorPending),
        Self::Continue(Waiting::MirrorDisagreement),
        Self::Continue(Waiting::GateHolds),
        Self::Inconclusive,
    ];

    /// `rollback`, `promote`, `continue` or `inconclusive`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rollback(_) => "rollback",
            Self::Promote => "promote",
            Self::Continue(_) => "continue",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Why, in one word such as `error_regression`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Rollback(regression) => regression.as_str(),
            Self::Promote => "non_inferior",
            Self::Continue(waiting) => waiting.as_str(),
            Self::Inconclusive => "deadline",
        }
    }
}

impl Regression {
    /// One word, such as `catastrophic`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Catastrophic => "catastrophic",
            Self::ErrorRegression => "error_regression",
            Self::LatencyRegression => "latency_regression",
            Self::AbsoluteLimit => "absolute_limit",
        }
    }

    /// What was found, as the end of a sentence.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Catastrophic => "it fails most of its requests",
            Self::ErrorRegression => "it fails more than stable, beyond doubt",
            Self::LatencyRegression => "it is slower than stable, beyond doubt",
            Self::AbsoluteLimit => "it fails more of its requests than is allowed, whatever stable does",
        }
    }
}

impl Waiting {
    /// One word, such as `collecting`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Collecting => "collecting",
            Self::Suspect => "suspect",
            Self::CommonCauseHold => "common_cause_hold",
            Self::BaselineFailingHold => "baseline_failing_hold",
            Self::NoCanaryTraffic => "no_canary_traffic",
            Self::SplitMismatch => "split_mismatch",
            Self::MirrorPending => "mirror_pending",
            Self::MirrorDisagreement => "mirror_disagreement",
            Self::GateHolds => "gate_holds",
        }
    }
}

/// A verdict as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Words {
    verdict: String,
    reason: String,
}

/// Why words are no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{verdict}` because of `{reason}` is no verdict of this version; was the record written by a newer one?")]
pub struct VerdictError {
    /// The first word.
    pub verdict: String,
    /// The second.
    pub reason: String,
}

impl From<Verdict> for Words {
    fn from(verdict: Verdict) -> Self {
        Self { verdict: verdict.as_str().to_owned(), reason: verdict.reason().to_owned() }
    }
}

impl TryFrom<Words> for Verdict {
    type Error = VerdictError;

    fn try_from(words: Words) -> Result<Self, VerdictError> {
        let same = |known: &Self| known.as_str() == words.verdict && known.reason() == words.reason;
        Self::ALL.into_iter().find(same).ok_or(VerdictError { verdict: words.verdict, reason: words.reason })
    }
}
