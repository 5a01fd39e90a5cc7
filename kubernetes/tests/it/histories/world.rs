//! Everything around the edges: the store, the Lease, pods that come and go, people with `kubectl`, and writes on their
//! way. At every write that lands it is checked that it was right to be sent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pointsman_chaos::fakes::api_server::{Key, Part, Patch, Resource, Store, Writer, slice_changes};
use pointsman_config::{Split, VersionId};
use pointsman_kubernetes::annotation::{Fence, STATE};
use pointsman_kubernetes::{Document, FIELD_MANAGER, Move, Observed, Obstacle, OnForeign, Record, claim, plan};
use pointsman_rollout::{
    Cause, Change, Decision, Input, Observed as Rows, Order, OrderKind, PhaseName, Resume, Seen, Time, WayBack,
};
use serde_json::{Value, json};

use super::edge::{Edge, Knowledge, NAMESPACE, Shown, build_of, lease_times, version};

const TICK: Duration = Duration::from_millis(100);
/// Pods of each version.
const PODS: usize = 3;
/// A picture of endpoints is no older than this many ticks where its edge hears of the API server.
const LAG: u64 = 15;

/// What the histories came to.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub flips: u64,
    pub flips_back: u64,
    pub claims: u64,
    pub landed_late: u64,
    pub refused_late: u64,
    pub foreign_pauses: u64,
    pub emptied: u64,
    pub trips: u64,
    pub finished: u64,
    pub retries: u64,
    pub steps: u64,
    pub orders_to_pause: u64,
    pub remembered: u64,
    pub edits: u64,
    pub let_alone: u64,
}

impl Counts {
    pub fn and(self, other: &Self) -> Self {
        Self {
            flips: self.flips + other.flips,
            flips_back: self.flips_back + other.flips_back,
            claims: self.claims + other.claims,
            landed_late: self.landed_late + other.landed_late,
            refused_late: self.refused_late + other.refused_late,
            foreign_pauses: self.foreign_pauses + other.foreign_pauses,
            emptied: self.emptied + other.emptied,
            trips: self.trips + other.trips,
            finished: self.finished + other.finished,
            retries: self.retries + other.retries,
            steps: self.steps + other.steps,
            orders_to_pause: self.orders_to_pause + other.orders_to_pause,
            remembered: self.remembered + other.remembered,
            edits: self.edits + other.edits,
            let_alone: self.let_alone + other.let_alone,
        }
    }
}

/// A write on its way, and what was true when it was sent.
struct Write {
    document: Document,
    fence: Fence,
    lands: u64,
    is_late: bool,
    /// What its sender was to do about somebody else's change, where it saw one.
    on_foreign: Option<OnForeign>,
    /// Who had the sender's requests.
    main: VersionId,
    /// Which build of v2 the sender's file named, and what it knew of each.
    build: u32,
    knew: Knowledge,
    /// Whether that is written down with it; a claim keeps what stands there.
    is_told: bool,
    /// Whether v1 and v2 had ready endpoints, as of the oldest picture that the sender could have.
    had_ready: [bool; 2],
}

pub struct World {
    seed: u64,
    dice: u64,
    tick: u64,
    store: Store,
    /// What the store shows, while it is as it was.
    shown: Option<Shown>,
    /// Whether all slices are as pods and selectors are.
    are_slices_right: bool,
    /// How often the Service, and the slices, were written.
    written: (u64, u64),
    lease: Option<Record>,
    lease_writes: u64,
    edges: Vec<Edge>,
    under_way: Vec<Write>,
    pods_ready: [[bool; PODS]; 2],
    /// The last tick at which each version had a ready pod.
    last_ready: [u64; 2],
    is_broken: bool,
    /// The largest term that has landed.
    term: u64,
    /// How often the state of each build came to name v2.
    promotions: BTreeMap<u32, u64>,
    /// The build of v2 that the newest file names; an edit reaches edges one after the other.
    newest: u32,
    /// Whether a leader decided to flip, with all edges there.
    may_select_v2: bool,
    /// What stands on the Service of v2.
    service_knows: Knowledge,
    pub counts: Counts,
    /// What happened, to be read where something is wrong.
    story: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history {}:\n{}", self.seed, self.story.join("\n"));
        }
    }
}

fn live() -> Key {
    Key::new(Resource::Service, NAMESPACE, "live")
}

fn pod_name(version: usize, pod: usize) -> String {
    format!("v{}-{pod}", version + 1)
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            dice: seed,
            tick: 0,
            store: Store::new(),
            shown: None,
            are_slices_right: false,
            written: (0, 0),
            lease: None,
            lease_writes: 0,
            edges: ["a", "b", "c"].map(|name| Edge::new(name, seed % 2 == 1)).into(),
            under_way: Vec::new(),
            pods_ready: [[true; PODS], [false; PODS]],
            last_ready: [0; 2],
            is_broken: false,
            term: 0,
            promotions: BTreeMap::new(),
            newest: 0,
            may_select_v2: false,
            service_knows: Knowledge::default(),
            counts: Counts::default(),
            story: Vec::new(),
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let by = self.writer("kubectl");
        for (name, selector) in [("live", "v1"), ("v1", "v1"), ("v2", "v2")] {
            let spec = json!({ "selector": { "app": "model", "version": selector }, "ports": [{ "name": "http", "port": 8000 }] });
            let service = json!({ "metadata": { "name": name }, "spec": spec });
            self.store.create(Resource::Service, NAMESPACE, service, &by).unwrap();
        }
        for (version, pod) in (0..2).flat_map(|version| (0..PODS).map(move |pod| (version, pod))) {
            let labels = json!({ "app": "model", "version": format!("v{}", version + 1) });
            let spec = json!({ "nodeName": "node", "containers": [{ "name": "model", "image": "model" }] });
            let object = json!({ "metadata": { "name": pod_name(version, pod), "labels": labels }, "spec": spec });
            self.store.create(Resource::Pod, NAMESPACE, object, &by).unwrap();
            self.set_ready(version, pod, version == 0);
        }
        while self.move_slices() {}
    }

    fn writer(&self, manager: &str) -> Writer {
        Writer::new(manager, SystemTime::UNIX_EPOCH + TICK * u32::try_from(self.tick).unwrap())
    }

    fn now(&self) -> Time {
        Time::after_start(TICK * u32::try_from(self.tick).unwrap())
    }

    /// `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.random().is_multiple_of(chances)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn set_ready(&mut self, version: usize, pod: usize, ready: bool) {
        if self.tick > 0 && self.pods_ready[version][pod] == ready {
            return;
        }
        self.pods_ready[version][pod] = ready;
        self.are_slices_right = false;
        let status = json!({
            "phase": "Running", "podIP": format!("10.244.{version}.{}", pod + 1),
            "podIPs": [{ "ip": format!("10.244.{version}.{}", pod + 1) }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        });
        let key = Key::new(Resource::Pod, NAMESPACE, &pod_name(version, pod));
        let by = self.writer("kubelet");
        self.store.edit(&key, &by, |pod| pod["status"] = status).unwrap();
    }

    /// The controller of slices writes one of them; whether there was something to write.
    fn move_slices(&mut self) -> bool {
        if self.are_slices_right {
            return false;
        }
        let by = self.writer("kube-controller-manager");
        let next = slice_changes(&self.store, 2).into_iter().next();
        let Some(change) = next else {
            self.are_slices_right = true;
            return false;
        };
        self.written.1 += 1;
        change.apply(&mut self.store, &by).is_ok()
    }

    /// An edge takes in what its watches show.
    fn look(&mut self, edge: usize) {
        let shown = Shown::of(&self.store, self.written, self.shown.take());
        self.edges[edge].look(&shown);
        self.shown = Some(shown);
    }

    /// Everything that can go wrong, now and then.
    pub fn trouble(&mut self) {
        let edge = self.below(3);
        let long = 5 + u64::try_from(self.below(70)).unwrap();
        if self.one_in(60) {
            self.edges[edge].without_api = self.tick + long;
        }
        if self.one_in(60) {
            self.edges[edge].without_peers = self.tick + long;
        }
        if self.one_in(12) {
            let (version, pod) = (self.below(2), self.below(PODS));
            let ready = !self.one_in(4);
            self.set_ready(version, pod, ready);
        }
        if self.one_in(120) {
            let version = self.below(2);
            (0..PODS).for_each(|pod| self.set_ready(version, pod, false));
        }
        if self.one_in(60) {
            (0..PODS).for_each(|pod| self.set_ready(1, pod, true));
        }
        if self.one_in(400) {
            self.is_broken = true;
        }
        if self.one_in(300) {
            self.meddle();
        }
        if self.one_in(40) {
            self.answer();
        }
        // An edge that was never told anything is taken at its word, whatever file it starts with.
        let is_running = self.tick > 100;
        if is_running && self.one_in(200) {
            self.newest += 1;
        }
        if is_running && self.one_in(25) {
            self.edit(edge);
        }
        self.order_something();
    }

    /// The newest file reaches an edge.
    fn edit(&mut self, edge: usize) {
        let (newest, now) = (self.newest, self.now());
        if self.edges[edge].build == newest {
            return;
        }
        self.counts.edits += 1;
        self.story.push(format!("{} {}: the file names build {newest}", self.tick, self.edges[edge].name));
        let changes = self.edges[edge].edit(newest, now);
        self.remember(edge, &changes);
        self.edges[edge].apply();
    }

    /// What operators do all day.
    fn order_something(&mut self) {
        if self.one_in(300) {
            self.order(OrderKind::Rollback);
        }
        if self.one_in(150) && self.order(OrderKind::Pause).is_some() {
            self.counts.orders_to_pause += 1;
        }
        if self.one_in(40) {
            self.order(OrderKind::Resume(Resume::GoOn));
        }
        if self.one_in(100) {
            self.order(OrderKind::Promote);
        }
        if self.one_in(80) && self.order(OrderKind::Retry(version("v2"))).is_some() {
            self.is_broken = false;
        }
    }

    /// Somebody with `kubectl`.
    fn meddle(&mut self) {
        let by = self.writer("kubectl-edit");
        let what = self.below(5);
        let change = |service: &mut Value| match what {
            0 => service["spec"]["selector"]["version"] = json!("v1"),
            1 => service["spec"]["selector"]["version"] = json!("v2"),
            2 => service["spec"]["selector"] = json!({ "app": "model", "version": "v9" }),
            3 => service["metadata"]["annotations"] = json!({}),
            _ => service["metadata"]["annotations"][STATE] = json!("hello"),
        };
        self.store.edit(&live(), &by, change).unwrap();
        self.written.0 += 1;
        self.are_slices_right = false;
    }

    /// An operator answers for what somebody else did, if the leader asks.
    pub fn answer(&mut self) {
        let adopts = self.one_in(2) && self.order(OrderKind::Resume(Resume::Adopt)).is_some();
        if !adopts {
            self.order(OrderKind::Resume(Resume::Restore));
        }
    }

    /// An order to the leader; gives who obeyed.
    fn order(&mut self, kind: OrderKind) -> Option<usize> {
        let leader = self.edges.iter().position(|edge| edge.fence.is_some())?;
        let order = Order { kind, actor: "ada".to_owned(), reason: String::new() };
        let now = self.now();
        let changes = self.edges[leader].rollout.step(Input::Order(&order), now).ok()?;
        self.remember(leader, &changes);
        self.edges[leader].apply();
        Some(leader)
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        for edge in &mut self.edges {
            (edge.without_api, edge.without_peers) = (0, 0);
        }
        for (version, pod) in (0..2).flat_map(|version| (0..PODS).map(move |pod| (version, pod))) {
            self.set_ready(version, pod, true);
        }
        (0..self.edges.len()).for_each(|edge| self.edit(edge));
    }

    fn is_wild(&self) -> bool {
        self.tick < super::WILD
    }

    fn hears_api(&self, edge: usize) -> bool {
        self.tick >= self.edges[edge].without_api
    }

    fn hears_peers(&self, edge: usize) -> bool {
        self.tick >= self.edges[edge].without_peers
    }

    pub fn tick(&mut self) {
        self.tick += 1;
        for version in 0..2 {
            if self.pods_ready[version].contains(&true) {
                self.last_ready[version] = self.tick;
            }
        }
        self.move_slices();
        self.move_slices();
        self.land_what_is_due();
        for edge in 0..self.edges.len() {
            if self.hears_api(edge) {
                if !self.is_wild() || !self.one_in(3) {
                    self.look(edge);
                }
                self.stand(edge);
            }
            self.lead_or_follow(edge);
        }
        self.decide();
        for edge in &mut self.edges {
            edge.apply();
            let share = edge.applied.share_of(&version("v2")).ppm();
            let (seed, name) = (self.seed, &edge.name);
            assert!(
                !edge.knows.of(edge.build).is_taken_back || share == 0,
                "seed {seed}: {name} sends requests to v2, which it knows to be taken back"
            );
        }
        for edge in 0..self.edges.len() {
            self.reconcile(edge);
        }
    }

    /// The Lease: looked at and written twice a second.
    fn stand(&mut self, edge: usize) {
        if !(self.tick + u64::try_from(edge).unwrap()).is_multiple_of(5) {
            return;
        }
        let now = self.now();
        let candidate = &mut self.edges[edge];
        candidate.election.saw(self.lease.clone(), now);
        let term = match candidate.election.next(now) {
            Move::Wait => return,
            Move::Create { term } | Move::Write { term, .. } => term,
        };
        self.lease_writes += 1;
        let version = self.lease_writes.to_string();
        let record = Record { holder: candidate.name.clone(), term, lasts: lease_times().lasts(), version };
        self.lease = Some(record.clone());
        candidate.election.accepted(record, now, now);
    }

    /// A new leader claims the Service, takes over what stands there, and leads from then on.
    fn lead_or_follow(&mut self, edge: usize) {
        let now = self.now();
        let fence = self.edges[edge].election.leads(now).map(|(fence, _)| fence);
        if self.edges[edge].fence.is_some() && self.edges[edge].fence != fence {
            self.edges[edge].fence = None;
            self.edges[edge].rollout.step_down();
        }
        if let Some(fence) = fence.filter(|_| self.edges[edge].fence.is_none() && self.hears_api(edge)) {
            self.claim(edge, fence);
        }
    }

    fn claim(&mut self, edge: usize, fence: Fence) {
        let now = self.now();
        self.look(edge);
        let candidate = &self.edges[edge];
        let (saved, desired) = (candidate.rollout.kept(now), candidate.rollout.desired());
        let observed = candidate.observed.clone().unwrap();
        let is_ours = match claim(&observed, &candidate.wanted(&fence, &saved, &desired)) {
            Ok(Some(document)) => self.send(edge, (document, false), fence.clone()),
            // Where somebody else changed what stands there, it leads all the same, to ask what counts.
            Ok(None) | Err(Obstacle::Foreign(_)) => true,
            Err(Obstacle::Superseded { by }) => {
                self.edges[edge].election.raise_above(by.term);
                false
            }
            Err(obstacle) => panic!("seed {}: {obstacle}", self.seed),
        };
        if !is_ours {
            return;
        }
        self.look(edge);
        let kept = self.edges[edge].observed.as_ref().and_then(|observed| observed.state.read()).cloned();
        self.counts.claims += 1;
        self.story.push(format!("{} {fence} leads", self.tick));
        self.edges[edge].fence = Some(fence);
        self.edges[edge].is_dirty = true;
        if kept.is_some() {
            self.edges[edge].knows.learn(&self.service_knows);
        }
        let kept = kept.map(|state| state.saved);
        let changes = self.edges[edge].rollout.lead(kept, now);
        self.remember(edge, &changes);
        self.counts.let_alone += u64::from(self.edges[edge].kept_build(now) > self.edges[edge].build);
    }

    /// Each edge sees its tick; trips and states go where there are connections.
    fn decide(&mut self) {
        let rows: Vec<Rows> = self.edges.iter_mut().map(|edge| edge.rows(self.is_broken)).collect();
        for (edge, own) in rows.iter().enumerate() {
            if self.edges[edge].fence.is_some() {
                let heard: Vec<Rows> = (0..rows.len())
                    .filter(|other| self.is_connected(edge, *other))
                    .map(|other| rows[other].clone())
                    .collect();
                self.step(edge, &heard);
            } else {
                self.step(edge, std::slice::from_ref(own));
            }
        }
        for leader in 0..self.edges.len() {
            if self.edges[leader].fence.is_some() {
                self.exchange(leader);
            }
        }
        if self.edges.iter().all(|edge| edge.fence.is_none()) {
            self.tell_each_other();
        }
    }

    /// Whether `edge` has the file of `leader`, and applies what that one grants.
    fn applies(&self, edge: usize, leader: usize, granted: &Split) -> bool {
        self.edges[edge].build == self.edges[leader].build && self.edges[edge].applied == *granted
    }

    fn is_connected(&self, one: usize, other: usize) -> bool {
        one == other || (self.hears_peers(one) && self.hears_peers(other))
    }

    fn step(&mut self, edge: usize, rows: &[Rows]) {
        let now = self.now();
        let (ready, service) = (self.edges[edge].ready(), self.edges[edge].service_seen());
        let way_back = if ready[&version("v1")].up > 0 {
            WayBack::Proven { took: Duration::from_millis(20) }
        } else {
            WayBack::Unproven { why: "v1 has no ready endpoint".to_owned() }
        };
        let granted = self.edges[edge].rollout.desired().granted;
        let acknowledged =
            (0..self.edges.len()).all(|other| self.is_connected(edge, other) && self.applies(other, edge, &granted));
        let applied = self.edges[edge].applied.clone();
        let seen = Seen {
            service: service.as_ref(),
            acknowledged,
            way_back: &way_back,
            edges: 3,
            ..Seen::alone(rows, &ready, &applied, &[])
        };
        let changes = self.edges[edge].rollout.step(Input::Tick(&seen), now).unwrap();
        self.remember(edge, &changes);
    }

    /// What the leader and those that it can reach tell each other.
    fn exchange(&mut self, leader: usize) {
        let now = self.now();
        for other in (0..self.edges.len()).filter(|other| *other != leader) {
            if !self.is_connected(leader, other) || self.edges[other].fence.is_some() {
                continue;
            }
            let told = self.edges[other].rollout.trip().cloned();
            if let Some(trip) = told {
                let (name, build) = (self.edges[other].name.clone(), build_of(trip.revision.as_deref()));
                let knew = self.edges[other].knows.of(build);
                self.edges[leader].knows.of_mut(build).learn(knew);
                let changes = self.edges[leader].rollout.take_trip(&trip, &name, now);
                self.remember(leader, &changes);
                self.edges[leader].is_dirty = true;
                self.edges[other].rollout.trip_was_heard();
                self.counts.trips += 1;
            }
            let saved = self.edges[leader].rollout.saved(now);
            self.edges[other].rollout.follow(saved, now);
            let known_there = self.edges[leader].knows.clone();
            self.edges[other].knows.learn(&known_there);
            let (seed, edge) = (self.seed, &self.edges[other]);
            let unheard = edge.knows.taken_back_unknown_to(&known_there).next();
            let is_lost = unheard.is_some() && edge.rollout.trip().is_none();
            assert!(!is_lost, "seed {seed}: {} forgot that build {unheard:?} of v2 was taken back", edge.name);
        }
    }

    /// With no leader to be heard, each edge tells the others what it took back.
    fn tell_each_other(&mut self) {
        let now = self.now();
        for teller in 0..self.edges.len() {
            let Some(trip) = self.edges[teller].rollout.trip().cloned() else { continue };
            let (name, build) = (self.edges[teller].name.clone(), build_of(trip.revision.as_deref()));
            let knew = self.edges[teller].knows.of(build);
            for other in (0..self.edges.len()).filter(|other| *other != teller) {
                if self.is_connected(teller, other) && self.edges[other].fence.is_none() {
                    let changes = self.edges[other].rollout.take_trip(&trip, &name, now);
                    // One without a ready endpoint of v1 leaves it to the next leader; a build that is not on trial there is
                    // barred without a word.
                    let is_on_trial = build == self.edges[other].build;
                    if !changes.is_empty() || !is_on_trial {
                        self.edges[other].knows.of_mut(build).learn(knew);
                    }
                    self.remember(other, &changes);
                }
            }
        }
    }

    /// What the test itself remembers of what was decided.
    fn remember(&mut self, edge: usize, changes: &[Change]) {
        let (own, kept) = (self.edges[edge].build, self.edges[edge].kept_build(self.now()));
        for change in changes {
            self.edges[edge].is_dirty = true;
            self.story.push(format!("{} {}: {}", self.tick, self.edges[edge].name, change.sentence()));
            match change.decision {
                Decision::Rollback => {
                    let is_own = change.from != PhaseName::RollingBack && change.to == PhaseName::RollingBack;
                    let build = if is_own { own } else { kept };
                    self.edges[edge].knows.of_mut(build).is_taken_back = true;
                    self.counts.remembered += u64::from(matches!(change.cause, Cause::Remembered { .. }));
                    self.counts.emptied += u64::from(matches!(change.cause, Cause::EmptyService { .. }));
                }
                Decision::Flip => {
                    self.may_select_v2 = true;
                    for edge in &self.edges {
                        let all = Split::Whole(version("v2"));
                        assert_eq!(edge.applied, all, "seed {}: {} had not moved at the flip", self.seed, edge.name);
                    }
                }
                Decision::Pause if matches!(change.cause, Cause::ForeignChange { .. }) => {
                    self.counts.foreign_pauses += 1;
                }
                Decision::Finish => self.counts.finished += 1,
                Decision::Retry => {
                    self.counts.retries += 1;
                    self.edges[edge].knows.of_mut(own).next_trial();
                }
                // What has come through its bake stays, and where v1 has no endpoint there is nowhere to go back to.
                Decision::Alert if matches!(change.cause, Cause::Tripped { .. } | Cause::Remembered { .. }) => {
                    self.edges[edge].knows.of_mut(own).next_trial();
                }
                Decision::Step => self.counts.steps += 1,
                Decision::Start
                | Decision::Pause
                | Decision::Hold
                | Decision::Resume
                | Decision::Promote
                | Decision::Bake
                | Decision::RollbackDone
                | Decision::Alert
                | Decision::SetWeights
                | Decision::Edit => {}
            }
        }
    }

    /// The leader writes what is desired, from what it has last observed.
    fn reconcile(&mut self, edge: usize) {
        let now = self.now();
        let leader = &self.edges[edge];
        let Some(fence) = leader.fence.clone().filter(|_| self.hears_api(edge)) else { return };
        let Some(observed) = &leader.observed else { return };
        let (saved, desired) = (leader.rollout.kept(now), leader.rollout.desired());
        let found = observed.selector.get("version").map(String::as_str);
        let is_elsewhere = desired.selected.as_ref().is_some_and(|wanted| Some(wanted.as_str()) != found);
        let is_foreign = observed.foreign(&leader.route).is_some();
        if !(leader.is_dirty || is_elsewhere || is_foreign) {
            return;
        }
        match plan(observed, &leader.wanted(&fence, &saved, &desired)) {
            Ok(None) => self.settled(edge),
            Ok(Some(document)) => {
                if self.send(edge, (document, true), fence) {
                    self.settled(edge);
                }
            }
            Err(Obstacle::Foreign(_) | Obstacle::Unclaimed) => {}
            Err(Obstacle::Superseded { by }) => {
                self.edges[edge].election.raise_above(by.term);
                self.edges[edge].fence = None;
                self.edges[edge].rollout.step_down();
            }
            Err(obstacle) => panic!("seed {}: {obstacle}", self.seed),
        }
    }

    /// What the leader decided stands on the Service, where its successor finds it.
    fn settled(&mut self, edge: usize) {
        self.edges[edge].rollout.trip_was_heard();
        self.edges[edge].is_dirty = false;
    }

    /// Sends a write, and gives whether its sender hears that it landed.
    fn send(&mut self, edge: usize, (document, is_told): (Document, bool), fence: Fence) -> bool {
        let sender = &self.edges[edge];
        let selected = sender.rollout.desired().selected;
        let is_touched = sender.observed.as_ref().is_some_and(|observed| observed.foreign(&sender.route).is_some());
        let recently = |version: usize| self.tick - self.last_ready[version] <= LAG;
        let mut write = Write {
            document,
            fence,
            lands: self.tick,
            is_late: false,
            on_foreign: is_touched.then(|| sender.on_foreign(selected.as_ref())),
            main: sender.main_version(),
            build: sender.build,
            knew: sender.knows.clone(),
            is_told,
            had_ready: [recently(0), recently(1)],
        };
        let fate = if self.is_wild() { self.below(20) } else { 19 };
        match fate {
            // Refused, too busy, no connection.
            0 | 1 => false,
            2 | 3 => {
                write.lands = self.tick + 1 + u64::try_from(self.below(60)).unwrap();
                write.is_late = true;
                self.under_way.push(write);
                false
            }
            // The answer is lost.
            4 => {
                self.land(&write);
                false
            }
            _ => {
                let has_landed = self.land(&write);
                if has_landed {
                    self.look(edge);
                }
                has_landed
            }
        }
    }

    fn land_what_is_due(&mut self) {
        let tick = self.tick;
        let due: Vec<Write> = self.under_way.extract_if(.., |write| write.lands <= tick).collect();
        for write in due {
            if self.land(&write) {
                self.counts.landed_late += 1;
            } else {
                self.counts.refused_late += 1;
            }
        }
    }

    /// The write arrives; whether it landed. If so, it must have been right.
    fn land(&mut self, write: &Write) -> bool {
        let before = self.observe();
        let patch = Patch::json(write.document.operations().into()).unwrap();
        let by = self.writer(FIELD_MANAGER);
        if self.store.patch(&live(), Part::Whole, &patch, &by).is_err() {
            return false;
        }
        self.written.0 += 1;
        let after = self.observe();
        self.are_slices_right &= before.selector == after.selector;
        let selector = &after.selector["version"];
        let phase = after.state.read().map(|state| state.saved.phase());
        self.story.push(format!("{} landed {}: {phase:?}, selects {selector}", self.tick, write.fence));
        // A claim writes what stands there; only where nothing does, what its sender knows.
        let is_first = before.state.read().is_none();
        if write.is_told || is_first {
            if is_first {
                self.service_knows = Knowledge::default();
            }
            self.service_knows.learn(&write.knew);
        }
        self.check_fence(write);
        self.check_selection(write, &before, &after);
        true
    }

    fn observe(&self) -> Observed {
        Observed::of(&serde_json::from_value(self.store.get(&live()).unwrap()).unwrap())
    }

    /// A stale leader's write never lands.
    fn check_fence(&mut self, write: &Write) {
        let (seed, fence) = (self.seed, &write.fence);
        assert!(fence.term >= self.term, "seed {seed}: {fence} wrote after term {}", self.term);
        self.term = fence.term;
    }

    fn check_selection(&mut self, write: &Write, before: &Observed, after: &Observed) {
        let seed = self.seed;
        let state = after.state.read().unwrap();
        let tried = |observed: &Observed| {
            let state = observed.state.read()?;
            Some(build_of(state.saved.identity().revision.as_deref()))
        };
        let build = tried(after).unwrap_or_default();
        assert!(
            tried(before) <= Some(build),
            "seed {seed}: the rollout of a newer build than {build} was written over"
        );
        let left = |observed: &Observed| observed.state.read().and_then(|state| state.selector.get("version").cloned());
        if left(before).as_deref() == Some("v1") && left(after).as_deref() == Some("v2") {
            let promotions = self.promotions.entry(build).or_default();
            *promotions += 1;
            assert!(*promotions <= 1 + self.counts.retries, "seed {seed}: build {build} was promoted twice");
        }
        assert!(write.on_foreign.is_some() || state.selector == after.selector, "seed {seed}: written down otherwise");
        if before.selector == after.selector {
            return;
        }
        let is_theirs = before.foreign(&super::edge::route_name()).is_some();
        let is_answered = matches!(write.on_foreign, Some(OnForeign::Adopt | OnForeign::Restore));
        assert!(is_answered || !is_theirs, "seed {seed}: somebody else's change was written over unasked");
        let to = after.selector["version"].as_str();
        assert_eq!(write.main.as_str(), to, "seed {seed}: the selector moved before the traffic");
        let has_ready = write.had_ready[usize::from(to == "v2")];
        assert!(has_ready, "seed {seed}: {to} was selected without a ready endpoint");
        if to == "v2" {
            assert!(!write.knew.of(write.build).is_taken_back, "seed {seed}: v2 was selected after it was taken back");
            assert!(!tells_setback(&json!(state.saved)), "seed {seed}: v2 is selected and barred in one writing");
            assert!(self.may_select_v2, "seed {seed}: nobody decided to flip");
            self.counts.flips += 1;
        } else {
            self.counts.flips_back += 1;
        }
    }

    /// Whether whoever leads cannot tell whether its file is the newest one, and leaves alone what stands there.
    pub fn lets_alone(&self) -> bool {
        let now = self.now();
        self.edges.iter().any(|edge| edge.fence.is_some() && edge.kept_build(now) != edge.build)
    }

    /// With nothing wrong any more: one leader, one truth, one selection, everywhere.
    pub fn check_at_rest(&self) {
        let seed = self.seed;
        let leaders: Vec<&Edge> = self.edges.iter().filter(|edge| edge.fence.is_some()).collect();
        assert_eq!(leaders.len(), 1, "seed {seed}: {} lead", leaders.len());
        let leader = leaders[0];
        let (observed, desired) = (self.observe(), leader.rollout.desired());
        let status = leader.rollout.status(self.now());
        let wanted = desired.selected.unwrap_or_else(|| panic!("seed {seed}: nothing is selected: {status:?}"));
        assert_eq!(observed.selector["version"], wanted.as_str(), "seed {seed}: {status:?}");
        assert_eq!(observed.foreign(&leader.route), None, "seed {seed}");
        assert_eq!(observed.fence.read(), leader.fence.as_ref(), "seed {seed}");
        let known = observed.state.read().unwrap().saved.phase();
        assert_eq!(known, leader.rollout.phase(), "seed {seed}: {status:?}");
        for edge in &self.edges {
            assert_eq!(edge.applied, leader.applied, "seed {seed}: {} applies something else", edge.name);
        }
        for edge in &self.edges {
            let (one, other) = (edge.rollout.saved(self.now()), leader.rollout.saved(self.now()));
            assert_eq!(
                (one.phase(), one.serial()),
                (other.phase(), other.serial()),
                "seed {seed}: {} disagrees",
                edge.name
            );
            assert_eq!(edge.rollout.trip(), None, "seed {seed}: {} is not heard", edge.name);
            let alone = edge.knows.taken_back_unknown_to(&leader.knows).next();
            assert_eq!(alone, None, "seed {seed}: {} alone knows", edge.name);
        }
        assert!(!(leader.knows.of(leader.build).is_taken_back && wanted.as_str() == "v2"), "seed {seed}: v2 came back");
    }
}

/// Whether a state says that the build of v2 that it tries was taken back.
fn tells_setback(saved: &Value) -> bool {
    let builds = saved["quarantine"]["v2"].as_array();
    let is_its_own = |held: &Value| held["revision"] == saved["identity"]["revision"];
    builds.is_some_and(|builds| builds.iter().any(|held| is_its_own(held) && held["lifted"].as_bool() != Some(true)))
}
