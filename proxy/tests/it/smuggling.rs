//! Requests that two servers could read in two ways: refused with one status each, and nothing of them reaches a version.

use super::harness::{RawServer, TestEdge, eventually, get};
use crate::malformed::{self, Case};

/// What a smuggled request would look like to a version.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: m\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_head_behind_a_good_request_is_refused_too() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    for Case { name, bytes, status } in malformed::cases() {
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

/// A chunked body of which the head and the first chunk have been passed on before it goes wrong.
async fn check_broken_late(name: &str, body: &str) {
    let (whole, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let v1 = RawServer::start(move |mut connection| {
        let whole = whole.clone();
        async move { whole.send(connection.request().await.is_some()).unwrap() }
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n").await;
    assert!(eventually(|| v1.received().contains("xyz")).await);
    client.send(format!("{body}{SMUGGLED}").as_bytes()).await;
    let told = client.answer().await.map(|answer| (answer.status, answer.problem()));
    let seen = (told, seen.recv().await, v1.received().contains("/smuggled"));
    assert_eq!(seen, (Some((400, "bad_request".to_owned())), Some(false), false), "{name}");
    edge.expect_outcomes("v1", &[(pointsman::outcome::Outcome::Rejected, 1)]).await;
}

/// Those that break at once are in `malformed`: nothing of them is passed on.
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
        ("a line end of LF alone", "2\nab\r\n0\r\n\r\n"),
        ("a folded trailer", "0\r\n X: a\r\n\r\n"),
        ("a long extension", &format!("2;{}\r\nab\r\n0\r\n\r\n", "a".repeat(9_000))),
        ("long trailers", &format!("0\r\nX: {}\r\n\r\n", "a".repeat(9_000))),
    ] {
        check_broken_late(name, body).await;
    }
}

/// What is the connection's is cut, what the edge adds is there, and nothing is upgraded that was not agreed.
#[tokio::test]
async fn hop_by_hop_headers_end_here() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    let request = "GET / HTTP/1.1\r\nHost: m\r\nConnection: keep-alive, Upgrade, HTTP2-Settings, X-Hop\r\nConnection: TE\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Hop: 1\r\nTE: gzip\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nAuthorization: Bearer x\r\nX-Kept: 1\r\n\r\n";
    assert_eq!(edge.ask(request).await.status, 200);
    let seen = v1.received().to_ascii_lowercase();
    for gone in ["upgrade:", "http2-settings:", "x-hop:", "keep-alive:", "proxy-connection:", "gzip"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    for kept in ["authorization: bearer x", "x-kept: 1", "x-forwarded-for: 127.0.0.1", "x-request-id:", "traceparent:"]
    {
        assert!(seen.contains(kept), "{kept} is missing in {seen}");
    }
}
