//! What counts as evidence of the present trial, and what a decision tells of it.

use std::time::Duration;

use pointsman_config::{HealthCheck, Plan, Promotion, Route};
use pointsman_rollout::Decision as D;
use pointsman_rollout::{Cause, Drawn, Observed, PhaseName, Regression, Row, Tally, Verdict};

use crate::world::{World, blue_green, canary_plan, percent, route, version, weights, with_revision};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

fn decisions(world: &World) -> Vec<D> {
    world.changes.iter().map(|change| change.decision).collect()
}

/// 500 requests of v2 that all failed, assigned in `trial`.
fn failed(trial: u64) -> Observed {
    let (canary, stable) = (Tally { requests: 500, errors: 500, slow: 0 }, Tally::default());
    let row = Row { weight: percent(10), canary, stable };
    Observed { stable: version("v1"), canary: Some(version("v2")), trial, row, requests: None, drawn: Drawn::default() }
}

#[test]
fn what_a_former_build_still_owes_is_not_charged_to_the_present_one() {
    let mut world = World::new(with_revision(route(weights(10)), "r7"));
    world.run_for(30 * SECOND);
    let former = world.rollout.trial();
    world.edit(with_revision(route(weights(10)), "r8"));
    for _ in 0..50 {
        world.late.push(failed(former));
        world.tick();
    }
    assert_eq!(world.rollout.summary().canary.errors, 0);
    assert!(!decisions(&world).contains(&D::Rollback), "{:?}", world.changes);
    for _ in 0..50 {
        world.late.push(failed(world.rollout.trial()));
        world.tick();
    }
    assert!(decisions(&world).contains(&D::Rollback), "its own failures are");
}

#[test]
fn a_canary_with_all_traffic_is_not_charged_with_another_trial_either() {
    let mut world = World::new(route(Plan::Rollout(blue_green(Promotion::Automatic))));
    world.run_until(PhaseName::Baking, MINUTE);
    let another = world.rollout.trial() - 1;
    for _ in 0..50 {
        world.late.push(failed(another));
        world.tick();
    }
    assert_eq!(world.phase(), PhaseName::Baking, "{:?}", world.changes);
}

#[test]
fn a_canary_that_fails_users_who_had_an_error_before_is_taken_back_all_the_same() {
    let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic))));
    world.users_had_errors = true;
    world.run_until(PhaseName::Shifting, MINUTE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    let change = world.changes.iter().find(|change| change.decision == D::Rollback).unwrap();
    assert_eq!(change.cause, Cause::Evidence { regression: Regression::AbsoluteLimit });
    let evidence = change.evidence.as_ref().unwrap();
    assert_eq!(evidence.verdict, Verdict::Rollback(Regression::AbsoluteLimit));
    assert!(evidence.canary.errors == 0 && evidence.alone.unwrap().tally.errors > 0, "{evidence:?}");
}

#[test]
fn a_canary_that_fails_more_than_stable_by_request_is_not_promoted() {
    let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic)))).fails("v2", 30);
    world.users_had_errors = true;
    world.run_until(PhaseName::Paused, 10 * MINUTE);
    assert_eq!(decisions(&world).iter().filter(|decision| **decision == D::Step).count(), 1, "{:?}", world.changes);
    assert!(!decisions(&world).contains(&D::Rollback), "3.3 % are below the limit");
}

#[test]
fn users_who_fail_on_both_sides_hold_nothing() {
    let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic)))).fails("v2", 30).fails("v1", 30);
    world.users_had_errors = true;
    world.run_until(PhaseName::Baking, 10 * MINUTE);
}

#[test]
fn a_restart_during_the_bake_keeps_the_limit() {
    let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic)))).fails("v1", 50).fails("v2", 50);
    world.run_until(PhaseName::Baking, 10 * MINUTE);
    let before = world.rollout.judged_alone().unwrap().limit;
    assert!((before - 0.05).abs() < 1e-9, "{before}");
    world.run_for(5 * SECOND);
    world.restart();
    let after = world.rollout.judged_alone().unwrap().limit;
    assert!((after - before).abs() < 1e-9, "{after}");
    world.run_until(PhaseName::Steady, MINUTE);
    assert!(!decisions(&world).contains(&D::Rollback));
}

#[test]
fn where_nothing_is_known_of_stable_the_limit_is_the_guards() {
    let mut world = World::new(route(Plan::Rollout(blue_green(Promotion::Automatic))));
    world.requests = 1;
    world.run_until(PhaseName::Baking, MINUTE);
    assert!((world.rollout.judged_alone().unwrap().limit - 0.05).abs() < 1e-9);
}

#[test]
fn a_rollback_by_the_absolute_limit_tells_what_it_rests_on() {
    let mut world = World::new(route(Plan::Rollout(blue_green(Promotion::Automatic))));
    world.run_until(PhaseName::Baking, MINUTE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    let change = world.changes.iter().find(|change| change.decision == D::Rollback).unwrap();
    let evidence = change.evidence.as_ref().unwrap();
    assert_eq!(evidence.verdict, Verdict::Rollback(Regression::AbsoluteLimit));
    let alone = evidence.alone.unwrap();
    assert!(alone.evidence.is_proven() && alone.limit < 0.06, "{alone:?}");
    assert!(alone.tally.requests > 0 && alone.tally.errors > 0 && alone.elapsed_seconds > 0.0);
    assert!(evidence.tests().iter().any(|(name, test)| *name == "absolute" && test.is_proven()));
}

/// A plan whose endpoints take up to 25 s to pass their checks.
fn slow_to_start() -> Route {
    let health_check = HealthCheck { interval: 2 * SECOND, healthy_after: 10, ..HealthCheck::default() };
    Route { health_check, ..route(Plan::Rollout(canary_plan(Promotion::Automatic))) }
}

#[test]
fn after_a_restart_a_canary_has_the_time_that_its_first_checks_take() {
    let mut world = World::new(slow_to_start());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.set_ready("v2", 0);
    world.restart();
    world.run_for(20 * SECOND);
    assert_eq!(world.phase(), PhaseName::Shifting, "{:?}", world.changes);
    world.set_ready("v2", 1);
    world.run_for(5 * SECOND);
    assert_eq!(world.phase(), PhaseName::Shifting);
    world.set_ready("v2", 0);
    let seconds = world.run_until(PhaseName::RolledBack, MINUTE).as_secs_f64();
    assert!((9.0..12.0).contains(&seconds), "{seconds}: it has been up here");
}

#[test]
fn a_canary_that_does_not_pass_its_first_checks_is_taken_back_all_the_same() {
    let mut world = World::new(slow_to_start());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.set_ready("v2", 0);
    world.restart();
    let seconds = world.run_until(PhaseName::RolledBack, MINUTE).as_secs_f64();
    assert!((24.0..27.0).contains(&seconds), "{seconds}");
}
