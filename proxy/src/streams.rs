//! Which answers are streams, which requests switch protocols, and which clients wait to be asked for their body.
//!
//! Line: upstream ► **streams** ► edge. A stream has no total time: it ends when it ends, or when it has been silent for
//! too long.

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use pingora_http::RequestHeader;

use crate::guard::Framing;

/// Content types of answers that go on until somebody has said enough; any gRPC one is among them.
const STREAMS: [&str; 5] = [
    "text/event-stream",
    "application/x-ndjson",
    "application/stream+json",
    "application/jsonl",
    "multipart/x-mixed-replace",
];

/// Whether an answer with these headers is a stream.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| is_stream_type(value.as_bytes()))
}

/// The same by the value of `content-type`.
pub(crate) fn is_stream_type(value: &[u8]) -> bool {
    base_type(value)
        .is_some_and(|kind| STREAMS.iter().any(|stream| kind.eq_ignore_ascii_case(stream)) || is_grpc_type(kind))
}

/// Whether a message with these headers is gRPC; `application/grpc-web` is not, since its trailers are in the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| base_type(value.as_bytes())).is_some_and(is_grpc_type)
}

fn is_grpc_type(kind: &str) -> bool {
    let (base, coding) = kind.split_at_checked("application/grpc".len()).unwrap_or_default();
    base.eq_ignore_ascii_case("application/grpc") && (coding.is_empty() || coding.starts_with('+'))
}

/// A content type without its parameters.
fn base_type(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()?.split(';').next().map(str::trim)
}

/// Whether a request asks for a WebSocket in the one way that is passed on (RFC 6455, section 4.1).
pub(crate) fn asks_for_websocket(request: &RequestHeader, framing: Framing) -> bool {
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    request.version == Version::HTTP_11
        && request.method == Method::GET
        && framing == Framing::Length(0)
        && only(&request.headers, &UPGRADE).is_some_and(is_websocket)
        && request.headers.get_all(CONNECTION).iter().any(|value| names(value, "upgrade"))
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a comma-separated list names `token`.
pub(crate) fn names(list: &HeaderValue, token: &str) -> bool {
    list.as_bytes().split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a client waits to be asked for its body (RFC 9110, section 10.1.1).
pub(crate) fn expects_continue(request: &RequestHeader) -> bool {
    request.version >= Version::HTTP_11
        && only(&request.headers, &EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn streams_are_known_by_their_content_type() {
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "application/x-ndjson",
            "application/grpc",
            "application/grpc+proto",
            "application/grpc+json;x=y",
        ] {
            assert!(is_stream(&headers(&[("content-type", kind)])), "{kind}");
        }
        for kind in ["application/json", "text/event-streams", "application/grpc-web", "application/grpcx", "grpc", "é"]
        {
            assert!(!is_stream(&headers(&[("content-type", kind)])), "{kind}");
        }
        assert!(!is_stream(&headers(&[])));
    }

    fn request(method: &str, list: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in list {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn only_a_whole_websocket_handshake_switches_protocols() {
        let asks = |method: &str, framing, list: &[_]| asks_for_websocket(&request(method, list), framing);
        let none = Framing::Length(0);
        assert!(asks("GET", none, &[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")]));
        assert!(!asks("GET", none, &[("upgrade", "websocket")]), "not nominated");
        assert!(!asks("GET", none, &[("upgrade", "h2c"), ("connection", "upgrade")]));
        assert!(!asks("GET", none, &[("upgrade", "websocket, h2c"), ("connection", "upgrade")]));
        assert!(!asks("POST", none, &[("upgrade", "websocket"), ("connection", "upgrade")]));
        assert!(!asks("GET", Framing::Length(5), &[("upgrade", "websocket"), ("connection", "upgrade")]));
        assert!(!asks("GET", Framing::Chunked, &[("upgrade", "websocket"), ("connection", "upgrade")]));
    }

    #[test]
    fn a_body_is_waited_for_only_where_the_client_says_so() {
        assert!(expects_continue(&request("POST", &[("expect", "100-Continue")])));
        assert!(!expects_continue(&request("POST", &[])));
        let mut old = request("POST", &[("expect", "100-continue")]);
        old.set_version(Version::HTTP_10);
        assert!(!expects_continue(&old));
    }
}
