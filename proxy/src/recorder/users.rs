//! Which users have been counted during one trial of a canary, where the user is the unit of assignment and of evidence.
//!
//! Line: outcome ► recorder (**users**) ► (window, analysis). One draw decides a user's version, so that everything a user
//! meets carries the same label: a thousand errors of one user tell as much about the versions as one. Only the first
//! counts. Fixed memory: users whose hashes fall together count as one, which drops counts of both versions alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bits of a hash that tell users apart: 2^16 users.
const PLACE_BITS: u32 = 16;
/// Bits in a word.
const WORD_BITS: u16 = 64;
/// Words in a set: 2^16 bits.
const WORDS: usize = 1024;

/// The users of one trial, shared by both versions and by every weight of it; never cleared.
#[derive(Debug, Default)]
pub struct Users {
    seen: Arc<UserSet>,
    failed: UserSet,
    slowed: UserSet,
}

/// Whose error and whose slow answer had been met up to one moment.
#[derive(Debug, Default)]
pub(crate) struct Met {
    failed: UserSet,
    slowed: UserSet,
}

/// Equal only to itself: another trial has users of its own.
impl PartialEq for Users {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// A user's place in every set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User(pub(super) u16);

impl User {
    /// The user with this hash. Mixed once more, so that the place says nothing about the draw, whatever bits of the
    /// hash decided that (Fibonacci hashing, Knuth 6.4).
    pub(super) fn of_hash(hash: u64) -> Self {
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PLACE_BITS);
        Self(u16::try_from(mixed).unwrap_or_default())
    }
}

impl Users {
    /// Whether this is the user's first request in this trial; from now on it is not.
    pub(super) fn is_first_seen(&self, user: User) -> bool {
        self.seen.insert(user)
    }

    /// Whether this is the user's first error in this trial; from now on it is not.
    pub(super) fn is_first_error(&self, user: User) -> bool {
        self.failed.insert(user)
    }

    /// Whether more than half of the places that tell users apart are taken, so that most new users count as ones that
    /// were counted before.
    pub(crate) fn is_saturated(&self) -> bool {
        [&*self.seen, &self.failed, &self.slowed].into_iter().any(UserSet::is_half_full)
    }

    /// Whose error and whose slow answer have been met by now.
    pub(crate) fn met(&self) -> Met {
        Met { failed: self.failed.copied(), slowed: self.slowed.copied() }
    }

    /// The same users, of whom no more has been met than `met`: what came after it is no evidence, and whoever had an error
    /// then has the first one before them. Whom the draw gave to which version stays known.
    pub(crate) fn back_at(&self, met: &Met) -> Self {
        Self { seen: Arc::clone(&self.seen), failed: met.failed.copied(), slowed: met.slowed.copied() }
    }

    /// Whether this is the user's first slow answer in this trial; from now on it is not.
    pub(super) fn is_first_slow(&self, user: User) -> bool {
        self.slowed.insert(user)
    }
}

/// A set of users that only grows.
#[derive(Debug)]
struct UserSet(Box<[AtomicU64]>);

impl Default for UserSet {
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl UserSet {
    fn is_half_full(&self) -> bool {
        let taken: u32 = self.0.iter().map(|word| word.load(Relaxed).count_ones()).sum();
        taken > 1 << (PLACE_BITS - 1)
    }

    fn copied(&self) -> Self {
        Self(self.0.iter().map(|word| AtomicU64::new(word.load(Relaxed))).collect())
    }

    /// Whether the user was not in it; now it is. One of several threads gets to hear it.
    fn insert(&self, user: User) -> bool {
        let (word, bit) = (usize::from(user.0 / WORD_BITS), 1 << (user.0 % WORD_BITS));
        // Most users have been seen: reading keeps the line shared between threads.
        self.0.get(word).is_some_and(|word| word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_first_is_told_once_and_apart_from_the_others() {
        let users = Users::default();
        let (ada, bob) = (User::of_hash(1), User::of_hash(2));
        assert_ne!(ada, bob);
        assert!(users.is_first_error(ada) && !users.is_first_error(ada));
        assert!(users.is_first_error(bob) && users.is_first_slow(ada) && users.is_first_seen(ada));
        assert!(!users.is_first_seen(ada) && !users.is_first_slow(ada));
    }

    #[test]
    fn one_of_many_threads_is_the_first() {
        let (users, firsts) = (Users::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1_000).filter(|place| users.is_first_error(User(*place))).count();
                    firsts.fetch_add(mine, Relaxed);
                });
            }
        });
        assert_eq!(firsts.into_inner(), 1_000);
    }

    #[test]
    fn hashes_that_differ_in_any_part_spread_over_all_places() {
        for shift in [0, 16, 32, 48] {
            let places: std::collections::BTreeSet<_> = (0..1_000_u64).map(|n| User::of_hash(n << shift).0).collect();
            assert!(places.len() > 950, "{shift}: {}", places.len());
        }
    }

    #[test]
    fn a_set_is_saturated_when_more_than_half_of_its_places_are_taken() {
        let users = Users::default();
        (0..1 << 15).for_each(|place| assert!(users.is_first_error(User(place))));
        assert!(!users.is_saturated());
        users.is_first_error(User(u16::MAX));
        assert!(users.is_saturated());
    }

    #[test]
    fn users_who_are_back_at_a_moment_have_met_only_what_came_before_it() {
        let users = Users::default();
        let (before, after) = (User(1), User(2));
        assert!(users.is_first_seen(before) && users.is_first_error(before) && users.is_first_slow(before));
        let met = users.met();
        assert!(users.is_first_seen(after) && users.is_first_error(after) && users.is_first_slow(after));
        let back = users.back_at(&met);
        assert!(!back.is_first_error(before) && !back.is_first_slow(before));
        assert!(back.is_first_error(after) && back.is_first_slow(after));
        assert!(!back.is_first_seen(before) && !back.is_first_seen(after), "the draw is told once");
    }

    #[test]
    fn two_trials_are_never_equal() {
        let users = Users::default();
        assert!(users == users && users != Users::default());
    }
}
