//! The three servers that a test runs on, and its namespace.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use pointsman_chaos::fakes::ApiServer;
use pointsman_chaos::fakes::api_server::Settings;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::front::Front;

/// Marks each namespace and node that tests made, so that whatever is left of them can be found.
pub(crate) const LABEL: &str = "pointsman.dev/test";

/// Runs a case on a fake control plane.
pub async fn on_the_fake<F: Future<Output = ()> + Send + 'static>(case: impl FnOnce(Cluster) -> F) {
    on_a_fake(Settings::default(), case).await;
}

/// Runs a case on a fake API server beside which no controller runs.
pub async fn on_a_bare_fake<F: Future<Output = ()> + Send + 'static>(case: impl FnOnce(Cluster) -> F) {
    on_a_fake(Settings { has_controllers: false, ..Settings::default() }, case).await;
}

async fn on_a_fake<F: Future<Output = ()> + Send + 'static>(settings: Settings, case: impl FnOnce(Cluster) -> F) {
    // Clusters are spoken to by TLS, and so is this one.
    let fake = Arc::new(ApiServer::start_with(settings).await.unwrap());
    let front = Front::of(fake.addr()).await;
    let cluster = Cluster::at(front.kubeconfig(&fake.kubeconfig("tester", "default")), Some(fake)).await;
    let mut fronts = JoinSet::new();
    fronts.spawn(front.serve());
    in_a_namespace(cluster, "case", case).await;
}

/// Runs a case on the cluster of `KUBECONFIG`, or leaves it out.
pub async fn on_a_cluster<F: Future<Output = ()> + Send + 'static>(name: &str, case: impl FnOnce(Cluster) -> F) {
    if std::env::var_os("KUBECONFIG").is_none() {
        let is_required = std::env::var("REQUIRE_KUBERNETES").is_ok_and(|value| value == "1");
        assert!(!is_required, "KUBECONFIG names no cluster, and REQUIRE_KUBERNETES=1 asks for one");
        eprintln!("left out: KUBECONFIG names no cluster");
        return;
    }
    in_a_namespace(Cluster::at(Kubeconfig::read().unwrap(), None).await, name, case).await;
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
        labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace { metadata, ..Namespace::default() };
    let made = namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    cluster.namespace = made.metadata.name.unwrap();
    cluster.has_controllers().await;
    let outcome = tokio::spawn(case(cluster.clone())).await;
    cluster.clean_up().await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Cluster {
    async fn at(kubeconfig: Kubeconfig, fake: Option<Arc<ApiServer>>) -> Self {
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await.unwrap();
        Self {
            client: Client::try_from(config).unwrap(),
            namespace: String::new(),
            fake,
            kubeconfig: Arc::new(kubeconfig),
            controllers: Arc::default(),
        }
    }

    /// Takes the namespace away. Its controller waits for pods that nobody ends, so these go first; where there is no
    /// controller, nothing goes by itself.
    async fn clean_up(&self) {
        self.delete_all::<Pod>().await;
        self.remove_node().await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        match namespaces.delete(&self.namespace, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => panic!("{error}"),
        }
        if !self.has_controllers().await {
            self.delete_everything().await;
            self.finalize().await;
        }
    }

    async fn delete_everything(&self) {
        self.delete_all::<Deployment>().await;
        self.delete_all::<Lease>().await;
        self.delete_all::<ConfigMap>().await;
        self.delete_all::<EndpointSlice>().await;
        self.delete_all::<Event>().await;
        // Services are deleted one by one on servers of before 1.23.
        for service in self.api::<Service>().list(&ListParams::default()).await.unwrap() {
            self.api::<Service>().delete(&service.metadata.name.unwrap(), &DeleteParams::default()).await.unwrap();
        }
    }

    async fn delete_all<K>(&self)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let at_once = DeleteParams::default().grace_period(0);
        self.api::<K>().delete_collection(&at_once, &ListParams::default()).await.unwrap();
    }

    /// Lets an empty namespace go.
    async fn finalize(&self) {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace }, "spec": { "finalizers": [] },
        });
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let params = PostParams::default();
        namespaces.replace_subresource("finalize", &self.namespace, &params, &namespace).await.unwrap();
    }
}
