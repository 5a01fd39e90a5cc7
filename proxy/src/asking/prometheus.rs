//! One number from a Prometheus server, and nothing that only looks like one.
//!
//! Line: (Prometheus) ► **prometheus** ► limits. An instant query is posted; whatever is not one finite number is a problem in
//! words: no data, several series, NaN, infinity, a warning (an answer that may be of a part only), an error, no answer.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pointsman_config::{Query, SecretSource};
use serde::Deserialize;
use serde_json::Value;

use crate::outgoing::{self, Secret};

/// Largest answer that is read, in bytes; one number takes some two hundred.
const ANSWER_BYTES: u64 = 1 << 20;

/// What the server answers a query with: `value` for `query`, in PromQL. Blocks.
///
/// # Errors
/// Why that is not one number, in words.
pub(super) fn ask(query: &Query, promql: &str) -> Result<f64, String> {
    let url = format!("{}/api/v1/query", query.prometheus);
    let form = format!("query={}", utf8_percent_encode(promql, NON_ALPHANUMERIC));
    let mut request =
        outgoing::agent(query.timeout).post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(authorization) = authorization(query.authorization.as_ref())? {
        request = request.header(AUTHORIZATION, authorization.reveal());
    }
    let answer = request.send(form.as_bytes()).map_err(|error| outgoing::in_words(&error))?;
    let status = answer.status();
    if status.is_redirection() {
        return Err(format!("it answered {}, and redirects are not followed", status.as_u16()));
    }
    let body = outgoing::body(answer, ANSWER_BYTES)?;
    // An error of the query itself comes with 400 or 422, and says what is wrong.
    match serde_json::from_slice(&body) {
        Ok(answer) => number(answer),
        Err(_other) if !status.is_success() => Err(format!("it answered {}", status.as_u16())),
        Err(_other) => Err("its answer is not that of a Prometheus server".to_owned()),
    }
}

/// What stands in `authorization`, if anything does.
///
/// # Errors
/// If it cannot be had; in words.
pub(super) fn authorization(source: Option<&SecretSource>) -> Result<Option<Secret>, String> {
    source.map(Secret::read).transpose().map_err(|error| error.to_string())
}

/// An answer of the HTTP API, as far as it matters.
#[derive(Debug, Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Value,
}

#[derive(Debug, Deserialize)]
struct Series {
    /// None for a native histogram.
    value: Option<Sample>,
}

/// A moment and a number.
type Sample = (Value, String);

fn number(answer: Answer) -> Result<f64, String> {
    if answer.status != "success" {
        return Err(format!("it refuses the query: {}", outgoing::shortened(&answer.error)));
    }
    if let Some(warning) = answer.warnings.first() {
        return Err(format!("it warns that its answer may not be whole: {}", outgoing::shortened(warning)));
    }
    let odd = || "its answer is not one number".to_owned();
    let Data { kind, result } = answer.data.ok_or_else(odd)?;
    let (_, text) = match kind.as_str() {
        "scalar" => serde_json::from_value::<Sample>(result).map_err(|_other| odd())?,
        "vector" => only_one(serde_json::from_value(result).map_err(|_other| odd())?)?,
        _ => return Err(odd()),
    };
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(number) if number.is_nan() => Err("its answer is NaN".to_owned()),
        Ok(_) => Err("its answer is infinite".to_owned()),
        Err(_strange) => Err(odd()),
    }
}

/// The number of the only series.
fn only_one(mut series: Vec<Series>) -> Result<Sample, String> {
    match (series.pop(), series.len()) {
        (None, _) => Err("it has no data".to_owned()),
        (Some(one), 0) => one.value.ok_or_else(|| "its answer is a histogram, not a number".to_owned()),
        (Some(_), more) => Err(format!("it has {} series; aggregate them, such as with sum()", more + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Result<f64, &str>) {
        let read = number(serde_json::from_str(answer).unwrap());
        match (&read, expected) {
            (Ok(read), Ok(expected)) => assert!((read - expected).abs() < 1e-12, "{answer}"),
            (Err(read), Err(expected)) => assert!(read.contains(expected), "{read}"),
            (_, _) => panic!("{answer}: {read:?}"),
        }
    }

    fn data(kind: &str, result: &str) -> String {
        format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":{result}}}}}")
    }

    #[test]
    fn one_finite_number_is_one_and_nothing_else_is() {
        check(&data("vector", r#"[{"metric":{},"value":[1.5,"0.25"]}]"#), Ok(0.25));
        check(&data("scalar", r#"[1435781451.781,"-1e3"]"#), Ok(-1_000.0));
        check(&data("vector", "[]"), Err("no data"));
        check(&data("vector", r#"[{"metric":{},"value":[1,"1"]},{"metric":{},"value":[1,"2"]}]"#), Err("2 series"));
        check(&data("vector", r#"[{"metric":{},"value":[1,"NaN"]}]"#), Err("NaN"));
        check(&data("vector", r#"[{"metric":{},"value":[1,"+Inf"]}]"#), Err("infinite"));
        check(&data("vector", r#"[{"metric":{},"histogram":[1,{}]}]"#), Err("histogram"));
        check(&data("matrix", "[]"), Err("not one number"));
        check(&data("string", r#"[1,"1"]"#), Err("not one number"));
        check(
            r#"{"status":"error","errorType":"bad_data","error":"parse error: <x>"}"#,
            Err("refuses the query: parse error"),
        );
        check(
            r#"{"status":"success","warnings":["partial"],"data":{"resultType":"scalar","result":[1,"1"]}}"#,
            Err("may not be whole"),
        );
        check(r#"{"status":"success"}"#, Err("not one number"));
    }
}
