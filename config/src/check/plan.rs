//! How a route's traffic is divided: weights that add up, or steps that rise.

use std::time::Duration;

use crate::error::{Findings, Spot, listed, quoted};
use crate::file::{RolloutFile, RouteFile, StepFile, StrategyName};
use crate::read::{Entries, Written};
use crate::scalar::Text;
use crate::units::print_duration;
use crate::{Guard, Plan, Promotion, Rollout, Share, Split, Step, Strategy, VersionId};

use super::range::positive;
use super::route::is_known;
use super::{items, required};

type Weights = Entries<Text<VersionId>, Text<Share>>;

const DEFAULT_BAKE: Duration = Duration::from_mins(10);
const DEFAULT_STEP_DEADLINE: Duration = Duration::from_hours(1);
const STEP_WAY_OUT: &str = "write steps such as `{ weight: 5%, hold: 5m }`, or leave `steps` out for the default ones";

/// The plan, unless it is bad or no stable version is known.
pub(super) fn plan(
    file: &RouteFile,
    route: &Spot,
    stable: Option<&VersionId>,
    known: &[VersionId],
    findings: &Findings,
) -> Option<Plan> {
    // Both are read whatever comes of it: what is wrong in the one that stays shall be known now.
    let split = file.weights.good().and_then(|(spot, written)| weights(spot, written, stable, known, findings));
    let rollout = file.rollout.good().and_then(|(spot, written)| rollout(spot, written, stable, known, findings));
    match (&file.weights, &file.rollout) {
        (Written::Absent, Written::Absent) => Some(Plan::Weights(Split::Whole(stable?.clone()))),
        (Written::Bad(_) | Written::Good(..), Written::Absent) => split.map(Plan::Weights),
        (Written::Absent, Written::Bad(_) | Written::Good(..)) => rollout.map(Plan::Rollout),
        (Written::Bad(_) | Written::Good(..), Written::Bad(_) | Written::Good(..)) => {
            both(file, route, findings);
            None
        }
    }
}

fn both(file: &RouteFile, route: &Spot, findings: &Findings) {
    let spot = file.weights.spot().unwrap_or(route);
    let what = "this route has both `weights` and `rollout`, and only one of them can divide its traffic";
    findings.error(spot, what, "keep `weights` to divide by hand, or `rollout` to let Pointsman move step by step");
}

fn weights(
    spot: &Spot,
    weights: &Weights,
    stable: Option<&VersionId>,
    known: &[VersionId],
    findings: &Findings,
) -> Option<Split> {
    let strangers = weights
        .0
        .iter()
        .filter_map(|(name, _)| name.good())
        .filter(|(place, name)| !is_known(&name.0, place, known, findings))
        .count();
    let shares: Vec<_> =
        weights.0.iter().filter_map(|(name, share)| Some((name.scalar()?, *share.scalar()?))).collect();
    if shares.len() < weights.0.len() {
        return None;
    }
    // What an unknown version does to the split is no second problem.
    (adds_up(spot, &shares, findings) && strangers == 0).then_some(())?;
    split(spot, &shares, stable?, findings)
}

fn adds_up(spot: &Spot, shares: &[(&VersionId, Share)], findings: &Findings) -> bool {
    let whole = u64::from(Share::PARTS);
    let sum: u64 = shares.iter().map(|(_, share)| u64::from(share.ppm())).sum();
    let percent = crate::split::percent_of_ppm;
    if shares.is_empty() {
        findings.error(
            spot,
            "there are no weights",
            "write weights such as `{ v1: 95%, v2: 5% }`, or remove the key for 100% to `stable`",
        );
    } else if sum < whole {
        let missing = percent(whole - sum);
        findings.error(
            spot,
            format!("the weights add up to {}, {missing} is missing", percent(sum)),
            format!("give {missing} more to one of the versions"),
        );
    } else if sum > whole {
        let over = percent(sum - whole);
        findings.error(
            spot,
            format!("the weights add up to {}, {over} too much", percent(sum)),
            format!("take {over} from the versions"),
        );
    }
    sum == whole
}

/// Shares that add up, as stable and one canary.
fn split(spot: &Spot, shares: &[(&VersionId, Share)], stable: &VersionId, findings: &Findings) -> Option<Split> {
    let others: Vec<_> = shares.iter().copied().filter(|(id, _)| *id != stable).collect();
    let with_traffic: Vec<_> = others.iter().copied().filter(|(_, share)| *share > Share::ZERO).collect();
    let stable_has_traffic = shares.iter().any(|(id, share)| *id == stable && *share > Share::ZERO);
    let canary = match (with_traffic.as_slice(), others.as_slice()) {
        ([canary], _) | ([], [canary]) => canary,
        ([], _) => return Some(Split::Whole(stable.clone())),
        ([_, _, ..], _) => {
            let names = listed(with_traffic.iter().take(20).map(|(id, _)| id.as_str()));
            let besides = if stable_has_traffic { " besides stable" } else { "" };
            let what = format!("{names} have traffic{besides}, and Pointsman compares one canary with stable");
            findings.error(spot, what, format!("divide the traffic between `{stable}` (stable) and one other version"));
            return None;
        }
    };
    Some(Split::canary(stable.clone(), canary.0.clone(), canary.1))
}

fn rollout(
    spot: &Spot,
    file: &RolloutFile,
    stable: Option<&VersionId>,
    known: &[VersionId],
    findings: &Findings,
) -> Option<Rollout> {
    let canary =
        required(&file.canary, "canary", spot, "name the version that is tried, such as `canary: v2`", findings);
    let canary_is_good = canary.is_some_and(|(place, id)| {
        is_known(&id.0, place, known, findings) && differs_from_stable(place, &id.0, stable, findings)
    });
    let strategy = strategy(file, findings);
    let bake = file.bake.or(DEFAULT_BAKE);
    if let (Some((spot, _)), true) = (file.bake.good(), bake.is_zero()) {
        findings.warning(
            spot,
            "with `bake: 0s` the old version is let go at the moment of promotion",
            "give it some minutes, so that the way back is one move",
        );
    }
    let step_deadline = positive(&file.step_deadline, DEFAULT_STEP_DEADLINE, findings);
    let promotion = file.promotion.value().copied().unwrap_or(Promotion::Automatic);
    let canary = canary.filter(|_| canary_is_good)?.1.0.clone();
    Some(Rollout { canary, strategy: strategy?, promotion, bake, step_deadline })
}

fn differs_from_stable(spot: &Spot, canary: &VersionId, stable: Option<&VersionId>, findings: &Findings) -> bool {
    let same = stable == Some(canary);
    if same {
        findings.error(
            spot,
            format!("{} is the stable version already", quoted(canary.as_str())),
            "name the new version as `canary`",
        );
    }
    !same
}

fn strategy(file: &RolloutFile, findings: &Findings) -> Option<Strategy> {
    match (file.strategy.value(), &file.steps) {
        (Some(StrategyName::BlueGreen), Written::Absent) => Some(Strategy::BlueGreen),
        (Some(StrategyName::BlueGreen), steps) => {
            let what = "`strategy: blue-green` moves from 0% to 100% at once, and takes no steps";
            findings.error(steps.spot()?, what, "remove `steps`, or write `strategy: canary`");
            None
        }
        (Some(StrategyName::Canary) | None, Written::Absent) => Some(Strategy::Canary(default_steps())),
        (Some(StrategyName::Canary) | None, steps) => Some(Strategy::Canary(rising_steps(steps, findings))),
    }
}

/// The steps of an operator who names none: 1 %, 5 %, 25 %, 50 %.
fn default_steps() -> Vec<Step> {
    let step = |ppm, minutes| Some(Step { weight: Share::from_ppm(ppm).ok()?, hold: Duration::from_mins(minutes) });
    [step(10_000, 2), step(50_000, 5), step(250_000, 10), step(500_000, 10)].into_iter().flatten().collect()
}

fn rising_steps(steps: &Written<Vec<Written<StepFile>>>, findings: &Findings) -> Vec<Step> {
    let mut rising: Vec<Step> = Vec::new();
    for (spot, file) in items(steps.good(), STEP_WAY_OUT, findings) {
        let weight = required(
            &file.weight,
            "weight",
            spot,
            "write the canary's share during this step, such as `weight: 5%`",
            findings,
        );
        let hold = required(&file.hold, "hold", spot, "write how long the step is held, such as `hold: 5m`", findings);
        let hold = hold.map(|_| positive(&file.hold, Duration::from_mins(5), findings));
        let Some((place, Text(weight))) = weight else { continue };
        rises(place, *weight, rising.last(), findings);
        leaves_a_control_group(place, *weight, findings);
        rising.push(Step { weight: *weight, hold: hold.unwrap_or_default() });
    }
    rising
}

fn rises(spot: &Spot, weight: Share, before: Option<&Step>, findings: &Findings) {
    let least = before.map_or(Share::ZERO, |step| step.weight);
    if weight <= least {
        let what = match before {
            Some(step) => format!("this step's weight of {weight} is not more than the {} before it", step.weight),
            None => "the first step has no weight".to_owned(),
        };
        findings.error(spot, what, "let the weights rise from step to step, such as 1%, 5%, 25%, 50%");
    }
}

/// A canary that has all traffic is compared with nothing, so such a step could never end.
fn leaves_a_control_group(spot: &Spot, weight: Share, findings: &Findings) {
    if weight == Share::WHOLE {
        findings.error(
            spot,
            "a step of 100% leaves stable no traffic to compare with, so it could never end",
            "let the steps end below 100%, such as at 50%; the promotion gives the canary the rest",
        );
    }
}

/// A comparison that ends before the last step can end is inconclusive by construction.
pub(super) fn warn_of_short_comparison(file: &RouteFile, plan: Option<&Plan>, guard: &Guard, findings: &Findings) {
    let (Some(Plan::Rollout(Rollout { strategy: Strategy::Canary(steps), .. })), Some((spot, _))) =
        (plan, file.rollout.good())
    else {
        return;
    };
    let holds: Duration = steps.iter().map(|step| step.hold).sum();
    let longest = guard.promotion.max_duration;
    if holds > longest {
        let what = format!(
            "the holds add up to {}, longer than guard.promotion.max_duration ({})",
            print_duration(holds),
            print_duration(longest)
        );
        findings.warning(
            spot,
            what,
            "make `max_duration` longer, or the holds shorter, or the comparison ends before the last step",
        );
    }
}
