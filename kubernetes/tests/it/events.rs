//! What `kubectl describe service` tells.

use pointsman_chaos::fakes::api_server::{Resource, Selection};
use pointsman_config::{Share, Split, VersionId};
use pointsman_kubernetes::{EventSink, Told};
use pointsman_rollout::{Cause, Change, Decision, PhaseName};
use serde_json::Value;

use crate::world::{NAMESPACE, World, eventually, live};

fn step(percent: u32) -> Change {
    let version = |name: &str| -> VersionId { name.parse().unwrap() };
    let share = Share::from_ppm(percent * 10_000).unwrap();
    let after = Split::canary(version("v1"), version("v2"), share);
    Change {
        decision: Decision::Step,
        from: PhaseName::Shifting,
        to: PhaseName::Shifting,
        stable: version("v1"),
        canary: Some(version("v2")),
        before: Split::Whole(version("v1")),
        after,
        cause: Cause::Plan { reason: "the hold is over".to_owned() },
        evidence: None,
    }
}

fn told(world: &World, resource: Resource) -> Vec<Value> {
    world.api.store().all(&Selection::all(resource, Some(NAMESPACE)))
}

#[tokio::test]
async fn every_change_is_an_event_of_its_own_and_the_same_one_is_counted() {
    let world = World::new().await;
    world.with_live_service();
    let cluster = world.cluster("edge");
    let service = live(&cluster).read().await.unwrap();
    let sink = EventSink::start(&cluster, "edge-1");
    sink.tell(service.reference(), &step(1));
    sink.tell(service.reference(), &step(5));
    sink.tell(service.reference(), &step(1));
    eventually("two events, one of them counted", || {
        told(&world, Resource::Event).iter().any(|event| event["series"]["count"] == 2)
    })
    .await;
    let mut events = told(&world, Resource::Event);
    events.sort_by_key(|event| event["note"].to_string());
    let notes: Vec<&str> = events.iter().map(|event| event["note"].as_str().unwrap()).collect();
    assert_eq!(notes, ["v2 now gets 1%: the hold is over", "v2 now gets 5%: the hold is over"]);
    assert_eq!(events[0]["regarding"]["uid"].as_str(), Some(service.uid.as_str()));
    assert_eq!((events[0]["type"].as_str(), events[0]["reason"].as_str()), (Some("Normal"), Some("Step")));
    let described = told(&world, Resource::CoreEvent);
    assert_eq!(described[0]["involvedObject"]["name"].as_str(), Some("live"));
}

#[tokio::test]
async fn events_that_cannot_be_written_hold_nobody_up() {
    let mut world = World::new().await;
    world.with_live_service();
    let cluster = world.cluster("edge");
    let service = live(&cluster).read().await.unwrap();
    world.api.stop().await;
    let sink = EventSink::start(&cluster, "edge-1");
    for number in 0..1_000 {
        sink.say(service.reference(), Told { reason: "Step", note: number.to_string(), is_warning: false });
    }
}
