//! Between one leader and the next: whoever has the Lease decides nothing and writes nothing before it has read what stands on
//! the live Service and has asked every edge that can be reached.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman_kubernetes::annotation::State;
use pointsman_rollout::{Identity, Saved};

use super::super::cluster::{Call, DEADLINE, Fate};
use super::super::policy::Told;
use super::Around;
use super::knowledge::Knowledge;
use super::member::{Member, Standing};

/// Longest that is waited for what others know.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an edge has to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What is known so far.
pub(super) struct Takeover {
    term: u64,
    began: Duration,
    /// Who has answered, or could not be reached.
    asked: BTreeSet<usize>,
    /// The latest that anybody knows.
    later: Option<Saved>,
    /// What stood on the live Service, once it was read; and what it knew.
    found: Option<(Option<State>, Knowledge)>,
    /// When the read that is under way is answered, if it is; until when it is waited for.
    reads: Option<(Duration, bool)>,
}

impl Takeover {
    fn new(term: u64, began: Duration) -> Self {
        Self { term, began, asked: BTreeSet::new(), later: None, found: None, reads: None }
    }

    /// An edge has answered, or cannot be reached.
    pub(super) fn has_asked(&mut self, edge: usize) {
        self.asked.insert(edge);
    }

    /// Somebody knows this; what is latest counts.
    pub(super) fn learn(&mut self, saved: Saved) {
        if self.later.as_ref().is_none_or(|known| known.serial() < saved.serial()) {
            self.later = Some(saved);
        }
    }

    fn is_over(&self, others: &[(usize, bool)], now: Duration) -> bool {
        let lasts = now.saturating_sub(self.began);
        // Who is down turns calls away, and who is cut off is given a second.
        let is_asked = |(edge, is_up): &(usize, bool)| self.asked.contains(edge) || !is_up || lasts >= ANSWERS_WITHIN;
        (self.found.is_some() && others.iter().all(is_asked)) || lasts >= PATIENCE
    }
}

impl Member {
    /// Leads or follows, as the Lease says; `others` are who is there, and whether they are up.
    pub(super) fn take_or_leave_the_lead(&mut self, others: &[(usize, bool)], around: &mut Around) {
        let clock = self.lease_clock(around.now);
        if let Some(term) = self.seat.is_outrun(clock) {
            self.seat.raise_above(term);
        }
        let term = self.seat.fence(clock).map(|fence| fence.term);
        match (&self.standing, term) {
            (Standing::Follows, None) => {}
            (Standing::Follows, Some(term)) => self.begin_to_take_over(term, around.now),
            (Standing::Leads { term: led }, Some(term)) if *led == term => {}
            (Standing::TakesOver(takeover), Some(term)) if takeover.term == term => {
                self.go_on_taking_over(others, around);
            }
            (Standing::Leads { .. } | Standing::TakesOver(_), Some(_) | None) => self.leave_the_lead(),
        }
    }

    fn begin_to_take_over(&mut self, term: u64, now: Duration) {
        self.waiting.clear();
        self.pulled.clear();
        (self.said_at, self.following.asked_at) = (None, None);
        self.standing = Standing::TakesOver(Box::new(Takeover::new(term, now)));
    }

    fn go_on_taking_over(&mut self, others: &[(usize, bool)], around: &mut Around) {
        self.read_as_leader(around);
        let Standing::TakesOver(takeover) = &self.standing else { return };
        if takeover.is_over(others, around.now) {
            let (term, standing) = (takeover.term, std::mem::replace(&mut self.standing, Standing::Follows));
            if let Standing::TakesOver(takeover) = standing {
                self.standing = Standing::Leads { term };
                self.lead(*takeover, around);
            }
        }
    }

    /// Reads the live Service from the API server itself: what a watch told last may be old.
    fn read_as_leader(&mut self, around: &mut Around) {
        let (now, has_way) = (around.now, self.is_reached(around.now));
        let Standing::TakesOver(takeover) = &mut self.standing else { return };
        if takeover.found.is_some() {
            return;
        }
        let (until, is_answered) = *takeover.reads.get_or_insert_with(|| {
            match if has_way { around.cluster.fate(Call::Read) } else { Fate::Never } {
                Fate::After(span) => (now + span, true),
                Fate::Refused => (now + Duration::from_millis(100), false),
                Fate::Never | Fate::Late => (now + DEADLINE, false),
            }
        });
        if now < until {
            return;
        }
        takeover.reads = None;
        if is_answered {
            let shown = around.cluster.shown();
            self.sight.take_in(&shown, now);
            let state = shown.observed.state.read().filter(|state| state.route == self.route.name).cloned();
            self.hand.go_on_after(state.as_ref());
            takeover.found = Some((state, around.witness.on_service().clone()));
        }
    }

    /// Decides from now on, from the latest that is known.
    fn lead(&mut self, takeover: Takeover, around: &mut Around) {
        let clock = self.clock(around.now);
        around.told.push(Told::line(format!("{} leads, by term {}", self.name, takeover.term)));
        let (state, knowledge) = takeover.found.unwrap_or_default();
        let kept = state.map(|state| state.saved);
        if kept.is_some() {
            self.knows.learn(&knowledge);
        }
        let (counts, other) = by_weight(&Identity::of(&self.route), takeover.later, kept);
        let is_news = other.as_ref().is_some_and(|other| counts.as_ref().is_none_or(|counts| is_other(counts, other)));
        self.is_placed = true;
        let mut changes = self.rollout.lead(counts, clock);
        // What only the other one knows to be taken back stays back.
        if is_news {
            changes.extend(self.rollout.weigh(other, clock));
        }
        self.hand.put(self.rollout.kept(clock), around.now);
        self.note(&changes, around);
        self.has_news = true;
    }

    /// An edge that could not be asked when this one began to lead knows of later decisions.
    pub(super) fn go_on_from(&mut self, later: Saved, around: &mut Around) {
        let clock = self.clock(around.now);
        if later.depth() <= self.rollout.depth() {
            return;
        }
        self.rollout.step_down();
        let changes = self.rollout.lead(Some(later), clock);
        self.note(&changes, around);
    }
}

/// The one to go on from first: the one about the rollout of this edge's file; of two of these, or of none, the one with more
/// decisions behind it; at a tie the one that was `kept`.
fn by_weight(own: &Identity, known: Option<Saved>, kept: Option<Saved>) -> (Option<Saved>, Option<Saved>) {
    let weight = |saved: &Option<Saved>| saved.as_ref().map(|saved| (saved.identity() == own, saved.serial()));
    if weight(&known) > weight(&kept) { (known, kept) } else { (kept, known) }
}

/// Whether `other` may know what `counts` does not.
fn is_other(counts: &Saved, other: &Saved) -> bool {
    other.identity() != counts.identity() || other.serial() < counts.serial()
}
