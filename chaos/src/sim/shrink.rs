//! The smallest scenario that shows the same: what is left when nothing more can be taken away.

use std::time::Duration;

use crate::scenario::Scenario;

/// Takes events away one by one, and shortens the end, as long as `shows` still holds of what is left.
pub fn smallest(scenario: &Scenario, shows: impl Fn(&Scenario) -> bool) -> Scenario {
    let mut small = scenario.clone();
    let mut index = 0;
    while index < small.events.len() {
        let mut fewer = small.clone();
        fewer.events.remove(index);
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
    use crate::sim::{Chosen, play};

    #[test]
    fn what_has_no_part_in_a_failure_is_taken_away() {
        let text = "
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
        let scenario = Scenario::parse(text, "small").unwrap();
        let fails = |scenario: &Scenario| !play(scenario, 1, Chosen::Pointsman).broken.is_empty();
        assert!(fails(&scenario));
        let small = smallest(&scenario, fails);
        assert_eq!(small.events.iter().map(|event| event.at.as_secs()).collect::<Vec<_>>(), [4]);
        assert!(small.end < Duration::from_mins(1), "{:?}", small.end);
    }
}
