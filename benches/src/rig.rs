//! Both ends of every proxy on one thread: the load in front of it and the two versions behind it.
//!
//! One thread and one epoll for both ends, because two threads on the rig's only core would take turns of milliseconds,
//! and their turns would stand in every p99. The rig has a core of its own; while it keeps to a rate it spins, so that it
//! sends on time and hears answers when they come.

mod load;
mod upstream;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use slab::Slab;
use thiserror::Error;
use tokio::sync::oneshot;

use self::load::{Client, Load};
pub use self::load::{Job, Measured, Pattern, Request};
use self::upstream::{Next, Served, Upstream};

/// Wakes the rig for a new job.
const WAKE: Token = Token(0);
/// Connections begin here; the tokens below are the upstreams' listeners.
const FIRST_PEER: usize = 8;
/// Events taken at a time.
const EVENTS: usize = 1024;
/// Read at a time; larger than anything that a peer of ours sends.
const SCRATCH_BYTES: usize = 16 << 10;
/// Between two looks for requests that got no answer and connections that are missing.
const SWEEP: Duration = Duration::from_millis(10);

/// Why the rig cannot measure.
#[derive(Debug, Error)]
pub enum RigError {
    /// A socket, epoll or a thread.
    #[error("sockets or threads of the bench's own load; check ulimit -n")]
    Io(#[from] io::Error),
    /// The thread is gone.
    #[error("the bench's own load ended early; see the message above")]
    Gone,
}

/// The running rig.
#[derive(Debug)]
pub struct Rig {
    jobs: Sender<(Job, oneshot::Sender<io::Result<Measured>>)>,
    waker: Arc<Waker>,
    ports: [u16; 2],
}

impl Rig {
    /// Starts the thread and the two versions on free ports.
    ///
    /// # Errors
    /// If sockets, epoll or a thread cannot be had.
    pub fn start() -> Result<Self, RigError> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let mut upstreams = [Upstream::bind(1)?, Upstream::bind(2)?];
        for (position, upstream) in upstreams.iter_mut().enumerate() {
            poll.registry().register(&mut upstream.listener, Token(position + 1), Interest::READABLE)?;
        }
        let ports = [upstreams[0].port, upstreams[1].port];
        let (jobs, taken) = channel();
        let mut works = Works { poll, upstreams, peers: Slab::new(), load: None, jobs: taken };
        thread::Builder::new().name("rig".to_owned()).spawn(move || works.run())?;
        Ok(Self { jobs, waker, ports })
    }

    /// Where the two versions listen, on every address of the machine.
    pub fn ports(&self) -> [u16; 2] {
        self.ports
    }

    /// Does one job after those that were given before.
    ///
    /// # Errors
    /// If the rig is gone, or a process that it was to watch.
    pub async fn measure(&self, job: Job) -> Result<Measured, RigError> {
        let (tell, told) = oneshot::channel();
        self.jobs.send((job, tell)).map_err(|_gone| RigError::Gone)?;
        self.waker.wake()?;
        Ok(told.await.map_err(|_gone| RigError::Gone)??)
    }
}

/// What is at the other end of a connection.
#[derive(Debug)]
enum Peer {
    Served(Served),
    Client(Client),
}

/// Everything the thread works with.
struct Works {
    poll: Poll,
    upstreams: [Upstream; 2],
    peers: Slab<Peer>,
    load: Option<(Load, oneshot::Sender<io::Result<Measured>>)>,
    jobs: Receiver<(Job, oneshot::Sender<io::Result<Measured>>)>,
}

impl Works {
    /// Until whoever started the rig has gone.
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut swept = Instant::now();
        loop {
            let patience = match &self.load {
                Some((load, _)) if load.is_paced() => Duration::ZERO,
                Some(_) | None => SWEEP,
            };
            if let Err(error) = self.poll.poll(&mut events, Some(patience))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            for event in &events {
                self.handle(event, &mut scratch);
            }
            let now = Instant::now();
            if !self.work(now, swept) {
                return;
            }
            if now.duration_since(swept) >= SWEEP {
                swept = now;
            }
        }
    }

    fn handle(&mut self, event: &Event, scratch: &mut [u8]) {
        match event.token() {
            WAKE => {}
            Token(listener @ 1..FIRST_PEER) => self.accept(listener - 1),
            Token(peer) => self.peer(peer - FIRST_PEER, event, scratch),
        }
    }

    fn accept(&mut self, version: usize) {
        let Some(upstream) = self.upstreams.get(version) else { return };
        while let Ok((stream, _)) = upstream.listener.accept() {
            // Without it a small answer may wait for an acknowledgement; a failure costs only that.
            drop(stream.set_nodelay(true));
            insert(self.poll.registry(), &mut self.peers, Peer::Served(Served::new(stream, version)));
        }
    }

    fn peer(&mut self, key: usize, event: &Event, scratch: &mut [u8]) {
        match self.peers.get_mut(key) {
            Some(Peer::Served(served)) => {
                let Some(upstream) = self.upstreams.get(served.version) else { return };
                if served.serve(upstream, scratch, event.is_read_closed()) == Next::Close {
                    self.peers.remove(key);
                }
            }
            Some(Peer::Client(_)) => {
                if let Some((load, _)) = &mut self.load {
                    load.turn(key, event, &mut self.peers, scratch);
                }
            }
            None => {}
        }
    }

    /// Goes on with the present job, or takes the next; false when there will be none.
    fn work(&mut self, now: Instant, swept: Instant) -> bool {
        use std::sync::mpsc::TryRecvError::{Disconnected, Empty};
        let registry = self.poll.registry();
        if let Some((load, _)) = &mut self.load {
            load.pace(now, &mut self.peers);
            if now.duration_since(swept) >= SWEEP {
                load.sweep(now, registry, &mut self.peers);
            }
            load.open_missing(now, registry, &mut self.peers);
            if !load.is_over(now) {
                return true;
            }
        }
        if let Some((load, tell)) = self.load.take() {
            // Whoever asked may have gone.
            drop(tell.send(Ok(load.end(&mut self.peers))));
        }
        match self.jobs.try_recv() {
            Ok((job, tell)) => match Load::begin(job, registry, &mut self.peers) {
                Ok(load) => self.load = Some((load, tell)),
                Err(error) => drop(tell.send(Err(error))),
            },
            Err(Empty) => {}
            Err(Disconnected) => return false,
        }
        true
    }
}

/// Takes a connection in; one that cannot be watched is closed.
fn insert(registry: &Registry, peers: &mut Slab<Peer>, mut peer: Peer) -> Option<usize> {
    let entry = peers.vacant_entry();
    let (key, token) = (entry.key(), Token(entry.key() + FIRST_PEER));
    let interest = Interest::READABLE | Interest::WRITABLE;
    let registered = match &mut peer {
        Peer::Served(served) => registry.register(&mut served.stream, token, interest),
        Peer::Client(client) => registry.register(&mut client.stream, token, interest),
    };
    registered.ok()?;
    entry.insert(peer);
    Some(key)
}

/// Names of threads and what they used, empty at first.
type Cpu = BTreeMap<String, f64>;

/// Where a loopback listener is.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
