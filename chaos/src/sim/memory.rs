//! What the world itself remembers of the story: which builds were taken back, and how often somebody began anew. The edge
//! is held against this, not against its own word.

use std::collections::BTreeSet;
use std::sync::Arc;

use pointsman_config::{Plan, Route, Split, VersionId};
use pointsman_rollout::{Change, Decision, OrderKind};

/// A version in one of its builds.
type Build = (VersionId, Option<String>);

/// What has happened so far.
pub(super) struct Memory {
    /// As the config file has it now.
    route: Arc<Route>,
    taken_back: BTreeSet<Build>,
    beginnings: u64,
}

impl Memory {
    pub(super) fn new(route: &Arc<Route>) -> Self {
        Self { route: Arc::clone(route), taken_back: BTreeSet::new(), beginnings: 0 }
    }

    fn build(&self, version: &VersionId) -> Build {
        let revision = self.route.versions.get(version).and_then(|version| version.revision.clone());
        (version.clone(), revision)
    }

    /// The file was edited: another rollout may be promoted again, and naming a version as stable is trusting it.
    pub(super) fn edited(&mut self, route: &Arc<Route>) {
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
    pub(super) fn obeyed(&mut self, kind: &OrderKind) {
        if let OrderKind::Retry(version) = kind {
            let build = self.build(version);
            self.taken_back.remove(&build);
            self.beginnings += 1;
        }
    }

    /// Something was decided.
    pub(super) fn decided(&mut self, change: &Change) {
        if let (Decision::Rollback, Some(canary)) = (change.decision, &change.canary) {
            let build = self.build(canary);
            self.taken_back.insert(build);
        }
    }

    /// How often the story began anew because somebody asked for it.
    pub(super) fn beginnings(&self) -> u64 {
        self.beginnings
    }

    /// The versions whose present build was taken back.
    pub(super) fn barred(&self) -> Vec<VersionId> {
        self.route.versions.keys().filter(|version| self.taken_back.contains(&self.build(version))).cloned().collect()
    }
}
