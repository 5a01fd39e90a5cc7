//! Where clients connect: sockets bound all or none, served by workers, and drained without losing a request.
//!
//! Line: **listen** ► guard ► edge. The framework's own service would wait for no header, drop what is in flight at a
//! drain, and not say which port it got; so the accept loop is ours, and the framework gets one request at a time.

mod certificates;
mod connection;
mod deadline;
mod exchange;
mod http2;
mod places;
mod socket;
mod transport;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::Listener;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub(crate) use exchange::{Client, Exchange};
use places::Places;
pub(crate) use socket::{ClientSocket, ClientStream, MALFORMED_CHUNKS};
pub(crate) use transport::read_ready;
use worker::{Order, Task};

use crate::request::Load;
use crate::snapshot::Snapshots;
use crate::tls::TlsFileError;

/// Connections that the kernel completes before they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why the edge cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error(
        "cannot listen on {address}: the address is in use; stop who listens there, or choose another address under `listeners`"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The process may not.
    #[error(
        "cannot listen on {address}: not permitted; choose a port from 1024 on, or give the process CAP_NET_BIND_SERVICE"
    )]
    NotPermitted {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else, such as an address that this machine does not have.
    #[error("cannot listen on {address}; check that this machine has the address")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates of an address cannot be used.
    #[error("cannot serve TLS on {address}")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// Which file, and what is wrong with it.
        source: TlsFileError,
    },
    /// No thread for a worker.
    #[error("cannot start a worker thread; check the limit on processes (ulimit -u)")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::InUse { address, source }
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            Self::NotPermitted { address, source }
        } else {
            Self::Other { address, source }
        }
    }
}

/// How long clients are waited for where no route says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a whole request head from its first byte, for the first byte on a new connection, and for all of a request
    /// that no route takes. Default 10 s.
    pub head: Duration,
    /// After so many requests a connection is closed, in order, so that clients spread anew. Default 100,000.
    pub requests_per_connection: u32,
    /// So many clients may be connected at a time, and a few more; others wait until one goes. Default: as many as leave a
    /// descriptor for a version for each of them, and some for operators and the state.
    pub connections: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            requests_per_connection: 100_000,
            connections: places::affordable_connections(),
        }
    }
}

/// Bound addresses that nobody serves yet; the kernel already queues connections to them.
#[derive(Debug)]
pub struct Listeners {
    addresses: Vec<SocketAddr>,
    /// For each worker a socket per address; more, where another process had more workers.
    workers: Vec<Vec<Listening>>,
}

/// A worker's socket.
#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    socket: TcpListener,
    /// How TLS is spoken there, if it is.
    tls: Option<Arc<ServerConfig>>,
}

impl Listening {
    /// Begins to listen, if it does not yet.
    fn begin(&self) -> Result<(), ListenError> {
        SockRef::from(&self.socket).listen(BACKLOG).map_err(|source| ListenError::new(self.address, source))
    }
}

impl Listeners {
    /// Reads every certificate and binds every address for `threads` workers, or none.
    ///
    /// # Errors
    /// If a certificate cannot be used or an address cannot be had; the error names it and the way out.
    pub fn bind(listeners: &[Listener], threads: usize) -> Result<Self, ListenError> {
        Self::bind_or_take(listeners, threads, &mut Vec::new())
    }

    /// As [`Listeners::bind`], but takes sockets out of `taken` that another process listened on: its queues come with
    /// them, so that no connection is refused.
    ///
    /// # Errors
    /// If an address cannot be had that was not taken; the error names it and the way out.
    pub fn bind_or_take(
        listeners: &[Listener],
        threads: usize,
        taken: &mut Vec<SharedSockets>,
    ) -> Result<Self, ListenError> {
        let threads = threads.max(1);
        let certified: Result<Vec<_>, ListenError> =
            listeners.iter().map(|listener| Ok((listener.address, tls(listener)?))).collect();
        let workers = std::iter::repeat_with(Vec::new).take(threads).collect();
        let mut bound = Self { addresses: Vec::new(), workers };
        for (address, tls) in certified? {
            bound.take_or_bind(address, tls.as_ref(), taken).map_err(|source| ListenError::new(address, source))?;
        }
        Ok(bound)
    }

    fn take_or_bind(
        &mut self,
        wanted: SocketAddr,
        tls: Option<&Arc<ServerConfig>>,
        taken: &mut Vec<SharedSockets>,
    ) -> io::Result<()> {
        let (address, sockets) = match taken.iter().position(|shared| shared.fits(wanted)) {
            Some(position) => self.complete(taken.remove(position))?,
            None => self.bind_one(wanted)?,
        };
        self.addresses.push(address);
        // A queue without a worker would swallow its connections: those that are too many go round.
        let workers = self.workers.len();
        for (number, socket) in sockets.into_iter().enumerate() {
            if let Some(worker) = self.workers.get_mut(number % workers) {
                worker.push(Listening { address, socket, tls: tls.cloned() });
            }
        }
        Ok(())
    }

    /// As many sockets as there are workers, at least. Those that are added get no connection before this process serves:
    /// if it never does, whoever waited in their queues would be reset.
    fn complete(
        &self,
        SharedSockets { address, mut sockets }: SharedSockets,
    ) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
        while sockets.len() < self.workers.len() {
            sockets.push(shared_socket(address)?);
        }
        Ok((address, sockets))
    }

    /// Workers share a port through `SO_REUSEPORT`, under which the kernel would let a second edge in as well: so the
    /// address is first taken without it.
    fn bind_one(&self, wanted: SocketAddr) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
        if wanted.port() != 0 {
            drop(bound_socket(wanted, false)?);
        }
        let (mut address, mut sockets) = (wanted, Vec::new());
        for _ in &self.workers {
            let socket = shared_socket(address)?;
            SockRef::from(&socket).listen(BACKLOG)?;
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok((address, sockets))
    }

    /// The addresses, in the order asked for; a port 0 has become the one that was got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The same sockets once more, to be handed to another process; as long as they are kept, closing ours refuses nobody.
    ///
    /// # Errors
    /// If there is no descriptor left for them.
    pub fn share(&self) -> io::Result<Vec<SharedSockets>> {
        let mut shared: Vec<_> =
            self.addresses.iter().map(|address| SharedSockets { address: *address, sockets: Vec::new() }).collect();
        for listening in self.workers.iter().flatten() {
            if let Some(place) = shared.iter_mut().find(|shared| shared.address == listening.address) {
                place.sockets.push(listening.socket.try_clone()?);
            }
        }
        Ok(shared)
    }

    /// Begins to serve what `snapshots` holds, each worker on a thread of its own.
    ///
    /// # Errors
    /// If an address cannot be listened on or a thread cannot be started; those that were are stopped again.
    pub fn serve(self, snapshots: &Arc<Snapshots>, patience: Patience) -> Result<Serving, ListenError> {
        let (orders, order) = watch::channel(Order::Serve);
        let (done, cut_off) = mpsc::unbounded_channel();
        self.workers.iter().flatten().try_for_each(Listening::begin)?;
        let mut serving = Serving { addresses: self.addresses, loads: Vec::new(), orders, cut_off };
        let places = Places::new(patience.connections);
        for (number, sockets) in self.workers.into_iter().enumerate() {
            let load = Arc::new(Load::default());
            serving.loads.push(Arc::clone(&load));
            let task = Task {
                sockets,
                snapshots: Arc::clone(snapshots),
                patience,
                places: places.clone(),
                load,
                orders: order.clone(),
                done: done.clone(),
            };
            std::thread::Builder::new()
                .name(format!("edge-{number}"))
                .spawn(move || worker::run(task))
                .map_err(|source| ListenError::Thread { source })?;
        }
        Ok(serving)
    }
}

/// One more socket for a worker, on a port that workers share. It gets no connection before it listens.
fn shared_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound_socket(address, true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The sockets that listen on one address, to be shared with another process.
#[derive(Debug)]
pub struct SharedSockets {
    /// Where they listen; never port 0.
    pub address: SocketAddr,
    /// One for each worker of the process they come from.
    pub sockets: Vec<TcpListener>,
}

impl SharedSockets {
    /// Whether `wanted` asks for this address; any port will do if it is 0.
    fn fits(&self, wanted: SocketAddr) -> bool {
        wanted == self.address || (wanted.port() == 0 && wanted.ip() == self.address.ip())
    }
}

fn tls(listener: &Listener) -> Result<Option<Arc<ServerConfig>>, ListenError> {
    let refused = |source| ListenError::Tls { address: listener.address, source };
    listener.tls.as_ref().map(certificates::server_config).transpose().map_err(refused)
}

fn bound_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an edge that just stopped may linger on the port; that must not keep a new one from starting.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The edge at work. Dropping it cuts everything off; [`Serving::drain`] does not.
#[derive(Debug)]
pub struct Serving {
    addresses: Vec<SocketAddr>,
    loads: Vec<Arc<Load>>,
    orders: watch::Sender<Order>,
    cut_off: mpsc::UnboundedReceiver<usize>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were cut off at the deadline.
    pub cut_off: usize,
}

impl Serving {
    /// Where clients connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Requests that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.loads.iter().map(|load| load.requests()).sum()
    }

    /// Stops accepting, once the connections are in that the kernel has completed; closes connections that stay idle for a
    /// quarter of a second; answers what is in flight, and what still comes, with `connection: close`; returns when that is done. What is not done after `deadline` is cut off.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        info!(in_flight = self.in_flight(), "draining");
        self.orders.send_replace(Order::Drain(Instant::now() + deadline));
        let mut cut_off = 0;
        for _ in 0..self.loads.len() {
            cut_off += self.cut_off.recv().await.unwrap_or(0);
        }
        if cut_off > 0 {
            warn!(requests = cut_off, "requests cut off at the drain deadline");
        }
        Drained { cut_off }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.orders.send_replace(Order::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: SocketAddr) -> Listener {
        Listener { address, tls: None }
    }

    fn any_port() -> Listener {
        listener(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    #[test]
    fn port_zero_becomes_the_port_that_was_got_for_all_workers() {
        let bound = Listeners::bind(&[any_port(), any_port()], 3).unwrap();
        let [one, two] = bound.addresses() else { panic!("two addresses") };
        assert!(one.port() != 0 && two.port() != 0 && one != two);
        for sockets in &bound.workers {
            let addresses: Vec<_> = sockets.iter().map(|listening| listening.socket.local_addr().unwrap()).collect();
            assert_eq!(addresses, [*one, *two]);
        }
    }

    #[test]
    fn an_address_in_use_is_named_with_the_way_out_and_nothing_stays_bound() {
        let taken = Listeners::bind(&[any_port()], 2).unwrap();
        let free = Listeners::bind(&[any_port()], 1).unwrap().addresses()[0];
        let error = Listeners::bind(&[listener(free), listener(taken.addresses()[0])], 2).unwrap_err();
        assert!(matches!(error, ListenError::InUse { address, .. } if address == taken.addresses()[0]));
        assert!(error.to_string().contains("choose another address under `listeners`"), "{error}");
        Listeners::bind(&[listener(free)], 1).unwrap();
    }

    #[test]
    fn the_same_address_twice_is_in_use_too() {
        let free = Listeners::bind(&[any_port()], 1).unwrap().addresses()[0];
        let error = Listeners::bind(&[listener(free), listener(free)], 1).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = Listeners::bind(&[listener(SocketAddr::from(([192, 0, 2, 1], 0)))], 1).unwrap_err();
        assert!(matches!(error, ListenError::Other { .. }) && error.to_string().contains("192.0.2.1"));
    }
    fn addresses_of(bound: &Listeners) -> Vec<Vec<(SocketAddr, SocketAddr)>> {
        let worker = |sockets: &Vec<Listening>| {
            sockets.iter().map(|listening| (listening.address, listening.socket.local_addr().unwrap())).collect()
        };
        bound.workers.iter().map(worker).collect()
    }

    #[test]
    fn every_socket_of_another_process_has_a_worker_however_many_each_has() {
        for (before, after) in [(4, 2), (2, 4), (3, 3), (5, 1)] {
            let old = Listeners::bind(&[any_port(), any_port()], before).unwrap();
            let wanted: Vec<_> = old.addresses().iter().map(|address| listener(*address)).collect();
            let new = Listeners::bind_or_take(&wanted, after, &mut old.share().unwrap()).unwrap();
            assert_eq!(new.addresses(), old.addresses());
            let workers = addresses_of(&new);
            for address in old.addresses() {
                let of_address = workers.iter().flatten().filter(|(name, _)| name == address).count();
                assert_eq!(of_address, before.max(after), "{before} to {after}");
                let each = workers.iter().all(|sockets| sockets.iter().any(|(name, _)| name == address));
                assert!(each, "{before} to {after}: every worker listens everywhere");
            }
            assert!(workers.iter().flatten().all(|(name, socket)| name == socket), "{before} to {after}");
        }
    }

    #[test]
    fn a_successor_that_never_serves_takes_no_connection() {
        let old = Listeners::bind(&[any_port()], 1).unwrap();
        let address = old.addresses()[0];
        let new = Listeners::bind_or_take(&[listener(address)], 8, &mut old.share().unwrap()).unwrap();
        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        drop(new);
        for _ in &clients {
            // All wait in the queue of the old one.
            old.workers[0][0].socket.accept().unwrap();
        }
    }
}
