//! Whether chance gives the canary the share that it should: what all evidence from labels rests on.
//!
//! Draws come in with their weight, as they are made; out comes whether the split is proven to be another one (a sample
//! ratio mismatch). Then the requests of the two versions differ in more than the version, and no comparison of them
//! means anything. Under "each unit goes to the canary with the probability `w` in force when it was drawn", a bet that
//! the odds are `r` times as large wins `c ln r - n ln(1 + w (r - 1))` nats for `c` of `n` units: the likelihood ratio of
//! the share `w r / (1 + w (r - 1))` and of `w`. Its expected factor is exactly 1 for every unit, whatever `w` is and
//! however that was chosen before. So draws under different weights add up, and the mixture may be looked at after every
//! second, for ever (Ville 1939; Lindon and Malek, anytime-valid inference for multinomial count data, whose first use is
//! the sample ratio mismatch). As in the judge, half of each bet begins at the start and half anew all the time.

use pointsman_config::Share;
use serde::{Deserialize, Serialize};

use crate::bets::Bets;
use crate::judge::log_limit;
use crate::summary::Measure;
use crate::tally::{Drawn, to_f64};

/// Multiples of the odds that are bet on. The closest to 1 are 5 %: what is within about half of that is let pass, since
/// it moves no verdict (`guard.tolerance` forgives more).
const ODDS: [f64; 14] = [
    1.0 / 16.0,
    1.0 / 4.0,
    1.0 / 2.0,
    1.0 / 1.5,
    1.0 / 1.25,
    1.0 / 1.1,
    1.0 / 1.05,
    1.05,
    1.1,
    1.25,
    1.5,
    2.0,
    4.0,
    16.0,
];
/// A sound split is called broken with this probability at most per hour.
const ALPHA: f64 = 1e-4;
/// The span that this is the budget of, in seconds.
const HORIZON_S: f64 = 3600.0;
/// Bets are settled once a second.
const SECOND_S: f64 = 1.0;
/// Ticks of 100 ms in a second.
const TICKS_PER_SECOND: u32 = 10;

/// Checks the draws of one trial against their weights.
#[derive(Debug, Clone)]
pub struct SplitCheck {
    bets: Bets,
    /// Draws of the second in hand, by weight; few, since a weight rarely changes.
    second: Vec<(Share, Drawn)>,
    /// What the bets will win of them.
    gains: [f64; ODDS.len()],
    ticks: u32,
    drawn: Drawn,
    /// The canary's draws that were to be expected.
    expected: f64,
    is_void: bool,
}

/// The draws of a trial beside their weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Units that were drawn, requests or users, by side.
    pub drawn: Drawn,
    /// The canary's share that the weights asked for on average, as a ratio; none before the first draw.
    pub configured: Option<f64>,
    /// The canary's share of the draws, as a ratio; none before the first draw.
    pub observed: Option<f64>,
    /// That the split is another than configured.
    pub evidence: Measure,
}

impl Default for SplitCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl SplitCheck {
    /// A check that has seen no draw.
    pub fn new() -> Self {
        Self {
            bets: Bets::new(ODDS.len(), SECOND_S, HORIZON_S),
            second: Vec::new(),
            gains: [0.0; ODDS.len()],
            ticks: 0,
            drawn: Drawn::default(),
            expected: 0.0,
            is_void: false,
        }
    }

    /// Units were drawn under `weight`. Where there was nothing to draw, at 0 and 100 %, nothing can be wrong with it.
    pub fn draw(&mut self, weight: Share, drawn: Drawn) {
        if weight == Share::ZERO || weight == Share::WHOLE || drawn == Drawn::default() {
            return;
        }
        self.drawn += drawn;
        self.expected += weight.ratio() * to_f64(drawn.canary + drawn.stable);
        match self.second.iter_mut().find(|(known, _)| *known == weight) {
            Some((_, sum)) => *sum += drawn,
            None => self.second.push((weight, drawn)),
        }
    }

    /// 100 ms have passed; whether the split is proven to be another than configured. Once it is, it stays so.
    pub fn tick(&mut self) -> bool {
        self.ticks += 1;
        if self.ticks == TICKS_PER_SECOND {
            self.ticks = 0;
            self.settle();
        }
        self.is_void
    }

    fn settle(&mut self) {
        for (gain, odds) in self.gains.iter_mut().zip(ODDS) {
            *gain = self.second.iter().map(|(weight, drawn)| gain_of(*weight, *drawn, odds)).sum();
        }
        self.bets.settle(self.gains.iter().copied());
        self.second.clear();
        self.is_void |= self.bets.log_e() >= log_limit(ALPHA);
    }

    /// Whether the split is proven to be another than configured.
    pub fn is_void(&self) -> bool {
        self.is_void
    }

    /// Log e-value against "the split is as configured"; minus infinity before the first second.
    pub fn log_evidence(&self) -> f64 {
        self.bets.log_e()
    }

    /// What was drawn, and what should have been.
    pub fn summary(&self) -> SplitSummary {
        let all = to_f64(self.drawn.canary + self.drawn.stable);
        let share = |part: f64| (all > 0.0).then(|| part / all);
        SplitSummary {
            drawn: self.drawn,
            configured: share(self.expected),
            observed: share(to_f64(self.drawn.canary)),
            evidence: Measure::new(self.log_evidence(), log_limit(ALPHA)),
        }
    }
}

/// What a bet on `odds` times the configured odds wins of these draws, in nats: `c ln r - n ln(1 + w (r - 1))`.
fn gain_of(weight: Share, drawn: Drawn, odds: f64) -> f64 {
    let all = to_f64(drawn.canary + drawn.stable);
    to_f64(drawn.canary) * odds.ln() - all * (weight.ratio() * (odds - 1.0)).ln_1p()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(percent: u32) -> Share {
        Share::from_ppm(percent * 10_000).unwrap()
    }

    #[test]
    fn no_bet_wins_in_expectation_under_any_weight() {
        for weight in [1, 5, 50, 99].map(percent) {
            for odds in ODDS {
                let factor = |drawn| gain_of(weight, drawn, odds).exp();
                let canary = factor(Drawn { canary: 1, stable: 0 });
                let stable = factor(Drawn { canary: 0, stable: 1 });
                let mean = weight.ratio() * canary + (1.0 - weight.ratio()) * stable;
                assert!((mean - 1.0).abs() < 1e-12, "{weight} {odds}: {mean}");
            }
        }
    }

    #[test]
    fn nothing_is_wrong_where_nothing_is_drawn() {
        let mut check = SplitCheck::new();
        for _ in 0..100 {
            check.draw(Share::ZERO, Drawn { canary: 50, stable: 50 });
            check.draw(Share::WHOLE, Drawn { canary: 50, stable: 50 });
            assert!(!check.tick());
        }
        assert_eq!(check.summary().observed, None);
    }

    #[test]
    fn ten_users_who_all_chose_the_canary_are_enough() {
        let mut check = SplitCheck::new();
        check.draw(percent(5), Drawn { canary: 10, stable: 0 });
        assert!((0..10).map(|_| check.tick()).last().unwrap());
        assert!(check.summary().evidence.is_proven());
    }

    #[test]
    fn a_ramp_that_keeps_to_its_weights_is_no_mismatch_although_the_whole_looks_like_one() {
        let mut check = SplitCheck::new();
        for (weight, requests) in [(1, 100), (5, 200), (25, 300), (50, 10_000)] {
            for _ in 0..600 {
                let canary = requests * u64::from(weight) / 100;
                check.draw(percent(weight), Drawn { canary, stable: requests - canary });
                assert!(!check.tick());
            }
        }
        let summary = check.summary();
        assert!((summary.configured.unwrap() - summary.observed.unwrap()).abs() < 1e-9 && summary.observed > Some(0.4));
    }

    proptest! {
        /// How draws are spread over the ticks of a second, and in which order, changes nothing.
        #[test]
        fn only_the_sums_of_a_second_matter(parts in proptest::collection::vec((0_u64..50, 0_u64..50, any::<bool>()), 1..10)) {
            let (mut one, mut other) = (SplitCheck::new(), SplitCheck::new());
            for (canary, stable, low) in &parts {
                one.draw(percent(if *low { 5 } else { 25 }), Drawn { canary: *canary, stable: *stable });
                one.tick();
            }
            for (canary, stable, low) in parts.iter().rev() {
                other.draw(percent(if *low { 5 } else { 25 }), Drawn { canary: *canary, stable: *stable });
            }
            for _ in parts.len()..10 {
                one.tick();
            }
            for _ in 0..10 {
                other.tick();
            }
            prop_assert!((one.log_evidence() - other.log_evidence()).abs() < 1e-9);
        }
    }
}
