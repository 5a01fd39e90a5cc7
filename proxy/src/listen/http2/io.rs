//! A client's connection as the HTTP/2 codec reads and writes it.
//!
//! Line: socket ► **io** ► http2.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::socket::ClientSocket;

/// The connection, with what was read of it before it was known to be HTTP/2.
#[derive(Debug)]
pub(super) struct Http2Io {
    socket: Arc<ClientSocket>,
    received: BytesMut,
}

impl Http2Io {
    pub(super) fn new(socket: Arc<ClientSocket>, received: BytesMut) -> Self {
        Self { socket, received }
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
        loop {
            ready!(self.socket.transport.poll_write_ready(cx))?;
            match self.socket.transport.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.transport.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.transport.poll_flush(cx))?;
        Poll::Ready(self.socket.close_write())
    }
}
