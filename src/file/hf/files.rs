//! The text files that say what a model is: those beside it in a folder, or the same texts in the metadata of a packed file.
//!
//! ```text
//! FOLDER/config.json, tokenizer.json, ...  --carry-->  metadata "config.json", "tokenizer.json", ... of a packed safetensors
//!              └──────────────── read("config.json") ────────────────┘
//! ```
//!
//! A file that carries them is a model by itself: `lowbit embed` runs it, and a GGUF file can be made of it.

use super::CONFIG;
use crate::file::bytes::{bad, io};
use crate::file::metadata::{Metadata, Value};
use crate::file::model::Model;
use crate::file::safetensors;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The tokenizer, whole.
pub const TOKENIZER: &str = "tokenizer.json";
/// What a tokenizer is to do beside that.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The modules of sentence-transformers, and the file of each in a folder of its own.
pub const MODULES: &str = "modules.json";

/// A text file beside a model is read whole; the largest tokenizers have some 40 MB.
const MAX_BYTES: u64 = 1 << 28;
/// So many bytes go along with a packed file: a header of safetensors has at most 100 MB.
const MAX_CARRIED: usize = 64 << 20;

/// Where the texts are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The folder, or the file that carries them.
    place: PathBuf,
    /// The texts that a file carries; none: they lie in the folder.
    carried: Option<HashMap<String, String>>,
}

impl Files {
    /// Those of a folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { place: folder.into(), carried: None }
    }

    /// Those that a packed file carries; none if it has no config.
    pub fn carried_by(model: &Model) -> Option<Self> {
        if !std::ptr::eq(model.format(), &safetensors::FORMAT) {
            return None;
        }
        model.metadata().get(CONFIG)?;
        let texts = model.metadata().iter().filter_map(|(key, value)| match value {
            Value::String(text) if key.ends_with(".json") || key.ends_with(".jinja") => {
                Some((key.to_string(), text.clone()))
            }
            _ => None,
        });
        let place = model.paths().next().unwrap_or(Path::new("")).to_path_buf();
        Some(Self { place, carried: Some(texts.collect()) })
    }

    /// Whether they lie in a folder.
    pub fn is_folder(&self) -> bool {
        self.carried.is_none()
    }

    /// The folder or the file, for messages.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// What stands for a file in messages: its path, or the packed file and its name there.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.carried {
            None => self.place.join(name),
            Some(_) => format!("{}: {name}", self.place.display()).into(),
        }
    }

    /// A text, if it is there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is too large or no UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        if let Some(carried) = &self.carried {
            return Ok(carried.get(name).cloned());
        }
        let path = self.place.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let len = std::fs::metadata(&path).map_err(io(&path))?.len();
        if len > MAX_BYTES {
            return Err(bad(&path, format!("{len} bytes; at most {MAX_BYTES} are read")));
        }
        let bytes = std::fs::read(&path).map_err(io(&path))?;
        let text =
            String::from_utf8(bytes).map_err(|e| bad(&path, format!("no UTF-8: {}", e.utf8_error())))?;
        Ok(Some(text))
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// As [`Self::text`]; [`Error::Io`] or [`Error::Format`] if it is not.
    pub fn needed(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| match self.carried {
            None => Error::Io {
                path: self.path(name),
                source: std::io::Error::from(std::io::ErrorKind::NotFound),
            },
            Some(_) => bad(&self.place, format!("its metadata has no '{name}'")),
        })
    }

    /// Puts the texts into the metadata of a file that is to carry them.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn carry(&self, metadata: &mut Metadata) -> Result<()> {
        let mut names = vec![CONFIG.to_string(), TOKENIZER.into(), TOKENIZER_CONFIG.into(), MODULES.into()];
        names.extend(super::pooling_folder(self)?.map(|folder| format!("{folder}/{CONFIG}")));
        let mut bytes = 0usize;
        for name in names {
            let Some(text) = self.text(&name)? else { continue };
            bytes = bytes.saturating_add(text.len());
            if bytes <= MAX_CARRIED {
                metadata.set(&name, Value::String(text));
            }
        }
        Ok(())
    }
}
