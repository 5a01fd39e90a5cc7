//! Traffic in virtual time: counts per tick as Poisson traffic with a random split gives them.

use pointsman_config::Share;
use pointsman_rollout::{Row, Tally};

/// A reproducible stream of chance (`SplitMix64`, Steele, Lea and Flood 2014).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with probability `p`.
    pub(crate) fn hits(&mut self, p: f64) -> bool {
        let unit = f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX);
        unit < p
    }
}

/// A Poisson law, drawn in two look-ups (alias table, Walker 1977).
pub(crate) struct Poisson {
    /// Chance of keeping a cell's own value, in 32-bit parts, and the value taken otherwise.
    cells: Vec<(u32, u32)>,
}

impl Poisson {
    pub(crate) fn new(mean: f64) -> Self {
        let mut probabilities = vec![];
        let (mut log_p, mut k) = (-mean, 0.0);
        while k <= mean || log_p > -37.0 {
            probabilities.push(log_p.exp());
            k += 1.0;
            log_p += (mean / k).ln();
        }
        Self { cells: alias_table(&probabilities) }
    }

    pub(crate) fn draw(&self, chance: &mut Chance) -> u64 {
        if let [(_, only)] = self.cells[..] {
            return u64::from(only);
        }
        let bits = chance.next();
        let cell = ((bits >> 32) * u64::try_from(self.cells.len()).unwrap()) >> 32;
        let (keep, other) = self.cells[usize::try_from(cell).unwrap()];
        if u32::try_from(bits & 0xFFFF_FFFF).unwrap() < keep { cell } else { u64::from(other) }
    }
}

fn alias_table(probabilities: &[f64]) -> Vec<(u32, u32)> {
    let count = f64::from(u32::try_from(probabilities.len()).unwrap());
    let total: f64 = probabilities.iter().sum();
    let mut scaled: Vec<f64> = probabilities.iter().map(|p| p * count / total).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..scaled.len()).partition(|&i| scaled[i] < 1.0);
    let mut cells: Vec<(u32, u32)> = (0..scaled.len()).map(|i| (u32::MAX, u32::try_from(i).unwrap())).collect();
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        cells[poor] = (parts(scaled[poor]), u32::try_from(rich).unwrap());
        scaled[rich] -= 1.0 - scaled[poor];
        if scaled[rich] < 1.0 {
            large.pop();
            small.push(rich);
        }
    }
    cells
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a probability in 32-bit parts; saturates"
)]
fn parts(probability: f64) -> u32 {
    (probability * 4_294_967_296.0) as u32
}

/// One version's traffic per tick.
pub(crate) struct Version {
    fine: Poisson,
    errors: Poisson,
    slow: Poisson,
}

/// How one version behaves.
#[derive(Clone, Copy)]
pub(crate) struct Health {
    pub(crate) error_rate: f64,
    pub(crate) slow_rate: f64,
}

impl Version {
    fn new(requests_per_tick: f64, health: Health) -> Self {
        let fine = (1.0 - health.error_rate - health.slow_rate).max(0.0);
        Self {
            fine: Poisson::new(requests_per_tick * fine),
            errors: Poisson::new(requests_per_tick * health.error_rate),
            slow: Poisson::new(requests_per_tick * health.slow_rate),
        }
    }

    pub(crate) fn tick(&self, chance: &mut Chance) -> Tally {
        let (errors, slow) = (self.errors.draw(chance), self.slow.draw(chance));
        Tally { requests: self.fine.draw(chance) + errors + slow, errors, slow }
    }
}

/// A route's traffic under one weight while both versions behave as they do.
pub(crate) struct Traffic {
    pub(crate) weight: Share,
    pub(crate) canary: Version,
    pub(crate) stable: Version,
}

impl Traffic {
    pub(crate) fn new(requests_per_s: f64, weight: &str, canary: Health, stable: Health) -> Self {
        let weight: Share = weight.parse().unwrap();
        let per_tick = requests_per_s / 10.0;
        Self {
            weight,
            canary: Version::new(per_tick * weight.ratio(), canary),
            stable: Version::new(per_tick * weight.rest().ratio(), stable),
        }
    }

    pub(crate) fn tick(&self, chance: &mut Chance) -> Row {
        Row { weight: self.weight, canary: self.canary.tick(chance), stable: self.stable.tick(chance) }
    }
}

/// A version that fails this share, and is never slow.
pub(crate) fn failing(error_rate: f64) -> Health {
    Health { error_rate, slow_rate: 0.0 }
}

#[test]
fn draws_have_the_mean_and_the_variance_of_the_law() {
    for mean in [0.0, 0.005, 5.0, 95.0] {
        let (law, mut chance) = (Poisson::new(mean), Chance::of_seed(1));
        let n = 200_000_u32;
        let draws: Vec<f64> = (0..n).map(|_| f64::from(u32::try_from(law.draw(&mut chance)).unwrap())).collect();
        let sample = draws.iter().sum::<f64>() / f64::from(n);
        let variance = draws.iter().map(|x| (x - sample).powi(2)).sum::<f64>() / f64::from(n);
        let error = 5.0 * (mean / f64::from(n)).sqrt();
        assert!((sample - mean).abs() <= error, "mean {sample} of {mean}");
        assert!((variance - mean).abs() <= 0.02 * mean + 10.0 * error * error + 2e-4, "variance {variance} of {mean}");
    }
}
