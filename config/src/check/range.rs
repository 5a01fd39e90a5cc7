//! Figures within their range: each gives the value, or its default, and reports what lies outside.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Findings, Spot};
use crate::scalar::{Count, Factor, Percent, Size, Value};
use crate::units::{print_duration, print_percent, print_size};

/// The largest ratio that is less than the whole.
pub(super) const BELOW_ONE: f64 = 1.0 - f64::EPSILON;

/// Every ratio above nothing, up to `most`.
pub(super) fn above_zero(most: f64) -> RangeInclusive<f64> {
    f64::MIN_POSITIVE..=most
}

/// A ratio from 0 to 1; `words` name the range.
pub(super) fn percent(
    value: &Value<Percent>,
    default: f64,
    range: RangeInclusive<f64>,
    words: &str,
    findings: &Findings,
) -> f64 {
    let Percent(ratio) = value.or(Percent(default));
    within(&ratio, &range, value.good().map(|(spot, _)| (spot, print_percent(ratio))), words, findings);
    ratio
}

/// A plain number.
pub(super) fn factor(
    value: &Value<Factor>,
    default: f64,
    range: RangeInclusive<f64>,
    words: &str,
    findings: &Findings,
) -> f64 {
    let Factor(factor) = value.or(Factor(default));
    within(&factor, &range, value.good().map(|(spot, _)| (spot, factor.to_string())), words, findings);
    factor
}

/// A whole number.
pub(super) fn count(value: &Value<Count>, default: u32, range: &RangeInclusive<u32>, findings: &Findings) -> u32 {
    let Count(count) = value.or(Count(default));
    let words = match *range.end() {
        u32::MAX => format!("a whole number of {} or more", range.start()),
        most => format!("a whole number from {} to {most}", range.start()),
    };
    within(&count, range, value.good().map(|(spot, _)| (spot, count.to_string())), &words, findings);
    count
}

/// A size of at most `most` bytes.
pub(super) fn size(value: &Value<Size>, default: u64, most: u64, findings: &Findings) -> u64 {
    let Size(bytes) = value.or(Size(default));
    let words = format!("at most {}", print_size(most));
    within(&bytes, &(0..=most), value.good().map(|(spot, _)| (spot, print_size(bytes))), &words, findings);
    bytes
}

/// A duration, or its default; nothing at all is reported.
pub(super) fn positive(value: &Value<Duration>, default: Duration, findings: &Findings) -> Duration {
    let duration = value.or(default);
    if let (true, Some(spot)) = (duration.is_zero(), value.spot()) {
        findings.error(
            spot,
            format!("{} takes a duration of more than 0s", spot.key()),
            format!("write one such as {}", print_duration(default)),
        );
    }
    duration
}

/// A duration within a range.
pub(super) fn between(
    value: &Value<Duration>,
    default: Duration,
    range: &RangeInclusive<Duration>,
    findings: &Findings,
) -> Duration {
    let duration = value.or(default);
    let words = format!("{} to {}", print_duration(*range.start()), print_duration(*range.end()));
    within(&duration, range, value.good().map(|(spot, _)| (spot, print_duration(duration))), &words, findings);
    duration
}

fn within<T: PartialOrd>(
    number: &T,
    range: &RangeInclusive<T>,
    written: Option<(&Spot, String)>,
    words: &str,
    findings: &Findings,
) {
    if let (Some((spot, text)), false) = (written, range.contains(number)) {
        findings.error(spot, format!("{} cannot be {text}", spot.key()), format!("write {words}"));
    }
}

/// Reports the first item that is one too many.
pub(super) fn at_most<T>(items: &[(&Spot, &T)], most: usize, things: &str, findings: &Findings) {
    if let Some((spot, _)) = items.get(most) {
        let what = format!("there are {} {things}, and Pointsman takes at most {most}", items.len());
        findings.error(spot, what, "remove some");
    }
}
