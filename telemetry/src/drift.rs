//! How distributions are counted, handed over and compared: what a model server tells of its rows, and what whoever adds up
//! several servers, or compares two versions, makes of it. Both sides use these types, so that they mean the same.
//!
//! A [`Report`] holds counts from the start of a process on, never a verdict: counts of endpoints add up, differences of two
//! reports are what happened between them, and both versions of a route count numbers in bins that follow from the values
//! alone ([`Sketch`]), whatever either was trained on.

mod sketch;
mod statistics;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use sketch::{MOST_BINS, Sketch, SketchError};
pub use statistics::{Distance, by_quantiles, distance, distance_by_draws};

/// The format of reports that this build writes and reads.
pub const FORMAT: u32 = 1;

/// What predictions are called beside the features.
pub const PREDICTION: &str = "prediction";

/// What one process counted since it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// Which process: the counts of another one begin at nothing.
    pub instance: String,
    /// Its model.
    pub model: String,
    /// That model's version.
    pub version: String,
    /// Rows that were predicted.
    pub rows: u64,
    /// Requests in which they came; none where nobody counts them, as in reports of older servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Every feature and, where they are single numbers, the predictions, by name.
    pub distributions: BTreeMap<String, Distribution>,
}

/// How the values of a feature, or the predictions, were distributed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Whether it is what the model answered, and not what it was asked.
    #[serde(default)]
    pub is_prediction: bool,
    /// The values.
    pub values: Values,
    /// The same beside the training; none without a reference.
    #[serde(default)]
    pub training: Option<Training>,
}

/// Counts of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Values {
    /// Of numbers, and of the lengths of texts.
    Numbers(Sketch),
    /// Of categories and booleans, by name.
    Categories {
        /// Rows of each.
        counts: BTreeMap<String, u64>,
    },
}

/// Counts in the bins of the training reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Of numbers the inner edges of the bins; none for categories, which have no order.
    #[serde(default)]
    pub edges: Option<Vec<f64>>,
    /// Rows of the training in each bin.
    pub trained: Vec<u64>,
    /// Rows since the start in each.
    pub counts: Vec<u64>,
}
