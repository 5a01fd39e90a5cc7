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

/// Whoever drains still has requests, so nothing goes on without it; whoever is not ready has none. The Service publishes
/// edges before they are ready, so that they are told in time: what serves says who is, and one that comes up and fails
/// again and again holds up nobody.
fn behind(picture: &Picture, port: u16) -> BTreeMap<SocketAddr, Serves> {
    let edges = picture.endpoints.iter().map(|(address, endpoint)| {
        let serves = match endpoint.condition {
            Condition::Ready if endpoint.serving => Serves::Yes,
            Condition::Draining => Serves::Yes,
            Condition::Ready | Condition::NotReady => Serves::No,
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

#[cfg(test)]
mod tests {
    use pointsman_kubernetes::Endpoint as Behind;

    use super::*;

    #[test]
    fn whoever_serves_or_drains_is_waited_for_and_nobody_who_is_only_published() {
        use Condition::{Draining, NotReady, Ready};
        let edges = [(1, Ready, true), (2, Ready, false), (3, Draining, true), (4, NotReady, false)];
        let address = |number: u8, port| SocketAddr::from(([10, 0, 0, number], port));
        let endpoints =
            edges.map(|(number, condition, serving)| (address(number, 8080), Behind { condition, serving, pod: None }));
        let picture = Picture { endpoints: endpoints.into(), problem: None };
        let expected = [Serves::Yes, Serves::No, Serves::Yes, Serves::No];
        let expected: BTreeMap<_, _> =
            (1..).zip(expected).map(|(number, serves)| (address(number, 9901), serves)).collect();
        assert_eq!(behind(&picture, 9901), expected);
    }
}
