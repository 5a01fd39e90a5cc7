//! The head of a version's answer: read strictly, and written as the client gets it.
//!
//! Line: relay ► **answer** ► client. An answer whose end could be told in two ways is none: a version that frames it so
//! counts as having broken it (RFC 9112, section 6.3). What is cut and added is what [`crate::forward::to_client`] cuts and
//! adds.

use std::mem::MaybeUninit;

use bytes::{BufMut, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use httparse::{Header, Response, Status};
use pingora_core::protocols::http::date::get_cached_date;

use super::Malformed;
use super::body::Body;
use crate::chunks::ChunkScanner;
use crate::forward::SERVER_TIMING;
use crate::retry::AnswerSigns;
use crate::streams::is_stream_type;

/// The most header lines of an answer.
const MAX_HEADER_LINES: usize = 256;
/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 256 << 10;
/// Room for the lines that the edge adds.
const ADDED_BYTES: usize = 320;
/// What the version's `connection` header may name without its being cut: the framing of the body hangs on these.
const NEVER_CUT: [&[u8]; 4] = [b"close", b"keep-alive", b"transfer-encoding", b"content-length"];

/// What the edge has to say about an answer.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    /// Whether the request was HEAD, which gets no body.
    pub(super) to_head_request: bool,
    /// Whether the client's connection closes after it.
    pub(super) closes: bool,
    pub(super) request_id: &'a HeaderValue,
    /// The version, where answers name it.
    pub(super) version: Option<&'a HeaderValue>,
    /// A cookie for the client, which makes the answer one that no cache may keep.
    pub(super) new_user: Option<&'a HeaderValue>,
}

/// What is known of an answer whose head has been written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its length as the version sent it, in bytes.
    pub(super) bytes: usize,
    pub(super) status: u16,
    /// What follows it; meaningless if it is an interim one.
    pub(super) body: Body,
    /// Whether the version keeps its connection.
    pub(super) is_kept: bool,
    /// What it says of the attempt.
    pub(super) signs: AnswerSigns,
    /// Whether the client's connection closes after it.
    pub(super) closes: bool,
    /// Whether only silence ends it.
    pub(super) is_stream: bool,
}

impl Head {
    /// Whether another head follows (1xx).
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// What a header line of an answer is to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    /// For the version's connection only, or replaced.
    Cut,
    Connection,
    Length,
    Encoding,
    Date,
    /// Could have a cache keep the answer.
    CacheHint,
}

const KNOWN: [(&[u8], Kind); 16] = [
    (b"date", Kind::Date),
    (b"connection", Kind::Connection),
    (b"content-length", Kind::Length),
    (b"transfer-encoding", Kind::Encoding),
    (b"keep-alive", Kind::Cut),
    (b"proxy-connection", Kind::Cut),
    (b"proxy-authenticate", Kind::Cut),
    (b"te", Kind::Cut),
    (b"trailer", Kind::Cut),
    (b"upgrade", Kind::Cut),
    (b"x-request-id", Kind::Cut),
    (b"x-pointsman-version", Kind::Cut),
    (b"cache-control", Kind::CacheHint),
    (b"expires", Kind::CacheHint),
    (b"cdn-cache-control", Kind::CacheHint),
    (b"surrogate-control", Kind::CacheHint),
];

fn kind_of(name: &str) -> Kind {
    let name = name.as_bytes();
    KNOWN.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map_or(Kind::Other, |(_, kind)| *kind)
}

/// What the version says about its connection.
#[derive(Debug, Default)]
struct Connection {
    closes: bool,
    /// Whether it names headers that are to be cut.
    nominates: bool,
}

/// What the header lines say together.
#[derive(Debug, Default)]
struct Facts {
    length: Option<u64>,
    is_chunked: bool,
    connection: Connection,
    has_date: bool,
}

impl Connection {
    fn note(&mut self, value: &[u8]) {
        for token in tokens(value) {
            self.closes |= token.eq_ignore_ascii_case(b"close");
            self.nominates |= !is_never_cut(token);
        }
    }
}

impl Facts {
    fn of(headers: &[Header<'_>]) -> Result<Self, Malformed> {
        let mut facts = Self::default();
        for header in headers {
            match kind_of(header.name) {
                Kind::Length => facts.content_length(header.value)?,
                Kind::Encoding => facts.transfer_encoding(header.value)?,
                Kind::Connection => facts.connection.note(header.value),
                Kind::Date => facts.has_date = true,
                Kind::Cut | Kind::CacheHint | Kind::Other => {}
            }
        }
        Ok(facts)
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let is_number = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        if self.length.is_some() || !is_number {
            return Err(Malformed);
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed);
        }
        self.is_chunked = true;
        Ok(())
    }

    /// RFC 9112, section 6.3, without its leniences.
    fn body(&self, status: u16, is_http_1_0: bool, terms: &Terms<'_>) -> Result<Body, Malformed> {
        match (status, self.is_chunked, self.length) {
            (_, true, Some(_)) | (100..=199, true, _) | (100..=199, _, Some(_)) => Err(Malformed),
            (_, true, None) if is_http_1_0 => Err(Malformed),
            (100..=199 | 204 | 304, ..) => Ok(Body::NONE),
            _ if terms.to_head_request => Ok(Body::NONE),
            (_, true, None) => Ok(Body::Chunked(ChunkScanner::default())),
            (_, false, Some(length)) => Ok(Body::Length(length)),
            (_, false, None) => Ok(Body::UntilClose),
        }
    }
}

/// The first value of a header.
fn value_of<'a>(headers: &[Header<'a>], name: &HeaderName) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name.as_str())).map(|header| header.value)
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is_never_cut(token: &[u8]) -> bool {
    NEVER_CUT.iter().any(|name| token.eq_ignore_ascii_case(name))
}

/// Reads the head at the start of `received` and writes it to the end of `wire` as the client gets it, a final one without
/// the empty line at its end ([`end`]); none while it is not whole, and then nothing is written.
///
/// # Errors
/// If it is no head of HTTP/1.x, is too long, switches protocols, or does not tell for sure where its body ends.
pub(super) fn carry(received: &[u8], terms: &Terms<'_>, wire: &mut BytesMut) -> Result<Option<Head>, Malformed> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADER_LINES];
    let mut answer = Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, received, &mut room);
    let Status::Complete(bytes) = parsed.map_err(|_no_http| Malformed)? else {
        return if received.len() > MAX_HEAD_BYTES { Err(Malformed) } else { Ok(None) };
    };
    let (Some(status @ (100 | 102..)), Some(minor)) = (answer.code, answer.version) else { return Err(Malformed) };
    let facts = Facts::of(answer.headers)?;
    let body = facts.body(status, minor == 0, terms)?;
    let closes = terms.closes || body == Body::UntilClose;
    let head = Head {
        bytes,
        status,
        is_kept: minor == 1 && !facts.connection.closes && body != Body::UntilClose,
        signs: AnswerSigns::of(status, |name| value_of(answer.headers, name)),
        closes,
        is_stream: value_of(answer.headers, &CONTENT_TYPE).is_some_and(is_stream_type),
        body,
    };
    wire.reserve(bytes + ADDED_BYTES);
    write_status(wire, status, answer.reason.unwrap_or_default());
    for header in answer.headers.iter() {
        if is_kept(header, status, terms) && !(facts.connection.nominates && is_nominated(answer.headers, header.name))
        {
            line(wire, header.name.as_bytes(), header.value);
        }
    }
    if head.is_interim() {
        wire.put_slice(b"\r\n");
    } else {
        write_own_lines(wire, terms, &head, facts.has_date);
    }
    Ok(Some(head))
}

/// Ends a final head, with how long its parts took where that is told.
pub(super) fn end(wire: &mut BytesMut, server_timing: Option<&HeaderValue>) {
    if let Some(timing) = server_timing {
        line(wire, SERVER_TIMING.as_str().as_bytes(), timing.as_bytes());
    }
    wire.put_slice(b"\r\n");
}

fn write_status(wire: &mut BytesMut, status: u16, reason: &str) {
    let digit = |place: u16| b'0' + u8::try_from(status / place % 10).unwrap_or(0);
    wire.put_slice(b"HTTP/1.1 ");
    wire.put_slice(&[digit(100), digit(10), digit(1), b' ']);
    wire.put_slice(reason.as_bytes());
    wire.put_slice(b"\r\n");
}

fn is_kept(header: &Header<'_>, status: u16, terms: &Terms<'_>) -> bool {
    match kind_of(header.name) {
        // An answer without a body says nothing about one (RFC 9110, section 8.6); that of 304 is about the stored one.
        Kind::Length => status != 204,
        Kind::Encoding => !matches!(status, 204 | 304),
        Kind::CacheHint => terms.new_user.is_none(),
        Kind::Other | Kind::Date => true,
        Kind::Cut | Kind::Connection => false,
    }
}

/// Whether the version's `connection` names this header.
fn is_nominated(headers: &[Header<'_>], name: &str) -> bool {
    let mut nominations = headers
        .iter()
        .filter(|header| kind_of(header.name) == Kind::Connection)
        .flat_map(|header| tokens(header.value));
    nominations.any(|token| token.eq_ignore_ascii_case(name.as_bytes()) && !is_never_cut(token))
}

fn write_own_lines(wire: &mut BytesMut, terms: &Terms<'_>, head: &Head, has_date: bool) {
    if !has_date {
        line(wire, b"date", get_cached_date().as_bytes());
    }
    line(wire, b"x-request-id", terms.request_id.as_bytes());
    if let Some(version) = terms.version {
        line(wire, b"x-pointsman-version", version.as_bytes());
    }
    if let Some(cookie) = terms.new_user {
        line(wire, b"cache-control", b"no-store");
        line(wire, b"set-cookie", cookie.as_bytes());
    }
    line(wire, b"connection", if head.closes { b"close" } else { b"keep-alive" });
}

fn line(wire: &mut BytesMut, name: &[u8], value: &[u8]) {
    wire.put_slice(name);
    wire.put_slice(b": ");
    wire.put_slice(value);
    wire.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static ID: HeaderValue = HeaderValue::from_static("id-1");
    static V2: HeaderValue = HeaderValue::from_static("v2");

    fn terms(to_head_request: bool) -> Terms<'static> {
        Terms { to_head_request, closes: false, request_id: &ID, version: Some(&V2), new_user: None }
    }

    fn carried(answer: &str, to_head_request: bool) -> Result<Option<(Head, String)>, Malformed> {
        let mut wire = BytesMut::new();
        let head = carry(answer.as_bytes(), &terms(to_head_request), &mut wire)?;
        if head.as_ref().is_some_and(|head| !head.is_interim()) {
            end(&mut wire, None);
        }
        Ok(head.map(|head| (head, String::from_utf8(wire.to_vec()).unwrap())))
    }

    #[track_caller]
    fn check(answer: &str, to_head_request: bool, expected: &Body, is_kept: bool) {
        let (head, _) = carried(answer, to_head_request).expect(answer).expect(answer);
        assert_eq!((&head.body, head.is_kept), (expected, is_kept), "{answer}");
    }

    #[test]
    fn an_answer_loses_what_is_for_the_edge_and_gains_what_it_knows() {
        let answer = "HTTP/1.1 404 Nothing Here\r\nDate: today\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nX-Request-Id: forged\r\nX-Pointsman-Version: forged\r\nX-Kept: a  b\r\nContent-Length: 5\r\nTrailer: a\r\n\r\nhello";
        let (head, wire) = carried(answer, false).unwrap().unwrap();
        assert_eq!(
            wire,
            "HTTP/1.1 404 Nothing Here\r\nDate: today\r\nX-Kept: a  b\r\nContent-Length: 5\r\nx-request-id: id-1\r\nx-pointsman-version: v2\r\nconnection: keep-alive\r\n\r\n"
        );
        assert_eq!((head.bytes, head.status, head.closes), (answer.len() - 5, 404, false));
        let (_, dated) = carried("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).unwrap().unwrap();
        assert!(dated.contains("\r\ndate: "), "{dated}");
    }

    #[test]
    fn an_answer_that_makes_a_user_is_kept_by_no_cache() {
        let cookie = HeaderValue::from_static("u=1");
        let answer = b"HTTP/1.1 200 OK\r\ndate: x\r\nCache-Control: public\r\nExpires: later\r\nCDN-Cache-Control: public\r\nSet-Cookie: a=b\r\ncontent-length: 0\r\n\r\n";
        let mut wire = BytesMut::new();
        carry(answer, &Terms { new_user: Some(&cookie), version: None, ..terms(false) }, &mut wire).unwrap();
        end(&mut wire, Some(&HeaderValue::from_static("edge;dur=1")));
        assert_eq!(
            String::from_utf8(wire.to_vec()).unwrap(),
            "HTTP/1.1 200 OK\r\ndate: x\r\nSet-Cookie: a=b\r\ncontent-length: 0\r\nx-request-id: id-1\r\ncache-control: no-store\r\nset-cookie: u=1\r\nconnection: keep-alive\r\nserver-timing: edge;dur=1\r\n\r\n"
        );
    }

    #[test]
    fn the_end_of_a_body_is_told_by_its_head() {
        let chunked = Body::Chunked(ChunkScanner::default());
        check("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", false, &Body::Length(7), true);
        check("HTTP/1.1 200\r\ncontent-length: 7\r\nconnection: Close\r\n\r\n", false, &Body::Length(7), false);
        check("HTTP/1.0 200 OK\r\ncontent-length: 7\r\n\r\n", false, &Body::Length(7), false);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", false, &chunked, true);
        check("HTTP/1.1 200 OK\r\n\r\n", false, &Body::UntilClose, false);
        check("HTTP/1.1 200 OK\r\n\r\n", true, &Body::NONE, true);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true, &Body::NONE, true);
        check("HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n", false, &Body::NONE, true);
        check("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", false, &Body::NONE, true);
        check("HTTP/1.1 100 Continue\r\n\r\n", false, &Body::NONE, true);
        let (head, wire) = carried("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", false).unwrap().unwrap();
        assert!(head.is_interim() && wire == "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "{wire}");
    }

    #[test]
    fn what_could_end_in_two_places_is_malformed() {
        for answer in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        ] {
            assert_eq!(carried(answer, false), Err(Malformed), "{answer:?}");
        }
        assert_eq!(carried(&format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(MAX_HEAD_BYTES)), false), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_head_is_carried_the_same_once_it_is_whole_and_not_before(cut in 0..95_usize) {
            let answer = "HTTP/1.1 200 OK\r\ndate: x\r\nx-a: b\r\ncontent-length: 3\r\nconnection: keep-alive\r\nx-c: d\r\n\r\n";
            let cut = cut.min(answer.len());
            let part = carried(&answer[..cut], false).unwrap();
            prop_assert_eq!(part.is_some(), cut == answer.len());
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_past_what_came(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut soup = b"HTTP/1.1 200 OK\r\n".to_vec();
            soup.extend_from_slice(&bytes);
            for text in [&soup, &bytes] {
                let mut wire = BytesMut::new();
                if let Ok(Some(head)) = carry(text, &terms(false), &mut wire) {
                    prop_assert!(head.bytes <= text.len() && wire.ends_with(b"\r\n"));
                }
            }
        }
    }
}
