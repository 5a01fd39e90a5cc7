//! Time in which nobody looked: the process was stopped, or its machine was paused or slept.
//!
//! Line: (clock) ► **standstill** ► control. What was under way meanwhile was late because the edge was, so it says nothing of
//! any version; and what has to last (a step, the bake, a soak) has not lasted while nobody watched. Pure: moments come in
//! as values.

use std::time::{Duration, Instant};

/// Ticks so far apart are no slow machine: nothing ran. Nor did what ends so much later than it was to end.
pub(super) const STANDSTILL: Duration = Duration::from_secs(1);
/// Whoever has not run for so long since the last standstill is on a machine that is too slow, and not on one that was paused.
/// There everything counts, or a guard that always comes late would never see a failure.
const RUNS_AT_LEAST: Duration = Duration::from_secs(10);

/// The clock that decisions go by: of each standstill it counts no more than the first second.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    /// When the last tick began.
    looked_at: Instant,
    /// What does not count.
    uncounted: Duration,
    /// When the last standstill ended.
    woke_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, looked_at: now, uncounted: Duration::ZERO, woke_at: None }
    }

    /// From now on somebody looks: what passed before is no standstill.
    pub(super) fn begin(&mut self, now: Instant) {
        self.looked_at = now;
    }

    /// What the clock shows; it never goes back.
    pub(super) fn shows(&self, now: Instant) -> Duration {
        let gap = now.saturating_duration_since(self.looked_at);
        let counted = if self.is_standstill(gap) { STANDSTILL } else { gap };
        (self.looked_at + counted).saturating_duration_since(self.began).saturating_sub(self.uncounted)
    }

    /// A tick begins; what does not count of the time since the last one, if nobody could look meanwhile.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.looked_at);
        let stood_still = self.is_standstill(gap);
        self.looked_at = now;
        let uncounted = gap.saturating_sub(STANDSTILL);
        stood_still.then(|| {
            self.uncounted += uncounted;
            self.woke_at = Some(now);
            uncounted
        })
    }

    fn is_standstill(&self, gap: Duration) -> bool {
        let has_run = |woke_at: Instant| self.looked_at.saturating_duration_since(woke_at) >= RUNS_AT_LEAST;
        gap >= STANDSTILL && self.woke_at.is_none_or(has_run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn of_a_standstill_only_the_first_second_counts() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert_eq!(watch.look(after(start, 100)), None);
        assert_eq!(watch.shows(after(start, 1_000)), Duration::from_secs(1), "a late tick is none");
        assert_eq!(watch.shows(after(start, 9_000)), Duration::from_millis(1_100), "before the tick that finds it");
        assert_eq!(watch.look(after(start, 9_000)), Some(Duration::from_millis(7_900)));
        assert_eq!(watch.shows(after(start, 9_500)), Duration::from_millis(1_600));
    }

    #[test]
    fn where_every_tick_is_late_everything_counts() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let found = (1..=20).filter(|tick| watch.look(after(start, tick * 1_500)).is_some()).count();
        assert_eq!(found, 3, "once in ten seconds at most");
        assert!(watch.shows(after(start, 30_000)) >= Duration::from_secs(28));
    }

    #[test]
    fn who_has_run_for_a_while_may_be_paused_again() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(watch.look(after(start, 5_000)).is_some());
        assert!((1..=101).all(|tick| watch.look(after(start, 5_000 + tick * 100)).is_none()));
        assert_eq!(watch.look(after(start, 20_000)), Some(Duration::from_millis(3_900)));
    }

    proptest! {
        #[test]
        fn the_clock_never_goes_back_and_never_runs_ahead(steps in proptest::collection::vec((any::<bool>(), 0_u64..4_000), 1..200)) {
            let start = Instant::now();
            let (mut watch, mut now, mut shown) = (Watch::new(start), start, Duration::ZERO);
            for (is_tick, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                if is_tick {
                    watch.look(now);
                }
                let shows = watch.shows(now);
                prop_assert!(shows >= shown && shows <= now - start, "{:?} after {:?}", shows, shown);
                shown = shows;
            }
        }
    }
}
