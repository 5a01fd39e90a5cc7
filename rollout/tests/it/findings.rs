//! What others say of the canary: what they hold, what they take back, and what not to know means.

use std::time::Duration;

use pointsman_config::{OnRegression, Plan, Promotion, Route, Split};
use pointsman_rollout::Decision as D;
use pointsman_rollout::{Asked, Cause, Change, Decision, Finding, Gate, OrderKind, Outcome, PhaseName, Time};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{World, blue_green, canary_plan, route, version, weights};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
const STALE_AFTER: Duration = Duration::from_secs(30);

fn automatic() -> Route {
    route(Plan::Rollout(canary_plan(Promotion::Automatic)))
}

/// A gate of this name that nobody has answered yet.
fn unanswered(name: &str, asked: Asked) -> Gate {
    Gate { name: name.to_owned(), asked, stale_after: STALE_AFTER, finding: None }
}

fn gated(route: Route, asked: Asked) -> World {
    let mut world = World::new(route);
    world.gates = vec![unanswered("drift", asked)];
    world
}

/// Somebody finds this out about the canary, now.
fn find(world: &mut World, gate: usize, outcome: Outcome) {
    let (trial, at) = (world.rollout.trial(), world.now());
    let words = format!("{} at {} s", outcome.as_str(), at.since(Time::default()).as_secs());
    world.gates[gate].finding =
        Some(Finding { version: version("v2"), trial, outcome, is_suspicion: false, words, at });
}

/// Ticks for `span` while every gate finds `outcome` anew each second.
fn run_finding(world: &mut World, outcome: Outcome, span: Duration) {
    let until = world.now().plus(span);
    while world.now() < until {
        for gate in 0..world.gates.len() {
            find(world, gate, outcome);
        }
        world.run_for(SECOND);
    }
}

fn decisions(world: &World) -> Vec<Decision> {
    world.changes.iter().map(|change| change.decision).collect()
}

#[test]
fn a_gate_that_passes_is_in_nobodys_way() {
    for asked in [Asked::Always, Asked::WithTraffic] {
        let mut world = gated(automatic(), asked);
        run_finding(&mut world, Outcome::Passes, 3 * MINUTE);
        let told = decisions(&world).into_iter().filter(|decision| *decision != D::Hold).collect::<Vec<_>>();
        assert_eq!(told, [D::Start, D::Step, D::Step, D::Step, D::Promote, D::Bake, D::Finish], "{asked:?}");
        assert!(world.rollout.status(world.now()).gates.is_empty(), "a finished rollout is asked nothing");
    }
}

#[test]
fn without_an_answer_no_step_is_taken_and_it_is_told_once_which_gate_and_why() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.run_for(MINUTE);
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Hold], "the first step needs no answer about its traffic");
    let told = &world.changes[2];
    assert_eq!(told.before, told.after);
    assert_eq!(told.sentence(), "v2 held at 5%: the gate `drift` holds for 10 s: nothing has been found out yet");
    let status = world.rollout.status(world.now());
    assert!(status.why.starts_with("the gate `drift` holds for") && status.next.contains(&status.why), "{status:?}");
    let gate = &status.gates[0];
    assert_eq!((gate.gate.as_str(), gate.outcome, gate.observed_seconds_ago), ("drift", Outcome::Holds, None));
    assert!(gate.for_seconds > 55.0, "{gate:?}");
    find(&mut world, 0, Outcome::Passes);
    world.run_for(SECOND);
    assert_eq!(world.rollout.status(world.now()).step, Some(1), "it goes on as soon as it is answered");
}

#[test]
fn a_gate_that_is_always_asked_keeps_the_first_request_from_the_canary() {
    for plan in [canary_plan(Promotion::Automatic), blue_green(Promotion::Automatic)] {
        let mut world = gated(route(Plan::Rollout(plan)), Asked::Always);
        run_finding(&mut world, Outcome::Holds, 20 * SECOND);
        assert_eq!((world.phase(), decisions(&world)), (PhaseName::Warming, vec![D::Start, D::Hold]));
        let status = world.rollout.status(world.now());
        assert!(status.next.starts_with("waits since the gate `drift` holds for"), "{}", status.next);
        run_finding(&mut world, Outcome::Passes, SECOND);
        assert!(world.canary_percent() > 0.0);
    }
}

#[test]
fn in_blue_green_what_rests_on_traffic_has_its_say_in_the_bake_and_can_only_take_back() {
    let mut world = gated(route(Plan::Rollout(blue_green(Promotion::Automatic))), Asked::WithTraffic);
    world.run_until(PhaseName::Baking, 2 * SECOND);
    run_finding(&mut world, Outcome::Holds, 5 * SECOND);
    assert_eq!(world.phase(), PhaseName::Baking);
    find(&mut world, 0, Outcome::Fails);
    world.run_until(PhaseName::RolledBack, SECOND);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
}

#[test]
fn a_gate_that_holds_through_a_bake_does_not_keep_it_from_ending() {
    let mut world = gated(route(Plan::Rollout(blue_green(Promotion::Automatic))), Asked::WithTraffic);
    run_finding(&mut world, Outcome::Holds, MINUTE);
    assert_eq!((world.phase(), world.rollout.serving()), (PhaseName::Steady, &version("v2")));
}

/// A breach that does not count yet: until it does, or has gone, nothing of the way back is given up.
#[test]
fn a_bake_does_not_end_on_a_breach_that_may_count_soon() {
    for (then, phase) in [(Outcome::Passes, PhaseName::Steady), (Outcome::Fails, PhaseName::RolledBack)] {
        let mut world = gated(route(Plan::Rollout(blue_green(Promotion::Automatic))), Asked::WithTraffic);
        for _ in 0..60 {
            find(&mut world, 0, Outcome::Holds);
            world.gates[0].finding.as_mut().unwrap().is_suspicion = true;
            world.run_for(SECOND);
        }
        assert_eq!(world.phase(), PhaseName::Baking, "for three times as long as it was to take");
        let next = world.rollout.status(world.now()).next;
        assert!(next.starts_with("the bake is over and does not end, since the gate `drift` holds"), "{next}");
        assert_eq!(decisions(&world).iter().filter(|decision| **decision == D::Hold).count(), 1, "told once");
        find(&mut world, 0, then);
        world.run_for(SECOND);
        assert_eq!(world.phase(), phase);
    }
}

#[test]
fn since_when_the_canary_has_traffic_outlives_the_edge_that_gave_it() {
    let mut world = World::new(automatic());
    world.run_until(PhaseName::Shifting, MINUTE);
    world.run_for(5 * SECOND);
    let since = world.rollout.on_trial().unwrap().traffic_since.unwrap();
    world.restart();
    let after = world.rollout.on_trial().unwrap().traffic_since.unwrap();
    assert!(after.since(since).max(since.since(after)) < SECOND, "{since:?} {after:?}");
}

#[test]
fn a_gate_that_fails_takes_the_canary_back_from_wherever_it_is_tried_and_bars_it() {
    let plans = [
        Plan::Rollout(canary_plan(Promotion::Automatic)),
        Plan::Rollout(blue_green(Promotion::Automatic)),
        weights(10),
    ];
    for (plan, after) in plans.into_iter().flat_map(|plan| [1_u32, 12, 25, 31].map(|after| (plan.clone(), after))) {
        let mut world = gated(route(plan), Asked::WithTraffic);
        run_finding(&mut world, Outcome::Passes, after * SECOND);
        if world.phase() == PhaseName::Steady && world.rollout.serving() == &version("v2") {
            continue;
        }
        find(&mut world, 0, Outcome::Fails);
        let changes = world.tick();
        assert_eq!(changes[0].decision, D::Rollback, "after {after} s in {}", changes[0].from);
        let found = format!("the gate `drift` fails: fails at {after} s");
        assert_eq!(changes[0].cause.to_string(), found);
        let kept = changes[0].evidence.as_ref().map(|evidence| evidence.gates[0].outcome);
        assert_eq!(kept, Some(Outcome::Fails), "the decision keeps what the gate said");
        world.run_for(SECOND);
        assert_eq!((world.phase(), *world.applied() == Split::Whole(version("v1"))), (PhaseName::RolledBack, true));
        let held = world.rollout.status(world.now()).quarantined;
        assert_eq!((held[0].version.as_str(), held[0].why.as_str()), ("v2", found.as_str()));
    }
}

#[test]
fn a_paused_rollout_is_taken_back_as_well() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.run_for(SECOND);
    world.order(OrderKind::Pause).unwrap();
    find(&mut world, 0, Outcome::Fails);
    world.run_until(PhaseName::RolledBack, SECOND);
}

#[test]
fn what_is_stale_or_about_another_trial_or_version_holds_and_neither_passes_nor_fails() {
    for outcome in [Outcome::Passes, Outcome::Fails] {
        let mut world = gated(automatic(), Asked::WithTraffic);
        world.run_until(PhaseName::Shifting, SECOND);
        find(&mut world, 0, outcome);
        let finding = world.gates[0].finding.clone().unwrap();
        let others =
            [Finding { trial: finding.trial + 1, ..finding.clone() }, Finding { version: version("v3"), ..finding }];
        for other in others {
            world.gates[0].finding = Some(other);
            world.run_for(20 * SECOND);
            assert_eq!((world.phase(), world.rollout.status(world.now()).step), (PhaseName::Shifting, Some(0)));
        }
    }
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.run_until(PhaseName::Shifting, SECOND);
    find(&mut world, 0, Outcome::Passes);
    world.run_for(STALE_AFTER + SECOND);
    let step = world.rollout.status(world.now()).step;
    assert!(step > Some(0), "it counted while it was fresh");
    world.run_for(MINUTE);
    let status = world.rollout.status(world.now());
    assert_eq!(status.step, step, "and no more");
    assert!(status.why.contains("older than 30 s and counts no more; it was: passes at 0 s"), "{}", status.why);
}

#[test]
fn an_old_failure_takes_nothing_back() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    find(&mut world, 0, Outcome::Fails);
    world.set_ready("v2", 0);
    world.run_for(STALE_AFTER + SECOND);
    world.set_ready("v2", 1);
    world.run_for(MINUTE);
    assert_eq!(world.phase(), PhaseName::Shifting);
}

#[test]
fn where_the_guard_only_alerts_a_failure_is_told_once_and_stops_the_plan() {
    let mut alerting = automatic();
    alerting.guard.on_regression = OnRegression::Alert;
    let mut world = gated(alerting, Asked::WithTraffic);
    world.run_until(PhaseName::Shifting, SECOND);
    run_finding(&mut world, Outcome::Fails, 20 * SECOND);
    assert_eq!(decisions(&world), [D::Start, D::Step, D::Alert]);
    assert_eq!(world.phase(), PhaseName::Paused);
    assert!(world.rollout.status(world.now()).why.contains("not taken back because the guard only alerts"));
}

#[test]
fn where_the_guard_only_alerts_every_gate_that_fails_is_told_once() {
    let mut alerting = automatic();
    alerting.guard.on_regression = OnRegression::Alert;
    let mut world = gated(alerting, Asked::WithTraffic);
    world.gates.push(unanswered("query", Asked::WithTraffic));
    world.run_until(PhaseName::Shifting, SECOND);
    for (drift, query) in [(Outcome::Fails, Outcome::Passes), (Outcome::Fails, Outcome::Fails)] {
        for _ in 0..10 {
            find(&mut world, 0, drift);
            find(&mut world, 1, query);
            world.run_for(SECOND);
        }
    }
    let alerts = world.changes.iter().filter(|change| change.decision == D::Alert);
    let gates: Vec<_> = alerts
        .map(|change| {
            let Cause::GateFails { gate, .. } = &change.cause else { panic!("{:?}", change.cause) };
            gate.as_str()
        })
        .collect();
    assert_eq!(gates, ["drift", "query"]);
    assert!(world.rollout.status(world.now()).why.starts_with("the gate `drift` fails"), "what stopped it stays");
}

/// What a gate holds is a decision of its own; what else holds a rollout is not.
#[test]
fn a_gate_that_is_not_passed_yet_holds_nothing_that_would_go_on_otherwise() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.run_until(PhaseName::Shifting, SECOND);
    world.run_for(3 * SECOND);
    let status = world.rollout.status(world.now());
    assert!(status.why.contains("nothing has been found out yet") && !world.rollout.is_held(), "{status:?}");
    world.requests = 0;
    let mut idle = World::new(automatic());
    idle.requests = 0;
    idle.run_for(3 * SECOND);
    assert!(idle.rollout.is_held(), "{:?}", idle.rollout.status(idle.now()));
}

#[test]
fn promotion_waits_for_every_gate_and_an_order_goes_past_them() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.gates.push(unanswered("calendar", Asked::WithTraffic));
    run_finding(&mut world, Outcome::Passes, 23 * SECOND);
    let until = world.now().plus(MINUTE);
    while world.now() < until {
        find(&mut world, 0, Outcome::Passes);
        find(&mut world, 1, Outcome::Holds);
        world.run_for(SECOND);
    }
    let status = world.rollout.status(world.now());
    assert_eq!((status.phase, status.step), (PhaseName::Shifting, Some(2)), "{status:?}");
    assert_eq!(world.rollout.summary().verdict.reason(), "gate_holds");
    assert!(status.why.starts_with("the gate `calendar` holds for"), "{}", status.why);
    assert!(matches!(&world.changes.last().unwrap().cause, Cause::GateHolds { gate, .. } if gate == "calendar"));
    world.order(OrderKind::Promote).unwrap();
    world.run_until(PhaseName::Baking, SECOND);
}

#[test]
fn a_gate_that_holds_for_too_long_pauses_with_its_words() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    world.run_until(PhaseName::Paused, 4 * MINUTE);
    let change = world.changes.last().unwrap();
    assert!(change.cause.to_string().contains("the gate `drift` holds for"), "{}", change.cause);
}

#[test]
fn a_restarted_edge_asks_anew_and_a_follower_asks_nothing() {
    let mut world = gated(automatic(), Asked::WithTraffic);
    run_finding(&mut world, Outcome::Passes, SECOND);
    world.gates[0].finding = None;
    world.restart();
    world.run_for(30 * SECOND);
    assert_eq!(world.rollout.status(world.now()).step, Some(0));
    world.rollout.step_down();
    find(&mut world, 0, Outcome::Fails);
    world.run_for(SECOND);
    assert_eq!(world.phase(), PhaseName::Shifting, "the leader decides");
    assert!(world.rollout.status(world.now()).gates.is_empty());
}

/// What the test itself knows of the gates: whether each was asked, and what it said last.
fn is_open(world: &World, since_tick: Time) -> bool {
    let fresh = |gate: &Gate| {
        gate.finding.as_ref().is_some_and(|finding| {
            finding.outcome == Outcome::Passes
                && finding.trial == world.rollout.trial()
                && finding.version == version("v2")
                && since_tick.since(finding.at) <= gate.stale_after
        })
    };
    world.gates.iter().all(fresh)
}

fn happen(world: &mut World, rng: &mut StdRng) {
    match rng.random_range(0..10) {
        0..=4 => {
            let gate = rng.random_range(0..world.gates.len());
            let outcome = if rng.random_bool(0.04) { Outcome::Fails } else { Outcome::ALL[rng.random_range(0..2)] };
            find(world, gate, outcome);
        }
        5 => {
            let gate = rng.random_range(0..world.gates.len());
            world.gates[gate].finding = None;
        }
        6 => {
            if let Some(finding) = &mut world.gates[0].finding {
                finding.trial += 1;
            }
        }
        7 => world.restart(),
        8 => world.requests = [0, 20, 400][rng.random_range(0..3)],
        _ => drop(world.order(OrderKind::Retry(version("v2")))),
    }
}

fn check(world: &World, changes: &[Change], counted: &mut [usize; 3]) {
    for change in changes {
        let by_itself = matches!(change.cause, Cause::Plan { .. });
        match change.decision {
            // Nobody had traffic before the first step, so that nothing was asked about it.
            D::Step if by_itself && change.from == PhaseName::Warming => {}
            D::Step | D::Promote if by_itself => {
                counted[0] += 1;
                assert!(is_open(world, world.now()), "{change:?}");
            }
            D::Rollback => {
                counted[1] += 1;
                let failed = world.gates.iter().filter_map(|gate| gate.finding.as_ref());
                let mut failed = failed.filter(|finding| finding.outcome == Outcome::Fails);
                assert!(matches!(change.cause, Cause::GateFails { .. }) && failed.next().is_some(), "{change:?}");
            }
            D::Hold => {
                counted[2] += 1;
                assert!(!is_open(world, world.now()) && change.before == change.after, "{change:?}");
            }
            D::Step
            | D::Promote
            | D::Start
            | D::Pause
            | D::Resume
            | D::Flip
            | D::Bake
            | D::Finish
            | D::RollbackDone
            | D::Alert
            | D::SetWeights
            | D::Retry
            | D::Edit => {}
        }
    }
}

#[test]
fn over_random_histories_nothing_goes_forward_past_a_gate_and_only_a_failure_takes_back() {
    let mut counted = [0; 3];
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(90_000 + seed);
        let mut world = gated(automatic(), Asked::WithTraffic);
        world.gates.push(unanswered("query", Asked::WithTraffic));
        for _ in 0..80 {
            happen(&mut world, &mut rng);
            for _ in 0..rng.random_range(0..80) {
                let changes = world.tick();
                check(&world, &changes, &mut counted);
            }
        }
    }
    assert!(counted.iter().all(|count| *count > 50), "the histories reach all three: {counted:?}");
}

#[test]
fn a_deadline_ends_neither_in_a_freeze_nor_sooner_than_its_length_after_it() {
    let mut world = gated(automatic(), Asked::OfTheCalendar);
    let Plan::Rollout(plan) = world.rollout.route().plan.clone() else { panic!("a plan") };
    run_finding(&mut world, Outcome::Holds, 3 * plan.step_deadline);
    assert_eq!(world.phase(), PhaseName::Warming);
    // The freeze is over, and somebody else holds.
    world.gates.push(unanswered("board", Asked::Always));
    let mut run_after = |span: Duration| {
        let until = world.now().plus(span);
        while world.now() < until {
            find(&mut world, 0, Outcome::Passes);
            find(&mut world, 1, Outcome::Holds);
            world.run_for(SECOND);
        }
        world.phase()
    };
    assert_eq!(run_after(plan.step_deadline.saturating_sub(2 * SECOND)), PhaseName::Warming);
    assert_eq!(run_after(4 * SECOND), PhaseName::Paused);
}

/// Whoever decides next has not seen the freeze, and takes over how long the step has lasted.
#[test]
fn a_freeze_is_remembered_by_an_edge_that_starts_anew_and_by_one_that_leads_next() {
    for takes_over in [World::restart, follow_and_lead] {
        let mut world = gated(automatic(), Asked::OfTheCalendar);
        let Plan::Rollout(plan) = world.rollout.route().plan.clone() else { panic!("a plan") };
        run_finding(&mut world, Outcome::Holds, 3 * plan.step_deadline);
        // The freeze is over, and somebody else holds.
        world.gates = vec![unanswered("board", Asked::Always)];
        world.run_for(SECOND);
        takes_over(&mut world);
        run_finding(&mut world, Outcome::Holds, plan.step_deadline.saturating_sub(3 * SECOND));
        assert_eq!(world.phase(), PhaseName::Warming);
        run_finding(&mut world, Outcome::Holds, 5 * SECOND);
        assert_eq!(world.phase(), PhaseName::Paused);
    }
}

/// Another edge leads for a moment, and says where this one left it.
fn follow_and_lead(world: &mut World) {
    let saved = world.rollout.saved(world.now());
    let mut another = World::new(automatic());
    std::mem::swap(&mut another.rollout, &mut world.rollout);
    world.rollout.step_down();
    world.rollout.follow(saved, world.now());
    world.rollout.lead(None, world.now());
}

#[test]
fn a_comparison_does_not_end_undecided_in_a_freeze() {
    let mut route = automatic();
    route.guard.promotion.max_duration = MINUTE;
    // So little that nothing is proven within it.
    route.guard.promotion.difference = 0.000_001;
    let Plan::Rollout(plan) = &mut route.plan else { panic!("a plan") };
    plan.step_deadline = Duration::from_hours(5);
    let mut world = gated(route, Asked::OfTheCalendar);
    run_finding(&mut world, Outcome::Passes, 35 * SECOND);
    assert_eq!(world.rollout.status(world.now()).step, Some(2), "{:?}", world.rollout.status(world.now()));
    run_finding(&mut world, Outcome::Holds, 3 * MINUTE);
    assert_eq!(world.rollout.summary().verdict.reason(), "deadline");
    assert_eq!(world.phase(), PhaseName::Shifting);
    run_finding(&mut world, Outcome::Passes, 55 * SECOND);
    assert_eq!(world.phase(), PhaseName::Shifting, "as long again after it");
    run_finding(&mut world, Outcome::Passes, 10 * SECOND);
    assert_eq!(world.phase(), PhaseName::Paused);
}

#[test]
fn a_forced_promotion_is_a_promotion() {
    let mut world = gated(automatic(), Asked::OfTheCalendar);
    find(&mut world, 0, Outcome::Holds);
    world.run_for(SECOND);
    world.order(OrderKind::ForcePromotion).unwrap();
    world.run_for(SECOND);
    assert!(decisions(&world).contains(&D::Promote));
}
