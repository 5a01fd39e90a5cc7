//! Whom users got, where users are drawn and not requests.
//!
//! The draw of a user stays: who gets the canary at one share gets it at every edge, after every restart and at every larger
//! share, and so many of all users do.

use std::collections::BTreeMap;

use pointsman_config::{Share, VersionId};

use crate::count::{as_u64, exact};

/// What was seen of it.
#[derive(Debug, Default)]
pub(super) struct Draws<'a>(BTreeMap<Draw<'a>, BTreeMap<Share, BTreeMap<u32, Got>>>);

/// What users are drawn for: this canary, after so many edits, since a new build of it is drawn for anew.
type Draw<'a> = (&'a VersionId, usize);

/// Whom a user got while a share was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Canary,
    Other,
    Both,
}

/// How many users there were at a share, and how many of them got the canary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Divided {
    pub(super) share: Share,
    pub(super) users: u64,
    pub(super) canary: u64,
}

impl<'a> Draws<'a> {
    /// A user got the canary at this share, or did not.
    pub(super) fn note(&mut self, draw: Draw<'a>, share: Share, user: u32, is_canarys: bool) {
        let got = if is_canarys { Got::Canary } else { Got::Other };
        let of_share = self.0.entry(draw).or_default().entry(share).or_default();
        let before = of_share.entry(user).or_insert(got);
        if *before != got {
            *before = Got::Both;
        }
    }

    /// Each user who did not stay, in words.
    pub(super) fn strays(&self) -> Vec<String> {
        self.0.iter().flat_map(|((canary, _), shares)| strays(canary, shares)).collect()
    }

    /// Every share that was in force, and who got what.
    pub(super) fn divided(&self) -> impl Iterator<Item = Divided> {
        self.0.values().flatten().map(|(share, users)| {
            let canary = users.values().filter(|got| **got != Got::Other).count();
            Divided { share: *share, users: as_u64(users.len()), canary: as_u64(canary) }
        })
    }
}

impl Divided {
    /// How many were to get the canary, and the variance of that.
    pub(super) fn law(&self) -> (f64, f64) {
        let (users, share) = (exact(self.users), self.share.ratio());
        (users * share, users * share * (1.0 - share))
    }
}

fn strays(canary: &VersionId, shares: &BTreeMap<Share, BTreeMap<u32, Got>>) -> Vec<String> {
    let mut came: BTreeMap<u32, Share> = BTreeMap::new();
    let mut strays = Vec::new();
    for (share, users) in shares {
        for (user, got) in users {
            match (got, came.get(user)) {
                (Got::Both, _) => strays.push(format!("user-{user} met both versions at {share}")),
                (Got::Other, Some(smaller)) => {
                    strays.push(format!("user-{user} met {canary} at {smaller}, and another version at {share}"));
                }
                (Got::Canary, None) => {
                    came.insert(*user, *share);
                }
                (Got::Canary, Some(_)) | (Got::Other, None) => {}
            }
        }
    }
    strays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: u32) -> Share {
        Share::from_ppm(percent * 10_000).unwrap()
    }

    #[test]
    fn who_came_to_the_canary_stays_and_the_rest_may_come() {
        let canary: VersionId = "v2".parse().unwrap();
        let mut draws = Draws::default();
        for (percent, user, is_canarys) in [(25, 2, true), (5, 1, true), (5, 2, false), (25, 1, true), (5, 1, true)] {
            draws.note((&canary, 0), share(percent), user, is_canarys);
        }
        // Another build.
        draws.note((&canary, 1), share(25), 1, false);
        assert_eq!(draws.strays(), Vec::<String>::new());
        let divided: Vec<_> = draws.divided().map(|of| (of.share, of.users, of.canary)).collect();
        assert_eq!(divided, [(share(5), 2, 1), (share(25), 2, 2), (share(25), 1, 0)]);
    }

    #[test]
    fn who_goes_back_or_gets_both_is_told() {
        let canary: VersionId = "v2".parse().unwrap();
        let mut draws = Draws::default();
        for (percent, user, is_canarys) in [(50, 1, false), (5, 1, true), (5, 2, false), (5, 2, true)] {
            draws.note((&canary, 0), share(percent), user, is_canarys);
        }
        let wanted = ["user-2 met both versions at 5%", "user-1 met v2 at 5%, and another version at 50%"];
        assert_eq!(draws.strays(), wanted);
    }
}
