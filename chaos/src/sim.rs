//! A scenario in virtual time: chance traffic, faults, and the edge's own decisions, thousands of times a minute.
//!
//! What decides is the code that the edge runs ([`pointsman_rollout`]); around it stands a model of the world, in ticks of
//! 100 ms: requests come as a Poisson process, each is assigned and answered by chance, its outcome becomes known at once,
//! or late where the version is slow or hangs, under the weight of the moment in which it was assigned. An endpoint that is
//! gone is found by the route's health checks; until then its requests are repeated at another one, and fail where there
//! is none. Several edges share an API server ([`cluster`]), and decide as one ([`group`]). Not modelled: sticky users, mirrors,
//! limits, connections.
//!
//! The same scenario with the same seed gives the same trace, byte by byte, from the same program on the same machine;
//! another one may round a logarithm in another way.

mod books;
mod checks;
mod cluster;
mod fleet;
mod group;
mod latency;
mod peers;
mod pointsman;
mod policy;
mod promise;
mod shrink;
mod story;
mod traffic;
mod users;

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Guard, Route, Split, VersionId};
use pointsman_rollout::{Change, Decision, Observed, PhaseName, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use books::{Books, VersionBooks};
pub use policy::Chosen;
pub use shrink::smallest;

use crate::invariant::{Broken, Invariants, Moment};
use crate::memory::{KEPT_ORDER, LastOrder, Memory};
use crate::scenario::{EdgeFault, Event, Scenario, StateFault, What, Who};
use checks::Checks;
use fleet::Fleet;
use group::Group;
use policy::{Policy, ReadyMap, Seen, Told};
use story::Story;
use traffic::{Serving, Traffic};

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
    /// When the first thing went wrong with the canary alone.
    pub harmed: Option<Duration>,
    /// When the canary was first taken back.
    pub taken_back: Option<Duration>,
    /// When it was first given all traffic for good.
    pub promoted: Option<Duration>,
    /// When it was over; who is slower than the scenario's own plan has longer.
    pub end: Duration,
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
    if let Some(service) = scenario.route.live_service.as_ref().filter(|_| scenario.api_server) {
        return World::new(scenario, seed, Group::start(scenario, service, seed)).play(Vec::new());
    }
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
    story: Story,
    edges: Vec<Place>,
    fleet: Fleet,
    traffic: Traffic,
    books: Books,
    invariants: Invariants,
    memory: Memory,
    last_order: LastOrder,
    trace: Vec<String>,
    harmed: Option<Duration>,
    taken_back: Option<Duration>,
    promoted: Option<Duration>,
}

/// What an edge takes for ready, and how it divides requests.
struct View {
    ready: ReadyMap,
    applied: Split,
}

/// What each edge sees.
fn seen<'a>(views: &'a [Option<View>], rows: &'a [Vec<Observed>]) -> Vec<Option<Seen<'a>>> {
    let of = |(view, rows): (&'a Option<View>, &'a Vec<Observed>)| {
        view.as_ref().map(|View { ready, applied }| Seen { rows, applied, ready })
    };
    views.iter().zip(rows).map(of).collect()
}

/// Where an edge runs.
struct Place {
    checks: Checks,
    /// Since it was killed: when it starts again, if it does, and what became of its state.
    down: Option<(Option<Duration>, Option<StateFault>)>,
    /// While it stands still: since when, and until when.
    frozen: Option<(Duration, Option<Duration>)>,
}

impl Place {
    /// Whether anything happens there.
    fn runs(&self) -> bool {
        self.down.is_none() && self.frozen.is_none()
    }
}

impl<'a, P: Policy> World<'a, P> {
    fn new(scenario: &'a Scenario, seed: u64, policy: P) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(seed);
        let fleet = Fleet::new(scenario);
        let place = |_| Place { checks: Checks::new(&scenario.route, &fleet), down: None, frozen: None };
        let is_bad = |canary: &&VersionId| scenario.is_bad_from_the_start(canary);
        Self {
            scenario,
            seed,
            now: Duration::ZERO,
            story: Story::new(&scenario.events),
            edges: (0..policy.edges()).map(place).collect(),
            fleet,
            traffic: Traffic::new(scenario, chance),
            books: Books::default(),
            invariants: Invariants::default(),
            memory: Memory::new(&scenario.route),
            last_order: LastOrder::default(),
            trace: Vec::new(),
            harmed: scenario.canary().filter(is_bad).map(|_| Duration::ZERO),
            taken_back: None,
            promoted: None,
            policy,
        }
    }

    fn play(mut self, told: Vec<Told>) -> Played {
        self.note(told);
        while self.now < self.scenario.end {
            self.now += TICK;
            self.tick();
        }
        self.books.under_way = self.traffic.under_way();
        self.books.unserved += self.traffic.unread();
        // One that is alone keeps each order before it answers; several are held to it by what they have in common.
        if let Some(what) = self.policy.phase().and_then(|phase| self.last_order.lost(phase)) {
            self.invariants.found_as(KEPT_ORDER, self.now, &what);
        }
        let mut broken = self.invariants.into_broken();
        broken.extend(self.policy.at_end());
        broken.extend(self.books.gap().map(|said| Broken { rule: "books", said }));
        Played {
            seed: self.seed,
            ends: self.policy.phase(),
            harmed: self.harmed,
            taken_back: self.taken_back,
            promoted: self.promoted,
            end: self.scenario.end,
            books: self.books,
            trace: self.trace,
            broken,
        }
    }

    fn tick(&mut self) {
        self.begin_events();
        self.start_again();
        self.go_on();
        self.fleet.move_on(self.now);
        for place in self.edges.iter_mut().filter(|place| place.runs()) {
            place.checks.look(&self.fleet, self.now);
        }
        self.policy.move_on(&self.fleet, self.now);
        let views = self.views();
        self.serve(&views);
        let rows = self.rows();
        let told = self.policy.tick(&seen(&views, &rows), Time::after_start(self.now));
        self.note(told);
        self.look();
    }

    /// What each edge takes for ready that runs, and how it divides requests.
    fn views(&self) -> Vec<Option<View>> {
        let view = |(edge, place): (usize, &Place)| {
            let ready = self.policy.ready(edge, place.checks.ready());
            place.runs().then(|| View { applied: self.policy.split(edge, &ready), ready: ready.into_owned() })
        };
        self.edges.iter().enumerate().map(view).collect()
    }

    /// The requests of this tick come; where no edge takes any, they come in vain.
    fn serve(&mut self, views: &[Option<View>]) {
        let mut serving = Vec::with_capacity(self.edges.len());
        for (edge, (place, view)) in self.edges.iter().zip(views).enumerate() {
            let Some(View { applied, .. }) = view.as_ref().filter(|_| self.policy.takes_requests(edge)) else {
                continue;
            };
            serving.push(Serving { edge, applied, trial: self.policy.trial(edge), checks: &place.checks });
        }
        let is_frozen = |(_, place): &(usize, &Place)| place.down.is_none() && place.frozen.is_some();
        let frozen: Vec<usize> = self.edges.iter().enumerate().filter(is_frozen).map(|(edge, _)| edge).collect();
        if serving.is_empty() && frozen.is_empty() {
            self.books.unserved += self.traffic.arrivals(self.now);
        } else {
            self.traffic.serve((&serving, &frozen), self.now, &self.fleet);
        }
    }

    /// What became known at each edge.
    fn rows(&mut self) -> Vec<Vec<Observed>> {
        let mut rows = vec![Vec::new(); self.edges.len()];
        for (edge, observed) in self.traffic.known(self.now, &mut self.books) {
            if let Some(rows) = rows.get_mut(edge) {
                rows.push(observed);
            }
        }
        rows
    }

    /// Begins what is due: orders and edits at once; faults are in force by their own times.
    fn begin_events(&mut self) {
        while let Some(event) = self.story.next(self.now, self.policy.phase()) {
            self.note_harm(&event);
            let told = self.begin(&event);
            self.note(told);
            self.invariants.quarantine(self.memory.barred());
        }
    }

    fn note_harm(&mut self, begun: &Event) {
        // What waited for a phase begins at another time than it is written with.
        let as_written = |event: &&Event| event.text == begun.text && event.what == begun.what;
        let written = self.scenario.events.iter().find(as_written).unwrap_or(begun);
        let is_harm = self.scenario.canary().is_some_and(|canary| self.scenario.is_harm(written, canary));
        if is_harm {
            self.harmed = self.harmed.or(Some(begun.at));
        }
    }

    fn begin(&mut self, event: &Event) -> Vec<Told> {
        let now = Time::after_start(self.now);
        match &event.what {
            What::Order(kind, who) => {
                let told = self.policy.order(kind, *who, now);
                if !told.is_empty() {
                    self.memory.obeyed(kind);
                    self.last_order.obeyed(kind);
                }
                return told;
            }
            What::Edit(edit) => {
                self.memory.edited(&edit.route);
                self.last_order.forget();
                return self.policy.edit(edit, now);
            }
            What::Edge { fault: EdgeFault::Killed, who, state } => self.kill(*who, *state, event.until),
            What::Edge { fault: EdgeFault::Frozen, who, .. } => self.freeze(*who, event.until),
            What::Fault(_) | What::Down(_) => self.fleet.begin(event),
            What::Traffic(_) => self.traffic.begin(event),
            What::Edge { .. } | What::Api(_) => self.policy.trouble(event),
            What::State(_) | What::Config(_) | What::Clients(_) | What::Names => {}
        }
        Vec::new()
    }

    fn kill(&mut self, who: Who, state: Option<StateFault>, until: Option<Duration>) {
        for edge in self.policy.who(who) {
            let Some(place) = self.edges.get_mut(edge).filter(|place| place.down.is_none()) else { continue };
            (place.down, place.frozen) = (Some((until, state)), None);
            self.policy.kill(edge, state, Time::after_start(self.now));
            self.books.cut_off += self.traffic.cut_off(edge);
            self.books.unserved += self.traffic.give_up(edge);
        }
    }

    /// Nothing happens at an edge until it goes on, and nobody is told so: clients wait for it.
    fn freeze(&mut self, who: Who, until: Option<Duration>) {
        for edge in self.policy.who(who) {
            let Some(place) = self.edges.get_mut(edge).filter(|place| place.runs()) else { continue };
            place.frozen = Some((self.now, until));
            self.policy.freeze(edge);
            self.traffic.freeze(edge);
        }
    }

    /// Those go on whose time has come: what was under way there has ended meanwhile.
    fn go_on(&mut self) {
        for edge in 0..self.edges.len() {
            let Some(place) = self.edges.get_mut(edge) else { continue };
            let is_over = |(_, until): &mut (Duration, Option<Duration>)| until.is_some_and(|until| self.now >= until);
            if let Some((since, _)) = place.frozen.take_if(is_over) {
                let told = self.policy.go_on(edge, self.now.saturating_sub(since), Time::after_start(self.now));
                self.note(told);
                self.traffic.go_on(edge, self.now, &mut self.books);
            }
        }
    }

    /// Those start whose time has come.
    fn start_again(&mut self) {
        for edge in 0..self.edges.len() {
            let Some(place) = self.edges.get_mut(edge) else { continue };
            let is_over = |(until, _): &mut (Option<Duration>, _)| until.is_none_or(|until| self.now >= until);
            if let Some((_, state)) = place.down.take_if(is_over) {
                place.checks.forget(self.now);
                self.start(edge, state);
            }
        }
    }

    fn start(&mut self, edge: usize, state: Option<StateFault>) {
        if state.is_some() {
            // Nobody knows any more what was decided.
            self.memory.forget();
            self.last_order.forget();
            self.invariants.begin_anew();
        }
        let told = self.policy.start_again(edge, Time::after_start(self.now));
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
                Some(Decision::Rollback) => self.taken_back = self.taken_back.or(Some(self.now)),
                Some(Decision::Promote) => self.promoted = self.promoted.or(Some(self.now)),
                Some(
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
                    | Decision::Edit,
                )
                | None => {}
            }
            if let Some(change) = change {
                self.look_at(&change);
            }
        }
    }

    fn look_at(&mut self, change: &Change) {
        self.memory.decided(change);
        if let Some(what) = self.last_order.decided(change.decision) {
            self.invariants.found_as(KEPT_ORDER, self.now, &what);
        }
        self.invariants.quarantine(self.memory.barred());
        self.invariants.changed(self.now, change, self.memory.beginnings());
    }

    /// Holds what each edge does now against the invariants.
    fn look(&mut self) {
        let stable: &VersionId = &self.scenario.route.stable;
        for (edge, place) in self.edges.iter().enumerate().filter(|(_, place)| place.runs()) {
            let ready = self.policy.ready(edge, place.checks.ready());
            let split = self.policy.split(edge, &ready);
            if let Some(barred) = self.policy.barred(edge) {
                self.invariants.quarantine(barred);
            }
            self.invariants.look(&Moment { at: self.now, split: &split, ready: &ready, stable });
        }
    }
}
