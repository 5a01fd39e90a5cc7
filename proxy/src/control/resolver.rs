//! Names of endpoints to addresses: asked at the start, when the config changes and every few seconds; never in the
//! data path.
//!
//! Line: (config) ► **resolver** ► control ► publisher. A look-up that fails changes nothing: the loop keeps the last
//! good answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Endpoint, ServicePort, VersionService};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Between two look-ups of every name.
const INTERVAL: Duration = Duration::from_secs(10);
/// For one look-up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Look-ups under way at a time.
const CONCURRENT: usize = 32;

/// What a name stands for: its addresses, in order and without duplicates, or why there are none.
pub(crate) type Answer = Result<Vec<SocketAddr>, String>;
/// Some answers.
pub(crate) type Resolved = BTreeMap<Source, Answer>;

/// What addresses are asked for: what the file writes under a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// An endpoint by name or address.
    Endpoint(Endpoint),
    /// A Service; its answers come from [`super::discovery`].
    Service(VersionService),
}

impl fmt::Display for Source {
    /// As the file writes it: `model.internal:9001`, or a Service and its port: `delivery-time-v1:http`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => write!(f, "{endpoint}"),
            Self::Service(VersionService { service, port, .. }) => match port {
                ServicePort::Name(port) => write!(f, "{service}:{port}"),
                ServicePort::Number(port) => write!(f, "{service}:{port}"),
            },
        }
    }
}

/// The address of an endpoint that is written as one.
pub(crate) fn literal(endpoint: &Endpoint) -> Option<SocketAddr> {
    endpoint.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, endpoint.port))
}

/// The names that are looked up; handed over whenever they change.
#[derive(Debug)]
pub(crate) struct Resolver {
    wanted: watch::Sender<BTreeSet<Endpoint>>,
}

impl Resolver {
    /// Starts on `runtime`; every answer goes to `resolved`.
    pub(crate) fn start(runtime: &tokio::runtime::Handle, resolved: mpsc::UnboundedSender<Resolved>) -> Self {
        let (wanted, changes) = watch::channel(BTreeSet::new());
        runtime.spawn(follow(changes, resolved));
        Self { wanted }
    }

    /// Looks just these up from now on, at once if they differ from the last ones.
    pub(crate) fn set(&self, names: BTreeSet<Endpoint>) {
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != names;
            *wanted = names;
            news
        });
    }
}

async fn follow(mut changes: watch::Receiver<BTreeSet<Endpoint>>, resolved: mpsc::UnboundedSender<Resolved>) {
    loop {
        let names = changes.borrow_and_update().clone();
        let round = async {
            // Each answer goes out as it comes: a name that is not answered must not hold up the others.
            look_up(names, |name, answer| resolved.send([(Source::Endpoint(name), answer)].into()).is_ok()).await;
            sleep(INTERVAL).await;
        };
        tokio::select! {
            () = round => {}
            more = changes.changed() => if more.is_err() { return },
        }
        if resolved.is_closed() {
            return;
        }
    }
}

/// Looks all `names` up at the same time, for as long as `tell` wants to hear more.
async fn look_up(names: BTreeSet<Endpoint>, mut tell: impl FnMut(Endpoint, Answer) -> bool) {
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut lookups = JoinSet::new();
    for name in names {
        let places = Arc::clone(&places);
        lookups.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            let answer = look_one_up(&name).await;
            (name, answer)
        });
    }
    while let Some(done) = lookups.join_next().await {
        if done.is_ok_and(|(name, answer)| !tell(name, answer)) {
            return;
        }
    }
}

/// Looks all `names` up once, for `patience` at most; what is not answered by then is missing.
pub(crate) async fn first_answers(names: BTreeSet<Endpoint>, patience: Duration) -> Resolved {
    let mut resolved = Resolved::new();
    let all = look_up(names, |name, answer| {
        resolved.insert(Source::Endpoint(name), answer);
        true
    });
    // Whoever answers late is asked again by the resolver.
    drop(timeout(patience, all).await);
    resolved
}

async fn look_one_up(name: &Endpoint) -> Answer {
    match timeout(PATIENCE, tokio::net::lookup_host((name.host.as_str(), name.port))).await {
        Ok(Ok(found)) => {
            let found: BTreeSet<SocketAddr> = found.collect();
            if found.is_empty() {
                Err(format!("`{}` has no address", name.host))
            } else {
                Ok(found.into_iter().collect())
            }
        }
        Ok(Err(error)) => Err(format!("`{}` cannot be resolved: {error}", name.host)),
        Err(_) => Err(format!("`{}` was not resolved within {} s", name.host, PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 9001 }
    }

    #[test]
    fn addresses_need_no_look_up() {
        assert_eq!(literal(&endpoint("127.0.0.1")), Some("127.0.0.1:9001".parse().unwrap()));
        assert_eq!(literal(&endpoint("::1")), Some("[::1]:9001".parse().unwrap()));
        assert_eq!(literal(&endpoint("localhost")), None);
    }

    #[tokio::test]
    async fn a_name_is_found_and_a_wrong_one_says_so() {
        let names = [endpoint("localhost"), endpoint("no.such.name.invalid")].into();
        let (tell, mut resolved) = mpsc::unbounded_channel();
        let running = Resolver::start(&tokio::runtime::Handle::current(), tell);
        running.set(names);
        let mut found = resolved.recv().await.unwrap();
        found.extend(resolved.recv().await.unwrap());
        assert!(
            found[&Source::Endpoint(endpoint("localhost"))]
                .as_ref()
                .unwrap()
                .iter()
                .all(|address| address.ip().is_loopback())
        );
        let problem = found[&Source::Endpoint(endpoint("no.such.name.invalid"))].as_ref().unwrap_err();
        assert!(problem.contains("no.such.name.invalid"), "{problem}");
    }
}
