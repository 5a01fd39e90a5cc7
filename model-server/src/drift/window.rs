//! Counts over a window that moves: six slices of time, the oldest of which is forgotten when a new one begins. Pure:
//! times come in as values.

use std::time::{Duration, Instant};

/// In how many steps a window moves.
const SLICES: u32 = 6;

/// Counts per bin, over the last window's time.
#[derive(Debug, Clone)]
pub(super) struct Window {
    slices: Vec<Slice>,
    /// What was forgotten.
    past: Tally,
    began: Instant,
    length: Duration,
}

#[derive(Debug, Clone)]
struct Slice {
    /// Which slice since the beginning it holds, once it holds any.
    number: Option<u32>,
    counts: Vec<u64>,
    rows: u64,
    requests: u64,
}

/// What a window holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) counts: Vec<u64>,
    pub(super) rows: u64,
    /// Requests in which they came.
    pub(super) requests: u64,
}

impl Window {
    /// Empty, over so many bins.
    pub(super) fn new(bins: usize, window: Duration, now: Instant) -> Self {
        let empty = Slice { number: None, counts: vec![0; bins], rows: 0, requests: 0 };
        let slices = (0..SLICES).map(|_| empty.clone()).collect();
        Self { slices, past: Tally::default(), began: now, length: (window / SLICES).max(Duration::from_millis(1)) }
    }

    /// The counts to which so many rows of one request at this time are added.
    pub(super) fn counts(&mut self, now: Instant, rows: usize) -> &mut [u64] {
        let number = self.number(now);
        let Some(slice) = self.slices.iter_mut().min_by_key(|slice| slice.distance(number)) else {
            return &mut [];
        };
        if slice.number != Some(number) {
            self.past.add(slice);
            slice.counts.fill(0);
            (slice.rows, slice.requests) = (0, 0);
            slice.number = Some(number);
        }
        slice.rows += u64::try_from(rows).unwrap_or(u64::MAX);
        slice.requests += 1;
        &mut slice.counts
    }

    /// Adds what happened within the last window.
    pub(super) fn add_to(&self, tally: &mut Tally, now: Instant) {
        let number = self.number(now);
        let recent = |slice: &&Slice| slice.number.is_some_and(|began| number.saturating_sub(began) < SLICES);
        for slice in self.slices.iter().filter(recent) {
            tally.add(slice);
        }
    }

    /// Adds everything that ever happened.
    pub(super) fn add_all_to(&self, tally: &mut Tally) {
        tally.add_counts((self.past.rows, self.past.requests), &self.past.counts);
        for slice in &self.slices {
            tally.add(slice);
        }
    }

    fn number(&self, now: Instant) -> u32 {
        let passed = milliseconds(now.saturating_duration_since(self.began)) / milliseconds(self.length);
        u32::try_from(passed).unwrap_or(u32::MAX)
    }
}

impl Tally {
    fn add(&mut self, slice: &Slice) {
        self.add_counts((slice.rows, slice.requests), &slice.counts);
    }

    fn add_counts(&mut self, (rows, requests): (u64, u64), counts: &[u64]) {
        self.rows += rows;
        self.requests += requests;
        self.counts.resize(self.counts.len().max(counts.len()), 0);
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum += count;
        }
    }
}

/// In 64 bits, which are far quicker to divide than the 128 of `as_millis`.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Slice {
    /// The slice of this number comes first, then an unused one, then the oldest.
    fn distance(&self, number: u32) -> (bool, Option<u32>) {
        (self.number != Some(number), self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten_slice_by_slice() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = Window::new(2, Duration::from_mins(1), start);
        let counts = |window: &Window, second| {
            let mut tally = Tally::default();
            window.add_to(&mut tally, at(second));
            (tally.rows, tally.counts)
        };
        window.counts(at(1), 1)[0] += 1;
        window.counts(at(12), 1)[1] += 1;
        window.counts(at(13), 1)[1] += 1;
        assert_eq!(counts(&window, 13), (3, vec![1, 2]));
        assert_eq!(counts(&window, 59), (3, vec![1, 2]));
        assert_eq!(counts(&window, 60), (2, vec![0, 2]));
        assert_eq!(counts(&window, 70), (0, vec![]));
        window.counts(at(300), 7)[0] += 7;
        assert_eq!(counts(&window, 300), (7, vec![7, 0]));
        let mut all = Tally::default();
        window.add_all_to(&mut all);
        let seen = (all.rows, all.requests, all.counts);
        assert_eq!(seen, (10, 4, vec![8, 2]), "what is forgotten is still counted since the start");
    }

    proptest! {
        /// Checked against a memory of its own: the time of every row.
        #[test]
        fn it_holds_the_last_window_to_within_a_slice(steps in prop::collection::vec(0_u64..40, 1..60)) {
            let start = Instant::now();
            let mut window = Window::new(1, Duration::from_mins(1), start);
            let mut times = vec![];
            let mut second = 0;
            for step in steps {
                second += step;
                times.push(second);
                window.counts(start + Duration::from_secs(second), 1)[0] += 1;
                let mut tally = Tally::default();
                window.add_to(&mut tally, start + Duration::from_secs(second));
                let oldest = (second / 10).saturating_sub(5) * 10;
                let wanted = times.iter().filter(|time| **time >= oldest).count();
                prop_assert_eq!(tally.rows, u64::try_from(wanted).unwrap());
            }
        }
    }
}
