//! As much HTTP/1.1 as both ends of the rig need: where a message ends, and what its first line and framing say.

use thiserror::Error;

/// The most headers that a proxy may make of ours.
const MOST_HEADERS: usize = 48;

/// Bytes that are no message of the kind that the rig sends and expects.
#[derive(Debug, Error)]
#[error("no HTTP/1.1 message with a content-length")]
pub(super) struct Malformed;

/// One whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// Head and body.
    pub(super) bytes: usize,
    /// Of an answer; 0 for a request.
    pub(super) status: u16,
    /// Whether its sender closes the connection after it.
    pub(super) closes: bool,
    /// The last byte of the body, by which the upstreams tell which of them answered.
    pub(super) last: Option<u8>,
}

/// The request at the beginning of `bytes`; none while it is not whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes).map_err(|_no_http| Malformed)? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(head) => message(bytes, head, 0, request.headers),
    }
}

/// The answer at the beginning of `bytes`; none while it is not whole.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(bytes).map_err(|_no_http| Malformed)? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(head) => message(bytes, head, answer.code.unwrap_or_default(), answer.headers),
    }
}

fn message(
    bytes: &[u8],
    head: usize,
    status: u16,
    headers: &[httparse::Header<'_>],
) -> Result<Option<Message>, Malformed> {
    let (mut body, mut closes) = (0, false);
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(header.value).map_err(|_no_number| Malformed)?;
            body = digits.trim().parse().map_err(|_no_number| Malformed)?;
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes |= header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Malformed);
        }
    }
    let whole = head + body;
    let last = bytes.get(head..whole).map(|body| body.last().copied());
    Ok(last.map(|last| Message { bytes: whole, status, closes, last }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_with_its_body_and_says_how_it_ends() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nconnection: Close\r\n\r\n112rest";
        let whole = wire.len() - 4;
        for cut in 0..whole {
            assert_eq!(answer(&wire[..cut]).unwrap(), None, "{cut}");
        }
        let expected = Message { bytes: whole, status: 200, closes: true, last: Some(b'2') };
        assert_eq!(answer(wire).unwrap(), Some(expected));
        let asked = request(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap().unwrap();
        assert_eq!((asked.bytes, asked.closes, asked.last), (32, false, None));
    }

    #[test]
    fn what_is_not_framed_by_a_length_is_no_answer_of_ours() {
        assert!(answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(answer(b"SMTP\r\n\r\n").is_err());
    }
}
