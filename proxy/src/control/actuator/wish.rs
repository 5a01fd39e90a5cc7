//! What the control loop wants of a live Service: what it shall select, and what it shall remember. Pure.

use std::collections::VecDeque;

use pointsman_config::{RouteName, VersionId};
use pointsman_kubernetes::annotation::{Decided, Fence, Scaled, State};
use pointsman_kubernetes::{Document, Observed, Obstacle, OnForeign, Selected, Wanted, claim, plan};
use pointsman_rollout::{Foreign, Resume, Saved};

use crate::view::DecisionRow;

/// Decisions that are kept at most; an annotation holds fewer, mostly.
const DECISIONS: usize = 64;

/// What an operator said about a change that somebody else made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// About which change: another one is asked about anew.
    pub(crate) to: Foreign,
    /// What counts.
    pub(crate) how: Resume,
}

/// Whether what is desired was decided here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mandate {
    /// No: another edge decides, or nobody yet.
    #[default]
    None,
    /// Yes, by the only edge.
    Alone,
    /// Yes, by the leader of this term.
    Under(u64),
}

impl Mandate {
    /// Whether it may be written under this term of the Lease.
    pub(crate) fn covers(self, term: u64) -> bool {
        match self {
            Self::None => false,
            Self::Alone => true,
            Self::Under(under) => under == term,
        }
    }
}

/// What the phase machine desires.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Aim {
    /// Whether this edge decided it.
    pub(crate) mandate: Mandate,
    /// Whom the Service shall select; none leaves it as it is.
    pub(crate) selected: Option<VersionId>,
    /// The version that is free to be scaled down.
    pub(crate) retired: Option<VersionId>,
    /// Whether somebody else's change may be written over.
    pub(crate) answer: Option<Answer>,
    /// The version to which going back is to be rehearsed, while there is something to go back from.
    pub(crate) way_back: Option<VersionId>,
}

/// Everything that a hand is to see to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) aim: Aim,
    saved: Option<Saved>,
    /// The last decisions, oldest first.
    decisions: VecDeque<Decided>,
    /// How many earlier ones are not among them.
    cut: u64,
    /// The number of the last put.
    pub(crate) put: u64,
}

impl Wish {
    /// Remembers what shall be kept.
    pub(crate) fn put(&mut self, put: u64, saved: Saved, decided: Vec<Decided>) {
        (self.put, self.saved) = (put, Some(saved));
        self.decisions.extend(decided);
        while self.decisions.len() > DECISIONS {
            self.decisions.pop_front();
            self.cut += 1;
        }
    }

    /// Remembers what was decided before this process, as it was found.
    pub(crate) fn go_on_after(&mut self, state: &State) {
        let last = state.decisions.last().map_or(0, |decided| decided.id);
        let mut younger = std::mem::take(&mut self.decisions);
        younger.retain(|decided| decided.id > last);
        self.decisions = state.decisions.iter().cloned().chain(younger).collect();
        self.cut = state.cut;
    }

    /// What was decided after number `id`.
    pub(crate) fn decided_after(&self, id: u64) -> impl Iterator<Item = &Decided> {
        self.decisions.iter().filter(move |decided| decided.id > id)
    }

    /// What to write next so that the Service is as wished; none if it is so.
    pub(crate) fn document(&self, of: &Whose<'_>, observed: &Observed) -> Result<Option<Document>, Obstacle> {
        let Some(wanted) = self.wanted(of) else { return Ok(None) };
        let on_foreign = self.on_foreign(of.route, observed);
        let is_answered = matches!(on_foreign, OnForeign::Adopt | OnForeign::Restore);
        let wanted = Wanted { on_foreign, ..wanted };
        if !is_answered && observed.fence.read() != Some(of.fence) {
            return claim(observed, &wanted);
        }
        plan(observed, &wanted)
    }

    /// What to do about somebody else's change: what was said about just that one; until then it stays to be seen.
    fn on_foreign(&self, route: &RouteName, observed: &Observed) -> OnForeign {
        let Some(foreign) = observed.foreign(route) else { return OnForeign::Refuse };
        let is_about = |answer: &&Answer| {
            (&answer.to.by, &answer.to.what, &answer.to.when) == (&foreign.by, &foreign.what, &foreign.when)
        };
        match self.aim.answer.as_ref().filter(is_about).map(|answer| answer.how) {
            Some(Resume::Adopt) => OnForeign::Adopt,
            // Not before it is known whom it shall select: what it selected before may have no endpoint any more.
            Some(Resume::Restore) if self.aim.selected.is_some() => OnForeign::Restore,
            Some(Resume::Restore | Resume::GoOn) | None => OnForeign::Leave,
        }
    }

    /// The patch that would go back; it is only tried.
    pub(crate) fn rehearsal(&self, of: &Whose<'_>, observed: &Observed) -> Result<Option<Document>, Obstacle> {
        let Some((wanted, back)) = self.wanted(of).zip(self.aim.way_back.as_ref()) else { return Ok(None) };
        let selected = Some(Selected { key: of.selector_key, version: back });
        // Another count makes it a patch even where the Service selects that version.
        plan(observed, &Wanted { selected, cut: wanted.cut + 1, ..wanted })
    }

    fn wanted<'a>(&'a self, of: &Whose<'a>) -> Option<Wanted<'a>> {
        Some(Wanted {
            selected: self.aim.selected.as_ref().map(|version| Selected { key: of.selector_key, version }),
            decisions: of.decisions,
            cut: self.cut,
            retired: self.aim.retired.as_ref(),
            scaled: of.scaled,
            ..Wanted::of(of.route, of.fence, self.saved.as_ref()?)
        })
    }

    /// The number of the trial that led to what shall be remembered.
    pub(crate) fn trial(&self) -> u64 {
        self.saved.as_ref().map_or(0, Saved::trial)
    }

    /// The decisions as a slice.
    pub(crate) fn decisions(&self) -> Vec<Decided> {
        self.decisions.iter().cloned().collect()
    }
}

/// In whose name something is written, and for whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) route: &'a RouteName,
    pub(crate) selector_key: &'a str,
    pub(crate) fence: &'a Fence,
    pub(crate) decisions: &'a [Decided],
    /// What was scaled down in it.
    pub(crate) scaled: Option<&'a Scaled>,
}

/// A row of the decision log as the annotation keeps it.
pub(crate) fn decided_of(row: &DecisionRow) -> Decided {
    Decided { id: row.id, at: row.at.clone(), change: row.change.clone() }
}

/// And back. The sample of failing requests was not kept.
pub(crate) fn row_of(route: &RouteName, decided: &Decided) -> DecisionRow {
    DecisionRow {
        id: decided.id,
        at: decided.at.clone(),
        route: route.clone(),
        sentence: decided.change.sentence(),
        change: decided.change.clone(),
        failures: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pointsman_config::{Route, Share, Split, Version};
    use pointsman_rollout::{Input, Order, OrderKind, Rollout, Time};

    use super::*;

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn rollout() -> Rollout {
        let versions = ["v1", "v2"].map(|name| (version(name), Version::at(Vec::new())));
        let route = Route::new("shop".parse().unwrap(), version("v1"), versions.into());
        Rollout::start(Arc::new(route), Time::default()).0
    }

    fn saved() -> Saved {
        rollout().saved(Time::default())
    }

    fn decided(id: u64) -> Decided {
        let halves = Split::canary(version("v1"), version("v2"), Share::from_ppm(500_000).unwrap());
        let order = Order { kind: OrderKind::SetWeights(halves), actor: "ann".to_owned(), reason: String::new() };
        let changes = rollout().step(Input::Order(&order), Time::default()).unwrap();
        Decided { id, at: "2026-01-01T00:00:00.000Z".to_owned(), change: changes[0].clone() }
    }

    fn ids(wish: &Wish) -> Vec<u64> {
        wish.decisions().iter().map(|decided| decided.id).collect()
    }

    #[test]
    fn what_was_decided_before_this_process_comes_first_and_the_oldest_make_room() {
        let mut wish = Wish::default();
        wish.put(1, saved(), vec![decided(8)]);
        let state = State {
            route: "shop".parse().unwrap(),
            serial: 1,
            selector: [("version".to_owned(), "v1".to_owned())].into(),
            retired: None,
            scaled: None,
            saved: saved(),
            decisions: vec![decided(6), decided(7)],
            cut: 5,
        };
        wish.go_on_after(&state);
        assert_eq!((ids(&wish), wish.cut), (vec![6, 7, 8], 5));
        assert_eq!(wish.decided_after(6).map(|decided| decided.id).collect::<Vec<_>>(), [7, 8]);
        for put in 2..100 {
            wish.put(put, saved(), vec![decided(put + 7)]);
        }
        assert_eq!((wish.put, ids(&wish).len(), ids(&wish)[63]), (99, DECISIONS, 106));
        assert_eq!(wish.cut, 5 + 3 + 98 - 64);
    }
}
