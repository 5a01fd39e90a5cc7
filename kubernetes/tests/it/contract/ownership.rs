//! Who owns a field, and what server-side apply makes of it: how a foreign writer is seen, and what Argo CD and Flux
//! do to a selector.

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, refusal};
use super::contract;
use super::objects::service;

contract! {
    a_patch_owns_what_it_changes,
    a_foreign_writer_is_seen,
    an_apply_over_a_patched_selector_is_a_conflict,
    a_patch_takes_an_applied_selector_silently,
    an_applied_selector_is_set_whole,
    what_is_no_longer_applied_is_gone,
}

async fn merge_as(cluster: &Cluster, manager: &str, fields: Value) -> Service {
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    cluster.api::<Service>().patch("live", &params, &Patch::Merge(fields)).await.unwrap()
}

async fn apply_as(cluster: &Cluster, manager: &str, config: Value) -> kube::Result<Service> {
    cluster.api::<Service>().patch("live", &PatchParams::apply(manager), &Patch::Apply(config)).await
}

fn config(version: &str) -> Value {
    let mut config = service("live", version);
    config["apiVersion"] = json!("v1");
    config["kind"] = json!("Service");
    config
}

fn flipped(version: &str) -> Value {
    json!({ "spec": { "selector": { "version": version } } })
}

/// The managers that own a field, given by its place in `fieldsV1`.
fn owners(service: &Service, field: &str) -> Vec<(String, String)> {
    let entries = service.metadata.managed_fields.iter().flatten();
    let owning =
        entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(field).is_some()));
    let named = owning.map(|entry| (entry.manager.clone().unwrap(), entry.operation.clone().unwrap()));
    named.collect()
}

const SELECTOR: &str = "/f:spec/f:selector";

fn owner(manager: &str, operation: &str) -> (String, String) {
    (manager.to_owned(), operation.to_owned())
}

async fn a_patch_owns_what_it_changes(cluster: Cluster) {
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    let fields =
        json!({ "metadata": { "annotations": { "pointsman.dev/state": "x" } }, "spec": flipped("v2")["spec"] });
    let after = merge_as(&cluster, "pointsman", fields).await;
    assert_eq!(owners(&after, SELECTOR), [owner("pointsman", "Update")]);
    assert_eq!(owners(&after, "/f:metadata/f:annotations/f:pointsman.dev~1state"), [owner("pointsman", "Update")]);
    let ports = owners(&after, "/f:spec/f:ports");
    assert!(!ports.is_empty() && !ports.contains(&owner("pointsman", "Update")), "{ports:?}");
}

async fn a_foreign_writer_is_seen(cluster: Cluster) {
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    merge_as(&cluster, "pointsman", flipped("v2")).await;
    let after = merge_as(&cluster, "kubectl-edit", flipped("v1")).await;
    assert_eq!(owners(&after, SELECTOR), [owner("kubectl-edit", "Update")]);
}

async fn an_apply_over_a_patched_selector_is_a_conflict(cluster: Cluster) {
    apply_as(&cluster, "argocd", config("v1")).await.unwrap();
    merge_as(&cluster, "pointsman", flipped("v2")).await;
    let status = refusal(apply_as(&cluster, "argocd", config("v1")).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let words = "Apply failed with 1 conflict: conflict with \"pointsman\" using v1: .spec.selector";
    assert_eq!(status.message, words);
    let cause = status.details.unwrap().causes.remove(0);
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.selector"));
    let params = PatchParams::apply("argocd").force();
    let forced = cluster.api::<Service>().patch("live", &params, &Patch::Apply(config("v1"))).await.unwrap();
    assert_eq!(forced.spec.as_ref().unwrap().selector.as_ref().unwrap()["version"], "v1");
    assert_eq!(owners(&forced, SELECTOR), [owner("argocd", "Apply")]);
}

async fn a_patch_takes_an_applied_selector_silently(cluster: Cluster) {
    apply_as(&cluster, "argocd", config("v1")).await.unwrap();
    let after = merge_as(&cluster, "pointsman", flipped("v2")).await;
    assert_eq!(owners(&after, SELECTOR), [owner("pointsman", "Update")]);
}

async fn an_applied_selector_is_set_whole(cluster: Cluster) {
    apply_as(&cluster, "argocd", config("v1")).await.unwrap();
    let mut config = config("v1");
    config["spec"]["selector"] = json!({ "version": "v2" });
    let after = apply_as(&cluster, "argocd", config).await.unwrap();
    assert_eq!(after.spec.unwrap().selector.unwrap(), [("version".to_owned(), "v2".to_owned())].into());
}

async fn what_is_no_longer_applied_is_gone(cluster: Cluster) {
    let mut labelled = config("v1");
    labelled["metadata"]["labels"] = json!({ "team": "models" });
    apply_as(&cluster, "argocd", labelled).await.unwrap();
    merge_as(&cluster, "kubectl", json!({ "metadata": { "labels": { "other": "x" } } })).await;
    let after = apply_as(&cluster, "argocd", config("v1")).await.unwrap();
    assert_eq!(after.metadata.labels.unwrap(), [("other".to_owned(), "x".to_owned())].into());
}
