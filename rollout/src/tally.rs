//! What is counted: the numbers that every judgement starts from.

use std::ops::{Add, AddAssign};

use pointsman_config::Share;
use serde::{Deserialize, Serialize};

/// Requests of one version over some span; tallies add, so that spans and replicas can be summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests whose outcome is known; client aborts are not among them.
    pub requests: u64,
    /// Those that count as errors of the version.
    pub errors: u64,
    /// Those that were slower than the guard's latency threshold.
    pub slow: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            slow: self.slow + other.slow,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Tally {
    /// Errors as a ratio of requests; none without requests.
    pub fn error_rate(self) -> Option<f64> {
        ratio(self.errors, self.requests)
    }
}

/// `part / whole`; none if the whole is zero.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| to_f64(part) / to_f64(whole))
}

/// A count as a float; exact up to 2^53, which no counter here reaches.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// What became known in one tick about the requests that were assigned under one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The canary's share when these requests were assigned.
    pub weight: Share,
    /// The canary's requests.
    pub canary: Tally,
    /// Stable's requests.
    pub stable: Tally,
}

/// Every request of both sides, where the units of a [`Row`] are users and only a user's first error counts; they add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// The canary's.
    pub canary: Tally,
    /// Stable's.
    pub stable: Tally,
}

impl AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        self.canary += other.canary;
        self.stable += other.stable;
    }
}

/// Units of assignment (requests; users where assignment is sticky) that were drawn under one weight; they add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Those that the draw gave to the canary.
    pub canary: u64,
    /// Those that it left to stable.
    pub stable: u64,
}

impl AddAssign for Drawn {
    fn add_assign(&mut self, other: Self) {
        self.canary += other.canary;
        self.stable += other.stable;
    }
}

/// Copies of stable's requests, and how many of their answers disagreed with stable's; they add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorTally {
    /// Copies that the mirrored version answered, compared with stable's answer.
    pub compared: u64,
    /// Those that disagreed.
    pub disagreed: u64,
    /// Copies that stable answered a second time, compared with its own first answer.
    pub noise_compared: u64,
    /// Those that disagreed: what stable does to itself says nothing about another version.
    pub noise_disagreed: u64,
}

impl AddAssign for MirrorTally {
    fn add_assign(&mut self, other: Self) {
        self.compared += other.compared;
        self.disagreed += other.disagreed;
        self.noise_compared += other.noise_compared;
        self.noise_disagreed += other.noise_disagreed;
    }
}
