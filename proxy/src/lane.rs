//! The fast lane: plain requests, carried without the framework.
//!
//! Line: connection ► **lane** ► admission ► pool ► upstream ► outcome. A plain request (HTTP/1.1, a path, a known length,
//! nothing to negotiate) for a plain route (HTTP/1.1 endpoints without TLS, nothing mirrored) needs no framework: its
//! lines go on as they stand, and its answer comes back the same way. Everything else is left to the framework before
//! anything of it is consumed. Both ways ask the same questions in the same order: route, version, endpoint, what may be
//! repeated, and what came of it ([`RequestCtx`]).

mod answer;
mod body;
mod kept;
mod outline;
mod relay;
mod request;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::BytesMut;
use http::Method;
use nix::errno::Errno;
use pointsman_config::{Protocol, Route};
use tokio::net::TcpStream;
use tokio::time::timeout;

use kept::Kept;
pub(crate) use outline::{Field, Kind, Outline, Outlined, kind_of};
use relay::{Broken, Buffers, Passed, Relay, State};
pub(crate) use request::write_head;
use upload::Upload;

use crate::admission::{self, RequestHead};
use crate::answer::Refusal;
use crate::failure::Failure;
use crate::listen::ClientSocket;
use crate::outcome::Outcome;
use crate::request::{Load, RequestCtx};
use crate::retry::{Failed, Repeatable};
use crate::snapshot::Snapshots;
use crate::unseen;

/// Rooms that are kept for the next requests.
const MOST_SPARE: usize = 64;
/// A room that has grown beyond this is not kept, in bytes.
const LARGEST_SPARE_BYTES: usize = 128 << 10;

/// An answer that is not HTTP/1.x, or does not say for sure where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is good for another request.
    Keep,
    /// It is to be closed.
    Close,
}

/// The fast lane of one worker.
#[derive(Debug)]
pub(crate) struct Lane {
    snapshots: Arc<Snapshots>,
    load: Arc<Load>,
    /// True as soon as the worker drains.
    draining: Arc<AtomicBool>,
    kept: Kept,
    spare: Mutex<Vec<Room>>,
}

/// Room for one request; idle connections have none.
#[derive(Debug, Default)]
struct Room {
    request: BytesMut,
    answer: Buffers,
}

impl Room {
    fn is_worth_keeping(&self) -> bool {
        let buffers = [&self.request, &self.answer.received, &self.answer.wire];
        buffers.iter().all(|buffer| buffer.capacity() <= LARGEST_SPARE_BYTES)
    }
}

/// A request in the lane.
struct Errand<'a> {
    ctx: RequestCtx,
    client: &'a ClientSocket,
    upload: Upload,
    buffers: Buffers,
    is_idempotent: bool,
    to_head_request: bool,
    /// Whether the client's connection closes after the answer, whatever that says.
    closes: bool,
}

impl Errand<'_> {
    /// Where the next attempt goes; stable's if the version has no endpoint left and the route says so.
    fn next_endpoint(&mut self) -> Option<SocketAddr> {
        let mut endpoint = self.ctx.next_endpoint();
        if endpoint.is_none() && self.failed(Failed::Connect) {
            endpoint = self.ctx.next_endpoint();
        }
        endpoint.map(|endpoint| endpoint.address())
    }

    fn repeatable(&self) -> Repeatable {
        repeatable(&self.ctx, &self.upload, self.is_idempotent)
    }

    /// The present attempt failed: true if another is to follow.
    fn failed(&mut self, failed: Failed) -> bool {
        let repeatable = self.repeatable();
        self.ctx.failed(failed, repeatable)
    }

    /// Whether another attempt follows the one that broke; `kept` is its connection if that had been kept.
    fn goes_on(&mut self, broken: Broken, kept: Option<&TcpStream>) -> bool {
        match broken {
            Broken::Client => false,
            Broken::Again => true,
            Broken::Late => self.failed(Failed::Timeout),
            Broken::Version { was_silent, has_ended } => {
                kept.is_some_and(|kept| was_silent && self.is_stale(kept, has_ended)) || self.failed(Failed::Reset)
            }
        }
    }

    /// A connection that had been kept may have been closed by its version just as the request set out. Nothing was
    /// answered on it then, and if the request can be sent again as a whole, it is where that does no harm: once, and on a
    /// connection that cannot have that excuse, so that a version which drops requests is seen.
    fn is_stale(&mut self, kept: &TcpStream, has_ended: bool) -> bool {
        if !self.upload.is_repeatable() || self.repeatable().has_begun {
            return false;
        }
        let sent_bytes = self.upload.sent_bytes();
        let is_unseen = sent_bytes == 0 || has_ended && unseen::took_nothing(kept, sent_bytes);
        self.ctx.repeat_afresh(self.is_idempotent, is_unseen)
    }
}

impl Lane {
    pub(crate) fn new(snapshots: Arc<Snapshots>, load: Arc<Load>, draining: Arc<AtomicBool>) -> Self {
        Self { snapshots, load, draining, kept: Kept::default(), spare: Mutex::default() }
    }

    /// Begins a request that the lane can carry on; none if it is the framework's.
    pub(crate) fn begin(&self, request: Outlined<'_>) -> Option<RequestCtx> {
        if !request.outline.is_plain() || !self.snapshots.has_fast_lane() {
            return None;
        }
        let snapshot = self.snapshots.load();
        let route = snapshot.routes.find(request.host(), request.path());
        if route.is_some_and(|route| !is_plain(&route.settings)) {
            return None;
        }
        Some(RequestCtx::new(snapshot, Arc::clone(&self.load)))
    }

    /// Answers a request of which `body` has been received behind its head.
    pub(crate) async fn serve(
        &self,
        mut ctx: RequestCtx,
        client: &ClientSocket,
        request: Outlined<'_>,
        body: &[u8],
    ) -> Served {
        ctx.exchange = Some(Arc::clone(&client.exchange));
        let arrival = client.exchange.arrival();
        let closes = request.outline.wants_close() || arrival.is_none_or(|arrival| arrival.is_last);
        if let Err(refusal) = admission::admit(&mut ctx, &request) {
            let served = self.refuse(&mut ctx, client, &refusal, closes).await;
            ctx.finish();
            return served;
        }
        let mut room = self.room();
        let trace = ctx.trace();
        write_head(&mut room.request, request, &client.exchange.client, ctx.request_id(), &trace);
        let method = request.part(&request.outline.method);
        let mut errand = Errand {
            ctx,
            client,
            upload: Upload::new(room.request, body),
            buffers: room.answer,
            is_idempotent: Method::from_bytes(method).is_ok_and(|method| method.is_idempotent()),
            to_head_request: method == b"HEAD",
            closes,
        };
        let served = match self.carry(&mut errand).await {
            Ok(passed) if passed.client_closes => Served::Close,
            Ok(_) => Served::Keep,
            Err(failure) => give_up(&mut errand, failure).await,
        };
        errand.ctx.finish();
        self.give_back(Room { request: errand.upload.wire, answer: errand.buffers });
        served
    }

    /// Answers instead of a version. The connection stays good if nothing of the request is still to come.
    async fn refuse(&self, ctx: &mut RequestCtx, client: &ClientSocket, refusal: &Refusal, closes: bool) -> Served {
        ctx.refuse(refusal, Outcome::Rejected);
        let closes = closes || client.exchange.has_unread_body() || self.draining.load(Relaxed);
        let served = if closes { Served::Close } else { Served::Keep };
        tell(ctx, client, refusal, served).await
    }

    /// Has a version answer: attempt after attempt, while nothing has been said and another try can do no harm.
    async fn carry(&self, errand: &mut Errand<'_>) -> Result<Passed, Failure> {
        loop {
            let Some(endpoint) = errand.next_endpoint() else {
                return Err(told(Outcome::Connect, Refusal::NoHealthyEndpoint));
            };
            let (tcp, was_kept) = match self.connection(&errand.ctx, endpoint).await {
                Ok(connection) => connection,
                Err(error) => {
                    let failure = why_unconnected(&error);
                    if failure.outcome == Outcome::Connect && errand.failed(Failed::Connect) {
                        continue;
                    }
                    return Err(failure);
                }
            };
            errand.ctx.sets_out();
            match self.attempt(errand, &tcp).await {
                Ok(passed) => {
                    // One that had to be fresh came after one that had gone: this version closes what is kept.
                    if passed.version_is_kept && !errand.ctx.needs_fresh_connection() {
                        self.kept.put(endpoint, tcp, passed.at);
                    }
                    return Ok(passed);
                }
                Err(broken) if errand.goes_on(broken, was_kept.then_some(&tcp)) => {}
                Err(broken) => return Err(why_broken(broken)),
            }
        }
    }

    async fn attempt(&self, errand: &mut Errand<'_>, tcp: &TcpStream) -> Result<Passed, Broken> {
        errand.upload.rewind();
        let relay = Relay {
            client: errand.client,
            version: tcp,
            ctx: &mut errand.ctx,
            upload: &mut errand.upload,
            buffers: &mut errand.buffers,
            to_head_request: errand.to_head_request,
            closes: errand.closes,
            is_idempotent: errand.is_idempotent,
            draining: &self.draining,
            state: State::default(),
        };
        relay.run().await
    }

    /// A connection to `endpoint`, and whether it had been kept.
    async fn connection(&self, ctx: &RequestCtx, endpoint: SocketAddr) -> io::Result<(TcpStream, bool)> {
        if !ctx.needs_fresh_connection()
            && let Some(kept) = self.kept.take(endpoint, Instant::now())
        {
            return Ok((kept, true));
        }
        let patience = ctx.route().map(|route| route.settings.timeouts.connect).unwrap_or_default();
        let tcp = timeout(patience, TcpStream::connect(endpoint)).await??;
        // Without it, a small request would wait for the acknowledgement of the one before; a failure costs only that.
        drop(tcp.set_nodelay(true));
        Ok((tcp, false))
    }

    fn room(&self) -> Room {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut room: Room) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE && room.is_worth_keeping() {
            room.request.clear();
            spare.push(room);
        }
    }

    /// Closes connections to versions that have not been used for too long, for ever.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(kept::SWEEP_EVERY).await;
            self.kept.sweep(Instant::now());
        }
    }
}

/// Whether the lane speaks what a route's endpoints speak, and does all that the route asks for.
fn is_plain(route: &Route) -> bool {
    route.protocol == Protocol::Http1 && route.upstream_tls.is_none() && route.mirror.is_none()
}

/// What can be sent again, and whether it is too late for that.
fn repeatable(ctx: &RequestCtx, upload: &Upload, is_idempotent: bool) -> Repeatable {
    let has_sent = ctx.exchange.as_ref().is_some_and(|exchange| exchange.has_sent());
    let fits = ctx.route().is_some_and(|route| upload.body_bytes() <= route.settings.retries.body_bytes);
    Repeatable { is_idempotent, body_is_kept: fits && upload.is_repeatable(), has_begun: ctx.is_answered() || has_sent }
}

fn told(outcome: Outcome, refusal: Refusal) -> Failure {
    Failure { outcome, refusal: Some(refusal) }
}

fn why_broken(broken: Broken) -> Failure {
    match broken {
        Broken::Client => Failure { outcome: Outcome::ClientAbort, refusal: None },
        Broken::Late => told(Outcome::Timeout, Refusal::UpstreamTimeout),
        Broken::Version { .. } | Broken::Again => told(Outcome::Reset, Refusal::UpstreamReset),
    }
}

/// Why there is no connection: no answer of an endpoint, or something that the edge has run out of.
fn why_unconnected(error: &io::Error) -> Failure {
    use Errno::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let errno = error.raw_os_error().map(Errno::from_raw);
    if matches!(errno, Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL | EAGAIN)) {
        told(Outcome::Rejected, Refusal::Overloaded)
    } else {
        told(Outcome::Connect, Refusal::UpstreamConnect)
    }
}

/// Ends a request that got no whole answer.
async fn give_up(errand: &mut Errand<'_>, failure: Failure) -> Served {
    let Errand { ctx, client, .. } = errand;
    // What becomes of the upload does not change an answer that was whole before.
    if ctx.is_answered_early() {
        return Served::Close;
    }
    ctx.breaks_as(failure.outcome);
    match failure.refusal {
        Some(refusal) if !client.exchange.has_sent() => {
            ctx.refuse(&refusal, failure.outcome);
            tell(ctx, client, &refusal, Served::Close).await
        }
        Some(_) | None => Served::Close,
    }
}

/// Tells the client why it gets no answer of a version; the connection is closed if the client does not take it.
async fn tell(ctx: &mut RequestCtx, client: &ClientSocket, refusal: &Refusal, then: Served) -> Served {
    let connection = if then == Served::Keep { "keep-alive" } else { "close" };
    let wire = ctx.wire_with(refusal, connection);
    client.exchange.answer_begins();
    if client.send(&wire).await.is_ok() { then } else { Served::Close }
}
