//! How far the canary may drift: figures within the range in which they say something.

use std::time::Duration;

use crate::error::Findings;
use crate::file::{DriftFile, RouteFile};
use crate::read::Written;
use crate::scalar::CheckPath;
use crate::units::print_duration;
use crate::{Against, DriftGuard, Guard, Plan, Rollout, Strategy};

use super::range::{count, factor};

/// Fewer requests are too noisy for any threshold that is of use: of 200 rows in ten bins chance alone makes a PSI of 0.09.
const FEWEST_ROWS: u32 = 200;
/// Every look costs each endpoint an answer of some kilobytes.
const MOST_OFTEN: Duration = Duration::from_secs(1);
/// A window that moves needs some looks to move by.
const LOOKS_PER_WINDOW: u32 = 3;
/// Longest window: each look within it is kept.
const LONGEST_WINDOW: Duration = Duration::from_hours(24);

/// The drift guard, if there is one.
pub(super) fn drift(file: &Written<DriftFile>, findings: &Findings) -> Option<DriftGuard> {
    let file = file.value()?;
    let default = DriftGuard::default();
    let against = file.against.value().copied().unwrap_or(default.against);
    let CheckPath(path) = file.path.or(CheckPath(default.path));
    let action = file.action.value().copied().unwrap_or(default.action);
    let (every, window) = times(file, (default.every, default.window), findings);
    Some(DriftGuard {
        path,
        against,
        max_psi: factor(&file.max_psi, default.max_psi, f64::MIN_POSITIVE..=10.0, "more than 0, at most 10", findings),
        max_ks: factor(&file.max_ks, default.max_ks, f64::MIN_POSITIVE..=1.0, "more than 0, at most 1", findings),
        min_rows: count(&file.min_rows, default.min_rows, &(FEWEST_ROWS..=u32::MAX), findings),
        every,
        window,
        action,
    })
}

/// In blue-green the two versions never have traffic at the same time.
pub(super) fn warn_of_blind_drift(file: &RouteFile, plan: Option<&Plan>, guard: &Guard, findings: &Findings) {
    let spot = file.guard.value().and_then(|guard| guard.drift.spot());
    let is_blue_green = matches!(plan, Some(Plan::Rollout(Rollout { strategy: Strategy::BlueGreen, .. })));
    let beside_stable = guard.drift.as_ref().is_some_and(|drift| drift.against == Against::Stable);
    if let (Some(spot), true) = (spot, is_blue_green && beside_stable) {
        let what = "in a blue-green rollout the canary and stable never have traffic at the same time to compare";
        findings.warning(spot, what, "write `against: training`, or use steps");
    }
}

/// How often is asked, and how far back rows count.
fn times(file: &DriftFile, default: (Duration, Duration), findings: &Findings) -> (Duration, Duration) {
    let (every, window) = (file.every.or(default.0), file.window.or(default.1));
    if let (Some(spot), true) = (file.every.spot(), every < MOST_OFTEN) {
        let what = format!("asking every {} is a load for the endpoints", print_duration(every));
        findings.error(spot, what, format!("write {} or more", print_duration(MOST_OFTEN)));
    }
    let least = every.saturating_mul(LOOKS_PER_WINDOW);
    let spot = file.window.spot().or(file.every.spot());
    if let (Some(spot), true) = (spot, window < least || window > LONGEST_WINDOW) {
        let what =
            format!("a window of {} does not fit to asking every {}", print_duration(window), print_duration(every));
        let way_out = format!("write {} to {}", print_duration(least), print_duration(LONGEST_WINDOW));
        findings.error(spot, what, way_out);
    }
    (every, window)
}
