//! One client's connection: what the framework reads and writes through.
//!
//! Line: listener ► **socket** ► edge. The framework owns a [`ClientStream`], which it may drop at any time; the accept
//! loop keeps the [`ClientSocket`] behind it, so that it can still answer, and close without losing that answer.
//!
//! The stream ends where the message ends: what a client sends after it is kept for the next head, which the guard reads
//! like every other. The framework never sees two messages in one stream.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::{Arrival, Exchange};
use super::transport::Transport;
use crate::answer::Refusal;
use crate::chunks::ChunkScanner;
use crate::guard::Framing;

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

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    pub(super) transport: Transport,
    /// The present request, shared with the edge.
    pub(crate) exchange: Arc<Exchange>,
    surplus: Mutex<BytesMut>,
    chunks: Mutex<ChunkScanner>,
}

impl ClientSocket {
    pub(super) fn new(transport: Transport, exchange: Exchange) -> Self {
        Self { transport, exchange: Arc::new(exchange), surplus: Mutex::default(), chunks: Mutex::default() }
    }

    fn surplus(&self) -> MutexGuard<'_, BytesMut> {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&self) -> MutexGuard<'_, ChunkScanner> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request of which `received` has been read; keeps what is not of it for the next one. It must be answered
    /// within `patience`, until its route says otherwise.
    ///
    /// # Errors
    /// If the body is not framed as its head says, as far as it has come.
    pub(crate) fn begin(&self, arrival: Arrival, received: &mut BytesMut, patience: Duration) -> Result<(), Refusal> {
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
        self.exchange.begin(arrival, left, patience);
        Ok(())
    }

    /// What was received after the last message.
    pub(crate) fn take_surplus(&self) -> BytesMut {
        std::mem::take(&mut *self.surplus())
    }

    /// Ready when there is something to read, or the client has gone.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_read_ready(cx)
    }

    /// Reads more into `buffer`; zero if the client has closed.
    pub(crate) async fn read_more(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            std::future::poll_fn(|cx| self.transport.poll_read_ready(cx)).await?;
            match self.transport.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Writes all of `bytes`, as far as the client takes them.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            std::future::poll_fn(|cx| self.transport.poll_write_ready(cx)).await?;
            match self.transport.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        std::future::poll_fn(|cx| self.transport.poll_flush(cx)).await
    }

    /// Says that nothing more will be written.
    pub(crate) fn close_write(&self) -> io::Result<()> {
        self.transport.close_write()
    }

    /// Writes all of `bytes`, and notes whether the client takes them.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = bytes.get(sent..).filter(|_| sent > 0).ok_or(ErrorKind::WriteZero)?;
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads more of a body of known length to the end of `buffer`, `room` bytes at most; zero if the client has closed.
    pub(crate) fn poll_more_of_body(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let left = self.exchange.body_left();
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        buffer.reserve(room);
        loop {
            let ready = self.transport.poll_read_ready(cx);
            self.exchange.set_awaits_client(ready.is_pending());
            ready!(ready)?;
            match self.transport.try_read_at_most(buffer, room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(read) => {
                    self.exchange.set_body_left(left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)));
                    return Poll::Ready(Ok(read));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    // -- for the stream

    fn poll_body(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        loop {
            let ready = self.transport.poll_read_ready(cx);
            self.exchange.set_awaits_client(ready.is_pending());
            ready!(ready)?;
            let before = buffer.filled().len();
            match self.read_at_most(buffer, left) {
                Ok(_) if left == UNKNOWN => return Poll::Ready(self.follow_chunks(buffer, before)),
                Ok(read) => {
                    self.exchange.set_body_left(left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)));
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
            self.exchange.set_malformed();
            return Err(ErrorKind::InvalidData.into());
        };
        if let Some(end) = end {
            self.surplus().extend_from_slice(fresh.get(end..).unwrap_or_default());
            buffer.set_filled(before + end);
            self.exchange.set_body_left(0);
        }
        Ok(())
    }

    fn read_at_most(&self, buffer: &mut ReadBuf<'_>, left: u64) -> io::Result<usize> {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        let read = self.transport.try_read(buffer.initialize_unfilled_to(room))?;
        buffer.advance(read);
        Ok(read)
    }

    /// What is passed through: first what came before the switch, then everything.
    fn poll_tunnel(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut surplus = self.surplus();
        if !surplus.is_empty() {
            let fits = surplus.len().min(buffer.remaining());
            buffer.put_slice(&surplus.split_to(fits));
            return Poll::Ready(Ok(()));
        }
        drop(surplus);
        loop {
            ready!(self.transport.poll_read_ready(cx))?;
            match self.read_at_most(buffer, UNKNOWN) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Between the end of the body and the end of the answer: notices that the client goes, keeps what else it sends, and
    /// breaks off when the present attempt is over.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.exchange.is_attempt_over() {
            // The only way to have the framework fail an attempt that waits for its answer.
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        let mut surplus = self.surplus();
        loop {
            if surplus.len() >= SURPLUS_BYTES {
                return Poll::Pending;
            }
            ready!(self.transport.poll_read_ready(cx))?;
            let mut piece = [0; SURPLUS_READ_BYTES];
            match self.transport.try_read(&mut piece) {
                Ok(0) if self.exchange.note_closed() => return Poll::Ready(Ok(())),
                // Nothing more will come; the end of the answer, or its deadline, ends the wait.
                Ok(0) => return Poll::Pending,
                Ok(read) => surplus.extend_from_slice(piece.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends what the client takes of `bytes`; zero never.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let ready = self.transport.poll_write_ready(cx);
            self.exchange.set_client_stalls(ready.is_pending());
            ready!(ready)?;
            match self.transport.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(sent) => {
                    self.exchange.note_sent();
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ready when all that was sent is on its way.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.transport.poll_flush(cx);
        self.exchange.set_client_stalls(flushed.is_pending());
        flushed
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
        match self.socket.exchange.body_left() {
            0 if self.socket.exchange.is_tunnel() => self.socket.poll_tunnel(cx, buffer),
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
        ready!(self.poll_send_unsent(cx))?;
        self.socket.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
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
        self.socket.transport.raw_fd()
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
