//! Lists and watches: nothing is told twice, and nothing is left out.

use futures_util::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::json;

use super::cluster::{Cluster, PATIENCE, version_of};
use super::contract;
use super::objects::config;

contract! {
    a_watch_from_a_list_tells_each_later_change_once_in_order,
    a_watch_without_a_version_tells_first_what_is_there,
    a_watch_of_a_selection_tells_what_enters_and_leaves_it,
    a_watch_ends_at_its_time,
    a_streamed_list_ends_with_a_bookmark,
    a_version_that_is_forgotten_is_gone,
    a_watcher_of_kube_sees_what_happens,
}

type Told = (&'static str, String, String);

fn told(event: WatchEvent<ConfigMap>) -> Told {
    let named = |kind, object: ConfigMap| {
        (kind, object.metadata.name.unwrap(), object.data.unwrap_or_default().remove("value").unwrap_or_default())
    };
    match event {
        WatchEvent::Added(object) => named("added", object),
        WatchEvent::Modified(object) => named("modified", object),
        WatchEvent::Deleted(object) => named("deleted", object),
        WatchEvent::Bookmark(_) => ("bookmark", String::new(), String::new()),
        WatchEvent::Error(status) => ("error", status.code.to_string(), status.reason.clone()),
    }
}

/// The next events of a watch, without bookmarks.
async fn take(count: usize, events: impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>>) -> Vec<Told> {
    let events = events.map_ok(told).try_filter(|told| std::future::ready(told.0 != "bookmark")).take(count);
    tokio::time::timeout(PATIENCE, events.try_collect()).await.expect("events come").unwrap()
}

fn event(kind: &'static str, name: &str, value: &str) -> Told {
    (kind, name.to_owned(), value.to_owned())
}

/// Only what a case makes: a cluster puts a map of its own into each namespace.
fn ours() -> WatchParams {
    WatchParams::default().labels("value")
}

async fn listed(cluster: &Cluster) -> String {
    let list = cluster.api::<ConfigMap>().list(&ListParams::default().labels("value")).await.unwrap();
    list.metadata.resource_version.unwrap()
}

async fn a_watch_from_a_list_tells_each_later_change_once_in_order(cluster: Cluster) {
    let configs = cluster.api::<ConfigMap>();
    cluster.create::<ConfigMap>(config("before", "x")).await.unwrap();
    let version = listed(&cluster).await;
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    let events = configs.watch(&ours(), &version).await.unwrap().boxed();
    cluster.merge::<ConfigMap>("a", json!({ "data": { "value": "2" } })).await.unwrap();
    cluster.merge::<ConfigMap>("a", json!({ "data": { "value": "2" } })).await.unwrap();
    cluster.create::<ConfigMap>(config("b", "1")).await.unwrap();
    configs.delete("a", &DeleteParams::default()).await.unwrap();
    let expected =
        [event("added", "a", "1"), event("modified", "a", "2"), event("added", "b", "1"), event("deleted", "a", "2")];
    assert_eq!(take(4, events).await, expected);
}

async fn a_watch_without_a_version_tells_first_what_is_there(cluster: Cluster) {
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    let events = cluster.api::<ConfigMap>().watch(&ours(), "").await.unwrap().boxed();
    cluster.create::<ConfigMap>(config("b", "1")).await.unwrap();
    assert_eq!(take(2, events).await, [event("added", "a", "1"), event("added", "b", "1")]);
}

async fn a_watch_of_a_selection_tells_what_enters_and_leaves_it(cluster: Cluster) {
    let version = listed(&cluster).await;
    let selected = WatchParams::default().labels("value=1");
    let events = cluster.api::<ConfigMap>().watch(&selected, &version).await.unwrap().boxed();
    cluster.create::<ConfigMap>(config("a", "0")).await.unwrap();
    for value in ["1", "2"] {
        let labels = json!({ "metadata": { "labels": { "value": value } }, "data": { "value": value } });
        cluster.merge::<ConfigMap>("a", labels).await.unwrap();
    }
    let told = take(2, events).await;
    assert_eq!(
        told.iter().map(|told| (told.0, told.1.as_str())).collect::<Vec<_>>(),
        [("added", "a"), ("deleted", "a")]
    );
}

async fn a_watch_ends_at_its_time(cluster: Cluster) {
    let version = listed(&cluster).await;
    let events = cluster.api::<ConfigMap>().watch(&ours().timeout(1), &version).await.unwrap().boxed();
    assert_eq!(take(usize::MAX, events).await, []);
}

async fn a_streamed_list_ends_with_a_bookmark(cluster: Cluster) {
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    let params = ours().initial_events();
    let mut events = cluster.api::<ConfigMap>().watch(&params, "0").await.unwrap().boxed();
    let mut next = async || tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(told(next().await), event("added", "a", "1"));
    let WatchEvent::Bookmark(bookmark) = next().await else { panic!("no bookmark") };
    assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
    let made: ConfigMap = cluster.create(config("b", "1")).await.unwrap();
    let (from, to): (u64, u64) =
        (bookmark.metadata.resource_version.parse().unwrap(), version_of(&made).parse().unwrap());
    assert!(from < to, "{from} and {to}");
}

async fn a_version_that_is_forgotten_is_gone(cluster: Cluster) {
    if let Some(fake) = &cluster.fake {
        fake.store().forget_history();
    }
    let events = cluster.api::<ConfigMap>().watch(&ours(), "1").await.unwrap().boxed();
    assert_eq!(take(1, events).await, [event("error", "410", "Expired")]);
}

async fn a_watcher_of_kube_sees_what_happens(cluster: Cluster) {
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    for config_of in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let watcher = watcher(cluster.api::<ConfigMap>(), config_of.labels("value"));
        let mut events = watcher.boxed();
        let mut seen = Vec::new();
        let value = seen_in_list(&mut events, &mut seen).await;
        let next = if value == "1" { "2" } else { "1" };
        cluster.merge::<ConfigMap>("a", json!({ "data": { "value": next } })).await.unwrap();
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        let watcher::Event::Apply(object) = event else { panic!("{event:?}") };
        assert_eq!(object.data.unwrap()["value"], next);
        assert_eq!(seen, ["a"]);
    }
}

/// Reads a watcher up to the end of its list; gives the value of the one object in it.
async fn seen_in_list(
    events: &mut (impl Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Unpin),
    seen: &mut Vec<String>,
) -> String {
    let mut value = String::new();
    loop {
        match tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap() {
            watcher::Event::Init => {}
            watcher::Event::InitApply(object) => {
                value = object.data.unwrap().remove("value").unwrap();
                seen.push(object.metadata.name.unwrap());
            }
            watcher::Event::InitDone => return value,
            other @ (watcher::Event::Apply(_) | watcher::Event::Delete(_)) => panic!("{other:?}"),
        }
    }
}
