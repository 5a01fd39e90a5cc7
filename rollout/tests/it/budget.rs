//! A good canary is not taken back more often than the budget says, and a bad one is found as fast as promised.

use std::sync::atomic::{AtomicU64, Ordering};

use pointsman_config::Guard;
use pointsman_rollout::{Comparison, Regression, Row, Tally, Verdict};

use crate::traffic::{Chance, Health, Traffic, failing};

/// Ticks of a simulated hour.
const HOUR: u32 = 36_000;
/// Ticks of stable alone before a canary: five minutes, and half an hour where bursts are to be learnt.
const HISTORY: u32 = 3_000;
const LONG_HISTORY: u32 = 18_000;

/// Counts the seeds that `story` says yes to, on all cores.
pub(crate) fn count(seeds: u64, story: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < seeds) {
                    hits.fetch_add(u64::from(story(seed)), Ordering::Relaxed);
                }
            });
        }
    });
    hits.into_inner()
}

/// The largest count that is still credible (at 1 %) if the chance per seed is `rate`: more refutes the budget.
pub(crate) fn binomial_limit(seeds: u64, rate: f64) -> u64 {
    let n = f64::from(u32::try_from(seeds).unwrap());
    let mut probability = (1.0 - rate).powf(n);
    let (mut below, mut k) = (probability, 0_u32);
    while below < 0.99 {
        probability *= (n - f64::from(k)) / f64::from(k + 1) * rate / (1.0 - rate);
        below += probability;
        k += 1;
    }
    u64::from(k)
}

/// Whether a canary is taken back within an hour after `history` ticks; `row` gives each tick's counts.
fn taken_back(guard: &Guard, history: u32, mut row: impl FnMut(u32) -> Row) -> bool {
    let mut comparison = Comparison::new(guard);
    for tick in 0..history {
        comparison.baseline(row(tick).stable);
    }
    comparison.restart();
    (0..HOUR).any(|tick| matches!(comparison.tick(&[row(tick)]), Verdict::Rollback(_)))
}

#[test]
fn a_healthy_canary_is_taken_back_no_more_often_than_the_budget_allows() {
    let (seeds, guard) = (2_000, Guard::default());
    let healthy = Health { error_rate: 0.001, slow_rate: 0.005 };
    let traffic = Traffic::new(1000.0, "5%", healthy, healthy);
    let back = count(seeds, |seed| {
        let mut chance = Chance::of_seed(seed);
        taken_back(&guard, HISTORY, |_| traffic.tick(&mut chance))
    });
    let limit = binomial_limit(seeds, guard.false_rollback_budget);
    println!("{back} of {seeds} healthy canary-hours taken back; more than {limit} would refute the budget");
    assert!(back <= limit, "{back} of {seeds} taken back, limit {limit}");
}

/// One second in 200 of each version by itself, a fifth of its requests fails; 0.1 % on the whole. Stable's history
/// shows such bursts: the guard against them learns from it.
#[test]
fn nor_when_its_errors_come_in_bursts_of_its_own() {
    let (seeds, guard) = (500, Guard::default());
    let (calm, burst) = (failing(0.0), failing(0.2));
    let combinations =
        [(calm, calm), (calm, burst), (burst, calm), (burst, burst)].map(|(c, s)| Traffic::new(1000.0, "5%", c, s));
    let back = count(seeds, |seed| {
        let mut chance = Chance::of_seed(1_000_000 + seed);
        let mut now = 0;
        taken_back(&guard, LONG_HISTORY, |tick| {
            if tick.is_multiple_of(10) {
                now = 2 * usize::from(chance.hits(0.005)) + usize::from(chance.hits(0.005));
            }
            combinations[now].tick(&mut chance)
        })
    });
    let limit = binomial_limit(seeds, guard.false_rollback_budget);
    println!("{back} of {seeds} bursty canary-hours taken back; more than {limit} would refute the budget");
    assert!(back <= limit, "{back} of {seeds} taken back, limit {limit}");
}

/// Of this version's requests of a tick, half of a hundred fail, and then all of them at once, up to twenty.
fn failing_in_rows(requests: u64, chance: &mut Chance) -> Tally {
    let row = requests.clamp(1, 20);
    let rows = (0..requests).filter(|_| chance.hits(0.005 / f64::from(u32::try_from(row).unwrap()))).count();
    let errors = (row * u64::try_from(rows).unwrap()).min(requests);
    Tally { requests, errors, slow: 0 }
}

/// At a small weight a row of the canary's is short, and a slice with one of its errors is as little a proof as one with
/// many: stable's come twenty at once and seldom.
#[test]
fn nor_when_rows_of_requests_fail_and_the_canary_gets_few() {
    let (seeds, guard) = (3_000, Guard::default());
    let healthy = Traffic::new(200.0, "5%", failing(0.0), failing(0.0));
    let back = count(seeds, |seed| {
        let mut chance = Chance::of_seed(4_000_000 + seed);
        let mut comparison = Comparison::new(&guard);
        let row = |chance: &mut Chance| {
            let Row { weight, canary, stable } = healthy.tick(chance);
            let canary = failing_in_rows(canary.requests, chance);
            Row { weight, canary, stable: failing_in_rows(stable.requests, chance) }
        };
        for _ in 0..2 * HISTORY {
            comparison.baseline(row(&mut chance).stable);
        }
        comparison.restart();
        (0..2 * HISTORY).any(|_| matches!(comparison.tick(&[row(&mut chance)]), Verdict::Rollback(_)))
    });
    let limit = binomial_limit(seeds, guard.false_rollback_budget);
    println!("{back} of {seeds} canaries with rows of errors taken back; more than {limit} would refute the budget");
    assert!(back <= limit, "{back} of {seeds} taken back, limit {limit}");
}

/// With a budget of one in three the limits are within reach of chance: this shows that the counting above counts.
#[test]
fn a_large_budget_is_partly_spent_and_not_overspent() {
    let (seeds, guard) = (150, Guard { false_rollback_budget: 0.32, ..Guard::default() });
    let at_the_edge = Health { error_rate: 0.011, slow_rate: 0.005 };
    let traffic = Traffic::new(1000.0, "5%", at_the_edge, Health { error_rate: 0.01, slow_rate: 0.005 });
    let back = count(seeds, |seed| {
        let mut chance = Chance::of_seed(2_000_000 + seed);
        taken_back(&guard, HISTORY, |_| traffic.tick(&mut chance))
    });
    let limit = binomial_limit(seeds, 1.25 * guard.false_rollback_budget);
    println!(
        "{back} of {seeds} canary-hours at the edge of tolerance taken back under a budget of 40 %; limit {limit}"
    );
    assert!((1..=limit).contains(&back), "{back} of {seeds} taken back, limit {limit}");
}

/// One line of "What to expect".
struct Expected {
    requests_per_s: f64,
    weight: &'static str,
    stable: f64,
    canary: f64,
    healthy_s: u32,
    /// What the analysis' table says.
    seconds: f64,
}

/// Seconds from the onset to the rollback.
fn seconds_to_rollback(line: &Expected, seed: u64) -> f64 {
    let mut chance = Chance::of_seed(3_000_000 + seed);
    let before = Traffic::new(line.requests_per_s, line.weight, failing(line.stable), failing(line.stable));
    let after = Traffic::new(line.requests_per_s, line.weight, failing(line.canary), failing(line.stable));
    let mut comparison = Comparison::new(&Guard::default());
    for _ in 0..10 * line.healthy_s {
        let verdict = comparison.tick(&[before.tick(&mut chance)]);
        assert!(!matches!(verdict, Verdict::Rollback(_)), "taken back while healthy");
    }
    for tick in 1..HOUR {
        if let Verdict::Rollback(regression) = comparison.tick(&[after.tick(&mut chance)]) {
            assert!(matches!(regression, Regression::Catastrophic | Regression::ErrorRegression));
            return f64::from(tick) / 10.0;
        }
    }
    f64::INFINITY
}

/// The median of 15 seeds within 1.5 times the table's figure and a slice, the slowest within three times it and two.
/// Gives the figures in words.
fn check_detection(line: &Expected) -> String {
    let mut seconds: Vec<f64> = (0..15).map(|seed| seconds_to_rollback(line, seed)).collect();
    seconds.sort_by(f64::total_cmp);
    let (fastest, median, slowest) = (seconds[0], seconds[7], seconds[14]);
    let Expected { requests_per_s, weight, stable, canary, .. } = line;
    assert!(median <= 1.5 * line.seconds + 1.0, "{median} s instead of {} s", line.seconds);
    assert!(slowest <= 3.0 * line.seconds + 2.0, "{slowest} s instead of {} s", line.seconds);
    let found = format!("{fastest} / {median} / {slowest} s, table {} s", line.seconds);
    format!("{requests_per_s}/s at {weight}, {stable} to {canary}: {found}")
}

#[test]
fn a_bad_canary_is_found_as_fast_as_promised() {
    let line = |requests_per_s, weight, (stable, canary), healthy_s, seconds| Expected {
        requests_per_s,
        weight,
        stable,
        canary,
        healthy_s,
        seconds,
    };
    let table = [
        line(20.0, "5%", (0.0, 1.0), 300, 4.0),
        line(1000.0, "5%", (0.0, 1.0), 15, 1.3),
        line(1000.0, "5%", (0.0, 0.5), 15, 3.0),
        line(1000.0, "5%", (0.0, 0.2), 15, 3.0),
        line(1000.0, "5%", (0.0, 0.05), 15, 4.0),
        line(200.0, "5%", (0.0, 0.5), 15, 2.6),
        line(3333.0, "5%", (0.0, 1.0), 1800, 1.1),
        line(3333.0, "50%", (0.01, 0.5), 300, 1.3),
        line(3333.0, "50%", (0.001, 0.2), 300, 4.0),
        line(3333.0, "50%", (0.001, 0.051), 300, 4.0),
        line(3333.0, "50%", (0.001, 0.006), 300, 8.0),
        line(3333.0, "50%", (0.001, 0.002), 300, 129.0),
        line(10_000.0, "50%", (0.01, 0.02), 300, 5.0),
    ];
    for expected in &table {
        println!("{}", check_detection(expected));
    }
}

/// What a tick, a slice and a summary cost: `cargo test -p pointsman-rollout -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement, not a promise"]
#[expect(clippy::disallowed_methods, reason = "measures the time that the core takes")]
fn cost() {
    let healthy = Health { error_rate: 0.001, slow_rate: 0.005 };
    let traffic = Traffic::new(1000.0, "5%", healthy, healthy);
    let mut chance = Chance::of_seed(7);
    let rows: Vec<Row> = (0..100_000).map(|_| traffic.tick(&mut chance)).collect();
    let mut comparison = Comparison::new(&Guard::default());
    let (mut ticks, mut slices) = (0.0, 0.0);
    for (i, row) in rows.iter().enumerate() {
        let start = std::time::Instant::now();
        comparison.tick(std::slice::from_ref(row));
        let spent = start.elapsed().as_secs_f64();
        *(if i % 10 == 9 { &mut slices } else { &mut ticks }) += spent;
    }
    let start = std::time::Instant::now();
    for _ in 0..200 {
        std::hint::black_box(comparison.summary());
    }
    let summary = start.elapsed().as_secs_f64() / 200.0;
    println!(
        "tick {:.0} ns, tick that ends a slice {:.0} ns, summary {:.0} us",
        ticks / 9e4 * 1e9,
        slices / 1e4 * 1e9,
        summary * 1e6
    );
}
