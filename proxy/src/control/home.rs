//! Where rollout state lives: an SQLite file, or the live Services of a cluster. One seam for the control loop, which
//! hands over what shall be kept and waits a moment at most.
//!
//! Line: phase ► **home** ► (state, actuator) ► (next start).

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, RouteName};
use pointsman_kubernetes::{Candidacy, Leadership};
use pointsman_rollout::Saved;
use tokio::sync::watch;
use tokio::time::timeout;

use super::actuator::{Aim, Found, LiveServices, Report};
use super::state::StateFile;
use super::state::database::Batch;
use crate::view::{DecisionRow, StateView};

/// Where state is kept.
#[derive(Debug)]
pub(crate) enum Home {
    /// In a file.
    File(StateFile),
    /// On the live Service of each route, which is moved by the same write.
    Cluster(Box<InCluster>),
}

/// The live Services, and the Lease under which they are written.
#[derive(Debug)]
pub(crate) struct InCluster {
    pub(crate) live: LiveServices,
    pub(crate) candidacy: Candidacy,
    /// The name of this process, under which it stands.
    pub(crate) name: String,
}

impl InCluster {
    /// Where state is kept and what is wrong with it; without the Lease nothing is written.
    fn view(&self) -> StateView {
        let mut view = self.live.view();
        if let Some(why) = self.candidacy.problem() {
            let lease = format!("the Lease cannot be kept, and nobody is promoted while nobody leads: {why}");
            view.problem = Some(view.problem.map_or_else(|| lease.clone(), |other| format!("{lease}; {other}")));
        }
        view
    }

    /// A Lease that was deleted counts anew, below what stands on the Services: it goes on above that.
    fn raise(&self) {
        let Some(above) = self.live.superseded_by() else { return };
        let leads_below = self.candidacy.leadership().borrow().fence().is_some_and(|fence| fence.term <= above);
        if leads_below {
            self.candidacy.raise_above(above);
        }
    }
}

impl Home {
    /// Hands over what shall be kept; never waits. The number is for [`Home::written`].
    pub(crate) fn put(
        &mut self,
        routes: impl IntoIterator<Item = (RouteName, Saved)>,
        decisions: impl IntoIterator<Item = Arc<DecisionRow>>,
    ) -> u64 {
        match self {
            Self::File(file) => file.put(routes, decisions),
            Self::Cluster(at) => at.live.put(routes, decisions),
        }
    }

    /// Waits a moment until put number `put` is kept; whether it is.
    pub(crate) async fn written(&self, put: u64) -> bool {
        match self {
            Self::File(file) => file.written(put).await,
            Self::Cluster(at) => at.live.written(put).await,
        }
    }

    /// Whether what was put of a route can be read by whoever decides next.
    pub(crate) fn is_kept(&self, route: &RouteName) -> bool {
        match self {
            Self::File(_) => true,
            Self::Cluster(at) => at.live.is_written(route),
        }
    }

    /// Where state is kept and what is wrong with it.
    pub(crate) fn view(&self) -> StateView {
        match self {
            Self::File(file) => file.view(),
            Self::Cluster(at) => at.view(),
        }
    }

    /// Writes what is left and lets go of it, so that another process can take over. State in a cluster is not handed over:
    /// a new edge there reads it from the cluster.
    pub(crate) fn release(&self) {
        match self {
            Self::File(file) => file.release(),
            Self::Cluster(_) => {}
        }
    }

    /// Whether it was let go of.
    pub(crate) fn is_released(&self) -> bool {
        match self {
            Self::File(file) => file.is_released(),
            Self::Cluster(_) => false,
        }
    }

    /// What was put and waits, since it was let go of.
    pub(crate) fn take_waiting(&self) -> Batch {
        match self {
            Self::File(file) => file.take_waiting(),
            Self::Cluster(_) => Batch::default(),
        }
    }

    /// Under which name this process stands for the Lease, and who holds it; none where there is no Lease.
    pub(crate) fn leadership(&self) -> Option<(&str, watch::Receiver<Leadership>)> {
        match self {
            Self::File(_) => None,
            Self::Cluster(at) => Some((&at.name, at.candidacy.leadership())),
        }
    }

    /// A leader of this term was heard of although the Lease counts below it.
    pub(crate) fn raise_above(&self, term: u64) {
        match self {
            Self::File(_) => {}
            Self::Cluster(at) => at.candidacy.raise_above(term),
        }
    }

    /// Takes back what was let go of.
    pub(crate) fn reclaim(&self) {
        match self {
            Self::File(file) => file.reclaim(),
            Self::Cluster(_) => {}
        }
    }

    /// Writes what is left, for `patience` at most, and lets go of it.
    pub(crate) async fn close(self, patience: Duration) {
        match self {
            Self::File(file) => file.close(patience).await,
            Self::Cluster(at) => {
                let InCluster { live, candidacy, .. } = *at;
                live.close(patience).await;
                // Otherwise it runs out.
                drop(timeout(patience, candidacy.resign()).await);
            }
        }
    }

    /// The routes are these now.
    pub(crate) fn hold(&mut self, routes: &[Route]) {
        match self {
            Self::File(_) => {}
            Self::Cluster(at) => at.live.hold(routes),
        }
    }

    /// What shall become of a route's live Service; never waits.
    pub(crate) fn aim(&self, route: &RouteName, aim: Aim) {
        match self {
            Self::File(_) => {}
            Self::Cluster(at) => {
                at.live.aim(route, aim);
                at.raise();
            }
        }
    }

    /// What stood on a route's live Service when this edge took the lead with `term`; none while that is not known. A route
    /// without a live Service has nothing there.
    pub(crate) fn found_under(&self, term: u64, route: &RouteName) -> Option<Found> {
        match self.report(route) {
            None => Some(Found::default()),
            Some(report) => report.found.filter(|(under, _)| *under == term).map(|(_, found)| found),
        }
    }

    /// How things stand with a route's live Service.
    pub(crate) fn report(&self, route: &RouteName) -> Option<Report> {
        match self {
            Self::File(_) => None,
            Self::Cluster(at) => at.live.report(route),
        }
    }
}
