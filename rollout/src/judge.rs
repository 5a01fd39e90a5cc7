//! The judge of one metric that is a share of bad requests: errors, or answers slower than a threshold.
//!
//! Tallies come in, every tick; a verdict goes out to the comparison. It is a port of the analysis' reference and
//! agrees with it on the test vectors. Each test is a bet against "the canary is fine" (see [`crate::stats`]);
//! the order of what is used and what is remembered matters: everything a bet relies on was known before it.

use std::f64::consts::LN_2;

use crate::bets::Bets;
use crate::catastrophe::CatastropheTest;
use crate::confidence::{Interval, difference_interval, ratio_interval};
use crate::evidence::Evidence;
use crate::history::{Counts, Fading, History};
use crate::params::Params;
use crate::stats::{
    Bursts, Labels, Tolerated, beta_binomial_kernel, burst_discount, label_evidence, log_add, non_inferiority_stake,
    row_of,
};
use crate::tally::to_f64;
use crate::verdict::{Regression, Verdict, Waiting};

/// What became known in one tick about the requests assigned under one weight.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CountRow {
    /// The chance that one of these requests went to the canary, 0 to 1.
    pub weight: f64,
    /// The canary's.
    pub canary: Counts,
    /// Stable's.
    pub stable: Counts,
}

impl CountRow {
    fn labels(&self) -> Labels {
        Labels {
            weight: self.weight,
            canary_requests: to_f64(self.canary.requests),
            canary_bad: to_f64(self.canary.bad),
            stable_requests: to_f64(self.stable.requests),
            stable_bad: to_f64(self.stable.bad),
        }
    }
}

/// What one of stable's units (pods) did in one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitCounts {
    /// Which unit; any number that tells it from the others.
    pub unit: u64,
    /// What it did.
    pub counts: Counts,
}

/// The slice that is being collected.
#[derive(Debug, Clone, Default)]
struct Slice {
    rows: Vec<Labels>,
    stable: Counts,
    unit_ids: Vec<u64>,
    units: Vec<Counts>,
}

impl Slice {
    fn add_row(&mut self, row: &CountRow) {
        self.stable.add(row.stable);
        if let Some(labels) = row_of(&mut self.rows, row.weight) {
            labels.add_scaled(&row.labels(), 1.0);
        }
    }

    fn add_unit(&mut self, unit: &UnitCounts) {
        let place = self.unit_ids.binary_search(&unit.unit).unwrap_or_else(|gap| {
            self.unit_ids.insert(gap, unit.unit);
            self.units.insert(gap, Counts::default());
            gap
        });
        if let Some(counts) = self.units.get_mut(place) {
            counts.add(unit.counts);
        }
    }

    /// Forgets the counts and keeps the memory.
    fn clear(&mut self) {
        self.rows.clear();
        self.stable = Counts::default();
        self.unit_ids.clear();
        self.units.clear();
    }

    fn requests(&self) -> f64 {
        self.rows.iter().map(Labels::requests).sum()
    }

    /// The rows whose labels were drawn by chance.
    fn drawn(&self) -> impl Iterator<Item = &Labels> + Clone {
        self.rows.iter().filter(|row| row.is_drawn())
    }
}

/// What is known when a slice is judged, fixed before it is looked at.
#[derive(Debug, Clone, Copy)]
struct Known {
    tolerated: Tolerated,
    bursts: Bursts,
    present_rate: f64,
    hold: bool,
}

/// Evidence that the canary is no worse than a margin allows: one bet per form of the margin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NonInferiority {
    /// Against `canary >= ni_rho * stable`.
    pub(crate) ratio: f64,
    /// Against `canary >= stable + ni_delta`.
    pub(crate) difference: f64,
}

impl NonInferiority {
    /// Log e-value of the mixture of both.
    pub(crate) fn log_e(&self) -> f64 {
        log_add(self.ratio, self.difference) - LN_2
    }

    /// What the counts of `labels` win, before tempering; `rate` is stable's present one.
    pub(crate) fn gain(labels: &Labels, rate: f64, params: &Params) -> Self {
        let (w, rest) = (labels.weight, 1.0 - labels.weight);
        let by_ratio = Tolerated { ratio: params.ni_rho, difference: 0.0 };
        let by_difference = Tolerated { ratio: 1.0, difference: params.ni_delta };
        let l1 = non_inferiority_stake(w, rate, rate, by_ratio);
        let l2 = non_inferiority_stake(w, rate, rate, by_difference);
        let price = l2 * params.ni_delta;
        Self {
            ratio: labels.canary_bad * (1.0 - l1 / w).ln() + labels.stable_bad * (1.0 + params.ni_rho * l1 / rest).ln(),
            difference: labels.canary_bad * (1.0 - l2 / w + price).ln()
                + labels.stable_bad * (1.0 + l2 / rest + price).ln()
                + labels.good() * price.ln_1p(),
        }
    }
}

/// Tempering of what is summed over a slice: bursty requests count for less than their number, `1 / (1 + w N icc / u_c)`.
pub(crate) fn tempering(weight: f64, requests: f64, icc: f64, canary_units: f64) -> f64 {
    1.0 / (1.0 + weight * requests * icc / canary_units)
}

/// Judges one metric of one canary.
#[derive(Debug, Clone)]
pub struct Judge {
    params: Params,
    history: History,
    /// Fast path.
    catastrophe: CatastropheTest,
    /// Path A: the canary is worse than stable at the same time.
    persistent: Bets,
    /// Path B: and worse than stable ever was.
    spikes: Bets,
    non_inferiority: NonInferiority,
    /// Tempered counts per weight, for the intervals.
    strata: Vec<Labels>,
    slice: Slice,
    canary: Counts,
    stable: Counts,
    canary_units: u32,
    /// The canary's short rate; words the reason of a hold.
    canary_short: Fading,
    ticks: u64,
    last_discount: f64,
    latched: Option<(Regression, f64)>,
}

impl Judge {
    /// A judge who has seen nothing.
    pub fn new(params: Params) -> Self {
        let history = History::new(&params);
        Self::with_history(params, history)
    }

    fn with_history(params: Params, history: History) -> Self {
        Self {
            catastrophe: CatastropheTest::new(&params),
            persistent: Bets::new(params.rho_grid.len(), params.slice_s(), params.horizon_s),
            spikes: Bets::new(spike_rates(&params, 0.0).count(), params.slice_s(), params.horizon_s),
            non_inferiority: NonInferiority::default(),
            strata: Vec::new(),
            slice: Slice::default(),
            canary: Counts::default(),
            stable: Counts::default(),
            canary_units: 1,
            canary_short: Fading::default(),
            ticks: 0,
            last_discount: 0.0,
            latched: None,
            history,
            params,
        }
    }

    /// A new canary beside the same stable: no evidence, the same history.
    pub(crate) fn restart(&mut self) {
        *self = Self::with_history(self.params.clone(), self.history.clone());
    }

    /// Another stable: no evidence, and of the history what carries over.
    pub(crate) fn new_baseline(&mut self) {
        self.history.new_baseline();
        self.restart();
    }

    /// Other limits, tolerances and margins for what follows; evidence, history and grids of bets stay.
    pub(crate) fn regauge(&mut self, params: Params) {
        self.history.regauge(&params);
        self.params = params;
    }

    /// The parameters in force.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What is known about stable.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What is known about stable, to be told.
    pub(crate) fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// A finished slice of stable alone, per unit (one entry if they are not told apart).
    pub fn baseline_history(&mut self, units: &[Counts]) {
        self.history.update(units);
    }

    /// One tick: `rows` per weight, stable's `units` if they are told apart, and the canary's number of units if known.
    pub fn tick(&mut self, rows: &[CountRow], units: &[UnitCounts], canary_units: Option<u32>) -> Verdict {
        for row in rows {
            self.slice.add_row(row);
            self.canary.add(row.canary);
            self.stable.add(row.stable);
        }
        for unit in units {
            self.slice.add_unit(unit);
        }
        if let Some(units) = canary_units.filter(|&units| units > 0) {
            self.canary_units = units;
        }
        if !self.history.hold() {
            let stable_rate = self.history.present_rate().max(self.history.short_rate()).clamp(0.005, 0.2);
            self.catastrophe.observe(rows.iter().map(CountRow::labels), stable_rate);
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(u64::from(self.params.ticks_per_slice)) {
            self.judge_slice();
            self.slice.clear();
        }
        self.latch();
        self.verdict()
    }

    /// The end of a slice: bets first, history last.
    fn judge_slice(&mut self) {
        let known = self.known();
        self.last_discount = self
            .slice
            .drawn()
            .filter(|row| row.bad() >= self.params.burst_errors)
            .map(|row| burst_discount(row, known.tolerated.ratio, known.bursts))
            .sum();
        self.bet_on_persistent_differences(known);
        self.bet_on_spikes(known);
        self.collect(known);
        let stable = [self.slice.stable];
        let units = if self.slice.units.is_empty() { stable.as_slice() } else { self.slice.units.as_slice() };
        if self.slice.stable.requests > 0 {
            self.history.update(units);
        }
    }

    fn known(&self) -> Known {
        let hold = self.history.hold();
        let told_apart = !self.slice.units.is_empty();
        Known {
            tolerated: Tolerated {
                ratio: if hold { self.params.rho0_hold } else { self.params.rho0 },
                difference: self.params.delta0,
            },
            bursts: Bursts {
                icc: self.history.icc(self.slice.requests().max(1.0)),
                rate: self.history.long_rate(),
                canary_units: if told_apart { f64::from(self.canary_units) } else { 1.0 },
                stable_units: if told_apart { self.slice.units.iter().map(|_| 1.0).sum() } else { 1.0 },
            },
            present_rate: self.history.present_rate().max(1e-5),
            hold,
        }
    }

    /// Path A: the labels of the bad requests, less the burst discount, capped.
    fn bet_on_persistent_differences(&mut self, known: Known) {
        let (slice, discount, cap) = (&self.slice, self.last_discount, self.params.max_nats_per_slice);
        self.persistent.settle(self.params.rho_grid.iter().map(|&ratio| {
            let worth_it = ratio >= 1.15 * known.tolerated.ratio;
            let labels =
                if worth_it { slice.drawn().map(|row| label_evidence(row, ratio, known.tolerated)).sum() } else { 0.0 };
            (labels - discount).min(cap)
        }));
    }

    /// Path B: the labels again, capped by what the canary's own rate says against stable's long-run rate.
    fn bet_on_spikes(&mut self, known: Known) {
        let (slice, cap, bursts) = (&self.slice, self.params.max_nats_per_slice, known.bursts);
        let requests: f64 = slice.drawn().map(|row| row.canary_requests).sum();
        let bad: f64 = slice.drawn().map(|row| row.canary_bad).sum();
        let fine = (known.tolerated.ratio * bursts.rate + known.tolerated.difference).min(0.5);
        let log_fine = beta_binomial_kernel(bad, requests, fine, bursts.icc / bursts.canary_units);
        self.spikes.settle(spike_rates(&self.params, fine).map(|rate| {
            let ratio = (rate / known.present_rate).min(1e4);
            if ratio <= 1.15 * known.tolerated.ratio || rate <= 1.5 * fine {
                return 0.0;
            }
            let labels: f64 = slice.drawn().map(|row| label_evidence(row, ratio, known.tolerated)).sum();
            let own = beta_binomial_kernel(bad, requests, rate, 0.02 * rate * (1.0 - rate)) - log_fine;
            labels.min(own).min(cap)
        }));
    }

    /// Promotion evidence and the counts behind the intervals, tempered.
    fn collect(&mut self, known: Known) {
        for row in self.slice.rows.iter().filter(|row| row.is_drawn()) {
            let eta = tempering(row.weight, row.requests(), known.bursts.icc, known.bursts.canary_units);
            if let Some(stratum) = row_of(&mut self.strata, row.weight) {
                stratum.add_scaled(row, eta);
            }
            if !known.hold {
                let gain = NonInferiority::gain(row, known.present_rate, &self.params);
                self.non_inferiority.ratio += eta * gain.ratio;
                self.non_inferiority.difference += eta * gain.difference;
            }
        }
        let requests = self.slice.drawn().map(|row| row.canary_requests).sum();
        let bad = self.slice.drawn().map(|row| row.canary_bad).sum();
        self.canary_short.push(self.history.short_decay(), requests, bad);
    }

    /// A proven regression stays proven.
    fn latch(&mut self) {
        if self.latched.is_some() {
            return;
        }
        if self.log_e_fast() >= log_limit(self.params.alpha_fast) {
            self.latched = Some((Regression::Catastrophic, self.now_s()));
        } else if self.log_e_slow() >= log_limit(self.params.alpha_slow) {
            self.latched = Some((Regression::ErrorRegression, self.now_s()));
        }
    }

    /// What the evidence says now, in the order of the specification's section 8.
    pub fn verdict(&self) -> Verdict {
        if let Some(regression) = self.regression() {
            return Verdict::Rollback(regression);
        }
        if let Some(hold) = self.hold() {
            return Verdict::Continue(hold);
        }
        let now_s = self.now_s();
        if !self.is_suspect() && now_s >= self.params.min_soak_s && self.is_proven_non_inferior() {
            return Verdict::Promote;
        }
        if now_s >= self.params.max_duration_s {
            return Verdict::Inconclusive;
        }
        Verdict::Continue(if self.is_suspect() {
            Waiting::Suspect
        } else if self.canary.requests == 0 {
            Waiting::NoCanaryTraffic
        } else {
            Waiting::Collecting
        })
    }

    /// The proven regression, if there is one.
    pub fn regression(&self) -> Option<Regression> {
        self.latched.map(|(regression, _)| regression)
    }

    /// Why neither version can be blamed now, if that is so.
    pub fn hold(&self) -> Option<Waiting> {
        let stable_rate = self.history.short_rate();
        let enough = self.canary_short.requests() * stable_rate >= 5.0;
        let stable_alone = enough && self.canary_short.rate() < 0.5 * stable_rate;
        self.history.hold().then_some(if stable_alone {
            Waiting::BaselineFailingHold
        } else {
            Waiting::CommonCauseHold
        })
    }

    /// Whether the slow path holds `soft_e` against the canary.
    pub fn is_suspect(&self) -> bool {
        self.log_e_slow() >= self.params.soft_e.ln()
    }

    /// Whether non-inferiority is proven.
    pub fn is_proven_non_inferior(&self) -> bool {
        self.non_inferiority.log_e() >= log_limit(self.params.alpha_promote)
    }

    /// Seconds of ticks since this canary began.
    pub fn now_s(&self) -> f64 {
        to_f64(self.ticks) * f64::from(self.params.tick_ms) / 1000.0
    }

    /// Log e-value of the fast path; minus infinity before the first tick outside hold.
    pub fn log_e_fast(&self) -> f64 {
        self.catastrophe.log_e()
    }

    /// Log e-value of the slow path, the even mixture of A and B; minus infinity before the first slice.
    pub fn log_e_slow(&self) -> f64 {
        log_add(self.persistent.log_e(), self.spikes.log_e()) - LN_2
    }

    /// Log e-value for non-inferiority.
    pub fn log_e_non_inferiority(&self) -> f64 {
        self.non_inferiority.log_e()
    }

    /// The two bets behind it.
    pub(crate) fn non_inferiority(&self) -> NonInferiority {
        self.non_inferiority
    }

    /// Burst discount of the last slice, in nats.
    pub fn burst_discount(&self) -> f64 {
        self.last_discount
    }

    /// Burst size, for a slice as large as the present one.
    pub fn icc(&self) -> f64 {
        self.history.icc(self.slice.requests().max(1.0))
    }

    /// Always-valid interval for the ratio of the rates; `alpha` is one minus its confidence.
    pub fn ratio_cs(&self, alpha: f64) -> Interval {
        ratio_interval(&self.strata, alpha)
    }

    /// Always-valid interval for the difference of the rates; `alpha` is one minus its confidence.
    pub fn diff_cs(&self, alpha: f64) -> Interval {
        difference_interval(&self.strata, alpha)
    }

    /// The tempered counts per weight, with the slice that is not finished: what an interval at this moment rests on.
    pub(crate) fn strata_so_far(&self) -> Vec<Labels> {
        let mut strata = self.strata.clone();
        let bursts = self.known().bursts;
        for row in self.slice.drawn() {
            let eta = tempering(row.weight, row.requests(), bursts.icc, bursts.canary_units);
            if let Some(stratum) = row_of(&mut strata, row.weight) {
                stratum.add_scaled(row, eta);
            }
        }
        strata
    }

    /// Everything that the verdict rests on; the intervals cost some hundred microseconds.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            t: self.latched.map_or_else(|| self.now_s(), |(_, at)| at),
            verdict: self.verdict(),
            log_e_fast: self.log_e_fast(),
            log_e_a: self.persistent.log_e(),
            log_e_b: self.spikes.log_e(),
            log_e_slow: self.log_e_slow(),
            log_e_ni_ratio: self.non_inferiority.ratio,
            log_e_ni_delta: self.non_inferiority.difference,
            log_e_ni: self.non_inferiority.log_e(),
            burst_discount: self.last_discount,
            icc: self.icc(),
            pbar: self.history.long_rate(),
            pcur: self.history.present_rate(),
            hold: self.history.hold(),
            ratio_cs: self.ratio_cs(self.params.cs_alpha),
            diff_cs: self.diff_cs(self.params.cs_alpha),
            n_c: self.canary.requests,
            x_c: self.canary.bad,
            n_b: self.stable.requests,
            x_b: self.stable.bad,
        }
    }
}

/// The log e-value that decides at error level `alpha`.
pub(crate) fn log_limit(alpha: f64) -> f64 {
    (1.0 / alpha).ln()
}

/// The rates that path B bets on when `fine` is tolerated: from four times that to 95 %, evenly in logarithms.
fn spike_rates(params: &Params, fine: f64) -> impl Iterator<Item = f64> {
    let steps = f64::from(params.spike_bets) - 1.0;
    let factor = (0.95 / (4.0 * fine)).max(1.05).powf(1.0 / steps);
    let mut next = 4.0 * fine;
    (0..params.spike_bets).map(move |_| {
        let rate = next.min(0.95);
        next *= factor;
        rate
    })
}
