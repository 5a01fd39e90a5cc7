//! Request ids that clients sent of late, so that a client's retry is not counted a second time.
//!
//! Line: edge ► admission (**recent ids**) ► recorder. The unit of evidence is a request, not an attempt: a client that
//! repeats what failed would count its bad luck twice. Fixed memory, one word an id: a newer id may take the place of an
//! older one, which is then not known again, and two ids may look alike, which drops one count. Neither depends on the
//! version, so that both versions lose alike.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pointsman_config::RouteName;

/// Ids that are remembered, over all routes: 1 MiB.
const PLACES: usize = 1 << 17;
/// How long an id is known. Clients repeat within seconds; who sends one and the same id for ever is counted once a minute.
const KNOWN_FOR: Duration = Duration::from_mins(1);
/// The lower bits of a word are the second in which the id was first seen, the upper ones tell ids apart.
const SECOND_MASK: u64 = (1 << 24) - 1;

/// The ids that came from clients in the last minute.
#[derive(Debug)]
pub struct RecentIds {
    words: Box<[AtomicU64]>,
    /// Seeded anew in every process: nobody can choose ids that take the place of others'.
    hasher: RandomState,
    /// Before the first use, so that no second is zero.
    origin: Instant,
}

impl Default for RecentIds {
    fn default() -> Self {
        Self {
            words: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            origin: Instant::now(),
        }
    }
}

impl RecentIds {
    /// Whether `id` came to `route` in the minute before `now`. The same id on another route is another request.
    pub fn is_repeat(&self, route: &RouteName, id: &[u8], now: Instant) -> bool {
        let hash = self.hasher.hash_one((route.as_str(), id));
        let second = (now.saturating_duration_since(self.origin).as_secs() + 1) & SECOND_MASK;
        let Some(word) = usize::try_from(hash).ok().and_then(|hash| self.words.get(hash % PLACES)) else {
            return false;
        };
        let before = word.load(Relaxed);
        let age = second.wrapping_sub(before) & SECOND_MASK;
        if before != 0 && (before ^ hash) & !SECOND_MASK == 0 && age < KNOWN_FOR.as_secs() {
            return true;
        }
        // Of two threads with the same id at the same moment one is the first.
        let fresh = hash & !SECOND_MASK | second;
        match word.compare_exchange(before, fresh, Relaxed, Relaxed) {
            Ok(_) => false,
            Err(now) => (now ^ hash) & !SECOND_MASK == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> RouteName {
        name.parse().unwrap()
    }

    #[test]
    fn an_id_is_a_repeat_for_a_minute_on_its_own_route() {
        let (ids, start, one) = (RecentIds::default(), Instant::now(), route("one"));
        assert!(!ids.is_repeat(&one, b"a", start));
        assert!(ids.is_repeat(&one, b"a", start + Duration::from_secs(58)));
        assert!(!ids.is_repeat(&route("two"), b"a", start));
        assert!(!ids.is_repeat(&one, b"b", start));
        assert!(!ids.is_repeat(&one, b"a", start + Duration::from_secs(61)), "counted once a minute");
        assert!(ids.is_repeat(&one, b"a", start + Duration::from_secs(62)));
    }

    #[test]
    fn hardly_any_id_is_taken_for_another() {
        let (ids, start, one) = (RecentIds::default(), Instant::now(), route("one"));
        let mistaken = (0..200_000_u32).filter(|id| ids.is_repeat(&one, &id.to_be_bytes(), start)).count();
        assert!(mistaken <= 2, "{mistaken}");
    }

    #[test]
    fn most_ids_of_the_last_ten_thousand_are_known_again() {
        let (ids, start, one) = (RecentIds::default(), Instant::now(), route("one"));
        for id in 0..10_000_u32 {
            ids.is_repeat(&one, &id.to_be_bytes(), start);
        }
        let known = (0..10_000_u32).filter(|id| ids.is_repeat(&one, &id.to_be_bytes(), start)).count();
        assert!(known > 8_500, "{known}");
    }

    #[test]
    fn of_many_threads_with_one_id_one_is_the_first() {
        let (ids, start, one) = (RecentIds::default(), Instant::now(), route("one"));
        let firsts = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1_000_u32).filter(|id| !ids.is_repeat(&one, &id.to_be_bytes(), start)).count();
                    firsts.fetch_add(u64::try_from(mine).unwrap(), Relaxed);
                });
            }
        });
        // A few places are shared by two ids that drive each other out.
        assert!((1_000..=1_200).contains(&firsts.into_inner()));
    }
}
