//! One picture of everything the data path needs; a request keeps the picture it began with.
//!
//! Line: edge ► **snapshot** ► route. The only writer is `control::publisher`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use pointsman_config::{Route, RouteName};

use crate::assign::Assign;
use crate::mirror::ServedMirror;
use crate::observe::Observers;
use crate::pool::Pool;
use crate::protection::{Protection, Refusals};
use crate::recorder::{Arm, Epoch, RecentIds};
use crate::retry::books::RetryBooks;
use crate::route::RouteTable;
use crate::upstream::Upstream;

/// What the edge does, as of one generation; never changed once published.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up by one with every publication.
    pub generation: u64,
    /// Which requests go where.
    pub routes: RouteTable,
    /// Ids that clients sent of late; the same in every generation.
    pub recent_ids: Arc<RecentIds>,
    /// Who is told of requests that ended.
    pub observers: Observers,
    /// Refusals of requests that no route took; the same in every generation.
    pub unrouted: Arc<Refusals>,
}

/// One route as the edge serves it.
#[derive(Debug)]
pub struct ServedRoute {
    /// Its name.
    pub name: RouteName,
    /// The weight in force and the counters of the requests assigned under it.
    pub epoch: Arc<Epoch>,
    /// Where stable's requests go.
    pub stable: Arc<Pool>,
    /// Where the canary's requests go; its share is `epoch.weight()`.
    pub canary: Option<Arc<Pool>>,
    /// Where requests go that ask for one of the other versions, in the order of [`Terms::others`](crate::recorder::Terms::others).
    pub others: Box<[Arc<Pool>]>,
    /// What was repeated, and how much more may be.
    pub retries: RetryBooks,
    /// Where copies of stable's requests go.
    pub(crate) mirror: Option<ServedMirror>,
    /// What the config file says of it.
    pub settings: Arc<Route>,
    /// How its endpoints are spoken to.
    pub upstream: Upstream,
    /// How requests come to their versions.
    pub(crate) assign: Assign,
    /// What keeps its versions from being asked too much.
    pub(crate) protection: Protection,
}

impl ServedRoute {
    /// Where the requests of `arm` go; none for a version that the route does not have.
    pub fn pool(&self, arm: Arm) -> Option<&Arc<Pool>> {
        match arm {
            Arm::Stable => Some(&self.stable),
            Arm::Canary => self.canary.as_ref(),
            Arm::Other(position) => self.others.get(position),
        }
    }
}

/// The present snapshot: read by every request, replaced by the publisher.
#[derive(Debug)]
pub struct Snapshots {
    present: ArcSwap<Snapshot>,
    fast_lane: AtomicBool,
}

impl Default for Snapshots {
    /// Starts without routes, as generation 0.
    fn default() -> Self {
        Self::new(Snapshot::default())
    }
}

impl Snapshots {
    /// Starts with `first`.
    pub fn new(first: Snapshot) -> Self {
        Self { present: ArcSwap::from_pointee(first), fast_lane: AtomicBool::new(true) }
    }

    /// The present snapshot, to be kept for the whole request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.present.load_full()
    }

    /// The largest request head that any route takes, in bytes.
    pub(crate) fn largest_head_bytes(&self) -> u64 {
        self.present.load().routes.largest_head_bytes()
    }

    /// Whether plain requests take the fast lane.
    pub(crate) fn has_fast_lane(&self) -> bool {
        self.fast_lane.load(Relaxed)
    }

    /// Opens or closes the fast lane, from the next request on.
    pub(crate) fn set_fast_lane(&self, is_open: bool) {
        self.fast_lane.store(is_open, Relaxed);
    }

    /// Puts `next` in force; the next request sees it. Gives what was in force before, so that it need not be the last
    /// request of it that takes a thousand routes apart.
    pub(crate) fn publish(&self, next: Snapshot) -> Arc<Snapshot> {
        self.present.swap(Arc::new(next))
    }
}
