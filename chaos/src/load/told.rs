//! One request after the other, for whoever wants to know more than sums.

use std::net::SocketAddr;
use std::time::Instant;

use super::books::{Entry, Failure};

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Told {
    /// When it was due.
    pub due: Instant,
    /// When its end was known.
    pub ended: Instant,
    /// How it ended.
    pub end: Ended,
    /// Where it was sent; none if it was not.
    pub to: Option<SocketAddr>,
    /// When the connection was made over which it was sent.
    pub connected: Option<Instant>,
    /// Whose it was, by number, where the load has users.
    pub user: Option<u32>,
    /// The value of `x-pointsman-version` in its answer, also in one whose body never came to its end.
    pub version: Option<Box<str>>,
}

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// Answered below 400, as expected.
    Good,
    /// Answered below 400, and not with what was expected.
    Wrong,
    /// Answered with this status.
    Bad(u16),
    /// Sent, and its connection ended before the whole answer was there.
    Reset,
    /// Sent, and no whole answer within the timeout.
    Timeout,
    /// Sent, and answered with what is no HTTP.
    Malformed,
    /// Not sent: no connection could be made, or none came free.
    Unsent,
}

impl Ended {
    pub(super) fn of(entry: &Entry, is_expected: bool) -> Self {
        match entry {
            Entry::Answered { status, .. } if *status >= 400 => Self::Bad(*status),
            Entry::Answered { .. } if is_expected => Self::Good,
            Entry::Answered { .. } => Self::Wrong,
            Entry::Failed(Failure::Reset) => Self::Reset,
            Entry::Failed(Failure::Timeout) => Self::Timeout,
            Entry::Failed(Failure::Malformed) => Self::Malformed,
            Entry::Failed(Failure::Connect | Failure::Unsent) => Self::Unsent,
        }
    }

    /// Sent, and never answered.
    pub fn is_unanswered(self) -> bool {
        match self {
            Self::Reset | Self::Timeout | Self::Malformed => true,
            Self::Good | Self::Wrong | Self::Bad(_) | Self::Unsent => false,
        }
    }
}
