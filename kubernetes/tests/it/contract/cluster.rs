//! The two servers that a case runs on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config, Resource};
use pointsman_chaos::fakes::ApiServer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than anything here takes, beside any load.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// An API server, and a namespace of it that nobody else uses.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// When it is the fake.
    pub(super) fake: Option<Arc<ApiServer>>,
}

impl Cluster {
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A node by the name of the namespace, on which nothing runs: a real cluster gives no endpoint to a pod whose node
    /// it does not know. The fake knows no nodes.
    pub(super) async fn add_node(&self) {
        if self.fake.is_some() {
            return;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({ "metadata": { "name": self.namespace }, "spec": { "unschedulable": true } });
        match nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn clean_up(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        if self.fake.is_none() {
            let nodes: Api<Node> = Api::all(self.client.clone());
            match nodes.delete(&self.namespace, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Creates an object from JSON.
    pub(super) async fn create<K>(&self, object: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await
    }

    /// Sends operations of a JSON patch.
    pub(super) async fn patch<K>(&self, name: &str, operations: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
        self.api::<K>().patch(name, &PatchParams::default(), &patch).await
    }

    /// Merges fields into an object.
    pub(super) async fn merge<K>(&self, name: &str, fields: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(fields)).await
    }
}

/// What the server said instead of doing it.
pub(super) fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> Status {
    let error = outcome.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("no refusal of the server but {error:?}") };
    *status
}

pub(super) fn check_refusal<T: std::fmt::Debug>(outcome: kube::Result<T>, code: u16, reason: &str, message: &str) {
    let status = refusal(outcome);
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (code, reason, message));
}

pub(super) fn version_of<K: Resource>(object: &K) -> String {
    object.meta().resource_version.clone().unwrap()
}

/// Asks again until the answer is there.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
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

async fn client_of(kubeconfig: Kubeconfig) -> Client {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) async fn on_the_fake<F: Future<Output = ()> + Send + 'static>(case: impl FnOnce(Cluster) -> F) {
    let fake = Arc::new(ApiServer::start().await.unwrap());
    let kubeconfig = Kubeconfig::from_yaml(&fake.kubeconfig("tester", "default")).unwrap();
    let cluster = Cluster { client: client_of(kubeconfig).await, namespace: String::new(), fake: Some(fake) };
    in_a_namespace(cluster, "case", case).await;
}

pub(crate) async fn on_a_cluster<F: Future<Output = ()> + Send + 'static>(name: &str, case: impl FnOnce(Cluster) -> F) {
    if std::env::var_os("KUBECONFIG").is_none() {
        let is_required = std::env::var("REQUIRE_KUBERNETES").is_ok_and(|value| value == "1");
        assert!(!is_required, "KUBECONFIG names no cluster, and REQUIRE_KUBERNETES=1 asks for one");
        eprintln!("left out: KUBECONFIG names no cluster");
        return;
    }
    let cluster =
        Cluster { client: client_of(Kubeconfig::read().unwrap()).await, namespace: String::new(), fake: None };
    in_a_namespace(cluster, name, case).await;
}

/// Runs a case in a namespace of its own, which goes afterwards however the case ends.
async fn in_a_namespace<F: Future<Output = ()> + Send + 'static>(
    mut cluster: Cluster,
    name: &str,
    case: impl FnOnce(Cluster) -> F,
) {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let label: String = name.replace('_', "-").chars().take(30).collect();
    let metadata = ObjectMeta {
        generate_name: Some(format!("pointsman-{label}-")),
        labels: Some([("pointsman.dev/contract".to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace { metadata, ..Namespace::default() };
    let made = namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    cluster.namespace = made.metadata.name.unwrap();
    let outcome = tokio::spawn(case(cluster.clone())).await;
    cluster.clean_up().await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}
