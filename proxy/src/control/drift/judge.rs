//! Whether the canary's inputs and predictions are distributed as others are, and the words for it. Pure.
//!
//! Line: books ► **judge** ► board. A distribution counts as another one when it is further away than the guard allows
//! *and* than chance explains: the population stability index of two equal distributions over B bins is not 0 but
//! (B − 1)(1/n + 1/m) on average, so that much is taken off before it is held against `max_psi`, and it must stand four
//! standard deviations above it. The Kolmogorov-Smirnov statistic is 0.87 √(1/n + 1/m) on average, which is taken off as well;
//! and it must be one that chance exceeds in one of a thousand looks. Fewer rows than `min_rows` say nothing.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_config::{Against, DriftGuard, OnDrift, VersionId};
use pointsman_rollout::Outcome;
use pointsman_telemetry::drift::{self, Distance, Distribution, Training, Values};

use super::Pair;
use super::books::{Books, Counted};

/// Bins of the population stability index between two versions: tenths of stable's rows.
const GROUPS: u32 = 10;
/// Distributions that are named.
const MOST_NAMED: usize = 3;

/// What was found, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) outcome: Outcome,
    pub(super) words: String,
}

/// One distribution beside another one.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    name: String,
    is_prediction: bool,
    /// The population stability index, less what chance makes of it on average.
    psi: f64,
    /// The Kolmogorov-Smirnov statistic, less the same; none for what has no order.
    ks: Option<f64>,
    is_another: bool,
}

/// What the books say.
pub(super) fn judge(guard: &DriftGuard, pair: &Pair, books: &Books) -> Judged {
    let judged = match guard.against {
        Against::Stable => {
            books.within(true).and_then(|[stable, canary]| against_stable(guard, pair, &stable, &canary))
        }
        Against::Training => {
            books.within(false).and_then(|[stable, canary]| against_training(guard, pair, &stable, &canary))
        }
    };
    judged.unwrap_or_else(|why| Judged { outcome: Outcome::Holds, words: why })
}

/// # Errors
/// When nothing can be said, with the reason.
fn against_stable(guard: &DriftGuard, pair: &Pair, stable: &Counted, canary: &Counted) -> Result<Judged, String> {
    let Pair { stable: old, canary: new, .. } = pair;
    let rows = format!("{} rows of {new} and {} of {old}", canary.rows, stable.rows);
    if canary.rows.min(stable.rows) < u64::from(guard.min_rows) {
        return Err(too_few(guard, &format!("{rows} at the same time")));
    }
    let names =
        canary.distributions.iter().filter_map(|(name, found)| Some((name, found, stable.distributions.get(name)?)));
    let compared: Vec<Compared> =
        names.map(|(name, new, old)| beside(guard, name, new, old)).collect::<Result<_, String>>()?;
    if compared.is_empty() {
        return Err(format!("{new} and {old} count nothing in common; their bundles need a training reference"));
    }
    Ok(verdict(guard, &compared, &format!("{old}'s at the same time"), (new, &rows)))
}

/// # Errors
/// When nothing can be said, with the reason.
fn against_training(guard: &DriftGuard, pair: &Pair, stable: &Counted, canary: &Counted) -> Result<Judged, String> {
    let Pair { stable: old, canary: new, .. } = pair;
    let rows = format!("{} rows of {new}", canary.rows);
    if canary.rows < u64::from(guard.min_rows) {
        return Err(too_few(guard, &rows));
    }
    let compared = beside_training(guard, canary);
    if compared.is_empty() {
        return Err(format!("{new} has no training reference in its bundle"));
    }
    let mut judged = verdict(guard, &compared, "its training", (new, &rows));
    let of_stable = beside_training(guard, stable);
    let moved = of_stable.iter().filter(|compared| compared.is_another && stable.rows >= u64::from(guard.min_rows));
    if judged.outcome != Outcome::Passes
        && let Some(first) = moved.max_by(|one, other| one.psi.total_cmp(&other.psi))
    {
        let also = format!(
            "; {old} has drifted from its training too (`{}`, PSI {:.2}), so it may be the world that changed",
            first.name, first.psi
        );
        judged.words.push_str(&also);
    }
    Ok(judged)
}

fn too_few(guard: &DriftGuard, rows: &str) -> String {
    format!("too few rows were counted yet: {rows}; {} of each version that is looked at are needed", guard.min_rows)
}

fn beside_training(guard: &DriftGuard, counted: &Counted) -> Vec<Compared> {
    let of_one = |(name, found): (&String, &Distribution)| {
        let Training { edges, trained, counts } = found.training.as_ref()?;
        let distance = drift::distance(counts, trained)?;
        Some(weigh(guard, (name, found.is_prediction), distance, edges.as_ref().map(|_| distance)))
    };
    counted.distributions.iter().filter_map(of_one).collect()
}

/// The canary's distribution beside stable's.
fn beside(guard: &DriftGuard, name: &str, new: &Distribution, old: &Distribution) -> Result<Compared, String> {
    let found: Option<(Distance, Option<Distance>)> = match (&new.values, &old.values) {
        (Values::Numbers(new), Values::Numbers(old)) => {
            of_numbers(&new.side_by_side(old)).map(|(few, fine)| (few, Some(fine)))
        }
        (Values::Categories { counts: new }, Values::Categories { counts: old }) => {
            let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            let count = |of: &BTreeMap<String, u64>, name| of.get(name).copied().unwrap_or_default();
            let both: Vec<_> = names.into_iter().map(|name| [count(new, name), count(old, name)]).collect();
            apart(&both).map(|distance| (distance, None))
        }
        (Values::Numbers(_) | Values::Categories { .. }, _) => {
            return Err(format!("`{name}` is a number to one version and none to the other"));
        }
    };
    let (distance, ks) = found.ok_or_else(|| format!("`{name}` was not counted by both versions"))?;
    Ok(weigh(guard, (name, new.is_prediction), distance, ks))
}

/// How far two samples of numbers are apart that were counted in fine bins: over tenths of the second sample, for the
/// index, and over all bins, for the Kolmogorov-Smirnov statistic.
pub(super) fn of_numbers(fine: &[[u64; 2]]) -> Option<(Distance, Distance)> {
    Some((apart(&drift::by_quantiles(fine, GROUPS))?, apart(fine)?))
}

fn apart(both: &[[u64; 2]]) -> Option<Distance> {
    let (new, old): (Vec<u64>, Vec<u64>) = both.iter().map(|[new, old]| (*new, *old)).unzip();
    drift::distance(&new, &old)
}

/// Whether it is another distribution; `fine` is where the Kolmogorov-Smirnov statistic comes from, if it means anything.
fn weigh(guard: &DriftGuard, (name, is_prediction): (&str, bool), few: Distance, fine: Option<Distance>) -> Compared {
    let (psi, ks) = (few.psi - few.psi_expected, fine.map(|fine| fine.ks - fine.ks_expected));
    let by_ks = fine.is_none_or(|fine| fine.ks > fine.ks_noise);
    let far_in_psi = psi >= guard.max_psi && few.psi > few.psi_noise;
    let far_in_ks = ks.is_some_and(|ks| ks >= guard.max_ks);
    Compared { name: name.to_owned(), is_prediction, psi, ks, is_another: by_ks && (far_in_psi || far_in_ks) }
}

fn verdict(guard: &DriftGuard, compared: &[Compared], beside: &str, (canary, rows): (&VersionId, &str)) -> Judged {
    let mut another: Vec<&Compared> = compared.iter().filter(|compared| compared.is_another).collect();
    // Predictions come first: they are what users get.
    another.sort_by(|one, other| other.is_prediction.cmp(&one.is_prediction).then(other.psi.total_cmp(&one.psi)));
    let limits = format!("PSI {} and KS {} are allowed above chance", guard.max_psi, guard.max_ks);
    if another.is_empty() {
        let worst = compared.iter().max_by(|one, other| one.psi.total_cmp(&other.psi));
        let worst = worst.map_or_else(String::new, |worst| format!(", at most {}", worst.in_words()));
        let words = format!("what {canary} takes and answers is distributed as {beside}{worst}, over {rows}");
        return Judged { outcome: Outcome::Passes, words };
    }
    let named: Vec<String> = another.iter().take(MOST_NAMED).map(|compared| compared.in_words()).collect();
    let more = another.len().saturating_sub(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let words = format!("{canary} drifted from {beside}: {}{more}, over {rows}; {limits}", named.join(", "));
    let outcome = match guard.action {
        OnDrift::Hold => Outcome::Holds,
        OnDrift::Rollback => Outcome::Fails,
    };
    Judged { outcome, words }
}

impl Compared {
    fn in_words(&self) -> String {
        let what = if self.is_prediction { "its predictions".to_owned() } else { format!("`{}`", self.name) };
        let ks = self.ks.map_or_else(String::new, |ks| format!(", KS {ks:.2}"));
        format!("{what} (PSI {:.2}{ks})", self.psi)
    }
}
