//! The file of a scenario: YAML into the structs of the file, and these into a [`Scenario`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Config, Route, Sticky, VersionId, parse_duration, parse_percent, parse_size};
use pointsman_rollout::PhaseName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::world::{Live, Models, World};
use super::{Behaviour, Event, Holds, Problems, Scenario, ScenarioError, What};
use crate::load::{MAX_CONNECTIONS, MAX_USERS, Users};
use event::EventFile;

mod event;

/// More than a machine of ours sees, and far from where counts of one tick lose their meaning.
const MAX_RATE: f64 = 100_000.0;
const MAX_ENDPOINTS: usize = 100;
/// Long enough for the longest plan, short enough that a slip of the pen ends.
const MAX_END: Duration = Duration::from_hours(48);
const MAX_EDGES: usize = 9;
/// The live Service, where the scenario gives it no name.
const LIVE_SERVICE: &str = "model";
/// Enough for an edge and a few connections, and no more than systems give.
const DESCRIPTORS: std::ops::RangeInclusive<u64> = 64..=1_048_576;
const MAX_SPEED: f64 = 100.0;
/// Peers measure once a minute or less often; a plan that is over by then shows nothing of them.
const SHORTEST_COMPARED: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    about: String,
    route: Map<String, Value>,
    versions: BTreeMap<VersionId, VersionFile>,
    rate: f64,
    users: Option<u32>,
    #[serde(default = "both_worlds")]
    worlds: Vec<World>,
    #[serde(default)]
    live: LiveFile,
    #[serde(default = "one")]
    edges: usize,
    #[serde(default)]
    api_server: bool,
    #[serde(default)]
    events: Vec<Map<String, Value>>,
    end: Span,
    #[serde(default)]
    holds: HoldsFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionFile {
    #[serde(default = "one")]
    endpoints: usize,
    #[serde(default)]
    errors: Percent,
    #[serde(default)]
    slow: Percent,
}

const fn one() -> usize {
    1
}

fn both_worlds() -> Vec<World> {
    vec![World::Sim, World::Live]
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LiveFile {
    speed: f64,
    connections: Connections,
    descriptors: Option<Descriptors>,
    models: Models,
    small_disk: bool,
}

impl Default for LiveFile {
    fn default() -> Self {
        let Live { speed, connections, descriptors, models, small_disk } = Live::default();
        Self {
            speed,
            connections: Connections(connections),
            descriptors: descriptors.map(Descriptors),
            models,
            small_disk,
        }
    }
}

/// Connections of the load.
#[derive(Clone, Copy)]
struct Connections(usize);

impl<'de> Deserialize<'de> for Connections {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let count = usize::deserialize(source)?;
        let is_possible = (1..=MAX_CONNECTIONS).contains(&count);
        let said = || D::Error::custom(format!("{count} connections carry no load; write 1 to {MAX_CONNECTIONS}"));
        if is_possible { Ok(Self(count)) } else { Err(said()) }
    }
}

/// Descriptors that the edge may have.
#[derive(Clone, Copy)]
struct Descriptors(u64);

impl<'de> Deserialize<'de> for Descriptors {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(source)?;
        let said = || D::Error::custom(format!("no edge starts with {count} descriptors; write {DESCRIPTORS:?}"));
        if DESCRIPTORS.contains(&count) { Ok(Self(count)) } else { Err(said()) }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HoldsFile {
    ends: Option<PhaseName>,
    taken_back_within: Option<Span>,
    never_taken_back: bool,
    promoted_within: Option<Span>,
    bad_answers_at_most: Option<u64>,
    availability_at_least: Option<Percent>,
    other_bad_answers_at_most: Option<u64>,
    memory_at_most: Option<Size>,
    descriptors_at_most: Option<u64>,
}

/// `90s`, `5m`: as the config file writes durations.
#[derive(Clone, Copy)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)
            .map_err(|error| D::Error::custom(format!("write a duration with its unit, such as `90s`: {error}")))?;
        parse_duration(&text).map(Self).map_err(D::Error::custom)
    }
}

/// `0.5%`, as a ratio.
#[derive(Clone, Copy, Default)]
struct Percent(f64);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)
            .map_err(|error| D::Error::custom(format!("write a share as a percentage, such as `0.5%`: {error}")))?;
        parse_percent(&text).map(Self).map_err(D::Error::custom)
    }
}

/// `64MiB`, in bytes.
#[derive(Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)
            .map_err(|error| D::Error::custom(format!("write a size with its unit, such as `64MiB`: {error}")))?;
        parse_size(&text).map(Self).map_err(D::Error::custom)
    }
}

pub(super) fn read(text: &str, name: &str) -> Result<Scenario, ScenarioError> {
    let file: ScenarioFile = serde_saphyr::from_str(text)
        .map_err(|source| ScenarioError::Unwritten { name: name.to_owned(), source: Box::new(source) })?;
    let reader = Reader {
        name,
        versions: &file.versions,
        route: &file.route,
        has_api_server: file.api_server,
        has_many_edges: file.edges > 1,
        has_small_disk: file.live.small_disk,
    };
    let route = reader.route("route", &file.route)?;
    reader.check(&file)?;
    let mut events = Vec::with_capacity(file.events.len());
    for (index, event) in file.events.iter().enumerate() {
        let read = reader.event(index, event, &route)?;
        reader.check_worlds(index, &read, &file)?;
        reader.check_users(index, &read, &file, &route)?;
        events.push(read);
    }
    events.sort_by_key(|event| event.at);
    let users = reader.users(file.users, &route)?;
    let comparable =
        file.worlds.contains(&World::Sim) && users.is_none() && is_long_enough(&route) && events.iter().all(is_alike);
    let behaviour =
        |file: &VersionFile| Behaviour { endpoints: file.endpoints, errors: file.errors.0, slow: file.slow.0 };
    Ok(Scenario {
        name: name.to_owned(),
        about: file.about,
        route,
        route_keys: file.route,
        versions: file.versions.iter().map(|(version, file)| (version.clone(), behaviour(file))).collect(),
        rate: file.rate,
        users,
        worlds: file.worlds,
        live: file.live.into(),
        edges: file.edges,
        api_server: file.api_server,
        events,
        end: file.end.0,
        comparable,
        holds: file.holds.into(),
    })
}

/// Whether the same can happen to a peer.
fn is_alike(event: &Event) -> bool {
    event.phase.is_none() && matches!(event.what, What::Fault(_) | What::Down(_) | What::Traffic(_))
}

/// Whether there is something to see for who looks at figures once a minute.
fn is_long_enough(route: &Route) -> bool {
    route.plan.steps().iter().map(|step| step.hold).sum::<Duration>() >= SHORTEST_COMPARED
}

impl From<HoldsFile> for Holds {
    fn from(file: HoldsFile) -> Self {
        Self {
            ends: file.ends,
            taken_back_within: file.taken_back_within.map(|span| span.0),
            never_taken_back: file.never_taken_back,
            promoted_within: file.promoted_within.map(|span| span.0),
            bad_answers_at_most: file.bad_answers_at_most,
            availability_at_least: file.availability_at_least.map(|share| share.0),
            other_bad_answers_at_most: file.other_bad_answers_at_most,
            memory_at_most: file.memory_at_most.map(|size| size.0),
            descriptors_at_most: file.descriptors_at_most,
        }
    }
}

impl From<LiveFile> for Live {
    fn from(LiveFile { speed, connections, descriptors, models, small_disk }: LiveFile) -> Self {
        let descriptors = descriptors.map(|Descriptors(descriptors)| descriptors);
        Self { speed, connections: connections.0, descriptors, models, small_disk }
    }
}

/// What every part of the file is read with.
struct Reader<'a> {
    name: &'a str,
    versions: &'a BTreeMap<VersionId, VersionFile>,
    route: &'a Map<String, Value>,
    has_api_server: bool,
    has_many_edges: bool,
    has_small_disk: bool,
}

impl Reader<'_> {
    fn senseless(&self, place: &str, what: impl Into<String>) -> ScenarioError {
        ScenarioError::Senseless { name: self.name.to_owned(), place: place.to_owned(), what: what.into() }
    }

    fn check(&self, file: &ScenarioFile) -> Result<(), ScenarioError> {
        if !(0.0..=MAX_RATE).contains(&file.rate) {
            return Err(
                self.senseless("rate", format!("{} is no rate; write 0 to {MAX_RATE} requests per second", file.rate))
            );
        }
        if file.end.0 > MAX_END || file.end.0.is_zero() {
            return Err(self.senseless("end", "a scenario lasts more than nothing and 48h at most"));
        }
        if file.worlds.is_empty() {
            return Err(self.senseless("worlds", "name at least one of sim and live, or leave it out for both"));
        }
        if !(1..=MAX_EDGES).contains(&file.edges) {
            return Err(self.senseless("edges", format!("write 1 to {MAX_EDGES}")));
        }
        if file.edges > 1 && !file.api_server {
            return Err(
                self.senseless("edges", "several edges keep their state on an API server; write `api_server: true`")
            );
        }
        if !(1.0..=MAX_SPEED).contains(&file.live.speed) {
            return Err(self.senseless("live.speed", format!("write 1 to {MAX_SPEED}")));
        }
        for (version, file) in &file.versions {
            let place = format!("versions.{version}");
            if !(1..=MAX_ENDPOINTS).contains(&file.endpoints) {
                return Err(self.senseless(&place, format!("endpoints: write 1 to {MAX_ENDPOINTS}")));
            }
            if file.errors.0 + file.slow.0 > 1.0 {
                return Err(
                    self.senseless(&place, "errors and slow are shares of the same requests: 100% together at most")
                );
            }
        }
        Ok(())
    }

    /// The route of a config file that holds nothing else; every version at as many endpoints as it has.
    fn route(&self, place: &str, keys: &Map<String, Value>) -> Result<Arc<Route>, ScenarioError> {
        let mut route = keys.clone();
        route.entry("name").or_insert_with(|| json!(self.name));
        let mut revisions = match route.remove("revisions") {
            Some(Value::Object(revisions)) => revisions,
            Some(_) => return Err(self.senseless(place, "revisions: write { VERSION: REVISION }")),
            None => Map::new(),
        };
        if self.has_api_server {
            route.entry("kubernetes").or_insert_with(|| json!({ "service": LIVE_SERVICE }));
        }
        let written = |(version, file): (&VersionId, &VersionFile)| {
            let endpoints: Vec<String> = (1..=file.endpoints).map(|port| format!("127.0.0.1:{port}")).collect();
            let by_service = json!({ "service": version, "port": 8000 });
            let mut written = if self.has_api_server { by_service } else { json!({ "endpoints": endpoints }) };
            if let (Some(revision), Some(keys)) = (revisions.remove(version.as_str()), written.as_object_mut()) {
                keys.insert("revision".to_owned(), revision);
            }
            (version.to_string(), written)
        };
        let versions: Map<String, Value> = self.versions.iter().map(written).collect();
        route.insert("versions".to_owned(), Value::Object(versions));
        let mut config = json!({ "listeners": [{ "address": "127.0.0.1:0" }], "routes": [route] });
        if let Some(keys) = config.as_object_mut().filter(|_| self.has_api_server) {
            keys.insert("state".to_owned(), json!({ "kubernetes": { "namespace": "default" } }));
        }
        let config = config.to_string();
        let refused = |problems| ScenarioError::Route {
            name: self.name.to_owned(),
            place: place.to_owned(),
            problems: Problems(problems),
        };
        let parsed = Config::parse(&config, self.name).map_err(refused)?;
        let route = parsed.config.routes.into_iter().next();
        route.map(Arc::new).ok_or_else(|| self.senseless(place, "there is no route"))
    }

    /// Who sends the requests; the route says what makes a user.
    fn users(&self, count: Option<u32>, route: &Route) -> Result<Option<Users>, ScenarioError> {
        let Some(count) = count else { return Ok(None) };
        if !(1..=MAX_USERS).contains(&count) {
            return Err(self.senseless("users", format!("write 1 to {MAX_USERS}, or leave it out")));
        }
        match &route.sticky {
            Some(Sticky::Header(header)) => Ok(Some(Users { header: header.clone(), count })),
            Some(Sticky::Cookie(_) | Sticky::ClientIp) | None => {
                let what = "the route has to know them by a header; write `sticky: { header: x-user }` there";
                Err(self.senseless("users", what))
            }
        }
    }

    /// Users are known by the same all the time.
    fn check_users(
        &self,
        index: usize,
        event: &Event,
        file: &ScenarioFile,
        route: &Route,
    ) -> Result<(), ScenarioError> {
        if let What::Edit(edit) = &event.what
            && file.users.is_some()
            && edit.route.sticky != route.sticky
        {
            let what = "`users` are known by what the route begins with; leave `sticky` as it is";
            return Err(self.senseless(&format!("events[{index}]"), what));
        }
        Ok(())
    }

    /// Every world that is to play the scenario must be able to play each of its events.
    fn check_worlds(&self, index: usize, event: &Event, file: &ScenarioFile) -> Result<(), ScenarioError> {
        let unable = file.worlds.iter().find(|world| !event.is_played_by(**world));
        if let Some(world) = unable {
            let able = [World::Sim, World::Live].into_iter().find(|world| event.is_played_by(*world));
            let way_out = able.map_or_else(
                || "and no other one can; leave it out".to_owned(),
                |able| format!("write `worlds: [{able}]` beside `about`"),
            );
            let what = format!("the {world} world cannot play this; {way_out}");
            return Err(self.senseless(&format!("events[{index}]"), what));
        }
        let are_real = file.live.models == Models::ModelServer;
        if are_real && matches!(event.what, What::Fault(_)) {
            let what = "a real model server answers as it does; only fakes answer worse, so leave `live.models` out";
            return Err(self.senseless(&format!("events[{index}]"), what));
        }
        Ok(())
    }

    fn event(&self, index: usize, written: &Map<String, Value>, route: &Route) -> Result<Event, ScenarioError> {
        let place = format!("events[{index}]");
        let file = EventFile::deserialize(Value::Object(written.clone()))
            .map_err(|error| self.senseless(&place, error.to_string()))?;
        let (at, until) = (file.at.0, file.lasts.map(|span| file.at.0 + span.0));
        let what = self.what(&place, (&file, written.keys()), route)?;
        Ok(Event { at, until, phase: file.phase, what, text: Value::Object(written.clone()).to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
about: the canary fails
route:
  stable: v1
  rollout: { canary: v2, steps: [ { weight: 5%, hold: 1m } ] }
versions:
  v1: { endpoints: 2, errors: 0.1% }
  v2: {}
rate: 100
events:
  - { at: 8s, for: 2s, version: v2, errors: 50%, together: 5 }
  - { at: 3s, traffic: 2 }
end: 5m
holds: { ends: rolled_back, taken_back_within: 2s }
";

    #[test]
    fn a_route_is_what_a_config_file_makes_of_it_and_events_come_in_the_order_of_time() {
        let scenario = Scenario::parse(SMALL, "small").unwrap();
        assert_eq!(
            scenario.route.versions.values().map(|version| version.endpoints().len()).collect::<Vec<_>>(),
            [2, 1]
        );
        assert_eq!(scenario.canary().unwrap().as_str(), "v2");
        assert_eq!(scenario.events.iter().map(|event| event.at.as_secs()).collect::<Vec<_>>(), [3, 8]);
        assert_eq!(scenario.events[1].until, Some(Duration::from_secs(10)));
        assert_eq!(scenario.holds.ends, Some(PhaseName::RolledBack));
        assert_eq!(scenario.first_harm(scenario.canary().unwrap()), Some(Duration::from_secs(8)));
        assert!(scenario.comparable);
    }

    #[track_caller]
    fn is_refused(old: &str, new: &str, words: &str) {
        let text = SMALL.replace(old, new);
        assert_ne!(text, SMALL);
        let error = Scenario::parse(&text, "small").unwrap_err();
        let said =
            format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_the_way_out() {
        is_refused("rate: 100", "rate: -1", "write 0 to 100000 requests per second");
        is_refused("rate: 100", "ratte: 100", "ratte");
        is_refused("weight: 5%", "weight: 500%", "rollout.steps[0].weight");
        is_refused("errors: 50%", "errors: 50", "write a share as a percentage");
        is_refused(
            "version: v2, errors: 50%",
            "version: v9, errors: 50%",
            "events[0]: name one of the scenario's versions",
        );
        is_refused("version: v2, errors: 50%", "version: v2, errors: 80%, hang: 30%", "100% together at most");
        is_refused("traffic: 2", "traffic: 2, order: pause", "events[1]: write one of");
        is_refused("traffic: 2", "state: full", "write `live: { small_disk: true }`");
        is_refused("traffic: 2", "state: deleted", "write `edge: killed` beside it");
        is_refused(
            "traffic: 2",
            "for: 1s, config: garbage",
            "events[1]: the sim world cannot play this; write `worlds: [live]`",
        );
        is_refused("traffic: 2", "edge: upgraded", "write `worlds: [live]`");
        is_refused("traffic: 2", "version: v2, latency: { median: 9ms, p99: 3ms }", "p99 below its median");
        is_refused("traffic: 2", "clients: { idle: 1, garbage: 1 }", "events[1]");
        is_refused("traffic: 2", "api: slow", "there is no API server; write `api_server: true`");
        is_refused("rate: 100", "rate: 100\nedges: 3", "write `api_server: true`");
        is_refused("traffic: 2", "order: pause, who: follower", "there is no edge that follows");
        is_refused("traffic: 2", "edit: { stable: v1 }, late: 3s, who: follower", "write `edges: 3`");
        is_refused("traffic: 2", "edit: { stable: v1 }, late: 3s", "so much `late`");
        is_refused("traffic: 2", "order: adopt", "there is no live Service that somebody else could change");
        is_refused("rate: 100", "rate: 100\nworlds: []", "name at least one of sim and live");
        is_refused("rate: 100", "rate: 100\nlive: { speed: 0 }", "live.speed: write 1 to 100");
        is_refused(
            "rate: 100",
            "rate: 100\nlive: { connections: 0 }",
            "line 10 column 22: 0 connections carry no load; write 1 to 4096",
        );
        is_refused(
            "rate: 100",
            "rate: 100\nlive: { descriptors: 8 }",
            "line 10 column 22: no edge starts with 8 descriptors",
        );
        is_refused("rate: 100", "rate: 100\nlive: { models: model_server }", "only fakes answer worse");
        is_refused("traffic: 2", "edge: killed", "for how long");
        is_refused("traffic: 2", "traffic: 2, ramp: 1s, wave: 1s", "events[1]: traffic grows by `ramp`, or comes");
        is_refused("rate: 100", "rate: 100\nusers: 0", "users: write 1 to 10000");
        is_refused("rate: 100", "rate: 100\nusers: 50", "users: the route has to know them by a header");
        is_refused("traffic: 2", "clock: -2s, for: 1s", "clock: write 10s or more");
        is_refused("traffic: 2", "traffic: 2, every: 1s", "events[1]: `every` says nothing of such an event");
        is_refused("traffic: 2", "traffic: 2, wave: 10ms", "wave: write 1s or more");
        is_refused("end: 5m", "end: 500h", "48h at most");
    }

    #[test]
    fn an_edit_replaces_the_plan_and_keeps_the_rest_of_the_route() {
        let text = SMALL.replace("traffic: 2", "edit: { weights: { v1: 90%, v2: 10% }, revisions: { v2: r2 } }");
        let scenario = Scenario::parse(&text, "small").unwrap();
        let What::Edit(edit) = &scenario.events[0].what else { panic!("no edit") };
        let route = &edit.route;
        assert!(edit.keys.contains_key("weights") && !edit.keys.contains_key("rollout"));
        assert!(matches!(route.plan, pointsman_config::Plan::Weights(_)));
        assert_eq!(route.versions.values().nth(1).unwrap().revision.as_deref(), Some("r2"));
        assert!(!scenario.comparable);
    }
}
