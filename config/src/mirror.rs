//! Copies of stable's requests for another version, whose answers are compared and thrown away.

use std::time::Duration;

use serde::Serialize;

use crate::split::{Share, VersionId};

/// What is mirrored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    /// Who gets the copies; a key of the route's versions, never its stable one.
    pub version: VersionId,
    /// The share of stable's requests that are copied.
    pub share: Share,
    /// Copies under way at a time; what comes above is not copied. Default 64.
    pub concurrent: u32,
    /// The largest body that is copied, and the largest answer that is compared, in bytes. Default 256 KiB.
    pub body_bytes: u64,
    /// How long a copy may take. Default 5 s.
    pub timeout: Duration,
    /// How answers are compared.
    pub compare: Compare,
}

/// When two answers agree: the same class of status and, where both are JSON, numbers that are close.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compare {
    /// JSON pointers to what is compared; a number, or a list of numbers. Default `/prediction` and `/predictions`.
    pub fields: Vec<String>,
    /// Numbers differ if they are further apart than this part of stable's. Default 0.01.
    pub relative: f64,
    /// And than this. Default 1e-6.
    pub absolute: f64,
    /// A part of the copies is sent to stable again, to learn how often stable disagrees with itself. Default 10 %.
    pub noise: Share,
    /// Disagreement above stable's own that holds a promotion, as a ratio; none: it is only shown. Default 0.01.
    pub gate: Option<f64>,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            fields: vec!["/prediction".to_owned(), "/predictions".to_owned()],
            relative: 0.01,
            absolute: 1e-6,
            noise: Share::from_ppm(100_000).unwrap_or(Share::ZERO),
            gate: Some(0.01),
        }
    }
}
