//! Endpoints that left the file or their name: they get no new request, and finish what they have.
//!
//! Line: publisher ► **draining** ► view. A request keeps the snapshot that it began with, so nothing is taken from it; its
//! route's total timeout ends it at the latest. Connections that were kept to such an endpoint are asked for by nobody and
//! close when their idle time is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::{RouteName, VersionId};
use tracing::{info, warn};

use crate::endpoint::Endpoint;
use crate::view::EndpointView;

/// Endpoints that left and have requests under way.
#[derive(Debug, Default)]
pub(crate) struct Draining(Vec<Leaving>);

#[derive(Debug)]
struct Leaving {
    route: RouteName,
    version: VersionId,
    endpoint: Arc<Endpoint>,
    until: Instant,
}

impl Draining {
    /// `endpoint` left; its requests have `patience` from `now` on.
    pub(crate) fn begin(
        &mut self,
        of: (&RouteName, &VersionId),
        endpoint: Arc<Endpoint>,
        patience: Duration,
        now: Instant,
    ) {
        // Requests that have an older snapshot prefer others from now on.
        endpoint.goes_down();
        let ((route, version), address) = (of, endpoint.address());
        info!(%route, %version, endpoint = %address, requests = endpoint.in_flight(), "endpoint leaves");
        self.0.push(Leaving { route: route.clone(), version: version.clone(), endpoint, until: now + patience });
    }

    /// An endpoint that came back before it was done.
    pub(crate) fn take_back(
        &mut self,
        of: (&RouteName, &VersionId),
        address: SocketAddr,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        let here = |leaving: &Leaving| leaving.is_of(of) && leaving.endpoint.address() == address;
        let position = self.0.iter().position(here)?;
        let endpoint = self.0.swap_remove(position).endpoint;
        endpoint.comes_up(Duration::ZERO, now);
        Some(endpoint)
    }

    /// Forgets those that are done, and at `now` those whose time is over.
    pub(crate) fn look(&mut self, now: Instant) {
        self.0.retain(|leaving| !leaving.is_done(now));
    }

    /// Those of one version, for people, as of `now`.
    pub(crate) fn view(&self, of: (&RouteName, &VersionId), now: Instant) -> Vec<EndpointView> {
        let here = self.0.iter().filter(|leaving| leaving.is_of(of));
        here.map(|leaving| leaving.view(now)).collect()
    }
}

impl Leaving {
    fn is_of(&self, (route, version): (&RouteName, &VersionId)) -> bool {
        self.route == *route && self.version == *version
    }

    fn is_done(&self, now: Instant) -> bool {
        let Self { route, version, endpoint, until } = self;
        let (requests, address) = (endpoint.in_flight(), endpoint.address());
        if requests == 0 {
            info!(%route, %version, endpoint = %address, "endpoint has drained");
        } else if now >= *until {
            warn!(%route, %version, endpoint = %address, requests, "endpoint left with requests under way after its time");
        }
        requests == 0 || now >= *until
    }

    fn view(&self, now: Instant) -> EndpointView {
        let left = self.until.saturating_duration_since(now).as_secs_f64().ceil();
        EndpointView {
            address: self.endpoint.address().to_string(),
            state: "draining".to_owned(),
            in_flight: self.endpoint.in_flight(),
            problem: Some(format!("it left; its requests have {left} s at most")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_drains_until_its_last_request_or_the_end_of_its_time() {
        let (route, version): (RouteName, VersionId) = ("r".parse().unwrap(), "v1".parse().unwrap());
        let (of, now) = ((&route, &version), Instant::now());
        let endpoint = |port: u16| Arc::new(Endpoint::new(SocketAddr::from(([127, 0, 0, 1], port))));
        let (quick, slow, idle) = (endpoint(1), endpoint(2), endpoint(3));
        let (first, _second) = (quick.enter(), slow.enter());
        let mut draining = Draining::default();
        for endpoint in [&quick, &slow, &idle] {
            draining.begin(of, Arc::clone(endpoint), Duration::from_secs(30), now);
            assert!(!endpoint.is_up());
        }
        let seen = |draining: &Draining| -> Vec<String> {
            draining.view(of, now).into_iter().map(|view| format!("{} {}", view.address, view.state)).collect()
        };
        draining.look(now);
        assert_eq!(seen(&draining), ["127.0.0.1:1 draining", "127.0.0.1:2 draining"]);
        drop(first);
        draining.look(now);
        assert_eq!(seen(&draining), ["127.0.0.1:2 draining"]);
        draining.look(now + Duration::from_secs(30));
        assert!(seen(&draining).is_empty());
    }

    #[test]
    fn one_that_comes_back_is_the_same_with_its_load() {
        let (route, version): (RouteName, VersionId) = ("r".parse().unwrap(), "v1".parse().unwrap());
        let (address, now) = (SocketAddr::from(([127, 0, 0, 1], 1)), Instant::now());
        let endpoint = Arc::new(Endpoint::new(address));
        let mut draining = Draining::default();
        draining.begin((&route, &version), Arc::clone(&endpoint), Duration::ZERO, now);
        assert!(draining.take_back((&route, &"v2".parse().unwrap()), address, now).is_none());
        let back = draining.take_back((&route, &version), address, now).unwrap();
        assert!(Arc::ptr_eq(&back, &endpoint) && back.is_up());
        assert!(draining.take_back((&route, &version), address, now).is_none());
    }
}
