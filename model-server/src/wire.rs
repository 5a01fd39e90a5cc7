//! The bytes of one connection, between its socket and hyper. What it begins with says what it speaks; what comes in and
//! goes out is told to its [`Pulse`]. `connection` opens it.

use std::io::{self, IoSlice};
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::watch::Pulse;

/// What every connection of HTTP/2 begins with (RFC 9113, 3.4), and no request of HTTP/1.1 does.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much has to go out at once to be a part of an answer: what HTTP/2 says by itself, pings and acknowledgements, is
/// shorter, and whoever gets no more than that stands still.
const PART_BYTES: usize = 64;

/// A stream of which the first bytes have been looked at.
#[derive(Debug)]
pub struct Wire {
    stream: TokioIo<TcpStream>,
    first: First,
    pulse: Arc<Pulse>,
    speaks_http2: bool,
    /// Whether the client has yet to make room for what should go out.
    is_stuck: bool,
}

/// The first bytes, until hyper has read them.
#[derive(Debug, Default)]
struct First {
    bytes: [u8; PREFACE.len()],
    read: usize,
    given: usize,
}

impl First {
    /// What has come says all there is to say.
    fn is_told(&self) -> bool {
        self.read == PREFACE.len() || !PREFACE.starts_with(self.seen())
    }

    fn seen(&self) -> &[u8] {
        self.bytes.get(..self.read).unwrap_or_default()
    }

    /// So many of those that were not given yet, at most.
    fn give(&mut self, most: usize) -> &[u8] {
        let end = self.read.min(self.given.saturating_add(most));
        let given = self.bytes.get(self.given..end).unwrap_or_default();
        self.given = end;
        given
    }
}

impl Wire {
    /// Reads until it is plain what the connection speaks.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open(stream: StdStream, pulse: Arc<Pulse>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream)?;
        let mut first = First::default();
        while !first.is_told() {
            let room = first.bytes.get_mut(first.read..).unwrap_or_default();
            let count = stream.read(room).await?;
            if count == 0 {
                break;
            }
            first.read += count;
            pulse.heard();
        }
        let speaks_http2 = first.seen() == PREFACE;
        if speaks_http2 {
            pulse.rests();
        }
        Ok(Self { stream: TokioIo::new(stream), first, pulse, speaks_http2, is_stuck: false })
    }

    /// Whether it is HTTP/2, and not HTTP/1.1.
    pub fn speaks_http2(&self) -> bool {
        self.speaks_http2
    }

    /// A head of HTTP/1.1 begins with any byte, unless the client has yet to read what it asked for before.
    fn note_read(&self) {
        if !self.speaks_http2 && !self.is_stuck {
            self.pulse.heard();
        }
    }

    fn note_written(&mut self, written: &Poll<io::Result<usize>>, offered: usize) {
        let count = match written {
            Poll::Ready(Ok(count)) => *count,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.is_stuck = count < offered;
        if count >= PART_BYTES {
            self.pulse.told();
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let first = self.first.give(buffer.remaining());
        if !first.is_empty() {
            buffer.put_slice(first);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.note_read();
        }
        read
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_written(&written, bytes.len());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note_written(&written, pieces.iter().map(|piece| piece.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection says at first, whether that is enough to tell, and whether it is HTTP/2.
    #[track_caller]
    fn check(said: &[u8], is_told: bool, is_http2: bool) {
        let mut first = First { read: said.len(), ..First::default() };
        first.bytes[..said.len()].copy_from_slice(said);
        assert_eq!((first.is_told(), first.seen() == PREFACE), (is_told, is_http2));
        let given: Vec<u8> =
            std::iter::from_fn(|| Some(first.give(5).to_vec()).filter(|some| !some.is_empty())).flatten().collect();
        assert_eq!(given, said);
    }

    #[test]
    fn what_is_said_first_tells_what_is_spoken_and_is_given_on() {
        check(b"", false, false);
        check(b"P", false, false);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", false, false);
        check(&PREFACE, true, true);
        check(b"PO", true, false);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", true, false);
        check(b"GET /health HTTP/1.1\r\nho", true, false);
    }
}
