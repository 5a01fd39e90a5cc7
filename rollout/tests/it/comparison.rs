//! What the comparison of one route says in the situations that canaries get into.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman_config::{ErrorKind, Guard, Share};
use pointsman_rollout::{Comparison, Regression, Row, Summary, Tally, Verdict, Waiting};

use crate::traffic::{Chance, Health, Traffic, failing};

/// Plays `seconds` of `traffic`; gives every verdict.
fn play(comparison: &mut Comparison, traffic: &Traffic, seconds: u32, chance: &mut Chance) -> Vec<Verdict> {
    (0..10 * seconds).map(|_| comparison.tick(&[traffic.tick(chance)])).collect()
}

/// A comparison with ten minutes of history at this health of stable.
fn with_history(stable: Health, chance: &mut Chance) -> Comparison {
    let mut comparison = Comparison::new(&Guard::default());
    let traffic = Traffic::new(1000.0, "0%", failing(0.0), stable);
    for _ in 0..6_000 {
        comparison.baseline(traffic.stable.tick(chance));
    }
    comparison.restart();
    comparison
}

fn is_rollback(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Rollback(_))
}

#[test]
fn a_common_outage_neither_promotes_nor_takes_back() {
    for outage in [0.3, 0.5, 1.0] {
        for seed in 0..10 {
            let mut chance = Chance::of_seed(seed);
            let mut comparison = with_history(failing(0.001), &mut chance);
            let healthy = Traffic::new(1000.0, "5%", failing(0.001), failing(0.001));
            let down = Traffic::new(1000.0, "5%", failing(outage), failing(outage));
            play(&mut comparison, &healthy, 290, &mut chance);
            let during = play(&mut comparison, &down, 60, &mut chance);
            assert!(!during.iter().copied().any(is_rollback), "taken back in an outage of both, {outage}, seed {seed}");
            let held = &during[20..];
            assert!(held.iter().all(|v| *v == Verdict::Continue(Waiting::CommonCauseHold)), "{outage}, seed {seed}");
            let after = play(&mut comparison, &healthy, 120, &mut chance);
            assert!(!after.iter().copied().any(is_rollback), "taken back after the outage, {outage}, seed {seed}");
        }
    }
}

#[test]
fn a_canary_that_does_not_recover_from_the_common_outage_is_found() {
    let mut chance = Chance::of_seed(3);
    let mut comparison = with_history(failing(0.001), &mut chance);
    play(&mut comparison, &Traffic::new(1000.0, "5%", failing(0.5), failing(0.5)), 30, &mut chance);
    let verdicts = play(&mut comparison, &Traffic::new(1000.0, "5%", failing(0.5), failing(0.001)), 30, &mut chance);
    let at = verdicts.iter().copied().position(is_rollback).expect("never taken back");
    assert!(at <= 100, "only after {at} ticks");
}

#[test]
fn no_data_is_no_verdict() {
    let mut comparison = Comparison::new(&Guard::default());
    for _ in 0..35_999 {
        assert_eq!(comparison.tick(&[]), Verdict::Continue(Waiting::NoCanaryTraffic));
    }
    assert_eq!(comparison.tick(&[]), Verdict::Inconclusive, "an hour is up");
    let summary = comparison.summary();
    assert_eq!((summary.forecast, summary.error_rate_difference, summary.canary_error_rate), (None, None, None));
}

#[test]
fn a_canary_that_loses_its_traffic_is_neither_promoted_nor_taken_back() {
    let mut chance = Chance::of_seed(4);
    let mut comparison = with_history(failing(0.001), &mut chance);
    play(&mut comparison, &Traffic::new(1000.0, "5%", failing(0.001), failing(0.001)), 30, &mut chance);
    assert!((0..3_000).all(|_| comparison.tick(&[]) == Verdict::Continue(Waiting::Collecting)));
    assert_eq!(comparison.summary().forecast, None, "without traffic nothing can be foretold");
}

#[test]
fn one_error_of_a_small_sample_takes_nothing_back() {
    let row = |errors| Row {
        weight: "5%".parse().unwrap(),
        canary: Tally { requests: 1, errors, slow: 0 },
        stable: Tally { requests: 19, errors: 0, slow: 0 },
    };
    let mut comparison = Comparison::new(&Guard::default());
    let verdicts: Vec<_> = (0..600).map(|tick| comparison.tick(&[row(u64::from(tick == 5))])).collect();
    assert!(!verdicts.iter().copied().any(is_rollback));
}

#[test]
fn a_canary_better_than_stable_is_promoted_after_the_soak() {
    let mut chance = Chance::of_seed(5);
    let mut comparison = with_history(failing(0.02), &mut chance);
    let verdicts = play(&mut comparison, &Traffic::new(1000.0, "5%", failing(0.001), failing(0.02)), 400, &mut chance);
    let at = verdicts.iter().position(|v| *v == Verdict::Promote).expect("never promoted");
    assert!((2_999..3_200).contains(&at), "promoted at tick {at}");
    assert!(!verdicts.iter().copied().any(is_rollback));
    let difference = comparison.summary().error_rate_difference.unwrap();
    assert!(difference.high < 0.0, "the interval says it is better: {difference:?}");
}

#[test]
fn beside_an_errorless_stable_a_canary_within_tolerance_is_promoted() {
    for canary in [0.0, 0.0001] {
        let mut chance = Chance::of_seed(6);
        let mut comparison = with_history(failing(0.0), &mut chance);
        let verdicts =
            play(&mut comparison, &Traffic::new(1000.0, "5%", failing(canary), failing(0.0)), 900, &mut chance);
        assert!(!verdicts.iter().copied().any(is_rollback), "{canary}");
        assert!(verdicts.contains(&Verdict::Promote), "{canary}");
    }
}

#[test]
fn a_slow_canary_is_taken_back_for_latency_but_not_in_its_first_half_minute() {
    for seed in 0..10 {
        let stable = Health { error_rate: 0.001, slow_rate: 0.01 };
        let mut chance = Chance::of_seed(seed);
        let mut comparison = with_history(stable, &mut chance);
        let slow = Traffic::new(1000.0, "5%", Health { slow_rate: 0.3, ..stable }, stable);
        let cold = play(&mut comparison, &slow, 30, &mut chance);
        assert!(cold.iter().all(|v| *v == Verdict::Continue(Waiting::Collecting)), "judged while cold");
        let warm = play(&mut comparison, &slow, 10, &mut chance);
        let at = warm.iter().copied().position(is_rollback).expect("never taken back");
        assert_eq!(warm[at], Verdict::Rollback(Regression::LatencyRegression));
    }
}

/// Beside a stable that is never slow, and under a tolerance in points that is wide: the worse a canary is, the sooner it
/// is taken back.
#[test]
fn nothing_is_so_bad_that_it_is_not_found() {
    for (weight, share) in [("5%", 0.05), ("50%", 0.05), ("5%", 0.2), ("50%", 0.2), ("5%", 0.65), ("50%", 0.95)] {
        for seed in 0..10 {
            let mut chance = Chance::of_seed(seed);
            let mut comparison = with_history(failing(0.0), &mut chance);
            let slow = Health { error_rate: 0.0, slow_rate: share };
            let verdicts = play(&mut comparison, &Traffic::new(600.0, weight, slow, failing(0.0)), 40, &mut chance);
            let found = verdicts.last() == Some(&Verdict::Rollback(Regression::LatencyRegression));
            assert!(found, "slow {share} at {weight}, seed {seed}: {:?}", comparison.summary().evidence.latency);
        }
    }
}

#[test]
fn nor_by_errors_where_much_is_tolerated() {
    let mut guard = Guard::default();
    guard.tolerance.difference = 0.02;
    for (weight, share) in [("50%", 0.08), ("5%", 0.18), ("50%", 0.18)] {
        for seed in 0..10 {
            let mut chance = Chance::of_seed(seed);
            let mut comparison = Comparison::new(&guard);
            let bad = Traffic::new(600.0, weight, failing(share), failing(0.0));
            for _ in 0..6_000 {
                comparison.baseline(bad.stable.tick(&mut chance));
            }
            let verdicts = play(&mut comparison, &bad, 15, &mut chance);
            let found = verdicts.last() == Some(&Verdict::Rollback(Regression::ErrorRegression));
            assert!(found, "fails {share} at {weight}, seed {seed}: {:?}", comparison.summary().evidence.slow);
        }
    }
}

#[test]
fn a_common_slowdown_takes_nothing_back() {
    let healthy = Health { error_rate: 0.001, slow_rate: 0.005 };
    let slow = Health { slow_rate: 0.6, ..healthy };
    for seed in 0..10 {
        let mut chance = Chance::of_seed(seed);
        let mut comparison = with_history(healthy, &mut chance);
        play(&mut comparison, &Traffic::new(1000.0, "5%", healthy, healthy), 60, &mut chance);
        let verdicts = play(&mut comparison, &Traffic::new(1000.0, "5%", slow, slow), 120, &mut chance);
        assert!(!verdicts.iter().copied().any(is_rollback), "seed {seed}");
    }
}

#[test]
fn a_weight_ramp_under_a_drifting_stable_is_no_regression() {
    for seed in 0..10 {
        let mut chance = Chance::of_seed(seed);
        let mut comparison = with_history(failing(0.001), &mut chance);
        for (weight, rate) in [("1%", 0.001), ("5%", 0.004), ("25%", 0.01), ("50%", 0.02)] {
            let verdicts =
                play(&mut comparison, &Traffic::new(1000.0, weight, failing(rate), failing(rate)), 60, &mut chance);
            assert!(!verdicts.iter().copied().any(is_rollback), "at {weight}, seed {seed}");
        }
        let Summary { error_rate_difference, canary_error_rate, stable_error_rate, .. } = comparison.summary();
        let difference = error_rate_difference.unwrap();
        assert!(canary_error_rate.unwrap() > 1.5 * stable_error_rate.unwrap(), "pooled rates would blame the canary");
        assert!(difference.low < 0.0 && difference.high > 0.0 && difference.estimate.abs() < 0.003, "{difference:?}");
    }
}

#[test]
fn rows_of_weight_nothing_or_all_only_tell_about_stable() {
    let bad = Tally { requests: 100, errors: 100, slow: 100 };
    let good = Tally { requests: 100, errors: 0, slow: 0 };
    let mut comparison = Comparison::new(&Guard::default());
    for _ in 0..1_200 {
        let verdict = comparison.tick(&[
            Row { weight: Share::ZERO, canary: bad, stable: good },
            Row { weight: Share::WHOLE, canary: bad, stable: good },
        ]);
        assert_eq!(verdict, Verdict::Continue(Waiting::NoCanaryTraffic));
    }
    let limit = comparison.bake_limit(&Guard::default());
    assert!(limit < 0.010_02, "stable's errorless history is known: {limit}");
}

#[test]
fn a_rollback_stays_until_a_new_canary() {
    let mut chance = Chance::of_seed(8);
    let mut comparison = with_history(failing(0.001), &mut chance);
    play(&mut comparison, &Traffic::new(1000.0, "5%", failing(1.0), failing(0.001)), 10, &mut chance);
    let taken = comparison.verdict();
    assert_eq!(taken, Verdict::Rollback(Regression::Catastrophic));
    let decided_at = comparison.summary().elapsed_seconds;
    let healthy = Traffic::new(1000.0, "5%", failing(0.001), failing(0.001));
    assert!(play(&mut comparison, &healthy, 60, &mut chance).iter().all(|v| *v == taken));
    assert_eq!(comparison.summary().elapsed_seconds.total_cmp(&decided_at), std::cmp::Ordering::Equal);
    comparison.restart();
    assert_eq!(comparison.verdict(), Verdict::Continue(Waiting::NoCanaryTraffic));
    assert_eq!(comparison.summary().canary, Tally::default());
    assert!(!play(&mut comparison, &healthy, 60, &mut chance).iter().copied().any(is_rollback));
}

#[test]
fn an_edited_guard_keeps_the_evidence_unless_it_changes_what_is_counted() {
    let mut chance = Chance::of_seed(9);
    let mut comparison = with_history(failing(0.001), &mut chance);
    play(&mut comparison, &Traffic::new(1000.0, "5%", failing(0.001), failing(0.001)), 60, &mut chance);
    let before = comparison.summary();
    let mut guard = Guard { false_rollback_budget: 0.1, ..Guard::default() };
    comparison.regauge(&guard);
    let after = comparison.summary();
    assert_eq!(before.evidence.slow.log_e, after.evidence.slow.log_e);
    assert_eq!((before.canary, before.error_rate_difference), (after.canary, after.error_rate_difference));
    assert!(after.evidence.slow.limit < before.evidence.slow.limit);
    guard.latency_threshold = Duration::from_millis(100);
    comparison.regauge(&guard);
    let after = comparison.summary();
    assert_eq!(before.evidence.slow.log_e, after.evidence.slow.log_e, "errors are what they were");
    assert_eq!(after.evidence.latency.log_e, None, "slow is something else now");
    guard.count_as_error = BTreeSet::from([ErrorKind::Timeout]);
    comparison.regauge(&guard);
    assert_eq!(comparison.summary().evidence.slow.log_e, None, "errors are something else now");
}

#[test]
fn a_new_baseline_keeps_a_tenth_of_the_rate_and_the_burst_size() {
    let mut chance = Chance::of_seed(10);
    let mut comparison = with_history(failing(0.01), &mut chance);
    let guard = Guard { max_error_rate: 1.0, ..Guard::default() };
    let before = comparison.bake_limit(&guard);
    comparison.new_baseline();
    let after = comparison.bake_limit(&guard);
    assert!((before - 0.06).abs() < 0.005, "five times 1 % and 1 %: {before}");
    assert!(after < before && after > 0.5 * before, "the old rate counts for less: {before} to {after}");
    let calm = Traffic::new(1000.0, "0%", failing(0.0), failing(0.0));
    for _ in 0..3_000 {
        comparison.baseline(calm.stable.tick(&mut chance));
    }
    assert!(comparison.bake_limit(&guard) < 0.02, "and is soon forgotten");
}

#[test]
fn the_forecast_comes_true() {
    let mut chance = Chance::of_seed(11);
    let healthy = failing(0.001);
    let mut comparison = with_history(healthy, &mut chance);
    let traffic = Traffic::new(200.0, "5%", healthy, healthy);
    play(&mut comparison, &traffic, 100, &mut chance);
    let early = comparison.summary();
    let forecast = early.forecast.expect("there is traffic, and evidence grows");
    let rest = play(&mut comparison, &traffic, 3_000, &mut chance);
    let at = rest.iter().position(|v| *v == Verdict::Promote).expect("never promoted");
    let seconds = f64::from(u32::try_from(at).unwrap()) / 10.0;
    assert!(forecast.seconds > 0.4 * seconds && forecast.seconds < 2.5 * seconds, "{forecast:?}, really {seconds} s");
}

#[test]
fn no_forecast_for_a_canary_that_will_never_be_promoted() {
    let mut chance = Chance::of_seed(12);
    let mut comparison = with_history(failing(0.02), &mut chance);
    // Neither within 1.5 times stable's rate nor within 0.1 points of it.
    play(&mut comparison, &Traffic::new(200.0, "50%", failing(0.035), failing(0.02)), 20, &mut chance);
    assert_eq!(comparison.summary().forecast, None);
}

#[test]
fn a_summary_is_valid_json_at_every_moment_and_reads_back() {
    let mut chance = Chance::of_seed(13);
    let mut comparison = Comparison::new(&Guard::default());
    let bad = Traffic::new(1000.0, "5%", failing(0.5), failing(0.001));
    for _ in 0..60 {
        let summary = comparison.summary();
        let text = serde_json::to_string(&summary).unwrap();
        let back: Summary = serde_json::from_str(&text).unwrap();
        assert_eq!((back.verdict, back.canary, back.stable), (summary.verdict, summary.canary, summary.stable));
        assert_eq!(back.evidence.slow.log_e.is_some(), summary.evidence.slow.log_e.is_some());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["verdict"], summary.verdict.as_str());
        assert_eq!(value["reason"], summary.verdict.reason());
        comparison.tick(&[bad.tick(&mut chance)]);
    }
    assert!(comparison.summary().evidence.slow.is_proven());
}

#[test]
fn every_verdict_reads_back_and_others_do_not() {
    for verdict in Verdict::ALL {
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict, "{text}");
    }
    assert!(serde_json::from_str::<Verdict>(r#"{"verdict":"promote","reason":"suspect"}"#).is_err());
}
