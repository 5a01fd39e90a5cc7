//! Where a route stands, in words that an operator understands at a glance.

use std::time::Duration;

use pointsman_config::VersionId;

use crate::findings::GateSummary;
use crate::phase::PhaseName;
use crate::service::WayBack;

/// Where a route stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Its phase.
    pub phase: PhaseName,
    /// The version in production now.
    pub stable: VersionId,
    /// The version that is tried, or was.
    pub canary: Option<VersionId>,
    /// The present step, from 0; none outside of steps.
    pub step: Option<usize>,
    /// How many steps the plan has.
    pub steps: Option<usize>,
    /// How long the phase, or the step, has lasted.
    pub since: Duration,
    /// What will happen next, and when or on which condition.
    pub next: String,
    /// Why it is paused, held or was rolled back; empty otherwise.
    pub why: String,
    /// Whether the way back is proven; none for a route without a live Service.
    pub way_back: Option<WayBack>,
    /// Versions that stay at weight 0.
    pub quarantined: Vec<Quarantined>,
    /// Whether a comparison is going on.
    pub comparing: bool,
    /// Where the gates stand that others answer, those that count now.
    pub gates: Vec<GateSummary>,
}

/// A version that stays at weight 0 until its revision changes or an operator says `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Which.
    pub version: VersionId,
    /// The build that was taken back.
    pub revision: Option<String>,
    /// Why.
    pub why: String,
}

/// `75 s`, `12 min`, `1 h 5 min`: a span as people say it.
pub(crate) fn span_in_words(span: Duration) -> String {
    let seconds = span.as_secs() + u64::from(span.subsec_millis() >= 500);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}
