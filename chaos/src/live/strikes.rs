//! What shows that a fault was real: how often endpoints did what they were told to do, beside how often they should have.
//!
//! Endpoints count by themselves. What they counted while the same faults were in force is one piece; an event has met the
//! pieces between its beginning and its end.

use std::collections::{BTreeMap, BTreeSet};

use super::kinds;
use crate::count::exact;
use crate::fault::{Counts, Faults, Strike};
use crate::scenario::Fault;

/// From so many strikes on that should have been there, chance does not keep most of them away.
const CERTAIN: f64 = 20.0;
/// The part of them that must be there.
const AT_LEAST: f64 = 0.25;

/// What the endpoints of one version did so far, over all their processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally(BTreeMap<Strike, Met>);

/// One kind of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Met {
    /// By the shares that were in force.
    expected: f64,
    struck: u64,
}

impl Tally {
    /// Adds what one endpoint counted from `before` to `now`, while it did as these faults say.
    pub(super) fn add(&mut self, before: &Counts, now: &Counts, faults: &Faults) {
        let exposed = exact(now.exposed.saturating_sub(before.exposed));
        for strike in Strike::ALL {
            let met = self.0.entry(strike).or_default();
            met.expected += exposed * faults.share_of(strike);
            met.struck += now.of(strike).saturating_sub(before.of(strike));
        }
    }

    /// What came after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let piece = |(strike, met): (&Strike, &Met)| {
            let before = earlier.0.get(strike).copied().unwrap_or_default();
            let met =
                Met { expected: met.expected - before.expected, struck: met.struck.saturating_sub(before.struck) };
            (*strike, met)
        };
        Self(self.0.iter().map(piece).collect())
    }

    /// How often each kind of a fault struck, and the kinds that should have and did not.
    pub(super) fn of(&self, fault: &Fault) -> Vec<Struck> {
        let together = f64::from(fault.together.max(1));
        let of = |(kind, strike): (&'static str, Strike)| {
            let Met { expected, struck } = self.0.get(&strike).copied().unwrap_or_default();
            let is_missed = expected / together >= CERTAIN && exact(struck) < expected * AT_LEAST;
            let missed =
                is_missed.then(|| format!("{kind}: {struck} where about {expected:.0} were to be, the fakes say"));
            Struck { kind, times: struck, missed }
        };
        // Two words for the same count are told by the first.
        let mut told = BTreeSet::new();
        kinds::of_fault(fault).filter(|(_, strike)| told.insert(*strike)).map(of).collect()
    }
}

/// How often one kind of a fault struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Struck {
    pub(super) kind: &'static str,
    pub(super) times: u64,
    /// Why that does not do.
    pub(super) missed: Option<String>,
}

impl Struck {
    /// Something that must have struck at least once.
    pub(super) fn surely(kind: &'static str, times: u64, missed: impl FnOnce() -> String) -> Self {
        Self { kind, times, missed: (times == 0).then(missed) }
    }

    /// Something that had hardly the time to strike.
    pub(super) fn perhaps(kind: &'static str, times: u64) -> Self {
        Self { kind, times, missed: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Scenario, What};

    fn fault(written: &str) -> Fault {
        let text = format!(
            "about: a\nroute: {{ stable: v1 }}\nversions: {{ v1: {{}} }}\nrate: 1\nend: 1m\nworlds: [live]\n\
             events: [ {{ at: 1s, version: v1, {written} }} ]\n"
        );
        let What::Fault(fault) = Scenario::parse(&text, "small").unwrap().events[0].what.clone() else {
            panic!("no fault")
        };
        fault
    }

    fn counts(exposed: u64, failed: u64, hung: u64) -> Counts {
        Counts { exposed, failed, hung, ..Counts::default() }
    }

    #[track_caller]
    fn check(written: &str, pieces: &[(Counts, Counts, Faults)], wanted: &[(&'static str, u64, bool)]) {
        let mut tally = Tally::default();
        for (before, now, faults) in pieces {
            tally.add(before, now, faults);
        }
        let found: Vec<_> = tally
            .of(&fault(written))
            .into_iter()
            .map(|struck| (struck.kind, struck.times, struck.missed.is_some()))
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_fault_that_was_told_and_never_struck_is_missed_and_chance_is_no_miss() {
        let half = Faults::none().failing(0.5, 500).unwrap();
        let start = Counts::default();
        check("errors: 50%", &[(start, counts(1_000, 490, 0), half)], &[("errors", 490, false)]);
        check("errors: 50%", &[(start, counts(1_000, 3, 0), half)], &[("errors", 3, true)]);
        check("errors: 50%", &[(start, counts(10, 0, 0), half)], &[("errors", 0, false)]);
        // In rows of fifty it may well be none of a hundred.
        check("errors: 50%, together: 50", &[(start, counts(100, 0, 0), half)], &[("errors", 0, false)]);
    }

    #[test]
    fn each_kind_of_a_fault_must_strike_and_what_others_did_before_is_left_out() {
        let both = Faults::none().failing(0.2, 500).unwrap().hanging(0.2).unwrap();
        let before = counts(5_000, 900, 70);
        let now = counts(6_000, 1_100, 70);
        check(
            "errors: 20%, hang: 20%",
            &[(before, now, both)],
            &[("errors", 200, false), ("hanging answers", 0, true)],
        );

        let mut tally = Tally::default();
        tally.add(&Counts::default(), &before, &both);
        let earlier = tally.clone();
        tally.add(&before, &now, &both);
        let piece = tally.since(&earlier).of(&fault("errors: 20%"));
        assert_eq!(piece, [Struck { kind: "errors", times: 200, missed: None }]);
    }

    #[test]
    fn what_began_anew_counts_from_nothing_and_what_was_never_told_is_not_expected() {
        let half = Faults::none().failing(0.5, 500).unwrap();
        let (first, second) = (counts(100, 50, 0), counts(60, 30, 0));
        let start = Counts::default();
        check("errors: 50%", &[(start, first, half), (start, second, half)], &[("errors", 80, false)]);
        check("errors: 50%", &[(start, counts(1_000, 0, 0), Faults::none())], &[("errors", 0, false)]);
        check("latency: { median: 9ms, p99: 90ms }", &[], &[("latency distribution", 0, false)]);
    }
}
