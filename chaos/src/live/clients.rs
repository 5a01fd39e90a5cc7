//! Clients as nobody wants them, beside the load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::scenario::Clients;

/// Between two bytes of a slow client.
const DROP_EVERY: Duration = Duration::from_millis(300);
/// For the answer to a request that is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was not made is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// So many begin together; a queue of a listener is not endless.
const AT_ONCE: usize = 64;

/// What is no request, or one that means harm.
const NO_REQUESTS: [&[u8]; 12] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n123456",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx\0y: z\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n folded: yes\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\xff\xff\xff\xff",
];

/// Clients at work; dropped, they are gone.
#[derive(Debug)]
pub(super) struct OddClients {
    tasks: JoinSet<()>,
    met: Arc<Met>,
    kind: Clients,
}

/// What became of requests that are none.
#[derive(Debug, Default)]
struct Met {
    ended: AtomicU64,
    hung: AtomicU64,
    not_connected: AtomicU64,
    /// Connections of clients that say nothing, or not enough, which the edge has ended.
    sent_away: AtomicU64,
}

/// The same, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Garbage {
    /// Answered, or ended without an answer.
    pub(super) ended: u64,
    /// Neither, for as long as their clients had patience.
    pub(super) hung: u64,
    /// Never sent: nobody took their connections.
    pub(super) not_connected: u64,
}

impl Garbage {
    /// What is wrong with that, of `wanted` requests that were not to be given up.
    pub(super) fn wrong(self, wanted: Option<u64>) -> Option<String> {
        let Self { ended, hung, not_connected } = self;
        if hung > 0 {
            return Some(format!("{hung} clients without HTTP were neither answered nor sent away for {PATIENCE:?}"));
        }
        if not_connected > 0 {
            return Some(format!("{not_connected} clients without HTTP found nobody who took their connections"));
        }
        let wanted = wanted.filter(|wanted| *wanted > ended)?;
        Some(format!("only {ended} of {wanted} clients without HTTP had come before the end"))
    }
}

impl OddClients {
    pub(super) fn start(kind: Clients, to: SocketAddr) -> Self {
        let mut tasks = JoinSet::new();
        let met = Arc::<Met>::default();
        match kind {
            Clients::Idle(count) => {
                let gate = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
                (0..count).for_each(|_| drop(tasks.spawn(idle(to, Arc::clone(&gate), Arc::clone(&met)))));
            }
            Clients::SlowLoris(count) => (0..count).for_each(|_| drop(tasks.spawn(drip(to, Arc::clone(&met))))),
            Clients::Garbage(count) => drop(tasks.spawn(garbage(to, count, Arc::clone(&met)))),
        }
        Self { tasks, met, kind }
    }

    /// Bad requests that they sent and that ended.
    pub(super) fn bad_inputs(&self) -> u64 {
        match self.kind {
            Clients::Idle(_) => 0,
            Clients::SlowLoris(count) => count.into(),
            Clients::Garbage(_) => self.garbage().ended,
        }
    }

    /// What became of their requests, where those are none.
    pub(super) fn garbage(&self) -> Garbage {
        let of = |count: &AtomicU64| count.load(Ordering::Acquire);
        let Met { ended, hung, not_connected, sent_away: _ } = &*self.met;
        Garbage { ended: of(ended), hung: of(hung), not_connected: of(not_connected) }
    }

    /// How many connections of those that only stay were ended by the edge.
    pub(super) fn sent_away(&self) -> u64 {
        self.met.sent_away.load(Ordering::Acquire)
    }

    /// Whether they have all done what they came for; those that only stay never have.
    pub(super) fn are_done(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.is_empty()
    }
}

async fn idle(to: SocketAddr, gate: Arc<tokio::sync::Semaphore>, met: Arc<Met>) {
    loop {
        let turn = gate.acquire().await;
        let connected = TcpStream::connect(to).await;
        drop(turn);
        if let Ok(mut stream) = connected {
            // Nothing is said; whoever ends it finds us back.
            stream.read_exact(&mut [0; 64]).await.ok();
            met.sent_away.fetch_add(1, Ordering::AcqRel);
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn drip(to: SocketAddr, met: Arc<Met>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(to).await {
            let head = b"POST /v1/predict HTTP/1.1\r\nhost: chaos\r\nx-slow: ".iter().chain(b"a".iter().cycle());
            for byte in head {
                if stream.write_all(&[*byte]).await.is_err() {
                    met.sent_away.fetch_add(1, Ordering::AcqRel);
                    break;
                }
                sleep(DROP_EVERY).await;
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn garbage(to: SocketAddr, count: u32, met: Arc<Met>) {
    for bytes in NO_REQUESTS.into_iter().cycle().zip(0..count).map(|(bytes, _)| bytes) {
        let counted = match timeout(PATIENCE, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => match timeout(PATIENCE, say(stream, bytes)).await {
                // How it ends is the edge's business, as long as it ends.
                Ok(_ended) => &met.ended,
                Err(_elapsed) => &met.hung,
            },
            Ok(Err(_)) | Err(_) => &met.not_connected,
        };
        counted.fetch_add(1, Ordering::AcqRel);
    }
}

async fn say(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn who_hangs_on_garbage_or_takes_none_is_told_apart_from_who_ends_it() {
        let all = Garbage { ended: 10, ..Garbage::default() };
        assert_eq!((all.wrong(Some(10)), all.wrong(None)), (None, None));
        assert!(all.wrong(Some(11)).unwrap().contains("only 10 of 11"));
        assert!(Garbage { hung: 1, ..all }.wrong(None).unwrap().contains("neither answered nor sent away"));
        assert!(Garbage { not_connected: 2, ..all }.wrong(None).unwrap().contains("nobody who took"));
    }

    #[tokio::test]
    async fn a_client_without_http_is_counted_by_how_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let met = Arc::<Met>::default();
        let sending = tokio::spawn(garbage(to, 2, Arc::clone(&met)));
        drop(listener.accept().await.unwrap());
        drop(listener);
        sending.await.unwrap();
        let clients = OddClients { tasks: JoinSet::new(), met, kind: Clients::Garbage(2) };
        assert_eq!(clients.garbage(), Garbage { ended: 1, hung: 0, not_connected: 1 });
    }
}
