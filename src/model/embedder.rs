//! Texts to vectors: a tokenizer and an encoder.
//!
//! ```text
//! texts -> Tokenizer::passages -> Passages -> Encoder::embed_passages -> [texts, D]
//! ```

use super::encoder::{Encoder, Settings, Sizes};
use super::tokenizer::{Long, Tokenizer};
use super::{Passages, Source};
use crate::engine::Engine;
use crate::{Result, Tensor, threads};
use std::path::Path;

/// A model that makes vectors of texts.
pub struct Embedder {
    pub encoder: Encoder,
    pub tokenizer: Tokenizer,
}

impl Embedder {
    /// Opens a folder, a packed file that carries config and tokenizer, or a GGUF file: see [`Source::open`].
    ///
    /// # Errors
    /// As [`Source::open`], [`Encoder::load`], [`Source::tokenizer`] and [`Tokenizer::from_json`].
    pub async fn open(engine: &Engine, path: impl AsRef<Path>, settings: Settings) -> Result<Self> {
        Self::load(engine, &Source::open(path)?, settings).await
    }

    /// The same of a source that is open.
    ///
    /// # Errors
    /// As [`Encoder::load`], [`Source::tokenizer`] and [`Tokenizer::from_json`].
    pub async fn load(engine: &Engine, source: &Source, settings: Settings) -> Result<Self> {
        let Sizes { vocab, positions, .. } = Sizes::of(&source.model)?;
        let (place, json) = source.tokenizer()?;
        // Half of the time that a small model takes to load.
        let tokenizer = threads::beside(move || Tokenizer::from_json(&json, &place, vocab, positions));
        let encoder = Encoder::load(engine, &source.model, settings).await;
        let tokenizer = tokenizer();
        Ok(Self { encoder: encoder?, tokenizer: tokenizer? })
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.encoder.sizes().hidden
    }

    /// Tokenizes texts.
    ///
    /// # Errors
    /// As [`Tokenizer::passages`].
    pub fn tokenize<T: AsRef<str>>(&self, texts: &[T], long: Long) -> Result<Passages> {
        self.tokenizer.passages(texts, long)
    }

    /// Embeddings `[texts, D]` of L2 norm 1. `done` is told of tokens as they are done.
    ///
    /// # Errors
    /// As [`Encoder::embed_passages`].
    pub async fn embed(&self, passages: &Passages, done: impl FnMut(usize)) -> Result<Tensor> {
        self.encoder.embed_passages(passages, done).await
    }
}
