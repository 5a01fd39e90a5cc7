//! What goes back to a client: JSON, text, or a problem (RFC 9457) with a code that machines can tell apart.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::budget::NoRoom;
use crate::deadline::DeadlineError;
use crate::findings::Findings;
use crate::predict::PredictError;
use crate::queue::QueueError;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Tells the edge that this request was turned away, which is no failure of the version.
pub const SHED: &str = "x-pointsman-shed";

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

/// A page that may load nothing and ask nobody but this server.
pub fn page(html: &'static str) -> Answer {
    let mut answer = typed(StatusCode::OK, HTML, html);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
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
    /// A request that is wrong before its values are looked at, and why.
    BadRequest(String),
    /// Another model than the one that is served, and which one that is.
    NoModel(String),
    /// Too much waits already; come again after so many seconds.
    Busy(u64),
    /// No room for another connection or body, and which limit says so.
    Full(&'static str),
    /// The client's deadline passed.
    Deadline,
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
            PredictError::Queue(QueueError::Busy { retry_after }) => Self::Busy(rounded_up(retry_after)),
            PredictError::Queue(QueueError::Deadline) => Self::Deadline,
            PredictError::Queue(QueueError::Model(_) | QueueError::Panicked(_)) => Self::Failed,
            unbelievable @ PredictError::Unbelievable { .. } => Self::Unbelievable(unbelievable.to_string()),
        }
    }
}

impl From<NoRoom> for Refusal {
    fn from(_: NoRoom) -> Self {
        Self::Full("more bodies are being read than have room at a time (MAX_BODIES_BYTES)")
    }
}

impl From<DeadlineError> for Refusal {
    fn from(error: DeadlineError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

/// Whole seconds that are not shorter.
fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Refusal {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::NoModel(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge(_) | Self::BatchTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Starting(_) | Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed | Self::Unbelievable(_) | Self::Metrics => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::BadRequest(_) => "bad_request",
            Self::NoModel(_) => "model_not_found",
            Self::Busy(_) => "queue_full",
            Self::Deadline => "deadline_exceeded",
            Self::Method(_) => "method_not_allowed",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BatchTooLarge(_) => "batch_too_large",
            Self::BodyBroken => "body_broken",
            Self::BodyTimeout => "body_timeout",
            Self::Encoded => "body_encoded",
            Self::Invalid(_) => "invalid_input",
            Self::Starting(_) => "not_ready",
            Self::Full(_) => "server_full",
            Self::Failed => "model_failed",
            Self::Unbelievable(_) => "prediction_out_of_range",
            Self::Metrics => "metrics_failed",
        }
    }

    /// What went wrong, in words.
    pub fn detail(&self) -> String {
        match self {
            Self::NotFound => "no such path; /docs shows which there are".to_owned(),
            Self::BadRequest(why) | Self::NoModel(why) => why.clone(),
            Self::Busy(seconds) => format!("too many requests wait; come again in {seconds} s"),
            Self::Deadline => "the deadline passed before there was an answer".to_owned(),
            Self::Method(allowed) => format!("this path takes {allowed}"),
            Self::BodyTooLarge(limit) => format!("a body may hold {limit} bytes at most"),
            Self::BatchTooLarge(limit) => format!("a batch may hold {limit} rows at most; send several"),
            Self::BodyBroken => "the connection broke in the middle of the body".to_owned(),
            Self::BodyTimeout => "the body did not come in time".to_owned(),
            Self::Encoded => "send the body as plain JSON, without content-encoding".to_owned(),
            Self::Invalid(findings) => findings.first(),
            Self::Starting(reason) | Self::Full(reason) => (*reason).to_owned(),
            Self::Failed => "the model could not calculate; the server's log says why".to_owned(),
            Self::Unbelievable(what) => what.clone(),
            Self::Metrics => "the metrics could not be written".to_owned(),
        }
    }

    /// How many seconds the client should stay away, where the request was turned away for lack of room or readiness:
    /// another server may take it, and it is no failure of the model.
    pub fn shed(&self) -> Option<u64> {
        if let Self::Busy(seconds) = self {
            return Some(*seconds);
        }
        matches!(self, Self::Starting(_) | Self::Full(_)).then_some(1)
    }

    /// The answer that says so.
    pub fn into_answer(self) -> Answer {
        if let Self::Invalid(findings) = &self {
            return json(self.status(), json!(findings).to_string());
        }
        let status = self.status();
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": self.code(),
            "detail": self.detail(),
        });
        self.mark(typed(status, PROBLEM, problem.to_string()))
    }

    /// The answer as the Open Inference Protocol has it: `error`, and here also what `/v1` would list.
    pub fn into_protocol_answer(self) -> Answer {
        let mut body = json!({"error": self.detail(), "code": self.code()});
        if let (Self::Invalid(findings), Some(entries)) = (&self, body.as_object_mut()) {
            entries.insert("detail".to_owned(), json!(findings.listed()));
        }
        self.mark(json(self.status(), body.to_string()))
    }

    fn mark(&self, mut answer: Answer) -> Answer {
        let headers = answer.headers_mut();
        if let Self::Method(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if let Some(seconds) = self.shed() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(HeaderName::from_static(SHED), HeaderValue::from_static("1"));
        }
        answer
    }
}
