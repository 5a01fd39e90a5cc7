//! How many endpoints are ready, as weights see it: a loss counts at once, a gain when it lasts.
//!
//! Line: readiness ► **capacity** ► desired. An endpoint that comes and goes would otherwise change the weight, and with it
//! begin a new row of evidence, each time it does.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::VersionId;

use crate::input::Ready;
use crate::time::Time;

/// How long a version must not have lost an endpoint before those that come up count again.
const QUIET: Duration = Duration::from_secs(10);

/// What the versions of a route can carry.
#[derive(Debug, Default)]
pub struct Capacity {
    counted: BTreeMap<VersionId, Ready>,
    known: BTreeMap<VersionId, Known>,
    waits: bool,
}

/// What was seen of one version.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    up: usize,
    fell_at: Option<Time>,
}

impl Capacity {
    /// So many are ready at `now`. A version whose endpoints are others than before counts as it is.
    pub fn note(&mut self, ready: &BTreeMap<VersionId, Ready>, now: Time) {
        self.counted.retain(|version, _| ready.contains_key(version));
        self.known.retain(|version, _| ready.contains_key(version));
        self.waits = false;
        for (version, ready) in ready {
            let counted = self.counted.entry(version.clone()).or_insert(*ready);
            let known = self.known.entry(version.clone()).or_default();
            if counted.total != ready.total {
                (*counted, *known) = (*ready, Known::default());
            }
            *counted = known.count(*counted, *ready, now);
            self.waits |= counted.up < ready.up;
        }
    }

    /// What counts.
    pub fn ready(&self) -> &BTreeMap<VersionId, Ready> {
        &self.counted
    }

    /// Whether endpoints are up that do not count yet, so that time alone changes what counts.
    pub fn waits(&self) -> bool {
        self.waits
    }
}

impl Known {
    /// What counts of `ready` where `counted` did before. One endpoint that is up always counts.
    fn count(&mut self, counted: Ready, ready: Ready, now: Time) -> Ready {
        if ready.up < self.up {
            self.fell_at = Some(now);
        }
        self.up = ready.up;
        let is_quiet = self.fell_at.is_none_or(|fell| now.since(fell) >= QUIET);
        Ready { up: if is_quiet { ready.up } else { ready.up.min(counted.up.max(1)) }, total: ready.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts after each of these, given as (second, up, total).
    #[track_caller]
    fn check(seen: &[(u64, usize, usize)], wanted: &[usize]) {
        let version: VersionId = "v2".parse().unwrap();
        let mut capacity = Capacity::default();
        let counted: Vec<usize> = seen
            .iter()
            .map(|(second, up, total)| {
                let now = Time::after_start(Duration::from_secs(1_000 + second));
                capacity.note(&[(version.clone(), Ready { up: *up, total: *total })].into(), now);
                let counted = capacity.ready()[&version];
                assert_eq!(capacity.waits(), counted.up < *up);
                counted.up
            })
            .collect();
        assert_eq!(counted, wanted);
    }

    #[test]
    fn what_comes_up_for_the_first_time_counts_at_once() {
        check(&[(0, 0, 4), (1, 1, 4), (2, 4, 4)], &[0, 1, 4]);
    }

    #[test]
    fn a_loss_counts_at_once_and_a_gain_after_ten_quiet_seconds() {
        check(&[(0, 4, 4), (1, 3, 4), (3, 4, 4), (10, 4, 4), (11, 4, 4)], &[4, 3, 3, 3, 4]);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_count_until_it_stays() {
        let mut flapping: Vec<(u64, usize, usize)> = vec![(0, 4, 4)];
        flapping.extend((1..100).map(|second| (second * 4, 3 + usize::from(second % 2 == 0), 4)));
        let mut wanted = vec![4];
        wanted.extend(vec![3; 99]);
        check(&flapping, &wanted);
    }

    #[test]
    fn the_first_one_after_an_outage_counts_at_once() {
        check(&[(0, 4, 4), (1, 0, 4), (2, 1, 4), (3, 4, 4), (11, 4, 4)], &[4, 0, 1, 1, 4]);
        check(&[(0, 1, 1), (1, 0, 1), (2, 1, 1)], &[1, 0, 1]);
    }

    #[test]
    fn an_edit_is_no_loss() {
        check(&[(0, 4, 4), (1, 2, 2), (2, 2, 4), (3, 4, 4)], &[4, 2, 2, 4]);
    }
}
