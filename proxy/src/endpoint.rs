//! One address of a version: its load, what became of its requests, and whether it takes any.
//!
//! Line: pool ► **endpoint** ► upstream. The data path only reads and adds relaxed atomics here; whether an endpoint takes
//! requests is decided by the control loop (`control::endpoints`).

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::ewma::PeakEwma;
use crate::outcome::Weighs;

/// The part of its requests that an endpoint gets in the moment it comes up; the rest follows in a straight line.
const FIRST_PART: f64 = 0.1;

/// One address of a version. It outlives snapshots, so that its load is known across reloads.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// Moments are told in seconds since then.
    born: Instant,
    up: AtomicBool,
    slow_start: SlowStart,
    /// How often what was known of its latency was forgotten, with that of the requests under way.
    forgotten: AtomicU32,
    busy: CachePadded<Busy>,
}

/// What every request writes, apart from what it only reads.
#[derive(Debug)]
struct Busy {
    in_flight: AtomicU32,
    failures_in_a_row: AtomicU32,
    latency: PeakEwma,
    answers: AtomicU64,
    failures: AtomicU64,
}

/// The time in which an endpoint that came up gets its full part; in seconds, as bits.
#[derive(Debug, Default)]
struct SlowStart {
    began: AtomicU64,
    /// 0 if there is none, or if it is over.
    lasts: AtomicU64,
}

/// What became of an endpoint's requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Requests that say something about it.
    pub(crate) all: u64,
    /// Those that failed.
    pub(crate) failures: u64,
    /// Failures since the last success.
    pub(crate) failures_in_a_row: u32,
}

/// How much an endpoint has to do, for a comparison with another one of its pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    in_flight: u32,
    /// In seconds.
    latency: Option<f64>,
}

impl Endpoint {
    /// An endpoint that nobody has checked yet: taken as up, so that a start under traffic does not wait for checks.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            born: Instant::now(),
            up: AtomicBool::new(true),
            slow_start: SlowStart::default(),
            forgotten: AtomicU32::new(0),
            busy: Busy::new(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests it is working on for this edge.
    pub fn in_flight(&self) -> u32 {
        self.busy.in_flight.load(Relaxed)
    }

    /// Whether it takes requests: its checks found it ready, and it does not sit out.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// It takes requests again; its part of them grows over `slow_start`. What was known of it is of before.
    pub(crate) fn comes_up(&self, slow_start: Duration, now: Instant) {
        self.busy.latency.forget();
        self.busy.failures_in_a_row.store(0, Relaxed);
        self.slow_start.began.store(self.seconds(now).to_bits(), Relaxed);
        self.slow_start.lasts.store(slow_start.as_secs_f64().to_bits(), Relaxed);
        self.up.store(true, Relaxed);
    }

    /// It takes no more requests.
    pub(crate) fn goes_down(&self) {
        self.up.store(false, Relaxed);
    }

    /// Nothing is known of its latency any more, nor will be from requests that are under way.
    pub(crate) fn forget_latency(&self) {
        // One answer that is taken in at this very moment may be remembered all the same.
        self.forgotten.fetch_add(1, Relaxed);
        self.busy.latency.forget();
    }

    /// Whether it gets its full part of the requests, as all do but those that came up a moment ago.
    pub(crate) fn is_warm(&self) -> bool {
        self.slow_start.lasts.load(Relaxed) == 0
    }

    /// The part that it gets at `now` of what it would get otherwise: from a tenth to 1.
    pub(crate) fn part(&self, now: Instant) -> f64 {
        let lasts = f64::from_bits(self.slow_start.lasts.load(Relaxed));
        let passed = self.seconds(now) - f64::from_bits(self.slow_start.began.load(Relaxed));
        if passed < lasts {
            return (1.0 - FIRST_PART).mul_add((passed / lasts).max(0.0), FIRST_PART);
        }
        self.slow_start.lasts.store(0, Relaxed);
        1.0
    }

    /// What it has to do at `now`.
    pub(crate) fn load(&self, now: Instant) -> Load {
        Load { in_flight: self.in_flight(), latency: self.busy.latency.seconds(self.seconds(now)) }
    }

    /// What became of its requests.
    pub(crate) fn answers(&self) -> Answers {
        Answers {
            all: self.busy.answers.load(Relaxed),
            failures: self.busy.failures.load(Relaxed),
            failures_in_a_row: self.busy.failures_in_a_row.load(Relaxed),
        }
    }

    /// Whether so many of its requests failed in a row while it takes requests.
    pub(crate) fn has_failed(&self, times: u32) -> bool {
        self.busy.failures_in_a_row.load(Relaxed) >= times && self.is_up()
    }

    /// Counts one request on it until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.busy.in_flight.fetch_add(1, Relaxed);
        let forgotten = self.forgotten.load(Relaxed);
        InFlight { endpoint: Arc::clone(self), forgotten, sent: None, is_answered: false }
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.born).as_secs_f64()
    }
}

impl Busy {
    fn new() -> CachePadded<Self> {
        CachePadded::new(Self {
            in_flight: AtomicU32::new(0),
            failures_in_a_row: AtomicU32::new(0),
            latency: PeakEwma::new(),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }
}

impl Load {
    /// Who has less to do: latency times requests, the one to be sent included (Finagle's `p2cPeakEwma`). While one of
    /// the two has not answered yet, requests alone, so that a new one gets no more than it has been seen to carry.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self.latency, other.latency) {
            (Some(one), Some(two)) => {
                let cost = |latency: f64, in_flight: u32| latency * (f64::from(in_flight) + 1.0);
                cost(one, self.in_flight).total_cmp(&cost(two, other.in_flight))
            }
            (None, _) | (_, None) => self.in_flight.cmp(&other.in_flight),
        }
    }
}

/// One request on an endpoint; dropping it ends the request. Whoever drops it without [`InFlight::ends`] says nothing about
/// the endpoint: the client went, or the edge gave up for a reason of its own.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    /// [`Endpoint::forgotten`] when it began.
    forgotten: u32,
    sent: Option<Instant>,
    is_answered: bool,
}

impl InFlight {
    /// The request sets out on a connection.
    pub(crate) fn sets_out(&mut self, now: Instant) {
        self.sent = Some(now);
    }

    /// The head of its answer is there. One that does not serve the client, a failure or a refusal, counts as a slow one,
    /// so that an endpoint that fails quickly looks busy, not idle.
    pub(crate) fn answered(&mut self, is_good: bool, now: Instant) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.takes(is_good, now);
        }
    }

    /// It is over, and this is how it weighs.
    pub(crate) fn ends(mut self, weighs: Weighs, now: Instant) {
        let busy = &self.endpoint.busy;
        match weighs {
            Weighs::Nothing => {}
            Weighs::Good => {
                busy.answers.fetch_add(1, Relaxed);
                // Read first: nearly every answer is good, and a line that is only read stays with everybody.
                if busy.failures_in_a_row.load(Relaxed) > 0 {
                    busy.failures_in_a_row.store(0, Relaxed);
                }
            }
            Weighs::Bad => {
                busy.answers.fetch_add(1, Relaxed);
                busy.failures.fetch_add(1, Relaxed);
                busy.failures_in_a_row.fetch_add(1, Relaxed);
                self.answered(false, now);
            }
        }
    }

    fn takes(&self, is_good: bool, now: Instant) {
        if self.endpoint.forgotten.load(Relaxed) != self.forgotten {
            return;
        }
        let took = self.sent.map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent));
        let (latency, now) = (&self.endpoint.busy.latency, self.endpoint.seconds(now));
        if is_good { latency.answered(took, now) } else { latency.failed(took, now) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.busy.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))))
    }

    /// A request that takes `latency`.
    fn serve(endpoint: &Arc<Endpoint>, latency: Duration, weighs: Weighs) {
        let now = Instant::now();
        let mut request = endpoint.enter();
        request.sets_out(now);
        request.answered(weighs == Weighs::Good, now + latency);
        request.ends(weighs, now + latency);
    }

    #[test]
    fn it_counts_what_it_works_on_and_what_became_of_it() {
        let endpoint = endpoint();
        let dropped = endpoint.enter();
        assert_eq!(endpoint.in_flight(), 1);
        drop(dropped);
        for weighs in [Weighs::Bad, Weighs::Good, Weighs::Nothing, Weighs::Bad, Weighs::Nothing, Weighs::Bad] {
            serve(&endpoint, Duration::from_millis(5), weighs);
        }
        assert_eq!(endpoint.answers(), Answers { all: 4, failures: 3, failures_in_a_row: 2 });
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn a_failure_without_an_answer_is_a_slow_one_and_a_client_that_left_says_nothing() {
        let (failing, left) = (endpoint(), endpoint());
        failing.enter().ends(Weighs::Bad, Instant::now());
        left.enter().ends(Weighs::Nothing, Instant::now());
        assert!(failing.load(Instant::now()).latency.is_some_and(|seconds| seconds > 0.9));
        assert!(left.load(Instant::now()).latency.is_none());
    }

    #[test]
    fn a_latency_that_was_forgotten_does_not_come_back_with_what_was_under_way() {
        let (endpoint, start) = (endpoint(), Instant::now());
        serve(&endpoint, Duration::from_secs(6), Weighs::Good);
        let [mut late, in_vain] = [endpoint.enter(), endpoint.enter()];
        late.sets_out(start);
        endpoint.forget_latency();
        late.answered(true, start + Duration::from_secs(6));
        late.ends(Weighs::Good, start + Duration::from_secs(6));
        in_vain.ends(Weighs::Bad, start + Duration::from_secs(6));
        assert!(endpoint.load(start).latency.is_none());
        assert_eq!((endpoint.in_flight(), endpoint.answers().all), (0, 3), "it was answered all the same");
        serve(&endpoint, Duration::from_millis(5), Weighs::Good);
        assert!(endpoint.load(start).latency.is_some_and(|seconds| seconds < 0.1));
    }

    #[test]
    fn a_slow_start_grows_from_a_tenth_to_all_and_forgets_what_was() {
        let endpoint = endpoint();
        assert!(endpoint.is_warm(), "what is up from the beginning has no slow start");
        serve(&endpoint, Duration::from_millis(5), Weighs::Bad);
        endpoint.goes_down();
        let now = Instant::now();
        endpoint.comes_up(Duration::from_secs(10), now);
        assert!(endpoint.is_up() && !endpoint.is_warm());
        assert_eq!(endpoint.answers().failures_in_a_row, 0);
        assert!(endpoint.load(now).latency.is_none());
        for (seconds, part) in [(0, 0.1), (5, 0.55), (9, 0.91)] {
            let found = endpoint.part(now + Duration::from_secs(seconds));
            assert!((found - part).abs() < 1e-6, "{found} after {seconds} s");
        }
        assert!((endpoint.part(now + Duration::from_secs(10)) - 1.0).abs() < 1e-12);
        assert!(endpoint.is_warm());
        endpoint.comes_up(Duration::ZERO, now);
        assert!(endpoint.is_warm(), "no slow start is asked for");
    }
}
