//! How far two distributions over the same bins are apart, and from where on that is more than chance. Pure.

use std::collections::BTreeMap;

/// The share that stands in for an empty bin, so that the logarithm has an end (the convention of the population
/// stability index, e.g. in Evidently: 0.0001).
const LEAST_SHARE: f64 = 1e-4;

/// c(α) of the two-sample Kolmogorov-Smirnov test for α = 0.1 % (Smirnov, 1948): sqrt(−ln(α / 2) / 2).
const KS_FACTOR: f64 = 1.949_470_867_7;

/// The mean of Kolmogorov's distribution (Marsaglia, Tsang and Wang, 2003): sqrt(π / 2) · ln 2.
const KS_MEAN: f64 = 0.868_731_160_6;

/// How many standard deviations above its mean a PSI has to stand to be more than chance.
const PSI_DEVIATIONS: f64 = 4.0;

/// What two distributions say to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// The population stability index: Σ (p − q) · ln(p / q).
    pub psi: f64,
    /// What chance alone makes of it on average, with so few rows in so many bins.
    pub psi_expected: f64,
    /// What chance alone seldom exceeds in it.
    pub psi_noise: f64,
    /// The Kolmogorov-Smirnov statistic: the largest distance of the two cumulative distributions at a bin's edge. It
    /// means nothing for categories, which have no order.
    pub ks: f64,
    /// What chance alone makes of it on average.
    pub ks_expected: f64,
    /// What chance alone exceeds in one of a thousand windows.
    pub ks_noise: f64,
}

/// Compares counts over the same bins, where every row is one by itself; nothing when one of them is empty.
pub fn distance(seen: &[u64], trained: &[u64]) -> Option<Distance> {
    distance_by_draws((seen, u64::MAX), (trained, u64::MAX))
}

/// The same where rows came together, and so are alike: beside the counts of each, how often rows were drawn. Chance is what
/// so few draws make of it, which is the cautious end: as if all rows of a draw were the same.
pub fn distance_by_draws((seen, draws): (&[u64], u64), (trained, others): (&[u64], u64)) -> Option<Distance> {
    let (rows, reference) = (total(seen), total(trained));
    if rows <= 0.0 || reference <= 0.0 || seen.len() != trained.len() {
        return None;
    }
    let mut psi = 0.0;
    let mut ks: f64 = 0.0;
    let (mut below, mut reference_below) = (0.0, 0.0);
    for (seen, trained) in seen.iter().zip(trained) {
        let (share, wanted) = (number(*seen) / rows, number(*trained) / reference);
        let (floored, floored_wanted) = (share.max(LEAST_SHARE), wanted.max(LEAST_SHARE));
        psi += (floored - floored_wanted) * (floored / floored_wanted).ln();
        below += share;
        reference_below += wanted;
        ks = ks.max((below - reference_below).abs());
    }
    let at_most = |rows: f64, draws: u64| rows.min(number(draws.max(1)));
    let uncertainty = 1.0 / at_most(rows, draws) + 1.0 / at_most(reference, others);
    // Of equal distributions, PSI / (1/n + 1/m) follows χ² with one degree of freedom less than there are bins (Yurdakul
    // and Naranjo, 2020): its mean is that number, its variance twice that.
    let freedom = f64::from(u32::try_from(seen.len().saturating_sub(1)).unwrap_or(u32::MAX));
    let psi_expected = uncertainty * freedom;
    let psi_noise = psi_expected + uncertainty * PSI_DEVIATIONS * (2.0 * freedom).sqrt();
    let (ks_expected, ks_noise) = (KS_MEAN * uncertainty.sqrt(), KS_FACTOR * uncertainty.sqrt());
    Some(Distance { psi, psi_expected, psi_noise, ks, ks_expected, ks_noise })
}

/// Fine bins of two samples, in the order of the values, put together into at most `groups` that hold about the same
/// share of the second sample each: the population stability index is made for few bins.
pub fn by_quantiles(both: &[[u64; 2]], groups: u32) -> Vec<[u64; 2]> {
    let all = total(&both.iter().map(|[_, second]| *second).collect::<Vec<_>>());
    let mut put_together: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
    let mut below = 0.0;
    for [first, second] in both {
        let middle = (below + 0.5 * number(*second)) / all.max(1.0);
        let group = (1..groups).take_while(|group| middle * f64::from(groups) >= f64::from(*group)).count();
        let [sum, beside] = put_together.entry(u32::try_from(group).unwrap_or(groups)).or_default();
        (*sum, *beside) = (sum.saturating_add(*first), beside.saturating_add(*second));
        below += number(*second);
    }
    put_together.into_values().filter(|counts| *counts != [0, 0]).collect()
}

fn total(counts: &[u64]) -> f64 {
    counts.iter().copied().map(number).sum()
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts of rows stay below 2^52; beyond, any will do"
)]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_distributions_are_not_apart_and_empty_ones_say_nothing() {
        let same = distance(&[10, 20, 30], &[100, 200, 300]).unwrap();
        assert!(same.psi.abs() < 1e-12 && same.ks.abs() < 1e-12, "{same:?}");
        assert_eq!(distance(&[0, 0], &[1, 1]), None);
        assert_eq!(distance(&[1, 1], &[0, 0]), None);
        assert_eq!(distance(&[1], &[1, 1]), None);
    }

    #[test]
    fn an_empty_bin_costs_much_and_not_everything() {
        let far = distance(&[1000, 0], &[500, 500]).unwrap();
        assert!(far.psi > 0.25 && far.psi.is_finite(), "{far:?}");
        assert!((far.ks - 0.5).abs() < 1e-12);
    }

    #[test]
    fn groups_hold_about_the_same_of_the_second_sample_and_keep_the_order() {
        let both: Vec<[u64; 2]> = (0..100).map(|bin| [u64::from(bin >= 90), 10]).collect();
        let groups = by_quantiles(&both, 10);
        assert_eq!(groups, [vec![[0, 100]; 9], vec![[10, 100]]].concat());
        let heavy = by_quantiles(&[[1, 0], [2, 970], [3, 10], [4, 20], [5, 0]], 10);
        assert_eq!(
            heavy,
            [[1, 0], [2, 970], [12, 30]],
            "what is never seen beside stays apart below, and is last above"
        );
        assert_eq!(by_quantiles(&[[0, 0]], 10), Vec::<[u64; 2]>::new());
    }

    #[test]
    fn rows_that_came_together_are_as_noisy_as_their_draws() {
        let apart = distance_by_draws((&[900, 100], 10), (&[500, 500], 1000)).unwrap();
        let alone = distance(&[900, 100], &[500, 500]).unwrap();
        assert!((apart.psi - alone.psi).abs() < 1e-12 && (apart.ks - alone.ks).abs() < 1e-12);
        let of_ten = distance(&[9, 1], &[500, 500]).unwrap();
        assert!((apart.psi_noise - of_ten.psi_noise).abs() < 1e-12 && (apart.ks_noise - of_ten.ks_noise).abs() < 1e-12);
        assert_eq!(distance_by_draws((&[900, 100], u64::MAX), (&[500, 500], u64::MAX)), Some(alone));
    }

    #[test]
    fn few_rows_are_noisy() {
        let noise = |rows| distance(&[rows, rows], &[5000, 5000]).unwrap().psi_noise;
        assert!(noise(5) > 0.25);
        assert!(noise(5000) < 0.01);
    }
}
