//! What a request head must look like before anything else reads it.
//!
//! Line: listener ► **guard** ► edge. The guard reads the bytes as they arrive and is stricter than the framework's
//! parser behind it, so that there is only one way to read what passes: one `Host`, one length or `chunked` and never
//! both, CRLF line ends, no folded lines, no dot segments. Whatever could be read in two ways is refused here, before a
//! byte of it reaches a version (RFC 9112, sections 2.2, 3.2, 5 and 6; RFC 9110, section 5).

mod parsed;

use std::ops::Range;

pub(crate) use parsed::{check_parsed, into_request};

use crate::answer::Refusal;
use crate::lane::{Field, Kind, Outline, kind_of};
use crate::route::next_byte;

/// The longest request target, in bytes.
const MAX_TARGET_BYTES: usize = 16 << 10;
/// The longest method and version around the target, in bytes.
const MAX_AROUND_TARGET_BYTES: usize = 64;
/// The most header lines; what the framework can parse.
const MAX_HEADER_LINES: usize = 256;

/// What no client can have cut on the way to a version.
const PROTECTED: [&[u8]; 11] = [
    b"authorization",
    b"cookie",
    b"date",
    b"expect",
    b"forwarded",
    b"host",
    b"traceparent",
    b"tracestate",
    b"transfer-encoding",
    b"x-real-ip",
    b"x-request-id",
];
const PROTECTED_PREFIXES: [&[u8]; 4] = [b"content-", b"x-forwarded-", b"x-pointsman-", b"if-"];

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By a length in bytes; no body is a length of zero.
    Length(u64),
    /// By a chunk of length zero.
    Chunked,
}

/// What is known of a head that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length in bytes, the empty line included.
    pub(crate) bytes: usize,
    /// How its body ends.
    pub(crate) framing: Framing,
    /// Whether the answer must have no body.
    pub(crate) is_head_request: bool,
}

/// Reads one head, line by line, as its bytes arrive.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    /// Where the first line that has not been read begins.
    next_line: usize,
    /// How far the end of that line has been looked for.
    searched: usize,
    request_line: Option<RequestLine>,
    header_lines: usize,
    has_host: bool,
    length: Option<u64>,
    chunked: bool,
    skipped_empty_line: bool,
    outline: Outline,
}

#[derive(Debug)]
struct RequestLine {
    is_head_request: bool,
    is_http_1_0: bool,
    method: Range<usize>,
    target: Range<usize>,
    /// Where the authority stands; none if the target is no URL.
    authority: Option<Range<usize>>,
}

impl HeadReader {
    /// Begins the next head, in the room of the one before.
    pub(crate) fn reset(&mut self) {
        let mut outline = std::mem::take(&mut self.outline);
        outline.clear();
        *self = Self { outline, ..Self::default() };
    }

    /// Where the parts of the head stand that was read last.
    pub(crate) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The method and the path in `buffer`, as far as the request line has been read: empty before.
    pub(crate) fn asks_for<'a>(&self, buffer: &'a [u8]) -> (&'a str, &'a str) {
        let Some(line) = &self.request_line else { return ("", "") };
        let text = |place: Range<usize>| buffer.get(place).and_then(|text| std::str::from_utf8(text).ok());
        // What stands before a path may name more than a log should.
        let path = line.authority.as_ref().map_or(line.target.start, |authority| authority.end)..line.target.end;
        let path = text(path).and_then(|target| target.split('?').next());
        (text(line.method.clone()).unwrap_or_default(), path.unwrap_or_default())
    }

    /// Whether it is a HEAD request, as far as is known yet.
    pub(crate) fn is_head_request(&self) -> bool {
        self.request_line.as_ref().is_some_and(|line| line.is_head_request)
    }

    /// Reads what is new in `buffer`, which holds everything received so far; none while the head is not whole.
    ///
    /// # Errors
    /// If the head is not acceptable, or longer than `limit_bytes`.
    pub(crate) fn read(&mut self, buffer: &[u8], limit_bytes: u64) -> Result<Option<Head>, Refusal> {
        while let Some(end) = self.find_line_end(buffer) {
            let line = self.next_line..end;
            let Some(text) = buffer.get(line.clone()).and_then(|line| line.strip_suffix(b"\r")) else {
                return Err(Refusal::BadRequest("a line of the head does not end in CRLF"));
            };
            self.next_line = end + 1;
            check_size(self.next_line, limit_bytes)?;
            if self.take_line(buffer, text, line.start)? {
                return self.finish().map(Some);
            }
        }
        self.check_unfinished(buffer, limit_bytes)?;
        Ok(None)
    }

    fn find_line_end(&mut self, buffer: &[u8]) -> Option<usize> {
        let from = self.searched.max(self.next_line);
        let found = buffer.get(from..)?.iter().position(|byte| *byte == b'\n');
        self.searched = buffer.len();
        let end = from + found?;
        self.searched = end + 1;
        Some(end)
    }

    /// True if this was the empty line that ends the head.
    fn take_line(&mut self, buffer: &[u8], line: &[u8], start: usize) -> Result<bool, Refusal> {
        match (&self.request_line, line.is_empty()) {
            (Some(_), true) => return Ok(true),
            (Some(_), false) => self.header(buffer, line, start)?,
            // RFC 9112, section 2.2: one empty line before the request line is to be ignored.
            (None, true) if !self.skipped_empty_line => self.skipped_empty_line = true,
            (None, true) => return Err(Refusal::BadRequest("more than one empty line before the request line")),
            (None, false) => self.take_request_line(buffer, request_line(line, start)?),
        }
        Ok(false)
    }

    fn take_request_line(&mut self, buffer: &[u8], line: RequestLine) {
        let is_path = buffer.get(line.target.start) == Some(&b'/');
        self.outline.set_request_line(line.method.clone(), line.target.clone(), is_path && !line.is_http_1_0);
        self.request_line = Some(line);
    }

    /// Refuses early what cannot become a head any more.
    fn check_unfinished(&self, buffer: &[u8], limit_bytes: u64) -> Result<(), Refusal> {
        if self.request_line.is_none() && buffer.len() > self.next_line + MAX_TARGET_BYTES + MAX_AROUND_TARGET_BYTES {
            return Err(Refusal::UriTooLong(MAX_TARGET_BYTES));
        }
        check_size(buffer.len(), limit_bytes)
    }

    fn header(&mut self, buffer: &[u8], line: &[u8], start: usize) -> Result<(), Refusal> {
        self.header_lines += 1;
        if self.header_lines > MAX_HEADER_LINES {
            return Err(Refusal::BadRequest("more than 256 header lines"));
        }
        let colon =
            line.iter().position(|byte| *byte == b':').ok_or(Refusal::BadRequest("a header line without a colon"))?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return Err(Refusal::BadRequest("a header name that is no token"));
        }
        let value = value.get(1..).unwrap_or_default();
        if !value.iter().copied().all(is_field_byte) {
            return Err(Refusal::BadRequest("a control character in a header"));
        }
        let kind = kind_of(name);
        let from = start + colon + 1 + (value.len() - value.trim_ascii_start().len());
        let value = value.trim_ascii();
        self.outline.add(Field { name: start..start + colon, value: from..from + value.len(), kind }, value);
        match kind {
            Kind::Host => self.host_header(value, buffer),
            Kind::Length => self.content_length(value),
            Kind::Connection => check_nominated(value),
            Kind::Encoding => self.transfer_encoding(value),
            Kind::Other
            | Kind::HopByHop
            | Kind::Replaced
            | Kind::Trace
            | Kind::TraceState
            | Kind::Expect
            | Kind::Upgrade => Ok(()),
        }
    }

    fn host_header(&mut self, value: &[u8], buffer: &[u8]) -> Result<(), Refusal> {
        if self.has_host {
            return Err(Refusal::BadRequest("more than one Host"));
        }
        if !value.iter().copied().all(is_authority_byte) {
            return Err(Refusal::BadRequest("a Host that is no host name"));
        }
        let authority = self.request_line.as_ref().and_then(|line| line.authority.clone());
        let differs =
            authority.is_some_and(|place| !buffer.get(place).is_some_and(|name| name.eq_ignore_ascii_case(value)));
        if differs {
            return Err(Refusal::BadRequest("Host and the request target name different hosts"));
        }
        self.has_host = true;
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::BadRequest("more than one Content-Length"));
        }
        self.length = Some(digits(value)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::BadRequest("a Transfer-Encoding other than one `chunked`"));
        }
        self.chunked = true;
        Ok(())
    }

    fn finish(&self) -> Result<Head, Refusal> {
        let Some(line) = self.request_line.as_ref() else { return Err(Refusal::Internal) };
        if !self.has_host && !line.is_http_1_0 {
            return Err(Refusal::BadRequest("HTTP/1.1 without a Host"));
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Refusal::BadRequest("both Content-Length and Transfer-Encoding")),
            (true, None) if line.is_http_1_0 => return Err(Refusal::BadRequest("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Head { bytes: self.next_line, framing, is_head_request: line.is_head_request })
    }
}

/// Refuses a `Connection` that would have headers cut which are not the connection's (RFC 9110, section 7.6.1): whoever
/// serves the request would not know who asks, for what, or how long the body is.
fn check_nominated(value: &[u8]) -> Result<(), Refusal> {
    for name in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if !name.iter().copied().all(is_token_byte) {
            return Err(Refusal::BadRequest("a Connection that names no header"));
        }
        let is_protected = PROTECTED.iter().any(|protected| name.eq_ignore_ascii_case(protected))
            || PROTECTED_PREFIXES.iter().any(|prefix| starts_with_ignore_case(name, prefix));
        if is_protected {
            return Err(Refusal::BadRequest("a Connection that names a header which is not the connection's"));
        }
    }
    Ok(())
}

/// The value of a `content-length`.
fn digits(value: &[u8]) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
    number.ok_or(Refusal::BadRequest("a Content-Length that is no number"))
}

fn check_size(head_bytes: usize, limit_bytes: u64) -> Result<(), Refusal> {
    let fits = u64::try_from(head_bytes).is_ok_and(|bytes| bytes <= limit_bytes);
    if fits { Ok(()) } else { Err(Refusal::HeadersTooLarge(limit_bytes)) }
}

fn request_line(line: &[u8], start: usize) -> Result<RequestLine, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::BadRequest("a request line that is not `METHOD target HTTP/1.1`"));
    };
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return Err(Refusal::BadRequest("a method that is no token"));
    }
    let is_http_1_0 = http_version(version)?;
    if method == b"CONNECT" {
        return Err(Refusal::MethodNotAllowed);
    }
    if target.len() > MAX_TARGET_BYTES {
        return Err(Refusal::UriTooLong(MAX_TARGET_BYTES));
    }
    let offset = start + method.len() + 1;
    let authority = target_authority(method, target)?.map(|place| place.start + offset..place.end + offset);
    Ok(RequestLine {
        is_head_request: method == b"HEAD",
        is_http_1_0,
        method: start..start + method.len(),
        target: offset..offset + target.len(),
        authority,
    })
}

/// True for HTTP/1.0, false for HTTP/1.1.
fn http_version(version: &[u8]) -> Result<bool, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Refusal::VersionNotSupported)
        }
        _ => Err(Refusal::BadRequest("a request line that is not `METHOD target HTTP/1.1`")),
    }
}

/// Checks the target; gives where in it the authority stands, if it has one (RFC 9112, section 3.2).
fn target_authority(method: &[u8], target: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
    check_characters(target)?;
    if target == b"*" && method == b"OPTIONS" {
        return Ok(None);
    }
    if target.starts_with(b"/") {
        return check_path(target).map(|()| None);
    }
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| starts_with_ignore_case(target, scheme));
    let Some(start) = scheme.map(<[u8]>::len) else {
        return Err(Refusal::BadRequest("a request target that is neither a path nor an http URL"));
    };
    let rest = target.get(start..).unwrap_or_default();
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(length);
    if authority.is_empty() || !authority.iter().copied().all(is_authority_byte) {
        return Err(Refusal::BadRequest("a request target without a host name"));
    }
    check_path(path).map(|()| Some(start..start + length))
}

/// Refuses what RFC 3986 has percent-encoded, as far as the framework refuses it too: a request would be answered on the
/// fast lane, and no more as soon as something of its route needs the framework.
fn check_characters(target: &[u8]) -> Result<(), Refusal> {
    let path_bytes = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_bytes);
    let are_sound =
        |part: &[u8], barred: &[u8]| part.iter().all(|byte| byte.is_ascii_graphic() && !barred.contains(byte));
    if are_sound(path, b"#<>`") && are_sound(query, b"#<>\"") {
        return Ok(());
    }
    Err(Refusal::BadRequest("a character in the request target that must be percent-encoded"))
}

fn starts_with_ignore_case(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// Refuses a path in which a server could find a `.` or `..` segment, however it is spelled: where it leads would depend
/// on who resolves it, and the route was chosen by the path as it stands. Doubled slashes are fine, see [`crate::route`].
fn check_path(target: &[u8]) -> Result<(), Refusal> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut rest = path;
    // How many dots this segment is made of; none as soon as anything else is in it.
    let mut dots = Some(0_u32);
    loop {
        let next = next_byte(rest);
        match next {
            None | Some((b'/' | b'\\', _)) => {
                if matches!(dots, Some(1 | 2)) {
                    return Err(Refusal::BadRequest("a `.` or `..` segment in the path"));
                }
                dots = Some(0);
            }
            Some((0, _)) => return Err(Refusal::BadRequest("a zero byte in the path")),
            Some((b'.', _)) => dots = dots.map(|count| count + 1),
            Some(_) => dots = None,
        }
        match next {
            Some((_, after)) => rest = after,
            None => return Ok(()),
        }
    }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, section 5.5.
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// What host names, addresses and ports are made of.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 64 << 10;

    fn read(head: &[u8]) -> Result<Option<Head>, Refusal> {
        HeadReader::default().read(head, LIMIT)
    }

    #[track_caller]
    fn check(head: &str, status: u16) {
        let refusal = read(head.as_bytes()).expect_err(head);
        assert_eq!(refusal.status().as_u16(), status, "{head:?}: {refusal:?}");
    }

    #[track_caller]
    fn passes(head: &str) -> Head {
        read(head.as_bytes()).expect(head).expect(head)
    }

    #[test]
    fn a_plain_head_passes_and_its_framing_is_known() {
        let head = "POST /v1/predict?a=b/../c HTTP/1.1\r\nHost: m\r\nContent-Length: 12\r\n\r\n";
        assert_eq!(passes(head), Head { bytes: head.len(), framing: Framing::Length(12), is_head_request: false });
        assert_eq!(passes("HEAD / HTTP/1.1\r\nhost:m\r\n\r\nrest").framing, Framing::Length(0));
        assert!(passes("HEAD / HTTP/1.0\r\n\r\n").is_head_request);
        let chunked = passes("POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\nHost: m\r\n\r\n");
        assert_eq!(chunked.framing, Framing::Chunked);
    }

    #[test]
    fn odd_but_sound_heads_pass() {
        passes("\r\nGET / HTTP/1.1\r\nHost: m\r\n\r\n");
        passes("OPTIONS * HTTP/1.1\r\nHost: m\r\n\r\n");
        passes("GET http://M:80/v1 HTTP/1.1\r\nHost: m:80\r\n\r\n");
        passes("GET http://m HTTP/1.1\r\nHost: m\r\n\r\n");
        passes("GET /{\"a\"}|^\\b?{c}`|^ HTTP/1.1\r\nHost: m\r\n\r\n");
        passes("GET /a//b/...;x/%2Fc/.hidden/x..y HTTP/1.1\r\nHost:\r\nX: \u{e9}\t\r\n\r\n");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: m\n\n",
            "GET / HTTP/1.1\r\nHost: m\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\nHost: m\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m, n\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@m\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : m\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: m\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\nX\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\n: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: m\r\nX: a\0b\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: m\r\n\r\n",
            "GET / http/1.1\r\nHost: m\r\n\r\n",
            "GET /\r\nHost: m\r\n\r\n",
            "GE(T / HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET v1 HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET /a<b HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET /a`b HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET /?a=\"b\" HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET http://n/ HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET http:///v1 HTTP/1.1\r\nHost: m\r\n\r\n",
            "GET ftp://m/ HTTP/1.1\r\nHost: m\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: m\r\n\r\n",
        ] {
            check(head, 400);
        }
    }

    #[test]
    fn every_unsound_framing_is_refused() {
        for framing in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 9999999999999999999",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\x0bchunked",
        ] {
            check(&format!("POST / HTTP/1.1\r\nHost: m\r\n{framing}\r\n\r\n"), 400);
        }
        check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
    }

    #[test]
    fn no_spelling_of_a_dot_segment_passes() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2f..%2Fb",
            "/a/..%5cb",
            "/a\\..\\b",
            "/%2e",
            "/..?x",
        ] {
            check(&format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n"), 400);
            check(&format!("GET http://m{path} HTTP/1.1\r\nHost: m\r\n\r\n"), 400);
        }
        check("GET /a%00b HTTP/1.1\r\nHost: m\r\n\r\n", 400);
    }

    #[test]
    fn other_refusals_have_their_own_status() {
        check("CONNECT m:443 HTTP/1.1\r\nHost: m\r\n\r\n", 405);
        check("PRI * HTTP/2.0\r\n\r\n", 505);
        check("GET / HTTP/1.2\r\nHost: m\r\n\r\n", 505);
        check(&format!("GET /{} HTTP/1.1\r\nHost: m\r\n\r\n", "a".repeat(MAX_TARGET_BYTES)), 414);
        check(&format!("GET /{}", "a".repeat(MAX_TARGET_BYTES + 64)), 414);
        check(&format!("GET / HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "a".repeat(64 << 10)), 431);
        check(&format!("GET / HTTP/1.1\r\nHost: m\r\nX: {}", "a".repeat(64 << 10)), 431);
        check(&format!("GET / HTTP/1.1\r\nHost: m\r\n{}\r\n", "X: a\r\n".repeat(256)), 400);
    }

    proptest! {
        #[test]
        fn a_head_reads_the_same_however_it_is_cut(cuts in proptest::collection::vec(0..120_usize, 0..8)) {
            let head = b"POST http://m/v1/a%20b?x HTTP/1.1\r\nA: b\r\nHost: m\r\nContent-Length: 31\r\nB: c d\r\n\r\n";
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < head.len()).collect();
            cuts.sort_unstable();
            let mut reader = HeadReader::default();
            for cut in cuts {
                prop_assert_eq!(reader.read(&head[..cut], LIMIT), Ok(None));
            }
            let expected = Head { bytes: head.len(), framing: Framing::Length(31), is_head_request: false };
            prop_assert_eq!(reader.read(head, LIMIT), Ok(Some(expected)));
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_past_the_head(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut soup = b"GET / HTTP/1.1\r\nHost: m\r\n".to_vec();
            soup.extend_from_slice(&bytes);
            for text in [&soup, &bytes] {
                if let Ok(Some(head)) = read(text) {
                    prop_assert!(text[..head.bytes].ends_with(b"\r\n\r\n"));
                }
            }
        }
    }
}
