//! Long answers and patient clients: server-sent events, `Expect`, and clients that close their side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc};

use crate::harness::{PATIENCE, RawConnection, RawServer, TestEdge, eventually, get, post, route};
use crate::pki::Pki;
use crate::speak::{Speaks, whole};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

async fn event(connection: &mut RawConnection, text: &str) -> bool {
    connection.send(&format!("{:x}\r\n{text}\r\n", text.len())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_arrives_before_the_next_is_sent_and_total_does_not_end_the_stream() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let seen = Arc::new(Semaphore::new(0));
        let see = Arc::clone(&seen);
        let v1 = RawServer::start(move |mut connection| {
            let see = Arc::clone(&see);
            async move {
                connection.request().await;
                connection.send(EVENTS).await;
                for number in 0..5 {
                    event(&mut connection, &format!("data: {number}\n\n")).await;
                    // The next one is only sent once this one has been seen.
                    see.acquire().await.unwrap().forget();
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
                connection.send("0\r\n\r\n").await;
            }
        })
        .await;
        let mut short = route();
        short.timeouts.total = Duration::from_millis(400);
        short.timeouts.read = Duration::from_millis(100);
        let edge = speaks.edge(&pki, short, &[v1.address], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let answer = client.begin(client.request("GET", "/events", &[], whole(""))).await.unwrap();
        let mut body = answer.into_body();
        for number in 0..5 {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event in time").unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("data: {number}\n\n"), "{speaks:?}");
            seen.add_permits(1);
        }
        while let Some(rest) = tokio::time::timeout(PATIENCE, body.frame()).await.expect("the end in time") {
            assert!(rest.unwrap().into_data().unwrap().is_empty(), "{speaks:?}");
        }
        edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_and_its_version_is_to_blame() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send(EVENTS).await;
        event(&mut connection, "data: 1\n\n").await;
        while connection.read().await.is_some() {}
    })
    .await;
    let mut short = route();
    short.timeouts.stream_idle = Duration::from_millis(400);
    let edge = TestEdge::with(short, &[v1.address], &[]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    client.head().await.unwrap();
    assert_eq!(client.chunk().await.unwrap(), b"data: 1\n\n");
    assert!(client.rest().await.is_empty());
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_still_has_a_total() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        while event(&mut connection, "1").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut short = route();
    short.timeouts.total = Duration::from_millis(500);
    let edge = TestEdge::with(short, &[v1.address], &[]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    client.head().await.unwrap();
    client.rest().await;
    edge.expect_outcomes("v1", &[(Outcome::Timeout, 1)]).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_the_version() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection.send(EVENTS).await;
        while connection.read().await.is_some() {}
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    client.head().await.unwrap();
    drop(client);
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
    assert!(eventually(|| edge.in_flight() == 0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_streams_is_passed_on_as_it_comes() {
    let pki = Pki::new();
    for speaks in Speaks::ALL {
        let v1 = RawServer::start(|mut connection| async move {
            connection.request().await;
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        })
        .await;
        let edge = speaks.edge(&pki, route(), &[v1.address], &[]);
        let client = speaks.connect(&pki, edge.address).await;
        let (send, receive) = mpsc::unbounded_channel::<Result<Frame<Bytes>, std::io::Error>>();
        let body = StreamBody::new(tokio_stream::wrappers::UnboundedReceiverStream::new(receive));
        let asking = {
            let request = client.request("POST", "/upload", &[], BodyExt::boxed(body));
            tokio::spawn(async move { client.begin(request).await.map(|answer| answer.status()) })
        };
        for piece in ["first", "second", "third"] {
            send.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).unwrap();
            assert!(eventually(|| v1.received().contains(piece)).await, "{speaks:?}: {piece} is held back");
        }
        drop(send);
        assert_eq!(asking.await.unwrap().unwrap(), 200, "{speaks:?}");
    }
}

fn expecting(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_by_the_edge_and_not_by_a_silent_version() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send(expecting("/", 5).as_bytes()).await;
        assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(b"hello").await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert!(!v1.received().to_ascii_lowercase().contains("expect"), "{}", v1.received());
    // One that does not wait is not asked.
    client.send(format!("{}hello", expecting("/", 5)).as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    edge.expect_outcomes("v1", &[(Outcome::Success, 3)]).await;
}

#[tokio::test]
async fn a_refusal_comes_before_the_body_is_asked_for() {
    let v1 = RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let mut narrow = route();
    narrow.limits.body_bytes = 10;
    narrow.matches.path_prefix = "/v1".to_owned();
    let edge = TestEdge::with(narrow, &[v1.address], &[]);
    for (path, status) in [("/v1", "HTTP/1.1 413"), ("/other", "HTTP/1.1 404")] {
        let mut client = edge.connect().await;
        client.send(expecting(path, 11).as_bytes()).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with(status), "{path}: {head}");
    }
    assert_eq!(v1.connections(), 0);
}

#[tokio::test]
async fn a_version_that_drops_a_request_after_the_client_was_asked_is_told_as_ever() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(expecting("/", 5).as_bytes()).await;
    client.head().await.unwrap();
    client.send(b"hello").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_reset"));
}

#[tokio::test]
async fn a_client_that_closed_its_side_gets_its_answer() {
    let v1 = FakeModel::start("v1").await.unwrap();
    v1.set_faults(r#"{"delay":{"share":1,"ms":400}}"#.parse().unwrap());
    let edge = TestEdge::start(&[v1.addr()]);
    for request in [get("/v1/predict"), post("/v1/predict", "hello"), format!("{}{}", get("/a"), get("/b"))] {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        client.tcp.shutdown().await.unwrap();
        for _ in 0..request.matches("HTTP/1.1").count() {
            assert_eq!(client.answer().await.expect("an answer").status, 200, "{request}");
        }
        assert!(client.rest().await.is_empty());
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 4)]).await;
}

#[tokio::test]
async fn a_client_that_closed_its_side_is_not_waited_for_for_ever() {
    let v1 = RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(get("/").as_bytes()).await;
    client.tcp.shutdown().await.unwrap();
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
}

#[tokio::test]
async fn a_client_that_closes_in_the_middle_of_its_body_is_an_abort_at_once() {
    let v1 = RawServer::start(|mut connection| async move { while connection.read().await.is_some() {} }).await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.tcp.shutdown().await.unwrap();
    edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
}
