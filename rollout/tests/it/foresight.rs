//! What a plan is forecast to do, held to independent simulations of the comparison and to what a plan says of itself.

use std::time::Duration;

use pointsman_config::{Guard, Plan, PromotionGuard, Rollout as RolloutPlan, Route, Step};
use pointsman_rollout::{Comparison, Doubt, Expected, Failing, Foresight, Verdict, foresee};

use crate::traffic::{Chance, Health, Traffic};
use crate::world::{canary_plan, percent, route, weights};

const FAILING: [f64; 3] = [0.01, 0.05, 0.5];

fn expected(requests_per_s: f64) -> Expected {
    Expected { requests_per_s, error_rate: 0.001, slow_rate: 0.005 }
}

/// The default guard and a plan with these steps: percent and minutes.
fn plan(steps: &[(u32, u64)]) -> Route {
    let steps =
        steps.iter().map(|(weight, minutes)| Step { weight: percent(*weight), hold: Duration::from_mins(*minutes) });
    let plan = RolloutPlan {
        strategy: pointsman_config::Strategy::Canary(steps.collect()),
        bake: Duration::from_mins(10),
        step_deadline: Duration::from_hours(1),
        ..canary_plan(pointsman_config::Promotion::Automatic)
    };
    Route { guard: Guard::default(), ..route(Plan::Rollout(plan)) }
}

fn ahead(route: &Route, requests_per_s: f64) -> Foresight {
    foresee(route, expected(requests_per_s), &FAILING).unwrap()
}

fn failing(foresight: &Foresight, rate: f64, step: Option<u64>) -> &Failing {
    foresight.failing.iter().find(|seen| (seen.rate - rate).abs() < 1e-9 && seen.from_step == step).unwrap()
}

/// Means over runs of the comparison alone, under the test's own traffic: seconds, and bad answers of the canary.
fn simulated(requests_per_s: f64, weight: &str, rate: f64, runs: u64) -> (f64, f64) {
    let health = |error_rate| Health { error_rate, slow_rate: 0.005 };
    let (fine, broken) = (health(0.001), health(0.001 + rate * 0.999));
    let (mut ticks, mut bad) = (0.0, 0.0);
    for seed in 0..runs {
        let mut chance = Chance::of_seed(seed + 1_000);
        let mut comparison = Comparison::new(&Guard::default());
        let alone = Traffic::new(requests_per_s, "0%", fine, fine);
        for _ in 0..600 {
            comparison.baseline(alone.tick(&mut chance).stable);
        }
        let traffic = Traffic::new(requests_per_s, weight, broken, fine);
        loop {
            let row = traffic.tick(&mut chance);
            ticks += 1.0;
            bad += f64::from(u32::try_from(row.canary.errors).unwrap());
            if matches!(comparison.tick(&[row]), Verdict::Rollback(_)) {
                break;
            }
        }
    }
    let runs = f64::from(u32::try_from(runs).unwrap());
    (0.1 * ticks / runs, bad / runs)
}

#[test]
fn bad_answers_and_delay_agree_with_an_independent_simulation() {
    for (requests_per_s, weight, rate) in [(1_000.0, 5, 0.5), (1_000.0, 5, 0.05), (200.0, 5, 0.5), (3_000.0, 50, 0.01)]
    {
        let route = Route { guard: Guard::default(), ..route(weights(weight)) };
        let foresight = ahead(&route, requests_per_s);
        let seen = failing(&foresight, rate, None);
        let (seconds, bad) = simulated(requests_per_s, &format!("{weight}%"), rate, 200);
        let told = (seen.seconds.unwrap(), seen.bad_answers.mean);
        println!("{requests_per_s}/s {weight}% {rate}: simulated {seconds:.2} s {bad:.1}, told {told:?}");
        assert_eq!(seen.found, seen.runs);
        assert!((told.1 / bad - 1.0).abs() < 0.15, "bad answers {} beside {bad}", told.1);
        assert!(told.0.low <= seconds && seconds <= told.0.high * 1.1, "{:?} beside {seconds} s", told.0);
    }
}

#[test]
fn a_plan_with_enough_traffic_takes_its_holds_and_nothing_is_doubtful() {
    let foresight = ahead(&plan(&[(1, 2), (5, 5), (25, 10), (50, 10)]), 2_000.0);
    let healthy = foresight.healthy.unwrap();
    assert_eq!((healthy.promoted, healthy.taken_back, healthy.stuck), (healthy.runs, 0, 0), "{healthy:?}");
    let holds = 27.0 * 60.0;
    let seconds = healthy.seconds.unwrap();
    assert!((holds..holds * 1.05).contains(&seconds.median), "{seconds:?}");
    let lasts: f64 = foresight.steps.iter().filter_map(|step| step.lasts_s).sum();
    assert!((lasts - seconds.median).abs() < 60.0, "steps last {lasts}, all of it {seconds:?}");
    assert_eq!(foresight.doubts, []);
    assert_eq!(foresight.failing.len(), 6, "three rates, from the first step and from the last");
    for seen in &foresight.failing {
        assert!(f64::from(seen.found) >= 0.95 * f64::from(seen.runs), "{seen:?}");
    }
}

#[test]
fn a_forecast_is_the_same_whenever_it_is_made() {
    let route = plan(&[(5, 5), (25, 10)]);
    let first = ahead(&route, 500.0);
    assert_eq!(first, ahead(&route, 500.0));
}

#[test]
fn steps_without_enough_requests_are_told_and_do_last_as_long_as_told() {
    let foresight = ahead(&plan(&[(1, 2), (25, 10)]), 20.0);
    let told = foresight.doubts.iter().find_map(|doubt| {
        let Doubt::TooFewRequests { step: 1, expected, needed, takes_s } = doubt else { return None };
        Some((*expected, *needed, *takes_s))
    });
    let (expected, needed, takes_s) = told.unwrap();
    assert!((expected - 24.0).abs() < 1e-9 && needed == 45, "{expected} of {needed}");
    let lasts = foresight.steps[0].lasts_s.unwrap();
    assert!((lasts / takes_s - 1.0).abs() < 0.35, "lasts {lasts}, told {takes_s}");
    let never = ahead(&plan(&[(1, 2), (25, 10)]), 1.0);
    assert!(never.doubts.iter().any(|doubt| matches!(doubt, Doubt::NeverEnough { step: 1, .. })), "{:?}", never.doubts);
    let healthy = never.healthy.unwrap();
    assert_eq!((healthy.promoted, healthy.stuck), (0, healthy.runs));
}

#[test]
fn a_hold_that_lets_a_bad_canary_pass_is_told_with_one_that_would_not() {
    let route = Route { guard: Guard { max_error_rate: 0.02, ..Guard::default() }, ..plan(&[(10, 1), (50, 10)]) };
    let doubts = ahead(&route, 25.0).doubts;
    let told = doubts.iter().find_map(|doubt| {
        let Doubt::HoldTooShort { step: 1, passes, hold_s, .. } = doubt else { return None };
        Some((*passes, hold_s.unwrap()))
    });
    let Some((passes, hold_s)) = told else {
        return assert!(matches!(doubts[0], Doubt::TooFewRequests { .. }), "{doubts:?}");
    };
    assert!(passes > 0.5 && hold_s > 60.0);
}

#[test]
fn steps_that_add_nothing_and_margins_below_the_noise_are_told() {
    let mut route = plan(&[(25, 10), (26, 10)]);
    let doubts = ahead(&route, 2_000.0).doubts;
    assert!(matches!(doubts[..], [Doubt::AddsNothing { step: 2, .. }]), "{doubts:?}");

    route.guard.promotion = PromotionGuard { difference: 0.0001, ratio: 1.01, ..PromotionGuard::default() };
    let noisy = Expected { requests_per_s: 50.0, error_rate: 0.02, slow_rate: 0.005 };
    let foresight = foresee(&route, noisy, &FAILING).unwrap();
    let told = foresight.doubts.iter().find_map(|doubt| {
        let Doubt::NotProven { takes_s, would_do, .. } = doubt else { return None };
        Some((*takes_s, would_do.unwrap()))
    });
    let (takes_s, would_do) = told.unwrap();
    assert!(takes_s.is_none_or(|takes_s| takes_s > 0.7 * 3_600.0), "{takes_s:?}");
    route.guard.promotion.difference = would_do;
    let mended = foresee(&route, noisy, &FAILING).unwrap();
    assert!(!mended.doubts.iter().any(|doubt| matches!(doubt, Doubt::NotProven { .. })), "{:?}", mended.doubts);
    let healthy = mended.healthy.unwrap();
    assert!(2 * healthy.promoted > healthy.runs, "the margin that is advised would do: {healthy:?}");
}

#[test]
fn a_guard_that_only_alerts_takes_nothing_back_and_what_each_minute_costs_is_told() {
    let route = plan(&[(10, 5), (50, 10)]);
    let taken_back = ahead(&route, 500.0);
    assert!(!taken_back.alerts_only);
    assert!(taken_back.failing.iter().all(|seen| seen.then_per_minute.is_none()), "{:?}", taken_back.failing);
    let alerting = Guard { on_regression: pointsman_config::OnRegression::Alert, ..Guard::default() };
    let told = ahead(&Route { guard: alerting, ..route }, 500.0);
    assert!(told.alerts_only);
    for (step, share) in [(1, 0.1), (2, 0.5)] {
        let (back, alert) = (failing(&taken_back, 0.5, Some(step)), failing(&told, 0.5, Some(step)));
        assert_eq!((alert.found, alert.seconds), (back.found, back.seconds), "it is found as soon");
        let per_minute = 60.0 * 500.0 * share * (0.001 + 0.5 * 0.999);
        assert!((alert.then_per_minute.unwrap() / per_minute - 1.0).abs() < 1e-9, "{alert:?} beside {per_minute}");
    }
    assert_eq!(told.healthy.as_ref().unwrap().taken_back, 0);
}

#[test]
fn a_plan_that_is_promoted_by_hand_is_told_as_one() {
    let mut route = plan(&[(5, 5), (25, 10)]);
    let alone = ahead(&route, 1_000.0);
    if let Plan::Rollout(plan) = &mut route.plan {
        plan.promotion = pointsman_config::Promotion::Manual;
    }
    let by_hand = ahead(&route, 1_000.0);
    assert_eq!((alone.promotion_by_hand, by_hand.promotion_by_hand), (false, true));
    assert_eq!(alone.healthy, by_hand.healthy, "it can be promoted when a plan would do it by itself");
}

#[test]
fn nothing_is_forecast_where_no_version_is_tried() {
    let whole = route(weights(0));
    assert_eq!(foresee(&whole, expected(100.0), &FAILING), None);
    assert_eq!(foresee(&plan(&[(5, 5)]), expected(0.0), &FAILING), None);
    let by_hand = ahead(&route(weights(10)), 200.0);
    assert!(by_hand.healthy.is_none() && by_hand.steps.is_empty() && by_hand.failing.len() == 3);
    let blue_green = route(Plan::Rollout(crate::world::blue_green(pointsman_config::Promotion::Automatic)));
    let ahead = ahead(&blue_green, 200.0);
    assert!(ahead.healthy.as_ref().unwrap().promoted > 0);
    assert_eq!(failing(&ahead, 0.5, None).found, failing(&ahead, 0.5, None).runs);
}
