//! When a row is tried again, and when it is given up.

use std::time::Duration;

/// The pause after the first try that failed; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may; the receiver may have said when.
    Later(Option<Duration>),
    /// The receiver will say the same to the same.
    Never,
}

/// How long to wait before the next try of a row that is `age` old after `tries`, at least one of them; none: it is given
/// up. `chance`, from 0 to 1, spreads many edges: half of each pause is left to it.
pub(super) fn pause(
    again: Again,
    (tries, age): (u32, Duration),
    give_up_after: Duration,
    chance: f64,
) -> Option<Duration> {
    let Again::Later(asked) = again else { return None };
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1).min(16));
    let own = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    let pause = asked.map_or(own, |asked| asked.min(LONGEST_ASKED).max(own));
    (age.saturating_add(pause) <= give_up_after).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Duration = Duration::from_mins(15);

    #[test]
    fn pauses_grow_to_a_minute_and_half_of_each_is_chance() {
        let at = |tries, chance| pause(Again::Later(None), (tries, Duration::ZERO), QUARTER, chance).unwrap();
        let most: Vec<_> = (1..=8).map(|tries| at(tries, 1.0).as_secs()).collect();
        assert_eq!(most, [1, 2, 4, 8, 16, 32, 60, 60]);
        for tries in 1..=40 {
            assert_eq!(at(tries, 0.0) * 2, at(tries, 1.0));
        }
    }

    #[test]
    fn a_row_is_given_up_when_it_is_old_or_nothing_can_help() {
        let old = |age| pause(Again::Later(None), (1, age), QUARTER, 1.0);
        assert!(old(Duration::from_secs(14 * 60 + 59)).is_some() && old(QUARTER).is_none());
        assert_eq!(pause(Again::Later(None), (1, Duration::ZERO), Duration::ZERO, 0.5), None);
        assert_eq!(pause(Again::Never, (1, Duration::ZERO), QUARTER, 0.5), None);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_but_not_for_ever_and_not_for_none() {
        let asked = |span| pause(Again::Later(Some(span)), (1, Duration::ZERO), QUARTER, 1.0).unwrap();
        assert_eq!(asked(Duration::from_secs(30)), Duration::from_secs(30));
        assert_eq!(asked(Duration::from_hours(1)), LONGEST_ASKED);
        assert_eq!(asked(Duration::ZERO), FIRST_PAUSE);
    }
}
