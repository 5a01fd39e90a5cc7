//! What numbers say of a canary: within their limits, outside for a moment, or outside for so long that it goes back.

use pointsman_config::{Compared, Query, print_duration};
use pointsman_rollout::Outcome;

/// The canary's number, and stable's where it is compared with that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Numbers {
    pub(super) canary: f64,
    pub(super) stable: Option<f64>,
}

/// What one look came to.
#[derive(Debug, Clone, PartialEq)]
enum Look {
    Within(String),
    Breach(String),
    /// Nobody knows.
    Unclear(String),
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Noted {
    pub(super) outcome: Outcome,
    /// Whether the number was outside of its limits, counted or not.
    pub(super) is_breach: bool,
    pub(super) words: String,
}

impl Noted {
    fn no_breach(outcome: Outcome, words: String) -> Self {
        Self { outcome, is_breach: false, words }
    }

    fn breach(outcome: Outcome, words: String) -> Self {
        Self { outcome, is_breach: true, words }
    }
}

/// Breaches of one query, one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Streak {
    breaches: u32,
}

impl Streak {
    /// What follows from one more look, at numbers that may be `of_before` the canary's trial. What is unclear is no breach,
    /// and no pass either: it holds, and breaches before it count no more.
    pub(super) fn note(&mut self, query: &Query, seen: Result<Numbers, String>, of_before: bool) -> Noted {
        match look(query, seen) {
            Look::Within(words) => {
                self.breaches = 0;
                Noted::no_breach(Outcome::Passes, words)
            }
            Look::Unclear(why) => {
                self.breaches = 0;
                Noted::no_breach(Outcome::Holds, format!("`{}` gives no clear number: {why}", query.name))
            }
            Look::Breach(words) if of_before => {
                self.breaches = 0;
                let delay = print_duration(query.delay);
                let why = "until then its numbers may be of the time before";
                Noted::breach(
                    Outcome::Holds,
                    format!("{words}; it counts once the canary has had traffic for {delay}, {why}"),
                )
            }
            Look::Breach(words) => {
                self.breaches = self.breaches.saturating_add(1);
                let times = format!("{} of {} times in a row", self.breaches.min(query.breaches), query.breaches);
                let outcome = if self.breaches >= query.breaches { Outcome::Fails } else { Outcome::Holds };
                Noted::breach(outcome, format!("{words}, {times}"))
            }
        }
    }
}

fn look(query: &Query, seen: Result<Numbers, String>) -> Look {
    let numbers = match seen {
        Ok(numbers) => numbers,
        Err(why) => return Look::Unclear(why),
    };
    let (number, what) = match compared(query.compare, numbers) {
        Ok(compared) => compared,
        Err(why) => return Look::Unclear(why),
    };
    let words = format!("`{}`: {what}", query.name);
    if let Some(max) = query.max.filter(|max| number > *max) {
        return Look::Breach(format!("{words}, above its limit of {}", shown(max)));
    }
    if let Some(min) = query.min.filter(|min| number < *min) {
        return Look::Breach(format!("{words}, below its limit of {}", shown(min)));
    }
    Look::Within(format!("{words}, within its limits"))
}

/// The number that the limits are about, and what it is.
fn compared(how: Compared, Numbers { canary, stable }: Numbers) -> Result<(f64, String), String> {
    let beside = || stable.ok_or_else(|| "stable has no number to compare with".to_owned());
    match how {
        Compared::Value => Ok((canary, format!("the canary has {}", shown(canary)))),
        Compared::Ratio => {
            let stable = beside()?;
            let ratio = canary / stable;
            if !ratio.is_finite() {
                return Err(format!("stable has {}, and nothing can be divided by that", shown(stable)));
            }
            Ok((ratio, format!("the canary has {}, {} times stable's {}", shown(canary), shown(ratio), shown(stable))))
        }
        Compared::Difference => {
            let stable = beside()?;
            let difference = canary - stable;
            let what = format!(
                "the canary has {}, stable {}, a difference of {}",
                shown(canary),
                shown(stable),
                shown(difference)
            );
            Ok((difference, what))
        }
    }
}

/// About four digits that mean something.
fn shown(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let size = number.abs();
    if !(1e-3..1e7).contains(&size) {
        return format!("{number:.3e}");
    }
    let text = if size >= 1_000.0 {
        format!("{number:.0}")
    } else if size >= 10.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.4}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use Outcome::{Fails, Holds, Passes};
    use pointsman_config::Config;

    use super::*;

    fn query(rest: &str) -> Query {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:1] }} }}
    guard: {{ queries: [{{ name: orders, prometheus: 'http://127.0.0.1:9', query: 'x{{v=\"{{{{version}}}}\"}}', {rest} }}] }}"
        );
        Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}")).config.routes[0].guard.queries.remove(0)
    }

    fn numbers(canary: f64, stable: f64) -> Numbers {
        Numbers { canary, stable: Some(stable) }
    }

    #[test]
    fn breaches_take_back_only_in_a_row() {
        let query = query("max: 5");
        let mut streak = Streak::default();
        let mut outcomes = |seen: &[f64]| -> Vec<Outcome> {
            seen.iter()
                .map(|number| {
                    let seen = if number.is_nan() { Err("no data".to_owned()) } else { Ok(numbers(*number, 1.0)) };
                    streak.note(&query, seen, false).outcome
                })
                .collect()
        };
        assert_eq!(outcomes(&[5.0, 5.1, 5.1, 4.0]), [Passes, Holds, Holds, Passes]);
        assert_eq!(outcomes(&[6.0, 6.0, f64::NAN, 6.0, 6.0]), [Holds; 5], "what is unclear begins anew");
        assert_eq!(outcomes(&[6.0, 6.0]), [Fails, Fails]);
    }

    #[test]
    fn breaches_of_the_time_before_hold_and_are_not_counted() {
        let query = query("max: 5, breaches: 2, every: 30s");
        let mut streak = Streak::default();
        let mut note = |canary, of_before| streak.note(&query, Ok(numbers(canary, 1.0)), of_before);
        let Noted { outcome, is_breach, words } = note(6.0, true);
        assert_eq!((outcome, is_breach), (Holds, true));
        assert!(words.contains("it counts once the canary has had traffic for 1m"), "{words}");
        assert_eq!(note(6.0, true).outcome, Holds);
        assert_eq!(
            note(4.0, true),
            Noted::no_breach(Passes, "`orders`: the canary has 4, within its limits".to_owned())
        );
        assert_eq!((note(6.0, false).outcome, note(6.0, false).outcome), (Holds, Fails));
    }

    #[track_caller]
    fn check(rest: &str, seen: Result<Numbers, String>, outcome: Outcome, words: &str) {
        let query = query(&format!("breaches: 1, {rest}"));
        let noted = Streak::default().note(&query, seen, false);
        assert_eq!((noted.outcome, noted.words.as_str()), (outcome, words));
    }

    #[test]
    fn a_number_is_compared_as_the_query_says() {
        check(
            "max: 5",
            Ok(numbers(5.25, 1.0)),
            Fails,
            "`orders`: the canary has 5.25, above its limit of 5, 1 of 1 times in a row",
        );
        check(
            "min: 5",
            Ok(numbers(4.0, 1.0)),
            Fails,
            "`orders`: the canary has 4, below its limit of 5, 1 of 1 times in a row",
        );
        check("max: 5", Ok(numbers(5.0, 1.0)), Passes, "`orders`: the canary has 5, within its limits");
        check(
            "compare: ratio, min: 0.9",
            Ok(numbers(80.0, 100.0)),
            Fails,
            "`orders`: the canary has 80, 0.8 times stable's 100, below its limit of 0.9, 1 of 1 times in a row",
        );
        check(
            "compare: difference, max: 0.5",
            Ok(numbers(1.25, 1.0)),
            Passes,
            "`orders`: the canary has 1.25, stable 1, a difference of 0.25, within its limits",
        );
    }

    #[test]
    fn what_is_unclear_neither_passes_nor_fails() {
        check("max: 5", Err("it has no data".to_owned()), Holds, "`orders` gives no clear number: it has no data");
        check(
            "compare: ratio, min: 0.9",
            Ok(numbers(80.0, 0.0)),
            Holds,
            "`orders` gives no clear number: stable has 0, and nothing can be divided by that",
        );
        check(
            "compare: ratio, min: 0.9",
            Ok(Numbers { canary: 1.0, stable: None }),
            Holds,
            "`orders` gives no clear number: stable has no number to compare with",
        );
    }
}
