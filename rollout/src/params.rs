//! What the judge may be told: every number of the analysis, with its default.

use serde::{Deserialize, Serialize};

/// The numbers behind a judgement; names and defaults are those of the analysis' specification.
///
/// Rates and chances are ratios, spans are seconds unless the name says otherwise. An empty grid of bets
/// turns its path off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Length of a tick in milliseconds.
    pub tick_ms: u32,
    /// Ticks per slice; a slice is the longest blip of one version that is forgiven.
    pub ticks_per_slice: u32,
    /// Chance per horizon that the fast path takes a good canary back.
    pub alpha_fast: f64,
    /// The same for the slow path.
    pub alpha_slow: f64,
    /// The span that the budgets are spent over.
    pub horizon_s: f64,
    /// Tolerated: `canary <= rho0 * stable + delta0`.
    pub rho0: f64,
    /// Added to the tolerated rate.
    pub delta0: f64,
    /// The tolerated factor while stable itself is failing.
    pub rho0_hold: f64,
    /// Ratios of the error rates that path A bets on.
    pub rho_grid: Vec<f64>,
    /// How many rates path B bets on.
    pub spike_bets: u32,
    /// No slice wins more than this, in nats.
    pub max_nats_per_slice: f64,
    /// A canary that fails at most this share is no catastrophe.
    pub fast_p0: f64,
    /// Failing shares that the fast path bets on.
    pub fast_p1: Vec<f64>,
    /// No tick of the fast path wins more than this, in nats.
    pub fast_cap: f64,
    /// Burst size that is assumed before errors were seen.
    pub icc_prior: f64,
    /// How many errors that assumption is worth.
    pub icc_prior_errors: f64,
    /// A slice with so many errors may be a burst, and is discounted.
    pub burst_errors: f64,
    /// Half-life of stable's history.
    pub hist_half_life_s: f64,
    /// Stable's error rate before anything was seen.
    pub prior_p: f64,
    /// How many requests that is worth.
    pub prior_n: f64,
    /// A slice enters the history with at most this share of errors.
    pub winsor: f64,
    /// Time constant of stable's present rate.
    pub cur_tau_s: f64,
    /// How many requests the long-run rate is worth in it.
    pub cur_prior_n: f64,
    /// Time constant of the rate that hold looks at.
    pub hold_tau_s: f64,
    /// Hold begins above this rate of stable ...
    pub hold_rate: f64,
    /// ... and above this many times its long-run rate ...
    pub hold_mult: f64,
    /// ... with at least this many errors.
    pub hold_min_errors: f64,
    /// Hold ends after this long below half of that.
    pub hold_exit_s: f64,
    /// Chance that a canary outside the promotion margin is called non-inferior.
    pub alpha_promote: f64,
    /// Non-inferior: `canary < ni_rho * stable` ...
    pub ni_rho: f64,
    /// ... or `canary < stable + ni_delta`.
    pub ni_delta: f64,
    /// No promotion before this.
    pub min_soak_s: f64,
    /// Inconclusive after this.
    pub max_duration_s: f64,
    /// An e-value of the slow path that makes a canary suspect.
    pub soft_e: f64,
    /// One minus the confidence of the intervals shown.
    pub cs_alpha: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            tick_ms: 100,
            ticks_per_slice: 10,
            alpha_fast: 2e-4,
            alpha_slow: 6e-4,
            horizon_s: 3600.0,
            rho0: 1.1,
            delta0: 1e-4,
            rho0_hold: 2.0,
            rho_grid: vec![1.5, 2.2, 3.5, 6.0, 12.0, 30.0, 100.0, 1000.0],
            spike_bets: 6,
            max_nats_per_slice: 5.0,
            fast_p0: 0.2,
            fast_p1: vec![0.5, 0.95],
            fast_cap: 1.6,
            icc_prior: 0.01,
            icc_prior_errors: 5.0,
            burst_errors: 2.0,
            hist_half_life_s: 600.0,
            prior_p: 1e-4,
            prior_n: 5000.0,
            winsor: 0.2,
            cur_tau_s: 30.0,
            cur_prior_n: 500.0,
            hold_tau_s: 5.0,
            hold_rate: 0.05,
            hold_mult: 5.0,
            hold_min_errors: 5.0,
            hold_exit_s: 10.0,
            alpha_promote: 0.01,
            ni_rho: 1.5,
            ni_delta: 1e-3,
            min_soak_s: 300.0,
            max_duration_s: 3600.0,
            soft_e: 20.0,
            cs_alpha: 0.01,
        }
    }
}

impl Params {
    /// Length of a tick in seconds.
    pub fn tick_s(&self) -> f64 {
        f64::from(self.tick_ms) / 1000.0
    }

    /// Length of a slice in seconds.
    pub fn slice_s(&self) -> f64 {
        f64::from(self.ticks_per_slice) * f64::from(self.tick_ms) / 1000.0
    }
}
