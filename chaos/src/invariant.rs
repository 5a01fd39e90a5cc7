//! What must hold at every moment of every scenario, whatever else is asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pointsman_config::{Share, Split, VersionId};
use pointsman_rollout::{Change, Decision, PhaseName, Ready};

/// How a world looks at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// When, from the start.
    pub at: Duration,
    /// How requests are divided.
    pub split: &'a Split,
    /// Which endpoints are thought ready.
    pub ready: &'a BTreeMap<VersionId, Ready>,
    /// The version in production at the start.
    pub stable: &'a VersionId,
}

/// What has been seen of a world so far, and what did not hold in it.
#[derive(Debug, Clone, Default)]
pub struct Invariants {
    quarantined: Vec<VersionId>,
    phase: Option<PhaseName>,
    promoted_trials: BTreeSet<u64>,
    broken: Vec<String>,
    /// Each is told once: what does not hold at one moment seldom holds at the next.
    told: BTreeSet<&'static str>,
}

impl Invariants {
    /// The versions that must get nothing from now on.
    pub fn quarantine(&mut self, versions: Vec<VersionId>) {
        self.quarantined = versions;
    }

    /// A decision was made in this trial.
    pub fn changed(&mut self, at: Duration, change: &Change, trial: u64) {
        if let Some(phase) = self.phase.filter(|phase| *phase != change.from) {
            self.broke("a story without gaps", at, || {
                format!("`{}` starts in {}, and was in {phase}", change.sentence(), change.from)
            });
        }
        self.phase = Some(change.to);
        if change.decision == Decision::Promote && !self.promoted_trials.insert(trial) {
            self.broke("one promotion", at, || format!("trial {trial} is promoted a second time"));
        }
    }

    /// The world at one moment.
    pub fn look(&mut self, moment: &Moment<'_>) {
        let gets = |version: &VersionId| moment.split.share_of(version) > Share::ZERO;
        if let Some(served) = self.quarantined.iter().find(|version| gets(version)).cloned() {
            self.broke("quarantine", moment.at, || {
                format!("{served} was taken back and gets traffic: {:?}", moment.split)
            });
        }
        let is_up = |version: &VersionId| moment.ready.get(version).is_some_and(|ready| ready.up > 0);
        if let Split::Canary { stable, canary, share } = moment.split
            && *share > Share::ZERO
            && !is_up(canary)
            && is_up(stable)
        {
            self.broke("readiness", moment.at, || {
                format!("{canary} has no ready endpoint and gets {share}; {stable} has some")
            });
        }
    }

    /// Something did not hold that is found elsewhere.
    pub fn found(&mut self, at: Duration, what: &str) {
        self.broken.push(told_at(at, what));
    }

    /// Everything that did not hold.
    pub fn into_broken(self) -> Vec<String> {
        self.broken
    }

    fn broke(&mut self, rule: &'static str, at: Duration, words: impl FnOnce() -> String) {
        if self.told.insert(rule) {
            self.broken.push(told_at(at, &format!("{rule}: {}", words())));
        }
    }
}

fn told_at(at: Duration, what: &str) -> String {
    format!("at {:.1} s: {what}", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn ready(canary_up: usize) -> BTreeMap<VersionId, Ready> {
        [(version("v1"), Ready { up: 1, total: 1 }), (version("v2"), Ready { up: canary_up, total: 1 })].into()
    }

    #[track_caller]
    fn finds(invariants: &mut Invariants, split: &Split, canary_up: usize, words: &str) {
        let (ready, stable) = (ready(canary_up), version("v1"));
        invariants.look(&Moment { at: Duration::from_secs(3), split, ready: &ready, stable: &stable });
        let broken = invariants.clone().into_broken();
        if words.is_empty() {
            assert!(broken.is_empty(), "{broken:?}");
        } else {
            assert!(broken.iter().any(|found| found.contains(words)), "{broken:?}");
        }
    }

    #[test]
    fn traffic_for_who_must_get_none_is_found_and_told_once() {
        let half = Split::canary(version("v1"), version("v2"), Share::from_ppm(500_000).unwrap());
        let mut invariants = Invariants::default();
        finds(&mut invariants, &half, 1, "");
        finds(&mut invariants, &half, 0, "at 3.0 s: readiness: v2 has no ready endpoint and gets 50%");
        invariants.quarantine(vec![version("v2")]);
        finds(&mut invariants, &half, 1, "quarantine: v2 was taken back and gets traffic");
        finds(&mut invariants, &half, 1, "quarantine");
        assert_eq!(invariants.into_broken().len(), 2);
    }
}
