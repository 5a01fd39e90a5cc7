//! A request on its way to a version: what is to be sent, and how far that has come.
//!
//! Line: request ► **upload** ► relay. Everything is kept while it is small, so that it can be sent again.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pointsman_config::Retries;
use tokio::net::TcpStream;

use crate::listen::ClientSocket;
use crate::request::RequestCtx;

/// How much of a body is read at a time.
const READ_BYTES: usize = 16 << 10;

/// A request's head, and its body as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// The head and the body, or, once that is too much, what of the body has not been sent.
    pub(super) wire: BytesMut,
    /// How much of the body has come.
    body_bytes: u64,
    sent: usize,
    /// Whether `wire` no longer begins with the head.
    is_cut: bool,
    /// Whether the version takes no more.
    is_refused: bool,
    /// Whether it has been said that the client has sent everything.
    is_told: bool,
}

impl Upload {
    /// Begins with the head that is in `wire`, and the part of the body that came with it.
    pub(super) fn new(mut wire: BytesMut, body: &[u8]) -> Self {
        wire.extend_from_slice(body);
        Self { wire, body_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX), ..Self::default() }
    }

    /// Whether it can be sent from its beginning.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.is_cut
    }

    /// Begins anew, on another connection.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.is_refused = false;
        self.is_told = false;
    }

    /// How much has been sent in this attempt, of an upload that can be sent again.
    pub(super) fn sent_bytes(&self) -> u64 {
        u64::try_from(self.sent).unwrap_or(u64::MAX)
    }

    /// How much of the body has come.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Whether the client has sent everything; said once in an attempt.
    pub(super) fn becomes_whole(&mut self, client: &ClientSocket) -> bool {
        let is_whole = !self.is_told && !client.exchange.has_unread_body();
        self.is_told |= is_whole;
        is_whole
    }

    /// Whether the version has got all of it.
    pub(super) fn is_done(&self, client: &ClientSocket) -> bool {
        !self.is_refused && self.sent == self.wire.len() && !client.exchange.has_unread_body()
    }

    /// Sends what there is and reads more of it; ready when all has been sent, or the version takes no more.
    ///
    /// # Errors
    /// If the client has gone.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &ClientSocket,
        version: &TcpStream,
        ctx: &mut RequestCtx,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.is_refused {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_send(cx, version)).is_err() {
                // It may have answered before: that is seen when its answer is read.
                self.is_refused = true;
                client.exchange.set_awaits_client(false);
                return Poll::Ready(Ok(()));
            }
            if !client.exchange.has_unread_body() {
                return Poll::Ready(Ok(()));
            }
            self.make_room();
            match ready!(client.poll_more_of_body(cx, &mut self.wire, READ_BYTES))? {
                0 => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                read => self.body_bytes += u64::try_from(read).unwrap_or(u64::MAX),
            }
            ctx.client_sent(!client.exchange.has_unread_body());
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, version: &TcpStream) -> Poll<io::Result<()>> {
        while let Some(unsent) = self.wire.get(self.sent..).filter(|unsent| !unsent.is_empty()) {
            ready!(version.poll_write_ready(cx))?;
            match version.try_write(unsent) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets what has been sent once it is more than would be sent again.
    fn make_room(&mut self) {
        if self.is_cut || self.body_bytes() >= Retries::MOST_BODY_BYTES {
            self.is_cut = true;
            self.wire.clear();
            self.sent = 0;
        }
    }
}
