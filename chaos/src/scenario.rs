//! One scenario: a route under load, what goes wrong and when, and what must hold.
//!
//! The route is written as in a config file and read by the same code, so that what is played is what an operator
//! would write. Where its versions answer is left to the world that plays it.

mod event;
mod file;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{ConfigErrors, Route, VersionId};
use pointsman_rollout::PhaseName;
use serde_json::{Map, Value};

use crate::load::Users;

pub use event::{
    ApiFault, Clients, ConfigFault, Down, DownBy, EdgeFault, Edit, Event, Fault, Latency, Shape, StateFault, Swell,
    What, Who,
};
pub use world::{Live, Models, World};

/// So long a client waits at least for an edge that does not answer.
pub(crate) const CLIENTS_WAIT: Duration = Duration::from_secs(10);

/// One scenario, checked.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called; the file's name without its ending.
    pub name: String,
    /// What happens in it, for people.
    pub about: String,
    /// The route as the config file gives it at the start.
    pub route: Arc<Route>,
    /// The same as it is written, without `versions` and `name`: worlds that write config files add theirs.
    pub route_keys: Map<String, Value>,
    /// How each version behaves as long as nothing is wrong with it.
    pub versions: BTreeMap<VersionId, Behaviour>,
    /// Requests per second of the whole route.
    pub rate: f64,
    /// Who sends them, where users are assigned and not requests.
    pub users: Option<Users>,
    /// Which worlds can play it; at least one.
    pub worlds: Vec<World>,
    /// How the live world plays it.
    pub live: Live,
    /// How many edges decide together.
    pub edges: usize,
    /// Whether state is kept on the live Service of an API server instead of in a file.
    pub api_server: bool,
    /// What happens, in the order of time.
    pub events: Vec<Event>,
    /// When the scenario is over, from its start.
    pub end: Duration,
    /// Whether other ways to decide can be shown the same: nobody gives orders, edits the file or kills the edge, nothing waits for
    /// a phase, requests are assigned and not users, and the plan lasts a minute at least.
    pub comparable: bool,
    /// What must hold at the end.
    pub holds: Holds,
}

/// How a version behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Behaviour {
    /// At how many endpoints.
    pub endpoints: usize,
    /// The share of requests that it fails, as a ratio.
    pub errors: f64,
    /// The share of requests that it answers later than the guard's latency threshold, as a ratio.
    pub slow: f64,
}

/// What must hold; the invariants of [`invariant`](crate::invariant) hold besides, in every scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holds {
    /// The phase at the end.
    pub ends: Option<PhaseName>,
    /// The canary is taken back, this long after the first thing that went wrong with it.
    pub taken_back_within: Option<Duration>,
    /// The canary is never taken back.
    pub never_taken_back: bool,
    /// The canary is promoted, this long after the start.
    pub promoted_within: Option<Duration>,
    /// Clients get no more bad answers from the canary.
    pub bad_answers_at_most: Option<u64>,
    /// This share of all requests is answered well, as a ratio.
    pub availability_at_least: Option<f64>,
    /// So many of the answers are bad that stable gave, or the edge itself.
    pub other_bad_answers_at_most: Option<u64>,
    /// The edge's resident memory stays below this many bytes.
    pub memory_at_most: Option<u64>,
    /// The edge never has more file descriptors open.
    pub descriptors_at_most: Option<u64>,
}

impl Scenario {
    /// Reads a scenario; `name` is what it will be called, and what messages name.
    ///
    /// # Errors
    /// If something is wrong with it: the first such thing, and the way out.
    pub fn parse(text: &str, name: &str) -> Result<Self, ScenarioError> {
        file::read(text, name)
    }

    /// How long clients of the live world wait for an answer: longer than the edge lets them wait.
    pub(crate) fn patience(&self) -> Duration {
        let timeouts = &self.route.timeouts;
        timeouts.total.min(timeouts.read * 3) + CLIENTS_WAIT
    }

    /// The same without one of its events, by its place.
    pub(crate) fn without(&self, event: usize) -> Self {
        let mut fewer = self.clone();
        fewer.events.remove(event);
        fewer
    }

    /// The version that is tried at the start, if one is.
    pub fn canary(&self) -> Option<&VersionId> {
        match &self.route.plan {
            pointsman_config::Plan::Rollout(plan) => Some(&plan.canary),
            pointsman_config::Plan::Weights(pointsman_config::Split::Canary { canary, .. }) => Some(canary),
            pointsman_config::Plan::Weights(pointsman_config::Split::Whole(_)) => None,
        }
    }

    /// Whether `world` can play it.
    ///
    /// # Errors
    /// When it says that it is for the other one.
    pub fn is_for(&self, world: World) -> Result<(), ScenarioError> {
        if self.worlds.contains(&world) {
            return Ok(());
        }
        let other = if world == World::Sim { "--live" } else { "--sim" };
        Err(ScenarioError::Senseless {
            name: self.name.clone(),
            place: "worlds".to_owned(),
            what: format!("the {world} world is not among them; run it with {other}"),
        })
    }

    /// When the first thing goes wrong with `version` alone: a fault, an endpoint, or at the start a behaviour that the route's
    /// guard does not tolerate beside stable's. Of what waits for a phase, when it begins to wait.
    pub fn first_harm(&self, version: &VersionId) -> Option<Duration> {
        if self.is_bad_from_the_start(version) {
            return Some(Duration::ZERO);
        }
        self.events.iter().find(|event| self.is_harm(event, version)).map(|event| event.at)
    }

    /// Whether `version` behaves as the route's guard does not tolerate beside stable while nothing else is wrong.
    pub fn is_bad_from_the_start(&self, version: &VersionId) -> bool {
        let guard = &self.route.guard;
        let of = |version: &VersionId| self.versions.get(version);
        let is_bad = |stable: &Behaviour, own: &Behaviour| {
            own.errors > guard.tolerance.ratio * stable.errors + guard.tolerance.difference || own.slow > stable.slow
        };
        of(&self.route.stable).zip(of(version)).is_some_and(|(stable, own)| is_bad(stable, own))
    }

    /// Whether something goes wrong with `version` alone by this event of the scenario.
    pub fn is_harm(&self, event: &Event, version: &VersionId) -> bool {
        let fault = event.what.fault_of(version);
        fault.is_some_and(|fault| !self.hits_stable_as_well(event, fault)) || event.what.down_of(version).is_some()
    }

    /// Whether the same happens to stable at the same time: that says nothing against another version.
    fn hits_stable_as_well(&self, event: &Event, fault: &Fault) -> bool {
        let same = What::Fault(Fault { version: self.route.stable.clone(), ..fault.clone() });
        self.events.iter().any(|other| (other.at, other.until, &other.what) == (event.at, event.until, &same))
    }
}

/// What is wrong with a scenario, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("the scenario {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML, or its keys are others.
    #[error("{name} is no scenario; docs/chaos.md says how one is written")]
    Unwritten {
        /// Which scenario.
        name: String,
        /// What the reader says, with line and column.
        source: Box<serde_saphyr::Error>,
    },
    /// Its route is refused.
    #[error("{name}: {place} is refused, as a config file with it would be: {problems}")]
    Route {
        /// Which scenario.
        name: String,
        /// `route`, or the event that edits it.
        place: String,
        /// What is wrong with it.
        problems: Problems,
    },
    /// Something in it cannot be played.
    #[error("{name}: {place}: {what}")]
    Senseless {
        /// Which scenario.
        name: String,
        /// Where.
        place: String,
        /// What, and the way out.
        what: String,
    },
}

/// What is wrong with a route, without places: the text around it was made here.
#[derive(Debug)]
pub struct Problems(pub(crate) ConfigErrors);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: Vec<String> = self
            .0
            .problems()
            .iter()
            .map(|problem| format!("{}: {}; {}", problem.path, problem.what, problem.way_out))
            .collect();
        f.write_str(&said.join("; "))
    }
}
