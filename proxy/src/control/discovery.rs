//! Endpoints of versions that name a Service, from its EndpointSlices: the resolver's twin for a cluster.
//!
//! Line: (config) ► **discovery** ► control ► publisher. An API server that is lost changes nothing: the loop keeps the
//! last good answer, as it does for names. Health checks decide about each endpoint as everywhere else; what a slice says
//! of readiness decides only whether it is asked at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::{ServicePort, VersionService};
use pointsman_kubernetes::{Cluster, Condition, Discovered, Discovery, Link, Picture, PortChoice, ServiceName};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::resolver::{Answer, Resolved, Source};
use crate::cluster::Connection;

/// Between two tries to find out which API server there is.
const RETRY: Duration = Duration::from_secs(5);

/// The Services that are followed; handed over whenever they change.
#[derive(Debug)]
pub(crate) struct Discoveries {
    wanted: watch::Sender<BTreeSet<VersionService>>,
}

impl Discoveries {
    /// Starts on `runtime`; every answer goes to `resolved`. No API server is asked before a Service is wanted.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        connection: Connection,
        resolved: mpsc::UnboundedSender<Resolved>,
    ) -> Self {
        let (wanted, changes) = watch::channel(BTreeSet::new());
        runtime.spawn(follow(changes, connection, resolved));
        Self { wanted }
    }

    /// Follows just these from now on.
    pub(crate) fn set(&self, services: BTreeSet<VersionService>) {
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != services;
            *wanted = services;
            news
        });
    }
}

async fn follow(
    mut changes: watch::Receiver<BTreeSet<VersionService>>,
    connection: Connection,
    resolved: mpsc::UnboundedSender<Resolved>,
) {
    let mut followed = BTreeMap::new();
    loop {
        let wanted = changes.borrow_and_update().clone();
        followed.retain(|service, _| wanted.contains(service));
        let missing: Vec<_> = wanted.into_iter().filter(|service| !followed.contains_key(service)).collect();
        let connected = if missing.is_empty() { None } else { Some(connection.cluster().await) };
        let patience = match connected {
            None => Duration::MAX,
            Some(Ok(cluster)) => {
                for service in missing {
                    let task = tokio::spawn(tell(begin(&cluster, &service), service.clone(), resolved.clone()));
                    followed.insert(service, AbortOnDropHandle::new(task));
                }
                Duration::MAX
            }
            Some(Err(error)) => {
                let answers = missing.into_iter().map(|service| (Source::Service(service), Err(error.to_string())));
                // Nobody listens any more only at the end of the process.
                drop(resolved.send(answers.collect()));
                RETRY
            }
        };
        tokio::select! {
            () = sleep(patience) => {}
            more = changes.changed() => if more.is_err() { return },
        }
    }
}

fn begin(cluster: &Cluster, service: &VersionService) -> Discovery {
    let namespace = service.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
    let port = match &service.port {
        ServicePort::Name(name) => PortChoice::Name(name.clone()),
        ServicePort::Number(number) => PortChoice::Number(*number),
    };
    Discovery::start(cluster, &ServiceName { namespace, name: service.service.clone() }, port)
}

/// Tells every answer, for as long as somebody listens.
async fn tell(discovery: Discovery, service: VersionService, resolved: mpsc::UnboundedSender<Resolved>) {
    let mut seen = discovery.seen();
    loop {
        let answer = answer_of(&seen.borrow_and_update());
        let told = answer.map(|answer| resolved.send([(Source::Service(service.clone()), answer)].into()));
        if told.is_some_and(|told| told.is_err()) || seen.changed().await.is_err() {
            return;
        }
    }
}

/// What is known as an answer; none before anything is.
fn answer_of(seen: &Discovered) -> Option<Answer> {
    match (&seen.link, &seen.picture) {
        (Link::Connecting, _) | (Link::Live, None) => None,
        (Link::Lost { why, .. }, _) => Some(Err(why.clone())),
        (Link::Live, Some(picture)) => Some(addresses_of(picture)),
    }
}

/// Those that are ready; where nobody is, those that only end what they have, since they still answer.
fn addresses_of(picture: &Picture) -> Answer {
    let of = |condition: Condition| -> Vec<SocketAddr> {
        let endpoints = picture.endpoints.iter().filter(|(_, endpoint)| endpoint.condition == condition);
        endpoints.map(|(address, _)| *address).collect()
    };
    let ready = of(Condition::Ready);
    match &picture.problem {
        // A port that no slice has: whoever wrote it meant another one.
        Some(problem) => Err(problem.clone()),
        None if ready.is_empty() => Ok(of(Condition::Draining)),
        None => Ok(ready),
    }
}

/// Waits until each of `services` has been answered for, for `patience` at most; whoever is late is heard later.
pub(crate) async fn first_answers(
    services: &BTreeSet<VersionService>,
    resolved: &mut mpsc::UnboundedReceiver<Resolved>,
    patience: Duration,
) -> Resolved {
    let mut first = Resolved::new();
    let all = async {
        while !services.iter().all(|service| first.contains_key(&Source::Service(service.clone()))) {
            let Some(answers) = resolved.recv().await else { return };
            first.extend(answers);
        }
    };
    // What is not answered by then is missing.
    drop(timeout(patience, all).await);
    first
}

#[cfg(test)]
mod tests {
    use pointsman_kubernetes::Endpoint;
    use tokio::time::Instant;

    use super::*;

    fn picture(endpoints: &[(&str, Condition)]) -> Picture {
        let of = |(address, condition): &(&str, Condition)| {
            (address.parse().unwrap(), Endpoint { condition: *condition, serving: true, pod: None })
        };
        Picture { endpoints: endpoints.iter().map(of).collect(), problem: None }
    }

    fn addresses(found: &[&str]) -> Vec<SocketAddr> {
        found.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn requests_go_to_what_is_ready_and_to_what_drains_only_where_nothing_else_is_left() {
        use Condition::{Draining, NotReady, Ready};
        let (one, two, three) = ("10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80");
        assert_eq!(addresses_of(&picture(&[(one, Ready), (two, Draining), (three, NotReady)])), Ok(addresses(&[one])));
        assert_eq!(addresses_of(&picture(&[(two, Draining), (three, NotReady)])), Ok(addresses(&[two])));
        assert_eq!(addresses_of(&picture(&[(three, NotReady)])), Ok(addresses(&[])));
    }

    #[test]
    fn a_lost_api_server_and_a_wrong_port_are_no_answers() {
        let seen = |picture, link| Discovered { picture, link };
        let lost = Link::Lost { since: Instant::now(), why: "refused".to_owned() };
        let known = Some(picture(&[("10.244.0.1:80", Condition::Ready)]).into());
        assert_eq!(answer_of(&seen(None, Link::Connecting)), None);
        assert_eq!(answer_of(&seen(known.clone(), Link::Live)), Some(Ok(addresses(&["10.244.0.1:80"]))));
        assert_eq!(answer_of(&seen(known, lost)), Some(Err("refused".to_owned())));
        let wrong = Picture { problem: Some("no TCP port `http`".to_owned()), ..Picture::default() };
        assert_eq!(answer_of(&seen(Some(wrong.into()), Link::Live)), Some(Err("no TCP port `http`".to_owned())));
    }
}
