//! The edge: what happens to a request at each step that the framework offers.
//!
//! Line: **edge** ► route ► split ► pool ► upstream ► outcome. Each hook does one or two calls; what they decide stands
//! in [`crate::route`], [`crate::pool`], [`crate::forward`] and [`crate::failure`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::admission;
use crate::answer::{Answer, Refusal};
use crate::failure::Failure;
use crate::forward;
use crate::listen::{ClientStream, Exchange};
use crate::mirror::{Copier, Copying};
use crate::outcome::Outcome;
use crate::request::{Load, RequestCtx};
use crate::retry::{self, AnswerSigns, Failed, Repeatable};
use crate::snapshot::Snapshots;
use crate::streams::{self, asks_for_websocket};
use crate::unseen;

/// The data path of one worker.
#[derive(Debug)]
pub(crate) struct Edge {
    snapshots: Arc<Snapshots>,
    load: Arc<Load>,
    /// True as soon as the worker drains.
    draining: Arc<AtomicBool>,
    copier: Copier,
}

impl Edge {
    pub(crate) fn new(snapshots: Arc<Snapshots>, load: Arc<Load>, draining: Arc<AtomicBool>) -> Self {
        Self { snapshots, load, draining, copier: Copier::default() }
    }

    /// Answers instead of a version, through the framework's session.
    async fn answer(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal) -> Result<()> {
        let request_id = ctx.request_id().clone();
        let answer = Answer { refusal, request_id: &request_id, version: ctx.version_header() };
        if let Some(exchange) = &ctx.exchange {
            exchange.answer_begins();
        }
        if streams::is_grpc(&session.req_header().headers)
            && let Some(stream) = session.as_downstream_mut().as_custom_mut()
        {
            return stream.write_response_header(Box::new(answer.grpc_head()?), true).await;
        }
        let body = answer.body();
        let head = answer.head(body.len())?;
        ctx.answer_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(body), true).await
    }
}

/// Whether the connection to a version is what failed.
fn is_broken(error: &Error) -> bool {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError};
    matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H2Error)
}

/// Whether an HTTP/2 server said that it has not looked at the request: it refused the stream, or named an earlier one as
/// the last (RFC 9113, section 8.7). The framework marks these.
fn is_unseen(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error && error.retry == RetryType::Decided(true)
}

/// Asks a client for its body that waits for that. The edge does so itself, once it knows that it will take the body: a
/// version that never asks cannot hang the client, and a refusal comes before the body.
async fn ask_for_body(session: &mut Session, ctx: &RequestCtx) {
    let waits = ctx.exchange.as_ref().is_some_and(|exchange| exchange.has_unread_body());
    if waits && streams::expects_continue(session.req_header()) {
        let downstream = session.as_downstream_mut();
        // The framework takes every answer before the end of the body as the last one of its connection.
        downstream.set_close_on_response_before_downstream_finish(false);
        // If the client has gone, the next read of its body says so.
        drop(downstream.write_continue_response().await);
        downstream.set_close_on_response_before_downstream_finish(true);
    }
}

/// The request behind a session, as the accept loop knows it.
fn exchange_of(session: &Session) -> Option<Arc<Exchange>> {
    match session.as_downstream().stream() {
        Some(stream) => {
            stream.as_ref().as_any().downcast_ref::<ClientStream>().map(|stream| Arc::clone(&stream.socket.exchange))
        }
        None => session.req_header().extensions.get::<Arc<Exchange>>().cloned(),
    }
}

/// Whether a final answer has been handed to the session; an interim one (1xx) is none.
fn has_answer(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// What can be sent again, and whether it is too late for that. What the framework keeps of a body is all of it or, when
/// it was too large, nothing; sending that would send a head without its body.
fn repeatable(session: &Session, ctx: &RequestCtx) -> Repeatable {
    let has_begun =
        ctx.is_answered() || has_answer(session) || ctx.exchange.as_ref().is_some_and(|exchange| exchange.has_sent());
    let fits = ctx.route().is_some_and(|route| ctx.body_bytes <= route.settings.retries.body_bytes);
    Repeatable {
        is_idempotent: session.req_header().method.is_idempotent(),
        body_is_kept: fits && !session.as_ref().retry_buffer_truncated(),
        has_begun,
    }
}

/// Whether an answer ends with its head.
fn has_no_body(session: &Session, answer: &ResponseHeader) -> bool {
    session.req_header().method == Method::HEAD
        || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || answer.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        RequestCtx::new(self.snapshots.load(), Arc::clone(&self.load))
    }

    /// The framework would add response compression; the edge passes bodies on as they are.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<()> {
        ctx.exchange = exchange_of(session);
        // Deadlines for reading are the accept loop's.
        session.set_read_timeout(None);
        let arrival = ctx.exchange.as_ref().and_then(|exchange| exchange.arrival());
        if arrival.is_some_and(|arrival| arrival.is_last) {
            session.set_keepalive(None);
        }
        // The framework would take every other `upgrade` for one, and the body for what follows it.
        if session.req_header().headers.contains_key(UPGRADE)
            && !arrival.is_some_and(|arrival| asks_for_websocket(session.req_header(), arrival.head.framing))
        {
            session.req_header_mut().remove_header(&UPGRADE);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool> {
        let Err(refusal) = admission::admit(ctx, session.req_header()) else {
            ask_for_body(session, ctx).await;
            ctx.begin_copy(&self.draining);
            return Ok(false);
        };
        ctx.refuse(&refusal, Outcome::Rejected);
        if Self::answer(session, ctx, &refusal).await.is_err() {
            session.set_keepalive(None);
        }
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
        let mut endpoint = ctx.next_endpoint();
        if endpoint.is_none() && ctx.failed(Failed::Connect, repeatable(session, ctx)) {
            endpoint = ctx.next_endpoint();
        }
        let Some(endpoint) = endpoint else {
            ctx.give_up(Refusal::NoHealthyEndpoint, Outcome::Connect);
            return Error::e_explain(ErrorType::ConnectNoRoute, "the version has no endpoint").map_err(Error::into_up);
        };
        let route = ctx.route().ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        let peer = route.upstream.peer(endpoint.address(), &route.settings, ctx.needs_fresh_connection());
        let refused =
            || Error::explain(ErrorType::InvalidCert, "the certificates of the route cannot be used").into_up();
        peer.ok_or_else(refused)
    }

    /// Nothing of the request has been read by this endpoint: whatever its method, and its size if it is the first one,
    /// another may have it.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestCtx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let is_refused = Failure::of(&error).outcome == Outcome::Connect;
        error.set_retry(is_refused && ctx.failed(Failed::Connect, repeatable(session, ctx)));
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        #[cfg(unix)] fd: std::os::unix::io::RawFd,
        #[cfg(windows)] _sock: std::os::windows::io::RawSocket,
        _digest: Option<&Digest>,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        // Its end may have come before the framework has looked; nothing of this request has been sent on it.
        if reused && unseen::is_closed(fd) {
            ctx.begin_afresh();
            return Error::err(ErrorType::ConnectionClosed).map_err(Error::into_up);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        ctx.sets_out();
        let request_id = ctx.request_id().clone();
        let trace = ctx.trace();
        let Some(exchange) = &ctx.exchange else { return Error::err(ErrorType::InternalError) };
        forward::to_version(request, &exchange.client, &request_id, &trace)?;
        if let Some(endpoint) = ctx.http2_endpoint() {
            forward::over_http2(request, session.req_header(), endpoint)?;
        }
        Copying::sets_out(&mut ctx.copy, request)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        ctx.client_sent(end_of_stream);
        let is_first = ctx.body_bytes == 0;
        ctx.body_bytes += body.as_ref().map_or(0, |chunk| u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if end_of_stream {
            ctx.limit_attempt(repeatable(session, ctx));
        }
        match ctx.route().map(|route| route.settings.limits.body_bytes) {
            // Nothing of a stream is kept, however long it goes on.
            Some(limit) if ctx.body_bytes > limit && !ctx.streams() => {
                ctx.give_up(Refusal::BodyTooLarge(limit), Outcome::Rejected);
                Error::err_down(ErrorType::HTTPStatus(413))
            }
            Some(_) | None => {
                Copying::request_body(&mut ctx.copy, body.as_ref(), end_of_stream, &self.copier);
                if !is_first {
                    ctx.gather(body, end_of_stream);
                }
                Ok(())
            }
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            if session.is_upgrade(answer) != Some(true) {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade that was not asked for")
                    .map_err(Error::into_up);
            }
            ctx.begins_tunnel();
            return Ok(());
        }
        if answer.status.is_informational() {
            ctx.heard(Instant::now());
            return Ok(());
        }
        let status = answer.status.as_u16();
        let signs = AnswerSigns::of(status, |name| answer.headers.get(name).map(HeaderValue::as_bytes));
        // Decided before the answer is dropped for it: the user gets it whole if it is not repeated.
        if signs.failed().is_some_and(|failed| ctx.failed(failed, repeatable(session, ctx))) {
            let mut failed = Error::new_up(ErrorType::HTTPStatus(status));
            failed.set_retry(true);
            return Err(failed);
        }
        ctx.answered(status, signs);
        if streams::is_stream(&answer.headers) {
            ctx.begins_stream();
        }
        ctx.copy_is_answered(status, &answer.headers);
        if has_no_body(session, answer) {
            ctx.told_all();
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestCtx,
    ) -> Result<Option<Duration>> {
        if let Some(chunk) = body {
            ctx.answer_bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            Copying::answer_body(&mut ctx.copy, chunk);
        }
        if end_of_stream {
            ctx.told_all();
        } else {
            ctx.heard(Instant::now());
        }
        Ok(None)
    }

    /// A gRPC call says here what came of it, unless it has no answer but that.
    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        ctx.told_all();
        let status = trailers.get(retry::GRPC_STATUS).and_then(|status| retry::failed_call(status.as_bytes()));
        if status.is_some() {
            ctx.call_failed();
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        let switches = answer.status == StatusCode::SWITCHING_PROTOCOLS;
        if answer.status.is_informational() && !switches {
            return Ok(());
        }
        if let Some(exchange) = &ctx.exchange {
            exchange.answer_begins();
        }
        if let Some(cookie) = ctx.new_user.take() {
            forward::set_cookie(answer, cookie)?;
        }
        if switches {
            let request_id = ctx.request_id().clone();
            return forward::name(answer, &request_id, ctx.version_header());
        }
        let only_chunks = session.req_header().version == Version::HTTP_10 && forward::without_chunks(answer);
        if only_chunks || self.draining.load(Relaxed) {
            session.set_keepalive(None);
        }
        let request_id = ctx.request_id().clone();
        if let Some(timing) = ctx.server_timing(Instant::now()) {
            answer.append_header(forward::SERVER_TIMING, timing)?;
        }
        forward::to_client(answer, &request_id, ctx.version_header())
    }

    /// A connection that had been kept may have been closed by its server just as the request set out. Nothing was
    /// answered on it then, and if the body can be sent again as a whole, it is where that does no harm: once, and on a
    /// connection that cannot have that excuse, so that a version which drops requests is seen. By now the framework has
    /// closed the connection, and only HTTP/2 says whether the request was seen. Anything else is repeated as the route says.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut RequestCtx,
        reused: bool,
    ) -> Box<Error> {
        if ctx.has_turned() {
            error.set_retry(true);
            return error;
        }
        // The client's side breaks off for it, and says so before it looks whether the client is there.
        let of_client = *error.esource() == ErrorSource::Downstream;
        if of_client && ctx.exchange.as_ref().is_some_and(|exchange| exchange.take_attempt_over()) {
            error = Error::new_up(ErrorType::ReadTimedout);
        }
        let of_version = *error.esource() == ErrorSource::Upstream;
        let closed = is_broken(&error);
        let can_be_sent =
            Repeatable { body_is_kept: !session.as_ref().retry_buffer_truncated(), ..repeatable(session, ctx) };
        let is_free = of_version && can_be_sent.body_is_kept && !can_be_sent.has_begun;
        let is_unseen = is_unseen(&error);
        let stale = reused && closed && is_free && ctx.repeat_afresh(can_be_sent.is_idempotent, is_unseen);
        let failed = Failed::of(Failure::of(&error).outcome).filter(|_| of_version);
        error.set_retry(stale || failed.is_some_and(|failed| ctx.failed(failed, repeatable(session, ctx))));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        session.set_keepalive(None);
        if ctx.is_answered_early() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let failure = ctx.why_given_up().unwrap_or_else(|| Failure::of(error));
        ctx.breaks_as(failure.outcome);
        let Some(refusal) = failure.refusal else { return FailToProxy { error_code: 0, can_reuse_downstream: false } };
        tell(session, ctx, &refusal, failure.outcome).await;
        FailToProxy { error_code: refusal.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, _session: &mut Session, _error: Option<&Error>, ctx: &mut RequestCtx) {
        ctx.finish();
    }

    /// The request is booked and, if it failed, remembered; one line for each would only bury what matters.
    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestCtx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &RequestCtx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Tells the client why it gets no answer, if it can still be told: before the head of another, or in place of a head
/// that has been written but not sent.
async fn tell(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal, outcome: Outcome) {
    let sent = ctx.exchange.as_ref().is_some_and(|exchange| exchange.has_sent());
    if sent {
        return;
    }
    let is_free = !has_answer(session);
    ctx.refuse(refusal, outcome);
    if is_free {
        if Edge::answer(session, ctx, refusal).await.is_err() {
            session.set_keepalive(None);
        }
    } else {
        let words = ctx.last_words(refusal.clone());
        if let Some(exchange) = &ctx.exchange {
            exchange.leave_last_words(words);
        }
    }
}
