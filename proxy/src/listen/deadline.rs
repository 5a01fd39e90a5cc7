//! When a request is over, and the one timer of a connection that watches for it.
//!
//! Line: connection ► **deadline** ► edge. Clocks run on a request: the route's total, how long its version may be silent,
//! how long one attempt may take, and when its client has closed its side, how long that is waited for. All are moments in
//! atomics, which cost a store to move; the timer is only moved when it would ring too late,
//! and looks again when it rings too early. So a request costs no timer of its own.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

/// A moment that does not come.
const NEVER: u64 = u64::MAX;
/// As good as never, but said.
const SOME_TIME: u64 = u64::MAX - 1;
/// A timer that has not been set yet.
const UNSET: Duration = Duration::from_hours(24);

/// When the present request of a connection is over; moments in microseconds since the first use.
#[derive(Debug)]
pub(super) struct Deadline {
    total: AtomicU64,
    /// When the version was last heard, or began to be waited for.
    quiet_since: AtomicU64,
    /// How long it may be silent.
    silence: AtomicU64,
    /// When the present attempt is over; [`NEVER`] if nothing could follow it.
    attempt: AtomicU64,
    /// When a client is taken to have gone that closed its side.
    gone: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self { total: never(), quiet_since: never(), silence: never(), attempt: never(), gone: never() }
    }
}

impl Deadline {
    /// The request must be answered by `total`; nobody is listened to yet.
    pub(super) fn set(&self, total: Instant, silence: Duration) {
        self.total.store(moment(total), Relaxed);
        self.silence.store(u64::try_from(silence.as_micros()).unwrap_or(NEVER), Relaxed);
        self.gone.store(NEVER, Relaxed);
        self.rest();
        self.free_attempt();
    }

    /// Nothing but silence ends the request, counted from `now`.
    pub(super) fn only_silence(&self, silence: Duration, now: Instant) {
        self.total.store(NEVER, Relaxed);
        self.silence.store(u64::try_from(silence.as_micros()).unwrap_or(NEVER), Relaxed);
        self.hear(now);
    }

    /// The client is taken to have gone at that moment.
    pub(super) fn leave(&self, moment_of_leave: Instant) {
        self.gone.store(moment(moment_of_leave), Relaxed);
    }

    /// The version was heard at `now`, or begins to be waited for.
    pub(super) fn hear(&self, now: Instant) {
        self.quiet_since.store(moment(now), Relaxed);
    }

    /// The version is not waited for.
    pub(super) fn rest(&self) {
        self.quiet_since.store(NEVER, Relaxed);
    }

    /// The present attempt can be followed by another, and must be if it is not answered by then.
    pub(super) fn limit_attempt(&self, by: Option<Instant>) {
        self.attempt.store(by.map_or(SOME_TIME, moment), Relaxed);
    }

    /// The present attempt may take as long as the request.
    pub(super) fn free_attempt(&self) {
        self.attempt.store(NEVER, Relaxed);
    }

    /// Whether the present attempt could be followed by another.
    pub(super) fn is_attempt_limited(&self) -> bool {
        self.attempt.load(Relaxed) != NEVER
    }

    /// Whether the whole time is up at `now`, or the client has gone.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        moment(now) >= self.total.load(Relaxed).min(self.gone.load(Relaxed))
    }

    /// When the first of the clocks runs out.
    pub(super) fn due(&self) -> Instant {
        let silent = self.quiet_since.load(Relaxed).saturating_add(self.silence.load(Relaxed));
        let whole = self.total.load(Relaxed).min(self.gone.load(Relaxed));
        let due = whole.min(silent).min(self.attempt.load(Relaxed));
        origin().checked_add(Duration::from_micros(due)).unwrap_or_else(|| Instant::now() + UNSET)
    }
}

fn moment(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(origin()).as_micros()).unwrap_or(NEVER)
}

/// The moment that others are counted from.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// The timer of a connection, for whatever is waited for at the time.
#[derive(Debug)]
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep(UNSET)))
    }

    /// Ready when `due` has come.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let due = due.into();
        if self.0.deadline() > due {
            self.0.as_mut().reset(due);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if self.0.deadline() == due {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(due);
        }
    }

    /// Does `work`; none if it takes longer than `patience`. The clock is read only if there is something to wait for.
    pub(super) async fn within<W: Future>(&mut self, patience: Duration, work: W) -> Option<W::Output> {
        let mut work = pin!(work);
        let mut due = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let due = *due.get_or_insert_with(|| Instant::now() + patience);
            self.poll_due(cx, due).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clock_to_run_out_counts_and_silence_only_while_the_version_is_waited_for() {
        let (deadline, start) = (Deadline::default(), Instant::now() + Duration::from_secs(1));
        let check = |expected: Duration| {
            let due = deadline.due().saturating_duration_since(start);
            assert!(expected.abs_diff(due) < Duration::from_micros(2), "{due:?} instead of {expected:?}");
        };
        deadline.set(start + Duration::from_mins(1), Duration::from_secs(30));
        check(Duration::from_mins(1));
        deadline.hear(start);
        check(Duration::from_secs(30));
        deadline.hear(start + Duration::from_secs(20));
        check(Duration::from_secs(50));
        deadline.hear(start + Duration::from_secs(40));
        check(Duration::from_mins(1));
        deadline.hear(start);
        deadline.rest();
        check(Duration::from_mins(1));
        assert!(!deadline.is_attempt_limited());
        deadline.limit_attempt(Some(start + Duration::from_secs(2)));
        check(Duration::from_secs(2));
        deadline.limit_attempt(None);
        check(Duration::from_mins(1));
        assert!(deadline.is_attempt_limited());
        deadline.free_attempt();
        assert!(!deadline.is_attempt_limited());
        assert!(!deadline.is_over(start + Duration::from_secs(59)));
        assert!(deadline.is_over(start + Duration::from_mins(1)));
        deadline.leave(start + Duration::from_secs(3));
        check(Duration::from_secs(3));
        assert!(deadline.is_over(start + Duration::from_secs(3)));
    }

    #[test]
    fn a_stream_ends_by_silence_alone() {
        let (deadline, start) = (Deadline::default(), Instant::now());
        deadline.set(start + Duration::from_secs(1), Duration::from_secs(1));
        deadline.only_silence(Duration::from_mins(5), start);
        assert!(!deadline.is_over(start + Duration::from_hours(1)));
        assert!(deadline.due() > start + Duration::from_secs(299));
        deadline.hear(start + Duration::from_hours(1));
        assert!(deadline.due() > start + Duration::from_mins(64));
    }

    #[tokio::test(start_paused = true)]
    async fn one_alarm_rings_on_time_whatever_it_was_set_to_before() {
        let mut alarm = Alarm::new();
        for ms in [500, 20, 3_000, 20, 20] {
            let began = tokio::time::Instant::now();
            let due = (began + Duration::from_millis(ms)).into_std();
            std::future::poll_fn(|cx| alarm.poll_due(cx, due)).await;
            let span = began.elapsed();
            assert!((ms..ms + 5).contains(&u64::try_from(span.as_millis()).unwrap()), "{span:?} instead of {ms} ms");
        }
    }
}
