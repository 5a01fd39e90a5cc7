//! How long a connection may wait for what: for a request to begin, for its head to arrive. Whoever keeps a server's
//! connections busy byte by byte, or idle, would otherwise keep everybody else out. Pure: times come in as values;
//! `connection` looks.
//!
//! A request's path is free of clocks and timers: it counts its [turns](Pulse), and the watch, which looks every now and
//! then, sees which connection stands where it stood before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often a connection is looked at while the shortest of its limits passes: a limit is exceeded by no more than a
/// fourth of it.
const LOOKS: u32 = 4;

/// More looks a second find nothing more.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// What a connection may take its time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// From the first byte of a request's head to its end.
    pub head: Duration,
}

impl Patience {
    /// How long to wait between two looks.
    pub fn pause(self) -> Duration {
        (self.idle.min(self.head) / LOOKS).max(SHORTEST_PAUSE)
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first byte of a request.
    Silent,
    /// The rest of its head.
    Head,
    /// Its answer.
    Busy,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Silent, Self::Head, Self::Busy];

    fn of(turn: u32) -> Self {
        let number = usize::try_from(turn).unwrap_or_default() % Self::ALL.len();
        Self::ALL.get(number).copied().unwrap_or(Self::Busy)
    }
}

/// Where one connection stands: a number that grows at every change, and whose rest by three says the phase.
#[derive(Debug, Default)]
pub struct Pulse {
    turn: AtomicU32,
    under_way: AtomicUsize,
}

impl Pulse {
    /// Something came in.
    pub fn heard(&self) {
        if self.phase() == Phase::Silent {
            self.turn_to(Phase::Head);
        }
    }

    /// What came in was no part of a request.
    pub fn rests(&self) {
        if self.phase() == Phase::Head {
            self.turn_to(Phase::Silent);
        }
    }

    /// A part of an answer went out: who reads it does not stand still, however long the answer is.
    pub fn told(&self) {
        match self.phase() {
            Phase::Busy => {}
            standing @ (Phase::Silent | Phase::Head) => self.turn_to(standing),
        }
    }

    /// A request is whole but for its body; it is under way until the guard is dropped.
    pub fn enter(self: Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.turn_to(Phase::Busy);
        UnderWay { pulse: self }
    }

    fn phase(&self) -> Phase {
        Phase::of(self.turn.load(Ordering::Relaxed))
    }

    /// Only the thread of the connection turns, and only its watch looks, on the same thread.
    fn turn_to(&self, phase: Phase) {
        let mut turn = self.turn.load(Ordering::Relaxed).wrapping_add(1) % WRAP;
        while Phase::of(turn) != phase {
            turn = (turn + 1) % WRAP;
        }
        self.turn.store(turn, Ordering::Relaxed);
    }
}

/// Where the number starts anew: a multiple of three.
const WRAP: u32 = 3 << 30;

/// A request that is under way.
#[derive(Debug)]
pub struct UnderWay {
    pulse: Arc<Pulse>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.pulse.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pulse.turn_to(Phase::Silent);
        }
    }
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// No request came.
    Idle,
    /// A request began and did not go on.
    Head,
}

impl Overdue {
    /// In one word, for the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head_timeout",
        }
    }
}

/// Who looks at one connection.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    turn: u32,
    since: Instant,
}

impl Watch {
    /// Of a connection that begins now.
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, turn: 0, since: now }
    }

    /// Whether the connection stands where it stood for too long.
    pub fn look(&mut self, pulse: &Pulse, now: Instant) -> Option<Overdue> {
        let turn = pulse.turn.load(Ordering::Relaxed);
        if turn != self.turn {
            (self.turn, self.since) = (turn, now);
            return None;
        }
        let stood = now.saturating_duration_since(self.since);
        match Phase::of(turn) {
            Phase::Silent if stood >= self.patience.idle => Some(Overdue::Idle),
            Phase::Head if stood >= self.patience.head => Some(Overdue::Head),
            Phase::Silent | Phase::Head | Phase::Busy => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { idle: Duration::from_mins(1), head: Duration::from_secs(10) };

    /// A connection, its watch, and what the watch says at a second.
    struct Watched {
        pulse: Arc<Pulse>,
        watch: Watch,
        start: Instant,
    }

    impl Watched {
        fn new() -> Self {
            let start = Instant::now();
            Self { pulse: Arc::default(), watch: Watch::new(PATIENCE, start), start }
        }

        fn enter(&self) -> UnderWay {
            Arc::clone(&self.pulse).enter()
        }

        fn check(&mut self, second: u64, wanted: Option<Overdue>) {
            let found = self.watch.look(&self.pulse, self.start + Duration::from_secs(second));
            assert_eq!(found, wanted, "after {second} s");
        }
    }

    #[test]
    fn a_connection_without_a_request_is_overdue_in_the_end() {
        let mut watched = Watched::new();
        watched.check(59, None);
        watched.check(60, Some(Overdue::Idle));
    }

    #[test]
    fn a_head_that_does_not_end_is_overdue_however_often_a_byte_comes() {
        let mut watched = Watched::new();
        watched.check(30, None);
        watched.pulse.heard();
        watched.check(32, None);
        for second in 33..42 {
            watched.pulse.heard();
            watched.check(second, None);
        }
        watched.check(42, Some(Overdue::Head));
    }

    #[test]
    fn a_request_under_way_takes_its_time_and_silence_counts_from_its_end() {
        let mut watched = Watched::new();
        watched.pulse.heard();
        let (one, other) = (watched.enter(), watched.enter());
        assert_eq!(watched.pulse.phase(), Phase::Busy);
        drop(one);
        assert_eq!(watched.pulse.phase(), Phase::Busy);
        drop(other);
        watched.check(100, None);
        watched.check(159, None);
        watched.check(160, Some(Overdue::Idle));
    }

    #[test]
    fn requests_between_two_looks_are_seen() {
        let mut watched = Watched::new();
        for second in 1..300 {
            watched.pulse.heard();
            drop(watched.enter());
            watched.check(second, None);
        }
    }

    #[test]
    fn whoever_reads_an_answer_takes_its_time_and_silence_counts_from_the_last_part() {
        let mut watched = Watched::new();
        drop(watched.enter());
        for second in (0..300).step_by(50) {
            watched.pulse.told();
            watched.check(second, None);
        }
        watched.check(309, None);
        watched.check(310, Some(Overdue::Idle));
        watched.pulse.heard();
        watched.pulse.told();
        watched.check(320, None);
        watched.check(330, Some(Overdue::Head));
    }

    #[test]
    fn what_was_no_request_leaves_the_connection_silent() {
        let mut watched = Watched::new();
        watched.pulse.heard();
        watched.pulse.rests();
        watched.check(1, None);
        watched.check(60, None);
        watched.check(61, Some(Overdue::Idle));
        let _under_way = watched.enter();
        watched.pulse.told();
        watched.pulse.rests();
        assert_eq!(watched.pulse.phase(), Phase::Busy);
    }

    #[test]
    fn the_number_starts_anew_without_a_wrong_phase() {
        let pulse = Pulse { turn: AtomicU32::new(WRAP - 1), ..Pulse::default() };
        assert_eq!(pulse.phase(), Phase::Busy);
        pulse.turn_to(Phase::Silent);
        assert_eq!((pulse.phase(), pulse.turn.load(Ordering::Relaxed)), (Phase::Silent, 0));
    }

    #[test]
    fn looks_are_as_frequent_as_the_shortest_limit_needs() {
        assert_eq!(PATIENCE.pause(), Duration::from_millis(2500));
        assert_eq!(Patience { idle: Duration::ZERO, ..PATIENCE }.pause(), SHORTEST_PAUSE);
    }
}
