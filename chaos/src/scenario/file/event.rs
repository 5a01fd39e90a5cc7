//! The events of a scenario's file.

use std::time::Duration;

use pointsman_config::{Route, VersionId};
use pointsman_rollout::{OrderKind, PhaseName, Resume};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::ScenarioError;
use super::super::event::{
    ApiFault, Clients, ConfigFault, Down, DownBy, EdgeFault, Edit, Fault, Latency, Shape, StateFault, Swell, What, Who,
};
use super::{Percent, Reader, Span};

/// Connections that one event opens at most; the hard limit of descriptors is often not far above.
const MAX_CLIENTS: u32 = 10_000;

/// An edge looks at its clock once a second, on a machine that others use.
const SHORTEST_CLOCK: Duration = Duration::from_secs(10);

/// Loads are changed a few times a second.
const SHORTEST_WAVE: Duration = Duration::from_secs(1);

const NEEDS_DISK: &str = "the state file needs a disk of its own for that; write `live: { small_disk: true }`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventFile {
    pub(super) at: Span,
    #[serde(rename = "for")]
    pub(super) lasts: Option<Span>,
    #[serde(rename = "in")]
    pub(super) phase: Option<PhaseName>,
    version: Option<VersionId>,
    errors: Option<Percent>,
    status: Option<u16>,
    slow: Option<Percent>,
    hang: Option<Percent>,
    reset: Option<Percent>,
    torn: Option<Percent>,
    trickle: Option<Percent>,
    garbage: Option<Percent>,
    wrong: Option<Percent>,
    latency: Option<LatencyFile>,
    ramp: Option<Span>,
    together: Option<u32>,
    down: Option<usize>,
    by: Option<DownBy>,
    cold: Option<Span>,
    every: Option<Span>,
    traffic: Option<f64>,
    wave: Option<Span>,
    edge: Option<EdgeFile>,
    who: Option<Who>,
    clock: Option<String>,
    state: Option<StateFault>,
    config: Option<ConfigFault>,
    clients: Option<Clients>,
    names: Option<NamesFile>,
    api: Option<ApiFault>,
    order: Option<OrderFile>,
    edit: Option<Map<String, Value>>,
    late: Option<Span>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyFile {
    median: Span,
    p99: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EdgeFile {
    Killed,
    Frozen,
    Upgraded,
    CutOff,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamesFile {
    Failing,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderFile {
    Promote,
    Rollback,
    Pause,
    Resume,
    Adopt,
    Restore,
    Retry,
}

/// What any event may say.
const ANY: [&str; 3] = ["at", "for", "in"];

/// The kinds of event, as the file tells them apart.
enum Kind<'a> {
    Fault,
    Down(usize),
    Traffic(f64),
    Edge(EdgeFile),
    Clock(&'a str),
    State(StateFault),
    Config(ConfigFault),
    Clients(Clients),
    Names,
    Api(ApiFault),
    Order(OrderFile),
    Edit(&'a Map<String, Value>),
}

impl Kind<'_> {
    /// What an event of this kind may say besides.
    const fn keys(&self) -> &'static [&'static str] {
        match self {
            Self::Fault => &[
                "version", "errors", "status", "slow", "hang", "reset", "torn", "trickle", "garbage", "wrong",
                "latency", "ramp", "together",
            ],
            Self::Down(_) => &["version", "down", "by", "cold", "every"],
            Self::Traffic(_) => &["traffic", "ramp", "wave"],
            Self::Edge(_) => &["edge", "who", "state"],
            Self::Clock(_) => &["clock", "who"],
            Self::State(_) => &["state"],
            Self::Config(_) => &["config"],
            Self::Clients(_) => &["clients"],
            Self::Names => &["names"],
            Self::Api(_) => &["api"],
            Self::Order(_) => &["order", "version", "who"],
            Self::Edit(_) => &["edit", "late", "who"],
        }
    }
}

impl EventFile {
    fn is_fault(&self) -> bool {
        let shares = [self.errors, self.slow, self.hang, self.reset, self.torn, self.trickle, self.garbage, self.wrong];
        shares.iter().any(Option::is_some) || self.latency.is_some()
    }

    /// What it is, if it is one thing.
    fn kind(&self) -> Option<Kind<'_>> {
        // What becomes of the state file may go with a killed edge.
        let state = self.state.filter(|_| self.edge.is_none());
        let kinds = [
            self.is_fault().then_some(Kind::Fault),
            self.down.map(Kind::Down),
            self.traffic.map(Kind::Traffic),
            self.edge.map(Kind::Edge),
            self.clock.as_deref().map(Kind::Clock),
            state.map(Kind::State),
            self.config.map(Kind::Config),
            self.clients.map(Kind::Clients),
            self.names.map(|NamesFile::Failing| Kind::Names),
            self.api.map(Kind::Api),
            self.order.map(Kind::Order),
            self.edit.as_ref().map(Kind::Edit),
        ];
        let mut there = kinds.into_iter().flatten();
        there.next().filter(|_| there.next().is_none())
    }
}

impl Reader<'_> {
    /// What happens by an event of the file; `keys` are those that it was written with.
    pub(super) fn what<'k>(
        &self,
        place: &str,
        (file, mut keys): (&EventFile, impl Iterator<Item = &'k String>),
        route: &Route,
    ) -> Result<What, ScenarioError> {
        let kind = file.kind().ok_or_else(|| {
            self.senseless(
                place,
                "write one of errors/slow/hang/reset/torn/trickle/garbage/wrong/latency (with version), down (with \
                 version), traffic, edge, clock, state, config, clients, names, api, order, edit",
            )
        })?;
        let is_stray = |key: &&String| !ANY.contains(&key.as_str()) && !kind.keys().contains(&key.as_str());
        if let Some(key) = keys.find(is_stray) {
            return Err(self.senseless(place, format!("`{key}` says nothing of such an event; leave it out")));
        }
        match kind {
            Kind::Fault => self.fault(place, self.version(place, file)?, file),
            Kind::Down(endpoints) => self.down(place, endpoints, file),
            Kind::Traffic(times) => self.traffic(place, times, file),
            Kind::Edge(edge) => self.edge(place, edge, file),
            Kind::Clock(off) => self.clock(place, off, file),
            Kind::State(fault) => self.state(place, fault, file),
            Kind::Config(fault) => self.lasting(place, file, What::Config(fault)),
            Kind::Clients(clients) => self.clients(place, clients, file),
            Kind::Names => self.lasting(place, file, What::Names),
            Kind::Api(fault) => self.api(place, fault, file),
            Kind::Order(order) => self.order(place, order, file, route),
            Kind::Edit(keys) => self.edit(place, keys, file),
        }
    }

    fn known(&self, file: &EventFile) -> Option<VersionId> {
        file.version.clone().filter(|version| self.versions.contains_key(version))
    }

    fn version(&self, place: &str, file: &EventFile) -> Result<VersionId, ScenarioError> {
        self.known(file).ok_or_else(|| self.senseless(place, "name one of the scenario's versions with `version`"))
    }

    /// What has an end of its own must say when.
    fn lasting(&self, place: &str, file: &EventFile, what: What) -> Result<What, ScenarioError> {
        file.lasts.map(|_| what).ok_or_else(|| self.senseless(place, "say for how long with `for`"))
    }

    fn fault(&self, place: &str, version: VersionId, file: &EventFile) -> Result<What, ScenarioError> {
        let share = |written: Option<Percent>| written.unwrap_or_default().0;
        let status = file.status.unwrap_or(500);
        if !(400..=599).contains(&status) {
            return Err(self.senseless(place, "status: write one from 400 to 599"));
        }
        let latency = file.latency.map(|file| Latency { median: file.median.0, p99: file.p99.0 });
        if latency.is_some_and(|latency| latency.median.is_zero() || latency.p99 < latency.median) {
            return Err(
                self.senseless(place, "latency: no distribution has its p99 below its median, or a median of 0")
            );
        }
        let fault = Fault {
            version,
            errors: share(file.errors),
            status,
            slow: share(file.slow),
            hang: share(file.hang),
            reset: share(file.reset),
            torn: share(file.torn),
            trickle: share(file.trickle),
            garbage: share(file.garbage),
            wrong: share(file.wrong),
            latency,
            ramp: file.ramp.map_or(Duration::ZERO, |span| span.0),
            together: file.together.unwrap_or(1).max(1),
        };
        if fault.all() > 1.0 + 1e-9 {
            return Err(self.senseless(
                place,
                "errors, slow, hang and so on are shares of the same requests: 100% together at most",
            ));
        }
        Ok(What::Fault(fault))
    }

    fn traffic(&self, place: &str, times: f64, file: &EventFile) -> Result<What, ScenarioError> {
        if !(0.0..=1_000.0).contains(&times) {
            return Err(self.senseless(place, "traffic: write 0 to 1000"));
        }
        let shape = match (file.ramp, file.wave) {
            (None, None) => Shape::Step,
            (Some(ramp), None) => Shape::Ramp(ramp.0),
            (None, Some(period)) if period.0 >= SHORTEST_WAVE => Shape::Wave(period.0),
            (None, Some(_)) => return Err(self.senseless(place, "wave: write 1s or more")),
            (Some(_), Some(_)) => {
                return Err(self.senseless(place, "traffic grows by `ramp`, or comes and goes by `wave`; write one"));
            }
        };
        Ok(What::Traffic(Swell { times, shape }))
    }

    fn down(&self, place: &str, endpoints: usize, file: &EventFile) -> Result<What, ScenarioError> {
        let version = self.version(place, file)?;
        let down = Down {
            version,
            endpoints,
            by: file.by.unwrap_or_default(),
            cold: file.cold.map_or(Duration::ZERO, |span| span.0),
            every: file.every.map(|span| span.0),
        };
        if down.every.is_some_and(|every| every < Duration::from_millis(50)) {
            return Err(self.senseless(place, "every: write 50ms or more, no process starts faster"));
        }
        Ok(What::Down(down))
    }

    fn edge(&self, place: &str, edge: EdgeFile, file: &EventFile) -> Result<What, ScenarioError> {
        let fault = match edge {
            EdgeFile::Killed => EdgeFault::Killed,
            EdgeFile::Frozen => EdgeFault::Frozen,
            EdgeFile::Upgraded => EdgeFault::Upgraded,
            EdgeFile::CutOff => EdgeFault::CutOff,
        };
        if edge == EdgeFile::CutOff && !self.has_api_server {
            return Err(self.senseless(place, "an edge that is alone is cut off from nobody; write `api_server: true`"));
        }
        if edge == EdgeFile::Upgraded && self.has_api_server {
            return Err(
                self.senseless(place, "with an API server a new binary comes with new pods; kill an edge instead")
            );
        }
        if file.state.is_some() && (edge != EdgeFile::Killed || self.has_api_server) {
            return Err(self.senseless(place, "only the state file of an edge that is killed can change meanwhile"));
        }
        if file.state == Some(StateFault::ReadOnly) && !self.has_small_disk {
            return Err(self.senseless(place, NEEDS_DISK));
        }
        let what = What::Edge { fault, who: file.who.unwrap_or_default(), state: file.state };
        if edge == EdgeFile::Upgraded { Ok(what) } else { self.lasting(place, file, what) }
    }

    /// `5m` is ahead, `-5m` behind.
    fn clock(&self, place: &str, off: &str, file: &EventFile) -> Result<What, ScenarioError> {
        let (is_behind, text) = off.strip_prefix('-').map_or((false, off), |text| (true, text));
        let by = pointsman_config::parse_duration(text)
            .map_err(|error| self.senseless(place, format!("clock: {error}; a minus before it sets it back")))?;
        if by < SHORTEST_CLOCK {
            return Err(self.senseless(place, "clock: write 10s or more; nobody can tell less from a slow machine"));
        }
        Ok(What::Edge { fault: EdgeFault::Clock { is_behind, by }, who: file.who.unwrap_or_default(), state: None })
    }

    fn state(&self, place: &str, fault: StateFault, file: &EventFile) -> Result<What, ScenarioError> {
        if self.has_api_server {
            return Err(self.senseless(place, "there is no state file; leave `api_server` out"));
        }
        match fault {
            StateFault::Full if self.has_small_disk => self.lasting(place, file, What::State(fault)),
            StateFault::Full => Err(self.senseless(place, NEEDS_DISK)),
            StateFault::ReadOnly
            | StateFault::CorruptByte
            | StateFault::CutOff
            | StateFault::Deleted
            | StateFault::Newer => {
                Err(self.senseless(place, "the edge reads the file when it starts; write `edge: killed` beside it"))
            }
        }
    }

    fn clients(&self, place: &str, clients: Clients, file: &EventFile) -> Result<What, ScenarioError> {
        let (Clients::Idle(count) | Clients::SlowLoris(count) | Clients::Garbage(count)) = clients;
        if !(1..=MAX_CLIENTS).contains(&count) {
            return Err(self.senseless(place, format!("clients: write 1 to {MAX_CLIENTS} of them")));
        }
        match clients {
            Clients::Garbage(_) => Ok(What::Clients(clients)),
            Clients::Idle(_) | Clients::SlowLoris(_) => self.lasting(place, file, What::Clients(clients)),
        }
    }

    fn api(&self, place: &str, fault: ApiFault, file: &EventFile) -> Result<What, ScenarioError> {
        if !self.has_api_server {
            return Err(self.senseless(place, "there is no API server; write `api_server: true` beside `about`"));
        }
        match fault {
            ApiFault::ForeignEdit => Ok(What::Api(fault)),
            ApiFault::Slow
            | ApiFault::Conflict
            | ApiFault::TooMany
            | ApiFault::Failing
            | ApiFault::Hanging
            | ApiFault::WatchCut
            | ApiFault::Late => self.lasting(place, file, What::Api(fault)),
        }
    }

    fn edit(&self, place: &str, keys: &Map<String, Value>, file: &EventFile) -> Result<What, ScenarioError> {
        let late = match (file.late, file.who) {
            (None, None) => None,
            (Some(by), Some(who @ (Who::Leader | Who::Follower))) if self.has_many_edges => Some((who, by.0)),
            (Some(_), Some(_)) if !self.has_many_edges => {
                return Err(self.senseless(place, "one edge cannot be later than the others; write `edges: 3`"));
            }
            (_, _) => {
                return Err(self.senseless(place, "an edit reaches `who: leader` or `who: follower` so much `late`"));
            }
        };
        let mut merged = self.route.clone();
        if keys.contains_key("weights") || keys.contains_key("rollout") {
            merged.remove("weights");
            merged.remove("rollout");
        }
        merged.extend(keys.clone());
        let route = self.route(&format!("{place}.edit"), &merged)?;
        Ok(What::Edit(Edit { route, keys: merged, late }))
    }

    fn order(&self, place: &str, order: OrderFile, file: &EventFile, route: &Route) -> Result<What, ScenarioError> {
        let who = file.who.unwrap_or_default();
        if who == Who::Follower && !self.has_many_edges {
            return Err(self.senseless(place, "there is no edge that follows; write `edges: 3`"));
        }
        let kind = match order {
            OrderFile::Promote => OrderKind::Promote,
            OrderFile::Rollback => OrderKind::Rollback,
            OrderFile::Pause => OrderKind::Pause,
            OrderFile::Resume => OrderKind::Resume(Resume::GoOn),
            OrderFile::Adopt | OrderFile::Restore if !self.has_api_server => {
                return Err(
                    self.senseless(place, "there is no live Service that somebody else could change; write `resume`")
                );
            }
            OrderFile::Adopt => OrderKind::Resume(Resume::Adopt),
            OrderFile::Restore => OrderKind::Resume(Resume::Restore),
            OrderFile::Retry => {
                let other = self.versions.keys().find(|version| **version != route.stable).cloned();
                let wanted = self.known(file).or(other);
                OrderKind::Retry(wanted.ok_or_else(|| self.senseless(place, "there is no version to try again"))?)
            }
        };
        Ok(What::Order(kind, who))
    }
}
