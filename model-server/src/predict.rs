//! What a served model knows about its requests and answers: bodies become rows that fit (`schema`), predictions are
//! believed or refused, and written. `deployment` has the model calculate in between; `golden` goes the same way with
//! the bundle's own rows.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use thiserror::Error;

use crate::artifact::Sha256;
use crate::bundle::{Bundle, Output, Reference};
use crate::findings::{Findings, Place, Problem};
use crate::http::Limits;
use crate::json::{Fault, Kind, Scanner};
use crate::model::{self, DeviceName, Model, ModelError};
use crate::openapi;
use crate::queue::QueueError;
use crate::schema::{RowReader, Rows, Schema};

/// The key under which a batch holds its rows.
const INSTANCES: &str = "instances";

/// Which body a request has, and which answer it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/v1/predict`: one row.
    One,
    /// `/v1/predict/batch`: up to so many.
    Many(usize),
}

/// What a model takes and gives, and what its answers say about it.
pub struct Served {
    name: String,
    version: String,
    schema: Schema,
    output: Output,
    model: Arc<dyn Model>,
    reference: Reference,
    manifest: Value,
    described: Bytes,
    signature: String,
    sha256: Sha256,
    /// `,"model":"…","version":"…"}`: how every answer ends.
    ending: String,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why there is no prediction.
#[derive(Debug, Error)]
pub enum PredictError {
    /// The body does not fit the schema.
    #[error("the body does not fit the schema: {}", .0.first())]
    Invalid(Findings),
    /// More rows than one request may have.
    #[error("a batch may hold {limit} rows at most; send several")]
    TooManyRows {
        /// The limit.
        limit: usize,
    },
    /// The model was not asked, or failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The model gave something that nobody should believe.
    #[error("the model predicted {prediction} {unit} for row {row}, outside of {low} to {high}")]
    Unbelievable {
        /// What it gave.
        prediction: f32,
        /// The output's unit.
        unit: String,
        /// The row, from 0.
        row: usize,
        /// The lowest prediction that is believed.
        low: f64,
        /// The highest.
        high: f64,
    },
}

impl Served {
    /// Builds the model of a bundle.
    ///
    /// # Errors
    /// When the weights do not fit the description, or the device is not there.
    pub fn new(bundle: Bundle, device: DeviceName) -> Result<Self, ModelError> {
        let model = model::build(&bundle, device)?;
        Ok(Self::of(bundle, model.into()))
    }

    /// A model that is built already, as a bundle describes it.
    pub fn of(bundle: Bundle, model: Arc<dyn Model>) -> Self {
        let signature = bundle.schema.signature();
        let manifest: Value = serde_json::from_slice(&bundle.text).unwrap_or_default();
        let named = json!({"model": bundle.manifest.name, "version": bundle.manifest.version});
        Self {
            described: bundle.described(),
            ending: named.to_string().replacen('{', ",", 1),
            name: bundle.manifest.name,
            version: bundle.manifest.version,
            schema: bundle.schema,
            output: bundle.manifest.output,
            model,
            reference: bundle.manifest.reference,
            manifest,
            signature,
            sha256: bundle.sha256,
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The digest of the feature schema.
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The digest of the bundle.
    pub fn sha256(&self) -> &Sha256 {
        &self.sha256
    }

    /// `model.json` with the signature and the digest of the bundle: what `/v1/model` answers.
    pub fn described(&self) -> Bytes {
        self.described.clone()
    }

    /// The features.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What is predicted.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// How values were distributed in training.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What `/openapi.json` answers.
    pub fn openapi(&self, limits: Limits) -> Bytes {
        let model = openapi::Described {
            name: &self.name,
            version: &self.version,
            schema: &self.schema,
            output: &self.output,
            manifest: &self.manifest,
        };
        openapi::document(model, limits).to_string().into()
    }

    /// The rows of a body.
    ///
    /// # Errors
    /// Everything that is wrong with the body, or too many rows.
    pub fn read(&self, form: Form, body: &[u8]) -> Result<Rows, PredictError> {
        match form {
            Form::One => self.one_row(body).map_err(PredictError::Invalid),
            Form::Many(limit) => self.many_rows(body, limit),
        }
    }

    /// The body of an answer.
    pub fn write(&self, form: Form, rows: &Rows, predictions: &[f32]) -> Bytes {
        let mut text = Vec::with_capacity(32 + 12 * predictions.len() + self.ending.len());
        let (opening, closing) = match form {
            Form::One => (&br#"{"prediction":"#[..], &b""[..]),
            Form::Many(_) => (&br#"{"predictions":["#[..], &b"]"[..]),
        };
        text.extend_from_slice(opening);
        self.write_predictions(&mut text, predictions);
        text.extend_from_slice(closing);
        if !rows.warnings.is_empty() {
            text.extend_from_slice(br#","warnings":"#);
            text.extend_from_slice(json!(rows.warnings.listed()).to_string().as_bytes());
        }
        text.extend_from_slice(self.ending.as_bytes());
        text.into()
    }

    /// The values of the prediction for one row, written as JSON, calculated on the spot; for rows whose prediction is
    /// known.
    ///
    /// # Errors
    /// Everything that is wrong with the row, or what the model did wrong.
    pub fn prediction(&self, row: &[u8]) -> Result<Vec<f32>, PredictError> {
        self.calculate(&self.read(Form::One, row)?)
    }

    /// The values of the predictions for many rows, one behind the other, calculated on the spot.
    ///
    /// # Errors
    /// As [`Served::prediction`].
    pub fn predictions(&self, rows: &[&Value]) -> Result<Vec<f32>, PredictError> {
        let body = json!({INSTANCES: rows}).to_string();
        self.calculate(&self.read(Form::Many(rows.len()), body.as_bytes())?)
    }

    /// How many values a prediction has.
    pub fn values(&self) -> usize {
        self.output.values()
    }

    /// The model, for those who own it.
    pub fn model(&self) -> Arc<dyn Model> {
        Arc::clone(&self.model)
    }

    fn calculate(&self, rows: &Rows) -> Result<Vec<f32>, PredictError> {
        let predictions = self.model.predict(rows).map_err(QueueError::Model)?;
        self.believe(&predictions)?;
        Ok(predictions)
    }

    /// Predictions with commas between; a vector in brackets.
    fn write_predictions(&self, text: &mut Vec<u8>, predictions: &[f32]) {
        let Some(size) = self.output.size else {
            return write_numbers(text, predictions);
        };
        for (position, vector) in predictions.chunks(size.get()).enumerate() {
            text.extend_from_slice(if position > 0 { b",[" } else { b"[" });
            write_numbers(text, vector);
            text.push(b']');
        }
    }

    /// A prediction that is no number or out of the output's range is an error, never an answer.
    ///
    /// # Errors
    /// The first that nobody should believe.
    pub fn believe(&self, predictions: &[f32]) -> Result<(), PredictError> {
        let [low, high] = self.output.range;
        let beyond = |prediction: &f32| !(low..=high).contains(&f64::from(*prediction));
        match predictions.iter().position(beyond) {
            None => Ok(()),
            Some(position) => Err(PredictError::Unbelievable {
                prediction: predictions.get(position).copied().unwrap_or(f32::NAN),
                unit: self.output.unit.clone(),
                row: position / self.output.values(),
                low,
                high,
            }),
        }
    }

    fn one_row(&self, body: &[u8]) -> Result<Rows, Findings> {
        let mut reader = RowReader::new(&self.schema);
        let read = Scanner::new(body).and_then(|mut scanner| {
            reader.row(&mut scanner, Place::Body)?;
            scanner.finish()
        });
        match read {
            Ok(()) => reader.finish(),
            Err(fault) => Err(reader.broken(fault, body)),
        }
    }

    fn many_rows(&self, body: &[u8], limit: usize) -> Result<Rows, PredictError> {
        let mut reader = RowReader::new(&self.schema);
        let read = Scanner::new(body).map_err(Stop::from).and_then(|mut scanner| {
            read_batch(&mut scanner, &mut reader, limit)?;
            scanner.finish().map_err(Stop::from)
        });
        match read {
            Ok(()) => reader.finish().map_err(PredictError::Invalid),
            Err(Stop::Broken(fault)) => Err(PredictError::Invalid(reader.broken(fault, body))),
            Err(Stop::Full) => Err(PredictError::TooManyRows { limit }),
        }
    }
}

/// Why the reading of a batch ends early.
enum Stop {
    Broken(Fault),
    Full,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

/// `{"instances":[{…},…]}`
fn read_batch(scanner: &mut Scanner<'_>, reader: &mut RowReader<'_>, limit: usize) -> Result<(), Stop> {
    if scanner.kind() != Kind::Object {
        scanner.value()?;
        reader.note(Place::Body, None, &Problem::NotObject);
        return Ok(());
    }
    let mut found = false;
    scanner.object(|scanner, key| {
        let problem = match (key.as_ref(), found) {
            (INSTANCES, false) => {
                found = true;
                return read_instances(scanner, reader, limit);
            }
            (INSTANCES, true) => Problem::Duplicate,
            _ => Problem::Unknown,
        };
        scanner.value()?;
        reader.note(Place::Body, Some(&key), &problem);
        Ok::<(), Stop>(())
    })?;
    if !found {
        reader.note(Place::Body, Some(INSTANCES), &Problem::Missing);
    }
    Ok(())
}

fn read_instances(scanner: &mut Scanner<'_>, reader: &mut RowReader<'_>, limit: usize) -> Result<(), Stop> {
    if scanner.kind() != Kind::List {
        scanner.value()?;
        reader.note(Place::Body, Some(INSTANCES), &Problem::NotList);
        return Ok(());
    }
    scanner.list(|scanner| {
        if reader.rows() == limit {
            return Err(Stop::Full);
        }
        let place = Place::Instance(reader.rows());
        reader.row(scanner, place).map_err(Stop::from)
    })?;
    if reader.rows() == 0 {
        reader.note(Place::Body, Some(INSTANCES), &Problem::Empty);
    }
    Ok(())
}

/// Numbers with commas between; all are finite.
fn write_numbers(text: &mut Vec<u8>, numbers: &[f32]) {
    for (position, number) in numbers.iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        // Writing to memory does not fail, and every number was believed, so is finite.
        if serde_json::to_writer(&mut *text, number).is_err() {
            text.extend_from_slice(b"null");
        }
    }
}
