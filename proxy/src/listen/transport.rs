//! The bytes of one client's connection, plain or over TLS, read and written when they are there.
//!
//! Line: listener ► **transport** ► socket. Both kinds offer what a TCP socket does: wait until it is ready, try, and be
//! told if it was not. So everything above is the same for both, and the plain kind costs one branch.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// How much is decrypted at a time into a buffer that has no room of its own: what one TLS record holds.
const RECORD_BYTES: usize = 16 << 10;

/// A client's connection.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsTransport>),
}

impl Transport {
    /// Ready when there is something to read, or the client has gone.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(tls) => tls.poll_read_ready(cx),
        }
    }

    /// Reads what is there; zero at the end.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => read_ready(tcp, buffer.len(), |tcp| tcp.try_read(buffer)),
            Self::Tls(tls) => tls.try_read(buffer),
        }
    }

    /// Reads what is there into the room that `buffer` has; zero at the end.
    pub(super) fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => read_ready(tcp, buffer.capacity() - buffer.len(), |tcp| tcp.try_read_buf(buffer)),
            Self::Tls(tls) => {
                let mut piece = [0; RECORD_BYTES];
                let read = tls.try_read(&mut piece)?;
                buffer.extend_from_slice(piece.get(..read).unwrap_or_default());
                Ok(read)
            }
        }
    }

    /// The same, `most` bytes at most; `buffer` has room for them.
    pub(super) fn try_read_at_most(&self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => read_ready(tcp, most, |tcp| tcp.try_read_buf(&mut buffer.limit(most))),
            Self::Tls(tls) => {
                let mut piece = [0; RECORD_BYTES];
                let read = tls.try_read(piece.get_mut(..most.min(RECORD_BYTES)).unwrap_or_default())?;
                buffer.extend_from_slice(piece.get(..read).unwrap_or_default());
                Ok(read)
            }
        }
    }

    /// Ready when something can be written.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_write_ready(cx),
            Self::Tls(tls) => tls.tcp.poll_write_ready(cx),
        }
    }

    /// Writes what the client takes.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Ready when all that was written has left: TLS may keep the end of a record back while the client takes nothing.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn close_write(&self) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => {
                tls.say_goodbye();
                &tls.tcp
            }
        };
        SockRef::from(tcp).shutdown(std::net::Shutdown::Write)
    }

    /// Whether HTTP/2 was agreed on.
    pub(super) fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.state().connection.alpn_protocol() == Some(b"h2"),
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        match self {
            Self::Plain(tcp) => tcp.as_raw_fd(),
            Self::Tls(tls) => tls.tcp.as_raw_fd(),
        }
    }
}

/// Reads once into `room` bytes. Less than that empties the socket: it is then taken as not ready, which saves the
/// next read from finding nothing. What arrives in between makes it ready again; the end of the stream always stays.
pub(crate) fn read_ready(
    tcp: &TcpStream,
    room: usize,
    read: impl FnOnce(&TcpStream) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut got = None;
    let done = tcp.try_io(Interest::READABLE, || {
        let bytes = read(tcp)?;
        got = Some(bytes);
        if (1..room).contains(&bytes) { Err(ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
    });
    got.map_or(done, Ok)
}

/// A TLS connection whose handshake is done.
#[derive(Debug)]
pub(super) struct TlsTransport {
    tcp: TcpStream,
    state: Mutex<TlsState>,
}

#[derive(Debug)]
struct TlsState {
    connection: ServerConnection,
    /// Whether something may have been decrypted that nobody has read.
    has_plaintext: bool,
}

impl TlsTransport {
    /// Shakes hands; for as long as the client likes.
    ///
    /// # Errors
    /// If the client goes, or the two cannot agree.
    pub(super) async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let (tcp, mut connection) = TlsAcceptor::from(config).accept(tcp).await?.into_inner();
        // A first request, or the end, may have come with the last word of the handshake.
        let came = connection.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let has_plaintext = came.plaintext_bytes_to_read() > 0 || came.peer_has_closed();
        Ok(Self { tcp, state: Mutex::new(TlsState { connection, has_plaintext }) })
    }

    fn state(&self) -> MutexGuard<'_, TlsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state().has_plaintext {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        loop {
            match state.connection.reader().read(buffer) {
                Ok(read) => {
                    state.has_plaintext = read == buffer.len();
                    return Ok(read);
                }
                // A client that goes without a word of TLS has gone all the same; how whole its message is, HTTP tells.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => state.has_plaintext = false,
                Err(error) => return Err(error),
            }
            self.receive(&mut state.connection)?;
        }
    }

    /// Takes in what the socket has.
    fn receive(&self, connection: &mut ServerConnection) -> io::Result<()> {
        connection.read_tls(&mut Raw(&self.tcp))?;
        let taken = connection.process_new_packets();
        // An alert, or an answer to a change of keys; if it does not leave now, it does with the next write.
        match self.send_pending(connection) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) | Ok(()) => {}
        }
        taken.map(drop).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        self.send_pending(&mut state.connection)?;
        let written = state.connection.writer().write(bytes)?;
        match self.send_pending(&mut state.connection) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            Err(_) | Ok(()) => Ok(written),
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.send_pending(&mut self.state().connection) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }

    fn send_pending(&self, connection: &mut ServerConnection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut Raw(&self.tcp))?;
        }
        Ok(())
    }

    fn say_goodbye(&self) {
        let mut state = self.state();
        state.connection.send_close_notify();
        // A client that takes nothing does not hear it; the socket's end tells it as much.
        drop(self.send_pending(&mut state.connection));
    }
}

/// A socket for a library that reads and writes by itself.
struct Raw<'a>(&'a TcpStream);

impl io::Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
