//! A lock that one of many takes.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::cluster::{Cluster, refusal};
use super::contract;

contract! {
    of_sixteen_that_take_it_one_gets_it,
    it_is_not_replaced_blindly,
    its_duration_is_positive,
}

fn lease(holder: &str) -> Value {
    json!({
        "metadata": { "name": "pointsman" },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0 },
    })
}

async fn of_sixteen_that_take_it_one_gets_it(cluster: Cluster) {
    let read: Lease = cluster.create(lease("nobody")).await.unwrap();
    let takers = (0..16).map(|taker| {
        let (leases, mut lease) = (cluster.api::<Lease>(), read.clone());
        lease.spec.as_mut().unwrap().holder_identity = Some(format!("edge-{taker}"));
        tokio::spawn(async move { leases.replace("pointsman", &PostParams::default(), &lease).await })
    });
    let mut winners = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        match taker.await.unwrap() {
            Ok(lease) => winners.push(lease),
            lost => assert_eq!(refusal(lost).code, 409),
        }
    }
    let [winner] = winners.as_slice() else { panic!("{} won", winners.len()) };
    assert_eq!(cluster.api::<Lease>().get("pointsman").await.unwrap(), *winner);
}

async fn it_is_not_replaced_blindly(cluster: Cluster) {
    let mut blind: Lease = cluster.create(lease("edge-1")).await.unwrap();
    blind.metadata.resource_version = None;
    let status = refusal(cluster.api::<Lease>().replace("pointsman", &PostParams::default(), &blind).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let words = "leases.coordination.k8s.io \"pointsman\" is invalid: metadata.resourceVersion: Invalid value: 0x0: \
                 must be specified for an update";
    assert_eq!(status.message, words);
}

async fn its_duration_is_positive(cluster: Cluster) {
    let mut lease = lease("edge-1");
    lease["spec"]["leaseDurationSeconds"] = json!(0);
    let status = refusal(cluster.create::<Lease>(lease).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.contains("spec.leaseDurationSeconds"), "{}", status.message);
}
