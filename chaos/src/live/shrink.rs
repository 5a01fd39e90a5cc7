//! The smallest scenario that shows the same on real processes, each try in real time.

use std::time::Duration;

use super::{LiveError, Programs, try_out};
use crate::promise::may_show;
use crate::scenario::Scenario;

/// Processes start and end in about so long.
const AROUND: Duration = Duration::from_secs(8);
/// How often the end is brought forward by half.
const HALVINGS: usize = 3;
/// A scenario ends later than that.
const SHORTEST: Duration = Duration::from_secs(2);

/// How long it takes at most to find the smallest.
pub fn takes(scenario: &Scenario) -> Duration {
    let tries = u32::try_from(scenario.events.len() + HALVINGS).unwrap_or(u32::MAX);
    (scenario.end.div_f64(scenario.live.speed) + AROUND).saturating_mul(tries)
}

/// Takes events away one by one, and brings the end forward, as long as the same `rule` is still broken; `told` hears of each
/// try before it is played. What fails by chance only may come out larger than it need be.
///
/// # Errors
/// When the world breaks down.
pub async fn smallest(
    scenario: &Scenario,
    programs: &Programs,
    rule: &str,
    mut told: impl FnMut(&Scenario),
) -> Result<Scenario, LiveError> {
    let mut small = scenario.clone();
    let mut index = 0;
    while index < small.events.len() {
        let fewer = small.without(index);
        told(&fewer);
        if may_show(&fewer, scenario, rule) && shows(&fewer, programs, rule).await? {
            small = fewer;
        } else {
            index += 1;
        }
    }
    for _ in 0..HALVINGS {
        let shorter = Scenario { end: small.end / 2, ..small.clone() };
        if shorter.end < SHORTEST || !may_show(&shorter, scenario, rule) {
            break;
        }
        told(&shorter);
        if !shows(&shorter, programs, rule).await? {
            break;
        }
        small = shorter;
    }
    Ok(small)
}

async fn shows(scenario: &Scenario, programs: &Programs, rule: &str) -> Result<bool, LiveError> {
    let record = try_out(scenario, programs).await?;
    Ok(record.rules.iter().any(|broken| broken == rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
about: it is taken back, which it must not be
worlds: [live]
live: { speed: 2 }
route: { stable: v1, rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ] } }
versions: { v1: {}, v2: {} }
rate: 200
events:
  - { at: 1s, for: 5s, traffic: 2 }
  - { at: 4s, version: v2, errors: 80% }
end: 1m
";

    #[test]
    fn each_event_and_each_end_is_a_try() {
        let scenario = Scenario::parse(TEXT, "small").unwrap();
        // Two events and three ends, of half a minute and what is around it.
        assert_eq!(takes(&scenario), (Duration::from_secs(30) + AROUND) * 5);
    }
}
