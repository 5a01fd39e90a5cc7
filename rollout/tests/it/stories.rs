//! Whole rollouts, told as an operator would see them.

use std::time::Duration;

use pointsman_config::{OnRegression, Plan, Promotion, Route, Share, Split};
use pointsman_rollout::Decision as D;
use pointsman_rollout::{Cause, Decision, OrderKind, PhaseName, Refusal, Regression, Resume};

use crate::world::{World, blue_green, canary_plan, percent, route, version, weights, with_revision};

const MINUTE: Duration = Duration::from_mins(1);

fn automatic() -> Route {
    route(Plan::Rollout(canary_plan(Promotion::Automatic)))
}

fn manual() -> Route {
    route(Plan::Rollout(canary_plan(Promotion::Manual)))
}

fn decisions(world: &World) -> Vec<Decision> {
    world.changes.iter().map(|change| change.decision).collect()
}

/// The invariant of every setback: the canary has nothing, and it is barred.
fn check_taken_back(world: &mut World) {
    world.run_for(Duration::from_millis(300));
    assert_eq!(world.phase(), PhaseName::RolledBack);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
    let status = world.rollout.status(world.now());
    assert_eq!(status.quarantined.first().map(|held| held.version.clone()), Some(version("v2")), "{status:?}");
}

#[test]
fn a_healthy_canary_goes_step_by_step_to_promotion_and_through_its_bake() {
    let mut world = World::new(automatic()).fails("v1", 1000).fails("v2", 1000);
    world.run_until(PhaseName::Baking, 5 * MINUTE);
    assert_eq!(*world.applied(), Split::Whole(version("v2")));
    world.run_until(PhaseName::Steady, MINUTE);
    assert_eq!(*world.rollout.serving(), version("v2"));
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Step, D::Step, D::Promote, D::Bake, D::Finish]);
}

#[test]
fn no_step_is_shorter_than_its_hold() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(Duration::from_millis(9_800));
    assert!((world.canary_percent() - 5.0).abs() < 1e-9);
    world.run_for(Duration::from_millis(400));
    assert!((world.canary_percent() - 25.0).abs() < 1e-9);
}

#[test]
fn a_failing_canary_is_taken_back_within_seconds_from_every_step() {
    for step in 0..3 {
        let mut world = World::new(manual());
        while world.rollout.status(world.now()).step != Some(step) {
            world.tick();
        }
        world.break_version("v2", 2);
        let took = world.run_until(PhaseName::RollingBack, Duration::from_secs(6));
        assert!(matches!(world.changes.last().unwrap().cause, Cause::Evidence { .. }));
        assert!(world.changes.last().unwrap().evidence.is_some());
        assert!(took <= Duration::from_secs(5), "step {step}: {took:?}");
        check_taken_back(&mut world);
    }
}

#[test]
fn weights_by_hand_are_guarded_as_well_and_stay_cut_whatever_the_file_says() {
    let mut world = World::new(route(weights(10)));
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Steady);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RolledBack, Duration::from_secs(6));
    check_taken_back(&mut world);
    world.edit(route(weights(20)));
    check_taken_back(&mut world);
    assert_eq!(world.rollout.desired().asked.share_of(&version("v2")), percent(20), "what the file asks stays visible");
    world.mend("v2");
    world.edit(with_revision(route(weights(20)), "r2"));
    assert!((world.canary_percent() - 20.0).abs() < 1e-9, "a new revision lifts the quarantine");
}

#[test]
fn a_quarantine_survives_edits_away_and_back() {
    let mut world = World::new(route(weights(10))).fails("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    world.edit(route(Plan::Weights(Split::Whole(version("v1")))));
    assert_eq!(world.phase(), PhaseName::Steady);
    world.edit(route(weights(10)));
    check_taken_back(&mut world);
    world.edit(automatic());
    check_taken_back(&mut world);
}

#[test]
fn retry_starts_the_rollout_anew() {
    let mut world = World::new(automatic()).fails("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    world.mend("v2");
    world.order(OrderKind::Retry(version("v2"))).unwrap();
    assert_eq!(world.phase(), PhaseName::Warming);
    world.run_until(PhaseName::Steady, 10 * MINUTE);
    assert_eq!(*world.rollout.serving(), version("v2"));
}

#[test]
fn when_both_versions_fail_alike_nothing_moves() {
    let mut world = World::new(manual());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.break_version("v1", 2);
    world.break_version("v2", 2);
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Shifting);
    assert_eq!(world.rollout.status(world.now()).step, Some(0), "no step forward");
    assert!(world.rollout.status(world.now()).why.contains("alike"), "{}", world.rollout.status(world.now()).why);
}

#[test]
fn without_traffic_no_step_is_taken_and_the_deadline_pauses() {
    let mut world = World::new(automatic());
    world.requests = 0;
    world.run_until(PhaseName::Paused, 4 * MINUTE);
    assert_eq!(world.changes.last().unwrap().decision, Decision::Pause);
    assert!((world.canary_percent() - 5.0).abs() < 1e-9, "the weight stays");
}

#[test]
fn a_small_sample_holds_a_step() {
    let mut world = World::new(automatic());
    world.requests = 1;
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(MINUTE);
    assert_eq!(world.rollout.status(world.now()).step, Some(0), "30 answers do not show a rate of 5 %");
    assert!(world.rollout.status(world.now()).next.contains("more answers"));
}

#[test]
fn a_canary_that_is_not_ready_gets_nothing() {
    let mut world = World::new(automatic());
    world.set_ready("v2", 0);
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Warming);
    assert!(world.canary_percent().abs() < 1e-9);
    world.set_ready("v2", 1);
    world.run_until(PhaseName::Shifting, Duration::from_secs(1));
}

#[test]
fn a_canary_that_dies_gets_nothing_at_once_and_is_taken_back() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.set_ready("v2", 0);
    world.tick();
    assert!(world.canary_percent().abs() < 1e-9);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(11));
    assert!(matches!(world.changes.last().unwrap().cause, Cause::NotReady { .. }));
    check_taken_back(&mut world);
}

#[test]
fn a_manual_rollout_waits_at_its_gate_and_the_gate_expires() {
    let mut world = World::new(manual());
    world.run_for(MINUTE);
    assert_eq!(world.rollout.status(world.now()).step, Some(2));
    assert!(world.rollout.status(world.now()).next.contains("pointsman promote"));
    world.run_until(PhaseName::Paused, 4 * MINUTE);
    world.order(OrderKind::Promote).unwrap();
    world.run_until(PhaseName::Baking, Duration::from_secs(1));
}

#[test]
fn blue_green_moves_at_once_and_its_bake_has_an_instant_way_back() {
    let mut world = World::new(route(Plan::Rollout(blue_green(Promotion::Automatic))));
    world.run_until(PhaseName::Baking, Duration::from_secs(2));
    world.break_version("v2", 2);
    let took = world.run_until(PhaseName::RollingBack, Duration::from_secs(5));
    assert!(
        matches!(world.changes.last().unwrap().cause, Cause::Evidence { regression: Regression::AbsoluteLimit }),
        "{took:?}"
    );
    check_taken_back(&mut world);
}

#[test]
fn in_a_bake_the_way_back_is_not_taken_to_a_dead_version() {
    let mut world = World::new(route(Plan::Rollout(blue_green(Promotion::Automatic))));
    world.run_until(PhaseName::Baking, Duration::from_secs(2));
    world.set_ready("v1", 0);
    world.break_version("v2", 2);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.phase(), PhaseName::Baking);
    assert_eq!(
        decisions(&world).iter().filter(|decision| **decision == Decision::Alert).count(),
        1,
        "one alert, not one a tick"
    );
    world.set_ready("v1", 1);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(1));
}

#[test]
fn an_operator_can_take_back_from_every_phase_with_a_canary() {
    let reach: [(&str, PhaseName); 4] = [
        ("warming", PhaseName::Warming),
        ("shifting", PhaseName::Shifting),
        ("promoting", PhaseName::Promoting),
        ("baking", PhaseName::Baking),
    ];
    for (name, phase) in reach {
        let mut world = World::new(automatic());
        if phase == PhaseName::Warming {
            world.set_ready("v2", 0);
            world.tick();
        } else {
            world.run_until(phase, 5 * MINUTE);
        }
        world.order(OrderKind::Rollback).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        world.set_ready("v2", 1);
        check_taken_back(&mut world);
    }
}

#[test]
fn after_the_bake_a_rollback_is_still_one_order() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Baking, 5 * MINUTE);
    world.run_until(PhaseName::Steady, MINUTE);
    world.order(OrderKind::Rollback).unwrap();
    check_taken_back(&mut world);
    assert_eq!(*world.rollout.serving(), version("v1"));
}

#[test]
fn a_paused_rollout_is_still_armed() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.order(OrderKind::Pause).unwrap();
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Paused);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(6));
    check_taken_back(&mut world);
}

#[test]
fn resume_holds_the_step_anew() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(Duration::from_secs(8));
    world.order(OrderKind::Pause).unwrap();
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.run_for(Duration::from_secs(8));
    assert_eq!(world.rollout.status(world.now()).step, Some(0));
}

#[test]
fn weights_set_by_hand_stop_the_plan_until_the_file_changes() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.order(OrderKind::SetWeights(Split::canary(version("v1"), version("v2"), percent(40)))).unwrap();
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Paused);
    assert!((world.canary_percent() - 40.0).abs() < 1e-9);
    let mut edited = automatic();
    edited.version_header = false;
    world.edit(edited);
    assert_eq!(world.phase(), PhaseName::Shifting);
    assert!((world.canary_percent() - 5.0).abs() < 1e-9);
}

/// An order that is refused with `code` and changes nothing.
fn check_refused(world: &mut World, kind: OrderKind, code: &str) {
    let before = world.rollout.saved(world.now());
    let refusal = world.order(kind).unwrap_err();
    assert_eq!(refusal.code(), code, "{refusal}");
    assert_eq!(world.rollout.saved(world.now()), before);
}

#[test]
fn orders_that_make_no_sense_are_refused_and_change_nothing() {
    let mut world = World::new(route(weights(10)));
    let split = |name: &str, share| Split::canary(version("v1"), version(name), percent(share));
    check_refused(&mut world, OrderKind::Promote, "no_rollout");
    check_refused(&mut world, OrderKind::Pause, "no_rollout");
    check_refused(&mut world, OrderKind::Retry(version("v2")), "not_quarantined");
    check_refused(&mut world, OrderKind::SetWeights(split("v9", 1)), "unknown_version");
    world.break_version("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    check_refused(&mut world, OrderKind::SetWeights(split("v2", 1)), "quarantined");
    check_refused(&mut world, OrderKind::Rollback, "nothing_to_take_back");
}

#[test]
fn a_guard_that_only_alerts_stops_the_plan_and_moves_no_traffic() {
    let mut noisy = automatic();
    noisy.guard.on_regression = OnRegression::Alert;
    let mut world = World::new(noisy);
    world.run_until(PhaseName::Shifting, MINUTE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::Paused, Duration::from_secs(6));
    world.run_for(MINUTE);
    assert_eq!(decisions(&world).iter().filter(|decision| **decision == Decision::Alert).count(), 1);
    assert!((world.canary_percent() - 5.0).abs() < 1e-9);
}

#[test]
fn an_edit_of_other_things_goes_on_where_the_rollout_stood() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(Duration::from_secs(12));
    let mut edited = automatic();
    edited.timeouts.read = Duration::from_secs(7);
    assert_eq!(world.edit(edited), [], "nothing about traffic changed");
    assert_eq!(world.rollout.status(world.now()).step, Some(1));
}

#[test]
fn naming_the_promoted_canary_as_stable_in_the_file_changes_no_traffic() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Baking, 5 * MINUTE);
    world.run_until(PhaseName::Steady, MINUTE);
    let mut renamed = route(Plan::Weights(Split::Whole(version("v2"))));
    renamed.stable = version("v2");
    world.edit(renamed);
    assert_eq!(world.phase(), PhaseName::Steady);
    assert_eq!(*world.applied(), Split::Whole(version("v2")));
}

/// Brings a fresh rollout into `phase`.
fn reach(phase: PhaseName) -> World {
    let mut world = World::new(automatic());
    match phase {
        PhaseName::Warming => {}
        PhaseName::Shifting | PhaseName::Promoting | PhaseName::Baking => {
            world.run_until(phase, 5 * MINUTE);
        }
        PhaseName::Steady => {
            world.run_until(PhaseName::Baking, 5 * MINUTE);
            world.run_until(phase, MINUTE);
        }
        PhaseName::Paused | PhaseName::RollingBack | PhaseName::RolledBack => {
            world.run_until(PhaseName::Shifting, MINUTE);
            let kind = if phase == PhaseName::Paused { OrderKind::Pause } else { OrderKind::Rollback };
            world.order(kind).unwrap();
            world.run_until(phase, MINUTE);
        }
    }
    world
}

#[test]
fn a_restart_in_every_phase_stays_in_the_phase() {
    for phase in PhaseName::ALL {
        let mut world = reach(phase);
        assert_eq!(world.phase(), phase);
        let (desired, status) = (world.rollout.desired(), world.rollout.status(world.now()));
        world.restart();
        assert_eq!(world.phase(), phase);
        assert_eq!(world.rollout.desired(), desired, "{phase}");
        let after = world.rollout.status(world.now());
        assert_eq!(after.quarantined, status.quarantined);
        let timed = matches!(phase, PhaseName::Warming | PhaseName::Shifting | PhaseName::Baking);
        assert!(!timed || after.since == status.since, "{phase}: elapsed time goes on");
    }
}

#[test]
fn what_was_taken_back_stays_taken_back_when_the_file_was_edited_while_the_edge_was_down() {
    let mut world = World::new(automatic()).fails("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    let saved = world.rollout.saved(world.now());
    let (resumed, _) = pointsman_rollout::Rollout::resume(std::sync::Arc::new(route(weights(30))), saved, world.now());
    assert_eq!(resumed.desired().granted, Split::Whole(version("v1")));
    assert_eq!(resumed.desired().asked.share_of(&version("v2")), percent(30));
}

#[test]
fn a_canary_with_all_traffic_by_hand_is_judged_by_the_absolute_limit() {
    let mut world = World::new(route(weights(100)));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.applied().share_of(&version("v2")), Share::WHOLE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(6));
    check_taken_back(&mut world);
}

#[test]
fn weights_set_by_hand_after_a_promotion_are_guarded_like_any_others() {
    let mut world = reach(PhaseName::Steady);
    let split = Split::canary(version("v2"), version("v1"), percent(30));
    world.order(OrderKind::SetWeights(split)).unwrap();
    let status = world.rollout.status(world.now());
    assert_eq!((status.stable, status.canary), (version("v1"), Some(version("v2"))));
    assert!((world.canary_percent() - 70.0).abs() < 1e-9);
    world.run_for(MINUTE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(6));
    check_taken_back(&mut world);
}

fn by_hand(name: &str, share: u32) -> OrderKind {
    OrderKind::SetWeights(Split::canary(version("v1"), version(name), percent(share)))
}

/// v3, which the file does not try, is tried by hand, fails and is taken back.
fn try_v3_by_hand(world: &mut World) {
    world.order(by_hand("v3", 10)).unwrap();
    world.break_version("v3", 2);
    world.run_until(PhaseName::RollingBack, Duration::from_secs(6));
    world.run_for(Duration::from_millis(300));
    world.mend("v3");
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
}

fn share_of(world: &World, name: &str) -> f64 {
    world.applied().share_of(&version(name)).percent()
}

#[test]
fn weights_set_by_hand_outlive_a_restart_before_and_after_a_promotion() {
    for phase in [PhaseName::Steady, PhaseName::Shifting] {
        let mut world = reach(phase);
        world.order(by_hand("v2", 40)).unwrap();
        world.restart();
        assert!((world.canary_percent() - 40.0).abs() < 1e-9, "{phase}");
    }
}

#[test]
fn a_new_build_never_starts_at_weights_that_were_set_for_the_old_one() {
    let mut world = World::new(route(weights(5)));
    world.order(by_hand("v2", 50)).unwrap();
    world.restart_with(std::sync::Arc::new(with_revision(route(weights(5)), "r2")));
    assert!((world.canary_percent() - 5.0).abs() < 1e-9);
}

#[test]
fn another_version_taken_back_by_hand_does_not_bar_the_one_that_the_file_names() {
    let mut world = World::new(route(weights(5)));
    try_v3_by_hand(&mut world);
    assert_eq!(world.phase(), PhaseName::RolledBack);
    world.edit(route(weights(20)));
    assert!((share_of(&world, "v2") - 20.0).abs() < 1e-9);
    assert!(matches!(world.order(by_hand("v3", 10)), Err(Refusal::Quarantined { .. })));
}

#[test]
fn a_plan_waits_for_a_person_after_another_version_was_tried_by_hand_and_taken_back() {
    let mut world = reach(PhaseName::Shifting);
    try_v3_by_hand(&mut world);
    assert_eq!(world.phase(), PhaseName::Paused);
    assert!(world.rollout.status(world.now()).why.contains("v3"));
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.run_until(PhaseName::Baking, 5 * MINUTE);
}

#[test]
fn retry_gives_the_traffic_to_the_version_that_it_names() {
    let mut world = World::new(route(weights(5))).fails("v2", 2);
    world.run_until(PhaseName::RolledBack, MINUTE);
    world.mend("v2");
    try_v3_by_hand(&mut world);
    world.order(OrderKind::Retry(version("v3"))).unwrap();
    assert!((share_of(&world, "v3") - 10.0).abs() < 1e-9, "by hand, as it was");
    world.order(OrderKind::Retry(version("v2"))).unwrap();
    world.edit(route(weights(6)));
    assert!((share_of(&world, "v2") - 6.0).abs() < 1e-9);
}

#[test]
fn after_a_restart_a_step_goes_on_with_the_time_it_had() {
    let mut world = reach(PhaseName::Shifting);
    world.run_for(Duration::from_secs(7));
    world.restart();
    world.run_for(Duration::from_millis(3_500));
    assert_eq!(world.rollout.status(world.now()).step, Some(1));
}

#[test]
fn an_edited_step_starts_anew_for_a_restart_as_well() {
    let mut world = reach(PhaseName::Shifting);
    world.run_for(Duration::from_secs(7));
    let mut plan = canary_plan(Promotion::Automatic);
    if let pointsman_config::Strategy::Canary(steps) = &mut plan.strategy {
        steps[0].weight = percent(6);
    }
    world.edit(route(Plan::Rollout(plan)));
    assert!((world.canary_percent() - 6.0).abs() < 1e-9);
    world.restart();
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.rollout.status(world.now()).step, Some(0));
}

#[test]
fn each_kind_of_trouble_is_told_once_and_anew_when_it_comes_again() {
    let mut noisy = route(weights(10));
    noisy.guard.on_regression = OnRegression::Alert;
    let mut world = World::new(noisy);
    let alerts = |world: &World| decisions(world).into_iter().filter(|decision| *decision == D::Alert).count();
    for expected in [1, 2] {
        world.set_ready("v2", 0);
        world.run_for(Duration::from_secs(30));
        assert_eq!(alerts(&world), expected, "not ready");
        world.set_ready("v2", 1);
        world.run_for(Duration::from_secs(5));
    }
    world.break_version("v2", 2);
    world.run_for(Duration::from_secs(30));
    assert_eq!(alerts(&world), 3, "failing");
    let status = world.rollout.status(world.now());
    assert!(status.why.contains("the guard only alerts"), "{}", status.why);
    assert!(status.next.contains("only raises an alert"), "{}", status.next);
}

#[test]
fn a_bake_that_only_alerts_can_still_be_finished_by_a_person() {
    let mut plan = route(Plan::Rollout(blue_green(Promotion::Automatic)));
    plan.guard.on_regression = OnRegression::Alert;
    let mut world = World::new(plan);
    world.run_until(PhaseName::Baking, MINUTE);
    world.break_version("v2", 2);
    world.run_until(PhaseName::Paused, MINUTE);
    world.mend("v2");
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.run_until(PhaseName::Steady, MINUTE);
    assert_eq!(*world.rollout.serving(), version("v2"));
}

#[test]
fn a_version_that_was_promoted_long_ago_is_production_and_not_taken_back_for_a_restart() {
    let mut world = reach(PhaseName::Steady);
    world.set_ready("v2", 0);
    world.tick();
    assert_eq!(*world.applied(), Split::Whole(version("v1")), "the old one takes over");
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Steady);
    world.set_ready("v2", 1);
    world.tick();
    assert_eq!(*world.applied(), Split::Whole(version("v2")));
}

#[test]
fn an_edit_after_a_promotion_does_not_move_traffic_to_a_dead_version() {
    let mut world = reach(PhaseName::Steady);
    world.set_ready("v1", 0);
    world.edit(with_revision(automatic(), "r2"));
    assert_eq!(*world.applied(), Split::Whole(version("v2")), "v1 is named stable but is not there");
    world.restart();
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.phase(), world.applied().clone()), (PhaseName::Warming, Split::Whole(version("v2"))));
    world.set_ready("v1", 1);
    world.run_until(PhaseName::Shifting, Duration::from_secs(1));
    world.tick();
    assert!((world.canary_percent() - 5.0).abs() < 1e-9);
}

#[test]
fn what_a_late_state_file_bars_is_barred() {
    let mut before = World::new(automatic()).fails("v2", 2);
    before.run_until(PhaseName::RolledBack, MINUTE);
    let mut world = reach(PhaseName::Shifting);
    world.rollout.adopt_quarantine(&before.rollout.saved(before.now()));
    world.tick();
    check_taken_back(&mut world);
}

#[test]
fn after_a_common_outage_the_canary_has_its_time_to_come_back() {
    let mut world = reach(PhaseName::Shifting);
    for name in ["v1", "v2"] {
        world.set_ready(name, 0);
    }
    world.run_for(Duration::from_secs(30));
    world.set_ready("v1", 1);
    world.run_for(Duration::from_secs(8));
    world.set_ready("v2", 1);
    world.run_for(Duration::from_secs(5));
    assert!(!decisions(&world).contains(&D::Rollback), "{:?}", decisions(&world));
}

#[test]
fn going_back_to_an_old_revision_lifts_nothing() {
    let mut world = World::new(with_revision(route(weights(10)), "r7")).fails("v2", 2);
    for revision in ["r7", "r8"] {
        world.edit(with_revision(route(weights(10)), revision));
        world.run_until(PhaseName::RolledBack, MINUTE);
    }
    world.mend("v2");
    for revision in ["r7", "r8", "r7"] {
        world.edit(with_revision(route(weights(10)), revision));
        world.run_for(Duration::from_secs(1));
        check_taken_back(&mut world);
    }
    world.edit(with_revision(route(weights(10)), "r9"));
    assert!((world.canary_percent() - 10.0).abs() < 1e-9);
}

#[test]
fn a_first_start_is_no_edit() {
    assert_eq!(decisions(&World::new(route(weights(10)))), []);
    assert_eq!(decisions(&World::new(automatic())), [D::Start]);
}
