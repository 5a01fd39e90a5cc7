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
        "golden example {example} gives {found}, but the training code gave {wanted} (tolerance {tolerance}); the weights and model.json are not of one training"
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
    },
}

/// Compares every example; gives how many there were.
///
/// # Errors
/// The first example that the model refuses or predicts otherwise.
pub fn check(served: &Served, golden: &Golden) -> Result<usize, GoldenError> {
    for (example, known) in golden.examples.iter().enumerate() {
        let predictions = served
            .prediction(known.input.to_string().as_bytes())
            .map_err(|source| GoldenError::Refused { example, source })?;
        let found = predictions.first().copied().unwrap_or(f32::NAN);
        let near = (f64::from(found) - known.prediction).abs() <= golden.tolerance;
        if !near {
            return Err(GoldenError::Off { example, found, wanted: known.prediction, tolerance: golden.tolerance });
        }
    }
    Ok(golden.examples.len())
}
