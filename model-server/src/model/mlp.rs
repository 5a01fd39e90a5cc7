//! A multilayer perceptron: on a processor by passes of our own, on any other device on candle. The scaler is folded
//! into the first layer when the model is built, so that a prediction is its products and nothing else.

mod passes;

use candle_core::{Device, Tensor};

use passes::Passes;

use super::tensors::{Tensors, WEIGHTS};
use super::{Model, ModelError, only_columns};
use crate::bundle::{Bundle, MlpShape, Scaler};
use crate::schema::{Rows, narrow};

/// See [`Model`].
#[derive(Debug)]
pub(super) struct Mlp(Layers);

#[derive(Debug)]
enum Layers {
    /// On a processor.
    Here(Passes),
    /// On a device.
    There(OnDevice),
}

/// The layers, where candle calculates them.
#[derive(Debug)]
struct OnDevice {
    layers: Vec<Layer>,
    device: Device,
    width: usize,
}

#[derive(Debug)]
struct Layer {
    /// [in, out], in the order in which a product reads it.
    weight: Tensor,
    /// [1, out]
    bias: Tensor,
}

/// A layer as the file holds it.
struct Stored {
    /// [out, in], row by row.
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Mlp {
    pub(super) fn build(bundle: &Bundle, shape: &MlpShape, device: &Device) -> Result<Self, ModelError> {
        only_columns(bundle)?;
        if shape.hidden.contains(&0) {
            return Err(ModelError::Impossible { what: "that a hidden layer has no neurons".to_owned() });
        }
        let width = bundle.schema.width();
        let outputs = bundle.manifest.output.values();
        let sizes: Vec<_> = [width].iter().chain(&shape.hidden).copied().chain([outputs]).collect();
        let mut stored = read_layers(bundle.file(WEIGHTS)?, &sizes)?;
        check_scaler(&shape.scaler, width)?;
        if let Some(first) = stored.first_mut() {
            fold(&shape.scaler, first);
        }
        if device.is_cpu() {
            let shown = stored.iter().map(|layer| (layer.weight.as_slice(), layer.bias.as_slice(), layer.inputs));
            return Ok(Self(Layers::Here(Passes::new(width, shown))));
        }
        let there = OnDevice::new(&stored, device, width).map_err(ModelError::Calculate)?;
        Ok(Self(Layers::There(there)))
    }
}

impl OnDevice {
    fn new(stored: &[Stored], device: &Device, width: usize) -> candle_core::Result<Self> {
        let layers = stored.iter().map(|layer| layer.to_device(device)).collect::<Result<_, _>>()?;
        Ok(Self { layers, device: device.clone(), width })
    }

    fn forward(&self, columns: &[f32], rows: usize) -> candle_core::Result<Vec<f32>> {
        let mut x = Tensor::from_slice(columns, (rows, self.width), &self.device)?;
        let last = self.layers.len().saturating_sub(1);
        for (position, layer) in self.layers.iter().enumerate() {
            x = x.matmul(&layer.weight)?.broadcast_add(&layer.bias)?;
            if position < last {
                x = x.relu()?;
            }
        }
        x.flatten_all()?.to_vec1()
    }
}

impl Model for Mlp {
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
        match &self.0 {
            Layers::Here(passes) => Ok(passes.forward(&rows.columns)),
            Layers::There(there) => there.forward(&rows.columns, rows.count).map_err(ModelError::Calculate),
        }
    }
}

/// The layers between these sizes.
fn read_layers(file: &[u8], sizes: &[usize]) -> Result<Vec<Stored>, ModelError> {
    let mut tensors = Tensors::read(file)?;
    let mut layers = Vec::with_capacity(sizes.len());
    for (position, (inputs, outputs)) in sizes.iter().copied().zip(sizes.iter().copied().skip(1)).enumerate() {
        let weight = tensors.floats(&format!("layers.{position}.weight"), &[outputs, inputs])?;
        let bias = tensors.floats(&format!("layers.{position}.bias"), &[outputs])?;
        layers.push(Stored { weight, bias, inputs });
    }
    tensors.finish()?;
    Ok(layers)
}

fn check_scaler(scaler: &Scaler, columns: usize) -> Result<(), ModelError> {
    let finite = |values: &[f64]| values.len() == columns && values.iter().all(|v| v.is_finite());
    let zero = scaler.scale.iter().any(|scale| scale.abs() < f64::MIN_POSITIVE);
    if finite(&scaler.mean) && finite(&scaler.scale) && !zero {
        return Ok(());
    }
    Err(ModelError::Scaler { columns })
}

/// w·(x − mean)/scale + b = (w/scale)·x + (b − Σ w·mean/scale), calculated in `f64`.
fn fold(scaler: &Scaler, layer: &mut Stored) {
    for (row, bias) in layer.weight.chunks_exact_mut(layer.inputs).zip(&mut layer.bias) {
        let mut shift = f64::from(*bias);
        for (weight, (mean, scale)) in row.iter_mut().zip(scaler.mean.iter().zip(&scaler.scale)) {
            let folded = f64::from(*weight) / scale;
            shift -= folded * mean;
            *weight = narrow(folded);
        }
        *bias = narrow(shift);
    }
}

impl Stored {
    fn to_device(&self, device: &Device) -> candle_core::Result<Layer> {
        let outputs = self.bias.len();
        let weight = Tensor::from_slice(&self.weight, (outputs, self.inputs), device)?;
        Ok(Layer { weight: weight.t()?.contiguous()?, bias: Tensor::from_slice(&self.bias, (1, outputs), device)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_scaler_gives_what_scaling_first_gives() {
        let scaler = Scaler { mean: vec![10.0, -2.0], scale: vec![4.0, 0.5] };
        let mut layer = Stored { weight: vec![1.0, 2.0, -3.0, 0.25], bias: vec![0.5, 1.0], inputs: 2 };
        let x = [12.0_f64, -1.0];
        let relative = [(x[0] - 10.0) / 4.0, (x[1] + 2.0) / 0.5];
        let apply = |layer: &Stored, x: [f64; 2]| -> Vec<f64> {
            let rows = layer.weight.chunks(2).zip(&layer.bias);
            rows.map(|(w, b)| f64::from(w[0]) * x[0] + f64::from(w[1]) * x[1] + f64::from(*b)).collect()
        };
        let wanted = apply(&layer, relative);
        fold(&scaler, &mut layer);
        for (found, wanted) in apply(&layer, x).iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
        }
    }

    #[test]
    fn a_device_calculates_what_a_processor_does() {
        let layer = |inputs: u8, outputs: u8| Stored {
            weight: (0..inputs * outputs).map(|number| f32::from(number % 7) / 7.0 - 0.5).collect(),
            bias: (0..outputs).map(|number| f32::from(number % 3) - 1.0).collect(),
            inputs: inputs.into(),
        };
        let stored = [layer(3, 20), layer(20, 2)];
        let there = OnDevice::new(&stored, &Device::Cpu, 3).unwrap();
        let shown = stored.iter().map(|layer| (layer.weight.as_slice(), layer.bias.as_slice(), layer.inputs));
        let here = Passes::new(3, shown);
        let columns = [0.5, -1.0, 2.0, 0.0, 3.0, -0.25];
        let (found, wanted) = (here.forward(&columns), there.forward(&columns, 2).unwrap());
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-5, "{found} is not {wanted}");
        }
    }

    #[test]
    fn a_scaler_that_divides_by_nothing_is_refused() {
        let scaler = |scale: &[f64]| Scaler { mean: vec![0.0, 0.0], scale: scale.to_vec() };
        assert!(check_scaler(&scaler(&[1.0, 2.0]), 2).is_ok());
        for wrong in [&[1.0, 0.0][..], &[1.0], &[1.0, f64::NAN]] {
            assert!(check_scaler(&scaler(wrong), 2).is_err(), "{wrong:?}");
        }
    }
}
