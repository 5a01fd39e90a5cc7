//! What a request carries on to a version, and an answer back to the client.
//!
//! Line: edge ► **forward** ► upstream. The framework has already cut the hop-by-hop headers of the request (RFC 9110,
//! section 7.6.1) when [`to_version`] sees it.
//!
//! `x-forwarded-*` and `forwarded` of the client are replaced, not appended to: nothing tells the edge which clients are
//! proxies that can be believed, and a model server that logs or limits by address must not be fooled by a header.

use std::net::SocketAddr;

use http::header::{
    CACHE_CONTROL, CONNECTION, EXPECT, EXPIRES, FORWARDED, HOST, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::answer::{REQUEST_ID, VERSION};
use crate::listen::Client;
use crate::mirror::MIRROR;
use crate::streams::names;
use crate::trace::{TRACEPARENT, TRACESTATE, Trace};

/// How long the parts of a request took (<https://www.w3.org/TR/server-timing/>); a version may send its own.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Marks a golden call of the edge's own, which is nobody's request: a version leaves it out of what it says of its traffic.
/// A client's own is cut.
pub(crate) const GOLDEN: HeaderName = HeaderName::from_static("x-pointsman-golden");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Hop-by-hop headers of an answer; `connection` and `transfer-encoding` are the framework's.
static HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    TE,
    TRAILER,
    UPGRADE,
];
/// What could have a cache keep an answer besides `cache-control`.
static CACHE_HINTS: [HeaderName; 3] =
    [EXPIRES, HeaderName::from_static("cdn-cache-control"), HeaderName::from_static("surrogate-control")];
/// The longest `x-request-id` that is taken from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The client's `x-request-id` if there is one sound one, else a new one: 128 random bits in hexadecimal.
pub(crate) fn request_id(given: Option<&[u8]>) -> HeaderValue {
    let sound = given.filter(|id| is_sound_id(id)).and_then(|id| HeaderValue::from_bytes(id).ok());
    sound.unwrap_or_else(new_request_id)
}

/// A new request id.
pub(crate) fn new_request_id() -> HeaderValue {
    header_value(&hex(rand::random()))
}

/// Ids go into logs and JSON: nothing that would have to be escaped there.
fn is_sound_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(byte))
}

/// Completes a request on its way to a version.
///
/// # Errors
/// Never in practice: every value comes from a header or is made here.
pub(crate) fn to_version(
    request: &mut RequestHeader,
    client: &Client,
    request_id: &HeaderValue,
    trace: &Trace,
) -> Result<()> {
    request.insert_header(FORWARDED_FOR, client.name.clone())?;
    let scheme = if client.is_secure { "https" } else { "http" };
    request.insert_header(FORWARDED_PROTO, HeaderValue::from_static(scheme))?;
    match request.headers.get(HOST).cloned() {
        Some(host) => request.insert_header(FORWARDED_HOST, host)?,
        None => drop(request.remove_header(&FORWARDED_HOST)),
    }
    if request.headers.contains_key(FORWARDED) {
        request.remove_header(&FORWARDED);
    }
    // The edge has answered it.
    if request.headers.contains_key(EXPECT) {
        request.remove_header(&EXPECT);
    }
    for ours in [MIRROR, GOLDEN] {
        if request.headers.contains_key(&ours) {
            request.remove_header(&ours);
        }
    }
    request.insert_header(REQUEST_ID, request_id.clone())?;
    follow(request, trace)
}

/// Completes a request to a version that speaks HTTP/2: it needs an authority, and gRPC asks whether trailers are
/// understood all the way (RFC 9110, section 10.1.4).
///
/// # Errors
/// Never in practice: both values are sound.
pub(crate) fn over_http2(request: &mut RequestHeader, asked: &RequestHeader, endpoint: SocketAddr) -> Result<()> {
    if asked.headers.get_all(TE).iter().any(|value| names(value, "trailers")) {
        request.insert_header(TE, HeaderValue::from_static("trailers"))?;
    }
    // Only HTTP/1.0 comes without one.
    if !request.headers.contains_key(HOST) {
        request.insert_header(HOST, endpoint.to_string())?;
    }
    Ok(())
}

/// Puts the request into its trace; a client's `tracestate` means nothing in another.
fn follow(request: &mut RequestHeader, trace: &Trace) -> Result<()> {
    if !trace.keeps_state() && request.headers.contains_key(TRACESTATE) {
        request.remove_header(&TRACESTATE);
    }
    trace.onward().map_or(Ok(()), |onward| request.insert_header(TRACEPARENT, onward))
}

/// A number in 32 hexadecimal digits.
pub(crate) fn hex(number: u128) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        let digits = [byte >> 4, byte & 15].map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0'));
        pair.copy_from_slice(&digits);
    }
    text
}

/// A header value of hexadecimal digits and dashes, which is always one.
fn header_value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Completes an answer on its way to the client.
///
/// # Errors
/// Never in practice: every value comes from a header.
pub(crate) fn to_client(
    answer: &mut ResponseHeader,
    request_id: &HeaderValue,
    version: Option<&HeaderValue>,
) -> Result<()> {
    if answer.headers.contains_key(CONNECTION) {
        cut_nominated(answer);
    }
    // Most answers have none of them: one look at each of their headers instead of one search for each of these.
    if answer.headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            answer.remove_header(name);
        }
    }
    name(answer, request_id, version)
}

/// Names the request and the version in an answer.
///
/// # Errors
/// Never in practice: both are header values.
pub(crate) fn name(answer: &mut ResponseHeader, request_id: &HeaderValue, version: Option<&HeaderValue>) -> Result<()> {
    answer.insert_header(REQUEST_ID, request_id.clone())?;
    match version {
        Some(version) => answer.insert_header(VERSION, version.clone())?,
        None => drop(answer.remove_header(&VERSION)),
    }
    Ok(())
}

/// Has the client keep `cookie`. Such an answer is one user's, and no cache may give it to another one: neither those that
/// keep to `cache-control` (RFC 9111) nor those that have a header of their own (RFC 9213).
///
/// # Errors
/// Never in practice: the value is one already.
pub(crate) fn set_cookie(answer: &mut ResponseHeader, cookie: HeaderValue) -> Result<()> {
    for name in &CACHE_HINTS {
        answer.remove_header(name);
    }
    answer.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    answer.append_header(SET_COOKIE, cookie).map(drop)
}

/// Has the answer end with the connection if only chunks would tell its end: HTTP/1.0 knows none (RFC 9112, section 6.1).
/// True if it does.
pub(crate) fn without_chunks(answer: &mut ResponseHeader) -> bool {
    answer.remove_header(&TRANSFER_ENCODING).is_some()
}

/// Cuts what the version's `connection` header names, except what the framing of the body hangs on.
fn cut_nominated(answer: &mut ResponseHeader) {
    const KEPT: [&str; 4] = ["close", "keep-alive", "transfer-encoding", "content-length"];
    let named = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        names.filter(|name| !KEPT.contains(&name.as_str())).collect::<Vec<_>>()
    };
    let plain = |value: &HeaderValue| KEPT.iter().any(|kept| value.as_bytes().eq_ignore_ascii_case(kept.as_bytes()));
    let odd: Vec<String> =
        answer.headers.get_all(CONNECTION).iter().filter(|value| !plain(value)).flat_map(named).collect();
    for name in odd {
        answer.remove_header(name.as_str());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::RequestHead;

    fn client() -> Client {
        Client::new("192.0.2.7".parse().unwrap(), false)
    }

    const ID: HeaderValue = HeaderValue::from_static("id-1");
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn forwarded(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = request(headers);
        let trace = Trace::of(RequestHead::only(&request, &TRACEPARENT), None);
        to_version(&mut request, &client(), &ID, &trace).unwrap();
        request
    }

    #[track_caller]
    fn check(request: &RequestHeader, name: &str, expected: &[&str]) {
        let values: Vec<_> = request.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, expected, "{name}");
    }

    #[test]
    fn the_client_is_who_connected_whatever_its_headers_say() {
        let request = forwarded(&[
            ("host", "m:80"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.1.1.1"),
            ("x-pointsman-mirror", "1"),
            ("x-pointsman-golden", "1"),
        ]);
        check(&request, "x-forwarded-for", &["192.0.2.7"]);
        check(&request, "x-forwarded-proto", &["http"]);
        check(&request, "x-forwarded-host", &["m:80"]);
        check(&request, "forwarded", &[]);
        check(&request, "x-pointsman-mirror", &[]);
        check(&request, "x-pointsman-golden", &[]);
        check(&request, "x-request-id", &["id-1"]);
        check(&forwarded(&[("x-forwarded-host", "evil")]), "x-forwarded-host", &[]);
    }

    #[test]
    fn a_sound_trace_goes_on_and_its_state_with_it() {
        let request = forwarded(&[("traceparent", PARENT), ("tracestate", "a=b")]);
        check(&request, "traceparent", &[PARENT]);
        check(&request, "tracestate", &["a=b"]);
    }

    #[test]
    fn an_unsound_trace_is_replaced_by_a_sound_one() {
        for parents in [&["x"][..], &[PARENT, PARENT], &[]] {
            let mut headers = vec![("tracestate", "a=b")];
            headers.extend(parents.iter().map(|parent| ("traceparent", *parent)));
            let request = forwarded(&headers);
            let made = request.headers.get_all("traceparent").iter().collect::<Vec<_>>();
            assert!(made.len() == 1 && made[0].len() == 55 && made[0] != PARENT, "{made:?}");
            check(&request, "tracestate", &[]);
        }
    }

    #[test]
    fn a_kept_trace_goes_on_under_the_edges_span() {
        let mut request = request(&[("traceparent", PARENT), ("tracestate", "a=b")]);
        let trace = Trace::of(Some(PARENT.as_bytes()), Some(0.0));
        to_version(&mut request, &client(), &ID, &trace).unwrap();
        check(&request, "traceparent", &[trace.onward().unwrap().to_str().unwrap()]);
        check(&request, "tracestate", &["a=b"]);
    }

    #[test]
    fn only_a_sound_request_id_is_taken_from_the_client() {
        assert_eq!(request_id(Some(b"Az09-_.:/+=@~")), "Az09-_.:/+=@~");
        for id in ["", "a b", "a\"b", "a\tb", "a;b", &"a".repeat(129)] {
            let made = request_id(Some(id.as_bytes()));
            assert!(made != id && made.len() == 32, "{id:?} became {made:?}");
        }
        assert_eq!(request_id(None).len(), 32);
        assert_ne!(new_request_id(), new_request_id());
    }

    #[test]
    fn an_answer_loses_hop_by_hop_headers_and_keeps_its_framing() {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, X-Secret, content-length"),
            ("x-secret", "1"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("x-pointsman-version", "forged"),
            ("x-request-id", "forged"),
            ("x-kept", "1"),
        ] {
            answer.append_header(name, value).unwrap();
        }
        to_client(&mut answer, &ID, None).unwrap();
        for gone in ["x-secret", "keep-alive", "x-pointsman-version"] {
            assert!(answer.headers.get(gone).is_none(), "{gone}");
        }
        assert_eq!(
            (&answer.headers["content-length"], &answer.headers["x-kept"]),
            (&HeaderValue::from_static("5"), &HeaderValue::from_static("1"))
        );
        assert_eq!(answer.headers["x-request-id"], "id-1");
        to_client(&mut answer, &ID, Some(&HeaderValue::from_static("v2"))).unwrap();
        assert_eq!(answer.headers["x-pointsman-version"], "v2");
    }

    proptest! {
        #[test]
        fn hex_is_what_the_formatter_writes(number: u128) {
            prop_assert_eq!(hex(number).to_vec(), format!("{number:032x}").into_bytes());
        }
    }
}
