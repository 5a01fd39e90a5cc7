//! One client's connection from accept to close: head, request, head, request, each with its deadline.
//!
//! Line: listener ► **connection** ► guard ► edge.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderValue;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::Patience;
use super::socket::{Arrival, ClientSocket, ClientStream};
use crate::answer::{Answer, Refusal};
use crate::edge::Edge;
use crate::forward;
use crate::guard::{Head, HeadReader};
use crate::snapshot::Snapshots;

/// How much is read at a time while a head is not whole; most heads fit.
const HEAD_READ_BYTES: usize = 4 << 10;
/// A connection that was accepted just before a drain may still bring its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);
/// How long a client may take to read a last answer while it is still sending, and how long a pause in that may be.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// A timer that has not been set yet.
const UNSET: Duration = Duration::from_hours(24);

/// What every connection of a worker shares.
pub(super) struct Shared {
    pub(super) proxy: Arc<HttpProxy<Edge>>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) patience: Patience,
    /// True as soon as the worker drains.
    pub(super) draining: watch::Receiver<bool>,
    /// Set when what is not done is cut off.
    pub(super) cut: Arc<AtomicBool>,
}

/// A connection and how far it has come.
struct Connection {
    shared: Arc<Shared>,
    socket: Arc<ClientSocket>,
    draining: watch::Receiver<bool>,
    served: u32,
}

/// What came instead of a request head.
enum End {
    /// The client went, or was silent for too long.
    Gone,
    /// The head is not acceptable.
    Refused(Refusal),
}

impl From<io::Error> for End {
    /// Whatever broke: there is nobody left to tell.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Serves one client until it or the edge has had enough.
pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream, client: SocketAddr) {
    // Without it, a small answer would wait for the acknowledgement of the one before; a failure costs only that.
    drop(tcp.set_nodelay(true));
    let name =
        HeaderValue::from_str(&client.ip().to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"));
    let socket = Arc::new(ClientSocket::new(tcp, name, Arc::clone(&shared.cut)));
    let draining = shared.draining.clone();
    Connection { shared, socket, draining, served: 0 }.run().await;
}

impl Connection {
    async fn run(mut self) {
        let mut stream: Stream = Box::new(ClientStream::new(Arc::clone(&self.socket)));
        loop {
            let (arrival, received) = match self.next_head().await {
                Ok(head) => head,
                Err(End::Gone) => return,
                Err(End::Refused(refusal)) => return self.refuse(&refusal).await,
            };
            stream = match self.request(stream, arrival, received).await {
                Ok(Some(kept)) => kept,
                Ok(None) => return self.close().await,
                Err(refusal) => return self.refuse(&refusal).await,
            };
        }
    }

    /// The next head, and everything received with it.
    async fn next_head(&mut self) -> Result<(Arrival, BytesMut), End> {
        let mut received = self.socket.take_surplus();
        if received.is_empty() {
            self.first_byte().await?;
        }
        let deadline = self.shared.patience.head;
        let head = timeout(deadline, self.read_head(&mut received)).await.unwrap_or(Err(End::Gone))?;
        self.served += 1;
        let is_last = self.served >= self.shared.patience.requests_per_connection || *self.draining.borrow();
        Ok((Arrival { head, started: Instant::now(), is_last }, received))
    }

    /// Waits for the client to begin a request: a new one as long as for a head, an old one as long as its route allows.
    async fn first_byte(&mut self) -> Result<(), End> {
        let patience = self.socket.idle_timeout().unwrap_or(self.shared.patience.head);
        let is_new = self.served == 0;
        let draining = &mut self.draining;
        let drain = async {
            // An error means that the worker has gone, which is the same.
            drop(draining.wait_for(|draining| *draining).await);
            if is_new {
                sleep(FIRST_REQUEST_GRACE).await;
            }
        };
        tokio::select! {
            biased;
            ready = self.socket.readable() => Ok(ready?),
            () = drain => Err(End::Gone),
            () = sleep(patience) => Err(End::Gone),
        }
    }

    async fn read_head(&self, received: &mut BytesMut) -> Result<Head, End> {
        let limit_bytes = self.shared.snapshots.largest_head_bytes();
        let mut reader = HeadReader::default();
        loop {
            if let Some(head) = reader.read(received, limit_bytes).map_err(End::Refused)? {
                return Ok(head);
            }
            received.reserve(HEAD_READ_BYTES);
            if self.socket.read_more(received).await? == 0 {
                return Err(End::Gone);
            }
        }
    }

    /// Has the edge answer one request; gives the stream back if the connection is good for another.
    async fn request(
        &self,
        stream: Stream,
        arrival: Arrival,
        mut received: BytesMut,
    ) -> Result<Option<Stream>, Refusal> {
        self.socket.begin(arrival, &mut received)?;
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(received);
        let work = self.shared.proxy.process_new_http(session, &self.shared.draining);
        let reused = until_deadline(work, &self.socket).await.flatten();
        Ok(reused.map(|reused| reused.consume().0))
    }

    async fn refuse(&self, refusal: &Refusal) {
        let request_id = forward::new_request_id();
        let wire = Answer { refusal, request_id: &request_id, version: None }.wire(false);
        self.last_answer(&wire, true).await;
    }

    /// Ends the connection; what could not be said through the framework is said now.
    async fn close(&self) {
        let last_words = self.socket.take_last_words();
        let has_more_to_come = self.socket.has_unread_body();
        self.last_answer(last_words.as_deref().unwrap_or_default(), has_more_to_come).await;
    }

    /// Writes a last answer and closes. A client that is still sending must be read from meanwhile: closing on unread
    /// bytes resets the connection, and the answer is lost with it (RFC 9112, section 9.6).
    async fn last_answer(&self, wire: &[u8], linger: bool) {
        let farewell = async {
            self.socket.write(wire).await?;
            self.socket.close_write()?;
            if linger { self.read_away().await } else { Ok(()) }
        };
        // A client that does not take its answer loses it.
        drop(timeout(LINGER, farewell).await);
    }

    /// Reads what the client still sends, until it stops.
    async fn read_away(&self) -> io::Result<()> {
        let mut waste = BytesMut::with_capacity(HEAD_READ_BYTES * 4);
        while timeout(LINGER_PAUSE, self.socket.read_more(&mut waste)).await.unwrap_or(Ok(0))? > 0 {
            waste.clear();
        }
        Ok(())
    }
}

/// Runs `work` until it is done or the deadline passes that it sets on `socket` meanwhile; then drops it, which books the
/// request, and gives none. The clock runs whatever the request waits for: a connection, its body, or the answer.
async fn until_deadline<W: Future>(work: W, socket: &ClientSocket) -> Option<W::Output> {
    let mut work = pin!(work);
    let mut timer = pin!(sleep(UNSET));
    let mut set = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let deadline = socket.deadline();
        if deadline != set
            && let Some(deadline) = deadline
        {
            timer.as_mut().reset(deadline.into());
            set = Some(deadline);
        }
        if set.is_some() && timer.as_mut().poll(cx).is_ready() {
            socket.expire();
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// The moment `after` now, for the worker's own deadlines.
pub(super) async fn after(moment: Instant) {
    sleep_until(moment.into()).await;
}
