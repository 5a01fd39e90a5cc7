//! An API server, and what is made and asked there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, Resource};
use pointsman_chaos::fakes::ApiServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::stand_in;

/// Longer than anything takes that will come about, beside any load.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a controller of `EndpointSlices` may take for its first one before there is none: on the fake, on a cluster.
const CONTROLLER_WITHIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// An API server, and a namespace of it that nobody else uses.
#[derive(Clone)]
pub struct Cluster {
    /// The way there, as who `KUBECONFIG` says; on the fake as `tester`.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// When it is the fake.
    pub fake: Option<Arc<ApiServer>>,
    pub(crate) kubeconfig: Arc<Kubeconfig>,
    /// Of the fake; that of a cluster is asked for once in a process.
    pub(crate) controllers: Arc<OnceCell<bool>>,
}

impl Cluster {
    /// The objects of one kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from JSON.
    ///
    /// # Errors
    /// As the server says.
    pub async fn create<K>(&self, object: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await
    }

    /// Sends operations of a JSON patch.
    ///
    /// # Errors
    /// As the server says.
    pub async fn patch<K>(&self, name: &str, operations: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
        self.api::<K>().patch(name, &PatchParams::default(), &patch).await
    }

    /// Merges fields into an object.
    ///
    /// # Errors
    /// As the server says.
    pub async fn merge<K>(&self, name: &str, fields: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(fields)).await
    }

    /// The slices of a Service.
    pub async fn slices(&self, service: &str) -> Vec<EndpointSlice> {
        let selected = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        self.api::<EndpointSlice>().list(&selected).await.unwrap().items
    }

    /// Whether a controller writes the `EndpointSlices` of Services that select pods: a control plane of API server and etcd
    /// alone has none.
    pub async fn has_controllers(&self) -> bool {
        static OF_THE_CLUSTER: OnceCell<bool> = OnceCell::const_new();
        match self.fake {
            Some(_) => *self.controllers.get_or_init(|| self.ask_for_controllers(CONTROLLER_WITHIN[0])).await,
            None => *OF_THE_CLUSTER.get_or_init(|| self.ask_for_controllers(CONTROLLER_WITHIN[1])).await,
        }
    }

    async fn ask_for_controllers(&self, within: Duration) -> bool {
        const PROBE: &str = "asks-for-controllers";
        let spec = json!({ "selector": { "app": PROBE }, "ports": [{ "port": 80 }] });
        self.create::<Service>(json!({ "metadata": { "name": PROBE }, "spec": spec })).await.unwrap();
        let answered = async {
            while self.slices(PROBE).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let is_answered = tokio::time::timeout(within, answered).await.is_ok();
        self.api::<Service>().delete(PROBE, &DeleteParams::default()).await.unwrap();
        is_answered
    }

    /// Sees to it that Services that select pods have `EndpointSlices`: where no controller writes them, what this gives
    /// does, for as long as it is held.
    pub async fn keep_slices(&self) -> JoinSet<()> {
        let mut keepers = JoinSet::new();
        if !self.has_controllers().await {
            keepers.spawn(stand_in::keep_slices(self.api(), self.api(), self.api()));
        }
        keepers
    }
}

/// Asks again until the answer is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}
