//! How many clients may be connected at a time, so that idle ones cannot take the descriptors that the work needs.
//!
//! Line: listen ► **places** ► worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors for operators, health checks, the state and files, where there are enough.
const KEPT_BACK: u64 = 128;

/// Clients that the process can afford: each may need a descriptor of its own and one for a version.
pub(super) fn affordable_connections() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(descriptors, _)| affordable(descriptors))
}

fn affordable(descriptors: u64) -> usize {
    let for_traffic = descriptors - KEPT_BACK.min(descriptors / 2);
    usize::try_from(for_traffic / 2).unwrap_or(usize::MAX).max(1)
}

/// The places of all workers; clones are the same places.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: usize,
    taken: Arc<AtomicUsize>,
}

/// The place of one client, until this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// How many there are.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether another client may come.
    pub(super) fn has_room(&self) -> bool {
        self.taken.load(Relaxed) < self.most
    }

    /// A place for a client that has come: each worker may have let one in at the same time.
    pub(super) fn take(&self) -> Place {
        self.taken.fetch_add(1, Relaxed);
        Place(Arc::clone(&self.taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_leaves_a_descriptor_for_a_version_and_some_for_the_rest() {
        for (descriptors, clients) in [(1, 1), (64, 16), (256, 64), (1_024, 448), (1 << 20, 524_224)] {
            assert_eq!(affordable(descriptors), clients, "{descriptors}");
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_client_has_gone() {
        let places = Places::new(2);
        let (one, _other) = (places.take(), places.clone().take());
        assert!(!places.has_room());
        drop(one);
        assert!(places.has_room());
    }
}
