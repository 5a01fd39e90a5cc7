//! Where the other edges are: behind a headless Service, or as the file lists them.
//!
//! Line: (file, API server) ► **peers** ► members.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::{Endpoint, Peers};
use pointsman_kubernetes::{Cluster, Condition, Discovery, Picture, PortChoice, ServiceName};
use tokio::sync::watch;
use tracing::warn;

use super::members::{Addresses, Serves};

/// Between two look-ups of names.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);

/// Follows `peers` for as long as anybody wants to know; all of them listen on `port` behind a Service in `namespace`. Must
/// run on a tokio runtime.
pub(crate) fn start(peers: Peers, port: u16, cluster: &Cluster, namespace: &str) -> watch::Receiver<Addresses> {
    let (tell, addresses) = watch::channel(None);
    match peers {
        Peers::Endpoints(endpoints) => drop(tokio::spawn(look_up(endpoints, tell))),
        Peers::Service(name) => {
            let service = ServiceName { namespace: namespace.to_owned(), name };
            drop(tokio::spawn(discover(Discovery::start(cluster, &service, PortChoice::Any), port, tell)));
        }
    }
    addresses
}

async fn discover(discovery: Discovery, port: u16, tell: watch::Sender<Addresses>) {
    let mut seen = discovery.seen();
    loop {
        let picture = seen.borrow_and_update().picture.clone();
        if let Some(picture) = picture {
            put(&tell, behind(&picture, port));
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
        }
    }
}

/// Whoever drains still has requests, so nothing goes on without it; whoever is not ready has none.
fn behind(picture: &Picture, port: u16) -> BTreeMap<SocketAddr, Serves> {
    let edges = picture.endpoints.iter().map(|(address, endpoint)| {
        let serves = match endpoint.condition {
            Condition::Ready | Condition::Draining => Serves::Yes,
            Condition::NotReady => Serves::No,
        };
        (SocketAddr::new(address.ip(), port), serves)
    });
    edges.collect()
}

/// Looks names up again and again; one that has no answer leaves its last addresses.
async fn look_up(endpoints: Vec<Endpoint>, tell: watch::Sender<Addresses>) {
    let mut known: BTreeMap<Endpoint, Vec<SocketAddr>> = BTreeMap::new();
    loop {
        for endpoint in &endpoints {
            match tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await {
                Ok(found) => drop(known.insert(endpoint.clone(), found.collect())),
                Err(error) => warn!(%endpoint, %error, "the name of another edge cannot be resolved"),
            }
        }
        let all = known.values().flatten().map(|address| (*address, Serves::Unknown)).collect();
        put(&tell, all);
        tokio::select! {
            () = tokio::time::sleep(LOOK_UP_EVERY) => {}
            () = tell.closed() => return,
        }
    }
}

fn put(tell: &watch::Sender<Addresses>, addresses: BTreeMap<SocketAddr, Serves>) {
    tell.send_if_modified(|known| {
        let is_news = known.as_ref() != Some(&addresses);
        *known = Some(addresses);
        is_news
    });
}
