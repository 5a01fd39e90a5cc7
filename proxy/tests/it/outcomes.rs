//! Each fault of a version, and each fault of a client, is exactly one outcome.

use std::time::Duration;

use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;

use super::harness::{RawServer, TestEdge, dead_address, eventually, get, post, route};

/// Has a version with `faults` answer one request, which must end as said, for the client and in the books.
async fn check(faults: &str, status: Option<u16>, code: Option<&str>, outcome: Outcome) {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(faults.parse().unwrap());
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    client.send(post("/v1/predict", "{\"distance_km\":4.2}").as_bytes()).await;
    let answer = client.answer().await;
    assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{faults}");
    if let Some(code) = code {
        assert_eq!(answer.unwrap().problem(), code, "{faults}");
    }
    booked_once(&edge, outcome).await;
}

async fn booked_once(edge: &TestEdge, outcome: Outcome) {
    edge.expect_outcomes("v1", &[(outcome, 1)]).await;
    assert!(eventually(|| edge.in_flight() == 0).await);
    let counts = edge.counts("v1");
    assert_eq!(counts.histogram.iter().sum::<u64>(), 1, "one request in one bucket");
    assert_eq!(counts.judged.requests, u64::from(!matches!(outcome, Outcome::Rejected | Outcome::ClientAbort)));
    assert_eq!(counts.judged.errors, u64::from(outcome.blames_version()));
}

#[tokio::test]
async fn every_fault_of_a_version_is_one_outcome() {
    check("{}", Some(200), None, Outcome::Success).await;
    check(r#"{"fail":{"share":1,"status":500}}"#, Some(500), None, Outcome::Error).await;
    check(r#"{"fail":{"share":1,"status":503}}"#, Some(503), None, Outcome::Error).await;
    check(r#"{"fail":{"share":1,"status":599}}"#, Some(599), None, Outcome::Error).await;
    check(r#"{"fail":{"share":1,"status":422}}"#, Some(422), None, Outcome::Success).await;
    check(r#"{"fail":{"share":1,"status":429}}"#, Some(429), None, Outcome::Success).await;
    check(r#"{"reset":{"share":1}}"#, Some(502), Some("upstream_reset"), Outcome::Reset).await;
    check(r#"{"garbage":{"share":1}}"#, Some(502), Some("upstream_reset"), Outcome::Reset).await;
    check(r#"{"wrong":{"share":1,"prediction":-1.0}}"#, Some(200), None, Outcome::Success).await;
}

#[tokio::test]
async fn an_answer_that_breaks_in_the_middle_is_a_reset() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"reset":{"share":1,"when":"mid_body"}}"#.parse().unwrap());
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    client.send(get("/v1/predict").as_bytes()).await;
    // What the client sees depends on how much of the answer was on its way already; whole it is never.
    assert!(client.answer().await.is_none_or(|answer| answer.status == 502));
    edge.expect_outcomes("v1", &[(Outcome::Reset, 1)]).await;
}

#[tokio::test]
async fn a_version_without_a_listener_is_a_connect_failure() {
    let edge = TestEdge::start(&[dead_address().await, dead_address().await]);
    let answer = edge.ask(&post("/", "{}")).await;
    assert_eq!(
        (answer.status, answer.problem().as_str(), answer.header("x-pointsman-version")),
        (502, "upstream_connect", Some("v1"))
    );
    edge.expect_outcomes("v1", &[(Outcome::Connect, 1)]).await;
}

#[tokio::test]
async fn a_version_without_endpoints_is_503_with_a_time_to_come_back() {
    let edge = TestEdge::start(&[]);
    let answer = edge.ask(&post("/", "{}")).await;
    assert_eq!(
        (answer.status, answer.problem().as_str(), answer.header("retry-after")),
        (503, "no_healthy_endpoint", Some("1"))
    );
    edge.expect_outcomes("v1", &[(Outcome::Connect, 1)]).await;
}

#[tokio::test]
async fn what_the_version_sheds_is_rejected_and_only_with_its_mark() {
    for (answer, outcome) in [
        ("HTTP/1.1 429 Too Many Requests\r\nx-pointsman-shed: 1\r\ncontent-length: 0\r\n\r\n", Outcome::Rejected),
        ("HTTP/1.1 503 Service Unavailable\r\nx-pointsman-shed: 1\r\ncontent-length: 0\r\n\r\n", Outcome::Rejected),
        ("HTTP/1.1 503 Service Unavailable\r\nx-pointsman-shed: 0\r\ncontent-length: 0\r\n\r\n", Outcome::Error),
        ("HTTP/1.1 500 Internal Server Error\r\nx-pointsman-shed: 1\r\ncontent-length: 0\r\n\r\n", Outcome::Error),
    ] {
        let v1 = RawServer::answering(answer).await;
        let edge = TestEdge::start(&[v1.address]);
        edge.ask(&get("/")).await;
        edge.expect_outcomes("v1", &[(outcome, 1)]).await;
    }
}

#[tokio::test]
async fn answers_that_are_no_http_are_resets() {
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let v1 = RawServer::answering(answer).await;
        let edge = TestEdge::start(&[v1.address]);
        let mut client = edge.connect().await;
        client.send(post("/", "{}").as_bytes()).await;
        let told = client.answer().await;
        edge.expect_outcomes("v1", &[(Outcome::Reset, 1)]).await;
        assert_eq!(told.map(|told| told.status), Some(502), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_goes_is_never_the_versions_fault() {
    // Before the answer, in the middle of the body, and in the middle of the answer.
    let v1 = RawServer::start(|mut connection| async move {
        connection.read().await;
        if connection.number == 2 {
            connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        }
        while connection.read().await.is_some() {}
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    for (number, request) in
        [get("/0"), "POST /1 HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n\r\nab".to_owned(), get("/2")]
            .into_iter()
            .enumerate()
    {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        assert!(eventually(|| v1.received().contains(&format!("/{number} "))).await);
        if number == 2 {
            client.head().await.unwrap();
        }
        drop(client);
        edge.expect_outcomes("v1", &[(Outcome::ClientAbort, number as u64 + 1)]).await;
    }
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert_eq!(edge.counts("v1").judged.requests, 0);
}

#[tokio::test]
async fn failing_requests_are_remembered_with_their_ids() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"fail":{"share":1,"status":500}}"#.parse().unwrap());
    let edge = TestEdge::start(&[v1.addr()]);
    // On one connection a request is booked before the next one is read.
    let mut client = edge.connect().await;
    for number in 0..20 {
        client.send(format!("GET / HTTP/1.1\r\nHost: m\r\nX-Request-Id: id-{number}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().status, 500);
    }
    edge.expect_outcomes("v1", &[(Outcome::Error, 20)]).await;
    let failures = edge.publisher.ledger(&edge.route.name).unwrap().failures(&"v1".parse().unwrap());
    let ids: Vec<_> = failures.iter().map(|failure| failure.request_id.clone()).collect();
    assert_eq!(ids, (4..20).map(|number| format!("id-{number}")).collect::<Vec<_>>());
    assert!(
        failures
            .iter()
            .all(|failure| failure.status == Some(500) && failure.outcome == "error" && failure.at_unix_ms > 0)
    );
}

/// What is slow here: longer than a busy machine takes to pass a head on.
const SLOW: Duration = Duration::from_secs(1);

/// A version that answers at once with a head of this content type, and with `bytes` of body after a while.
async fn late_body(content_type: &'static str, bytes: usize) -> RawServer {
    RawServer::start(move |mut connection| async move {
        while connection.request().await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {bytes}\r\n\r\n{{");
            connection.send(&head).await;
            tokio::time::sleep(SLOW + SLOW / 5).await;
            connection.send(&"x".repeat(bytes - 1)).await;
        }
    })
    .await
}

/// How many of two such answers are slow, one over the fast lane and one over HTTP/2.
async fn slow_of_two(content_type: &'static str, bytes: usize) -> u64 {
    let v1 = late_body(content_type, bytes).await;
    let mut route = route();
    route.guard.latency_threshold = SLOW;
    let edge = TestEdge::with(route, &[v1.address], &[]);
    let request = get("/");
    let (plain, framed) = tokio::join!(edge.ask(&request), crate::http2::get(edge.address));
    assert_eq!((plain.status, framed), (200, 200));
    assert!(eventually(|| edge.counts("v1").judged.requests == 2).await);
    edge.counts("v1").judged.slow
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_answer_is_as_late_as_its_last_byte_and_a_large_one_or_a_stream_as_its_head() {
    let small = slow_of_two("application/json", 64);
    let large = slow_of_two("application/json", 100_000);
    let stream = slow_of_two("text/event-stream", 64);
    assert_eq!(tokio::join!(small, large, stream), (2, 0, 0));
}
