//! Making, reading, replacing and deleting.

use std::net::SocketAddr;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod as PodObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use pointsman_testbed::Pod;
use serde_json::{Value, json};

use super::cluster::{Cluster, check_refusal, refusal, version_of};
use super::contract;

contract! {
    what_is_made_is_read_replaced_and_deleted,
    a_name_is_taken_once,
    what_is_not_there_is_not_found,
    a_service_is_filled_in,
    a_stale_replacement_is_a_conflict,
    a_write_that_changes_nothing_makes_no_version,
    a_dry_run_changes_nothing,
    a_service_without_ports_is_invalid,
    endpoints_on_loopback_are_refused,
    ports_are_numbers_that_ports_have,
    labels_and_selectors_have_a_form,
    a_pod_stays_as_it_was_made_but_for_its_status,
    a_deployment_selects_what_it_makes,
    nothing_is_made_in_a_namespace_that_ends,
    annotations_have_a_limit,
    status_is_written_apart,
    a_list_comes_in_pages_of_one_version,
    labels_and_names_select,
    a_deletion_for_another_object_is_a_conflict,
}

pub(super) fn service(name: &str, version: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": { "selector": { "app": "model", "version": version }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

pub(super) fn config(name: &str, value: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "value": value } }, "data": { "value": value } })
}

async fn what_is_made_is_read_replaced_and_deleted(cluster: Cluster) {
    let configs = cluster.api::<ConfigMap>();
    let made: ConfigMap = cluster.create(config("a", "1")).await.unwrap();
    assert_eq!(configs.get("a").await.unwrap(), made);
    let mut next = made.clone();
    next.data = Some([("value".to_owned(), "2".to_owned())].into());
    let replaced = configs.replace("a", &PostParams::default(), &next).await.unwrap();
    assert_ne!(version_of(&replaced), version_of(&made));
    assert_eq!(replaced.metadata.uid, made.metadata.uid);
    configs.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(configs.get_opt("a").await.unwrap(), None);
}

async fn a_name_is_taken_once(cluster: Cluster) {
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    let again = cluster.create::<ConfigMap>(config("a", "1")).await;
    check_refusal(again, 409, "AlreadyExists", "configmaps \"a\" already exists");
}

async fn what_is_not_there_is_not_found(cluster: Cluster) {
    check_refusal(cluster.api::<Service>().get("a").await, 404, "NotFound", "services \"a\" not found");
    let slice = cluster.api::<EndpointSlice>().get("a").await;
    check_refusal(slice, 404, "NotFound", "endpointslices.discovery.k8s.io \"a\" not found");
    let gone = cluster.api::<ConfigMap>().delete("a", &DeleteParams::default()).await;
    check_refusal(gone, 404, "NotFound", "configmaps \"a\" not found");
}

async fn a_service_is_filled_in(cluster: Cluster) {
    let service: Service = cluster.create(service("live", "v1")).await.unwrap();
    let spec = service.spec.unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert!(spec.cluster_ip.unwrap().parse::<std::net::IpAddr>().is_ok());
    let ports = serde_json::to_value(spec.ports.unwrap()).unwrap();
    assert_eq!(ports, json!([{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 80 }]));
}

async fn a_stale_replacement_is_a_conflict(cluster: Cluster) {
    let configs = cluster.api::<ConfigMap>();
    let mut stale: ConfigMap = cluster.create(config("a", "1")).await.unwrap();
    cluster.merge::<ConfigMap>("a", json!({ "data": { "value": "2" } })).await.unwrap();
    stale.data = Some([("value".to_owned(), "3".to_owned())].into());
    let words = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
                 changes to the latest version and try again";
    check_refusal(configs.replace("a", &PostParams::default(), &stale).await, 409, "Conflict", words);
    stale.metadata.resource_version = None;
    configs.replace("a", &PostParams::default(), &stale).await.expect("without a version it replaces any");
}

async fn a_write_that_changes_nothing_makes_no_version(cluster: Cluster) {
    let made: ConfigMap = cluster.create(config("a", "1")).await.unwrap();
    let same: ConfigMap = cluster.merge("a", json!({ "data": { "value": "1" } })).await.unwrap();
    assert_eq!(version_of(&same), version_of(&made));
}

async fn a_dry_run_changes_nothing(cluster: Cluster) {
    let configs = cluster.api::<ConfigMap>();
    let trying = PostParams { dry_run: true, ..PostParams::default() };
    let made: ConfigMap = cluster.create(config("a", "1")).await.unwrap();
    let mut next = made.clone();
    next.data = Some([("value".to_owned(), "2".to_owned())].into());
    let tried = configs.replace("a", &trying, &next).await.unwrap();
    assert_eq!((tried.data, tried.metadata.resource_version), (next.data, made.metadata.resource_version.clone()));
    assert_eq!(configs.get("a").await.unwrap(), made);
    let other: ConfigMap = serde_json::from_value(config("b", "1")).unwrap();
    configs.create(&trying, &other).await.unwrap();
    assert_eq!(configs.get_opt("b").await.unwrap(), None);
}

async fn a_service_without_ports_is_invalid(cluster: Cluster) {
    let object = json!({ "metadata": { "name": "a" }, "spec": { "selector": { "app": "x" } } });
    let refused = cluster.create::<Service>(object).await;
    check_refusal(refused, 422, "Invalid", "Service \"a\" is invalid: spec.ports: Required value");
}

async fn endpoints_on_loopback_are_refused(cluster: Cluster) {
    let slice = json!({
        "metadata": { "name": "a" }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.244.0.1"] }, { "addresses": ["127.0.0.1"] }],
    });
    let status = refusal(cluster.create::<EndpointSlice>(slice).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let cause = status.details.unwrap().causes.remove(0);
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldValueInvalid", "endpoints[1].addresses[0]"));
    assert!(status.message.contains("may not be in the loopback range (127.0.0.0/8, ::1/128)"), "{}", status.message);
}

/// Checks that it is refused for one field, and in which words.
fn check_invalid<T: std::fmt::Debug>(outcome: kube::Result<T>, (reason, field): (&str, &str), words: &str) {
    let status = refusal(outcome);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{}", status.message);
    let causes = status.details.unwrap().causes;
    let is_it =
        |cause: &&kube::core::response::StatusCause| (cause.reason.as_str(), cause.field.as_str()) == (reason, field);
    let cause = causes.iter().find(is_it).unwrap_or_else(|| panic!("{reason} at {field}: {}", status.message));
    assert!(cause.message.contains(words), "{}", cause.message);
}

async fn ports_are_numbers_that_ports_have(cluster: Cluster) {
    let slice = |family: &str, ports: Value| json!({ "metadata": { "name": "a" }, "addressType": family, "endpoints": [], "ports": ports });
    let none = cluster.create::<EndpointSlice>(slice("IPv4", json!([{ "name": "http", "port": 70_000 }]))).await;
    check_invalid(none, ("FieldValueInvalid", "ports[0].port"), "must be between 1 and 65535");
    let twice = json!([{ "name": "http", "port": 80 }, { "name": "http", "port": 81 }]);
    let twice = cluster.create::<EndpointSlice>(slice("IPv4", twice)).await;
    check_invalid(twice, ("FieldValueDuplicate", "ports[1].name"), "\"http\"");
    let other = cluster.create::<EndpointSlice>(slice("Other", json!([]))).await;
    check_invalid(other, ("FieldValueNotSupported", "addressType"), "\"IPv4\"");
    let mut nameless = service("live", "v1");
    nameless["spec"]["ports"] = json!([{ "port": 80 }, { "name": "other", "port": 81 }]);
    check_invalid(cluster.create::<Service>(nameless).await, ("FieldValueRequired", "spec.ports[0].name"), "");
}

async fn labels_and_selectors_have_a_form(cluster: Cluster) {
    let words = "a valid label must be an empty string or consist of alphanumeric characters";
    let selecting = cluster.create::<Service>(service("live", "v 1")).await;
    check_invalid(selecting, ("FieldValueInvalid", "spec.selector"), words);
    let labelled = cluster.create::<ConfigMap>(config("a", "-1")).await;
    check_invalid(labelled, ("FieldValueInvalid", "metadata.labels"), words);
    cluster.create::<Service>(service("live", "v1.0_x")).await.unwrap();
    let patch = json!([{ "op": "replace", "path": "/spec/selector/version", "value": "x".repeat(64) }]);
    let patched = cluster.patch::<Service>("live", patch).await;
    check_invalid(patched, ("FieldValueInvalid", "spec.selector"), "must be no more than 63");
}

async fn a_pod_stays_as_it_was_made_but_for_its_status(cluster: Cluster) {
    let pod = Pod {
        name: "a",
        labels: json!({ "app": "model" }),
        port: "web",
        address: SocketAddr::from(([10, 244, 0, 1], 8080)),
    };
    cluster.add_pod(&pod).await;
    let pods = cluster.api::<PodObject>();
    let status = |status: Value| Patch::Merge(json!({ "status": status }));
    let none = pods.patch_status("a", &PatchParams::default(), &status(json!({ "podIP": "here" }))).await;
    check_invalid(none, ("FieldValueInvalid", "status.podIPs[0]"), "must be a valid IP address");
    let other = status(json!({ "podIP": "10.244.0.2" }));
    let moved = pods.patch_status("a", &PatchParams::default(), &other).await.unwrap().status.unwrap();
    assert_eq!(moved.pod_ips.unwrap()[0].ip, "10.244.0.2", "both say the same");
    let port = json!([{ "op": "replace", "path": "/spec/containers/0/ports/0/containerPort", "value": 1 }]);
    let changed = cluster.patch::<PodObject>("a", port).await;
    check_invalid(changed, ("FieldValueForbidden", "spec"), "pod updates may not change fields other than");
    cluster.merge::<PodObject>("a", json!({ "metadata": { "labels": { "app": "other" } } })).await.unwrap();
    let nameless = json!({ "metadata": { "name": "b" }, "spec": { "containers": [{ "name": "model" }] } });
    check_invalid(cluster.create::<PodObject>(nameless).await, ("FieldValueRequired", "spec.containers[0].image"), "");
}

async fn a_deployment_selects_what_it_makes(cluster: Cluster) {
    let template = json!({
        "metadata": { "labels": { "app": "other" } },
        "spec": { "containers": [{ "name": "model", "image": "model.invalid/none:1" }] },
    });
    let spec = json!({ "replicas": 0, "selector": { "matchLabels": { "app": "model" } }, "template": template });
    let made = cluster.create::<Deployment>(json!({ "metadata": { "name": "a" }, "spec": spec })).await;
    let field = "spec.template.metadata.labels";
    check_invalid(made, ("FieldValueInvalid", field), "`selector` does not match template `labels`");
}

async fn nothing_is_made_in_a_namespace_that_ends(cluster: Cluster) {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    // What is in it keeps it, at least for the moment in which something else is made.
    for number in 0..20 {
        cluster.create::<ConfigMap>(config(&format!("a{number}"), "1")).await.unwrap();
    }
    let ended = namespaces.delete(&cluster.namespace, &DeleteParams::default()).await.unwrap();
    let ended = ended.left().expect("it stays for a while");
    assert!(ended.metadata.deletion_timestamp.is_some());
    assert_eq!(ended.status.unwrap().phase.as_deref(), Some("Terminating"));
    let status = refusal(cluster.create::<ConfigMap>(config("late", "1")).await);
    match status.code {
        403 => {
            let words = format!(
                "configmaps \"late\" is forbidden: unable to create new content in namespace {} because it is being terminated",
                cluster.namespace
            );
            assert_eq!(status.message, words);
        }
        code => assert_eq!(code, 404, "gone already: {}", status.message),
    }
}

async fn annotations_have_a_limit(cluster: Cluster) {
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    let annotate = |bytes: usize| {
        let annotations = json!({ "pointsman.dev/state": "x".repeat(bytes - "pointsman.dev/state".len()) });
        cluster.merge::<Service>("live", json!({ "metadata": { "annotations": annotations } }))
    };
    annotate(256 * 1024).await.unwrap();
    let status = refusal(annotate(256 * 1024 + 1).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.contains("metadata.annotations: Too long"), "{}", status.message);
}

async fn status_is_written_apart(cluster: Cluster) {
    let services = cluster.api::<Service>();
    cluster.create::<Service>(service("live", "v1")).await.unwrap();
    let conditions = json!([{
        "type": "Seen", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let both = json!({ "status": { "conditions": conditions }, "spec": { "selector": { "version": "v2" } } });
    let after: Service = cluster.merge("live", both.clone()).await.unwrap();
    let selected = |service: &Service| service.spec.as_ref().unwrap().selector.as_ref().unwrap()["version"].clone();
    let seen = |service: &Service| service.status.as_ref().is_some_and(|status| status.conditions.is_some());
    assert_eq!((selected(&after).as_str(), seen(&after)), ("v2", false));
    let params = PatchParams::default();
    let both = json!({ "status": { "conditions": conditions }, "spec": { "selector": { "version": "v3" } } });
    let after = services.patch_status("live", &params, &Patch::Merge(both)).await.unwrap();
    assert_eq!((selected(&after).as_str(), seen(&after)), ("v2", true));
}

async fn a_list_comes_in_pages_of_one_version(cluster: Cluster) {
    let configs = cluster.api::<ConfigMap>();
    for name in ["a", "b", "d"] {
        cluster.create::<ConfigMap>(config(name, "x")).await.unwrap();
    }
    let selected = ListParams::default().labels("value=x").limit(2);
    let first = configs.list(&selected).await.unwrap();
    cluster.create::<ConfigMap>(config("c", "x")).await.unwrap();
    let next = first.metadata.continue_.clone().unwrap();
    let second = configs.list(&selected.clone().continue_token(&next)).await.unwrap();
    let names =
        |items: Vec<ConfigMap>| -> Vec<String> { items.into_iter().map(|item| item.metadata.name.unwrap()).collect() };
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!((names(first.items), names(second.items)), (vec!["a".into(), "b".into()], vec!["d".into()]));
    assert_eq!(second.metadata.continue_.unwrap_or_default(), "");
}

async fn labels_and_names_select(cluster: Cluster) {
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        cluster.create::<ConfigMap>(config(name, value)).await.unwrap();
    }
    for (selected, expected) in [
        (ListParams::default().labels("value in (1,3)"), vec!["a", "c"]),
        (ListParams::default().labels("value,value!=1"), vec!["b", "c"]),
        (ListParams::default().fields("metadata.name=b"), vec!["b"]),
    ] {
        let found = cluster.api::<ConfigMap>().list(&selected).await.unwrap();
        let names: Vec<String> = found.items.into_iter().map(|item| item.metadata.name.unwrap()).collect();
        // A cluster puts a map with its certificates into each namespace.
        let ours: Vec<&String> = names.iter().filter(|name| *name != "kube-root-ca.crt").collect();
        assert_eq!(ours, expected, "{selected:?}");
    }
    let unknown = cluster.api::<PodObject>().list(&ListParams::default().fields("spec.hostname=x")).await;
    assert_eq!(refusal(unknown).code, 400);
}

async fn a_deletion_for_another_object_is_a_conflict(cluster: Cluster) {
    cluster.create::<ConfigMap>(config("a", "1")).await.unwrap();
    let other = kube::api::Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    let status = refusal(cluster.api::<ConfigMap>().delete("a", &params).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert!(status.message.contains("Precondition failed: UID in precondition: other"), "{}", status.message);
}
