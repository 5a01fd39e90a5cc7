//! The fast path: a canary that fails most of its requests is found within ticks.

use crate::bets::Bets;
use crate::params::Params;
use crate::stats::Labels;

/// Logs of what one label and outcome pays; fixed while weight and stable's rate are.
#[derive(Debug, Clone, Copy, Default)]
struct LabelOdds {
    canary_bad: f64,
    stable_bad: f64,
    canary_good: f64,
    stable_good: f64,
}

impl LabelOdds {
    /// For a canary that fails `rate` beside a stable that fails `stable`.
    fn new(weight: f64, rate: f64, stable: f64) -> Self {
        let rest = 1.0 - weight;
        let of_bad = weight * rate / (weight * rate + rest * stable);
        let of_good = weight * (1.0 - rate) / (weight * (1.0 - rate) + rest * (1.0 - stable));
        Self {
            canary_bad: (of_bad / weight).ln(),
            stable_bad: ((1.0 - of_bad) / rest).ln(),
            canary_good: (of_good / weight).ln(),
            stable_good: ((1.0 - of_good) / rest).ln(),
        }
    }

    fn evidence(&self, row: &Labels) -> f64 {
        row.canary_bad * self.canary_bad
            + row.stable_bad * self.stable_bad
            + (row.canary_requests - row.canary_bad) * self.canary_good
            + (row.stable_requests - row.stable_bad) * self.stable_good
    }
}

/// One bet on a failing share of the canary.
#[derive(Debug, Clone)]
struct CatastropheBet {
    rate: f64,
    own_bad: f64,
    own_good: f64,
    odds: LabelOdds,
    from_labels: f64,
    from_own_rate: f64,
}

/// Bets every tick against "the canary fails at most `fast_p0`" and against "labels are drawn by chance":
/// a bet wins no more than either test alone, nor than `fast_cap`, so that one burst cannot trip it.
#[derive(Debug, Clone)]
pub(crate) struct CatastropheTest {
    bets: Bets,
    by_rate: Vec<CatastropheBet>,
    /// What the odds were made for: bits of weight and of stable's rate.
    odds_for: (u64, u64),
    cap: f64,
}

impl CatastropheTest {
    pub(crate) fn new(params: &Params) -> Self {
        let bet = |&rate: &f64| CatastropheBet {
            rate,
            own_bad: (rate / params.fast_p0).ln(),
            own_good: ((1.0 - rate) / (1.0 - params.fast_p0)).ln(),
            odds: LabelOdds::default(),
            from_labels: 0.0,
            from_own_rate: 0.0,
        };
        let by_rate: Vec<_> = params.fast_p1.iter().map(bet).collect();
        let bets = Bets::new(by_rate.len(), params.tick_s(), params.horizon_s);
        Self { bets, by_rate, odds_for: (0, 0), cap: params.fast_cap }
    }

    /// Log e-value.
    pub(crate) fn log_e(&self) -> f64 {
        self.bets.log_e()
    }

    /// Takes the rows of one tick; `stable_rate` is what is known about stable before it.
    pub(crate) fn observe(&mut self, rows: impl Iterator<Item = Labels>, stable_rate: f64) {
        if self.by_rate.is_empty() {
            return;
        }
        for row in rows {
            self.observe_row(&row, stable_rate);
        }
        let cap = self.cap;
        self.bets.settle(self.by_rate.iter_mut().map(|bet| {
            let gain = bet.from_labels.min(bet.from_own_rate).min(cap);
            (bet.from_labels, bet.from_own_rate) = (0.0, 0.0);
            gain
        }));
    }

    fn observe_row(&mut self, row: &Labels, stable_rate: f64) {
        if row.is_drawn() {
            self.refresh_odds(row.weight, stable_rate);
        }
        for bet in &mut self.by_rate {
            bet.from_own_rate += row.canary_bad * bet.own_bad + (row.canary_requests - row.canary_bad) * bet.own_good;
            if row.is_drawn() {
                bet.from_labels += bet.odds.evidence(row);
            }
        }
    }

    /// The odds change with weight and with stable's rate only, that is once a slice.
    fn refresh_odds(&mut self, weight: f64, stable_rate: f64) {
        let wanted = (weight.to_bits(), stable_rate.to_bits());
        if self.odds_for != wanted {
            self.odds_for = wanted;
            for bet in &mut self.by_rate {
                bet.odds = LabelOdds::new(weight, bet.rate, stable_rate);
            }
        }
    }
}
