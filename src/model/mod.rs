//! Networks that run on the engine: a transformer encoder (BERT) and the embeddings of texts that it makes.
//!
//! ```text
//! folder | packed safetensors | GGUF -> open: GGUF's names and keys, tokenizer.json
//!                                         -> Encoder: embed -> (attention, linear layers, layer_norm) x layers -> pool -> normalize -> [B, D]
//! texts -> Tokenizer -> ids, lengths ───────────┘                (nothing is read before the end)
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `encoder` | weights on an engine, the forward pass |
//! | `passages` | texts that are tokenized, embedded in batches |
//! | `wordpiece` | the tokenizer of a GGUF file |
//! | `tokenizer` | texts to ids, cut to what a model takes (feature `tokenizer`) |
//! | `embedder` | encoder and tokenizer together (feature `tokenizer`) |
//!
//! Weights may be in any scheme, each in its own. Not here: how a file is read (`file`), arithmetic (`engine`).

#[cfg(feature = "tokenizer")]
mod embedder;
pub mod encoder;
mod passages;
#[cfg(feature = "tokenizer")]
mod tokenizer;
mod wordpiece;

#[cfg(feature = "tokenizer")]
pub use embedder::Embedder;
pub use encoder::{Encoder, Settings, Sizes};
pub use passages::{Passages, joined};
#[cfg(feature = "tokenizer")]
pub use tokenizer::{Long, Tokenized, Tokenizer};

use crate::file::Model;
use crate::file::hf::{self, Files, TOKENIZER, Tokens, Weights};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A model as a network wants it, and where its texts are.
pub struct Source {
    /// With GGUF's names and keys.
    pub model: Model,
    /// The texts of a HuggingFace folder, or those that a packed file carries; none for GGUF, whose metadata says it.
    pub files: Option<Files>,
}

impl Source {
    /// Opens a HuggingFace folder, a packed safetensors file that carries the config and the tokenizer of one, or a GGUF file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for files that have tensors only, with what to do; [`Error::Format`] for configs that are missing or do not match the
    /// tensors; as [`Model::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let model = Model::open(path)?;
        Self::of(model, hf::is_one(path).then(|| Files::in_folder(path)), path)
    }

    /// The same of a model that is open already; `place` stands in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(model: Model, files: Option<Files>, place: &Path) -> Result<Self> {
        if model.metadata().get(ARCHITECTURE).is_some() {
            return Ok(Self { model, files: None });
        }
        let Some(files) = files.or_else(|| Files::carried_by(&model)) else {
            let why = "there is no config.json beside the tensors or among the metadata; give the model's folder, \
                       or a file that lowbit quantize made of it";
            return Err(Error::unsupported(format!("{} as a model that can be run", place.display()), why));
        };
        hf::check_encoder(&files)?;
        let model = hf::map(model, &files, Weights::AsTheyAre, Tokens::LeftOut)?;
        Ok(Self { model, files: Some(files) })
    }

    /// What stands in `tokenizer.json`, or what would, of a GGUF file; and where it is from, for errors.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] if there is none, or none of BERT's.
    pub fn tokenizer(&self) -> Result<(PathBuf, String)> {
        if let Some(files) = &self.files {
            return Ok((files.path(TOKENIZER), files.needed(TOKENIZER)?));
        }
        let place: PathBuf = self.model.paths().next().map(Into::into).unwrap_or_default();
        let made = wordpiece::of_metadata(self.model.metadata());
        made.map(|json| (place.clone(), json)).map_err(|what| Error::Format { path: place, what })
    }
}

/// The key that says which network a GGUF file is of.
const ARCHITECTURE: &str = "general.architecture";
