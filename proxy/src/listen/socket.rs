//! One client's connection: what the framework reads and writes through, and what the accept loop and the edge tell
//! each other about the request on it.
//!
//! Line: listener ► **socket** ► edge. The framework owns a [`ClientStream`], which it may drop at any time; the accept
//! loop keeps the [`ClientSocket`] behind it, so that it can still answer, and close without losing that answer.
//!
//! The stream ends where the message ends: what a client sends after it is kept for the next head, which the guard reads
//! like every other. The framework never sees two messages in one stream.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderValue;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::deadline::Deadline;
use crate::answer::Refusal;
use crate::chunks::ChunkScanner;
use crate::guard::{Framing, Head};

/// Writes are gathered up to this size, so that head and small body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 4 << 10;
/// How much of a client's next requests is kept while the present one is answered.
const SURPLUS_BYTES: usize = 64 << 10;
/// How much of that is read at a time: seldom anything, and then seldom much.
const SURPLUS_READ_BYTES: usize = 1 << 10;
/// How much is left of a chunked body whose end has not been seen.
const UNKNOWN: u64 = u64::MAX;
/// Told to a client whose chunks are wrong.
pub(crate) const MALFORMED_CHUNKS: Refusal =
    Refusal::BadRequest("a chunked body that is not framed as RFC 9112 has it");

/// A request as it arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// What the guard knows of its head.
    pub(crate) head: Head,
    /// When the head was whole.
    pub(crate) started: Instant,
    /// Whether the connection is closed after it, whatever the client would like.
    pub(crate) is_last: bool,
}

/// What the accept loop and the edge tell each other about the present request.
#[derive(Debug, Default)]
struct Exchange {
    arrival: Option<Arrival>,
    idle: Option<Duration>,
    last_words: Option<Bytes>,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    tcp: TcpStream,
    /// The client's address as a header value, made once for the connection.
    pub(crate) client: HeaderValue,
    /// Set when requests that are not done are cut off because the edge stops.
    cut: Arc<AtomicBool>,
    exchange: Mutex<Exchange>,
    deadline: Deadline,
    surplus: Mutex<BytesMut>,
    chunks: Mutex<ChunkScanner>,
    body_left: AtomicU64,
    malformed: AtomicBool,
    answering: AtomicBool,
    sent: AtomicBool,
    awaits_client: AtomicBool,
    client_stalls: AtomicBool,
    expired: AtomicBool,
}

impl ClientSocket {
    pub(crate) fn new(tcp: TcpStream, client: HeaderValue, cut: Arc<AtomicBool>) -> Self {
        Self {
            tcp,
            client,
            cut,
            exchange: Mutex::default(),
            deadline: Deadline::default(),
            surplus: Mutex::default(),
            chunks: Mutex::default(),
            body_left: AtomicU64::new(0),
            malformed: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            awaits_client: AtomicBool::new(false),
            client_stalls: AtomicBool::new(false),
            expired: AtomicBool::new(false),
        }
    }

    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn surplus(&self) -> MutexGuard<'_, BytesMut> {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&self) -> MutexGuard<'_, ChunkScanner> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // -- for the accept loop

    /// Begins a request of which `received` has been read; keeps what is not of it for the next one. It must be answered
    /// within `patience`, until its route says otherwise.
    ///
    /// # Errors
    /// If the body is not framed as its head says, as far as it has come.
    pub(crate) fn begin(&self, arrival: Arrival, received: &mut BytesMut, patience: Duration) -> Result<(), Refusal> {
        self.deadline.set(arrival.started + patience, Duration::MAX);
        let body = received.get(arrival.head.bytes..).unwrap_or_default();
        let (end, left) = match arrival.head.framing {
            Framing::Chunked => {
                let mut chunks = ChunkScanner::default();
                let end = chunks.scan(body).map_err(|_malformed| MALFORMED_CHUNKS)?;
                *self.chunks() = chunks;
                (end, if end.is_some() { 0 } else { UNKNOWN })
            }
            Framing::Length(length) => {
                let end = usize::try_from(length).ok().filter(|length| *length <= body.len());
                (end, length.saturating_sub(u64::try_from(body.len()).unwrap_or(u64::MAX)))
            }
        };
        // Most clients wait for an answer before they send more; then there is nothing to split.
        if let Some(end) = end.map(|end| arrival.head.bytes + end).filter(|end| *end < received.len()) {
            *self.surplus() = received.split_off(end);
        }
        self.body_left.store(left, Relaxed);
        for flag in [&self.answering, &self.sent, &self.awaits_client, &self.client_stalls] {
            flag.store(false, Relaxed);
        }
        let mut exchange = self.exchange();
        let idle = exchange.idle;
        *exchange = Exchange { arrival: Some(arrival), idle, ..Exchange::default() };
        Ok(())
    }

    /// What was received after the last message.
    pub(crate) fn take_surplus(&self) -> BytesMut {
        std::mem::take(&mut *self.surplus())
    }

    /// Ready when there is something to read, or the client has gone.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    /// Reads more into `buffer`; zero if the client has closed.
    pub(crate) async fn read_more(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            std::future::poll_fn(|cx| self.tcp.poll_read_ready(cx)).await?;
            let room = buffer.capacity() - buffer.len();
            match self.read_ready(room, |tcp| tcp.try_read_buf(buffer)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// When the present request is over, as of now: by its total, or by the silence of its version.
    pub(crate) fn due(&self) -> Instant {
        self.deadline.due()
    }

    /// How long the route of the last request lets its clients be idle.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.exchange().idle
    }

    /// The moment of [`ClientSocket::due`] has come; to be called before the request is dropped, which looks at it. False
    /// if the request goes on: a version is not silent while its client does not take what it said.
    pub(crate) fn expire(&self) -> bool {
        let now = Instant::now();
        if self.client_stalls() && !self.deadline.total_is_over(now) {
            self.deadline.hear(now);
            return false;
        }
        self.expired.store(true, Relaxed);
        true
    }

    /// An answer that could not go through the framework any more; none if some of another has been sent.
    pub(crate) fn take_last_words(&self) -> Option<Bytes> {
        self.exchange().last_words.take().filter(|_| !self.has_sent())
    }

    /// Writes all of `bytes`, as far as the client takes them.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.tcp.writable().await?;
            match self.tcp.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written.
    pub(crate) fn close_write(&self) -> io::Result<()> {
        SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write)
    }

    /// Whether some of the body has not been received.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.body_left.load(Relaxed) > 0
    }

    // -- for the edge

    /// The present request; none before the first.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.exchange().arrival
    }

    /// Sets when the present request must be answered, how long its version may be silent meanwhile, and how long the
    /// connection may be idle after it.
    pub(crate) fn set_patience(&self, total: Instant, silence: Duration, idle: Duration) {
        self.deadline.set(total, silence);
        self.exchange().idle = Some(idle);
    }

    /// Something passed between the edge and the version: its silence counts from `now`.
    pub(crate) fn heard(&self, now: Instant) {
        self.deadline.hear(now);
    }

    /// The version is not waited for: it is not connected yet, or has said everything.
    pub(crate) fn rests(&self) {
        self.deadline.rest();
    }

    /// Whether the body turned out not to be framed as its head says.
    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed.load(Relaxed)
    }

    /// The final answer begins; what is written from now on is part of it.
    pub(crate) fn answer_begins(&self) {
        self.answering.store(true, Relaxed);
    }

    /// Whether the client has got any of the final answer.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    /// Leaves an answer to be written when the framework has let go of the connection.
    pub(crate) fn leave_last_words(&self, wire: Bytes) {
        self.exchange().last_words = Some(wire);
    }

    /// Whether the present request ran into its deadline.
    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Relaxed)
    }

    /// Whether the body is not whole, and the client is what is waited for.
    pub(crate) fn awaits_body(&self) -> bool {
        self.has_unread_body() && self.awaits_client.load(Relaxed)
    }

    /// Whether the client does not take what is written to it.
    pub(crate) fn client_stalls(&self) -> bool {
        self.client_stalls.load(Relaxed)
    }

    /// Whether requests are being cut off because the edge stops.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    // -- for the stream

    fn poll_body(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        loop {
            let ready = self.tcp.poll_read_ready(cx);
            self.awaits_client.store(ready.is_pending(), Relaxed);
            ready!(ready)?;
            let before = buffer.filled().len();
            match self.read_at_most(buffer, left) {
                Ok(_) if left == UNKNOWN => return Poll::Ready(self.follow_chunks(buffer, before)),
                Ok(read) => {
                    self.body_left.store(left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)), Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Follows what has been read behind `before`; what lies behind the body's end goes to the surplus.
    fn follow_chunks(&self, buffer: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let Ok(end) = self.chunks().scan(fresh) else {
            self.malformed.store(true, Relaxed);
            return Err(ErrorKind::InvalidData.into());
        };
        if let Some(end) = end {
            self.surplus().extend_from_slice(fresh.get(end..).unwrap_or_default());
            buffer.set_filled(before + end);
            self.body_left.store(0, Relaxed);
        }
        Ok(())
    }

    fn read_at_most(&self, buffer: &mut ReadBuf<'_>, left: u64) -> io::Result<usize> {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        let read = self.read_ready(room, |tcp| tcp.try_read(buffer.initialize_unfilled_to(room)))?;
        buffer.advance(read);
        Ok(read)
    }

    /// Reads once into `room` bytes. Less than that empties the socket: it is then taken as not ready, which saves the
    /// next read from finding nothing. What arrives in between makes it ready again; the end of the stream always stays.
    fn read_ready(&self, room: usize, read: impl FnOnce(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let mut got = None;
        let done = self.tcp.try_io(Interest::READABLE, || {
            let bytes = read(&self.tcp)?;
            got = Some(bytes);
            if (1..room).contains(&bytes) { Err(ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
        });
        got.map_or(done, Ok)
    }

    /// Between the end of the body and the end of the answer: notices that the client goes, keeps what else it sends.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut surplus = self.surplus();
        loop {
            if surplus.len() >= SURPLUS_BYTES {
                return Poll::Pending;
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            let mut piece = [0; SURPLUS_READ_BYTES];
            match self.read_ready(piece.len(), |tcp| tcp.try_read(&mut piece)) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(read) => surplus.extend_from_slice(piece.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let ready = self.tcp.poll_write_ready(cx);
            self.client_stalls.store(ready.is_pending(), Relaxed);
            ready!(ready)?;
            match self.tcp.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(sent) => {
                    self.sent.store(self.answering.load(Relaxed), Relaxed);
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// The connection as the framework sees it.
#[derive(Debug)]
pub(crate) struct ClientStream {
    pub(crate) socket: Arc<ClientSocket>,
    /// Written but not sent; lost when the stream is dropped, so that an answer can still be replaced by another.
    unsent: BytesMut,
}

impl ClientStream {
    pub(crate) fn new(socket: Arc<ClientSocket>) -> Self {
        Self { socket, unsent: BytesMut::new() }
    }

    fn poll_send_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(self.socket.poll_send(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.socket.body_left.load(Relaxed) {
            0 => self.socket.poll_gone(cx),
            left => self.socket.poll_body(cx, buffer, left),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() + bytes.len() > WRITE_BUFFER_BYTES {
            ready!(self.poll_send_unsent(cx))?;
        }
        if bytes.len() >= WRITE_BUFFER_BYTES {
            return self.socket.poll_send(cx, bytes);
        }
        self.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_unsent(cx))?;
        Poll::Ready(self.socket.close_write())
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // Whether the client still hears the end matters to nobody who could do anything about it.
        drop(tokio::io::AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket.tcp)
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}
