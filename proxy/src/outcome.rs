//! What came of a request: exactly one outcome each, and whether it counts against the version.
//!
//! Line: upstream ► **outcome** ► recorder.

use std::collections::BTreeSet;

use pointsman_config::ErrorKind;

/// What came of one client request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The version answered, with a status below 500.
    Success,
    /// The version answered with a status from 500 to 599.
    Error,
    /// The version did not answer in time.
    Timeout,
    /// No connection to any endpoint of the version could be opened.
    Connect,
    /// The connection to the version broke before its answer was whole.
    Reset,
    /// The client went away first; never counts against a version.
    ClientAbort,
    /// Pointsman or the version's own admission control refused it; never counts against a version.
    Rejected,
}

impl Outcome {
    /// Every outcome, in the order of [`Outcome::index`].
    pub const ALL: [Self; 7] =
        [Self::Success, Self::Error, Self::Timeout, Self::Connect, Self::Reset, Self::ClientAbort, Self::Rejected];

    /// Position in [`Outcome::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Success => 0,
            Self::Error => 1,
            Self::Timeout => 2,
            Self::Connect => 3,
            Self::Reset => 4,
            Self::ClientAbort => 5,
            Self::Rejected => 6,
        }
    }

    /// The value of the metric label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::ClientAbort => "client_abort",
            Self::Rejected => "rejected",
        }
    }

    /// Whether it says something of the version, good or bad.
    pub const fn is_answer(self) -> bool {
        match self {
            Self::Success | Self::Error | Self::Timeout | Self::Connect | Self::Reset => true,
            Self::ClientAbort | Self::Rejected => false,
        }
    }

    /// Whether the version is what failed; such requests are kept as samples for people.
    pub const fn blames_version(self) -> bool {
        self.error_kind().is_some()
    }

    /// The kind of error that an operator can choose to count; none for outcomes that never blame a version.
    const fn error_kind(self) -> Option<ErrorKind> {
        match self {
            Self::Error => Some(ErrorKind::Status5xx),
            Self::Timeout => Some(ErrorKind::Timeout),
            Self::Connect => Some(ErrorKind::Connect),
            Self::Reset => Some(ErrorKind::Reset),
            Self::Success | Self::ClientAbort | Self::Rejected => None,
        }
    }
}

/// How an outcome weighs in the comparison of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighs {
    /// A good answer.
    Good,
    /// An error of the version.
    Bad,
    /// Nothing: says nothing about the version.
    Nothing,
}

/// Which outcomes count as errors on one route (`guard.count_as_error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorPolicy {
    counts: [bool; Outcome::ALL.len()],
}

impl ErrorPolicy {
    /// The policy that counts just the kinds in `kinds`.
    pub fn new(kinds: &BTreeSet<ErrorKind>) -> Self {
        Self { counts: Outcome::ALL.map(|outcome| outcome.error_kind().is_some_and(|kind| kinds.contains(&kind))) }
    }

    /// How `outcome` weighs; an error kind that is not counted weighs as a good answer.
    pub fn weigh(self, outcome: Outcome) -> Weighs {
        match outcome {
            Outcome::ClientAbort | Outcome::Rejected => Weighs::Nothing,
            Outcome::Success | Outcome::Error | Outcome::Timeout | Outcome::Connect | Outcome::Reset => {
                if self.counts.get(outcome.index()).copied().unwrap_or(false) { Weighs::Bad } else { Weighs::Good }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_index() {
        for (position, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(position, outcome.index());
        }
    }

    #[test]
    fn only_counted_kinds_blame_a_version_and_a_client_abort_never_does() {
        let policy = ErrorPolicy::new(&[ErrorKind::Timeout].into());
        assert_eq!(policy.weigh(Outcome::Timeout), Weighs::Bad);
        assert_eq!(policy.weigh(Outcome::Error), Weighs::Good);
        assert_eq!(policy.weigh(Outcome::ClientAbort), Weighs::Nothing);
        assert_eq!(policy.weigh(Outcome::Rejected), Weighs::Nothing);
    }
}
