//! The weights of a BERT encoder, under the names that they have in files of Hugging Face, put into the order in
//! which the encoder reads them. The three products of attention become one, and its scale goes into the queries.

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::super::tensors::Tensors;
use crate::bundle::BertShape;
use crate::schema::narrow;

/// What turns tokens into the first vectors.
pub(super) struct Embeddings {
    /// [vocabulary, hidden]
    pub(super) words: Vec<f32>,
    /// [positions, hidden]; the one token type that is used is added to each.
    pub(super) places: Vec<f32>,
    /// [3, hidden]: see [`norm`].
    pub(super) norm: Tensor,
}

/// One layer of the encoder. Weights are [in, out], biases [1, out].
pub(super) struct Layer {
    /// To queries, keys and values, side by side.
    pub(super) attention: (Tensor, Tensor),
    pub(super) attended: Tensor,
    /// [3, hidden]
    pub(super) attended_norm: Tensor,
    pub(super) widen: (Tensor, Tensor),
    pub(super) narrow: Tensor,
    /// [3, hidden]
    pub(super) narrow_norm: Tensor,
}

/// All weights of a file.
pub(super) fn read(file: &[u8], shape: &BertShape, device: &Device) -> Result<(Embeddings, Vec<Layer>), ModelError> {
    let mut reader = Reader { tensors: Tensors::read(file)?, shape, device };
    // Positions from 0 to the last, and a classifier that embeddings do not use.
    reader.tensors.pass_over(|name| name == "embeddings.position_ids" || name.starts_with("pooler."));
    let embeddings = reader.embeddings()?;
    let layers = (0..shape.layers).map(|layer| reader.layer(layer)).collect::<Result<_, _>>()?;
    reader.tensors.finish()?;
    Ok((embeddings, layers))
}

struct Reader<'r> {
    tensors: Tensors,
    shape: &'r BertShape,
    device: &'r Device,
}

impl Reader<'_> {
    fn embeddings(&mut self) -> Result<Embeddings, ModelError> {
        let (shape, width) = (self.shape, self.shape.hidden);
        let words = self.tensors.floats("embeddings.word_embeddings.weight", &[shape.vocabulary, width])?;
        let mut places = self.tensors.floats("embeddings.position_embeddings.weight", &[shape.positions, width])?;
        let kinds = self.tensors.floats("embeddings.token_type_embeddings.weight", &[shape.token_types, width])?;
        for place in places.chunks_exact_mut(width) {
            place.iter_mut().zip(&kinds).for_each(|(value, kind)| *value += kind);
        }
        let norm = self.norm("embeddings.LayerNorm", vec![0.0; width])?;
        Ok(Embeddings { words, places, norm })
    }

    fn layer(&mut self, layer: usize) -> Result<Layer, ModelError> {
        let (width, middle) = (self.shape.hidden, self.shape.intermediate);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let attended = self.linear(&name("attention.output.dense"), [width, width])?;
        let widen = self.linear(&name("intermediate.dense"), [middle, width])?;
        let narrow = self.linear(&name("output.dense"), [width, middle])?;
        Ok(Layer {
            attention: self.attention(&name("attention.self"))?,
            attended: self.weight(&attended.0, [width, width])?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"), attended.1)?,
            widen: (self.weight(&widen.0, [middle, width])?, self.row(widen.1)?),
            narrow: self.weight(&narrow.0, [width, middle])?,
            narrow_norm: self.norm(&name("output.LayerNorm"), narrow.1)?,
        })
    }

    fn attention(&mut self, name: &str) -> Result<(Tensor, Tensor), ModelError> {
        let width = self.shape.hidden;
        let (mut weights, mut biases) = self.linear(&format!("{name}.query"), [width, width])?;
        let scale = scale(width / self.shape.heads);
        weights.iter_mut().chain(&mut biases).for_each(|value| *value = narrow(f64::from(*value) * scale));
        for part in ["key", "value"] {
            let (weight, bias) = self.linear(&format!("{name}.{part}"), [width, width])?;
            weights.extend(weight);
            biases.extend(bias);
        }
        Ok((self.weight(&weights, [3 * width, width])?, self.row(biases)?))
    }

    /// Weight and bias as the file holds them: [out, in] and [out].
    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let weight = self.tensors.floats(&format!("{name}.weight"), &shape)?;
        let bias = self.tensors.floats(&format!("{name}.bias"), &shape[..1])?;
        Ok((weight, bias))
    }

    /// What stands before a normalised sum: the bias of the product before it, then gain and shift.
    fn norm(&mut self, name: &str, bias: Vec<f32>) -> Result<Tensor, ModelError> {
        let width = self.shape.hidden;
        let mut rows = bias;
        rows.extend(self.tensors.floats(&format!("{name}.weight"), &[width])?);
        rows.extend(self.tensors.floats(&format!("{name}.bias"), &[width])?);
        Tensor::from_vec(rows, (3, width), self.device).map_err(ModelError::Calculate)
    }

    fn weight(&self, values: &[f32], shape: [usize; 2]) -> Result<Tensor, ModelError> {
        Tensor::from_slice(values, (shape[0], shape[1]), self.device)
            .and_then(|weight| weight.t()?.contiguous())
            .map_err(ModelError::Calculate)
    }

    fn row(&self, values: Vec<f32>) -> Result<Tensor, ModelError> {
        let width = values.len();
        Tensor::from_vec(values, (1, width), self.device).map_err(ModelError::Calculate)
    }
}

/// 1 / √size (Vaswani et al., 2017).
fn scale(size: usize) -> f64 {
    1.0 / f64::from(u32::try_from(size).unwrap_or(u32::MAX)).sqrt()
}
