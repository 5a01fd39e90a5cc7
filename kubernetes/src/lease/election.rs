//! Who leads: the rules by which one of several processes holds a Lease, with the time passed in. Pure.
//!
//! A holder counts its lease from the moment it *sent* what the API server accepted, and for less than the lease lasts;
//! everybody else counts from the moment they *heard* of it, and for all of it. So two never hold it at once as long as
//! their clocks run alike, and no clock has to show the right time. What clocks and delays could still break, the
//! [`Fence`] mends: it grows with every holder, and whatever is written tests it.

use std::time::Duration;

use pointsman_rollout::Time;
use thiserror::Error;

use crate::annotation::Fence;

/// How long a lease lasts and how often it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    lasts: Duration,
    leads: Duration,
    every: Duration,
}

/// Times that no lease can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseTimesError {
    /// The API counts whole seconds.
    #[error("a lease lasts whole seconds, at least 1; {} ms is none", .0.as_millis())]
    Seconds(Duration),
    /// Two would lead at once.
    #[error("a leader must stop before its lease ends: write less than {} ms", .0.as_millis())]
    Leads(Duration),
    /// A single lost call would end it.
    #[error("a lease must be renewed at least twice while its holder leads: write at most {} ms", .0.as_millis())]
    Every(Duration),
}

impl LeaseTimes {
    /// Others wait for `lasts` after they last heard of the holder; the holder leads for `leads` after it last renewed; it
    /// renews `every` so often, and others look as often.
    ///
    /// # Errors
    /// Unless `lasts` is whole seconds, `leads` is shorter, and `every` at most half of that.
    pub fn new(lasts: Duration, leads: Duration, every: Duration) -> Result<Self, LeaseTimesError> {
        if lasts.is_zero() || lasts.subsec_nanos() != 0 {
            return Err(LeaseTimesError::Seconds(lasts));
        }
        if leads >= lasts {
            return Err(LeaseTimesError::Leads(lasts));
        }
        if every.is_zero() || every > leads / 2 {
            return Err(LeaseTimesError::Every(leads / 2));
        }
        Ok(Self { lasts, leads, every })
    }

    /// A leader leads for seven tenths of what its lease lasts, and renews every fifth of it.
    ///
    /// # Errors
    /// Unless `lasts` is whole seconds.
    pub fn lasting(lasts: Duration) -> Result<Self, LeaseTimesError> {
        Self::new(lasts, lasts * 7 / 10, lasts / 5)
    }

    /// Between two looks or renewals.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// How long others wait.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }
}

impl Default for LeaseTimes {
    /// 10 s, 7 s and 2 s: a leader that dies is replaced after 12 s at most, and an API server may be away for 5 s.
    fn default() -> Self {
        Self { lasts: Duration::from_secs(10), leads: Duration::from_secs(7), every: Duration::from_secs(2) }
    }
}

/// A Lease as it stands on the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty if nobody does.
    pub holder: String,
    /// How often the holder has changed.
    pub term: u64,
    /// How long it is held after each renewal.
    pub lasts: Duration,
    /// Which writing of it; every write gives another.
    pub version: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Look again later.
    Wait,
    /// Create the Lease, in one's own name.
    Create {
        /// With this term.
        term: u64,
    },
    /// Put one's own name on it, if it is still this writing.
    Write {
        /// Which writing.
        over: String,
        /// With this term.
        term: u64,
    },
}

/// One candidate's view.
#[derive(Debug)]
pub struct Election {
    me: String,
    times: LeaseTimes,
    /// What stands there, and since when it was known here.
    seen: Option<(Record, Time)>,
    /// The term that is ours, and until when.
    held: Option<(u64, Time)>,
    /// Terms begin here: later than any fence that was found.
    at_least: u64,
}

impl Election {
    /// A candidate that knows nothing yet. `me` names this process and no other, not even an earlier one of the same pod.
    pub fn new(me: String, times: LeaseTimes) -> Self {
        Self { me, times, seen: None, held: None, at_least: 1 }
    }

    /// The API server said at `now` that this is the Lease, or that there is none.
    pub fn saw(&mut self, record: Option<Record>, now: Time) {
        if record.as_ref().is_none_or(|record| record.holder != self.me) {
            self.held = None;
        }
        self.seen = record.map(|record| match self.seen.take() {
            Some((known, since)) if known == record => (record, since),
            Some(_) | None => (record, now),
        });
    }

    /// Our own move was accepted as `record`; it was sent at `sent`, and that was heard at `now`.
    pub fn accepted(&mut self, record: Record, sent: Time, now: Time) {
        self.held = Some((record.term, sent.plus(self.times.leads)));
        self.seen = Some((record, now));
    }

    /// From now on terms are later than `term`: a fence was found that a leader of this Lease cannot have written, because
    /// the Lease was deleted since.
    pub fn raise_above(&mut self, term: u64) {
        self.at_least = self.at_least.max(term.saturating_add(1));
    }

    /// What to do at `now`.
    pub fn next(&self, now: Time) -> Move {
        let Some((record, since)) = &self.seen else { return Move::Create { term: self.at_least } };
        let over = || record.version.clone();
        if record.holder == self.me {
            return Move::Write { over: over(), term: record.term.max(self.at_least) };
        }
        if record.holder.is_empty() || now.since(*since) >= record.lasts {
            return Move::Write { over: over(), term: record.term.saturating_add(1).max(self.at_least) };
        }
        Move::Wait
    }

    /// Our proof of leadership at `now`, if we lead, and until when.
    pub fn leads(&self, now: Time) -> Option<(Fence, Time)> {
        let (term, until) = self.held.filter(|(_, until)| now < *until)?;
        Some((Fence { term, holder: self.me.clone() }, until))
    }

    /// Who holds the Lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// Whether it stands there in our name, so that it is ours to give back.
    pub fn is_ours(&self) -> bool {
        self.holder() == Some(&self.me)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times() -> LeaseTimes {
        LeaseTimes::new(Duration::from_secs(10), Duration::from_secs(7), Duration::from_secs(2)).unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    fn record(holder: &str, term: u64, version: u64) -> Record {
        Record { holder: holder.to_owned(), term, lasts: times().lasts(), version: version.to_string() }
    }

    fn write(version: u64, term: u64) -> Move {
        Move::Write { over: version.to_string(), term }
    }

    #[test]
    fn the_first_creates_the_lease_and_leads_for_less_than_it_lasts() {
        let mut election = Election::new("a".to_owned(), times());
        assert_eq!(election.next(at(0)), Move::Create { term: 1 });
        election.accepted(record("a", 1, 5), at(0), at(2));
        let (fence, until) = election.leads(at(2)).unwrap();
        assert_eq!((fence.to_string().as_str(), until), ("1/a", at(7)));
        assert_eq!(election.leads(at(7)), None);
        assert_eq!(election.next(at(3)), write(5, 1));
    }

    #[test]
    fn another_waits_until_the_lease_it_heard_of_has_run_out() {
        let mut election = Election::new("b".to_owned(), times());
        election.saw(Some(record("a", 1, 5)), at(3));
        election.saw(Some(record("a", 1, 5)), at(12));
        assert_eq!(election.next(at(12)), Move::Wait);
        election.saw(Some(record("a", 1, 6)), at(12));
        assert_eq!(election.next(at(21)), Move::Wait);
        assert_eq!(election.next(at(22)), write(6, 2));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let mut election = Election::new("b".to_owned(), times());
        election.saw(Some(record("", 4, 9)), at(0));
        assert_eq!(election.next(at(0)), write(9, 5));
        assert_eq!(election.holder(), None);
    }

    #[test]
    fn a_holder_that_reads_another_name_stops_at_once() {
        let mut election = Election::new("a".to_owned(), times());
        election.accepted(record("a", 1, 5), at(0), at(0));
        election.saw(Some(record("b", 2, 6)), at(1));
        assert_eq!(election.leads(at(1)), None);
    }

    #[test]
    fn a_renewal_that_landed_unheard_keeps_the_term_but_not_the_time() {
        let mut election = Election::new("a".to_owned(), times());
        election.accepted(record("a", 1, 5), at(0), at(0));
        election.saw(Some(record("a", 1, 6)), at(6));
        assert_eq!(election.leads(at(8)), None);
        assert_eq!(election.next(at(8)), write(6, 1));
    }

    #[test]
    fn a_deleted_lease_does_not_bring_back_old_terms() {
        let mut election = Election::new("a".to_owned(), times());
        election.accepted(record("a", 1, 5), at(0), at(0));
        election.raise_above(41);
        assert_eq!(election.next(at(1)), write(5, 42));
        election.saw(None, at(2));
        assert_eq!(election.leads(at(2)), None);
        assert_eq!(election.next(at(2)), Move::Create { term: 42 });
    }

    #[test]
    fn times_follow_from_how_long_a_lease_lasts() {
        assert_eq!(LeaseTimes::lasting(Duration::from_secs(10)), Ok(LeaseTimes::default()));
        assert!((1..60).all(|seconds| LeaseTimes::lasting(Duration::from_secs(seconds)).is_ok()));
    }

    #[test]
    fn times_that_no_lease_can_have_are_refused() {
        let check = |lasts: u64, leads: u64, every: u64, words: &str| {
            let ms = Duration::from_millis;
            let error = LeaseTimes::new(ms(lasts), ms(leads), ms(every)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(0, 0, 0, "whole seconds");
        check(1_500, 700, 200, "whole seconds");
        check(2_000, 2_000, 200, "less than 2000 ms");
        check(2_000, 1_000, 600, "at most 500 ms");
    }

    /// One Lease on one API server, and candidates that talk to it through a bad network. Seconds are true time; every
    /// candidate's clock is off by a constant.
    struct World {
        lease: Option<Record>,
        writes: u64,
        candidates: Vec<(Election, u64)>,
        /// Moves under way: who, what, when sent, when it arrives, and whether its answer comes back.
        under_way: Vec<(usize, Move, u64, u64, bool)>,
        terms: std::collections::BTreeMap<u64, String>,
        leaderships: usize,
    }

    impl World {
        fn new(offsets: &[u64]) -> Self {
            let candidate = |(index, offset): (usize, &u64)| (Election::new(format!("c{index}"), times()), *offset);
            Self {
                lease: None,
                writes: 0,
                candidates: offsets.iter().enumerate().map(candidate).collect(),
                under_way: Vec::new(),
                terms: std::collections::BTreeMap::new(),
                leaderships: 0,
            }
        }

        fn second(&mut self, second: u64, chance: &[u8]) {
            let arrived: Vec<_> = self.under_way.extract_if(.., |one| one.3 <= second).collect();
            for (who, what, sent, _, answered) in arrived {
                self.arrive(who, &what, (sent, second), answered);
            }
            for (who, &luck) in chance.iter().enumerate() {
                // Everybody looks every other second; some looks are lost.
                if (second + u64::try_from(who).unwrap()).is_multiple_of(2) && luck < 200 {
                    self.turn(who, second, luck);
                }
            }
            self.check(second);
        }

        fn turn(&mut self, who: usize, second: u64, luck: u8) {
            let (election, offset) = &mut self.candidates[who];
            let now = at(second + *offset);
            election.saw(self.lease.clone(), now);
            let what = election.next(now);
            if what != Move::Wait {
                let delay = if luck < 100 { 0 } else { u64::from(luck % 16) };
                self.under_way.push((who, what, second, second + delay, !luck.is_multiple_of(3)));
            }
        }

        fn arrive(&mut self, who: usize, what: &Move, (sent, second): (u64, u64), answered: bool) {
            let me = format!("c{who}");
            let (fits, term) = match what {
                Move::Wait => return,
                Move::Create { term } => (self.lease.is_none(), *term),
                Move::Write { over, term } => (self.lease.as_ref().is_some_and(|lease| lease.version == *over), *term),
            };
            if !fits {
                return;
            }
            self.writes += 1;
            let written = record(&me, term, self.writes);
            self.lease = Some(written.clone());
            let (election, offset) = &mut self.candidates[who];
            // An answer that comes late is not waited for.
            if answered && second - sent < 3 {
                election.accepted(written, at(sent + *offset), at(second + *offset));
            }
        }

        fn check(&mut self, second: u64) {
            let leads =
                |(election, offset): &(Election, u64)| election.leads(at(second + offset)).map(|(fence, _)| fence);
            let leaders: Vec<Fence> = self.candidates.iter().filter_map(leads).collect();
            assert!(leaders.len() <= 1, "second {second}: {leaders:?} lead at once");
            for fence in leaders {
                self.leaderships += 1;
                let owner = self.terms.entry(fence.term).or_insert_with(|| fence.holder.clone());
                assert_eq!(*owner, fence.holder, "two held the term {}", fence.term);
            }
        }
    }

    #[test]
    fn never_do_two_lead_at_once_and_every_term_has_one_holder() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let led = std::cell::Cell::new(0);
        let histories = (prop::collection::vec(0..1_000_u64, 3), prop::collection::vec(any::<[u8; 3]>(), 120));
        runner
            .run(&histories, |(offsets, chances)| {
                let mut world = World::new(&offsets);
                for (second, chance) in (0..).zip(&chances) {
                    world.second(second, chance);
                }
                led.set(led.get() + world.leaderships);
                Ok(())
            })
            .unwrap();
        assert!(led.get() > 5_000, "somebody led for {} seconds only", led.get());
    }
}
