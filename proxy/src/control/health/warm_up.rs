//! Golden calls: what an endpoint must answer rightly before its first request.
//!
//! Line: health ► **`warm_up`** ► health. They fill caches, and a model that answers otherwise than it was trained to gets no
//! request at all, although it says that it is ready.

use bytes::Bytes;
use http::StatusCode;
use pointsman_config::{Example, Golden, WarmUp};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::Takes;
use super::call::{CallError, Callee};

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
    #[error("warm-up: example {example} should give {expected} within {tolerance}, and gave {got}")]
    Wrong { example: usize, expected: f64, tolerance: f64, got: String },
}

impl WarmUpError {
    /// Whether this process lacks something to ask with.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Describe { source, .. } | Self::Call { source, .. } => source.is_ours(),
            Self::DescribeStatus { .. } | Self::Description { .. } | Self::Status { .. } | Self::Wrong { .. } => false,
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
    prediction: f64,
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

async fn examples(callee: Callee<'_>, golden: &Golden) -> Result<Vec<Example>, WarmUpError> {
    match golden {
        Golden::Examples(examples) => Ok(examples.clone()),
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

/// What the model says of what it takes; none if it cannot be asked now.
pub(super) async fn described(callee: Callee<'_>, plan: &WarmUp) -> Option<Takes> {
    let Golden::Model(path) = &plan.golden else { return None };
    let (status, text) = Callee { patience: plan.timeout, ..callee }.fetch(path).await.ok()?;
    if status.is_success() { Takes::read(&text) } else { None }
}

fn read_description(path: &str, text: &[u8]) -> Result<Vec<Example>, WarmUpError> {
    let no_examples = |source| WarmUpError::Description { path: path.to_owned(), source };
    let Description { golden: Described { tolerance, examples } } =
        serde_json::from_slice(text).map_err(|error| no_examples(Some(error)))?;
    if examples.is_empty() {
        return Err(no_examples(None));
    }
    let example =
        |known: Known| Example { body: known.input.get().to_owned(), expect: Some(known.prediction), tolerance };
    Ok(examples.into_iter().map(example).collect())
}

async fn call(callee: Callee<'_>, path: &str, number: usize, example: &Example) -> Result<(), WarmUpError> {
    let answered = callee.post(path, Bytes::from(example.body.clone())).await;
    let (status, answer) =
        answered.map_err(|source| WarmUpError::Call { example: number, path: path.to_owned(), source })?;
    judge(path, number, example, (status, &answer))
}

fn judge(path: &str, number: usize, example: &Example, answer: (StatusCode, &[u8])) -> Result<(), WarmUpError> {
    let (status, answer) = answer;
    if !status.is_success() {
        let (path, status) = (path.to_owned(), status.as_u16());
        return Err(WarmUpError::Status { example: number, path, status, answer: shown(answer) });
    }
    let Some(expected) = example.expect else { return Ok(()) };
    let given = serde_json::from_slice::<Value>(answer).ok();
    let prediction = given.as_ref().and_then(|given| given.pointer("/prediction"));
    match prediction.and_then(Value::as_f64) {
        Some(found) if (found - expected).abs() <= example.tolerance => Ok(()),
        Some(found) => Err(wrong(number, example, expected, found.to_string())),
        None => Err(wrong(number, example, expected, format!("no number at /prediction: {}", shown(answer)))),
    }
}

fn wrong(example: usize, of: &Example, expected: f64, got: String) -> WarmUpError {
    WarmUpError::Wrong { example, expected, tolerance: of.tolerance, got }
}

/// The beginning of an answer, on one line.
fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS).collect();
    if line.chars().count() < text.chars().count() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(expect: Option<f64>) -> Example {
        Example { body: "{}".to_owned(), expect, tolerance: 0.5 }
    }

    #[track_caller]
    fn check(expect: Option<f64>, status: u16, answer: &str, problem: Option<&str>) {
        let status = StatusCode::from_u16(status).unwrap();
        let judged = judge("/v1/predict", 3, &example(expect), (status, answer.as_bytes()));
        assert_eq!(judged.err().map(|error| error.to_string()).as_deref(), problem, "{answer}");
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
        let wanted = Example { body: r#"{"a": 1.50}"#.to_owned(), expect: Some(3.25), tolerance: 0.001 };
        assert_eq!(read_description("/v1/model", text.as_bytes()).unwrap(), [wanted]);
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
