//! How a server stops: the signals that ask for it, and [`Drain`], which lets work in flight end.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

/// Resolves at the next SIGTERM: drain, then end. Listens from the call on, not from the first poll, so that no
/// signal slips through between.
///
/// # Errors
/// When the handler cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn terminate() -> io::Result<impl Future<Output = ()> + Send> {
    signal(SignalKind::terminate()).map(next)
}

/// Resolves at the next SIGINT: end at once. Listens from the call on.
///
/// # Errors
/// When the handler cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn interrupt() -> io::Result<impl Future<Output = ()> + Send> {
    signal(SignalKind::interrupt()).map(next)
}

/// The stream never ends while the process lives, so `None` cannot come before a signal.
async fn next(mut signals: Signal) {
    signals.recv().await;
}

/// Work in flight, counted, and the wish to end it: clones share both.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    in_flight: AtomicUsize,
    emptied: Notify,
    begun: watch::Sender<bool>,
}

impl Drain {
    /// Nothing in flight, not begun.
    pub fn new() -> Self {
        let shared =
            Shared { in_flight: AtomicUsize::new(0), emptied: Notify::new(), begun: watch::Sender::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// Counts one piece of work until the guard is dropped. Works while draining too: what was accepted is
    /// finished; whoever accepts asks [`Drain::has_begun`] first.
    pub fn enter(&self) -> InFlight {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight { shared: Arc::clone(&self.shared) }
    }

    /// Pieces of work not yet ended.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// Asks everybody to finish; the second time does nothing.
    pub fn begin(&self) {
        self.shared.begun.send_replace(true);
    }

    /// Whether the end was asked for.
    pub fn has_begun(&self) -> bool {
        *self.shared.begun.borrow()
    }

    /// Resolves when the end is asked for, at once if it was.
    pub async fn begun(&self) {
        let mut begun = self.shared.begun.subscribe();
        // The sender lives in `self`, so the wait cannot fail before the value is true.
        if begun.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until nothing is in flight, for `deadline` at most: `true` when everything ended, `false` when
    /// the deadline cut the wait short. Does not [`Drain::begin`].
    pub async fn wait(&self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.empty()).await.is_ok()
    }

    async fn empty(&self) {
        loop {
            let emptied = self.shared.emptied.notified();
            tokio::pin!(emptied);
            // Listen before looking: a guard dropped between the two is then not missed.
            emptied.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// One piece of work in flight, from [`Drain::enter`] until it is dropped.
#[derive(Debug)]
#[must_use = "work counts as ended when its guard is dropped"]
pub struct InFlight {
    shared: Arc<Shared>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.shared.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(flavor = "current_thread")]
    async fn an_idle_drain_is_empty_at_once() {
        assert!(Drain::new().wait(Duration::ZERO).await);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_drain_waits_for_the_last_guard() {
        let drain = Drain::new();
        let (first, second) = (drain.enter(), drain.enter());
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait(SOON).await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(drain.in_flight(), 1);
        drop(second);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_deadline_cuts_the_wait_short() {
        let drain = Drain::new();
        let _stuck = drain.enter();
        let start = Instant::now();
        assert!(!drain.wait(Duration::from_millis(20)).await);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn everybody_hears_that_it_begins() {
        let drain = Drain::new();
        let early = tokio::spawn({
            let drain = drain.clone();
            async move { drain.begun().await }
        });
        tokio::task::yield_now().await;
        assert!(!drain.has_begun() && !early.is_finished());
        drain.begin();
        drain.begin();
        early.await.unwrap();
        drain.begun().await;
        assert!(drain.has_begun());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_guard_dropped_on_another_thread_is_missed() {
        for _ in 0..500 {
            let drain = Drain::new();
            let guard = drain.enter();
            tokio::spawn(async move { drop(guard) });
            assert!(drain.wait(SOON).await);
        }
    }
}
