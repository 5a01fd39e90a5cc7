//! The layers of BERT over the tokens of some texts, as candle calculates them; what lies between the products is
//! in `ops`.

use candle_core::{Device, Result, Tensor};

use super::super::ModelError;
use super::ops;
use super::weights::{self, Embeddings, Layer};
use crate::bundle::BertShape;
use crate::schema::narrow;

/// The encoder of one bundle.
pub(super) struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
    epsilon: f32,
    device: Device,
}

impl Encoder {
    pub(super) fn build(file: &[u8], shape: &BertShape, device: &Device) -> std::result::Result<Self, ModelError> {
        let (embeddings, layers) = weights::read(file, shape, device)?;
        let epsilon = narrow(shape.layer_norm_epsilon);
        Ok(Self { embeddings, layers, heads: shape.heads, hidden: shape.hidden, epsilon, device: device.clone() })
    }

    /// The last layer's vectors of all tokens, one behind the other.
    pub(super) fn forward(&self, texts: &[&[u32]]) -> std::result::Result<Vec<f32>, ModelError> {
        let lengths: Vec<_> = texts.iter().map(|text| text.len()).collect();
        self.embed(texts)
            .and_then(|mut x| {
                for layer in &self.layers {
                    x = self.layer(layer, &x, &lengths)?;
                }
                x.flatten_all()?.to_vec1()
            })
            .map_err(ModelError::Calculate)
    }

    /// What the tokens and their places say alone.
    fn embed(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let count: usize = texts.iter().map(|text| text.len()).sum();
        let mut words = Vec::with_capacity(count * self.hidden);
        let mut places = Vec::with_capacity(count * self.hidden);
        for text in texts {
            for (place, token) in text.iter().enumerate() {
                words.extend_from_slice(row(&self.embeddings.words, usize::try_from(*token)?, self.hidden)?);
                places.extend_from_slice(row(&self.embeddings.places, place, self.hidden)?);
            }
        }
        let words = Tensor::from_vec(words, (count, self.hidden), &self.device)?;
        let places = Tensor::from_vec(places, (count, self.hidden), &self.device)?;
        ops::add_and_normalize(words, &places, &self.embeddings.norm, self.epsilon)
    }

    fn layer(&self, layer: &Layer, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (weight, bias) = &layer.attention;
        let projected = ops::add_bias(x.matmul(weight)?, bias)?;
        let attended = self.attend(&projected, lengths)?.matmul(&layer.attended)?;
        let x = ops::add_and_normalize(attended, x, &layer.attended_norm, self.epsilon)?;
        let (weight, bias) = &layer.widen;
        let middle = ops::add_bias_and_gelu(x.matmul(weight)?, bias)?;
        ops::add_and_normalize(middle.matmul(&layer.narrow)?, &x, &layer.narrow_norm, self.epsilon)
    }

    /// Each text looks at its own tokens only.
    fn attend(&self, projected: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let mut start = 0;
        let mut texts = Vec::with_capacity(lengths.len());
        for length in lengths {
            texts.push(self.attend_one(&projected.narrow(0, start, *length)?, *length)?);
            start += length;
        }
        match texts.as_slice() {
            [one] => Ok(one.clone()),
            several => Tensor::cat(several, 0),
        }
    }

    fn attend_one(&self, projected: &Tensor, length: usize) -> Result<Tensor> {
        let parts = projected.reshape((length, 3, self.heads, self.hidden / self.heads))?;
        let part = |number| side_by_side(parts.narrow(1, number, 1)?.squeeze(1)?.transpose(0, 1)?);
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let shares = ops::softmax(queries.matmul(&keys.transpose(1, 2)?)?)?;
        shares.matmul(&values)?.transpose(0, 1)?.reshape((length, self.hidden))
    }
}

/// A factor of a product. On a processor it may lie where it is; on a device candle takes none with gaps between its rows.
fn side_by_side(factor: Tensor) -> Result<Tensor> {
    if factor.device().is_cpu() { Ok(factor) } else { factor.contiguous() }
}

/// One row of a table.
fn row(table: &[f32], position: usize, width: usize) -> Result<&[f32]> {
    table
        .chunks_exact(width)
        .nth(position)
        .ok_or_else(|| candle_core::Error::Msg(format!("row {position} is beyond the table")))
}
