//! Puts what is decided in force: the only writer of [`Snapshots`].
//!
//! Line: desired ► actuator ► **publisher** ► snapshot. It owns what must outlive a snapshot: each route's books, and
//! each endpoint with its load, so that a reload neither forgets what was counted nor thinks a busy endpoint idle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::{Mirror, Route, RouteName, Share, Split, VersionId};
use pointsman_rollout::{MirrorTally, Mirrored};

use super::draining::Draining;
use crate::assign::Assign;
use crate::endpoint::Endpoint;
use crate::mirror::books::{MirrorBooks, MirrorCounts};
use crate::mirror::{self, ServedMirror};
use crate::observe::Observers;
use crate::outcome::ErrorPolicy;
use crate::pool::Pool;
use crate::protection::Protections;
use crate::recorder::{Ledger, Met, Taken, Terms, Users};
use crate::retry::books::{RetryBooks, RetryCounts};
use crate::route::RouteTable;
use crate::snapshot::{ServedRoute, Snapshot, Snapshots};
use crate::upstream::Upstream;
use crate::user_cookie::{Secret, SecretFiles, Secrets};
use crate::view::{EndpointView, MirrorView};

/// A request without an answer is not judged as a timeout before this, however low the latency threshold.
const UNANSWERED_AT_LEAST: Duration = Duration::from_secs(2);
/// Nor before this many times the latency threshold.
const UNANSWERED_THRESHOLDS: u32 = 4;

/// The endpoints of a route's versions, with their load.
pub(crate) type Live = BTreeMap<VersionId, Vec<Arc<Endpoint>>>;

/// One route as it shall be served.
#[derive(Debug, Clone)]
pub struct RoutePicture<'a> {
    /// What the config file says of it.
    pub route: Arc<Route>,
    /// The version in production; after a promotion this is not the one of the file.
    pub stable: VersionId,
    /// How its traffic shall be divided, quarantine and capacity considered.
    pub split: Split,
    /// Which trial of the canary this is: users are counted anew in each.
    pub trial: u64,
    /// Where each version answers, names resolved.
    pub endpoints: &'a BTreeMap<VersionId, Vec<SocketAddr>>,
}

/// Everything of a route that a snapshot depends on; equal plans make equal snapshots.
#[derive(Debug, Clone, PartialEq)]
struct RoutePlan {
    route: Arc<Route>,
    terms: Terms,
    endpoints: BTreeMap<VersionId, Vec<SocketAddr>>,
    cookie_secret: Option<Secret>,
}

/// The books of a mirror in one trial, and what of them has been taken to the analysis. A copy that a former trial, or
/// another rule of comparison, still owes is booked where nobody judges it.
#[derive(Debug)]
struct KeptMirror {
    books: Arc<MirrorBooks>,
    trial: u64,
    settings: Mirror,
    taken: MirrorTally,
    /// What the same versions' books of former trials came to, for the metrics.
    before: Option<MirrorCounts>,
}

/// The users of a route in one trial.
#[derive(Debug)]
struct KeptUsers {
    trial: u64,
    users: Arc<Users>,
    /// Whose error and slow answer went to the analysis.
    counted: Met,
}

/// The one hand that writes snapshots.
#[derive(Debug)]
pub struct Publisher {
    snapshots: Arc<Snapshots>,
    threads: usize,
    secrets: Secrets,
    observers: Observers,
    /// Whether something other than a route has to be published.
    is_stale: bool,
    published: Vec<RoutePlan>,
    ledgers: BTreeMap<RouteName, Ledger>,
    users: BTreeMap<RouteName, KeptUsers>,
    retries: BTreeMap<RouteName, RetryBooks>,
    mirrors: BTreeMap<RouteName, KeptMirror>,
    endpoints: HashMap<RouteName, Live>,
    draining: Draining,
    protections: Protections,
    /// Out of force, but requests that began under them are under way.
    retired: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// A publisher for `snapshots`, whose requests are counted by `threads` workers.
    pub fn new(snapshots: Arc<Snapshots>, threads: usize) -> Self {
        Self {
            snapshots,
            threads,
            secrets: Secrets::default(),
            observers: Observers::default(),
            is_stale: false,
            published: Vec::new(),
            ledgers: BTreeMap::new(),
            users: BTreeMap::new(),
            retries: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            endpoints: HashMap::new(),
            draining: Draining::default(),
            protections: Protections::default(),
            retired: Vec::new(),
        }
    }

    /// Tells `observers` of the requests that begin after the next publication.
    pub(crate) fn observe_with(&mut self, observers: Observers) {
        self.observers = observers;
        self.is_stale = true;
    }

    /// Signs users' cookies with `own` from the next publication on, where no file has the secret.
    pub(crate) fn sign_with(&mut self, own: Secret) {
        self.secrets.own = own;
    }

    /// Signs users' cookies with what `files` hold from the next publication on.
    pub(crate) fn sign_with_files(&mut self, files: SecretFiles) {
        self.secrets.files = files;
    }

    /// Opens or closes the fast lane, from the next request on.
    pub fn set_fast_lane(&self, is_open: bool) {
        self.snapshots.set_fast_lane(is_open);
    }

    /// Puts `routes` in force, in their order, in place of everything before; does nothing if nothing is different.
    /// Gives the generation in force.
    pub fn publish(&mut self, routes: &[RoutePicture<'_>]) -> u64 {
        self.publish_marked(routes, |_, _| {})
    }

    /// The same; `mark` says which endpoints of a route take requests, before the first request can see a new one.
    pub(crate) fn publish_marked(&mut self, routes: &[RoutePicture<'_>], mark: impl Fn(&RouteName, &Live)) -> u64 {
        let plans: Vec<RoutePlan> = routes.iter().map(|picture| self.plan(picture)).collect();
        let present = self.snapshots.load();
        if plans == self.published && present.generation > 0 && !self.is_stale {
            return present.generation;
        }
        self.keep_endpoints(&plans);
        self.endpoints.iter().for_each(|(route, live)| mark(route, live));
        let served: BTreeSet<&RouteName> = plans.iter().map(|plan| &plan.route.name).collect();
        self.ledgers.retain(|name, _| served.contains(name));
        self.users.retain(|name, _| served.contains(name));
        self.retries.retain(|name, _| served.contains(name));
        self.protections.forget_all_but(|name| served.contains(name));
        self.mirrors.retain(|name, _| served.contains(name));
        let served = plans.iter().map(|plan| (plan.route.matches.clone(), Arc::new(self.serve(plan)))).collect();
        self.published = plans;
        self.is_stale = false;
        let next = Snapshot {
            generation: present.generation + 1,
            routes: RouteTable::new(served),
            unrouted: Arc::clone(&present.unrouted),
            recent_ids: Arc::clone(&present.recent_ids),
            observers: self.observers.clone(),
        };
        let generation = next.generation;
        drop(present);
        self.retired.push(self.snapshots.publish(next));
        self.let_go();
        generation
    }

    /// Drops snapshots that no request holds any more. They are dropped here because the thread that serves requests would
    /// spend a request's time on it.
    pub(crate) fn let_go(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn plan(&mut self, picture: &RoutePicture<'_>) -> RoutePlan {
        let terms = terms(picture, self.users_of(picture));
        RoutePlan {
            route: Arc::clone(&picture.route),
            terms,
            endpoints: picture.endpoints.clone(),
            cookie_secret: self.secrets.secret_for(picture.route.sticky.as_ref()),
        }
    }

    /// The users of the present trial; none where every request is drawn on its own, or nothing is.
    fn users_of(&mut self, picture: &RoutePicture<'_>) -> Option<Arc<Users>> {
        picture.route.sticky.as_ref()?;
        let fresh = || KeptUsers { trial: picture.trial, users: Arc::default(), counted: Met::default() };
        let kept = self.users.entry(picture.route.name.clone()).or_insert_with(fresh);
        if kept.trial != picture.trial {
            *kept = fresh();
        }
        let is_drawn = match &picture.split {
            Split::Canary { share, .. } => Share::ZERO < *share && *share < Share::WHOLE,
            Split::Whole(_) => false,
        };
        is_drawn.then(|| Arc::clone(&kept.users))
    }

    fn serve(&mut self, plan: &RoutePlan) -> ServedRoute {
        let threads = self.threads;
        let (name, terms) = (&plan.route.name, &plan.terms);
        let ledger = self.ledgers.entry(name.clone()).or_insert_with(|| Ledger::new(threads));
        ServedRoute {
            name: name.clone(),
            assign: Assign::new(&plan.route, terms, plan.cookie_secret),
            epoch: ledger.open(terms.clone()),
            stable: self.pool(name, &terms.stable),
            canary: terms.canary.as_ref().map(|canary| self.pool(name, canary)),
            others: terms.others.iter().map(|version| self.pool(name, version)).collect(),
            retries: self.retry_books(name, terms),
            protection: self.protections.serve(&plan.route, terms, Instant::now()),
            mirror: self.mirror(plan),
            settings: Arc::clone(&plan.route),
            upstream: Upstream::new(&plan.route),
        }
    }

    /// Where copies go: nowhere while the mirrored version is stable itself.
    fn mirror(&mut self, plan: &RoutePlan) -> Option<ServedMirror> {
        let (name, stable) = (&plan.route.name, &plan.terms.stable);
        let wanted = plan.route.mirror.as_ref().filter(|wanted| wanted.version != *stable);
        let Some(wanted) = wanted.filter(|_| mirror::can_be_sent(&plan.route)) else {
            self.mirrors.remove(name);
            return None;
        };
        if !self.mirrors.get(name).is_some_and(|kept| kept.is_for(stable, plan.terms.trial, wanted)) {
            let former = self.mirrors.remove(name).filter(|kept| kept.is_of(stable, &wanted.version));
            let kept = KeptMirror {
                books: Arc::new(MirrorBooks::new(stable.clone(), wanted.version.clone())),
                trial: plan.terms.trial,
                settings: wanted.clone(),
                taken: MirrorTally::default(),
                before: former.map(|former| former.counts()),
            };
            self.mirrors.insert(name.clone(), kept);
        }
        let books = Arc::clone(&self.mirrors.get(name)?.books);
        Some(ServedMirror { books, pool: self.pool(name, &wanted.version) })
    }

    fn retry_books(&mut self, route: &RouteName, terms: &Terms) -> RetryBooks {
        let threads = self.threads;
        let books = self.retries.entry(route.clone()).or_insert_with(|| RetryBooks::new(threads));
        books.keep([&terms.stable].into_iter().chain(&terms.canary).chain(&terms.others));
        books.clone()
    }

    fn pool(&self, route: &RouteName, version: &VersionId) -> Arc<Pool> {
        Arc::new(Pool::new(version.clone(), self.endpoints(route, version)))
    }

    /// Takes endpoints over that are still named, makes those that are new, and lets the others drain.
    fn keep_endpoints(&mut self, plans: &[RoutePlan]) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.endpoints);
        for plan in plans {
            let name = &plan.route.name;
            let old = before.entry(name.clone()).or_default();
            let versions = plan.endpoints.iter().map(|(version, addresses)| {
                let old = old.entry(version.clone()).or_default();
                let kept = |address: &SocketAddr| {
                    let kept = old.iter().position(|endpoint| endpoint.address() == *address);
                    let kept = kept.map(|position| old.swap_remove(position));
                    kept.or_else(|| self.draining.take_back((name, version), *address, now))
                        .unwrap_or_else(|| Arc::new(Endpoint::new(*address)))
                };
                (version.clone(), addresses.iter().map(kept).collect())
            });
            let live = versions.collect();
            self.endpoints.insert(name.clone(), live);
        }
        for (route, version, endpoint) in each(before) {
            let known = self.published.iter().find(|plan| plan.route.name == route);
            let patience = known.map_or(Duration::ZERO, |plan| plan.route.timeouts.total);
            self.draining.begin((&route, &version), endpoint, patience, now);
        }
    }

    /// Forgets endpoints that left and have answered everything.
    pub(crate) fn forget_drained(&mut self, now: Instant) {
        self.draining.look(now);
    }

    /// Endpoints of a version that left and have requests under way, for people.
    pub(crate) fn draining(&self, of: (&RouteName, &VersionId), now: Instant) -> Vec<EndpointView> {
        self.draining.view(of, now)
    }

    /// The books of a route; none if it is not served.
    pub fn ledger_mut(&mut self, route: &RouteName) -> Option<&mut Ledger> {
        self.ledgers.get_mut(route)
    }

    /// The books of a route; none if it is not served.
    pub fn ledger(&self, route: &RouteName) -> Option<&Ledger> {
        self.ledgers.get(route)
    }

    /// What was repeated on a route so far, by version.
    pub fn retries(&self, route: &RouteName) -> BTreeMap<VersionId, RetryCounts> {
        self.retries.get(route).map(RetryBooks::counts).unwrap_or_default()
    }

    /// Whether most users of a route's present trial cannot be told apart any more.
    pub(crate) fn users_are_saturated(&self, route: &RouteName) -> bool {
        self.users.get(route).is_some_and(|kept| kept.users.is_saturated())
    }

    /// The endpoints of every version of a route; none if it is not served.
    pub(crate) fn live(&self, route: &RouteName) -> Option<&Live> {
        self.endpoints.get(route)
    }

    /// How often requests were refused, by route and code; without a route those that none took.
    pub fn refusals(&self) -> BTreeMap<Option<RouteName>, BTreeMap<&'static str, u64>> {
        let snapshot = self.snapshots.load();
        let routes = self.protections.refusals().map(|(route, refusals)| (Some(route.clone()), refusals));
        let all = routes.chain([(None, &*snapshot.unrouted)]);
        all.map(|(route, refusals)| (route, refusals.told().collect())).collect()
    }

    /// How long endpoints took to answer says nothing, as far as it is known by now or comes of requests under way: the edge
    /// was late itself.
    pub(crate) fn forget_latencies(&self) {
        let live = self.endpoints.values().flat_map(BTreeMap::values).flatten();
        live.for_each(|endpoint| endpoint.forget_latency());
    }

    /// What became known of a route's requests since the last call, as evidence.
    pub(crate) fn take(&mut self, route: &RouteName, now: Instant) -> Vec<Taken> {
        let taken = self.ledgers.get_mut(route).map(|ledger| ledger.take(now)).unwrap_or_default();
        if let Some(kept) = self.users.get_mut(route).filter(|_| taken.iter().any(has_met)) {
            kept.counted = kept.users.met();
        }
        taken
    }

    /// No request that began under what is in force now is evidence; from the next publication on they are again. Nor did its
    /// user meet anything: whose first error was disregarded would else never count in this trial.
    pub(crate) fn disregard_what_is_under_way(&mut self) {
        self.ledgers.values_mut().for_each(Ledger::disregard_what_is_under_way);
        for kept in self.users.values_mut() {
            kept.users = Arc::new(kept.users.back_at(&kept.counted));
        }
        self.is_stale = true;
    }

    /// What became known of copied requests since the last call; none if nothing did.
    pub(crate) fn take_mirrored(&mut self, route: &RouteName) -> Option<Mirrored> {
        self.mirrors.get_mut(route).and_then(KeptMirror::take)
    }

    /// What copied requests showed so far, for people; none if the route copies none.
    pub fn mirror_view(&self, route: &RouteName) -> Option<MirrorView> {
        self.mirrors.get(route).map(|kept| kept.books.view())
    }

    /// What came of copied requests so far; none if the route copies none.
    pub fn mirror_counts(&self, route: &RouteName) -> Option<MirrorCounts> {
        self.mirrors.get(route).map(KeptMirror::counts)
    }

    /// The endpoints of a version of a route, whether it has traffic or not; for checks and for `status`.
    pub fn endpoints(&self, route: &RouteName, version: &VersionId) -> Vec<Arc<Endpoint>> {
        self.endpoints.get(route).and_then(|versions| versions.get(version)).cloned().unwrap_or_default()
    }
}

impl KeptMirror {
    fn is_of(&self, stable: &VersionId, version: &VersionId) -> bool {
        self.books.stable() == stable && self.books.version() == version
    }

    fn is_for(&self, stable: &VersionId, trial: u64, settings: &Mirror) -> bool {
        self.is_of(stable, &settings.version) && self.trial == trial && self.settings == *settings
    }

    /// Everything that copies came to while these two versions were mirrored.
    fn counts(&self) -> MirrorCounts {
        let mut counts = self.books.counts();
        if let Some(before) = &self.before {
            counts.add(before);
        }
        counts
    }

    fn take(&mut self) -> Option<Mirrored> {
        let now = self.books.tally();
        let before = std::mem::replace(&mut self.taken, now);
        let tally = MirrorTally {
            compared: now.compared.saturating_sub(before.compared),
            disagreed: now.disagreed.saturating_sub(before.disagreed),
            noise_compared: now.noise_compared.saturating_sub(before.noise_compared),
            noise_disagreed: now.noise_disagreed.saturating_sub(before.noise_disagreed),
        };
        let (stable, version) = (self.books.stable().clone(), self.books.version().clone());
        (tally != MirrorTally::default()).then_some(Mirrored { stable, version, tally })
    }
}

/// Whether anybody met an error or a slow answer.
fn has_met(taken: &Taken) -> bool {
    [taken.row.stable, taken.row.canary].iter().any(|tally| tally.errors > 0 || tally.slow > 0)
}

/// Every endpoint by itself.
fn each(routes: HashMap<RouteName, Live>) -> impl Iterator<Item = (RouteName, VersionId, Arc<Endpoint>)> {
    routes.into_iter().flat_map(|(route, live)| {
        live.into_iter().flat_map(move |(version, endpoints)| {
            let route = route.clone();
            endpoints.into_iter().map(move |endpoint| (route.clone(), version.clone(), endpoint))
        })
    })
}

fn terms(picture: &RoutePicture<'_>, users: Option<Arc<Users>>) -> Terms {
    let guard = &picture.route.guard;
    let (weight, stable, canary) = sides(&picture.split, &picture.stable);
    let named = |version: &VersionId| *version == stable || canary.as_ref() == Some(version);
    let others = picture.route.versions.keys().filter(|version| !named(version)).cloned().collect();
    Terms {
        weight,
        trial: picture.trial,
        stable,
        canary,
        others,
        errors: ErrorPolicy::new(&guard.count_as_error),
        slow_after: guard.latency_threshold,
        unanswered_after: unanswered_after(&picture.route),
        users,
    }
}

/// Weight, stable and canary. All traffic to another version than stable is a canary's 100 %, so that what it does is
/// booked as the canary's.
fn sides(split: &Split, stable: &VersionId) -> (Share, VersionId, Option<VersionId>) {
    match split {
        Split::Whole(all) if all == stable => (Share::ZERO, stable.clone(), None),
        Split::Whole(all) => (Share::WHOLE, stable.clone(), Some(all.clone())),
        Split::Canary { stable, canary, share } => (*share, stable.clone(), Some(canary.clone())),
    }
}

/// When a request that has no answer is judged: clearly later than a slow answer, and never later than its timeout.
fn unanswered_after(route: &Route) -> Duration {
    let patient = (route.guard.latency_threshold * UNANSWERED_THRESHOLDS).max(UNANSWERED_AT_LEAST);
    patient.min(route.timeouts.total)
}

#[cfg(test)]
mod tests {
    use pointsman_config::{Host, Match, Version};

    use super::*;
    use crate::endpoint::InFlight;
    use crate::mirror::books::{MirrorResult, Target};
    use crate::outcome::{Outcome, Weighs};
    use crate::recorder::{Arm, AssignedBy, Assignment, Epoch};

    fn id(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn route(name: &str) -> Route {
        let versions = [(id("v1"), Version::at(Vec::new()))].into();
        let matches = Match { host: Host::Any, path_prefix: format!("/{name}") };
        Route { matches, ..Route::new(name.parse().unwrap(), id("v1"), versions) }
    }

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn picture<'a>(
        route: &'a Route,
        ppm: u32,
        endpoints: &'a BTreeMap<VersionId, Vec<SocketAddr>>,
    ) -> RoutePicture<'a> {
        let split = Split::canary(id("v1"), id("v2"), Share::from_ppm(ppm).unwrap());
        RoutePicture { route: Arc::new(route.clone()), stable: id("v1"), split, trial: 0, endpoints }
    }

    #[test]
    fn nothing_is_published_when_nothing_is_different() {
        let (snapshots, one) = (Arc::new(Snapshots::default()), route("one"));
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        let endpoints = [(id("v1"), addresses(&[1]))].into();
        assert_eq!(publisher.publish(&[picture(&one, 0, &endpoints)]), 1);
        let first = snapshots.load();
        assert_eq!(publisher.publish(&[picture(&one, 0, &endpoints)]), 1);
        assert!(Arc::ptr_eq(&first, &snapshots.load()));
        assert_eq!(publisher.publish(&[picture(&one, 1, &endpoints)]), 2);
        assert_eq!(publisher.publish(&[]), 3);
        assert_eq!(snapshots.load().generation, 3);
        assert!(publisher.ledger(&one.name).is_none(), "a route that is gone has no books");
    }

    #[test]
    fn an_endpoint_keeps_its_load_and_its_state_through_a_reload() {
        let (one, snapshots) = (route("one"), Arc::new(Snapshots::default()));
        let mut publisher = Publisher::new(snapshots, 1);
        publisher.publish(&[picture(&one, 0, &[(id("v1"), addresses(&[1, 2]))].into())]);
        let before = publisher.endpoints(&one.name, &id("v1"));
        let _busy = before[1].enter();
        before[1].goes_down();
        publisher.publish(&[picture(&one, 5, &[(id("v1"), addresses(&[3, 2])), (id("v2"), addresses(&[2]))].into())]);
        let after = publisher.endpoints(&one.name, &id("v1"));
        assert!(Arc::ptr_eq(&before[1], &after[1]) && after[1].in_flight() == 1 && !after[1].is_up());
        assert!(after[0].is_up() && after[0].in_flight() == 0);
        let other = publisher.endpoints(&one.name, &id("v2"));
        assert!(!Arc::ptr_eq(&other[0], &after[1]), "another version's load is its own");
    }

    #[test]
    fn a_snapshot_is_taken_apart_by_the_publisher_and_not_by_its_last_request() {
        let (one, endpoints) = (route("one"), [(id("v1"), addresses(&[1]))].into());
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        publisher.publish(&[picture(&one, 0, &endpoints)]);
        let request = snapshots.load();
        let watched = Arc::downgrade(&request);
        publisher.publish(&[picture(&one, 5, &endpoints)]);
        drop(request);
        assert!(watched.upgrade().is_some(), "the request dropped it");
        publisher.let_go();
        assert!(watched.upgrade().is_none());
    }

    #[test]
    fn books_go_on_through_new_weights() {
        let (one, endpoints) = (route("one"), [(id("v1"), addresses(&[1]))].into());
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        for ppm in [0, 10, 10, 20] {
            publisher.publish(&[picture(&one, ppm, &endpoints)]);
            let snapshot = snapshots.load();
            let served = snapshot.routes.find(None, "/one").unwrap();
            let entry = served.epoch.begin(Assignment::by_chance(Arm::Stable), Instant::now());
            served.epoch.finish(entry, Outcome::Success, Duration::from_millis(1));
        }
        let ledger = publisher.ledger_mut(&one.name).unwrap();
        let rows = ledger.take(Instant::now());
        let weights: Vec<_> = rows.iter().map(|taken| (taken.row.weight.ppm(), taken.row.stable.requests)).collect();
        assert_eq!(weights, [(0, 1), (10, 2), (20, 1)]);
        let totals = |ledger: &Ledger| ledger.totals()[&id("v1")].outcomes[Outcome::Success.index()];
        assert_eq!(totals(ledger), 4);
        ledger.take(Instant::now());
        assert_eq!(totals(ledger), 4, "retired epochs stay in the totals");
    }

    #[test]
    fn what_was_under_way_in_a_standstill_is_no_evidence_and_what_comes_after_it_is() {
        let (one, endpoints) = (route("one"), [(id("v1"), addresses(&[1]))].into());
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        publisher.publish(&[picture(&one, 0, &endpoints)]);
        let epoch_in_force = || epoch_in_force(&snapshots);
        let ends = |epoch: &Epoch, entry| epoch.finish(entry, Outcome::Timeout, Duration::from_secs(9));
        let begins = |epoch: &Epoch| {
            let now = Instant::now();
            let mut entry = epoch.begin(Assignment::by_chance(Arm::Stable), now);
            epoch.asked(&mut entry, now);
            entry
        };
        let judged = |publisher: &mut Publisher, now| -> (u64, u64) {
            let taken = publisher.take(&one.name, now);
            let sum = |of: fn(&Taken) -> u64| taken.iter().map(of).sum();
            (sum(|taken| taken.row.stable.requests), sum(|taken| taken.row.stable.errors))
        };
        let before = epoch_in_force();
        let (ended, under_way) = (begins(&before), begins(&before));
        ends(&before, ended);
        publisher.disregard_what_is_under_way();
        let generation = publisher.publish(&[picture(&one, 0, &endpoints)]);
        assert_eq!(generation, 2, "the same weights, and other books");
        // By then whoever has no answer is judged by that.
        let late = Instant::now() + Duration::from_secs(10);
        assert_eq!(judged(&mut publisher, late), (0, 0));
        ends(&before, under_way);
        let after = epoch_in_force();
        ends(&after, begins(&after));
        assert_eq!(judged(&mut publisher, late), (1, 1));
        let ledger = publisher.ledger(&one.name).unwrap();
        let timeouts = ledger.totals()[&id("v1")].outcomes[Outcome::Timeout.index()];
        assert_eq!(timeouts, 3, "people see all of them");
    }

    #[test]
    fn no_endpoint_is_taken_for_a_slow_one_for_what_a_standstill_took() {
        let one = route("one");
        let endpoints = [(id("v1"), addresses(&[1])), (id("v2"), addresses(&[2, 3]))].into();
        let mut publisher = Publisher::new(Arc::new(Snapshots::default()), 1);
        publisher.publish(&[picture(&one, 10, &endpoints)]);
        let (start, woke) = (Instant::now(), Instant::now() + Duration::from_secs(6));
        let pool = Pool::new(id("v2"), publisher.endpoints(&one.name, &id("v2")));
        let [slow, other] = pool.endpoints() else { panic!("two of them") };
        let asked = |endpoint: &Arc<Endpoint>, sent| {
            let mut request = endpoint.enter();
            request.sets_out(sent);
            request
        };
        let answered = |mut request: InFlight, now| {
            request.answered(true, now);
            request.ends(Weighs::Good, now);
        };
        answered(asked(other, start), start + Duration::from_millis(5));
        let [before, after] = [asked(slow, start), asked(slow, start)];
        answered(before, woke);
        publisher.forget_latencies();
        answered(after, woke);
        for endpoint in [slow, other] {
            answered(asked(endpoint, woke), woke + Duration::from_millis(5));
        }
        let held: Vec<_> = (0..100).map(|_| pool.pick(&[], woke).unwrap().1.enter()).collect();
        let [of_one, of_other] = [slow, other].map(|endpoint| endpoint.in_flight());
        assert!(of_one.abs_diff(of_other) < 20, "{of_one} and {of_other} of {}", held.len());
    }

    fn epoch_in_force(snapshots: &Snapshots) -> Arc<Epoch> {
        Arc::clone(&snapshots.load().routes.find(None, "/one").unwrap().epoch)
    }

    /// With few users who ask often nothing would else be left to judge by until the trial ends.
    #[test]
    fn whose_first_error_fell_in_a_standstill_has_another_first_and_whose_was_counted_before_has_none() {
        let (mut one, endpoints) = (route("one"), [(id("v1"), addresses(&[1])), (id("v2"), addresses(&[2]))].into());
        one.sticky = Some(pointsman_config::Sticky::ClientIp);
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        publisher.publish(&[picture(&one, 500_000, &endpoints)]);
        // Late and in vain.
        let fails = |epoch: &Epoch, user| {
            let to = Assignment { arm: Arm::Canary, by: AssignedBy::User(user) };
            let now = Instant::now();
            let mut entry = epoch.begin(to, now);
            epoch.asked(&mut entry, now);
            epoch.finish(entry, Outcome::Error, Duration::from_secs(9));
        };
        let taken = |publisher: &mut Publisher| -> (u64, u64, u64) {
            let taken = publisher.take(&one.name, Instant::now());
            let sum = |of: fn(&Taken) -> u64| taken.iter().map(of).sum();
            (sum(|taken| taken.row.canary.errors), sum(|taken| taken.row.canary.slow), sum(|taken| taken.drawn.canary))
        };
        let before = epoch_in_force(&snapshots);
        fails(&before, 1);
        assert_eq!(taken(&mut publisher), (1, 1, 1));
        fails(&before, 2);
        publisher.disregard_what_is_under_way();
        publisher.publish(&[picture(&one, 500_000, &endpoints)]);
        fails(&before, 2);
        assert_eq!(taken(&mut publisher), (0, 0, 0));
        let after = epoch_in_force(&snapshots);
        for user in [1, 2, 2] {
            fails(&after, user);
        }
        assert_eq!(taken(&mut publisher), (1, 1, 0), "user 1 was counted before, and nobody is drawn twice");
    }

    #[test]
    fn a_new_trial_has_books_of_its_own_and_what_a_former_one_still_owes_is_nobodys_evidence() {
        let (mut one, endpoints) = (route("one"), [(id("v1"), addresses(&[1])), (id("v2"), addresses(&[2]))].into());
        one.mirror = Some(Mirror {
            version: id("v2"),
            share: Share::WHOLE,
            concurrent: 1,
            body_bytes: 1,
            timeout: Duration::from_secs(1),
            compare: pointsman_config::Compare::default(),
        });
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), 1);
        publisher.publish(&[picture(&one, 10, &endpoints)]);
        let served = |snapshots: &Snapshots| Arc::clone(snapshots.load().routes.find(None, "/one").unwrap());
        let former = served(&snapshots);
        former.mirror.as_ref().unwrap().books.note(Target::Mirror, MirrorResult::Agreed);
        assert_eq!(publisher.take_mirrored(&one.name).unwrap().tally.compared, 1);
        publisher.publish(&[RoutePicture { trial: 1, ..picture(&one, 10, &endpoints) }]);
        let present = served(&snapshots);
        assert_eq!((former.epoch.terms().trial, present.epoch.terms().trial), (0, 1));
        former.mirror.as_ref().unwrap().books.note(Target::Mirror, MirrorResult::Disagreed);
        assert!(publisher.take_mirrored(&one.name).is_none());
        present.mirror.as_ref().unwrap().books.note(Target::Mirror, MirrorResult::Agreed);
        assert_eq!(publisher.take_mirrored(&one.name).unwrap().tally.disagreed, 0);
        let [of_v2, _] = publisher.mirror_counts(&one.name).unwrap().copies;
        assert_eq!(of_v2.results[0], 2, "counters never go back");
    }

    #[test]
    fn all_traffic_to_another_version_than_stable_is_booked_as_the_canarys() {
        let (v1, v2) = (id("v1"), id("v2"));
        assert_eq!(sides(&Split::Whole(v1.clone()), &v1), (Share::ZERO, v1.clone(), None));
        assert_eq!(sides(&Split::Whole(v2.clone()), &v1), (Share::WHOLE, v1, Some(v2)));
    }

    #[test]
    fn the_unanswered_are_judged_after_a_multiple_of_slow_but_before_their_timeout() {
        let mut one = route("one");
        assert_eq!(unanswered_after(&one), Duration::from_secs(2));
        one.guard.latency_threshold = Duration::from_secs(3);
        assert_eq!(unanswered_after(&one), Duration::from_secs(12));
        one.timeouts.total = Duration::from_secs(1);
        assert_eq!(unanswered_after(&one), Duration::from_secs(1));
    }
}
