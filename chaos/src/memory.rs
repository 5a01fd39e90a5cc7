//! What the world itself remembers of the story: which builds were taken back, and how often somebody began anew. The edge
//! is held against this, not against its own word.

use std::collections::BTreeSet;
use std::sync::Arc;

use pointsman_config::{Plan, Route, Split, VersionId};
use pointsman_rollout::{Change, Decision, OrderKind, PhaseName};

/// A version in one of its builds.
type Build = (VersionId, Option<String>);

/// What has happened so far.
#[derive(Debug)]
pub(crate) struct Memory {
    /// As the config file has it now.
    route: Arc<Route>,
    taken_back: BTreeSet<Build>,
    beginnings: u64,
}

impl Memory {
    pub(crate) fn new(route: &Arc<Route>) -> Self {
        Self { route: Arc::clone(route), taken_back: BTreeSet::new(), beginnings: 0 }
    }

    fn build(&self, version: &VersionId) -> Build {
        let revision = self.route.versions.get(version).and_then(|version| version.revision.clone());
        (version.clone(), revision)
    }

    /// The file was edited: another rollout may be promoted again, and naming a version as stable is trusting it.
    pub(crate) fn edited(&mut self, route: &Arc<Route>) {
        let tried = |route: &Route| {
            let canary = match &route.plan {
                Plan::Rollout(plan) => Some(plan.canary.clone()),
                Plan::Weights(Split::Canary { canary, .. }) => Some(canary.clone()),
                Plan::Weights(Split::Whole(_)) => None,
            };
            let revision = canary.as_ref().and_then(|canary| route.versions.get(canary)?.revision.clone());
            (route.stable.clone(), canary, revision)
        };
        self.beginnings += u64::from(tried(&self.route) != tried(route));
        self.route = Arc::clone(route);
        let trusted = self.build(&route.stable);
        self.taken_back.remove(&trusted);
    }

    /// An operator's order was carried out.
    pub(crate) fn obeyed(&mut self, kind: &OrderKind) {
        if let OrderKind::Retry(version) = kind {
            let build = self.build(version);
            self.taken_back.remove(&build);
            self.beginnings += 1;
        }
    }

    /// Something was decided.
    pub(crate) fn decided(&mut self, change: &Change) {
        if let (Decision::Rollback, Some(canary)) = (change.decision, &change.canary) {
            let build = self.build(canary);
            self.taken_back.insert(build);
        }
    }

    /// What was decided until now is lost, with the state that it was kept in.
    pub(crate) fn forget(&mut self) {
        self.taken_back.clear();
        self.beginnings += 1;
    }

    /// How often the story began anew because somebody asked for it.
    pub(crate) fn beginnings(&self) -> u64 {
        self.beginnings
    }

    /// The versions whose present build was taken back.
    pub(crate) fn barred(&self) -> Vec<VersionId> {
        self.route.versions.keys().filter(|version| self.taken_back.contains(&self.build(version))).cloned().collect()
    }
}

/// By this rule it is told that an order does not hold any more.
pub(crate) const KEPT_ORDER: &str = "an order that was kept";

/// The last order that was carried out and kept. Whoever leads later goes on from it, until somebody orders something else or
/// something is decided that comes before it.
#[derive(Debug, Default)]
pub(crate) struct LastOrder(Option<OrderKind>);

impl LastOrder {
    /// It was carried out and kept.
    pub(crate) fn obeyed(&mut self, kind: &OrderKind) {
        self.0 = Some(kind.clone());
    }

    /// The file was edited, or another order was given that nobody kept: what holds now is not known.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }

    /// Something was decided since; what that goes against, in words.
    pub(crate) fn decided(&mut self, decision: Decision) -> Option<String> {
        use Decision::{Bake, Finish, Flip, Promote, Step};
        let goes_on = matches!(decision, Step | Promote | Flip | Bake | Finish);
        match (&self.0, decision) {
            (Some(kind @ (OrderKind::Pause | OrderKind::Rollback)), _) if goes_on => {
                return Some(format!("{kind:?} was carried out and kept, and then somebody decided {decision:?}"));
            }
            (Some(OrderKind::Rollback), _) => {}
            (_, Decision::Rollback | Decision::Start | Decision::Edit | Decision::SetWeights) => self.0 = None,
            (Some(OrderKind::Pause), _) => {}
            // The guard, a gate or somebody else's change stops what was ordered to go on.
            (_, Decision::Pause | Decision::Hold | Decision::Alert) => self.0 = None,
            (_, _) => {}
        }
        None
    }

    /// What is not as it was ordered while the route rests in `phase`, in words.
    pub(crate) fn lost(&self, phase: PhaseName) -> Option<String> {
        use PhaseName::{Paused, RolledBack, RollingBack, Shifting, Warming};
        let kind = self.0.as_ref()?;
        let holds = match kind {
            OrderKind::Pause => phase == Paused,
            OrderKind::Rollback => matches!(phase, RollingBack | RolledBack),
            OrderKind::Resume(_) => phase != Paused,
            OrderKind::Retry(_) => !matches!(phase, RollingBack | RolledBack),
            OrderKind::Promote | OrderKind::ForcePromotion => !matches!(phase, Paused | Warming | Shifting),
            OrderKind::SetWeights(_) => true,
        };
        (!holds).then(|| format!("{kind:?} was carried out and kept, and the route is {phase}"))
    }
}

#[cfg(test)]
mod tests {
    use pointsman_rollout::{Cause, Resume};

    use super::*;
    use crate::scenario::Scenario;

    fn route(stable: &str, canary: &str, revision: &str) -> Arc<Route> {
        let text = format!(
            "
about: a route
route:
  stable: {stable}
  rollout: {{ canary: {canary}, steps: [ {{ weight: 50%, hold: 1m }} ] }}
  revisions: {{ v2: {revision} }}
versions: {{ v1: {{}}, v2: {{}} }}
rate: 1
end: 1m
"
        );
        Scenario::parse(&text, "small").unwrap().route
    }

    fn rollback() -> Change {
        let whole = Split::Whole("v1".parse().unwrap());
        Change {
            decision: Decision::Rollback,
            from: PhaseName::Shifting,
            to: PhaseName::RollingBack,
            stable: "v1".parse().unwrap(),
            canary: Some("v2".parse().unwrap()),
            before: whole.clone(),
            after: whole,
            cause: Cause::File,
            evidence: None,
        }
    }

    #[test]
    fn an_order_stands_until_another_one_or_a_rollback() {
        let mut last = LastOrder::default();
        assert_eq!(last.lost(PhaseName::Shifting), None);
        last.obeyed(&OrderKind::Pause);
        assert_eq!((last.decided(Decision::Alert), last.lost(PhaseName::Paused)), (None, None));
        assert!(last.lost(PhaseName::Shifting).is_some(), "the pause is lost");
        assert!(last.decided(Decision::Step).is_some(), "nobody said that it goes on");
        last.obeyed(&OrderKind::Resume(Resume::GoOn));
        assert_eq!(last.decided(Decision::Step), None);
        assert!(last.lost(PhaseName::Paused).is_some());
        assert_eq!((last.decided(Decision::Pause), last.lost(PhaseName::Paused)), (None, None), "the guard stops it");
        last.obeyed(&OrderKind::Retry("v2".parse().unwrap()));
        assert!(last.lost(PhaseName::RolledBack).is_some());
        assert_eq!((last.decided(Decision::Rollback), last.lost(PhaseName::RolledBack)), (None, None));
        last.obeyed(&OrderKind::Rollback);
        assert_eq!((last.decided(Decision::Rollback), last.lost(PhaseName::RolledBack)), (None, None));
        assert!(last.lost(PhaseName::Baking).is_some());
        last.forget();
        assert_eq!(last.lost(PhaseName::Baking), None);
    }

    #[test]
    fn a_build_that_was_taken_back_stays_barred_until_somebody_tries_it_again_or_trusts_it() {
        let (first, second) = (route("v1", "v2", "first"), route("v1", "v2", "second"));
        let v2: VersionId = "v2".parse().unwrap();
        let mut memory = Memory::new(&first);
        assert_eq!(memory.barred(), []);
        memory.decided(&rollback());
        assert_eq!(memory.barred(), std::slice::from_ref(&v2));
        memory.edited(&second);
        assert_eq!((memory.barred(), memory.beginnings()), (Vec::new(), 1));
        memory.edited(&first);
        assert_eq!((memory.barred(), memory.beginnings()), (vec![v2.clone()], 2), "the old build is the old build");
        memory.obeyed(&OrderKind::Pause);
        assert_eq!(memory.barred(), std::slice::from_ref(&v2));
        memory.obeyed(&OrderKind::Retry(v2));
        assert_eq!((memory.barred(), memory.beginnings()), (Vec::new(), 3));
        memory.decided(&rollback());
        memory.edited(&route("v2", "v1", "first"));
        memory.edited(&first);
        assert_eq!(memory.barred(), [], "it was named as stable meanwhile");
    }
}
