//! Texts to vectors.
//!
//! ```text
//! texts -> tokens -> batches of some tokens -> Encoder::embed -> one read a batch -> [texts, D]
//! ```

use super::Source;
use super::encoder::{Encoder, Settings};
use super::tokenizer::Tokenizer;
use crate::engine::Engine;
use crate::{Result, Tensor};
use std::path::Path;

/// Tokens of a batch: what fills a GPU, and memory of which a CPU's caches hold a part.
const BATCH_TOKENS: usize = 4096;
const BATCH_TOKENS_CPU: usize = 1024;

/// What to do with a text of more tokens than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Long {
    /// Leave the last ones out.
    #[default]
    Cut,
    /// Take the mean of its chunks' embeddings, weighted by their tokens, at L2 norm 1.
    Chunk,
}

/// Texts that are tokenized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passages {
    /// One or more for each text.
    chunks: Vec<Vec<u32>>,
    /// How many chunks each text has.
    per_text: Vec<usize>,
    /// Texts that were cut, and how many tokens they have.
    pub cut: Vec<(usize, usize)>,
}

impl Passages {
    /// Tokens of all chunks.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.per_text.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.per_text.is_empty()
    }
}

/// A model that makes vectors of texts.
pub struct Embedder {
    pub encoder: Encoder,
    pub tokenizer: Tokenizer,
}

impl Embedder {
    /// Opens a folder, a packed file that carries config and tokenizer, or a GGUF file: see [`Source::open`].
    ///
    /// # Errors
    /// As [`Source::open`], [`Encoder::load`] and [`Tokenizer::open`].
    pub async fn open(engine: &Engine, path: impl AsRef<Path>, settings: Settings) -> Result<Self> {
        Self::load(engine, &Source::open(path)?, settings).await
    }

    /// The same of a source that is open.
    ///
    /// # Errors
    /// As [`Encoder::load`] and [`Tokenizer::open`].
    pub async fn load(engine: &Engine, source: &Source, settings: Settings) -> Result<Self> {
        let encoder = Encoder::load(engine, &source.model, settings).await?;
        let sizes = encoder.sizes();
        let tokenizer = Tokenizer::open(source, sizes.vocab, sizes.positions)?;
        Ok(Self { encoder, tokenizer })
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.encoder.sizes().hidden
    }

    /// Tokenizes texts.
    ///
    /// # Errors
    /// As [`Tokenizer::tokenize`].
    pub fn tokenize<T: AsRef<str>>(&self, texts: &[T], long: Long) -> Result<Passages> {
        let mut passages = Passages::default();
        for (at, text) in texts.iter().enumerate() {
            let before = passages.chunks.len();
            match long {
                Long::Cut => {
                    let tokenized = self.tokenizer.tokenize(text.as_ref())?;
                    passages.cut.extend(tokenized.cut_from.map(|n| (at, n)));
                    passages.chunks.push(tokenized.ids);
                }
                Long::Chunk => passages.chunks.extend(self.tokenizer.chunks(text.as_ref())?),
            }
            passages.per_text.push(passages.chunks.len() - before);
        }
        Ok(passages)
    }

    /// Embeddings `[texts, D]` of L2 norm 1. `done` is told of tokens as they are done.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub async fn embed(&self, passages: &Passages, mut done: impl FnMut(usize)) -> Result<Tensor> {
        let width = self.width();
        let mut values = Vec::with_capacity(passages.chunks.len() * width);
        for batch in self.batches(passages) {
            let (ids, lengths) = joined(batch);
            values.extend_from_slice(&self.encoder.embed(&ids, &lengths)?.read().await?.to_f32());
            done(ids.len());
        }
        if passages.chunks.len() == passages.per_text.len() {
            return Tensor::from_f32([passages.len(), width], values);
        }
        let mut all = Vec::with_capacity(passages.len() * width);
        let (mut chunks, mut rows) = (&passages.chunks[..], &values[..]);
        for &n in &passages.per_text {
            let (own, behind) = chunks.split_at(n);
            let (of_text, rest) = rows.split_at(n * width);
            all.extend(mean(own, of_text, width));
            (chunks, rows) = (behind, rest);
        }
        Tensor::from_f32([passages.len(), width], all)
    }

    /// Chunks in a row, so many that they have about the tokens of a batch.
    pub fn batches<'a>(&self, passages: &'a Passages) -> Vec<&'a [Vec<u32>]> {
        let most = if self.encoder.engine().is_cpu() { BATCH_TOKENS_CPU } else { BATCH_TOKENS };
        let mut batches = Vec::new();
        let (mut rest, mut tokens, mut n) = (&passages.chunks[..], 0, 0);
        for chunk in &passages.chunks {
            if n > 0 && tokens + chunk.len() > most {
                let (batch, behind) = rest.split_at(n);
                batches.push(batch);
                (rest, tokens, n) = (behind, 0, 0);
            }
            tokens += chunk.len();
            n += 1;
        }
        if n > 0 {
            batches.push(rest);
        }
        batches
    }
}

/// The tokens of a batch one after the other, and how many each has.
pub fn joined(batch: &[Vec<u32>]) -> (Vec<u32>, Vec<usize>) {
    (batch.concat(), batch.iter().map(Vec::len).collect())
}

/// The mean of chunks' embeddings, weighted by tokens, at L2 norm 1.
fn mean(chunks: &[Vec<u32>], rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for (chunk, row) in chunks.iter().zip(rows.chunks(width)) {
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += chunk.len() as f64 * f64::from(*v));
    }
    let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
    let share = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    sum.into_iter().map(|v| (v * share) as f32).collect()
}
