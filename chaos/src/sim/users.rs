//! The users of a simulated world: for which version each is drawn, and of whom an edge has heard what already.
//!
//! A user of whom an edge has seen an error adds no further one to its evidence while the same canary is tried, as in the
//! edge's own books; everything that is asked of them is counted beside that, request by request.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_config::{Share, VersionId};
use pointsman_rollout::{Drawn, Tally};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::traffic::Fates;
use crate::count::as_u64;

/// All of them, as many as there are.
pub(super) struct Users {
    count: u32,
    /// By canary where each stands, from 0 to 1: those below the canary's share get it.
    places: BTreeMap<VersionId, Vec<f64>>,
    /// By edge what it knows of them.
    known: BTreeMap<usize, Known>,
}

/// What an edge knows of users, of one trial.
#[derive(Default)]
struct Known {
    trial: u64,
    seen: BTreeSet<u32>,
    failed: BTreeSet<u32>,
    slow: BTreeSet<u32>,
}

/// Whose requests came in a tick, one for each, by where they went.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) canary: Vec<u32>,
    pub(super) stable: Vec<u32>,
}

impl Users {
    pub(super) fn new(count: u32) -> Self {
        Self { count, places: BTreeMap::new(), known: BTreeMap::new() }
    }

    /// Whose requests these are, each as likely as any other, and where the draw for `canary` sends them.
    pub(super) fn send(&mut self, requests: u64, canary: &VersionId, share: Share, chance: &mut ChaCha8Rng) -> Sent {
        let count = self.count;
        let drawn = |chance: &mut ChaCha8Rng| (0..count).map(|_| chance.random::<f64>()).collect();
        let places: &Vec<f64> = self.places.entry(canary.clone()).or_insert_with(|| drawn(chance));
        let is_canarys = |user: &u32| {
            let place = usize::try_from(*user).ok().and_then(|user| places.get(user));
            place.is_some_and(|place| *place < share.ratio())
        };
        let (canary, stable) = (0..requests).map(|_| chance.random_range(0..count)).partition(is_canarys);
        Sent { canary, stable }
    }

    /// How many of these an edge meets for the first time in this trial.
    pub(super) fn meet(&mut self, edge: usize, trial: u64, sent: &Sent) -> Drawn {
        let known = self.known(edge, trial);
        let mut new = |users: &[u32]| as_u64(users.iter().filter(|user| known.seen.insert(**user)).count());
        Drawn { canary: new(&sent.canary), stable: new(&sent.stable) }
    }

    /// What of `fates`, which these users met, is evidence at an edge.
    pub(super) fn evidence(&mut self, edge: usize, trial: u64, users: &[u32], fates: &Fates) -> Fates {
        let known = self.known(edge, trial);
        // Who meets which fate is chance already, since whose request comes when is.
        let mut users = users.iter().copied();
        let mut first = |requests: u64, of: &mut BTreeSet<u32>| {
            let requests = usize::try_from(requests).unwrap_or(usize::MAX);
            as_u64(users.by_ref().take(requests).filter(|user| of.insert(*user)).count())
        };
        let hung = first(fates.hung.errors, &mut known.failed);
        let slow = first(fates.slow.slow, &mut known.slow);
        let failed = first(fates.at_once.errors, &mut known.failed);
        let good = fates.at_once.requests - fates.at_once.errors;
        Fates {
            at_once: Tally { requests: good + failed, errors: failed, slow: 0 },
            slow: Tally { slow, ..fates.slow },
            hung: Tally { requests: hung, errors: hung, slow: 0 },
        }
    }

    /// An edge was killed: what it knew of them is gone.
    pub(super) fn forget(&mut self, edge: usize) {
        self.known.remove(&edge);
    }

    fn known(&mut self, edge: usize, trial: u64) -> &mut Known {
        let known = self.known.entry(edge).or_default();
        if known.trial != trial {
            *known = Known { trial, ..Known::default() };
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn canary() -> VersionId {
        "v2".parse().unwrap()
    }

    #[test]
    fn who_came_to_the_canary_stays_there_and_a_share_of_them_does() {
        let (mut users, mut chance) = (Users::new(1_000), ChaCha8Rng::seed_from_u64(1));
        let mut at = |ppm| {
            let share = Share::from_ppm(ppm).unwrap();
            users.send(40_000, &canary(), share, &mut chance).canary.into_iter().collect::<BTreeSet<u32>>()
        };
        let (some, more, again) = (at(100_000), at(500_000), at(100_000));
        assert!(some.is_subset(&more) && some == again);
        assert!((60..140).contains(&some.len()) && (430..570).contains(&more.len()), "{} {}", some.len(), more.len());
    }

    #[test]
    fn only_the_first_error_of_a_user_counts_in_a_trial_and_all_that_is_good() {
        let mut users = Users::new(10);
        let failing = |requests, errors| Fates {
            at_once: Tally { requests, errors, slow: 0 },
            slow: Tally { requests: 1, errors: 0, slow: 1 },
            hung: Tally::default(),
        };
        let mut evidence = |trial, whose: &[u32], fates| {
            let Fates { at_once, slow, .. } = users.evidence(0, trial, whose, &fates);
            (at_once.requests, at_once.errors, slow.requests, slow.slow)
        };
        // One slow, three failed (7 twice), two good.
        assert_eq!(evidence(1, &[1, 7, 7, 8, 9, 2], failing(5, 3)), (4, 2, 1, 1));
        assert_eq!(evidence(1, &[1, 7, 3, 2], failing(3, 2)), (2, 1, 1, 0));
        assert_eq!(evidence(2, &[1, 7, 7, 8, 9, 2], failing(5, 3)), (4, 2, 1, 1));
        users.forget(0);
        let sent = Sent { canary: vec![1, 2, 1], stable: vec![3] };
        assert_eq!(users.meet(0, 2, &sent), Drawn { canary: 2, stable: 1 });
        assert_eq!(users.meet(0, 2, &sent), Drawn::default());
    }
}
