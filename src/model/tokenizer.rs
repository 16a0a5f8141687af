//! Texts to ids: a `tokenizer.json` through the crate `tokenizers`.
//!
//! ```text
//! text -> normalized, split, looked up, [CLS] and [SEP] around -> ids -> as long as the model takes | cut, keeping [SEP] | chunks
//! ```
//!
//! A package for browsers has this file in a module of its own, apart from engine and files. What `tokenizer.json` says of truncation and padding is for training: neither is done here.

use super::Passages;
use crate::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;
use tokenizers::PostProcessor;

/// What to do with a text of more tokens than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Long {
    /// Leave the last ones out.
    #[default]
    Cut,
    /// Take the mean of its chunks' embeddings, weighted by their tokens, at L2 norm 1.
    Chunk,
}

/// Texts to ids.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The most ids of a text, those around it included.
    most: usize,
    /// How many ids are put around each text.
    around: usize,
}

/// The ids of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenized {
    /// As many as a model takes at most, special ones included.
    pub ids: Vec<u32>,
    /// How many the whole text has, if some were left out.
    pub cut_from: Option<usize>,
}

impl Tokenizer {
    /// The tokenizer of a model with a table of `vocab` tokens, which takes `most` at once: of the text of a `tokenizer.json`; `place` stands in errors.
    ///
    /// # Errors
    /// [`Error::Format`] if it cannot be read, or if it is of a model with other tokens.
    pub fn from_json(json: &str, place: &Path, vocab: usize, most: usize) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string());
        let made = inner.and_then(|inner| Self::new(inner, vocab, most));
        made.map_err(|what| Error::Format { path: place.into(), what })
    }

    fn new(mut inner: tokenizers::Tokenizer, vocab: usize, most: usize) -> Result<Self, String> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        let highest = inner.get_vocab(true).into_values().max();
        if let Some(id) = highest.filter(|&id| id as usize >= vocab) {
            return Err(format!("token {id}, and the model has {vocab} tokens"));
        }
        // Tables may be filled up to a round number, but not by as much again.
        let tokens = highest.map_or(0, |id| id as usize + 1);
        if tokens < vocab / 2 {
            return Err(format!("{tokens} tokens, and the model has {vocab}: it is another model's"));
        }
        // The crate takes it for granted when it puts tokens around a text.
        if let Some(processor) = inner.get_post_processor() {
            check_template(&serde_json::to_value(processor).map_err(|e| e.to_string())?, vocab)?;
        }
        let around = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if around >= most {
            return Err(format!("{around} tokens around each text, and the model takes {most} in all"));
        }
        Ok(Self { inner, most, around })
    }

    /// The ids of a text, the last ones left out if it has more than the model takes; what is put behind a text stays.
    ///
    /// # Errors
    /// [`Error::Usage`] for a text that cannot be split.
    pub fn tokenize(&self, text: &str) -> Result<Tokenized> {
        let mut ids = self.ids(text)?;
        if ids.len() <= self.most {
            return Ok(Tokenized { ids, cut_from: None });
        }
        let cut_from = Some(ids.len());
        // All but the last of what is around a text is taken to be in front.
        let last = if self.around > 0 { ids.last().copied() } else { None };
        ids.truncate(self.most - last.map_or(0, |_| 1));
        ids.extend(last);
        Ok(Tokenized { ids, cut_from })
    }

    /// The ids of a text in as many chunks as it takes, of about equal lengths, each as if it were a text.
    ///
    /// # Errors
    /// As [`Self::tokenize`].
    pub fn chunks(&self, text: &str) -> Result<Vec<Vec<u32>>> {
        let ids = self.ids(text)?;
        if ids.len() <= self.most {
            return Ok(vec![ids]);
        }
        let (front, behind) = (self.around.saturating_sub(1), usize::from(self.around > 0));
        let (first, last) = (&ids[..front], &ids[ids.len() - behind..]);
        let inside = &ids[front..ids.len() - behind];
        let chunks = inside.len().div_ceil(self.most - self.around);
        let each = inside.len().div_ceil(chunks);
        Ok(inside.chunks(each).map(|chunk| [first, chunk, last].concat()).collect())
    }

    /// Tokenizes texts.
    ///
    /// # Errors
    /// As [`Self::tokenize`].
    pub fn passages<T: AsRef<str>>(&self, texts: &[T], long: Long) -> Result<Passages> {
        let mut passages = Passages::default();
        for (at, text) in texts.iter().enumerate() {
            let before = passages.chunks.len();
            match long {
                Long::Cut => {
                    let tokenized = self.tokenize(text.as_ref())?;
                    passages.cut.extend(tokenized.cut_from.map(|n| (at, n)));
                    passages.chunks.push(tokenized.ids);
                }
                Long::Chunk => passages.chunks.extend(self.chunks(text.as_ref())?),
            }
            passages.per_text.push(passages.chunks.len() - before);
        }
        Ok(passages)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true);
        let encoding = encoding.map_err(|e| Error::Usage(format!("a text that has no tokens: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Whether a template (or each of a sequence of them) names what it defines, and one text where there is one.
fn check_template(processor: &Json, vocab: usize) -> Result<(), String> {
    let list = |key: &str| processor.get(key).and_then(Json::as_array).into_iter().flatten();
    list("processors").try_for_each(|processor| check_template(processor, vocab))?;
    let id = |piece: &Json, kind: &str| Some(piece.get(kind)?.get("id")?.as_str()?.to_string());
    let defined = |token: &String| processor.get("special_tokens").is_some_and(|d| d.get(token).is_some());
    let mut named = list("single").chain(list("pair")).filter_map(|piece| id(piece, "SpecialToken"));
    if let Some(token) = named.find(|token| !defined(token)) {
        return Err(format!("post_processor: '{token}' is not among its special tokens"));
    }
    if list("single").any(|piece| id(piece, "Sequence").is_some_and(|text| text != "A")) {
        return Err("post_processor: a second text where there is one".into());
    }
    let special = processor.get("special_tokens").and_then(Json::as_object).into_iter().flatten();
    let special = special.flat_map(|(token, ids)| {
        let ids = ids.get("ids").and_then(Json::as_array).into_iter().flatten();
        ids.filter_map(Json::as_u64).map(move |id| (token.as_str(), id))
    });
    // Of other kinds than templates: a token and its id.
    let pair = |key: &'static str| {
        Some((processor.get(key)?.get(0)?.as_str()?, processor.get(key)?.get(1)?.as_u64()?))
    };
    let mut ids = special.chain(["sep", "cls"].into_iter().filter_map(pair));
    if let Some((token, id)) = ids.find(|(_, id)| *id >= vocab as u64) {
        return Err(format!("post_processor: '{token}' is token {id}, and the model has {vocab} tokens"));
    }
    Ok(())
}
