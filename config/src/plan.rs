//! How a route's traffic shall be divided over time, and what takes a version back.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::outside::{OutsideGate, Query};
use crate::split::{Share, Split, VersionId};

/// How traffic is to be divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// By hand: stays until an operator changes it.
    Weights(Split),
    /// By itself: step by step to promotion.
    Rollout(Rollout),
}

/// A plan that moves by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// The version that is tried; a key of the route's versions, never its stable one.
    pub canary: VersionId,
    /// In steps or in one move.
    pub strategy: Strategy,
    /// Who takes the last step.
    pub promotion: Promotion,
    /// How long the old version stays warm after promotion. Default 10 min.
    pub bake: Duration,
    /// A step that stays undecided this long beyond its hold, or a gate that waits this long, pauses the rollout.
    /// Default 1 h.
    pub step_deadline: Duration,
}

/// In steps or in one move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Step by step; at least one step, weights rising.
    Canary(Vec<Step>),
    /// From nothing to all after warm-up and checks.
    BlueGreen,
}

/// One step of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The canary's share during the step; more than nothing.
    pub weight: Share,
    /// How long it is held at least.
    pub hold: Duration,
}

/// Who takes the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// Pointsman, when non-inferiority is proven.
    Automatic,
    /// An operator, with `pointsman promote`.
    Manual,
}

/// What takes a version back; the formulas stand in `rollout`'s analysis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guard {
    /// What a proven regression does. Default rollback.
    pub on_regression: OnRegression,
    /// Chance of taking a good canary back, per hour, as a ratio. Default 0.0008.
    pub false_rollback_budget: f64,
    /// A canary error rate within this of stable's is fine.
    pub tolerance: Tolerance,
    /// What is proven before a promotion.
    pub promotion: PromotionGuard,
    /// Absolute limit on the error rate where there is no control group, as a ratio. Default 0.05.
    pub max_error_rate: f64,
    /// An answer slower than this is judged like an error, with its own budget. Default 500 ms.
    pub latency_threshold: Duration,
    /// Which outcomes count as errors. Default all.
    pub count_as_error: BTreeSet<ErrorKind>,
    /// What the model servers' own counts of inputs and predictions hold or take back. Default nothing.
    pub drift: Option<DriftGuard>,
    /// Numbers that others count.
    pub queries: Vec<Query>,
    /// Others who have to agree; no name is that of a query.
    pub gates: Vec<OutsideGate>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            on_regression: OnRegression::Rollback,
            false_rollback_budget: 0.0008,
            tolerance: Tolerance { ratio: 1.1, difference: 0.0001 },
            promotion: PromotionGuard::default(),
            max_error_rate: 0.05,
            latency_threshold: Duration::from_millis(500),
            count_as_error: [ErrorKind::Status5xx, ErrorKind::Timeout, ErrorKind::Connect, ErrorKind::Reset].into(),
            drift: None,
            queries: Vec::new(),
            gates: Vec::new(),
        }
    }
}

/// How far the canary's inputs and predictions may be from others before that holds it or takes it back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DriftGuard {
    /// Where every endpoint of both versions is asked for its counts.
    pub path: String,
    /// With what they are compared. Default stable.
    pub against: Against,
    /// Population stability index from which a distribution is another one. Default 0.25.
    pub max_psi: f64,
    /// The same of the Kolmogorov-Smirnov statistic, for what has an order. Default 0.2.
    pub max_ks: f64,
    /// Fewer requests of a version say nothing, however many rows they hold. Default 1000.
    pub min_rows: u32,
    /// How often endpoints are asked. Default 10 s.
    pub every: Duration,
    /// How far back rows count. Default 10 min.
    pub window: Duration,
    /// What another distribution does. Default hold.
    pub action: OnDrift,
}

impl Default for DriftGuard {
    fn default() -> Self {
        Self {
            path: "/v1/drift/sketch".to_owned(),
            against: Against::Stable,
            max_psi: 0.25,
            max_ks: 0.2,
            min_rows: 1000,
            every: Duration::from_secs(10),
            window: Duration::from_mins(10),
            action: OnDrift::Hold,
        }
    }
}

/// With what the canary's rows are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// With those that stable took at the same time: what changes in the world changes both.
    Stable,
    /// With those that its model was trained on.
    Training,
}

/// What another distribution does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    /// No step and no promotion as long as it lasts.
    Hold,
    /// Weight 0 and quarantine, once several samples in a row say the same.
    Rollback,
}

/// What a proven regression does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRegression {
    /// Weight 0 at once, and quarantine.
    Rollback,
    /// A warning; traffic stays.
    Alert,
}

/// `canary <= ratio * stable + difference` is fine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tolerance {
    /// Factor on stable's error rate, at least 1.
    pub ratio: f64,
    /// Added to it, as a ratio (0.0001 is 0.01 points).
    pub difference: f64,
}

/// What is proven before a promotion: `canary < ratio * stable` or `canary < stable + difference`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PromotionGuard {
    /// Factor on stable's error rate, more than 1. Default 1.5.
    pub ratio: f64,
    /// Added to it, as a ratio. Default 0.001.
    pub difference: f64,
    /// With this confidence, as a ratio below 1. Default 0.99.
    pub confidence: f64,
    /// Not before the canary has had traffic this long. Default 5 min.
    pub min_soak: Duration,
    /// Without a verdict after this long the comparison is inconclusive. Default 1 h.
    pub max_duration: Duration,
}

impl Default for PromotionGuard {
    fn default() -> Self {
        Self {
            ratio: 1.5,
            difference: 0.001,
            confidence: 0.99,
            min_soak: Duration::from_mins(5),
            max_duration: Duration::from_hours(1),
        }
    }
}

/// An outcome that can count as an error of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The version answered 500 to 599.
    #[serde(rename = "5xx")]
    Status5xx,
    /// It did not answer in time.
    Timeout,
    /// No connection could be opened.
    Connect,
    /// The connection broke before the answer was whole.
    Reset,
}

impl Plan {
    /// The steps of a canary plan; none for blue-green and for weights by hand.
    pub fn steps(&self) -> &[Step] {
        match self {
            Self::Rollout(Rollout { strategy: Strategy::Canary(steps), .. }) => steps,
            Self::Rollout(_) | Self::Weights(_) => &[],
        }
    }

    /// Step `index` of a canary plan, from 0; none for blue-green, for weights by hand and past the last step.
    pub fn step(&self, index: usize) -> Option<&Step> {
        match self {
            Self::Rollout(Rollout { strategy: Strategy::Canary(steps), .. }) => steps.get(index),
            Self::Rollout(_) | Self::Weights(_) => None,
        }
    }
}
