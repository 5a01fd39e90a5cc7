//! A bundle: `model.json` as written, and all that can be checked about it before a model is built. Comes from
//! `artifact`; `model` and `predict` are built from it.

mod shape;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::artifact::{ArtifactError, Folder, ModelFile, Sha256};
use crate::schema::{Feature, Schema, SchemaError};

pub use shape::{
    Activation, Architecture, BertActivation, BertShape, Link, MlpShape, Pooling, Scaler, Shape, TreesShape,
};

/// The one layout of `model.json` that is known.
const FORMAT: u32 = 1;

/// Why a bundle cannot be served.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Its files cannot be had.
    #[error("the bundle cannot be loaded")]
    Artifact(#[from] ArtifactError),
    /// `model.json` is no JSON, lacks something, or has something unknown.
    #[error("model.json cannot be understood")]
    Model(#[source] serde_json::Error),
    /// Another layout of `model.json`.
    #[error(
        "model.json has format {found}, and only format {FORMAT} is known; write the bundle again, or use a newer server"
    )]
    Format {
        /// What it says.
        found: u32,
    },
    /// An architecture that nobody here can run.
    #[error("the architecture `{found}` is unknown; this server runs: {}", Architecture::ALL.map(Architecture::name).join(", "))]
    Architecture {
        /// What it says.
        found: String,
    },
    /// The architecture's own part of `model.json` is not there.
    #[error("model.json needs `{key}`, since its architecture is `{key}`")]
    Undescribed {
        /// The key.
        key: &'static str,
    },
    /// The part of another architecture is there.
    #[error(
        "model.json has `{surplus}`, but its architecture is `{architecture}`; leave the one out, or name the other"
    )]
    Surplus {
        /// What is too much.
        surplus: &'static str,
        /// What the bundle is.
        architecture: &'static str,
    },
    /// The features make no sense.
    #[error("the features in model.json do not fit")]
    Schema(#[from] SchemaError),
    /// The output makes no sense.
    #[error("the range of the output `{name}` is empty or has no end; write [lowest, highest]")]
    Output {
        /// The output.
        name: String,
    },
    /// A distribution of training values is missing or broken.
    #[error("the training reference of `{name}` in model.json {problem}")]
    Reference {
        /// A feature, or `prediction`.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No examples, or a tolerance that nothing meets.
    #[error("model.json needs at least one golden example, and a tolerance above 0")]
    Golden,
    /// A file that the architecture needs is not listed.
    #[error("`{name}` is not listed under `digests` in model.json; every file of a bundle is")]
    Unlisted {
        /// The file.
        name: &'static str,
    },
}

/// What every layout of `model.json` says: read first, so that a bundle for another server is called that,
/// rather than blamed for a key that is unknown here.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
    architecture: String,
}

/// `model.json` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "format")]
    _format: u32,
    /// The model's name, e.g. `delivery-time`.
    pub name: String,
    /// The model's version, e.g. `v1`.
    pub version: String,
    /// Free text, for people.
    #[serde(default)]
    pub description: Option<String>,
    /// How the model calculates.
    pub architecture: Architecture,
    /// What a row holds, in the order of the columns.
    pub features: Vec<Feature>,
    /// What is predicted.
    pub output: Output,
    /// What the architecture `mlp` needs to know.
    #[serde(default)]
    mlp: Option<MlpShape>,
    /// What the architecture `gradient_boosted_trees` needs to know.
    #[serde(default)]
    gradient_boosted_trees: Option<TreesShape>,
    /// What the architecture `bert` needs to know.
    #[serde(default)]
    bert: Option<BertShape>,
    /// How values were distributed in training.
    pub reference: Reference,
    /// Rows whose predictions are known.
    pub golden: Golden,
    /// File name to SHA-256 in hex, for every other file of the bundle.
    pub digests: BTreeMap<String, String>,
}

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// What it is called.
    pub name: String,
    /// What one of it is, e.g. `min`.
    pub unit: String,
    /// Lowest and highest prediction that is believed; any other is an error, not an answer. Of a vector it holds
    /// for each value.
    pub range: [f64; 2],
    /// How many values a prediction has, when it is a vector.
    #[serde(default)]
    pub size: Option<NonZeroUsize>,
}

impl Output {
    /// How many values a prediction has; one, when it is no vector.
    pub fn values(&self) -> usize {
        self.size.map_or(1, NonZeroUsize::get)
    }
}

/// How values were distributed in training: what drift is measured against.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// How many rows were counted.
    pub rows: u64,
    /// One for each feature.
    pub features: BTreeMap<String, Histogram>,
    /// The model's own predictions; absent when they are vectors.
    #[serde(default)]
    pub prediction: Option<Histogram>,
}

/// Counts of training values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// For numbers: ascending; count `i` belongs to edge `i` up to, without, edge `i + 1` (with, for the last).
    #[serde(default)]
    pub edges: Option<Vec<f64>>,
    /// For numbers, and for the lengths of texts in characters, between the edges; for booleans false, then true; for categories in their order.
    pub counts: Vec<u64>,
}

/// Rows whose predictions are known: the model is not ready before it gives these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// How far from the known prediction is near enough, in the output's unit.
    pub tolerance: f64,
    /// The rows.
    pub examples: Vec<Example>,
}

/// One row whose prediction is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The row as a client would send it.
    pub input: serde_json::Value,
    /// What the training code predicted.
    pub prediction: Known,
}

/// A known prediction.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Known {
    /// A number.
    Number(f64),
    /// A vector.
    Vector(Vec<f64>),
}

impl Known {
    /// The numbers, whatever their form.
    pub fn values(&self) -> &[f64] {
        match self {
            Self::Number(number) => std::slice::from_ref(number),
            Self::Vector(numbers) => numbers,
        }
    }
}

/// A bundle whose files are what they should be, and whose description makes sense.
#[derive(Debug)]
pub struct Bundle {
    /// `model.json`.
    pub manifest: Manifest,
    /// What its architecture needs to know.
    pub shape: Shape,
    /// The features of `model.json`.
    pub schema: Schema,
    /// The other files.
    pub files: BTreeMap<String, Vec<u8>>,
    /// `model.json` as text, for `/v1/model`.
    pub text: Vec<u8>,
    /// The digest of the bundle.
    pub sha256: Sha256,
}

impl Bundle {
    /// Reads and checks a bundle.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(path: &Folder, promised: Option<&Sha256>) -> Result<Self, BundleError> {
        Self::of(path.model_file(promised)?, |digests| path.files(digests))
    }

    /// Checks what a `model.json` says; `files` gives the other files of the bundle, by the digests that it lists.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn of(
        file: ModelFile,
        files: impl FnOnce(&BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>, ArtifactError>,
    ) -> Result<Self, BundleError> {
        let mut manifest = manifest(&file.bytes)?;
        let shape = Shape::of(&mut manifest)?;
        let schema = Schema::new(manifest.features.clone())?;
        manifest.check(&schema)?;
        let files = files(&manifest.digests)?;
        Ok(Self { manifest, shape, schema, files, text: file.bytes, sha256: file.sha256 })
    }

    /// The golden examples, which nobody needs once they are checked.
    pub fn take_golden(&mut self) -> Golden {
        std::mem::take(&mut self.manifest.golden)
    }

    /// `model.json` with the signature and the digest of the bundle: what `/v1/model` answers.
    pub fn described(&self) -> Bytes {
        let mut described: serde_json::Value = serde_json::from_slice(&self.text).unwrap_or_default();
        if let Some(entries) = described.as_object_mut() {
            entries.insert("signature".to_owned(), json!(self.schema.signature()));
            entries.insert("sha256".to_owned(), json!(self.sha256.to_string()));
        }
        described.to_string().into()
    }

    /// One of the files.
    ///
    /// # Errors
    /// When the bundle does not list it.
    pub fn file(&self, name: &'static str) -> Result<&[u8], BundleError> {
        self.files.get(name).map(Vec::as_slice).ok_or(BundleError::Unlisted { name })
    }
}

fn manifest(text: &[u8]) -> Result<Manifest, BundleError> {
    let head: Head = serde_json::from_slice(text).map_err(BundleError::Model)?;
    if head.format != FORMAT {
        return Err(BundleError::Format { found: head.format });
    }
    if Architecture::named(&head.architecture).is_none() {
        return Err(BundleError::Architecture { found: head.architecture });
    }
    serde_json::from_slice(text).map_err(BundleError::Model)
}

impl Manifest {
    fn check(&self, schema: &Schema) -> Result<(), BundleError> {
        let [low, high] = self.output.range;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(BundleError::Output { name: self.output.name.clone() });
        }
        let tolerance = self.golden.tolerance;
        if self.golden.examples.is_empty() || !tolerance.is_finite() || tolerance <= 0.0 {
            return Err(BundleError::Golden);
        }
        self.reference.check(schema, &self.output)
    }
}

impl Reference {
    fn check(&self, schema: &Schema, output: &Output) -> Result<(), BundleError> {
        for feature in schema.features() {
            let name = feature.name();
            let problem = match (feature, self.features.get(name)) {
                (_, None) => Some("is missing"),
                (Feature::Numeric { .. } | Feature::Text { .. }, Some(histogram)) => histogram.over_numbers(self.rows),
                (Feature::Boolean { .. }, Some(histogram)) => histogram.over_kinds(2, self.rows),
                (Feature::Categorical { categories, .. }, Some(histogram)) => {
                    histogram.over_kinds(categories.len(), self.rows)
                }
            };
            refuse(name, problem)?;
        }
        let stranger = self.features.keys().find(|name| schema.features().all(|feature| feature.name() != *name));
        refuse(stranger.map_or("", String::as_str), stranger.map(|_| "belongs to no feature"))?;
        let problem = match (&self.prediction, output.size) {
            (None, None) => Some("is missing"),
            (Some(_), Some(_)) => Some("cannot be, since a prediction is a vector; leave it out"),
            (None, Some(_)) => None,
            (Some(histogram), None) => histogram.over_numbers(self.rows),
        };
        refuse("prediction", problem)
    }
}

fn refuse(name: &str, problem: Option<&'static str>) -> Result<(), BundleError> {
    match problem {
        None => Ok(()),
        Some(problem) => Err(BundleError::Reference { name: name.to_owned(), problem }),
    }
}

impl Histogram {
    fn over_numbers(&self, rows: u64) -> Option<&'static str> {
        match &self.edges {
            None => Some("needs `edges`"),
            Some(edges) if !edges.is_sorted_by(|low, high| low < high) => Some("has edges that do not ascend"),
            Some(edges) if edges.len() != self.counts.len() + 1 => Some("needs one edge more than counts"),
            Some(_) => self.adds_up_to(rows),
        }
    }

    fn over_kinds(&self, kinds: usize, rows: u64) -> Option<&'static str> {
        match &self.edges {
            Some(_) => Some("has edges, but its feature is no number"),
            None if self.counts.len() != kinds => Some("needs one count for each value"),
            None => self.adds_up_to(rows),
        }
    }

    fn adds_up_to(&self, rows: u64) -> Option<&'static str> {
        let total = self.counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        (total != Some(rows)).then_some("does not add up to `rows`")
    }
}
