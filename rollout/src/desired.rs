//! How a route's traffic shall be divided: a function of the phase, cut by what must not be.

use std::collections::BTreeMap;

use pointsman_config::{Share, Split, VersionId};

use crate::input::Ready;

/// A version is thought to carry all its traffic as long as so many hundredths of its ready endpoints would: with 72 % of
/// them up nothing is cut. Envoy's overprovisioning factor, 1.4, by which it moves load between priorities.
const OVERPROVISIONING_PERCENT: u64 = 140;

/// How it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What the file, the plan or an operator asks.
    pub asked: Split,
    /// The same without quarantined versions.
    pub granted: Split,
    /// Who takes over while the granted version has no ready endpoint; only where all traffic is on a version that
    /// replaced another one.
    pub fallback: Option<VersionId>,
    /// What the live Service shall select; none: it is left as it is, whatever it selects. Never a version that was taken
    /// back or has no ready endpoint, and never one before the traffic.
    pub selected: Option<VersionId>,
    /// The old version, once nothing needs it any more: it may be scaled down.
    pub retired: Option<VersionId>,
}

impl Desired {
    /// What the edge applies: granted, cut by readiness. A version without a ready endpoint gets nothing as long as
    /// the other one has some, and a canary no more than its ready endpoints carry ([`carried`]).
    ///
    /// Only a canary's share is ever cut. Whoever has all traffic keeps it while one endpoint is ready: a promoted version
    /// loses nothing to the old one because some of its endpoints are down, and stable's share never moves to a version
    /// that is on trial.
    pub fn effective(&self, ready: &BTreeMap<VersionId, Ready>) -> Split {
        let of = |version: &VersionId| ready.get(version).copied().unwrap_or_default();
        let up = |version: &VersionId| of(version).up > 0;
        match (&self.granted, &self.fallback) {
            (Split::Canary { stable, canary, .. }, _) if !up(canary) && up(stable) => Split::Whole(stable.clone()),
            (Split::Whole(whole), Some(fallback)) if !up(whole) && up(fallback) => Split::Whole(fallback.clone()),
            (Split::Canary { stable, canary, share }, _) => {
                Split::canary(stable.clone(), canary.clone(), carried(*share, of(canary), of(stable)))
            }
            (Split::Whole(_), _) => self.granted.clone(),
        }
    }

    /// Why a canary gets less than is granted, in words; none if it gets all of it.
    pub fn cut_in_words(&self, ready: &BTreeMap<VersionId, Ready>) -> Option<String> {
        let Split::Canary { canary, share: granted, .. } = &self.granted else { return None };
        let share = self.effective(ready).share_of(canary);
        let Ready { up, total } = ready.get(canary).copied().unwrap_or_default();
        (share < *granted).then(|| {
            format!("{canary} gets {share} instead of {granted}: cut by ready capacity, {up} of {total} endpoints")
        })
    }
}

/// What a canary gets of `share`: `share × min(1, c / s)`, where `c` and `s` are how much of their traffic canary and stable
/// carry, `min(1, 1.4 × up / total)` each; in whole parts per million, rounded down.
///
/// What is cut goes to stable. So it is measured against what stable carries: where both have lost the same part of their
/// endpoints, moving traffic would only make stable worse off, and nothing moves.
fn carried(share: Share, canary: Ready, stable: Ready) -> Share {
    let (canary, stable) = (carries_ppm(canary), carries_ppm(stable));
    if canary >= stable {
        return share;
    }
    let cut = u64::from(share.ppm()) * canary / stable;
    // Less than `share`, which is one.
    u32::try_from(cut).ok().and_then(|ppm| Share::from_ppm(ppm).ok()).unwrap_or(share)
}

/// How much of its traffic a version carries, in parts per million.
fn carries_ppm(Ready { up, total }: Ready) -> u64 {
    let (up, total) = (u64::try_from(up).unwrap_or(u64::MAX), u64::try_from(total).unwrap_or(u64::MAX));
    let whole = u64::from(Share::PARTS);
    (up.saturating_mul(whole * OVERPROVISIONING_PERCENT / 100)).checked_div(total).unwrap_or(0).min(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn desired(granted: Split) -> Desired {
        let fallback = Some(version("v1"));
        Desired { asked: granted.clone(), granted, fallback, selected: None, retired: None }
    }

    fn ready(v1: (usize, usize), v2: (usize, usize)) -> BTreeMap<VersionId, Ready> {
        [("v1", v1), ("v2", v2)].map(|(name, (up, total))| (version(name), Ready { up, total })).into()
    }

    /// What a canary with 50 % gets, in ppm.
    #[track_caller]
    fn check(stable: (usize, usize), canary: (usize, usize), wanted_ppm: u32) {
        let share = Share::from_ppm(500_000).unwrap();
        let split = desired(Split::canary(version("v1"), version("v2"), share)).effective(&ready(stable, canary));
        assert_eq!(split.share_of(&version("v2")).ppm(), wanted_ppm, "stable {stable:?}, canary {canary:?}");
    }

    #[test]
    fn a_canary_gets_no_more_than_its_ready_endpoints_carry() {
        check((4, 4), (4, 4), 500_000);
        check((4, 4), (3, 4), 500_000);
        check((4, 4), (2, 4), 350_000);
        check((4, 4), (1, 4), 175_000);
        check((4, 4), (0, 4), 0);
        check((1, 1), (1, 3), 233_333);
    }

    #[test]
    fn what_is_cut_is_measured_against_what_stable_carries() {
        check((1, 4), (1, 4), 500_000);
        check((2, 4), (1, 4), 250_000);
        check((1, 4), (2, 4), 500_000);
        check((0, 4), (1, 4), 500_000);
        check((0, 4), (0, 4), 500_000);
    }

    #[test]
    fn who_has_all_traffic_keeps_it_while_one_endpoint_is_ready() {
        let promoted = desired(Split::Whole(version("v2")));
        assert_eq!(promoted.effective(&ready((4, 4), (1, 4))), Split::Whole(version("v2")));
        assert_eq!(promoted.effective(&ready((4, 4), (0, 4))), Split::Whole(version("v1")));
        let stable = desired(Split::Whole(version("v1")));
        assert_eq!(stable.effective(&ready((1, 4), (4, 4))), Split::Whole(version("v1")));
    }

    #[test]
    fn people_are_told_what_was_cut_and_why() {
        let half = Share::from_ppm(500_000).unwrap();
        let desired = desired(Split::canary(version("v1"), version("v2"), half));
        let words = "v2 gets 17.5% instead of 50%: cut by ready capacity, 1 of 4 endpoints";
        assert_eq!(desired.cut_in_words(&ready((4, 4), (1, 4))).as_deref(), Some(words));
        assert_eq!(desired.cut_in_words(&ready((4, 4), (3, 4))), None);
    }

    proptest! {
        #[test]
        fn a_cut_never_adds_never_takes_all_from_one_that_is_up_and_grows_with_what_is_up(
            ppm in 0..=1_000_000_u32, total in 1..50_usize, up in 1..50_usize, stable in 0..50_usize,
        ) {
            let (up, stable) = (up.min(total), stable.min(total));
            let share = Share::from_ppm(ppm).unwrap();
            let gets = |up: usize| carried(share, Ready { up, total }, Ready { up: stable, total }).ppm();
            prop_assert!(gets(up) <= ppm);
            prop_assert!(gets(up) >= gets(up - 1));
            prop_assert!(ppm < 50 || gets(up) > 0);
            prop_assert_eq!(gets(total), ppm);
        }
    }
}
