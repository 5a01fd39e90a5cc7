//! An edge on loopback inside the test, with one route, and raw ends on both of its sides.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pointsman::control::publisher::{Publisher, RoutePicture};
use pointsman::listen::{Listeners, Patience, Serving};
use pointsman::outcome::Outcome;
use pointsman::recorder::Counts;
use pointsman::snapshot::Snapshots;
use pointsman_config::{Listener, ListenerTls, Route, Share, Split, Version, VersionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);
pub const WORKERS: usize = 2;

pub fn id(name: &str) -> VersionId {
    name.parse().unwrap()
}

/// A route for every path, with v1 stable and v2 its canary.
pub fn route() -> Route {
    let versions = ["v1", "v2"].map(|name| (id(name), Version::at(Vec::new())));
    Route::new("model".parse().unwrap(), id("v1"), versions.into())
}

/// An edge with one route.
pub struct TestEdge {
    pub address: SocketAddr,
    pub publisher: Publisher,
    pub serving: Option<Serving>,
    pub route: Route,
    endpoints: BTreeMap<VersionId, Vec<SocketAddr>>,
}

/// An edge whose plain requests take the fast lane, or the framework's way: the same suites run over both.
pub struct OneLane<const FAST: bool>(TestEdge);

impl<const FAST: bool> OneLane<FAST> {
    pub fn start(v1: &[SocketAddr]) -> Self {
        Self::with(route(), v1, &[])
    }

    pub fn with(route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
        Self::patient(Patience::default(), route, v1, v2)
    }

    pub fn patient(patience: Patience, route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
        let edge = TestEdge::patient(patience, route, v1, v2);
        edge.publisher.set_fast_lane(FAST);
        Self(edge)
    }
}

impl<const FAST: bool> Deref for OneLane<FAST> {
    type Target = TestEdge;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<const FAST: bool> DerefMut for OneLane<FAST> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl TestEdge {
    pub fn start(v1: &[SocketAddr]) -> Self {
        Self::with(route(), v1, &[])
    }

    pub fn with(route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
        Self::patient(Patience::default(), route, v1, v2)
    }

    pub fn patient(patience: Patience, route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
        Self::listening(None, patience, route, v1, v2)
    }

    /// With clients over TLS, if there are certificates for that.
    pub fn listening(
        tls: Option<ListenerTls>,
        patience: Patience,
        route: Route,
        v1: &[SocketAddr],
        v2: &[SocketAddr],
    ) -> Self {
        let snapshots = Arc::new(Snapshots::default());
        let mut publisher = Publisher::new(Arc::clone(&snapshots), WORKERS);
        let endpoints = BTreeMap::from([(id("v1"), v1.to_vec()), (id("v2"), v2.to_vec())]);
        publisher.publish(&[picture(&route, 0, &endpoints)]);
        let any_port = Listener { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls };
        let listeners = Listeners::bind(&[any_port], WORKERS).unwrap();
        let address = listeners.addresses()[0];
        let serving = Some(listeners.serve(&snapshots, patience).unwrap());
        Self { address, publisher, serving, route, endpoints }
    }

    /// Gives v2 this share, in parts per million.
    pub fn set_weight(&mut self, ppm: u32) -> u64 {
        self.publisher.publish(&[picture(&self.route, ppm, &self.endpoints)])
    }

    pub fn in_flight(&self) -> usize {
        self.serving.as_ref().unwrap().in_flight()
    }

    pub fn counts(&self, version: &str) -> Counts {
        self.publisher.ledger(&self.route.name).unwrap().totals().remove(&id(version)).unwrap_or_default()
    }

    /// How many requests of a version ended in each outcome, those that occurred only.
    pub fn outcomes(&self, version: &str) -> Vec<(Outcome, u64)> {
        let counts = self.counts(version);
        Outcome::ALL.into_iter().zip(counts.outcomes).filter(|(_, count)| *count > 0).collect()
    }

    /// Waits until the outcomes of a version are just these.
    pub async fn expect_outcomes(&self, version: &str, expected: &[(Outcome, u64)]) {
        let reached = eventually(|| self.outcomes(version) == expected).await;
        assert!(reached, "{version}: {:?} instead of {expected:?}", self.outcomes(version));
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request.as_bytes()).await;
        client.answer().await.expect("an answer")
    }
}

fn picture<'a>(route: &'a Route, ppm: u32, endpoints: &'a BTreeMap<VersionId, Vec<SocketAddr>>) -> RoutePicture<'a> {
    let split = if ppm == 0 {
        Split::Whole(id("v1"))
    } else {
        Split::canary(id("v1"), id("v2"), Share::from_ppm(ppm).unwrap())
    };
    RoutePicture { route: Arc::new(route.clone()), stable: id("v1"), split, trial: 0, endpoints }
}

/// Waits for a condition; false if it does not come true.
pub async fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// An address that nobody listens on, and that no other test gets: it stays taken.
pub async fn dead_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// A client that writes and reads bytes.
pub struct Client {
    pub tcp: TcpStream,
    received: Vec<u8>,
}

/// An answer as it came over the wire.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The `code` of a problem that the edge tells of itself.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        body["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(tcp)
    }

    pub fn over(tcp: TcpStream) -> Self {
        Self { tcp, received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
    }

    /// The next answer to a request other than HEAD, interim ones skipped; none if the connection ends before it is whole.
    pub async fn answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(true)).await.expect("an answer or an end in time")
    }

    /// The next answer to a HEAD request.
    pub async fn answer_to_head(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(false)).await.expect("an answer or an end in time")
    }

    async fn read_answer(&mut self, with_body: bool) -> Option<Answer> {
        loop {
            let head = self.read_head().await?;
            let status: u16 = head[9..12].parse().unwrap();
            if status < 200 {
                continue;
            }
            let mut answer = Answer { status, head, body: Vec::new() };
            let chunked = answer.header("transfer-encoding") == Some("chunked");
            let length = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
            answer.body = match (with_body && status != 204, chunked, length) {
                (false, _, _) => Vec::new(),
                (true, true, _) => self.read_chunks().await?,
                (true, false, Some(length)) => self.take(length).await?,
                (true, false, None) => self.rest().await,
            };
            return Some(answer);
        }
    }

    async fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                return Some(String::from_utf8(self.received.drain(..end + 4).collect()).unwrap());
            }
            self.read_more().await?;
        }
    }

    async fn read_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
            body.extend(self.take(size).await?);
            assert_eq!(self.line().await?, "");
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// The next chunk of a chunked answer whose head has been read by [`Client::head`].
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
        let chunk = self.take(size).await?;
        self.line().await?;
        Some(chunk)
    }

    /// The head of an answer alone.
    pub async fn head(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.read_head()).await.expect("a head in time")
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            self.read_more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.received.len() < length {
            self.read_more().await?;
        }
        Some(self.received.drain(..length).collect())
    }

    async fn read_more(&mut self) -> Option<()> {
        match self.tcp.read_buf(&mut self.received).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Everything until the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        let all = async { while self.read_more().await.is_some() {} };
        tokio::time::timeout(PATIENCE, all).await.expect("the end in time");
        std::mem::take(&mut self.received)
    }
}

/// A model server that does with each connection what the test says.
pub struct RawServer {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

/// One connection of a [`RawServer`].
pub struct RawConnection {
    pub tcp: TcpStream,
    /// 0 for the first.
    pub number: usize,
    log: Arc<Mutex<Vec<u8>>>,
    unread: Vec<u8>,
}

impl RawServer {
    pub async fn start<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(RawConnection) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, log) = (Arc::clone(&connections), Arc::clone(&received));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, SeqCst);
                tokio::spawn(serve(RawConnection { tcp, number, log: Arc::clone(&log), unread: Vec::new() }));
            }
        });
        Self { address, connections, received, task }
    }

    /// One whose answer has no end that a test would wait for: it sends as long as somebody takes it.
    pub async fn sending_on_and_on() -> Self {
        Self::start(|mut connection| async move {
            connection.request().await;
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            let piece = "x".repeat(1 << 20);
            while connection.send(&piece).await {}
        })
        .await
    }

    /// One that answers every request with `answer`.
    pub async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut connection| async move {
            while connection.request().await.is_some() && connection.send(answer).await {}
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Everything that it was ever sent.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawConnection {
    /// Reads one whole request; none if the connection ends before.
    pub async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = whole_request(&self.unread) {
                let request: Vec<u8> = self.unread.drain(..end).collect();
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
            self.read().await?;
        }
    }

    /// Reads what comes next; none at the end.
    pub async fn read(&mut self) -> Option<()> {
        let from = self.unread.len();
        match self.tcp.read_buf(&mut self.unread).await {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                self.log.lock().unwrap().extend_from_slice(&self.unread[from..]);
                Some(())
            }
        }
    }

    pub async fn send(&mut self, text: &str) -> bool {
        self.tcp.write_all(text.as_bytes()).await.is_ok()
    }
}

fn whole_request(bytes: &[u8]) -> Option<usize> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        let end = bytes[head_end..].windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(head_end + end + 5);
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    (bytes.len() >= head_end + length).then_some(head_end + length)
}

pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: model.test\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: model.test\r\n\r\n")
}
