//! The flip of a live Service: one JSON patch with `test`.

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, check_refusal, version_of};
use super::contract;
use super::objects::service;

contract! {
    a_test_that_holds_sets_selector_and_annotation_together,
    a_test_that_fails_changes_nothing,
    a_test_on_the_version_fails_after_any_other_write,
    a_merge_with_an_old_version_is_a_conflict,
    a_merge_takes_away_what_is_null,
    a_rehearsed_patch_changes_nothing,
    no_patch_makes_what_is_not_there,
}

const REFUSED: &str = "the server rejected our request due to an error in our request";

fn flip(from: &str, to: &str) -> Value {
    json!([
        { "op": "test", "path": "/spec/selector", "value": { "app": "model", "version": from } },
        { "op": "replace", "path": "/spec/selector", "value": { "app": "model", "version": to } },
        { "op": "add", "path": "/metadata/annotations", "value": { "pointsman.dev/state": to } },
    ])
}

fn selected(service: &Service) -> &str {
    &service.spec.as_ref().unwrap().selector.as_ref().unwrap()["version"]
}

async fn a_test_that_holds_sets_selector_and_annotation_together(cluster: Cluster) {
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    let after: Service = cluster.patch("live", flip("v1", "v2")).await.unwrap();
    assert_eq!(
        (selected(&after), &after.metadata.annotations.as_ref().unwrap()["pointsman.dev/state"]),
        ("v2", &"v2".to_owned())
    );
}

async fn a_test_that_fails_changes_nothing(cluster: Cluster) {
    let made: Service = cluster.create(service("live", "v1")).await.unwrap();
    check_refusal(cluster.patch::<Service>("live", flip("v2", "v1")).await, 422, "Invalid", REFUSED);
    let absent = json!([{ "op": "test", "path": "/metadata/annotations/pointsman.dev~1state", "value": "v1" }]);
    check_refusal(cluster.patch::<Service>("live", absent).await, 422, "Invalid", REFUSED);
    assert_eq!(cluster.api::<Service>().get("live").await.unwrap(), made);
}

async fn a_test_on_the_version_fails_after_any_other_write(cluster: Cluster) {
    let made: Service = cluster.create(service("live", "v1")).await.unwrap();
    let guarded = |version: String, value: &str| {
        json!([
            { "op": "test", "path": "/metadata/resourceVersion", "value": version },
            { "op": "add", "path": "/metadata/labels", "value": { "a": value } },
        ])
    };
    let after: Service = cluster.patch("live", guarded(version_of(&made), "1")).await.unwrap();
    let late = cluster.patch::<Service>("live", guarded(version_of(&made), "2")).await;
    check_refusal(late, 422, "Invalid", REFUSED);
    cluster.patch::<Service>("live", guarded(version_of(&after), "3")).await.unwrap();
}

async fn a_merge_with_an_old_version_is_a_conflict(cluster: Cluster) {
    let made: Service = cluster.create(service("live", "v1")).await.unwrap();
    let merge = |version: &str| {
        let fields = json!({
            "metadata": { "resourceVersion": version_of(&made) }, "spec": { "selector": { "version": version } },
        });
        cluster.merge::<Service>("live", fields)
    };
    merge("v2").await.unwrap();
    let words = "Operation cannot be fulfilled on services \"live\": the object has been modified; please apply your \
                 changes to the latest version and try again";
    check_refusal(merge("v3").await, 409, "Conflict", words);
}

async fn a_merge_takes_away_what_is_null(cluster: Cluster) {
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    let after: Service =
        cluster.merge("live", json!({ "spec": { "selector": { "app": null, "version": "v2" } } })).await.unwrap();
    assert_eq!(after.spec.unwrap().selector.unwrap(), [("version".to_owned(), "v2".to_owned())].into());
}

async fn a_rehearsed_patch_changes_nothing(cluster: Cluster) {
    let made: Service = cluster.create(service("live", "v1")).await.unwrap();
    let rehearse = |operations: Value| {
        let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
        let services = cluster.api::<Service>();
        async move { services.patch("live", &PatchParams::default().dry_run(), &patch).await }
    };
    let tried = rehearse(flip("v1", "v2")).await.unwrap();
    assert_eq!((selected(&tried), version_of(&tried)), ("v2", version_of(&made)));
    check_refusal(rehearse(flip("v2", "v1")).await, 422, "Invalid", REFUSED);
    assert_eq!(cluster.api::<Service>().get("live").await.unwrap(), made);
}

async fn no_patch_makes_what_is_not_there(cluster: Cluster) {
    check_refusal(
        cluster.patch::<Service>("live", flip("v1", "v2")).await,
        404,
        "NotFound",
        "services \"live\" not found",
    );
}
