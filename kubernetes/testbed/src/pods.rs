//! Pods that no kubelet runs: who answers at their address is up to the test.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Node, Pod as PodObject};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually};
use crate::stage::LABEL;

/// A pod that is to be.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: Value,
    /// The name of its only port.
    pub port: &'a str,
    /// Where it answers. The address is one of this machine when an edge outside the cluster shall reach it, and never one
    /// on loopback, which no API server has in its slices.
    pub address: SocketAddr,
}

impl Pod<'_> {
    /// As the strictest of the pod security standards wants it, and for as long as its node says nothing.
    fn object(&self, node: &str) -> Value {
        json!({
            "metadata": { "name": self.name, "labels": self.labels },
            "spec": {
                "nodeName": node, "automountServiceAccountToken": false, "tolerations": [{ "operator": "Exists" }],
                "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "model", "image": "model.invalid/none:1",
                    "ports": [{ "name": self.port, "containerPort": self.address.port() }],
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                }],
            },
        })
    }
}

impl Cluster {
    /// A pod that no kubelet runs, on a node that has none, with the status that a kubelet would give it: ready.
    pub async fn add_pod(&self, pod: &Pod<'_>) {
        self.add_node().await;
        // The account that pods run as comes into a new namespace a moment after it.
        eventually("a pod may be made", || async {
            match self.create::<PodObject>(pod.object(&self.namespace)).await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.message.contains("serviceaccount") => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        self.set_pod(pod, true).await;
    }

    /// Whether the pod is ready, as a kubelet would say it.
    pub async fn set_pod(&self, pod: &Pod<'_>, is_ready: bool) {
        let (word, ip) = (if is_ready { "True" } else { "False" }, pod.address.ip().to_string());
        let status = json!({
            "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                "conditions": [{ "type": "Ready", "status": word }],
            },
        });
        self.api::<PodObject>().patch_status(pod.name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Has a pod end: it stays, terminating, since no kubelet says that it has ended.
    pub async fn end_pod(&self, name: &str) {
        self.api::<PodObject>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Takes a pod away at once.
    pub async fn remove_pod(&self, name: &str) {
        self.api::<PodObject>().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// A node by the name of the namespace, on which nothing runs: a real cluster gives no endpoint to a pod whose node
    /// it does not know. The fake knows no nodes.
    async fn add_node(&self) {
        if self.fake.is_some() {
            return;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({ "metadata": { "name": self.namespace, "labels": { (LABEL): "true" } }, "spec": { "unschedulable": true } });
        match nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn remove_node(&self) {
        if self.fake.is_some() {
            return;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.delete(&self.namespace, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
    }
}
