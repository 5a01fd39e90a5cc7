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
    sent: Arc<AtomicU64>,
    kind: Clients,
}

impl OddClients {
    pub(super) fn start(kind: Clients, to: SocketAddr) -> Self {
        let mut tasks = JoinSet::new();
        let sent = Arc::new(AtomicU64::new(0));
        match kind {
            Clients::Idle(count) => {
                let gate = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
                (0..count).for_each(|_| drop(tasks.spawn(idle(to, Arc::clone(&gate)))));
            }
            Clients::SlowLoris(count) => (0..count).for_each(|_| drop(tasks.spawn(drip(to)))),
            Clients::Garbage(count) => drop(tasks.spawn(garbage(to, count, Arc::clone(&sent)))),
        }
        Self { tasks, sent, kind }
    }

    /// Bad requests that they sent and that ended.
    pub(super) fn bad_inputs(&self) -> u64 {
        match self.kind {
            Clients::Idle(_) => 0,
            Clients::SlowLoris(count) => count.into(),
            Clients::Garbage(_) => self.sent.load(Ordering::Acquire),
        }
    }

    /// Whether they have all done what they came for; those that only stay never have.
    pub(super) fn are_done(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.is_empty()
    }
}

async fn idle(to: SocketAddr, gate: Arc<tokio::sync::Semaphore>) {
    loop {
        let turn = gate.acquire().await;
        let connected = TcpStream::connect(to).await;
        drop(turn);
        if let Ok(mut stream) = connected {
            // Nothing is said; whoever ends it finds us back.
            stream.read_exact(&mut [0; 64]).await.ok();
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn drip(to: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(to).await {
            let head = b"POST /v1/predict HTTP/1.1\r\nhost: chaos\r\nx-slow: ".iter().chain(b"a".iter().cycle());
            for byte in head {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(DROP_EVERY).await;
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn garbage(to: SocketAddr, count: u32, sent: Arc<AtomicU64>) {
    for bytes in NO_REQUESTS.into_iter().cycle().zip(0..count).map(|(bytes, _)| bytes) {
        let exchange = async {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await
        };
        // How it ends is the edge's business, as long as it ends.
        if timeout(PATIENCE, exchange).await.is_ok() {
            sent.fetch_add(1, Ordering::AcqRel);
        }
    }
}
