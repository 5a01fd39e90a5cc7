//! A scenario in virtual time: chance traffic, faults, and the edge's own decisions, thousands of times a minute.
//!
//! What decides is the code that the edge runs ([`pointsman_rollout`]); around it stands a model of the world, in ticks of
//! 100 ms: requests come as a Poisson process, each is assigned and answered by chance, its outcome becomes known at once,
//! or late where the version is slow or hangs, under the weight of the moment in which it was assigned. An endpoint that is
//! gone is found by the route's health checks; until then its requests are repeated at another one, and fail where there
//! is none. Not modelled: sticky users, mirrors, limits, several edges, the live Service, connections.
//!
//! The same scenario with the same seed gives the same trace, byte by byte, on every machine.

mod books;
mod fleet;
mod peers;
mod pointsman;
mod policy;
mod shrink;
mod traffic;

use std::time::Duration;

use pointsman_config::{Split, VersionId};
use pointsman_rollout::{Change, Decision, PhaseName, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use books::{Books, VersionBooks};
pub use policy::Chosen;
pub use shrink::smallest;

use crate::invariant::{Invariants, Moment};
use crate::scenario::{Event, Scenario, What};
use fleet::Fleet;
use policy::{Policy, Told};
use traffic::Traffic;

/// One tick of the edge.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What came of one scenario with one seed.
#[derive(Debug, Clone)]
pub struct Played {
    /// The seed.
    pub seed: u64,
    /// The phase at the end; none for a peer, which has no phases.
    pub ends: Option<PhaseName>,
    /// When the canary was first taken back.
    pub taken_back: Option<Duration>,
    /// When it was first given all traffic for good.
    pub promoted: Option<Duration>,
    /// Every request and what came of it.
    pub books: Books,
    /// Every decision, a line each.
    pub trace: Vec<String>,
    /// What did not hold, in the order in which it was found.
    pub broken: Vec<String>,
}

/// Plays a scenario to its end, decided by `chosen`. What the scenario says must hold is judged only where Pointsman
/// decides.
pub fn play(scenario: &Scenario, seed: u64, chosen: Chosen) -> Played {
    match chosen {
        Chosen::Pointsman => {
            let (policy, told) = pointsman::Edge::start(scenario);
            let mut played = World::new(scenario, seed, policy).play(told);
            played.broken.extend(broken_promises(scenario, &played));
            played
        }
        Chosen::Argo => World::new(scenario, seed, peers::Argo::documented(scenario)).play(Vec::new()),
        Chosen::ArgoQuick => World::new(scenario, seed, peers::Argo::quick(scenario)).play(Vec::new()),
        Chosen::Flagger => World::new(scenario, seed, peers::Flagger::documented(scenario)).play(Vec::new()),
    }
}

/// What the scenario says must hold, and does not.
fn broken_promises(scenario: &Scenario, played: &Played) -> Vec<String> {
    let (holds, canary) = (&scenario.holds, scenario.canary());
    let mut broken = Vec::new();
    if let (Some(wanted), Some(ends)) = (holds.ends, played.ends)
        && wanted != ends
    {
        broken.push(format!("it ends {ends}, and should end {wanted}"));
    }
    if let Some(at) = played.taken_back.filter(|_| holds.never_taken_back) {
        broken
            .push(format!("the canary was taken back after {:.1} s, and nothing was wrong with it", at.as_secs_f64()));
    }
    if let Some(limit) = holds.taken_back_within {
        let harm = canary.and_then(|canary| scenario.first_harm(canary)).unwrap_or_default();
        let took = played.taken_back.map(|at| at.saturating_sub(harm));
        if took.is_none_or(|took| took > limit) {
            broken.push(format!("the canary was to be taken back within {limit:?}: {}", said(took)));
        }
    }
    if let Some(limit) = holds.promoted_within
        && played.promoted.is_none_or(|at| at > limit)
    {
        broken.push(format!("the canary was to be promoted within {limit:?}: {}", said(played.promoted)));
    }
    broken.extend(bad_books(scenario, &played.books));
    broken
}

/// What users saw, and should not have seen.
fn bad_books(scenario: &Scenario, books: &Books) -> Vec<String> {
    let (holds, canary) = (&scenario.holds, scenario.canary());
    let mut broken = Vec::new();
    let bad = canary.map_or(0, |canary| books.of(canary).bad);
    if let Some(limit) = holds.bad_answers_at_most.filter(|limit| bad > *limit) {
        broken.push(format!("the canary gave {bad} bad answers, and should give {limit} at most"));
    }
    let others: u64 =
        books.versions.iter().filter(|(version, _)| Some(*version) != canary).map(|(_, own)| own.bad).sum();
    if let Some(limit) = holds.other_bad_answers_at_most.filter(|limit| others > *limit) {
        broken.push(format!("{others} bad answers came from others than the canary, and {limit} at most should"));
    }
    if let Some(limit) = holds.availability_at_least.filter(|limit| books.availability() < *limit) {
        broken.push(format!("{:.4} of all requests were answered well, and {limit} should be", books.availability()));
    }
    broken
}

fn said(took: Option<Duration>) -> String {
    took.map_or_else(|| "it never was".to_owned(), |took| format!("it took {:.1} s", took.as_secs_f64()))
}

/// The world around one policy.
struct World<'a, P> {
    scenario: &'a Scenario,
    seed: u64,
    policy: P,
    now: Duration,
    /// How many of the scenario's events have begun.
    begun: usize,
    /// When the edge starts again, while it is down.
    down_until: Option<Duration>,
    fleet: Fleet,
    traffic: Traffic,
    books: Books,
    invariants: Invariants,
    trace: Vec<String>,
    taken_back: Option<Duration>,
    promoted: Option<Duration>,
}

impl<'a, P: Policy> World<'a, P> {
    fn new(scenario: &'a Scenario, seed: u64, policy: P) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(seed);
        Self {
            scenario,
            seed,
            policy,
            now: Duration::ZERO,
            begun: 0,
            down_until: None,
            fleet: Fleet::new(scenario),
            traffic: Traffic::new(scenario, chance),
            books: Books::default(),
            invariants: Invariants::default(),
            trace: Vec::new(),
            taken_back: None,
            promoted: None,
        }
    }

    fn play(mut self, told: Vec<Told>) -> Played {
        self.note(told);
        while self.now < self.scenario.end {
            self.now += TICK;
            self.tick();
        }
        self.books.under_way = self.traffic.under_way();
        let mut broken = self.invariants.into_broken();
        broken.extend(self.books.gap());
        Played {
            seed: self.seed,
            ends: self.policy.phase(),
            taken_back: self.taken_back,
            promoted: self.promoted,
            books: self.books,
            trace: self.trace,
            broken,
        }
    }

    fn tick(&mut self) {
        self.begin_events();
        if self.down_until.is_some_and(|until| self.now < until) {
            self.books.unserved += self.traffic.arrivals(self.now);
            return;
        }
        if self.down_until.take().is_some() {
            self.start_again();
        }
        self.fleet.check(self.now);
        let applied = self.policy.split(self.fleet.ready());
        self.traffic.serve(&applied, self.policy.trial(), self.now, &self.fleet);
        let rows = self.traffic.known(self.now, &mut self.books);
        let told = self.policy.tick(&rows, &applied, self.fleet.ready(), Time::after_start(self.now));
        self.note(told);
        let split = self.policy.split(self.fleet.ready());
        self.look(&split);
    }

    /// Begins what is due: orders and edits at once; faults are in force by their own times.
    fn begin_events(&mut self) {
        while let Some(event) = self.scenario.events.get(self.begun).filter(|event| event.at <= self.now) {
            self.begun += 1;
            let told = self.begin(event);
            self.note(told);
        }
    }

    fn begin(&mut self, event: &Event) -> Vec<Told> {
        let now = Time::after_start(self.now);
        match &event.what {
            What::Order(kind) => self.policy.order(kind, now),
            What::Edit(edit) => self.policy.edit(&edit.route, now),
            What::Edge { .. } => {
                self.policy.kill(now);
                self.books.cut_off += self.traffic.cut_off();
                self.down_until = event.until;
                Vec::new()
            }
            What::Fault(_)
            | What::Down(_)
            | What::Traffic(_)
            | What::State(_)
            | What::Config(_)
            | What::Clients(_)
            | What::Names
            | What::Api(_) => Vec::new(),
        }
    }

    fn start_again(&mut self) {
        let told = self.policy.start_again(Time::after_start(self.now));
        if let Some(broken) = self.policy.lost_at_restart() {
            self.invariants.found(self.now, &broken);
        }
        self.note(told);
    }

    /// Writes down what was decided.
    fn note(&mut self, told: Vec<Told>) {
        for Told { decision, sentence, change } in told {
            self.trace.push(format!("{:>9.1} s  {sentence}", self.now.as_secs_f64()));
            match decision {
                Decision::Rollback => self.taken_back = self.taken_back.or(Some(self.now)),
                Decision::Promote => self.promoted = self.promoted.or(Some(self.now)),
                Decision::Start
                | Decision::Step
                | Decision::Pause
                | Decision::Hold
                | Decision::Resume
                | Decision::Flip
                | Decision::Bake
                | Decision::Finish
                | Decision::RollbackDone
                | Decision::Alert
                | Decision::SetWeights
                | Decision::Retry
                | Decision::Edit => {}
            }
            if let Some(change) = change {
                self.look_at(&change);
            }
        }
    }

    fn look_at(&mut self, change: &Change) {
        self.invariants.changed(self.now, change, self.policy.trial());
        self.invariants.quarantine(self.policy.quarantined(Time::after_start(self.now)));
    }

    fn look(&mut self, split: &Split) {
        let stable: &VersionId = &self.scenario.route.stable;
        self.invariants.look(&Moment { at: self.now, split, ready: self.fleet.ready(), stable });
    }
}
