//! A recorded trial is decided again: by the same policy to the same end, by another one elsewhere.

use std::time::Duration;

use pointsman_config::{Guard, OnRegression, Plan, Promotion, Route, Tolerance};
use pointsman_rollout::{Decision, Journal, OrderKind, PhaseName, Record, Replayed, Resume, replay};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{World, blue_green, canary_plan, route, version, weights};

fn plan() -> Route {
    route(Plan::Rollout(canary_plan(Promotion::Automatic)))
}

/// One that an operator has to promote, and nobody does.
fn waits() -> Route {
    route(Plan::Rollout(canary_plan(Promotion::Manual)))
}

/// The record as it comes out of a file.
fn written(journal: &Journal) -> Record {
    let text = serde_json::to_string(journal.record().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A world whose plan begins after a minute at rest, so that something is known of stable.
fn begun(route: &Route) -> World {
    let mut world = World::new(crate::world::route(weights(0)));
    world.break_version("v1", 700);
    world.run_for(Duration::from_mins(1));
    world.edit(route.clone());
    world
}

fn decisions(replayed: &Replayed) -> Vec<Decision> {
    replayed.replayed.iter().map(|at| at.decided.decision).collect()
}

#[test]
fn a_promotion_and_a_rollback_are_decided_again_as_they_were() {
    let mut world = begun(&plan());
    world.run_until(PhaseName::Steady, Duration::from_mins(10));
    let replayed = replay(&plan(), &written(&world.journal)).unwrap();
    assert_eq!((replayed.differs_at, replayed.complete, replayed.edited), (None, true, false));
    assert!(decisions(&replayed).contains(&Decision::Promote), "{replayed:?}");

    let mut world = begun(&plan());
    world.break_version("v2", 3);
    world.run_until(PhaseName::RolledBack, Duration::from_mins(10));
    let replayed = replay(&plan(), &written(&world.journal)).unwrap();
    assert_eq!(replayed.differs_at, None, "{replayed:?}");
    assert_eq!(replayed.recorded, replayed.replayed);
    assert!(decisions(&replayed).contains(&Decision::Rollback));
}

#[test]
fn another_policy_is_told_where_it_decides_otherwise() {
    let mut world = begun(&plan());
    world.break_version("v2", 50);
    world.run_until(PhaseName::RolledBack, Duration::from_mins(10));
    let record = written(&world.journal);

    let mut lenient = plan();
    lenient.guard.tolerance = Tolerance { ratio: 1.1, difference: 0.1 };
    let replayed = replay(&lenient, &record).unwrap();
    let place = replayed.differs_at.expect("two percent are let pass");
    assert_eq!(replayed.recorded[place].decided.decision, Decision::Rollback);
    assert!(!decisions(&replayed).contains(&Decision::Rollback), "{replayed:?}");

    let mut other = plan();
    other.guard.latency_threshold = Duration::from_millis(50);
    assert!(replay(&other, &record).unwrap().counts_otherwise && !replayed.counts_otherwise);

    let alerting = Route { guard: Guard { on_regression: OnRegression::Alert, ..plan().guard }, ..plan() };
    let replayed = replay(&alerting, &record).unwrap();
    let place = replayed.differs_at.unwrap();
    assert_eq!(replayed.replayed[place].decided.decision, Decision::Alert);
    assert_eq!(replayed.recorded[place].after_ms, replayed.replayed[place].after_ms, "found at the same moment");
}

#[test]
fn a_record_of_a_newer_form_is_refused_and_one_that_is_full_says_so() {
    let mut world = begun(&plan());
    world.run_for(Duration::from_secs(5));
    let mut record = written(&world.journal);
    record.version += 1;
    assert!(replay(&plan(), &record).is_err());

    let mut world = begun(&waits());
    world.requests = 1;
    world.run_for(Duration::from_mins(121));
    let record = written(&world.journal);
    assert!(!record.complete && !replay(&waits(), &record).unwrap().complete);
}

/// Nobody takes away weights that stand, so nothing would ever end their record.
#[test]
fn of_weights_that_stay_the_first_quarter_of_an_hour_is_recorded() {
    for (route, complete) in [(route(weights(10)), false), (waits(), true)] {
        let mut world = begun(&route);
        world.requests = 1;
        world.run_for(Duration::from_mins(16));
        let record = written(&world.journal);
        assert_eq!(record.complete, complete);
        assert_eq!(replay(&route, &record).unwrap().differs_at, None);
    }
}

#[test]
fn ticks_in_which_nothing_becomes_known_take_no_place() {
    let mut world = begun(&plan());
    world.requests = 0;
    world.run_for(Duration::from_mins(30));
    let idle = world.journal.bytes();
    assert!(idle < 4_000, "{idle}");
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.requests = 100;
    world.run_until(PhaseName::Steady, Duration::from_mins(10));
    let replayed = replay(&plan(), &written(&world.journal)).unwrap();
    assert_eq!((replayed.differs_at, replayed.complete), (None, true), "{replayed:?}");
    assert!(decisions(&replayed).contains(&Decision::Promote), "{replayed:?}");
}

/// Ten seconds without an endpoint are a hundred ticks or one more, as the first of them comes early or late.
#[test]
fn a_span_that_begins_in_a_quiet_tick_is_replayed_from_the_very_moment() {
    let mut world = begun(&plan());
    world.run_until(PhaseName::Shifting, Duration::from_secs(5));
    world.requests = 0;
    world.run_for(Duration::from_secs(2));
    world.set_ready("v2", 0);
    world.pace = Duration::from_micros(100_900);
    world.tick();
    world.pace = Duration::from_micros(99_995);
    world.run_until(PhaseName::RolledBack, Duration::from_mins(1));
    let replayed = replay(&plan(), &written(&world.journal)).unwrap();
    assert_eq!((replayed.differs_at, replayed.complete), (None, true), "{replayed:?}");
}

#[test]
fn records_take_no_more_than_they_are_given_and_keep_their_beginning() {
    let mut world = begun(&plan());
    world.run_for(Duration::from_mins(1));
    let whole = world.journal.bytes();
    world.journal.keep_within(whole / 2);
    let cut = world.journal.bytes();
    assert!((1..=whole / 2).contains(&cut), "{cut} of {whole}");
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.journal.bytes(), cut, "a record with a gap could not be decided again");
    let replayed = replay(&plan(), &written(&world.journal)).unwrap();
    assert!(!replayed.complete && replayed.recorded == replayed.replayed && !replayed.recorded.is_empty());
    world.order(OrderKind::Rollback).unwrap();
    world.run_until(PhaseName::RolledBack, Duration::from_secs(5));
    world.journal.keep_within(usize::MAX);
    world.order(OrderKind::Retry(version("v2"))).unwrap();
    world.run_for(Duration::from_secs(5));
    assert!(written(&world.journal).complete, "the next one has room again");
}

/// Whatever happens to traffic, endpoints and through operators: the same policy decides the same.
#[test]
fn random_histories_are_decided_again_as_they_were() {
    let (mut records, mut with_rollback, mut with_promotion, mut with_orders) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        let promotion = if rng.random_bool(0.7) { Promotion::Automatic } else { Promotion::Manual };
        let route = match rng.random_range(0..4) {
            0 => route(weights(rng.random_range(1..=99))),
            1 => route(Plan::Rollout(blue_green(promotion))),
            _ => route(Plan::Rollout(canary_plan(promotion))),
        };
        let mut world = begun(&route);
        let mut ordered = false;
        for _ in 0..rng.random_range(3..20) {
            ordered |= happen(&mut world, &mut rng);
            world.run_for(Duration::from_millis(100 * rng.random_range(1..150)));
        }
        if world.journal.record().is_none() {
            continue;
        }
        let replayed = replay(&route, &written(&world.journal)).unwrap();
        assert_eq!(replayed.differs_at, None, "seed {seed}: {replayed:#?}");
        records += 1;
        with_orders += usize::from(ordered);
        let has = |decision| decisions(&replayed).contains(&decision);
        with_rollback += usize::from(has(Decision::Rollback));
        with_promotion += usize::from(has(Decision::Promote));
    }
    assert!(
        records > 100 && with_rollback > 20 && with_promotion > 5 && with_orders > 20,
        "{records} records, {with_rollback} rollbacks, {with_promotion} promotions, {with_orders} with orders"
    );
}

/// One random thing; whether it was an order that was obeyed.
fn happen(world: &mut World, rng: &mut StdRng) -> bool {
    match rng.random_range(0..9) {
        0 => world.break_version("v2", rng.random_range(1..60)),
        1 => world.mend("v2"),
        2 => world.break_version("v1", rng.random_range(5..2_000)),
        3 => world.set_ready("v2", rng.random_range(0..2)),
        4 => world.requests = [0, 3, 20, 100, 400][rng.random_range(0..5)],
        5 => {
            let kind = [OrderKind::Promote, OrderKind::Pause, OrderKind::Resume(Resume::GoOn), OrderKind::Rollback]
                [rng.random_range(0..4)]
            .clone();
            return world.order(kind).is_ok();
        }
        6 => return world.order(OrderKind::Retry(version("v2"))).is_ok(),
        _ => {}
    }
    false
}
