//! The check on the split: silent while chance does as configured, loud when it does not, and what follows then.

use std::time::Duration;

use pointsman_config::{Guard, Plan, Promotion, Share, Sticky};
use pointsman_rollout::Decision as D;
use pointsman_rollout::{
    Cause, Comparison, Drawn, OrderKind, PhaseName, Regression, Resume, Row, SplitCheck, Tally, Verdict, Waiting,
};

use crate::budget::{binomial_limit, count};
use crate::traffic::{Chance, Poisson};
use crate::world::{World, canary_plan, percent, route, version, weights};

const MINUTE: Duration = Duration::from_mins(1);
/// Seconds of a simulated hour.
const HOUR: u32 = 3_600;

/// Draws of one second at some rate, and of the canary at some share of it.
struct Draws {
    canary: Poisson,
    stable: Poisson,
}

impl Draws {
    fn new(per_s: f64, share: f64) -> Self {
        Self { canary: Poisson::new(per_s * share), stable: Poisson::new(per_s * (1.0 - share)) }
    }

    fn second(&self, chance: &mut Chance) -> Drawn {
        Drawn { canary: self.canary.draw(chance), stable: self.stable.draw(chance) }
    }
}

/// A second of draws under `weight`.
fn play(check: &mut SplitCheck, weight: Share, draws: &Draws, chance: &mut Chance) {
    check.draw(weight, draws.second(chance));
    for _ in 0..10 {
        check.tick();
    }
}

#[test]
fn a_sound_split_is_hardly_ever_called_broken_whatever_the_weights_do() {
    let seeds = 2_000;
    let steps = [1, 5, 25, 50].map(percent);
    let laws: Vec<_> = [30.0, 1_000.0].map(|per_s| steps.map(|weight| Draws::new(per_s, weight.ratio()))).into();
    let highest = |seed: u64| {
        let (mut check, mut chance) = (SplitCheck::new(), Chance::of_seed(4_000_000 + seed));
        let draws = &laws[usize::try_from(seed % 2).unwrap()];
        let mut highest = f64::NEG_INFINITY;
        for second in 0..HOUR {
            let step = usize::try_from(second / (HOUR / 4)).unwrap();
            play(&mut check, steps[step], &draws[step], &mut chance);
            highest = highest.max(check.log_evidence());
        }
        (check.is_void(), highest)
    };
    let alarms = count(seeds, |seed| highest(seed).0);
    let limit = binomial_limit(seeds, 1e-4);
    // One in twenty is within reach of chance: it shows that the evidence is real, and not more than it may be.
    let nearly = count(seeds, |seed| highest(seed).1 >= 20.0_f64.ln());
    let most = binomial_limit(seeds, 0.05);
    println!("{alarms} of {seeds} hours called broken (limit {limit}); {nearly} at 20 to 1 (limit {most})");
    assert!(alarms <= limit && (1..=most).contains(&nearly));
}

/// Seconds until a split of `truly` instead of `weight` is found after so many sound ones: median and slowest of 15.
fn found_after(per_s: f64, weight: u32, truly: f64, sound_s: u32) -> (u32, u32) {
    let weight = percent(weight);
    let (sound, broken) = (Draws::new(per_s, weight.ratio()), Draws::new(per_s, truly));
    let mut found: Vec<u32> = (0..15)
        .map(|seed| {
            let (mut check, mut chance) = (SplitCheck::new(), Chance::of_seed(5_000_000 + seed));
            for _ in 0..sound_s {
                play(&mut check, weight, &sound, &mut chance);
            }
            assert!(!check.is_void(), "called broken while sound");
            let mut second = 0;
            while !check.is_void() && second < HOUR {
                second += 1;
                play(&mut check, weight, &broken, &mut chance);
            }
            second
        })
        .collect();
    found.sort_unstable();
    (found[7], found[14])
}

#[test]
fn a_broken_split_is_found_in_seconds_from_the_start_and_after_an_hour() {
    // Draws per second, weight, true share, and the seconds that the median may take from the start and later.
    let table = [
        (1_000.0, 5, 0.07, 6, 9),
        (1_000.0, 5, 0.0, 1, 1),
        (1_000.0, 5, 0.1, 2, 2),
        (1_000.0, 25, 0.27, 16, 25),
        (1_000.0, 50, 0.52, 25, 40),
        (20.0, 5, 1.0, 1, 1),
        (20.0, 5, 0.2, 12, 20),
    ];
    for (per_s, weight, truly, start_s, later_s) in table {
        let (start, later) = (found_after(per_s, weight, truly, 0), found_after(per_s, weight, truly, HOUR));
        println!(
            "{per_s}/s, {weight} % configured, {:.0} % drawn: median and slowest {start:?} s from the start, {later:?} s after an hour",
            100.0 * truly
        );
        assert!(start.0 <= start_s && later.0 <= later_s, "{start:?} {later:?}");
        assert!(start.1 <= 4 * start_s && later.1 <= 4 * later_s, "{start:?} {later:?}");
    }
}

fn plan() -> pointsman_config::Route {
    route(Plan::Rollout(canary_plan(Promotion::Automatic)))
}

fn reason(world: &World) -> &'static str {
    world.rollout.summary().verdict.reason()
}

#[test]
fn a_rollout_whose_split_is_broken_stops_says_so_and_goes_on_with_fresh_evidence_when_it_is_told_to() {
    let mut world = World::new(plan());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.true_share = Some(percent(10));
    world.run_until(PhaseName::Paused, MINUTE);
    let told = world.changes.last().unwrap().clone();
    assert_eq!(told.decision, D::Pause);
    let Cause::SplitMismatch { observed, configured, drawn } = told.cause else { panic!("{:?}", told.cause) };
    assert!((observed - 0.1).abs() < 0.02 && (configured - 0.05).abs() < 1e-9 && drawn > 100, "{observed} {drawn}");
    assert!(told.evidence.unwrap().split.unwrap().evidence.is_proven());
    let status = world.rollout.status(world.now());
    assert!(
        status.why.contains("a defect of the edge") && status.why.contains("pointsman resume delivery-time"),
        "{status:?}"
    );
    assert_eq!(reason(&world), "split_mismatch");

    world.run_for(5 * MINUTE);
    assert_eq!((world.phase(), world.canary_percent() > 4.9), (PhaseName::Paused, true), "nothing moves");
    assert_eq!(world.changes.len(), 3, "and it is told once");

    let trial = world.rollout.trial();
    world.true_share = None;
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    assert!(world.rollout.trial() > trial);
    world.run_until(PhaseName::Baking, 10 * MINUTE);
}

#[test]
fn a_split_that_is_still_broken_stops_the_resumed_rollout_again() {
    let mut world = World::new(plan());
    world.true_share = Some(percent(10));
    world.run_until(PhaseName::Paused, MINUTE);
    world.order(OrderKind::Resume(Resume::GoOn)).unwrap();
    world.run_until(PhaseName::Paused, MINUTE);
}

#[test]
fn nobody_is_promoted_on_void_evidence_but_by_order() {
    let mut world = World::new(plan());
    world.run_until(PhaseName::Shifting, MINUTE);
    while world.rollout.status(world.now()).step != Some(2) {
        world.tick();
    }
    world.true_share = Some(percent(55));
    world.run_until(PhaseName::Paused, 2 * MINUTE);
    world.run_for(10 * MINUTE);
    assert_eq!(world.phase(), PhaseName::Paused);
    world.order(OrderKind::Promote).unwrap();
    world.run_until(PhaseName::Baking, MINUTE);
}

#[test]
fn labels_under_a_broken_split_take_no_healthy_canary_back() {
    for (true_share, one_in) in [(15, 20), (40, 20), (80, 100)] {
        let mut world = World::new(route(weights(5))).fails("v1", one_in).fails("v2", one_in);
        world.run_for(MINUTE);
        world.true_share = Some(percent(true_share));
        world.run_for(10 * MINUTE);
        assert_eq!(world.phase(), PhaseName::Steady, "{:?}", world.changes.last());
        assert_eq!(reason(&world), "split_mismatch");
    }
}

#[test]
fn what_the_canary_does_itself_still_takes_it_back_when_the_split_is_broken() {
    for (one_in, why) in [(1, Regression::Catastrophic), (12, Regression::AbsoluteLimit)] {
        let mut world = World::new(route(weights(5))).fails("v1", 1_000);
        world.run_for(MINUTE);
        world.true_share = Some(percent(15));
        world.run_for(MINUTE);
        assert_eq!(world.changes.last().unwrap().decision, D::Alert);
        world.break_version("v2", one_in);
        world.run_until(PhaseName::RollingBack, MINUTE);
        let cause = &world.changes.last().unwrap().cause;
        assert_eq!(*cause, Cause::Evidence { regression: why }, "one in {one_in}");
    }
}

#[test]
fn a_canary_alone_is_not_blamed_under_a_broken_split_for_what_stable_suffers_as_well() {
    let mut world = World::new(route(weights(5))).fails("v1", 1_000).fails("v2", 1_000);
    world.run_for(5 * MINUTE);
    world.true_share = Some(percent(15));
    world.run_for(MINUTE);
    world.break_version("v1", 6);
    world.break_version("v2", 6);
    // Stable's own failing shows within seconds; the absolute limit needs them too.
    world.run_for(2 * MINUTE);
    assert_eq!(world.phase(), PhaseName::Steady, "{:?}", world.changes.last());
}

#[test]
fn weights_by_hand_are_told_once_and_an_edit_or_new_weights_compare_anew() {
    let mut world = World::new(route(weights(5)));
    world.run_for(Duration::from_secs(10));
    world.true_share = Some(percent(20));
    world.run_for(MINUTE);
    assert_eq!(world.changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [D::Alert]);
    assert!(world.rollout.status(world.now()).why.contains("instead of 5.00%"));
    world.true_share = None;
    world.edit(route(weights(10)));
    world.run_for(MINUTE);
    assert_ne!(reason(&world), "split_mismatch");
    world.true_share = Some(percent(20));
    world.run_for(MINUTE);
    assert_eq!(reason(&world), "split_mismatch");
    world.true_share = None;
    let split = pointsman_config::Split::canary(version("v1"), version("v2"), percent(10));
    world.order(OrderKind::SetWeights(split)).unwrap();
    world.run_for(MINUTE);
    assert_ne!(reason(&world), "split_mismatch");
}

#[test]
fn the_causes_named_are_those_of_the_way_of_assignment() {
    for (sticky, cause) in [(None, "a defect of the edge"), (Some(Sticky::ClientIp), "choose their keys")] {
        let mut world = World::new(pointsman_config::Route { sticky, ..plan() });
        world.true_share = Some(percent(20));
        world.run_until(PhaseName::Paused, MINUTE);
        let why = world.rollout.status(world.now()).why;
        assert!(why.contains(cause), "{why}");
    }
}

#[test]
fn evidence_of_the_same_tick_decides_nothing_when_the_split_is_found_broken_in_it() {
    // Far more than its share goes to the canary, and errors with it: for the labels a plain regression.
    let weight = percent(5);
    let tally = |requests, errors| Tally { requests, errors, slow: 0 };
    let row = Row { weight, canary: tally(50, 5), stable: tally(50, 5) };
    let verdicts = |drawn: Drawn| {
        let mut comparison = Comparison::new(&Guard::default());
        (0..100)
            .map(|_| {
                comparison.draw(weight, drawn);
                comparison.tick(&[row])
            })
            .collect::<Vec<_>>()
    };
    let void = verdicts(Drawn { canary: 50, stable: 50 });
    assert!(void.iter().all(|verdict| matches!(verdict, Verdict::Continue(_))), "{void:?}");
    assert_eq!(void.last(), Some(&Verdict::Continue(Waiting::SplitMismatch)));
    let believed = verdicts(Drawn { canary: 5, stable: 95 });
    assert_eq!(believed.last(), Some(&Verdict::Rollback(Regression::ErrorRegression)), "what it would have been");
}

#[test]
fn stable_alone_is_not_judged_in_place_of_a_canary_that_was_taken_back() {
    let mut world = World::new(plan());
    world.run_until(PhaseName::Shifting, MINUTE);
    let by_hand = pointsman_config::Split::canary(version("v1"), version("v3"), percent(10));
    world.order(OrderKind::SetWeights(by_hand)).unwrap();
    world.true_share = Some(percent(30));
    world.run_for(MINUTE);
    assert_eq!(reason(&world), "split_mismatch");
    world.order(OrderKind::Rollback).unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.phase(), PhaseName::Paused, "the plan's own canary waits for a person");
    world.break_version("v1", 3);
    world.run_for(2 * MINUTE);
    let barred = world.rollout.status(world.now()).quarantined;
    assert_eq!(barred.into_iter().map(|held| held.version).collect::<Vec<_>>(), [version("v3")]);
}
