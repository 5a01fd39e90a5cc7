//! The tensors of `model.safetensors`, each taken by its name, its type and its shape, and none left over. What a
//! model is built of went through here, so that it is whole and holds numbers only.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, WithDType};

use super::ModelError;

/// The file with the weights.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// Tensors that nobody has taken yet.
pub(super) struct Tensors {
    left: HashMap<String, Tensor>,
}

impl Tensors {
    /// Of a whole file.
    pub(super) fn read(file: &[u8]) -> Result<Self, ModelError> {
        let left = candle_core::safetensors::load_buffer(file, &Device::Cpu).map_err(ModelError::Weights)?;
        Ok(Self { left })
    }

    /// Weights in row order, all finite.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        finite(name, self.take(name, shape)?, |value: &f32| value.is_finite())
    }

    /// Weights in double precision, in row order, all finite.
    pub(super) fn doubles(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>, ModelError> {
        finite(name, self.take(name, shape)?, |value: &f64| value.is_finite())
    }

    /// Positions, in row order.
    pub(super) fn positions(&mut self, name: &str, shape: &[usize]) -> Result<Vec<u32>, ModelError> {
        self.take(name, shape)
    }

    /// Passes over tensors that a file of this kind may hold and that nobody reads.
    pub(super) fn pass_over(&mut self, known: impl Fn(&str) -> bool) {
        self.left.retain(|name, _| !known(name));
    }

    /// Refuses what is left: the description and the weights would not be of one model.
    pub(super) fn finish(self) -> Result<(), ModelError> {
        match self.left.into_keys().min() {
            Some(tensor) => Err(ModelError::Stranger { tensor }),
            None => Ok(()),
        }
    }

    fn take<T: WithDType>(&mut self, name: &str, shape: &[usize]) -> Result<Vec<T>, ModelError> {
        let tensor = self.left.remove(name).ok_or_else(|| ModelError::Missing { tensor: name.to_owned() })?;
        if tensor.dims() != shape || tensor.dtype() != T::DTYPE {
            return Err(ModelError::Shape {
                tensor: name.to_owned(),
                found: described(tensor.dtype(), tensor.dims()),
                wanted: described(T::DTYPE, shape),
            });
        }
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(ModelError::Weights)
    }
}

fn finite<T>(name: &str, values: Vec<T>, is_finite: impl Fn(&T) -> bool) -> Result<Vec<T>, ModelError> {
    if values.iter().all(is_finite) {
        return Ok(values);
    }
    Err(ModelError::NotFinite { tensor: name.to_owned() })
}

fn described(kind: DType, shape: &[usize]) -> String {
    format!("{} {shape:?}", kind.as_str())
}
