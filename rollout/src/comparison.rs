//! The comparison of one route's canary with its stable: what the phase machine asks every tick.
//!
//! Rows come in from the tally, a verdict goes out to the phase. Two judges look at the same requests, one at errors
//! and one at slow answers; promotion takes both, taking back takes one.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman_config::{ErrorKind, Guard, Share};
use serde::{Deserialize, Serialize};

use crate::confidence::{difference_interval, ratio_interval, stratified_difference};
use crate::forecast::{ExpectedRates, Forecast, Traffic, forecast, missing_seconds};
use crate::history::{Counts, Remembered};
use crate::judge::{CountRow, Judge, log_limit};
use crate::params::Params;
use crate::split_check::{SplitCheck, SplitSummary};
use crate::stats::Labels;
use crate::summary::{Difference, Measure, Ratio, Summary, Tests};
use crate::tally::{Drawn, Row, Tally, to_f64};
use crate::verdict::{Regression, Verdict, Waiting};

/// Ticks of 100 ms in a slice of one second.
const TICKS_PER_SLICE: u32 = 10;
/// The canary's first seconds do not count for latency: caches and connections are cold. 30 s.
const LATENCY_WARMUP_TICKS: u64 = 300;
/// Difference of the shares of slow answers that is tolerated at least: tails are noisier than errors. A ratio.
const LATENCY_DIFFERENCE: f64 = 0.002;
/// How fast the present request rate follows traffic: a factor per slice, time constant 30 s.
const TRAFFIC_DECAY: f64 = 0.967_216_100_484_593_7;

/// Compares the canary of one route with its stable.
#[derive(Debug, Clone)]
pub struct Comparison {
    errors: Judge,
    latency: Judge,
    split: SplitCheck,
    counted: Counted,
    /// Rows of the tick, converted; kept to be filled again.
    error_rows: Vec<CountRow>,
    latency_rows: Vec<CountRow>,
    canary: Tally,
    stable: Tally,
    /// Ticks since the canary's first request.
    canary_ticks: u64,
    traffic: RecentTraffic,
    baseline: BaselineSlice,
    latched: Option<(Regression, f64)>,
}

/// What the guard counts as bad; judgements under another definition are not comparable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    errors: BTreeSet<ErrorKind>,
    slower_than: Duration,
}

impl Counted {
    fn by(guard: &Guard) -> Self {
        Self { errors: guard.count_as_error.clone(), slower_than: guard.latency_threshold }
    }
}

/// What a comparison knows of stable before there is a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownOfStable {
    errors: Remembered,
    latency: Remembered,
    slice: Tally,
    ticks: u32,
}

/// A slice of stable alone that is being collected.
#[derive(Debug, Clone, Default)]
struct BaselineSlice {
    tally: Tally,
    ticks: u32,
}

/// Requests per second and weight of late, for the forecast.
#[derive(Debug, Clone, Default)]
struct RecentTraffic {
    slice_requests: u64,
    ticks: u32,
    requests: f64,
    seconds: f64,
    quiet_slices: u32,
    weight: Option<Share>,
}

impl RecentTraffic {
    /// Slices without a request after which there is no traffic to forecast from.
    const QUIET: u32 = 30;

    fn tick(&mut self, rows: &[Row]) {
        for row in rows.iter().filter(|row| is_drawn(row.weight)) {
            self.slice_requests += row.canary.requests + row.stable.requests;
            self.weight = Some(row.weight);
        }
        self.ticks += 1;
        if self.ticks == TICKS_PER_SLICE {
            self.requests = TRAFFIC_DECAY * self.requests + to_f64(self.slice_requests);
            self.seconds = TRAFFIC_DECAY * self.seconds + 1.0;
            self.quiet_slices = if self.slice_requests > 0 { 0 } else { self.quiet_slices.saturating_add(1) };
            (self.slice_requests, self.ticks) = (0, 0);
        }
    }

    /// None before the first slice with a canary, and when there has been no request for a while.
    fn now(&self) -> Option<Traffic> {
        let weight = self.weight?.ratio();
        let flows = self.seconds > 0.0 && self.quiet_slices < Self::QUIET;
        flows.then(|| Traffic { weight, requests_per_s: self.requests / self.seconds })
    }
}

/// Whether chance decided who got the requests of this weight.
fn is_drawn(weight: Share) -> bool {
    weight > Share::ZERO && weight < Share::WHOLE
}

/// How the judge of errors is set by the guard: a quarter of the budget for catastrophe, three for the rest.
fn error_params(guard: &Guard) -> Params {
    Params {
        alpha_fast: 0.25 * guard.false_rollback_budget,
        alpha_slow: 0.75 * guard.false_rollback_budget,
        rho0: guard.tolerance.ratio,
        delta0: guard.tolerance.difference,
        alpha_promote: 1.0 - guard.promotion.confidence,
        ni_rho: guard.promotion.ratio,
        ni_delta: guard.promotion.difference,
        min_soak_s: guard.promotion.min_soak.as_secs_f64(),
        max_duration_s: guard.promotion.max_duration.as_secs_f64(),
        burst_errors: 1.0,
        ..Params::default()
    }
}

/// The judge of slow answers: a budget of its own, no fast path and no hold, and a promotion margin that is not
/// tighter than what is tolerated.
fn latency_params(guard: &Guard) -> Params {
    let difference = guard.tolerance.difference.max(LATENCY_DIFFERENCE);
    Params {
        alpha_slow: 0.25 * guard.false_rollback_budget,
        delta0: difference,
        ni_delta: guard.promotion.difference.max(difference),
        fast_p1: Vec::new(),
        hold_rate: f64::INFINITY,
        ..error_params(guard)
    }
}

impl Comparison {
    /// A comparison that has seen nothing.
    pub fn new(guard: &Guard) -> Self {
        Self {
            errors: Judge::new(error_params(guard)),
            latency: Judge::new(latency_params(guard)),
            split: SplitCheck::new(),
            counted: Counted::by(guard),
            error_rows: Vec::new(),
            latency_rows: Vec::new(),
            canary: Tally::default(),
            stable: Tally::default(),
            canary_ticks: 0,
            traffic: RecentTraffic::default(),
            baseline: BaselineSlice::default(),
            latched: None,
        }
    }

    /// A new canary: evidence from nothing, what is known about stable stays.
    pub fn restart(&mut self) {
        self.errors.restart();
        self.latency.restart();
        self.forget_canary();
    }

    /// Another version is stable now: evidence from nothing; of the old one's history the burst size stays as an
    /// assumption, and its rate with a tenth of its weight.
    pub fn new_baseline(&mut self) {
        self.errors.new_baseline();
        self.latency.new_baseline();
        self.forget_canary();
    }

    fn forget_canary(&mut self) {
        self.split = SplitCheck::new();
        self.canary = Tally::default();
        self.stable = Tally::default();
        self.canary_ticks = 0;
        self.traffic = RecentTraffic::default();
        self.baseline = BaselineSlice::default();
        self.latched = None;
    }

    /// The guard was edited: limits and tolerances change, evidence and history stay. Only where the edit changes what
    /// counts as an error, or as slow, that judge starts anew: its old counts were of something else.
    pub fn regauge(&mut self, guard: &Guard) {
        let counted = Counted::by(guard);
        if counted.errors == self.counted.errors {
            self.errors.regauge(error_params(guard));
        } else {
            self.errors = Judge::new(error_params(guard));
        }
        if counted.slower_than == self.counted.slower_than {
            self.latency.regauge(latency_params(guard));
        } else {
            self.latency = Judge::new(latency_params(guard));
        }
        self.counted = counted;
    }

    /// 100 ms of stable while no canary is judged.
    pub fn baseline(&mut self, stable: Tally) {
        self.baseline.tally += stable;
        self.baseline.ticks += 1;
        if self.baseline.ticks == TICKS_PER_SLICE {
            let tally = self.baseline.tally;
            self.errors.baseline_history(&[errors_of(tally)]);
            self.latency.baseline_history(&[slow_of(tally)]);
            self.baseline = BaselineSlice::default();
        }
    }

    /// Units were drawn under `weight`; to be told before the tick in which they were.
    pub fn draw(&mut self, weight: Share, drawn: Drawn) {
        self.split.draw(weight, drawn);
    }

    /// Whether requests are proven to be divided otherwise than the weights say. Then labels tell nothing: no promotion,
    /// and of the regressions only a catastrophe, which rests on what the canary itself does.
    pub fn is_void(&self) -> bool {
        self.split.is_void()
    }

    /// The draws, beside what they should have been.
    pub fn split(&self) -> SplitSummary {
        self.split.summary()
    }

    /// 100 ms of a canary beside stable; `rows` per weight, none if nothing finished. Rows of weight 0 and 1 tell
    /// about stable only.
    pub fn tick(&mut self, rows: &[Row]) -> Verdict {
        self.error_rows.clear();
        self.latency_rows.clear();
        for row in rows {
            self.take_row(row);
        }
        self.traffic.tick(rows);
        if self.canary.requests > 0 {
            self.canary_ticks += 1;
        }
        // First, so that nothing is decided on labels in the moment in which they turn out to tell nothing.
        self.split.tick();
        self.errors.tick(&self.error_rows, &[], None);
        self.latency.tick(&self.latency_rows, &[], None);
        self.latch();
        self.verdict()
    }

    fn take_row(&mut self, row: &Row) {
        let drawn = is_drawn(row.weight);
        let compare = |judged: bool, counts: fn(Tally) -> Counts| CountRow {
            weight: if judged { row.weight.ratio() } else { 0.0 },
            canary: if judged { counts(row.canary) } else { Counts::default() },
            stable: counts(row.stable),
        };
        if drawn {
            self.canary += row.canary;
            self.stable += row.stable;
        }
        self.error_rows.push(compare(drawn, errors_of));
        self.latency_rows.push(compare(drawn && self.canary_ticks >= LATENCY_WARMUP_TICKS, slow_of));
    }

    /// The first regression that is proven stays, as long as what it rests on does.
    fn latch(&mut self) {
        if self.is_void() && self.latched.is_some_and(|(regression, _)| regression != Regression::Catastrophic) {
            self.latched = None;
        }
        if self.latched.is_none() {
            let found = if self.is_void() { self.catastrophe() } else { self.any_regression() };
            self.latched = found.map(|regression| (regression, self.errors.now_s()));
        }
    }

    fn any_regression(&self) -> Option<Regression> {
        self.errors.regression().or(self.latency.regression().map(|_| Regression::LatencyRegression))
    }

    /// Whether the canary is proven to fail most of its requests, at a limit that one of so many edges may decide on alone:
    /// the budget is shared among them, so that all of them together stay within it.
    pub(crate) fn is_catastrophe_among(&self, edges: usize) -> bool {
        self.errors.log_e_fast() >= log_limit(self.fast_budget(edges))
    }

    /// The chance per hour of a false alarm that each of so many edges may take on the fast path.
    pub(crate) fn fast_budget(&self, edges: usize) -> f64 {
        self.errors.params().alpha_fast / to_f64(u64::try_from(edges.max(1)).unwrap_or(u64::MAX))
    }

    /// The fast path wins no more than the canary's own share of errors does against "at most 20 %", whoever was drawn.
    fn catastrophe(&self) -> Option<Regression> {
        let proven = self.errors.log_e_fast() >= log_limit(self.errors.params().alpha_fast);
        proven.then_some(Regression::Catastrophic)
    }

    /// What the evidence says now, in the order of the analysis' section 8.
    pub fn verdict(&self) -> Verdict {
        if let Some((regression, _)) = self.latched {
            return Verdict::Rollback(regression);
        }
        if self.is_void() {
            return Verdict::Continue(Waiting::SplitMismatch);
        }
        if let Some(hold) = self.errors.hold() {
            return Verdict::Continue(hold);
        }
        let params = self.errors.params();
        let suspect = self.is_suspect();
        let proven = self.errors.is_proven_non_inferior() && self.latency.is_proven_non_inferior();
        if !suspect && proven && self.errors.now_s() >= params.min_soak_s {
            return Verdict::Promote;
        }
        if self.errors.now_s() >= params.max_duration_s {
            return Verdict::Inconclusive;
        }
        Verdict::Continue(if suspect {
            Waiting::Suspect
        } else if self.canary.requests == 0 {
            Waiting::NoCanaryTraffic
        } else {
            Waiting::Collecting
        })
    }

    /// Whether stable itself is failing, so that neither version can be blamed.
    pub fn is_in_hold(&self) -> bool {
        self.errors.history().hold()
    }

    /// Whether something looks wrong without being proven; also when [`Comparison::verdict`] says something else.
    pub fn is_suspect(&self) -> bool {
        self.errors.is_suspect() || self.latency.is_suspect()
    }

    /// The error rate that a version may have where there is no control group (bake, canary at 100 %):
    /// `min(max_error_rate, 5 x long-run rate of stable + 1 %)`, or `max_error_rate` where too little is known of stable.
    /// Frozen by the caller when the control group ends.
    pub fn bake_limit(&self, guard: &Guard) -> f64 {
        let history = self.errors.history();
        if history.is_known() {
            guard.max_error_rate.min(5.0 * history.long_rate() + 0.01)
        } else {
            guard.max_error_rate
        }
    }

    /// Everything about this moment; costs a few hundred microseconds, so once a second and at decisions.
    pub fn summary(&self) -> Summary {
        let strata = self.errors.strata_so_far();
        let verdict = self.verdict();
        Summary {
            verdict,
            elapsed_seconds: self.latched.map_or_else(|| self.errors.now_s(), |(_, at)| at),
            canary: self.canary,
            stable: self.stable,
            canary_error_rate: self.canary.error_rate(),
            stable_error_rate: self.stable.error_rate(),
            error_rate_difference: difference(&strata, self.errors.params().cs_alpha),
            error_rate_ratio: ratio(&strata, self.errors.params().cs_alpha),
            confidence: 1.0 - self.errors.params().cs_alpha,
            evidence: self.tests(),
            burst_discount: self.errors.burst_discount(),
            hold: self.is_in_hold(),
            forecast: self.forecast(verdict),
            split: Some(self.split.summary()),
            mirror: None,
            alone: None,
            gates: Vec::new(),
        }
    }

    fn tests(&self) -> Tests {
        let (errors, latency) = (self.errors.params(), self.latency.params());
        Tests {
            slow: Measure::new(self.errors.log_e_slow(), log_limit(errors.alpha_slow)),
            fast: Measure::new(self.errors.log_e_fast(), log_limit(errors.alpha_fast)),
            latency: Measure::new(self.latency.log_e_slow(), log_limit(latency.alpha_slow)),
            promotion: Measure::new(self.errors.log_e_non_inferiority(), log_limit(errors.alpha_promote)),
            promotion_latency: Measure::new(self.latency.log_e_non_inferiority(), log_limit(latency.alpha_promote)),
        }
    }

    /// What is known of stable: its errors, its slow answers, and the slice that is being collected.
    pub(crate) fn known(&self) -> KnownOfStable {
        KnownOfStable {
            errors: self.errors.history().remembered(),
            latency: self.latency.history().remembered(),
            slice: self.baseline.tally,
            ticks: self.baseline.ticks,
        }
    }

    /// Knows of stable what another comparison knew.
    pub(crate) fn learn(&mut self, known: &KnownOfStable) {
        self.errors.history_mut().recall(&known.errors);
        self.latency.history_mut().recall(&known.latency);
        self.baseline = BaselineSlice { tally: known.slice, ticks: known.ticks };
    }

    /// Seconds of `traffic` that it takes to prove the canary no worse, by errors and by slow answers, where both versions
    /// fail alike; none if that is never proven.
    pub(crate) fn seconds_to_prove(&self, traffic: Traffic, error_rate: f64, slow_rate: f64) -> [Option<f64>; 2] {
        let seconds = |judge: &Judge, rate: f64| missing_seconds(judge, ExpectedRates::alike(rate), traffic);
        [seconds(&self.errors, error_rate), seconds(&self.latency, slow_rate)]
    }

    /// None unless the verdict is to wait for more of the same.
    fn forecast(&self, verdict: Verdict) -> Option<Forecast> {
        if verdict != Verdict::Continue(Waiting::Collecting) {
            return None;
        }
        let errors = ExpectedRates::new(&self.errors, self.canary.requests, self.canary.errors);
        let slow = ExpectedRates::new(&self.latency, self.canary.requests, self.canary.slow);
        let soak_left_s = (self.errors.params().min_soak_s - self.errors.now_s()).max(0.0);
        forecast(&[(&self.errors, errors), (&self.latency, slow)], self.traffic.now()?, soak_left_s)
    }
}

fn errors_of(tally: Tally) -> Counts {
    Counts { requests: tally.requests, bad: tally.errors }
}

fn slow_of(tally: Tally) -> Counts {
    Counts { requests: tally.requests, bad: tally.slow }
}

/// The interval and the estimate in it; none before both versions had requests under one weight.
fn difference(strata: &[Labels], alpha: f64) -> Option<Difference> {
    let estimate = stratified_difference(strata)?;
    let interval = difference_interval(strata, alpha);
    Some(Difference { low: interval.low, estimate: estimate.max(interval.low).min(interval.high), high: interval.high })
}

/// The interval; none before the first error.
fn ratio(strata: &[Labels], alpha: f64) -> Option<Ratio> {
    let seen = strata.iter().any(|row| row.bad() > 0.0);
    let interval = seen.then(|| ratio_interval(strata, alpha))?;
    Some(Ratio { low: interval.low, high: interval.high.is_finite().then_some(interval.high) })
}
