//! One client's HTTP/2 connection: every stream is a request of its own, with its own exchange and deadline.
//!
//! Line: connection ► **http2** ► guard ► edge. Frames, windows and header compression are the `h2` crate's; how many
//! streams there may be, how long they last and when the connection ends is decided here.

mod io;
mod session;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::server::{Builder, Connection, SendResponse};
use http::request::Parts;
use http::{Method, Request, Version};
use pingora_core::apps::HttpServerApp as _;
use pingora_core::protocols::http::ServerSession;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use self::io::{Http2Io, Passage};
use self::session::{Http2Session, Http2Stream};
use super::connection::{Shared, drained, leaves_no_time, until_deadline};
use super::deadline::Alarm;
use super::exchange::{Arrival, Client, Exchange};
use super::socket::ClientSocket;
use crate::answer::{LastWords, Refusal};
use crate::forward;
use crate::guard;
use crate::observe::Unread;
use crate::streams::is_grpc;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests that one connection may have in flight.
const MAX_STREAMS: u32 = 256;
/// How much of one request's body may be on its way before any of it is taken.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for all of a connection's: what one client can make the edge keep.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How much of an answer is kept for a client that takes it slowly.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// Streams that a client may have reset before they were looked at (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams that a client may make the edge reset by breaking the protocol (CVE-2025-8671).
const PROVOKED_RESETS: usize = 64;
/// Requests that a client may give up or write wrongly beyond those that end well. Giving up is honest now and then; who
/// does little else makes the edge and the versions work for nothing.
const WASTE: u32 = 100;
/// How long a connection that is left may take to close.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client may take nothing of what is still to be sent on a connection that is left.
const STALL: Duration = Duration::from_secs(10);

/// Whether what was received may be the beginning of an HTTP/2 connection.
pub(super) fn is_begun_by(received: &[u8]) -> bool {
    let known = received.len().min(PREFACE.len());
    received.get(..known) == PREFACE.get(..known)
}

/// Serves a client that speaks HTTP/2 and has begun with `received`.
pub(super) async fn serve(shared: Arc<Shared>, socket: Arc<ClientSocket>, received: BytesMut) {
    let client = socket.exchange.client.clone();
    let options = options(shared.snapshots.largest_head_bytes());
    let passage = Arc::new(Passage::default());
    let handshake = options.handshake(Http2Io::new(socket, received, Arc::clone(&passage)));
    let shaken = tokio::select! {
        shaken = timeout(shared.patience.head, handshake) => shaken,
        () = leaves_no_time(&shared) => return,
    };
    let Ok(Ok(connection)) = shaken else { return };
    Http2Connection::new(shared, client, connection, passage).run().await;
}

fn options(largest_head_bytes: u64) -> Builder {
    let mut options = Builder::new();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(largest_head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS));
    options
}

/// A connection and its streams.
struct Http2Connection {
    shared: Arc<Shared>,
    client: Client,
    connection: Connection<Http2Io, Bytes>,
    passage: Arc<Passage>,
    streams: JoinSet<Ended>,
    drain: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    /// Rings when the connection has been without a stream for too long.
    idle: Pin<Box<Sleep>>,
    patience: Duration,
    served: u32,
    waste_left: u32,
    /// Whether the client has been told that no new stream is taken.
    leaving: bool,
    /// When it took something last, as far as was looked since.
    took: Instant,
}

/// How a stream ended.
struct Ended {
    /// Whether the client made work for nothing.
    wasted: bool,
    /// How long the route lets its clients be idle.
    idle: Option<Duration>,
}

/// What happens next on a connection.
enum Event {
    Began(Box<(Request<h2::RecvStream>, SendResponse<Bytes>)>),
    Ended(Ended),
    /// The edge has had enough.
    Leave,
    Closed,
}

impl Http2Connection {
    fn new(shared: Arc<Shared>, client: Client, connection: Connection<Http2Io, Bytes>, passage: Arc<Passage>) -> Self {
        let patience = shared.patience.head;
        Self {
            client,
            connection,
            passage,
            streams: JoinSet::new(),
            drain: Box::pin(drained(shared.draining.clone())),
            idle: Box::pin(sleep(patience)),
            patience,
            served: 0,
            waste_left: WASTE,
            leaving: false,
            took: Instant::now(),
            shared,
        }
    }

    async fn run(mut self) {
        loop {
            match self.next().await {
                Event::Began(stream) => self.begin(*stream),
                Event::Ended(ended) => {
                    if !self.account(&ended) {
                        return self.break_off().await;
                    }
                }
                Event::Leave if self.leaving && self.still_sends() => self.wait(FAREWELL),
                Event::Leave if self.leaving => return,
                Event::Leave => self.leave(),
                Event::Closed => return,
            }
        }
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            () = &mut self.drain, if !self.leaving => Event::Leave,
            Some(ended) = self.streams.join_next() => {
                // A stream that panicked is reset by its drop, and the others go on.
                Event::Ended(ended.unwrap_or(Ended { wasted: false, idle: None }))
            }
            accepted = self.connection.accept() => match accepted {
                Some(Ok(stream)) => Event::Began(Box::new(stream)),
                Some(Err(error)) => {
                    debug!(%error, "HTTP/2 connection broke");
                    Event::Closed
                }
                None => Event::Closed,
            },
            () = &mut self.idle, if self.streams.is_empty() => Event::Leave,
        }
    }

    fn begin(&mut self, (request, respond): (Request<h2::RecvStream>, SendResponse<Bytes>)) {
        self.served += 1;
        if self.served == self.shared.patience.requests_per_connection {
            self.leave();
        }
        let exchange = Arc::new(Exchange::new(self.client.clone(), Arc::clone(&self.shared.cut)));
        let stream = Arc::new(Http2Stream::new(exchange, respond, is_grpc(request.headers())));
        self.streams.spawn(serve_stream(Arc::clone(&self.shared), stream, request));
    }

    /// Takes note of the end of a stream; false if the client has wasted too many.
    fn account(&mut self, ended: &Ended) -> bool {
        self.patience = ended.idle.unwrap_or(self.patience);
        if self.streams.is_empty() {
            self.wait(if self.leaving { FAREWELL } else { self.patience });
        }
        if !ended.wasted {
            self.waste_left = (self.waste_left + 1).min(WASTE);
            return true;
        }
        self.waste_left = self.waste_left.saturating_sub(1);
        self.waste_left > 0
    }

    /// Takes no new streams; those that are there go on (RFC 9113, section 6.8).
    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
        self.took = Instant::now();
        self.wait(FAREWELL);
    }

    /// Has the connection be without a stream for so long from now.
    fn wait(&mut self, patience: Duration) {
        self.idle.as_mut().reset((Instant::now() + patience).into());
    }

    /// Whether answers that ended are still on their way to a client that takes them, however slowly.
    fn still_sends(&mut self) -> bool {
        let now = Instant::now();
        if self.passage.was_used() {
            self.took = now;
        }
        self.passage.is_blocked() && now.saturating_duration_since(self.took) < STALL
    }

    async fn break_off(mut self) {
        debug!(client = %self.client.ip, "HTTP/2 client gives up nearly all it asks for; connection closed");
        self.streams.abort_all();
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let farewell = async { while self.connection.accept().await.is_some_and(|next| next.is_ok()) {} };
        // A client that does not take the farewell is left without.
        drop(timeout(FAREWELL, farewell).await);
    }
}

/// Has the edge answer one request.
async fn serve_stream(shared: Arc<Shared>, stream: Arc<Http2Stream>, request: Request<h2::RecvStream>) -> Ended {
    let (parts, body) = request.into_parts();
    let exchange = Arc::clone(&stream.exchange);
    let head = match guard::check_parsed(&parts, body.is_end_stream()) {
        Ok(head) => head,
        Err(refusal) => {
            refuse(&shared, &stream, refusal, &parts);
            return Ended { wasted: true, idle: None };
        }
    };
    let arrival = Arrival { head, started: Instant::now(), is_last: false };
    let body_left = if body.is_end_stream() { 0 } else { u64::MAX };
    exchange.begin(arrival, body_left, shared.patience.head);
    let request = guard::into_request(parts, &exchange);
    let session = ServerSession::new_custom(Box::new(Http2Session::new(request, body, Arc::clone(&stream))));
    let mut work = Box::pin(shared.proxy.process_new_http(session, &shared.draining));
    drop(until_deadline(work.as_mut(), &exchange, &mut Alarm::new()).await);
    // What was given up leaves its last words.
    drop(work);
    if let Some(words) = exchange.take_last_words() {
        stream.tell(&words);
    }
    stream.close();
    Ended { wasted: stream.was_given_up(), idle: exchange.idle_timeout() }
}

fn refuse(shared: &Shared, stream: &Http2Stream, refusal: Refusal, parts: &Parts) {
    let snapshot = shared.snapshots.load();
    snapshot.unrouted.count(&refusal);
    let request_id = forward::new_request_id();
    let unread = Unread {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        protocol: Version::HTTP_2,
        status: refusal.status().as_u16(),
        request_id: request_id.clone(),
    };
    snapshot.observers.tell_unread(unread, &stream.exchange.client);
    let to_head_request = parts.method == Method::HEAD;
    stream.tell(&LastWords { refusal, request_id, version: None, to_head_request });
    stream.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_known_from_its_first_byte_and_no_request_line_is_one() {
        for end in 0..=PREFACE.len() {
            assert!(is_begun_by(&PREFACE[..end]), "{end}");
        }
        assert!(is_begun_by(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"POST", b"PRI * HTTP/1.1", b"\x16\x03\x01"] {
            assert!(!is_begun_by(other));
        }
    }
}
