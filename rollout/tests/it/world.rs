//! A world in virtual time around one route: traffic, readiness, an edge that applies what is desired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{
    Endpoint, Guard, LiveService, Plan, Promotion, PromotionGuard, Retire, Rollout as RolloutPlan, Route, Share, Split,
    Step, Strategy, Version, VersionId,
};
use pointsman_rollout::{
    Change, Drawn, Gate, Input, Journal, MirrorTally, Mirrored, Observed, Order, OrderKind, PhaseName, Ready, Refusal,
    Requests, Rollout, Row, Saved, Seen, Tally, Time,
};

use crate::cluster::Cluster;

/// One tick.
pub(crate) const TICK: Duration = Duration::from_millis(100);

pub(crate) fn version(name: &str) -> VersionId {
    name.parse().unwrap()
}

pub(crate) fn percent(percent: u32) -> Share {
    Share::from_ppm(percent * 10_000).unwrap()
}

fn one_version(port: u16, revision: Option<&str>) -> Version {
    Version {
        revision: revision.map(str::to_owned),
        ..Version::at(vec![Endpoint { host: "127.0.0.1".to_owned(), port }])
    }
}

/// A route from v1 to v2 under `plan`; soaks and proofs are short, so that stories are.
pub(crate) fn route(plan: Plan) -> Route {
    let versions = [("v1", 9001), ("v2", 9002), ("v3", 9003)];
    let versions = versions.map(|(name, port)| (version(name), one_version(port, None)));
    let promotion = PromotionGuard { difference: 0.01, min_soak: Duration::from_secs(10), ..PromotionGuard::default() };
    let guard = Guard { promotion, ..Guard::default() };
    Route { plan, guard, ..Route::new("delivery-time".parse().unwrap(), version("v1"), versions.into()) }
}

/// The same route in a cluster.
pub(crate) fn live(plan: Plan) -> Route {
    let live = LiveService {
        namespace: None,
        service: "delivery-time".to_owned(),
        selector_key: "version".to_owned(),
        retire: Retire::ScaleTo(0),
    };
    Route { live_service: Some(live), ..route(plan) }
}

pub(crate) fn weights(canary_percent: u32) -> Plan {
    Plan::Weights(Split::canary(version("v1"), version("v2"), percent(canary_percent)))
}

pub(crate) fn canary_plan(promotion: Promotion) -> RolloutPlan {
    let hold = Duration::from_secs(10);
    let steps = [5, 25, 50].map(|weight| Step { weight: percent(weight), hold }).to_vec();
    RolloutPlan {
        canary: version("v2"),
        strategy: Strategy::Canary(steps),
        promotion,
        bake: Duration::from_secs(20),
        step_deadline: Duration::from_mins(2),
    }
}

pub(crate) fn blue_green(promotion: Promotion) -> RolloutPlan {
    RolloutPlan { strategy: Strategy::BlueGreen, ..canary_plan(promotion) }
}

pub(crate) fn with_revision(mut route: Route, revision: &str) -> Route {
    route.versions.insert(version("v2"), one_version(9002, Some(revision)));
    route
}

/// One route, its traffic and its surroundings.
pub(crate) struct World {
    pub(crate) rollout: Rollout,
    pub(crate) changes: Vec<Change>,
    pub(crate) ready: BTreeMap<VersionId, Ready>,
    /// Requests of the whole route in each tick.
    pub(crate) requests: u64,
    /// One in this many fails, by version; none means none.
    pub(crate) fails_one_in: BTreeMap<VersionId, u64>,
    /// What the canary truly gets of the draws, whatever the weight; none: its weight.
    pub(crate) true_share: Option<Share>,
    /// What copies of stable's requests to v2 show in each tick.
    pub(crate) mirrored: MirrorTally,
    /// Whether the units of rows are users who all had their first error long ago, so that no error is told by them.
    pub(crate) users_had_errors: bool,
    /// What others are asked about the canary, and what they said.
    pub(crate) gates: Vec<Gate>,
    /// What becomes known in the next tick besides.
    pub(crate) late: Vec<Observed>,
    /// The live Service and the other edges, for a route that has one.
    pub(crate) cluster: Option<Cluster>,
    /// What was recorded of it.
    pub(crate) journal: Journal,
    /// How long a tick is.
    pub(crate) pace: Duration,
    now: Time,
    applied: Split,
    served: BTreeMap<VersionId, u64>,
    left_over: u64,
}

impl World {
    pub(crate) fn new(route: Route) -> Self {
        let ready = route.versions.keys().map(|version| (version.clone(), Ready { up: 1, total: 1 })).collect();
        let applied = Split::Whole(route.stable.clone());
        let (rollout, changes) = Rollout::start(Arc::new(route), Time::default());
        Self {
            rollout,
            changes,
            ready,
            requests: 100,
            fails_one_in: BTreeMap::new(),
            true_share: None,
            mirrored: MirrorTally::default(),
            users_had_errors: false,
            gates: Vec::new(),
            late: Vec::new(),
            cluster: None,
            journal: Journal::default(),
            pace: TICK,
            now: Time::default(),
            applied,
            served: BTreeMap::new(),
            left_over: 0,
        }
    }

    /// The same with a live Service that selects v1, and two more edges.
    pub(crate) fn in_cluster(route: Route) -> Self {
        Self { cluster: Some(Cluster::new(&route)), ..Self::new(route) }
    }

    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().unwrap()
    }

    pub(crate) fn fails(mut self, name: &str, one_in: u64) -> Self {
        self.break_version(name, one_in);
        self
    }

    pub(crate) fn break_version(&mut self, name: &str, one_in: u64) {
        self.fails_one_in.insert(version(name), one_in);
    }

    pub(crate) fn mend(&mut self, name: &str) {
        self.fails_one_in.remove(&version(name));
    }

    pub(crate) fn set_ready(&mut self, name: &str, up: usize) {
        self.ready.insert(version(name), Ready { up, total: 1 });
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn applied(&self) -> &Split {
        &self.applied
    }

    pub(crate) fn phase(&self) -> PhaseName {
        self.rollout.status(self.now).phase
    }

    /// The canary's share that the edge applies, in percent.
    pub(crate) fn canary_percent(&self) -> f64 {
        self.applied.share_of(&version("v2")).percent()
    }

    /// One tick: the edge applies what is desired, traffic flows, the rollout decides.
    pub(crate) fn tick(&mut self) -> Vec<Change> {
        self.now = self.now.plus(self.pace);
        let rows: Vec<Observed> = self.traffic().into_iter().chain(std::mem::take(&mut self.late)).collect();
        let applied = self.applied.clone();
        let mirrored = [Mirrored { stable: version("v1"), version: version("v2"), tally: self.mirrored }];
        let service = self.cluster.as_ref().and_then(|cluster| cluster.seen(&self.ready));
        let mut seen = Seen::alone(&rows, &self.ready, &applied, &mirrored);
        seen.gates = &self.gates;
        if let Some(cluster) = &self.cluster {
            seen.service = service.as_ref();
            seen.acknowledged = cluster.acknowledged && cluster.elsewhere == self.rollout.desired().granted;
            seen.way_back = &cluster.way_back;
            seen.edges = 3;
        }
        self.journal.tick(&self.rollout, &rows, (&self.ready, &applied), (self.now, String::new));
        let changes = self.rollout.step(Input::Tick(&seen), self.now).unwrap();
        self.journal.decided(&self.rollout, &changes, &applied, (self.now, String::new));
        let desired = self.rollout.desired();
        self.applied = desired.effective(&self.ready);
        if let Some(cluster) = &mut self.cluster {
            cluster.reconcile(&desired, &self.ready, &applied);
        }
        self.changes.extend(changes.clone());
        changes
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.now.plus(span);
        while self.now < until {
            self.tick();
        }
    }

    /// Ticks until `wanted`, at most for `limit`; gives the time it took.
    pub(crate) fn run_until(&mut self, wanted: PhaseName, limit: Duration) -> Duration {
        let start = self.now;
        while self.phase() != wanted {
            assert!(
                self.now.since(start) < limit,
                "still {} after {limit:?}; {:?}",
                self.phase(),
                self.rollout.status(self.now)
            );
            self.tick();
        }
        self.now.since(start)
    }

    pub(crate) fn order(&mut self, kind: OrderKind) -> Result<Vec<Change>, Refusal> {
        let order = Order { kind, actor: "ada".to_owned(), reason: "a test".to_owned() };
        let before = self.applied.clone();
        let changes = self.rollout.step(Input::Order(&order), self.now)?;
        self.journal.order(&order, self.now);
        self.journal.decided(&self.rollout, &changes, &before, (self.now, String::new));
        self.applied = self.rollout.desired().effective(&self.ready);
        self.changes.extend(changes.clone());
        Ok(changes)
    }

    pub(crate) fn edit(&mut self, route: Route) -> Vec<Change> {
        let before = self.applied.clone();
        let changes = self.rollout.step(Input::Edit(Arc::new(route)), self.now).unwrap();
        self.journal.edit();
        self.journal.decided(&self.rollout, &changes, &before, (self.now, String::new));
        self.applied = self.rollout.desired().effective(&self.ready);
        self.changes.extend(changes.clone());
        changes
    }

    /// Kills the process and starts it again from what was saved.
    pub(crate) fn restart(&mut self) {
        let route = Arc::clone(self.rollout.route());
        self.restart_with(route);
    }

    /// The same, with the file edited while the process was down.
    pub(crate) fn restart_with(&mut self, route: Arc<Route>) {
        let saved = serde_json::to_string(&self.rollout.saved(self.now)).unwrap();
        let saved: Saved = serde_json::from_str(&saved).unwrap();
        let (rollout, changes) = Rollout::resume(route, saved, self.now);
        self.journal = Journal::default();
        self.rollout = rollout;
        self.changes.extend(changes);
        self.applied = self.rollout.desired().effective(&self.ready);
    }

    /// What this tick's requests came to: shares are met exactly in the long run, every n-th request fails.
    fn traffic(&mut self) -> Option<Observed> {
        if self.requests == 0 {
            return None;
        }
        let (stable, canary, weight) = match self.applied.clone() {
            Split::Whole(whole) => (whole, None, Share::ZERO),
            Split::Canary { stable, canary, share } => (stable, Some(canary), share),
        };
        let drawn_by = self.true_share.filter(|_| weight > Share::ZERO && weight < Share::WHOLE).unwrap_or(weight);
        let parts = self.requests * u64::from(drawn_by.ppm()) + self.left_over;
        self.left_over = parts % u64::from(Share::PARTS);
        let to_canary = parts / u64::from(Share::PARTS);
        let canary_tally = canary.as_ref().map(|version| self.serve(version, to_canary)).unwrap_or_default();
        let stable_tally = self.serve(&stable, self.requests - to_canary);
        let drawn = Drawn { canary: canary_tally.requests, stable: stable_tally.requests };
        let requests = self.users_had_errors.then_some(Requests { canary: canary_tally, stable: stable_tally });
        let told = |tally: Tally| if requests.is_some() { without_errors(tally) } else { tally };
        let row = Row { weight, canary: told(canary_tally), stable: told(stable_tally) };
        let trial = self.rollout.trial();
        Some(Observed { stable, canary, trial, row, requests, drawn })
    }

    fn serve(&mut self, version: &VersionId, requests: u64) -> Tally {
        let served = self.served.entry(version.clone()).or_default();
        let before = *served;
        *served += requests;
        let errors = self.fails_one_in.get(version).map_or(0, |n| *served / n - before / n);
        Tally { requests, errors, slow: 0 }
    }
}

fn without_errors(tally: Tally) -> Tally {
    Tally { requests: tally.requests - tally.errors, errors: 0, ..tally }
}
