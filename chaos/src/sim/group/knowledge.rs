//! What there is to know of every build, as the world itself remembers who knows it: edges are held against this, not against
//! their own word.

use std::collections::BTreeMap;

use pointsman_config::{Route, VersionId};

/// A version in one of its builds.
pub(super) type Build = (VersionId, Option<String>);

/// The build of `version` that a file names.
pub(super) fn build_of(route: &Route, version: &VersionId) -> Build {
    let revision = route.versions.get(version).and_then(|version| version.revision.clone());
    (version.clone(), revision)
}

/// What somebody knows of builds that were tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Knowledge(BTreeMap<Build, Known>);

/// What there is to know of one build: what was decided in a later trial counts, and in one trial that it was taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    /// How often it was tried anew.
    trial: u64,
    is_taken_back: bool,
}

impl Knowledge {
    /// Whether the build must get nothing.
    pub(super) fn bars(&self, build: &Build) -> bool {
        self.0.get(build).is_some_and(|known| known.is_taken_back)
    }

    /// It was taken back.
    pub(super) fn take_back(&mut self, build: Build) {
        self.0.entry(build).or_default().is_taken_back = true;
    }

    /// It is tried anew, or trusted.
    pub(super) fn try_anew(&mut self, build: Build) {
        let known = self.0.entry(build).or_default();
        *known = Known { trial: known.trial + 1, is_taken_back: false };
    }

    /// Hears all that `other` knows.
    pub(super) fn learn(&mut self, other: &Self) {
        for build in other.0.keys() {
            self.learn_of(build, other);
        }
    }

    /// Hears what `other` knows of one build.
    pub(super) fn learn_of(&mut self, build: &Build, other: &Self) {
        let Some(theirs) = other.0.get(build) else { return };
        let own = self.0.entry(build.clone()).or_default();
        *own = (*own).max(*theirs);
    }

    /// A build that this one knows to be taken back, and `other` does not.
    pub(super) fn taken_back_unknown_to(&self, other: &Self) -> Option<&Build> {
        let theirs = |build: &Build| other.0.get(build).copied().unwrap_or_default();
        self.0.iter().find(|(build, known)| known.is_taken_back && **known > theirs(build)).map(|(build, _)| build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_trial_counts_and_in_one_trial_that_it_was_taken_back() {
        let build: Build = ("v2".parse().unwrap(), None);
        let (mut one, mut other) = (Knowledge::default(), Knowledge::default());
        one.take_back(build.clone());
        assert_eq!(one.taken_back_unknown_to(&other), Some(&build));
        other.learn(&one);
        assert!(other.bars(&build) && one.taken_back_unknown_to(&other).is_none());
        other.try_anew(build.clone());
        other.learn(&one);
        assert!(!other.bars(&build), "the older word does not count");
        one.learn_of(&build, &other);
        assert!(!one.bars(&build));
    }
}
