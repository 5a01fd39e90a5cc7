//! Stories of the store, and what holds over random ones.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fakes::api_server::object::text;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn by(manager: &str) -> Writer {
    Writer::new(manager, at(60))
}

fn live() -> Key {
    Key::new(Resource::Service, "default", "live")
}

fn service(version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "live" },
        "spec": { "selector": { "app": "model", "version": version }, "ports": [{ "port": 80 }] },
    })
}

/// A store in which the Service `live` selects `v1`.
fn with_live() -> Store {
    let mut store = Store::new();
    store.create(Resource::Service, "default", service("v1"), &by("kubectl")).unwrap();
    store
}

fn version_of(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

fn flip(from: &str, to: &str) -> Patch {
    Patch::json(json!([
        { "op": "test", "path": "/spec/selector", "value": { "app": "model", "version": from } },
        { "op": "replace", "path": "/spec/selector", "value": { "app": "model", "version": to } },
        { "op": "add", "path": "/metadata/annotations", "value": { "pointsman.dev/state": to } },
    ]))
    .unwrap()
}

fn patch(store: &mut Store, patch: &Patch) -> Result<Value, Refusal> {
    store.patch(&live(), Part::Whole, patch, &by("pointsman"))
}

fn told_kinds(events: &[WatchEvent]) -> Vec<&'static str> {
    let kind = |event: &WatchEvent| match event {
        WatchEvent::Added(_) => "added",
        WatchEvent::Modified(_) => "modified",
        WatchEvent::Deleted(_) => "deleted",
        WatchEvent::Bookmark { .. } => "bookmark",
        WatchEvent::Error(_) => "error",
    };
    events.iter().map(kind).collect()
}

#[test]
fn a_created_object_has_what_the_server_says_about_it() {
    let mut store = Store::new();
    let made = store.create(Resource::Service, "default", service("v1"), &by("kubectl")).unwrap();
    assert_eq!(text(&made, "/metadata/creationTimestamp"), "1970-01-01T00:01:00Z");
    assert_eq!(version_of(&made), store.revision().to_string());
    assert_eq!(made["spec"]["ports"], json!([{ "port": 80, "protocol": "TCP", "targetPort": 80 }]));
    assert!(text(&made, "/spec/clusterIP").starts_with("10.96."));
    assert_eq!(store.get(&live()), Ok(made));
}

#[test]
fn a_name_is_given_once_and_only_in_a_namespace_that_exists() {
    let mut store = with_live();
    let again = store.create(Resource::Service, "default", service("v2"), &by("kubectl")).unwrap_err();
    assert_eq!((again.code, again.message.as_str()), (409, "services \"live\" already exists"));
    let nowhere = store.create(Resource::Service, "shop", service("v2"), &by("kubectl")).unwrap_err();
    assert_eq!((nowhere.code, nowhere.message.as_str()), (404, "namespaces \"shop\" not found"));
}

#[test]
fn generated_names_differ() {
    let mut store = Store::new();
    let object = json!({ "metadata": { "generateName": "live-" }, "addressType": "IPv4", "endpoints": [] });
    let mut make = || store.create(Resource::EndpointSlice, "default", object.clone(), &by("x")).unwrap();
    let (first, second) = (make(), make());
    assert!(text(&first, "/metadata/name").starts_with("live-"));
    assert_eq!(text(&first, "/metadata/name").len(), "live-".len() + 5);
    assert_ne!(text(&first, "/metadata/name"), text(&second, "/metadata/name"));
}

#[test]
fn a_patch_with_a_test_that_holds_is_done_whole() {
    let mut store = with_live();
    let after = patch(&mut store, &flip("v1", "v2")).unwrap();
    assert_eq!(after["spec"]["selector"], json!({ "app": "model", "version": "v2" }));
    assert_eq!(text(&after, "/metadata/annotations/pointsman.dev~1state"), "v2");
}

#[test]
fn a_patch_with_a_test_that_fails_changes_nothing_and_says_422_in_the_words_of_the_real_server() {
    let mut store = with_live();
    let before = store.clone();
    let refused = patch(&mut store, &flip("v2", "v1")).unwrap_err();
    assert_eq!((refused.code, refused.reason), (422, "Invalid"));
    assert_eq!(refused.message, "the server rejected our request due to an error in our request");
    assert_eq!((store.revision(), store.get(&live())), (before.revision(), before.get(&live())));
}

#[test]
fn a_test_on_the_resource_version_fails_after_any_other_write() {
    let mut store = with_live();
    let version = version_of(&store.get(&live()).unwrap()).to_owned();
    let guarded = Patch::json(json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": version },
        { "op": "add", "path": "/metadata/labels", "value": { "a": "b" } },
    ]))
    .unwrap();
    patch(&mut store, &Patch::Merge(json!({ "metadata": { "annotations": { "who": "else" } } }))).unwrap();
    assert_eq!(patch(&mut store, &guarded).unwrap_err().code, 422);
}

#[test]
fn a_write_that_names_another_resource_version_is_a_conflict() {
    let mut store = with_live();
    let mut stale = store.get(&live()).unwrap();
    patch(&mut store, &flip("v1", "v2")).unwrap();
    set(&mut stale, &["spec", "selector", "version"], "v3");
    let words = "Operation cannot be fulfilled on services \"live\": the object has been modified; please apply your \
                 changes to the latest version and try again";
    let put = store.replace(&live(), Part::Whole, stale.clone(), &by("kubectl")).unwrap_err();
    assert_eq!((put.code, put.reason, put.message.as_str()), (409, "Conflict", words));
    let merge = Patch::Merge(json!({ "metadata": { "resourceVersion": version_of(&stale) } }));
    assert_eq!(patch(&mut store, &merge).unwrap_err(), put);
}

#[test]
fn a_merge_takes_away_what_is_null() {
    let mut store = with_live();
    let merge = Patch::Merge(json!({ "spec": { "selector": { "app": null, "version": "v2" } } }));
    assert_eq!(patch(&mut store, &merge).unwrap()["spec"]["selector"], json!({ "version": "v2" }));
}

#[test]
fn a_write_that_changes_nothing_makes_no_revision() {
    let mut store = with_live();
    let before = store.revision();
    let merge = Patch::Merge(json!({ "spec": { "selector": { "version": "v1" } } }));
    let same = patch(&mut store, &merge).unwrap();
    assert_eq!((store.revision(), version_of(&same)), (before, before.to_string().as_str()));
}

#[test]
fn a_dry_run_answers_and_does_nothing() {
    let mut store = with_live();
    let before = store.get(&live()).unwrap();
    let tried = store.patch(&live(), Part::Whole, &flip("v1", "v2"), &by("pointsman").trying()).unwrap();
    assert_eq!(tried["spec"]["selector"]["version"], "v2");
    assert_eq!(version_of(&tried), version_of(&before));
    let refused = store.patch(&live(), Part::Whole, &flip("v2", "v1"), &by("pointsman").trying());
    assert_eq!(refused.unwrap_err().code, 422);
    store.create(Resource::ConfigMap, "default", json!({ "metadata": { "name": "x" } }), &by("x").trying()).unwrap();
    store.delete(&live(), &Deletion::default(), &by("x").trying()).unwrap();
    assert_eq!(store.get(&live()), Ok(before));
    assert_eq!(store.get(&Key::new(Resource::ConfigMap, "default", "x")).unwrap_err().code, 404);
}

#[test]
fn a_lease_is_put_only_with_its_version_or_when_there_is_none() {
    let mut store = Store::new();
    let key = Key::new(Resource::Lease, "default", "pointsman");
    let lease = |holder: &str| json!({ "metadata": { "name": "pointsman" }, "spec": { "holderIdentity": holder } });
    store.replace(&key, Part::Whole, lease("a"), &by("a")).unwrap();
    let refused = store.replace(&key, Part::Whole, lease("b"), &by("b")).unwrap_err();
    assert_eq!((refused.code, refused.reason), (422, "Invalid"));
    let words = "leases.coordination.k8s.io \"pointsman\" is invalid: metadata.resourceVersion: Invalid value: 0x0: \
                 must be specified for an update";
    assert_eq!(refused.message, words);
}

#[test]
fn of_many_writers_that_read_the_same_one_wins() {
    let store = std::sync::Mutex::new(Store::new());
    let key = Key::new(Resource::Lease, "default", "pointsman");
    let lease = json!({ "metadata": { "name": "pointsman" }, "spec": { "holderIdentity": "" } });
    let read = store.lock().unwrap().create(Resource::Lease, "default", lease, &by("x")).unwrap();
    let outcomes: Vec<Result<Value, Refusal>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let (store, key, mut lease) = (&store, &key, read.clone());
                scope.spawn(move || {
                    set(&mut lease, &["spec", "holderIdentity"], format!("edge-{writer}"));
                    store.lock().unwrap().replace(key, Part::Whole, lease, &by("edge"))
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 15));
    assert!(lost.into_iter().all(|lost| lost.unwrap_err().code == 409));
}

#[test]
fn status_and_the_rest_are_written_apart() {
    let mut store = Store::new();
    let key = Key::new(Resource::Pod, "default", "a");
    let pod = json!({
        "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "x", "image": "x:1" }] }, "status": { "podIP": "10.244.0.1" },
    });
    let made = store.create(Resource::Pod, "default", pod, &by("x")).unwrap();
    assert_eq!(made["status"], json!({ "phase": "Pending" }));
    let status = Patch::Merge(json!({ "status": { "podIP": "10.244.0.1" }, "spec": { "nodeName": "n" } }));
    let after = store.patch(&key, Part::Status, &status, &by("kubelet")).unwrap();
    assert_eq!(
        after["status"],
        json!({ "phase": "Pending", "podIP": "10.244.0.1", "podIPs": [{ "ip": "10.244.0.1" }] })
    );
    assert_eq!(after["spec"].get("nodeName"), None);
    let after = store.patch(&key, Part::Whole, &Patch::Merge(json!({ "status": null })), &by("x")).unwrap();
    assert_eq!(text(&after, "/status/podIP"), "10.244.0.1");
}

#[test]
fn a_deployment_is_scaled() {
    let mut store = Store::new();
    let key = Key::new(Resource::Deployment, "default", "v1");
    let deployment = json!({
        "metadata": { "name": "v1" },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "model" } }, "template": { "metadata": { "labels": { "app": "model" } }, "spec": {} } },
    });
    store.create(Resource::Deployment, "default", deployment, &by("x")).unwrap();
    let scale = store.get_part(&key, Part::Scale).unwrap();
    assert_eq!((&scale["spec"], text(&scale, "/status/selector")), (&json!({ "replicas": 3 }), "app=model"));
    let less = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
    let after = store.patch(&key, Part::Scale, &less, &by("pointsman")).unwrap();
    assert_eq!((text(&after, "/kind"), &after["spec"]["replicas"]), ("Scale", &json!(1)));
    let deployment = store.get(&key).unwrap();
    assert_eq!((&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]), (&json!(1), &json!(2)));
    let conflict = store.replace(&key, Part::Scale, scale, &by("pointsman")).unwrap_err();
    assert_eq!(conflict.code, 409);
    let negative = Patch::Merge(json!({ "spec": { "replicas": -1 } }));
    assert_eq!(store.patch(&key, Part::Scale, &negative, &by("x")).unwrap_err().code, 422);
}

#[test]
fn a_pod_on_a_node_ends_in_two_steps() {
    let mut store = Store::new();
    let key = Key::new(Resource::Pod, "default", "a");
    let pod = json!({ "metadata": { "name": "a" }, "spec": { "nodeName": "n", "containers": [{ "name": "x", "image": "x:1" }] } });
    store.create(Resource::Pod, "default", pod, &by("x")).unwrap();
    let ending = store.delete(&key, &Deletion::default(), &by("x")).unwrap();
    assert_eq!(text(&ending, "/metadata/deletionTimestamp"), "1970-01-01T00:01:30Z");
    assert_eq!(store.get(&key), Ok(ending));
    let at_once = Deletion { grace: Some(Duration::ZERO), ..Deletion::default() };
    store.delete(&key, &at_once, &by("kubelet")).unwrap();
    assert_eq!(store.get(&key).unwrap_err().code, 404);
}

#[test]
fn a_deletion_is_for_one_object_and_not_for_its_successor() {
    let mut store = with_live();
    let other = Deletion { uid: Some("other".to_owned()), ..Deletion::default() };
    assert_eq!(store.delete(&live(), &other, &by("x")).unwrap_err().code, 409);
    let uid = text(&store.get(&live()).unwrap(), "/metadata/uid").to_owned();
    store.delete(&live(), &Deletion { uid: Some(uid), ..Deletion::default() }, &by("x")).unwrap();
    assert_eq!(store.get(&live()).unwrap_err().message, "services \"live\" not found");
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let mut store = Store::new();
    store.create(Resource::Namespace, "", json!({ "metadata": { "name": "shop" } }), &by("x")).unwrap();
    store.create(Resource::Service, "shop", service("v1"), &by("x")).unwrap();
    let start = store.revision();
    store.delete(&Key::new(Resource::Namespace, "", "shop"), &Deletion::default(), &by("x")).unwrap();
    let shop = Key::new(Resource::Namespace, "", "shop");
    assert_eq!(text(&store.get(&shop).unwrap(), "/status/phase"), "Terminating");
    let late =
        store.create(Resource::ConfigMap, "shop", json!({ "metadata": { "name": "late" } }), &by("x")).unwrap_err();
    assert_eq!(
        (late.code, late.message.as_str()),
        (
            403,
            "configmaps \"late\" is forbidden: unable to create new content in namespace shop because it is being terminated"
        )
    );
    assert!(store.empty_namespaces());
    let told = store.changes(&Selection::all(Resource::Service, None), start).unwrap();
    assert_eq!(told_kinds(&told), ["deleted"]);
    assert!(store.all(&Selection::all(Resource::Service, Some("shop"))).is_empty());
    assert_eq!(store.get(&shop).unwrap_err().code, 404);
    assert!(!store.empty_namespaces(), "nothing is left to do");
}

#[test]
fn a_namespace_that_nobody_empties_stays_until_it_is_finalized() {
    let mut store = Store::new();
    let shop = Key::new(Resource::Namespace, "", "shop");
    store.create(Resource::Namespace, "", json!({ "metadata": { "name": "shop" } }), &by("x")).unwrap();
    let last = store.delete(&shop, &Deletion::default(), &by("x")).unwrap();
    store.delete(&shop, &Deletion::default(), &by("x")).unwrap();
    let mut last = Value::clone(&last);
    set(&mut last, &["spec", "finalizers"], json!([]));
    set(&mut last, &["metadata", "resourceVersion"], "");
    let unchanged = store.replace(&shop, Part::Whole, last.clone(), &by("x")).unwrap();
    assert_eq!(unchanged["spec"]["finalizers"], json!(["kubernetes"]));
    store.replace(&shop, Part::Finalize, last, &by("x")).unwrap();
    assert_eq!(store.get(&shop).unwrap_err().code, 404);
}

#[test]
fn endpoints_on_loopback_are_refused_unless_a_test_allows_them() {
    let slice = json!({
        "metadata": { "name": "a" }, "addressType": "IPv4", "endpoints": [{ "addresses": ["127.0.0.1"] }],
    });
    let refused = Store::new().create(Resource::EndpointSlice, "default", slice.clone(), &by("x")).unwrap_err();
    let words = "EndpointSlice.discovery.k8s.io \"a\" is invalid: endpoints[0].addresses[0]: Invalid value: \
                 \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)";
    assert_eq!((refused.code, refused.message.as_str()), (422, words));
    Store::new().allowing_loopback().create(Resource::EndpointSlice, "default", slice, &by("x")).unwrap();
}

#[test]
fn annotations_have_a_limit() {
    let mut store = with_live();
    let long = "x".repeat(256 * 1024);
    let merge = Patch::Merge(json!({ "metadata": { "annotations": { "pointsman.dev/state": long } } }));
    let refused = patch(&mut store, &merge).unwrap_err();
    let words = "Service \"live\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes";
    assert_eq!((refused.code, refused.message.as_str()), (422, words));
}

#[test]
fn an_event_of_the_newer_group_needs_more_and_is_read_from_both() {
    let mut store = Store::new();
    let mut event = json!({
        "metadata": { "name": "a" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
        "reason": "Promoted", "action": "Promote", "reportingController": "pointsman.dev/edge",
        "reportingInstance": "edge-1", "note": "words",
        "regarding": { "kind": "Service", "name": "live", "namespace": "default" },
    });
    store.create(Resource::Event, "default", event.clone(), &by("x")).unwrap();
    let old = store.get(&Key::new(Resource::CoreEvent, "default", "a")).unwrap();
    assert_eq!((text(&old, "/message"), text(&old, "/involvedObject/name")), ("words", "live"));
    remove(&mut event, &["action"]);
    remove(&mut event, &["eventTime"]);
    set(&mut event, &["metadata", "name"], "b");
    let refused = store.create(Resource::Event, "default", event, &by("x")).unwrap_err();
    assert_eq!(refused.message, "Event.events.k8s.io \"b\" is invalid: eventTime: Required value");
}

#[test]
fn a_watcher_is_told_what_enters_and_leaves_its_selection() {
    let mut store = Store::new();
    let selection = Selection { labels: "app=a".parse().unwrap(), ..Selection::all(Resource::ConfigMap, None) };
    let start = store.revision();
    let key = Key::new(Resource::ConfigMap, "default", "x");
    store.create(Resource::ConfigMap, "default", json!({ "metadata": { "name": "x" } }), &by("x")).unwrap();
    for labels in [json!({ "app": "a" }), json!({ "b": "c" }), json!({ "app": "b" }), json!({ "app": "a" })] {
        let merge = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        store.patch(&key, Part::Whole, &merge, &by("x")).unwrap();
    }
    store.delete(&key, &Deletion::default(), &by("x")).unwrap();
    let told = store.changes(&selection, start).unwrap();
    assert_eq!(told_kinds(&told), ["added", "modified", "deleted", "added", "deleted"]);
}

#[test]
fn forgotten_history_is_gone_for_those_who_need_it_and_for_nobody_else() {
    let mut store = with_live();
    let all = Selection::all(Resource::Service, None);
    let seen = store.list(&all, &Page::default()).unwrap().revision;
    store.forget_history();
    let refused = store.changes(&all, seen).unwrap_err();
    assert_eq!((refused.code, refused.reason), (410, "Expired"));
    let listed = store.list(&all, &Page::default()).unwrap();
    assert_eq!(store.changes(&all, listed.revision), Ok(Vec::new()));
    patch(&mut store, &flip("v1", "v2")).unwrap();
    assert_eq!(told_kinds(&store.changes(&all, listed.revision).unwrap()), ["modified"]);
}

#[test]
fn pages_are_of_one_revision() {
    let mut store = Store::new();
    let make = |store: &mut Store, name: &str| {
        store.create(Resource::ConfigMap, "default", json!({ "metadata": { "name": name } }), &by("x")).unwrap();
    };
    for name in ["a", "b", "d"] {
        make(&mut store, name);
    }
    let all = Selection::all(Resource::ConfigMap, None);
    let names = |listing: &Listing| -> Vec<String> {
        listing.items.iter().map(|item| text(item, "/metadata/name").to_owned()).collect()
    };
    let first = store.list(&all, &Page { limit: 2, ..Page::default() }).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a".to_owned(), "b".to_owned()], 1));
    make(&mut store, "c");
    store.delete(&Key::new(Resource::ConfigMap, "default", "d"), &Deletion::default(), &by("x")).unwrap();
    let rest = Page { limit: 2, next: first.next.clone(), ..Page::default() };
    let second = store.list(&all, &rest).unwrap();
    assert_eq!((names(&second), second.revision, second.next), (vec!["d".to_owned()], first.revision, None));
    store.forget_history();
    assert_eq!(store.list(&all, &rest).unwrap_err().code, 410);
}

/// Something that happens to one of few objects.
#[derive(Debug, Clone)]
enum Step {
    Put {
        name: u8,
        value: u8,
    },
    Delete {
        name: u8,
    },
    /// The watcher reads.
    Read,
    /// The watcher lists, and watches from there.
    Relist,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..3_u8).prop_map(|(name, value)| Step::Put { name, value }),
        2 => (0..4_u8).prop_map(|name| Step::Delete { name }),
        3 => Just(Step::Read),
        1 => Just(Step::Relist),
        1 => Just(Step::Forget),
    ]
}

/// What a client knows that only listed and watched.
#[derive(Debug, Default)]
struct Reflector {
    known: BTreeMap<String, Value>,
    revision: u64,
    relists: usize,
}

impl Reflector {
    fn list(&mut self, store: &Store) {
        let listing = store.list(&configs(), &Page::default()).unwrap();
        let named = |item: Value| (text(&item, "/metadata/name").to_owned(), item);
        self.known = listing.items.into_iter().map(named).collect();
        self.revision = listing.revision;
        self.relists += 1;
    }

    /// Reads on; each event must fit what is known: nothing twice, nothing left out, in order.
    fn read(&mut self, store: &Store) {
        let Ok(events) = store.changes(&configs(), self.revision) else { return self.list(store) };
        for event in events {
            let (object, was_known, stays) = match event {
                WatchEvent::Added(object) => (object, false, true),
                WatchEvent::Modified(object) => (object, true, true),
                WatchEvent::Deleted(object) => (object, true, false),
                WatchEvent::Bookmark { .. } | WatchEvent::Error(_) => panic!("the store has no such events"),
            };
            let name = text(&object, "/metadata/name").to_owned();
            let revision: u64 = version_of(&object).parse().unwrap();
            assert!(revision > self.revision, "{revision} was told after {}", self.revision);
            assert_eq!(self.known.contains_key(&name), was_known, "{name}");
            self.revision = revision;
            if stays {
                self.known.insert(name, object)
            } else {
                self.known.remove(&name)
            };
        }
        self.revision = store.revision();
    }
}

fn configs() -> Selection {
    Selection::all(Resource::ConfigMap, Some("default"))
}

fn put(store: &mut Store, name: u8, value: u8) {
    let key = Key::new(Resource::ConfigMap, "default", &format!("c{name}"));
    let object = json!({ "metadata": { "name": key.name }, "data": { "value": value.to_string() } });
    let written = match store.get(&key) {
        Ok(_) => store.replace(&key, Part::Whole, object, &by("x")),
        Err(_) => store.create(Resource::ConfigMap, "default", object, &by("x")),
    };
    written.unwrap();
}

proptest! {
    #[test]
    fn who_lists_and_watches_knows_what_there_is(steps in proptest::collection::vec(step(), 1..80)) {
        let mut store = Store::new();
        let mut reflector = Reflector::default();
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        reflector.list(&store);
        for step in steps {
            match step {
                Step::Put { name, value } => {
                    put(&mut store, name, value);
                    expected.insert(format!("c{name}"), value.to_string());
                }
                Step::Delete { name } => {
                    let key = Key::new(Resource::ConfigMap, "default", &format!("c{name}"));
                    let deleted = store.delete(&key, &Deletion::default(), &by("x"));
                    prop_assert_eq!(deleted.is_ok(), expected.remove(&key.name).is_some());
                }
                Step::Read => reflector.read(&store),
                Step::Relist => reflector.list(&store),
                Step::Forget => store.forget_history(),
            }
        }
        reflector.read(&store);
        let known: BTreeMap<String, String> = reflector.known.iter()
            .map(|(name, object)| (name.clone(), text(object, "/data/value").to_owned())).collect();
        prop_assert_eq!(known, expected);
    }

    #[test]
    fn an_earlier_revision_is_listed_as_it_was(steps in proptest::collection::vec(step(), 1..60), cut in 0..60_usize) {
        let mut store = Store::new();
        let mut as_it_was = None;
        for (number, step) in steps.into_iter().enumerate() {
            if number == cut {
                as_it_was = Some(store.list(&configs(), &Page::default()).unwrap());
            }
            match step {
                Step::Put { name, value } => put(&mut store, name, value),
                Step::Delete { name } => {
                    let key = Key::new(Resource::ConfigMap, "default", &format!("c{name}"));
                    drop(store.delete(&key, &Deletion::default(), &by("x")));
                }
                Step::Read | Step::Relist | Step::Forget => {}
            }
        }
        if let Some(then) = as_it_was {
            let page = Page { revision: Some(then.revision), ..Page::default() };
            prop_assert_eq!(store.list(&configs(), &page), Ok(then));
        }
    }
}
