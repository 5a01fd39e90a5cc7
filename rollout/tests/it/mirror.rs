//! Copies of requests as a gate for promotion: what they hold, what they prove, and what they never do.

use std::time::Duration;

use pointsman_config::{Compare, Mirror, Plan, Promotion, Protocol, Route, Share};
use pointsman_rollout::Decision as D;
use pointsman_rollout::{Cause, MirrorTally, OrderKind, PhaseName, Resume};

use crate::world::{World, blue_green, canary_plan, percent, route, version};

const MINUTE: Duration = Duration::from_mins(1);

/// A plan with a mirror to v2 and this gate.
pub(crate) fn mirrored(plan: Plan, gate: Option<f64>) -> Route {
    let mirror = Mirror {
        version: version("v2"),
        share: percent(10),
        concurrent: 64,
        body_bytes: 1 << 18,
        timeout: Duration::from_secs(5),
        compare: Compare { gate, noise: Share::from_ppm(500_000).unwrap(), ..Compare::default() },
    };
    Route { mirror: Some(mirror), ..route(plan) }
}

fn automatic(gate: Option<f64>) -> Route {
    mirrored(Plan::Rollout(canary_plan(Promotion::Automatic)), gate)
}

/// In each tick so many copies are compared, and so many disagree; a fifth of each beside them is stable's own.
fn copies(compared: u64, disagreed: u64, noise_disagreed: u64) -> MirrorTally {
    MirrorTally { compared, disagreed, noise_compared: compared / 5, noise_disagreed }
}

fn decisions(world: &World) -> Vec<D> {
    world.changes.iter().map(|change| change.decision).collect()
}

fn reason(world: &World) -> &'static str {
    world.rollout.summary().verdict.reason()
}

#[test]
fn a_canary_that_answers_copies_alike_is_promoted_as_without_them() {
    let mut world = World::new(automatic(Some(0.01)));
    world.mirrored = copies(20, 0, 0);
    world.run_until(PhaseName::Baking, 5 * MINUTE);
    let seen = world.rollout.summary().mirror.unwrap();
    assert!(seen.agrees.is_proven() && !seen.disagrees.is_proven());
    assert_eq!((seen.disagreement, seen.noise), (Some(0.0), Some(0.0)));
}

#[test]
fn a_canary_that_disagrees_is_held_told_once_never_taken_back_and_promoted_only_by_order() {
    let mut world = World::new(automatic(Some(0.01)));
    world.mirrored = copies(100, 0, 0);
    world.run_until(PhaseName::Shifting, MINUTE);
    world.mirrored = copies(100, 10, 0);
    world.run_for(MINUTE);
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Alert]);
    let Cause::MirrorDisagreement { disagreement, noise, gate } = world.changes[2].cause else { panic!() };
    assert!(disagreement > gate && noise < 1e-9 && (gate - 0.01).abs() < 1e-9);
    assert_eq!(reason(&world), "mirror_disagreement");
    let why = world.rollout.status(world.now()).why;
    assert!(why.contains("pointsman promote delivery-time"), "{why}");
    world.run_until(PhaseName::Paused, 5 * MINUTE);
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Shifting);
    assert!((world.canary_percent() - 5.0).abs() < 1e-9, "to resume is not to overrule");
    world.order(OrderKind::Promote).unwrap();
    world.run_until(PhaseName::Steady, 2 * MINUTE);
    assert_eq!(*world.rollout.serving(), version("v2"));
    assert_eq!(decisions(&world).iter().filter(|decision| **decision == D::Alert).count(), 1);
    assert!(!decisions(&world).contains(&D::Rollback));
}

#[test]
fn steps_wait_until_disagreement_is_excluded() {
    let mut world = World::new(automatic(Some(0.01)));
    world.mirrored = copies(1, 0, 0);
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.phase(), PhaseName::Warming);
    let status = world.rollout.status(world.now());
    assert!(status.why.contains("not excluded yet"), "{status:?}");
    world.run_until(PhaseName::Baking, 10 * MINUTE);
}

#[test]
fn a_noisy_model_is_measured_against_its_own_noise() {
    let mut world = World::new(automatic(Some(0.05)));
    world.mirrored = copies(100, 10, 2);
    world.run_until(PhaseName::Baking, 5 * MINUTE);
    assert!(!decisions(&world).contains(&D::Alert));
}

#[test]
fn without_a_gate_nothing_is_held() {
    let mut counted = World::new(automatic(None));
    counted.mirrored = copies(20, 20, 0);
    counted.run_until(PhaseName::Baking, 5 * MINUTE);
    assert!(counted.rollout.summary().mirror.unwrap().tally.disagreed > 1_000);
}

#[test]
fn with_a_gate_nothing_moves_on_before_a_copy_was_compared_and_the_deadline_ends_the_wait() {
    for plan in [blue_green(Promotion::Automatic), canary_plan(Promotion::Automatic)] {
        let mut world = World::new(mirrored(Plan::Rollout(plan), Some(0.01)));
        world.run_for(MINUTE);
        assert_eq!(world.phase(), PhaseName::Warming);
        let status = world.rollout.status(world.now());
        assert!(status.why.contains("no copied request"), "{status:?}");
        world.run_until(PhaseName::Paused, 2 * MINUTE);
    }
}

#[test]
fn where_no_copy_can_be_sent_nothing_waits_for_one() {
    let unsent = |mut route: Route| {
        route.mirror.as_mut().unwrap().share = Share::ZERO;
        route
    };
    let over_http2 = |route: Route| Route { protocol: Protocol::H2c, ..route };
    for route in [unsent(automatic(Some(0.01))), over_http2(automatic(Some(0.01)))] {
        let mut world = World::new(route);
        world.run_until(PhaseName::Baking, 5 * MINUTE);
        assert!(world.rollout.summary().mirror.is_none());
    }
}

#[test]
fn blue_green_waits_for_what_its_copies_show() {
    let mut world = World::new(mirrored(Plan::Rollout(blue_green(Promotion::Automatic)), Some(0.01)));
    world.mirrored = copies(10, 1, 0);
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Warming);
    assert!(
        world.rollout.status(world.now()).next.contains("answer copied requests"),
        "{:?}",
        world.rollout.status(world.now())
    );
    let mut alike = World::new(mirrored(Plan::Rollout(blue_green(Promotion::Automatic)), Some(0.01)));
    alike.mirrored = copies(10, 0, 0);
    alike.run_until(PhaseName::Baking, 2 * MINUTE);
}

#[test]
fn another_gate_or_another_build_is_judged_anew() {
    let mut world = World::new(automatic(Some(0.01)));
    world.mirrored = copies(100, 0, 0);
    world.run_until(PhaseName::Shifting, MINUTE);
    world.mirrored = copies(100, 10, 0);
    world.run_for(MINUTE);
    assert_eq!(reason(&world), "mirror_disagreement");
    world.edit(automatic(Some(0.2)));
    world.run_until(PhaseName::Baking, 5 * MINUTE);
}

#[test]
fn copies_are_never_requests_of_a_version() {
    let mut world = World::new(automatic(Some(0.5)));
    world.mirrored = copies(1_000, 300, 0);
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(Duration::from_secs(5));
    let summary = world.rollout.summary();
    assert!(summary.canary.requests + summary.stable.requests <= 51 * 100, "{summary:?}");
    assert_eq!(summary.canary.errors, 0);
}
