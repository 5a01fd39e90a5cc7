//! Requests that are malformed or meant to do harm: each refused with its status, and nothing of it reaches a version.
//!
//! [`check`] asks whatever edge stands at an address, so that every way through the edge is held to the same table.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::harness::{Client, RawServer, TestEdge, get};

/// What a smuggled request would look like to a version.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: m\r\n\r\n";

/// Name, bytes, status.
type Raw = (&'static str, Vec<u8>, u16);

/// One of them.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub status: u16,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let all = [
        malformed_headers(),
        malformed_request_lines(),
        odd_lengths_and_encodings(),
        odd_names_and_values(),
        odd_hosts(),
        odd_paths(),
        odd_beginnings(),
        stolen_headers(),
        odd_chunks(),
        too_much(),
    ];
    all.into_iter().flatten().map(|(name, bytes, status)| Case { name, bytes, status }).collect()
}

fn malformed_headers() -> Vec<Raw> {
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

fn malformed_request_lines() -> Vec<Raw> {
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
        ("half a preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), 505),
        ("HTTP/3.0", line("GET / HTTP/3.0"), 505),
        ("a target of 17 kB", line(&format!("GET /{} HTTP/1.1", "a".repeat(17_000))), 414),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n".to_vec(), 400),
    ]
}

fn odd_lengths_and_encodings() -> Vec<Raw> {
    let post =
        |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: m\r\n{headers}\r\n\r\n{body}").into_bytes();
    vec![
        ("lengths parted by a blank", post("Content-Length: 4 4", "abcd"), 400),
        ("a length with a comma behind it", post("Content-Length: 4,", "abcd"), 400),
        ("a length with a parameter", post("Content-Length: 4;a=b", "abcd"), 400),
        ("a length with an exponent", post("Content-Length: 1e1", "abcdefghij"), 400),
        ("a length with a point", post("Content-Length: 4.0", "abcd"), 400),
        ("a length with an underscore", post("Content-Length: 1_0", "abcdefghij"), 400),
        ("a length in other digits", post("Content-Length: \u{664}", "abcd"), 400),
        ("a length of twenty digits", post("Content-Length: 00000000000000000004", "abcd"), 400),
        ("lengths in upper and lower case", post("Content-Length: 4\r\ncontent-length: 0", "abcd"), 400),
        ("a length behind a vertical tab", post("Content-Length: \x0b4", "abcd"), 400),
        ("a length of a thousand pebibytes", post("Content-Length: 999999999999999999", "abcd"), 413),
        ("an encoding with a parameter", post("Transfer-Encoding: chunked;q=1", "0\r\n\r\n"), 400),
        ("an encoding with a comma behind it", post("Transfer-Encoding: chunked,", "0\r\n\r\n"), 400),
        ("an encoding with a comma before it", post("Transfer-Encoding: ,chunked", "0\r\n\r\n"), 400),
        ("an empty encoding", post("Transfer-Encoding:", "0\r\n\r\n"), 400),
        ("two codings", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 400),
        ("two codings on two lines", post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("chunked twice on one line", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), 400),
        ("an encoding with a zero byte", post("Transfer-Encoding: chunked\0", "0\r\n\r\n"), 400),
        ("an encoding with a delete", post("Transfer-Encoding: chunked\x7f", "0\r\n\r\n"), 400),
        ("an encoding folded away", post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), 400),
        (
            "length and chunked in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: m\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            400,
        ),
    ]
}

fn odd_names_and_values() -> Vec<Raw> {
    let header = |line: &str| format!("GET / HTTP/1.1\r\nHost: m\r\n{line}\r\n\r\n").into_bytes();
    vec![
        ("a name with a blank", header("X Y: a"), 400),
        ("a name with a tab", header("X\tY: a"), 400),
        ("a name with a bracket", header("X(: a"), 400),
        ("a name with a quote", header("\"X\": a"), 400),
        ("a name with an at sign", header("X@Y: a"), 400),
        ("a name with a slash", header("X/Y: a"), 400),
        ("a name beyond ASCII", header("X\u{e9}: a"), 400),
        ("a name with a bare CR", header("X\rY: a"), 400),
        ("a name with a delete", header("X\x7f: a"), 400),
        ("a pseudo-header", header(":path: /x"), 400),
        ("a tab before the colon", header("X\t: a"), 400),
        ("a header folded by a tab", header("X: a\r\n\tb: c"), 400),
        ("a fold before any header", b"GET / HTTP/1.1\r\n Host: m\r\n\r\n".to_vec(), 400),
        ("a line of blanks", header("  "), 400),
        ("a value with a bell", header("X: a\x07"), 400),
        ("a value with a backspace", header("X: a\x08b"), 400),
        ("a value with an escape", header("X: \x1b[31m"), 400),
        ("a value with a delete", header("X: a\x7f"), 400),
        ("a value with a form feed", header("X: a\x0cb"), 400),
        ("a value that ends in two CRs", header("X: a\r"), 400),
        ("LF and CR the wrong way round", b"GET / HTTP/1.1\n\rHost: m\n\r\n\r".to_vec(), 400),
        ("257 headers", header(&["X: a"; 256].join("\r\n")), 400),
        ("many long headers", header(&[format!("X: {}", "a".repeat(1_000)).as_str(); 80].join("\r\n")), 431),
        ("one long name", header(&format!("{}: a", "X".repeat(70_000))), 431),
    ]
}

fn odd_hosts() -> Vec<Raw> {
    let host = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: m\r\n\r\n").into_bytes();
    vec![
        ("a Host with a user", host("u@m"), 400),
        ("a Host with a blank", host("m n"), 400),
        ("a Host with a tab", host("m\tn"), 400),
        ("a Host with a query", host("m?x"), 400),
        ("a Host with a fragment", host("m#x"), 400),
        ("a Host with a backslash", host("m\\x"), 400),
        ("a Host with a semicolon", host("m;x"), 400),
        ("a Host in quotes", host("\"m\""), 400),
        ("a Host in angles", host("<m>"), 400),
        ("a Host as a URL", host("http://m/"), 400),
        ("a Host beyond ASCII", host("m\u{fc}ller"), 400),
        ("a Host without a value and a target with one", b"GET http://m/ HTTP/1.1\r\nHost:\r\n\r\n".to_vec(), 400),
        ("a target with a host and no Host", b"GET http://m/ HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("Host and target differ by a port", target("http://m:81/"), 400),
        ("a target without a host", target("http:///x"), 400),
        ("a target with a query for a host", target("http://?x"), 400),
        ("a target of another scheme", target("ftp://m/"), 400),
        ("a target of a file", target("file:///etc/passwd"), 400),
        ("a target without slashes", target("http:m/"), 400),
        ("a target with a user and a port", target("http://m:80@n/"), 400),
        ("a target of data", target("data:,x"), 400),
        ("dot segments in a whole target", target("http://m/a/../b"), 400),
    ]
}

fn odd_paths() -> Vec<Raw> {
    let path = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n").into_bytes();
    vec![
        ("up from the root", path("/.."), 400),
        ("here", path("/."), 400),
        ("up at the end", path("/a/.."), 400),
        ("up before a query", path("/a/..?x"), 400),
        ("up, half encoded", path("/a/.%2e/b"), 400),
        ("here, encoded", path("/%2e/a"), 400),
        ("up, all encoded", path("/%2e%2e%2fetc%2fpasswd"), 400),
        ("up behind an encoded backslash", path("/a%5c..%5cb"), 400),
        ("up between slashes of both kinds", path("/a/..\\b"), 400),
        ("up many times", path("/a/b/../../../../etc/passwd"), 400),
        ("a zero byte in a name", path("/model.json%00.png"), 400),
        ("a bare CR in the path", path("/a\rb"), 400),
        ("a tab in the path", path("/a\tb"), 400),
        ("a delete in the path", path("/a\x7f"), 400),
        ("a star for GET", path("*"), 400),
        ("no path but a query", path("?x"), 400),
        ("a fragment alone", path("#x"), 400),
        ("a relative path", path("../x"), 400),
        ("a path of a backslash", path("\\x"), 400),
    ]
}

fn odd_beginnings() -> Vec<Raw> {
    let line = |line: &str| format!("{line}\r\nHost: m\r\n\r\n").into_bytes();
    vec![
        ("a blank before the method", line(" GET / HTTP/1.1"), 400),
        ("a blank behind the version", line("GET / HTTP/1.1 "), 400),
        ("a bare CR behind the version", line("GET / HTTP/1.1\r"), 400),
        ("no method", line("/ HTTP/1.1"), 400),
        ("a method with a zero byte", line("G\0ET / HTTP/1.1"), 400),
        ("a method in brackets", line("[GET] / HTTP/1.1"), 400),
        ("a version of two digits", line("GET / HTTP/1.10"), 400),
        ("a version without a minor", line("GET / HTTP/1"), 400),
        ("a version with a comma", line("GET / HTTP/1,1"), 400),
        ("a version with a sign", line("GET / HTTP/+1.1"), 400),
        ("another protocol", line("GET / RTSP/1.1"), 400),
        ("HTTP/0.9 in full", line("GET / HTTP/0.9"), 505),
        ("HTTP/1.2", line("GET / HTTP/1.2"), 505),
        ("HTTP/9.9", line("GET / HTTP/9.9"), 505),
        ("CONNECT to a path", line("CONNECT / HTTP/1.1"), 405),
        ("two empty lines", b"\r\n\r\nGET / HTTP/1.1\r\nHost: m\r\n\r\n".to_vec(), 400),
        ("an empty line of LF alone", b"\nGET / HTTP/1.1\r\nHost: m\r\n\r\n".to_vec(), 400),
        ("a line of zero bytes", b"\0\0\0\0\r\n\r\n".to_vec(), 400),
        ("the PROXY protocol", line("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1"), 400),
        ("the PROXY protocol, version 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(), 400),
        ("a greeting of SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), 400),
        ("a greeting of SMTP", b"EHLO example.com\r\n".to_vec(), 400),
        ("JSON", b"{\"distance_km\": 4.2}\r\n".to_vec(), 400),
        ("a Redis command", b"*1\r\n$4\r\nPING\r\n".to_vec(), 400),
        ("a target without an end", format!("GET /{}", "a".repeat(40_000)).into_bytes(), 414),
    ]
}

fn stolen_headers() -> Vec<Raw> {
    let nominating = |names: &str| format!("GET / HTTP/1.1\r\nHost: m\r\nConnection: {names}\r\n\r\n").into_bytes();
    vec![
        ("a Connection that cuts x-forwarded-for", nominating("close, X-Forwarded-For"), 400),
        ("a Connection that cuts x-forwarded-proto", nominating("x-forwarded-proto"), 400),
        ("a Connection that cuts x-request-id", nominating("X-Request-Id"), 400),
        ("a Connection that cuts authorization", nominating("keep-alive, authorization"), 400),
        ("a Connection that cuts cookies", nominating("Cookie"), 400),
        ("a Connection that cuts the host", nominating("close, host"), 400),
        ("a Connection that cuts the length", nominating("Content-Length"), 400),
        ("a Connection that cuts the type", nominating("content-type"), 400),
        ("a Connection that cuts the encoding", nominating("transfer-encoding"), 400),
        ("a Connection that cuts the trace", nominating("traceparent"), 400),
        ("a Connection that cuts the version", nominating("x-pointsman-version"), 400),
        ("a Connection with a name in quotes", nominating("\"host\""), 400),
        ("a Connection with a pseudo-header", nominating(":path"), 400),
        ("a Connection with two names in one", nominating("close host"), 400),
    ]
}

fn odd_chunks() -> Vec<Raw> {
    let chunks =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    vec![
        ("a chunk size that is no number", chunks("zz\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size with a sign", chunks("+2\r\nab\r\n0\r\n\r\n"), 400),
        ("a negative chunk size", chunks("-1\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size with a prefix", chunks("0x2\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size that overflows", chunks("fffffffffffffffff\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size with a blank behind it", chunks("2 \r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size with a blank before it", chunks(" 2\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size with an underscore", chunks("1_0\r\nab\r\n0\r\n\r\n"), 400),
        ("an empty chunk size", chunks("\r\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size that ends in LF", chunks("2\nab\r\n0\r\n\r\n"), 400),
        ("a chunk size that ends in CR", chunks("2\rab\r\n0\r\n\r\n"), 400),
        ("a chunk longer than its size", chunks("2\r\nabcd\r\n0\r\n\r\n"), 400),
        ("a chunk without an end", chunks("2\r\nab0\r\n\r\n"), 400),
        ("a chunk that ends in LF", chunks("2\r\nab\n0\r\n\r\n"), 400),
        ("an extension with a bare LF", chunks("2;a\nb\r\nab\r\n0\r\n\r\n"), 400),
        ("an extension with a zero byte", chunks("2;\0\r\nab\r\n0\r\n\r\n"), 400),
        ("a trailer that is folded", chunks("0\r\n X: a\r\n\r\n"), 400),
        ("a trailer with a zero byte", chunks("0\r\nX: \0\r\n\r\n"), 400),
        ("an end of LF alone", chunks("0\n\n"), 400),
    ]
}

fn too_much() -> Vec<Raw> {
    vec![
        ("a body of 65 MiB", b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 68157440\r\n\r\nabc".to_vec(), 413),
        (
            "a body of 65 MiB that waits to be asked for",
            b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 68157440\r\nExpect: 100-continue\r\n\r\n".to_vec(),
            413,
        ),
    ]
}

/// Sends every case to the edge at `edge`, whose only version is `version`, and a good request after each.
pub async fn check(edge: SocketAddr, version: &RawServer) {
    let cases = cases();
    for case in &cases {
        let before = version.received();
        check_refused(edge, case).await;
        assert!(version.received() == before, "{} reached the version", case.name);
        let mut next = Client::connect(edge).await;
        next.send(get("/good").as_bytes()).await;
        assert_eq!(next.answer().await.map(|answer| answer.status), Some(200), "after {}", case.name);
    }
    let seen = version.received();
    assert_eq!(seen.matches(" HTTP/1.1\r\n").count(), cases.len(), "just the good ones");
    assert_eq!(seen.matches("GET /good HTTP/1.1\r\n").count(), cases.len());
}

/// One answer, and then the end.
async fn check_refused(edge: SocketAddr, Case { name, bytes, status }: &Case) {
    let mut client = Client::connect(edge).await;
    client.send(bytes).await;
    let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
    assert_eq!(answer.status, *status, "{name}: {answer:?}");
    answer.problem();
    // A smuggled request would be answered next.
    drop(client.tcp.try_write(SMUGGLED.as_bytes()));
    assert!(client.rest().await.is_empty(), "{name}: more than one answer");
}

#[test]
fn the_table_has_no_case_twice() {
    let cases = cases();
    assert!(cases.len() >= 150, "{}", cases.len());
    let (mut names, mut bytes) = (HashSet::new(), HashSet::new());
    for case in &cases {
        assert!(names.insert(case.name), "{}", case.name);
        assert!(bytes.insert(&case.bytes), "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_or_meant_to_harm_is_refused_and_reaches_nobody() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    check(edge.address, &v1).await;
}
