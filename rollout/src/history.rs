//! What is known about stable: its long-run and present error rate, how its errors cluster, and whether it is failing now.
//!
//! A slice is judged first and remembered afterwards, so that everything a bet relies on was known before it.

use serde::{Deserialize, Serialize};

use crate::params::Params;
use crate::tally::to_f64;

/// Requests of one version or unit over some span, and how many were bad: failed, or too slow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// The bad ones.
    pub bad: u64,
}

impl Counts {
    /// Adds another span.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bad += other.bad;
    }
}

/// The part of [`Params`] that the history needs, as factors per slice.
#[derive(Debug, Clone, Copy)]
struct Pace {
    slice_s: f64,
    long_decay: f64,
    present_decay: f64,
    short_decay: f64,
    prior_bad: f64,
    prior_requests: f64,
    present_prior_requests: f64,
    icc_prior_errors: f64,
    winsor: f64,
    hold_rate: f64,
    hold_mult: f64,
    hold_min_errors: f64,
    hold_exit_s: f64,
}

impl Pace {
    fn new(params: &Params) -> Self {
        let slice_s = params.slice_s();
        Self {
            slice_s,
            long_decay: 0.5_f64.powf(slice_s / params.hist_half_life_s),
            present_decay: (-slice_s / params.cur_tau_s).exp(),
            short_decay: (-slice_s / params.hold_tau_s).exp(),
            prior_bad: params.prior_p * params.prior_n,
            prior_requests: params.prior_n,
            present_prior_requests: params.cur_prior_n,
            icc_prior_errors: params.icc_prior_errors,
            winsor: params.winsor,
            hold_rate: params.hold_rate,
            hold_mult: params.hold_mult,
            hold_min_errors: params.hold_min_errors,
            hold_exit_s: params.hold_exit_s,
        }
    }
}

/// Requests and bad ones whose weight fades with time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fading {
    requests: f64,
    bad: f64,
}

impl Fading {
    /// One slice later: the past fades by `decay`, the slice is added.
    pub(crate) fn push(&mut self, decay: f64, requests: f64, bad: f64) {
        self.requests = decay * self.requests + requests;
        self.bad = decay * self.bad + bad;
    }

    /// Bad ones as a ratio; 0 without requests.
    pub(crate) fn rate(&self) -> f64 {
        if self.requests > 0.0 { self.bad / self.requests } else { 0.0 }
    }

    /// Requests that still count.
    pub(crate) fn requests(&self) -> f64 {
        self.requests
    }
}

/// Exponentially weighted moments of stable's slices.
#[derive(Debug, Clone)]
pub struct History {
    pace: Pace,
    icc_prior: f64,
    long: Fading,
    present: Fading,
    short: Fading,
    bad_pairs: f64,
    request_pairs: f64,
    unit_slices: f64,
    hold: bool,
    calm_s: f64,
}

/// What is known of stable at one moment, as the bits of its numbers: written as text a number may come back as its
/// neighbour, and a replay is to decide as the edge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    bits: [u64; 11],
    hold: bool,
}

impl History {
    /// Everything that slices have told so far.
    pub(crate) fn remembered(&self) -> Remembered {
        let (long, present, short) = (self.long, self.present, self.short);
        let numbers = [
            self.icc_prior,
            long.requests,
            long.bad,
            present.requests,
            present.bad,
            short.requests,
            short.bad,
            self.bad_pairs,
            self.request_pairs,
            self.unit_slices,
            self.calm_s,
        ];
        Remembered { bits: numbers.map(f64::to_bits), hold: self.hold }
    }

    /// Knows from here on what another one knew, under its own parameters.
    pub(crate) fn recall(&mut self, told: &Remembered) {
        let fading = |requests, bad| Fading { requests, bad };
        let [icc_prior, n, x, present_n, present_x, short_n, short_x, bad_pairs, request_pairs, unit_slices, calm_s] =
            told.bits.map(f64::from_bits);
        (self.icc_prior, self.long, self.present) = (icc_prior, fading(n, x), fading(present_n, present_x));
        (self.short, self.bad_pairs, self.request_pairs) = (fading(short_n, short_x), bad_pairs, request_pairs);
        (self.unit_slices, self.hold, self.calm_s) = (unit_slices, told.hold, calm_s);
    }

    /// Nothing known but the priors of `params`.
    pub fn new(params: &Params) -> Self {
        Self {
            pace: Pace::new(params),
            icc_prior: params.icc_prior,
            long: Fading::default(),
            present: Fading::default(),
            short: Fading::default(),
            bad_pairs: 0.0,
            request_pairs: 0.0,
            unit_slices: 0.0,
            hold: false,
            calm_s: 0.0,
        }
    }

    /// Takes other parameters and keeps what is known.
    pub(crate) fn regauge(&mut self, params: &Params) {
        self.pace = Pace::new(params);
    }

    /// Another version becomes stable: burst size stays as the prior, a tenth of the long-run rate's weight, nothing else.
    pub(crate) fn new_baseline(&mut self) {
        self.icc_prior = self.icc(1.0);
        self.long.requests *= 0.1;
        self.long.bad *= 0.1;
        self.present = Fading::default();
        self.short = Fading::default();
        (self.bad_pairs, self.request_pairs, self.unit_slices) = (0.0, 0.0, 0.0);
        (self.hold, self.calm_s) = (false, 0.0);
    }

    /// Whether stable was seen often enough that [`History::long_rate`] says more of it than of the assumption that every
    /// history begins with.
    pub fn is_known(&self) -> bool {
        self.long.requests() >= self.pace.prior_requests
    }

    /// Long-run rate, `(X + prior) / (N + prior)`.
    pub fn long_rate(&self) -> f64 {
        (self.long.bad + self.pace.prior_bad) / (self.long.requests + self.pace.prior_requests)
    }

    /// Present rate (30 s), leaning on the long-run rate where there is little traffic.
    pub fn present_rate(&self) -> f64 {
        let prior = self.pace.present_prior_requests;
        (self.present.bad + prior * self.long_rate()) / (self.present.requests + prior)
    }

    /// Rate of the last seconds (5 s); 0 without requests.
    pub fn short_rate(&self) -> f64 {
        self.short.rate()
    }

    /// Whether stable itself is failing now, so that neither version can be blamed.
    pub fn hold(&self) -> bool {
        self.hold
    }

    /// Burst size (intra-slice correlation): `(max(Q - P p^2, 0) + 5 n prior) / (P p + 5 n)`, `Q` pairs of bad requests
    /// in the same unit and slice, `P` pairs of requests, `n` requests per unit and slice (`slice_requests` if unknown).
    pub fn icc(&self, slice_requests: f64) -> f64 {
        let rate = self.long_rate();
        let per_unit = if self.unit_slices > 0.0 { self.long.requests / self.unit_slices } else { slice_requests };
        let excess = (self.bad_pairs - self.request_pairs * rate * rate).max(0.0);
        let prior_weight = self.pace.icc_prior_errors * per_unit.max(1.0);
        (excess + prior_weight * self.icc_prior) / (self.request_pairs * rate + prior_weight)
    }

    /// The decay of the short rate per slice, so that the canary's can fade alike.
    pub(crate) fn short_decay(&self) -> f64 {
        self.pace.short_decay
    }

    /// Remembers a finished slice, given per unit (pod; one entry if they are not told apart).
    pub fn update(&mut self, units: &[Counts]) {
        let requests: f64 = units.iter().map(|unit| to_f64(unit.requests)).sum();
        let bad: f64 = units.iter().map(|unit| to_f64(unit.bad)).sum();
        if requests <= 0.0 {
            return;
        }
        let threshold = self.pace.hold_rate.max(self.pace.hold_mult * self.long_rate());
        self.present.push(self.pace.present_decay, requests, bad);
        self.short.push(self.pace.short_decay, requests, bad);
        self.watch_hold(threshold);
        if !self.hold {
            self.remember(units, requests, bad);
        }
    }

    /// Hold begins above `threshold` and ends after a while below half of it.
    fn watch_hold(&mut self, threshold: f64) {
        let rate = self.short.rate();
        if self.short.bad >= self.pace.hold_min_errors && rate > threshold {
            (self.hold, self.calm_s) = (true, 0.0);
        } else if self.hold {
            self.calm_s = if rate < 0.5 * threshold { self.calm_s + self.pace.slice_s } else { 0.0 };
            self.hold = self.calm_s < self.pace.hold_exit_s;
        }
    }

    /// The long memory; a slice enters winsorised, so that one outage does not become the norm.
    fn remember(&mut self, units: &[Counts], requests: f64, bad: f64) {
        let decay = self.pace.long_decay;
        self.long.push(decay, requests, bad.min(self.pace.winsor * requests));
        let (mut bad_pairs, mut request_pairs) = (0.0, 0.0);
        for unit in units {
            let requests = to_f64(unit.requests);
            let bad = to_f64(unit.bad).min(self.pace.winsor * requests);
            bad_pairs += bad * (bad - 1.0).max(0.0);
            request_pairs += requests * (requests - 1.0).max(0.0);
        }
        self.bad_pairs = decay * self.bad_pairs + bad_pairs;
        self.request_pairs = decay * self.request_pairs + request_pairs;
        self.unit_slices = decay * self.unit_slices + units.iter().map(|_| 1.0).sum::<f64>();
    }
}
