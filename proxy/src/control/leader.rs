//! Whether this edge decides: the Lease, and the terms that were heard of.
//!
//! Line: (API server) ► **leader** ► control. An edge leads while the Lease says so and nobody has shown it a later term.

use pointsman_kubernetes::Leadership;
use pointsman_kubernetes::annotation::Fence;
use rand::RngExt;
use tokio::sync::watch;

use super::replicas::rows::Instance;

/// This edge's seat among those that may lead.
#[derive(Debug)]
pub(crate) struct Seat {
    name: String,
    instance: Instance,
    leadership: watch::Receiver<Leadership>,
    /// The latest term of another leader that was heard of.
    latest: u64,
}

impl Seat {
    /// The seat of the process that stands for the Lease as `name`.
    pub(crate) fn new(name: &str, leadership: watch::Receiver<Leadership>) -> Self {
        Self { name: name.to_owned(), instance: Instance(rand::rng().random()), leadership, latest: 0 }
    }

    /// The name of this process, as it stands in the Lease.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Which process this is.
    pub(crate) fn instance(&self) -> Instance {
        self.instance
    }

    /// The proof that this edge leads at this moment; none if it does not.
    pub(crate) fn fence(&self) -> Option<Fence> {
        let leadership = self.leadership.borrow();
        leadership.fence().filter(|fence| fence.term > self.latest).cloned()
    }

    /// Another edge leads, or led, with `term`.
    pub(crate) fn heard_of(&mut self, term: u64) {
        self.latest = self.latest.max(term);
    }

    /// The latest term of another leader that was heard of.
    pub(crate) fn latest(&self) -> u64 {
        self.latest
    }

    /// A term that the Lease must be raised above: it was deleted, and counts anew.
    pub(crate) fn is_outrun(&self) -> Option<u64> {
        let leadership = self.leadership.borrow();
        leadership.fence().filter(|fence| fence.term <= self.latest).map(|_| self.latest)
    }
}
