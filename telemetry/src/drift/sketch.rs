//! Counts of numbers that add up, whoever counted them: an exponential histogram whose bins follow from the bits of the
//! value (sign, exponent, and as much of the mantissa as there is room for), so that two sketches never disagree about
//! where a bin ends. One that would grow beyond [`MOST_BINS`] bins halves its resolution, as the exponential histograms of
//! OpenTelemetry do; added sketches take the coarser one of both. Pure.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bins of a sketch: over eight octaves that is a bin for each 0.8 % of the value.
pub const MOST_BINS: usize = 1024;

/// Bits of a value that even the finest sketch leaves out: 13 of 23 bits of the mantissa count.
const FINEST: u32 = 10;
/// From here on all values but their signs are the same.
const COARSEST: u32 = 31;
/// What is nearer to zero is zero: the octaves down there would cost all resolution elsewhere.
const NOTHING: f32 = 1e-6;

/// Why something is no sketch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SketchError {
    /// It has more bins than any sketch.
    #[error("a sketch has at most {MOST_BINS} bins, not {0}")]
    Bins(usize),
    /// It leaves out as many bits as no sketch does.
    #[error("a sketch leaves out {FINEST} to {COARSEST} bits of a number, not {0}")]
    Shift(u32),
    /// Its bins are none of those that numbers have.
    #[error("the bins of a sketch lie within those that numbers have, not at {0}")]
    Place(i32),
    /// The bits that are left out, or a place, do not go with what is to be taken off.
    #[error("what is taken off a sketch is an earlier state of it")]
    NotEarlier,
}

/// Counts of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Sketch {
    /// Bits that are left out of each value.
    shift: u32,
    /// The number of the first bin.
    first: i32,
    /// Rows in it and in those behind it.
    counts: Vec<u64>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { shift: FINEST, first: 0, counts: Vec::new() }
    }
}

impl Sketch {
    /// Counts a value; what is no number is not counted.
    pub fn count(&mut self, value: f32) {
        if !value.is_finite() {
            return;
        }
        let key = key(value);
        if let Some(count) = self.place(key >> self.shift).and_then(|place| self.counts.get_mut(place)) {
            *count = count.saturating_add(1);
            return;
        }
        if self.counts.is_empty() {
            self.first = key >> self.shift;
        }
        while !self.reaches(key >> self.shift, key >> self.shift) {
            self.coarsen();
        }
        self.cover(key >> self.shift, key >> self.shift);
        self.add_at(key >> self.shift, 1);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        self.level(&mut other);
        let (Some(low), Some(high)) = (other.bins().next(), other.bins().next_back()) else { return };
        if self.counts.is_empty() {
            self.first = low.0;
        }
        while !self.reaches(low.0 >> (self.shift - other.shift), high.0 >> (self.shift - other.shift)) {
            self.coarsen();
        }
        while other.shift < self.shift {
            other.coarsen();
        }
        if let (Some(low), Some(high)) = (other.bins().next(), other.bins().next_back()) {
            self.cover(low.0, high.0);
        }
        for (bin, count) in other.bins() {
            self.add_at(bin, count);
        }
    }

    /// What was counted after `earlier`, an earlier state of the same sketch.
    ///
    /// # Errors
    /// When `earlier` counted what this one did not.
    pub fn since(&self, earlier: &Self) -> Result<Self, SketchError> {
        let (mut now, mut earlier) = (self.clone(), earlier.clone());
        now.level(&mut earlier);
        for (bin, count) in earlier.bins().filter(|(_, count)| *count > 0) {
            let place = now.place(bin).and_then(|place| now.counts.get_mut(place)).ok_or(SketchError::NotEarlier)?;
            *place = place.checked_sub(count).ok_or(SketchError::NotEarlier)?;
        }
        Ok(now)
    }

    /// The counts of both over the same bins, in the order of the values.
    pub fn side_by_side(&self, other: &Self) -> Vec<[u64; 2]> {
        let (mut one, mut other) = (self.clone(), other.clone());
        one.level(&mut other);
        let mut both: std::collections::BTreeMap<i32, [u64; 2]> =
            one.bins().map(|(bin, count)| (bin, [count, 0])).collect();
        for (bin, count) in other.bins() {
            let [_, beside] = both.entry(bin).or_default();
            *beside = count;
        }
        both.into_values().collect()
    }

    fn bins(&self) -> impl DoubleEndedIterator<Item = (i32, u64)> {
        (self.first..).zip(self.counts.iter().copied()).collect::<Vec<_>>().into_iter()
    }

    /// Brings both to the resolution of the coarser one.
    fn level(&mut self, other: &mut Self) {
        while self.shift < other.shift {
            self.coarsen();
        }
        while other.shift < self.shift {
            other.coarsen();
        }
    }

    /// Whether there is room for all bins from `low` to `high` beside those that there are.
    fn reaches(&self, low: i32, high: i32) -> bool {
        self.shift >= COARSEST || {
            let (low, high) = self.with(low, high);
            usize::try_from(i64::from(high) - i64::from(low)).is_ok_and(|span| span < MOST_BINS)
        }
    }

    /// The first and the last bin, if those from `low` to `high` are among them.
    fn with(&self, low: i32, high: i32) -> (i32, i32) {
        let bins = i32::try_from(self.counts.len()).unwrap_or(i32::MAX);
        if bins == 0 { (low, high) } else { (low.min(self.first), high.max(self.first + (bins - 1))) }
    }

    /// Makes room for them.
    fn cover(&mut self, low: i32, high: i32) {
        let (low, high) = self.with(low, high);
        let before = usize::try_from(self.first.saturating_sub(low)).unwrap_or_default();
        if before > 0 {
            self.counts.splice(0..0, std::iter::repeat_n(0, before));
        }
        self.first = low;
        let bins = usize::try_from(i64::from(high) - i64::from(low)).unwrap_or_default() + 1;
        self.counts.resize(bins.max(self.counts.len()), 0);
    }

    fn add_at(&mut self, bin: i32, count: u64) {
        if let Some(place) = self.place(bin).and_then(|place| self.counts.get_mut(place)) {
            *place = place.saturating_add(count);
        }
    }

    fn place(&self, bin: i32) -> Option<usize> {
        usize::try_from(i64::from(bin) - i64::from(self.first)).ok()
    }

    /// Halves the resolution.
    fn coarsen(&mut self) {
        let first = self.first >> 1;
        let mut counts: Vec<u64> = Vec::with_capacity(self.counts.len() / 2 + 1);
        for (bin, count) in self.bins() {
            let place = usize::try_from(i64::from(bin >> 1) - i64::from(first)).unwrap_or_default();
            counts.resize(counts.len().max(place + 1), 0);
            if let Some(sum) = counts.get_mut(place) {
                *sum = sum.saturating_add(count);
            }
        }
        (self.shift, self.first, self.counts) = (self.shift + 1, first, counts);
    }
}

/// Integers in the order of the numbers: the bits of a float are that already, but for the sign. Those of what counts as zero
/// are left out, so that values on both sides of it lie near each other.
fn key(value: f32) -> i32 {
    let size = value.abs();
    if size < NOTHING {
        return 0;
    }
    let above = (size.to_bits() - NOTHING.to_bits()).cast_signed() + 1;
    if value < 0.0 { -above } else { above }
}

/// A sketch as it is handed over.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    shift: u32,
    first: i32,
    counts: Vec<u64>,
}

impl From<Sketch> for Wire {
    fn from(Sketch { shift, first, counts }: Sketch) -> Self {
        Self { shift, first, counts }
    }
}

impl TryFrom<Wire> for Sketch {
    type Error = SketchError;

    fn try_from(Wire { shift, first, counts }: Wire) -> Result<Self, SketchError> {
        if !(FINEST..=COARSEST).contains(&shift) {
            return Err(SketchError::Shift(shift));
        }
        if counts.len() > MOST_BINS {
            return Err(SketchError::Bins(counts.len()));
        }
        let last = i64::from(first) + i64::try_from(counts.len()).unwrap_or(i64::MAX);
        if first < i32::MIN >> shift || last > i64::from(i32::MAX >> shift) + 1 {
            return Err(SketchError::Place(first));
        }
        Ok(Self { shift, first, counts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f32]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.count(*value);
        }
        sketch
    }

    fn any_values() -> impl Strategy<Value = Vec<f32>> {
        let near = (-1000_i16..1000).prop_map(|value| f32::from(value) / 7.0);
        prop::collection::vec(prop_oneof![4 => near, 1 => any::<f32>()], 0..300)
    }

    #[test]
    fn values_stay_in_their_order_and_near_ones_are_told_apart() {
        let values = [-2e9, -7.5, -1.0, -0.1, 0.0, 0.1, 1.0, 1.001, 7.5, 2e9, f32::MAX];
        assert!(values.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!((key(-0.0), key(1e-9), key(-1e-9)), (0, 0, 0));
        assert_eq!((key(1e-6), key(-1e-6)), (1, -1));
        let both = of(&[30.0; 5]).side_by_side(&of(&[30.1; 3]));
        assert_eq!(both.iter().filter(|counts| **counts != [0, 0]).collect::<Vec<_>>(), [&[5, 0], &[0, 3]]);
    }

    #[test]
    fn what_is_no_number_is_not_counted_and_every_number_is() {
        let sketch = of(&[f32::NAN, f32::INFINITY, f32::MAX, f32::MIN, 0.0, 1.0]);
        assert_eq!(sketch.total(), 4);
        assert!(sketch.counts.len() <= MOST_BINS, "{}", sketch.counts.len());
    }

    #[test]
    fn what_is_no_sketch_is_refused_in_words() {
        let read = |text: &str| serde_json::from_str::<Sketch>(text).map_err(|error| error.to_string());
        assert!(read(r#"{"shift":10,"first":0,"counts":[1]}"#).is_ok());
        let refused = [
            (r#"{"shift":9,"first":0,"counts":[1]}"#, "leaves out 10 to 31 bits"),
            (r#"{"shift":32,"first":0,"counts":[1]}"#, "leaves out 10 to 31 bits"),
            (r#"{"shift":31,"first":-1,"counts":[1,1,1]}"#, "lie within those"),
            (r#"{"shift":10,"first":-2147483648,"counts":[1]}"#, "lie within those"),
        ];
        for (text, why) in refused {
            assert!(read(text).unwrap_err().contains(why), "{text}");
        }
        let many = format!(r#"{{"shift":10,"first":0,"counts":{:?}}}"#, vec![1; MOST_BINS + 1]);
        assert!(read(&many).unwrap_err().contains("at most 1024 bins"));
    }

    proptest! {
        /// Whoever counted what, and in whatever order it is added up: the same comes of it as of one who counted all.
        #[test]
        fn parts_add_up_to_the_whole(one in any_values(), other in any_values()) {
            let all: Vec<f32> = one.iter().chain(&other).copied().collect();
            let (mut sum, whole) = (of(&one), of(&all));
            sum.add(&of(&other));
            let counted = u64::try_from(all.iter().filter(|value| value.is_finite()).count()).unwrap();
            prop_assert_eq!((sum.total(), whole.total()), (counted, counted));
            prop_assert!(sum.side_by_side(&whole).iter().all(|[sum, whole]| sum == whole));
            prop_assert!(sum.counts.len() <= MOST_BINS && whole.counts.len() <= MOST_BINS);
            let mut turned = of(&other);
            turned.add(&of(&one));
            prop_assert!(sum.side_by_side(&turned).iter().all(|[sum, turned]| sum == turned));
        }

        /// Taking off an earlier state leaves what came after it, as far as the resolution of both tells.
        #[test]
        fn the_difference_of_two_states_is_what_was_counted_between_them(one in any_values(), other in any_values()) {
            let before = of(&one);
            let mut after = before.clone();
            for value in &other {
                after.count(*value);
            }
            let between = after.since(&before).unwrap();
            prop_assert!(between.side_by_side(&of(&other)).iter().all(|[between, other]| between == other));
            if before.total() > 0 && other.iter().any(|value| value.is_finite()) {
                prop_assert_eq!(before.since(&after), Err(SketchError::NotEarlier));
            }
        }

        /// It goes over the wire as it is.
        #[test]
        fn it_is_read_as_it_was_written(values in any_values()) {
            let sketch = of(&values);
            let text = serde_json::to_string(&sketch).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        }
    }
}
