//! The smallest scenario that shows the same: what is left when nothing more can be taken away.

use std::time::Duration;

use super::{Chosen, play};
use crate::promise::may_show;
use crate::scenario::Scenario;

/// Takes events away one by one, and shortens the end, as long as `seed` still breaks the same `rule`.
pub fn smallest(scenario: &Scenario, seed: u64, rule: &str) -> Scenario {
    smallest_that(scenario, |small| {
        may_show(small, scenario, rule)
            && play(small, seed, Chosen::Pointsman).broken.iter().any(|broken| broken.rule == rule)
    })
}

fn smallest_that(scenario: &Scenario, shows: impl Fn(&Scenario) -> bool) -> Scenario {
    let mut small = scenario.clone();
    let mut index = 0;
    while index < small.events.len() {
        let fewer = small.without(index);
        if shows(&fewer) {
            small = fewer;
        } else {
            index += 1;
        }
    }
    loop {
        let mut shorter = small.clone();
        shorter.end = Duration::from_secs(small.end.as_secs() / 2);
        if shorter.end < Duration::from_secs(1) || !shows(&shorter) {
            return small;
        }
        small = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::{ENDS, FOR_NOTHING, TAKEN_BACK_LATE};

    const TEXT: &str = "
about: it is taken back, which it must not be
route: { stable: v1, rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ] } }
versions: { v1: {}, v2: {} }
rate: 200
events:
  - { at: 1s, for: 5s, traffic: 2 }
  - { at: 4s, version: v2, errors: 80% }
  - { at: 6s, for: 1s, version: v1, slow: 1% }
end: 16m
holds: { never_taken_back: true }
";

    #[test]
    fn what_has_no_part_in_a_failure_is_taken_away() {
        let scenario = Scenario::parse(TEXT, "small").unwrap();
        let small = smallest(&scenario, 1, FOR_NOTHING);
        assert_eq!(small.events.iter().map(|event| event.at.as_secs()).collect::<Vec<_>>(), [4]);
        assert!(small.end < Duration::from_mins(1), "{:?}", small.end);
    }

    #[test]
    fn what_came_late_is_not_shown_by_what_never_comes() {
        let text = TEXT.replace("never_taken_back: true", "taken_back_within: 100ms");
        let scenario = Scenario::parse(&text, "small").unwrap();
        let broken = play(&scenario, 1, Chosen::Pointsman).broken;
        assert_eq!(broken.iter().map(|broken| broken.rule).collect::<Vec<_>>(), [TAKEN_BACK_LATE]);
        let small = smallest(&scenario, 1, TAKEN_BACK_LATE);
        assert_eq!(small.events.iter().map(|event| event.at.as_secs()).collect::<Vec<_>>(), [4]);
        assert!(small.end > Duration::from_secs(4) && small.end < Duration::from_mins(1), "{:?}", small.end);
    }

    #[test]
    fn what_never_came_is_shown_to_the_same_end_with_its_cause() {
        let text = TEXT.replace("never_taken_back: true", "ends: steady");
        let scenario = Scenario::parse(&text, "small").unwrap();
        let small = smallest(&scenario, 1, ENDS);
        assert_eq!(small.events.iter().map(|event| event.at.as_secs()).collect::<Vec<_>>(), [4]);
        assert_eq!(small.end, scenario.end);
    }
}
