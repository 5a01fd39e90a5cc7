//! The bet on labels is fair under everything that is tolerated, and never gives up.

use pointsman_rollout::stats::{Labels, Tolerated, label_evidence};

/// Bets on these labels, in nats.
fn bet(weight: f64, ratio: f64, tolerated: Tolerated, counts: [f64; 4]) -> f64 {
    let [canary_requests, canary_bad, stable_requests, stable_bad] = counts;
    label_evidence(&Labels { weight, canary_requests, canary_bad, stable_requests, stable_bad }, ratio, tolerated)
}

/// Calls `look` with many weights, ratios bet on, and tolerances that are below them.
fn everywhere(look: impl Fn(f64, f64, Tolerated)) {
    for weight in [0.001, 0.01, 0.05, 0.25, 0.5, 0.9, 0.999] {
        for ratio in [1.5, 12.0, 100.0, 1e3, 1e4] {
            for difference in [0.0, 1e-4, 0.002, 0.02, 0.2] {
                for tolerated in [1.0, 1.1, 2.0].into_iter().filter(|tolerated| ratio >= 1.15 * tolerated) {
                    look(weight, ratio, Tolerated { ratio: tolerated, difference });
                }
            }
        }
    }
}

/// One request: the canary's with the chance `weight`, bad with the chance of its version. What the bet holds afterwards is
/// 1 on average where the canary is as bad as is tolerated, and less where it is better.
#[test]
fn what_is_tolerated_wins_nothing_on_average() {
    everywhere(|weight, ratio, tolerated| {
        for stable in [0.0, 1e-4, 0.01, 0.3] {
            let at_most = (tolerated.ratio * stable + tolerated.difference).min(1.0);
            for canary in [0.0, 0.5 * at_most, at_most] {
                let worth = |counts| bet(weight, ratio, tolerated, counts).exp();
                let mean = weight * canary * worth([1.0, 1.0, 0.0, 0.0])
                    + weight * (1.0 - canary) * worth([1.0, 0.0, 0.0, 0.0])
                    + (1.0 - weight) * stable * worth([0.0, 0.0, 1.0, 1.0])
                    + (1.0 - weight) * (1.0 - stable) * worth([0.0, 0.0, 1.0, 0.0]);
                assert!(
                    mean <= 1.0 + 1e-12,
                    "{mean}: weight {weight}, bet on {ratio}, {tolerated:?}, {canary} beside {stable}"
                );
            }
        }
    });
}

#[test]
fn a_bad_answer_of_the_canary_always_wins_something_and_one_of_stable_never_loses_all() {
    everywhere(|weight, ratio, tolerated| {
        let context = format!("weight {weight}, bet on {ratio}, {tolerated:?}");
        assert!(bet(weight, ratio, tolerated, [1.0, 1.0, 0.0, 0.0]) > 0.0, "{context}");
        let lost = bet(weight, ratio, tolerated, [0.0, 0.0, 1.0, 1.0]);
        assert!(lost.is_finite() && lost < 0.0, "{lost}: {context}");
    });
}
