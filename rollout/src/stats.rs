//! The arithmetic behind a verdict: pure functions, each with its formula and where it comes from.
//!
//! All logarithms are natural. An e-value is the wealth of a bet that cannot win in expectation if its
//! hypothesis is true; by Ville's inequality (1939) the chance that it ever exceeds `1/alpha` is at most
//! `alpha`, however often it is looked at. Minus infinity is a bet that holds nothing.

/// `ln(e^a + e^b)`, also for minus infinity.
pub fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a < b { (b, a) } else { (a, b) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `ln(sum of e^v)`; minus infinity for no values.
pub fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        return highest;
    }
    highest + values.map(|v| (v - highest).exp()).sum::<f64>().ln()
}

/// `ln B(a, b)`, the logarithm of the beta function, for positive arguments.
pub fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

/// What became known about the requests assigned under one weight, as numbers to calculate with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Labels {
    /// The chance that one of these requests went to the canary.
    pub weight: f64,
    /// The canary's requests.
    pub canary_requests: f64,
    /// The canary's bad ones.
    pub canary_bad: f64,
    /// Stable's requests.
    pub stable_requests: f64,
    /// Stable's bad ones.
    pub stable_bad: f64,
}

impl Labels {
    /// Requests of both.
    pub fn requests(&self) -> f64 {
        self.canary_requests + self.stable_requests
    }

    /// Bad ones of both.
    pub fn bad(&self) -> f64 {
        self.canary_bad + self.stable_bad
    }

    /// Good ones of both.
    pub fn good(&self) -> f64 {
        self.requests() - self.bad()
    }

    /// Whether chance decided who got a request; only then do labels say anything.
    pub fn is_drawn(&self) -> bool {
        0.0 < self.weight && self.weight < 1.0
    }

    /// Adds `factor` times the counts of `other`; the weight stays.
    pub(crate) fn add_scaled(&mut self, other: &Self, factor: f64) {
        self.canary_requests += factor * other.canary_requests;
        self.canary_bad += factor * other.canary_bad;
        self.stable_requests += factor * other.stable_requests;
        self.stable_bad += factor * other.stable_bad;
    }
}

/// The row of `rows` with this weight, made if missing; rows stay sorted by weight.
pub(crate) fn row_of(rows: &mut Vec<Labels>, weight: f64) -> Option<&mut Labels> {
    let place = rows.binary_search_by(|row| row.weight.total_cmp(&weight)).unwrap_or_else(|gap| {
        rows.insert(gap, Labels { weight, ..Labels::default() });
        gap
    });
    rows.get_mut(place)
}

/// What is tolerated: `canary <= ratio * stable + difference`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerated {
    /// Factor on stable's rate.
    pub ratio: f64,
    /// Added to it.
    pub difference: f64,
}

/// The chance that a bad request is the canary's when the canary is `ratio` times as bad:
/// `w r / (w r + 1 - w)`.
fn canary_share_of_bad(weight: f64, ratio: f64) -> f64 {
    weight * ratio / (weight * ratio + 1.0 - weight)
}

/// Log e-value of the labels against `canary <= r0 stable + d0`, betting that the canary is `ratio` times as bad.
///
/// The linear bet `prod(1 + l G)` with `G = bad Z/w - r0 bad (1-Z)/(1-w) - d0`, `Z` = canary:
/// `x_c ln(1 + l (1/w - d0)) + x_b ln(1 - l (r0/(1-w) + d0)) + good ln(1 - l d0)`.
/// Its growth-optimal stake is `l = w (q/pi0 - 1)`, `q = w ratio / (w ratio + 1 - w)`, `pi0` the same for `r0`.
/// Stable's rate cancels. After Turner, Ly and Grünwald, safe 2x2 tests; Waudby-Smith and Ramdas, betting.
///
/// Of a bad answer of stable that stake keeps `k - l d0`, `k = (1-q)/(1-pi0)`: nothing, or less, where the ratio is large
/// beside `1/d0`. So no stake is higher than the one that keeps `k/2`. Any stake that was fixed before the labels were
/// drawn is a fair bet; to bet nothing there would make a canary the safer the worse it is.
pub fn label_evidence(labels: &Labels, ratio: f64, tolerated: Tolerated) -> f64 {
    let (w, d0) = (labels.weight, tolerated.difference);
    let likeliest_if_fine = canary_share_of_bad(w, tolerated.ratio);
    let likeliest_if_worse = canary_share_of_bad(w, ratio);
    let kept_at_most = (1.0 - likeliest_if_worse) / (1.0 - likeliest_if_fine);
    let lost_on_stable_bad = tolerated.ratio / (1.0 - w) + d0;
    let optimal = w * (likeliest_if_worse / likeliest_if_fine - 1.0);
    let stake = optimal.min((1.0 - 0.5 * kept_at_most) / lost_on_stable_bad);
    labels.canary_bad * (stake * (1.0 / w - d0)).ln_1p()
        + labels.stable_bad * (-stake * lost_on_stable_bad).ln_1p()
        + labels.good() * (-stake * d0).ln_1p()
}

/// How errors of one version cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// Burst size: how much likelier another request of the same unit and slice fails once one has failed.
    pub icc: f64,
    /// Stable's long-run rate.
    pub rate: f64,
    /// Units (pods) of the canary that burst on their own.
    pub canary_units: f64,
    /// The same of stable.
    pub stable_units: f64,
}

/// `ln P(x_c | X)` when every unit draws its rate for the slice from its own gamma law of shape `k = rate/icc`:
/// `g0(x) ~ G(x+k_c)/x! a^x G(X-x+k_b)/(X-x)! b^(X-x)`, `a = s_c/(1+s_c)`, `s_c = r0 w N icc/u_c`, `s_b = (1-w) N icc/u_b`.
///
/// The conditional law of one of two negative binomials given their sum; normalised by the recurrence of its terms.
pub fn log_labels_if_bursting(labels: &Labels, ratio: f64, bursts: Bursts) -> f64 {
    let shape = (bursts.rate / bursts.icc).max(1e-9);
    let (canary_shape, stable_shape) = (bursts.canary_units * shape, bursts.stable_units * shape);
    let canary_scale = ratio * labels.weight * labels.requests() * bursts.icc / bursts.canary_units;
    let stable_scale = (1.0 - labels.weight) * labels.requests() * bursts.icc / bursts.stable_units;
    let odds = canary_scale / (1.0 + canary_scale) * (1.0 + stable_scale) / stable_scale;
    let bad = labels.bad();
    let mut terms = LogTerms::first();
    let mut seen = if labels.canary_bad < 0.5 { terms.log_term() } else { f64::NEG_INFINITY };
    let mut x = 0.0;
    while x + 0.5 < bad {
        terms.next((x + canary_shape) * (bad - x) / ((x + 1.0) * (bad - x - 1.0 + stable_shape)) * odds);
        x += 1.0;
        if (x - labels.canary_bad).abs() < 0.5 {
            seen = terms.log_term();
        }
    }
    seen - terms.log_total()
}

/// The terms of a series given by their quotients, and their sum, without overflow.
struct LogTerms {
    term: f64,
    log_scale: f64,
    total: f64,
    log_total_scale: f64,
    scale_in_total: f64,
}

impl LogTerms {
    /// Terms leave this range only to be rescaled.
    const RANGE: std::ops::Range<f64> = 1e-100..1e100;

    fn first() -> Self {
        Self { term: 1.0, log_scale: 0.0, total: 1.0, log_total_scale: 0.0, scale_in_total: 1.0 }
    }

    fn next(&mut self, quotient: f64) {
        self.term *= quotient;
        if !Self::RANGE.contains(&self.term) {
            self.rescale();
        }
        self.total += self.term * self.scale_in_total;
    }

    fn rescale(&mut self) {
        self.log_scale += self.term.ln();
        self.term = 1.0;
        if self.log_scale > self.log_total_scale {
            self.total *= (self.log_total_scale - self.log_scale).exp();
            self.log_total_scale = self.log_scale;
        }
        self.scale_in_total = (self.log_scale - self.log_total_scale).exp();
    }

    fn log_term(&self) -> f64 {
        self.log_scale + self.term.ln()
    }

    fn log_total(&self) -> f64 {
        self.log_total_scale + self.total.ln()
    }
}

/// `ln P(x_c | X)` when bad requests are independent: binomial with `pi0 = w r0 / (w r0 + 1 - w)`.
pub fn log_labels_if_independent(labels: &Labels, ratio: f64) -> f64 {
    let share = canary_share_of_bad(labels.weight, ratio);
    libm::lgamma(labels.bad() + 1.0) - libm::lgamma(labels.canary_bad + 1.0) - libm::lgamma(labels.stable_bad + 1.0)
        + labels.canary_bad * share.ln()
        + labels.stable_bad * (-share).ln_1p()
}

/// Burst discount: by how many nats the labels of a slice are likelier under bursts than under independence;
/// `max(0, ln g0(x_c) - ln Bin(x_c; X, pi0))`, and nothing without bad requests or for a burst size below 1e-9.
pub fn burst_discount(labels: &Labels, ratio: f64, bursts: Bursts) -> f64 {
    if labels.bad() < 0.5 || bursts.icc < 1e-9 {
        return 0.0;
    }
    (log_labels_if_bursting(labels, ratio, bursts) - log_labels_if_independent(labels, ratio)).max(0.0)
}

/// Logarithm of the beta-binomial probability of `bad` in `requests`, without the binomial coefficient.
///
/// `ln B(a+x, b+n-x) - ln B(a, b)` with `a = rate (1/c - 1)`, `b = (1-rate)(1/c - 1)`, `c` the intra-slice
/// correlation; the binomial itself below 1e-7.
pub fn beta_binomial_kernel(bad: f64, requests: f64, rate: f64, correlation: f64) -> f64 {
    if correlation < 1e-7 {
        return bad * rate.ln() + (requests - bad) * (-rate).ln_1p();
    }
    let size = 1.0 / correlation - 1.0;
    let (a, b) = (rate * size, (1.0 - rate) * size);
    ln_beta(a + bad, b + requests - bad) - ln_beta(a, b)
}

/// The growth-optimal stake against `canary >= ratio stable + difference` when the rates truly are `canary` and `stable`.
///
/// With `a = 1/w`, `b = r/(1-w)`, `C = r p_b + d - p_c`, `B = p_c b + r p_b a + d (a - b)`:
/// `2C / (B + sqrt(B^2 + 4 d a b C))`, at most `0.9 w`; nothing if `C <= 0` (Kelly 1956; Waudby-Smith and Ramdas).
pub fn non_inferiority_stake(weight: f64, canary: f64, stable: f64, margin: Tolerated) -> f64 {
    let Tolerated { ratio, difference } = margin;
    let (a, b) = (1.0 / weight, ratio / (1.0 - weight));
    let edge = ratio * stable + difference - canary;
    if edge <= 0.0 {
        return 0.0;
    }
    let mid = canary * b + ratio * stable * a + difference * (a - b);
    let denominator = mid + (mid * mid + 4.0 * difference * a * b * edge).sqrt();
    if denominator <= 0.0 {
        return 0.0;
    }
    (2.0 * edge / denominator).min(0.9 * weight)
}
