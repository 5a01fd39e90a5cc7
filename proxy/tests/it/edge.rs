//! A request's way through the edge and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pointsman::listen::Patience;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::{Echo, FakeModel};
use pointsman_config::{Host, Replay, Retries, Route};
use sha2::{Digest, Sha256};

use super::harness::{Client, RawServer, TestEdge, dead_address, eventually, get, post, route};

async fn model(version: &str) -> FakeModel {
    FakeModel::start(version).await.unwrap()
}

#[tokio::test]
async fn a_request_reaches_the_version_and_the_answer_names_it() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[v1.addr()]);
    let answer = edge.ask("POST /echo?a=b HTTP/1.1\r\nHost: Model.Test:80\r\nX-Request-Id: mine-1\r\nX-Forwarded-For: 6.6.6.6\r\nKeep-Alive: 5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(
        (answer.status, answer.header("x-pointsman-version"), answer.header("x-request-id")),
        (200, Some("v1"), Some("mine-1"))
    );
    let echo: Echo = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((echo.method.as_str(), echo.path.as_str(), echo.body_bytes), ("POST", "/echo?a=b", 5));
    for (name, value) in [
        ("host", "Model.Test:80"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "Model.Test:80"),
        ("x-request-id", "mine-1"),
    ] {
        assert_eq!(echo.header(name), Some(value), "{name}");
    }
    assert_eq!(echo.header("traceparent").map(str::len), Some(55));
    for hop in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(echo.header(hop), None, "{hop}");
    }
}

#[tokio::test]
async fn the_version_header_can_be_turned_off_and_a_request_id_is_made() {
    let v1 = RawServer::answering(
        "HTTP/1.1 200 OK\r\nx-pointsman-version: forged\r\nx-request-id: forged\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let mut silent = route();
    silent.version_header = false;
    let edge = TestEdge::with(silent, &[v1.address], &[]);
    let answer = edge.ask(&get("/")).await;
    assert_eq!(answer.header("x-pointsman-version"), None);
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn a_path_without_a_route_is_404_and_the_connection_stays() {
    let v1 = model("v1").await;
    let mut narrow = route();
    narrow.matches.path_prefix = "/v1".to_owned();
    narrow.matches.host = Host::Suffix("test".to_owned());
    let edge = TestEdge::with(narrow, &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    for (request, status) in [(get("/v2"), 404), (get("/v1/predict"), 200), (get("/v10"), 404), (post("/v1", "x"), 200)]
    {
        client.send(request.as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, status, "{request}");
        if status == 404 {
            assert_eq!(answer.problem(), "no_route");
            assert_eq!(answer.header("x-pointsman-version"), None);
        }
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 2)]).await;
}

/// Sends `count` requests over a few connections; gives the versions that answered, in order per connection.
async fn load(edge: &TestEdge, count: usize) -> Vec<String> {
    let one = |mut client: Client| async move {
        let mut versions = Vec::new();
        for _ in 0..count / 4 {
            client.send(post("/v1/predict", "{}").as_bytes()).await;
            let answer = client.answer().await.unwrap();
            assert_eq!(answer.status, 200);
            versions.push(answer.header("x-pointsman-version").unwrap().to_owned());
        }
        versions
    };
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(tokio::spawn(one(edge.connect().await)));
    }
    let mut versions = Vec::new();
    for task in tasks {
        versions.extend(task.await.unwrap());
    }
    versions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_split_is_the_weight_within_sampling_error_and_every_request_is_booked() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let mut edge = TestEdge::with(route(), &[v1.addr()], &[v2.addr()]);
    edge.set_weight(200_000);
    let versions = load(&edge, 4_000).await;
    let canary = versions.iter().filter(|version| *version == "v2").count();
    // Five standard deviations of a binomial of 4,000 at 0.2.
    assert!((674..=926).contains(&canary), "{canary} of 4,000 at 20 %");
    let canary = canary as u64;
    assert_eq!((v1.predictions(), v2.predictions()), (4_000 - canary, canary));
    edge.expect_outcomes("v1", &[(Outcome::Success, 4_000 - canary)]).await;
    edge.expect_outcomes("v2", &[(Outcome::Success, canary)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draws_are_independent_not_taken_in_turns() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let mut edge = TestEdge::with(route(), &[v1.addr()], &[v2.addr()]);
    edge.set_weight(500_000);
    let versions = load(&edge, 2_000).await;
    let changes = versions.windows(2).filter(|pair| pair[0] != pair[1]).count();
    // Half of the neighbours differ by chance, with a standard deviation of 22; in a round robin all or none would.
    assert!((890..=1_110).contains(&changes), "{changes} changes among 2,000");
}

#[tokio::test]
async fn weights_of_nothing_and_all_are_exact() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let mut edge = TestEdge::with(route(), &[v1.addr()], &[v2.addr()]);
    assert!(load(&edge, 200).await.iter().all(|version| version == "v1"));
    edge.set_weight(1_000_000);
    assert!(load(&edge, 200).await.iter().all(|version| version == "v2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_in_a_loop_loses_no_request() {
    let (v1, v2) = (model("v1").await, model("v2").await);
    let mut edge = TestEdge::with(route(), &[v1.addr()], &[v2.addr()]);
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (mut client, done, answered) = (edge.connect().await, Arc::clone(&done), Arc::clone(&answered));
        clients.push(tokio::spawn(async move {
            while !done.load(SeqCst) {
                client.send(post("/v1/predict", "{}").as_bytes()).await;
                assert_eq!(client.answer().await.expect("no request is lost").status, 200);
                answered.fetch_add(1, SeqCst);
            }
        }));
    }
    for round in 0..100_u32 {
        assert_eq!(edge.set_weight(1 + round * 10_000), u64::from(round) + 2);
        let before = answered.load(SeqCst);
        assert!(eventually(|| answered.load(SeqCst) > before + 5).await);
    }
    done.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let booked = || edge.counts("v1").outcomes[0] + edge.counts("v2").outcomes[0];
    assert!(eventually(|| booked() == answered.load(SeqCst)).await, "{} of {}", booked(), answered.load(SeqCst));
    assert_eq!(v1.predictions() + v2.predictions(), answered.load(SeqCst));
}

#[tokio::test]
async fn connections_on_both_sides_are_kept() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    for _ in 0..300 {
        client.send(post("/v1/predict", "{}").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().header("connection"), Some("keep-alive"));
    }
    assert_eq!(v1.connections(), 1);
}

#[tokio::test]
async fn after_its_number_of_requests_a_connection_is_closed_in_order() {
    let v1 = model("v1").await;
    let patience = Patience { requests_per_connection: 3, ..Patience::default() };
    let edge = TestEdge::patient(patience, route(), &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    for expected in ["keep-alive", "keep-alive", "close"] {
        client.send(get("/").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().header("connection"), Some(expected));
    }
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn bodies_arrive_whole_by_length_and_in_chunks() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[v1.addr()]);
    let body: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = Sha256::digest(&body).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mut client = edge.connect().await;
    client.send(format!("POST /echo HTTP/1.1\r\nHost: m\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
    client.send(&body).await;
    let by_length: Echo = serde_json::from_slice(&client.answer().await.unwrap().body).unwrap();
    client.send(b"POST /echo HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for chunk in body.chunks(70_001) {
        client.send(format!("{:x};ext=1\r\n", chunk.len()).as_bytes()).await;
        client.send(chunk).await;
        client.send(b"\r\n").await;
    }
    client.send(b"0\r\n\r\n").await;
    let by_chunks: Echo = serde_json::from_slice(&client.answer().await.unwrap().body).unwrap();
    assert_eq!((by_length.body_sha256, by_chunks.body_sha256), (digest.clone(), digest));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    let chunked = "POST /v1/predict HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    client
        .send(
            format!("{}{}{}{chunked}", post("/v1/predict", "12345"), get("/v1/predict"), post("/v1/predict", "123"))
                .as_bytes(),
        )
        .await;
    for expected in [5, 0, 3, 2] {
        assert_eq!(client.answer().await.unwrap().json()["prediction"], expected);
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 4)]).await;
}

#[tokio::test]
async fn a_request_sent_while_the_one_before_waits_is_answered_after_it() {
    let v1 = RawServer::start(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.starts_with("GET /slow") {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let path = request.split(' ').nth(1).unwrap().to_owned();
            connection.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
        }
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(get("/slow").as_bytes()).await;
    assert!(eventually(|| v1.received().contains("GET /slow")).await);
    client.send(get("/second").as_bytes()).await;
    assert_eq!(client.answer().await.unwrap().body, b"/slow");
    assert_eq!(client.answer().await.unwrap().body, b"/second");
}

#[tokio::test]
async fn a_stream_of_events_is_passed_on_piece_by_piece() {
    let (send_next, next) = tokio::sync::watch::channel(0_u32);
    let v1 = RawServer::start(move |mut connection| {
        let mut next = next.clone();
        async move {
            connection.request().await;
            connection
                .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            for piece in 1..=3 {
                next.wait_for(|sent| *sent >= piece).await.unwrap();
                connection.send(&format!("5\r\nev: {piece}\r\n")).await;
            }
            connection.send("0\r\n\r\n").await;
        }
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    for piece in 1..=3 {
        send_next.send(piece).unwrap();
        assert_eq!(client.chunk().await.unwrap(), format!("ev: {piece}").into_bytes());
    }
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn head_no_content_and_expect_continue_work() {
    let v1 = RawServer::start(|mut connection| async move {
        while connection.read().await.is_some() {
            connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let Some(request) = connection.request().await else { return };
            connection
                .send(if request.starts_with("HEAD") {
                    "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n"
                } else {
                    "HTTP/1.1 204 No Content\r\n\r\n"
                })
                .await;
        }
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 100"));
    client.send(b"ok").await;
    assert_eq!(client.answer().await.unwrap().status, 204);
    let mut client = edge.connect().await;
    client.send(b"HEAD / HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(client.answer_to_head().await.unwrap().header("content-length"), Some("77"));
    client.send(b"HEAD / HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(client.answer_to_head().await.unwrap().status, 200);
    edge.expect_outcomes("v1", &[(Outcome::Success, 3)]).await;
}

#[tokio::test]
async fn an_upgrade_other_than_websocket_is_not_offered_to_the_version() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[v1.addr()]);
    let answer = edge.ask("GET /echo HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    let echo: Echo = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, echo.header("upgrade"), echo.header("connection")), (200, None, None));
}

#[tokio::test]
async fn a_connection_failure_is_tried_on_another_endpoint_whatever_the_body() {
    let v1 = model("v1").await;
    let edge = TestEdge::start(&[dead_address().await, v1.addr(), dead_address().await]);
    let body = "x".repeat(1_000_000);
    for _ in 0..30 {
        let answer = edge.ask(&post("/v1/predict", &body)).await;
        assert_eq!((answer.status, answer.json()["prediction"].as_u64()), (200, Some(1_000_000)));
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 30)]).await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced_while_the_body_can_be_sent_again() {
    // Each connection answers once and then drops the next request unanswered.
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        connection.read().await;
    })
    .await;
    let edge = TestEdge::with(predictions(), &[v1.address], &[]);
    let mut client = edge.connect().await;
    for _ in 0..6 {
        client.send(post("/", &"x".repeat(60_000)).as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 6)]).await;
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let answer = edge.ask(&post("/", "once")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_reset"));
    assert_eq!(v1.connections(), 1);
}

/// A version that serves the first request of each connection, and drops the second one `after` so long.
async fn forgetful(after: Duration) -> RawServer {
    RawServer::start(move |mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        connection.read().await;
        tokio::time::sleep(after).await;
    })
    .await
}

#[tokio::test]
async fn a_repeated_request_takes_a_fresh_connection_however_many_are_kept() {
    // Each connection answers once, but only when eight are open: so all eight are kept then.
    let (count, open) = (Arc::new(AtomicU64::new(0)), tokio::sync::watch::channel(0).0);
    let open = Arc::new(open);
    let v1 = RawServer::start({
        let open = Arc::clone(&open);
        move |mut connection| {
            let (count, open) = (Arc::clone(&count), Arc::clone(&open));
            async move {
                connection.request().await;
                open.send_replace(count.fetch_add(1, SeqCst) + 1);
                open.subscribe().wait_for(|open| *open >= 8).await.unwrap();
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                connection.read().await;
            }
        }
    })
    .await;
    let edge = TestEdge::with(predictions(), &[v1.address], &[]);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = edge.connect().await;
        client.send(post("/", "{}").as_bytes()).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert!(eventually(|| edge.in_flight() == 0).await);
    for client in &mut clients {
        client.send(post("/", "{}").as_bytes()).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert_eq!(v1.connections(), 16, "each one was repeated once, afresh");
}

/// A route that serves predictions only.
fn predictions() -> Route {
    let retries = Retries { replay: Replay::Predictions, ..Retries::default() };
    Route { retries, ..route() }
}

/// Asks for `request` on a connection to the version that it has kept, and that drops it unanswered, at once or later.
async fn check_dropped(retries: &Retries, fast_lane: bool, request: &str, is_repeated: bool) {
    let (status, outcomes) = if is_repeated {
        (200, vec![(Outcome::Success, 2)])
    } else {
        (502, vec![(Outcome::Success, 1), (Outcome::Reset, 1)])
    };
    for after in [Duration::ZERO, Duration::from_millis(200)] {
        let v1 = forgetful(after).await;
        let edge = TestEdge::with(Route { retries: retries.clone(), ..route() }, &[v1.address], &[]);
        edge.publisher.set_fast_lane(fast_lane);
        let mut client = edge.connect().await;
        let mut told = Vec::new();
        for request in [&get("/first"), request] {
            client.send(request.as_bytes()).await;
            told.push(client.answer().await.unwrap().status);
        }
        assert_eq!(told, [200, status], "{request} after {after:?}, {fast_lane}, {retries:?}");
        assert_eq!(v1.received().matches(" /second ").count(), 1 + usize::from(is_repeated), "{request}");
        edge.expect_outcomes("v1", &outcomes).await;
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_taken_is_repeated_only_if_that_does_no_harm() {
    let predictions = Retries { replay: Replay::Predictions, ..Retries::default() };
    let never = Retries { replay: Replay::Never, ..Retries::default() };
    let once = Retries { attempts: 1, ..predictions.clone() };
    let (post, get) = (post("/second", "{}"), get("/second"));
    for fast_lane in [true, false] {
        for (retries, request, is_repeated) in [
            (&Retries::default(), &post, false),
            (&Retries::default(), &get, true),
            (&predictions, &post, true),
            (&never, &post, false),
            (&never, &get, false),
            (&once, &post, false),
            (&once, &get, false),
        ] {
            check_dropped(retries, fast_lane, request, is_repeated).await;
        }
    }
}

/// A version that closes idle connections loses nobody's request, and never gets one twice, whatever the route repeats: it
/// is asked just when it closes, many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_race_with_a_version_that_closes_idle_connections_doubles_nothing() {
    let v1 = RawServer::start(|mut connection| async move {
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(10), connection.request()).await {
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let never = Retries { replay: Replay::Never, attempts: 1, ..Retries::default() };
    for fast_lane in [true, false] {
        let edge = TestEdge::with(Route { retries: never.clone(), ..route() }, &[v1.address], &[]);
        edge.publisher.set_fast_lane(fast_lane);
        let mut lost = 0;
        for number in 0..150 {
            let path = format!("/{fast_lane}/{number}/");
            lost += usize::from(edge.ask(&post(&path, "{}")).await.status != 200);
            let times = v1.received().matches(&path).count();
            assert!(times <= 1, "{path} came {times} times");
            tokio::time::sleep(Duration::from_micros(9_500 + number * 10)).await;
        }
        // What had arrived unread when the version closed looks like what it had read: no more than that is lost.
        assert!(lost < 75, "{lost} of 150 lost");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_its_answer_without_chunks() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(b"GET / HTTP/1.0\r\nHost: m\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
    assert_eq!((answer.header("transfer-encoding"), answer.header("connection")), (None, Some("close")));
    assert!(client.rest().await.is_empty());
    assert_eq!(edge.ask(&get("/")).await.header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn a_refusal_of_a_head_request_has_no_body() {
    let v1 = model("v1").await;
    let mut narrow = route();
    narrow.matches.path_prefix = "/v1".to_owned();
    let edge = TestEdge::with(narrow, &[v1.addr()], &[]);
    for (request, status) in
        [("HEAD /x HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n", 404), ("HEAD /v1 HTTP/1.1\r\nX\r\n\r\n", 400)]
    {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        let answer = client.answer_to_head().await.unwrap();
        assert_eq!(answer.status, status);
        assert_ne!(answer.header("content-length"), Some("0"));
        assert_eq!(client.rest().await, b"", "{status}");
    }
}

#[tokio::test]
async fn a_client_that_pipelines_beyond_its_last_answer_still_reads_it() {
    let v1 = model("v1").await;
    let patience = Patience { requests_per_connection: 1, ..Patience::default() };
    let edge = TestEdge::patient(patience, route(), &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    client.send(get("/v1/predict").as_bytes()).await;
    assert!(client.head().await.unwrap().to_ascii_lowercase().contains("connection: close"));
    // Sent before the client read that its answer was the last: must not be met by a reset.
    for _ in 0..3 {
        client.send(get("/v1/predict").as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut client.tcp, &mut rest).await;
    assert!(read.is_ok(), "{read:?}");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_reaches_a_client_that_is_still_sending() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.read().await;
        connection.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nstop").await;
        while connection.read().await.is_some() {}
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send(&vec![b'x'; 400_000]).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (413, &b"stop"[..]));
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_booked_whatever_becomes_of_the_upload() {
    for (answer, outcome) in [
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops", Outcome::Error),
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", Outcome::Error),
        ("HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n4\r\noops\r\n0\r\n\r\n", Outcome::Error),
        ("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 4\r\n\r\nstop", Outcome::Success),
    ] {
        let v1 = RawServer::start(move |mut connection| async move {
            connection.read().await;
            connection.send(answer).await;
            while connection.read().await.is_some() {}
        })
        .await;
        let mut brief = route();
        brief.timeouts.total = Duration::from_secs(1);
        let edge = TestEdge::with(brief, &[v1.address], &[]);
        // One client goes when it has its answer, the other one stays and sends nothing more.
        for (booked, stays) in [(1, false), (2, true)] {
            let mut client = edge.connect().await;
            client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 1000\r\n\r\nab").await;
            client.answer().await.unwrap();
            if !stays {
                drop(client);
                edge.expect_outcomes("v1", &[(outcome, booked)]).await;
                continue;
            }
            edge.expect_outcomes("v1", &[(outcome, booked)]).await;
        }
    }
}

#[tokio::test]
async fn requests_go_to_the_endpoint_that_is_less_busy() {
    let (v1, other) = (model("v1").await, model("v1").await);
    other.set_faults(r#"{"hang":{"share":1}}"#.parse().unwrap());
    let edge = TestEdge::start(&[other.addr(), v1.addr()]);
    let mut stuck = Vec::new();
    while other.requests() == 0 {
        let seen = v1.requests();
        let mut client = edge.connect().await;
        client.send(get("/v1/predict").as_bytes()).await;
        assert!(eventually(|| v1.requests() + other.requests() > seen).await);
        stuck.push(client);
    }
    assert!(eventually(|| edge.in_flight() == 1).await);
    let before = other.requests();
    for _ in 0..50 {
        assert_eq!(edge.ask(&get("/v1/predict")).await.status, 200);
        // A client has its answer a moment before the request is off the endpoint.
        assert!(eventually(|| edge.in_flight() == 1).await);
    }
    assert_eq!(other.requests(), before, "the endpoint that hangs gets no more");
}

/// Idle clients must not take what the work needs: beyond their number others wait, until one goes.
#[tokio::test]
async fn clients_beyond_the_number_of_places_wait_until_one_goes() {
    const PLACES: usize = 3;
    let v1 = model("v1").await;
    let patience = Patience { connections: PLACES, ..Patience::default() };
    let edge = TestEdge::patient(patience, route(), &[v1.addr()], &[]);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = edge.connect().await;
        client.send(get("/v1/predict").as_bytes()).await;
        clients.push(client);
    }
    assert!(eventually(|| v1.requests() >= PLACES as u64).await);
    // Long enough for the others, if they were let in.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let let_in = usize::try_from(v1.requests()).unwrap();
    assert!(let_in < PLACES + super::harness::WORKERS, "{let_in} clients");
    let mut answered = 0;
    for _round in 0..30 {
        let mut waiting = Vec::new();
        for mut client in clients {
            let answer = tokio::time::timeout(Duration::from_millis(300), client.tcp.readable()).await;
            match answer {
                // It has its answer, and goes.
                Ok(_) => answered += usize::from(client.answer().await.is_some()),
                Err(_) => waiting.push(client),
            }
        }
        clients = waiting;
    }
    assert_eq!(answered, 12);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_length_and_by_count() {
    let v1 = model("v1").await;
    let mut small = route();
    small.limits.body_bytes = 10_000;
    let edge = TestEdge::with(small, &[v1.addr()], &[]);
    assert_eq!(edge.ask(&post("/echo", &"x".repeat(10_000))).await.status, 200);
    let by_length = edge.ask(&post("/echo", &"x".repeat(10_001))).await;
    assert_eq!((by_length.status, by_length.problem().as_str()), (413, "body_too_large"));
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let by_count = edge
        .ask(&format!(
            "POST /echo HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(5)
        ))
        .await;
    assert_eq!((by_count.status, by_count.problem().as_str()), (413, "body_too_large"));
    edge.expect_outcomes("v1", &[(Outcome::Success, 1), (Outcome::Rejected, 2)]).await;
}

#[tokio::test]
async fn a_large_upload_over_the_limit_still_reads_its_413() {
    let v1 = model("v1").await;
    let mut small = route();
    small.limits.body_bytes = 1_000;
    let edge = TestEdge::with(small, &[v1.addr()], &[]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 8000000\r\n\r\n").await;
    client.send(&vec![b'x'; 8_000_000]).await;
    assert_eq!(client.answer().await.unwrap().problem(), "body_too_large");
}

#[tokio::test]
async fn heads_and_targets_over_the_limit_are_431_and_414() {
    let v1 = model("v1").await;
    let mut small = route();
    small.limits.header_bytes = 20_000;
    let edge = TestEdge::with(small, &[v1.addr()], &[]);
    let head = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "a".repeat(bytes));
    assert_eq!(edge.ask(&head(19_900)).await.status, 200);
    let large = edge.ask(&head(20_000)).await;
    assert_eq!((large.status, large.problem().as_str()), (431, "headers_too_large"));
    let long = edge.ask(&get(&format!("/{}", "a".repeat(17_000)))).await;
    assert_eq!((long.status, long.problem().as_str()), (414, "uri_too_long"));
    assert_eq!(v1.requests(), 1);
}

#[tokio::test]
async fn a_head_limit_belongs_to_its_route() {
    let v1 = model("v1").await;
    let (mut small, mut large) = (route(), route());
    small.limits.header_bytes = 1_000;
    large.name = "large".parse().unwrap();
    large.matches.path_prefix = "/large".to_owned();
    let mut edge = TestEdge::with(small, &[v1.addr()], &[]);
    let endpoints = BTreeMap::from([(super::harness::id("v1"), vec![v1.addr()])]);
    let picture = |route: &Route| pointsman::control::publisher::RoutePicture {
        route: Arc::new(route.clone()),
        trial: 0,
        stable: super::harness::id("v1"),
        split: pointsman_config::Split::Whole(super::harness::id("v1")),
        endpoints: &endpoints,
    };
    let edge = &mut *edge;
    edge.publisher.publish(&[picture(&edge.route), picture(&large)]);
    let head = |path| format!("GET {path} HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "a".repeat(2_000));
    assert_eq!(edge.ask(&head("/large")).await.status, 200);
    assert_eq!(edge.ask(&head("/small")).await.problem(), "headers_too_large");
    edge.expect_outcomes("v1", &[(Outcome::Rejected, 1)]).await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_request_off_the_version() {
    let (gone, left) = tokio::sync::oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let v1 = RawServer::start(move |mut connection| {
        let gone = gone.lock().unwrap().take();
        async move {
            connection.request().await;
            assert!(connection.read().await.is_none());
            gone.unwrap().send(()).unwrap();
        }
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    assert!(eventually(|| v1.received().contains("GET /")).await);
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), left).await.expect("the version is told").unwrap();
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
}

#[tokio::test]
#[ignore = "prints figures: cargo test -p pointsman --test it -- --ignored --nocapture throughput"]
async fn throughput_of_one_connection() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    let began = Instant::now();
    for _ in 0..20_000 {
        client.send(post("/", "{}").as_bytes()).await;
        client.answer().await.unwrap();
    }
    println!("{:?} per request", began.elapsed() / 20_000);
}
