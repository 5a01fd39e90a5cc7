//! The same guard for a head that was parsed already: HTTP/2 has no lines to read in two ways, but its fields end up in
//! the lines of an HTTP/1.1 request to a version (RFC 9113, section 10.3).
//!
//! Line: http2 ► **guard** ► edge. The codec has refused what is no HTTP/2 request at all: fields of a connection, upper
//! case, pseudo-headers out of order, a body of another length than announced.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use pingora_http::RequestHeader;

use super::{Framing, Head, MAX_HEADER_LINES, MAX_TARGET_BYTES, check_path, digits, is_authority_byte};
use crate::answer::Refusal;
use crate::listen::Exchange;

/// What a header line of HTTP/1.1 has beside name and value.
const AROUND_VALUE_BYTES: usize = 4;

/// Checks a head; `ends` says that no body follows.
///
/// # Errors
/// If a version could read it in two ways, or it is too large to be passed on.
pub(crate) fn check_parsed(parts: &Parts, ends: bool) -> Result<Head, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::MethodNotAllowed);
    }
    check_target(parts)?;
    check_authority(parts)?;
    if parts.headers.len() > MAX_HEADER_LINES {
        return Err(Refusal::BadRequest("more than 256 header lines"));
    }
    if parts.headers.get_all(TE).iter().any(|te| te != "trailers") {
        return Err(Refusal::BadRequest("a TE other than `trailers`"));
    }
    let framing = framing(&parts.headers, ends)?;
    Ok(Head { bytes: size(parts), framing, is_head_request: parts.method == Method::HEAD })
}

fn check_target(parts: &Parts) -> Result<(), Refusal> {
    if !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
        return Err(Refusal::BadRequest("a scheme other than http and https"));
    }
    let target = target(parts).as_bytes();
    if target.len() > MAX_TARGET_BYTES {
        return Err(Refusal::UriTooLong(MAX_TARGET_BYTES));
    }
    if !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Refusal::BadRequest("a character in the request target that must be percent-encoded"));
    }
    if target == b"*" && parts.method == Method::OPTIONS {
        return Ok(());
    }
    if !target.starts_with(b"/") {
        return Err(Refusal::BadRequest("a request target that is no path"));
    }
    check_path(target)
}

fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)
}

/// RFC 9113, section 8.3.1: `:authority`, or `host`, or both if they say the same.
fn check_authority(parts: &Parts) -> Result<(), Refusal> {
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("more than one Host"));
    }
    let name = authority.or(host).ok_or(Refusal::BadRequest("a request without an authority"))?;
    if name.is_empty() || !name.iter().copied().all(is_authority_byte) {
        return Err(Refusal::BadRequest("an authority that is no host name"));
    }
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(name)) {
        return Err(Refusal::BadRequest("Host and the authority name different hosts"));
    }
    Ok(())
}

fn framing(headers: &HeaderMap, ends: bool) -> Result<Framing, Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (Some(length), None) => Some(digits(length.as_bytes())?),
        (Some(_), Some(_)) => return Err(Refusal::BadRequest("more than one Content-Length")),
        (None, _) => None,
    };
    match (length, ends) {
        (Some(length), true) if length > 0 => Err(Refusal::BadRequest("a Content-Length without a body")),
        (_, true) => Ok(Framing::Length(0)),
        (Some(length), false) => Ok(Framing::Length(length)),
        (None, false) => Ok(Framing::Chunked),
    }
}

/// About what the head takes as HTTP/1.1, so that one limit means the same for both.
fn size(parts: &Parts) -> usize {
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND_VALUE_BYTES);
    let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
    parts.method.as_str().len() + target(parts).len() + authority + headers.sum::<usize>()
}

/// A checked head as the edge handles it, whatever the client speaks: the host in `host`, one `cookie` (RFC 9113, section
/// 8.2.3), and the exchange with it.
pub(crate) fn into_request(mut parts: Parts, exchange: &Arc<Exchange>) -> RequestHeader {
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_bytes(authority).ok()) {
        parts.headers.insert(HOST, host);
    }
    let crumbs: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        parts.headers.insert(COOKIE, whole);
    }
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    parts.version = Version::HTTP_2;
    parts.extensions.insert(Arc::clone(exchange));
    RequestHeader::from(parts)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::listen::Client;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(method: &str, uri: &str, headers: &[(&str, &str)], status: u16) {
        let refusal = check_parsed(&parts(method, uri, headers), false).unwrap_err();
        assert_eq!(refusal.status().as_u16(), status, "{method} {uri} {headers:?}: {refusal:?}");
    }

    #[test]
    fn a_sound_head_passes_with_its_framing() {
        let sound = parts("POST", "https://m.test:80/v1?a=b", &[("content-length", "12"), ("host", "M.test:80")]);
        let head = check_parsed(&sound, false).unwrap();
        assert_eq!((head.framing, head.is_head_request), (Framing::Length(12), false));
        assert!(head.bytes > 40);
        let get = parts("HEAD", "http://m/", &[("te", "trailers")]);
        let head = check_parsed(&get, true).unwrap();
        assert_eq!((head.framing, head.is_head_request), (Framing::Length(0), true));
        assert_eq!(check_parsed(&parts("POST", "http://m/", &[]), false).unwrap().framing, Framing::Chunked);
    }

    #[test]
    fn what_an_http1_version_could_misread_is_refused() {
        check("CONNECT", "http://m/", &[], 405);
        check("GET", "ftp://m/", &[], 400);
        check("GET", "/", &[("host", "m")], 400);
        check("GET", "http://m/a/../b", &[], 400);
        check("GET", "http://m/a/%2e%2e/b", &[], 400);
        check("GET", "http://user@m/", &[], 400);
        check("GET", "http://m/", &[("host", "other")], 400);
        check("GET", "http://m/", &[("host", "m"), ("host", "m")], 400);
        check("GET", "http://m/", &[("te", "gzip")], 400);
        check("POST", "http://m/", &[("content-length", "1"), ("content-length", "1")], 400);
        check("POST", "http://m/", &[("content-length", "+1")], 400);
        check("GET", &format!("http://m/{}", "a".repeat(17 << 10)), &[], 414);
        let bodiless = parts("POST", "http://m/", &[("content-length", "5")]);
        assert!(check_parsed(&bodiless, true).is_err());
    }

    #[test]
    fn a_request_has_one_host_and_one_cookie_whatever_it_was_sent_as() {
        let client = Client::new("192.0.2.7".parse().unwrap(), true);
        let exchange = Arc::new(Exchange::new(client, Arc::new(AtomicBool::new(false))));
        let sent = parts("GET", "https://m.test/a?b", &[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("x", "2")]);
        let request = into_request(sent, &exchange);
        assert_eq!(request.raw_path(), b"/a?b");
        assert_eq!(
            (&request.headers[HOST], &request.headers[COOKIE]),
            (&"m.test".parse().unwrap(), &"a=1; b=2".parse().unwrap())
        );
        assert_eq!(request.headers.get_all("x").iter().count(), 2);
        assert!(request.extensions.get::<Arc<Exchange>>().is_some());
    }
}
