//! The clock hand of a load: wakes by a kernel timer (the runtime's own timers know milliseconds only) and puts
//! into the queue what has fallen due.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Shared;
use super::queue::Due;
use super::schedule::Schedule;

/// The shortest sleep: what is due earlier goes out this much late at most, and a fast load wakes 20,000 times a
/// second at most, a few percent of one core.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);

/// Puts requests into the queue as they fall due, at the rate that is wanted: until the last one, or until none is wanted any more.
pub(super) async fn pace(
    alarm: Alarm,
    mut schedule: Schedule,
    mut wanted: watch::Receiver<Option<u32>>,
    shared: Arc<Shared>,
) {
    let mut queued = 0;
    while !schedule.ends_with(queued) {
        let due = schedule.due_by(Instant::now());
        for n in queued..due {
            shared.books.intend();
            shared.queue.push(Due { n, at: schedule.due(n) });
        }
        queued = due;
        tokio::select! {
            biased;
            changed = wanted.changed() => {
                // An error means that the load was dropped: that too is a wish to stop.
                let Some(rate) = changed.ok().and_then(|()| *wanted.borrow_and_update()) else { break };
                schedule = schedule.at_rate(Instant::now(), rate);
            },
            rung = alarm.ring_at(schedule.due(queued)), if !schedule.rests() => if rung.is_err_and(is_the_end) {
                break;
            },
        }
    }
    shared.queue.close();
}

/// Without its timer no load goes on.
#[expect(clippy::needless_pass_by_value, reason = "as `is_err_and` gives it")]
fn is_the_end(error: io::Error) -> bool {
    tracing::error!(%error, "timer broke, load ends");
    true
}

/// A kernel timer, set anew for each wait.
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<Timer>);

impl Alarm {
    #[expect(
        deprecated,
        reason = "the replacement is unsafe code, for types that could change their descriptor; this one owns it"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self(AsyncFd::new(Timer(timer))?))
    }

    /// Resolves at `time`, or after the shortest sleep if that is later.
    async fn ring_at(&self, time: Instant) -> io::Result<()> {
        let sleep = time.saturating_duration_since(Instant::now()).max(SHORTEST_SLEEP);
        let once = Expiration::OneShot(TimeSpec::from_duration(sleep));
        self.0.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(rung) = ready.try_io(|timer| timer.get_ref().0.wait().map_err(io::Error::from)) {
                return rung;
            }
        }
    }
}

/// The timer, as the runtime wants it.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_alarm_rings_when_asked_and_not_before() {
        let alarm = Alarm::new().unwrap();
        for micros in [1_500, 0, 700] {
            let time = Instant::now() + Duration::from_micros(micros);
            alarm.ring_at(time).await.unwrap();
            assert!(Instant::now() >= time);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_alarm_that_was_given_up_does_not_ring_the_next_time() {
        let alarm = Alarm::new().unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let given_up = tokio::time::timeout(Duration::ZERO, alarm.ring_at(soon)).await;
        assert!(given_up.is_err());
        let later = Instant::now() + Duration::from_millis(40);
        alarm.ring_at(later).await.unwrap();
        assert!(Instant::now() >= later);
    }
}
