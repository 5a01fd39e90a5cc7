//! Stories of three edges; and that what must hold of them bites: worlds in which one rule is broken on purpose are caught.

use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{Selected, Wanted, plan};
use pointsman_rollout::{Change, Resume, Rollout};

use super::seat::Seat;
use super::*;
use crate::sim::{TICK, World};

const TEXT: &str = "
about: three edges
edges: 3
api_server: true
worlds: [sim]
route:
  stable: v1
  rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ], promotion: automatic, bake: 10s }
  guard: { promotion: { difference: 1%, ratio: 5, confidence: 80%, min_soak: 1s } }
versions: { v1: { endpoints: 2 }, v2: { endpoints: 2 } }
rate: 200
events: []
end: 5m
";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn scenario(events: &str) -> Scenario {
    Scenario::parse(&TEXT.replace("events: []", &format!("events: [ {events} ]")), "small").unwrap()
}

/// The rules that break in so many seconds, where something is bent before each tick.
fn breaks(scenario: &Scenario, for_seconds: u64, mut bend: impl FnMut(&mut Group)) -> Vec<&'static str> {
    let service = scenario.route.live_service.as_ref().unwrap();
    let mut world = World::new(scenario, 1, Group::start(scenario, service, 1));
    while world.now < seconds(for_seconds) {
        world.now += TICK;
        bend(&mut world.policy);
        world.tick();
    }
    let mut broken = world.invariants.into_broken();
    broken.extend(world.policy.at_end());
    broken.iter().map(|broken| broken.rule).collect()
}

/// Writes on the live Service as a leader of `term` would that selects `to`, whatever anybody decided.
fn write(group: &mut Group, term: u64, to: &str) {
    let to: VersionId = to.parse().unwrap();
    let shown = group.around.cluster.shown();
    let fence = Fence { term, holder: "somebody".to_owned() };
    let now = group.around.now;
    let leader = &group.members[0];
    let saved = leader.rollout.kept(leader.clock(now));
    // As if the Service were claimed by just that one.
    let mut observed = pointsman_kubernetes::Observed::clone(&shown.observed);
    observed.fence = pointsman_kubernetes::Found::Read(fence.clone());
    let selected = Some(Selected { key: "version", version: &to });
    let wanted = Wanted { selected, cut: 999, ..Wanted::of(&leader.route.name, &fence, &saved) };
    let write = Write {
        document: plan(&observed, &wanted).unwrap().unwrap(),
        fence: fence.clone(),
        edge: 0,
        by: fence.holder.clone(),
        lands: now,
        is_awaited: false,
        is_claim: false,
        on_foreign: None,
        main: leader.main_version(),
        barred: leader.barred(),
        knew: leader.knows.clone(),
        had_ready: group.around.witness.had_ready_of_late(now),
    };
    group.around.land(&write);
}

#[test]
fn three_edges_promote_as_one_and_agree_at_rest() {
    let played = crate::sim::play(&scenario(""), 1, crate::sim::Chosen::Pointsman);
    assert_eq!((played.ends, played.broken), (Some(PhaseName::Steady), Vec::new()), "{:?}", played.trace);
    assert!(played.promoted.is_some_and(|at| at < seconds(70)), "{:?}", played.promoted);
}

#[test]
fn a_write_of_a_leader_that_was_replaced_is_found_if_it_lands() {
    let mut is_done = false;
    let rules = breaks(&scenario(""), 30, |group| {
        if group.around.now == seconds(20) && !is_done {
            is_done = true;
            write(group, 0, "v1");
        }
    });
    assert!(rules.contains(&"a stale write"), "{rules:?}");
}

#[test]
fn a_selector_that_moves_before_the_traffic_is_found() {
    let rules = breaks(&scenario(""), 15, |group| {
        if group.around.now == seconds(12) {
            write(group, 9, "v2");
        }
    });
    assert!(rules.contains(&"traffic before the selector"), "{rules:?}");
}

#[test]
fn a_service_that_selects_who_was_taken_back_or_has_no_endpoint_is_found() {
    let scenario = scenario("{ at: 10s, version: v2, errors: 100% }, { at: 15s, version: v2, down: 2 }");
    let rules = breaks(&scenario, 60, |group| {
        if group.around.now == seconds(50) {
            write(group, 9, "v2");
        }
    });
    for rule in ["quarantine", "a Service with endpoints"] {
        assert!(rules.contains(&rule), "{rule}: {rules:?}");
    }
}

#[test]
fn an_edge_that_gives_a_version_traffic_which_it_knows_to_be_taken_back_is_found() {
    let scenario = scenario("{ at: 10s, version: v2, errors: 100% }");
    let rules = breaks(&scenario, 40, |group| {
        // In most of these ticks no leader says its word.
        if (seconds(30)..seconds(31)).contains(&group.around.now) {
            let member = &mut group.members[1];
            let clock = member.clock(group.around.now);
            member.rollout = Rollout::start(Arc::clone(&member.route), clock).0;
        }
    });
    assert!(rules.contains(&"quarantine"), "{rules:?}");
}

#[test]
fn an_edge_that_goes_back_to_what_it_knew_before_is_found() {
    let rules = breaks(&scenario(""), 40, |group| {
        if group.around.now == seconds(30) {
            let member = &mut group.members[1];
            let clock = member.clock(group.around.now);
            member.rollout = Rollout::follower(Arc::clone(&member.route), None, clock);
        }
    });
    assert!(rules.contains(&"no edge goes back"), "{rules:?}");
}

#[test]
fn an_edge_that_decides_without_the_lease_is_found() {
    let rules = breaks(&scenario(""), 60, |group| {
        // One that follows goes on as if it led.
        let follower = group.members.iter().position(|member| member.is_up() && !member.asks());
        if let Some(member) = follower.and_then(|edge| group.members.get_mut(edge)) {
            let clock = member.clock(group.around.now);
            let (_, changes) = Rollout::start(Arc::clone(&member.route), clock);
            let step = changes.into_iter().last().map(|change| Change { decision: Decision::Step, ..change });
            member.note(step.as_slice(), &mut group.around);
        }
    });
    assert!(rules.contains(&"who decides has the Lease"), "{rules:?}");
}

#[test]
fn a_pause_that_is_forgotten_with_its_leader_is_found() {
    let paused = scenario("{ at: 10s, order: pause }, { at: 20s, for: 3s, edge: killed, who: leader }");
    assert_eq!(breaks(&paused, 150, |_| {}), Vec::<&str>::new());
    let rules = breaks(&paused, 150, |group| {
        if group.around.now == seconds(40) {
            let resume = OrderKind::Resume(Resume::GoOn);
            let order = Order { kind: resume, actor: "nobody".to_owned(), reason: String::new() };
            for member in group.members.iter_mut().filter(|member| member.leads()) {
                let clock = member.clock(group.around.now);
                let changes = member.rollout.step(Input::Order(&order), clock).unwrap();
                member.note(&changes, &mut group.around);
            }
        }
    });
    assert!(rules.contains(&"an order that was kept"), "{rules:?}");
}

#[test]
fn a_route_that_nobody_leads_is_found() {
    let rules = breaks(&scenario(""), 60, |group| {
        for member in &mut group.members {
            member.seat = Seat::new(&member.name, Duration::MAX);
        }
    });
    assert!(rules.contains(&"a leader in time"), "{rules:?}");
}

#[test]
fn an_edge_that_stands_elsewhere_at_rest_is_found() {
    let scenario = scenario("");
    let service = scenario.route.live_service.as_ref().unwrap();
    let mut world = World::new(&scenario, 1, Group::start(&scenario, service, 1));
    while world.now < seconds(50) {
        world.now += TICK;
        world.tick();
    }
    let now = world.policy.around.now;
    let member = &mut world.policy.members[2];
    member.rollout = Rollout::follower(Arc::clone(&member.route), None, member.clock(now));
    let rules: Vec<_> = world.policy.at_end().iter().map(|broken| broken.rule).collect();
    assert_eq!(rules, ["at rest all agree"]);
}

#[test]
fn a_second_promotion_of_the_same_rollout_is_found() {
    let rules = breaks(&scenario(""), 40, |group| {
        for (second, term, to) in [(20, 5, "v2"), (22, 6, "v1"), (24, 7, "v2")] {
            if group.around.now == seconds(second) {
                write(group, term, to);
            }
        }
    });
    assert!(rules.contains(&"one promotion"), "{rules:?}");
}

#[test]
fn a_trip_of_an_edge_that_reaches_nobody_is_heard_when_it_is_back() {
    let scenario =
        scenario("{ at: 8s, for: 20s, edge: cut_off, who: follower }, { at: 10s, version: v2, errors: 100% }");
    let service = scenario.route.live_service.as_ref().unwrap();
    let mut world = World::new(&scenario, 1, Group::start(&scenario, service, 1));
    while world.now < seconds(60) {
        world.now += TICK;
        world.tick();
    }
    let back: Vec<&String> = world.trace.iter().filter(|line| line.contains("taken back")).collect();
    assert!(back.len() >= 2, "{:?}", world.trace);
    assert!(world.policy.members.iter().all(|member| member.phase() == PhaseName::RolledBack));
    assert_eq!(world.policy.at_end().len(), 0);
}

#[test]
fn clocks_that_show_another_time_of_day_change_nothing() {
    let trace = |events: &str| crate::sim::play(&scenario(events), 3, crate::sim::Chosen::Pointsman).trace;
    let kill = "{ at: 30s, for: 5s, edge: killed, who: leader }";
    let clocks = "{ at: 2s, clock: 10m, who: leader }, { at: 3s, clock: -60m, who: follower }";
    assert_eq!(trace(kill), trace(&format!("{clocks}, {kill}")));
}

#[test]
fn the_same_seed_is_the_same_story() {
    let scenario = scenario("{ at: 5s, for: 20s, api: late }, { at: 10s, for: 5s, edge: killed, who: leader }");
    let play = |seed| crate::sim::play(&scenario, seed, crate::sim::Chosen::Pointsman);
    let (one, again) = (play(7), play(7));
    assert_eq!((one.trace, one.books), (again.trace, again.books));
}
