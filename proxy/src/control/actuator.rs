//! The live Services of all routes: what the phase machine desires of them is carried out beside the control loop, which
//! waits for nobody here.
//!
//! Line: desired ► **actuator** ► API server ► (seen, by the next tick). Each live Service has a hand of its own, a task:
//! it compares what stands there with what is wished, and writes the difference by compare-and-swap, as often as it takes.
//! So a patch that timed out and lands late, or a change by somebody else, is met like everything else. The same write
//! holds the state of the rollout, so this is its home, too ([`LiveServices::put`]), as the state file is elsewhere.

mod hand;
mod wish;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, RouteName};
use pointsman_kubernetes::{Cluster, EventSink, Leadership};
use pointsman_rollout::Saved;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::hand::{Found, Rehearsed, Report};
pub(crate) use self::wish::{Aim, Answer, Mandate};

use self::hand::{FirstLook, Hand, Near};
use self::wish::{Wish, decided_of};
use super::state::{COMMIT_PATIENCE, Opened, Reopened};
use crate::user_cookie::Secret;
use crate::view::{DecisionRow, StateView};

/// Where state is kept, for people.
pub(crate) const PLACE: &str = "annotations of the live Services";

/// The hand of one route.
#[derive(Debug)]
struct Held {
    route: Route,
    wish: watch::Sender<Wish>,
    report: watch::Receiver<Report>,
    _task: AbortOnDropHandle<()>,
}

/// The live Services of all routes.
#[derive(Debug)]
pub(crate) struct LiveServices {
    runtime: tokio::runtime::Handle,
    cluster: Cluster,
    /// Who decides: what is written tests the proof.
    leadership: watch::Receiver<Leadership>,
    events: Arc<EventSink>,
    held: BTreeMap<RouteName, Held>,
    found: mpsc::UnboundedSender<FirstLook>,
    puts: u64,
}

impl LiveServices {
    /// Looks at the live Services of `routes`, for `patience` at most: what they hold of state. Of those that could not be
    /// seen in time `reopened` hears later; nothing is written on them before. Nothing is written at all but under a proof
    /// of `leadership`. `instance` names this process and no other.
    pub(crate) async fn open(
        (runtime, cluster): (tokio::runtime::Handle, Cluster),
        (leadership, instance): (watch::Receiver<Leadership>, &str),
        routes: &[Route],
        (reopened, patience): (mpsc::UnboundedSender<Reopened>, Duration),
    ) -> (Self, Opened) {
        let events = {
            let _on_this_runtime = runtime.enter();
            Arc::new(EventSink::start(&cluster, instance))
        };
        let (found, mut hears) = mpsc::unbounded_channel();
        let held = BTreeMap::new();
        let mut live = Self { runtime: runtime.clone(), cluster, leadership, events, held, found, puts: 0 };
        live.hold(routes);
        let opened = opened(&mut hears, live.held.len(), patience).await;
        runtime.spawn(tell_late(hears, reopened, opened.cookie_secret));
        (live, opened)
    }

    /// Holds the live Services of just these routes.
    pub(crate) fn hold(&mut self, routes: &[Route]) {
        self.held.retain(|_, held| routes.iter().any(|route| is_same_service(route, &held.route)));
        for route in routes {
            if !self.held.contains_key(&route.name) {
                self.begin(route);
            }
        }
    }

    fn begin(&mut self, route: &Route) {
        let Some(live) = &route.live_service else { return };
        let (wish, wishes) = watch::channel(Wish::default());
        let (tell, report) = watch::channel(Report::default());
        let task = {
            let _on_this_runtime = self.runtime.enter();
            let near = Near {
                cluster: self.cluster.clone(),
                leadership: self.leadership.clone(),
                events: Arc::clone(&self.events),
            };
            let hand = Hand::new(near, (route, live), (wish.clone(), wishes), (tell, self.found.clone()));
            self.runtime.spawn(hand.work())
        };
        let held = Held { route: route.clone(), wish, report, _task: AbortOnDropHandle::new(task) };
        self.held.insert(route.name.clone(), held);
    }

    /// How things stand with a route's live Service, as was last heard.
    pub(crate) fn report(&self, route: &RouteName) -> Option<Report> {
        self.held.get(route).map(|held| held.report.borrow().clone())
    }

    /// What shall be; never waits.
    pub(crate) fn aim(&self, route: &RouteName, aim: Aim) {
        let Some(held) = self.held.get(route) else { return };
        held.wish.send_if_modified(|wish| {
            let is_news = wish.aim != aim;
            wish.aim = aim;
            is_news
        });
    }

    /// Hands over what shall be kept; never waits. The number is for [`LiveServices::written`].
    pub(crate) fn put(
        &mut self,
        routes: impl IntoIterator<Item = (RouteName, Saved)>,
        decisions: impl IntoIterator<Item = Arc<DecisionRow>>,
    ) -> u64 {
        self.puts += 1;
        let mut rows: BTreeMap<RouteName, Vec<_>> = BTreeMap::new();
        for row in decisions {
            rows.entry(row.route.clone()).or_default().push(decided_of(&row));
        }
        for (name, saved) in routes {
            let Some(held) = self.held.get(&name) else { continue };
            let decided = rows.remove(&name).unwrap_or_default();
            held.wish.send_modify(|wish| wish.put(self.puts, saved, decided));
        }
        self.puts
    }

    /// Waits until put number `put` stands on every live Service that it is about, for as long as a decision waits for a
    /// disk at most, and not at all where another edge writes. Whether it does; either way what was decided goes into force.
    pub(crate) async fn written(&self, put: u64) -> bool {
        let about = self.held.values().filter(|held| held.wish.borrow().put == put);
        !self.is_following() && all_written(about, Instant::now() + COMMIT_PATIENCE).await
    }

    /// Whether everything that was put stands on a route's live Service.
    pub(crate) fn is_written(&self, route: &RouteName) -> bool {
        self.held.get(route).is_none_or(|held| held.report.borrow().written >= held.wish.borrow().put)
    }

    fn is_following(&self) -> bool {
        matches!(&*self.leadership.borrow(), Leadership::Following { leader: Some(_) })
    }

    /// Where state is kept and what is wrong with it.
    pub(crate) fn view(&self) -> StateView {
        let problems = self.held.iter().filter_map(|(route, held)| {
            let problem = held.report.borrow().problem.clone()?;
            Some(format!("{route}: {problem}"))
        });
        let problems: Vec<String> = problems.collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        StateView { file: PLACE.to_owned(), problem, note: None }
    }

    /// The term of a later claim that a Service has although this process leads: the Lease counts anew.
    pub(crate) fn superseded_by(&self) -> Option<u64> {
        self.held.values().filter_map(|held| held.report.borrow().superseded_by).max()
    }

    /// Writes what is left, for `patience` at most.
    pub(crate) async fn close(self, patience: Duration) {
        if !self.is_following() {
            all_written(self.held.values(), Instant::now() + patience).await;
        }
    }
}

/// Waits until everything that was put stands on these live Services; whether it does.
async fn all_written(held: impl Iterator<Item = &Held>, deadline: Instant) -> bool {
    for held in held {
        let put = held.wish.borrow().put;
        let mut report = held.report.clone();
        if report.borrow().is_down() {
            return false;
        }
        let stands = report.wait_for(|report| report.written >= put);
        if !matches!(timeout_at(deadline, stands).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

/// Whether the hand for `before` is still the right one for `route`.
fn is_same_service(route: &Route, before: &Route) -> bool {
    let same_versions = || {
        let services = |route: &Route| -> BTreeMap<_, _> {
            route.versions.iter().map(|(name, version)| (name.clone(), version.service().cloned())).collect()
        };
        services(route) == services(before)
    };
    route.name == before.name && route.live_service == before.live_service && same_versions()
}

/// What the first looks found.
async fn opened(hears: &mut mpsc::UnboundedReceiver<FirstLook>, wanted: usize, patience: Duration) -> Opened {
    let mut opened =
        Opened { routes: BTreeMap::new(), recent: Vec::new(), last_id: 0, cookie_secret: Secret::random() };
    let all = async {
        for _ in 0..wanted {
            let Some(FirstLook { route, state }) = hears.recv().await else { return };
            let Some(state) = state else { continue };
            opened.last_id = opened.last_id.max(state.decisions.last().map_or(0, |decided| decided.id));
            opened.recent.extend(state.decisions.iter().map(|decided| wish::row_of(&route, decided)));
            opened.routes.insert(route, state.saved);
        }
    };
    // Those that are late are heard later.
    drop(timeout(patience, all).await);
    opened.recent.sort_by_key(|row| row.id);
    opened
}

/// Has the loop weigh what was found late.
async fn tell_late(
    mut hears: mpsc::UnboundedReceiver<FirstLook>,
    reopened: mpsc::UnboundedSender<Reopened>,
    cookie_secret: Secret,
) {
    while let Some(FirstLook { route, state }) = hears.recv().await {
        let last_id = state.as_ref().and_then(|state| state.decisions.last()).map_or(0, |decided| decided.id);
        let unknown = state.map(|state| (route, state.saved)).into_iter().collect();
        if reopened.send(Reopened { unknown, last_id, renumbered: false, cookie_secret }).is_err() {
            return;
        }
    }
}
