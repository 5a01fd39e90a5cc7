//! Where every version runs, as far as its names are resolved and its Services discovered, and which of it is up: what
//! checks and look-ups found, put together for the publisher, the phase machine and people.
//!
//! Line: (resolver, discovery, health) ► **endpoints** ► publisher. Owned by the control loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::{
    Backends, Ejection, Endpoint as Written, HealthCheck, Route, RouteName, Version, VersionId, VersionService, WarmUp,
};
use pointsman_rollout::{Ready, Time};
use tracing::{info, warn};

use super::events::now_in_words;
use super::health::{Check, Golden, Proof, Takes, Target, Turned};
use super::publisher::Live;
use super::resolver::{Resolved, Source, literal};
use crate::ejection::{Member, Outliers, SitsOut, Turn};
use crate::endpoint::Endpoint;
use crate::upstream::Speech;
use crate::view::{EndpointTurn, EndpointView};

/// Addresses of every version of one route.
pub(crate) type Addresses = BTreeMap<VersionId, Vec<SocketAddr>>;

/// Everything known about endpoints.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// The last good answer for each name and Service.
    answers: BTreeMap<Source, Vec<SocketAddr>>,
    /// Why one has no answer at present.
    unresolved: BTreeMap<Source, String>,
    routes: BTreeMap<RouteName, OfRoute>,
    /// Checks begun so far: the number of the last one.
    checks_begun: u64,
}

/// What is known of one route's endpoints.
#[derive(Debug, Default)]
struct OfRoute {
    versions: BTreeMap<VersionId, Vec<Placed>>,
    rules: Rules,
    /// What each address speaks.
    speeches: BTreeMap<SocketAddr, Speech>,
    standings: BTreeMap<(VersionId, SocketAddr), Standing>,
    /// The checks that the standings come from.
    checks: BTreeMap<(VersionId, SocketAddr), Check>,
    /// Who sits out, by version.
    outliers: BTreeMap<VersionId, Outliers>,
    /// Whose model takes other features than stable's, and which: they count as not ready, so that their version gets no
    /// weight; who asks for the version by name still reaches them.
    misfits: BTreeMap<(VersionId, SocketAddr), String>,
}

/// What a route says of its endpoints.
#[derive(Debug, Default)]
struct Rules {
    stable: Option<VersionId>,
    how: HealthCheck,
    warm_up: Option<WarmUp>,
    slow_start: Duration,
    ejection: Ejection,
}

/// One endpoint or Service as written, and where it is.
#[derive(Debug, Clone)]
struct Placed {
    written: Source,
    addresses: Vec<SocketAddr>,
}

/// What a check changed.
#[derive(Debug)]
pub(crate) struct Noted {
    /// Other endpoints of this route may take requests now.
    pub(crate) route: RouteName,
    /// The target came up or went down.
    pub(crate) turn: Option<EndpointTurn>,
}

/// What checks found of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    up: bool,
    problem: Option<String>,
}

/// What was last found out about an endpoint that takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) address: SocketAddr,
    /// How long ago it passed a check; none if it has not yet.
    pub(crate) passed: Option<Duration>,
    pub(crate) golden: Golden,
}

/// Every name in `routes` that has to be looked up.
pub(crate) fn names<'a>(routes: impl IntoIterator<Item = &'a Route>) -> BTreeSet<Written> {
    let versions = routes.into_iter().flat_map(|route| route.versions.values());
    versions.flat_map(Version::endpoints).filter(|written| literal(written).is_none()).cloned().collect()
}

/// Every Service in `routes` that has to be discovered.
pub(crate) fn services<'a>(routes: impl IntoIterator<Item = &'a Route>) -> BTreeSet<VersionService> {
    let versions = routes.into_iter().flat_map(|route| route.versions.values());
    versions.filter_map(Version::service).cloned().collect()
}

/// What a version's addresses are asked of.
fn sources(version: &Version) -> Vec<Source> {
    match &version.backends {
        Backends::Endpoints(endpoints) => endpoints.iter().cloned().map(Source::Endpoint).collect(),
        Backends::Service(service) => vec![Source::Service(service.clone())],
    }
}

impl Endpoints {
    /// Takes in answers of the resolver and of the discovery; true if an address changed.
    pub(crate) fn learn(&mut self, resolved: Resolved) -> bool {
        let mut changed = false;
        for (name, answer) in resolved {
            match answer {
                Ok(addresses) => {
                    if self.unresolved.remove(&name).is_some() {
                        info!(endpoint = %name, "endpoint's addresses are known again");
                    }
                    changed |= self.answers.get(&name) != Some(&addresses);
                    self.answers.insert(name, addresses);
                }
                Err(problem) => self.cannot_resolve(name, problem),
            }
        }
        changed
    }

    fn cannot_resolve(&mut self, name: Source, problem: String) {
        if !self.unresolved.contains_key(&name) {
            let kept = self.answers.get(&name).map_or(0, Vec::len);
            warn!(endpoint = %name, problem, addresses_kept = kept, "endpoint's addresses cannot be asked for; the last good answer stays");
        }
        self.unresolved.insert(name, problem);
    }

    /// Places the endpoints of `route` as it is now; `main` is the version that has most of its traffic.
    ///
    /// New endpoints of `main`, and of the stable version that a rollback would go to, count as up if nothing of their
    /// version is known to be up, so that neither a start under traffic nor a rollback waits for checks. Every other
    /// new endpoint has to pass one first.
    pub(crate) fn place(&mut self, route: &Route, main: &VersionId) {
        let mut versions = BTreeMap::new();
        for (name, version) in &route.versions {
            let placed: Vec<_> =
                sources(version).into_iter().map(|written| self.placed(route, name, written)).collect();
            versions.insert(name.clone(), placed);
        }
        let known = self.routes.entry(route.name.clone()).or_default();
        known.outliers.retain(|version, _| versions.contains_key(version));
        known.versions = versions;
        known.rules = Rules {
            stable: Some(route.stable.clone()),
            how: route.health_check.clone(),
            warm_up: route.warm_up.clone(),
            slow_start: route.slow_start,
            ejection: route.ejection,
        };
        known.stand([main, &route.stable]);
        known.speeches = known.standings.keys().map(|(_, address)| (*address, Speech::of(route, *address))).collect();
        known.begin_checks(&mut self.checks_begun);
        known.find_misfits(&route.name);
    }

    /// A name without an answer stands for what its version had before: an edit must not empty a version for the time
    /// of a look-up.
    fn placed(&self, route: &Route, version: &VersionId, written: Source) -> Placed {
        let literal = match &written {
            Source::Endpoint(endpoint) => literal(endpoint),
            Source::Service(_) => None,
        };
        let known = literal.map(|address| vec![address]).or_else(|| self.answers.get(&written).cloned());
        let before = || self.routes.get(&route.name).map(|known| known.addresses_of(version)).unwrap_or_default();
        Placed { addresses: known.unwrap_or_else(before), written }
    }

    /// Forgets a route.
    pub(crate) fn remove(&mut self, route: &RouteName) {
        self.routes.remove(route);
    }

    /// Takes in what a check found; none if that changes nothing: what an outdated check still says, or what is known already.
    pub(crate) fn note(&mut self, turned: Turned) -> Option<Noted> {
        let Turned { target: Target { route, version, address }, number, up, problem } = turned;
        let known = self.routes.get_mut(&route)?;
        let shown = known.shown(&version, address);
        let standing = known.of_check(&(version.clone(), address), number)?;
        let moved = standing.up != up;
        match (&problem, moved) {
            (None, true) => info!(%route, %version, endpoint = %address, "endpoint is up"),
            (Some(problem), true) => warn!(%route, %version, endpoint = %address, problem, "endpoint is down"),
            (_, false) => {}
        }
        *standing = Standing { up, problem: problem.clone() };
        // What one of stable says of its model may be what others were waiting for.
        let fit_otherwise = known.find_misfits(&route);
        let state = if up { "up" } else { "down" }.to_owned();
        let turn = moved.then(|| EndpointTurn {
            at: now_in_words(),
            route: route.clone(),
            version,
            endpoint: shown,
            state,
            why: problem,
        });
        (moved || fit_otherwise).then_some(Noted { route, turn })
    }

    /// Looks at what became of the requests of `route`: endpoints that fail sit out for a while, others come back.
    pub(crate) fn find_outliers(&mut self, route: &RouteName, live: &Live, now: Time) -> Vec<EndpointTurn> {
        let Some(known) = self.routes.get_mut(route) else { return Vec::new() };
        let mut turns = Vec::new();
        for (version, endpoints) in live {
            let rule = &known.rules.ejection;
            let pool = endpoints.iter().map(Arc::as_ref);
            if known.outliers.get(version).is_some_and(|outliers| !outliers.is_due(rule, pool, now)) {
                continue;
            }
            let members: Vec<Member> = endpoints.iter().map(|endpoint| member(endpoint)).collect();
            let found = known.outliers.entry(version.clone()).or_default().look(rule, &members, now);
            turns.extend(found.into_iter().map(|turn| known.told(route, version, turn)));
        }
        turns
    }

    /// The addresses of every version of `route`.
    pub(crate) fn addresses(&self, route: &RouteName) -> Addresses {
        let versions = self
            .routes
            .get(route)
            .map(|known| known.versions.keys().map(|version| (version.clone(), known.addresses_of(version))));
        versions.into_iter().flatten().collect()
    }

    /// Whether it was heard where `version` runs, as far as an API server is asked for that.
    pub(crate) fn is_known(&self, route: &RouteName, version: &VersionId) -> bool {
        let placed = self.routes.get(route).and_then(|known| known.versions.get(version));
        let is_heard = |placed: &Placed| match &placed.written {
            Source::Endpoint(_) => true,
            service @ Source::Service(_) => self.answers.contains_key(service),
        };
        placed.into_iter().flatten().all(is_heard)
    }

    /// How many endpoints of every version of `route` are ready.
    pub(crate) fn ready(&self, route: &RouteName) -> BTreeMap<VersionId, Ready> {
        let versions = self
            .routes
            .get(route)
            .map(|known| known.versions.keys().map(|version| (version.clone(), known.ready(version))));
        versions.into_iter().flatten().collect()
    }

    /// What was last found out about the endpoints of `version` that take requests. Of just these golden answers are wanted
    /// from now on, as long as this is asked.
    pub(crate) fn proven(&self, route: &RouteName, version: Option<&VersionId>) -> Vec<Checked> {
        let Some(known) = self.routes.get(route) else { return Vec::new() };
        let mut proven = Vec::new();
        for ((of, address), check) in &known.checks {
            let is_meant = Some(of) == version && known.takes_requests(of, *address) == Some(true);
            check.proof.want_golden(is_meant);
            if is_meant {
                let golden = check.warm_up.as_ref().map_or(Golden::None, |_| check.proof.golden());
                proven.push(Checked { address: *address, passed: check.proof.passed(), golden });
            }
        }
        proven
    }

    /// The endpoints of `version` that take requests: where each is, as which host it is asked, and what it speaks.
    pub(crate) fn serving(&self, route: &RouteName, version: &VersionId) -> Vec<(SocketAddr, String, Speech)> {
        let Some(known) = self.routes.get(route) else { return Vec::new() };
        let serves = |of: &VersionId, address| of == version && known.takes_requests(of, address) == Some(true);
        let checks = known.checks.iter().filter(|((of, address), _)| serves(of, *address));
        checks.map(|((_, address), check)| (*address, check.host.clone(), check.speech.clone())).collect()
    }

    /// Tells the data path which of a version's endpoints take requests, as of `now`.
    pub(crate) fn mark(&self, route: &RouteName, live: &Live, now: Instant) {
        let Some(known) = self.routes.get(route) else { return };
        for (version, endpoints) in live {
            for endpoint in endpoints {
                match (endpoint.is_up(), known.takes_requests(version, endpoint.address())) {
                    (false, Some(true)) => endpoint.comes_up(known.rules.slow_start, now),
                    (true, Some(false)) => endpoint.goes_down(),
                    (_, Some(_) | None) => {}
                }
            }
        }
    }

    /// How often endpoints of a version were ejected.
    pub(crate) fn ejections(&self, route: &RouteName, version: &VersionId) -> u64 {
        self.routes.get(route).and_then(|known| known.outliers.get(version)).map_or(0, Outliers::ejections)
    }

    /// What is to be checked, and how.
    pub(crate) fn checks(&self) -> BTreeMap<Target, Check> {
        self.routes.iter().flat_map(|(route, known)| known.checks(route)).collect()
    }

    /// The endpoints of one version for people, as of `now`; `live` knows what they work on.
    pub(crate) fn view(&self, of: (&RouteName, &VersionId), live: &[Arc<Endpoint>], now: Time) -> Vec<EndpointView> {
        let (route, version) = of;
        let Some(known) = self.routes.get(route) else { return Vec::new() };
        let placed = known.versions.get(version).into_iter().flatten();
        placed.flat_map(|placed| self.view_placed((known, version), placed, live, now)).collect()
    }

    fn view_placed(
        &self,
        (known, version): (&OfRoute, &VersionId),
        placed: &Placed,
        live: &[Arc<Endpoint>],
        now: Time,
    ) -> Vec<EndpointView> {
        if placed.addresses.is_empty() {
            let problem = self.unresolved.get(&placed.written).cloned().or_else(|| nobody_there(&placed.written));
            let (address, state) = (placed.written.to_string(), "unresolved".to_owned());
            return vec![EndpointView { address, state, in_flight: 0, problem }];
        }
        let of_address = |address: &SocketAddr| {
            let (state, problem) = known.state(version, *address, now);
            let live = live.iter().find(|endpoint| endpoint.address() == *address);
            EndpointView {
                address: shown(&placed.written, *address),
                state: state.to_owned(),
                in_flight: live.map_or(0, |endpoint| endpoint.in_flight()),
                problem,
            }
        };
        placed.addresses.iter().map(of_address).collect()
    }
}

/// What the rules for outliers need to know of an endpoint.
fn member(endpoint: &Endpoint) -> Member {
    Member { address: endpoint.address(), is_up: endpoint.is_up(), answers: endpoint.answers() }
}

/// Why a model that takes `these` must not have traffic that is meant for `stable`, whose models take `known`; none if it may.
fn misfit(stable: &VersionId, known: &[Arc<Takes>], these: Option<&Takes>) -> Option<String> {
    let these = match these {
        None => return Some("gets no weight yet: its model description could not be read".to_owned()),
        Some(Takes::Unsaid) => return None,
        Some(Takes::These(features)) => features,
    };
    let mut differs = None;
    for takes in known {
        match takes.as_ref() {
            Takes::Unsaid => return None,
            Takes::These(features) => match features.difference(these) {
                None => return None,
                Some(difference) => differs = Some(difference),
            },
        }
    }
    Some(match differs {
        None => format!("gets no weight yet: no endpoint of {stable} could be asked what it takes"),
        Some(difference) => format!(
            "gets no weight: it takes other features than {stable}: {difference}. If clients know of that, write \
             `signature: any` under `warm_up`"
        ),
    })
}

/// What to look at where the API server knows no endpoint.
fn nobody_there(written: &Source) -> Option<String> {
    let Source::Service(VersionService { namespace, service, .. }) = written else { return None };
    let namespace = namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    Some(format!(
        "its Service has no ready endpoint, or does not exist; `kubectl{namespace} get endpointslices -l kubernetes.io/service-name={service}` \
         shows them"
    ))
}

/// As the file writes it; with the address behind it where that differs.
fn shown(written: &Source, address: SocketAddr) -> String {
    let (written, address) = (written.to_string(), address.to_string());
    if written == address { written } else { format!("{written} ({address})") }
}

impl OfRoute {
    /// Each address of a version once, in the order of the file.
    fn addresses_of(&self, version: &VersionId) -> Vec<SocketAddr> {
        let mut seen = BTreeSet::new();
        let all = self.versions.get(version).into_iter().flatten().flat_map(|placed| &placed.addresses);
        all.filter(|address| seen.insert(**address)).copied().collect()
    }

    /// Gives every new address its first standing, and forgets those that are gone.
    fn stand(&mut self, trusted: [&VersionId; 2]) {
        let is_up = |version: &VersionId| self.standings.iter().any(|((of, _), standing)| of == version && standing.up);
        let starts_up: BTreeSet<VersionId> = trusted.into_iter().filter(|version| !is_up(version)).cloned().collect();
        let versions: Vec<_> = self.versions.keys().cloned().collect();
        let targets = versions
            .into_iter()
            .flat_map(|version| self.addresses_of(&version).into_iter().map(move |at| (version.clone(), at)));
        let targets: BTreeSet<_> = targets.collect();
        self.standings.retain(|target, _| targets.contains(target));
        for target in targets {
            let up = starts_up.contains(&target.0);
            self.standings.entry(target).or_insert(Standing { up, problem: None });
        }
    }

    fn ready(&self, version: &VersionId) -> Ready {
        let standings = self.standings.iter().filter(|((of, _), _)| of == version);
        let fits = |address: &SocketAddr| !self.misfits.contains_key(&(version.clone(), *address));
        let takes = |address: &SocketAddr| self.sits_out(version, *address).is_none() && fits(address);
        let up = standings.filter(|((_, address), standing)| standing.up && takes(address)).count();
        let nowhere =
            self.versions.get(version).into_iter().flatten().filter(|placed| placed.addresses.is_empty()).count();
        Ready { up, total: self.addresses_of(version).len() + nowhere }
    }

    /// Gives every target that is new, or is to be checked in another way, a check with a number of its own.
    fn begin_checks(&mut self, begun: &mut u64) {
        let mut before = std::mem::take(&mut self.checks);
        for (target, standing) in &self.standings {
            // Every address that stands has been given what it speaks.
            let Some(speech) = self.speeches.get(&target.1).cloned() else { continue };
            let (how, warm_up) = (self.rules.how.clone(), self.rules.warm_up.clone());
            let wanted = Check {
                number: 0,
                how,
                speech,
                warm_up,
                host: self.host_of(&target.0, target.1),
                starts_up: standing.up,
                proof: Proof::default(),
            };
            let check = before.remove(target).filter(|check| check.asks_as(&wanted)).unwrap_or_else(|| {
                *begun += 1;
                Check { number: *begun, ..wanted }
            });
            self.checks.insert(target.clone(), check);
        }
    }

    /// The standing that the check with this number is about; none if there is a newer check, or no such target.
    fn of_check(&mut self, target: &(VersionId, SocketAddr), number: u64) -> Option<&mut Standing> {
        let present = self.checks.get(target).is_some_and(|check| check.number == number);
        self.standings.get_mut(target).filter(|_| present)
    }

    fn checks<'a>(&'a self, route: &'a RouteName) -> impl Iterator<Item = (Target, Check)> + 'a {
        self.checks.iter().map(move |((version, address), check)| {
            (Target { route: route.clone(), version: version.clone(), address: *address }, check.clone())
        })
    }

    /// Why and how long an endpoint sits out.
    fn sits_out(&self, version: &VersionId, address: SocketAddr) -> Option<&SitsOut> {
        self.outliers.get(version)?.sits_out(address)
    }

    /// Whether an endpoint takes requests; none if it is not known.
    fn takes_requests(&self, version: &VersionId, address: SocketAddr) -> Option<bool> {
        let standing = self.standings.get(&(version.clone(), address))?;
        Some(standing.up && self.sits_out(version, address).is_none())
    }

    /// An endpoint in a word, and what is wrong with it.
    fn state(&self, version: &VersionId, address: SocketAddr, now: Time) -> (&'static str, Option<String>) {
        let standing = self.standings.get(&(version.clone(), address));
        let problem = standing.and_then(|standing| standing.problem.clone());
        match self.sits_out(version, address) {
            _ if !standing.is_some_and(|standing| standing.up) => ("down", problem),
            Some(out) => {
                let left = out.until.since(now).as_secs_f64().ceil();
                ("ejected", Some(format!("{}; it gets requests again in {left} s", out.why)))
            }
            None => ("up", self.misfits.get(&(version.clone(), address)).cloned().or(problem)),
        }
    }

    /// Holds what every model takes against what stable's takes, where the route wants that; whether other ones fit than before.
    fn find_misfits(&mut self, route: &RouteName) -> bool {
        let Some(stable) = self.rules.stable.clone() else { return false };
        let compared = self.checks.iter().filter(|(_, check)| check.compares_features());
        let (of_stable, others): (Vec<_>, Vec<_>) = compared.partition(|((version, _), _)| *version == stable);
        if of_stable.is_empty() {
            return !std::mem::take(&mut self.misfits).is_empty();
        }
        let known: Vec<Arc<Takes>> = of_stable.iter().filter_map(|(_, check)| check.proof.takes()).collect();
        let mut misfits = BTreeMap::new();
        for (target, check) in
            others.into_iter().filter(|(target, _)| self.standings.get(target).is_some_and(|it| it.up))
        {
            let takes = check.proof.takes();
            // What had most of the traffic before a restart keeps it until both sides are known.
            let is_too_early = check.starts_up && (known.is_empty() || takes.is_none());
            if let Some(why) = misfit(&stable, &known, takes.as_deref()).filter(|_| !is_too_early) {
                misfits.insert(target.clone(), why);
            }
        }
        for ((version, address), why) in &misfits {
            if self.misfits.get(&(version.clone(), *address)) != Some(why) {
                warn!(%route, %version, endpoint = %address, why, "endpoint counts as not ready");
            }
        }
        let before = std::mem::replace(&mut self.misfits, misfits);
        !before.keys().eq(self.misfits.keys())
    }

    /// Logs an ejection or its end; gives it for everybody else.
    fn told(&self, route: &RouteName, version: &VersionId, turn: Turn) -> EndpointTurn {
        let (address, state, why) = match turn {
            Turn::Out { address, why, lasts } => {
                warn!(%route, %version, endpoint = %address, why, seconds = lasts.as_secs_f64(), "endpoint sits out");
                (address, "ejected", format!("{why}; for {} s", lasts.as_secs_f64()))
            }
            Turn::Back { address, why } => {
                info!(%route, %version, endpoint = %address, why, "endpoint gets requests again");
                (address, "up", why.to_owned())
            }
        };
        EndpointTurn {
            at: now_in_words(),
            route: route.clone(),
            version: version.clone(),
            endpoint: self.shown(version, address),
            state: state.to_owned(),
            why: Some(why),
        }
    }

    /// As the file writes it; with the address behind it where that differs.
    fn shown(&self, version: &VersionId, address: SocketAddr) -> String {
        let mut placed = self.versions.get(version).into_iter().flatten();
        let found = placed.find(|placed| placed.addresses.contains(&address));
        found.map_or_else(|| address.to_string(), |placed| shown(&placed.written, address))
    }

    /// The endpoint as the file writes it, and by the name of its Service with the port of its pod, for the Host header.
    fn host_of(&self, version: &VersionId, address: SocketAddr) -> String {
        let mut placed = self.versions.get(version).into_iter().flatten();
        let found = placed.find(|placed| placed.addresses.contains(&address));
        match found.map(|placed| &placed.written) {
            None => address.to_string(),
            Some(Source::Endpoint(endpoint)) => endpoint.to_string(),
            Some(Source::Service(service)) => format!("{}:{}", service.service, address.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn written(text: &str) -> Written {
        let (host, port) = text.rsplit_once(':').unwrap();
        Written { host: host.to_owned(), port: port.parse().unwrap() }
    }

    fn route(versions: &[(&str, &[&str])]) -> Route {
        let versions = versions.iter().map(|(name, endpoints)| {
            let endpoints = endpoints.iter().map(|text| written(text)).collect();
            (version(name), Version::at(endpoints))
        });
        Route::new("r".parse().unwrap(), version("v1"), versions.collect())
    }

    fn placed(route: &Route) -> Endpoints {
        let mut endpoints = Endpoints::default();
        endpoints.place(route, &version("v1"));
        endpoints
    }

    fn turn(endpoints: &mut Endpoints, of: &str, address: &str, up: bool) -> bool {
        let target = target(of, address);
        let number = endpoints.checks().get(&target).map_or(0, |check| check.number);
        endpoints.note(Turned { target, number, up, problem: (!up).then(|| "no".to_owned()) }).is_some()
    }

    fn target(of: &str, address: &str) -> Target {
        Target { route: "r".parse().unwrap(), version: version(of), address: address.parse().unwrap() }
    }

    #[track_caller]
    fn check_ready(endpoints: &Endpoints, of: &str, up: usize, total: usize) {
        assert_eq!(endpoints.ready(&"r".parse().unwrap())[&version(of)], Ready { up, total }, "{of}");
    }

    #[test]
    fn the_version_in_production_starts_as_up_and_the_canary_has_to_pass_a_check() {
        let mut endpoints = placed(&route(&[("v1", &["10.0.0.1:1", "10.0.0.2:1"]), ("v2", &["10.0.0.3:1"])]));
        check_ready(&endpoints, "v1", 2, 2);
        check_ready(&endpoints, "v2", 0, 1);
        assert!(turn(&mut endpoints, "v2", "10.0.0.3:1", true));
        check_ready(&endpoints, "v2", 1, 1);
        assert!(!turn(&mut endpoints, "v2", "10.0.0.9:1", true), "nobody knows that one");
    }

    #[test]
    fn after_a_promotion_the_way_back_counts_as_up_too() {
        let mut endpoints = Endpoints::default();
        endpoints.place(&route(&[("v1", &["10.0.0.1:1"]), ("v2", &["10.0.0.3:1"])]), &version("v2"));
        check_ready(&endpoints, "v1", 1, 1);
        check_ready(&endpoints, "v2", 1, 1);
    }

    #[test]
    fn an_endpoint_that_joins_others_has_to_pass_a_check_and_those_that_stay_keep_their_standing() {
        let mut endpoints = placed(&route(&[("v1", &["10.0.0.1:1", "10.0.0.2:1"])]));
        turn(&mut endpoints, "v1", "10.0.0.2:1", false);
        endpoints.place(&route(&[("v1", &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])]), &version("v1"));
        check_ready(&endpoints, "v1", 1, 3);
        endpoints.place(&route(&[("v1", &["10.0.0.2:1"])]), &version("v1"));
        check_ready(&endpoints, "v1", 0, 1);
    }

    #[test]
    fn a_name_is_placed_when_it_is_answered_and_a_lost_answer_changes_nothing() {
        let by_name = route(&[("v1", &["model.internal:1"])]);
        let mut endpoints = placed(&by_name);
        check_ready(&endpoints, "v1", 0, 1);
        let name = Source::Endpoint(written("model.internal:1"));
        let address: SocketAddr = "10.0.0.7:1".parse().unwrap();
        assert!(endpoints.learn([(name.clone(), Ok(vec![address]))].into()));
        endpoints.place(&by_name, &version("v1"));
        check_ready(&endpoints, "v1", 1, 1);
        assert!(!endpoints.learn([(name, Err("gone".to_owned()))].into()));
        endpoints.place(&by_name, &version("v1"));
        assert_eq!(endpoints.addresses(&by_name.name)[&version("v1")], [address]);
        let view = endpoints.view((&by_name.name, &version("v1")), &[], Time::default());
        assert_eq!((view[0].address.as_str(), view[0].state.as_str()), ("model.internal:1 (10.0.0.7:1)", "up"));
    }

    #[test]
    fn an_edit_to_a_new_name_keeps_the_old_addresses_until_it_is_answered() {
        let mut endpoints = placed(&route(&[("v1", &["10.0.0.1:1"])]));
        let renamed = route(&[("v1", &["model.internal:1"])]);
        endpoints.place(&renamed, &version("v1"));
        assert_eq!(endpoints.addresses(&renamed.name)[&version("v1")], ["10.0.0.1:1".parse().unwrap()]);
        check_ready(&endpoints, "v1", 1, 1);
    }

    /// The route left the file and came back while a check that had failed was still on its way to the loop.
    #[test]
    fn what_an_outdated_check_found_is_ignored() {
        let of_file = route(&[("v1", &["10.0.0.1:1"])]);
        let mut endpoints = placed(&of_file);
        let first = target("v1", "10.0.0.1:1");
        let outdated = endpoints.checks()[&first].number;
        endpoints.remove(&of_file.name);
        endpoints.place(&of_file, &version("v1"));
        let down = |number| Turned { target: first.clone(), number, up: false, problem: Some("no".to_owned()) };
        assert!(endpoints.note(down(outdated)).is_none());
        check_ready(&endpoints, "v1", 1, 1);
        let present = endpoints.checks()[&first].number;
        assert!(endpoints.note(down(present)).is_some());
        assert!(endpoints.note(down(present)).is_none(), "told again it is no news");
        check_ready(&endpoints, "v1", 0, 1);
    }

    #[test]
    fn a_check_that_stays_as_it_is_keeps_its_number_and_one_that_changes_begins_anew() {
        let mut of_file = route(&[("v1", &["10.0.0.1:1"])]);
        let mut endpoints = placed(&of_file);
        let before = endpoints.checks();
        endpoints.place(&of_file, &version("v1"));
        assert_eq!(endpoints.checks(), before);
        turn(&mut endpoints, "v1", "10.0.0.1:1", false);
        of_file.health_check.path = Some("/other".to_owned());
        endpoints.place(&of_file, &version("v1"));
        let anew = &endpoints.checks()[&target("v1", "10.0.0.1:1")];
        assert_ne!(anew.number, before[&target("v1", "10.0.0.1:1")].number);
        assert!(!anew.starts_up, "it goes on from where the target stands");
    }

    #[test]
    fn only_names_are_looked_up() {
        let route = route(&[("v1", &["10.0.0.1:1", "a.internal:1", "b.internal:1"]), ("v2", &["a.internal:1"])]);
        assert_eq!(names([&route]), [written("a.internal:1"), written("b.internal:1")].into());
    }

    fn live_of(endpoints: &Endpoints, route: &Route) -> Live {
        let addresses = endpoints.addresses(&route.name);
        let of = |addresses: Vec<SocketAddr>| addresses.into_iter().map(|at| Arc::new(Endpoint::new(at))).collect();
        addresses.into_iter().map(|(version, addresses)| (version, of(addresses))).collect()
    }

    #[test]
    fn an_endpoint_that_fails_sits_out_is_no_capacity_and_comes_back() {
        let route = route(&[("v1", &["10.0.0.1:1", "10.0.0.2:1"])]);
        let mut endpoints = placed(&route);
        let live = live_of(&endpoints, &route);
        let at = |seconds| Time::after_start(Duration::from_secs(seconds));
        assert_eq!(endpoints.find_outliers(&route.name, &live, at(0)), []);
        for _ in 0..5 {
            live[&version("v1")][1].enter().ends(crate::outcome::Weighs::Bad, Instant::now());
        }
        let turns = endpoints.find_outliers(&route.name, &live, at(1));
        let told: Vec<_> =
            turns.iter().map(|turn| (turn.endpoint.as_str(), turn.state.as_str(), turn.why.as_deref())).collect();
        assert_eq!(told, [("10.0.0.2:1", "ejected", Some("5 failures in a row; for 10 s"))]);
        endpoints.mark(&route.name, &live, Instant::now());
        assert!(!live[&version("v1")][1].is_up());
        check_ready(&endpoints, "v1", 1, 2);
        let seen = endpoints.view((&route.name, &version("v1")), &live[&version("v1")], at(4));
        let problem = "5 failures in a row; it gets requests again in 7 s";
        assert_eq!((seen[1].state.as_str(), seen[1].problem.as_deref()), ("ejected", Some(problem)));
        assert_eq!(endpoints.ejections(&route.name, &version("v1")), 1);

        let turns = endpoints.find_outliers(&route.name, &live, at(11));
        assert_eq!((turns.len(), turns[0].state.as_str()), (1, "up"));
        endpoints.mark(&route.name, &live, Instant::now());
        assert!(live[&version("v1")][1].is_up() && !live[&version("v1")][1].is_warm(), "it starts slowly");
        check_ready(&endpoints, "v1", 2, 2);
    }

    #[test]
    fn what_is_up_from_the_beginning_has_no_slow_start_and_what_comes_up_by_a_check_has() {
        let route = route(&[("v1", &["10.0.0.1:1"]), ("v2", &["10.0.0.2:1"])]);
        let mut endpoints = placed(&route);
        let live = live_of(&endpoints, &route);
        endpoints.mark(&route.name, &live, Instant::now());
        let (one, two) = (&live[&version("v1")][0], &live[&version("v2")][0]);
        assert!(one.is_up() && one.is_warm() && !two.is_up());
        turn(&mut endpoints, "v2", "10.0.0.2:1", true);
        endpoints.mark(&route.name, &live, Instant::now());
        assert!(two.is_up() && !two.is_warm());
        turn(&mut endpoints, "v1", "10.0.0.1:1", false);
        endpoints.mark(&route.name, &live, Instant::now());
        turn(&mut endpoints, "v1", "10.0.0.1:1", true);
        endpoints.mark(&route.name, &live, Instant::now());
        assert!(one.is_up() && !one.is_warm(), "a restart is a start");
    }
}
