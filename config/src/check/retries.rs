//! What is repeated, and what that may cost.

use std::collections::BTreeSet;

use crate::error::Findings;
use crate::file::{BudgetFile, List, RetriesFile};
use crate::plan::ErrorKind;
use crate::read::Written;
use crate::scalar::Value;
use crate::units::print_duration;
use crate::{Retries, Share, Timeouts};

use super::items;
use super::range::{count, positive, size};

const MOST_ATTEMPTS: u32 = 10;
const MOST_PER_SECOND: u32 = 1_000;

/// Retries, with the defaults for what is left out.
pub(super) fn retries(file: &Written<RetriesFile>, timeouts: &Timeouts, findings: &Findings) -> Retries {
    let default = Retries::default();
    let Some(file) = file.value() else { return default };
    let (budget_ppm, budget_floor) = budget(&file.budget, &default, findings);
    let per_try = file.per_try_timeout.good().map(|_| positive(&file.per_try_timeout, timeouts.total, findings));
    if let (Some((spot, _)), Some(true)) =
        (file.per_try_timeout.good(), per_try.map(|per_try| per_try > timeouts.total))
    {
        let what = format!(
            "`per_try_timeout` is longer than `timeouts.total` ({}), which ends the request before",
            print_duration(timeouts.total)
        );
        findings.warning(spot, what, "make it shorter, so that there is time for another attempt");
    }
    Retries {
        replay: file.replay.value().copied().unwrap_or(default.replay),
        attempts: count(&file.attempts, default.attempts, &(1..=MOST_ATTEMPTS), findings),
        budget_ppm,
        budget_floor,
        body_bytes: size(&file.body, default.body_bytes, Retries::MOST_BODY_BYTES, findings),
        per_try,
        on: kinds(&file.on, default.on, findings),
    }
}

fn budget(file: &Written<BudgetFile>, default: &Retries, findings: &Findings) -> (u32, u32) {
    let Some((spot, file)) = file.good() else { return (default.budget_ppm, default.budget_floor) };
    let share: &Value<Share> = &file.share;
    let budget_ppm = share.scalar().map_or(default.budget_ppm, |share| share.ppm());
    let floor = count(&file.floor, default.budget_floor, &(0..=MOST_PER_SECOND), findings);
    if budget_ppm == 0 && floor == 0 {
        findings.warning(spot, "this budget allows no retry", "write `attempts: 1` to turn retries off, or allow some");
    }
    (budget_ppm, floor)
}

/// The outcomes of a list, each once.
pub(super) fn kinds(list: &List<ErrorKind>, default: BTreeSet<ErrorKind>, findings: &Findings) -> BTreeSet<ErrorKind> {
    if matches!(list, Written::Absent) {
        return default;
    }
    let mut kinds = BTreeSet::new();
    for (spot, kind) in items(list.good(), "name at least one of 5xx, timeout, connect and reset", findings) {
        if !kinds.insert(*kind) {
            findings.warning(spot, "this outcome is listed already", "remove one of them");
        }
    }
    kinds
}
