//! Reads an HTTP/1.1 answer as its bytes come in. Pure: bytes in, what was learnt out. Keeps of an answer only
//! what the books ask for; its body is counted off and forgotten.

use bytes::{Buf, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};

/// Headers that an answer may have.
const MAX_HEADERS: usize = 64;

/// Bytes that a head, or a line between chunks, may have.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Bytes that are no HTTP/1.1 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What an answer says before its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The value of `x-pointsman-version`.
    pub(super) version: Option<Box<str>>,
    /// Whether another request may follow on this connection.
    pub(super) keep_alive: bool,
    pub(super) body: Body,
}

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Done,
    Bytes(u64),
    ChunkSize,
    /// Data of a chunk, and the line end after it.
    Chunk(u64),
    Trailers,
    /// Until the server closes the connection.
    UntilClose,
}

/// Takes the head of an answer off `received`, if it is all there. Interim answers (1xx) are skipped.
pub(super) fn take_head(received: &mut BytesMut) -> Result<Option<Head>, Malformed> {
    loop {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(received) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if received.len() < MAX_LINE_BYTES => return Ok(None),
            Ok(Status::Partial) | Err(_) => return Err(Malformed),
        };
        let status = response.code.ok_or(Malformed)?;
        let head = if (100..200).contains(&status) { None } else { Some(head(status, &response)?) };
        received.advance(length);
        if head.is_some() {
            return Ok(head);
        }
    }
}

fn head(status: u16, response: &httparse::Response<'_, '_>) -> Result<Head, Malformed> {
    let headers = &*response.headers;
    let body = framing(status, headers)?;
    let says_close = value(headers, "connection").is_some_and(|value| has_token(value, "close"));
    Ok(Head {
        status,
        version: value(headers, "x-pointsman-version").map(|value| String::from_utf8_lossy(value).into()),
        keep_alive: response.version == Some(1) && !says_close && body != Body::UntilClose,
        body,
    })
}

/// RFC 9112, section 6.3.
fn framing(status: u16, headers: &[Header<'_>]) -> Result<Body, Malformed> {
    if matches!(status, 204 | 304) {
        return Ok(Body::Done);
    }
    if value(headers, "transfer-encoding").is_some_and(|value| has_token(value, "chunked")) {
        return Ok(Body::ChunkSize);
    }
    match value(headers, "content-length") {
        Some(digits) => number(digits).map(Body::of),
        None => Ok(Body::UntilClose),
    }
}

fn value<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn number(digits: &[u8]) -> Result<u64, Malformed> {
    let text = str::from_utf8(digits).map_err(|_not_text| Malformed)?;
    text.parse().map_err(|_not_digits| Malformed)
}

impl Body {
    fn of(bytes: u64) -> Self {
        if bytes == 0 { Self::Done } else { Self::Bytes(bytes) }
    }

    /// Takes off `received` what belongs to this body, and gives what is still to come.
    pub(super) fn consume(mut self, received: &mut BytesMut) -> Result<Self, Malformed> {
        while let Some(next) = self.step(received)? {
            self = next;
        }
        Ok(self)
    }

    /// One step forward; `None` when there is none without more bytes.
    fn step(self, received: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        match self {
            Self::Done => Ok(None),
            Self::Bytes(left) => Ok(skip(left, received).map(Self::of)),
            Self::ChunkSize => chunk_size(received),
            Self::Chunk(left) => {
                Ok(skip(left, received).map(|left| if left == 0 { Self::ChunkSize } else { Self::Chunk(left) }))
            }
            Self::Trailers => trailer(received),
            Self::UntilClose => {
                received.clear();
                Ok(None)
            }
        }
    }
}

/// Takes up to `left` bytes off and gives how many are left then; `None` when nothing could be taken.
fn skip(left: u64, received: &mut BytesMut) -> Option<u64> {
    let taken = received.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    received.advance(taken);
    (taken > 0).then(|| left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX)))
}

fn chunk_size(received: &mut BytesMut) -> Result<Option<Body>, Malformed> {
    match httparse::parse_chunk_size(received) {
        Ok(Status::Complete((length, size))) => {
            received.advance(length);
            Ok(Some(if size == 0 { Body::Trailers } else { Body::Chunk(size.saturating_add(2)) }))
        }
        Ok(Status::Partial) if received.len() < MAX_LINE_BYTES => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(Malformed),
    }
}

/// Trailers end with an empty line.
fn trailer(received: &mut BytesMut) -> Result<Option<Body>, Malformed> {
    match received.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = received.split_to(end + 1);
            Ok(Some(if line.trim_ascii().is_empty() { Body::Done } else { Body::Trailers }))
        }
        None if received.len() < MAX_LINE_BYTES => Ok(None),
        None => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads one answer that comes in pieces; gives head, body at the end, and what is left over.
    fn read(bytes: &[u8], pieces: usize) -> Result<Option<(Head, Body, Vec<u8>)>, Malformed> {
        let mut received = BytesMut::new();
        let mut head = None;
        let mut body = Body::Done;
        for piece in bytes.chunks(pieces.max(1)) {
            received.extend_from_slice(piece);
            if head.is_none() {
                head = take_head(&mut received)?;
                body = head.as_ref().map_or(Body::Done, |head| head.body);
            }
            if head.is_some() {
                body = body.consume(&mut received)?;
            }
        }
        Ok(head.map(|head| (head, body, received.to_vec())))
    }

    fn check(bytes: &str, status: u16, keep_alive: bool, left_over: &str) {
        for pieces in [1, 2, 3, 7, bytes.len()] {
            let (head, body, left) = read(bytes.as_bytes(), pieces).unwrap().unwrap();
            assert_eq!((head.status, head.keep_alive, body), (status, keep_alive, Body::Done), "{bytes}");
            assert_eq!(String::from_utf8(left).unwrap(), left_over);
        }
    }

    #[test]
    fn bodies_end_where_they_end() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP", 200, true, "HTTP");
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, true, "");
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, true, "");
        check("HTTP/1.1 503 No\r\nconnection: Close\r\ncontent-length: 1\r\n\r\nx", 503, false, "");
        check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, false, "");
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\nmore",
            200,
            true,
            "more",
        );
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n", 200, true, "");
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, true, "");
    }

    #[test]
    fn a_body_without_a_length_lasts_until_the_close() {
        let (head, body, _) = read(b"HTTP/1.1 200 OK\r\n\r\nhello", 4).unwrap().unwrap();
        assert_eq!((head.keep_alive, body), (false, Body::UntilClose));
    }

    #[test]
    fn the_version_is_read() {
        let answer = b"HTTP/1.1 200 OK\r\nX-Pointsman-Version: v2\r\ncontent-length: 0\r\n\r\n";
        let (head, _, _) = read(answer, 100).unwrap().unwrap();
        assert_eq!(head.version.as_deref(), Some("v2"));
    }

    #[test]
    fn what_is_no_answer_is_malformed() {
        for bytes in [
            &b"\x15\x03\x03\x00\x02\x02\x46"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            assert_eq!(read(bytes, 1000), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read(&[b'H'; 8], 1000), Err(Malformed));
        let endless = [b"HTTP/1.1 200 OK\r\na: ".as_slice(), &vec![b'a'; MAX_LINE_BYTES]].concat();
        assert_eq!(read(&endless, 10_000), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), pieces in 1..50_usize) {
            let answer = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(), &bytes].concat();
            for bytes in [&bytes, &answer] {
                if let Ok(Some((_, body, left))) = read(bytes, pieces) {
                    prop_assert!(left.is_empty() || body == Body::Done || left.len() < 300);
                }
            }
        }

        #[test]
        fn any_body_in_any_chunks_is_read_to_its_end(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            pieces in 1..60_usize,
        ) {
            let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nnext");
            let (_, body, left) = read(&bytes, pieces).unwrap().unwrap();
            prop_assert_eq!((body, left), (Body::Done, b"next".to_vec()));
        }
    }
}
