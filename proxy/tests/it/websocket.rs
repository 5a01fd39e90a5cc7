//! WebSocket: the one upgrade that is passed on.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::{Echo, FakeModel};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::harness::{PATIENCE, RawServer, TestEdge, eventually, route};
use crate::pki::Pki;
use crate::speak::{Speaks, Wire, tcp, tls};

/// A version that echoes every message, and greets first, in the packet of its handshake.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(tcp).await else { return };
                if socket.send(Message::text("hello")).await.is_err() {
                    return;
                }
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn open(wire: impl Wire) -> WebSocketStream<impl Wire> {
    let request = "ws://model.test/live?a=b".into_client_request().unwrap();
    let (mut socket, answer) = client_async(request, wire).await.unwrap();
    assert_eq!(answer.headers()["x-pointsman-version"], "v1");
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(next(&mut socket).await.unwrap(), Message::text("hello"));
    socket
}

async fn next(socket: &mut WebSocketStream<impl Wire>) -> Result<Message, Error> {
    tokio::time::timeout(PATIENCE, socket.next())
        .await
        .expect("a message in time")
        .unwrap_or(Err(Error::ConnectionClosed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_both_ways_unchanged_and_a_normal_end_is_a_success() {
    let (pki, v1) = (Pki::new(), echo().await);
    for speaks in [Speaks::Http1, Speaks::Http1Tls] {
        let edge = speaks.edge(&pki, route(), &[v1], &[]);
        let wire: Box<dyn Wire> = if speaks.is_secure() {
            Box::new(tls(pki.client(&["http/1.1"], None), "model.test", edge.address).await.unwrap())
        } else {
            Box::new(tcp(edge.address).await)
        };
        let mut socket = open(wire).await;
        assert_eq!(edge.in_flight(), 1);
        for size in [0, 1, 125, 126, 70_000, 300_000] {
            let bytes: Vec<u8> = (0..size).map(|number: u32| number.to_le_bytes()[0]).collect();
            let message = Message::binary(bytes);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut socket).await.unwrap(), message, "{size}");
        }
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "done".into() })).await.unwrap();
        let Message::Close(Some(frame)) = next(&mut socket).await.unwrap() else { panic!("no close") };
        assert_eq!(frame.code, CloseCode::Normal);
        edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
        assert!(eventually(|| edge.in_flight() == 0).await);
    }
}

#[tokio::test]
async fn a_tunnel_outlives_the_total_timeout_and_its_version_and_ends_by_silence() {
    let (v1, v2) = (echo().await, FakeModel::start("v2").await.unwrap());
    let mut short = route();
    short.timeouts.total = Duration::from_millis(300);
    short.timeouts.read = Duration::from_millis(300);
    short.timeouts.stream_idle = Duration::from_millis(1_500);
    let mut edge = TestEdge::with(short, &[v1], &[v2.addr()]);
    let mut socket = open(tcp(edge.address).await).await;
    // All traffic goes to v2 now; what is open stays where it is.
    edge.set_weight(1_000_000);
    for number in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let message = Message::text(number.to_string());
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), message);
    }
    assert!(next(&mut socket).await.is_err(), "a silent tunnel is closed");
    edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
    assert_eq!(v2.requests(), 0);
}

#[tokio::test]
async fn a_drain_closes_tunnels_at_its_deadline() {
    let v1 = echo().await;
    let mut edge = TestEdge::start(&[v1]);
    let mut socket = open(tcp(edge.address).await).await;
    let draining = tokio::spawn(edge.serving.take().unwrap().drain(Duration::from_millis(700)));
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Message::text("still here"));
    assert!(next(&mut socket).await.is_err());
    assert_eq!(draining.await.unwrap().cut_off, 1);
    edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_the_tunnel_on_both_sides() {
    let v1 = RawServer::start(|mut connection| async move {
        connection.request().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nfirst")
            .await;
        while connection.read().await.is_some() {}
        connection.send("too late").await;
    })
    .await;
    let edge = TestEdge::start(&[v1.address]);
    let mut client = edge.connect().await;
    // What is sent before the answer is part of the tunnel, too.
    client.send(b"GET / HTTP/1.1\r\nHost: m\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n").await;
    let head = client.head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    assert!(eventually(|| v1.received().contains("GET /smuggled HTTP/1.1")).await, "{}", v1.received());
    assert_eq!(v1.connections(), 1);
    client.tcp.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"first");
    edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
}

#[tokio::test]
async fn a_version_that_declines_a_websocket_is_an_answer_like_another() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send(b"GET /echo HTTP/1.1\r\nHost: m\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        let answer = client.answer().await.unwrap();
        let echo: Echo = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, echo.header("upgrade"), echo.header("connection")),
            (200, Some("websocket"), Some("Upgrade"))
        );
        if answer.header("connection") == Some("close") {
            client = edge.connect().await;
        }
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 2)]).await;
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on_and_bodies_come_whole() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let edge = TestEdge::start(&[v1.addr()]);
    let mut client = edge.connect().await;
    for head in [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: websocket",
        "Upgrade: tls/1.0\r\nConnection: upgrade",
    ] {
        client
            .send(format!("POST /echo HTTP/1.1\r\nHost: m\r\n{head}\r\nContent-Length: 5\r\n\r\nhello").as_bytes())
            .await;
        let answer = client.answer().await.unwrap();
        let echo: Echo = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, echo.body_bytes), (200, 5), "{head}");
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(echo.header(gone), None, "{head}");
        }
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 4)]).await;
}
