//! One attempt on one connection: the request to the version, and its answer to the client, at the same time.
//!
//! Line: request ► **relay** ► answer ► body. Both ways are polled by the client's own task, in one function that can be
//! dropped at any time: nothing is spawned, and nothing passes through a queue. What is read is written before more is
//! read, so a slow reader slows its writer down and takes no room.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::Malformed;
use super::answer::{self, Head, Terms};
use super::body::Body;
use super::upload::Upload;
use crate::listen::{ClientSocket, read_ready};
use crate::request::RequestCtx;
use crate::retry::Repeatable;

/// How much of an answer is read at a time; most are smaller.
const READ_BYTES: usize = 16 << 10;
/// How much of a large one.
const READ_LARGE_BYTES: usize = 64 << 10;

/// Why an attempt came to nothing, or to half an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client has gone.
    Client,
    /// Something was said that another attempt may say better, and one is to follow.
    Again,
    /// The attempt took too long.
    Late,
    /// The version broke its connection, or said what is no HTTP.
    Version {
        /// Whether it had not said anything yet.
        was_silent: bool,
        /// Whether it closed in order.
        has_ended: bool,
    },
}

/// How an attempt ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// Whether the version's connection can take another request.
    pub(super) version_is_kept: bool,
    /// Whether the client's connection is to be closed.
    pub(super) client_closes: bool,
    /// When the answer was whole.
    pub(super) at: Instant,
}

/// Room for the bytes that pass.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// What the version sent, while its head is not whole.
    pub(super) received: BytesMut,
    /// What the client is to get.
    pub(super) wire: BytesMut,
}

/// What an attempt works on.
pub(super) struct Relay<'a> {
    pub(super) client: &'a ClientSocket,
    pub(super) version: &'a TcpStream,
    pub(super) ctx: &'a mut RequestCtx,
    pub(super) upload: &'a mut Upload,
    pub(super) buffers: &'a mut Buffers,
    /// Whether the request was HEAD.
    pub(super) to_head_request: bool,
    /// Whether the client's connection closes after this answer, whatever it says.
    pub(super) closes: bool,
    pub(super) is_idempotent: bool,
    /// True as soon as the worker drains: then it closes too.
    pub(super) draining: &'a AtomicBool,
    pub(super) state: State,
}

/// How far the answer has come.
#[derive(Debug)]
pub(super) struct State {
    stage: Stage,
    /// How much of the client's bytes has been sent.
    sent: usize,
    /// Whether the client gets nothing yet: a head alone may still be replaced by another answer.
    holds: bool,
    has_spoken: bool,
    version_keeps: bool,
}

#[derive(Debug)]
enum Stage {
    Head,
    Body(Body),
    Whole(Instant),
}

impl Default for State {
    fn default() -> Self {
        Self { stage: Stage::Head, sent: 0, holds: false, has_spoken: false, version_keeps: false }
    }
}

impl Relay<'_> {
    /// Carries the request and its answer.
    pub(super) async fn run(mut self) -> Result<Passed, Broken> {
        self.buffers.received.clear();
        self.buffers.wire.clear();
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Passed, Broken>> {
        if self.client.exchange.take_attempt_over() {
            return Poll::Ready(Err(Broken::Late));
        }
        let uploaded = self.upload.poll(cx, self.client, self.version, self.ctx).map_err(|_gone| Broken::Client)?;
        self.ctx.body_bytes = self.upload.body_bytes();
        if self.upload.becomes_whole(self.client) {
            self.ctx.limit_attempt(self.repeatable());
        }
        if let Poll::Ready(done) = self.poll_answer(cx) {
            return Poll::Ready(done.map(|at| self.passed(at)));
        }
        if uploaded.is_ready() && !self.client.exchange.has_unread_body() && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Broken::Client));
        }
        Poll::Pending
    }

    fn passed(&self, at: Instant) -> Passed {
        Passed {
            version_is_kept: self.state.version_keeps && self.upload.is_done(self.client),
            client_closes: self.closes,
            at,
        }
    }

    /// Ready when the client has got all of the answer.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Instant, Broken>> {
        loop {
            if !self.state.holds {
                ready!(self.poll_send(cx)).map_err(|_gone| Broken::Client)?;
            }
            if let Stage::Whole(at) = self.state.stage {
                return Poll::Ready(Ok(at));
            }
            let read = ready!(self.poll_read(cx));
            self.take(read)?;
        }
    }

    fn broken(&self) -> Broken {
        Broken::Version { was_silent: !self.state.has_spoken, has_ended: false }
    }

    fn repeatable(&self) -> Repeatable {
        super::repeatable(self.ctx, self.upload, self.is_idempotent)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent) = self.buffers.wire.get(self.state.sent..).filter(|unsent| !unsent.is_empty()) {
            match ready!(self.client.poll_send(cx, unsent))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                sent => self.state.sent += sent,
            }
        }
        self.buffers.wire.clear();
        self.state.sent = 0;
        self.client.poll_flush(cx)
    }

    /// Reads what the version sent next, behind what is in the buffer of its stage.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = match self.state.stage {
            Stage::Head => &mut self.buffers.received,
            Stage::Body(_) | Stage::Whole(_) => &mut self.buffers.wire,
        };
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(if buffer.capacity() >= READ_BYTES { READ_LARGE_BYTES } else { READ_BYTES });
        }
        loop {
            ready!(self.version.poll_read_ready(cx))?;
            let room = buffer.capacity() - buffer.len();
            match read_ready(self.version, room, |tcp| tcp.try_read_buf(buffer)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn take(&mut self, read: io::Result<usize>) -> Result<(), Broken> {
        match read.map_err(|_reset| self.broken())? {
            0 => self.take_end(),
            read => {
                self.state.has_spoken = true;
                match self.state.stage {
                    Stage::Head => self.take_head(),
                    Stage::Body(_) | Stage::Whole(_) => {
                        let now = Instant::now();
                        self.ctx.heard(now);
                        self.take_body(self.buffers.wire.len() - read, now)
                    }
                }
            }
        }
    }

    fn take_end(&mut self) -> Result<(), Broken> {
        match &self.state.stage {
            Stage::Body(body) if body.ends_with_stream() => {
                self.become_whole(Instant::now());
                Ok(())
            }
            Stage::Head | Stage::Body(_) | Stage::Whole(_) => {
                Err(Broken::Version { was_silent: !self.state.has_spoken, has_ended: true })
            }
        }
    }

    /// Takes every head that is whole; behind the final one, what there is of the body. Whether the request is repeated is
    /// decided before the client gets any of the answer: it gets it whole if not.
    fn take_head(&mut self) -> Result<(), Broken> {
        loop {
            let repeatable = self.repeatable();
            let Some(head) = self.carry_head().map_err(|Malformed| self.broken())? else { return Ok(()) };
            bytes::Buf::advance(&mut self.buffers.received, head.bytes);
            if head.is_interim() {
                self.ctx.heard(Instant::now());
                continue;
            }
            if head.signs.failed().is_some_and(|failed| self.ctx.failed(failed, repeatable)) {
                return Err(Broken::Again);
            }
            return self.begin_body(head);
        }
    }

    fn begin_body(&mut self, head: Head) -> Result<(), Broken> {
        self.client.exchange.answer_begins();
        self.state.version_keeps = head.is_kept;
        self.closes = head.closes;
        self.state.holds = matches!(head.body, Body::Length(1..));
        let now = self.ctx.answered(head.status, head.signs);
        answer::end(&mut self.buffers.wire, self.ctx.server_timing(now).as_ref());
        if head.is_stream {
            self.ctx.begins_stream();
        }
        let Buffers { received, wire } = &mut *self.buffers;
        let from = wire.len();
        wire.extend_from_slice(received);
        received.clear();
        self.state.stage = Stage::Body(head.body);
        self.take_body(from, now)
    }

    fn carry_head(&mut self) -> Result<Option<Head>, Malformed> {
        let Buffers { received, wire } = &mut *self.buffers;
        if received.is_empty() {
            return Ok(None);
        }
        let Some(request_id) = self.ctx.known_request_id() else { return Err(Malformed) };
        let terms = Terms {
            to_head_request: self.to_head_request,
            closes: self.closes || self.draining.load(Relaxed) || !self.upload.is_done(self.client),
            request_id,
            version: self.ctx.version_header(),
            new_user: self.ctx.new_user.as_ref(),
        };
        answer::carry(received, &terms, wire)
    }

    /// Takes what has been written behind `from` as the body's, and drops what is not.
    fn take_body(&mut self, from: usize, now: Instant) -> Result<(), Broken> {
        let broken = self.broken();
        let Stage::Body(body) = &mut self.state.stage else { return Ok(()) };
        let wire = &mut self.buffers.wire;
        let fresh = wire.get(from..).unwrap_or_default();
        let part = body.take(fresh).map_err(|Malformed| broken)?;
        // More than its answer: whatever that is, the next request's answer must not be looked for behind it.
        self.state.version_keeps &= part.bytes == fresh.len();
        self.state.holds &= part.bytes == 0;
        self.ctx.answer_bytes += u64::try_from(part.bytes).unwrap_or(u64::MAX);
        wire.truncate(from + part.bytes);
        if part.is_last {
            self.become_whole(now);
        }
        Ok(())
    }

    fn become_whole(&mut self, now: Instant) {
        self.ctx.whole(now);
        self.state.stage = Stage::Whole(now);
        self.state.holds = false;
        self.ctx.told_all();
    }
}
