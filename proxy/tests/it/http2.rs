//! HTTP/2 with clients, frame by frame: what only it has, and what attackers make of it.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use pointsman::listen::Patience;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{PATIENCE, RawServer, TestEdge, eventually, route};
use crate::speak::tcp;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client, and how its connection ended once it has.
async fn connect(edge: &TestEdge) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let (sender, connection) = h2::client::handshake(tcp(edge.address).await).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(method: &str, uri: &str) -> http::Request<()> {
    http::Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn status_of(sender: &mut SendRequest<Bytes>, request: http::Request<()>) -> Result<u16, h2::Error> {
    let mut ready = sender.clone().ready().await?;
    let (answer, _) = ready.send_request(request, true)?;
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")?;
    let (head, mut body) = answer.into_parts();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    Ok(head.status.as_u16())
}

/// The status of one request on a connection of its own, once its answer is whole.
pub async fn get(address: std::net::SocketAddr) -> u16 {
    let (mut sender, connection) = h2::client::handshake(tcp(address).await).await.unwrap();
    tokio::spawn(connection);
    status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_one_connection_do_not_wait_for_each_other() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"delay":{"share":1,"ms":300}}"#.parse().unwrap());
    let edge = TestEdge::start(&[v1.addr()]);
    let (sender, _connection) = connect(&edge).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap() })
        })
        .collect();
    assert!(eventually(|| edge.in_flight() == 50).await, "{} at once", edge.in_flight());
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 50)]).await;
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_the_connection_stays() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::start(&[v1.addr()]);
    let (mut sender, _connection) = connect(&edge).await;
    let with =
        |name: &str, value: &str| http::Request::builder().uri("http://m.test/").header(name, value).body(()).unwrap();
    for (refused, status) in [
        (request("GET", "http://m.test/a/../b"), 400),
        (request("GET", "http://m.test/a/%2E%2e/b"), 400),
        (with("host", "other.test"), 400),
        (with("content-length", "5"), 400),
        (request("CONNECT", "m.test:80"), 405),
        (request("GET", &format!("http://m.test/{}", "a".repeat(17 << 10))), 414),
    ] {
        let words = format!("{refused:?}");
        match status_of(&mut sender, refused).await {
            Ok(told) => assert_eq!(told, status, "{words}"),
            // The codec refuses some by itself.
            Err(error) => assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{words}"),
        }
    }
    assert_eq!(status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap(), 200);
    assert_eq!(v1.requests(), 1);
}

#[tokio::test]
async fn a_head_larger_than_any_route_takes_never_reaches_a_version() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut small = route();
    small.limits.header_bytes = 2_000;
    let edge = TestEdge::with(small, &[v1.addr()], &[]);
    let (mut sender, _connection) = connect(&edge).await;
    let large = http::Request::builder().uri("http://m.test/").header("x", "a".repeat(5_000)).body(()).unwrap();
    match status_of(&mut sender, large).await {
        Ok(status) => assert_eq!(status, 431),
        Err(error) => assert!(error.reason().is_some(), "{error}"),
    }
    assert_eq!(v1.requests(), 0);
}

/// Frames as they go over the wire (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Opens stream after stream, each followed by `then`, until the edge has had enough; gives the reason it says.
async fn provoke(edge: &TestEdge, then: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    const MOST: u32 = 5_000;
    let (mut reader, mut writer) = tcp(edge.address).await.into_split();
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.ok();
        heard
    });
    writer.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    // :method GET, :scheme http, :path /, :authority m
    let fields = [0x82, 0x86, 0x84, 0x41, 0x01, b'm'];
    for number in 0..MOST {
        let stream = number * 2 + 1;
        // Its head alone first, so that it is begun before it is broken off.
        let begun = writer.write_all(&frame(1, 0x05, stream, &fields)).await;
        tokio::time::sleep(Duration::from_micros(200)).await;
        if begun.is_err() || writer.write_all(&then(stream)).await.is_err() {
            break;
        }
        if heard.is_finished() {
            break;
        }
    }
    let heard = tokio::time::timeout(PATIENCE, heard).await.expect("the edge closes").unwrap();
    last_reason(&heard)
}

/// The reason in the last GOAWAY frame.
fn last_reason(mut frames: &[u8]) -> Option<u32> {
    let mut reason = None;
    while frames.len() >= 9 {
        let length = usize::from(frames[0]) << 16 | usize::from(frames[1]) << 8 | usize::from(frames[2]);
        if frames[3] == 7 && frames.len() >= 17 {
            reason = Some(u32::from_be_bytes(frames[13..17].try_into().unwrap()));
        }
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_break_off_what_they_ask_for_are_sent_away() {
    let v1 = RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await;
    let edge = TestEdge::start(&[v1.address]);
    // RST_STREAM with CANCEL.
    let calm = provoke(&edge, |stream| frame(3, 0, stream, &8_u32.to_be_bytes())).await;
    assert_eq!(calm, Some(u32::from(Reason::ENHANCE_YOUR_CALM)), "resets");
    // A window update of zero, for which the edge has to reset the stream itself.
    let calm = provoke(&edge, |stream| frame(8, 0, stream, &[0; 4])).await;
    assert!(calm.is_some(), "provoked resets");
    assert!(eventually(|| edge.in_flight() == 0).await);
    assert!(v1.connections() < 1_000, "{} requests reached the version", v1.connections());
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_its_time_with_a_word() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut short = route();
    short.timeouts.idle = Duration::from_millis(200);
    let patience = Patience { head: Duration::from_millis(400), ..Patience::default() };
    let edge = TestEdge::patient(patience, short, &[v1.addr()], &[]);
    // Neither preface nor frames; a preface and no more; half of a preface.
    for first in [&b""[..], PREFACE, &PREFACE[..10]] {
        let mut client = tcp(edge.address).await;
        client.write_all(first).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{first:?}: still open");
    }
    for asks in [false, true] {
        let (mut sender, connection) = connect(&edge).await;
        if asks {
            assert_eq!(status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap(), 200);
        }
        let ended = tokio::time::timeout(PATIENCE, connection).await.expect("the edge closes").unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_in_order_after_its_number_of_requests() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let patience = Patience { requests_per_connection: 3, ..Patience::default() };
    let edge = TestEdge::patient(patience, route(), &[v1.addr()], &[]);
    let (mut sender, connection) = connect(&edge).await;
    for _ in 0..3 {
        assert_eq!(status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap(), 200);
    }
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("the edge closes").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

/// Answers that the edge has ended are still its own to deliver: a client that reads slowly gets all of them, though the
/// connection has been left for longer than a client may take that reads at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_a_slow_client_to_take_what_it_was_answered() {
    const STREAMS: usize = 80;
    const BYTES: usize = 100_000;
    let v1 = RawServer::start(|mut connection| async move {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n{}", "x".repeat(BYTES));
        while connection.request().await.is_some() && connection.send(&answer).await {}
    })
    .await;
    let mut edge = TestEdge::start(&[v1.address]);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let wire = socket.connect(edge.address).await.unwrap();
    let mut windows = h2::client::Builder::new();
    windows.initial_window_size(1 << 20).initial_connection_window_size(64 << 20);
    let (sender, mut connection) = windows.handshake::<_, Bytes>(wire).await.unwrap();
    let asked: Vec<_> = {
        let mut sender = sender.clone();
        (0..STREAMS).map(|_| sender.send_request(request("GET", "http://m.test/"), true).unwrap().0).collect()
    };
    // The client reads until all are begun, and then nothing until all are over and the drain has waited.
    let begun = eventually(|| v1.received().matches("GET /").count() == STREAMS);
    tokio::select! {
        begun = begun => assert!(begun),
        ended = &mut connection => panic!("{ended:?}"),
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, STREAMS as u64)]).await;
    assert!(eventually(|| edge.in_flight() == 0).await);
    let drain = tokio::spawn(edge.serving.take().unwrap().drain(Duration::from_mins(1)));
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let reading = tokio::spawn(connection);
    for answer in asked {
        let mut body = answer.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.expect("the whole answer");
            bytes += piece.len();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert_eq!(bytes, BYTES);
    }
    drop(sender);
    assert_eq!(tokio::time::timeout(PATIENCE, drain).await.expect("drained").unwrap().cut_off, 0);
    reading.abort();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset_and_not_ended() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let (mut sender, _connection) = connect(&edge).await;
    let error = status_of(&mut sender, request("GET", "http://m.test/")).await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    edge.expect_outcomes("v1", &[(Outcome::Reset, 1)]).await;
}

#[tokio::test]
async fn interim_answers_come_through_and_a_body_is_asked_for() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection
            .send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        while connection.read().await.is_some() {}
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let (sender, _connection) = connect(&edge).await;
    let expects = http::Request::builder()
        .method("POST")
        .uri("http://m.test/")
        .header("expect", "100-continue")
        .body(())
        .unwrap();
    let mut ready = sender.ready().await.unwrap();
    let (mut answer, mut body) = ready.send_request(expects, false).unwrap();
    let interim = async |answer: &mut h2::client::ResponseFuture| {
        let next = std::future::poll_fn(|cx| answer.poll_informational(cx));
        tokio::time::timeout(PATIENCE, next).await.expect("an interim answer in time").unwrap().unwrap().status()
    };
    assert_eq!(interim(&mut answer).await, 100);
    body.send_data(Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(interim(&mut answer).await, 103);
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(!v1.received().contains("expect"), "{}", v1.received());
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_not_the_versions_fault() {
    let v1 = RawServer::sending_on_and_on().await;
    let mut short = route();
    short.timeouts.total = Duration::from_millis(500);
    let edge = TestEdge::with(short, &[v1.address], &[]);
    let (sender, _connection) = connect(&edge).await;
    let mut ready = sender.ready().await.unwrap();
    let (answer, _) = ready.send_request(request("GET", "http://m.test/"), true).unwrap();
    let _kept = answer.await.unwrap();
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
}
