//! Requests that are due and wait for a free connection.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use tokio::sync::Notify;

/// One request that shall be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Its number, from 0.
    pub(super) n: u64,
    /// When it should be sent.
    pub(super) at: Instant,
}

/// First due, first sent; connections that wait are served in turn, so that all are kept warm.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inside: Mutex<Inside>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: VecDeque<Due>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, due: Due) {
        self.with(|inside| inside.waiting.push_back(due));
        self.arrived.notify_one();
    }

    /// Nothing comes any more; what waits is still handed out.
    pub(super) fn close(&self) {
        self.with(|inside| inside.closed = true);
        self.arrived.notify_waiters();
    }

    /// The next request, as soon as there is one; `None` when the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<Due> {
        loop {
            if let Poll::Ready(next) = self.take() {
                return next;
            }
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Listen, then look again: what came between is then not missed.
            arrived.as_mut().enable();
            if let Poll::Ready(next) = self.take() {
                return next;
            }
            arrived.await;
        }
    }

    /// Pending when nothing waits but more may come.
    fn take(&self) -> Poll<Option<Due>> {
        self.with(|inside| match inside.waiting.pop_front() {
            Some(due) => Poll::Ready(Some(due)),
            None if inside.closed => Poll::Ready(None),
            None => Poll::Pending,
        })
    }

    /// A panic while the lock was held leaves a whole queue behind.
    fn with<T>(&self, act: impl FnOnce(&mut Inside) -> T) -> T {
        act(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_request_is_handed_out_once_and_then_all_end() {
        let queue = Arc::new(Queue::default());
        let mut takers = JoinSet::new();
        for _ in 0..8 {
            let queue = Arc::clone(&queue);
            takers.spawn(async move {
                let mut taken = Vec::new();
                while let Some(due) = queue.next().await {
                    taken.push(due.n);
                    tokio::task::yield_now().await;
                }
                taken
            });
        }
        for n in 0..2_000 {
            queue.push(Due { n, at: Instant::now() });
            if n % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        queue.close();
        let mut all: Vec<u64> = takers.join_all().await.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..2_000).collect::<Vec<_>>());
    }
}
