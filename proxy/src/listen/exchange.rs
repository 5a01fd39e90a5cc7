//! What the accept loop and the edge tell each other about one request, whatever protocol it came in.
//!
//! Line: connection ► **exchange** ► edge. The accept loop knows the wire: how much of the body is left, who is waited
//! for, whether bytes have been sent. The edge knows the request: how long each part may take, and what a client is to be
//! told whom it cannot tell itself any more. Neither waits for the other.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::deadline::Deadline;
use crate::answer::LastWords;
use crate::guard::Head;
use crate::retry::following::{Claim, Following};

/// A client that closed its side may have gone, or may only have said that it asks no more. It gets its answer if that
/// begins, or goes on, within this; after that nobody can tell it from one that has gone, and the version is spared.
const AFTER_CLOSE: Duration = Duration::from_secs(3);

/// A request as it arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// What the guard knows of its head.
    pub(crate) head: Head,
    /// When the head was whole.
    pub(crate) started: Instant,
    /// Whether the connection is closed after it, whatever the client would like.
    pub(crate) is_last: bool,
}

/// Who is at the other end, and how.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Its address; an IPv4 one is not mapped.
    pub(crate) ip: IpAddr,
    /// The same as a header value, made once for the connection.
    pub(crate) name: HeaderValue,
    /// Whether it came over TLS.
    pub(crate) is_secure: bool,
}

impl Client {
    pub(crate) fn new(ip: IpAddr, is_secure: bool) -> Self {
        let ip = ip.to_canonical();
        let name = HeaderValue::from_str(&ip.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { ip, name, is_secure }
    }
}

/// What is over at a moment that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The request.
    Request,
    /// The present attempt on it.
    Attempt,
    /// Nothing.
    Nothing,
}

/// One request at a time, and what both sides know of it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) client: Client,
    /// Set when requests that are not done are cut off because the edge stops.
    cut: Arc<AtomicBool>,
    notes: Mutex<Notes>,
    deadline: Deadline,
    body_left: AtomicU64,
    malformed: AtomicBool,
    answering: AtomicBool,
    sent: AtomicBool,
    awaits_client: AtomicBool,
    client_stalls: AtomicBool,
    client_closed: AtomicBool,
    streaming: AtomicBool,
    tunnel: AtomicBool,
    expired: AtomicBool,
    attempt_over: AtomicBool,
}

/// What is too large for an atomic.
#[derive(Debug, Default)]
struct Notes {
    arrival: Option<Arrival>,
    idle: Option<Duration>,
    last_words: Option<LastWords>,
    follower: Option<Follower>,
}

/// The attempt that follows when the present one takes too long.
#[derive(Debug)]
enum Follower {
    /// It could follow.
    Possible(Box<Following>),
    /// It does.
    Claimed(Claim),
}

impl Exchange {
    /// No request yet.
    pub(crate) fn new(client: Client, cut: Arc<AtomicBool>) -> Self {
        Self {
            client,
            cut,
            notes: Mutex::default(),
            deadline: Deadline::default(),
            body_left: AtomicU64::new(0),
            malformed: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            awaits_client: AtomicBool::new(false),
            client_stalls: AtomicBool::new(false),
            client_closed: AtomicBool::new(false),
            streaming: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            attempt_over: AtomicBool::new(false),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // -- for the accept loop

    /// Begins a request of whose body `body_left` bytes have not been received. It must be answered within `patience`,
    /// until its route says otherwise.
    pub(crate) fn begin(&self, arrival: Arrival, body_left: u64, patience: Duration) {
        self.deadline.set(arrival.started + patience, Duration::MAX);
        self.body_left.store(body_left, Relaxed);
        for flag in [
            &self.answering,
            &self.sent,
            &self.awaits_client,
            &self.client_stalls,
            &self.client_closed,
            &self.streaming,
            &self.tunnel,
            &self.attempt_over,
        ] {
            flag.store(false, Relaxed);
        }
        let mut notes = self.notes();
        let idle = notes.idle;
        *notes = Notes { arrival: Some(arrival), idle, ..Notes::default() };
    }

    /// When the present request is over, as of now: by its total, or by the silence of its version.
    pub(crate) fn due(&self) -> Instant {
        self.deadline.due()
    }

    /// How long the route of the last request lets its clients be idle.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.notes().idle
    }

    /// The moment of [`Exchange::due`] has come; to be called before the request is dropped, which looks at it. A version
    /// is not silent while its client does not take what it said, but a stream has no other end than silence; and where
    /// another attempt could follow, only the present one is over.
    pub(crate) fn expire(&self) -> Expiry {
        let now = Instant::now();
        if !self.deadline.is_over(now) {
            if self.client_stalls() && !self.is_streaming() {
                self.deadline.hear(now);
                self.deadline.free_attempt();
                return Expiry::Nothing;
            }
            if self.deadline.is_attempt_limited() {
                self.deadline.free_attempt();
                return self.end_attempt();
            }
        }
        self.expired.store(true, Relaxed);
        Expiry::Request
    }

    /// The present attempt took too long. It ends only if everything is there for another one; else it goes on.
    fn end_attempt(&self) -> Expiry {
        let mut notes = self.notes();
        let Some(Follower::Possible(following)) = notes.follower.take() else { return Expiry::Nothing };
        notes.follower = following.claim(Instant::now()).map(Follower::Claimed);
        if notes.follower.is_none() {
            return Expiry::Nothing;
        }
        self.attempt_over.store(true, Relaxed);
        Expiry::Attempt
    }

    /// Whether the present attempt ran out of time and the framework has to hear of it.
    pub(super) fn is_attempt_over(&self) -> bool {
        self.attempt_over.load(Relaxed)
    }

    /// An answer that the edge could not give through the framework any more; none if some of another has been sent.
    pub(crate) fn take_last_words(&self) -> Option<LastWords> {
        self.notes().last_words.take().filter(|_| !self.has_sent())
    }

    /// How many bytes of the body have not been received.
    pub(super) fn body_left(&self) -> u64 {
        self.body_left.load(Relaxed)
    }

    /// Some of the body was received.
    pub(super) fn set_body_left(&self, left: u64) {
        self.body_left.store(left, Relaxed);
    }

    /// The body turned out not to be framed as its head says.
    pub(super) fn set_malformed(&self) {
        self.malformed.store(true, Relaxed);
    }

    /// Whether the client is waited for to send.
    pub(crate) fn set_awaits_client(&self, awaits: bool) {
        self.awaits_client.store(awaits, Relaxed);
    }

    /// Whether the client does not take what is written to it.
    pub(super) fn set_client_stalls(&self, stalls: bool) {
        self.client_stalls.store(stalls, Relaxed);
    }

    /// Something was sent to the client.
    pub(super) fn note_sent(&self) {
        self.sent.store(self.answering.load(Relaxed), Relaxed);
        if self.client_closed() {
            self.deadline.leave(Instant::now() + AFTER_CLOSE);
        }
    }

    /// The client closed its side after its whole request. True if that is its end: nobody listens to a stream with a
    /// closed mouth.
    pub(super) fn note_closed(&self) -> bool {
        if self.is_streaming() {
            return true;
        }
        if !self.client_closed.swap(true, Relaxed) {
            self.deadline.leave(Instant::now() + AFTER_CLOSE);
        }
        false
    }

    /// Whether what follows the answer's head is no HTTP any more.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }

    // -- for the edge

    /// The present request; none before the first.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.notes().arrival
    }

    /// Sets when the present request must be answered, how long its version may be silent meanwhile, and how long the
    /// connection may be idle after it.
    pub(crate) fn set_patience(&self, total: Instant, silence: Duration, idle: Duration) {
        self.deadline.set(total, silence);
        self.notes().idle = Some(idle);
    }

    /// Something passed between the edge and the version: its silence counts from `now`.
    pub(crate) fn heard(&self, now: Instant) {
        self.deadline.hear(now);
    }

    /// The answer is a stream: from now on only silence ends it, of so long.
    pub(crate) fn begin_stream(&self, silence: Duration) {
        self.streaming.store(true, Relaxed);
        self.deadline.only_silence(silence, Instant::now());
    }

    /// The version has switched protocols, and both sides are passed through as they come.
    pub(crate) fn begin_tunnel(&self, silence: Duration) {
        self.tunnel.store(true, Relaxed);
        self.begin_stream(silence);
    }

    /// Whether the answer is a stream.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming.load(Relaxed)
    }

    /// Whether the client closed its side after its request.
    pub(crate) fn client_closed(&self) -> bool {
        self.client_closed.load(Relaxed)
    }

    /// The version is not waited for: it is not connected yet, or has said everything.
    pub(crate) fn rests(&self) {
        self.deadline.rest();
    }

    /// The request is whole and `following` could follow the present attempt: it takes its place if that is not answered by
    /// then, or if the version is silent for too long, and if it may when that is so.
    pub(crate) fn limit_attempt(&self, by: Option<Instant>, following: Following) {
        self.notes().follower = Some(Follower::Possible(Box::new(following)));
        self.deadline.limit_attempt(by);
    }

    /// The present attempt is answered, or given up: no other takes its place for want of time.
    pub(crate) fn free_attempt(&self) {
        self.deadline.free_attempt();
        self.attempt_over.store(false, Relaxed);
        self.notes().follower = None;
    }

    /// What was claimed for the attempt that follows one that took too long.
    pub(crate) fn take_claim(&self) -> Option<Claim> {
        match self.notes().follower.take() {
            Some(Follower::Claimed(claim)) => Some(claim),
            Some(Follower::Possible(_)) | None => None,
        }
    }

    /// Whether the present attempt ran out of time; says so once.
    pub(crate) fn take_attempt_over(&self) -> bool {
        self.attempt_over.swap(false, Relaxed)
    }

    /// Whether some of the body has not been received.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.body_left() > 0
    }

    /// Whether the body turned out not to be framed as its head says.
    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed.load(Relaxed)
    }

    /// The final answer begins; what is written from now on is part of it.
    pub(crate) fn answer_begins(&self) {
        self.answering.store(true, Relaxed);
    }

    /// Whether the client has got any of the final answer.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    /// Leaves an answer to be written when the framework has let go of the connection.
    pub(crate) fn leave_last_words(&self, words: LastWords) {
        self.notes().last_words = Some(words);
    }

    /// Whether the present request ran into its deadline.
    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Relaxed)
    }

    /// Whether the body is not whole, and the client is what is waited for.
    pub(crate) fn awaits_body(&self) -> bool {
        self.has_unread_body() && self.awaits_client.load(Relaxed)
    }

    /// Whether the client does not take what is written to it.
    pub(crate) fn client_stalls(&self) -> bool {
        self.client_stalls.load(Relaxed)
    }

    /// Whether requests are being cut off because the edge stops.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }
}
