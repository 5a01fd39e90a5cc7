//! The controller that keeps `EndpointSlices`: which pods a Service selects, and which slices say so. Pure: it reads the
//! store and says what to write; the order of the writes, and that each is one of its own, make the mixed states that
//! a cluster goes through in a flip. Of the real one it leaves out nodes: that one passes over a pod whose node it
//! does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::object::{is_empty, list, set, text};
use super::refusal::Refusal;
use super::resource::{Key, Part, Resource};
use super::selector::Selection;
use super::store::{Deletion, Store, Writer};

/// Names the Service of a slice.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// What the controller would write next.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceChange {
    /// A slice more.
    Create {
        /// Its namespace.
        namespace: String,
        /// All of it.
        slice: Value,
    },
    /// Other endpoints or ports in a slice.
    Update {
        /// Which one.
        key: Key,
        /// All of it.
        slice: Value,
    },
    /// A slice less.
    Delete(Key),
}

impl SliceChange {
    /// Writes it.
    ///
    /// # Errors
    /// As the store's: a slice that was changed meanwhile is a conflict, and endpoints on loopback are invalid.
    pub fn apply(self, store: &mut Store, by: &Writer) -> Result<(), Refusal> {
        match self {
            Self::Create { namespace, slice } => store.create(Resource::EndpointSlice, &namespace, slice, by).map(drop),
            Self::Update { key, slice } => store.replace(&key, Part::Whole, slice, by).map(drop),
            Self::Delete(key) => store.delete(&key, &Deletion::default(), by).map(drop),
        }
    }
}

/// Everything that is to be written so that all slices are right, in the order of the real controller: creations,
/// updates, deletions, Service by Service.
pub fn slice_changes(store: &Store, most_per_slice: usize) -> Vec<SliceChange> {
    let all = Selection::all(Resource::Service, None);
    let services: Vec<&Arc<Value>> = store.peek(&all).collect();
    let mut changes = orphans(store, &services);
    for service in services.into_iter().filter(|service| !is_empty(service, "/spec/selector")) {
        changes.extend(Reconciliation::of(store, service, most_per_slice).changes());
    }
    changes
}

/// Slices of Services that are gone: a cluster collects them as garbage.
fn orphans(store: &Store, services: &[&Arc<Value>]) -> Vec<SliceChange> {
    let names: BTreeSet<(&str, &str)> = services
        .iter()
        .map(|service| (text(service, "/metadata/namespace"), text(service, "/metadata/name")))
        .collect();
    let all = Selection::all(Resource::EndpointSlice, None);
    let gone = store.peek(&all).filter(|slice| {
        is_ours(slice) && !names.contains(&(text(slice, "/metadata/namespace"), label(slice, SERVICE_LABEL)))
    });
    gone.map(|slice| SliceChange::Delete(key_of(slice))).collect()
}

fn is_ours(slice: &Value) -> bool {
    label(slice, MANAGED_BY_LABEL) == CONTROLLER
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str()).unwrap_or_default()
}

fn key_of(slice: &Value) -> Key {
    Key::new(Resource::EndpointSlice, text(slice, "/metadata/namespace"), text(slice, "/metadata/name"))
}

/// What slices of one kind hold: addresses of one family, with the same ports behind each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: String,
    /// As JSON, so that groups can be told apart and sorted.
    ports: String,
}

/// One Service on its way to the right slices.
struct Reconciliation<'a> {
    service: &'a Value,
    most_per_slice: usize,
    /// Endpoints that shall be, by the name of their pod.
    wanted: BTreeMap<Group, BTreeMap<String, Value>>,
    present: Vec<Arc<Value>>,
}

impl<'a> Reconciliation<'a> {
    fn of(store: &Store, service: &'a Value, most_per_slice: usize) -> Self {
        let namespace = text(service, "/metadata/namespace");
        let name = text(service, "/metadata/name");
        let pods = Selection::all(Resource::Pod, Some(namespace));
        let mut wanted: BTreeMap<Group, BTreeMap<String, Value>> = BTreeMap::new();
        for pod in store.peek(&pods).filter(|pod| is_selected(pod, service) && is_alive(pod)) {
            let ports = Value::from(ports_of(service, pod)).to_string();
            for (family, address) in addresses(service, pod) {
                let group = Group { family, ports: ports.clone() };
                let endpoint = endpoint(service, pod, &address);
                wanted.entry(group).or_default().insert(text(pod, "/metadata/name").to_owned(), endpoint);
            }
        }
        let slices = Selection::all(Resource::EndpointSlice, Some(namespace));
        let present = store.peek(&slices).filter(|slice| is_ours(slice) && label(slice, SERVICE_LABEL) == name);
        let present = present.cloned().collect();
        Self { service, most_per_slice: most_per_slice.max(1), wanted, present }
    }

    fn changes(mut self) -> Vec<SliceChange> {
        for family in families(self.service) {
            if !self.wanted.keys().any(|group| group.family == family) {
                // A Service without endpoints has one slice that says so.
                self.wanted.insert(Group { family, ports: "[]".to_owned() }, BTreeMap::new());
            }
        }
        let (mut fresh, mut updates) = (Vec::new(), Vec::new());
        let mut spare = std::mem::take(&mut self.present);
        let wanted = std::mem::take(&mut self.wanted);
        for (group, endpoints) in &wanted {
            let kept = extract(&mut spare, |slice| *group == group_of(slice));
            let (filled, unused) = self.filled(kept, endpoints);
            updates.extend(filled.changed);
            fresh.extend(filled.new.into_iter().map(|endpoints| (group, endpoints)));
            spare.extend(unused);
        }
        // What is to be created takes the place of what is to be deleted, as the real controller has it.
        let mut created = Vec::new();
        for (group, endpoints) in fresh {
            match spare.iter().position(|slice| text(slice, "/addressType") == group.family) {
                Some(place) => updates.push(refilled(&spare.swap_remove(place), group, endpoints)),
                None => created.push(self.created(group, &endpoints)),
            }
        }
        let filled = updates.into_iter().map(|slice| SliceChange::Update { key: key_of(&slice), slice });
        let deleted = spare.iter().map(|slice| SliceChange::Delete(key_of(slice)));
        created.into_iter().chain(filled).chain(deleted).collect()
    }

    /// Fills the slices of a group: endpoints stay where they are, and new ones go where room is.
    fn filled(&self, slices: Vec<Arc<Value>>, wanted: &BTreeMap<String, Value>) -> (Filled, Vec<Arc<Value>>) {
        let mut left = wanted.clone();
        let mut kept: Vec<(Arc<Value>, Vec<Value>)> = Vec::new();
        for slice in slices {
            let stays: Vec<Value> =
                list(&slice, "/endpoints").iter().filter_map(|endpoint| left.remove(pod_of(endpoint))).collect();
            kept.push((slice, stays));
        }
        let mut new: Vec<Value> = left.into_values().collect();
        // Slices that change anyway are filled first, and no other one is touched while these have room.
        kept.sort_by_key(|(slice, stays)| list(slice, "/endpoints") == stays.as_slice());
        for (_, stays) in &mut kept {
            let room = self.most_per_slice.saturating_sub(stays.len()).min(new.len());
            stays.extend(new.drain(..room));
        }
        let is_placeholder = wanted.is_empty();
        let mut filled = Filled::default();
        let mut unused = Vec::new();
        for (slice, endpoints) in kept {
            if endpoints.is_empty() && !is_placeholder {
                unused.push(slice);
            } else if list(&slice, "/endpoints") != endpoints.as_slice() {
                filled.changed.push(with_endpoints(&slice, endpoints));
            } else {
                filled.same += 1;
            }
        }
        filled.new = new.chunks(self.most_per_slice).map(<[Value]>::to_vec).collect();
        if is_placeholder && filled.same + filled.changed.len() == 0 {
            filled.new.push(Vec::new());
        }
        (filled, unused)
    }

    fn created(&self, group: &Group, endpoints: &[Value]) -> SliceChange {
        let name = text(self.service, "/metadata/name");
        let mut labels: Map<String, Value> =
            self.service.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
        labels.insert(SERVICE_LABEL.to_owned(), name.into());
        labels.insert(MANAGED_BY_LABEL.to_owned(), CONTROLLER.into());
        if text(self.service, "/spec/clusterIP") == "None" {
            labels.insert("service.kubernetes.io/headless".to_owned(), "".into());
        }
        let slice = json!({
            "metadata": {
                "generateName": format!("{name}-"),
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": name,
                    "uid": text(self.service, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "addressType": group.family,
            "endpoints": endpoints,
            "ports": ports_from(group),
        });
        SliceChange::Create { namespace: text(self.service, "/metadata/namespace").to_owned(), slice }
    }
}

/// What becomes of the slices of a group.
#[derive(Default)]
struct Filled {
    changed: Vec<Value>,
    same: usize,
    /// Endpoints of slices that are yet to be.
    new: Vec<Vec<Value>>,
}

/// The same slice for another group.
fn refilled(slice: &Value, group: &Group, endpoints: Vec<Value>) -> Value {
    let mut slice = with_endpoints(slice, endpoints);
    set(&mut slice, &["ports"], ports_from(group));
    slice
}

fn with_endpoints(slice: &Value, endpoints: Vec<Value>) -> Value {
    let mut slice = slice.clone();
    set(&mut slice, &["endpoints"], endpoints);
    slice
}

fn extract(slices: &mut Vec<Arc<Value>>, is_wanted: impl Fn(&Value) -> bool) -> Vec<Arc<Value>> {
    let (wanted, rest) = std::mem::take(slices).into_iter().partition(|slice| is_wanted(slice));
    *slices = rest;
    wanted
}

fn group_of(slice: &Value) -> Group {
    let ports = slice.get("ports").filter(|ports| !ports.is_null()).cloned().unwrap_or_else(|| json!([]));
    Group { family: text(slice, "/addressType").to_owned(), ports: ports.to_string() }
}

fn ports_from(group: &Group) -> Value {
    serde_json::from_str(&group.ports).unwrap_or_default()
}

fn families(service: &Value) -> Vec<String> {
    list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn is_selected(pod: &Value, service: &Value) -> bool {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|selector| selector.iter().all(|(name, value)| Some(label(pod, name)) == value.as_str()))
}

fn is_alive(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// The pod's addresses of the families that the Service has.
fn addresses(service: &Value, pod: &Value) -> Vec<(String, String)> {
    let families = families(service);
    let all = list(pod, "/status/podIPs").iter().map(|each| text(each, "/ip"));
    let all: BTreeSet<&str> = all.chain([text(pod, "/status/podIP")]).collect();
    let with_family = all.into_iter().filter_map(|address| match address.parse() {
        Ok(IpAddr::V4(_)) => Some(("IPv4".to_owned(), address.to_owned())),
        Ok(IpAddr::V6(_)) => Some(("IPv6".to_owned(), address.to_owned())),
        Err(_) => None,
    });
    with_family.filter(|(family, _)| families.contains(family)).collect()
}

/// The ports of the Service as they are on this pod; one whose name the pod does not know is left out.
fn ports_of(service: &Value, pod: &Value) -> Vec<Value> {
    let ports = list(service, "/spec/ports").iter().filter_map(|port| {
        let target = port.get("targetPort")?;
        let number = target.as_u64().or_else(|| named_port(pod, target.as_str()?, text(port, "/protocol")))?;
        let mut found = json!({ "name": text(port, "/name"), "port": number, "protocol": text(port, "/protocol") });
        if let Some(protocol) = port.get("appProtocol") {
            set(&mut found, &["appProtocol"], protocol.clone());
        }
        Some(found)
    });
    ports.collect()
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<u64> {
    let ports = list(pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports"));
    let is_it = |port: &&Value| {
        let its_protocol = text(port, "/protocol");
        text(port, "/name") == name && (its_protocol == protocol || its_protocol.is_empty() && protocol == "TCP")
    };
    ports.filter(is_it).find_map(|port| port.get("containerPort")?.as_u64())
}

fn endpoint(service: &Value, pod: &Value, address: &str) -> Value {
    let serving = list(pod, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True");
    let terminating = !is_empty(pod, "/metadata/deletionTimestamp");
    let publishes_all = service.pointer("/spec/publishNotReadyAddresses").and_then(Value::as_bool).unwrap_or_default();
    let ready = publishes_all || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "targetRef": {
            "kind": "Pod", "namespace": text(pod, "/metadata/namespace"), "name": text(pod, "/metadata/name"),
            "uid": text(pod, "/metadata/uid"),
        },
    });
    if let Some(node) = pod.pointer("/spec/nodeName") {
        set(&mut endpoint, &["nodeName"], node.clone());
    }
    endpoint
}

fn pod_of(endpoint: &Value) -> &str {
    text(endpoint, "/targetRef/name")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::fakes::api_server::store::Page;

    fn by() -> Writer {
        Writer::new("kube-controller-manager", SystemTime::UNIX_EPOCH)
    }

    /// A cluster with the Service `live` of version `v1`.
    fn cluster() -> Store {
        let mut store = Store::new();
        let service = json!({
            "metadata": { "name": "live" },
            "spec": {
                "selector": { "app": "model", "version": "v1" },
                "ports": [{ "name": "http", "port": 80, "targetPort": "web" }],
            },
        });
        store.create(Resource::Service, "default", service, &by()).unwrap();
        store
    }

    fn add_pod(store: &mut Store, version: &str, number: usize, port: u16) {
        let name = format!("{version}-{number:02}");
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "model", "version": version } },
            "spec": {
                "nodeName": "node",
                "containers": [{ "name": "model", "image": "model:1", "ports": [{ "name": "web", "containerPort": port }] }],
            },
        });
        store.create(Resource::Pod, "default", pod, &by()).unwrap();
        let third = if version == "v1" { 1 } else { 2 };
        let status = json!({
            "phase": "Running", "podIP": format!("10.244.{third}.{number}"),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        let key = Key::new(Resource::Pod, "default", &name);
        store.edit(&key, &by(), |pod| set(pod, &["status"], status)).unwrap();
    }

    fn select(store: &mut Store, version: &str) {
        let key = Key::new(Resource::Service, "default", "live");
        store.edit(&key, &by(), |service| set(service, &["spec", "selector", "version"], version)).unwrap();
    }

    /// Writes everything; gives how many writes it took.
    fn settle(store: &mut Store, most: usize) -> usize {
        let changes = slice_changes(store, most);
        let count = changes.len();
        for change in changes {
            change.apply(store, &by()).unwrap();
        }
        assert_eq!(slice_changes(store, most), [], "one pass is enough");
        count
    }

    fn slices(store: &Store) -> Vec<Value> {
        store.list(&Selection::all(Resource::EndpointSlice, Some("default")), &Page::default()).unwrap().items
    }

    /// Pods in each slice, slices in the order of their names.
    fn pods(store: &Store) -> Vec<Vec<String>> {
        let pods = |slice: &Value| list(slice, "/endpoints").iter().map(|each| pod_of(each).to_owned()).collect();
        slices(store).iter().map(pods).collect()
    }

    fn versions(store: &Store) -> BTreeSet<String> {
        pods(store).concat().iter().map(|pod| pod.chars().take(2).collect()).collect()
    }

    #[test]
    fn a_service_without_pods_has_one_slice_that_says_so() {
        let mut store = cluster();
        assert_eq!(settle(&mut store, 100), 1);
        assert_eq!(pods(&store), [Vec::<String>::new()]);
        add_pod(&mut store, "v1", 1, 8080);
        assert_eq!(settle(&mut store, 100), 1, "it is used again");
        assert_eq!(pods(&store), [["v1-01"]]);
        select(&mut store, "v9");
        settle(&mut store, 100);
        assert_eq!(pods(&store), [Vec::<String>::new()]);
    }

    #[test]
    fn a_slice_says_who_where_and_how() {
        let mut store = cluster();
        add_pod(&mut store, "v1", 1, 8080);
        settle(&mut store, 100);
        let slice = slices(&store).remove(0);
        assert_eq!(slice["ports"], json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));
        assert_eq!(label(&slice, SERVICE_LABEL), "live");
        let endpoint = &slice["endpoints"][0];
        assert_eq!(endpoint["addresses"], json!(["10.244.1.1"]));
        assert_eq!(endpoint["conditions"], json!({ "ready": true, "serving": true, "terminating": false }));
        assert_eq!(endpoint["targetRef"]["name"], "v1-01");
    }

    #[test]
    fn a_pod_that_ends_still_serves_and_is_not_ready() {
        let mut store = cluster();
        add_pod(&mut store, "v1", 1, 8080);
        let pod = Key::new(Resource::Pod, "default", "v1-01");
        store.delete(&pod, &Deletion::default(), &by()).unwrap();
        settle(&mut store, 100);
        let conditions = slices(&store).remove(0)["endpoints"][0]["conditions"].clone();
        assert_eq!(conditions, json!({ "ready": false, "serving": true, "terminating": true }));
    }

    #[test]
    fn pods_that_name_a_port_differently_lie_in_slices_of_their_own() {
        let mut store = cluster();
        add_pod(&mut store, "v1", 1, 8080);
        add_pod(&mut store, "v1", 2, 9090);
        settle(&mut store, 100);
        let ports: BTreeSet<u64> =
            slices(&store).iter().map(|slice| slice["ports"][0]["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, BTreeSet::from([8080, 9090]));
    }

    #[test]
    fn a_flip_of_few_pods_is_one_write() {
        let mut store = cluster();
        for number in 1..4 {
            add_pod(&mut store, "v1", number, 8080);
            add_pod(&mut store, "v2", number, 8080);
        }
        settle(&mut store, 100);
        select(&mut store, "v2");
        assert_eq!(settle(&mut store, 100), 1);
        assert_eq!(pods(&store), [["v2-01", "v2-02", "v2-03"]]);
    }

    #[test]
    fn a_flip_of_many_pods_goes_slice_by_slice_through_mixed_states() {
        let mut store = cluster();
        for number in 1..6 {
            add_pod(&mut store, "v1", number, 8080);
            add_pod(&mut store, "v2", number, 8080);
        }
        settle(&mut store, 2);
        assert_eq!(slices(&store).len(), 3);
        select(&mut store, "v2");
        let mut seen = vec![versions(&store)];
        while let Some(change) = slice_changes(&store, 2).into_iter().next() {
            change.apply(&mut store, &by()).unwrap();
            seen.push(versions(&store));
        }
        let both = BTreeSet::from(["v1".to_owned(), "v2".to_owned()]);
        assert!(seen.contains(&both), "{seen:?}");
        assert_eq!(seen.last(), Some(&BTreeSet::from(["v2".to_owned()])));
        assert!(pods(&store).iter().all(|slice| slice.len() <= 2));
    }

    #[test]
    fn slices_go_with_their_service() {
        let mut store = cluster();
        add_pod(&mut store, "v1", 1, 8080);
        settle(&mut store, 100);
        store.delete(&Key::new(Resource::Service, "default", "live"), &Deletion::default(), &by()).unwrap();
        settle(&mut store, 100);
        assert!(slices(&store).is_empty());
    }
}
