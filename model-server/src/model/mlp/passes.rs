//! The layers of a perceptron on a processor: one pass per layer, with the widest instructions that the machine has, on
//! the thread that asked.
//!
//! A general product of matrices is made for large ones: for a single row most of its time goes into setting it up,
//! several times what the sums themselves take. Here the weights lie in the order in which they are read, the sums stay
//! in registers, and some rows go side by side so that each weight is loaded once for all of them.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatched pass is not compiled for its instructions"
)]

use std::array;

use pulp::{Arch, Simd, WithSimd};

/// Values to which a layer's outputs are filled up: what the widest register of any machine holds.
const FILL: usize = 16;

/// Registers whose sums run side by side for one row: a sum waits for the one before it, and others fill that wait.
const SIDE_BY_SIDE: usize = 4;

/// Rows that go through a layer together.
const ROWS: usize = 4;

/// Bytes that are loaded at once at most; a load that crosses this border takes twice.
const BORDER_BYTES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Passes {
    layers: Vec<Dense>,
    /// Columns of a row.
    width: usize,
    /// Values of a prediction.
    outputs: usize,
    /// The most values that any layer gives, filled up.
    widest: usize,
    arch: Arch,
}

/// One layer; its outputs are filled up with weights of 0.
#[derive(Debug)]
struct Dense {
    /// [in, filled], from where a register can be loaded at once.
    weight: Filled,
    /// [filled]
    bias: Filled,
    filled: usize,
}

/// Values that begin at a [border](BORDER_BYTES).
#[derive(Debug)]
struct Filled {
    values: Vec<f32>,
    start: usize,
}

impl Passes {
    /// Layers as the file holds them: each with its weights `[out, in]`, its bias, and its number of inputs.
    pub(super) fn new<'l>(width: usize, layers: impl Iterator<Item = (&'l [f32], &'l [f32], usize)>) -> Self {
        let mut passes = Self { layers: Vec::new(), width, outputs: 0, widest: 0, arch: Arch::new() };
        for (weight, bias, inputs) in layers {
            let layer = Dense::new(weight, bias, inputs);
            passes.widest = passes.widest.max(layer.filled);
            passes.outputs = bias.len();
            passes.layers.push(layer);
        }
        passes
    }

    /// The predictions for rows that lie one behind the other.
    pub(super) fn forward(&self, columns: &[f32]) -> Vec<f32> {
        self.arch.dispatch(Forward { passes: self, columns })
    }
}

impl Dense {
    fn new(weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let filled = bias.len().next_multiple_of(FILL);
        let mut turned = vec![0.0; inputs * filled];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            for (input, weight) in row.iter().enumerate() {
                if let Some(place) = turned.get_mut(input * filled + output) {
                    *place = *weight;
                }
            }
        }
        Self { weight: Filled::of(&turned, turned.len()), bias: Filled::of(bias, filled), filled }
    }
}

impl Filled {
    fn of(values: &[f32], length: usize) -> Self {
        let mut room = vec![0.0; length + BORDER_BYTES / size_of::<f32>()];
        let start = room.as_ptr().align_offset(BORDER_BYTES).min(BORDER_BYTES / size_of::<f32>());
        room.iter_mut().skip(start).zip(values).for_each(|(place, value)| *place = *value);
        room.truncate(start + length);
        Self { values: room, start }
    }

    fn values(&self) -> &[f32] {
        self.values.get(self.start..).unwrap_or_default()
    }
}

/// All rows through all layers.
struct Forward<'a> {
    passes: &'a Passes,
    columns: &'a [f32],
}

impl WithSimd for Forward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { passes, columns } = self;
        let rows = columns.len() / passes.width.max(1);
        let mut predictions = Vec::with_capacity(rows * passes.outputs);
        let mut room = vec![0.0; 2 * rows.min(ROWS) * passes.widest];
        let (one, other) = room.split_at_mut(rows.min(ROWS) * passes.widest);
        let together = columns.chunks_exact(ROWS * passes.width);
        let alone = together.remainder().chunks_exact(passes.width);
        for rows in together {
            through::<S, ROWS>(simd, (passes, rows), (&mut *one, &mut *other), &mut predictions);
        }
        for row in alone {
            through::<S, 1>(simd, (passes, row), (&mut *one, &mut *other), &mut predictions);
        }
        predictions
    }
}

/// So many rows through all layers; the layers take turns with the two rooms.
#[inline(always)]
fn through<S: Simd, const COUNT: usize>(
    simd: S,
    (passes, rows): (&Passes, &[f32]),
    (mut to, mut free): (&mut [f32], &mut [f32]),
    predictions: &mut Vec<f32>,
) {
    let count = passes.layers.len();
    let mut width = passes.width;
    for (position, layer) in passes.layers.iter().enumerate() {
        // Nothing is below the least number: the last layer's values stay as they are.
        let least = if position + 1 < count { 0.0 } else { f32::NEG_INFINITY };
        let from = if position == 0 { rows } else { &*free };
        pass::<S, COUNT>(simd, layer, (from, width), (&mut *to, least));
        width = layer.filled;
        std::mem::swap(&mut to, &mut free);
    }
    for row in free.chunks_exact(width.max(1)).take(COUNT) {
        predictions.extend_from_slice(row.get(..passes.outputs).unwrap_or_default());
    }
}

/// Some rows through one layer.
#[inline(always)]
fn pass<S: Simd, const COUNT: usize>(
    simd: S,
    layer: &Dense,
    (from, width): (&[f32], usize),
    (to, least): (&mut [f32], f32),
) {
    let mut rows = from.chunks_exact(width);
    let rows: [&[f32]; COUNT] = array::from_fn(|_| rows.next().unwrap_or_default());
    let (bias, _) = S::as_simd_f32s(layer.bias.values());
    let (several, single) = bias.as_chunks::<SIDE_BY_SIDE>();
    let mut first = 0;
    for bias in several {
        sums::<S, COUNT, SIDE_BY_SIDE>(simd, layer, (rows, bias, first), (&mut *to, least));
        first += SIDE_BY_SIDE;
    }
    for bias in single {
        sums::<S, COUNT, 1>(simd, layer, (rows, array::from_ref(bias), first), (&mut *to, least));
        first += 1;
    }
}

/// The sums of some rows in the registers from `first` on.
#[inline(always)]
fn sums<S: Simd, const COUNT: usize, const WIDE: usize>(
    simd: S,
    layer: &Dense,
    (rows, bias, first): ([&[f32]; COUNT], &[S::f32s; WIDE], usize),
    (to, least): (&mut [f32], f32),
) {
    let mut sums = [*bias; COUNT];
    let mut inputs = rows.map(<[f32]>::iter);
    for weights in layer.weight.values().chunks_exact(layer.filled) {
        let (weights, _) = S::as_simd_f32s(weights);
        let Some(weights) = weights.get(first..).and_then(<[S::f32s]>::first_chunk::<WIDE>) else {
            return;
        };
        for (sums, inputs) in sums.iter_mut().zip(&mut inputs) {
            let input = simd.splat_f32s(inputs.next().copied().unwrap_or_default());
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(input, *weight, *sum);
            }
        }
    }
    let least = simd.splat_f32s(least);
    for (row, sums) in to.chunks_exact_mut(layer.filled).zip(sums) {
        let (row, _) = S::as_mut_simd_f32s(row);
        for (place, sum) in row.iter_mut().skip(first).zip(sums) {
            // In this order NaN stays NaN, and is refused later.
            *place = simd.max_f32s(least, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without a pattern, between -1 and 1.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// The definition, in double precision.
    fn defined(row: &[f32], layers: &[(Vec<f32>, Vec<f32>, usize)]) -> Vec<f64> {
        let mut x: Vec<f64> = row.iter().copied().map(f64::from).collect();
        for (position, (weight, bias, inputs)) in layers.iter().enumerate() {
            let product = |(row, bias): (&[f32], &f32)| {
                let sum: f64 = row.iter().zip(&x).map(|(weight, x)| f64::from(*weight) * x).sum();
                let value = sum + f64::from(*bias);
                if position + 1 < layers.len() { value.max(0.0) } else { value }
            };
            x = weight.chunks_exact(*inputs).zip(bias).map(product).collect();
        }
        x
    }

    #[test]
    fn every_size_of_layer_and_number_of_rows_gives_what_the_definition_gives() {
        for sizes in [vec![24, 128, 64, 1], vec![3, 5, 2], vec![1, 1], vec![7, 200, 17], vec![2, 16, 32, 48, 70]] {
            let layers: Vec<_> =
                sizes.windows(2).map(|pair| (values(pair[0] * pair[1], 7), values(pair[1], 11), pair[0])).collect();
            let shown = layers.iter().map(|(weight, bias, inputs)| (weight.as_slice(), bias.as_slice(), *inputs));
            let mut passes = Passes::new(sizes[0], shown);
            for arch in [Arch::new(), Arch::Scalar] {
                passes.arch = arch;
                for count in [0, 1, 3, 4, 5, 8, 11] {
                    let columns = values(count * sizes[0], 3);
                    let found = passes.forward(&columns);
                    let wanted: Vec<_> = columns.chunks_exact(sizes[0]).flat_map(|row| defined(row, &layers)).collect();
                    assert_eq!(found.len(), wanted.len());
                    for (found, wanted) in found.into_iter().zip(wanted) {
                        assert!((f64::from(found) - wanted).abs() < 1e-3 * wanted.abs().max(1.0), "{sizes:?} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let weight = [1.0, -1.0];
        let passes = Passes::new(1, [(&weight[..], &[0.0, 0.0][..], 1), (&[1.0, 1.0][..], &[0.0][..], 2)].into_iter());
        assert!(passes.forward(&[f32::NAN])[0].is_nan());
    }
}
