//! What edges share in a simulated world: an API server with the live Service of the route, one Service for each version, their
//! pods and slices, and a Lease.
//!
//! Objects live in the store of the fake API server, so that a patch lands or does not as it would on a real one. How long a
//! call takes, and whether it is answered, is a model: [`Cluster::fate`].

mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pointsman_config::{LiveService, Route, VersionId};
use pointsman_kubernetes::{Document, FIELD_MANAGER, Observed, Record};
use serde_json::{Value, json};

pub(super) use shown::Shown;

use super::checks::Checks;
use super::fleet::Fleet;
use crate::fakes::api_server::{Key, Part, Patch, Refusal, Resource, Store, Writer, slice_changes};
use crate::scenario::ApiFault;

/// Where everything is.
const NAMESPACE: &str = "default";
/// When the world begins, by the clock of the API server.
const BEGINS: Duration = Duration::from_hours(24 * 365 * 57);
/// Endpoints of one slice, so that a flip goes through mixed states.
const ENDPOINTS_PER_SLICE: usize = 2;
/// Slices that are written in a tick.
const SLICES_PER_TICK: usize = 2;
/// How long a call takes while the API server is slow.
const SLOW: Duration = Duration::from_secs(1);
/// After so long nobody waits for an answer any more: the deadline of every call of an edge.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);
/// Watches are cut this often, and connected again after the other.
const CUT_EVERY: Duration = Duration::from_secs(1);
const CONNECTS_AFTER: Duration = Duration::from_millis(400);

/// What is asked of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// To read something.
    Read,
    /// To write the Lease.
    Lease,
    /// To patch the live Service.
    Patch,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done and answered.
    After(Duration),
    /// It is refused at once, and nothing is done.
    Refused,
    /// It is neither done nor answered.
    Never,
    /// It is done when nobody waits for it any more.
    Late,
}

/// How often the live Service and the slices were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Written {
    service: u64,
    slices: u64,
}

/// The live Service before a patch landed on it, and after.
pub(super) struct Landed {
    pub(super) before: Arc<Observed>,
    pub(super) after: Arc<Observed>,
}

/// A trouble with the API server, and from when until when.
struct Trouble {
    fault: ApiFault,
    from: Duration,
    until: Option<Duration>,
}

/// The API server and what stands there.
pub(super) struct Cluster {
    store: Store,
    now: Duration,
    service: LiveService,
    versions: Vec<VersionId>,
    /// The probes of the machine that pods run on: they make a pod ready or not.
    probes: Checks,
    /// How many pods of each version are ready.
    pods: BTreeMap<VersionId, usize>,
    are_slices_right: bool,
    written: Written,
    shown: Option<Arc<Shown>>,
    lease: Option<Record>,
    lease_writes: u64,
    troubles: Vec<Trouble>,
    /// What the store refused of what the world itself does.
    refused: Vec<String>,
}

impl Cluster {
    pub(super) fn new(route: &Route, service: &LiveService, fleet: &Fleet) -> Self {
        let mut cluster = Self {
            store: Store::new(),
            now: Duration::ZERO,
            service: service.clone(),
            versions: route.versions.keys().cloned().collect(),
            probes: Checks::new(route, fleet),
            pods: BTreeMap::new(),
            are_slices_right: false,
            written: Written::default(),
            shown: None,
            lease: None,
            lease_writes: 0,
            troubles: Vec::new(),
            refused: Vec::new(),
        };
        cluster.set_up(route, fleet);
        cluster
    }

    fn set_up(&mut self, route: &Route, fleet: &Fleet) {
        self.create_service(&self.service.service.clone(), &route.stable);
        for (version, endpoints, _) in fleet.failing_checks() {
            self.create_service(version.as_str(), version);
            for pod in 0..endpoints {
                let labels = self.labels(version);
                let spec = json!({ "nodeName": "node", "containers": [{ "name": "model", "image": "model" }] });
                let name = pod_name(version, pod);
                self.create(Resource::Pod, json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }));
                self.set_ready(version, pod, true);
            }
            self.pods.insert(version.clone(), endpoints);
        }
        while !self.are_slices_right {
            self.move_slices();
        }
    }

    fn create_service(&mut self, name: &str, selects: &VersionId) {
        let ports = json!([{ "name": "http", "port": 8000 }]);
        let spec = json!({ "selector": self.labels(selects), "ports": ports });
        self.create(Resource::Service, json!({ "metadata": { "name": name }, "spec": spec }));
    }

    fn create(&mut self, resource: Resource, object: Value) {
        let by = self.writer("kubectl");
        let created = self.store.create(resource, NAMESPACE, object, &by);
        self.expect_done(created);
    }

    fn labels(&self, version: &VersionId) -> Value {
        let mut labels = json!({ "app": "model" });
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(self.service.selector_key.clone(), json!(version));
        }
        labels
    }

    /// What the world does to its own store is never refused.
    fn expect_done<T>(&mut self, done: Result<T, Refusal>) {
        if let Err(refusal) = done {
            self.refused.push(format!("the simulated API server refuses what the world does: {refusal}"));
        }
    }

    /// What went wrong with the world itself, in words.
    pub(super) fn take_refused(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refused)
    }

    fn writer(&self, manager: &str) -> Writer {
        Writer::new(manager, self.clock())
    }

    /// The time of day.
    pub(super) fn clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + BEGINS + self.now
    }

    fn live(&self) -> Key {
        Key::new(Resource::Service, NAMESPACE, &self.service.service)
    }

    // ---- time passes ----

    /// Pods come up or go down, and slices follow.
    pub(super) fn move_on(&mut self, fleet: &Fleet, now: Duration) {
        self.now = now;
        self.probes.look(fleet, now);
        let ready: Vec<(VersionId, usize, usize)> =
            self.probes.ready().iter().map(|(version, ready)| (version.clone(), ready.up, ready.total)).collect();
        for (version, up, total) in ready {
            let Some(before) = self.pods.insert(version.clone(), up).filter(|before| *before != up) else { continue };
            // The first ones go, as in the fleet.
            for pod in (total - before.max(up))..(total - before.min(up)) {
                self.set_ready(&version, pod, up > before);
            }
        }
        for _ in 0..SLICES_PER_TICK {
            self.move_slices();
        }
    }

    fn set_ready(&mut self, version: &VersionId, pod: usize, is_ready: bool) {
        let place = self.versions.iter().position(|known| known == version).unwrap_or_default();
        let ip = format!("10.{place}.{}.{}", pod / 250, pod % 250 + 1);
        let status = json!({
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": if is_ready { "True" } else { "False" } }],
        });
        let (key, by) = (Key::new(Resource::Pod, NAMESPACE, &pod_name(version, pod)), self.writer("kubelet"));
        let edited = self.store.edit(&key, &by, |pod| {
            if let Some(pod) = pod.as_object_mut() {
                pod.insert("status".to_owned(), status);
            }
        });
        self.expect_done(edited);
        self.are_slices_right = false;
    }

    /// The controller of slices writes one of them.
    fn move_slices(&mut self) {
        if self.are_slices_right {
            return;
        }
        let by = self.writer("kube-controller-manager");
        let Some(change) = slice_changes(&self.store, ENDPOINTS_PER_SLICE).into_iter().next() else {
            self.are_slices_right = true;
            return;
        };
        let applied = change.apply(&mut self.store, &by);
        self.are_slices_right = applied.is_err();
        self.expect_done(applied);
        self.written.slices += 1;
    }

    /// Whether a version has a ready pod.
    pub(super) fn has_ready(&self, version: &VersionId) -> bool {
        self.pods.get(version).is_some_and(|up| *up > 0)
    }

    // ---- what goes wrong ----

    /// From now on the API server is in trouble, or somebody else changes the live Service.
    pub(super) fn trouble(&mut self, fault: ApiFault, until: Option<Duration>) {
        if fault == ApiFault::ForeignEdit {
            self.meddle();
        } else {
            self.troubles.push(Trouble { fault, from: self.now, until });
        }
    }

    fn is_in(&self, fault: ApiFault) -> bool {
        let is_now =
            |trouble: &&Trouble| trouble.from <= self.now && trouble.until.is_none_or(|until| self.now < until);
        self.troubles.iter().filter(is_now).any(|trouble| trouble.fault == fault)
    }

    /// Whether nothing is wrong with it.
    pub(super) fn is_well(&self) -> bool {
        let is_over = |trouble: &Trouble| trouble.until.is_some_and(|until| until <= self.now);
        self.troubles.iter().all(is_over)
    }

    /// What becomes of a call that is made now.
    pub(super) fn fate(&self, call: Call) -> Fate {
        if self.is_in(ApiFault::Hanging) {
            Fate::Never
        } else if self.refuses(call) {
            Fate::Refused
        } else if call == Call::Patch && self.is_in(ApiFault::Late) {
            Fate::Late
        } else if self.is_in(ApiFault::Slow) {
            Fate::After(SLOW)
        } else {
            Fate::After(Duration::ZERO)
        }
    }

    fn refuses(&self, call: Call) -> bool {
        let is_write = call != Call::Read;
        self.is_in(ApiFault::Failing) || self.is_in(ApiFault::TooMany) || (is_write && self.is_in(ApiFault::Conflict))
    }

    /// Whether watches tell at this moment what happens.
    pub(super) fn are_watches_open(&self) -> bool {
        let in_second =
            u64::try_from(self.now.as_nanos() % CUT_EVERY.as_nanos()).map_or(CUT_EVERY, Duration::from_nanos);
        let is_cut = self.is_in(ApiFault::WatchCut) && in_second < CONNECTS_AFTER;
        !is_cut && !self.is_in(ApiFault::Hanging)
    }

    /// Somebody with `kubectl` has the live Service select another version than it does.
    fn meddle(&mut self) {
        let by = self.writer("kubectl-edit");
        let (key, versions) = (self.service.selector_key.clone(), self.versions.clone());
        let edited = self.store.edit(&self.live(), &by, |service| {
            let Some(selected) = service.pointer_mut(&format!("/spec/selector/{key}")) else { return };
            let other = versions.iter().find(|version| selected.as_str() != Some(version.as_str()));
            *selected = json!(other);
        });
        self.expect_done(edited);
        self.written.service += 1;
        self.are_slices_right = false;
    }

    // ---- what edges see and do ----

    /// What watches show now.
    pub(super) fn shown(&mut self) -> Arc<Shown> {
        let shown = Shown::of(&self.store, (&self.live(), &self.versions), self.written, self.shown.as_deref());
        let shown = Arc::new(shown);
        self.shown = Some(Arc::clone(&shown));
        shown
    }

    /// The Lease as it stands.
    pub(super) fn lease(&self) -> Option<&Record> {
        self.lease.as_ref()
    }

    /// Writes the Lease, if `over` is still what stands there; gives the record.
    pub(super) fn write_lease(&mut self, over: Option<&str>, record: Record) -> Option<Record> {
        if self.lease.as_ref().map(|lease| lease.version.as_str()) != over {
            return None;
        }
        self.lease_writes += 1;
        let record = Record { version: self.lease_writes.to_string(), ..record };
        self.lease = Some(record.clone());
        Some(record)
    }

    /// A patch arrives; none if one of its tests fails.
    pub(super) fn land(&mut self, document: &Document) -> Option<Landed> {
        let before = Arc::clone(&self.shown().observed);
        let patch = match Patch::json(document.operations().into()) {
            Ok(patch) => patch,
            Err(refusal) => {
                self.expect_done::<()>(Err(refusal));
                return None;
            }
        };
        let by = self.writer(FIELD_MANAGER);
        self.store.patch(&self.live(), Part::Whole, &patch, &by).ok()?;
        self.written.service += 1;
        let after = Arc::clone(&self.shown().observed);
        self.are_slices_right &= before.selector == after.selector;
        Some(Landed { before, after })
    }
}

fn pod_name(version: &VersionId, pod: usize) -> String {
    format!("{version}-{pod}")
}

#[cfg(test)]
mod tests {
    use pointsman_kubernetes::annotation::Fence;
    use pointsman_kubernetes::{Wanted, claim};
    use pointsman_rollout::{Rollout, Time};

    use super::*;
    use crate::scenario::Scenario;

    fn world(event: &str) -> (Scenario, Fleet, Cluster) {
        let text = format!(
            "
about: a live Service
api_server: true
worlds: [sim]
route: {{ stable: v1, weights: {{ v1: 60%, v2: 40% }} }}
versions: {{ v1: {{ endpoints: 3 }}, v2: {{ endpoints: 3 }} }}
rate: 1
events: [ {event} ]
end: 1m
"
        );
        let scenario = Scenario::parse(&text, "small").unwrap();
        let mut fleet = Fleet::new(&scenario);
        scenario.events.iter().for_each(|event| fleet.begin(event));
        let cluster = Cluster::new(&scenario.route, scenario.route.live_service.as_ref().unwrap(), &fleet);
        (scenario, fleet, cluster)
    }

    fn ready(shown: &Shown) -> [usize; 3] {
        let of = |version: &str| shown.members[&version.parse().unwrap()].ready();
        [shown.live.ready(), of("v1"), of("v2")]
    }

    #[test]
    fn pods_that_fail_their_probes_leave_the_slices_and_come_back_to_them() {
        let (_, mut fleet, mut cluster) = world("{ at: 1s, for: 20s, version: v1, down: 2 }");
        let mut at = |seconds: u64| {
            for tick in (seconds - 1) * 10..seconds * 10 {
                let now = Duration::from_millis(100 * tick);
                fleet.move_on(now);
                cluster.move_on(&fleet, now);
            }
            ready(&cluster.shown())
        };
        assert_eq!(at(1), [3, 3, 3]);
        (2..20).for_each(|second| assert!(at(second)[0] >= 1));
        assert_eq!(at(20), [1, 1, 3]);
        (21..40).for_each(|second| assert!(at(second)[0] >= 1));
        assert_eq!(at(40), [3, 3, 3]);
        assert_eq!(cluster.take_refused(), Vec::<String>::new());
    }

    #[test]
    fn a_patch_does_not_land_once_somebody_else_has_written() {
        let (scenario, _, mut cluster) = world("");
        let (rollout, _) = Rollout::start(Arc::clone(&scenario.route), Time::default());
        let (fence, saved) = (Fence { term: 1, holder: "a".to_owned() }, rollout.kept(Time::default()));
        let wanted = Wanted::of(&scenario.route.name, &fence, &saved);
        let claims = |cluster: &mut Cluster| claim(&cluster.shown().observed, &wanted).unwrap().unwrap();
        let early = claims(&mut cluster);
        cluster.trouble(ApiFault::ForeignEdit, None);
        assert_eq!(cluster.shown().observed.selector["version"], "v2");
        assert!(cluster.land(&early).is_none());
        let later = claims(&mut cluster);
        let landed = cluster.land(&later).unwrap();
        assert_eq!((landed.before.fence.read(), landed.after.fence.read()), (None, Some(&fence)));
    }

    #[test]
    fn each_trouble_is_met_by_the_calls_that_it_is_about() {
        let now = Fate::After(Duration::ZERO);
        for (fault, wanted) in [
            (ApiFault::Slow, [Fate::After(SLOW); 3]),
            (ApiFault::Conflict, [now, Fate::Refused, Fate::Refused]),
            (ApiFault::TooMany, [Fate::Refused; 3]),
            (ApiFault::Failing, [Fate::Refused; 3]),
            (ApiFault::Hanging, [Fate::Never; 3]),
            (ApiFault::WatchCut, [now; 3]),
            (ApiFault::Late, [now, now, Fate::Late]),
        ] {
            let (_, fleet, mut cluster) = world("");
            cluster.trouble(fault, Some(Duration::from_secs(5)));
            let fates = [Call::Read, Call::Lease, Call::Patch].map(|call| cluster.fate(call));
            assert_eq!(fates, wanted, "{fault:?}");
            assert_eq!(cluster.are_watches_open(), !matches!(fault, ApiFault::WatchCut | ApiFault::Hanging));
            assert!(!cluster.is_well());
            cluster.move_on(&fleet, Duration::from_secs(5));
            assert!(cluster.is_well() && cluster.fate(Call::Patch) == now, "{fault:?}");
        }
    }
}
