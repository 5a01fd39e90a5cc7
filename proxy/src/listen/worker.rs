//! One thread of the data path: its own listening sockets, its own runtime, its own connections to the versions.
//!
//! Line: **worker** ► connection ► edge. Nothing on a request's way is shared between threads but the snapshot, the
//! endpoints' load and the counters, so that cores do not wait for each other: measured, this is faster than a runtime
//! that moves tasks between threads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pingora_core::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::Patience;
use super::connection::{self, Shared};
use crate::edge::Edge;
use crate::lane::Lane;
use crate::request::Load;
use crate::retry::MOST_ATTEMPTS;
use crate::snapshot::Snapshots;

/// Connections to endpoints that are kept for reuse; small numbers cost half the throughput, large ones nothing.
const UPSTREAM_POOL: usize = 4096;
/// A file without a certificate.
const NO_CERTIFICATES: &str = "/dev/null";
/// How long accepting rests when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two warnings that connections cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// One for all workers, since what is lacking is the process's.
static REFUSALS: Mutex<Refusals> = Mutex::new(Refusals { warned: None, untold: 0 });

/// What a worker is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Take requests.
    Serve,
    /// Take no new ones, and end the present ones by then.
    Drain(Instant),
    /// Drop everything.
    Stop,
}

/// What a worker needs to begin.
pub(super) struct Task {
    /// Where to listen, and how TLS is spoken there, if it is.
    pub(super) sockets: Vec<(std::net::TcpListener, Option<Arc<ServerConfig>>)>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) patience: Patience,
    pub(super) load: Arc<Load>,
    pub(super) orders: watch::Receiver<Order>,
    /// Gets the number of requests that were cut off, once the worker is done.
    pub(super) done: mpsc::UnboundedSender<usize>,
}

/// Runs a worker to its end on the present thread.
pub(super) fn run(task: Task) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "a worker could not start"),
    };
    let done = task.done.clone();
    let cut_off = runtime.block_on(Worker::new(task).run());
    // Drops what is left before it is counted as done.
    drop(runtime);
    // Nobody waits any more if the receiver has gone.
    done.send(cut_off).unwrap_or_default();
}

struct Worker {
    sockets: Vec<(std::net::TcpListener, Option<Arc<ServerConfig>>)>,
    shared: Arc<Shared>,
    load: Arc<Load>,
    orders: watch::Receiver<Order>,
    draining: watch::Sender<bool>,
    connections: JoinSet<()>,
}

impl Worker {
    fn new(task: Task) -> Self {
        let (draining, drain) = watch::channel(false);
        let conf = ServerConf {
            threads: 1,
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            // Each route has its own number; this one only has to be larger. One is for a kept connection that had gone.
            max_retries: usize::try_from(MOST_ATTEMPTS + 1).unwrap_or(usize::MAX),
            // The framework would read the system's certificates for every worker, and panic over a bad one; which ones
            // a version is verified against is said with each connection.
            ca_file: Some(NO_CERTIFICATES.to_owned()),
            ..ServerConf::default()
        };
        let is_draining = Arc::new(AtomicBool::new(false));
        let edge = Edge::new(Arc::clone(&task.snapshots), Arc::clone(&task.load), Arc::clone(&is_draining));
        let lane = Lane::new(Arc::clone(&task.snapshots), Arc::clone(&task.load), Arc::clone(&is_draining));
        let shared = Shared {
            lane: Arc::new(lane),
            proxy: Arc::new(http_proxy(&Arc::new(conf), edge)),
            snapshots: task.snapshots,
            patience: task.patience,
            draining: drain,
            is_draining,
            cut: Arc::new(AtomicBool::new(false)),
        };
        Self {
            sockets: task.sockets,
            shared: Arc::new(shared),
            load: task.load,
            orders: task.orders,
            draining,
            connections: JoinSet::new(),
        }
    }

    /// Serves until told otherwise; gives the number of requests that were cut off.
    async fn run(mut self) -> usize {
        let listeners: Vec<Door> = std::mem::take(&mut self.sockets).into_iter().filter_map(Door::open).collect();
        // Ends with the runtime.
        drop(tokio::spawn(Arc::clone(&self.shared.lane).sweep()));
        let order = self.accept(&listeners).await;
        self.take_queue(&listeners);
        drop(listeners);
        self.shared.is_draining.store(true, Relaxed);
        self.draining.send_replace(true);
        if let Order::Drain(deadline) = order {
            self.drain_until(deadline).await;
        }
        self.cut_off().await
    }

    /// Takes connections until there is another order.
    async fn accept(&mut self, listeners: &[Door]) -> Order {
        let mut orders = self.orders.clone();
        loop {
            tokio::select! {
                order = orders.wait_for(|order| *order != Order::Serve) => return order.map_or(Order::Stop, |order| *order),
                accepted = next_connection(listeners) => match accepted {
                    Ok((stream, client, tls)) => self.begin(stream, client, tls),
                    Err(error) => rest(&error).await,
                },
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, client: SocketAddr, tls: Option<Arc<ServerConfig>>) {
        self.connections.spawn(connection::serve(Arc::clone(&self.shared), stream, client, tls));
    }

    /// Takes what the kernel has accepted for us already: closing a listener resets those connections. The kernel is asked
    /// itself, since the runtime may not have heard of them yet.
    fn take_queue(&mut self, listeners: &[Door]) {
        for listener in listeners {
            while let Ok((stream, client)) = accept_now(&listener.tcp) {
                self.begin(stream, client, listener.tls.clone());
            }
        }
    }

    /// Waits for the present requests, but not longer than until `deadline` or the order to stop.
    async fn drain_until(&mut self, deadline: Instant) {
        let mut orders = self.orders.clone();
        let connections = &mut self.connections;
        let finished = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = finished => {}
            () = connection::after(deadline) => {}
            // An error means that the one who gives orders has gone, which is one too.
            _ = orders.wait_for(|order| *order == Order::Stop) => {}
        }
    }

    async fn cut_off(&mut self) -> usize {
        let requests = self.load.requests();
        self.shared.cut.store(true, Relaxed);
        self.connections.shutdown().await;
        requests
    }
}

/// A listening socket, and how TLS is spoken behind it, if it is.
struct Door {
    tcp: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Door {
    fn open((socket, tls): (std::net::TcpListener, Option<Arc<ServerConfig>>)) -> Option<Self> {
        let tcp = TcpListener::from_std(socket).map_err(|error| error!(%error, "a listening socket was lost")).ok()?;
        Some(Self { tcp, tls })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<Accepted>> {
        self.tcp.poll_accept(cx).map_ok(|(stream, client)| (stream, client, self.tls.clone()))
    }
}

/// A connection, its client, and how TLS is spoken on it, if it is.
type Accepted = (TcpStream, SocketAddr, Option<Arc<ServerConfig>>);

/// The next connection on any of the listeners.
async fn next_connection(listeners: &[Door]) -> std::io::Result<Accepted> {
    std::future::poll_fn(|cx| {
        let ready = listeners.iter().map(|listener| listener.poll_accept(cx)).find(Poll::is_ready);
        ready.unwrap_or(Poll::Pending)
    })
    .await
}

/// A connection that is there already, or an error.
fn accept_now(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    let (socket, client) = SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let client = client.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    Ok((TcpStream::from_std(socket.into())?, client))
}

/// An error of one connection is over with it; one of the process (no descriptors left) would come again at once.
async fn rest(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        let told = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        if let Some(failures) = told {
            warn!(%error, failures, "cannot accept connections");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// How often accepting failed, and what of that was told.
#[derive(Debug)]
struct Refusals {
    warned: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// One more failure; when a warning is due, the number of failures since the last one.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let due = self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY);
        due.then(|| {
            self.warned = Some(now);
            std::mem::take(&mut self.untold)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_to_accept_are_told_at_once_and_then_counted_for_ten_seconds() {
        let mut refusals = Refusals { warned: None, untold: 0 };
        let start = Instant::now();
        assert_eq!(refusals.note(start), Some(1));
        for millis in [50, 5_000, 9_999] {
            assert_eq!(refusals.note(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(refusals.note(start + WARN_EVERY), Some(4));
    }
}
