//! Sentence embeddings with BERT: tokens, the encoder, the mean of each text's token vectors.
//!
//! Texts of one request go through the encoder side by side without padding: the products take the tokens of all
//! of them as one matrix, and attention, where padding would cost most, looks at each text alone. So a batch costs
//! what its tokens cost, needs no mask, and gives each text what it would get alone.

mod encoder;
mod ops;
mod weights;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use encoder::Encoder;
use serde::de::IgnoredAny;
use tokenizers::{Tokenizer, TruncationParams};

use super::{Model, ModelError};
use crate::bundle::{BertShape, Bundle, Pooling};
use crate::schema::{Feature, Rows};

/// The file with the vocabulary and how texts are cut up.
const TOKENIZER: &str = "tokenizer.json";

/// Tokens that go through the encoder together: larger products gain little, and their values leave the cache.
const TOKENS_TOGETHER: usize = 512;

/// See [`Model`].
pub(super) struct Bert {
    tokenizer: Tokenizer,
    encoder: Encoder,
    shape: BertShape,
}

impl Bert {
    pub(super) fn build(bundle: &Bundle, shape: &BertShape, device: &Device) -> Result<Self, ModelError> {
        check_features(bundle)?;
        check_shape(bundle, shape)?;
        let file = bundle.file(TOKENIZER)?;
        let tokenizer = without_panic(|| tokenizer(file, shape))?;
        let encoder = Encoder::build(bundle.file(super::tensors::WEIGHTS)?, shape, device)?;
        Ok(Self { tokenizer, encoder, shape: shape.clone() })
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(ModelError::Text)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The vectors of some texts, one behind the other.
    fn embed(&self, texts: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let tokens = self.encoder.forward(texts)?;
        let mut vectors = Vec::with_capacity(texts.len() * self.shape.hidden);
        let mut rest = tokens.as_slice();
        for text in texts {
            let (own, others) = rest.split_at(text.len() * self.shape.hidden);
            vectors.extend(self.pooled(own));
            rest = others;
        }
        Ok(vectors)
    }

    /// One vector of those of a text's tokens.
    fn pooled(&self, tokens: &[f32]) -> Vec<f32> {
        let mut vector = match self.shape.pooling {
            Pooling::Mean => mean(tokens, self.shape.hidden),
        };
        if self.shape.normalize {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
            for value in &mut vector {
                *value /= length;
            }
        }
        vector
    }
}

impl Model for Bert {
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
        let texts = rows.texts.iter().map(|text| self.tokens(text)).collect::<Result<Vec<_>, _>>()?;
        let mut vectors = Vec::with_capacity(texts.len() * self.shape.hidden);
        let mut rest = texts.as_slice();
        while !rest.is_empty() {
            let (together, others) = rest.split_at(fitting(rest));
            let together: Vec<_> = together.iter().map(Vec::as_slice).collect();
            vectors.extend(self.embed(&together)?);
            rest = others;
        }
        Ok(vectors)
    }

    /// What is cut off costs nothing.
    fn weight(&self, rows: &Rows) -> usize {
        let longest = self.shape.truncate_at_tokens * BYTES_OF_A_TOKEN;
        rows.texts.iter().map(|text| text.len().clamp(1, longest)).sum()
    }
}

/// About how many bytes of plain text, spaces included, become one token.
const BYTES_OF_A_TOKEN: usize = 5;

/// How many of these texts go through the encoder together: one at least.
fn fitting(texts: &[Vec<u32>]) -> usize {
    let mut tokens = 0;
    let beyond = texts.iter().position(|text| {
        tokens += text.len();
        tokens > TOKENS_TOGETHER
    });
    beyond.unwrap_or(texts.len()).max(1)
}

fn mean(tokens: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f32; width];
    let mut count = 0.0_f32;
    for token in tokens.chunks_exact(width) {
        count += 1.0;
        for (sum, value) in sums.iter_mut().zip(token) {
            *sum += value;
        }
    }
    sums.into_iter().map(|sum| sum / count.max(1.0)).collect()
}

fn check_features(bundle: &Bundle) -> Result<(), ModelError> {
    let features: Vec<_> = bundle.schema.features().collect();
    match features.as_slice() {
        [Feature::Text { .. }] => Ok(()),
        _ => Err(ModelError::Features { architecture: "bert", wanted: "one text, and nothing else" }),
    }
}

fn check_shape(bundle: &Bundle, shape: &BertShape) -> Result<(), ModelError> {
    let refuse = |what: String| Err(ModelError::Impossible { what });
    if bundle.manifest.output.size.map(std::num::NonZeroUsize::get) != Some(shape.hidden) {
        return Err(ModelError::Output { wanted: format!("{} values", shape.hidden) });
    }
    if shape.heads == 0 || !shape.hidden.is_multiple_of(shape.heads) {
        return refuse(format!("that {} values are looked at in {} equal parts", shape.hidden, shape.heads));
    }
    if shape.intermediate == 0 || shape.hidden > usize::from(u16::MAX) {
        return refuse(format!("that layers are {} wide, {} in the middle", shape.hidden, shape.intermediate));
    }
    if shape.truncate_at_tokens < 3 || shape.truncate_at_tokens > shape.positions {
        return refuse(format!(
            "that texts end at {} tokens, but that takes 3 to {}",
            shape.truncate_at_tokens, shape.positions
        ));
    }
    if !(shape.layer_norm_epsilon >= 0.0 && shape.layer_norm_epsilon < 1.0) {
        return refuse(format!("that layer_norm_epsilon is {}", shape.layer_norm_epsilon));
    }
    Ok(())
}

/// The library takes some files at their word, and panics where that is wrong. What it says of that helps nobody who looks for
/// the file.
fn without_panic(read: impl FnOnce() -> Result<Tokenizer, ModelError>) -> Result<Tokenizer, ModelError> {
    // The hook is one for the process.
    static HOOK: Mutex<()> = Mutex::new(());
    let _mine = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let panicked = |_what_it_said| Err(ModelError::Tokenizer("it contradicts itself".into()));
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_what_it_said| {}));
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    panic::set_hook(hook);
    read.unwrap_or_else(panicked)
}

/// The tokenizer of a bundle. Whatever its file says of padding and truncation, the description counts. A text without a token
/// cannot be calculated with, so there must be some that stand around every text.
fn tokenizer(file: &[u8], shape: &BertShape) -> Result<Tokenizer, ModelError> {
    serde_json::from_slice::<IgnoredAny>(file).map_err(|broken| ModelError::Tokenizer(broken.into()))?;
    let mut tokenizer = Tokenizer::from_bytes(file).map_err(ModelError::Tokenizer)?;
    let truncation = TruncationParams { max_length: shape.truncate_at_tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(ModelError::Tokenizer)?;
    tokenizer.with_padding(None);
    let known = tokenizer.get_vocab_size(true);
    if known > shape.vocabulary {
        let what = format!("that there are {} tokens, but tokenizer.json has {known}", shape.vocabulary);
        return Err(ModelError::Impossible { what });
    }
    if tokenizer.encode_fast("", true).map_err(ModelError::Text)?.is_empty() {
        return Err(ModelError::NoTokens);
    }
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_go_together_until_their_tokens_are_many_and_one_always_goes() {
        let texts = |lengths: &[usize]| lengths.iter().map(|length| vec![0; *length]).collect::<Vec<_>>();
        assert_eq!(fitting(&texts(&[500, 12, 1])), 2);
        assert_eq!(fitting(&texts(&[600, 1])), 1);
        assert_eq!(fitting(&texts(&[1, 2, 3])), 3);
    }

    #[test]
    fn the_mean_is_that_of_the_tokens() {
        assert_eq!(mean(&[1.0, 10.0, 3.0, 20.0], 2), [2.0, 15.0]);
        assert_eq!(mean(&[], 2), [0.0, 0.0]);
    }
}
