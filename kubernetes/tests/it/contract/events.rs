//! Events, which `kubectl describe` shows: one kind of object under two names, of which the newer asks for more.

use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use kube::Resource;
use kube::api::ListParams;
use kube::runtime::events::{Event as Report, EventType, Recorder, Reporter};
use serde_json::{Value, json};

use super::cluster::{Cluster, eventually, refusal};
use super::contract;
use super::objects::service;

contract! {
    what_is_written_under_the_new_name_is_read_under_the_old,
    the_new_name_asks_for_more,
    an_event_is_about_an_object_of_its_namespace,
    a_report_is_found_by_the_object_it_is_about,
}

fn event(cluster: &Cluster) -> Value {
    json!({
        "metadata": { "name": "promoted" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
        "reason": "Promoted", "action": "Promote", "note": "to v2", "reportingController": "pointsman.dev/edge",
        "reportingInstance": "edge-1",
        "regarding": { "apiVersion": "v1", "kind": "Service", "name": "live", "namespace": cluster.namespace },
    })
}

async fn what_is_written_under_the_new_name_is_read_under_the_old(cluster: Cluster) {
    let new: Event = cluster.create(event(&cluster)).await.unwrap();
    let old = cluster.api::<CoreEvent>().get("promoted").await.unwrap();
    assert_eq!((old.message.as_deref(), old.involved_object.name.as_deref()), (Some("to v2"), Some("live")));
    assert_eq!((old.reporting_component, old.metadata.uid), (new.reporting_controller, new.metadata.uid));
}

async fn the_new_name_asks_for_more(cluster: Cluster) {
    for (field, told) in [
        ("eventTime", "eventTime: Required value"),
        ("action", "action: Required value"),
        ("reason", "reason: Required value"),
        ("reportingController", "reportingController: Required value"),
        ("reportingInstance", "reportingInstance: Required value"),
    ] {
        let mut event = event(&cluster);
        event.as_object_mut().unwrap().remove(field);
        let status = refusal(cluster.create::<Event>(event).await);
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{field}");
        assert!(status.message.contains(told), "{}", status.message);
    }
    let mut long = event(&cluster);
    long["note"] = json!("x".repeat(1025));
    let status = refusal(cluster.create::<Event>(long).await);
    assert!(status.message.contains("can have at most 1024 characters"), "{}", status.message);
}

async fn an_event_is_about_an_object_of_its_namespace(cluster: Cluster) {
    let event = json!({
        "metadata": { "name": "a" }, "reason": "Promoted", "message": "to v2",
        "involvedObject": { "kind": "Service", "name": "live", "namespace": "elsewhere" },
    });
    let status = refusal(cluster.create::<CoreEvent>(event).await);
    assert_eq!(status.code, 422);
    assert!(status.message.contains("does not match event.namespace"), "{}", status.message);
}

async fn a_report_is_found_by_the_object_it_is_about(cluster: Cluster) {
    let live: Service = cluster.create(service("live", "v1")).await.unwrap();
    let reporter = Reporter { controller: "pointsman.dev/edge".into(), instance: Some("edge-1".into()) };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    let about: ObjectReference = live.object_ref(&());
    let report = Report {
        type_: EventType::Warning,
        reason: "RolledBack".into(),
        note: Some("v2 failed".into()),
        action: "RollBack".into(),
        secondary: None,
    };
    // The second one is counted in the first.
    recorder.publish(&report, &about).await.unwrap();
    recorder.publish(&report, &about).await.unwrap();
    let uid = live.metadata.uid.unwrap();
    let selected = ListParams::default().fields(&format!("involvedObject.name=live,involvedObject.uid={uid}"));
    let found = eventually("the event is listed", || async {
        cluster.api::<CoreEvent>().list(&selected).await.unwrap().items.pop()
    })
    .await;
    assert_eq!((found.reason.as_deref(), found.message.as_deref()), (Some("RolledBack"), Some("v2 failed")));
    assert_eq!(found.series.and_then(|series| series.count), Some(2));
}
