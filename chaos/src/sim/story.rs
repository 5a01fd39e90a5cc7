//! The events of a scenario that are still to come.

use std::collections::VecDeque;
use std::time::Duration;

use pointsman_rollout::PhaseName;

use crate::scenario::Event;

/// What has not begun yet, in the order of time.
pub(super) struct Story {
    coming: VecDeque<Event>,
}

impl Story {
    pub(super) fn new(events: &[Event]) -> Self {
        Self { coming: events.iter().cloned().collect() }
    }

    /// The next one that begins: its time has come, and the route is in the phase that it waits for. Who waits keeps nobody
    /// else from beginning, and runs from that moment.
    pub(super) fn next(&mut self, now: Duration, phase: Option<PhaseName>) -> Option<Event> {
        let is_due = |event: &Event| event.phase.is_none() || event.phase == phase;
        let position = self.coming.iter().take_while(|event| event.at <= now).position(is_due)?;
        let mut event = self.coming.remove(position)?;
        if event.phase.is_some() {
            (event.at, event.until) = (now, event.lasts().map(|lasts| now + lasts));
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    const TEXT: &str = "
about: an event waits
route: { stable: v1, rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ] } }
versions: { v1: {}, v2: {} }
rate: 1
events:
  - { at: 1s, in: baking, for: 5s, traffic: 2 }
  - { at: 2s, for: 5s, traffic: 3 }
end: 1m
";

    #[test]
    fn who_waits_for_a_phase_lets_others_pass_and_runs_from_the_moment_in_which_it_is_reached() {
        let mut story = Story::new(&Scenario::parse(TEXT, "small").unwrap().events);
        let (shifting, baking) = (Some(PhaseName::Shifting), Some(PhaseName::Baking));
        let mut next = |seconds, phase| {
            let event = story.next(Duration::from_secs(seconds), phase)?;
            Some((event.what.swell()?.times, event.at.as_secs(), event.until?.as_secs()))
        };
        assert_eq!(next(1, shifting), None);
        assert_eq!(next(3, shifting), Some((3.0, 2, 7)));
        assert_eq!(next(3, shifting), None);
        assert_eq!(next(9, baking), Some((2.0, 9, 14)));
        assert_eq!(next(60, baking), None);
    }
}
