//! Builds that were taken back: a version is barred while it runs one of them.

use std::collections::BTreeMap;

use pointsman_config::{Route, VersionId};
use serde::{Deserialize, Serialize};

use crate::recover::revision_of;

/// Builds of one version that are remembered; whoever takes back more than these starts to forget the oldest.
const BUILDS_KEPT: usize = 64;

/// One build that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The revision that the file gave it; another one is another build.
    pub(crate) revision: Option<String>,
    /// Why, for people.
    pub(crate) why: String,
}

/// Every build that was taken back, by version, oldest first. Going back to an old revision lifts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Quarantine(BTreeMap<VersionId, Vec<Held>>);

impl Quarantine {
    /// Bars the build that `route` gives `version`.
    pub(crate) fn bar(&mut self, route: &Route, version: &VersionId, why: String) {
        self.lift(route, version);
        self.bar_build(version, Held { revision: revision_of(route, version), why });
    }

    /// Bars one build, whatever the file gives.
    pub(crate) fn bar_build(&mut self, version: &VersionId, held: Held) {
        if self.has_build(version, held.revision.as_deref()) {
            return;
        }
        let builds = self.0.entry(version.clone()).or_default();
        if builds.len() == BUILDS_KEPT {
            builds.remove(0);
        }
        builds.push(held);
    }

    /// Whether this build is barred.
    pub(crate) fn has_build(&self, version: &VersionId, revision: Option<&str>) -> bool {
        self.0.get(version).is_some_and(|builds| builds.iter().any(|held| held.revision.as_deref() == revision))
    }

    /// Lifts what bars the build that `route` gives `version`; false if nothing did.
    pub(crate) fn lift(&mut self, route: &Route, version: &VersionId) -> bool {
        let revision = revision_of(route, version);
        let Some(builds) = self.0.get_mut(version) else { return false };
        let before = builds.len();
        builds.retain(|held| held.revision != revision);
        builds.len() < before
    }

    /// What bars the build that `route` gives `version`.
    pub(crate) fn held(&self, route: &Route, version: &VersionId) -> Option<&Held> {
        let revision = revision_of(route, version);
        self.0.get(version)?.iter().find(|held| held.revision == revision)
    }

    /// The versions of `route` that are barred.
    pub(crate) fn of<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = (&'a VersionId, &'a Held)> {
        route.versions.keys().filter_map(|version| self.held(route, version).map(|held| (version, held)))
    }

    /// Bars what `other` bars as well.
    pub(crate) fn adopt(&mut self, other: &Self) {
        for (version, builds) in &other.0 {
            let mine = self.0.entry(version.clone()).or_default();
            let new = builds.iter().filter(|held| !mine.iter().any(|known| known.revision == held.revision));
            let new: Vec<Held> = new.cloned().collect();
            mine.extend(new);
        }
    }
}
