//! The absolute limit: one version without a control group, in a bake or at 100 %.
//!
//! Common causes cannot be told apart here, so the limit stands far above what stable used to fail, and whoever goes
//! back on this evidence first looks whether the other version is healthy.

use crate::bets::Bets;
use crate::judge::log_limit;
use crate::summary::{AloneSummary, Measure};
use crate::tally::{Tally, to_f64};

/// Bets at these multiples of the limit, those below 95 %; and always at 95 %.
const MULTIPLES: [f64; 6] = [1.3, 1.8, 3.0, 6.0, 12.0, 30.0];
/// The highest rate that is bet on.
const HIGHEST: f64 = 0.95;
/// No tick wins more, in nats: like the fast path, so that a burst of 100 ms cannot trip it.
const CAP_PER_TICK: f64 = 1.6;
/// No second wins more, in nats: like the slow path, so that no single second decides.
const CAP_PER_SLICE: f64 = 5.0;
/// Length of a tick in seconds.
const TICK_S: f64 = 0.1;
/// Ticks in a slice of one second.
const TICKS_PER_SLICE: u32 = 10;
/// The span that `alpha` is the budget of, in seconds.
const HORIZON_S: f64 = 3600.0;

/// One rate above the limit that is bet on.
#[derive(Debug, Clone, Copy)]
struct Bet {
    /// `ln(rate / limit)`: what an error wins.
    error: f64,
    /// `ln((1 - rate) / (1 - limit))`: what a success loses.
    success: f64,
    /// What it may still win in this slice, in nats.
    allowance: f64,
}

/// Tests "no more than `limit` of the requests fail" with one sample.
///
/// Each bet on a rate `p` above the limit `L` multiplies its wealth by the likelihood ratio
/// `(p/L)^errors ((1-p)/(1-L))^successes`. While the true chance of an error is at most `L`, whatever happened before,
/// that factor is at most 1 in expectation, and taking winnings away (the caps) only lowers it: so the even mixture of
/// bets begun at the start and begun anew each tick is an e-process, and by Ville's inequality the chance that it ever
/// reaches `1/alpha` is at most `alpha` per hour (Wald 1945; Waudby-Smith and Ramdas; Shin, Ramdas and Rinaldo). Errors
/// that come in bursts break the assumption; the caps per tick and per second are there for them.
#[derive(Debug, Clone)]
pub struct Absolute {
    limit: f64,
    threshold: f64,
    bets: Bets,
    by_rate: Vec<Bet>,
    ticks_in_slice: u32,
    latched: bool,
}

impl Absolute {
    /// Of a limit as a ratio and the chance per hour of a false alarm at that very rate. A limit of 0 is taken as
    /// one in a million; one of 95 % or more is never passed.
    pub fn new(limit: f64, alpha: f64) -> Self {
        let limit = limit.clamp(1e-6, 1.0);
        let rates = MULTIPLES.iter().map(|multiple| multiple * limit).filter(|&rate| rate < HIGHEST);
        let highest = (limit < HIGHEST).then_some(HIGHEST);
        let bet = |rate: f64| Bet {
            error: (rate / limit).ln(),
            success: ((1.0 - rate) / (1.0 - limit)).ln(),
            allowance: CAP_PER_SLICE,
        };
        let by_rate: Vec<_> = rates.chain(highest).map(bet).collect();
        let bets = Bets::new(by_rate.len(), TICK_S, HORIZON_S);
        Self { limit, threshold: log_limit(alpha), bets, by_rate, ticks_in_slice: 0, latched: false }
    }

    /// 100 ms of the version's requests; whether the limit is proven passed. Once it is, it stays so.
    pub fn tick(&mut self, tally: Tally) -> bool {
        let (errors, successes) = (to_f64(tally.errors), to_f64(tally.requests) - to_f64(tally.errors));
        self.bets.settle(self.by_rate.iter_mut().map(|bet| {
            let gain = (errors * bet.error + successes * bet.success).min(CAP_PER_TICK).min(bet.allowance);
            bet.allowance -= gain.max(0.0);
            gain
        }));
        self.ticks_in_slice += 1;
        if self.ticks_in_slice == TICKS_PER_SLICE {
            self.ticks_in_slice = 0;
            for bet in &mut self.by_rate {
                bet.allowance = CAP_PER_SLICE;
            }
        }
        self.latched |= self.bets.log_e() >= self.threshold;
        self.latched
    }

    /// Log e-value against "at most the limit fails"; minus infinity before the first tick.
    pub fn log_evidence(&self) -> f64 {
        self.bets.log_e()
    }

    /// The log e-value that proves it.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The limit, as a ratio.
    pub fn limit(&self) -> f64 {
        self.limit
    }
}

/// A version that is held to an absolute limit, and what it did since.
#[derive(Debug, Clone)]
pub(crate) struct Alone {
    test: Absolute,
    tally: Tally,
    ticks: u64,
}

impl Alone {
    /// Of a limit as a ratio and the chance per hour of a false alarm; nothing is seen yet.
    pub(crate) fn new(limit: f64, alpha: f64) -> Self {
        Self { test: Absolute::new(limit, alpha), tally: Tally::default(), ticks: 0 }
    }

    /// 100 ms of its requests; whether the limit is proven passed.
    pub(crate) fn tick(&mut self, tally: Tally) -> bool {
        self.tally += tally;
        self.ticks += 1;
        self.test.tick(tally)
    }

    /// Whether the limit was proven passed.
    pub(crate) fn is_passed(&self) -> bool {
        self.test.latched
    }

    /// The test.
    pub(crate) fn test(&self) -> &Absolute {
        &self.test
    }

    /// What was seen, for people.
    pub(crate) fn summary(&self) -> AloneSummary {
        AloneSummary {
            tally: self.tally,
            elapsed_seconds: to_f64(self.ticks) * TICK_S,
            limit: self.test.limit,
            evidence: Measure::new(self.test.log_evidence(), self.test.threshold),
        }
    }
}
