//! The absolute limit: rarely passed by chance, and quickly by a version that fails.

use pointsman_config::Guard;
use pointsman_rollout::{Absolute, Comparison, Tally};

use crate::traffic::{Chance, Traffic, failing};

/// Seconds until a version that fails `rate` from `onset_s` on passes `limit`; none within an hour.
fn seconds_to_alarm(limit: f64, alpha: f64, (before, after): (f64, f64), onset_s: u32, seed: u64) -> Option<f64> {
    let mut chance = Chance::of_seed(seed);
    let calm = Traffic::new(1000.0, "0%", failing(0.0), failing(before));
    let failing = Traffic::new(1000.0, "0%", failing(0.0), failing(after));
    let mut absolute = Absolute::new(limit, alpha);
    for _ in 0..10 * onset_s {
        assert!(!absolute.tick(calm.stable.tick(&mut chance)), "an alarm before anything failed");
    }
    (1_u32..36_000).find(|_| absolute.tick(failing.stable.tick(&mut chance))).map(|tick| f64::from(tick) / 10.0)
}

#[test]
fn a_rate_at_the_very_limit_passes_no_more_often_than_alpha() {
    let alarms = (0..100).filter(|&seed| seconds_to_alarm(0.01, 0.1, (0.0, 0.01), 0, seed).is_some()).count();
    // 100 hours at 10 %: more than 18 would refute it at 1 %.
    assert!(alarms <= 18, "{alarms} of 100");
}

#[test]
fn a_version_that_breaks_in_the_bake_is_found_in_seconds() {
    for seed in 0..20 {
        for (rate, slowest) in [(1.0, 6.0), (0.5, 6.0), (0.2, 6.0), (0.1, 8.0)] {
            let seconds = seconds_to_alarm(0.02, 0.0008, (0.001, rate), 300, seed).expect("never found");
            assert!(seconds <= slowest, "{rate}: {seconds} s");
            assert!(seconds >= 3.0, "{rate}: {seconds} s, one burst would have been enough");
        }
    }
}

#[test]
fn one_bad_second_passes_no_limit() {
    let second = |errors| Tally { requests: 100, errors, slow: 0 };
    let mut absolute = Absolute::new(0.05, 0.0008);
    let alarms =
        (0..6_000).filter(|tick| absolute.tick(second(if (300..310).contains(tick) { 100 } else { 0 }))).count();
    assert_eq!(alarms, 0);
}

#[test]
fn an_alarm_stays_and_no_traffic_gives_none() {
    let mut absolute = Absolute::new(0.05, 0.0008);
    assert!((0..36_000).all(|_| !absolute.tick(Tally::default())));
    let bad = Tally { requests: 100, errors: 90, slow: 0 };
    assert!((0..100).any(|_| absolute.tick(bad)));
    assert!(absolute.tick(Tally { requests: 100, errors: 0, slow: 0 }));
    assert!(absolute.log_evidence() < absolute.threshold() || absolute.tick(Tally::default()));
}

#[test]
fn odd_limits_make_no_alarm_by_themselves() {
    let healthy = Tally { requests: 100, errors: 0, slow: 0 };
    for limit in [0.0, 1e-9, 0.94, 0.95, 1.0] {
        let mut absolute = Absolute::new(limit, 0.0008);
        assert!((0..1_000).all(|_| !absolute.tick(healthy)), "{limit}");
    }
    let mut never = Absolute::new(1.0, 0.0008);
    assert!((0..1_000).all(|_| !never.tick(Tally { requests: 100, errors: 100, slow: 0 })));
}

#[test]
fn the_bake_limit_follows_history_up_to_the_guard() {
    let guard = Guard::default();
    let limit_after = |rate: f64| {
        let mut chance = Chance::of_seed(1);
        let mut comparison = Comparison::new(&guard);
        let traffic = Traffic::new(1000.0, "0%", failing(0.0), failing(rate));
        (0..6_000).for_each(|_| comparison.baseline(traffic.stable.tick(&mut chance)));
        comparison.bake_limit(&guard)
    };
    for (rate, limit) in [(0.0, 0.01), (0.002, 0.02), (0.02, 0.05)] {
        assert!((limit_after(rate) - limit).abs() < 0.002, "{rate}: {} instead of {limit}", limit_after(rate));
    }
}
