//! Time in which nobody looked: the process was stopped, or its machine was paused or suspended.
//!
//! Line: (clock) ► **standstill** ► control. What was under way meanwhile was late because the edge was, so it says nothing of
//! any version; and what has to last (a step, the bake, a soak) has not lasted while nobody watched. The clock that goes by
//! [`Instant`] does not run while a machine is suspended, so that nothing is to be left out of it then; how long it was shows
//! by a clock that does. Pure: moments come in as values.

use std::time::{Duration, Instant};

/// Ticks so far apart are no slow machine: nothing ran. Nor did what ends so much later than it was to end.
pub(super) const STANDSTILL: Duration = Duration::from_secs(1);
/// No more often is disregarded what was under way. On a machine that is too slow, or is paused again and again, a guard would
/// else never see a failure.
const DISREGARDS_EVERY: Duration = Duration::from_secs(10);
/// So many in a row are told of one by one; what comes after them is one story.
const TOLD_BY_THEMSELVES: u32 = 2;
/// Between two words about standstills in a row, and the quiet time that ends the row.
const A_WHILE: Duration = Duration::from_mins(1);

/// Nobody looked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standstill {
    /// What of it is left out of the clock.
    pub(super) uncounted: Duration,
    /// For how long the machine was suspended, which the clock did not see.
    pub(super) suspended: Duration,
    /// Whether what was under way is no evidence.
    pub(super) disregards: bool,
}

impl Standstill {
    /// By how much everything is older than the clock says.
    pub(super) fn unseen(&self) -> Duration {
        self.uncounted + self.suspended
    }
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// By the clock that a suspended machine stops.
    pub(super) now: Instant,
    /// For how long the machine has been suspended in all until then, by the clock that it does not stop.
    pub(super) suspended: Duration,
}

/// The clock that decisions go by: of each standstill it counts the first second.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    /// When the last tick began.
    looked_at: Instant,
    /// For how long the machine had been suspended by then, since long before the beginning.
    suspended_before: Duration,
    /// What was left out of the clock.
    uncounted: Duration,
    /// For how long the machine was suspended since the beginning.
    suspended: Duration,
    /// When what was under way was last disregarded.
    disregarded_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new(moment: Moment) -> Self {
        Self {
            began: moment.now,
            looked_at: moment.now,
            suspended_before: moment.suspended,
            uncounted: Duration::ZERO,
            suspended: Duration::ZERO,
            disregarded_at: None,
        }
    }

    /// From now on somebody looks: what passed before is no standstill.
    pub(super) fn begin(&mut self, moment: Moment) {
        (self.looked_at, self.suspended_before) = (moment.now, moment.suspended);
    }

    /// What the clock shows; it never goes back.
    pub(super) fn shows(&self, now: Instant) -> Duration {
        let counted = now.saturating_duration_since(self.looked_at).min(STANDSTILL);
        (self.looked_at + counted).saturating_duration_since(self.began).saturating_sub(self.uncounted)
    }

    /// How long it is since the beginning, whatever counts of it.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began) + self.suspended
    }

    /// What did not count so far.
    pub(super) fn unseen(&self) -> Duration {
        self.uncounted + self.suspended
    }

    /// A tick begins; tells whether nobody could look for a while before it.
    pub(super) fn look(&mut self, Moment { now, suspended }: Moment) -> Option<Standstill> {
        let gap = now.saturating_duration_since(self.looked_at);
        let suspended = suspended.saturating_sub(std::mem::replace(&mut self.suspended_before, suspended));
        let was_suspended = suspended >= STANDSTILL;
        let since = |at: Instant| self.looked_at.saturating_duration_since(at);
        let disregards = self.disregarded_at.is_none_or(|at| since(at) >= DISREGARDS_EVERY);
        self.looked_at = now;
        (gap >= STANDSTILL || was_suspended).then(|| {
            let uncounted = gap.saturating_sub(STANDSTILL);
            let suspended = if was_suspended { suspended } else { Duration::ZERO };
            self.uncounted += uncounted;
            self.suspended += suspended;
            if disregards {
                self.disregarded_at = Some(now);
            }
            Standstill { uncounted, suspended, disregards }
        })
    }
}

/// What is to be told of standstills.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// One by itself.
    Of(Standstill),
    /// One after the other.
    OfRow(Row),
}

/// Standstills that came less than [`A_WHILE`] one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// How many.
    pub(super) standstills: u32,
    /// Of how many what was under way is no evidence.
    pub(super) disregarded: u32,
    /// What does not count of all of them.
    pub(super) unseen: Duration,
    /// When the first one ended.
    began: Instant,
    /// When the last one did.
    ended: Instant,
}

impl Row {
    fn new(now: Instant) -> Self {
        Self { standstills: 0, disregarded: 0, unseen: Duration::ZERO, began: now, ended: now }
    }

    fn add(&mut self, standstill: Standstill, now: Instant) {
        self.standstills = self.standstills.saturating_add(1);
        self.disregarded += u32::from(standstill.disregards);
        self.unseen += standstill.unseen();
        self.ended = now;
    }

    /// From the end of the first one to that of the last.
    pub(super) fn lasts(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }
}

/// Sees to it that every standstill is told of, and that many in a row do not fill the log.
#[derive(Debug, Default)]
pub(super) struct Teller {
    row: Option<Row>,
    /// Whether there is one in the row that was not told of.
    is_behind: bool,
    /// When the row was last told of.
    told_at: Option<Instant>,
}

impl Teller {
    /// What is to be told at a tick that may have found a standstill.
    pub(super) fn hear(&mut self, found: Option<Standstill>, now: Instant) -> Option<Word> {
        if let Some(standstill) = found {
            // A row that was not told of to its end is not over.
            let goes_on = |row: &Row| self.is_behind || now.saturating_duration_since(row.ended) < A_WHILE;
            let mut row = self.row.filter(goes_on).unwrap_or(Row::new(now));
            row.add(standstill, now);
            self.row = Some(row);
            if row.standstills <= TOLD_BY_THEMSELVES {
                return Some(Word::Of(standstill));
            }
            self.is_behind = true;
        }
        let is_due = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= A_WHILE);
        let row = self.row.filter(|_| self.is_behind && is_due)?;
        (self.is_behind, self.told_at) = (false, Some(now));
        Some(Word::OfRow(row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    /// On a machine that was never suspended.
    fn awake(now: Instant) -> Moment {
        Moment { now, suspended: Duration::ZERO }
    }

    fn of(uncounted: Duration, disregards: bool) -> Standstill {
        Standstill { uncounted, suspended: Duration::ZERO, disregards }
    }

    #[test]
    fn of_a_standstill_only_the_first_second_counts() {
        let start = Instant::now();
        let mut watch = Watch::new(awake(start));
        assert_eq!(watch.look(awake(after(start, 100))), None);
        assert_eq!(watch.shows(after(start, 1_000)), Duration::from_secs(1), "a late tick is none");
        assert_eq!(watch.shows(after(start, 9_000)), Duration::from_millis(1_100), "before the tick that finds it");
        let found = of(Duration::from_millis(7_900), true);
        assert_eq!(watch.look(awake(after(start, 9_000))), Some(found));
        assert_eq!(watch.shows(after(start, 9_500)), Duration::from_millis(1_600));
        assert_eq!(watch.unseen(), Duration::from_millis(7_900));
    }

    #[test]
    fn a_suspended_machine_is_seen_by_the_clock_that_goes_on_and_the_other_one_is_not_cut() {
        let (start, long_ago) = (Instant::now(), Duration::from_hours(5));
        let at = |milliseconds, suspended| Moment {
            now: after(start, milliseconds),
            suspended: long_ago + Duration::from_millis(suspended),
        };
        let mut watch = Watch::new(at(0, 0));
        assert_eq!(watch.look(at(100, 999)), None, "clocks need not agree to the millisecond");
        let suspended = Duration::from_mins(10);
        let found = Standstill { uncounted: Duration::ZERO, suspended, disregards: true };
        assert_eq!(watch.look(at(200, 999 + 600_000)), Some(found));
        assert_eq!(watch.look(at(300, 999 + 600_000)), None, "it is told once");
        assert_eq!(watch.shows(after(start, 300)), Duration::from_millis(300));
        assert_eq!(watch.age(after(start, 300)), suspended + Duration::from_millis(300));
        assert_eq!(watch.unseen(), suspended);
        let both =
            Standstill { uncounted: Duration::from_secs(1), suspended: Duration::from_secs(3), disregards: false };
        assert_eq!(watch.look(at(2_300, 999 + 603_000)), Some(both));
        assert_eq!(both.unseen(), Duration::from_secs(4));
    }

    #[test]
    fn of_those_in_a_row_none_counts_for_the_clock_and_most_of_what_was_under_way_is_evidence() {
        let start = Instant::now();
        let mut watch = Watch::new(awake(start));
        let found: Vec<_> = (1..=20).filter_map(|tick| watch.look(awake(after(start, tick * 1_500)))).collect();
        assert_eq!(found.len(), 20);
        assert_eq!(found.iter().filter(|standstill| standstill.disregards).count(), 3, "once in ten seconds at most");
        assert_eq!(watch.shows(after(start, 30_000)), Duration::from_secs(20));
    }

    #[test]
    fn what_is_under_way_in_the_second_of_two_pauses_is_no_evidence_if_the_process_ran_for_a_while_between_them() {
        let start = Instant::now();
        for (runs_for, disregards) in [(9_900, false), (10_000, true)] {
            let mut watch = Watch::new(awake(start));
            assert!(watch.look(awake(after(start, 5_000))).is_some());
            assert!((1..=runs_for / 100).all(|tick| watch.look(awake(after(start, 5_000 + tick * 100))).is_none()));
            let second = watch.look(awake(after(start, 5_000 + runs_for + 6_000)));
            assert_eq!(second, Some(of(Duration::from_secs(5), disregards)), "{runs_for} ms");
        }
    }

    /// What is told at each of the moments, in seconds, at which a standstill ends; and at the others, at which none does.
    fn told(ends: &[u64], last: u64) -> Vec<(u64, Word)> {
        let (start, mut teller) = (Instant::now(), Teller::default());
        let standstill = of(Duration::from_secs(1), false);
        let hear = |second: u64| {
            let found = ends.contains(&second).then_some(standstill);
            Some((second, teller.hear(found, after(start, second * 1_000))?))
        };
        (0..=last).filter_map(hear).collect()
    }

    #[test]
    fn standstills_far_from_each_other_are_told_one_by_one() {
        let told = told(&[5, 65, 100, 160, 220], 300);
        assert!(told.iter().all(|(_, word)| matches!(word, Word::Of(_))), "{told:?}");
        assert_eq!(told.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [5, 65, 100, 160, 220]);
    }

    #[test]
    fn those_in_a_row_are_told_at_once_and_then_in_sum_and_none_is_forgotten() {
        let ends: Vec<u64> = (0..100).step_by(2).collect();
        let told = told(&ends, 300);
        let sums: Vec<_> = told
            .iter()
            .filter_map(|(second, word)| match word {
                Word::Of(_) => None,
                Word::OfRow(row) => Some((*second, row.standstills, row.unseen.as_secs(), row.lasts().as_secs())),
            })
            .collect();
        assert_eq!(told.len() - sums.len(), 2, "{told:?}");
        assert_eq!(sums, [(4, 3, 3, 4), (64, 33, 33, 64), (124, 50, 50, 98)]);
    }

    #[test]
    fn a_long_one_at_the_end_of_a_row_is_told_with_what_was_not_told_before_it() {
        let (start, mut teller) = (Instant::now(), Teller::default());
        let found = Some(of(Duration::from_secs(1), false));
        let rows = [0, 2, 4, 6, 200].map(|second| match teller.hear(found, after(start, second * 1_000)) {
            Some(Word::OfRow(row)) => Some((row.standstills, row.lasts().as_secs())),
            Some(Word::Of(_)) | None => None,
        });
        assert_eq!(rows, [None, None, Some((3, 4)), None, Some((5, 200))]);
    }

    proptest! {
        #[test]
        fn the_clock_never_goes_back_and_never_runs_ahead(steps in proptest::collection::vec((any::<bool>(), 0_u64..4_000), 1..200)) {
            let start = Instant::now();
            let (mut watch, mut now, mut shown) = (Watch::new(awake(start)), start, Duration::ZERO);
            for (is_tick, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                if is_tick {
                    watch.look(awake(now));
                }
                let shows = watch.shows(now);
                prop_assert!(shows >= shown && shows <= now - start, "{:?} after {:?}", shows, shown);
                shown = shows;
            }
        }
    }
}
