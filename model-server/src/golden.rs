//! Truth before ready: the bundle's own rows must give the predictions that the training code gave. They go the
//! way of a request, from JSON through the schema to the model.

use thiserror::Error;

use crate::bundle::Golden;
use crate::predict::{PredictError, Served};

/// Why a model is not what was trained.
#[derive(Debug, Error)]
pub enum GoldenError {
    /// It cannot answer an example.
    #[error("golden example {example} cannot be predicted")]
    Refused {
        /// Its position, from 0.
        example: usize,
        /// Why not.
        source: PredictError,
    },
    /// It answers otherwise.
    #[error(
        "golden example {example} gives {found}{place}, but the training code gave {wanted} (tolerance {tolerance}); the weights and model.json are not of one training"
    )]
    Off {
        /// Its position, from 0.
        example: usize,
        /// What the model gives.
        found: f32,
        /// What it should give.
        wanted: f64,
        /// How far apart they may be.
        tolerance: f64,
        /// Which value of a vector it is, in words.
        place: String,
    },
    /// It answers with more or fewer values.
    #[error("golden example {example} lists {wanted} values, but a prediction of this model has {found}")]
    Size {
        /// Its position, from 0.
        example: usize,
        /// How many values the model gives.
        found: usize,
        /// How many are known.
        wanted: usize,
    },
}

/// How near the model came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passed {
    /// How many examples there were.
    pub examples: usize,
    /// The most that any value was off.
    pub largest_difference: f64,
}

/// Compares every example.
///
/// # Errors
/// The first example that the model refuses or predicts otherwise.
pub fn check(served: &Served, golden: &Golden) -> Result<Passed, GoldenError> {
    let mut largest_difference = 0.0_f64;
    for (example, known) in golden.examples.iter().enumerate() {
        let found = served
            .prediction(known.input.to_string().as_bytes())
            .map_err(|source| GoldenError::Refused { example, source })?;
        let off = compare(example, &found, known.prediction.values(), golden.tolerance)?;
        largest_difference = largest_difference.max(off);
    }
    Ok(Passed { examples: golden.examples.len(), largest_difference })
}

/// Compares every example when all are predicted as one batch.
///
/// # Errors
/// The first example that is predicted otherwise.
pub fn check_together(served: &Served, golden: &Golden) -> Result<Passed, GoldenError> {
    let rows: Vec<_> = golden.examples.iter().map(|known| &known.input).collect();
    let found = served.predictions(&rows).map_err(|source| GoldenError::Refused { example: 0, source })?;
    let mut largest_difference = 0.0_f64;
    for (example, (known, found)) in golden.examples.iter().zip(found.chunks(served.values())).enumerate() {
        let off = compare(example, found, known.prediction.values(), golden.tolerance)?;
        largest_difference = largest_difference.max(off);
    }
    Ok(Passed { examples: golden.examples.len(), largest_difference })
}

/// The most that any value is off.
fn compare(example: usize, found: &[f32], wanted: &[f64], tolerance: f64) -> Result<f64, GoldenError> {
    if found.len() != wanted.len() {
        return Err(GoldenError::Size { example, found: found.len(), wanted: wanted.len() });
    }
    let mut largest = 0.0_f64;
    for (position, (found, wanted)) in found.iter().copied().zip(wanted.iter().copied()).enumerate() {
        let off = (f64::from(found) - wanted).abs();
        largest = largest.max(off);
        let near = off <= tolerance;
        if !near {
            let place = if position == 0 { String::new() } else { format!(" as value {position}") };
            return Err(GoldenError::Off { example, found, wanted, tolerance, place });
        }
    }
    Ok(largest)
}
