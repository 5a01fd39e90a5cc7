//! Both lanes carry the same, and nothing that a version says makes the fast one lose its place.

use std::time::Duration;

use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::{Echo, FakeModel};
use pointsman_config::Protocol;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use tokio::io::AsyncReadExt;

use crate::harness::{Answer, PATIENCE, RawServer, TestEdge, eventually, get, post, route};

fn edge(fast_lane: bool, v1: std::net::SocketAddr) -> TestEdge {
    let edge = TestEdge::start(&[v1]);
    edge.publisher.set_fast_lane(fast_lane);
    edge
}

/// The header lines of a head, in one order, with what is new in each request taken out.
fn comparable(lines: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let known = |(name, value): (String, String)| {
        let is_made = matches!(name.as_str(), "date" | "traceparent");
        let value = if is_made { value.len().to_string() } else { value };
        (name, value)
    };
    let mut lines: Vec<_> = lines.map(known).collect();
    lines.sort();
    lines
}

fn lines_of(answer: &Answer) -> Vec<(String, String)> {
    let lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(':'));
    comparable(lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
}

#[tokio::test]
async fn the_same_request_reaches_the_version_over_both_lanes() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let lanes = [edge(true, v1.addr()), edge(false, v1.addr())];
    for headers in [
        "",
        "Accept: */*\r\nX-Twice: a\r\nX-Twice: b\r\nCookie: a=b\r\n",
        "Keep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic x\r\nProxy-Authenticate: x\r\n",
        "TE: trailers\r\nTrailer: x\r\nHTTP2-Settings: x\r\n",
        "Connection: keep-alive\r\n",
        "Connection: close\r\n",
        "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\n",
        "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=1.1.1.1\r\n",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n",
        "traceparent: unsound\r\ntracestate: a=b\r\n",
        "X-Pointsman-Mirror: 1\r\nX-Pointsman-Other: 1\r\n",
        "X-Odd:  a  b\t\r\nX-Empty:\r\nUpgrade: websocket\r\n",
    ] {
        for (method, path) in [("POST", "/echo?a=b%20c"), ("DELETE", "/echo"), ("GET", "//echo?x=//../y")] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: Model.Test:80\r\nX-Request-Id: id-1\r\n{headers}Content-Length: 5\r\n\r\nhello"
            );
            let mut seen = Vec::new();
            for edge in &lanes {
                let answer = edge.ask(&request).await;
                assert_eq!(answer.status, 200, "{request}");
                let Ok(echo) = serde_json::from_slice::<Echo>(&answer.body) else {
                    seen.push((lines_of(&answer), Vec::new(), String::new()));
                    continue;
                };
                let line = format!("{} {} {}", echo.method, echo.path, echo.body_sha256);
                seen.push((lines_of(&answer), comparable(echo.headers.into_iter()), line));
            }
            assert_eq!(seen[0], seen[1], "{request}");
        }
    }
}

#[tokio::test]
async fn the_same_answer_reaches_the_client_over_both_lanes() {
    for (answer, request) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", get("/")),
        ("HTTP/1.1 404 Not Here\r\nX-A: b\r\nx-a: c\r\nDate: now\r\ncontent-length: 2\r\n\r\nno", post("/", "x")),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", get("/")),
        ("HTTP/1.1 204 No Content\r\nconnection: X-Secret\r\nX-Secret: 1\r\n\r\n", get("/")),
        (
            "HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\nupgrade: h2c\r\nproxy-connection: x\r\ncontent-length: 0\r\n\r\n",
            get("/"),
        ),
        (
            "HTTP/1.1 500 Oops\r\nx-pointsman-version: forged\r\nx-request-id: forged\r\ncontent-length: 0\r\n\r\n",
            get("/"),
        ),
        ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", get("/")),
    ] {
        let v1 = RawServer::answering(answer).await;
        let request = request.replacen("\r\n", "\r\nX-Request-Id: id-1\r\n", 1);
        let mut seen = Vec::new();
        for fast_lane in [true, false] {
            let answer = edge(fast_lane, v1.address).ask(&request).await;
            let mut lines = lines_of(&answer);
            lines.retain(|(name, _)| name != "date");
            seen.push((answer.status, lines, answer.body));
        }
        assert_eq!(seen[0], seen[1], "{answer}");
    }
}

#[tokio::test]
async fn an_answer_until_the_end_of_the_connection_is_passed_on_and_ends_the_clients_too() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\n\r\nhel").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        connection.send("lo").await;
    })
    .await;
    let edge = edge(true, v1.address);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.header("connection"), answer.body.as_slice()), (Some("close"), &b"hello"[..]));
    edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
}

#[tokio::test]
async fn a_plain_request_takes_the_fast_lane_unless_it_is_turned_off_or_the_route_asks_for_more() {
    // The framework replaces the version's date, the lane carries it on.
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ndate: mine\r\ncontent-length: 0\r\n\r\n").await;
    let edge_of = |fast_lane, change: fn(&mut pointsman_config::Route)| {
        let mut route = route();
        change(&mut route);
        let edge = TestEdge::with(route, &[v1.address], &[]);
        edge.publisher.set_fast_lane(fast_lane);
        edge
    };
    let is_fast = async |edge: &TestEdge, request: &str| edge.ask(request).await.header("date") == Some("mine");
    let plain = edge_of(true, |_| {});
    for request in [get("/"), post("/a?b", "c"), "DELETE / HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".to_owned()]
    {
        assert!(is_fast(&plain, &request).await, "{request}");
        assert!(!is_fast(&edge_of(false, |_| {}), &request).await, "{request}");
    }
    for request in [
        "GET / HTTP/1.0\r\nHost: m\r\n\r\n",
        "GET http://m/ HTTP/1.1\r\nHost: m\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: m\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: m\r\nConnection: X-A\r\nX-A: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        assert!(!is_fast(&plain, request).await, "{request}");
    }
    let h2 = edge_of(true, |route| route.protocol = Protocol::H2c);
    assert!(!is_fast(&h2, &get("/")).await);
}

#[tokio::test]
async fn requests_over_both_lanes_follow_one_another_on_one_connection() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    let chunked = "POST /v1/predict HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    for _ in 0..5 {
        client.send(format!("{}{chunked}{}", post("/v1/predict", "12345"), get("/v1/predict")).as_bytes()).await;
        for expected in [5, 2, 0] {
            assert_eq!(client.answer().await.unwrap().json()["prediction"], expected);
        }
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 15)]).await;
}

/// Pieces that answers are made of, sound and unsound.
fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    let piece = proptest::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "content-length: 5\r\n",
        "content-length: 0\r\n",
        "content-length: 50\r\n",
        "transfer-encoding: chunked\r\n",
        "connection: close\r\n",
        "\r\n",
        "\r\n",
        "hello",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "\n",
        "\0",
        " folded\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
    ]);
    proptest::collection::vec(piece, 1..9)
}

/// Whatever a version answers to one request, the next one gets its own answer, over whatever connection is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_however_odd_is_taken_for_that_of_another_request() {
    const MINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmine";
    let (next, odd) = tokio::sync::watch::channel(String::new());
    let v1 = RawServer::start(move |mut connection| {
        let odd = odd.clone();
        async move {
            // Long enough to be asked again on the same connection, if the edge thinks that it can be.
            let pause = Duration::from_millis(20);
            while let Ok(Some(request)) = tokio::time::timeout(pause, connection.request()).await {
                let answer = if request.starts_with("GET /odd") { odd.borrow().clone() } else { MINE.to_owned() };
                if !connection.send(&answer).await {
                    return;
                }
            }
        }
    })
    .await;
    let edge = edge(true, v1.address);
    let mut runner = TestRunner::deterministic();
    let (mut passed, mut refused) = (0, 0);
    for _ in 0..300 {
        let answer = pieces().new_tree(&mut runner).unwrap().current().concat();
        next.send_replace(answer.clone());
        let mut client = edge.connect().await;
        client.send(get("/odd").as_bytes()).await;
        let mut wire = Vec::new();
        tokio::time::timeout(PATIENCE, client.tcp.read_buf(&mut wire)).await.expect("an answer or an end").ok();
        if wire.starts_with(b"HTTP/1.1 502") {
            refused += 1;
        } else {
            passed += 1;
        }
        assert_eq!(edge.ask(&get("/mine")).await.body, b"mine", "after {answer:?}");
    }
    assert!(passed > 20 && refused > 20, "{passed} passed, {refused} refused");
    assert!(eventually(|| edge.in_flight() == 0).await);
}
