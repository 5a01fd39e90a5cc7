//! What lies between the products of BERT: bias, GELU, softmax, and the sum that is normalised.
//!
//! On a processor each is one pass over the values where they lie, with the widest instructions that the machine
//! has, on the thread that asked. candle's own would allocate at each step, take the error function one value at a
//! time, and hand larger tensors to a pool of threads that all requests share. On any other device candle's are
//! used.
#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a dispatched closure is not compiled for its instructions"
)]

use candle_core::{CpuStorage, D, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use pulp::Arch;

/// x + bias, for each row.
pub(super) fn add_bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.broadcast_add(bias);
    }
    x.inplace_op2(bias, &AddBias)?;
    Ok(x)
}

/// gelu(x + bias), for each row.
pub(super) fn add_bias_and_gelu(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.broadcast_add(bias)?.gelu_erf();
    }
    x.inplace_op2(bias, &AddBiasAndGelu)?;
    Ok(x)
}

/// Each row of x + y + bias, brought to mean 0 and variance 1, times gain, plus shift (Ba, Kiros and Hinton, 2016).
/// The rows of `norm` are bias, gain and shift.
pub(super) fn add_and_normalize(x: Tensor, y: &Tensor, norm: &Tensor, epsilon: f32) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.inplace_op3(y, norm, &AddAndNormalize { epsilon })?;
        return Ok(x);
    }
    let row = |number| norm.narrow(0, number, 1);
    let sum = (x + y)?.broadcast_add(&row(0)?)?;
    let centred = sum.broadcast_sub(&sum.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = centred.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)?;
    scaled.broadcast_mul(&row(1)?)?.broadcast_add(&row(2)?)
}

/// e^x for each value of a row, divided by the sum of the row.
pub(super) fn softmax(x: Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.inplace_op1(&Softmax)?;
        return Ok(x);
    }
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

struct AddBias;

struct AddBiasAndGelu;

struct AddAndNormalize {
    epsilon: f32,
}

struct Softmax;

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, at: &Layout, bias: &CpuStorage, bias_at: &Layout) -> Result<()> {
        let (x, bias) = (values_mut(x, at)?, values(bias, bias_at)?);
        Arch::new().dispatch(|| {
            for row in x.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        });
        Ok(())
    }
}

impl InplaceOp2 for AddBiasAndGelu {
    fn name(&self) -> &'static str {
        "add-bias-gelu"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, at: &Layout, bias: &CpuStorage, bias_at: &Layout) -> Result<()> {
        let (x, bias) = (values_mut(x, at)?, values(bias, bias_at)?);
        Arch::new().dispatch(|| {
            for row in x.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value = gelu(*value + bias));
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for AddAndNormalize {
    fn name(&self) -> &'static str {
        "add-normalize"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        at: &Layout,
        y: &CpuStorage,
        y_at: &Layout,
        norm: &CpuStorage,
        norm_at: &Layout,
    ) -> Result<()> {
        let (x, y, norm) = (values_mut(x, at)?, values(y, y_at)?, values(norm, norm_at)?);
        let width = norm.len() / 3;
        let (bias, rest) = norm.split_at(width);
        let (gain, shift) = rest.split_at(width);
        Arch::new().dispatch(|| {
            for (row, other) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                row.iter_mut().zip(other).zip(bias).for_each(|((value, other), bias)| *value += other + bias);
                normalize(row, gain, shift, self.epsilon);
            }
        });
        Ok(())
    }
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, at: &Layout) -> Result<()> {
        let width = at.dims().last().copied().unwrap_or(1);
        let x = values_mut(x, at)?;
        Arch::new().dispatch(|| x.chunks_exact_mut(width).for_each(share_out));
        Ok(())
    }
}

/// The values of a tensor that lies in one piece.
fn values<'s>(storage: &'s CpuStorage, at: &Layout) -> Result<&'s [f32]> {
    let (start, end) = at.contiguous_offsets().ok_or_else(scattered)?;
    storage.as_slice::<f32>()?.get(start..end).ok_or_else(scattered)
}

fn values_mut<'s>(storage: &'s mut CpuStorage, at: &Layout) -> Result<&'s mut [f32]> {
    let (start, end) = at.contiguous_offsets().ok_or_else(scattered)?;
    let CpuStorage::F32(values) = storage else {
        return Err(candle_core::Error::Msg("single precision is expected".to_owned()));
    };
    values.get_mut(start..end).ok_or_else(scattered)
}

fn scattered() -> candle_core::Error {
    candle_core::Error::Msg("a tensor in one piece is expected".to_owned())
}

/// Sums run in lanes, which the compiler may calculate side by side.
const LANES: usize = 16;

/// Adds up what `term` makes of each value.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|value| term(*value)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += term(*value));
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn normalize(row: &mut [f32], gain: &[f32], shift: &[f32], epsilon: f32) {
    let count = f32::from(u16::try_from(row.len()).unwrap_or(u16::MAX));
    let mean = sum(row, |value| value) / count;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / count;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for ((value, gain), shift) in row.iter_mut().zip(gain).zip(shift) {
        *value = (*value - mean) * scale * gain + shift;
    }
}

#[inline(always)]
fn share_out(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, |most, value| if value > most { value } else { most });
    for value in row.iter_mut() {
        *value = power(*value - most);
    }
    let whole = 1.0 / sum(row, |value| value);
    for value in row {
        *value *= whole;
    }
}

/// x · Φ(x) = x/2 · (1 + erf(x/√2)).
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + error_function(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// erf(x) as a quotient of polynomials in x², within 5e-7 of the truth: the rational minimax approximation that Eigen
/// uses for single precision (`generic_fast_erf_float`).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the coefficients as they were published")]
fn error_function(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let above = [
        -2.726_142_258_013_06e-10,
        2.770_681_424_959_02e-8,
        -2.101_023_974_020_825_08e-6,
        -5.692_506_394_623_46e-5,
        -7.349_906_303_268_55e-4,
        -2.954_599_808_540_25e-3,
        -1.609_603_332_624_15e-2,
    ];
    let below = [
        -1.456_607_184_649_96e-5,
        -2.133_740_552_789_05e-4,
        -1.682_826_974_382_03e-3,
        -7.373_329_167_204_68e-3,
        -1.426_473_905_141_89e-2,
    ];
    x * polynomial(square, &above) / polynomial(square, &below)
}

/// Horner's scheme, the highest power first.
#[inline(always)]
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// e^x for x up to 0, within 2e-7 of the truth: 2^n times a polynomial over what is left (Cephes, `expf`).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the coefficients as they were published")]
fn power(x: f32) -> f32 {
    /// Added to a small number, it leaves that number's nearest whole one in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let whole = shifted - ROUNDING;
    let rest = x - whole * 0.693_359_375 + whole * 2.121_944_4e-4;
    let above = [1.987_569_15e-4, 1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1];
    let fraction = polynomial(rest, &above) * rest * rest + rest + 1.0;
    let exponent = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    fraction * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn steps() -> impl Iterator<Item = f32> {
        (-8_700_i16..=8_700).map(|step| f32::from(step) / 100.0)
    }

    #[test]
    fn powers_are_those_of_the_standard_library() {
        for x in steps().filter(|x| *x <= 0.0) {
            let wanted = f64::from(x).exp();
            let off = (f64::from(power(x)) - wanted).abs() / wanted;
            assert!(off < 3e-7, "e^{x} is {} instead of {wanted}", power(x));
        }
        assert!(power(f32::MIN) < 1e-36);
    }

    #[test]
    fn gelu_is_the_one_of_the_error_function() {
        for x in steps() {
            let wanted = Tensor::new(&[f64::from(x)], &Device::Cpu).unwrap().gelu_erf().unwrap();
            let wanted: f64 = wanted.to_vec1().unwrap()[0];
            assert!((f64::from(gelu(x)) - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "gelu({x}) is {}", gelu(x));
        }
    }

    /// Rows of odd width, so that the lanes leave something over.
    fn rows(seed: u16) -> Tensor {
        let values: Vec<f32> = (0..5 * 37_u16).map(|at| f32::from((at * seed) % 977) / 100.0 - 4.0).collect();
        Tensor::from_vec(values, (5, 37), &Device::Cpu).unwrap()
    }

    fn assert_near(found: &Tensor, wanted: &Tensor) {
        let off: f32 = (found - wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        assert!(off < 1e-5, "{off}");
    }

    #[test]
    fn each_pass_gives_what_candle_gives_step_by_step() {
        let bias = rows(13).narrow(0, 2, 1).unwrap();
        let wanted = rows(7).broadcast_add(&bias).unwrap();
        assert_near(&add_bias(rows(7).copy().unwrap(), &bias).unwrap(), &wanted);
        assert_near(&add_bias_and_gelu(rows(7), &bias).unwrap(), &wanted.gelu_erf().unwrap());
        let powers = rows(7).exp().unwrap();
        let wanted = powers.broadcast_div(&powers.sum_keepdim(D::Minus1).unwrap()).unwrap();
        assert_near(&softmax(rows(7)).unwrap(), &wanted);
    }

    #[test]
    fn a_normalised_sum_is_what_its_formula_says() {
        let (norm, epsilon) = (rows(29).narrow(0, 0, 3).unwrap(), 1e-5);
        let part = |number| norm.narrow(0, number, 1).unwrap();
        let sum = (rows(7) + rows(11)).unwrap().broadcast_add(&part(0)).unwrap();
        let centred = sum.broadcast_sub(&sum.mean_keepdim(1).unwrap()).unwrap();
        let spread = (centred.sqr().unwrap().mean_keepdim(1).unwrap() + f64::from(epsilon)).unwrap().sqrt().unwrap();
        let scaled = centred.broadcast_div(&spread).unwrap().broadcast_mul(&part(1)).unwrap();
        let wanted = scaled.broadcast_add(&part(2)).unwrap();
        assert_near(&add_and_normalize(rows(7), &rows(11), &norm, epsilon).unwrap(), &wanted);
    }
}
