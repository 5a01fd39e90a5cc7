//! Endpoints as they are followed through everything that goes wrong on the way.

use std::sync::Arc;
use std::time::Duration;

use pointsman_chaos::fakes::api_server::{Effect, Refusal, Resource, Rule, Verb, WatchEnd};
use pointsman_kubernetes::{Cluster, Discovered, Discovery, Link, Picture, PortChoice};
use serde_json::json;
use tokio::sync::watch;

use crate::world::{World, endpoints, named, until};

fn follow(cluster: &Cluster) -> Discovery {
    Discovery::start(cluster, &named("v1"), PortChoice::Name("http".to_owned()))
}

fn addresses(picture: &Picture) -> Vec<String> {
    picture.endpoints.keys().map(|address| address.ip().to_string()).collect()
}

/// Waits until just these are known, from an API server that is heard.
async fn known(seen: &watch::Receiver<Discovered>, wanted: &[&str]) -> Arc<Picture> {
    let is_so = |seen: &Discovered| {
        seen.link == Link::Live && seen.picture.as_ref().is_some_and(|picture| addresses(picture) == wanted)
    };
    until(seen.clone(), "these endpoints", is_so).await.picture.unwrap()
}

async fn lost(seen: &watch::Receiver<Discovered>) -> Discovered {
    until(seen.clone(), "a lost link", |seen| matches!(seen.link, Link::Lost { .. })).await
}

fn change(world: &World, addresses: &[&str]) {
    world.edit(Resource::EndpointSlice, "v1-a", "endpointslice-controller", |slice| {
        slice["endpoints"] = endpoints(addresses);
    });
}

#[tokio::test]
async fn endpoints_are_followed_as_slices_come_change_and_go() {
    let world = World::new().await;
    let discovery = follow(&world.cluster("edge"));
    let seen = discovery.seen();
    known(&seen, &[]).await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    world.with_slice("v2-a", "v2", &["10.244.0.9"]);
    known(&seen, &["10.244.0.1"]).await;
    world.with_slice("v1-b", "v1", &["10.244.0.2"]);
    known(&seen, &["10.244.0.1", "10.244.0.2"]).await;
    change(&world, &["10.244.0.3"]);
    known(&seen, &["10.244.0.2", "10.244.0.3"]).await;
    world.delete(Resource::EndpointSlice, "v1-a");
    known(&seen, &["10.244.0.2"]).await;
}

#[tokio::test]
async fn a_lost_api_server_changes_nothing_and_what_it_missed_is_seen_when_it_is_back() {
    let mut world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    let discovery = follow(&world.cluster("edge"));
    let seen = discovery.seen();
    let before = known(&seen, &["10.244.0.1"]).await;
    world.api.stop().await;
    assert_eq!(lost(&seen).await.picture, Some(before));
    change(&world, &["10.244.0.2"]);
    world.api.restart().await.unwrap();
    known(&seen, &["10.244.0.2"]).await;
}

#[tokio::test]
async fn after_410_everything_is_listed_anew_and_nothing_was_lost() {
    let world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    let discovery = follow(&world.cluster("edge"));
    let mut seen = discovery.seen();
    known(&seen, &["10.244.0.1"]).await;
    seen.mark_unchanged();
    world.api.silence_watches(true);
    change(&world, &["10.244.0.2"]);
    world.api.store().forget_history();
    world.api.end_watches(WatchEnd::Expired);
    world.api.silence_watches(false);
    seen.changed().await.unwrap();
    assert_eq!(seen.borrow().link, Link::Live);
    known(&seen, &["10.244.0.2"]).await;
}

#[tokio::test]
async fn a_watch_that_is_refused_with_410_is_begun_with_a_new_list() {
    let world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    let gone = Effect::Refuse(Refusal::expired("too old resource version"));
    let refused = world.api.faults().add(Rule::on(Verb::Watch, Resource::EndpointSlice).times(2), gone);
    let discovery = follow(&world.cluster("edge"));
    let seen = discovery.seen();
    known(&seen, &["10.244.0.1"]).await;
    crate::world::eventually("two refusals", || world.api.faults().met(refused) == 2).await;
    change(&world, &["10.244.0.2"]);
    known(&seen, &["10.244.0.2"]).await;
}

#[tokio::test]
async fn a_watch_that_ends_or_breaks_is_begun_again() {
    let world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    let discovery = follow(&world.cluster("edge"));
    let seen = discovery.seen();
    known(&seen, &["10.244.0.1"]).await;
    for (end, address) in [(WatchEnd::Closed, "10.244.0.2"), (WatchEnd::Torn, "10.244.0.3")] {
        world.api.end_watches(end);
        change(&world, &[address]);
        known(&seen, &[address]).await;
    }
}

#[tokio::test]
async fn a_list_that_hangs_is_given_up_and_asked_for_again() {
    let world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    world.api.faults().add(Rule::on(Verb::List, Resource::EndpointSlice).times(1), Effect::Hang);
    let discovery = follow(&world.cluster_within("edge", Duration::from_millis(500)));
    let seen = discovery.seen();
    lost(&seen).await;
    known(&seen, &["10.244.0.1"]).await;
}

#[tokio::test]
async fn what_may_not_be_listed_is_told_in_the_words_of_the_api_server() {
    let world = World::new().await;
    world.api.access().restrict("stranger", Vec::new());
    let discovery = follow(&world.cluster("stranger"));
    let Link::Lost { why, .. } = lost(&discovery.seen()).await.link else { panic!("not lost") };
    assert!(why.contains("endpointslices") && why.contains("forbidden"), "{why}");
}

#[tokio::test]
async fn a_port_that_the_service_does_not_have_is_told() {
    let world = World::new().await;
    world.with_slice("v1-a", "v1", &["10.244.0.1"]);
    let discovery = Discovery::start(&world.cluster("edge"), &named("v1"), PortChoice::Number(9));
    let picture = known(&discovery.seen(), &[]).await;
    assert!(picture.problem.as_deref().is_some_and(|problem| problem.contains("`http` (8000)")), "{picture:?}");
    change(&world, &[]);
    assert_eq!(json!(known(&discovery.seen(), &[]).await.endpoints.len()), json!(0));
}
