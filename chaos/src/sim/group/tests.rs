//! Stories of three edges.

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

#[test]
fn three_edges_promote_as_one_and_agree_at_rest() {
    let played = crate::sim::play(&scenario(""), 1, crate::sim::Chosen::Pointsman);
    assert_eq!((played.ends, played.broken), (Some(PhaseName::Steady), Vec::new()), "{:?}", played.trace);
    assert!(played.promoted.is_some_and(|at| at < seconds(70)), "{:?}", played.promoted);
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
