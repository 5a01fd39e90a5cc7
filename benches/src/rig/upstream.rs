//! The two versions behind every proxy: each answers every request at once with 100 bytes that end in its number.
//!
//! They listen on every address of the machine, so that ten thousand loopback addresses can be their endpoints.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};

use super::wire;

/// Size of an answer's body in bytes.
const ANSWER_BYTES: usize = 100;

/// One version.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) listener: TcpListener,
    pub(super) port: u16,
    answer: Vec<u8>,
}

impl Upstream {
    /// Version `number`, 1 or 2.
    pub(super) fn bind(number: u8) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let port = listener.local_addr()?.port();
        let digit = b'0' + number;
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {ANSWER_BYTES}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + ANSWER_BYTES, digit);
        Ok(Self { listener, port, answer })
    }
}

/// A connection that a proxy, or the load itself, keeps to a version.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) stream: TcpStream,
    pub(super) version: usize,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

impl Served {
    pub(super) fn new(stream: TcpStream, version: usize) -> Self {
        Self { stream, version, received: Vec::new(), unsent: Vec::new() }
    }

    /// Reads what is there and answers every whole request in it.
    pub(super) fn serve(&mut self, upstream: &Upstream, scratch: &mut [u8], drained: bool) -> Next {
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Next::Close,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(_) => return Next::Close,
            };
            self.received.extend_from_slice(scratch.get(..read).unwrap_or_default());
            if self.answer_all(upstream) == Next::Close {
                self.flush();
                return Next::Close;
            }
            // Less than there was room for has emptied the socket, unless the end of the stream comes behind it.
            if read < scratch.len() && !drained {
                return self.flush();
            }
        }
    }

    fn answer_all(&mut self, upstream: &Upstream) -> Next {
        let mut done = 0;
        let next = loop {
            match wire::request(self.received.get(done..).unwrap_or_default()) {
                Ok(Some(request)) => {
                    done += request.bytes;
                    self.unsent.extend_from_slice(&upstream.answer);
                    if request.closes {
                        break Next::Close;
                    }
                }
                Ok(None) => break Next::Keep,
                Err(_) => break Next::Close,
            }
        };
        self.received.drain(..done);
        next
    }

    /// Sends what is left to send; what the socket does not take now goes with the next event.
    fn flush(&mut self) -> Next {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Next::Close,
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Next::Close,
            }
        }
        Next::Keep
    }
}
