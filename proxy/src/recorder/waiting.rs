//! Users whose requests have no answer yet, so that a version that hangs is judged before its timeouts run out.
//!
//! Where users are the unit, whoever books an unanswered request has to know whose it is: a user who sends a hundred
//! requests into a hanging version is one error. So each request takes a place of its own, a word that holds the user and
//! the moment, and frees it when its answer's head arrives; the control loop frees places that are too old and books
//! their users. Exactly one of the two frees a place. When all places that are tried are taken, a request is judged only
//! when it ends, as late as its timeout.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::users::User;

/// Requests in flight of one version on one thread that are watched at the same time.
const PLACES: u64 = 512;
/// Places that a request tries.
const TRIES: u64 = 4;
/// A word that is taken: turn, user and milliseconds behind it.
const TAKEN: u64 = 1 << 63;
const TURN_SHIFT: u32 = 48;
const TURN_MASK: u64 = 0x7fff;
const USER_SHIFT: u32 = 32;
const MOMENT_MASK: u64 = 0xffff_ffff;
/// A difference of moments above this is one that lies ahead.
const AHEAD: u64 = 1 << 31;

/// A place that was taken, and what was written there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u64,
    word: u64,
}

/// The places of one shard.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Box<[AtomicU64]>,
    next: AtomicU64,
    limit_ms: u64,
}

impl Waiting {
    pub(super) fn new(limit: Duration) -> Self {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).clamp(1, AHEAD - 1);
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), next: AtomicU64::new(0), limit_ms }
    }

    /// Watches a request of `user` that was whole at `asked`; none if there is no place for it.
    pub(super) fn enter(&self, user: User, asked: Instant) -> Option<Place> {
        let turn = self.next.fetch_add(1, Relaxed);
        let moment = moment_of(asked);
        let word = TAKEN | ((turn / PLACES) & TURN_MASK) << TURN_SHIFT | u64::from(user.0) << USER_SHIFT | moment;
        (turn..turn + TRIES).map(|at| at % PLACES).find(|at| self.swap(*at, 0, word)).map(|at| Place { at, word })
    }

    /// Frees a place; false if its user has been booked.
    pub(super) fn leave(&self, place: Place) -> bool {
        self.swap(place.at, place.word, 0)
    }

    /// Frees every place that was taken longer ago than the limit at `now`, and gives `book` its user.
    pub(super) fn close_until(&self, now: Instant, mut book: impl FnMut(User)) {
        let now = moment_of(now);
        for (at, place) in (0..).zip(&self.places) {
            let word = place.load(Relaxed);
            let age = now.wrapping_sub(word & MOMENT_MASK) & MOMENT_MASK;
            if word != 0 && (self.limit_ms..AHEAD).contains(&age) && self.swap(at, word, 0) {
                let user = (word >> USER_SHIFT) & u64::from(u16::MAX);
                book(User(u16::try_from(user).unwrap_or_default()));
            }
        }
    }

    fn swap(&self, at: u64, from: u64, to: u64) -> bool {
        let place = usize::try_from(at).ok().and_then(|at| self.places.get(at));
        place.is_some_and(|place| place.compare_exchange(from, to, Relaxed, Relaxed).is_ok())
    }
}

/// Milliseconds from the first use, modulo 2^32.
fn moment_of(moment: Instant) -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    u64::try_from(moment.saturating_duration_since(origin).as_millis()).unwrap_or_default() & MOMENT_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn booked(waiting: &Waiting, now: Instant) -> Vec<u16> {
        let mut users = Vec::new();
        waiting.close_until(now, |user| users.push(user.0));
        users
    }

    #[test]
    fn whoever_frees_a_place_first_books_its_request() {
        let (waiting, start) = (Waiting::new(LIMIT), Instant::now());
        let answered = waiting.enter(User(7), start).unwrap();
        let hangs = waiting.enter(User(8), start).unwrap();
        assert!(waiting.leave(answered));
        assert_eq!(booked(&waiting, start + Duration::from_millis(1_900)), [0_u16; 0]);
        assert_eq!(booked(&waiting, start + Duration::from_millis(2_100)), [8]);
        assert_eq!(booked(&waiting, start + Duration::from_secs(3)), [0_u16; 0], "once");
        assert!(!waiting.leave(hangs), "it has been booked");
    }

    #[test]
    fn a_place_of_an_earlier_turn_is_not_freed_by_the_request_that_had_it() {
        let (waiting, start) = (Waiting::new(LIMIT), Instant::now());
        let old = waiting.enter(User(1), start).unwrap();
        assert_eq!(booked(&waiting, start + LIMIT * 2), [1]);
        for _ in 1..PLACES {
            let between = waiting.enter(User(2), start).unwrap();
            assert!(waiting.leave(between));
        }
        let new = waiting.enter(User(1), start).unwrap();
        assert_eq!(old.at, new.at);
        assert!(!waiting.leave(old) && waiting.leave(new));
    }

    #[test]
    fn more_requests_than_places_are_left_to_themselves() {
        let (waiting, start) = (Waiting::new(LIMIT), Instant::now());
        let entered = (0..2 * PLACES).filter_map(|_| waiting.enter(User(3), start)).count();
        assert_eq!(u64::try_from(entered).unwrap(), PLACES);
        assert_eq!(u64::try_from(booked(&waiting, start + LIMIT * 2).len()).unwrap(), PLACES);
    }

    #[test]
    fn every_request_is_booked_by_exactly_one_side_under_threads() {
        let waiting = Waiting::new(Duration::from_millis(1));
        let (left, closed, entered) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for user in 0..3 {
                let (waiting, left, entered) = (&waiting, &left, &entered);
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let places: Vec<_> =
                            (0..20).filter_map(|_| waiting.enter(User(user), Instant::now())).collect();
                        entered.fetch_add(u64::try_from(places.len()).unwrap(), Relaxed);
                        std::thread::yield_now();
                        let mine = places.into_iter().filter(|place| waiting.leave(*place)).count();
                        left.fetch_add(u64::try_from(mine).unwrap(), Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..2_000 {
                    waiting.close_until(Instant::now(), |_| {
                        closed.fetch_add(1, Relaxed);
                    });
                }
            });
        });
        assert_eq!(left.load(Relaxed) + closed.load(Relaxed), entered.load(Relaxed));
    }
}
