//! How many bytes of bodies lie in memory at a time, over all connections. One connection of HTTP/2 may bring hundreds of
//! bodies at once: without a common limit memory would be bounded by their product.
//!
//! `http` and `oip` reserve what they read; a body that comes with its head costs nothing, since the connection has read
//! it already.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;

/// No room for another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("bodies of {limit} bytes are being read already")]
pub struct NoRoom {
    /// How many may be read at a time.
    pub limit: usize,
}

/// What all bodies together may take.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Nothing held, of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A share of nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one body takes; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Makes it at least so large.
    ///
    /// # Errors
    /// When there is no room; what was held stays held.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let limit = self.budget.limit;
        let grown = |held: usize| held.checked_add(more).filter(|held| *held <= limit);
        match self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(_held) => Err(NoRoom { limit }),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_ends_makes_room() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert_eq!(one.grow_to(60), Ok(()));
        assert_eq!(other.grow_to(41), Err(NoRoom { limit: 100 }));
        assert_eq!(other.grow_to(40), Ok(()));
        assert_eq!(one.grow_to(50), Ok(()), "it is as large already");
        assert_eq!(budget.held(), 100);
        drop(one);
        assert_eq!(other.grow_to(100), Ok(()));
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        /// Checked against a memory of its own: the size of every share.
        #[test]
        fn never_more_is_held_than_there_is(steps in prop::collection::vec((0_usize..4, 0_usize..80), 1..100)) {
            let budget = Budget::new(100);
            let mut shares: Vec<_> = (0..4).map(|_| (budget.share(), 0)).collect();
            for (number, bytes) in steps {
                let others: usize = shares.iter().map(|(_, size)| size).sum::<usize>() - shares[number].1;
                let (share, size) = &mut shares[number];
                let fits = others + bytes.max(*size) <= 100;
                prop_assert_eq!(share.grow_to(bytes).is_ok(), fits);
                if fits {
                    *size = bytes.max(*size);
                }
                if bytes == 0 {
                    (*share, *size) = (budget.share(), 0);
                }
                prop_assert_eq!(budget.held(), shares.iter().map(|(_, size)| size).sum::<usize>());
            }
        }
    }
}
