//! A scenario in virtual time: chance traffic, faults, and the edge's own decisions, thousands of times a minute.
//!
//! What decides is the code that the edge runs ([`pointsman_rollout`]); around it stands a model of the world, in ticks of
//! 100 ms: requests come as a Poisson process, each is assigned and answered by chance, its outcome becomes known at once,
//! or late where the version is slow or hangs, under the weight of the moment in which it was assigned. An endpoint that is
//! gone is found by the route's health checks; until then its requests are repeated at another one, and fail where there
//! is none. Not modelled: sticky users, mirrors, limits, several edges, the live Service, connections.
//!
//! The same scenario with the same seed gives the same trace, byte by byte, from the same program on the same machine;
//! another one may round a logarithm in another way.

mod books;
mod fleet;
mod peers;
mod pointsman;
mod policy;
mod promise;
mod shrink;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Guard, Route, Split, VersionId};
use pointsman_rollout::{Change, Decision, PhaseName, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use books::{Books, VersionBooks};
pub use policy::Chosen;
pub use shrink::smallest;

use crate::invariant::{Broken, Invariants, Moment};
use crate::memory::Memory;
use crate::scenario::{Event, Scenario, What};
use fleet::Fleet;
use policy::{Policy, Told};
use traffic::Traffic;

/// Who is slower than the scenario's own plan has this long.
const LONGEST_PLAN: Duration = Duration::from_hours(1);

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
    pub broken: Vec<Broken>,
}

/// Plays a scenario to its end, decided by `chosen`. What the scenario says must hold is judged only where Pointsman
/// decides.
pub fn play(scenario: &Scenario, seed: u64, chosen: Chosen) -> Played {
    let told = Vec::new();
    match chosen {
        Chosen::Pointsman => {
            let mut played = decided_by_pointsman(scenario, seed);
            played.broken.extend(promise::broken(scenario, &played));
            played
        }
        Chosen::PointsmanDefault => decided_by_pointsman(&with_default_proof(scenario), seed),
        Chosen::Argo => World::new(scenario, seed, peers::Argo::documented(scenario)).play(told),
        Chosen::ArgoPlan => {
            let scenario = Scenario { end: scenario.end.max(LONGEST_PLAN), ..scenario.clone() };
            World::new(&scenario, seed, peers::Argo::on_its_own_plan(&scenario)).play(told)
        }
        Chosen::ArgoQuick => World::new(scenario, seed, peers::Argo::quick(scenario)).play(told),
        Chosen::Flagger => World::new(scenario, seed, peers::Flagger::documented(scenario)).play(told),
    }
}

fn decided_by_pointsman(scenario: &Scenario, seed: u64) -> Played {
    let (policy, told) = pointsman::Edge::start(scenario);
    World::new(scenario, seed, policy).play(told)
}

/// The same with what a guard proves before a promotion if nobody says anything about it, and the time for that.
fn with_default_proof(scenario: &Scenario) -> Scenario {
    let mut route = Route::clone(&scenario.route);
    route.guard.promotion = Guard::default().promotion;
    Scenario { route: Arc::new(route), end: scenario.end.max(LONGEST_PLAN), ..scenario.clone() }
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
    memory: Memory,
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
            memory: Memory::new(&scenario.route),
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
        broken.extend(self.books.gap().map(|said| Broken { rule: "books", said }));
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
            self.invariants.quarantine(self.memory.barred());
        }
    }

    fn begin(&mut self, event: &Event) -> Vec<Told> {
        let now = Time::after_start(self.now);
        match &event.what {
            What::Order(kind) => {
                let told = self.policy.order(kind, now);
                if !told.is_empty() {
                    self.memory.obeyed(kind);
                }
                told
            }
            What::Edit(edit) => {
                self.memory.edited(&edit.route);
                self.policy.edit(&edit.route, now)
            }
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
        self.fleet.forget(self.now);
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
        self.memory.decided(change);
        self.invariants.quarantine(self.memory.barred());
        self.invariants.changed(self.now, change, self.memory.beginnings());
    }

    fn look(&mut self, split: &Split) {
        let stable: &VersionId = &self.scenario.route.stable;
        self.invariants.look(&Moment { at: self.now, split, ready: self.fleet.ready(), stable });
    }
}
