//! Connections to endpoints that wait for the next request.
//!
//! Line: pool ► **kept** ► relay. Each worker has its own, so the lock is never waited for.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::upstream::IDLE;

/// Connections that are kept in all; small numbers cost half the throughput, large ones nothing.
const MOST: usize = 4096;

/// The connections that a worker keeps.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    /// The one that was used last stands last.
    by_endpoint: HashMap<SocketAddr, Vec<(Instant, TcpStream)>>,
    count: usize,
}

impl Kept {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to `endpoint` that was used last, unless that is too long ago at `now`.
    pub(super) fn take(&self, endpoint: SocketAddr, now: Instant) -> Option<TcpStream> {
        let mut idle = self.idle();
        loop {
            let (since, tcp) = idle.by_endpoint.get_mut(&endpoint)?.pop()?;
            idle.count -= 1;
            let idle_for = now.saturating_duration_since(since);
            if idle_for < IDLE && is_quiet(&tcp, idle_for) {
                return Some(tcp);
            }
        }
    }

    /// Keeps a connection that has been used until `now`.
    pub(super) fn put(&self, endpoint: SocketAddr, tcp: TcpStream, now: Instant) {
        let mut idle = self.idle();
        if idle.count < MOST {
            idle.count += 1;
            idle.by_endpoint.entry(endpoint).or_default().push((now, tcp));
        }
    }

    /// Closes what has not been used for too long at `now`.
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = self.idle();
        let is_fresh = |since: &Instant| now.saturating_duration_since(*since) < IDLE;
        for connections in idle.by_endpoint.values_mut() {
            let stale = connections.partition_point(|(since, _)| !is_fresh(since));
            connections.drain(..stale);
        }
        idle.by_endpoint.retain(|_, connections| !connections.is_empty());
        idle.count = idle.by_endpoint.values().map(Vec::len).sum();
    }
}

/// Between two sweeps.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A connection that was put back so shortly ago is believed to be as the runtime last saw it: to ask the kernel about
/// each of a busy pool's would cost a fortieth of every request, to find what came in a millisecond.
const FRESH: Duration = Duration::from_millis(5);

/// Whether nothing has come on a connection on which nothing may come: neither its end nor bytes. After `idle` longer than
/// a moment the kernel is asked itself, since the runtime may not have heard yet.
fn is_quiet(tcp: &TcpStream, idle: Duration) -> bool {
    let came =
        if idle < FRESH { tcp.try_read(&mut [0]) } else { SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]) };
    came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    impl Kept {
        fn len(&self) -> usize {
            self.idle().count
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test]
    async fn the_last_used_comes_first_and_only_for_its_endpoint() {
        let (kept, now) = (Kept::default(), Instant::now());
        let ((old, _a), (new, _b)) = (pair().await, pair().await);
        let name = new.local_addr().unwrap();
        kept.put(endpoint(1), old, now);
        kept.put(endpoint(1), new, now);
        assert!(kept.take(endpoint(2), now).is_none());
        assert_eq!(kept.take(endpoint(1), now).unwrap().local_addr().unwrap(), name);
        assert_eq!(kept.len(), 1);
    }

    #[tokio::test]
    async fn what_was_idle_too_long_is_not_taken_and_swept() {
        let (kept, now) = (Kept::default(), Instant::now());
        let ((first, _a), (second, _b)) = (pair().await, pair().await);
        kept.put(endpoint(1), first, now);
        assert!(kept.take(endpoint(1), now + IDLE).is_none());
        kept.put(endpoint(1), second, now);
        kept.sweep(now + IDLE / 2);
        assert_eq!(kept.len(), 1);
        kept.sweep(now + IDLE);
        assert_eq!(kept.len(), 0);
    }

    #[tokio::test]
    async fn a_connection_on_which_something_came_is_dead() {
        let (kept, now) = (Kept::default(), Instant::now());
        let ((closed, other_end), (talks, mut talker)) = (pair().await, pair().await);
        drop(other_end);
        // Only the kernel knows of it yet: the runtime has had no turn to hear.
        talker.write_all(b"x").await.unwrap();
        kept.put(endpoint(1), closed, now);
        kept.put(endpoint(1), talks, now);
        assert!(kept.take(endpoint(1), now + FRESH).is_none());
        assert_eq!(kept.len(), 0);
    }
}
