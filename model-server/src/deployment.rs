//! One model as it is served: what it takes and gives (`predict`), the queue before it, and what its traffic looks
//! like beside its training (`drift`). `http` and `oip` hand rows in.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use crate::answer::Refusal;
use crate::batching::{Costs, Trial};
use crate::drift::Drift;
use crate::health::Health;
use crate::http::Limits;
use crate::metrics::Metrics;
use crate::model::{Model, ModelError};
use crate::predict::{Form, PredictError, Served};
use crate::queue::{Predictions, Queue, QueueLimits};
use crate::schema::Rows;

/// How often a trial is run; the fastest counts, since everything else that a machine does only adds.
const TRIALS: u32 = 5;

/// A trial that takes longer than this is not repeated: a start should not wait for it.
const LONG_TRIAL: Duration = Duration::from_millis(50);

/// How many rows the larger trial has.
const MANY_ROWS: u32 = 32;

/// A model that is served.
#[derive(Debug)]
pub struct Deployment {
    served: Served,
    queue: Queue,
    drift: Drift,
    openapi: Bytes,
}

/// What a request says of itself beside its rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// When its client stops waiting.
    pub deadline: Option<Instant>,
    /// Whether it is a golden call of the edge, which is nobody's traffic.
    pub is_golden: bool,
}

/// What a deployment is held to.
#[derive(Debug, Clone)]
pub struct Terms {
    /// For requests.
    pub limits: Limits,
    /// For requests that wait.
    pub queue: QueueLimits,
    /// How many threads own the model.
    pub workers: NonZeroUsize,
    /// Where too many panics are told.
    pub health: Arc<Health>,
    /// How long a window of traffic is compared with training.
    pub drift_window: Duration,
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum DeploymentError {
    /// It does not calculate.
    #[error("the model cannot calculate its own golden example")]
    Model(#[from] ModelError),
    /// Its golden example is none.
    #[error("the first golden example does not fit the features of the bundle")]
    Example(#[source] PredictError),
    /// Its workers cannot be started.
    #[error("a thread for the model cannot be started; set THREADS to fewer")]
    Threads(#[from] io::Error),
}

impl Deployment {
    /// Measures what the model costs on one of its own examples, and starts its workers.
    ///
    /// # Errors
    /// When the model cannot calculate, or the system gives no thread.
    pub fn start(served: Served, example: &[u8], terms: &Terms) -> Result<Self, DeploymentError> {
        let row = served.read(Form::One, example).map_err(DeploymentError::Example)?;
        let costs = measure(served.model().as_ref(), &row)?;
        let queue = Queue::start(served.model(), costs, terms.queue, (terms.workers, Arc::clone(&terms.health)))?;
        let drift = Drift::new(served.schema(), served.reference(), terms.drift_window);
        let openapi = served.openapi(terms.limits);
        Ok(Self { served, queue, drift, openapi })
    }

    /// What the model takes and gives.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// How the traffic differs from training.
    pub fn drift(&self) -> &Drift {
        &self.drift
    }

    /// What `/openapi.json` answers.
    pub fn openapi(&self) -> Bytes {
        self.openapi.clone()
    }

    /// How many requests wait.
    pub fn queue_depth(&self) -> usize {
        self.queue.depth()
    }

    /// Predictions that may be believed, counted.
    ///
    /// # Errors
    /// When there is no room or no time, the model fails, or it predicts what nobody should believe.
    pub async fn predict(&self, rows: Rows, asked: Asked, metrics: &Metrics) -> Result<Predictions, PredictError> {
        let predictions = self.queue.calculate(rows, asked.deadline).await?;
        for calculation in predictions.earlier.iter().chain(&predictions.calculation) {
            metrics.calculated(calculation.rows, calculation.took);
        }
        self.served.believe(&predictions.values)?;
        if !asked.is_golden {
            let now = predictions.calculation.map_or_else(Instant::now, |calculation| calculation.ended);
            self.drift.note(&predictions.rows, &predictions.values, now);
        }
        Ok(predictions)
    }

    /// Counts a request that the schema refused: to drift, too, belongs what does not come through.
    pub fn note_refused(&self, refusal: &Refusal, asked: Asked) {
        if matches!(refusal, Refusal::Invalid(_)) && !asked.is_golden {
            self.drift.refuse(Instant::now());
        }
    }
}

fn measure(model: &dyn Model, row: &Rows) -> Result<Costs, ModelError> {
    let mut many = Rows::default();
    for _ in 0..MANY_ROWS {
        many.append(row);
    }
    Ok(Costs::measured(trial(model, row)?, trial(model, &many)?))
}

fn trial(model: &dyn Model, rows: &Rows) -> Result<Trial, ModelError> {
    let mut fastest = Duration::MAX;
    for _ in 0..TRIALS {
        let start = Instant::now();
        model.predict(rows)?;
        fastest = fastest.min(start.elapsed());
        if fastest > LONG_TRIAL {
            break;
        }
    }
    let count = u32::try_from(rows.count).unwrap_or(u32::MAX);
    Ok(Trial { rows: count, weight: model.weight(rows), took: fastest })
}
