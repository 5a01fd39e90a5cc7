//! Chance with a fixed seed: the same plan has the same forecast, whoever asks and however often.

/// A reproducible stream of chance (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

/// 2^32.
const PARTS: f64 = 4_294_967_296.0;

impl Chance {
    /// Stream number `seed`.
    pub(super) fn of_seed(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly between 0 and 1.
    fn unit(&mut self) -> f64 {
        let bits = self.bits();
        let half = |part: u64| f64::from(u32::try_from(part & u64::from(u32::MAX)).unwrap_or(u32::MAX));
        (half(bits >> 32) + half(bits) / PARTS) / PARTS
    }
}

/// A Poisson law, drawn by inverting its distribution function, tabulated where it is neither 0 nor 1.
#[derive(Debug, Clone)]
pub(super) struct Poisson {
    /// The count that the first entry stands for.
    lowest: u64,
    /// The chance of at most `lowest + index`.
    cumulative: Vec<f64>,
}

impl Poisson {
    /// Of this mean; 0 draws 0 only.
    pub(super) fn new(mean: f64) -> Self {
        if mean <= 0.0 {
            return Self { lowest: 0, cumulative: Vec::new() };
        }
        let width = 9.0 * mean.sqrt() + 9.0;
        let first = (mean - width).max(0.0).floor();
        let mut log_p = first * mean.ln() - mean - libm::lgamma(first + 1.0);
        let (mut count, mut sum, mut cumulative) = (first, 0.0, Vec::new());
        while count <= mean + width {
            sum += log_p.exp();
            cumulative.push(sum);
            count += 1.0;
            log_p += (mean / count).ln();
        }
        Self { lowest: crate::forecast::to_u64(first), cumulative }
    }

    /// One count.
    pub(super) fn draw(&self, chance: &mut Chance) -> u64 {
        if self.cumulative.is_empty() {
            return 0;
        }
        let drawn = chance.unit();
        let place = self.cumulative.partition_point(|&below| below < drawn).min(self.cumulative.len() - 1);
        self.lowest + u64::try_from(place).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::to_f64;

    #[test]
    fn draws_have_the_mean_and_the_variance_of_the_law() {
        for mean in [0.0, 0.005, 5.0, 95.0, 4_000.0] {
            let (law, mut chance) = (Poisson::new(mean), Chance::of_seed(1));
            let n = 100_000_u32;
            let draws: Vec<f64> = (0..n).map(|_| to_f64(law.draw(&mut chance))).collect();
            let sample = draws.iter().sum::<f64>() / f64::from(n);
            let variance = draws.iter().map(|x| (x - sample).powi(2)).sum::<f64>() / f64::from(n);
            let error = 5.0 * (mean / f64::from(n)).sqrt();
            assert!((sample - mean).abs() <= error, "mean {sample} of {mean}");
            assert!(
                (variance - mean).abs() <= 0.03 * mean + 10.0 * error * error + 2e-4,
                "variance {variance} of {mean}"
            );
        }
    }
}
