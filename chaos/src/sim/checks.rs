//! What the health checks of one edge make of the endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::{Route, VersionId};
use pointsman_rollout::Ready;

use super::TICK;
use super::fleet::Fleet;
use super::policy::ReadyMap;

/// The checks of one edge.
#[derive(Debug, Clone)]
pub(super) struct Checks {
    versions: BTreeMap<VersionId, Found>,
    ready: ReadyMap,
    /// How long until a dead endpoint is found, and one that is back.
    finds_dead: Duration,
    finds_back: Duration,
    /// How much sooner the first check of all comes.
    first_check: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    endpoints: usize,
    /// Endpoints that fail their checks, and that the edge takes for dead.
    failing: usize,
    thought_dead: usize,
    /// Since when the two differ.
    differ_since: Duration,
}

impl Checks {
    /// All are up, and that is known.
    pub(super) fn new(route: &Route, fleet: &Fleet) -> Self {
        let found = |endpoints| Found { endpoints, failing: 0, thought_dead: 0, differ_since: Duration::ZERO };
        let check = &route.health_check;
        let all = || fleet.failing_checks().map(|(version, endpoints, _)| (version.clone(), endpoints));
        Self {
            versions: all().map(|(version, endpoints)| (version, found(endpoints))).collect(),
            ready: all().map(|(version, endpoints)| (version, Ready { up: endpoints, total: endpoints })).collect(),
            finds_dead: check.interval * check.unhealthy_after,
            finds_back: check.interval * check.healthy_after,
            first_check: check.interval,
        }
    }

    /// What the edge thinks ready.
    pub(super) fn ready(&self) -> &ReadyMap {
        &self.ready
    }

    /// How many endpoints of `version` it takes for dead.
    pub(super) fn thought_dead(&self, version: &VersionId) -> usize {
        self.versions.get(version).map_or(0, |found| found.thought_dead)
    }

    /// An edge that has just started knows of none that it is ready: each is checked at once, and then as often as it takes.
    pub(super) fn forget(&mut self, now: Duration) {
        for (version, found) in &mut self.versions {
            found.thought_dead = found.endpoints;
            found.differ_since = (now + TICK).saturating_sub(self.first_check);
            self.ready.insert(version.clone(), Ready { up: 0, total: found.endpoints });
        }
    }

    /// What has gone or come is found after a while.
    pub(super) fn look(&mut self, fleet: &Fleet, now: Duration) {
        for (version, _, failing) in fleet.failing_checks() {
            let Some(found) = self.versions.get_mut(version) else { continue };
            if failing != found.failing {
                found.failing = failing;
                found.differ_since = now;
            }
            let patience = if failing > found.thought_dead { self.finds_dead } else { self.finds_back };
            if failing != found.thought_dead && now.saturating_sub(found.differ_since) >= patience {
                found.thought_dead = failing;
                let up = found.endpoints - failing;
                self.ready.insert(version.clone(), Ready { up, total: found.endpoints });
            }
        }
    }
}
