//! Requests that have no answer yet, so that a version that hangs is judged before its timeouts run out.
//!
//! Time is cut into slots; a request is counted in the slot in which it was whole and leaves it when its answer's head
//! arrives.
//! When a slot is older than the limit, the control loop closes it and books who is left. Each slot is one word of
//! (turn, closed, count), so that leaving and closing agree on who books a request: exactly one of them does.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Slots in the ring; with [`SLOTS_PER_LIMIT`] a slot comes round again only long after it was closed.
const SLOTS: u64 = 64;
/// How finely the limit is cut.
const SLOTS_PER_LIMIT: u32 = 16;
/// The lower half of a word counts requests.
const COUNT_MASK: u64 = 0x7fff_ffff;
/// Set when the slot has been booked.
const CLOSED: u64 = 0x8000_0000;
/// The upper half tells how often the ring has gone round.
const TURN_SHIFT: u32 = 32;

/// Where a request was counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

/// The ring of one shard.
#[derive(Debug)]
pub(super) struct Pending {
    slots: [AtomicU64; 64],
    slot_us: u64,
    /// The first slot that has not been closed.
    open_from: AtomicU64,
}

impl Pending {
    pub(super) fn new(limit: Duration) -> Self {
        let slot_us = u64::try_from((limit / SLOTS_PER_LIMIT).as_micros()).unwrap_or(u64::MAX).max(1000);
        let slots = [const { AtomicU64::new(0) }; 64];
        let pending = Self { slots, slot_us, open_from: AtomicU64::new(0) };
        pending.open_from.store(pending.slot_at(Instant::now()), Relaxed);
        pending
    }

    /// Counts a request that was whole at `asked`.
    pub(super) fn enter(&self, asked: Instant) -> Ticket {
        let slot = self.slot_at(asked);
        let turn = turn_of(slot);
        let fresh = (turn << TURN_SHIFT) | 1;
        let seen = self.cell(slot).fetch_update(Relaxed, Relaxed, |word| {
            if word >> TURN_SHIFT == turn { Some(word + 1) } else { Some(fresh) }
        });
        // A request that was whole so long ago that its slot is booked already can only be booked by itself.
        let booked = seen.is_ok_and(|word| word >> TURN_SHIFT == turn && word & CLOSED != 0);
        if booked { Ticket(u64::MAX) } else { Ticket(slot) }
    }

    /// Takes a request out; false if it has been booked as unanswered.
    pub(super) fn leave(&self, ticket: Ticket) -> bool {
        if ticket.0 == u64::MAX {
            return true;
        }
        let turn = turn_of(ticket.0);
        self.cell(ticket.0)
            .fetch_update(Relaxed, Relaxed, |word| {
                let open = word >> TURN_SHIFT == turn && word & CLOSED == 0;
                open.then(|| word - 1)
            })
            .is_ok()
    }

    /// Closes every slot that is older than the limit at `now`; gives the number of requests still in them.
    pub(super) fn close_until(&self, now: Instant) -> u64 {
        let end = self.slot_at(now).saturating_sub(u64::from(SLOTS_PER_LIMIT));
        let start = self.open_from.load(Relaxed).max(end.saturating_sub(SLOTS));
        self.open_from.store(end.max(start), Relaxed);
        (start..end).map(|slot| self.close(slot)).sum()
    }

    fn close(&self, slot: u64) -> u64 {
        let turn = turn_of(slot);
        let closed = (turn << TURN_SHIFT) | CLOSED;
        let before =
            self.cell(slot).fetch_update(Relaxed, Relaxed, |word| (word >> TURN_SHIFT <= turn).then_some(closed));
        before.map_or(0, |word| if word >> TURN_SHIFT == turn { word & COUNT_MASK } else { 0 })
    }

    fn slot_at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(origin()).as_micros()).unwrap_or(u64::MAX) / self.slot_us
    }

    #[expect(clippy::indexing_slicing, clippy::as_conversions, reason = "the remainder is below the length")]
    fn cell(&self, slot: u64) -> &AtomicU64 {
        &self.slots[(slot % SLOTS) as usize]
    }
}

/// How often the ring had gone round at `slot`; one-based, so that a new word belongs to no turn.
fn turn_of(slot: u64) -> u64 {
    (slot / SLOTS + 1) & 0xffff_ffff
}

/// The moment that slots count from: the first use.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn a_request_that_is_answered_in_time_is_not_booked() {
        let start = Instant::now();
        let pending = Pending::new(LIMIT);
        let ticket = pending.enter(start + Duration::from_secs(10));
        assert!(pending.leave(ticket));
        assert_eq!(pending.close_until(start + Duration::from_secs(20)), 0);
    }

    #[test]
    fn a_request_that_hangs_is_booked_once_and_by_the_closer() {
        let start = Instant::now();
        let pending = Pending::new(LIMIT);
        let ticket = pending.enter(start + Duration::from_secs(10));
        assert_eq!(pending.close_until(start + Duration::from_millis(11_900)), 0, "too early");
        assert_eq!(pending.close_until(start + Duration::from_millis(12_200)), 1);
        assert_eq!(pending.close_until(start + Duration::from_secs(13)), 0, "once");
        assert!(!pending.leave(ticket), "it has been booked");
    }

    #[test]
    fn a_ticket_of_an_earlier_turn_does_not_touch_the_present_one() {
        let start = Instant::now();
        let pending = Pending::new(LIMIT);
        let old = pending.enter(start + Duration::from_secs(10));
        let round = Duration::from_micros(pending.slot_us * SLOTS);
        assert_eq!(pending.close_until(start + Duration::from_secs(10) + round), 1);
        let new = pending.enter(start + Duration::from_secs(10) + round);
        assert!(!pending.leave(old));
        assert!(pending.leave(new));
    }

    #[test]
    fn every_request_is_booked_by_exactly_one_side_under_threads() {
        let pending = Pending::new(Duration::from_millis(16));
        let left = AtomicU64::new(0);
        let closed = AtomicU64::new(0);
        let entered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let until = Instant::now() + Duration::from_millis(300);
                    while Instant::now() < until {
                        let tickets: Vec<_> = (0..50).map(|_| pending.enter(Instant::now())).collect();
                        entered.fetch_add(50, Relaxed);
                        if entered.load(Relaxed).is_multiple_of(3) {
                            std::thread::yield_now();
                        }
                        let done = tickets.into_iter().filter(|ticket| pending.leave(*ticket)).count();
                        left.fetch_add(u64::try_from(done).unwrap(), Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_millis(350);
                while Instant::now() < until {
                    closed.fetch_add(pending.close_until(Instant::now()), Relaxed);
                }
            });
        });
        closed.fetch_add(pending.close_until(Instant::now() + Duration::from_millis(30)), Relaxed);
        assert_eq!(left.load(Relaxed) + closed.load(Relaxed), entered.load(Relaxed));
    }
}
