//! The API server of a live world: a fake one in this process, with the Services and pods of the scenario's versions, and what
//! goes wrong with it.
//!
//! The edges reach it over HTTP, each by a way of its own. There is a kubelet in it as far as one is needed: a pod is ready
//! while its process is there.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pointsman_config::VersionId;
use pointsman_kubernetes::Observed;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::interval;

use super::LiveError;
use super::models::Fleet;
use crate::count::as_u64;
use crate::fakes::ApiServer;
use crate::fakes::api_server::{
    Effect, Key, Part, Patch, Refusal, Resource, Rule, RuleId, Selection, Settings, Verb, WatchEnd, WatchEvent, Writer,
};
use crate::scenario::{ApiFault, Scenario};

/// Where everything is.
pub(super) const NAMESPACE: &str = "default";
/// The port's name of every pod and Service.
pub(super) const PORT: &str = "http";
/// The live Service, where the scenario gives it no name.
const LIVE: &str = "model";
/// The edge waits for three.
const SLOW: Duration = Duration::from_secs(1);
/// Nobody waits so long for a write.
const LATE: Duration = Duration::from_secs(4);
const CUT_EVERY: Duration = Duration::from_millis(200);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the live Service has selected from one moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) at: Instant,
    pub(super) version: String,
    /// Somebody else than an edge wrote it.
    pub(super) is_foreign: bool,
}

/// From when on a version has a ready endpoint, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) at: Instant,
    pub(super) version: VersionId,
    pub(super) is_ready: bool,
}

/// The API server and what is told of it.
#[derive(Debug)]
pub(super) struct Cluster {
    api: Arc<ApiServer>,
    live: String,
    story: Arc<Mutex<Story>>,
    /// What is wrong, by the number of the event.
    faults: Vec<Wrong>,
    readiness: Vec<Readiness>,
    /// Ends with this.
    following: JoinSet<()>,
}

/// Who wrote on the live Service, and which rollout stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Writing {
    /// The term of the Lease under which it was written.
    term: u64,
    /// How many rollouts were begun before the one that is kept there.
    edition: u64,
}

impl Writing {
    /// As it stands there; nothing before an edge has claimed it.
    fn on(service: &Value) -> Option<Self> {
        let service = serde_json::from_value(service.clone()).ok()?;
        let observed = Observed::of(&service);
        let edition = observed.state.read().map_or(0, |state| state.saved.depth().0);
        Some(Self { term: observed.fence.read()?.term, edition })
    }

    /// The rule that a later one breaks with this one before it, and how.
    fn goes_back_to(&self, later: &Self) -> Option<(&'static str, String)> {
        if later.term < self.term {
            let said = format!("a leader of term {} wrote after one of term {}", later.term, self.term);
            return Some(("a stale write", said));
        }
        (later.edition < self.edition).then(|| {
            let said = "the state of an earlier rollout was written over that of a later one".to_owned();
            ("no step backwards", said)
        })
    }
}

/// One thing that is wrong with it.
#[derive(Debug)]
struct Wrong {
    index: usize,
    rules: Vec<RuleId>,
    /// Watches that had been asked for before it.
    watches: u64,
    /// Somebody else changed something.
    is_edited: bool,
    /// What goes on until it ends.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Story {
    selected: Vec<Selected>,
    /// What was written there last, and what that should not have been.
    writing: Option<Writing>,
    backwards: Vec<(&'static str, String)>,
    /// Resource versions that somebody else wrote.
    foreign: BTreeSet<String>,
}

fn told(story: &Mutex<Story>) -> MutexGuard<'_, Story> {
    story.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by(who: &str) -> Writer {
    Writer::new(who, SystemTime::now())
}

/// How the Service of a version is called.
pub(super) fn service_of(version: &VersionId) -> String {
    format!("model-{version}")
}

/// How the live Service of a scenario is called.
pub(super) fn live_of(scenario: &Scenario) -> &str {
    scenario.route_keys.get("kubernetes").and_then(|keys| keys.get("service")).and_then(Value::as_str).unwrap_or(LIVE)
}

fn pod(version: &VersionId, number: usize) -> String {
    format!("{version}-{number}")
}

impl Cluster {
    /// With a Service for each version, one that selects stable, and a pod for each endpoint.
    pub(super) async fn start(scenario: &Scenario, fleet: &Fleet) -> Result<Self, LiveError> {
        let settings = Settings { allow_loopback: true, ..Settings::default() };
        let api = ApiServer::start_with(settings).await.map_err(broken)?;
        let mut cluster = Self {
            api: Arc::new(api),
            live: live_of(scenario).to_owned(),
            story: Arc::default(),
            faults: Vec::new(),
            readiness: Vec::new(),
            following: JoinSet::new(),
        };
        for version in scenario.versions.keys() {
            cluster.add_service(&service_of(version), version)?;
            for (number, address) in fleet.addresses(version).into_iter().enumerate() {
                cluster.add_pod(version, number, address)?;
            }
        }
        cluster.add_service(&cluster.live, &scenario.route.stable)?;
        cluster.hear_of(fleet)?;
        let (api, story, live) = (Arc::clone(&cluster.api), Arc::clone(&cluster.story), cluster.live.clone());
        cluster.following.spawn(follow(api, story, live));
        Ok(cluster)
    }

    fn create(&self, resource: Resource, object: Value) -> Result<(), LiveError> {
        let created = self.api.store().create(resource, NAMESPACE, object, &by("kubectl"));
        created.map(drop).map_err(refused)
    }

    fn add_service(&self, name: &str, version: &VersionId) -> Result<(), LiveError> {
        let spec = json!({
            "selector": { "app": "model", "version": version },
            "ports": [{ "name": PORT, "port": 80, "targetPort": PORT }],
        });
        self.create(Resource::Service, json!({ "metadata": { "name": name }, "spec": spec }))
    }

    fn add_pod(&self, version: &VersionId, number: usize, address: SocketAddr) -> Result<(), LiveError> {
        let ports = json!([{ "name": PORT, "containerPort": address.port() }]);
        let containers = json!([{ "name": "model", "image": "model:1", "ports": ports }]);
        let labels = json!({ "app": "model", "version": version });
        let metadata = json!({ "name": pod(version, number), "labels": labels });
        self.create(Resource::Pod, json!({ "metadata": metadata, "spec": { "containers": containers } }))
    }

    /// The kubelet: each pod is ready while its process is there.
    pub(super) fn hear_of(&mut self, fleet: &Fleet) -> Result<(), LiveError> {
        for (version, endpoints) in fleet.presence() {
            for (number, (address, is_there)) in endpoints.iter().enumerate() {
                let ip = address.ip().to_string();
                let is_ready = if *is_there { "True" } else { "False" };
                let conditions = json!([{ "type": "Ready", "status": is_ready }]);
                let status =
                    json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": conditions });
                let patch = Patch::Merge(json!({ "status": status }));
                let key = Key::new(Resource::Pod, NAMESPACE, &pod(version, number));
                self.api.store().patch(&key, Part::Status, &patch, &by("kubelet")).map_err(refused)?;
            }
            let is_ready = endpoints.iter().any(|(_, is_there)| *is_there);
            let known = self.readiness.iter().rev().find(|known| known.version == *version);
            if known.is_none_or(|known| known.is_ready != is_ready) {
                self.readiness.push(Readiness { at: Instant::now(), version: version.clone(), is_ready });
            }
        }
        Ok(())
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.api.addr()
    }

    /// A kubeconfig for one edge that reaches it by `way`.
    pub(super) fn kubeconfig(&self, user: &str, way: SocketAddr) -> String {
        self.api.kubeconfig(user, NAMESPACE).replace(&self.api.url(), &format!("http://{way}"))
    }

    /// Something goes wrong with it, until the event of this number ends.
    pub(super) fn begin(&mut self, index: usize, fault: ApiFault) -> Result<(), LiveError> {
        let mut tasks = JoinSet::new();
        let mut is_edited = false;
        let rules = match fault {
            ApiFault::Slow => vec![(Rule::everything(), Effect::Delay(SLOW))],
            ApiFault::Conflict => {
                let writes =
                    [(Verb::Patch, Resource::Service), (Verb::Patch, Resource::Lease), (Verb::Update, Resource::Lease)];
                writes.map(|(verb, of)| (Rule::on(verb, of), Effect::Conflict)).into()
            }
            ApiFault::TooMany => {
                vec![(Rule::everything(), Effect::Refuse(Refusal::too_many_requests(TRY_AGAIN_AFTER)))]
            }
            ApiFault::Failing => vec![(Rule::everything(), Effect::Refuse(Refusal::server_error(503)))],
            ApiFault::Hanging => {
                self.api.silence_watches(true);
                vec![(Rule::everything(), Effect::Hang)]
            }
            ApiFault::WatchCut => {
                tasks.spawn(cut_watches(Arc::clone(&self.api)));
                Vec::new()
            }
            ApiFault::Late => {
                let late = Effect::Late { after: Some(LATE), answer: None };
                vec![(Rule::on(Verb::Patch, Resource::Service).dry_run(false), late)]
            }
            ApiFault::ForeignEdit => {
                is_edited = self.edit_as_somebody_else()?;
                Vec::new()
            }
        };
        let ids = rules.into_iter().map(|(rule, effect)| self.api.faults().add(rule, effect)).collect();
        self.faults.push(Wrong { index, rules: ids, watches: self.watches(), is_edited, _tasks: tasks });
        Ok(())
    }

    /// How many watches were asked for so far.
    fn watches(&self) -> u64 {
        as_u64(self.api.journal().iter().filter(|exchange| exchange.verb == Verb::Watch).count())
    }

    /// How often the event of this number struck so far: requests that met it, watches that began anew, or its edit.
    pub(super) fn struck(&self, index: usize, fault: ApiFault) -> u64 {
        let own = || self.faults.iter().filter(|wrong| wrong.index == index);
        match fault {
            ApiFault::WatchCut => own().map(|wrong| self.watches().saturating_sub(wrong.watches)).sum(),
            ApiFault::ForeignEdit => as_u64(own().filter(|wrong| wrong.is_edited).count()),
            ApiFault::Slow
            | ApiFault::Conflict
            | ApiFault::TooMany
            | ApiFault::Failing
            | ApiFault::Hanging
            | ApiFault::Late => {
                own().flat_map(|wrong| &wrong.rules).map(|rule| u64::from(self.api.faults().met(*rule))).sum()
            }
        }
    }

    /// It works again.
    pub(super) fn end(&mut self, index: usize) {
        for wrong in self.faults.extract_if(.., |wrong| wrong.index == index) {
            for rule in wrong.rules {
                self.api.faults().remove(rule);
            }
        }
        self.api.silence_watches(false);
    }

    /// Somebody selects another version by hand; whether there was one.
    fn edit_as_somebody_else(&self) -> Result<bool, LiveError> {
        let present = self.selected();
        let other = self.readiness.iter().map(|known| known.version.as_str()).find(|known| *known != present);
        let Some(other) = other else { return Ok(false) };
        let mut store = self.api.store();
        let key = Key::new(Resource::Service, NAMESPACE, &self.live);
        let select = |service: &mut Value| {
            if let Some(version) = service.pointer_mut("/spec/selector/version") {
                *version = json!(other);
            }
        };
        let edited = store.edit(&key, &by("kubectl-edit"), select).map_err(refused)?;
        told(&self.story).foreign.insert(revision_of(&edited));
        Ok(true)
    }

    /// The version that the live Service selects.
    pub(super) fn selected(&self) -> String {
        let live = self.api.store().get(&Key::new(Resource::Service, NAMESPACE, &self.live));
        live.map(|live| version_of(&live)).unwrap_or_default()
    }

    /// What the live Service has selected, one after the other.
    pub(super) fn selections(&self) -> Vec<Selected> {
        told(&self.story).selected.clone()
    }

    /// What was written on the live Service by who had been replaced, or of a rollout that was over.
    pub(super) fn backwards(&self) -> Vec<(&'static str, String)> {
        told(&self.story).backwards.clone()
    }

    /// Which versions had a ready endpoint, from when on.
    pub(super) fn readiness(&self) -> &[Readiness] {
        &self.readiness
    }
}

fn refused(refusal: Refusal) -> LiveError {
    broken(io::Error::other(refusal))
}

fn broken(source: io::Error) -> LiveError {
    LiveError::Start { what: "the API server", source }
}

fn version_of(service: &Value) -> String {
    service.pointer("/spec/selector/version").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn revision_of(object: &Value) -> String {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Writes down each version that the live Service selects, as it happens.
async fn follow(api: Arc<ApiServer>, story: Arc<Mutex<Story>>, live: String) {
    let all = Selection::all(Resource::Service, Some(NAMESPACE));
    let mut revisions = api.revisions();
    let mut known = 0;
    loop {
        {
            let objects = api.store();
            // Nobody makes it forget its history here.
            let changes = objects.changes(&all, known).unwrap_or_default();
            known = objects.revision();
            let mut story = told(&story);
            for change in changes {
                if let WatchEvent::Added(service) | WatchEvent::Modified(service) = change {
                    story.take_in(&service, &live);
                }
            }
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

impl Story {
    fn take_in(&mut self, service: &Value, live: &str) {
        let is_live = service.pointer("/metadata/name").and_then(Value::as_str) == Some(live);
        if let Some(later) = is_live.then(|| Writing::on(service)).flatten() {
            let before = self.writing.replace(later);
            self.backwards.extend(before.and_then(|before| before.goes_back_to(&later)));
        }
        let version = version_of(service);
        if is_live && self.selected.last().is_none_or(|last| last.version != version) {
            let is_foreign = self.foreign.contains(&revision_of(service));
            self.selected.push(Selected { at: Instant::now(), version, is_foreign });
        }
    }
}

async fn cut_watches(api: Arc<ApiServer>) {
    let mut each = interval(CUT_EVERY);
    for end in [WatchEnd::Torn, WatchEnd::Closed, WatchEnd::Expired].into_iter().cycle() {
        each.tick().await;
        api.end_watches(end);
    }
}

#[cfg(test)]
mod tests {
    use pointsman_kubernetes::annotation::FENCE;

    use super::*;

    #[test]
    fn a_leader_that_was_replaced_and_a_rollout_that_is_over_are_found_on_the_live_service() {
        let writing = |term, edition| Writing { term, edition };
        let rule = |before: Writing, later: Writing| before.goes_back_to(&later).map(|(rule, _)| rule);
        assert_eq!(rule(writing(3, 1), writing(3, 1)), None);
        assert_eq!(rule(writing(3, 1), writing(4, 2)), None);
        assert_eq!(rule(writing(3, 1), writing(2, 2)), Some("a stale write"));
        assert_eq!(rule(writing(3, 2), writing(4, 1)), Some("no step backwards"));
        let service = |fence: &str| json!({ "metadata": { "name": "model", "annotations": { FENCE: fence } } });
        let mut story = Story::default();
        for fence in ["4/edge-0", "5/edge-1", "5/edge-1", "4/edge-0"] {
            story.take_in(&service(fence), "model");
        }
        assert_eq!(story.backwards.iter().map(|(rule, _)| *rule).collect::<Vec<_>>(), ["a stale write"]);
    }
}
