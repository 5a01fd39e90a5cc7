//! How far a download is, for people: a line in the log for every tenth and at least every ten seconds, and where
//! stderr is a terminal a bar.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tracing::info;

/// How often the log speaks at least.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the bar is drawn at most.
const FRAME: Duration = Duration::from_millis(100);

/// How many signs the bar has.
const BAR: u64 = 30;

/// What there is to be said.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Report {
    percent: u64,
    megabytes_per_second: f64,
}

/// When to say it; time is an argument.
#[derive(Debug)]
struct Pace {
    total: u64,
    first: u64,
    begun: Instant,
    said: Instant,
    tenth: u64,
}

impl Pace {
    /// `first` bytes were there before.
    fn new(total: u64, first: u64, now: Instant) -> Self {
        Self { total, first, begun: now, said: now, tenth: 10 * first / total.max(1) }
    }

    fn report(&self, done: u64, now: Instant) -> Report {
        let seconds = now.duration_since(self.begun).as_secs_f64().max(1e-3);
        let bytes = u32::try_from((done - self.first) / 1024).unwrap_or(u32::MAX);
        let megabytes = f64::from(bytes) * 1024.0 / 1e6;
        Report { percent: 100 * done / self.total.max(1), megabytes_per_second: megabytes / seconds }
    }

    /// A report when the log should have one.
    fn due(&mut self, done: u64, now: Instant) -> Option<Report> {
        let tenth = 10 * done / self.total.max(1);
        if tenth == self.tenth && now.duration_since(self.said) < PATIENCE {
            return None;
        }
        (self.tenth, self.said) = (tenth, now);
        Some(self.report(done, now))
    }
}

/// One download, as it is shown.
pub(super) struct Progress<'n> {
    name: &'n str,
    pace: Pace,
    done: u64,
    /// When the bar was drawn last; nothing where there is no terminal.
    drawn: Option<Instant>,
}

impl<'n> Progress<'n> {
    pub(super) fn begin(name: &'n str, total: u64, first: u64) -> Self {
        let now = Instant::now();
        let drawn = io::stderr().is_terminal().then_some(now);
        Self { name, pace: Pace::new(total, first, now), done: first, drawn }
    }

    /// So many bytes more.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let now = Instant::now();
        match self.drawn {
            Some(drawn) if now.duration_since(drawn) >= FRAME || self.done == self.pace.total => {
                self.drawn = Some(now);
                self.draw(self.pace.report(self.done, now));
            }
            Some(_) => {}
            None => {
                if let Some(Report { percent, megabytes_per_second }) = self.pace.due(self.done, now) {
                    let speed = format!("{megabytes_per_second:.1} MB/s");
                    info!(file = self.name, percent, speed, "fetching");
                }
            }
        }
    }

    /// A bar that nobody sees is no reason to end.
    fn draw(&self, Report { percent, megabytes_per_second }: Report) {
        let full = usize::try_from((percent * BAR / 100).min(BAR)).unwrap_or_default();
        let empty = usize::try_from(BAR).unwrap_or_default() - full;
        let end = if self.done == self.pace.total { "\n" } else { "" };
        let (full, empty) = ("#".repeat(full), " ".repeat(empty));
        let line = format!("\r{} [{full}{empty}] {percent:>3}% {megabytes_per_second:.1} MB/s{end}", self.name);
        io::stderr().write_all(line.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_is_said_once_and_silence_ends_after_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(100_000_000, 0, start);
        assert_eq!(pace.due(5_000_000, at(1)), None);
        let report = pace.due(10_240_000, at(2)).unwrap();
        assert_eq!(report.percent, 10);
        assert!((report.megabytes_per_second - 5.12).abs() < 1e-9);
        assert_eq!(pace.due(11_000_000, at(11)), None);
        assert_eq!(pace.due(11_000_000, at(12)).map(|report| report.percent), Some(11));
        assert_eq!(pace.due(100_000_000, at(13)).map(|report| report.percent), Some(100));
    }

    #[test]
    fn what_was_there_before_is_not_counted_as_speed() {
        let start = Instant::now();
        let pace = Pace::new(4_096_000, 2_048_000, start);
        let report = pace.report(4_096_000, start + Duration::from_secs(2));
        assert!((report.megabytes_per_second - 1.024).abs() < 1e-9);
        assert_eq!(report.percent, 100);
    }
}
