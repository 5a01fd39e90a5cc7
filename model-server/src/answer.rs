//! What goes back to a client: JSON, text, or a problem (RFC 9457) with a code that machines can tell apart.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::findings::Findings;
use crate::predict::PredictError;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Tells the edge that this request was turned away, which is no failure of the version.
const SHED: HeaderName = HeaderName::from_static("x-pointsman-shed");

/// JSON as the body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, JSON, body)
}

/// A body of any type.
pub fn typed(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// A state of the server, which nobody should keep.
pub fn state(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut answer = json(status, body.to_string());
    let never = HeaderValue::from_static("no-store");
    answer.headers_mut().insert(CACHE_CONTROL, never);
    answer
}

/// Why a request got no answer of the model.
#[derive(Debug)]
pub enum Refusal {
    /// No such path.
    NotFound,
    /// Another method than these.
    Method(&'static str),
    /// A body of more bytes than this.
    BodyTooLarge(usize),
    /// A batch of more rows than this.
    BatchTooLarge(usize),
    /// The connection broke in the middle of the body.
    BodyBroken,
    /// The body did not come in time.
    BodyTimeout,
    /// A compressed body.
    Encoded,
    /// A body that does not fit the schema.
    Invalid(Findings),
    /// No model yet, and why.
    Starting(&'static str),
    /// The model failed; the log says how.
    Failed,
    /// The model gave something that nobody should believe.
    Unbelievable(String),
    /// The metrics could not be written.
    Metrics,
}

impl From<PredictError> for Refusal {
    fn from(error: PredictError) -> Self {
        match error {
            PredictError::Invalid(findings) => Self::Invalid(findings),
            PredictError::TooManyRows { limit } => Self::BatchTooLarge(limit),
            PredictError::Model(_) => Self::Failed,
            unbelievable @ PredictError::Unbelievable { .. } => Self::Unbelievable(unbelievable.to_string()),
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge(_) | Self::BatchTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Starting(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed | Self::Unbelievable(_) | Self::Metrics => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Method(_) => "method_not_allowed",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BatchTooLarge(_) => "batch_too_large",
            Self::BodyBroken => "body_broken",
            Self::BodyTimeout => "body_timeout",
            Self::Encoded => "body_encoded",
            Self::Invalid(_) => "invalid_input",
            Self::Starting(_) => "not_ready",
            Self::Failed => "model_failed",
            Self::Unbelievable(_) => "prediction_out_of_range",
            Self::Metrics => "metrics_failed",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NotFound => {
                "no such path; try /v1/predict, /v1/predict/batch, /v1/model, /health, /ready, /metrics".to_owned()
            }
            Self::Method(allowed) => format!("this path takes {allowed}"),
            Self::BodyTooLarge(limit) => format!("a body may hold {limit} bytes at most"),
            Self::BatchTooLarge(limit) => format!("a batch may hold {limit} rows at most; send several"),
            Self::BodyBroken => "the connection broke in the middle of the body".to_owned(),
            Self::BodyTimeout => "the body did not come in time".to_owned(),
            Self::Encoded => "send the body as plain JSON, without content-encoding".to_owned(),
            Self::Invalid(findings) => findings.first(),
            Self::Starting(reason) => (*reason).to_owned(),
            Self::Failed => "the model could not calculate; the server's log says why".to_owned(),
            Self::Unbelievable(what) => what.clone(),
            Self::Metrics => "the metrics could not be written".to_owned(),
        }
    }

    /// The answer that says so.
    pub fn into_answer(self) -> Answer {
        let status = self.status();
        if let Self::Invalid(findings) = &self {
            return json(status, json!(findings).to_string());
        }
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": self.code(),
            "detail": self.detail(),
        });
        let mut answer = typed(status, PROBLEM, problem.to_string());
        let headers = answer.headers_mut();
        if let Self::Method(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if let Self::Starting(_) = self {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            headers.insert(SHED, HeaderValue::from_static("1"));
        }
        answer
    }
}
