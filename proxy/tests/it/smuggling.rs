//! Requests that two servers could read in two ways: refused with one status each, and nothing of them reaches a version.

use crate::harness::{RawServer, TestEdge, eventually, get};

/// What a smuggled request would look like to a version.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: m\r\n\r\n";

/// Name, bytes, status.
type Case = (&'static str, Vec<u8>, u16);

fn malformed() -> Vec<Case> {
    [malformed_headers(), malformed_request_lines()].concat()
}

fn malformed_headers() -> Vec<Case> {
    let post =
        |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: m\r\n{headers}\r\n\r\n{body}").into_bytes();
    vec![
        ("length and chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("chunked and length", post("Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n"), 400),
        ("two lengths that differ", post("Content-Length: 4\r\nContent-Length: 5", "abcde"), 400),
        ("two lengths that agree", post("Content-Length: 4\r\nContent-Length: 4", "abcd"), 400),
        ("a list of lengths", post("Content-Length: 4, 4", "abcd"), 400),
        ("a length with a sign", post("Content-Length: +4", "abcd"), 400),
        ("a negative length", post("Content-Length: -1", ""), 400),
        ("a length in hexadecimal", post("Content-Length: 0x4", "abcd"), 400),
        ("a length that overflows", post("Content-Length: 18446744073709551620", "abcd"), 400),
        ("an empty length", post("Content-Length:", ""), 400),
        ("chunked is not last", post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), 400),
        ("chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("chunked in quotes", post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n"), 400),
        ("almost chunked", post("Transfer-Encoding: xchunked", "0\r\n\r\n"), 400),
        ("chunked behind a vertical tab", post("Transfer-Encoding:\x0bchunked", "0\r\n\r\n"), 400),
        ("identity", post("Transfer-Encoding: identity", ""), 400),
        ("space before the colon", post("Transfer-Encoding : chunked", "0\r\n\r\n"), 400),
        ("space before a header", post(" Transfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("a folded header", post("X: a\r\n Transfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("a header name with a zero byte", post("Content-Length\0: 4", "abcd"), 400),
        ("a value with a zero byte", post("X: a\0b", ""), 400),
        ("a value with a bare CR", post("X: a\rContent-Length: 4", ""), 400),
        ("a header without a colon", post("Transfer-Encoding", ""), 400),
        ("a header without a name", post(": x", ""), 400),
        (
            "line ends of LF alone",
            format!("POST / HTTP/1.1\nHost: m\nContent-Length: 0\n\n{SMUGGLED}").into_bytes(),
            400,
        ),
        ("one line end of LF alone", b"POST / HTTP/1.1\r\nHost: m\nContent-Length: 0\r\n\r\n".to_vec(), 400),
        (
            "chunked in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            400,
        ),
        ("a head of 70 kB", post(&format!("X: {}", "a".repeat(70_000)), ""), 431),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: m\r\nHost: n\r\n\r\n".to_vec(), 400),
        ("a list of Hosts", b"GET / HTTP/1.1\r\nHost: m, n\r\n\r\n".to_vec(), 400),
        ("a Host with a path", b"GET / HTTP/1.1\r\nHost: m/x\r\n\r\n".to_vec(), 400),
        ("Host and target differ", b"GET http://n/ HTTP/1.1\r\nHost: m\r\n\r\n".to_vec(), 400),
        ("a user in the target", b"GET http://u@m/ HTTP/1.1\r\nHost: m\r\n\r\n".to_vec(), 400),
    ]
}

fn malformed_request_lines() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nHost: m\r\n\r\n").into_bytes();
    vec![
        ("no version", line("GET /"), 400),
        ("two spaces", line("GET  / HTTP/1.1"), 400),
        ("a tab for a space", line("GET\t/ HTTP/1.1"), 400),
        ("a space in the target", line("GET /a b HTTP/1.1"), 400),
        ("a version in lower case", line("GET / http/1.1"), 400),
        ("a method that is no token", line("GE:T / HTTP/1.1"), 400),
        ("a target that is no path", line("GET x HTTP/1.1"), 400),
        ("a fragment", line("GET /a#b HTTP/1.1"), 400),
        ("bytes beyond ASCII in the target", line("GET /\u{e9} HTTP/1.1"), 400),
        ("a dot segment", line("GET /a/../b HTTP/1.1"), 400),
        ("an encoded dot segment", line("GET /a/%2e%2E/b HTTP/1.1"), 400),
        ("a dot segment behind an encoded slash", line("GET /a%2f..%2fb HTTP/1.1"), 400),
        ("a dot segment behind a backslash", line("GET /a\\..\\b HTTP/1.1"), 400),
        ("CONNECT", line("CONNECT m:80 HTTP/1.1"), 405),
        ("HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        ("HTTP/3.0", line("GET / HTTP/3.0"), 505),
        ("a target of 17 kB", line(&format!("GET /{} HTTP/1.1", "a".repeat(17_000))), 414),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n".to_vec(), 400),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    let cases = malformed();
    assert!(cases.len() >= 25);
    for (name, bytes, status) in cases {
        let mut client = edge.connect().await;
        client.send(&bytes).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        answer.problem();
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        // A smuggled request would be answered next.
        drop(client.tcp.try_write(SMUGGLED.as_bytes()));
        assert!(client.rest().await.is_empty(), "{name}: more than one answer");
        assert_eq!(v1.received(), "", "{name} reached the version");
    }
    assert_eq!((edge.outcomes("v1"), v1.connections()), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_head_behind_a_good_request_is_refused_too() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    for (name, bytes, status) in malformed() {
        let mut client = edge.connect().await;
        client.send(&[get("/good").as_bytes(), &bytes].concat()).await;
        assert_eq!(client.answer().await.unwrap().status, 200, "{name}");
        let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, status, "{name}");
        assert!(client.rest().await.is_empty(), "{name}");
    }
    let lines = v1.received();
    assert!(
        lines.lines().filter(|line| line.ends_with(" HTTP/1.1")).all(|line| line == "GET /good HTTP/1.1"),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_broken_chunks_never_becomes_a_whole_request() {
    for (name, body) in [
        ("no hexadecimal", "zz\r\nab\r\n0\r\n\r\n"),
        ("a sign", "+2\r\nab\r\n0\r\n\r\n"),
        ("a prefix", "0x2\r\nab\r\n0\r\n\r\n"),
        ("a size that overflows", "fffffffffffffffff\r\nab\r\n0\r\n\r\n"),
        ("data longer than its size", "2\r\nabcd\r\n0\r\n\r\n"),
        ("an empty size", "\r\nab\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nab\r\n0\r\n\r\n"),
    ] {
        let (whole, seen) = tokio::sync::mpsc::unbounded_channel();
        let v1 = RawServer::start(move |mut connection| {
            let whole = whole.clone();
            async move {
                let request = connection.request().await;
                whole.send(request.is_some()).unwrap();
            }
        })
        .await;
        let edge = TestEdge::start(&[v1.address]);
        let mut seen = seen;
        let mut client = edge.connect().await;
        client
            .send(
                format!("POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}").as_bytes(),
            )
            .await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{name}");
        assert_eq!(
            (v1.connections(), edge.outcomes("v1")),
            (0, Vec::new()),
            "{name}: refused before anything is passed on"
        );
        // The same, but so late that the head has been passed on.
        let mut client = edge.connect().await;
        client.send(b"POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n").await;
        assert!(eventually(|| v1.received().contains("xyz")).await);
        client.send(format!("{body}{SMUGGLED}").as_bytes()).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"), "{name}");
        assert_eq!(seen.recv().await, Some(false), "{name}");
        assert!(!v1.received().contains("/smuggled"), "{name}");
        let rejected = [(pointsman::outcome::Outcome::Rejected, 1)];
        edge.expect_outcomes("v1", &rejected).await;
    }
}

#[tokio::test]
async fn headers_that_would_strip_others_cannot_be_nominated() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    let answer = edge.ask("GET / HTTP/1.1\r\nHost: m\r\nConnection: close, X-Forwarded-For\r\n\r\n").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_request"));
    assert!(!v1.received().contains("GET"));
}
