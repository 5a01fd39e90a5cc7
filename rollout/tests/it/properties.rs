//! What holds over random histories, checked against what the test itself remembers.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman_config::{Plan, Promotion, Split};
use pointsman_rollout::{Decision, OrderKind, PhaseName};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{World, blue_green, canary_plan, percent, route, version, weights, with_revision};

/// What the test remembers of the canary, apart from the machine's own books.
#[derive(Default)]
struct Memory {
    barred: bool,
    phases: BTreeSet<PhaseName>,
}

fn some_plan(rng: &mut StdRng) -> Plan {
    let promotion = if rng.random_bool(0.5) { Promotion::Automatic } else { Promotion::Manual };
    match rng.random_range(0..4) {
        0 => weights(rng.random_range(0..=100)),
        1 => Plan::Rollout(blue_green(promotion)),
        _ => Plan::Rollout(canary_plan(promotion)),
    }
}

/// One random thing happens; `memory` keeps what must follow from it.
fn happen(world: &mut World, memory: &mut Memory, rng: &mut StdRng) {
    match rng.random_range(0..14) {
        0 => world.break_version("v2", rng.random_range(1..20)),
        1 | 2 => world.mend("v2"),
        3 => world.break_version("v1", rng.random_range(2..2000)),
        4 => world.mend("v1"),
        5 => world.set_ready("v2", rng.random_range(0..2)),
        6 => world.set_ready("v1", usize::from(rng.random_bool(0.8))),
        7 => world.requests = [0, 1, 20, 100, 400][rng.random_range(0..5)],
        8 => world.restart(),
        9 => {
            world.edit(route(some_plan(rng)));
        }
        10 => {
            let kind = [OrderKind::Promote, OrderKind::Pause, OrderKind::Resume, OrderKind::Rollback]
                [rng.random_range(0..4)]
            .clone();
            let took_back = kind == OrderKind::Rollback;
            if world.order(kind).is_ok() && took_back {
                memory.barred = true;
            }
        }
        11 => {
            let split = Split::canary(version("v1"), version("v2"), percent(rng.random_range(0..=100)));
            let asks_for_canary = split.share_of(&version("v2")).ppm() > 0;
            let obeyed = world.order(OrderKind::SetWeights(split)).is_ok();
            assert!(!(obeyed && asks_for_canary && memory.barred), "weights gave traffic to a barred version");
        }
        12 if world.order(OrderKind::Retry(version("v2"))).is_ok() => memory.barred = false,
        _ => {}
    }
}

fn check(world: &World, memory: &Memory) {
    let desired = world.rollout.desired();
    if memory.barred {
        assert_eq!(
            desired.granted.share_of(&version("v2")).ppm(),
            0,
            "a barred version is granted traffic in {}",
            world.phase()
        );
    }
    assert_eq!(desired, world.rollout.desired(), "what is desired is a function of the phase");
    assert_eq!(
        desired.granted.share_of(&version("v1")).ppm() + desired.granted.share_of(&version("v2")).ppm(),
        1_000_000
    );
    let applied = desired.effective(&world.ready);
    assert_eq!(applied, desired.effective(&world.ready), "reconciling twice equals once");
}

#[test]
fn over_random_histories_a_version_taken_back_gets_nothing_until_it_is_named_anew() {
    let mut reached = BTreeSet::new();
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = some_plan(&mut rng);
        let mut world = World::new(route(plan));
        let mut memory = Memory::default();
        for _ in 0..60 {
            happen(&mut world, &mut memory, &mut rng);
            check(&world, &memory);
            for _ in 0..rng.random_range(0..150) {
                let changes = world.tick();
                memory.barred |= changes.iter().any(|change| change.decision == Decision::Rollback);
                memory.phases.insert(world.phase());
                check(&world, &memory);
            }
        }
        reached.extend(memory.phases);
    }
    assert_eq!(reached, PhaseName::ALL.into_iter().collect(), "the histories reach every phase");
}

#[test]
fn rollback_is_armed_whenever_the_canary_has_a_share() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic))));
        world.run_for(Duration::from_millis(rng.random_range(500..60_000)));
        if world.canary_percent() < 1.0 || world.phase() == PhaseName::Steady {
            continue;
        }
        world.break_version("v2", 2);
        world.run_until(PhaseName::RollingBack, Duration::from_secs(8));
    }
}

#[test]
fn a_new_revision_names_a_version_anew_and_nothing_else_in_the_file_does() {
    let mut world = World::new(route(Plan::Rollout(canary_plan(Promotion::Automatic)))).fails("v2", 2);
    world.run_until(PhaseName::RolledBack, Duration::from_mins(1));
    let plans =
        [weights(50), Plan::Rollout(blue_green(Promotion::Automatic)), Plan::Rollout(canary_plan(Promotion::Manual))];
    for plan in plans {
        world.edit(route(plan.clone()));
        assert!(world.canary_percent().abs() < 1e-9);
        world.run_for(Duration::from_secs(1));
        assert!(world.canary_percent().abs() < 1e-9, "{plan:?}");
    }
    world.mend("v2");
    world.edit(with_revision(route(Plan::Rollout(canary_plan(Promotion::Automatic))), "r2"));
    world.run_until(PhaseName::Shifting, Duration::from_secs(1));
}
