//! How often the model panicked within the last minute. Pure: times come in as values; `queue` asks.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// How long a panic is remembered.
const MEMORY: Duration = Duration::from_mins(1);

/// The last panics.
#[derive(Debug)]
pub struct Panics {
    at: VecDeque<Instant>,
    allowed: NonZeroUsize,
}

impl Panics {
    /// None so far; the `limit`-th within a minute is one too many.
    pub fn new(limit: NonZeroUsize) -> Self {
        Self { at: VecDeque::new(), allowed: limit }
    }

    /// Notes one; gives whether there are too many.
    pub fn note(&mut self, now: Instant) -> bool {
        while self.at.front().is_some_and(|at| now.saturating_duration_since(*at) >= MEMORY)
            || self.at.len() >= self.allowed.get()
        {
            self.at.pop_front();
        }
        self.at.push_back(now);
        self.at.len() >= self.allowed.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_nothing_reaches_takes_no_room() {
        assert!(!Panics::new(NonZeroUsize::MAX).note(Instant::now()));
    }

    #[test]
    fn panics_count_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut panics = Panics::new(NonZeroUsize::new(3).unwrap());
        for (second, too_many) in [(0, false), (30, false), (61, false), (62, true), (63, true), (200, false)] {
            assert_eq!(panics.note(at(second)), too_many, "after {second} s");
        }
    }
}
