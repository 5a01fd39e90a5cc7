//! A thousand random histories of three edges, one live Service and an API server that fails, in virtual time: the real
//! rules of `rollout`, of the Lease and of the patches over the real store of the fake. What must never be is checked at
//! every write that lands, against what the test itself remembers.

mod edge;
mod world;

use world::{Counts, World};

const HISTORIES: u64 = 1_000;
/// Ticks of 100 ms with everything that can go wrong, and then without.
const WILD: u64 = 350;
const CALM: u64 = 250;
/// As long as a leader waits for an edit at most that may be on its way, and some.
const EDIT_TRAVELS: u64 = 1_400;

#[test]
fn in_a_thousand_histories_the_service_is_never_wrong_and_always_comes_to_rest() {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let seen = std::thread::scope(|scope| {
        let work = |worker| move || run((worker..HISTORIES).step_by(workers));
        let all: Vec<_> = (0..u64::try_from(workers).unwrap()).map(|worker| scope.spawn(work(worker))).collect();
        all.into_iter().fold(Counts::default(), |seen, worker| seen.and(&worker.join().unwrap()))
    });
    eprintln!("{seen:?}");
    for (what, count, least) in [
        ("flips", seen.flips, 300),
        ("flips taken back", seen.flips_back, 50),
        ("changes of leader", seen.claims, 1_500),
        ("writes that landed late", seen.landed_late, 15),
        ("late writes that did not land", seen.refused_late, 50),
        ("pauses for somebody else's change", seen.foreign_pauses, 100),
        ("Services that were empty after a flip", seen.emptied, 10),
        ("edges that tripped alone", seen.trips, 10),
        ("bakes that came to their end", seen.finished, 50),
        ("retries", seen.retries, 50),
        ("steps", seen.steps, 300),
        ("rollouts that an operator paused", seen.orders_to_pause, 50),
        ("rollbacks that a new leader remembered", seen.remembered, 1),
        ("edits that reached an edge", seen.edits, 1_000),
        ("leaders without the newest file", seen.let_alone, 10),
    ] {
        assert!(count >= least, "only {count} {what}");
    }
}

/// What these histories came to.
fn run(seeds: impl Iterator<Item = u64>) -> Counts {
    seeds.fold(Counts::default(), |seen, seed| {
        let mut world = World::new(seed);
        for _ in 0..WILD {
            world.trouble();
            world.tick();
        }
        world.heal();
        for _ in 0..CALM {
            world.answer();
            world.tick();
        }
        let mut left = if world.lets_alone() { EDIT_TRAVELS } else { 0 };
        while left > 0 {
            world.answer();
            world.tick();
            // What it begins then comes to rest as well.
            left = if world.lets_alone() { left - 1 } else { left.min(CALM) - 1 };
        }
        world.check_at_rest();
        seen.and(&world.counts)
    })
}
