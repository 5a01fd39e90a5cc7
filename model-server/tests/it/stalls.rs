//! Connections that stand still, or only seem to: half a beginning, answers that nobody reads, and answers that somebody
//! reads slowly.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http_body_util::BodyExt as _;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::limits::{block_on, body_of, call, ended, metric, multiplexed};
use crate::server::{PATIENCE, Server, Wire, bundle, copy_of, program};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `GET /health` as HPACK has it: two heads of its static table, and two literals under names of it.
const GET_HEALTH: &[u8] = b"\x82\x86\x04\x07/health\x01\x04test";

/// Kinds of frames (RFC 9113, 6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

/// The end of a head and of a stream.
const END: u8 = 0x05;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn connected(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads until the server closes, which it has to do before the test loses its patience.
fn check_closed(mut stream: TcpStream) {
    let read = stream.read_to_end(&mut Vec::new());
    assert!(read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true), "{read:?}");
}

fn closed(server: &Server, reason: &str) -> u64 {
    metric(server, &format!(r#"model_server_connections_closed_total{{reason="{reason}"}}"#))
}

#[test]
fn who_begins_with_half_of_what_tells_the_protocol_is_held_to_the_time_of_a_head() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("REQUEST_SECONDS", "1"));
    let halves = [1, 3, PREFACE.len() - 1].map(|length| connected(server.address, &PREFACE[..length]));
    halves.into_iter().for_each(check_closed);
    assert_eq!(closed(&server, "head_timeout"), 3);
}

#[test]
fn the_beginning_of_http2_may_come_byte_by_byte() {
    let server = Server::of("v1");
    let mut stream = connected(server.address, &[]);
    for byte in PREFACE {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.write_all(&[frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END, 1, GET_HEALTH)].concat()).unwrap();
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
    assert_eq!(head[8], 1, "it is the answer");
}

#[test]
fn an_answer_over_http2_that_nobody_reads_holds_its_connection_no_longer_than_silence() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("IDLE_SECONDS", "1"));
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asked = [PREFACE, &no_window, &frame(HEADERS, END, 1, GET_HEALTH)].concat();
    check_closed(connected(server.address, &asked));
}

#[test]
fn half_a_beginning_does_not_hold_the_end_up() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("DRAIN_SECONDS", "600").env("REQUEST_SECONDS", "1"));
    let before = metric(&server, "model_server_connections");
    let beginnings = [&PREFACE[..3], b"GET /health HTTP/1.1\r\nhost: te"];
    let _held = beginnings.map(|begun| connected(server.address, begun));
    server.until("both are there", || metric(&server, "model_server_connections") == before + 2);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
}

/// As long as it takes the server to close so many connections for their silence, one after the other.
fn silences(address: SocketAddr, count: usize) {
    for _ in 0..count {
        assert!(Wire::to(address).unwrap().is_closed());
    }
}

#[test]
fn who_watches_the_health_is_not_idle() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("IDLE_SECONDS", "1"));
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let watch = call("/grpc.health.v1.Health/Watch", "application/grpc", body_of(&[]));
        let mut told = client.send_request(watch).await.unwrap().into_body();
        let mut next = async || told.frame().await.unwrap().unwrap().into_data().unwrap_or_default().to_vec();
        assert_eq!(next().await, [0, 0, 0, 0, 2, 8, 1]);
        let address = server.address;
        tokio::task::spawn_blocking(move || silences(address, 4)).await.unwrap();
        let check = call("/grpc.health.v1.Health/Check", "application/grpc", body_of(&[]));
        assert_eq!(ended(client.send_request(check).await.unwrap()).await.0, "0");
        server.signal(Signal::SIGTERM);
        assert_eq!(next().await, [0, 0, 0, 0, 2, 8, 2]);
    });
}

/// A server whose `/v1/model` is as large as this, and a client that has little room for it.
fn large_answer(bytes: usize) -> (tempfile::TempDir, Server, TcpStream) {
    let folder = copy_of("v1");
    let file = folder.path().join("model.json");
    let mut model: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    model["description"] = json!("x".repeat(bytes));
    std::fs::write(&file, model.to_string()).unwrap();
    let mut command = program(folder.path());
    let server = Server::start(command.env("IDLE_SECONDS", "1"));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (folder, server, stream)
}

#[test]
fn a_large_answer_that_is_read_slowly_comes_whole() {
    const LARGE: usize = 16 * 1024 * 1024;
    let (_folder, server, mut stream) = large_answer(LARGE);
    stream.write_all(b"GET /v1/model HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let hurries = AtomicBool::new(false);
    let mut read = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Thrice as long as who stands still may stay.
            silences(server.address, 6);
            hurries.store(true, Ordering::Relaxed);
        });
        let mut piece = vec![0; 16 * 1024];
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                count => read += count,
            }
            if !hurries.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(10));
            }
        }
        assert!(hurries.load(Ordering::Relaxed), "it was read slowly");
    });
    assert!(read > LARGE, "{read} bytes of an answer of more than {LARGE}");
}
