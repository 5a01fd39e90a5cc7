//! gRPC from end to end, with a real client and a real server of tonic, whose calls differ only by their first message.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use pointsman::outcome::Outcome;
use pointsman_config::{CertificateFiles, Protocol, UpstreamTls};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::harness::{PATIENCE, TestEdge, eventually, route};
use crate::pki::Pki;
use crate::speak::Speaks;

/// Messages are bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What the first message asks for: `fail N` at once, `late N` after one message, `count N` messages, `metadata NAME`, or
/// the echo of everything that comes.
#[derive(Debug, Clone, Copy)]
struct Oracle;

impl NamedService for Oracle {
    const NAME: &'static str = "test.Oracle";
}

impl StreamingService<Bytes> for Oracle {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(answer(request))
    }
}

async fn answer(request: Request<Streaming<Bytes>>) -> Result<Response<Answers>, Status> {
    let metadata = request.metadata().clone();
    let mut messages = request.into_inner();
    let first = messages.message().await?.unwrap_or_default();
    let text = String::from_utf8_lossy(&first).into_owned();
    let (order, word) = text.split_once(' ').unwrap_or((&text, ""));
    let failure = || Status::new(Code::from(word.parse::<i32>().unwrap()), "as you like");
    let answers: Answers = match order {
        "fail" => return Err(failure()),
        "late" => Box::pin(futures_util::stream::iter([Ok(first.clone()), Err(failure())])),
        "count" => Box::pin(futures_util::stream::iter(
            (0..word.parse().unwrap()).map(|n: u32| Ok(Bytes::from(n.to_string()))),
        )),
        "metadata" => {
            let value = metadata.get(word).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            Box::pin(futures_util::stream::iter([Ok(Bytes::from(value))]))
        }
        "hang" => std::future::pending().await,
        _ => Box::pin(futures_util::stream::iter([Ok(first)]).chain(messages)),
    };
    Ok(Response::new(answers))
}

impl Service<http::Request<tonic::body::Body>> for Oracle {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).streaming(Oracle, request).await) })
    }
}

fn identity(files: &CertificateFiles) -> Identity {
    let read = |path| std::fs::read(path).unwrap();
    Identity::from_pem(read(&files.certificate), read(&files.private_key))
}

/// A version that speaks gRPC; over TLS with clients that prove themselves, if there are certificates.
fn oracle(pki: Option<&Pki>) -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let mut server = Server::builder();
    if let Some(pki) = pki {
        let tls = ServerTlsConfig::new()
            .identity(identity(&pki.issue("oracle", &["oracle.test"])))
            .client_ca_root(Certificate::from_pem(pki.ca_pem()));
        server = server.tls_config(tls).unwrap();
    }
    tokio::spawn(server.add_service(Oracle).serve_with_incoming(incoming));
    address
}

/// An edge before a version, and a client before it.
struct Line {
    edge: TestEdge,
    client: Grpc<Channel>,
    name: String,
}

impl Line {
    async fn new(pki: &Pki, client: Speaks, secure_version: bool) -> Self {
        let version = oracle(secure_version.then_some(pki));
        let mut grpc = route();
        grpc.protocol = Protocol::H2c;
        if secure_version {
            grpc.protocol = Protocol::H2;
            grpc.upstream_tls = Some(UpstreamTls {
                ca: Some(pki.ca()),
                identity: Some(pki.issue("edge-client", &["edge.test"])),
                server_name: Some("oracle.test".to_owned()),
            });
        }
        let edge = client.edge(pki, grpc, &[version], &[]);
        let scheme = if client.is_secure() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", edge.address)).unwrap();
        if client.is_secure() {
            let tls =
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pki.ca_pem())).domain_name("model.test");
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let client_of_tonic = Grpc::new(endpoint.connect().await.unwrap());
        Self { edge, client: client_of_tonic, name: format!("{client:?}, secure version: {secure_version}") }
    }

    async fn all(pki: &Pki) -> Vec<Self> {
        let mut lines = Vec::new();
        for (client, secure) in
            [(Speaks::H2c, false), (Speaks::Http2Tls, true), (Speaks::H2c, true), (Speaks::Http2Tls, false)]
        {
            lines.push(Self::new(pki, client, secure).await);
        }
        lines
    }

    async fn unary(&mut self, request: Request<Bytes>) -> Result<Bytes, Status> {
        self.client.ready().await.unwrap();
        let path = "/test.Oracle/Ask".parse().unwrap();
        let asked = self.client.unary(request, path, Plain);
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time").map(Response::into_inner)
    }

    async fn ask(&mut self, text: &'static str) -> Result<Bytes, Status> {
        self.unary(Request::new(Bytes::from_static(text.as_bytes()))).await
    }

    async fn converse(&mut self, messages: impl Stream<Item = Bytes> + Send + 'static) -> Streaming<Bytes> {
        self.client.ready().await.unwrap();
        let asked = self.client.streaming(Request::new(messages), "/test.Oracle/Talk".parse().unwrap(), Plain);
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time").unwrap().into_inner()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_kind_pass_with_their_trailers() {
    let pki = Pki::new();
    for mut line in Line::all(&pki).await {
        assert_eq!(line.ask("hello").await.unwrap(), "hello", "{}", line.name);
        // Messages from the server only.
        let counted: Vec<_> = line.converse(tokio_stream::once(Bytes::from_static(b"count 500"))).await.collect().await;
        assert_eq!(counted.len(), 500, "{}", line.name);
        assert!(counted.iter().enumerate().all(|(number, message)| *message.as_ref().unwrap() == number.to_string()));
        // In turns: each message is answered before the next is sent.
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        send.send(Bytes::from_static(b"echo")).unwrap();
        let mut answers = line.converse(UnboundedReceiverStream::new(receive)).await;
        for number in 0..20 {
            let expected = if number == 0 { "echo".to_owned() } else { number.to_string() };
            let heard = tokio::time::timeout(PATIENCE, answers.message()).await.expect("a message in time");
            assert_eq!(heard.unwrap().unwrap(), expected, "{}", line.name);
            send.send(Bytes::from((number + 1).to_string())).unwrap();
        }
        drop(send);
        assert_eq!(answers.message().await.unwrap().unwrap(), "20");
        assert!(answers.message().await.unwrap().is_none());
        line.edge.expect_outcomes("v1", &[(Outcome::Success, 3)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_comes_through_in_trailers_and_without_a_body_and_the_versions_failures_count() {
    let pki = Pki::new();
    for mut line in Line::all(&pki).await {
        for (order, code) in [("fail 13", Code::Internal), ("late 13", Code::Internal), ("fail 14", Code::Unavailable)]
        {
            let status = line.ask(order).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (code, "as you like"), "{}: {order}", line.name);
        }
        line.edge.expect_outcomes("v1", &[(Outcome::Error, 3)]).await;
        // What the client did wrong, or the version declines, is an answer like another.
        for (order, code) in
            [("fail 3", Code::InvalidArgument), ("late 5", Code::NotFound), ("fail 8", Code::ResourceExhausted)]
        {
            assert_eq!(line.ask(order).await.unwrap_err().code(), code, "{}: {order}", line.name);
        }
        line.edge.expect_outcomes("v1", &[(Outcome::Success, 3), (Outcome::Error, 3)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_metadata_are_passed_on() {
    let pki = Pki::new();
    for mut line in Line::all(&pki).await {
        let mut request = Request::new(Bytes::from_static(b"metadata grpc-timeout"));
        request.set_timeout(Duration::from_secs(7));
        let heard = line.unary(request).await.unwrap();
        assert_eq!(heard, "7000000u", "{}", line.name);
        for (name, expected) in [("te", "trailers"), ("x-forwarded-for", "127.0.0.1")] {
            let heard = line.unary(Request::new(Bytes::from(format!("metadata {name}")))).await.unwrap();
            assert_eq!(heard, expected, "{}: {name}", line.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_client_cancels_is_nobodys_fault_and_frees_the_version() {
    let pki = Pki::new();
    let mut line = Line::new(&pki, Speaks::H2c, false).await;
    let cancelled = tokio::time::timeout(Duration::from_millis(300), line.ask("hang")).await;
    assert!(cancelled.is_err());
    line.edge.expect_outcomes("v1", &[(Outcome::ClientAbort, 1)]).await;
    assert!(eventually(|| line.edge.in_flight() == 0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_edge_are_statuses_that_clients_understand() {
    let (pki, version) = (Pki::new(), oracle(None));
    let mut narrow = route();
    narrow.protocol = Protocol::H2c;
    narrow.limits.body_bytes = 100;
    narrow.timeouts.total = Duration::from_millis(500);
    let lost = Speaks::H2c.edge(&pki, narrow.clone(), &[], &[]);
    let edge = Speaks::H2c.edge(&pki, narrow, &[version], &[]);
    for (edge, message, code) in [
        (&lost, Bytes::from_static(b"hello"), Code::Unavailable),
        (&edge, Bytes::from(vec![b'x'; 200]), Code::ResourceExhausted),
        (&edge, Bytes::from_static(b"hang"), Code::DeadlineExceeded),
    ] {
        let endpoint = Endpoint::from_shared(format!("http://{}", edge.address)).unwrap();
        let mut client = Grpc::new(endpoint.connect().await.unwrap());
        client.ready().await.unwrap();
        let asked = client.unary(Request::new(message), "/test.Oracle/Ask".parse().unwrap(), Plain);
        let status = tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time").unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(!status.message().is_empty() && status.metadata().contains_key("x-request-id"), "{status:?}");
    }
}
