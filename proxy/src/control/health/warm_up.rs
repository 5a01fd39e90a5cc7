//! Golden calls: what an endpoint must answer rightly before its first request.
//!
//! Line: health ► **`warm_up`** ► health. They fill caches, and a model that answers otherwise than it was trained to gets no
//! request at all, although it says that it is ready.

use bytes::Bytes;
use pointsman_config::{Example, Golden, WarmUp};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::call::{Answer, CallError, Callee};
use super::features::ModelCard;

/// So much of an answer that is not what was expected is shown.
const SHOWN_CHARS: usize = 120;

/// Why an endpoint is not warm.
#[derive(Debug, Error)]
pub(super) enum WarmUpError {
    #[error("warm-up: no golden examples, since `{path}` could not be read")]
    Describe { path: String, source: CallError },
    #[error("warm-up: no golden examples, since `{path}` answered {status}")]
    DescribeStatus { path: String, status: u16 },
    #[error("warm-up: `{path}` describes no golden examples; `golden.examples` needs one at least")]
    Description { path: String, source: Option<serde_json::Error> },
    #[error("warm-up: example {example} was not answered by `{path}`")]
    Call { example: usize, path: String, source: CallError },
    #[error("warm-up: example {example} was answered by `{path}` with {status}: {answer}")]
    Status { example: usize, path: String, status: u16, answer: String },
    #[error(
        "warm-up: example {example} was turned away by `{path}` with {status}: it has too much to do, or is not ready"
    )]
    Shed { example: usize, path: String, status: u16 },
    #[error("warm-up: example {example} should give {expected} within {tolerance}, and gave {got}")]
    Wrong { example: usize, expected: f64, tolerance: f64, got: String },
    #[error("warm-up: example {example} should give a vector of {expected} numbers, and gave {got}")]
    NoVector { example: usize, expected: usize, got: String },
    #[error(
        "warm-up: example {example} should give {expected} within {tolerance} as number {place} of its vector, and gave {got}"
    )]
    WrongInVector { example: usize, place: usize, expected: f64, tolerance: f64, got: String },
}

impl WarmUpError {
    /// Whether this process lacks something to ask with.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Describe { source, .. } | Self::Call { source, .. } => source.is_ours(),
            Self::DescribeStatus { .. }
            | Self::Description { .. }
            | Self::Status { .. }
            | Self::Shed { .. }
            | Self::Wrong { .. }
            | Self::NoVector { .. }
            | Self::WrongInVector { .. } => false,
        }
    }

    /// Whether the endpoint had no room, or no time, to look at a call, which says nothing of what it would have answered.
    pub(super) fn is_for_want_of_time(&self) -> bool {
        match self {
            Self::Shed { .. } => true,
            Self::Describe { source, .. } | Self::Call { source, .. } => matches!(source, CallError::Timeout(_)),
            Self::DescribeStatus { .. }
            | Self::Description { .. }
            | Self::Status { .. }
            | Self::Wrong { .. }
            | Self::NoVector { .. }
            | Self::WrongInVector { .. } => false,
        }
    }
}

/// What of a model's description matters here.
#[derive(Debug, Deserialize)]
struct Description {
    golden: Described,
}

/// The examples as a model describes them.
#[derive(Debug, Deserialize)]
struct Described {
    tolerance: f64,
    examples: Vec<Known>,
}

#[derive(Debug, Deserialize)]
struct Known {
    input: Box<RawValue>,
    prediction: Prediction,
}

/// What a model gives: a number, or numbers, such as the embedding of a text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Prediction {
    Number(f64),
    Vector(Vec<f64>),
}

/// What is sent, and what must come back.
#[derive(Debug, Clone, PartialEq)]
struct GoldenCall {
    /// JSON.
    body: String,
    /// None if any answer 2xx will do.
    expect: Option<Prediction>,
    /// How far each number may be off.
    tolerance: f64,
}

impl GoldenCall {
    fn of_file(example: &Example) -> Self {
        let expect = example.expect.map(Prediction::Number);
        Self { body: example.body.clone(), expect, tolerance: example.tolerance }
    }
}

/// Calls the endpoint as often as `plan` says.
pub(super) async fn warm_up(callee: Callee<'_>, plan: &WarmUp) -> Result<(), WarmUpError> {
    ask(callee, plan, |calls, _| calls).await
}

/// Calls it once with each example at most: it is warm, and only whether it still answers rightly is asked.
pub(super) async fn answer_again(callee: Callee<'_>, plan: &WarmUp) -> Result<(), WarmUpError> {
    ask(callee, plan, usize::min).await
}

/// Calls it as often as `times` makes of the calls that `plan` names and of the number of examples.
async fn ask(callee: Callee<'_>, plan: &WarmUp, times: fn(usize, usize) -> usize) -> Result<(), WarmUpError> {
    let callee = Callee { patience: plan.timeout, ..callee };
    let examples = examples(callee, &plan.golden).await?;
    let calls = times(usize::try_from(plan.calls).unwrap_or(usize::MAX), examples.len());
    for (number, example) in examples.iter().enumerate().cycle().take(calls) {
        call(callee, &plan.path, number + 1, example).await?;
    }
    Ok(())
}

async fn examples(callee: Callee<'_>, golden: &Golden) -> Result<Vec<GoldenCall>, WarmUpError> {
    match golden {
        Golden::Examples(examples) => Ok(examples.iter().map(GoldenCall::of_file).collect()),
        Golden::Model(path) => {
            let described = callee.fetch(path).await;
            let (status, text) = described.map_err(|source| WarmUpError::Describe { path: path.clone(), source })?;
            if !status.is_success() {
                return Err(WarmUpError::DescribeStatus { path: path.clone(), status: status.as_u16() });
            }
            read_description(path, &text)
        }
    }
}

/// Which model it says it is, and what it takes; none if it cannot be asked now.
pub(super) async fn described(callee: Callee<'_>, plan: &WarmUp) -> Option<ModelCard> {
    let Golden::Model(path) = &plan.golden else { return None };
    let (status, text) = Callee { patience: plan.timeout, ..callee }.fetch(path).await.ok()?;
    if status.is_success() { ModelCard::read(&text) } else { None }
}

fn read_description(path: &str, text: &[u8]) -> Result<Vec<GoldenCall>, WarmUpError> {
    let no_examples = |source| WarmUpError::Description { path: path.to_owned(), source };
    let Description { golden: Described { tolerance, examples } } =
        serde_json::from_slice(text).map_err(|error| no_examples(Some(error)))?;
    if examples.is_empty() {
        return Err(no_examples(None));
    }
    let call =
        |known: Known| GoldenCall { body: known.input.get().to_owned(), expect: Some(known.prediction), tolerance };
    Ok(examples.into_iter().map(call).collect())
}

async fn call(callee: Callee<'_>, path: &str, number: usize, golden: &GoldenCall) -> Result<(), WarmUpError> {
    let answered = callee.golden(path, Bytes::from(golden.body.clone())).await;
    let answer = answered.map_err(|source| WarmUpError::Call { example: number, path: path.to_owned(), source })?;
    judge(path, number, golden, &answer)
}

fn judge(path: &str, example: usize, golden: &GoldenCall, answer: &Answer) -> Result<(), WarmUpError> {
    let (path, status) = (path.to_owned(), answer.status.as_u16());
    if answer.is_shed {
        return Err(WarmUpError::Shed { example, path, status });
    }
    if !answer.status.is_success() {
        return Err(WarmUpError::Status { example, path, status, answer: shown(&answer.body) });
    }
    let given = serde_json::from_slice::<Value>(&answer.body).ok();
    let given = given.as_ref().and_then(|given| given.pointer("/prediction"));
    match &golden.expect {
        None => Ok(()),
        Some(Prediction::Number(expected)) => judge_number(example, (*expected, golden.tolerance), given, answer),
        Some(Prediction::Vector(expected)) => judge_vector(example, (expected, golden.tolerance), given, answer),
    }
}

fn judge_number(
    example: usize,
    (expected, tolerance): (f64, f64),
    given: Option<&Value>,
    answer: &Answer,
) -> Result<(), WarmUpError> {
    let got = match given.and_then(Value::as_f64) {
        Some(found) if (found - expected).abs() <= tolerance => return Ok(()),
        Some(found) => found.to_string(),
        None => format!("no number at /prediction: {}", shown(&answer.body)),
    };
    Err(WarmUpError::Wrong { example, expected, tolerance, got })
}

/// As long as it should be, and every number of it right.
fn judge_vector(
    example: usize,
    (expected, tolerance): (&[f64], f64),
    given: Option<&Value>,
    answer: &Answer,
) -> Result<(), WarmUpError> {
    let no_vector = |got| WarmUpError::NoVector { example, expected: expected.len(), got };
    let Some(given) = given.and_then(Value::as_array) else {
        return Err(no_vector(format!("no vector at /prediction: {}", shown(&answer.body))));
    };
    if given.len() != expected.len() {
        return Err(no_vector(given.len().to_string()));
    }
    let is_wrong = |found: &Value, expected: f64| found.as_f64().is_none_or(|it| (it - expected).abs() > tolerance);
    let mut numbers = given.iter().zip(expected.iter().copied()).zip(1..);
    match numbers.find(|((found, expected), _)| is_wrong(found, *expected)) {
        None => Ok(()),
        Some(((found, expected), place)) => {
            Err(WarmUpError::WrongInVector { example, place, expected, tolerance, got: found.to_string() })
        }
    }
}

/// The beginning of an answer, on one line.
fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS).collect();
    if line.chars().count() < text.chars().count() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[track_caller]
    fn check(expect: Option<f64>, status: u16, answer: &str, problem: Option<&str>) {
        check_prediction(expect.map(Prediction::Number), (status, answer), problem);
    }

    #[track_caller]
    fn check_prediction(expect: Option<Prediction>, (status, text): (u16, &str), problem: Option<&str>) {
        let golden = GoldenCall { body: "{}".to_owned(), expect, tolerance: 0.5 };
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, is_shed: false, body: Bytes::copy_from_slice(text.as_bytes()) };
        let judged = judge("/v1/predict", 3, &golden, &answer);
        assert_eq!(judged.err().map(|error| error.to_string()).as_deref(), problem, "{text}");
    }

    #[test]
    fn a_vector_is_right_when_it_is_as_long_and_all_of_it_is_right() {
        let check = |answer: &str, problem: Option<&str>| {
            check_prediction(Some(Prediction::Vector(vec![1.0, -2.0, 3.0])), (200, answer), problem);
        };
        check(r#"{"prediction":[1.4,-2,3]}"#, None);
        let off = "warm-up: example 3 should give 3 within 0.5 as number 3 of its vector, and gave ";
        check(r#"{"prediction":[1,-2,3.6]}"#, Some(&format!("{off}3.6")));
        check(r#"{"prediction":[1,-2,null]}"#, Some(&format!("{off}null")));
        let none = "warm-up: example 3 should give a vector of 3 numbers, and gave ";
        check(r#"{"prediction":[1,-2]}"#, Some(&format!("{none}2")));
        check(r#"{"prediction":[1,-2,3,4]}"#, Some(&format!("{none}4")));
        for answer in [r#"{"prediction":1}"#, "{}", ""] {
            check(answer, Some(&format!("{none}no vector at /prediction: {answer}")));
        }
        let number = "warm-up: example 3 should give 1 within 0.5, and gave no number at /prediction: ";
        let answer = r#"{"prediction":[1]}"#;
        check_prediction(Some(Prediction::Number(1.0)), (200, answer), Some(&format!("{number}{answer}")));
    }

    #[test]
    fn what_was_turned_away_says_nothing_of_the_answers() {
        let golden = GoldenCall { body: "{}".to_owned(), expect: Some(Prediction::Number(1.0)), tolerance: 0.5 };
        let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, is_shed: true, body: Bytes::new() };
        let error = judge("/v1/predict", 3, &golden, &answer).unwrap_err();
        assert!(
            error.is_for_want_of_time()
                && error.to_string().contains("example 3 was turned away by `/v1/predict` with 429")
        );
    }

    #[test]
    fn an_answer_is_right_within_its_tolerance() {
        check(Some(40.0), 200, r#"{"prediction":40.5}"#, None);
        check(Some(40.0), 200, r#"{"prediction":40}"#, None);
        check(None, 204, "", None);
        check(
            Some(40.0),
            200,
            r#"{"prediction":31.7}"#,
            Some("warm-up: example 3 should give 40 within 0.5, and gave 31.7"),
        );
    }

    #[test]
    fn what_is_no_number_and_what_failed_is_wrong() {
        let no_number = |answer: &str| {
            format!("warm-up: example 3 should give 40 within 0.5, and gave no number at /prediction: {answer}")
        };
        for answer in ["{}", r#"{"prediction":null}"#, r#"{"prediction":"40"}"#, "40", ""] {
            check(Some(40.0), 200, answer, Some(&no_number(answer)));
        }
        let failed = "warm-up: example 3 was answered by `/v1/predict` with 500: out of memory";
        check(None, 500, "out\nof memory".replace('\n', " ").as_str(), Some(failed));
    }

    #[test]
    fn examples_are_read_from_a_description_with_everything_else_in_it() {
        let text = r#"{"name":"m","golden":{"tolerance":0.001,"examples":[{"input":{"a": 1.50},"prediction":3.25}]},"mlp":{}}"#;
        let wanted =
            GoldenCall { body: r#"{"a": 1.50}"#.to_owned(), expect: Some(Prediction::Number(3.25)), tolerance: 0.001 };
        assert_eq!(read_description("/v1/model", text.as_bytes()).unwrap(), [wanted]);
        let vector = text.replace("3.25", "[0.5, -1]");
        let read = read_description("/v1/model", vector.as_bytes()).unwrap();
        assert_eq!(read[0].expect, Some(Prediction::Vector(vec![0.5, -1.0])));
        for bad in ["", "[]", r#"{"golden":{"tolerance":1,"examples":[]}}"#, r#"{"golden":null}"#] {
            let error = read_description("/v1/model", bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("`/v1/model` describes no golden examples"), "{error}");
        }
    }

    #[test]
    fn a_long_answer_is_cut_and_stays_on_one_line() {
        let text = shown(format!("a\nb{}", "x".repeat(500)).as_bytes());
        assert_eq!(text.chars().count(), SHOWN_CHARS + 1);
        assert!(text.starts_with("a bx") && text.ends_with('…'));
    }
}
