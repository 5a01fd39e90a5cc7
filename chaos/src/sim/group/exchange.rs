//! What edges say to each other: the leader's word to each, and what it gets for it; trips that cannot wait for a leader.

use std::time::Duration;

use pointsman_rollout::{Observed, Role, Row, Saved, Trip, WayBack};

use super::knowledge::Knowledge;
use super::member::{Followed, Heard, Member, Standing};
use super::{Around, Group};

/// Between two words of the leader, where nothing was decided.
const WORD_EVERY: Duration = Duration::from_millis(200);
/// A leader that has not asked for so long is not waited for with a trip.
const LEADER_IS_SILENT: Duration = Duration::from_millis(300);
/// A leader that has not asked for so long may be out of reach of this edge alone: what it wrote is read instead.
const LEADER_IS_OUT_OF_REACH: Duration = Duration::from_secs(1);
/// Between two times at which a trip is told to every edge.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// What the leader says to each.
struct Word {
    term: u64,
    saved: Saved,
    edges: usize,
    way_back: WayBack,
    knows: Knowledge,
}

/// What it gets for it.
struct Answer {
    rows: Vec<Observed>,
    heard: Heard,
    later: Option<Box<Saved>>,
    knows: Knowledge,
}

impl Group {
    /// Whoever leads, or is about to, says where the route stands, if that is due or has changed.
    pub(super) fn talk(&mut self) {
        let now = self.around.now;
        for from in 0..self.members.len() {
            let serving = self.serving_beside(from);
            let Some(leader) = self.members.get_mut(from) else { continue };
            let has_news = std::mem::take(&mut leader.has_news);
            let is_due = leader.said_at.is_none_or(|at| now.saturating_sub(at) >= WORD_EVERY);
            if leader.asks() && leader.is_reached(now) && (is_due || has_news) {
                leader.said_at = Some(now);
                self.say_to_all(from, &serving);
            }
        }
    }

    fn say_to_all(&mut self, from: usize, serving: &[usize]) {
        for to in (0..self.members.len()).filter(|to| *to != from) {
            let Ok([leader, other]) = self.members.get_disjoint_mut([from, to]) else { continue };
            if !leader.asks() || !other.is_reached(self.around.now) {
                continue;
            }
            let Some(word) = leader.word(serving, self.around.now) else { return };
            let heard = leader.heard.get(&to).and_then(|heard| heard.trip.clone());
            match other.answer(&word, heard.as_ref(), &mut self.around) {
                Ok(answer) => leader.collect((to, other), answer, &mut self.around),
                Err(term) => leader.seat.heard_of(term),
            }
        }
    }

    /// With a leader that is silent each edge tells the others itself what it took back.
    pub(super) fn tell_of_trips(&mut self) {
        let now = self.around.now;
        for from in 0..self.members.len() {
            let Some(teller) = self.members.get_mut(from) else { continue };
            let Some(trip) = teller.trip_to_tell(now) else { continue };
            for to in (0..self.members.len()).filter(|to| *to != from) {
                let Ok([teller, other]) = self.members.get_disjoint_mut([from, to]) else { continue };
                if other.is_reached(now) {
                    other.take_trip(&trip, (&teller.name, &teller.knows), &mut self.around);
                }
            }
        }
    }

    /// Edges that hear of no leader go on as the live Service says.
    pub(super) fn read_what_is_kept(&mut self) {
        let around = &self.around;
        for member in self.members.iter_mut().filter(|member| member.is_up()) {
            let is_asked = |at: Duration| around.now.saturating_sub(at) < LEADER_IS_OUT_OF_REACH;
            let is_alone =
                matches!(member.standing, Standing::Follows) && !member.following.asked_at.is_some_and(is_asked);
            if is_alone {
                member.read_what_is_kept(member.seat.latest(), around);
            }
        }
    }
}

impl Member {
    fn word(&self, serving: &[usize], now: Duration) -> Option<Word> {
        let clock = self.clock(now);
        Some(Word {
            term: self.seat.fence(self.lease_clock(now))?.term,
            saved: self.rollout.saved(clock),
            edges: 1 + serving.len(),
            way_back: self.judge_way_back(serving, now),
            knows: self.knows.clone(),
        })
    }

    /// Puts in force what the leader says, and answers what it asks; or which later term it knows.
    fn answer(&mut self, word: &Word, heard: Option<&Trip>, around: &mut Around) -> Result<Answer, u64> {
        let (now, clock) = (around.now, self.clock(around.now));
        let term = self.seat.term(self.lease_clock(now));
        if word.term < term || (self.asks() && word.term == term) {
            return Err(term);
        }
        self.seat.heard_of(word.term);
        (self.following.asked_at, self.following.edges) = (Some(now), word.edges);
        if self.asks() {
            self.leave_the_lead();
        }
        if self.rollout.trip().is_some() && self.rollout.trip() == heard {
            self.rollout.trip_was_heard();
        }
        let mut later = None;
        let followed = self.follow(word.saved.clone(), clock);
        let is_applied = matches!(followed, Followed::Applied);
        match followed {
            Followed::Applied => {
                self.following.way_back = Some((word.way_back.clone(), now));
                self.knows.learn(&word.knows);
                around.witness.heard(self, &word.knows, now);
            }
            Followed::Later(own) => later = Some(own),
            Followed::OfAnother => {
                self.knows.learn(&word.knows);
                self.read_what_is_kept(word.term, around);
            }
        }
        let applied = is_applied.then(|| (self.rollout.serial(), self.applied()));
        let trip = self.rollout.trip().filter(|_| self.rollout.role() == Role::Follower).cloned();
        let rows = std::mem::take(&mut self.waiting);
        Ok(Answer { rows, heard: Heard { at: now, applied, trip }, later, knows: self.knows.clone() })
    }

    /// Takes what another edge counted, and what it took back.
    fn collect(&mut self, (from, other): (usize, &Self), answer: Answer, around: &mut Around) {
        self.pulled.extend(answer.rows);
        let trip = answer.heard.trip.clone();
        self.heard.insert(from, answer.heard);
        if let Some(later) = answer.later {
            self.knows.learn(&answer.knows);
            match &mut self.standing {
                Standing::TakesOver(takeover) => takeover.learn(*later),
                Standing::Leads { .. } => self.go_on_from(*later, around),
                Standing::Follows => {}
            }
        }
        if let Standing::TakesOver(takeover) = &mut self.standing {
            takeover.has_asked(from);
        }
        if let Some(trip) = trip {
            self.take_trip(&trip, (&other.name, &answer.knows), around);
        }
    }

    /// Another edge knows that a canary was taken back.
    fn take_trip(&mut self, trip: &Trip, (by, knew): (&str, &Knowledge), around: &mut Around) {
        let clock = self.clock(around.now);
        let build = (trip.version.clone(), trip.revision.clone());
        let changes = self.rollout.take_trip(trip, by, clock);
        // One that follows and has no ready endpoint of stable leaves it to the next leader; a build that is not on trial here
        // is barred without a word.
        let own = self.route.versions.get(&trip.version).and_then(|version| version.revision.clone());
        if self.rollout.role() == Role::Leader || !changes.is_empty() || own != trip.revision {
            self.knows.learn_of(&build, knew);
        }
        if changes.is_empty() {
            self.hand.put(self.rollout.kept(clock), around.now);
        }
        self.note(&changes, around);
    }

    /// What it took back and no leader is there to hear of, unless that was told a moment ago.
    fn trip_to_tell(&mut self, now: Duration) -> Option<Trip> {
        let is_within = |at: Option<Duration>, span| at.is_some_and(|at| now.saturating_sub(at) < span);
        let waits =
            is_within(self.following.asked_at, LEADER_IS_SILENT) || is_within(self.following.told_at, TELL_AGAIN);
        if self.asks() || waits || !self.is_reached(now) {
            return None;
        }
        let trip = self.rollout.trip().filter(|_| self.rollout.role() == Role::Follower).cloned()?;
        self.following.told_at = Some(now);
        Some(trip)
    }

    /// Goes on as the live Service says, where a leader of this `term` or a later one knows more than this edge.
    pub(super) fn read_what_is_kept(&mut self, term: u64, around: &Around) {
        let clock = self.clock(around.now);
        let depth = self.rollout.depth();
        let kept = self.kept().filter(|(under, saved)| *under >= term && saved.depth() > depth);
        let Some(saved) = kept.map(|(_, saved)| saved.clone()) else { return };
        if matches!(self.follow(saved, clock), Followed::Applied) {
            self.knows.learn(around.witness.on_service());
        }
    }
}

/// What several edges counted, as one of them would have: a row for each of the terms under which requests were assigned.
pub(super) fn summed(rows: Vec<Observed>) -> Vec<Observed> {
    let mut sums: Vec<Observed> = Vec::new();
    for row in rows {
        let is_alike = |sum: &&mut Observed| {
            (&sum.stable, &sum.canary, sum.trial, sum.row.weight)
                == (&row.stable, &row.canary, row.trial, row.row.weight)
        };
        match sums.iter_mut().find(is_alike) {
            Some(sum) => {
                let Row { canary, stable, .. } = row.row;
                sum.row.canary += canary;
                sum.row.stable += stable;
                sum.drawn += row.drawn;
            }
            None => sums.push(row),
        }
    }
    sums
}
