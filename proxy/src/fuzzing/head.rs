//! Whether everybody who reads the head of a request reads the same: the guard, the fast lane, the framework and, behind
//! the edge, a version.

use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_http::RequestHeader;
use pointsman_config::{Ask, Override, OverrideSource, Route, Share, Sticky, StickyCookie, Version, VersionId};

use crate::admission::RequestHead;
use crate::answer::{REQUEST_ID, Refusal};
use crate::assign::{Assign, Assigned};
use crate::chunks::ChunkScanner;
use crate::forward;
use crate::guard::{Framing, Head, HeadReader};
use crate::lane::{Outlined, write_head};
use crate::listen::Client;
use crate::outcome::ErrorPolicy;
use crate::recorder::{AssignedBy, Terms};
use crate::trace::{TRACEPARENT, Trace};
use crate::user_cookie::Secret;

/// As routes have it by default, in bytes.
const LIMIT_BYTES: u64 = 64 << 10;
/// The most header lines that a parser has room for.
const MAX_HEADER_LINES: usize = 256;
const ID: HeaderValue = HeaderValue::from_static("id-1");
/// What the framework cuts of a request; `close` and `keep-alive` since `connection` names them.
const CUT: [&str; 11] = [
    "close",
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A head that the guard lets pass is read the same however it arrives and whoever reads it: as long, with the same lines,
/// and with a body that ends at the same byte. What the fast lane makes of it, the framework's way makes of it too, and a
/// version reads in that what the guard read.
///
/// # Panics
/// If that does not hold.
pub fn head(input: &[u8]) {
    let mut reader = HeadReader::default();
    let read = reader.read(input, LIMIT_BYTES);
    check_cuts(input, &read);
    let Ok(Some(head)) = read else { return };
    let (bytes, body) = input.split_at(head.bytes);
    let request = Outlined { head: bytes, outline: reader.outline() };
    check_parsed(request);
    check_words(&request);
    let Some(end) = end_of_body(head.framing, body) else { return };
    let (message, _) = input.split_at(head.bytes + end);
    let is_plain = request.outline.is_plain();
    let Some((by_framework, its_body)) = by_framework(message) else {
        // The lane would carry what the other way refuses.
        assert!(!is_plain, "the framework refuses a plain request");
        return;
    };
    assert_eq!(its_body, body_of(head.framing, body), "the framework reads another body");
    check_lines(request, &by_framework);
    if is_plain {
        check_asked(request, &by_framework);
        check_carried_on(request, &by_framework, head);
    }
}

/// However the bytes arrive, they are read the same.
fn check_cuts(input: &[u8], whole: &Result<Option<Head>, Refusal>) {
    let mut places = [3, 5, 7].map(|part: usize| spread(input) % part * input.len() / part);
    places.sort_unstable();
    let mut reader = HeadReader::default();
    let pieces = places.iter().filter_map(|place| input.get(..*place)).chain([input]);
    let mut read = pieces.map(|piece| reader.read(piece, LIMIT_BYTES));
    match read.find(|read| *read != Ok(None)) {
        None => assert_eq!(*whole, Ok(None), "unfinished in pieces only"),
        // What is wrong with a head that is not whole yet may be told in other words.
        Some(Err(refusal)) => assert!(whole.is_err(), "{refusal:?} in pieces only"),
        Some(Ok(head)) => assert_eq!(*whole, Ok(head), "read otherwise in pieces"),
    }
}

/// A number that depends on every byte (FNV-1a).
fn spread(input: &[u8]) -> usize {
    input.iter().fold(0xcbf2_9ce4, |hash: usize, byte| (hash ^ usize::from(*byte)).wrapping_mul(0x0100_01b3))
}

/// What an HTTP parser makes of the bytes.
fn check_parsed(request: Outlined<'_>) {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADER_LINES];
    let mut parsed = httparse::Request::new(&mut lines);
    // It takes fewer characters in a target than the guard; the framework writes them anew and parses again.
    let Ok(status) = parsed.parse(request.head) else { return };
    assert_eq!(status, httparse::Status::Complete(request.head.len()), "another end of the head");
    assert_eq!(parsed.method.map(str::as_bytes), Some(request.part(&request.outline.method)));
    assert_eq!(parsed.path.map(str::as_bytes), Some(request.part(&request.outline.target)));
    let fields = &request.outline.fields;
    assert_eq!(parsed.headers.len(), fields.len(), "another number of lines");
    for (line, field) in parsed.headers.iter().zip(fields) {
        assert_eq!((line.name.as_bytes(), line.value), (request.part(&field.name), request.part(&field.value)));
    }
}

/// Ids and traces that are taken from a client can stand wherever they go.
fn check_words(request: &Outlined<'_>) {
    let given = request.only(&REQUEST_ID);
    let id = forward::request_id(given);
    let text = id.to_str().unwrap_or_default();
    assert_eq!(serde_json::to_string(text).ok(), Some(format!("\"{text}\"")), "an id that has to be escaped");
    assert!((1..=128).contains(&id.len()) && (given == Some(id.as_bytes()) || id.len() == 32), "{id:?}");
    for sample in [None, Some(0.0), Some(1.0)] {
        let trace = Trace::of(request.only(&TRACEPARENT), sample);
        let Some(onward) = trace.onward() else {
            assert!(trace.keeps_state() && !trace.is_kept);
            continue;
        };
        let next = Trace::of(Some(onward.as_bytes()), sample);
        assert_eq!((next.id, next.parent, next.flags()), (trace.id, Some(trace.span), trace.flags()), "{onward:?}");
    }
}

/// How many bytes behind the head are its body's; none if the body is not whole, or not framed as it should be.
fn end_of_body(framing: Framing, received: &[u8]) -> Option<usize> {
    match framing {
        Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= received.len()),
        Framing::Chunked => ChunkScanner::default().scan(received).ok().flatten(),
    }
}

/// The body without what frames it.
fn body_of(framing: Framing, received: &[u8]) -> Vec<u8> {
    match framing {
        Framing::Length(length) => received.iter().take(usize::try_from(length).unwrap_or(0)).copied().collect(),
        Framing::Chunked => without_chunks(received),
    }
}

/// Chunk by chunk, as RFC 9112 tells to decode them (section 7.1.3).
fn without_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, data) = rest.split_at(end);
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        let Ok(size @ 1..) = usize::from_str_radix(digits, 16) else { break };
        body.extend(data.iter().skip(2).take(size));
        rest = data.get(2 + size + 2..).unwrap_or_default();
    }
    body
}

/// The head and the body of a message as the framework reads them; none if it refuses the head.
fn by_framework(message: &[u8]) -> Option<(RequestHeader, Vec<u8>)> {
    let mut session = HttpSession::new(Box::new(Cursor::new(message.to_vec())));
    // Everything has arrived, so nothing is waited for.
    session.read_request().now_or_never()?.ok().flatten()?;
    let head = session.req_header().clone();
    let mut body = Vec::new();
    while let Some(piece) = session.read_body_bytes().now_or_never().expect("no wait").expect("a body that is framed") {
        body.extend_from_slice(&piece);
    }
    assert!(session.is_body_done(), "the framework waits for more");
    Some((head, body))
}

/// Method, version and every line.
fn check_lines(request: Outlined<'_>, by_framework: &RequestHeader) {
    assert_eq!(by_framework.method.as_str(), request.method());
    assert_eq!(by_framework.headers.len(), request.outline.fields.len(), "another number of lines");
    for field in &request.outline.fields {
        let name = HeaderName::from_bytes(request.part(&field.name)).expect("a name that passed");
        let (ours, its): (Vec<_>, Vec<_>) =
            (request.values(&name).collect(), RequestHead::values(by_framework, &name).collect());
        assert_eq!(ours, its, "{name}");
    }
}

/// The questions that admission asks have one answer.
fn check_asked(request: Outlined<'_>, by_framework: &RequestHeader) {
    assert_eq!(RequestHead::version(&request), RequestHead::version(by_framework));
    assert_eq!(request.host(), by_framework.host());
    assert_eq!(request.path(), by_framework.path());
    let client = client();
    for (assign, terms) in ways_to_assign() {
        let (ours, its) = (assign.assign(&request, &client, terms), assign.assign(by_framework, &client, terms));
        check_assigned(&ours, &its);
    }
}

/// Who is known, or asks for a version, gets the same on both ways; who is not, gets a draw on both.
fn check_assigned(ours: &Assigned, its: &Assigned) {
    assert_eq!(ours.new_user.is_some(), its.new_user.is_some());
    let drawn = ours.new_user.is_some() || ours.assignment.by == AssignedBy::Chance;
    assert!(drawn || ours.assignment == its.assignment, "{ours:?} and {its:?}");
    assert_eq!(ours.assignment.by == AssignedBy::Chance, its.assignment.by == AssignedBy::Chance);
}

fn client() -> Client {
    Client::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), false)
}

/// Users by a header, by a cookie and by nothing, and testers.
fn ways_to_assign() -> &'static [(Assign, Terms)] {
    static WAYS: OnceLock<Vec<(Assign, Terms)>> = OnceLock::new();
    WAYS.get_or_init(|| {
        let cookie = StickyCookie { name: "user".to_owned(), max_age: Duration::from_mins(1), secret_file: None };
        let stickies = [Some(Sticky::Header("x-user".to_owned())), Some(Sticky::Cookie(cookie)), None];
        let route = |sticky| {
            let versions = ["v1", "v2", "v3"].map(|name| (version(name), Version::at(Vec::new())));
            let name = "r".parse().expect("a name of a route");
            Route { sticky, overrides: overrides(), ..Route::new(name, version("v1"), versions.into()) }
        };
        let secret = Secret::from_text(&"A".repeat(43));
        stickies.map(|sticky| (Assign::new(&route(sticky), &terms(), secret), terms())).into()
    })
}

fn overrides() -> Vec<Override> {
    let by_value = Ask { value: "yes".to_owned(), version: version("v3") };
    vec![
        Override { source: OverrideSource::Header("x-version".to_owned()), ask: None },
        Override { source: OverrideSource::Cookie("preview".to_owned()), ask: Some(by_value) },
    ]
}

fn terms() -> Terms {
    Terms {
        weight: Share::from_ppm(500_000).unwrap_or(Share::ZERO),
        trial: 0,
        stable: version("v1"),
        canary: Some(version("v2")),
        others: vec![version("v3")],
        errors: ErrorPolicy::new(&[].into()),
        slow_after: Duration::from_secs(1),
        unanswered_after: Duration::from_secs(2),
        users: None,
    }
}

fn version(name: &str) -> VersionId {
    name.parse().expect("a name of a version")
}

/// The lane's head is one that the guard would let pass, frames the same body, and has the lines of the framework's way.
fn check_carried_on(request: Outlined<'_>, by_framework: &RequestHeader, head: Head) {
    let trace = Trace::of(request.only(&TRACEPARENT), None);
    let mut wire = BytesMut::new();
    write_head(&mut wire, request, &client(), &ID, &trace);
    let mut reader = HeadReader::default();
    let again = reader.read(&wire, 2 * LIMIT_BYTES).expect("a head that can be read").expect("a whole head");
    assert_eq!(again, Head { bytes: wire.len(), ..head });
    let carried = Outlined { head: &wire, outline: reader.outline() };
    assert!(carried.outline.is_plain());
    assert_eq!(
        (carried.method(), carried.part(&carried.outline.target)),
        (request.method(), request.part(&request.outline.target))
    );
    let mut forwarded = by_framework.clone();
    for name in CUT {
        forwarded.remove_header(name);
    }
    forward::to_version(&mut forwarded, &client(), &ID, &trace).expect("sound values");
    assert_eq!(lines_of_lane(carried), lines_of_framework(&forwarded));
}

fn lines_of_lane(request: Outlined<'_>) -> Vec<(String, Vec<u8>)> {
    let name = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    let fields = request.outline.fields.iter();
    let mut lines: Vec<_> =
        fields.map(|field| (name(request.part(&field.name)), request.part(&field.value).to_vec())).collect();
    lines.retain(|(name, _)| name != "close");
    lines.sort();
    lines
}

fn lines_of_framework(request: &RequestHeader) -> Vec<(String, Vec<u8>)> {
    let fields = request.headers.iter();
    let mut lines: Vec<_> = fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    lines.sort();
    lines
}
