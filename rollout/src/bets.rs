//! Mixtures of bets: some begun at the start, some begun anew all the time.
//!
//! A bet that starts with the canary finds what was wrong from the first request; one that could begin at any
//! moment finds what goes wrong after an hour of health. Their mixture is an e-detector (Shin, Ramdas and
//! Rinaldo), whose restart weights spend the budget evenly over the horizon.

use crate::stats::{log_add, log_sum};

/// The wealth of one bet, as logarithms.
#[derive(Debug, Clone, Copy)]
struct Wealth {
    from_start: f64,
    restarted: f64,
}

/// One family of bets and what it is worth together.
#[derive(Debug, Clone)]
pub(crate) struct Bets {
    wealth: Vec<Wealth>,
    log_restart: f64,
    log_e: f64,
}

impl Bets {
    /// `count` bets; each settlement a share of `step / horizon` begins anew.
    pub(crate) fn new(count: usize, step_s: f64, horizon_s: f64) -> Self {
        let fresh = Wealth { from_start: 0.0, restarted: f64::NEG_INFINITY };
        Self { wealth: vec![fresh; count], log_restart: (step_s / horizon_s).ln(), log_e: f64::NEG_INFINITY }
    }

    /// Books what each bet won, in nats; bets without a gain stay as they are.
    pub(crate) fn settle(&mut self, gains: impl Iterator<Item = f64>) {
        for (wealth, gain) in self.wealth.iter_mut().zip(gains) {
            wealth.from_start += gain;
            wealth.restarted = log_add(wealth.restarted, self.log_restart) + gain;
        }
        self.log_e = self.mixture();
    }

    /// `ln` of the even mixture of all bets, half of it from the start.
    fn mixture(&self) -> f64 {
        let all = self.wealth.iter().flat_map(|wealth| [wealth.from_start, wealth.restarted]);
        let total = log_sum(all);
        if total == f64::NEG_INFINITY { total } else { total + (0.5 / f64_of(self.wealth.len())).ln() }
    }

    /// Log e-value of the mixture; minus infinity before the first settlement and without bets.
    pub(crate) fn log_e(&self) -> f64 {
        self.log_e
    }
}

/// A number of bets as a float.
fn f64_of(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
