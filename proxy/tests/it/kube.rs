//! A cluster on loopback: the fake API server, with pods behind whose addresses fake models answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use pointsman_chaos::fakes::api_server::{Deletion, Key, Part, Patch, Resource, Settings, Writer};
use pointsman_chaos::fakes::{ApiServer, FakeModel};
use serde_json::{Value, json};

use crate::process::{self, Edge};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
pub const NAMESPACE: &str = "default";
pub const LIVE: &str = "model";

/// A cluster with a Service for v1 and one for v2, a live Service that selects v1, and no pods yet.
pub struct Cluster {
    pub api: ApiServer,
    pub folder: tempfile::TempDir,
}

impl Cluster {
    pub async fn new() -> Self {
        let settings = Settings { allow_loopback: true, ..Settings::default() };
        let cluster =
            Self { api: ApiServer::start_with(settings).await.unwrap(), folder: tempfile::tempdir().unwrap() };
        for version in ["v1", "v2"] {
            cluster.add_service(&format!("model-{version}"), version);
        }
        cluster.add_service(LIVE, "v1");
        cluster
    }

    /// A Service that selects the pods of `version`.
    pub fn add_service(&self, name: &str, version: &str) {
        let spec = json!({
            "selector": { "app": "model", "version": version },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
        });
        self.create(Resource::Service, json!({ "metadata": { "name": name }, "spec": spec }));
    }

    pub fn create(&self, resource: Resource, object: Value) {
        self.api.store().create(resource, NAMESPACE, object, &by("test")).unwrap();
    }

    /// A pod of `version` that is ready, and the model in it.
    pub async fn add_pod(&self, name: &str, version: &str) -> FakeModel {
        let model = FakeModel::start(version).await.unwrap();
        self.add_pod_at(name, version, model.addr());
        model
    }

    /// A pod of `version` that is ready, with whoever listens at this address in it.
    pub fn add_pod_at(&self, name: &str, version: &str, address: SocketAddr) {
        self.add_labelled_pod(name, &json!({ "app": "model", "version": version }), address);
    }

    /// A pod with these labels that is ready, with whoever listens at this address in it.
    pub fn add_labelled_pod(&self, name: &str, labels: &Value, address: SocketAddr) {
        let container = json!({ "name": "model", "image": "model:1", "ports": [{ "name": "http", "containerPort": address.port() }] });
        self.create(
            Resource::Pod,
            json!({
                "metadata": { "name": name, "labels": labels },
                "spec": { "containers": [container] },
            }),
        );
        let ip = address.ip().to_string();
        let status = json!({
            "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        self.api.store().patch(&key(Resource::Pod, name), Part::Status, &Patch::Merge(status), &by("kubelet")).unwrap();
    }

    /// A Deployment of two pods of `version`, of which no controller makes any.
    pub fn add_deployment(&self, version: &str) {
        let labels = json!({ "app": "model", "version": version });
        let template = json!({
            "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "model", "image": "model:1" }] },
        });
        let spec = json!({ "replicas": 2, "selector": { "matchLabels": labels }, "template": template });
        let metadata = json!({ "name": format!("model-{version}") });
        self.create(Resource::Deployment, json!({ "metadata": metadata, "spec": spec }));
    }

    /// How many pods the Deployment of `version` is to have.
    pub fn replicas_of(&self, version: &str) -> Value {
        let deployment = key(Resource::Deployment, &format!("model-{version}"));
        self.api.store().get(&deployment).unwrap()["spec"]["replicas"].clone()
    }

    /// Somebody gives the Deployment of `version` so many pods.
    pub fn scale(&self, version: &str, replicas: u32) {
        let deployment = key(Resource::Deployment, &format!("model-{version}"));
        let scale = |deployment: &mut Value| deployment["spec"]["replicas"] = json!(replicas);
        self.api.store().edit(&deployment, &by("kubectl"), scale).unwrap();
    }

    /// The pod is gone at once.
    pub fn delete_pod(&self, name: &str) {
        let at_once = Deletion { grace: Some(Duration::ZERO), ..Deletion::default() };
        self.api.store().delete(&key(Resource::Pod, name), &at_once, &by("test")).unwrap();
    }

    /// Somebody edits the live Service.
    pub fn edit_live(&self, who: &str, change: impl FnOnce(&mut Value)) {
        self.api.store().edit(&key(Resource::Service, LIVE), &by(who), change).unwrap();
    }

    pub fn live(&self) -> Value {
        self.api.store().get(&key(Resource::Service, LIVE)).unwrap()
    }

    /// The version that the live Service selects.
    pub fn selected(&self) -> String {
        self.live()["spec"]["selector"]["version"].as_str().unwrap().to_owned()
    }

    /// Starts the edge as the user `pointsman` of this cluster, on a config with `state` and a route `model` that ends with
    /// `rest`, which starts in the column of the route's keys.
    pub async fn start(&self, state: &str, rest: &str) -> Edge {
        self.write(state, rest);
        self.start_again().await
    }

    pub fn write(&self, state: &str, rest: &str) {
        std::fs::write(self.folder.path().join("pointsman.yaml"), Self::text(state, rest)).unwrap();
    }

    /// A config with `state` and a route `model` that ends with `rest`, which starts in the column of the route's keys.
    pub fn text(state: &str, rest: &str) -> String {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
state: {state}
routes:
  - name: model
    stable: v1
    versions:
      v1: {{ service: model-v1, port: http }}
      v2: {{ service: model-v2, port: http, revision: r1 }}
    health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}
    {rest}
"
        )
    }

    /// Starts the edge on the config that is there.
    pub async fn start_again(&self) -> Edge {
        let kubeconfig = self.folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, self.api.kubeconfig("pointsman", NAMESPACE)).unwrap();
        let config = self.folder.path().join("pointsman.yaml");
        let mut command = process::command(&config);
        command.env("KUBECONFIG", kubeconfig).args(["--drain-delay", "0s"]);
        Edge::started_by(command, &config).await
    }
}

fn key(resource: Resource, name: &str) -> Key {
    Key::new(resource, NAMESPACE, name)
}

fn by(who: &str) -> Writer {
    Writer::new(who, SystemTime::now())
}

/// Waits until something is so that nobody tells of.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
