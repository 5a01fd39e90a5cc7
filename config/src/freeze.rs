//! Windows in which nothing goes forward: a moment of the calendar at which each begins, and how long it lasts.
//!
//! A window begins at a wall clock and lasts a span of real time: 62 hours from Friday evening are 62 hours on the weekend
//! of a change to summer time as well. Where the wall clock leaves its beginning out, it begins when the clock goes on;
//! where it shows it twice, at the first time.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Serialize, Serializer};

use crate::split::{Name, RouteName};
use crate::units::print_duration;

/// Windows that lie end to end and are looked through at most; more never end.
const MOST_JOINED: usize = 1_000;
/// A freeze that lasts so long without a gap never ends, for who waits for it.
const FOR_EVER: TimeDelta = TimeDelta::days(366);

/// Windows in which no step is taken and nothing is promoted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Freeze {
    /// Its unique name.
    pub name: Name,
    /// When.
    pub windows: Windows,
    /// Of which routes; none: of all.
    pub routes: BTreeSet<RouteName>,
}

impl Freeze {
    /// Whether it is about `route`.
    pub fn is_of(&self, route: &RouteName) -> bool {
        self.routes.is_empty() || self.routes.contains(route)
    }
}

/// Windows that come again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    cron: Cron,
    zone: Tz,
    lasts: Duration,
}

/// Whether a window is open at a moment, and until when that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// None is.
    Free {
        /// The next one begins; none: there is no next one.
        until: Option<DateTime<Utc>>,
    },
    /// One is.
    Frozen {
        /// It ends, and no other one has begun by then.
        until: DateTime<Utc>,
    },
}

impl Windows {
    /// Windows that begin as `cron` says (five fields) in `zone` and last as long as `lasts`.
    ///
    /// # Errors
    /// If `cron` is no such expression; why.
    pub(crate) fn new(cron: &str, zone: Tz, lasts: Duration) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(cron).map_err(|error| error.to_string())?;
        Ok(Self { cron, zone, lasts })
    }

    /// Whether a window is open at `now`.
    pub fn standing(&self, now: DateTime<Utc>) -> Standing {
        let last = self.cron.find_previous_occurrence(&now.with_timezone(&self.zone), true).ok();
        match last.map(|start| (start, self.end(&start))) {
            Some((start, end)) if end > now => Standing::Frozen { until: self.joined(start, end).0 },
            Some(_) | None => {
                Standing::Free { until: self.next(&now.with_timezone(&self.zone)).map(|next| next.to_utc()) }
            }
        }
    }

    /// A moment as a wall clock there shows it.
    pub fn in_words(&self, moment: DateTime<Utc>) -> String {
        let there = moment.with_timezone(&self.zone);
        format!("{} ({})", there.format("%a %Y-%m-%d %H:%M"), self.zone.name())
    }

    /// Whether a window that began after `moment` never ends; none if none ever begins.
    pub(crate) fn never_ends(&self, moment: DateTime<Utc>) -> Option<bool> {
        let start = self.next(&moment.with_timezone(&self.zone))?;
        let (end, is_whole) = self.joined(start, self.end(&start));
        Some(!is_whole || end - start.to_utc() > FOR_EVER)
    }

    /// The end of the windows that lie end to end from the one on that begins at `start`; whether it was found.
    fn joined(&self, mut start: DateTime<Tz>, mut end: DateTime<Utc>) -> (DateTime<Utc>, bool) {
        for _ in 0..MOST_JOINED {
            let Some(next) = self.next(&start).filter(|next| next.to_utc() <= end) else { return (end, true) };
            end = self.end(&next);
            start = next;
        }
        (end, false)
    }

    fn next(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        self.cron.find_next_occurrence(after, false).ok()
    }

    fn end(&self, start: &DateTime<Tz>) -> DateTime<Utc> {
        let lasts = TimeDelta::from_std(self.lasts).unwrap_or(TimeDelta::MAX);
        start.to_utc().checked_add_signed(lasts).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// As the file has it.
    pub(crate) fn written(&self) -> [String; 3] {
        [self.cron.as_str().to_owned(), self.zone.name().to_owned(), print_duration(self.lasts)]
    }
}

impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [cron, time_zone, duration] = self.written();
        serializer.collect_map([("cron", cron), ("time_zone", time_zone), ("duration", duration)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(cron: &str, zone: &str, hours: u64) -> Windows {
        Windows::new(cron, zone.parse().unwrap(), Duration::from_hours(hours)).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[track_caller]
    fn check_frozen(windows: &Windows, from: &str, until: &str) {
        let (from, until) = (at(from), at(until));
        let second = TimeDelta::seconds(1);
        assert_eq!(windows.standing(from - second), Standing::Free { until: Some(from) });
        for inside in [from, from + second, until - second] {
            assert_eq!(windows.standing(inside), Standing::Frozen { until }, "{inside}");
        }
        assert!(matches!(windows.standing(until), Standing::Free { .. }), "{:?}", windows.standing(until));
    }

    #[test]
    fn a_window_begins_at_a_wall_clock_and_lasts_real_time() {
        let weekend = windows("0 18 * * 5", "Europe/Berlin", 62);
        check_frozen(&weekend, "2026-01-30T17:00:00Z", "2026-02-02T07:00:00Z");
        // Summer time begins on 29 March 2026 and ends on 25 October.
        check_frozen(&weekend, "2026-03-27T17:00:00Z", "2026-03-30T07:00:00Z");
        check_frozen(&weekend, "2026-10-23T16:00:00Z", "2026-10-26T06:00:00Z");
        check_frozen(&weekend, "2026-07-03T16:00:00Z", "2026-07-06T06:00:00Z");
    }

    #[test]
    fn a_beginning_that_the_clock_leaves_out_is_when_it_goes_on_and_one_shown_twice_is_the_first() {
        let night = windows("30 2 * * *", "Europe/Berlin", 1);
        // 02:00 is 03:00 on 29 March 2026.
        check_frozen(&night, "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z");
        // 03:00 is 02:00 again on 25 October.
        check_frozen(&night, "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z");
    }

    #[test]
    fn windows_that_touch_or_overlap_are_one() {
        let days = windows("0 0 24-26 12 *", "UTC", 24);
        check_frozen(&days, "2026-12-24T00:00:00Z", "2026-12-27T00:00:00Z");
        let longer = windows("0 0 24-26 12 *", "UTC", 30);
        check_frozen(&longer, "2026-12-24T00:00:00Z", "2026-12-27T06:00:00Z");
    }

    #[test]
    fn a_freeze_without_a_gap_never_ends_and_one_without_a_day_never_begins() {
        let moment = at("2026-01-01T00:00:00Z");
        let never_ends = |cron, hours| windows(cron, "Europe/Berlin", hours).never_ends(moment);
        assert_eq!(never_ends("0 18 * * 5", 62), Some(false));
        assert_eq!(never_ends("0 0 * * *", 23), Some(false));
        assert_eq!(never_ends("0 0 * * *", 25), Some(true));
        assert_eq!(never_ends("* * * * *", 1), Some(true));
        assert_eq!(never_ends("0 18 * * 5", 24 * 7 + 1), Some(true));
        assert_eq!(never_ends("0 0 30 2 *", 1), None);
    }

    #[test]
    fn a_moment_is_told_as_the_wall_clock_there_shows_it() {
        let weekend = windows("0 18 * * 5", "America/New_York", 1);
        assert_eq!(weekend.in_words(at("2026-01-30T23:30:00Z")), "Fri 2026-01-30 18:30 (America/New_York)");
    }
}
