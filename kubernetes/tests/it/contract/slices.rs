//! Which endpoints a Service has, as the controller of `EndpointSlices` tells it, before, during and after a flip.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, eventually};
use super::contract;

contract! {
    a_service_has_the_ready_pods_it_selects,
    a_named_port_is_the_one_of_the_pod,
    a_flip_moves_every_endpoint,
    a_service_that_selects_nobody_has_no_endpoints,
    a_pod_that_ends_is_terminating_first,
    slices_go_with_their_service,
}

/// What an endpoint is: ready, serving, terminating.
type Conditions = (bool, bool, bool);

const READY: Conditions = (true, true, false);

async fn add_service(cluster: &Cluster, version: &str) {
    let service = json!({
        "metadata": { "name": "live" },
        "spec": {
            "selector": { "app": "model", "version": version },
            "ports": [{ "name": "http", "port": 80, "targetPort": "web" }],
        },
    });
    cluster.create::<Service>(service).await.unwrap();
}

/// A pod that no kubelet runs, on a node that has none, with the status that a kubelet would give it.
async fn add_pod(cluster: &Cluster, name: &str, version: &str, address: &str) {
    cluster.add_node().await;
    let pod = json!({
        "metadata": { "name": name, "labels": { "app": "model", "version": version } },
        "spec": {
            "nodeName": cluster.namespace, "automountServiceAccountToken": false,
            "containers": [{
                "name": "model", "image": "model.invalid/none:1",
                "ports": [{ "name": "web", "containerPort": 8080 }],
            }],
        },
    });
    // The account that pods run as comes into a new namespace a moment after it.
    eventually("a pod may be made", || async {
        match cluster.create::<Pod>(pod.clone()).await {
            Ok(_) => Some(()),
            Err(kube::Error::Api(status)) if status.message.contains("serviceaccount") => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    set_ready(cluster, name, address, true).await;
}

async fn set_ready(cluster: &Cluster, name: &str, address: &str, is_ready: bool) {
    let word = if is_ready { "True" } else { "False" };
    let status = json!({
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": word }],
        },
    });
    cluster.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

async fn slices(cluster: &Cluster) -> Vec<EndpointSlice> {
    let selected = ListParams::default().labels("kubernetes.io/service-name=live");
    cluster.api::<EndpointSlice>().list(&selected).await.unwrap().items
}

fn endpoints(slices: &[EndpointSlice]) -> BTreeMap<String, Conditions> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let told = endpoints.map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let is = |condition: Option<bool>| condition.unwrap_or_default();
        (endpoint.addresses[0].clone(), (is(conditions.ready), is(conditions.serving), is(conditions.terminating)))
    });
    told.collect()
}

async fn expect(cluster: &Cluster, expected: &[(&str, Conditions)]) {
    let expected: BTreeMap<String, Conditions> =
        expected.iter().map(|(address, conditions)| ((*address).to_owned(), *conditions)).collect();
    let what = format!("{expected:?}");
    eventually(&what, || async {
        let found = slices(cluster).await;
        (!found.is_empty() && endpoints(&found) == expected).then_some(())
    })
    .await;
}

async fn a_service_has_the_ready_pods_it_selects(cluster: Cluster) {
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_pod(&cluster, "b", "v1", "10.244.1.2").await;
    add_pod(&cluster, "c", "v2", "10.244.2.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY), ("10.244.1.2", READY)]).await;
    set_ready(&cluster, "b", "10.244.1.2", false).await;
    expect(&cluster, &[("10.244.1.1", READY), ("10.244.1.2", (false, false, false))]).await;
}

async fn a_named_port_is_the_one_of_the_pod(cluster: Cluster) {
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY)]).await;
    let slice = slices(&cluster).await.remove(0);
    assert_eq!(slice.address_type, "IPv4");
    let ports: Value = serde_json::to_value(slice.ports.unwrap()).unwrap();
    assert_eq!(ports, json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));
    let owner = slice.metadata.owner_references.unwrap().remove(0);
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Service", "live"));
    let target = slice.endpoints.unwrap().remove(0).target_ref.unwrap();
    assert_eq!((target.kind.as_deref(), target.name.as_deref()), (Some("Pod"), Some("a")));
}

async fn a_flip_moves_every_endpoint(cluster: Cluster) {
    for (name, version, address) in
        [("a", "v1", "10.244.1.1"), ("b", "v1", "10.244.1.2"), ("c", "v2", "10.244.2.1"), ("d", "v2", "10.244.2.2")]
    {
        add_pod(&cluster, name, version, address).await;
    }
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY), ("10.244.1.2", READY)]).await;
    let before: BTreeSet<Option<String>> =
        slices(&cluster).await.into_iter().map(|slice| slice.metadata.name).collect();
    cluster.merge::<Service>("live", json!({ "spec": { "selector": { "version": "v2" } } })).await.unwrap();
    expect(&cluster, &[("10.244.2.1", READY), ("10.244.2.2", READY)]).await;
    let after: BTreeSet<Option<String>> = slices(&cluster).await.into_iter().map(|slice| slice.metadata.name).collect();
    assert_eq!(before, after, "the same slice holds others");
}

async fn a_service_that_selects_nobody_has_no_endpoints(cluster: Cluster) {
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY)]).await;
    cluster.merge::<Service>("live", json!({ "spec": { "selector": { "version": "v9" } } })).await.unwrap();
    expect(&cluster, &[]).await;
}

async fn a_pod_that_ends_is_terminating_first(cluster: Cluster) {
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY)]).await;
    cluster.api::<Pod>().delete("a", &DeleteParams::default()).await.unwrap();
    expect(&cluster, &[("10.244.1.1", (false, true, true))]).await;
    cluster.api::<Pod>().delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    expect(&cluster, &[]).await;
}

async fn slices_go_with_their_service(cluster: Cluster) {
    add_service(&cluster, "v1").await;
    expect(&cluster, &[]).await;
    cluster.api::<Service>().delete("live", &DeleteParams::default()).await.unwrap();
    eventually("no slice is left", || async { slices(&cluster).await.is_empty().then_some(()) }).await;
}
