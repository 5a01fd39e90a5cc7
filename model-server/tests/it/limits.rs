//! Who would keep a server busy without asking it anything: too many connections, too many bytes, bytes one by one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::python;
use crate::server::{PATIENCE, Server, Wire, bundle, predict_request, program, row};

/// What `/metrics` says of a series.
pub(crate) fn metric(server: &Server, series: &str) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// One answered request, and the connection that is kept.
fn served(server: &Server) -> Wire {
    let mut wire = Wire::to(server.address).unwrap();
    wire.write(&predict_request(&row().to_string())).unwrap();
    assert_eq!(wire.read().unwrap().0, 200);
    wire
}

fn asked(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut wire = Wire::to(address).unwrap();
    wire.write(request).unwrap();
    let answer = wire.read().unwrap();
    assert!(wire.is_closed(), "one answer, no more");
    answer
}

pub(crate) fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.expect("no answer in time") })
}

pub(crate) type Chunks =
    StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::convert::Infallible>>>;

/// A connection of HTTP/2.
pub(crate) async fn multiplexed(address: SocketAddr) -> SendRequest<Chunks> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A body of these pieces, which then ends, or is left open.
pub(crate) fn body(pieces: Vec<Bytes>, ends: bool) -> Chunks {
    use futures_util::StreamExt as _;
    let pieces = futures_util::stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    let rest = futures_util::stream::pending();
    StreamBody::new(if ends { pieces.boxed() } else { pieces.chain(rest).boxed() })
}

pub(crate) fn call(path: &str, kind: &str, body: Chunks) -> Request<Chunks> {
    let request = Request::post(format!("http://test{path}")).header("content-type", kind).header("te", "trailers");
    request.body(body).unwrap()
}

/// What a call of gRPC ended with, wherever it stands: status, and the message that came before.
pub(crate) async fn ended(answer: Response<hyper::body::Incoming>) -> (String, HeaderMap, Bytes) {
    let head = answer.headers().clone();
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or(head.get("grpc-status")).map(|status| status.to_str().unwrap());
    (status.unwrap_or_default().to_owned(), head.clone(), body.to_bytes())
}

#[test]
fn connections_on_top_get_one_clear_answer_and_health_goes_on() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_CONNECTIONS", "3"));
    // The test's own client keeps the connection that it asks for metrics with.
    let kept = [served(&server), served(&server)];
    assert_eq!(metric(&server, "model_server_connections"), 3);
    let (status, head, body) = asked(server.address, &predict_request(&row().to_string()));
    assert!(status == 503 && body.contains("server_full") && body.contains("MAX_CONNECTIONS"), "{status} {body}");
    assert!(head.contains("x-pointsman-shed: 1\r\n") && head.contains("retry-after: 1\r\n"), "{head}");
    for path in ["/health", "/ready"] {
        assert_eq!(asked(server.address, &format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).0, 200);
    }
    block_on(async {
        let mut client = multiplexed(server.address).await;
        for probe in ["grpc.health.v1.Health/Check", "inference.GRPCInferenceService/ServerReady"] {
            let call = call(&format!("/{probe}"), "application/grpc", body_of(&[]));
            assert_eq!(ended(client.send_request(call).await.unwrap()).await.0, "0", "{probe}");
        }
        let call = call("/inference.GRPCInferenceService/ServerMetadata", "application/grpc", body_of(&[]));
        let (status, head, _) = ended(client.send_request(call).await.unwrap()).await;
        assert_eq!((status.as_str(), head["x-pointsman-shed"].as_bytes()), ("14", &b"1"[..]));
    });
    assert!(metric(&server, "model_server_connections_refused_total") >= 4);
    drop(kept);
    server.until("there is room again", || {
        let mut wire = Wire::to(server.address).unwrap();
        wire.write(&predict_request(&row().to_string())).unwrap();
        wire.read().is_ok_and(|(status, ..)| status == 200)
    });
}

/// One message of gRPC.
pub(crate) fn body_of(message: &[u8]) -> Chunks {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    body(vec![[&[0], &length[..], message].concat().into()], true)
}

#[test]
fn bodies_share_their_room_over_all_connections() {
    let mut command = program(&bundle("v1"));
    command.env("MAX_BODY_BYTES", "100000").env("MAX_BODIES_BYTES", "150000");
    let server = Server::start(&mut command);
    let head = "POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n";
    let mut first = Wire::to(server.address).unwrap();
    first.write(&(head.to_owned() + &" ".repeat(60_000))).unwrap();
    server.until("the first body is being read", || metric(&server, "model_server_body_bytes") >= 60_000);
    let mut second = Wire::to(server.address).unwrap();
    second.write(&(head.to_owned() + &" ".repeat(99_999))).unwrap();
    let (status, head, body) = second.read().unwrap();
    assert!(status == 503 && body.contains("server_full") && body.contains("MAX_BODIES_BYTES"), "{status} {body}");
    assert!(head.contains("x-pointsman-shed: 1\r\n"), "{head}");
    // What comes with its head takes no room, so that small requests go on.
    served(&server);
    first.write(&" ".repeat(40_000)).unwrap();
    assert_eq!(first.read().unwrap().0, 422);
    server.until("its room is given back", || metric(&server, "model_server_body_bytes") == 0);
}

#[test]
fn who_is_still_sending_reads_why_there_is_no_room() {
    let mut command = program(&bundle("v1"));
    command.env("MAX_BODY_BYTES", "8000000").env("MAX_BODIES_BYTES", "9000000");
    let server = Server::start(&mut command);
    let head = "POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: 8000000\r\n\r\n";
    let mut first = Wire::to(server.address).unwrap();
    first.write(&(head.to_owned() + &" ".repeat(7_999_999))).unwrap();
    server.until("the first body is being read", || metric(&server, "model_server_body_bytes") == 8_000_000);
    // Far more than lies between two sockets: a client as most are, that sends all of it before it reads.
    let mut second = Wire::to(server.address).unwrap();
    second.write(&(head.to_owned() + &" ".repeat(8_000_000))).unwrap();
    let (status, _, body) = second.read().unwrap();
    assert!(status == 503 && body.contains("MAX_BODIES_BYTES"), "{status} {body}");
    second.write(&predict_request(&row().to_string())).unwrap();
    assert_eq!(second.read().unwrap().0, 200, "the connection goes on");
}

#[test]
fn clients_of_http2_share_it_among_their_streams() {
    let Some(python) = python::with("httpx", &["httpx[http2]==0.28.1"]) else {
        return;
    };
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_BODY_BYTES", "2000000").env("MAX_BODIES_BYTES", "3000000"));
    python.run("sharing_uploads.py", &[&server.address.to_string()]);
}

#[test]
fn bodies_that_were_only_promised_take_no_room_from_others() {
    let mut command = program(&bundle("v1"));
    command.env("MAX_BODY_BYTES", "100000").env("MAX_BODIES_BYTES", "150000");
    let server = Server::start(&mut command);
    let promise = "POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n ";
    let promising: Vec<_> = (0..32)
        .map(|_| {
            let mut wire = Wire::to(server.address).unwrap();
            wire.write(promise).unwrap();
            wire
        })
        .collect();
    server.until("all of them are being read", || metric(&server, "model_server_body_bytes") == 32);
    let mut other = Wire::to(server.address).unwrap();
    other.write(&predict_request(&" ".repeat(100_000))).unwrap();
    let (status, _, body) = other.read().unwrap();
    assert_eq!(status, 422, "{body}");
    drop(promising);
    server.until("their room is given back", || metric(&server, "model_server_body_bytes") == 0);
}

#[test]
fn who_asks_how_a_server_is_that_has_no_room_for_bodies_gets_an_answer() {
    let mut command = program(&bundle("v1"));
    command.env("MAX_BODY_BYTES", "100000").env("MAX_BODIES_BYTES", "100000");
    let server = Server::start(&mut command);
    let head = "POST /v1/predict HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n";
    let mut first = Wire::to(server.address).unwrap();
    first.write(&(head.to_owned() + &" ".repeat(99_999))).unwrap();
    server.until("the body is being read", || metric(&server, "model_server_body_bytes") >= 99_999);
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let check = call("/grpc.health.v1.Health/Check", "application/grpc", body_of(&[]));
        assert_eq!(ended(client.send_request(check).await.unwrap()).await.0, "0");
        let infer = call("/inference.GRPCInferenceService/ModelInfer", "application/grpc", body_of(&[0; 5_000]));
        assert_eq!(ended(client.send_request(infer).await.unwrap()).await.0, "14");
    });
}

#[test]
fn a_message_of_many_empty_inputs_is_refused_before_it_is_built() {
    let server = Server::of("v1");
    block_on(async {
        let mut client = multiplexed(server.address).await;
        // A million inputs, of two bytes each, and of some hundreds once they are built.
        let infer = body_of(&[0x2a, 0].repeat(1 << 20));
        let infer = call("/inference.GRPCInferenceService/ModelInfer", "application/grpc", infer);
        let (status, head, _) = ended(client.send_request(infer).await.unwrap()).await;
        assert_eq!(status, "3", "{head:?}");
    });
    assert!(server.peak_bytes() < 200 << 20, "{} bytes", server.peak_bytes());
}

#[test]
fn streams_of_one_connection_share_it_too() {
    let mut command = program(&bundle("v1"));
    command.env("MAX_BODY_BYTES", "100000").env("MAX_BODIES_BYTES", "150000");
    let server = Server::start(&mut command);
    let half = || vec![Bytes::from(vec![b' '; 40_000]), Bytes::from(vec![b' '; 40_000])];
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let mut other = client.clone();
        let waiting = tokio::spawn(async move {
            client.send_request(call("/v1/predict", "application/json", body(half(), false))).await
        });
        while metric(&server, "model_server_body_bytes") < 80_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = other.send_request(call("/v1/predict", "application/json", body(half(), false))).await.unwrap();
        assert_eq!(refused.status(), 503);
        let message = body(vec![Bytes::from([&[0, 0, 1, 0x5f, 0x90][..], &[0; 80_000]].concat())], false);
        let refused = call("/inference.GRPCInferenceService/ModelInfer", "application/grpc", message);
        assert_eq!(ended(other.send_request(refused).await.unwrap()).await.0, "14");
        waiting.abort();
    });
    server.until("their room is given back", || metric(&server, "model_server_body_bytes") == 0);
}

#[test]
fn a_head_that_comes_byte_by_byte_ends_with_its_connection() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("REQUEST_SECONDS", "1"));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut dripping = stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        let bytes = b"GET /health HTTP/1.1\r\nx-long: ".iter().chain(std::iter::repeat(&b'a'));
        // It ends when nobody listens any more.
        let mut sent = |byte: &&u8| {
            thread::park_timeout(Duration::from_millis(20));
            dripping.write_all(&[**byte]).is_ok()
        };
        bytes.take(10_000).take_while(|byte| sent(byte)).count()
    });
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "closed without an answer");
    assert!(drip.join().unwrap() < 10_000);
    assert_eq!(metric(&server, r#"model_server_connections_closed_total{reason="head_timeout"}"#), 1);
}

#[test]
fn a_message_of_grpc_that_does_not_come_is_not_waited_for_forever() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("REQUEST_SECONDS", "1"));
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let half = body(vec![Bytes::from_static(&[0, 0, 0, 0, 9, 1])], false);
        let call = call("/inference.GRPCInferenceService/ModelInfer", "application/grpc", half);
        assert_eq!(ended(client.send_request(call).await.unwrap()).await.0, "10");
    });
}

#[test]
fn who_watches_the_health_is_held_to_the_same() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("REQUEST_SECONDS", "1"));
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let mut watch = async |body| {
            let call = call("/grpc.health.v1.Health/Watch", "application/grpc", body);
            ended(client.send_request(call).await.unwrap()).await.0
        };
        assert_eq!(watch(body(vec![Bytes::from_static(&[0, 0, 0, 0, 9, 1])], false)).await, "10", "too slow");
        assert_eq!(watch(body_of(&[0x0a; 5_000])).await, "11", "too long");
    });
}

/// A connection on top asks nothing, and leaves after a moment.
#[test]
fn connections_on_top_take_no_place_of_those_that_are_served() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("MAX_CONNECTIONS", "3"));
    let open = || metric(&server, "model_server_connections");
    // The test's own client keeps the connection that it asks for metrics with.
    let kept = [served(&server), served(&server)];
    assert_eq!(open(), 3);
    let on_top: Vec<_> = (0..10).map(|_| Wire::to(server.address).unwrap()).collect();
    server.until("they are there", || metric(&server, "model_server_connections_refused_total") == 10);
    drop(kept);
    server.until("there is room", || open() <= 11);
    drop(served(&server));
    drop(on_top);
}

/// With the limit on open files that `ulimit` sets.
fn limited(ulimit: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!(r#"{ulimit} && exec "$0""#), env!("CARGO_BIN_EXE_model-server")]);
    command.env_clear().env("MODEL_PATH", bundle("v1")).env("PORT", "0").env("THREADS", "2");
    command
}

#[test]
fn the_soft_limit_of_open_files_bounds_no_connections() {
    let server = Server::start(&mut limited("ulimit -S -n 100"));
    let kept: Vec<_> = (0..150).map(|_| served(&server)).collect();
    assert_eq!(metric(&server, "model_server_connections"), 151);
    drop(kept);
}

#[test]
fn where_no_more_files_may_be_open_fewer_connections_are_served_and_health_goes_on() {
    let server = Server::start(&mut limited("ulimit -n 200"));
    let request = predict_request(&row().to_string());
    let mut statuses = Vec::new();
    let kept: Vec<_> = (0..80)
        .map(|_| {
            let mut wire = Wire::to(server.address).unwrap();
            wire.write(&request).unwrap();
            statuses.push(wire.read().unwrap().0);
            wire
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 63, "{statuses:?}");
    assert!(statuses.iter().skip(63).all(|status| *status == 503), "{statuses:?}");
    assert_eq!(server.get("/health").status, 200);
    drop(kept);
}

#[test]
fn a_connection_without_a_request_is_closed_in_the_end_and_one_at_work_is_not() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("IDLE_SECONDS", "1"));
    let closed = || metric(&server, r#"model_server_connections_closed_total{reason="idle"}"#);
    let (mut used, mut unused) = (served(&server), Wire::to(server.address).unwrap());
    assert!(used.is_closed() && unused.is_closed());
    assert!(closed() >= 2);
    let mut busy = Wire::to(server.address).unwrap();
    let request = predict_request(&row().to_string());
    let (sent, held_back) = request.split_at(request.len() - 20);
    busy.write(sent).unwrap();
    let before = closed();
    let idle = Wire::to(server.address).unwrap();
    server.until("one that came later is closed", || closed() > before);
    busy.write(held_back).unwrap();
    assert_eq!(busy.read().unwrap().0, 200);
    drop(idle);
}

#[test]
fn health_is_told_over_grpc_as_probes_ask_for_it() {
    let server = Server::of("v1");
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let mut check = async |message: &[u8]| {
            let call = call("/grpc.health.v1.Health/Check", "application/grpc", body_of(message));
            let (status, _, body) = ended(client.send_request(call).await.unwrap()).await;
            (status, body.to_vec())
        };
        let serving = vec![0, 0, 0, 0, 2, 8, 1];
        assert_eq!(check(&[]).await, ("0".to_owned(), serving.clone()));
        let service = b"inference.GRPCInferenceService";
        let named = [&[10, u8::try_from(service.len()).unwrap()], &service[..]].concat();
        assert_eq!(check(&named).await, ("0".to_owned(), serving.clone()));
        assert_eq!(check(b"\x0a\x05other").await.0, "5");
    });
    block_on(async {
        let mut client = multiplexed(server.address).await;
        let call = call("/grpc.health.v1.Health/Watch", "application/grpc", body_of(&[]));
        let mut answer = client.send_request(call).await.unwrap().into_body();
        let mut told =
            async || answer.frame().await.map(|frame| frame.unwrap().into_data().unwrap_or_default().to_vec());
        assert_eq!(told().await, Some(vec![0, 0, 0, 0, 2, 8, 1]));
        server.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(told().await, Some(vec![0, 0, 0, 0, 2, 8, 2]), "then it says that it drains");
    });
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
}
