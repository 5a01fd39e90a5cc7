//! A client's connection as the HTTP/2 codec reads and writes it.
//!
//! Line: socket ► **io** ► http2.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::socket::ClientSocket;

/// The connection, with what was read of it before it was known to be HTTP/2.
#[derive(Debug)]
pub(super) struct Http2Io {
    socket: Arc<ClientSocket>,
    received: BytesMut,
    passage: Arc<Passage>,
}

impl Http2Io {
    pub(super) fn new(socket: Arc<ClientSocket>, received: BytesMut, passage: Arc<Passage>) -> Self {
        Self { socket, received, passage }
    }
}

/// How the client takes what it is sent.
#[derive(Debug, Default)]
pub(super) struct Passage {
    is_blocked: AtomicBool,
    was_used: AtomicBool,
}

impl Passage {
    fn note_write(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Relaxed);
        self.was_used.fetch_or(!is_blocked, Relaxed);
    }

    /// Whether there is more to send than the client takes at present. Answers that ended may be among it: they are handed
    /// on as far as the client's windows let them, so that nothing but its socket holds them up.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Relaxed)
    }

    /// Whether it has taken some since this was asked last.
    pub(super) fn was_used(&self) -> bool {
        self.was_used.swap(false, Relaxed)
    }
}

impl Http2Io {
    fn poll_socket(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.transport.poll_write_ready(cx))?;
            match self.socket.transport.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Http2Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.received.is_empty() {
            let fits = self.received.len().min(buffer.remaining());
            buffer.put_slice(&self.received.split_to(fits));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.transport.poll_read_ready(cx))?;
            match self.socket.transport.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Http2Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_socket(cx, bytes);
        self.passage.note_write(written.is_pending());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.transport.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.transport.poll_flush(cx))?;
        Poll::Ready(self.socket.close_write())
    }
}
