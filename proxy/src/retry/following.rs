//! The attempt that may follow one that takes too long, and what has to be had for it.
//!
//! Line: request ► **following** ► retry. Nobody gives an attempt up that is still waited for, unless the other one can
//! really come: budget and place are claimed first, by whoever watches the clock.

use std::sync::Arc;
use std::time::Instant;

use super::books::{RetryResult, VersionRetries};
use super::{Attempt, Next};
use crate::concurrency::Permit;
use crate::pool::Pool;
use crate::recorder::Arm;
use crate::snapshot::{ServedRoute, Snapshot};

/// An attempt that may follow another.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The position of the route in it.
    pub(crate) route: usize,
    /// The version that the request was assigned to, and is charged to.
    pub(crate) assigned: Arm,
    /// The version that the present attempt asks.
    pub(crate) asks: Arm,
    /// Its endpoints that have been tried, the present one included.
    pub(crate) tried: Vec<usize>,
    pub(crate) attempt: Attempt,
}

/// Everything that an attempt needs to follow another.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) next: Next,
    /// The right to be worked on by stable, where stable is asked next and has only so many.
    pub(crate) permit: Option<Permit>,
}

impl Following {
    /// Claims what the attempt needs at `now`; none if it is not to follow.
    pub(crate) fn claim(&self, now: Instant) -> Option<Claim> {
        let route = self.snapshot.routes.at(self.route)?;
        let settings = &route.settings.retries;
        let another_endpoint = self.pool(route).is_some_and(|pool| pool.pick(&self.tried, now).is_some());
        let attempt = Attempt { another_endpoint, ..self.attempt };
        match super::next(settings, &attempt, || route.retries.spend(settings, now)) {
            Next::GiveUp => None,
            Next::NoBudget => {
                if let Some(books) = self.books(route) {
                    books.note(RetryResult::BudgetExhausted);
                }
                None
            }
            next @ (Next::OtherEndpoint | Next::Again) => Some(Claim { next, permit: None }),
            next @ Next::OnStable => {
                // Where stable has all that it can take, a failure is better told than passed on.
                let permit = route.protection.enter(Arm::Stable, now).ok()?;
                Some(Claim { next, permit })
            }
        }
    }

    fn pool<'a>(&self, route: &'a ServedRoute) -> Option<&'a Arc<Pool>> {
        route.pool(self.asks)
    }

    /// The books of the version whose failure a retry follows.
    fn books<'a>(&self, route: &'a ServedRoute) -> Option<&'a VersionRetries> {
        route.retries.of(&route.pool(self.assigned)?.version).map(Arc::as_ref)
    }
}
