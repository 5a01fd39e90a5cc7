//! The part of `model.json` that belongs to one architecture: what its tensors mean and how they are calculated with.

use serde::Deserialize;

use super::{BundleError, Manifest};

/// How a model calculates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// A multilayer perceptron over columns.
    Mlp,
    /// Decision trees over columns, whose leaves are added up.
    GradientBoostedTrees,
    /// A transformer that turns a text into a vector.
    Bert,
}

impl Architecture {
    /// All that can be served.
    pub const ALL: [Self; 3] = [Self::Mlp, Self::GradientBoostedTrees, Self::Bert];

    /// As `model.json` writes it, which is also the key of its own part.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::GradientBoostedTrees => "gradient_boosted_trees",
            Self::Bert => "bert",
        }
    }

    /// The architecture of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name)
    }
}

/// What the architecture of a bundle needs to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Of a multilayer perceptron.
    Mlp(MlpShape),
    /// Of trees.
    Trees(TreesShape),
    /// Of a sentence embedding.
    Bert(BertShape),
}

impl Shape {
    /// Whether a model of it can be calculated on a device; one that cannot is calculated on the processor.
    pub fn uses_a_device(&self) -> bool {
        match self {
            Self::Mlp(_) | Self::Bert(_) => true,
            Self::Trees(_) => false,
        }
    }

    /// The part that the architecture names; there may be no other.
    pub(super) fn of(manifest: &mut Manifest) -> Result<Self, BundleError> {
        let architecture = manifest.architecture;
        let parts = [
            manifest.mlp.take().map(Self::Mlp),
            manifest.gradient_boosted_trees.take().map(Self::Trees),
            manifest.bert.take().map(Self::Bert),
        ];
        let (own, other): (Vec<_>, Vec<_>) =
            parts.into_iter().flatten().partition(|shape| shape.architecture() == architecture);
        if let Some(other) = other.first() {
            let (surplus, architecture) = (other.architecture().name(), architecture.name());
            return Err(BundleError::Surplus { surplus, architecture });
        }
        own.into_iter().next().ok_or(BundleError::Undescribed { key: architecture.name() })
    }

    /// Whose shape it is.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Mlp(_) => Architecture::Mlp,
            Self::Trees(_) => Architecture::GradientBoostedTrees,
            Self::Bert(_) => Architecture::Bert,
        }
    }
}

/// The shape of a multilayer perceptron; its weights are in `model.safetensors`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpShape {
    /// How many neurons each hidden layer has.
    pub hidden: Vec<usize>,
    /// What stands after each hidden layer.
    pub activation: Activation,
    /// What was done to the columns before the first layer.
    pub scaler: Scaler,
}

/// What stands after a hidden layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0)
    Relu,
}

/// Each column becomes (x − mean) / scale.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaler {
    /// One for each column.
    pub mean: Vec<f64>,
    /// One for each column; never 0.
    pub scale: Vec<f64>,
}

/// The shape of gradient-boosted trees; their nodes are in `model.safetensors`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreesShape {
    /// How many trees there are.
    pub trees: usize,
    /// How many nodes they have together, leaves included.
    pub nodes: usize,
    /// What stands in the sum before the first tree.
    pub start: f64,
    /// What is done to the sum.
    pub link: Link,
}

/// What turns the sum of the leaves into a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// The sum itself: regression.
    Identity,
    /// 1 / (1 + e^−sum): the chance of the second of two classes.
    Logistic,
    /// e^sum: counts and other positive values (Poisson, gamma, Tweedie).
    Exponential,
}

/// The shape of a BERT encoder whose token vectors are pooled to one vector for each text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertShape {
    /// How many different tokens there are.
    pub vocabulary: usize,
    /// How many tokens a text can have.
    pub positions: usize,
    /// How many token types the weights know; all tokens are of the first.
    pub token_types: usize,
    /// How many layers the encoder has.
    pub layers: usize,
    /// How wide a token's vector is.
    pub hidden: usize,
    /// In how many parts attention looks at it.
    pub heads: usize,
    /// How wide the middle of a layer is.
    pub intermediate: usize,
    /// What stands in the middle of a layer.
    pub activation: BertActivation,
    /// What is added to a variance, so that nothing is divided by 0.
    pub layer_norm_epsilon: f64,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether the vector is brought to length 1.
    pub normalize: bool,
    /// A longer text is cut off there, as the training code does: tokens, the two at the ends included.
    pub truncate_at_tokens: usize,
}

/// What stands in the middle of a layer of BERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BertActivation {
    /// x · Φ(x), with the error function (Hendrycks and Gimpel, 2016).
    Gelu,
}

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
}
