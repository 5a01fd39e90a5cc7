//! The answers that the edge makes itself: `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! Line: edge ► **answer** ► client. Most go out through the framework's session; those about a head that the framework
//! never sees, or after a request was cut short, are written to the socket as they stand.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;
use serde::Serialize;

/// The header that names one request in every log; taken from the client if it is sound, made here otherwise.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that names the version that answered.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-pointsman-version");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// When a client may come back after 503, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why the edge answers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request is no HTTP/1.x as RFC 9112 has it, or could be read in two ways.
    BadRequest(&'static str),
    /// No route takes this host and path.
    NoRoute,
    /// A method that a reverse proxy does not carry.
    MethodNotAllowed,
    /// The client took longer than the route's total timeout to send its body.
    RequestTimeout,
    /// The body is larger than the route's limit, in bytes.
    BodyTooLarge(u64),
    /// The request target is larger than this, in bytes.
    UriTooLong(usize),
    /// The request head is larger than the limit, in bytes.
    HeadersTooLarge(u64),
    /// Another version of HTTP than 1.0 and 1.1.
    VersionNotSupported,
    /// A fault of the edge itself.
    Internal,
    /// No endpoint of the version accepted a connection.
    UpstreamConnect,
    /// The version broke its connection, or answered with something that is no HTTP.
    UpstreamReset,
    /// Requests come more often than the route lets them; the next one would pass in so many seconds.
    RateLimited(u64),
    /// The version has as many requests as it may have at a time.
    Shed,
    /// The edge ran out of what it needs to open a connection.
    Overloaded,
    /// The version has no endpoint.
    NoHealthyEndpoint,
    /// The version did not answer in time.
    UpstreamTimeout,
}

impl Refusal {
    /// Every value of [`Refusal::code`].
    pub(crate) const CODES: [&str; 15] = [
        "bad_request",
        "no_route",
        "method_not_allowed",
        "request_timeout",
        "body_too_large",
        "uri_too_long",
        "headers_too_large",
        "http_version_not_supported",
        "internal",
        "upstream_connect",
        "upstream_reset",
        "rate_limited",
        "overloaded",
        "no_healthy_endpoint",
        "upstream_timeout",
    ];

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::VersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpstreamConnect | Self::UpstreamReset => StatusCode::BAD_GATEWAY,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Shed | Self::Overloaded | Self::NoHealthyEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The value of `code`, on which programs can act.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::UriTooLong(_) => "uri_too_long",
            Self::HeadersTooLarge(_) => "headers_too_large",
            Self::VersionNotSupported => "http_version_not_supported",
            Self::Internal => "internal",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamReset => "upstream_reset",
            Self::RateLimited(_) => "rate_limited",
            Self::Shed | Self::Overloaded => "overloaded",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::UpstreamTimeout => "upstream_timeout",
        }
    }

    /// What happened, for people.
    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(why) => (*why).into(),
            Self::NoRoute => "no route takes this host and path".into(),
            Self::MethodNotAllowed => "this method is not carried here".into(),
            Self::RequestTimeout => "the request body did not arrive in time".into(),
            Self::BodyTooLarge(limit) => format!("the request body is larger than {limit} bytes").into(),
            Self::UriTooLong(limit) => format!("the request target is longer than {limit} bytes").into(),
            Self::HeadersTooLarge(limit) => format!("the request head is larger than {limit} bytes").into(),
            Self::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1 are spoken here".into(),
            Self::Internal => "the edge failed; the version was not at fault".into(),
            Self::UpstreamConnect => "no endpoint of the version accepted a connection".into(),
            Self::UpstreamReset => "the version broke off before its answer was whole".into(),
            Self::RateLimited(seconds) => format!("requests come too often; the next one passes in {seconds} s").into(),
            Self::Shed => "the version has as many requests as it can take; try again later".into(),
            Self::Overloaded => "the edge has no resources for another connection; try again later".into(),
            Self::NoHealthyEndpoint => "the version has no endpoint".into(),
            Self::UpstreamTimeout => "the version did not answer in time".into(),
        }
    }

    /// The same in gRPC (google.rpc.Code); what may be sent again is UNAVAILABLE.
    fn grpc_status(&self) -> u16 {
        match self.status() {
            // INVALID_ARGUMENT
            StatusCode::BAD_REQUEST | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 3,
            // DEADLINE_EXCEEDED
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
            // RESOURCE_EXHAUSTED
            StatusCode::PAYLOAD_TOO_LARGE => 8,
            // UNIMPLEMENTED
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
            // UNAVAILABLE
            StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
            // INTERNAL
            _ => 13,
        }
    }

    /// When the client may come back.
    fn retry_after(&self) -> Option<HeaderValue> {
        if let Self::RateLimited(seconds) = self {
            return Some(HeaderValue::from(*seconds));
        }
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS)
    }
}

/// A refusal on its way to one client.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) refusal: &'a Refusal,
    pub(crate) request_id: &'a HeaderValue,
    /// The version that was chosen, where answers name it.
    pub(crate) version: Option<&'a HeaderValue>,
}

/// A refusal that waits until it can be told, whatever the client speaks.
#[derive(Debug, Clone)]
pub(crate) struct LastWords {
    pub(crate) refusal: Refusal,
    pub(crate) request_id: HeaderValue,
    /// The version that was chosen, where answers name it.
    pub(crate) version: Option<HeaderValue>,
    pub(crate) to_head_request: bool,
}

impl LastWords {
    /// The answer that says them.
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { refusal: &self.refusal, request_id: &self.request_id, version: self.version.as_ref() }
    }

    /// As they go over an HTTP/1.1 connection.
    pub(crate) fn wire(&self) -> Bytes {
        self.answer().wire(self.to_head_request)
    }
}

/// The body as RFC 9457 has it, with our `code` and `request_id`.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
}

impl Answer<'_> {
    /// The body.
    pub(crate) fn body(&self) -> Bytes {
        let status = self.refusal.status();
        let problem = Problem {
            r#type: format!("urn:pointsman:problem:{}", self.refusal.code()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &self.refusal.detail(),
            code: self.refusal.code(),
            request_id: self.request_id.to_str().unwrap_or_default(),
        };
        // Plain strings and a number always serialize.
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }

    fn headers(&self, body_bytes: usize) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let retry_after = self.refusal.retry_after().map(|value| (RETRY_AFTER, value));
        let version = self.version.map(|version| (VERSION, version.clone()));
        [
            (CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (CONTENT_LENGTH, HeaderValue::from(body_bytes)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (REQUEST_ID, self.request_id.clone()),
        ]
        .into_iter()
        .chain(retry_after)
        .chain(version)
    }

    /// The head, for the framework's session.
    ///
    /// # Errors
    /// Never in practice: every header comes from a checked value.
    pub(crate) fn head(&self, body_bytes: usize) -> pingora_error::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(self.refusal.status(), Some(8))?;
        for (name, value) in self.headers(body_bytes) {
            head.insert_header(name, value)?;
        }
        Ok(head)
    }

    /// The same for a gRPC client, which reads no body but only this head: a call that ends with it (gRPC over HTTP/2,
    /// `Trailers-Only`).
    ///
    /// # Errors
    /// Never in practice: every header comes from a checked value.
    pub(crate) fn grpc_head(&self) -> pingora_error::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(StatusCode::OK, Some(8))?;
        let body_headers = [CONTENT_TYPE, CONTENT_LENGTH];
        for (name, value) in self.headers(0).filter(|(name, _)| !body_headers.contains(name)) {
            head.insert_header(name, value)?;
        }
        head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))?;
        head.insert_header(GRPC_STATUS, HeaderValue::from(self.refusal.grpc_status()))?;
        // Details are plain ASCII without a percent sign, which is all that would have to be encoded.
        head.insert_header(GRPC_MESSAGE, self.refusal.detail().as_ref())?;
        Ok(head)
    }

    /// Head and body as they go over the wire, with `connection: close`; without the body if the client asked with HEAD.
    pub(crate) fn wire(&self, to_head_request: bool) -> Bytes {
        self.wire_with(to_head_request, "close")
    }

    /// The same with this `connection`.
    pub(crate) fn wire_with(&self, to_head_request: bool, connection: &str) -> Bytes {
        let status = self.refusal.status();
        let body = self.body();
        let mut wire =
            format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("Error")).into_bytes();
        for (name, value) in self.headers(body.len()) {
            wire.extend_from_slice(name.as_str().as_bytes());
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(format!("connection: {connection}\r\n\r\n").as_bytes());
        if !to_head_request {
            wire.extend_from_slice(&body);
        }
        wire.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: HeaderValue = HeaderValue::from_static("abc-1");

    #[test]
    fn a_refusal_on_the_wire_is_a_whole_problem_answer() {
        let version = HeaderValue::from_static("v2");
        let answer = Answer { refusal: &Refusal::NoHealthyEndpoint, request_id: &ID, version: Some(&version) };
        let wire = String::from_utf8(answer.wire(false).to_vec()).unwrap();
        let (head, body) = wire.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        for line in [
            "content-type: application/problem+json",
            "retry-after: 1",
            "x-request-id: abc-1",
            "x-pointsman-version: v2",
            "connection: close",
        ] {
            assert!(head.contains(line), "{line} is missing in {head}");
        }
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["type"], "urn:pointsman:problem:no_healthy_endpoint");
        assert_eq!(body["title"], "Service Unavailable");
        assert_eq!(body["status"], 503);
        assert_eq!(body["code"], "no_healthy_endpoint");
        assert_eq!(body["request_id"], "abc-1");
        assert!(body["detail"].as_str().unwrap().contains("no endpoint"));
    }

    #[test]
    fn a_head_request_gets_the_length_but_no_body() {
        let answer = Answer { refusal: &Refusal::UpstreamTimeout, request_id: &ID, version: None };
        let wire = String::from_utf8(answer.wire(true).to_vec()).unwrap();
        assert!(wire.ends_with("connection: close\r\n\r\n"), "{wire}");
        assert!(wire.contains(&format!("content-length: {}", answer.body().len())));
        assert!(!wire.contains("retry-after"));
    }
}
