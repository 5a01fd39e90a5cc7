//! A cluster with a Service for each of two versions and a live Service that selects v1, and edges outside of it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::load::{Load, Running};
use pointsman_testbed::{Cluster, Pod, Way, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kube::{Cluster as Site, LIVE};
use crate::process::{self, Edge};

/// An address of this machine for pods, other than the one that goes out.
const HOST_IP: &str = "POINTSMAN_TEST_HOST_IP";

pub struct Stage {
    pub cluster: Cluster,
    pub folder: tempfile::TempDir,
    host: IpAddr,
    selections: Arc<Mutex<Vec<String>>>,
    _watching: JoinSet<()>,
    _slices: JoinSet<()>,
}

/// An edge, and its way to the API server.
pub struct Outside {
    pub edge: Edge,
    pub way: Way,
}

/// Edges as far as no other is near.
pub fn alone(cluster: &Cluster, lease: &str) -> String {
    format!("{{ kubernetes: {{ namespace: {}, lease_duration: {lease} }} }}", cluster.namespace)
}

fn selector(version: &str) -> Value {
    json!({ "app": "model", "version": version })
}

/// An address of this machine that slices may hold. Nothing in the cluster need reach it: edges are here, too.
fn host_ip() -> IpAddr {
    if let Ok(named) = std::env::var(HOST_IP) {
        return named.parse().unwrap_or_else(|error| panic!("{HOST_IP}={named}: {error}"));
    }
    // Nothing is sent; the system only says from where it would be.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let found = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    let address = found
        .unwrap_or_else(|error| panic!("no route out of here ({error}); set {HOST_IP} to an address of this machine"));
    address.ip()
}

impl Stage {
    /// With a ready pod of each version, and no edge yet.
    pub async fn new(cluster: Cluster) -> (Self, [FakeModel; 2]) {
        let stage = Self::empty(cluster).await;
        let models = [stage.add_pod("one", "v1").await, stage.add_pod("two", "v2").await];
        stage.wait_for_slices("model-v1", 1).await;
        stage.wait_for_slices("model-v2", 1).await;
        (stage, models)
    }

    /// Without pods.
    pub async fn empty(cluster: Cluster) -> Self {
        let slices = cluster.keep_slices().await;
        for (name, version) in [("model-v1", "v1"), ("model-v2", "v2"), (LIVE, "v1")] {
            let ports = json!([{ "name": "http", "port": 80, "targetPort": "http" }]);
            let spec = json!({ "selector": selector(version), "ports": ports });
            cluster.create::<Service>(json!({ "metadata": { "name": name }, "spec": spec })).await.unwrap();
        }
        let selections = Arc::new(Mutex::new(vec!["v1".to_owned()]));
        let mut watching = JoinSet::new();
        watching.spawn(watch_selections(cluster.api(), Arc::clone(&selections)));
        let folder = tempfile::tempdir().unwrap();
        Self { cluster, folder, host: host_ip(), selections, _watching: watching, _slices: slices }
    }

    /// A pod of `version` that is ready, and the model in it.
    pub async fn add_pod(&self, name: &str, version: &str) -> FakeModel {
        let model = self.model(version).await;
        self.cluster.add_pod(&pod(name, version, model.addr())).await;
        model
    }

    /// Somebody who answers at an address that slices may hold.
    pub async fn model(&self, version: &str) -> FakeModel {
        FakeModel::start_on(version, SocketAddr::new(self.host, 0)).await.unwrap()
    }

    /// Waits until the slices of a Service hold so many endpoints.
    pub async fn wait_for_slices(&self, service: &str, endpoints: usize) {
        eventually(&format!("{endpoints} endpoints in the slices of {service}"), || async {
            let slices = self.cluster.slices(service).await;
            let found: usize = slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).sum();
            (found == endpoints).then_some(())
        })
        .await;
    }

    /// Starts an edge on a config with `state` and a route `model` that ends with `rest`.
    pub async fn start(&self, state: &str, rest: &str) -> Outside {
        self.start_named("edge", state, rest).await
    }

    pub async fn start_named(&self, name: &str, state: &str, rest: &str) -> Outside {
        let way = self.cluster.way().await;
        let edge = self.start_by(name, &way, &Site::text(state, rest)).await;
        Outside { edge, way }
    }

    /// Starts an edge that goes this way, under the name of a pod.
    pub async fn start_by(&self, name: &str, way: &Way, config: &str) -> Edge {
        let [file, kubeconfig] = ["yaml", "kubeconfig"].map(|kind| self.folder.path().join(format!("{name}.{kind}")));
        std::fs::write(&file, config).unwrap();
        std::fs::write(&kubeconfig, &way.kubeconfig).unwrap();
        let mut command = process::command(&file);
        command.env("KUBECONFIG", kubeconfig).env("HOSTNAME", name).args(["--drain-delay", "0s"]);
        Edge::started_by(command, &file).await
    }

    /// The live Service.
    pub async fn live(&self) -> Service {
        self.cluster.api::<Service>().get(LIVE).await.unwrap()
    }

    pub async fn annotation(&self, name: &str) -> Option<String> {
        self.live().await.metadata.annotations?.remove(&format!("pointsman.dev/{name}"))
    }

    /// The phase that stands on the live Service.
    pub async fn kept_phase(&self) -> Option<String> {
        let kept: Value = serde_json::from_str(&self.annotation("state").await?).unwrap();
        Some(kept["saved"]["phase"]["name"].as_str()?.to_owned())
    }

    pub async fn wait_for_kept_phase(&self, phase: &str) {
        eventually(&format!("{phase} on the live Service"), || async {
            (self.kept_phase().await.as_deref() == Some(phase)).then_some(())
        })
        .await;
    }

    pub async fn selected(&self) -> String {
        version_of(&self.live().await)
    }

    pub async fn wait_for_selected(&self, version: &str) {
        let what = format!("the live Service selects {version}");
        eventually(&what, || async { (self.selected().await == version).then_some(()) }).await;
    }

    /// The versions that the live Service has selected so far, one after the other.
    pub fn selections(&self) -> Vec<String> {
        self.selections.lock().unwrap().clone()
    }

    /// The versions that the live Service has selected, one after the other, once the last of them is this one.
    pub async fn wait_for_selections(&self, expected: &[&str]) {
        eventually(&format!("it selected {expected:?}, one after the other"), || async {
            let seen = self.selections.lock().unwrap().clone();
            assert!(seen.len() <= expected.len(), "{seen:?}");
            (seen == expected).then_some(())
        })
        .await;
    }

    /// Has somebody else change the selector of the live Service.
    pub async fn select_as(&self, who: &str, version: &str) {
        let fields = json!({ "spec": { "selector": selector(version) } });
        let params = PatchParams { field_manager: Some(who.to_owned()), ..PatchParams::default() };
        self.cluster.api::<Service>().patch(LIVE, &params, &Patch::Merge(fields)).await.unwrap();
    }

    /// Waits until an Event tells of this.
    pub async fn wait_for_event(&self, reason: &str) {
        eventually(&format!("an Event {reason}"), || async {
            let events = self.cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
            events.items.iter().any(|event| event.reason.as_deref() == Some(reason)).then_some(())
        })
        .await;
    }
}

/// A pod of a version at an address.
pub fn pod<'a>(name: &'a str, version: &str, address: SocketAddr) -> Pod<'a> {
    Pod { name, labels: selector(version), port: "http", address }
}

fn version_of(service: &Service) -> String {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.and_then(|selector| selector.get("version")).cloned().unwrap_or_default()
}

/// Writes down which versions the live Service selects.
async fn watch_selections(services: Api<Service>, selections: Arc<Mutex<Vec<String>>>) {
    let mut from = services.get(LIVE).await.unwrap().metadata.resource_version.unwrap();
    loop {
        let named = WatchParams::default().fields(&format!("metadata.name={LIVE}"));
        let mut events = services.watch(&named, &from).await.unwrap().boxed();
        while let Some(Ok(event)) = events.next().await {
            if let WatchEvent::Modified(service) = event {
                from = service.metadata.resource_version.clone().unwrap();
                let mut selections = selections.lock().unwrap();
                let version = version_of(&service);
                if selections.last() != Some(&version) {
                    selections.push(version);
                }
            }
        }
    }
}

/// So many requests per second, until stopped.
pub fn load(edge: &Edge, rate: u32) -> Running {
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = rate;
    load.bodies = vec![bytes::Bytes::from_static(b"12345")];
    load.start().unwrap()
}

/// Waits until promoting would not be refused.
pub async fn wait_until_ready(edge: &Edge) {
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.wait_for_route("both versions up", |route| {
        ["v1", "v2"].iter().all(|version| route["versions"][version]["endpoints"][0]["state"] == "up")
    })
    .await;
}
