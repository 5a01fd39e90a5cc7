//! A comparison at one moment, as values to store, show and explain.

use serde::{Deserialize, Serialize};

use crate::findings::GateSummary;
use crate::forecast::Forecast;
use crate::mirror_gate::MirrorSummary;
use crate::split_check::SplitSummary;
use crate::tally::Tally;
use crate::verdict::Verdict;

/// What was compared, what came out and what it rests on. Rates and shares are ratios, spans are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The verdict and its reason.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How long the canary had been compared: until now, or until it was taken back.
    pub elapsed_seconds: f64,
    /// The canary's requests that were compared.
    pub canary: Tally,
    /// Stable's requests beside them.
    pub stable: Tally,
    /// The canary's errors per request; none without requests.
    pub canary_error_rate: Option<f64>,
    /// Stable's errors per request; none without requests.
    pub stable_error_rate: Option<f64>,
    /// Canary minus stable; none before both had requests.
    pub error_rate_difference: Option<Difference>,
    /// Canary over stable; none before the first error.
    pub error_rate_ratio: Option<Ratio>,
    /// One minus the chance that such an interval ever misses, as a ratio.
    pub confidence: f64,
    /// The tests.
    pub evidence: Tests,
    /// Nats taken off the last second's evidence because errors come in bursts.
    pub burst_discount: f64,
    /// Whether stable itself is failing.
    pub hold: bool,
    /// How far promotion is, if things stay as they are.
    pub forecast: Option<Forecast>,
    /// Whether requests were divided as the weights say, on which all of the above rests; none in old records.
    #[serde(default)]
    pub split: Option<SplitSummary>,
    /// What copies of requests showed; none without.
    #[serde(default)]
    pub mirror: Option<MirrorSummary>,
    /// What the canary did by itself, where it was held to an absolute limit; none where it was not.
    #[serde(default)]
    pub alone: Option<AloneSummary>,
    /// Where the gates stood that others answer; none where none counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateSummary>,
}

/// A version held to an absolute limit, whatever stable did meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AloneSummary {
    /// Its requests since the limit was armed.
    pub tally: Tally,
    /// For how long the limit has been armed, in seconds.
    pub elapsed_seconds: f64,
    /// The error rate that is allowed, as a ratio.
    pub limit: f64,
    /// That it fails more than that.
    pub evidence: Measure,
}

impl Summary {
    /// Every test, by the name that metrics and the API give it.
    pub fn tests(&self) -> Vec<(&'static str, Measure)> {
        let tests = &self.evidence;
        let mut named = vec![
            ("slow", tests.slow),
            ("fast", tests.fast),
            ("latency", tests.latency),
            ("promotion", tests.promotion),
            ("promotion_latency", tests.promotion_latency),
        ];
        named.extend(self.alone.map(|alone| ("absolute", alone.evidence)));
        named.extend(self.split.map(|split| ("split", split.evidence)));
        if let Some(mirror) = self.mirror.as_ref().filter(|mirror| mirror.gate.is_some()) {
            named.extend([("mirror", mirror.disagrees), ("promotion_mirror", mirror.agrees)]);
        }
        named
    }
}

/// The difference of two error rates, valid at every look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Lower end.
    pub low: f64,
    /// Estimated within the same weights, so that a drift of both is no difference.
    pub estimate: f64,
    /// Upper end.
    pub high: f64,
}

/// The ratio of two error rates, valid at every look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Lower end.
    pub low: f64,
    /// Upper end; none if it is open.
    pub high: Option<f64>,
}

/// The tests of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tests {
    /// That the canary's error rate is worse than tolerated.
    pub slow: Measure,
    /// That the canary fails most of its requests.
    pub fast: Measure,
    /// That the canary's share of slow answers is worse than tolerated.
    pub latency: Measure,
    /// That the canary's error rate is within the promotion margin.
    pub promotion: Measure,
    /// That its share of slow answers is.
    pub promotion_latency: Measure,
}

/// One test: proven when `log_e` reaches `limit`. Both are natural logarithms of odds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Evidence; none if nothing was seen or all was lost.
    pub log_e: Option<f64>,
    /// What it takes.
    pub limit: f64,
}

impl Measure {
    pub(crate) fn new(log_e: f64, limit: f64) -> Self {
        Self { log_e: log_e.is_finite().then_some(log_e), limit }
    }

    /// Whether the evidence suffices.
    pub fn is_proven(&self) -> bool {
        self.log_e.is_some_and(|log_e| log_e >= self.limit)
    }
}
