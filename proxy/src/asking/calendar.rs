//! The calendar: a window in which nothing goes forward is looked up once, and stands until it ends.

use chrono::{DateTime, Utc};
use pointsman_config::{Freeze, Standing};
use pointsman_rollout::Outcome;

/// What the names of freezes among the gates begin with; no name that an operator gives has a slash.
const FREEZE: &str = "freeze/";

/// Whether a gate of this name is a freeze, which orders wait for as well.
pub(crate) fn is_freeze(gate: &str) -> bool {
    gate.starts_with(FREEZE)
}

/// One freeze, and what was last looked up of it.
#[derive(Debug)]
pub(super) struct Calendar {
    freeze: Freeze,
    known: Option<Known>,
}

/// What stands from one moment to another.
#[derive(Debug, Clone, Copy)]
struct Known {
    since: DateTime<Utc>,
    standing: Standing,
}

/// A window that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// The freeze.
    pub(crate) name: String,
    /// When it ends.
    pub(crate) until: DateTime<Utc>,
    /// The same, as the clock there shows it.
    pub(crate) until_in_words: String,
}

impl Calendar {
    pub(super) fn new(freeze: Freeze) -> Self {
        Self { freeze, known: None }
    }

    pub(super) fn freeze(&self) -> &Freeze {
        &self.freeze
    }

    /// What it is called among the gates of a route.
    pub(super) fn gate_name(&self) -> String {
        format!("{FREEZE}{}", self.freeze.name)
    }

    /// What follows from it at `now`.
    pub(super) fn look(&mut self, now: DateTime<Utc>) -> (Outcome, String) {
        match self.standing(now) {
            Standing::Frozen { until } => {
                (Outcome::Holds, format!("nothing goes forward until {}", self.freeze.windows.in_words(until)))
            }
            Standing::Free { until: Some(until) } => {
                (Outcome::Passes, format!("the next window begins {}", self.freeze.windows.in_words(until)))
            }
            Standing::Free { until: None } => (Outcome::Passes, "no window comes any more".to_owned()),
        }
    }

    /// The window that is open at `now`.
    pub(super) fn frozen(&mut self, now: DateTime<Utc>) -> Option<Frozen> {
        let Standing::Frozen { until } = self.standing(now) else { return None };
        let until_in_words = self.freeze.windows.in_words(until);
        Some(Frozen { name: self.freeze.name.to_string(), until, until_in_words })
    }

    fn standing(&mut self, now: DateTime<Utc>) -> Standing {
        if let Some(known) = self.known.filter(|known| known.stands_at(now)) {
            return known.standing;
        }
        let standing = self.freeze.windows.standing(now);
        self.known = Some(Known { since: now, standing });
        standing
    }
}

impl Known {
    /// A clock that was set back needs another look.
    fn stands_at(self, now: DateTime<Utc>) -> bool {
        let until = match self.standing {
            Standing::Frozen { until } => Some(until),
            Standing::Free { until } => until,
        };
        self.since <= now && until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use pointsman_config::Config;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn a_window_holds_from_its_beginning_to_its_end_whatever_the_clock_did_before() {
        let text = "listeners: [{ address: 127.0.0.1:0 }]
freeze: [{ name: weekend, cron: '0 18 * * 5', duration: 62h, time_zone: Europe/Berlin }]
routes: [{ name: r, stable: v1, versions: { v1: { endpoints: [127.0.0.1:1] } } }]";
        let mut calendar = Calendar::new(Config::parse(text, "test").unwrap().config.freeze.remove(0));
        let (friday, monday) = (at("2026-01-30T17:00:00Z"), at("2026-02-02T07:00:00Z"));
        let second = chrono::TimeDelta::seconds(1);
        for (moment, expected) in [
            (friday - second, Outcome::Passes),
            (friday, Outcome::Holds),
            (monday - second, Outcome::Holds),
            (monday, Outcome::Passes),
            // Set back.
            (friday + second, Outcome::Holds),
        ] {
            assert_eq!(calendar.look(moment).0, expected, "{moment}");
        }
        let frozen = calendar.frozen(friday).unwrap();
        assert_eq!((frozen.name.as_str(), frozen.until), ("weekend", monday));
        assert_eq!(frozen.until_in_words, "Mon 2026-02-02 08:00 (Europe/Berlin)");
        assert_eq!(calendar.look(friday).1, "nothing goes forward until Mon 2026-02-02 08:00 (Europe/Berlin)");
    }
}
