//! Whether a version answers copied requests as stable does: a gate for promotion.
//!
//! Comparisons of answers come in, of the version with stable and of stable with itself; out comes whether the version
//! disagrees more often than stable with itself and the gate on top. Neither that it does nor that it does not is taken
//! for granted: promotion waits until disagreement is excluded, and is blocked when it is proven.
//!
//! With `p` the share of comparisons that disagree, `q` the share of stable's own (noise) and `g` the gate, the evidence
//! against `p <= q + g` is the wealth of a bettor who learns `p` and `q` (a beta-binomial with Jeffreys' prior for each),
//! divided by the best that any `p` and `q` within the hypothesis could explain what was seen. That is at most a fair bet
//! for each of them, so it may be looked at after every tick (Robbins 1970; Wasserman, Ramdas and Balakrishnan 2020,
//! universal inference; Howard et al. 2021). The same against `p >= q + g`. It takes the two shares to be the same all the
//! while, which is enough to stop a rollout, and too little to take a version back: this gate never does.

use pointsman_config::{Guard, Mirror, Share, VersionId};
use serde::{Deserialize, Serialize};

use crate::judge::log_limit;
use crate::stats::ln_beta;
use crate::summary::Measure;
use crate::tally::{MirrorTally, to_f64};

/// Halvings of the interval in which the best noise share lies: to 1e-12.
const HALVINGS: u32 = 40;

/// Judges what copies of requests show.
#[derive(Debug, Clone)]
pub(crate) struct MirrorGate {
    version: VersionId,
    /// Disagreement above stable's own that is tolerated; none: it is only counted.
    gate: Option<f64>,
    /// Whether stable is compared with itself; if not, it is taken to agree.
    learns_noise: bool,
    limit: f64,
    counted: MirrorTally,
    log_e_disagrees: f64,
    log_e_agrees: f64,
    disagrees: bool,
}

/// What copies of requests showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorSummary {
    /// Who got the copies.
    pub version: VersionId,
    /// What was counted.
    pub tally: MirrorTally,
    /// The share of the comparisons that disagreed, as a ratio; none before the first.
    pub disagreement: Option<f64>,
    /// Stable's own, as a ratio; none where it was not compared with itself.
    pub noise: Option<f64>,
    /// Disagreement above stable's own that is tolerated, as a ratio; none: it is only counted.
    pub gate: Option<f64>,
    /// That the version disagrees more than that.
    pub disagrees: Measure,
    /// That it does not.
    pub agrees: Measure,
}

/// What the gate says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MirrorVerdict {
    /// Nothing is mirrored, or nothing is to be held for it.
    Open,
    /// It is not excluded yet that the version disagrees.
    Pending,
    /// The version disagrees.
    Disagrees,
}

impl MirrorGate {
    /// A gate that has seen nothing; it decides with the confidence of a promotion.
    pub(crate) fn new(mirror: &Mirror, guard: &Guard) -> Self {
        Self {
            version: mirror.version.clone(),
            gate: mirror.compare.gate,
            learns_noise: mirror.compare.noise > Share::ZERO,
            limit: log_limit(1.0 - guard.promotion.confidence),
            counted: MirrorTally::default(),
            log_e_disagrees: 0.0,
            log_e_agrees: 0.0,
            disagrees: false,
        }
    }

    /// Who gets the copies.
    pub(crate) fn version(&self) -> &VersionId {
        &self.version
    }

    /// Answers were compared.
    pub(crate) fn observe(&mut self, tally: MirrorTally) {
        if tally == MirrorTally::default() {
            return;
        }
        self.counted += tally;
        if let Some(gate) = self.gate {
            let seen = Streams::new(self.counted, self.learns_noise);
            let learnt = seen.log_learnt();
            self.log_e_disagrees = learnt - seen.log_best(|p, q| p <= q + gate, gate);
            self.log_e_agrees = learnt - seen.log_best(|p, q| p >= q + gate, gate);
        }
        self.disagrees |= self.log_e_disagrees >= self.limit;
    }

    /// What the gate says now. What is proven against a version stays so; that it agrees holds while it does.
    pub(crate) fn verdict(&self) -> MirrorVerdict {
        if self.gate.is_none() {
            MirrorVerdict::Open
        } else if self.disagrees {
            MirrorVerdict::Disagrees
        } else if self.log_e_agrees >= self.limit {
            MirrorVerdict::Open
        } else {
            MirrorVerdict::Pending
        }
    }

    /// What was seen; none before the first comparison.
    pub(crate) fn summary(&self) -> Option<MirrorSummary> {
        let tally = self.counted;
        let share = |part: u64, all: u64| (all > 0).then(|| to_f64(part) / to_f64(all));
        let measure = |log_e: f64| Measure::new(if self.gate.is_some() { log_e } else { f64::NAN }, self.limit);
        (tally.compared + tally.noise_compared > 0).then(|| MirrorSummary {
            version: self.version.clone(),
            tally,
            disagreement: share(tally.disagreed, tally.compared),
            noise: share(tally.noise_disagreed, tally.noise_compared),
            gate: self.gate,
            disagrees: measure(self.log_e_disagrees),
            agrees: measure(self.log_e_agrees),
        })
    }
}

/// Yes-or-no outcomes with one chance of yes.
#[derive(Debug, Clone, Copy)]
struct Stream {
    yes: f64,
    no: f64,
}

impl Stream {
    fn new(yes: u64, all: u64) -> Self {
        Self { yes: to_f64(yes), no: to_f64(all.saturating_sub(yes)) }
    }

    /// `ln P(seen)` for a bettor who learns the chance: `ln B(1/2 + yes, 1/2 + no) - ln B(1/2, 1/2)`.
    fn log_learnt(self) -> f64 {
        ln_beta(0.5 + self.yes, 0.5 + self.no) - ln_beta(0.5, 0.5)
    }

    /// `ln P(seen)` if the chance is `p`.
    fn log_likelihood(self, p: f64) -> f64 {
        times_ln(self.yes, p) + times_ln(self.no, 1.0 - p)
    }

    /// Its derivative by `p`, for a sign.
    fn slope(self, p: f64) -> f64 {
        let part = |count: f64, of: f64| if count > 0.0 { count / of } else { 0.0 };
        part(self.yes, p) - part(self.no, 1.0 - p)
    }

    /// The likeliest chance; `otherwise` if nothing was seen.
    fn likeliest(self, otherwise: f64) -> f64 {
        let all = self.yes + self.no;
        if all > 0.0 { self.yes / all } else { otherwise }
    }
}

/// `count ln p`, which is 0 for a count of 0.
fn times_ln(count: f64, p: f64) -> f64 {
    if count > 0.0 { count * p.ln() } else { 0.0 }
}

/// The comparisons of a version with stable, and of stable with itself.
#[derive(Debug, Clone, Copy)]
struct Streams {
    version: Stream,
    /// None where stable is taken to agree with itself.
    noise: Option<Stream>,
}

impl Streams {
    fn new(tally: MirrorTally, learns_noise: bool) -> Self {
        Self {
            version: Stream::new(tally.disagreed, tally.compared),
            noise: learns_noise.then(|| Stream::new(tally.noise_disagreed, tally.noise_compared)),
        }
    }

    fn log_learnt(&self) -> f64 {
        self.version.log_learnt() + self.noise.map_or(0.0, Stream::log_learnt)
    }

    /// The best `ln P(seen)` over all shares `p`, `q` with `allowed(p, q)`: at the likeliest ones if those are allowed, else
    /// on the border `p = q + gate`, where it is concave.
    fn log_best(&self, allowed: impl Fn(f64, f64) -> bool, gate: f64) -> f64 {
        let Some(noise) = self.noise else {
            let likeliest = self.version.likeliest(gate);
            return self.version.log_likelihood(if allowed(likeliest, 0.0) { likeliest } else { gate });
        };
        // Before stable was compared with itself its share may be any: that which suits the hypothesis best.
        let p = self.version.likeliest(gate);
        let unknown = if allowed(0.0, 1.0) { 1.0 - gate } else { 0.0 };
        let q = noise.likeliest(unknown);
        if allowed(p, q) {
            return self.version.log_likelihood(p) + noise.log_likelihood(q);
        }
        let q = self.best_on_border(noise, gate);
        self.version.log_likelihood(q + gate) + noise.log_likelihood(q)
    }

    fn best_on_border(&self, noise: Stream, gate: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0 - gate);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if self.version.slope(middle + gate) + noise.slope(middle) > 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        0.5 * (low + high)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn gate(noise_percent: u32) -> MirrorGate {
        let noise = Share::from_ppm(noise_percent * 10_000).unwrap();
        let compare = pointsman_config::Compare { noise, ..pointsman_config::Compare::default() };
        let mirror = Mirror {
            version: "v2".parse().unwrap(),
            share: Share::WHOLE,
            concurrent: 64,
            body_bytes: 1 << 18,
            timeout: std::time::Duration::from_secs(5),
            compare,
        };
        MirrorGate::new(&mirror, &Guard::default())
    }

    fn tally([compared, disagreed, noise_compared, noise_disagreed]: [u64; 4]) -> MirrorTally {
        MirrorTally { compared, disagreed, noise_compared, noise_disagreed }
    }

    /// Plays ticks of 20 copies and 2 of noise with these chances; the first verdict that decides, and at which copy.
    fn play(seed: u64, version: f64, noise: f64, ticks: u64) -> Option<(MirrorVerdict, u64)> {
        let (mut gate, mut chance) = (gate(10), StdRng::seed_from_u64(seed));
        let mut yes = |count: u64, p: f64| (0..count).map(|_| u64::from(chance.random_bool(p))).sum::<u64>();
        (1..=ticks).find_map(|tick| {
            let (disagreed, noise_disagreed) = (yes(20, version), yes(2, noise));
            gate.observe(tally([20, disagreed, 2, noise_disagreed]));
            Some((gate.verdict(), 20 * tick)).filter(|(verdict, _)| *verdict != MirrorVerdict::Pending)
        })
    }

    fn count(verdict: MirrorVerdict, version: f64, noise: f64) -> usize {
        (0..300).filter(|seed| play(*seed, version, noise, 500).is_some_and(|(found, _)| found == verdict)).count()
    }

    #[test]
    fn at_the_border_neither_is_said_more_often_than_one_time_in_a_hundred() {
        for (version, noise) in [(0.01, 0.0), (0.03, 0.02), (0.21, 0.2)] {
            for verdict in [MirrorVerdict::Open, MirrorVerdict::Disagrees] {
                let wrong = count(verdict, version, noise);
                assert!(wrong <= 9, "{verdict:?} at {version} above {noise}: {wrong} of 300");
            }
        }
    }

    #[test]
    fn a_version_that_answers_alike_is_let_through_and_another_one_is_not() {
        let (verdict, copies) = play(1, 0.0, 0.0, 500).unwrap();
        assert!(verdict == MirrorVerdict::Open && copies <= 2_000, "{verdict:?} after {copies}");
        for (version, noise) in [(0.05, 0.0), (0.3, 0.2), (1.0, 0.0)] {
            let (verdict, copies) = play(2, version, noise, 1_000).unwrap();
            assert_eq!(verdict, MirrorVerdict::Disagrees, "{version} above {noise} after {copies}");
        }
    }

    #[test]
    fn a_noisy_model_is_no_disagreement() {
        let (verdict, copies) = play(3, 0.05, 0.05, 20_000).unwrap();
        assert_eq!(verdict, MirrorVerdict::Open, "after {copies}");
    }

    #[test]
    fn nothing_is_proven_against_a_version_before_stable_was_compared_with_itself() {
        let mut gate = gate(10);
        gate.observe(tally([500, 250, 0, 0]));
        assert_eq!(gate.verdict(), MirrorVerdict::Pending);
        gate.observe(tally([0, 0, 50, 25]));
        assert_eq!(gate.verdict(), MirrorVerdict::Pending, "it is stable that is noisy");
        gate.observe(tally([0, 0, 5_000, 0]));
        assert_eq!(gate.verdict(), MirrorVerdict::Disagrees);
    }

    #[test]
    fn where_noise_is_not_learnt_stable_is_taken_to_agree_with_itself() {
        let mut one = gate(0);
        one.observe(tally([500, 50, 0, 0]));
        assert_eq!(one.verdict(), MirrorVerdict::Disagrees);
        let mut other = gate(0);
        other.observe(tally([1_500, 0, 0, 0]));
        assert_eq!(other.verdict(), MirrorVerdict::Open);
    }

    #[test]
    fn what_is_proven_stays_and_without_a_gate_nothing_is_held() {
        let mut gate = gate(10);
        assert!(gate.verdict() == MirrorVerdict::Pending && gate.summary().is_none(), "nothing is excluded yet");
        gate.observe(tally([500, 100, 500, 0]));
        gate.observe(tally([500_000, 0, 500_000, 0]));
        assert_eq!(gate.verdict(), MirrorVerdict::Disagrees);
        let mut open = MirrorGate { gate: None, ..gate };
        open.observe(tally([500, 500, 0, 0]));
        assert_eq!(open.verdict(), MirrorVerdict::Open);
        let seen = open.summary().unwrap();
        assert_eq!((seen.tally.disagreed, seen.disagrees.log_e), (600, None));
    }

    #[test]
    fn the_best_explanation_on_the_border_is_better_than_its_neighbours() {
        let seen = Streams::new(tally([400, 12, 300, 20]), true);
        let best = seen.log_best(|p, q| p >= q + 0.01, 0.01);
        for q in (1..990).map(|part| f64::from(part) / 1_000.0) {
            let here = seen.version.log_likelihood(q + 0.01) + Stream::new(20, 300).log_likelihood(q);
            assert!(here <= best + 1e-9, "{q}: {here} above {best}");
        }
    }
}
