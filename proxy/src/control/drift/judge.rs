//! Whether the canary's inputs and predictions are distributed as others are, and the words for it. Pure.
//!
//! Line: books ► **judge** ► board. A distribution counts as another one when it is further away than the guard allows
//! *and* than chance explains: the population stability index of two equal distributions over B bins is not 0 but
//! (B − 1)(1/n + 1/m) on average, so that much is taken off before it is held against `max_psi`, and it must stand four
//! standard deviations above it. The Kolmogorov-Smirnov statistic is 0.87 √(1/n + 1/m) on average, which is taken off as well;
//! and it must be one that chance exceeds in one of a thousand looks. n and m are *requests*: those are drawn by chance, and
//! the rows of a batch may all be of one shop in one hour. Fewer requests than `min_rows` say nothing. There are many
//! distributions and many looks, so a canary goes back only when several samples in a row that have no row in common say
//! the same ([`Repeated`]).

use std::collections::{BTreeMap, BTreeSet};

use pointsman_config::{Against, DriftGuard, OnDrift, VersionId};
use pointsman_rollout::Outcome;
use pointsman_telemetry::drift::{self, Distance, Distribution, Training, Values};

use super::Pair;
use super::books::{Books, Counted, Since};

/// Bins of the population stability index between two versions: tenths of stable's rows.
const GROUPS: u32 = 10;
/// Distributions that are named.
const MOST_NAMED: usize = 3;
/// Samples in a row, each of rows of its own, that have to say that the canary must go back.
const SAMPLES: u32 = 3;

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

/// How often in a row the canary was found to have drifted, each time in other rows.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    times: u32,
    /// What was not looked at when it was found last.
    since: Since,
}

impl Repeated {
    /// One more look: what the books say, except that a canary goes back only once it was found often enough.
    pub(super) fn look(&mut self, guard: &DriftGuard, pair: &Pair, books: &mut Books) -> Judged {
        let all = judge(guard, pair, (&*books, Since::default()));
        if all.outcome != Outcome::Fails {
            *self = Self::default();
            return all;
        }
        if self.times < SAMPLES {
            let unseen =
                if self.times == 0 { Outcome::Fails } else { judge(guard, pair, (&*books, self.since)).outcome };
            match unseen {
                Outcome::Fails => *self = Self { times: self.times + 1, since: books.close() },
                Outcome::Passes => *self = Self::default(),
                // Too few yet.
                Outcome::Holds => {}
            }
        }
        if self.times >= SAMPLES {
            return all;
        }
        let times = format!("{} of {SAMPLES} times in a row, each in rows of its own", self.times);
        Judged { outcome: Outcome::Holds, words: format!("{}; found {times}", all.words) }
    }
}

/// What the books say of all that came within the window and since then.
pub(super) fn judge(guard: &DriftGuard, pair: &Pair, (books, since): (&Books, Since)) -> Judged {
    let judged = match guard.against {
        Against::Stable => {
            books.within(since, true).and_then(|[stable, canary]| against_stable(guard, pair, &stable, &canary))
        }
        Against::Training => {
            books.within(since, false).and_then(|[stable, canary]| against_training(guard, pair, &stable, &canary))
        }
    };
    judged.unwrap_or_else(|why| Judged { outcome: Outcome::Holds, words: why })
}

/// # Errors
/// When nothing can be said, with the reason.
fn against_stable(guard: &DriftGuard, pair: &Pair, stable: &Counted, canary: &Counted) -> Result<Judged, String> {
    let Pair { stable: old, canary: new, .. } = pair;
    let rows = format!("{} of {new} and {} of {old}", in_words(canary), in_words(stable));
    if canary.requests.min(stable.requests) < u64::from(guard.min_rows) {
        return Err(too_few(guard, &format!("{rows} at the same time")));
    }
    let names =
        canary.distributions.iter().filter_map(|(name, found)| Some((name, found, stable.distributions.get(name)?)));
    let compared: Vec<Compared> = names
        .map(|(name, new, old)| beside(guard, name, (new, canary.requests), (old, stable.requests)))
        .collect::<Result<_, String>>()?;
    if compared.is_empty() {
        return Err(format!("{new} and {old} count nothing in common; their bundles need a training reference"));
    }
    Ok(verdict(guard, &compared, &format!("{old}'s at the same time"), (new, &rows)))
}

/// # Errors
/// When nothing can be said, with the reason.
fn against_training(guard: &DriftGuard, pair: &Pair, stable: &Counted, canary: &Counted) -> Result<Judged, String> {
    let Pair { stable: old, canary: new, .. } = pair;
    let rows = format!("{} of {new}", in_words(canary));
    if canary.requests < u64::from(guard.min_rows) {
        return Err(too_few(guard, &rows));
    }
    let compared = beside_training(guard, canary);
    if compared.is_empty() {
        return Err(format!("{new} has no training reference in its bundle"));
    }
    let mut judged = verdict(guard, &compared, "its training", (new, &rows));
    let of_stable = beside_training(guard, stable);
    let moved = of_stable.iter().filter(|compared| compared.is_another && stable.requests >= u64::from(guard.min_rows));
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
    format!(
        "too few requests were counted yet: {rows}; {} of each version that is looked at are needed",
        guard.min_rows
    )
}

/// How much was counted.
fn in_words(counted: &Counted) -> String {
    let Counted { rows, requests, .. } = counted;
    if rows == requests { format!("{requests} requests") } else { format!("{requests} requests ({rows} rows)") }
}

fn beside_training(guard: &DriftGuard, counted: &Counted) -> Vec<Compared> {
    let of_one = |(name, found): (&String, &Distribution)| {
        let Training { edges, trained, counts } = found.training.as_ref()?;
        let distance = drift::distance_by_draws((counts, counted.requests), (trained, u64::MAX))?;
        Some(weigh(guard, (name, found.is_prediction), distance, edges.as_ref().map(|_| distance)))
    };
    counted.distributions.iter().filter_map(of_one).collect()
}

/// The canary's distribution beside stable's, each with the requests in which its rows came.
fn beside(
    guard: &DriftGuard,
    name: &str,
    (new, draws): (&Distribution, u64),
    (old, others): (&Distribution, u64),
) -> Result<Compared, String> {
    let draws = [draws, others];
    let found: Option<(Distance, Option<Distance>)> = match (&new.values, &old.values) {
        (Values::Numbers(new), Values::Numbers(old)) => {
            of_numbers(&new.side_by_side(old), draws).map(|(few, fine)| (few, Some(fine)))
        }
        (Values::Categories { counts: new }, Values::Categories { counts: old }) => {
            let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            let count = |of: &BTreeMap<String, u64>, name| of.get(name).copied().unwrap_or_default();
            let both: Vec<_> = names.into_iter().map(|name| [count(new, name), count(old, name)]).collect();
            apart(&both, draws).map(|distance| (distance, None))
        }
        (Values::Numbers(_) | Values::Categories { .. }, _) => {
            return Err(format!("`{name}` is a number to one version and none to the other"));
        }
    };
    let (distance, ks) = found.ok_or_else(|| format!("`{name}` was not counted by both versions"))?;
    Ok(weigh(guard, (name, new.is_prediction), distance, ks))
}

/// How far two samples of numbers are apart that were counted in fine bins: over tenths of the second sample, for the
/// index, and over all bins, for the Kolmogorov-Smirnov statistic. `draws` are the requests of each.
pub(super) fn of_numbers(fine: &[[u64; 2]], draws: [u64; 2]) -> Option<(Distance, Distance)> {
    Some((apart(&drift::by_quantiles(fine, GROUPS), draws)?, apart(fine, draws)?))
}

fn apart(both: &[[u64; 2]], [draws, others]: [u64; 2]) -> Option<Distance> {
    let (new, old): (Vec<u64>, Vec<u64>) = both.iter().map(|[new, old]| (*new, *old)).unzip();
    drift::distance_by_draws((&new, draws), (&old, others))
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
