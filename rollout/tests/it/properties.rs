//! What holds over random histories, checked against what the test itself remembers.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman_config::{Plan, Promotion, Split, VersionId};
use pointsman_rollout::{Cause, Change, Decision, MirrorTally, OrderKind, PhaseName, Regression, Resume};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::mirror::mirrored;
use crate::world::{World, blue_green, canary_plan, percent, route, version, weights, with_revision};

/// What the test remembers of versions that were taken back, apart from the machine's own books.
#[derive(Default)]
struct Memory {
    barred: BTreeSet<VersionId>,
    phases: BTreeSet<PhaseName>,
}

impl Memory {
    fn note(&mut self, changes: &[Change]) {
        let taken_back = changes.iter().filter(|change| change.decision == Decision::Rollback);
        self.barred.extend(taken_back.filter_map(|change| change.canary.clone()));
    }
}

fn some_version(rng: &mut StdRng) -> VersionId {
    version(if rng.random_bool(0.8) { "v2" } else { "v3" })
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
        0 => world.break_version(some_version(rng).as_str(), rng.random_range(1..20)),
        1 | 2 => world.mend(some_version(rng).as_str()),
        3 => world.break_version("v1", rng.random_range(2..2000)),
        4 => world.mend("v1"),
        5 => world.set_ready(some_version(rng).as_str(), rng.random_range(0..2)),
        6 => world.set_ready("v1", usize::from(rng.random_bool(0.8))),
        7 => world.requests = [0, 1, 20, 100, 400][rng.random_range(0..5)],
        8 => world.restart(),
        9 => {
            world.edit(route(some_plan(rng)));
        }
        10 => {
            let kind = [OrderKind::Promote, OrderKind::Pause, OrderKind::Resume(Resume::GoOn), OrderKind::Rollback]
                [rng.random_range(0..4)]
            .clone();
            let changes = world.order(kind).unwrap_or_default();
            memory.note(&changes);
        }
        11 => {
            let other = some_version(rng);
            let split = Split::canary(version("v1"), other.clone(), percent(rng.random_range(0..=100)));
            let asks_for_it = split.share_of(&other).ppm() > 0;
            let obeyed = world.order(OrderKind::SetWeights(split)).is_ok();
            assert!(!(obeyed && asks_for_it && memory.barred.contains(&other)), "weights gave traffic to {other}");
        }
        12 => {
            let named = some_version(rng);
            if world.order(OrderKind::Retry(named.clone())).is_ok() {
                memory.barred.remove(&named);
            }
        }
        _ => {}
    }
}

fn check(world: &World, memory: &Memory) {
    let desired = world.rollout.desired();
    for barred in &memory.barred {
        let share = desired.granted.share_of(barred).ppm();
        assert_eq!(share, 0, "{barred} was taken back and is granted traffic in {}", world.phase());
    }
    assert_eq!(desired, world.rollout.desired(), "what is desired is a function of the phase");
    let shares = ["v1", "v2", "v3"].map(|name| desired.granted.share_of(&version(name)).ppm());
    assert_eq!(shares.iter().sum::<u32>(), 1_000_000);
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
                memory.note(&changes);
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

/// What was told and not yet answered by anybody.
#[derive(Default)]
struct Doubts {
    void: bool,
    disagrees: bool,
    told: [u32; 2],
}

impl Doubts {
    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            self.check(change);
            match change.cause {
                Cause::SplitMismatch { .. } => {
                    assert!(!std::mem::replace(&mut self.void, true), "told twice");
                    self.told[0] += 1;
                }
                Cause::MirrorDisagreement { .. } => {
                    assert!(!std::mem::replace(&mut self.disagrees, true), "told twice");
                    assert_eq!(change.before, change.after, "it moves nothing");
                    self.told[1] += 1;
                }
                Cause::Plan { .. }
                | Cause::Evidence { .. }
                | Cause::NotReady { .. }
                | Cause::EmptyService { .. }
                | Cause::ForeignChange { .. }
                | Cause::Tripped { .. }
                | Cause::Remembered { .. }
                | Cause::Deadline { .. }
                | Cause::Operator { .. }
                | Cause::GateFails { .. }
                | Cause::GateHolds { .. }
                | Cause::File => {}
            }
        }
    }

    fn check(&self, change: &Change) {
        let forward = matches!(change.decision, Decision::Step | Decision::Promote);
        let by_itself = matches!(change.cause, Cause::Plan { .. });
        assert!(!(forward && by_itself && (self.void || self.disagrees)), "{change:?}");
        let by_labels = [Regression::ErrorRegression, Regression::LatencyRegression]
            .map(|regression| Cause::Evidence { regression })
            .contains(&change.cause);
        assert!(!(self.void && by_labels), "{change:?}");
    }

    fn answered(&mut self) {
        (self.void, self.disagrees) = (false, false);
    }
}

/// The world changes; nobody answers anything.
fn drift(world: &mut World, rng: &mut StdRng) {
    match rng.random_range(0..6) {
        0 => world.break_version(some_version(rng).as_str(), rng.random_range(2..50)),
        1 => world.mend("v2"),
        2 => world.requests = [1, 20, 100, 400][rng.random_range(0..4)],
        3 => world.true_share = rng.random_bool(0.5).then(|| percent(rng.random_range(0..=100))),
        4 => {
            let compared = rng.random_range(0..30);
            let disagreed = if rng.random_bool(0.5) { 0 } else { compared / 5 };
            world.mirrored = MirrorTally { compared, disagreed, noise_compared: 3, noise_disagreed: 0 };
        }
        _ => {}
    }
}

/// Somebody does something about it.
fn answer(world: &mut World, doubts: &mut Doubts, rng: &mut StdRng) {
    match rng.random_range(0..6) {
        0 => world.restart(),
        1 => {
            let changes = world.edit(mirrored(some_plan(rng), Some(0.01)));
            doubts.answered();
            return doubts.note(&changes);
        }
        2 => {
            // To go on is to have seen what is wrong with the split, and no answer to what the copies show.
            if world.order(OrderKind::Resume(Resume::GoOn)).is_ok() {
                doubts.void = false;
            }
            return;
        }
        3 if world.order(OrderKind::Pause).is_ok() => return,
        4 if world.order(OrderKind::Promote).is_err() => return,
        5 if world.order(OrderKind::Retry(version("v2"))).is_err() => return,
        _ => {}
    }
    doubts.answered();
}

#[test]
fn over_random_histories_nothing_goes_forward_on_void_evidence_or_against_what_copies_show() {
    let mut told = [0, 0];
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(7_000 + seed);
        let mut world = World::new(mirrored(some_plan(&mut rng), Some(0.01)));
        let mut doubts = Doubts::default();
        for _ in 0..60 {
            if rng.random_bool(0.15) {
                answer(&mut world, &mut doubts, &mut rng);
            } else {
                drift(&mut world, &mut rng);
            }
            for _ in 0..rng.random_range(0..150) {
                let changes = world.tick();
                doubts.note(&changes);
            }
        }
        told = [told[0] + doubts.told[0], told[1] + doubts.told[1]];
    }
    assert!(told[0] > 100 && told[1] > 30, "the histories reach both: {told:?}");
}
