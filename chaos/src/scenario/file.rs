//! The file of a scenario: YAML into the structs of the file, and these into a [`Scenario`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Config, Route, VersionId, parse_duration, parse_percent};
use pointsman_rollout::{OrderKind, PhaseName, Resume};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::{Behaviour, Event, Fault, Holds, Problems, Scenario, ScenarioError, What};

/// More than a machine of ours sees, and far from where counts of one tick lose their meaning.
const MAX_RATE: f64 = 100_000.0;
const MAX_ENDPOINTS: usize = 100;
/// Long enough for the longest plan, short enough that a slip of the pen ends.
const MAX_END: Duration = Duration::from_hours(48);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    about: String,
    route: Map<String, Value>,
    versions: BTreeMap<VersionId, VersionFile>,
    rate: f64,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventFile {
    at: Span,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    version: Option<VersionId>,
    errors: Option<Percent>,
    slow: Option<Percent>,
    hang: Option<Percent>,
    ramp: Option<Span>,
    together: Option<u32>,
    down: Option<usize>,
    traffic: Option<f64>,
    edge: Option<EdgeFile>,
    order: Option<OrderFile>,
    edit: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum EdgeFile {
    Killed,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderFile {
    Promote,
    Rollback,
    Pause,
    Resume,
    Retry,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HoldsFile {
    ends: Option<PhaseName>,
    taken_back_within: Option<Span>,
    never_taken_back: bool,
    promoted_within: Option<Span>,
    bad_answers_at_most: Option<u64>,
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

pub(super) fn read(text: &str, name: &str) -> Result<Scenario, ScenarioError> {
    let file: ScenarioFile = serde_saphyr::from_str(text)
        .map_err(|source| ScenarioError::Unwritten { name: name.to_owned(), source: Box::new(source) })?;
    let reader = Reader { name, versions: &file.versions, route: &file.route };
    let route = reader.route("route", &file.route)?;
    reader.check(&file)?;
    let mut events = Vec::with_capacity(file.events.len());
    for (index, event) in file.events.iter().enumerate() {
        events.push(reader.event(index, event, &route)?);
    }
    events.sort_by_key(|event| event.at);
    let is_alike = |event: &Event| matches!(event.what, What::Fault(_) | What::Down { .. } | What::Traffic(_));
    let comparable = events.iter().all(is_alike);
    let behaviour =
        |file: &VersionFile| Behaviour { endpoints: file.endpoints, errors: file.errors.0, slow: file.slow.0 };
    Ok(Scenario {
        name: name.to_owned(),
        about: file.about,
        route,
        versions: file.versions.iter().map(|(version, file)| (version.clone(), behaviour(file))).collect(),
        rate: file.rate,
        events,
        end: file.end.0,
        comparable,
        holds: Holds {
            ends: file.holds.ends,
            taken_back_within: file.holds.taken_back_within.map(|span| span.0),
            never_taken_back: file.holds.never_taken_back,
            promoted_within: file.holds.promoted_within.map(|span| span.0),
            bad_answers_at_most: file.holds.bad_answers_at_most,
        },
    })
}

/// What every part of the file is read with.
struct Reader<'a> {
    name: &'a str,
    versions: &'a BTreeMap<VersionId, VersionFile>,
    route: &'a Map<String, Value>,
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
        let written = |(version, file): (&VersionId, &VersionFile)| {
            let endpoints: Vec<String> = (1..=file.endpoints).map(|port| format!("127.0.0.1:{port}")).collect();
            let mut written = json!({ "endpoints": endpoints });
            if let (Some(revision), Some(keys)) = (revisions.remove(version.as_str()), written.as_object_mut()) {
                keys.insert("revision".to_owned(), revision);
            }
            (version.to_string(), written)
        };
        let versions: Map<String, Value> = self.versions.iter().map(written).collect();
        route.insert("versions".to_owned(), Value::Object(versions));
        let config = json!({ "listeners": [{ "address": "127.0.0.1:0" }], "routes": [route] }).to_string();
        let refused = |problems| ScenarioError::Route {
            name: self.name.to_owned(),
            place: place.to_owned(),
            problems: Problems(problems),
        };
        let parsed = Config::parse(&config, self.name).map_err(refused)?;
        let route = parsed.config.routes.into_iter().next();
        route.map(Arc::new).ok_or_else(|| self.senseless(place, "there is no route"))
    }

    fn event(&self, index: usize, written: &Map<String, Value>, route: &Route) -> Result<Event, ScenarioError> {
        let place = format!("events[{index}]");
        let file = EventFile::deserialize(Value::Object(written.clone()))
            .map_err(|error| self.senseless(&place, error.to_string()))?;
        let (at, until) = (file.at.0, file.lasts.map(|span| file.at.0 + span.0));
        let what = self.what(&place, &file, route)?;
        Ok(Event { at, until, what, text: Value::Object(written.clone()).to_string() })
    }

    fn what(&self, place: &str, file: &EventFile, route: &Route) -> Result<What, ScenarioError> {
        let is_fault = file.errors.is_some() || file.slow.is_some() || file.hang.is_some();
        let kinds = [
            is_fault,
            file.down.is_some(),
            file.traffic.is_some(),
            file.edge.is_some(),
            file.order.is_some(),
            file.edit.is_some(),
        ];
        if kinds.into_iter().filter(|is_there| *is_there).count() != 1 {
            return Err(self.senseless(
                place,
                "write one of errors/slow/hang (with version), down (with version), traffic, edge, order, edit",
            ));
        }
        if let Some(times) = file.traffic {
            let is_sane = (0.0..=1_000.0).contains(&times);
            return if is_sane {
                Ok(What::Traffic(times))
            } else {
                Err(self.senseless(place, "traffic: write 0 to 1000"))
            };
        }
        if let Some(EdgeFile::Killed) = file.edge {
            return file
                .lasts
                .map(|_| What::EdgeKilled)
                .ok_or_else(|| self.senseless(place, "say for how long with `for`"));
        }
        if let Some(keys) = &file.edit {
            let mut merged = self.route.clone();
            if keys.contains_key("weights") || keys.contains_key("rollout") {
                merged.remove("weights");
                merged.remove("rollout");
            }
            merged.extend(keys.clone());
            return self.route(&format!("{place}.edit"), &merged).map(What::Edit);
        }
        let version = file.version.clone().filter(|version| self.versions.contains_key(version));
        if let Some(order) = file.order {
            return self.order(place, order, version, route);
        }
        let version =
            version.ok_or_else(|| self.senseless(place, "name one of the scenario's versions with `version`"))?;
        match file.down {
            Some(endpoints) => Ok(What::Down { version, endpoints }),
            None => self.fault(place, version, file),
        }
    }

    fn fault(&self, place: &str, version: VersionId, file: &EventFile) -> Result<What, ScenarioError> {
        let share = |written: Option<Percent>| written.unwrap_or_default().0;
        let fault = Fault {
            version,
            errors: share(file.errors),
            slow: share(file.slow),
            hang: share(file.hang),
            ramp: file.ramp.map_or(Duration::ZERO, |span| span.0),
            together: file.together.unwrap_or(1).max(1),
        };
        let all = fault.errors + fault.slow + fault.hang;
        if all > 1.0 {
            return Err(
                self.senseless(place, "errors, slow and hang are shares of the same requests: 100% together at most")
            );
        }
        Ok(What::Fault(fault))
    }

    fn order(
        &self,
        place: &str,
        order: OrderFile,
        version: Option<VersionId>,
        route: &Route,
    ) -> Result<What, ScenarioError> {
        let kind = match order {
            OrderFile::Promote => OrderKind::Promote,
            OrderFile::Rollback => OrderKind::Rollback,
            OrderFile::Pause => OrderKind::Pause,
            OrderFile::Resume => OrderKind::Resume(Resume::GoOn),
            OrderFile::Retry => {
                let other = self.versions.keys().find(|version| **version != route.stable).cloned();
                let wanted = version.or(other);
                OrderKind::Retry(wanted.ok_or_else(|| self.senseless(place, "there is no version to try again"))?)
            }
        };
        Ok(What::Order(kind))
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
        is_refused("traffic: 2", "edge: killed", "for how long");
        is_refused("end: 5m", "end: 500h", "48h at most");
    }

    #[test]
    fn an_edit_replaces_the_plan_and_keeps_the_rest_of_the_route() {
        let text = SMALL.replace("traffic: 2", "edit: { weights: { v1: 90%, v2: 10% }, revisions: { v2: r2 } }");
        let scenario = Scenario::parse(&text, "small").unwrap();
        let What::Edit(route) = &scenario.events[0].what else { panic!("no edit") };
        assert!(matches!(route.plan, pointsman_config::Plan::Weights(_)));
        assert_eq!(route.versions.values().nth(1).unwrap().revision.as_deref(), Some("r2"));
        assert!(!scenario.comparable);
    }
}
