//! The rules that a scenario sets for itself, by the names that both worlds tell them by.

use crate::scenario::Scenario;

/// It ends in another phase than promised.
pub(crate) const ENDS: &str = "ends";
/// The canary was taken back, and nothing was wrong with it.
pub(crate) const FOR_NOTHING: &str = "taken back for nothing";
/// The canary should have been taken back and never was.
pub(crate) const NEVER_TAKEN_BACK: &str = "never taken back";
/// It was, and too late.
pub(crate) const TAKEN_BACK_LATE: &str = "taken back late";
/// The canary should have been promoted and never was.
pub(crate) const NEVER_PROMOTED: &str = "never promoted";
/// It was, and too late.
pub(crate) const PROMOTED_LATE: &str = "promoted late";

/// Whether `small` may show that `rule` is broken as `scenario` does. What should have happened until the end did not happen
/// because the end came earlier, or because nothing went wrong: there the end stays, and so does what first harms the canary.
pub(crate) fn may_show(small: &Scenario, scenario: &Scenario, rule: &str) -> bool {
    let harm = |scenario: &Scenario| scenario.canary().and_then(|canary| scenario.first_harm(canary));
    let is_about_the_end = [ENDS, NEVER_TAKEN_BACK, NEVER_PROMOTED].contains(&rule);
    !is_about_the_end || (small.end == scenario.end && harm(small) == harm(scenario))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
about: it is taken back, which it must not be
worlds: [live]
route: { stable: v1, rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ] } }
versions: { v1: {}, v2: {} }
rate: 200
events:
  - { at: 1s, for: 5s, traffic: 2 }
  - { at: 4s, version: v2, errors: 80% }
end: 1m
";

    #[test]
    fn what_should_have_come_keeps_its_end_and_its_cause() {
        let scenario = Scenario::parse(TEXT, "small").unwrap();
        let (calm, unharmed) = (scenario.without(0), scenario.without(1));
        let shorter = Scenario { end: scenario.end / 2, ..scenario.clone() };
        for (small, at_the_end) in [(&calm, true), (&unharmed, false), (&shorter, false)] {
            assert!(may_show(small, &scenario, "nothing lost"));
            assert_eq!(may_show(small, &scenario, ENDS), at_the_end);
        }
    }
}
