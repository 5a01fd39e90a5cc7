//! What every model can do, and which one a bundle asks for. `predict` hands rows in.

mod bert;
mod mlp;
mod tensors;
mod trees;

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use thiserror::Error;

use crate::bundle::{Bundle, BundleError, Shape};
use crate::schema::Rows;

/// Rows in, predictions out.
///
/// A model is shared by all serving threads and evaluated on the thread that read the request: one row through
/// the delivery-time model takes about 3 µs, and waking another thread costs more than that.
pub trait Model: Send + Sync {
    /// One prediction for each row, one behind the other, each of as many values as the bundle's output has.
    ///
    /// # Errors
    /// When the device fails.
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError>;

    /// How much goes into the model, which the cost of a calculation grows with: columns and bytes of text, unless the
    /// model knows better.
    fn weight(&self, rows: &Rows) -> usize {
        rows.weight()
    }
}

/// Why a model cannot be built, or cannot calculate.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The bundle lacks something.
    #[error("the bundle does not hold the model")]
    Bundle(#[from] BundleError),
    /// Features that this architecture cannot read.
    #[error("the architecture `{architecture}` reads {wanted}; change `features` in model.json")]
    Features {
        /// The architecture.
        architecture: &'static str,
        /// What its features must be.
        wanted: &'static str,
    },
    /// A prediction of another size than the architecture gives.
    #[error(
        "a prediction of this model has {wanted}, but `output` in model.json says otherwise; set or drop its `size`"
    )]
    Output {
        /// What a prediction of this architecture is.
        wanted: String,
    },
    /// `model.safetensors` is broken.
    #[error("model.safetensors cannot be read; fetch or write the bundle again")]
    Weights(#[source] candle_core::Error),
    /// A tensor that should be there.
    #[error("model.safetensors has no tensor `{tensor}`")]
    Missing {
        /// Its name.
        tensor: String,
    },
    /// A tensor that nobody uses: the description and the weights are not of one model.
    #[error("model.safetensors has a tensor `{tensor}` that model.json gives no place")]
    Stranger {
        /// Its name.
        tensor: String,
    },
    /// A tensor of another shape or type.
    #[error("the tensor `{tensor}` is {found}, but by model.json it should be {wanted}")]
    Shape {
        /// Its name.
        tensor: String,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// A weight that is no number.
    #[error("the tensor `{tensor}` holds NaN or an infinite weight; train or export the model again")]
    NotFinite {
        /// Its name.
        tensor: String,
    },
    /// A number in the architecture's own part of `model.json` that cannot be.
    #[error("model.json says {what}; export the model again")]
    Impossible {
        /// Which, and why not.
        what: String,
    },
    /// A tree that is none.
    #[error("node {node} of the trees in model.safetensors {problem}; export the model again")]
    Tree {
        /// Its position, from 0.
        node: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `tokenizer.json` is broken.
    #[error("tokenizer.json cannot be understood; fetch or write the bundle again")]
    Tokenizer(#[source] tokenizers::Error),
    /// A tokenizer that makes nothing of an empty text.
    #[error(
        "tokenizer.json adds no tokens of its own, so that a text can be without any; give it the post-processor of the model ([CLS] and [SEP]) and export again"
    )]
    NoTokens,
    /// A text that the tokenizer cannot cut up.
    #[error("the tokenizer cannot read a text")]
    Text(#[source] tokenizers::Error),
    /// The scaler does not fit the columns.
    #[error("the scaler in model.json needs {columns} finite means, and {columns} finite scales other than 0")]
    Scaler {
        /// How many columns there are.
        columns: usize,
    },
    /// The device is not there.
    #[error(
        "the device {device} cannot be used; set DEVICE=cpu, or use a build with the feature `cuda` on a machine with such a device"
    )]
    Device {
        /// Its name.
        device: DeviceName,
        /// Why not.
        source: candle_core::Error,
    },
    /// The device failed.
    #[error("the model could not calculate")]
    Calculate(#[source] candle_core::Error),
}

/// Where a model calculates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// A graphics card, by its number.
    Cuda(usize),
}

/// Why a text names no device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceNameError {
    /// No such thing.
    #[error("`{text}` is no device; write `cpu` or `cuda:0`")]
    Unknown {
        /// What was written.
        text: String,
    },
    /// Known, but not in this build.
    #[error("`{text}` needs a build with `--features cuda`, and this is none; set DEVICE=cpu")]
    NotBuilt {
        /// What was written.
        text: String,
    },
}

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let ordinal = text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
        match (text, ordinal) {
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(ordinal)) if cfg!(feature = "cuda") => Ok(Self::Cuda(ordinal)),
            (_, Some(_)) => Err(DeviceNameError::NotBuilt { text: text.to_owned() }),
            (_, None) => Err(DeviceNameError::Unknown { text: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceName {
    /// How many of these threads calculate at a time.
    pub fn at_a_time(self, threads: NonZeroUsize) -> NonZeroUsize {
        match self {
            Self::Cpu => threads,
            Self::Cuda(_) => NonZeroUsize::MIN,
        }
    }

    /// Where a model of this shape is calculated when this is asked for.
    #[must_use]
    pub fn for_shape(self, shape: &Shape) -> Self {
        if shape.uses_a_device() { self } else { Self::Cpu }
    }

    fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => {
                Device::new_cuda(ordinal).map_err(|source| ModelError::Device { device: self, source })
            }
        }
    }
}

/// Builds the model of a bundle.
///
/// # Errors
/// When the weights do not fit the description, or the device is not there.
pub fn build(bundle: &Bundle, device: DeviceName) -> Result<Box<dyn Model>, ModelError> {
    let opened = device.open()?;
    let device = device.for_shape(&bundle.shape);
    let model: Box<dyn Model> = match &bundle.shape {
        Shape::Mlp(shape) => Box::new(mlp::Mlp::build(bundle, shape, &opened)?),
        Shape::Trees(shape) => Box::new(trees::Trees::build(bundle, shape)?),
        Shape::Bert(shape) => Box::new(bert::Bert::build(bundle, shape, &opened)?),
    };
    Ok(match device {
        DeviceName::Cpu => model,
        DeviceName::Cuda(_) => Box::new(OneByOne { model, turn: Mutex::new(()) }),
    })
}

/// A model on a device. All threads would share candle's one handle of cuBLAS, and so its workspace, which NVIDIA advises
/// against; a device calculates one after the other anyway.
struct OneByOne {
    model: Box<dyn Model>,
    turn: Mutex<()>,
}

impl Model for OneByOne {
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.model.predict(rows)
    }

    fn weight(&self, rows: &Rows) -> usize {
        self.model.weight(rows)
    }
}

/// Refuses texts for an architecture that reads columns.
fn only_columns(bundle: &Bundle) -> Result<(), ModelError> {
    if bundle.schema.texts() == 0 {
        return Ok(());
    }
    let architecture = bundle.shape.architecture().name();
    Err(ModelError::Features { architecture, wanted: "numbers, booleans and categories, and no text" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_back_and_unknown_ones_are_refused() {
        assert_eq!("cpu".parse(), Ok(DeviceName::Cpu));
        assert_eq!(DeviceName::Cuda(1).to_string(), "cuda:1");
        for text in ["", "gpu", "cuda", "cuda:x"] {
            let error = text.parse::<DeviceName>().unwrap_err();
            assert!(matches!(error, DeviceNameError::Unknown { .. }), "{text}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_graphics_card_needs_its_feature() {
        let error = "cuda:0".parse::<DeviceName>().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
