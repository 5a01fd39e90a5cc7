//! What holds for every bundle that somebody may have written, and for every body that a client can send. `fuzz/` looks for
//! one for which it does not.

#![expect(clippy::expect_used, reason = "what does not hold is told by a panic")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::artifact::{ArtifactError, Folder, ModelFile, Sha256, plain};
use crate::bundle::Bundle;
use crate::findings::LISTED;
use crate::golden;
use crate::http::Limits;
use crate::model::DeviceName;
use crate::predict::{Form, PredictError, Served};
use crate::schema::{Feature, Rows, narrow};

pub use crate::oip::fuzzing::{grpc, tensors};

/// How many rows a batch may hold.
pub(crate) const MOST_ROWS: usize = 8;

/// A bundle is refused in words, or it is a model that gives every row what its description promises.
///
/// The parts of a bundle stand behind each other with a zero byte between them: `model.json`, `tokenizer.json` if that is
/// listed, the tensors. Their digests are not asked: who can write one file can write both.
///
/// # Panics
/// If that does not hold.
pub fn bundle(input: &[u8]) {
    let (text, files) = split(input);
    let file = ModelFile { bytes: text.to_vec(), sha256: Sha256::of(text) };
    let mut bundle = match Bundle::of(file, |digests| listed(digests, files)) {
        Ok(bundle) => bundle,
        Err(error) => return check_words(&error),
    };
    let golden = bundle.take_golden();
    let served = match Served::new(bundle, DeviceName::Cpu) {
        Ok(served) => served,
        Err(error) => return check_words(&error),
    };
    check_described(&served);
    for example in &golden.examples {
        let row = example.input.to_string();
        match served.prediction(row.as_bytes()) {
            Ok(values) => check_values(&served, &values, 1),
            Err(error) => check_words(&error),
        }
    }
    for passed in [golden::check(&served, &golden), golden::check_together(&served, &golden)] {
        match passed {
            Ok(passed) => assert!(passed.largest_difference <= golden.tolerance),
            Err(error) => check_words(&error),
        }
    }
}

/// What stands before the first zero byte, and behind it.
pub(crate) fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    (input.get(..end).unwrap_or_default(), input.get(end + 1..).unwrap_or_default())
}

fn listed(digests: &BTreeMap<String, String>, files: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, ArtifactError> {
    let (tokenizer, rest) = split(files);
    let tensors = if digests.contains_key("tokenizer.json") { rest } else { files };
    let content = |name: &str| if name == "tokenizer.json" { tokenizer } else { tensors };
    digests.keys().map(|name| plain(name).map(|()| (name.clone(), content(name).to_vec()))).collect()
}

/// An error says something, and so does what is behind it.
pub(crate) fn check_words(error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert!(!error.to_string().is_empty(), "no words: {error:?}");
        next = error.source();
    }
}

fn check_described(served: &Served) {
    let described: Value = serde_json::from_slice(&served.described()).expect("JSON");
    assert_eq!(described.get("signature").and_then(Value::as_str), Some(served.signature()));
    let limits = Limits { body_bytes: 1 << 20, batch_rows: MOST_ROWS, body_patience: Duration::from_secs(1) };
    let openapi: Value = serde_json::from_slice(&served.openapi(limits)).expect("JSON");
    assert!(openapi.is_object());
}

/// As many values as rows have, and all of them believed.
fn check_values(served: &Served, values: &[f32], rows: usize) {
    assert_eq!(values.len(), rows * served.values());
    let [low, high] = served.output().range;
    assert!(values.iter().all(|value| (low..=high).contains(&f64::from(*value))), "{values:?}");
}

/// The model of the examples.
pub(crate) fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/delivery-time/v1");
        let bundle = Bundle::load(&Folder::new(folder), None).expect("a sound bundle");
        Served::new(bundle, DeviceName::Cpu).expect("a model")
    })
}

/// A body is refused with everything that is wrong with it, or it has as many rows as there are answers, each of them a
/// number; a row is read the same alone and in a batch, and just as a reading with `serde_json` has it.
///
/// # Panics
/// If that does not hold.
pub fn predict(input: &[u8]) {
    let served = served();
    let alone = served.read(Form::One, input);
    check_read(&alone, Form::One, 1..=1);
    check_read(&served.read(Form::Many(MOST_ROWS), input), Form::Many(MOST_ROWS), 1..=MOST_ROWS);
    check_alike(alone.as_ref().ok(), input);
    if let Ok(alone) = alone {
        let batch = [br#"{"instances":["#, input, b",", input, b"]}"].concat();
        let together = served.read(Form::Many(2), &batch).expect("the same row in a batch");
        assert_eq!(together.columns, [alone.columns.as_slice(), &alone.columns].concat());
        assert_eq!(together.warnings.count(), 2 * alone.warnings.count());
    }
}

/// What was read, and what becomes of it.
pub(crate) fn check_read(read: &Result<Rows, PredictError>, form: Form, counts: std::ops::RangeInclusive<usize>) {
    match read {
        Ok(rows) => {
            assert!(counts.contains(&rows.count), "{} rows", rows.count);
            check_rows(rows, form);
        }
        Err(PredictError::Invalid(findings)) => {
            assert!(
                !findings.is_empty() && !findings.first().is_empty() && findings.count() >= findings.listed().len()
            );
            // Beside the place where the text ends to be JSON.
            assert!(findings.listed().len() <= LISTED + 1);
        }
        Err(error) => check_words(error),
    }
}

/// Rows that fit become predictions that are believed, the same alone as beside others.
pub(crate) fn check_rows(rows: &Rows, form: Form) {
    let served = served();
    assert_eq!(rows.columns.len(), rows.count * served.schema().width());
    assert!(rows.columns.iter().all(|column| column.is_finite()));
    let predictions = served.model().predict(rows).expect("a calculation");
    assert_eq!(predictions.len(), rows.count * served.values());
    if let Err(error) = served.believe(&predictions) {
        return check_words(&error);
    }
    check_values(served, &predictions, rows.count);
    let last = rows.row(rows.count - 1).expect("a last row");
    let alone = served.model().predict(&last).expect("a calculation");
    let off = alone.iter().zip(predictions.iter().skip(rows.count - 1)).map(|(alone, beside)| (alone - beside).abs());
    assert!(off.fold(0.0, f32::max) < 1e-3, "{alone:?} alone, {predictions:?} beside others");
    let answer: Value = serde_json::from_slice(&served.write(form, rows, &predictions)).expect("JSON");
    let answers = match form {
        Form::One => usize::from(answer.get("prediction").is_some_and(Value::is_number)),
        Form::Many(_) => answer.get("predictions").and_then(Value::as_array).map_or(0, Vec::len),
    };
    assert_eq!(answers, rows.count, "{answer}");
}

/// A row that a plain reading has no doubt of is taken as that has it, and none is taken of which it knows better.
fn check_alike(alone: Option<&Rows>, input: &[u8]) {
    let Ok(Value::Object(row)) = serde_json::from_slice(input) else {
        return assert!(alone.is_none(), "no JSON object was taken");
    };
    let features: Vec<&Feature> = served().schema().features().collect();
    let cells: Vec<Cells> = features
        .iter()
        .map(|feature| row.get(feature.name()).map_or(Cells::Wrong, |value| cells(feature, value)))
        .collect();
    let sure: Option<Vec<f32>> = cells.iter().map(Cells::sure).collect::<Option<Vec<_>>>().map(|all| all.concat());
    match (alone, sure) {
        (Some(rows), Some(wanted)) => {
            let off = rows.columns.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5, "{:?} is not {wanted:?}", rows.columns);
        }
        // A key that stands twice is not seen by the plain reading.
        (None, Some(_)) => assert!(row.len() != features.len() || has_a_key_twice(input, &features), "refused"),
        (Some(_), None) => assert!(!cells.iter().any(|cell| matches!(cell, Cells::Wrong)), "taken"),
        (None, None) => {}
    }
    assert!(alone.is_none() || row.len() == features.len(), "a stranger among the features");
}

/// What a value becomes.
enum Cells {
    /// These columns.
    Right(Vec<f32>),
    /// Nothing.
    Wrong,
    /// Too near an end of the range: the two readings may round a number to different neighbours.
    Unsure,
}

impl Cells {
    fn sure(&self) -> Option<Vec<f32>> {
        match self {
            Self::Right(columns) => Some(columns.clone()),
            Self::Wrong | Self::Unsure => None,
        }
    }
}

fn cells(feature: &Feature, value: &Value) -> Cells {
    match (feature, value) {
        (Feature::Numeric { range: [low, high], .. }, Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            match (number - low).min(high - number) {
                within if within > 1e-9 => Cells::Right(vec![narrow(number)]),
                within if within < -1e-9 => Cells::Wrong,
                _ => Cells::Unsure,
            }
        }
        (Feature::Boolean { .. }, Value::Bool(flag)) => Cells::Right(vec![f32::from(u8::from(*flag))]),
        (Feature::Categorical { categories, .. }, Value::String(text)) if categories.contains(text) => {
            Cells::Right(categories.iter().map(|category| f32::from(u8::from(category == text))).collect())
        }
        _ => Cells::Wrong,
    }
}

/// Whether there are more keys than names, counted as they stand in the text, whatever way they are written.
fn has_a_key_twice(input: &[u8], features: &[&Feature]) -> bool {
    input.split(|byte| *byte == b':').count() > features.len() + 1
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_target_bundle_holds() {
        replay::kept_inputs("bundle", bundle);
    }

    #[test]
    fn what_is_kept_for_the_target_predict_holds() {
        replay::kept_inputs("predict", predict);
    }

    #[test]
    fn what_is_kept_for_the_target_tensors_holds() {
        replay::kept_inputs("tensors", tensors);
    }

    #[test]
    fn what_is_kept_for_the_target_grpc_holds() {
        replay::kept_inputs("grpc", grpc);
    }
}
