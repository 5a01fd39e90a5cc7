//! One request on its way: what it was assigned to, and what came of it, booked exactly once. A request that is repeated
//! is booked when that is decided, as what its first attempt came to.
//!
//! Line: edge ► **request** ► recorder. Everything a request needs to know it takes from the one snapshot it began with.
//! Booking hangs on the value itself: when the framework drops it (the client went, a deadline passed, a task panicked),
//! the request is booked then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use crossbeam_utils::CachePadded;
use http::{HeaderMap, HeaderValue};
use pointsman_config::Protocol;
use tracing::debug;

use crate::admission::RequestHead;
use crate::answer::{LastWords, Refusal};
use crate::concurrency::Permit;
use crate::endpoint::{Endpoint, InFlight};
use crate::failure;
use crate::forward;
use crate::guard::Framing;
use crate::listen::{Client, Exchange, MALFORMED_CHUNKS};
use crate::mirror::{self, Copying};
use crate::observe::{Ended, Seen};
use crate::outcome::{Outcome, Weighs};
use crate::pool::Pool;
use crate::protection::Refusals;
use crate::recorder::{Arm, AssignedBy, Assignment, Entry, Epoch, Failure};
use crate::retry::books::{RetryResult, VersionRetries};
use crate::retry::following::{Claim, Following};
use crate::retry::{self, AnswerSigns, Attempt, Failed, Next, Repeatable, Side};
use crate::snapshot::{ServedRoute, Snapshot};
use crate::trace::{TRACEPARENT, Trace};

/// An answer of so many bytes at most is judged when it is whole: it fits into what a socket takes for a client that does not read.
const JUDGED_WHOLE: u64 = 16 << 10;
/// The status of an answer after which the connection is no HTTP any more.
const SWITCHED: u16 = 101;

/// Requests that one worker is working on.
#[derive(Debug, Default)]
pub(crate) struct Load(CachePadded<AtomicUsize>);

impl Load {
    /// Requests that have begun and not ended.
    pub(crate) fn requests(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// What the edge knows of one request.
#[derive(Debug)]
pub(crate) struct RequestCtx {
    snapshot: Arc<Snapshot>,
    load: Arc<Load>,
    pub(crate) exchange: Option<Arc<Exchange>>,
    assigned: Option<Assigned>,
    request_id: Option<HeaderValue>,
    trace: Option<Trace>,
    /// For who is told of its end; none if nobody wants to be.
    seen: Option<Box<Seen>>,
    /// Bytes of the answer's body.
    pub(crate) answer_bytes: u64,
    /// From the last sending to the head of its answer.
    head_wait: Option<Duration>,
    /// A `set-cookie` for a client that was no user yet.
    pub(crate) new_user: Option<HeaderValue>,
    /// Endpoints of the version being asked that have failed this request.
    tried: Vec<usize>,
    present: Option<usize>,
    attempts: u32,
    in_flight: Option<InFlight>,
    /// Whether the client has sent everything.
    is_asked: bool,
    /// The right to be worked on, where the version has only so many.
    permit: Option<Permit>,
    /// Bytes of the body that this attempt has passed on.
    pub(crate) body_bytes: u64,
    status: Option<u16>,
    /// What the answer counts as, as far as its head and its trailers tell.
    answered_as: Option<Outcome>,
    /// Whether the version has said everything.
    is_whole: bool,
    /// Pieces of a small body behind the first, until it is whole.
    gathered: BytesMut,
    /// Its copy for another version.
    pub(crate) copy: Option<Copying>,
    /// When the present attempt was sent.
    sent: Option<Instant>,
    /// Whether an attempt met a kept connection that had gone.
    repeats: bool,
    given_up: Option<failure::Failure>,
    outcome: Option<Outcome>,
    stage: Stage,
}

/// The route and the side of the comparison that a request belongs to.
#[derive(Debug)]
struct Assigned {
    route: usize,
    to: Assignment,
    /// Whose endpoints are asked: those of the arm, or stable's after the canary failed.
    asks: Arm,
    /// None once it is closed.
    entry: Option<Entry>,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No attempt on it has failed.
    First,
    /// An attempt follows one that failed, and for which its version is booked.
    Retry,
    /// It is booked, and nothing more is to come.
    Ended,
}

impl RequestCtx {
    pub(crate) fn new(snapshot: Arc<Snapshot>, load: Arc<Load>) -> Self {
        load.0.fetch_add(1, Relaxed);
        Self {
            snapshot,
            load,
            exchange: None,
            assigned: None,
            request_id: None,
            trace: None,
            seen: None,
            answer_bytes: 0,
            head_wait: None,
            new_user: None,
            tried: Vec::new(),
            present: None,
            attempts: 0,
            in_flight: None,
            is_asked: false,
            permit: None,
            body_bytes: 0,
            status: None,
            answered_as: None,
            is_whole: false,
            gathered: BytesMut::new(),
            copy: None,
            sent: None,
            repeats: false,
            given_up: None,
            outcome: None,
            stage: Stage::First,
        }
    }

    /// The picture of everything that this request began with.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The name of this request in every log.
    pub(crate) fn request_id(&mut self) -> &HeaderValue {
        self.request_id.get_or_insert_with(forward::new_request_id)
    }

    /// The same, if it has been set.
    pub(crate) fn known_request_id(&self) -> Option<&HeaderValue> {
        self.request_id.as_ref()
    }

    pub(crate) fn set_request_id(&mut self, id: HeaderValue) {
        self.request_id = Some(id);
    }

    /// Puts the request into its trace, and keeps what is to be told of it in the end.
    pub(crate) fn observe(&mut self, head: &impl RequestHead, client: &Client, started: Instant) {
        let observers = &self.snapshot.observers;
        let trace = Trace::of(head.only(&TRACEPARENT), observers.trace_sample());
        if observers.want(&trace) {
            self.seen = Some(Box::new(Seen::new(head, client, started)));
        }
        self.trace = Some(trace);
    }

    /// The trace that it belongs to.
    pub(crate) fn trace(&mut self) -> Trace {
        *self.trace.get_or_insert_with(|| Trace::of(None, None))
    }

    /// The value of `server-timing` as of `now`, if the route says so: how long the version took to the head of its
    /// answer, and how long everything else took up to here, the client's sending included; in milliseconds.
    pub(crate) fn server_timing(&self, now: Instant) -> Option<HeaderValue> {
        self.route()?.settings.server_timing.then_some(())?;
        let (upstream, arrival) = (self.head_wait?, self.exchange.as_ref()?.arrival()?);
        let edge = now.saturating_duration_since(arrival.started).saturating_sub(upstream);
        let [upstream, edge] = [upstream, edge].map(|span| span.as_secs_f64() * 1_000.0);
        HeaderValue::from_str(&format!("upstream;dur={upstream:.3}, edge;dur={edge:.3}")).ok()
    }

    /// Tells of the end, once.
    fn tell(&mut self, outcome: Outcome) {
        let Some(seen) = self.seen.take() else { return };
        let ended = Ended {
            route: self.route().map(|route| route.name.clone()),
            version: self.pool().map(|pool| pool.version.clone()),
            assigned_by: self.assigned.as_ref().map(|assigned| assigned.to.by),
            outcome,
            status: self.status,
            request_id: self.request_id().clone(),
            trace: self.trace(),
            attempts: self.attempts,
            request_bytes: self.body_bytes,
            response_bytes: self.answer_bytes,
            upstream_head: self.head_wait,
        };
        self.snapshot.observers.tell(seen, ended);
    }

    /// Assigns the request to a version of the route at `position`; from here on it counts.
    pub(crate) fn assign(&mut self, position: usize, assignment: Assignment, started: Instant) {
        let entry = self.snapshot.routes.at(position).map(|route| route.epoch.begin(assignment, started));
        self.assigned = Some(Assigned { route: position, to: assignment, asks: assignment.arm, entry });
        if let Some(books) = self.retry_books() {
            books.assigned(started);
        }
        if !self.exchange.as_ref().is_some_and(|exchange| exchange.has_unread_body()) {
            self.asked(started);
        }
    }

    /// The client sent some more of its body, or the end of it.
    pub(crate) fn client_sent(&mut self, is_end: bool) {
        if self.streams() {
            self.heard(Instant::now());
        }
        // Nothing new if everything had arrived with the head, as small bodies do.
        if !self.is_asked {
            let now = Instant::now();
            self.heard(now);
            if is_end {
                self.asked(now);
            }
        }
    }

    /// The request may be worked on, until it ends.
    pub(crate) fn hold(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Gathers the pieces behind the first of a body that may be sent again, and passes them on as one. The framework hands
    /// pieces on through a pipe of four, and looks at its client no more once that is full with the last one: then neither
    /// a client that goes would be heard, nor the end of an attempt. A body without a length may be a stream, and goes on
    /// as it comes.
    pub(crate) fn gather(&mut self, piece: &mut Option<Bytes>, is_end: bool) {
        let limit = self.route().map_or(0, |route| route.settings.retries.body_bytes);
        let framing =
            self.exchange.as_ref().and_then(|exchange| exchange.arrival()).map(|arrival| arrival.head.framing);
        // What follows an answer is no body, but what passes through a tunnel.
        if self.is_answered() || !matches!(framing, Some(Framing::Length(length)) if length <= limit) {
            return;
        }
        self.gathered.extend_from_slice(piece.as_deref().unwrap_or_default());
        if !is_end {
            *piece = Some(Bytes::new());
        } else if !self.gathered.is_empty() {
            *piece = Some(self.gathered.split().freeze());
        }
    }

    /// The client has sent everything, as of `now`: from here on the version is waited for.
    fn asked(&mut self, now: Instant) {
        self.is_asked = true;
        if let Some(permit) = &mut self.permit {
            permit.asked(now);
        }
        if let Some((epoch, entry)) = self.open_entry() {
            epoch.asked(entry, now);
        }
    }

    /// The entry in the books, unless it is closed.
    fn open_entry(&mut self) -> Option<(&Epoch, &mut Entry)> {
        let assigned = self.assigned.as_mut()?;
        let route = self.snapshot.routes.at(assigned.route)?;
        Some((&route.epoch, assigned.entry.as_mut()?))
    }

    /// The route; none before [`RequestCtx::assign`].
    pub(crate) fn route(&self) -> Option<&ServedRoute> {
        let assigned = self.assigned.as_ref()?;
        self.snapshot.routes.at(assigned.route).map(Arc::as_ref)
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        let assigned = self.assigned.as_ref()?;
        self.route()?.pool(assigned.asks)
    }

    /// The books of the version that is asked.
    fn retry_books(&self) -> Option<&VersionRetries> {
        self.route()?.retries.of(&self.pool()?.version).map(Arc::as_ref)
    }

    /// Whether an endpoint of the version is up, as far as is known.
    pub(crate) fn has_endpoint_up(&self) -> bool {
        self.pool().is_some_and(|pool| pool.endpoints().iter().any(|endpoint| endpoint.is_up()))
    }

    /// The version as answers name it; none if they do not.
    pub(crate) fn version_header(&self) -> Option<&HeaderValue> {
        self.route()?.settings.version_header.then_some(())?;
        self.pool().map(|pool| &pool.version_header)
    }

    /// Begins an attempt on an endpoint that has not refused a connection to this request; none if there is none.
    pub(crate) fn next_endpoint(&mut self) -> Option<Arc<Endpoint>> {
        let (position, endpoint) = self.pool()?.pick(&self.tried, Instant::now())?;
        let endpoint = Arc::clone(endpoint);
        self.present = Some(position);
        self.attempts += 1;
        self.body_bytes = 0;
        self.gathered.clear();
        if let Some(exchange) = &self.exchange {
            exchange.rests();
        }
        self.in_flight = Some(endpoint.enter());
        Some(endpoint)
    }

    /// The present endpoint, if it speaks HTTP/2.
    pub(crate) fn http2_endpoint(&self) -> Option<SocketAddr> {
        self.route().filter(|route| route.settings.protocol != Protocol::Http1)?;
        self.pool()?.endpoints().get(self.present?).map(|endpoint| endpoint.address())
    }

    /// The request sets out on a connection: its version may be silent from now on for as long as its route allows.
    pub(crate) fn sets_out(&mut self) {
        let now = Instant::now();
        self.sent = Some(now);
        if let Some(attempt) = &mut self.in_flight {
            attempt.sets_out(now);
        }
        self.heard(now);
    }

    /// The request is whole. If another attempt could follow this one, it does when this one takes too long.
    pub(crate) fn limit_attempt(&self, repeatable: Repeatable) {
        let (Some(exchange), Some(route)) = (&self.exchange, self.route()) else { return };
        let settings = &route.settings.retries;
        let others = self.pool().is_some_and(|pool| self.tried.len() + 1 < pool.endpoints().len());
        let Some(attempt) = self.attempt(Failed::Timeout, repeatable, others) else { return };
        if matches!(retry::wish(settings, &attempt), Next::Again | Next::OnStable) {
            let tried = self.tried.iter().copied().chain(self.present).collect();
            if let Some(following) = self.following(tried, attempt) {
                exchange.limit_attempt(settings.per_try.map(|per_try| Instant::now() + per_try), following);
            }
        }
    }

    /// The present attempt failed: true if another is to follow, for which everything is ready then.
    pub(crate) fn failed(&mut self, failed: Failed, repeatable: Repeatable) -> bool {
        self.tried.extend(self.present.take());
        let Some(Claim { next, permit }) = self.claim(failed, repeatable) else { return false };
        match next {
            Next::GiveUp | Next::NoBudget => return false,
            Next::OtherEndpoint => {}
            Next::Again => self.charge(failed),
            Next::OnStable => {
                self.charge(failed);
                self.return_permit(failed.outcome());
                self.permit = permit;
                self.turn_to_stable();
            }
        }
        let now = Instant::now();
        if let Some(attempt) = &mut self.in_flight {
            attempt.answered(false, now);
        }
        self.attempt_ends(failed.outcome(), now);
        self.turn();
        true
    }

    /// What another attempt needs. One that follows an attempt which took too long has it already.
    fn claim(&self, failed: Failed, repeatable: Repeatable) -> Option<Claim> {
        if repeatable.has_begun {
            return None;
        }
        let claimed = self.exchange.as_ref().and_then(|exchange| exchange.take_claim());
        if failed == Failed::Timeout && claimed.is_some() {
            return claimed;
        }
        let attempt = self.attempt(failed, repeatable, false)?;
        self.following(self.tried.clone(), attempt)?.claim(Instant::now())
    }

    fn following(&self, tried: Vec<usize>, attempt: Attempt) -> Option<Following> {
        let Assigned { route, to, asks, .. } = *self.assigned.as_ref()?;
        Some(Following { snapshot: Arc::clone(&self.snapshot), route, assigned: to.arm, asks, tried, attempt })
    }

    /// The present attempt is over and came to `outcome`.
    fn attempt_ends(&mut self, outcome: Outcome, now: Instant) {
        if let (Some(attempt), Some(weighs)) = (self.in_flight.take(), self.weigh(outcome)) {
            attempt.ends(weighs, now);
        }
    }

    /// How `outcome` weighs on this request's route.
    fn weigh(&self, outcome: Outcome) -> Option<Weighs> {
        self.route().map(|route| route.epoch.terms().errors.weigh(outcome))
    }

    /// What is known of the present attempt, had it failed like this; none before the request is assigned.
    fn attempt(&self, failed: Failed, repeatable: Repeatable, another_endpoint: bool) -> Option<Attempt> {
        Some(Attempt { failed, side: self.side()?, attempts: self.attempts, repeatable, another_endpoint })
    }

    /// Whose attempt the present one is.
    fn side(&self) -> Option<Side> {
        let assigned = self.assigned.as_ref()?;
        let by_us = match assigned.to.by {
            AssignedBy::Chance | AssignedBy::User(_) | AssignedBy::Repeat => true,
            AssignedBy::Override => false,
        };
        let has_stable = self.route()?.stable.endpoints().iter().any(|endpoint| endpoint.is_up());
        Some(match assigned.asks {
            Arm::Stable => Side::Stable,
            Arm::Canary if by_us && has_stable => Side::Canary,
            Arm::Canary | Arm::Other(_) => Side::Asked,
        })
    }

    /// The version failed: what it is charged with is booked now, whatever comes of the retry.
    fn charge(&mut self, failed: Failed) {
        if self.stage == Stage::Retry {
            self.note_retry(RetryResult::Failure);
        }
        self.stage = Stage::Retry;
        self.status = failed.status();
        self.book(failed.outcome());
    }

    fn turn_to_stable(&mut self) {
        if let Some(assigned) = &mut self.assigned {
            assigned.asks = Arm::Stable;
        }
        self.tried.clear();
    }

    /// The present attempt leaves nothing behind.
    fn turn(&mut self) {
        self.in_flight = None;
        self.status = None;
        self.answered_as = None;
        self.is_whole = false;
        self.given_up = None;
        if let Some(exchange) = &self.exchange {
            exchange.free_attempt();
        }
    }

    /// Whether the present attempt is over and another one is to follow.
    pub(crate) fn has_turned(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Counts a retry for the version whose failure it follows.
    fn note_retry(&self, result: RetryResult) {
        let Some(assigned) = &self.assigned else { return };
        let Some(route) = self.route() else { return };
        let books = route.pool(assigned.to.arm).and_then(|pool| route.retries.of(&pool.version));
        if let Some(books) = books {
            books.note(result);
        }
    }

    /// Something passed between the edge and the version.
    pub(crate) fn heard(&self, now: Instant) {
        if let Some(exchange) = &self.exchange {
            exchange.heard(now);
        }
    }

    /// The head of the version's answer has arrived, and is for the client; gives the moment.
    pub(crate) fn answered(&mut self, status: u16, signs: AnswerSigns) -> Instant {
        let now = Instant::now();
        self.heard(now);
        if let Some(exchange) = &self.exchange {
            exchange.free_attempt();
        }
        self.status = Some(status);
        self.answered_as = Some(signs.outcome());
        self.head_wait = self.sent.map(|sent| now.saturating_duration_since(sent));
        let is_good = self.weigh(signs.outcome()) == Some(Weighs::Good);
        if let Some(attempt) = &mut self.in_flight {
            attempt.answered(is_good, now);
        }
        if let Some(permit) = &mut self.permit {
            permit.answered(status, now);
        }
        if let Some((epoch, entry)) = self.open_entry() {
            epoch.answered(entry, now);
        }
        now
    }

    /// The trailers of a gRPC call say that the version failed it.
    pub(crate) fn call_failed(&mut self) {
        self.answered_as = Some(Outcome::Error);
    }

    /// The answer is a stream: from here on only silence ends it.
    pub(crate) fn begins_stream(&self) {
        if let (Some(exchange), Some(route)) = (&self.exchange, self.route()) {
            exchange.begin_stream(route.settings.timeouts.stream_idle);
        }
    }

    /// The version has switched protocols: from here on both sides are passed through.
    pub(crate) fn begins_tunnel(&mut self) {
        self.answered(SWITCHED, AnswerSigns::of(SWITCHED, |_| None));
        if let (Some(exchange), Some(route)) = (&self.exchange, self.route()) {
            exchange.begin_tunnel(route.settings.timeouts.stream_idle);
        }
    }

    /// Whether the answer is a stream.
    pub(crate) fn streams(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.is_streaming())
    }

    /// Begins a copy of the request, if it is to have one.
    pub(crate) fn begin_copy(&mut self, draining: &AtomicBool) {
        let Some(assigned) = &self.assigned else { return };
        if let Some(route) = self.snapshot.routes.at(assigned.route) {
            self.copy = Copying::begin(route, assigned.to, draining);
        }
    }

    /// The answer to the request begins; its copy's will be compared with it.
    pub(crate) fn copy_is_answered(&mut self, status: u16, headers: &HeaderMap) {
        Copying::answer_head(&mut self.copy, status, headers, mirror::since(self.sent));
    }

    /// The version's answer was whole at `now`. One that fits into the client's socket is judged by that: a body that comes drop
    /// by drop is as late as one that comes late. A larger one may have waited for its reader, and a stream ends when it ends.
    pub(crate) fn whole(&mut self, now: Instant) {
        if self.answer_bytes > JUDGED_WHOLE || self.streams() {
            return;
        }
        if let Some((epoch, entry)) = self.open_entry() {
            epoch.whole(entry, now);
        }
    }

    /// The version has nothing more to say.
    pub(crate) fn told_all(&mut self) {
        self.whole(Instant::now());
        self.is_whole = true;
        Copying::answer_end(&mut self.copy);
        if let Some(exchange) = &self.exchange {
            exchange.rests();
        }
    }

    /// Whether the version answered wholly before its client had sent everything. What becomes of the upload does not
    /// change that answer.
    pub(crate) fn is_answered_early(&self) -> bool {
        self.is_whole && self.exchange.as_ref().is_some_and(|exchange| exchange.has_unread_body())
    }

    /// Has the request repeated on a fresh connection, once; false if it must not be. `is_unseen` if it is proven that its
    /// version had closed the connection before it could see the request; else it may have acted on it. A server that does
    /// so more often than closing idle connections explains has failed the request, though its user does not see it.
    pub(crate) fn repeat_afresh(&mut self, is_idempotent: bool, is_unseen: bool) -> bool {
        let settings = self.route().map(|route| &route.settings.retries);
        if self.repeats || !settings.is_some_and(|settings| retry::may_begin_afresh(settings, is_idempotent, is_unseen))
        {
            return false;
        }
        if self.retry_books().is_some_and(|books| !books.excuses_stale(Instant::now())) {
            self.book(Outcome::Reset);
            self.attempt_ends(Outcome::Reset, Instant::now());
        }
        self.begin_afresh();
        true
    }

    /// The present attempt was none: the request goes to the same version once more, on a fresh connection.
    pub(crate) fn begin_afresh(&mut self) {
        self.turn();
        self.repeats = true;
        self.attempts -= 1;
    }

    /// Whether the present attempt must not go over a connection that has been kept.
    pub(crate) fn needs_fresh_connection(&self) -> bool {
        self.repeats
    }

    /// Whether a version's answer has begun.
    pub(crate) fn is_answered(&self) -> bool {
        self.status.is_some()
    }

    /// The edge answers by itself, for this reason, and the request counts as `outcome`.
    pub(crate) fn refuse(&mut self, refusal: &Refusal, outcome: Outcome) {
        self.status = Some(refusal.status().as_u16());
        self.outcome = Some(outcome);
        self.refusals().count(refusal);
    }

    /// Where a refusal of this request is counted.
    fn refusals(&self) -> &Refusals {
        self.route().map_or(&*self.snapshot.unrouted, |route| &*route.protection.refusals)
    }

    /// Notes why the edge is about to give up, for when the framework asks.
    pub(crate) fn give_up(&mut self, refusal: Refusal, outcome: Outcome) {
        self.given_up = Some(failure::Failure { outcome, refusal: Some(refusal) });
    }

    /// Why the edge gave up, where that is known better than from the framework's error.
    pub(crate) fn why_given_up(&mut self) -> Option<failure::Failure> {
        let malformed = self.exchange.as_ref().is_some_and(|exchange| exchange.is_malformed());
        let chunks =
            malformed.then_some(failure::Failure { outcome: Outcome::Rejected, refusal: Some(MALFORMED_CHUNKS) });
        self.given_up.take().or(chunks)
    }

    /// The client gets no whole answer; the request counts as `outcome`.
    pub(crate) fn breaks_as(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// The request has ended and is booked, unless it has been already.
    pub(crate) fn finish(&mut self) {
        let outcome = self.outcome.unwrap_or_else(|| self.outcome_of_answer());
        self.attempt_ends(outcome, Instant::now());
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::First => {}
            Stage::Retry => self.note_retry(RetryResult::of(outcome)),
            Stage::Ended => return,
        }
        self.tell(outcome);
        self.return_permit(outcome);
        self.book(outcome);
        if let (Some(route), Some(assigned)) = (self.route(), &self.assigned) {
            debug!(route = %route.name, arm = ?assigned.to.arm, outcome = outcome.as_str(), status = self.status, attempts = self.attempts, "request ended");
        }
    }

    /// Closes the entry in the books, unless it is closed.
    fn book(&mut self, outcome: Outcome) {
        let Some(assigned) = self.assigned.as_mut() else { return };
        let (Some(entry), arm) = (assigned.entry.take(), assigned.to.arm) else { return };
        let Some(route) = self.snapshot.routes.at(assigned.route).cloned() else { return };
        let (latency, by) = (entry.started().elapsed(), entry.assigned_by());
        route.epoch.finish(entry, outcome, latency);
        if outcome.blames_version() && by != AssignedBy::Override {
            let failure = self.failure(outcome);
            route.epoch.remember(arm, failure);
        }
    }

    fn return_permit(&mut self, outcome: Outcome) {
        if let Some(mut permit) = self.permit.take()
            && outcome == Outcome::Timeout
        {
            permit.timed_out(Instant::now());
        }
    }

    fn outcome_of_answer(&self) -> Outcome {
        self.answered_as.unwrap_or_else(|| self.outcome_of_drop())
    }

    fn failure(&mut self, outcome: Outcome) -> Failure {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Failure {
            request_id: self.request_id().to_str().unwrap_or_default().to_owned(),
            outcome: outcome.as_str().to_owned(),
            status: self.status,
            at_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What a request counts as that was dropped before its answer was whole.
    fn outcome_of_drop(&self) -> Outcome {
        match self.exchange.as_deref() {
            // A tunnel has no end of its own: whoever has had enough of it, it has served.
            Some(_) if self.status == Some(SWITCHED) => Outcome::Success,
            Some(exchange) if exchange.is_expired() => outcome_of_deadline(exchange),
            Some(exchange) if exchange.is_cut() => Outcome::Rejected,
            Some(_) | None => Outcome::ClientAbort,
        }
    }

    /// The deadline passed: says so to the client, if it has got nothing yet.
    fn leave_last_words(&mut self, outcome: Outcome) {
        let refusal = match outcome {
            Outcome::Timeout => Refusal::UpstreamTimeout,
            Outcome::Rejected => Refusal::RequestTimeout,
            Outcome::Success | Outcome::Error | Outcome::Connect | Outcome::Reset | Outcome::ClientAbort => return,
        };
        let Some(exchange) = self.exchange.clone().filter(|exchange| !exchange.has_sent()) else { return };
        self.status = Some(refusal.status().as_u16());
        self.refusals().count(&refusal);
        exchange.leave_last_words(self.last_words(refusal));
    }

    /// A refusal for when the framework cannot send it.
    pub(crate) fn last_words(&mut self, refusal: Refusal) -> LastWords {
        let arrival = self.exchange.as_ref().and_then(|exchange| exchange.arrival());
        let to_head_request = arrival.is_some_and(|arrival| arrival.head.is_head_request);
        let request_id = self.request_id().clone();
        LastWords { refusal, request_id, version: self.version_header().cloned(), to_head_request }
    }

    /// The same as it goes over an HTTP/1.1 connection at once, with this `connection`.
    pub(crate) fn wire_with(&mut self, refusal: &Refusal, connection: &str) -> Bytes {
        let words = self.last_words(refusal.clone());
        let wire = words.answer().wire_with(words.to_head_request, connection);
        let head_bytes = wire.windows(4).position(|end| end == b"\r\n\r\n").map_or(wire.len(), |end| end + 4);
        self.answer_bytes = u64::try_from(wire.len() - head_bytes).unwrap_or(u64::MAX);
        wire
    }
}

/// Who was waited for when the deadline passed: the client that did not send its body, the client that did not take
/// its answer or closed its side, or else the version.
fn outcome_of_deadline(exchange: &Exchange) -> Outcome {
    if exchange.client_stalls() || exchange.client_closed() {
        Outcome::ClientAbort
    } else if exchange.awaits_body() {
        Outcome::Rejected
    } else {
        Outcome::Timeout
    }
}

impl Drop for RequestCtx {
    fn drop(&mut self) {
        let expired = self.exchange.as_ref().is_some_and(|exchange| exchange.is_expired());
        if let Some(exchange) = &self.exchange {
            // A claim on an attempt that never came is nobody's any more.
            exchange.free_attempt();
        }
        if self.assigned.is_some() && self.stage != Stage::Ended {
            let early = self.is_answered_early().then(|| self.outcome_of_answer());
            let outcome = self.outcome.or(early).unwrap_or_else(|| self.outcome_of_drop());
            if expired {
                self.leave_last_words(outcome);
            }
            self.outcome = Some(outcome);
            self.finish();
        }
        self.load.0.fetch_sub(1, Relaxed);
    }
}
