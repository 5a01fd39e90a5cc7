//! An answer that is not the thing asked for: RFC 9457, with a code for programs and a way out for people.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use pointsman_config::RouteName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DecisionLogError, PROBLEM_TYPE};
use crate::control::handle::{ControlHandle, OrderError};

/// The code for a wrong token, as RFC 6750 names it.
pub(super) const INVALID_TOKEN: &str = "invalid_token";

/// Why a request was not carried out (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` says more.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: ProblemKind,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in one word for programs.
    pub code: String,
    /// What is wrong and the way out.
    pub detail: String,
    /// What could have been asked for instead: the names of the routes there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

/// RFC 9457 has a type for every problem; ours are told apart by their code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// The status says what it is in general.
    #[serde(rename = "about:blank")]
    AboutBlank,
}

impl Problem {
    /// A problem with a code for programs and, in `detail`, what is wrong and the way out.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: ProblemKind::AboutBlank,
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into(),
            known: Vec::new(),
        }
    }

    /// Come again in a moment.
    pub(super) fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// There is no such route; names those that there are.
    pub(super) fn unknown_route(route: &str, handle: &ControlHandle) -> Self {
        let view = handle.view();
        let known: Vec<String> = view.routes.iter().map(|route| route.name.to_string()).collect();
        let detail = format!("there is no route `{}`; routes: {}", route.escape_debug(), known.join(", "));
        Self { known, ..Self::new(StatusCode::NOT_FOUND, "unknown_route", detail) }
    }

    /// Why an order for `route` was not carried out.
    pub(super) fn of_order(error: &OrderError, route: &RouteName, handle: &ControlHandle) -> Self {
        let (code, what) = (error.code().to_owned(), error.to_string());
        match error {
            OrderError::NoRoute { .. } => Self::unknown_route(route.as_str(), handle),
            OrderError::Refused(_)
            | OrderError::Frozen { .. }
            | OrderError::RefusedByLeader { .. }
            | OrderError::Overtaken { .. } => Self::new(StatusCode::CONFLICT, &code, what),
            OrderError::Stopping | OrderError::HandingOver | OrderError::NotLeader { .. } => {
                Self::unavailable(&code, what)
            }
            OrderError::LeaderUnreachable { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, &code, what),
        }
    }
}

impl From<DecisionLogError> for Problem {
    fn from(error: DecisionLogError) -> Self {
        Self::unavailable("state_unavailable", error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_TYPE)], body).into_response();
        if let Some((name, value)) = header_of(status, &self.code) {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What a status must be answered with besides the body.
fn header_of(status: StatusCode, code: &str) -> Option<(HeaderName, &'static str)> {
    match (status, code) {
        (StatusCode::UNAUTHORIZED, INVALID_TOKEN) => {
            Some((WWW_AUTHENTICATE, r#"Bearer realm="pointsman", error="invalid_token""#))
        }
        (StatusCode::UNAUTHORIZED, _) => Some((WWW_AUTHENTICATE, r#"Bearer realm="pointsman""#)),
        (StatusCode::SERVICE_UNAVAILABLE, _) => Some((RETRY_AFTER, "1")),
        _ => None,
    }
}
