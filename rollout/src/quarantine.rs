//! Builds that were taken back: a version is barred while it runs one of them.
//!
//! Several edges keep the same book, each with what it has heard so far. What was decided about a build carries the number
//! of that decision, so that books are put together by what is newer, whichever edge leads next.

use std::collections::BTreeMap;

use pointsman_config::{Route, VersionId};
use serde::{Deserialize, Serialize};

use crate::recover::revision_of;
use crate::trip::Trip;

/// Builds of one version that are remembered; whoever takes back more than these starts to forget the oldest.
const BUILDS_KEPT: usize = 64;

/// What was decided last about one build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The revision that the file gave it; another one is another build.
    pub(crate) revision: Option<String>,
    /// Why it was taken back, for people.
    #[serde(default)]
    pub(crate) why: String,
    /// The decision that said so, as [`Saved::serial`](crate::Saved::serial) counts.
    #[serde(default)]
    pub(crate) serial: u64,
    /// Whether that lifted what had barred it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) lifted: bool,
}

impl Held {
    /// Whether this is newer than `other`. Of two decisions with the same number the one that bars counts.
    fn is_newer_than(&self, other: &Self) -> bool {
        (self.serial, !self.lifted) > (other.serial, !other.lifted)
    }
}

/// Every build that was taken back, by version, oldest first. Going back to an old revision lifts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Quarantine(BTreeMap<VersionId, Vec<Held>>);

impl Quarantine {
    /// Bars the build that `route` gives `version`, by decision number `serial`.
    pub(crate) fn bar(&mut self, route: &Route, version: &VersionId, (why, serial): (String, u64)) {
        let revision = revision_of(route, version);
        self.note(version, Held { revision, why, serial, lifted: false });
    }

    /// Bars the build that was taken back elsewhere, unless something newer is known of it.
    pub(crate) fn bar_tripped(&mut self, trip: &Trip) {
        let held = Held { revision: trip.revision.clone(), why: trip.why.clone(), serial: trip.serial, lifted: false };
        self.note(&trip.version, held);
    }

    /// Lifts what bars the build that `route` gives `version`, by decision number `serial`; false if nothing did.
    pub(crate) fn lift(&mut self, route: &Route, version: &VersionId, serial: u64) -> bool {
        let is_held = self.held(route, version).is_some();
        if is_held {
            self.lift_build(version, revision_of(route, version), serial);
        }
        is_held
    }

    /// Says, by decision number `serial`, that this build is not barred.
    pub(crate) fn lift_build(&mut self, version: &VersionId, revision: Option<String>, serial: u64) {
        self.note(version, Held { revision, why: String::new(), serial, lifted: true });
    }

    /// Remembers what was decided about a build, unless something newer is known.
    fn note(&mut self, version: &VersionId, held: Held) {
        let builds = self.0.entry(version.clone()).or_default();
        match builds.iter().position(|known| known.revision == held.revision) {
            Some(at) if builds.get(at).is_some_and(|known| !held.is_newer_than(known)) => return,
            Some(at) => drop(builds.remove(at)),
            None => {}
        }
        builds.push(held);
        if builds.len() > BUILDS_KEPT {
            // What is lifted is missed least, then what was decided first.
            let oldest = builds.iter().enumerate().min_by_key(|(_, held)| (!held.lifted, held.serial));
            if let Some((at, _)) = oldest {
                builds.remove(at);
            }
        }
    }

    fn known(&self, version: &VersionId, revision: Option<&str>) -> Option<&Held> {
        self.0.get(version)?.iter().find(|held| held.revision.as_deref() == revision)
    }

    /// What bars this build.
    pub(crate) fn held_build(&self, version: &VersionId, revision: Option<&str>) -> Option<&Held> {
        self.known(version, revision).filter(|held| !held.lifted)
    }

    /// Whether it was decided after `trip` that its build is not barred.
    pub(crate) fn lifts(&self, trip: &Trip) -> bool {
        let known = self.known(&trip.version, trip.revision.as_deref());
        known.is_some_and(|held| held.lifted && held.serial > trip.serial)
    }

    /// What bars the build that `route` gives `version`.
    pub(crate) fn held(&self, route: &Route, version: &VersionId) -> Option<&Held> {
        self.held_build(version, revision_of(route, version).as_deref())
    }

    /// The versions of `route` that are barred.
    pub(crate) fn of<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = (&'a VersionId, &'a Held)> {
        route.versions.keys().filter_map(|version| self.held(route, version).map(|held| (version, held)))
    }

    /// What was barred last of all that `other` does not know.
    pub(crate) fn unknown_to(&self, other: &Self) -> Option<Trip> {
        let all = self.0.iter().flat_map(|(version, builds)| builds.iter().map(move |held| (version, held)));
        let is_unknown = |(version, held): &(&VersionId, &Held)| {
            let known = other.known(version, held.revision.as_deref());
            !held.lifted && known.is_none_or(|known| held.is_newer_than(known))
        };
        let (version, held) = all.filter(is_unknown).max_by_key(|(_, held)| held.serial)?;
        Some(Trip {
            version: version.clone(),
            revision: held.revision.clone(),
            why: held.why.clone(),
            serial: held.serial,
        })
    }

    /// Takes over what `other` says of each build, where that is newer.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (version, builds) in &other.0 {
            for held in builds {
                self.note(version, held.clone());
            }
        }
    }

    /// The same of a book whose holder takes the present build of `stable` for the version in production: that it trusts it says
    /// nothing to whoever tries it.
    pub(crate) fn merge_from_another(&mut self, other: &Self, stable: &VersionId) {
        for (version, builds) in &other.0 {
            for held in builds.iter().filter(|held| !(held.lifted && version == stable)) {
                self.note(version, held.clone());
            }
        }
    }

    /// Bars what `other` bars as well, and lifts nothing.
    pub(crate) fn adopt(&mut self, other: &Self) {
        for (version, builds) in &other.0 {
            for held in builds.iter().filter(|held| !held.lifted) {
                if self.held_build(version, held.revision.as_deref()).is_none() {
                    let known = self.known(version, held.revision.as_deref()).map_or(0, |known| known.serial);
                    self.note(version, Held { serial: held.serial.max(known), ..held.clone() });
                }
            }
        }
    }

    /// What bars here was decided without knowing of `serial` decisions elsewhere, and after them.
    pub(crate) fn decided_after(&mut self, serial: u64) {
        for held in self.0.values_mut().flatten().filter(|held| !held.lifted) {
            held.serial = held.serial.max(serial + 1);
        }
    }

    /// The number of the newest decision.
    pub(crate) fn newest(&self) -> u64 {
        self.0.values().flatten().map(|held| held.serial).max().unwrap_or_default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(number: u8) -> VersionId {
        format!("v{number}").parse().unwrap()
    }

    fn held(serial: u64, lifted: bool) -> Held {
        Held { revision: None, why: String::new(), serial, lifted }
    }

    fn book(entries: &[(u8, u64, bool)]) -> Quarantine {
        let mut book = Quarantine::default();
        for (name, serial, lifted) in entries {
            book.note(&version(*name), held(*serial, *lifted));
        }
        book
    }

    fn bars(book: &Quarantine, name: u8) -> bool {
        book.held_build(&version(name), None).is_some()
    }

    #[test]
    fn what_was_decided_last_about_a_build_counts_and_of_a_tie_what_bars() {
        let mut mine = book(&[(1, 5, false), (2, 5, false), (3, 5, true)]);
        mine.merge(&book(&[(1, 4, true), (2, 6, true), (3, 5, false), (4, 1, false)]));
        assert_eq!([1, 2, 3, 4].map(|name| bars(&mine, name)), [true, false, true, true]);
    }

    #[test]
    fn what_was_lifted_since_is_no_news_and_what_was_taken_back_since_is() {
        let trip = |serial| Trip { version: version(1), revision: None, why: String::new(), serial };
        let lifted = book(&[(1, 7, true)]);
        assert!(lifted.lifts(&trip(6)) && !lifted.lifts(&trip(7)) && !book(&[(1, 7, false)]).lifts(&trip(6)));
    }

    #[test]
    fn old_books_are_read_and_what_bars_is_written_as_ever() {
        let old = r#"{"v1":[{"revision":null,"why":"slow"}]}"#;
        let book: Quarantine = serde_json::from_str(old).unwrap();
        assert!(bars(&book, 1));
        assert!(serde_json::to_string(&book).unwrap().contains(r#""why":"slow","serial":0}"#));
    }

    #[test]
    fn the_oldest_builds_make_room_and_lifted_ones_first() {
        let mut book = Quarantine::default();
        for serial in 0..100 {
            let revision = Some(serial.to_string());
            book.note(&version(1), Held { revision, lifted: serial == 50, ..held(serial, false) });
        }
        let is_held = |serial: u64| book.held_build(&version(1), Some(&serial.to_string())).is_some();
        assert!(!is_held(34) && is_held(36) && is_held(99) && book.known(&version(1), Some("50")).is_none());
    }

    proptest! {
        #[test]
        fn books_say_the_same_whoever_reads_whose_first(
            one in prop::collection::vec((0..3_u8, 0..6_u64, any::<bool>()), 0..8),
            other in prop::collection::vec((0..3_u8, 0..6_u64, any::<bool>()), 0..8),
        ) {
            let (one, other) = (book(&one), book(&other));
            let (mut here, mut there) = (one.clone(), other.clone());
            here.merge(&other);
            there.merge(&one);
            for name in 0..3 {
                prop_assert_eq!(here.known(&version(name), None), there.known(&version(name), None));
            }
            let before = here.clone();
            here.merge(&other);
            prop_assert_eq!(&here, &before, "once is enough");
            prop_assert!(here.unknown_to(&there).is_none());
        }
    }
}
