//! Between one leader and the next: whoever has the Lease decides nothing and writes nothing before it has read what stands on
//! the live Services and has asked every edge that can be reached. Pure.
//!
//! The leader before may have told one edge of a decision, or written it, and died before this one heard of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::RouteName;
use pointsman_rollout::{Saved, Time};

/// Longest that is waited for what others know: an edge has a second to answer, and so has the API server.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known so far.
#[derive(Debug)]
pub(super) struct Takeover {
    term: u64,
    began: Time,
    /// Who has answered, or could not be reached.
    asked: BTreeSet<SocketAddr>,
    later: BTreeMap<RouteName, Saved>,
}

impl Takeover {
    /// The Lease is ours with `term`.
    pub(super) fn new(term: u64, now: Time) -> Self {
        Self { term, began: now, asked: BTreeSet::new(), later: BTreeMap::new() }
    }

    /// Under which term.
    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// The edge at `address` has answered, or cannot be reached.
    pub(super) fn has_asked(&mut self, address: SocketAddr) {
        self.asked.insert(address);
    }

    /// Somebody knows this of `route`; what is latest counts.
    pub(super) fn learn(&mut self, route: RouteName, saved: Saved) {
        if self.later.get(&route).is_none_or(|known| known.serial() < saved.serial()) {
            self.later.insert(route, saved);
        }
    }

    /// Whether to decide from now on. `others` are there, if that is known; `is_read` says whether what stands on the live
    /// Services was read under this term.
    pub(super) fn is_over(&self, others: Option<&BTreeSet<SocketAddr>>, is_read: bool, now: Time) -> bool {
        let all_asked = others.is_some_and(|others| others.is_subset(&self.asked));
        (all_asked && is_read) || now.since(self.began) >= PATIENCE
    }

    /// What others know of routes.
    pub(super) fn into_later(self) -> BTreeMap<RouteName, Saved> {
        self.later
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pointsman_config::{Route, Share, Split, Version};
    use pointsman_rollout::{Input, Order, OrderKind, Rollout};

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::after_start(Duration::from_millis(10_000 + milliseconds))
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    /// A state behind which stand so many decisions.
    fn decided(times: u32) -> Saved {
        let versions = ["v1", "v2"].map(|name| (name.parse().unwrap(), Version::at(Vec::new())));
        let route = Route::new("r".parse().unwrap(), "v1".parse().unwrap(), versions.into());
        let mut rollout = Rollout::start(Arc::new(route), at(0)).0;
        for percent in 1..=times {
            let share = Share::from_ppm(percent * 10_000).unwrap();
            let split = Split::canary("v1".parse().unwrap(), "v2".parse().unwrap(), share);
            let order = Order { kind: OrderKind::SetWeights(split), actor: "ada".to_owned(), reason: String::new() };
            rollout.step(Input::Order(&order), at(0)).unwrap();
        }
        rollout.saved(at(0))
    }

    #[test]
    fn it_waits_for_the_services_and_for_every_edge_but_not_for_ever() {
        let others: BTreeSet<_> = [address(1), address(2)].into();
        let mut takeover = Takeover::new(4, at(0));
        takeover.has_asked(address(1));
        assert!(!takeover.is_over(Some(&others), true, at(100)));
        takeover.has_asked(address(2));
        assert!(!takeover.is_over(Some(&others), false, at(100)), "what is kept is not known");
        assert!(!takeover.is_over(None, true, at(100)), "nobody knows who there is");
        assert!(takeover.is_over(Some(&others), true, at(100)));
        let slow = Takeover::new(4, at(0));
        assert!(!slow.is_over(None, false, at(1_999)) && slow.is_over(None, false, at(2_000)));
    }

    #[test]
    fn the_latest_state_that_anybody_knows_counts() {
        let mut takeover = Takeover::new(4, at(0));
        for times in [2, 3, 1] {
            takeover.learn("r".parse().unwrap(), decided(times));
        }
        let later: Vec<u64> = takeover.into_later().values().map(Saved::serial).collect();
        assert_eq!(later, [decided(3).serial()]);
    }
}
