//! Nobody waits for ever: not a client for a version, not the edge for a client.

use std::time::{Duration, Instant};

use pointsman::listen::Patience;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use pointsman_config::{Route, RouteName};
use pointsman_rollout::Row;

use super::harness::{RawServer, TestEdge, eventually, get, post, route};

const SHORT: Duration = Duration::from_millis(300);

fn with_total(total: Duration) -> Route {
    let mut route = route();
    route.timeouts.total = total;
    route
}

/// That something took `expected`, give or take what a busy machine adds.
#[track_caller]
fn check_span(began: Instant, expected: Duration) {
    let span = began.elapsed();
    assert!(
        span >= expected.mul_f64(0.9) && span < expected + Duration::from_secs(2),
        "{span:?} instead of {expected:?}"
    );
}

#[tokio::test]
async fn a_version_that_hangs_is_504_at_the_total_timeout() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let edge = TestEdge::with(with_total(SHORT), &[v1.addr()], &[]);
    let began = Instant::now();
    let answer = edge.ask("POST / HTTP/1.1\r\nHost: m\r\nX-Request-Id: late\r\nContent-Length: 2\r\n\r\n{}").await;
    check_span(began, SHORT);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    assert_eq!((answer.header("x-request-id"), answer.header("x-pointsman-version")), (Some("late"), Some("v1")));
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
    let failures = edge.publisher.ledger(&edge.route.name).unwrap().failures(&"v1".parse().unwrap());
    assert_eq!(
        (failures[0].request_id.as_str(), failures[0].status, failures[0].outcome.as_str()),
        ("late", Some(504), "timeout")
    );
}

#[tokio::test]
async fn a_version_that_hangs_is_504_at_the_read_timeout() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let mut route = route();
    route.timeouts.read = SHORT;
    let edge = TestEdge::with(route, &[v1.addr()], &[]);
    let began = Instant::now();
    let answer = edge.ask(&post("/", "{}")).await;
    check_span(began, SHORT);
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn an_answer_that_drips_is_cut_at_the_total_timeout() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while connection.send("1\r\nx\r\n").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let edge = TestEdge::with(with_total(SHORT), &[v1.address], &[]);
    let mut client = edge.connect().await;
    let began = Instant::now();
    client.send(get("/").as_bytes()).await;
    assert!(client.answer().await.is_none(), "the answer is cut, not ended");
    check_span(began, SHORT);
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn a_head_that_was_not_sent_yet_gives_way_to_the_504() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
        while connection.read().await.is_some() {}
    })
    .await;
    let edge = TestEdge::with(with_total(SHORT), &[v1.address], &[]);
    assert_eq!(edge.ask(&get("/")).await.problem(), "upstream_timeout");
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn a_version_that_does_not_take_the_body_is_a_timeout() {
    let v1 = RawServer::start(|connection| async move {
        // Held, never read.
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(connection);
    })
    .await;
    // Long enough for the client to have filled every buffer on the way.
    let total = Duration::from_millis(1_500);
    let edge = TestEdge::with(with_total(total), &[v1.address], &[]);
    let mut client = edge.connect().await;
    let began = Instant::now();
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 40000000\r\n\r\n").await;
    let (mut reader, mut writer) = client.tcp.into_split();
    let upload = tokio::spawn(async move {
        // Ends with an error when the edge has had enough.
        drop(tokio::io::AsyncWriteExt::write_all(&mut writer, &vec![b'x'; 40_000_000]).await);
    });
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer).await.ok();
    check_span(began, total);
    assert!(answer.starts_with(b"HTTP/1.1 504"), "{}", String::from_utf8_lossy(&answer));
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
    upload.abort();
}

#[tokio::test]
async fn a_client_that_drips_its_body_is_408_and_not_the_versions_fault() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::with(with_total(SHORT), &[v1.addr()], &[]);
    for head in ["Content-Length: 500", "Transfer-Encoding: chunked"] {
        let mut client = edge.connect().await;
        let began = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: m\r\n{head}\r\n\r\n1\r\n").as_bytes()).await;
        let answer = client.answer().await.unwrap();
        check_span(began, SHORT);
        assert_eq!((answer.status, answer.problem().as_str()), (408, "request_timeout"));
    }
    edge.expect_outcomes("v1", &[(Outcome::Rejected, 2)]).await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_not_the_versions_fault() {
    let v1 = RawServer::sending_on_and_on().await;
    let edge = TestEdge::with(with_total(SHORT), &[v1.address], &[]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_in_time_is_a_connect_failure() {
    // A listener whose queue is full answers no more handshakes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(SHORT, tokio::net::TcpStream::connect(address)).await {
        waiting.push(connection);
    }
    let mut route = route();
    route.timeouts.connect = SHORT;
    let edge = TestEdge::with(route, &[address], &[]);
    let began = Instant::now();
    let answer = edge.ask(&post("/", "{}")).await;
    check_span(began, SHORT);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_connect"));
    edge.expect_outcomes("v1", &[(Outcome::Connect, 1)]).await;
}

/// What was judged since the last call.
fn judged(edge: &mut TestEdge, route: &RouteName) -> Vec<Row> {
    let taken = edge.publisher.ledger_mut(route).unwrap().take(Instant::now());
    taken.into_iter().map(|taken| taken.row).filter(|row| row.stable.requests > 0).collect()
}

#[tokio::test]
async fn a_hanging_version_is_judged_before_its_timeout_and_once() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let mut route = with_total(Duration::from_secs(4));
    route.guard.latency_threshold = Duration::from_millis(100);
    let mut edge = TestEdge::with(route, &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    let began = Instant::now();
    client.send(get("/").as_bytes()).await;
    assert!(eventually(|| edge.in_flight() == 1).await);
    let name = edge.route.name.clone();
    let mut rows = Vec::new();
    let seen = eventually(|| {
        rows.extend(judged(&mut edge, &name));
        !rows.is_empty()
    });
    assert!(seen.await);
    let span = began.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_millis(3_500)).contains(&span), "judged after {span:?}");
    let row = rows[0].stable;
    assert_eq!((row.requests, row.errors, row.slow), (1, 1, 1));
    assert_eq!(client.answer().await.unwrap().status, 504);
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
    assert!(judged(&mut edge, &name).is_empty(), "not judged again when it ends");
}

#[tokio::test]
async fn a_slow_upload_is_neither_unanswered_nor_slow() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut route = with_total(Duration::from_secs(4));
    route.guard.latency_threshold = Duration::from_millis(100);
    let mut edge = TestEdge::with(route, &[v1.addr()], &[]);
    let mut clients = Vec::new();
    for head in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let mut client = edge.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: m\r\n{head}\r\n\r\n").as_bytes()).await;
        clients.push(client);
    }
    assert!(eventually(|| edge.in_flight() == 2).await);
    // Past the moment at which a version that hangs would have been judged.
    tokio::time::sleep(Duration::from_millis(2_400)).await;
    let name = edge.route.name.clone();
    assert!(judged(&mut edge, &name).is_empty(), "nobody waits for the version");
    for (client, rest) in clients.iter_mut().zip(["abcd", "4\r\nabcd\r\n0\r\n\r\n"]) {
        client.send(rest.as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 2)]).await;
    let counts = edge.counts("v1");
    assert_eq!((counts.judged.requests, counts.judged.errors, counts.judged.slow), (2, 0, 0));
    assert!(counts.sum_us > 4_800_000, "whole durations: {}", counts.sum_us);
}

#[tokio::test]
async fn a_version_that_hangs_after_a_slow_upload_is_judged_from_its_end() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let mut route = with_total(Duration::from_secs(4));
    route.guard.latency_threshold = Duration::from_millis(100);
    let mut edge = TestEdge::with(route, &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 4\r\n\r\n").await;
    assert!(eventually(|| v1.connections() == 1).await);
    client.send(b"abcd").await;
    let began = Instant::now();
    let name = edge.route.name.clone();
    let mut rows = Vec::new();
    let seen = eventually(|| {
        rows.extend(judged(&mut edge, &name));
        !rows.is_empty()
    });
    assert!(seen.await);
    let row = rows[0].stable;
    assert_eq!((row.requests, row.errors, row.slow), (1, 1, 1));
    assert!(began.elapsed() < Duration::from_millis(3_500), "before its timeout");
}

#[tokio::test]
async fn a_client_that_stalls_for_the_read_timeout_is_408_and_a_slow_one_is_not() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut route = route();
    route.timeouts.read = Duration::from_millis(500);
    let edge = TestEdge::with(route, &[v1.addr()], &[]);
    let mut slow = edge.connect().await;
    let mut stalled = edge.connect().await;
    let began = Instant::now();
    stalled.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 8\r\n\r\nab").await;
    let stalls = tokio::spawn(async move { stalled.answer().await.unwrap() });
    slow.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 8\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        slow.send(b"x").await;
    }
    assert_eq!(slow.answer().await.unwrap().status, 200);
    let told = stalls.await.unwrap();
    assert_eq!((told.status, told.problem().as_str()), (408, "request_timeout"));
    check_span(began, Duration::from_millis(500));
    edge.expect_outcomes("v1", &[(Outcome::Success, 1), (Outcome::Rejected, 1)]).await;
}

#[tokio::test]
async fn an_answer_that_stops_is_cut_at_the_read_timeout_and_one_that_drips_is_not() {
    let v1 = RawServer::start(|mut connection| async move {
        let request = connection.request().await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            connection.send("1\r\nx\r\n").await;
        }
        if request.starts_with("GET /stops") {
            while connection.read().await.is_some() {}
        }
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let mut route = route();
    route.timeouts.read = SHORT;
    let edge = TestEdge::with(route, &[v1.address], &[]);
    assert_eq!(edge.ask(&get("/drips")).await.body, b"xxxxxxxxxx");
    let mut client = edge.connect().await;
    client.send(get("/stops").as_bytes()).await;
    assert!(client.answer().await.is_none(), "cut, not ended");
    edge.expect_outcomes("v1", &[(Outcome::Success, 1), (Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_does_not_make_its_version_silent() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n").await;
        connection.send(&"x".repeat(30_000_000)).await;
    })
    .await;
    let mut route = route();
    route.timeouts.read = SHORT;
    let edge = TestEdge::with(route, &[v1.address], &[]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    client.head().await.unwrap();
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(edge.in_flight(), 1);
    tokio::io::AsyncReadExt::read_exact(&mut client.tcp, &mut vec![0; 25_000_000]).await.unwrap();
    drop(client);
}

#[tokio::test]
async fn a_client_without_a_route_that_takes_no_answer_is_not_waited_for_for_ever() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut narrow = route();
    narrow.matches.path_prefix = "/v1".to_owned();
    let edge = TestEdge::patient(impatient(), narrow, &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    // Request upon request without reading an answer, until every buffer on the way back is full.
    let requests = get("/v2").repeat(1_000);
    let stuck = async {
        while tokio::time::timeout(SHORT / 3, client.tcp.writable()).await.is_ok() {
            if let Err(error) = client.tcp.try_write(requests.as_bytes()) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection stands");
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), stuck).await.expect("full buffers");
    assert!(eventually(|| edge.in_flight() == 0).await);
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut client.tcp, &mut rest);
    // In the middle of an answer, so perhaps by a reset.
    drop(tokio::time::timeout(Duration::from_secs(20), closed).await.expect("its connection is closed"));
}

fn impatient() -> Patience {
    Patience { head: SHORT, ..Patience::default() }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off_whether_first_or_later() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::patient(impatient(), route(), &[v1.addr()], &[]);
    for requests_before in [0, 2] {
        let mut client = edge.connect().await;
        for _ in 0..requests_before {
            client.send(get("/").as_bytes()).await;
            assert_eq!(client.answer().await.unwrap().status, 200);
        }
        let began = Instant::now();
        client.send(b"GET / HTTP/1.1\r\nX: ").await;
        let (mut reader, mut writer) = client.tcp.into_split();
        let trickle = tokio::spawn(async move {
            while tokio::io::AsyncWriteExt::write_all(&mut writer, b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest).await.ok();
        assert!(rest.is_empty());
        check_span(began, SHORT);
        trickle.abort();
    }
    assert_eq!(edge.in_flight(), 0);
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_an_idle_one_after_its_routes_patience() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut route = route();
    route.timeouts.idle = Duration::from_millis(900);
    let edge = TestEdge::patient(impatient(), route, &[v1.addr()], &[]);
    let mut silent = edge.connect().await;
    let began = Instant::now();
    assert!(silent.rest().await.is_empty());
    check_span(began, SHORT);
    let mut idle = edge.connect().await;
    idle.send(get("/").as_bytes()).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    let began = Instant::now();
    assert!(idle.rest().await.is_empty());
    check_span(began, Duration::from_millis(900));
}

#[tokio::test]
async fn a_slow_answer_is_no_slow_head() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"delay":{"share":1,"ms":900}}"#.parse().unwrap());
    let edge = TestEdge::patient(impatient(), route(), &[v1.addr()], &[]);
    assert_eq!(edge.ask(&get("/")).await.status, 200);
}
