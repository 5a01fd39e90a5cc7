//! One thread of the data path: its own listening sockets, its own runtime, its own connections to the versions.
//!
//! Line: **worker** ► connection ► edge. Nothing on a request's way is shared between threads but the snapshot, the
//! endpoints' load and the counters, so that cores do not wait for each other: measured, this is faster than a runtime
//! that moves tasks between threads.

use std::io::Write as _;
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

use super::connection::{self, Shared};
use super::places::Places;
use super::{Listening, Patience};
use crate::edge::Edge;
use crate::lane::Lane;
use crate::request::Load;
use crate::retry::MOST_ATTEMPTS;
use crate::snapshot::Snapshots;

/// Connections to endpoints that are kept for reuse; small numbers cost half the throughput, large ones nothing.
const UPSTREAM_POOL: usize = 4096;
/// A file without a certificate.
const NO_CERTIFICATES: &str = "/dev/null";
/// How long accepting rests when the process has run out of descriptors, or of places for clients.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two warnings that connections cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// One for all workers, since what is lacking is the process's.
static REFUSALS: Mutex<Refusals> = Mutex::new(Refusals { warned: None, untold: 0 });

/// The same for rests because as many clients are connected as may be.
static FULL: Mutex<Refusals> = Mutex::new(Refusals { warned: None, untold: 0 });

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
    pub(super) sockets: Vec<Listening>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) patience: Patience,
    pub(super) places: Places,
    pub(super) load: Arc<Load>,
    pub(super) orders: watch::Receiver<Order>,
    /// Gets the number of requests that were cut off, once the worker is done.
    pub(super) done: mpsc::UnboundedSender<usize>,
}

/// Runs a worker to its end on the present thread.
pub(super) fn run(task: Task) {
    let _missed = MissedIfItPanics;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => end_without(&format!("could not start: {error}")),
    };
    let done = task.done.clone();
    let cut_off = runtime.block_on(Worker::new(task).run());
    // Drops what is left before it is counted as done.
    drop(runtime);
    // Nobody waits any more if the receiver has gone.
    done.send(cut_off).unwrap_or_default();
}

/// The kernel goes on giving a worker that is gone its part of all new connections, and nobody would serve them.
struct MissedIfItPanics;

impl Drop for MissedIfItPanics {
    fn drop(&mut self) {
        // A panic of one connection ends just that, and never comes as far as this.
        if std::thread::panicking() {
            end_without("has panicked");
        }
    }
}

fn end_without(what: &str) -> ! {
    // Past the log's queue, which would not be written out any more.
    drop(writeln!(
        std::io::stderr(),
        "a worker {what}, and its part of all new connections would wait for ever: ending"
    ));
    std::process::abort()
}

struct Worker {
    sockets: Vec<Listening>,
    shared: Arc<Shared>,
    places: Places,
    load: Arc<Load>,
    orders: watch::Receiver<Order>,
    draining: watch::Sender<bool>,
    connections: JoinSet<()>,
}

impl Worker {
    fn new(task: Task) -> Self {
        if let Err(error) = std::fs::File::open(NO_CERTIFICATES) {
            end_without(&format!("cannot read {NO_CERTIFICATES} ({error}; give this file system a /dev)"));
        }
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
            places: task.places,
            load: task.load,
            orders: task.orders,
            draining,
            connections: JoinSet::new(),
        }
    }

    /// Serves until told otherwise; gives the number of requests that were cut off.
    async fn run(mut self) -> usize {
        let mut doors = Doors::open(std::mem::take(&mut self.sockets));
        // Ends with the runtime.
        drop(tokio::spawn(Arc::clone(&self.shared.lane).sweep()));
        let order = self.accept(&mut doors).await;
        self.take_queue(&doors);
        drop(doors);
        self.shared.is_draining.store(true, Relaxed);
        self.draining.send_replace(true);
        if let Order::Drain(deadline) = order {
            self.drain_until(deadline).await;
        }
        self.cut_off().await
    }

    /// Takes connections until there is another order.
    async fn accept(&mut self, doors: &mut Doors) -> Order {
        let mut orders = self.orders.clone();
        loop {
            let has_room = self.places.has_room();
            tokio::select! {
                order = orders.wait_for(|order| *order != Order::Serve) => return order.map_or(Order::Stop, |order| *order),
                // The place that becomes free may be another worker's.
                () = rest_for_room(&self.places), if !has_room => {}
                accepted = doors.next(), if has_room => match accepted {
                    Ok((stream, client, tls)) => self.begin(stream, client, tls),
                    Err(error) => rest(&error).await,
                },
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, client: SocketAddr, tls: Option<Arc<ServerConfig>>) {
        let (place, shared) = (self.places.take(), Arc::clone(&self.shared));
        self.connections.spawn(async move {
            connection::serve(shared, stream, client, tls).await;
            drop(place);
        });
    }

    /// Takes what the kernel has accepted for us already: closing a listener resets those connections. The kernel is asked
    /// itself, since the runtime may not have heard of them yet.
    fn take_queue(&mut self, doors: &Doors) {
        for door in &doors.all {
            while let Ok((stream, client)) = accept_now(&door.tcp) {
                self.begin(stream, client, door.tls.clone());
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
    fn open(Listening { address, socket, tls }: Listening) -> Option<Self> {
        let lost = |error| error!(%address, %error, "a listening socket was lost");
        Some(Self { tcp: TcpListener::from_std(socket).map_err(lost).ok()?, tls })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<Accepted>> {
        self.tcp.poll_accept(cx).map_ok(|(stream, client)| (stream, client, self.tls.clone()))
    }
}

/// A connection, its client, and how TLS is spoken on it, if it is.
type Accepted = (TcpStream, SocketAddr, Option<Arc<ServerConfig>>);

/// All of a worker's listening sockets.
struct Doors {
    all: Vec<Door>,
    /// Which one is looked at first: the one behind that whose connection was taken last, so that a crowd at one does not
    /// keep the others waiting.
    first: usize,
}

impl Doors {
    fn open(sockets: Vec<Listening>) -> Self {
        Self { all: sockets.into_iter().filter_map(Door::open).collect(), first: 0 }
    }

    /// The next connection on any of them.
    async fn next(&mut self) -> std::io::Result<Accepted> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<Accepted>> {
        let in_turn = self.all.iter().enumerate().cycle().skip(self.first).take(self.all.len());
        for (position, door) in in_turn {
            if let Poll::Ready(accepted) = door.poll_accept(cx) {
                self.first = position + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
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

/// As many clients are connected as may be.
async fn rest_for_room(places: &Places) {
    let told = FULL.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
    if told.is_some() {
        warn!(
            connections = places.most(),
            "clients wait to be accepted; raise the limit on open files (ulimit -n), or start more edges"
        );
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
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
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_crowd_at_one_address_does_not_keep_the_others_waiting() {
        let sockets: Vec<_> = (0..3)
            .map(|_| {
                let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                Listening { address: socket.local_addr().unwrap(), socket, tls: None }
            })
            .collect();
        let addresses: Vec<_> = sockets.iter().map(|listening| listening.address).collect();
        let crowd: Vec<_> = (0..9).map(|_| TcpStream::connect(addresses[0]).unwrap()).collect();
        let others: Vec<_> = addresses[1..].iter().map(|address| TcpStream::connect(address).unwrap()).collect();
        let mut doors = Doors::open(sockets);
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(doors.next().await.unwrap().0.local_addr().unwrap());
        }
        assert_eq!(first, addresses, "one of each");
        drop((crowd, others));
    }

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
