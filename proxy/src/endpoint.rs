//! One address of a version: its load and whether it is up.
//!
//! Line: pool ► **endpoint** ► upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// One address of a version. It outlives snapshots, so that its load is known across reloads.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    in_flight: CachePadded<AtomicU32>,
    up: AtomicBool,
}

impl Endpoint {
    /// An endpoint that nobody has checked yet: taken as up, so that a start under traffic does not wait for checks.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, in_flight: CachePadded::new(AtomicU32::new(0)), up: AtomicBool::new(true) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests it is working on for this edge.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether the last health checks found it ready.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// What the health checks found.
    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
    }

    /// Counts one request on it until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// One request on an endpoint; dropping it ends the request, whatever became of it.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
