//! What holds for everything that a client can send before its request is anybody's. `fuzz/` looks for bytes for which it
//! does not.

#![expect(clippy::expect_used, reason = "what does not hold is told by a panic")]

mod head;
mod route;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, Share};

pub use head::head;
pub use route::route;

use crate::assign::Assign;
use crate::outcome::ErrorPolicy;
use crate::pool::Pool;
use crate::protection::Protection;
use crate::recorder::{Epoch, Terms};
use crate::retry::books::RetryBooks;
use crate::snapshot::ServedRoute;
use crate::upstream::Upstream;

/// A route that nothing is behind.
pub(crate) fn served(name: &str) -> Arc<ServedRoute> {
    let name = name.parse().expect("a name of a route");
    let stable = "v1".parse().expect("a name of a version");
    let settings = Arc::new(Route::new(name, stable, BTreeMap::new()));
    let terms = Terms {
        weight: Share::ZERO,
        trial: 0,
        stable: settings.stable.clone(),
        canary: None,
        others: Vec::new(),
        errors: ErrorPolicy::new(&[].into()),
        slow_after: Duration::from_secs(1),
        unanswered_after: Duration::from_secs(2),
        users: None,
    };
    Arc::new(ServedRoute {
        name: settings.name.clone(),
        assign: Assign::new(&settings, &terms, None),
        epoch: Arc::new(Epoch::new(terms, 1)),
        stable: Arc::new(Pool::new(settings.stable.clone(), Vec::new())),
        canary: None,
        others: Box::default(),
        protection: Protection::default(),
        settings,
        retries: RetryBooks::new(1),
        upstream: Upstream::default(),
        mirror: None,
    })
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_for_the_target_head_holds() {
        super::replay::kept_inputs("head", super::head);
    }

    #[test]
    fn what_is_kept_for_the_target_route_holds() {
        super::replay::kept_inputs("route", super::route);
    }
}
