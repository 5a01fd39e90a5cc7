//! Which endpoints a Service has, as the controller of `EndpointSlices` tells it, before, during and after a flip.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DeleteParams;
use pointsman_testbed::Pod;
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

/// Whether nobody writes slices on this control plane.
async fn left_out(cluster: &Cluster) -> bool {
    let has_controllers = cluster.has_controllers().await;
    if !has_controllers {
        assert!(cluster.fake.is_none(), "the fake has controllers");
        eprintln!("left out: no controller writes EndpointSlices on this control plane");
    }
    !has_controllers
}

fn pod<'a>(name: &'a str, version: &str, address: &str) -> Pod<'a> {
    let labels = json!({ "app": "model", "version": version });
    Pod { name, labels, port: "web", address: SocketAddr::new(address.parse().unwrap(), 8080) }
}

async fn add_pod(cluster: &Cluster, name: &str, version: &str, address: &str) {
    cluster.add_pod(&pod(name, version, address)).await;
}

async fn slices(cluster: &Cluster) -> Vec<EndpointSlice> {
    cluster.slices("live").await
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
    if left_out(&cluster).await {
        return;
    }
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_pod(&cluster, "b", "v1", "10.244.1.2").await;
    add_pod(&cluster, "c", "v2", "10.244.2.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY), ("10.244.1.2", READY)]).await;
    cluster.set_pod(&pod("b", "v1", "10.244.1.2"), false).await;
    expect(&cluster, &[("10.244.1.1", READY), ("10.244.1.2", (false, false, false))]).await;
}

async fn a_named_port_is_the_one_of_the_pod(cluster: Cluster) {
    if left_out(&cluster).await {
        return;
    }
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
    if left_out(&cluster).await {
        return;
    }
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
    if left_out(&cluster).await {
        return;
    }
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY)]).await;
    cluster.merge::<Service>("live", json!({ "spec": { "selector": { "version": "v9" } } })).await.unwrap();
    expect(&cluster, &[]).await;
}

async fn a_pod_that_ends_is_terminating_first(cluster: Cluster) {
    if left_out(&cluster).await {
        return;
    }
    add_pod(&cluster, "a", "v1", "10.244.1.1").await;
    add_service(&cluster, "v1").await;
    expect(&cluster, &[("10.244.1.1", READY)]).await;
    cluster.end_pod("a").await;
    expect(&cluster, &[("10.244.1.1", (false, true, true))]).await;
    cluster.remove_pod("a").await;
    expect(&cluster, &[]).await;
}

async fn slices_go_with_their_service(cluster: Cluster) {
    if left_out(&cluster).await {
        return;
    }
    add_service(&cluster, "v1").await;
    expect(&cluster, &[]).await;
    cluster.api::<Service>().delete("live", &DeleteParams::default()).await.unwrap();
    eventually("no slice is left", || async { slices(&cluster).await.is_empty().then_some(()) }).await;
}
