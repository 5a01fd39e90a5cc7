//! What must hold at every moment of every scenario, whatever else is asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
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

/// Something that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which rule: the same for the same kind of failure, whatever its time and its figures.
    pub rule: &'static str,
    /// What was seen, for people.
    pub said: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

/// What has been seen of a world so far, and what did not hold in it.
#[derive(Debug, Clone, Default)]
pub struct Invariants {
    quarantined: Vec<VersionId>,
    phase: Option<PhaseName>,
    promoted_trials: BTreeSet<u64>,
    broken: Vec<Broken>,
    /// Each is told once: what does not hold at one moment seldom holds at the next.
    told: BTreeSet<&'static str>,
}

impl Invariants {
    /// The versions that must get nothing from now on: as the world remembers who was taken back, not as the rollout says.
    pub fn quarantine(&mut self, versions: Vec<VersionId>) {
        self.quarantined = versions;
    }

    /// A decision was made. `trial` is the world's own count: another one since somebody outside asked for a new beginning.
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

    /// Whether the world holds at one moment, without keeping what does not.
    pub fn holds_at(&self, moment: &Moment<'_>) -> bool {
        let mut looked = Self { told: BTreeSet::new(), broken: Vec::new(), ..self.clone() };
        looked.look(moment);
        looked.broken.is_empty()
    }

    /// What was decided until now is not known any more: the next decision may start anywhere.
    pub fn begin_anew(&mut self) {
        self.phase = None;
        self.quarantined.clear();
        self.promoted_trials.clear();
    }

    /// Requests were sent and neither answered nor cut off by what the scenario did.
    pub fn lost(&mut self, at: Duration, requests: u64) {
        if requests > 0 {
            self.broke("nothing lost", at, || format!("{requests} requests were sent and never answered"));
        }
    }

    /// Requests found nobody who took them, while somebody should have listened.
    pub fn refused(&mut self, at: Duration, requests: u64) {
        if requests > 0 {
            self.broke("everything is taken", at, || {
                format!("{requests} requests found no connection while an edge should have taken them")
            });
        }
    }

    /// Both sides counted the same requests.
    pub fn counted(&mut self, at: Duration, by_clients: u64, by_edge: u64) {
        if by_clients != by_edge {
            self.broke("the same books", at, || {
                format!("clients sent {by_clients} requests and the edge counted {by_edge}")
            });
        }
    }

    /// A version that was taken back answered requests that came long after that.
    pub fn served(&mut self, at: Duration, version: &VersionId, requests: u64) {
        if requests > 0 {
            self.broke("quarantine", at, || format!("{version} was taken back and answered {requests} later requests"));
        }
    }

    /// Of so many requests (or users, as `units` says) a version was to get a share, and got so many: within five standard
    /// deviations, what one of two million fair splits exceeds.
    pub fn divided(&mut self, at: Duration, units: &str, (expected, variance): (f64, f64), got: f64) {
        let off = (got - expected).abs();
        // Where little was expected the bell has not formed yet.
        if off > 5.0 * variance.sqrt() + 3.0 {
            self.broke("the split", at, || format!("{got} {units} went to the canary, {expected:.0} should have"));
        }
    }

    /// The next decision is told by somebody else than the last one, who may have known less: it may start anywhere.
    pub fn told_by_another(&mut self) {
        self.phase = None;
    }

    /// Several edges have said for a while that they decide.
    pub fn led_by(&mut self, at: Duration, edges: &[usize]) {
        if edges.len() > 1 {
            self.broke("one leader", at, || format!("edges {edges:?} all say that they lead"));
        }
    }

    /// Something did not hold that is found elsewhere.
    pub fn found(&mut self, at: Duration, what: &str) {
        self.found_as("found elsewhere", at, what);
    }

    /// Something did not hold that is found elsewhere, by a rule of its own.
    pub fn found_as(&mut self, rule: &'static str, at: Duration, what: &str) {
        self.broken.push(Broken { rule, said: told_at(at, what) });
    }

    /// Everything that did not hold.
    pub fn into_broken(self) -> Vec<Broken> {
        self.broken
    }

    fn broke(&mut self, rule: &'static str, at: Duration, words: impl FnOnce() -> String) {
        if self.told.insert(rule) {
            self.broken.push(Broken { rule, said: told_at(at, &format!("{rule}: {}", words())) });
        }
    }
}

fn told_at(at: Duration, what: &str) -> String {
    format!("at {:.1} s: {what}", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use pointsman_rollout::Cause;

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
            assert!(broken.iter().any(|found| found.said.contains(words)), "{broken:?}");
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

    #[test]
    fn what_is_lost_miscounted_or_divided_otherwise_is_found_and_what_chance_does_is_not() {
        let at = Duration::from_secs(1);
        let mut invariants = Invariants::default();
        invariants.lost(at, 0);
        invariants.counted(at, 7, 7);
        invariants.served(at, &version("v2"), 0);
        invariants.divided(at, "requests", (500.0, 450.0), 560.0);
        assert_eq!(invariants.clone().into_broken(), []);
        invariants.lost(at, 2);
        invariants.counted(at, 7, 6);
        invariants.served(at, &version("v2"), 1);
        invariants.divided(at, "requests", (500.0, 450.0), 660.0);
        assert_eq!(invariants.into_broken().len(), 4);
    }

    fn change(decision: Decision, from: PhaseName, to: PhaseName) -> Change {
        let whole = Split::Whole(version("v1"));
        Change {
            decision,
            from,
            to,
            stable: version("v1"),
            canary: Some(version("v2")),
            before: whole.clone(),
            after: whole,
            cause: Cause::File,
            evidence: None,
        }
    }

    #[test]
    fn a_gap_in_the_story_and_a_second_promotion_are_found() {
        let at = Duration::from_secs(1);
        let promote = change(Decision::Promote, PhaseName::Shifting, PhaseName::Promoting);
        let mut invariants = Invariants::default();
        invariants.changed(at, &change(Decision::Step, PhaseName::Warming, PhaseName::Shifting), 1);
        invariants.changed(at, &promote, 1);
        invariants.changed(at, &change(Decision::Retry, PhaseName::Promoting, PhaseName::Shifting), 2);
        invariants.changed(at, &promote, 2);
        assert_eq!(invariants.clone().into_broken(), []);
        invariants.changed(at, &promote, 2);
        let rules: Vec<_> = invariants.into_broken().iter().map(|broken| broken.rule).collect();
        assert_eq!(rules, ["a story without gaps", "one promotion"]);
    }
}
