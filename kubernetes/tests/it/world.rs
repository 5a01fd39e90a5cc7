//! A fake API server, a way to it, and the objects that the stories are about.

use std::time::{Duration, SystemTime};

use pointsman_chaos::fakes::ApiServer;
use pointsman_chaos::fakes::api_server::{Deletion, Key, Resource, Writer};
use pointsman_kubernetes::{Cluster, Deadlines, LiveService, ServiceName};
use serde_json::{Value, json};
use tokio::sync::watch;

pub const NAMESPACE: &str = "default";
/// What a condition may take that will come about, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct World {
    pub api: ApiServer,
}

impl World {
    pub async fn new() -> Self {
        Self { api: ApiServer::start().await.unwrap() }
    }

    /// A way to the API server for a user, with time enough for every call that is not meant to fail.
    pub fn cluster(&self, user: &str) -> Cluster {
        self.cluster_within(user, Duration::from_secs(20))
    }

    /// A way on which calls have this much time.
    pub fn cluster_within(&self, user: &str, call: Duration) -> Cluster {
        let deadlines = Deadlines { call, watch: Duration::from_mins(1) };
        Cluster::at(self.api.url().parse().unwrap(), NAMESPACE, Some(user), deadlines).unwrap()
    }

    pub fn create(&self, resource: Resource, object: Value) -> Value {
        self.api.store().create(resource, NAMESPACE, object, &by("test")).unwrap()
    }

    pub fn edit(&self, resource: Resource, name: &str, manager: &str, change: impl FnOnce(&mut Value)) -> Value {
        self.api.store().edit(&key(resource, name), &by(manager), change).unwrap()
    }

    pub fn get(&self, resource: Resource, name: &str) -> Value {
        self.api.store().get(&key(resource, name)).unwrap()
    }

    /// The live Service as it stands. The store's own revision says less: slices are written whenever they are due.
    pub fn live(&self) -> Value {
        self.get(Resource::Service, "live")
    }

    pub fn delete(&self, resource: Resource, name: &str) {
        self.api.store().delete(&key(resource, name), &Deletion::default(), &by("test")).unwrap();
    }

    /// The live Service, which selects `v1`.
    pub fn with_live_service(&self) {
        let spec =
            json!({ "selector": { "app": "model", "version": "v1" }, "ports": [{ "name": "http", "port": 80 }] });
        self.create(Resource::Service, json!({ "metadata": { "name": "live" }, "spec": spec }));
    }

    pub fn selector(&self) -> Value {
        self.live()["spec"]["selector"].clone()
    }

    /// A slice of the endpoints of the Service `service`, with these addresses ready.
    pub fn with_slice(&self, name: &str, service: &str, addresses: &[&str]) {
        self.create(
            Resource::EndpointSlice,
            json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "ports": [{ "name": "http", "port": 8000 }], "endpoints": endpoints(addresses),
            }),
        );
    }
}

pub fn endpoints(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({ "addresses": [address], "conditions": { "ready": true } })).collect()
}

pub fn key(resource: Resource, name: &str) -> Key {
    Key::new(resource, NAMESPACE, name)
}

pub fn by(manager: &str) -> Writer {
    Writer::new(manager, SystemTime::now())
}

pub fn named(name: &str) -> ServiceName {
    ServiceName { namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}

pub fn live(cluster: &Cluster) -> LiveService {
    LiveService::start(cluster, named("live"))
}

/// Waits until what is watched is as wanted, and gives it.
pub async fn until<T: Clone + std::fmt::Debug>(
    mut watched: watch::Receiver<T>,
    what: &'static str,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(PATIENCE, watched.wait_for(is_so)).await.map(|known| known.unwrap().clone());
    waited.unwrap_or_else(|_| panic!("never came: {what}; now {:?}", watched.borrow().clone()))
}

/// Waits until something is so that nobody tells of.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}
