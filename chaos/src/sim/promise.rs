//! What a scenario says must hold, held against what came of it.

use std::time::Duration;

use super::{Books, Played};
use crate::invariant::Broken;
use crate::promise::{ENDS, FOR_NOTHING, NEVER_PROMOTED, NEVER_TAKEN_BACK, PROMOTED_LATE, TAKEN_BACK_LATE};
use crate::scenario::Scenario;

/// What the scenario says must hold, and does not.
pub(super) fn broken(scenario: &Scenario, played: &Played) -> Vec<Broken> {
    let all = [ends(scenario, played), for_nothing(scenario, played), back(scenario, played), on(scenario, played)];
    let mut broken: Vec<Broken> = all.into_iter().flatten().collect();
    broken.extend(bad_books(scenario, &played.books));
    broken
}

fn ends(scenario: &Scenario, played: &Played) -> Option<Broken> {
    let (wanted, ends) = (scenario.holds.ends?, played.ends?);
    (wanted != ends).then(|| Broken { rule: ENDS, said: format!("it ends {ends}, and should end {wanted}") })
}

/// Where it was not to be taken back at all, or before anything was wrong with it.
fn for_nothing(scenario: &Scenario, played: &Played) -> Option<Broken> {
    let is_early = |at: &Duration| played.harmed.is_none_or(|harmed| *at < harmed);
    let is_for_nothing =
        |at: &Duration| scenario.holds.never_taken_back || (scenario.holds.taken_back_within.is_some() && is_early(at));
    let at = played.taken_back.filter(is_for_nothing)?.as_secs_f64();
    let said = format!("the canary was taken back after {at:.1} s, and nothing was wrong with it");
    Some(Broken { rule: FOR_NOTHING, said })
}

fn back(scenario: &Scenario, played: &Played) -> Option<Broken> {
    let limit = scenario.holds.taken_back_within?;
    // One that came too early is told as such.
    let took = played.taken_back.map(|at| at.saturating_sub(played.harmed.unwrap_or_default()));
    late(limit, took, (NEVER_TAKEN_BACK, TAKEN_BACK_LATE), "taken back")
}

fn on(scenario: &Scenario, played: &Played) -> Option<Broken> {
    late(scenario.holds.promoted_within?, played.promoted, (NEVER_PROMOTED, PROMOTED_LATE), "promoted")
}

/// Never is another failure than late.
fn late(limit: Duration, took: Option<Duration>, rules: (&'static str, &'static str), what: &str) -> Option<Broken> {
    let (rule, said) = match took {
        None => (rules.0, "it never was".to_owned()),
        Some(took) if took > limit => (rules.1, format!("it took {:.1} s", took.as_secs_f64())),
        Some(_) => return None,
    };
    Some(Broken { rule, said: format!("the canary was to be {what} within {limit:?}: {said}") })
}

/// What users saw, and should not have seen.
fn bad_books(scenario: &Scenario, books: &Books) -> Vec<Broken> {
    let (holds, canary) = (&scenario.holds, scenario.canary());
    let mut broken = Vec::new();
    let bad = canary.map_or(0, |canary| books.of(canary).bad);
    if let Some(limit) = holds.bad_answers_at_most.filter(|limit| bad > *limit) {
        let said = format!("the canary gave {bad} bad answers, and should give {limit} at most");
        broken.push(Broken { rule: "bad answers of the canary", said });
    }
    let others: u64 =
        books.versions.iter().filter(|(version, _)| Some(*version) != canary).map(|(_, own)| own.bad).sum();
    if let Some(limit) = holds.other_bad_answers_at_most.filter(|limit| others > *limit) {
        let said = format!("{others} bad answers came from others than the canary, and {limit} at most should");
        broken.push(Broken { rule: "bad answers of others", said });
    }
    if let Some(limit) = holds.availability_at_least.filter(|limit| books.availability() < *limit) {
        let said = format!("{:.4} of all requests were answered well, and {limit} should be", books.availability());
        broken.push(Broken { rule: "availability", said });
    }
    broken
}
