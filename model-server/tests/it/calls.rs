//! What becomes of calls of gRPC, and how they are counted: with tonic's client.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use hyper::http::uri::PathAndQuery;
use prost::Message;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::overload::Inside;
use crate::server::{PATIENCE, Server, bundle, program, row};

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const SERVER_LIVE: &str = "/inference.GRPCInferenceService/ServerLive";

/// `ModelInferRequest`, as far as it is needed here.
#[derive(Clone, PartialEq, Message)]
struct Infer {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Input>,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(bool, repeated, tag = "1")]
    flags: Vec<bool>,
    #[prost(double, repeated, tag = "7")]
    numbers: Vec<f64>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    texts: Vec<Vec<u8>>,
}

/// Any answer: nobody looks at its fields here.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Anything {}

/// An order from so far away.
fn from(distance: f64) -> Infer {
    let input = |(name, value): (&String, &Value)| {
        let (datatype, contents) = match value {
            Value::Bool(flag) => ("BOOL", Contents { flags: vec![*flag], ..Contents::default() }),
            Value::String(text) => ("BYTES", Contents { texts: vec![text.clone().into()], ..Contents::default() }),
            number @ (Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                ("FP64", Contents { numbers: vec![number.as_f64().unwrap()], ..Contents::default() })
            }
        };
        Input { name: name.clone(), datatype: datatype.to_owned(), shape: vec![1], contents: Some(contents) }
    };
    let mut row = row();
    row["distance_km"] = distance.into();
    Infer { model_name: "delivery-time".to_owned(), inputs: row.as_object().unwrap().iter().map(input).collect() }
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.expect("no end in time") })
}

/// A connection of its own.
async fn client(address: SocketAddr) -> Grpc<Channel> {
    Grpc::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
}

async fn send(client: &mut Grpc<Channel>, path: &'static str, request: Request<Infer>) -> Result<(), Status> {
    client.ready().await.unwrap();
    let codec = ProstCodec::<Infer, Anything>::default();
    client.unary(request, PathAndQuery::from_static(path), codec).await.map(drop)
}

async fn infer(client: &mut Grpc<Channel>, message: Infer) -> Result<(), Status> {
    send(client, MODEL_INFER, Request::new(message)).await
}

/// A call with so many messages where one should stand.
async fn stream<S>(client: &mut Grpc<Channel>, messages: S) -> Result<(), Status>
where
    S: Stream<Item = Infer> + Send + 'static,
{
    client.ready().await.unwrap();
    let codec = ProstCodec::<Infer, Anything>::default();
    client.client_streaming(Request::new(messages), PathAndQuery::from_static(MODEL_INFER), codec).await.map(drop)
}

fn code(answer: Result<(), Status>) -> Code {
    answer.map_or_else(|status| status.code(), |()| Code::Ok)
}

/// What `/metrics` says of calls of gRPC.
struct Counted(String);

impl Counted {
    fn value<T: FromStr<Err: Debug>>(&self, metric: &str, more: &str) -> T {
        let series = format!(r#"{metric}{{{more}endpoint="grpc",model="delivery-time",version="v1"}} "#);
        self.0.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("0").parse().unwrap()
    }

    fn in_flight(&self) -> u64 {
        self.value("model_server_requests_in_flight", "")
    }

    /// So many ended in each of these codes, and none in another.
    fn check_ended(&self, codes: &[(u16, u64)]) {
        for (code, count) in codes {
            let found: u64 = self.value("model_server_requests_total", &format!(r#"code="{code}","#));
            assert_eq!(found, *count, "{code} in\n{}", self.0);
        }
        let measured: u64 = self.value("model_server_request_duration_seconds_count", "");
        assert_eq!(measured, codes.iter().map(|(_, count)| count).sum::<u64>(), "{}", self.0);
    }

    /// The same, and nothing is under way any more.
    fn check(&self, codes: &[(u16, u64)]) {
        self.check_ended(codes);
        assert_eq!(self.in_flight(), 0, "{}", self.0);
    }
}

fn of(server: &Server) -> Counted {
    Counted(server.get("/metrics").body)
}

fn inside(server: &Inside) -> Counted {
    Counted(server.ask("GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").2)
}

#[test]
fn calls_are_counted_as_their_answers_would_be_over_http() {
    let server = Server::start(program(&bundle("v1")).env("MAX_BODY_BYTES", "1000"));
    let health = "/grpc.health.v1.Health/Check";
    // What the health service reads as its own name stands where the model's does.
    let named = |name: &str| Infer { model_name: name.to_owned(), ..from(4.0) };
    block_on(async {
        let mut client = client(server.address).await;
        for (path, message, wanted) in [
            (SERVER_LIVE, Infer::default(), Code::Ok),
            (health, Infer::default(), Code::Ok),
            (health, named("other"), Code::NotFound),
            (MODEL_INFER, from(4.0), Code::Ok),
            (MODEL_INFER, from(-1.0), Code::InvalidArgument),
            (MODEL_INFER, named("other"), Code::NotFound),
            ("/inference.GRPCInferenceService/Nothing", from(4.0), Code::Unimplemented),
            ("/grpc.health.v1.Health/Nothing", from(4.0), Code::Unimplemented),
            (MODEL_INFER, named(&"x".repeat(1000)), Code::OutOfRange),
        ] {
            assert_eq!(code(send(&mut client, path, Request::new(message)).await), wanted, "{path}");
        }
        for (header, value, wanted) in
            [("grpc-encoding", "gzip", Code::Unimplemented), ("grpc-timeout", "soon", Code::InvalidArgument)]
        {
            let mut request = Request::new(from(4.0));
            request.metadata_mut().insert(header, value.parse().unwrap());
            assert_eq!(code(send(&mut client, MODEL_INFER, request).await), wanted, "{header}");
        }
        assert_eq!(code(stream(&mut client, stream::empty()).await), Code::Internal, "no message");
    });
    of(&server).check(&[(200, 3), (404, 4), (422, 1), (413, 1), (415, 1), (400, 2)]);
}

#[test]
fn a_call_is_measured_from_the_end_of_its_head() {
    let server = Server::start(program(&bundle("v1")).env("REQUEST_SECONDS", "1"));
    block_on(async {
        let late = stream(&mut client(server.address).await, stream::pending()).await;
        assert_eq!(code(late), Code::Aborted);
    });
    let counted = of(&server);
    counted.check(&[(408, 1)]);
    let seconds: f64 = counted.value("model_server_request_duration_seconds_sum", "");
    assert!(seconds >= 1.0, "{seconds} s, though its message was waited for");
}

#[test]
fn calls_whose_clients_leave_are_counted_as_such_wherever_they_stand() {
    let server = Inside::start(10_000, 1);
    server.model.held.store(true, Ordering::Relaxed);
    block_on(async {
        // One under way, one in the queue, and one whose message does not come: what breaks off is told from what is waited for.
        let mut calls = Vec::new();
        for comes in [true, true, false] {
            let mut client = client(server.address).await;
            calls.push(tokio::spawn(async move {
                if comes { infer(&mut client, from(4.0)).await } else { stream(&mut client, stream::pending()).await }
            }));
        }
        while inside(&server).in_flight() < 3 || server.waiting() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        inside(&server).check_ended(&[]);
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        while inside(&server).in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    server.model.held.store(false, Ordering::Relaxed);
    Inside::until("nobody waits", || server.waiting() == 0);
    inside(&server).check(&[(499, 2), (400, 1)]);
}

#[test]
fn calls_that_fail_or_find_no_room_are_counted_as_such() {
    let server = Inside::start(1, 1);
    let passes = || server.model.passes.load(Ordering::Relaxed);
    block_on(async {
        let mut client = client(server.address).await;
        assert_eq!(code(infer(&mut client, from(13.0)).await), Code::Internal);
        let before = passes();
        server.model.held.store(true, Ordering::Relaxed);
        let mut other = client.clone();
        let held = tokio::spawn(async move { infer(&mut other, from(4.0)).await });
        while passes() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = infer(&mut client, from(4.0)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.metadata().contains_key("x-pointsman-shed") && refused.metadata().contains_key("retry-after"));
        server.model.held.store(false, Ordering::Relaxed);
        assert_eq!(code(held.await.unwrap()), Code::Ok);
    });
    inside(&server).check(&[(200, 1), (429, 1), (500, 1)]);
}
