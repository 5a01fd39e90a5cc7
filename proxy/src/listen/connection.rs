//! One client's connection from accept to close: head, request, head, request, each with its deadline.
//!
//! Line: listener ► **connection** ► guard ► edge.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::Version;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::Patience;
use super::deadline::Alarm;
use super::exchange::{Arrival, Client, Exchange, Expiry};
use super::http2;
use super::socket::{ClientSocket, ClientStream};
use super::transport::{TlsTransport, Transport};
use crate::answer::{Answer, LastWords, Refusal};
use crate::edge::Edge;
use crate::forward;
use crate::guard::{Head, HeadReader};
use crate::lane::{Lane, Outlined, Served};
use crate::observe::Unread;
use crate::snapshot::Snapshots;

/// How much is read at a time while a head is not whole; most heads fit.
const HEAD_READ_BYTES: usize = 4 << 10;
/// A connection that was accepted just before a drain may still bring its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);
/// A drain closes a connection that has been served only when it has been silent for so long: its client may just be
/// sending, and would lose that request. It is also how long a client is read from after the last answer that it was told
/// is the last, for what it sent before it read that.
const QUIET: Duration = Duration::from_millis(250);
/// How long a client may take to read a last answer while it is still sending, and how long a pause in that may be.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// What every connection of a worker shares.
pub(super) struct Shared {
    pub(super) proxy: Arc<HttpProxy<Edge>>,
    pub(super) lane: Arc<Lane>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) patience: Patience,
    /// Tells that the worker drains.
    pub(super) draining: watch::Receiver<bool>,
    /// True as soon as it does, for who only looks.
    pub(super) is_draining: Arc<AtomicBool>,
    /// Set when what is not done is cut off.
    pub(super) cut: Arc<AtomicBool>,
}

/// A connection and how far it has come.
struct Connection {
    shared: Arc<Shared>,
    socket: Arc<ClientSocket>,
    /// Done when the worker drains. Kept from request to request, which costs less than to ask anew.
    drain: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    alarm: Alarm,
    reader: HeadReader,
    served: u32,
}

/// What came instead of a request head.
enum End {
    /// The client speaks HTTP/2, and began with these bytes.
    Http2(BytesMut),
    /// The client went, or did not finish a head.
    Gone,
    /// The client said nothing for so long that the edge closes.
    Quiet,
    /// The head is not acceptable.
    Refused(Refused),
}

/// A refusal that the framework has nothing to do with.
struct Refused {
    refusal: Refusal,
    to_head_request: bool,
    /// What was asked for, as far as is known.
    method: Box<str>,
    path: Box<str>,
}

impl Refused {
    fn new(refusal: Refusal, reader: &HeadReader, received: &[u8]) -> Self {
        let (method, path) = reader.asks_for(received);
        Self { refusal, to_head_request: reader.is_head_request(), method: method.into(), path: path.into() }
    }
}

impl From<io::Error> for End {
    /// Whatever broke: there is nobody left to tell.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Serves one client until it or the edge has had enough; over TLS if there is a config for that.
///
/// A connection that waits keeps the room of the largest way that it could take, so all but the fast lane's, the one that
/// most requests take, have theirs on the heap.
pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream, client: SocketAddr, tls: Option<Arc<ServerConfig>>) {
    // Without it, a small answer would wait for the acknowledgement of the one before; a failure costs only that.
    drop(tcp.set_nodelay(true));
    let client = Client::new(client.ip(), tls.is_some());
    let Some(transport) = transport(&shared, tcp, tls).await else { return };
    let speaks_http2 = transport.speaks_http2();
    let exchange = Exchange::new(client, Arc::clone(&shared.cut));
    let socket = Arc::new(ClientSocket::new(transport, exchange));
    if speaks_http2 {
        return Box::pin(http2::serve(shared, socket, BytesMut::new())).await;
    }
    let drain = Box::pin(drained(shared.draining.clone()));
    let (alarm, reader) = (Alarm::new(), HeadReader::default());
    Connection { shared, socket, drain, alarm, reader, served: 0 }.run().await;
}

/// Shakes hands where that is asked for; none if the client does not bring it to an end in time.
async fn transport(shared: &Shared, tcp: TcpStream, tls: Option<Arc<ServerConfig>>) -> Option<Transport> {
    let Some(config) = tls else { return Some(Transport::Plain(tcp)) };
    let shaken = tokio::select! {
        shaken = timeout(shared.patience.head, Box::pin(TlsTransport::accept(tcp, config))) => shaken.ok()?,
        () = leaves_no_time(shared) => return None,
    };
    // Scanners, and clients that trust another root, are no news to anybody; their number would bury what is.
    shaken.map_err(|error| debug!(%error, "TLS handshake failed")).ok().map(|tls| Transport::Tls(Box::new(tls)))
}

/// Waits until the worker has drained for so long that a client without a request has had its chance.
pub(super) async fn leaves_no_time(shared: &Shared) {
    drained(shared.draining.clone()).await;
    tokio::time::sleep(FIRST_REQUEST_GRACE).await;
}

/// Waits for the worker to drain.
pub(super) async fn drained(mut draining: watch::Receiver<bool>) {
    // An error means that the worker has gone, which is the same.
    drop(draining.wait_for(|draining| *draining).await);
}

impl Connection {
    async fn run(mut self) {
        loop {
            let (arrival, received) = match self.next_head().await {
                Ok(head) => head,
                Err(End::Gone) => return,
                Err(End::Http2(received)) => return Box::pin(http2::serve(self.shared, self.socket, received)).await,
                Err(End::Quiet) => return self.last_answer(&[], QUIET).await,
                Err(End::Refused(refused)) => return self.refuse(&refused).await,
            };
            match self.request(arrival, received).await {
                Ok(Served::Keep) => {}
                Ok(Served::Close) => return self.close().await,
                Err(refused) => return self.refuse(&refused).await,
            }
        }
    }

    /// The next head, and everything received with it.
    async fn next_head(&mut self) -> Result<(Arrival, BytesMut), End> {
        let mut received = self.socket.take_surplus();
        if received.is_empty() {
            self.first_byte().await?;
        }
        let (reader, is_first) = (&mut self.reader, self.served == 0);
        let reading = read_head(&self.shared, &self.socket, &mut received, reader, is_first);
        let head = self.alarm.within(self.shared.patience.head, reading).await.unwrap_or(Err(End::Gone))?;
        self.served += 1;
        let is_last = self.served >= self.shared.patience.requests_per_connection || self.is_draining();
        Ok((Arrival { head, started: Instant::now(), is_last }, received))
    }

    fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Relaxed)
    }

    /// Waits for the client to begin a request: a new one as long as for a head, an old one as long as its route allows,
    /// and neither for long once the worker drains.
    async fn first_byte(&mut self) -> Result<(), End> {
        if !self.is_draining() {
            let patience = self.socket.exchange.idle_timeout().unwrap_or(self.shared.patience.head);
            let (socket, drain) = (&self.socket, &mut self.drain);
            let first = std::future::poll_fn(|cx| match socket.poll_readable(cx) {
                Poll::Ready(ready) => Poll::Ready(Some(ready)),
                Poll::Pending => drain.as_mut().poll(cx).map(|()| None),
            });
            if let Some(ready) = self.alarm.within(patience, first).await.ok_or(End::Quiet)? {
                return Ok(ready?);
            }
        }
        let grace = if self.served == 0 { FIRST_REQUEST_GRACE } else { QUIET };
        let socket = &self.socket;
        let first = std::future::poll_fn(|cx| socket.poll_readable(cx));
        Ok(self.alarm.within(grace, first).await.ok_or(End::Quiet)??)
    }

    /// Has one request answered: by the lane if that can, else by the framework.
    async fn request(&mut self, arrival: Arrival, mut received: BytesMut) -> Result<Served, Refused> {
        self.socket
            .begin(arrival, &mut received, self.shared.patience.head)
            .map_err(|refusal| Refused::new(refusal, &self.reader, &received))?;
        match self.fast_lane(arrival, &received).await {
            Some(served) => Ok(served),
            None => Ok(Box::pin(self.framework(received)).await),
        }
    }

    /// Has the lane answer a request; none if it leaves it to the framework, untouched.
    async fn fast_lane(&mut self, arrival: Arrival, received: &BytesMut) -> Option<Served> {
        let (head, body) = received.split_at_checked(arrival.head.bytes)?;
        let request = Outlined { head, outline: self.reader.outline() };
        let lane = &self.shared.lane;
        let work = pin!(lane.serve(lane.begin(request)?, &self.socket, request, body));
        Some(until_deadline(work, &self.socket.exchange, &mut self.alarm).await.unwrap_or(Served::Close))
    }

    async fn framework(&mut self, received: BytesMut) -> Served {
        let stream: Stream = Box::new(ClientStream::new(Arc::clone(&self.socket)));
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(received);
        let work = pin!(self.shared.proxy.process_new_http(session, &self.shared.draining));
        let reused = until_deadline(work, &self.socket.exchange, &mut self.alarm).await.flatten();
        if reused.is_some() { Served::Keep } else { Served::Close }
    }

    async fn refuse(&self, refused: &Refused) {
        let snapshot = self.shared.snapshots.load();
        snapshot.unrouted.count(&refused.refusal);
        let request_id = forward::new_request_id();
        let unread = Unread {
            method: &refused.method,
            path: &refused.path,
            protocol: Version::HTTP_11,
            status: refused.refusal.status().as_u16(),
            request_id: request_id.clone(),
        };
        snapshot.observers.tell_unread(unread, &self.socket.exchange.client);
        let answer = Answer { refusal: &refused.refusal, request_id: &request_id, version: None };
        self.last_answer(&answer.wire(refused.to_head_request), LINGER_PAUSE).await;
    }

    /// Ends the connection; what could not be said through the framework is said now.
    async fn close(&self) {
        let last_words = self.socket.exchange.take_last_words();
        let pause = if self.socket.exchange.has_unread_body() { LINGER_PAUSE } else { QUIET };
        self.last_answer(last_words.as_ref().map(LastWords::wire).as_deref().unwrap_or_default(), pause).await;
    }

    /// Writes a last answer and closes. A client that is still sending, its body or the requests behind it, must be read
    /// from meanwhile, until it pauses: closing on unread bytes resets the connection, and the answer is lost with it (RFC
    /// 9112, section 9.6).
    async fn last_answer(&self, wire: &[u8], pause: Duration) {
        let farewell = async {
            self.socket.write(wire).await?;
            self.socket.close_write()?;
            self.read_away(pause).await
        };
        // A client that does not take its answer loses it.
        drop(timeout(LINGER, farewell).await);
    }

    /// Reads what the client still sends, until it stops.
    async fn read_away(&self, pause: Duration) -> io::Result<()> {
        let mut waste = BytesMut::with_capacity(HEAD_READ_BYTES);
        while timeout(pause, self.socket.read_more(&mut waste)).await.unwrap_or(Ok(0))? > 0 {
            waste.clear();
        }
        Ok(())
    }
}

async fn read_head(
    shared: &Shared,
    socket: &ClientSocket,
    received: &mut BytesMut,
    reader: &mut HeadReader,
    is_first: bool,
) -> Result<Head, End> {
    let limit_bytes = shared.snapshots.largest_head_bytes();
    reader.reset();
    loop {
        if is_first && http2::is_begun_by(received) {
            if received.len() >= http2::PREFACE.len() {
                return Err(End::Http2(std::mem::take(received)));
            }
        } else if let Some(head) = look_for_head(reader, received, limit_bytes)? {
            return Ok(head);
        }
        received.reserve(HEAD_READ_BYTES);
        if socket.read_more(received).await? == 0 {
            return Err(End::Gone);
        }
    }
}

fn look_for_head(reader: &mut HeadReader, received: &[u8], limit_bytes: u64) -> Result<Option<Head>, End> {
    reader.read(received, limit_bytes).map_err(|refusal| End::Refused(Refused::new(refusal, reader, received)))
}

/// Runs `work` until it is done or the moment comes that it sets on `exchange` meanwhile; then its owner drops it, which books the
/// request, and gives none. The clock runs whatever the request waits for: a connection, its body, or the answer.
pub(super) async fn until_deadline<W: Future>(
    mut work: Pin<&mut W>,
    exchange: &Exchange,
    alarm: &mut Alarm,
) -> Option<W::Output> {
    std::future::poll_fn(|cx| {
        let mut poll_work = true;
        loop {
            if poll_work && let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            ready!(alarm.poll_due(cx, exchange.due()));
            poll_work = match exchange.expire() {
                Expiry::Request => return Poll::Ready(None),
                // The work sees that when it looks at its client.
                Expiry::Attempt => true,
                Expiry::Nothing => false,
            };
        }
    })
    .await
}

/// The moment `after` now, for the worker's own deadlines.
pub(super) async fn after(moment: Instant) {
    sleep_until(moment.into()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The room that an async function of four arguments takes from its first poll to its last, in bytes.
    fn room_of<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_takes_little_room() {
        let room = room_of(serve);
        assert!(room <= 4 << 10, "{room} bytes");
    }
}
