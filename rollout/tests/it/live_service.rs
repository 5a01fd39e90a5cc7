//! Rollouts of a route with a live Service: what moves when, and who is asked.

use std::time::Duration;

use pointsman_config::{OnRegression, Plan, Promotion, Split};
use pointsman_rollout::{
    Asked, Cause, Decision as D, Finding, Gate, OrderKind, Outcome, PhaseName, Resume, Selected, WayBack,
};

use crate::cluster::Shows;
use crate::world::{TICK, World, blue_green, canary_plan, live, route, version, weights};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

fn automatic() -> World {
    World::in_cluster(live(Plan::Rollout(canary_plan(Promotion::Automatic)))).fails("v1", 1000).fails("v2", 1000)
}

fn flips_at_once() -> World {
    World::in_cluster(live(Plan::Rollout(blue_green(Promotion::Automatic))))
}

fn decisions(world: &World) -> Vec<D> {
    world.changes.iter().map(|change| change.decision).collect()
}

fn why(world: &World) -> String {
    world.rollout.status(world.now()).why
}

fn reach(phase: PhaseName) -> World {
    let mut world = automatic();
    match phase {
        PhaseName::Warming => {
            world.set_ready("v2", 0);
            world.run_for(SECOND);
        }
        PhaseName::Shifting | PhaseName::Promoting | PhaseName::Baking => {
            world.run_until(phase, 5 * MINUTE);
        }
        PhaseName::Steady => {
            world.run_until(PhaseName::Baking, 5 * MINUTE);
            world.run_until(phase, MINUTE);
        }
        PhaseName::Paused => {
            world.run_until(PhaseName::Shifting, MINUTE);
            world.order(OrderKind::Pause).unwrap();
        }
        PhaseName::RollingBack | PhaseName::RolledBack => {
            world.run_until(PhaseName::Baking, 5 * MINUTE);
            world.order(OrderKind::Rollback).unwrap();
            world.run_until(phase, MINUTE);
        }
    }
    assert_eq!(world.phase(), phase);
    world
}

#[test]
fn a_promotion_moves_the_weights_then_the_selector_then_waits_for_the_slices() {
    let mut world = reach(PhaseName::Promoting);
    assert!(world.cluster().patches.is_empty(), "traffic goes first");
    world.run_until(PhaseName::Baking, SECOND);
    let patches = world.cluster().patches.clone();
    assert_eq!(patches.len(), 1);
    assert_eq!((&patches[0].to, patches[0].acknowledged, patches[0].ready), (&version("v2"), true, 1));
    assert_eq!(patches[0].applied, Split::Whole(version("v2")));
    assert_eq!(world.cluster().slices, Selected::Version(version("v2")), "every slice has followed");
    world.run_until(PhaseName::Steady, MINUTE);
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Step, D::Step, D::Promote, D::Flip, D::Bake, D::Finish]);
}

#[test]
fn the_selector_waits_for_every_edge_however_long_that_takes() {
    let mut world = reach(PhaseName::Promoting);
    world.cluster().acknowledged = false;
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Promoting);
    assert!(world.cluster().selects("v1"));
    world.cluster().acknowledged = true;
    world.run_until(PhaseName::Baking, SECOND);
}

#[test]
fn an_edge_that_comes_or_goes_after_the_flip_takes_nothing_back() {
    let mut world = reach(PhaseName::Promoting);
    while !world.cluster().selects("v2") {
        world.tick();
    }
    world.cluster().acknowledged = false;
    world.run_until(PhaseName::Baking, SECOND);
    world.run_for(SECOND);
    assert!(world.cluster().selects("v2"));
}

#[test]
fn slices_that_never_follow_pause_the_rollout_and_the_way_back_stays_open() {
    let mut world = reach(PhaseName::Promoting);
    world.cluster().lag = u32::MAX;
    world.cluster().elsewhere = Split::Whole(version("v2"));
    world.run_until(PhaseName::Paused, 3 * MINUTE);
    assert!(why(&world).contains("slices of the Service delivery-time"), "{}", why(&world));
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    assert_eq!(world.phase(), PhaseName::Promoting, "it was promoted, and is not promoted anew");
    world.cluster().lag = 1;
    world.order(OrderKind::Rollback).unwrap();
    world.run_until(PhaseName::RolledBack, SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn a_rollback_moves_the_weights_at_once_and_the_selector_after_them_waiting_for_nobody() {
    let mut world = reach(PhaseName::Baking);
    world.cluster().acknowledged = false;
    world.order(OrderKind::Rollback).unwrap();
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
    assert!(world.cluster().selects("v2"), "weights first");
    world.run_for(3 * TICK);
    assert!(world.cluster().selects("v1"));
    let back = world.cluster().patches.last().unwrap().clone();
    assert_eq!((back.applied, back.acknowledged), (Split::Whole(version("v1")), false));
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::RollingBack, "an edge may still send requests to it");
    world.cluster().acknowledged = true;
    world.run_until(PhaseName::RolledBack, SECOND);
}

#[test]
fn without_an_api_server_a_rollback_moves_the_traffic_and_the_selector_follows_when_it_is_back() {
    let mut world = reach(PhaseName::Baking);
    world.cluster().api_is_up = false;
    world.break_version("v2", 2);
    world.run_until(PhaseName::RollingBack, 6 * SECOND);
    world.run_for(MINUTE);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
    assert!(world.cluster().selects("v2"));
    world.cluster().api_is_up = true;
    world.run_until(PhaseName::RolledBack, SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn a_service_without_endpoints_after_a_flip_goes_back_even_where_the_guard_only_alerts() {
    for on_regression in [OnRegression::Rollback, OnRegression::Alert] {
        let mut route = live(Plan::Rollout(blue_green(Promotion::Automatic)));
        route.guard.on_regression = on_regression;
        let mut world = World::in_cluster(route);
        world.cluster().shows = Shows::Pods;
        world.run_until(PhaseName::Promoting, SECOND);
        world.cluster().shows = Shows::Nobody;
        world.run_until(PhaseName::RollingBack, 3 * SECOND);
        assert!(matches!(world.changes.last().unwrap().cause, Cause::EmptyService { .. }), "{:?}", world.changes);
        world.cluster().shows = Shows::Pods;
        world.run_until(PhaseName::RolledBack, SECOND);
        assert!(world.cluster().selects("v1"));
    }
}

/// Whatever else is wrong with the canary and only told of: who uses the Service gets nothing.
#[test]
fn an_empty_service_goes_back_although_a_gate_fails_that_is_only_told_of() {
    let mut route = live(Plan::Rollout(blue_green(Promotion::Automatic)));
    route.guard.on_regression = OnRegression::Alert;
    let mut world = World::in_cluster(route);
    world.run_until(PhaseName::Baking, 3 * SECOND);
    let (trial, at) = (world.rollout.trial(), world.now());
    let words = "fewer orders than stable".to_owned();
    let finding = Finding { version: version("v2"), trial, outcome: Outcome::Fails, is_suspicion: false, words, at };
    let (name, stale_after) = ("orders".to_owned(), MINUTE);
    world.gates = vec![Gate { name, asked: Asked::WithTraffic, stale_after, finding: Some(finding) }];
    world.run_until(PhaseName::Paused, SECOND);
    world.cluster().shows = Shows::Nobody;
    world.run_until(PhaseName::RollingBack, 3 * SECOND);
    assert!(matches!(world.changes.last().unwrap().cause, Cause::EmptyService { .. }), "{:?}", world.changes);
}

#[test]
fn a_service_that_is_empty_for_a_moment_while_slices_follow_stays() {
    let mut world = flips_at_once();
    world.run_until(PhaseName::Baking, 3 * SECOND);
    world.cluster().shows = Shows::Nobody;
    world.run_for(5 * TICK);
    world.cluster().shows = Shows::Pods;
    world.run_for(SECOND);
    assert_eq!(world.phase(), PhaseName::Baking);
}

#[test]
fn slices_that_are_not_heard_say_neither_that_it_is_empty_nor_that_it_is_full() {
    let mut world = reach(PhaseName::Baking);
    world.restart();
    world.cluster().shows = Shows::Nothing;
    world.run_for(15 * SECOND);
    assert_eq!((world.phase(), world.canary_percent()), (PhaseName::Baking, 100.0));
    let mut world = reach(PhaseName::Promoting);
    world.cluster().shows = Shows::Nothing;
    world.run_for(10 * SECOND);
    assert!(world.cluster().selects("v1"), "nobody would see that it is empty");
    assert!(world.rollout.status(world.now()).next.contains("its slices can be seen"));
    world.cluster().shows = Shows::Pods;
    world.run_until(PhaseName::Baking, SECOND);
}

#[test]
fn nothing_is_flipped_on_what_slices_showed_before_they_were_lost() {
    let mut world = reach(PhaseName::Promoting);
    world.cluster().hears_slices = false;
    world.run_for(10 * SECOND);
    assert_eq!((world.phase(), world.cluster().patches.len()), (PhaseName::Promoting, 0), "one pod was ready, once");
    assert!(world.rollout.status(world.now()).next.contains("its slices can be seen"));
    world.cluster().hears_slices = true;
    world.run_until(PhaseName::Baking, SECOND);
    world.cluster().hears_slices = false;
    world.order(OrderKind::Rollback).unwrap();
    world.run_for(SECOND);
    assert!(world.cluster().selects("v1"), "going back waits for nothing");
}

#[test]
fn a_version_without_ready_endpoints_is_never_selected() {
    let mut world = reach(PhaseName::Promoting);
    world.set_ready("v2", 0);
    world.run_for(5 * SECOND);
    assert!(world.cluster().patches.is_empty());
    let mut world = reach(PhaseName::Baking);
    world.order(OrderKind::Rollback).unwrap();
    world.set_ready("v1", 0);
    world.run_for(5 * SECOND);
    assert!(world.cluster().selects("v2"), "nobody is there to go back to");
    world.set_ready("v1", 1);
    world.run_until(PhaseName::RolledBack, SECOND);
}

#[test]
fn a_patch_that_lands_late_is_put_right() {
    for (phase, stands) in [(PhaseName::RolledBack, "v1"), (PhaseName::Steady, "v2"), (PhaseName::Shifting, "v1")] {
        let mut world = reach(phase);
        let late = if stands == "v1" { "v2" } else { "v1" };
        world.cluster().selector = Selected::Version(version(late));
        world.run_for(SECOND);
        assert!(world.cluster().selects(stands), "{phase}");
    }
}

#[test]
fn nothing_is_promoted_without_a_proven_way_back() {
    let mut world = automatic();
    world.cluster().way_back = WayBack::Unproven { why: "v1 has 1 ready endpoint and needs 2".to_owned() };
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Shifting);
    let status = world.rollout.status(world.now());
    assert!(status.next.contains("needs 2"), "{}", status.next);
    assert_eq!(status.way_back, Some(world.cluster().way_back.clone()));
    let refusal = world.order(OrderKind::Promote).unwrap_err();
    assert_eq!(refusal.code(), "no_proven_way_back");
    world.cluster().way_back = WayBack::Proven { took: Duration::from_millis(40) };
    world.run_until(PhaseName::Promoting, SECOND);
}

#[test]
fn a_way_back_that_is_never_proven_pauses_the_rollout() {
    for plan in [canary_plan(Promotion::Automatic), blue_green(Promotion::Automatic)] {
        let mut world = World::in_cluster(live(Plan::Rollout(plan))).fails("v1", 1000).fails("v2", 1000);
        world.cluster().way_back = WayBack::Unproven { why: "never rehearsed".to_owned() };
        world.run_until(PhaseName::Paused, 4 * MINUTE);
        assert!(why(&world).contains("never rehearsed"), "{}", why(&world));
    }
}

#[test]
fn the_old_version_may_go_only_after_the_bake_and_once_every_edge_has_acknowledged() {
    let mut world = reach(PhaseName::Baking);
    assert_eq!(world.rollout.desired().retired, None);
    world.cluster().acknowledged = false;
    world.run_until(PhaseName::Steady, MINUTE);
    world.tick();
    assert_eq!(world.rollout.desired().retired, None);
    world.cluster().acknowledged = true;
    world.run_for(SECOND);
    assert_eq!(world.rollout.desired().retired, Some(version("v1")));
    world.order(OrderKind::Rollback).unwrap();
    assert_eq!(world.rollout.desired().retired, None);
}

/// Somebody else makes the Service select `to` in `phase`.
fn seized(phase: PhaseName, to: &str) -> World {
    let mut world = reach(phase);
    if phase == PhaseName::Warming {
        world.set_ready("v2", 1);
    }
    let selected = match to {
        "v1" | "v2" | "v3" => Selected::Version(version(to)),
        words => Selected::Other(words.to_owned()),
    };
    world.cluster().seize(selected);
    world.tick();
    world
}

#[test]
fn whoever_else_changes_the_selector_stops_the_rollout_and_is_not_fought() {
    for phase in PhaseName::ALL {
        let mut world = seized(phase, "v3");
        let applied = world.applied().clone();
        let change = world.changes.last().unwrap().clone();
        assert!(
            matches!(&change.cause, Cause::ForeignChange { by, .. } if by == "kubectl-edit"),
            "{phase}: {change:?}"
        );
        assert_eq!(change.before, change.after, "traffic stays");
        world.run_for(MINUTE);
        assert!(world.cluster().selects("v3"), "{phase}: nobody fights");
        assert_eq!(*world.applied(), applied, "{phase}");
        assert!(why(&world).contains("--adopt"), "{phase}: {}", why(&world));
        let told = world.changes.iter().filter(|change| matches!(change.cause, Cause::ForeignChange { .. })).count();
        assert_eq!(told, 1, "{phase}: told once");
        let moving =
            matches!(phase, PhaseName::Warming | PhaseName::Shifting | PhaseName::Promoting | PhaseName::Baking);
        assert!(!moving || world.phase() == PhaseName::Paused, "{phase}");
    }
}

#[test]
fn restore_puts_the_selector_back_and_goes_on_where_the_rollout_stood() {
    for phase in PhaseName::ALL {
        let mut world = seized(phase, "v3");
        let promotions =
            |world: &World| decisions(world).into_iter().filter(|decision| *decision == D::Promote).count();
        let before = promotions(&world);
        assert_eq!(world.order(OrderKind::Resume(Resume::GoOn)).unwrap_err().code(), "foreign_change", "{phase}");
        world.order(OrderKind::Resume(Resume::Restore)).unwrap();
        world.run_for(SECOND);
        assert!(world.cluster().selects("v1") || world.cluster().selects("v2"), "{phase}");
        world.run_for(2 * MINUTE);
        let after = promotions(&world);
        assert!(after <= 1 && (before == 0 || after == before), "{phase}: promoted twice");
        assert_eq!(world.order(OrderKind::Resume(Resume::Restore)).unwrap_err().code(), "nothing_foreign");
    }
}

#[test]
fn the_same_change_made_again_after_the_answer_is_asked_about_again() {
    let mut world = seized(PhaseName::Baking, "v1");
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.run_for(SECOND);
    assert!(world.cluster().selects("v2"));
    world.cluster().seize(Selected::Version(version("v1")));
    world.tick();
    assert_eq!(world.phase(), PhaseName::Paused);
}

#[test]
fn an_answer_that_cannot_be_written_yet_is_not_asked_for_again() {
    let mut world = seized(PhaseName::Shifting, "v3");
    world.cluster().api_is_up = false;
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.run_for(5 * SECOND);
    assert_eq!(world.phase(), PhaseName::Shifting);
    world.cluster().api_is_up = true;
    world.run_for(SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn to_adopt_the_canary_is_to_promote_it_weights_and_all() {
    let mut world = seized(PhaseName::Shifting, "v2");
    world.cluster().way_back = WayBack::Unproven { why: "v1 is gone".to_owned() };
    world.tick();
    assert_eq!(world.order(OrderKind::Resume(Resume::Adopt)).unwrap_err().code(), "no_proven_way_back");
    world.cluster().way_back = WayBack::Proven { took: Duration::from_millis(40) };
    world.tick();
    let before = world.applied().clone();
    let changes = world.order(OrderKind::Resume(Resume::Adopt)).unwrap();
    // One decision, told from where it began: nobody sees the pause end without a word.
    let told: Vec<_> = changes.iter().map(|change| (change.from, change.to, &change.before)).collect();
    assert_eq!(told, [(PhaseName::Paused, PhaseName::Promoting, &before)]);
    world.run_until(PhaseName::Baking, 2 * SECOND);
    assert_eq!(*world.applied(), Split::Whole(version("v2")));
    assert!(world.cluster().patches.is_empty(), "it was there already");
}

#[test]
fn to_adopt_stable_is_to_take_the_canary_back() {
    for phase in [PhaseName::Baking, PhaseName::Steady] {
        let mut world = seized(phase, "v1");
        let from = world.phase();
        let changes = world.order(OrderKind::Resume(Resume::Adopt)).unwrap();
        assert_eq!(changes.iter().map(|change| change.from).collect::<Vec<_>>(), [from]);
        world.run_until(PhaseName::RolledBack, 2 * SECOND);
        assert_eq!(*world.applied(), Split::Whole(version("v1")));
        assert_eq!(world.rollout.status(world.now()).quarantined.len(), 1);
    }
}

#[test]
fn what_is_no_state_of_the_rollout_cannot_be_adopted() {
    for (phase, to, code) in [
        (PhaseName::Shifting, "v3", "not_adoptable"),
        (PhaseName::Shifting, "app=other", "not_adoptable"),
        (PhaseName::RolledBack, "v2", "not_adoptable"),
        (PhaseName::Steady, "v3", "not_adoptable"),
    ] {
        let mut world = seized(phase, to);
        let before = world.rollout.saved(world.now());
        assert_eq!(world.order(OrderKind::Resume(Resume::Adopt)).unwrap_err().code(), code, "{phase} {to}");
        assert_eq!(world.rollout.saved(world.now()), before);
    }
    let mut world = seized(PhaseName::Shifting, "v2");
    world.set_ready("v2", 0);
    world.tick();
    assert_eq!(world.order(OrderKind::Resume(Resume::Adopt)).unwrap_err().code(), "not_ready");
}

#[test]
fn a_rollback_is_armed_while_somebody_else_has_the_selector() {
    let mut world = seized(PhaseName::Baking, "v3");
    world.break_version("v2", 2);
    world.run_until(PhaseName::RollingBack, 6 * SECOND);
    world.run_for(SECOND);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
    assert!(world.cluster().selects("v3"), "traffic moves, the selector is theirs");
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.run_until(PhaseName::RolledBack, 2 * SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn a_rollback_in_the_very_tick_of_somebody_elses_change_moves_the_traffic_and_leaves_the_selector() {
    let broken = || {
        let mut world = reach(PhaseName::Baking);
        world.break_version("v2", 2);
        world
    };
    let mut rehearsal = broken();
    let mut ticks = 0;
    while rehearsal.phase() == PhaseName::Baking {
        rehearsal.tick();
        ticks += 1;
    }
    let mut world = broken();
    (1..ticks).for_each(|_| drop(world.tick()));
    assert_eq!(world.phase(), PhaseName::Baking);
    world.cluster().seize(Selected::Version(version("v3")));
    let changes = world.tick();
    assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [D::Rollback, D::Alert]);
    assert!(matches!(changes[1].cause, Cause::ForeignChange { .. }), "{changes:?}");
    assert_eq!(world.rollout.desired().selected, None);
    world.run_for(MINUTE);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
    assert!(world.cluster().selects("v3"), "nobody was asked");
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.run_until(PhaseName::RolledBack, 2 * SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn whoever_leads_next_neither_writes_over_a_change_that_it_sees_first_nor_forgets_an_answer() {
    let mut world = reach(PhaseName::RolledBack);
    world.cluster().seize(Selected::Version(version("v3")));
    world.restart();
    world.tick();
    assert!(world.cluster().selects("v3"));
    world.cluster().api_is_up = false;
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.restart();
    let (_, how) = world.rollout.answer_to_foreign().unwrap();
    assert_eq!(how, Resume::Restore);
    world.cluster().api_is_up = true;
    world.run_for(SECOND);
    assert!(world.cluster().selects("v1"));
    assert_eq!(world.rollout.answer_to_foreign(), None);
}

#[test]
fn whoever_puts_the_selector_back_himself_need_not_be_answered() {
    let mut world = seized(PhaseName::Steady, "v1");
    world.cluster().selector = Selected::Version(version("v2"));
    world.cluster().foreign = None;
    world.tick();
    assert_eq!(why(&world), "");
}

#[test]
fn a_service_that_selected_something_else_before_pointsman_came_is_asked_about() {
    let mut world = World::in_cluster(live(weights(10)));
    world.cluster().selector = Selected::Version(version("v3"));
    world.cluster().slices = Selected::Version(version("v3"));
    world.run_for(MINUTE);
    assert!(world.cluster().patches.is_empty());
    assert!(why(&world).contains("never flipped by Pointsman"), "{}", why(&world));
    world.order(OrderKind::Resume(Resume::Restore)).unwrap();
    world.run_for(2 * SECOND);
    assert!(world.cluster().selects("v1"));
}

#[test]
fn a_restart_in_every_phase_neither_steps_back_nor_promotes_again() {
    for phase in PhaseName::ALL {
        let mut world = reach(phase);
        let (granted, patches) = (world.rollout.desired().granted, world.cluster().patches.len());
        world.restart();
        assert_eq!((world.phase(), &world.rollout.desired().granted), (phase, &granted));
        world.run_for(TICK);
        assert!(world.cluster().patches.len() <= patches + 1, "{phase}");
        world.run_for(2 * MINUTE);
        let promotions = decisions(&world).into_iter().filter(|decision| *decision == D::Promote).count();
        assert!(promotions <= 1, "{phase}: promoted twice");
    }
}

#[test]
fn a_flip_stays_a_flip_for_whoever_leads_next() {
    let mut world = reach(PhaseName::Promoting);
    world.cluster().lag = 20;
    while !world.cluster().selects("v2") {
        world.tick();
    }
    world.restart();
    world.cluster().acknowledged = false;
    world.run_for(SECOND);
    assert!(world.cluster().selects("v2"), "no step backwards");
    world.run_until(PhaseName::Baking, 5 * SECOND);
}

#[test]
fn weights_by_hand_never_move_the_selector() {
    let mut world = World::in_cluster(live(weights(10)));
    world.run_for(SECOND);
    let to_v2 = Split::Whole(version("v2"));
    world.order(OrderKind::SetWeights(to_v2)).unwrap();
    world.run_for(MINUTE);
    assert!(world.cluster().patches.is_empty() && world.cluster().selects("v1"));
}

#[test]
fn a_new_rollout_brings_the_selector_home_after_the_traffic() {
    let mut world = reach(PhaseName::Steady);
    world.set_ready("v1", 0);
    let mut edited = live(Plan::Rollout(canary_plan(Promotion::Manual)));
    edited.versions.get_mut(&version("v2")).unwrap().revision = Some("r2".to_owned());
    world.edit(edited);
    world.run_for(SECOND);
    assert!(world.cluster().selects("v2"), "v1 is named stable but is not there");
    world.set_ready("v1", 1);
    world.run_for(SECOND);
    let home = world.cluster().patches.last().unwrap().clone();
    assert_eq!((home.to, home.acknowledged), (version("v1"), true));
}

#[test]
fn naming_the_promoted_canary_as_stable_moves_no_selector() {
    let mut world = reach(PhaseName::Steady);
    let mut renamed = live(Plan::Weights(Split::Whole(version("v2"))));
    renamed.stable = version("v2");
    world.edit(renamed);
    world.run_for(MINUTE);
    assert_eq!(world.cluster().patches.len(), 1);
    assert!(world.cluster().selects("v2"));
}

#[test]
fn without_a_live_service_nothing_of_this_is_asked_and_nothing_selected() {
    let plan = Plan::Rollout(canary_plan(Promotion::Automatic));
    let mut world = World::new(route(plan));
    world.run_until(PhaseName::Steady, 5 * MINUTE);
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Step, D::Step, D::Promote, D::Bake, D::Finish]);
    let desired = world.rollout.desired();
    assert_eq!((desired.selected, desired.retired), (None, None));
    assert_eq!(world.rollout.status(world.now()).way_back, None);
}
