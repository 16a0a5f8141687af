//! Texts to ids: `tokenizer.json` through the crate `tokenizers`, or the WordPiece vocabulary of a GGUF file.
//!
//! ```text
//! text -> normalized, split, looked up, [CLS] and [SEP] around -> ids -> as long as the model takes | cut, keeping [SEP] | chunks
//! ```
//!
//! What `tokenizer.json` says of truncation and padding is for training: neither is done here.

use super::Source;
use crate::file::hf::TOKENIZER;
use crate::file::{Metadata, Value};
use crate::{Error, Result};
use serde_json::{Map, Value as Json, json};
use std::path::PathBuf;
use tokenizers::PostProcessor;

/// Marks a token that begins a word in GGUF's vocabularies of BERT, where HuggingFace marks those that do not, by `##`.
const BEGINS_WORD: char = '\u{2581}';

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
    /// The tokenizer of a model with a table of `vocab` tokens, which takes `most` at once.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] if there is none, if it cannot be read, or if it makes ids that the model has no row for.
    pub fn open(source: &Source, vocab: usize, most: usize) -> Result<Self> {
        let (inner, place) = match &source.files {
            Some(files) => {
                let bad = |e| Error::Format { path: files.path(TOKENIZER), what: format!("{e}") };
                let text = files.needed(TOKENIZER)?;
                (tokenizers::Tokenizer::from_bytes(text).map_err(bad)?, files.path(TOKENIZER))
            }
            None => {
                let place: PathBuf = source.model.paths().next().map(Into::into).unwrap_or_default();
                let made = of_metadata(source.model.metadata());
                (made.map_err(|what| Error::Format { path: place.clone(), what })?, place)
            }
        };
        Self::new(inner, vocab, most).map_err(|what| Error::Format { path: place, what })
    }

    fn new(mut inner: tokenizers::Tokenizer, vocab: usize, most: usize) -> Result<Self, String> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        let highest = inner.get_vocab(true).into_values().max();
        if let Some(id) = highest.filter(|&id| id as usize >= vocab) {
            return Err(format!("token {id}, and the model has {vocab} tokens"));
        }
        // The crate takes it for granted when it puts tokens around a text.
        if let Some(processor) = inner.get_post_processor() {
            check_template(&serde_json::to_value(processor).map_err(|e| e.to_string())?)?;
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

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true);
        let encoding = encoding.map_err(|e| Error::Usage(format!("a text that has no tokens: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Whether a template (or each of a sequence of them) names what it defines, and one text where there is one.
fn check_template(processor: &Json) -> Result<(), String> {
    let list = |key: &str| processor.get(key).and_then(Json::as_array).into_iter().flatten();
    list("processors").try_for_each(check_template)?;
    let id = |piece: &Json, kind: &str| Some(piece.get(kind)?.get("id")?.as_str()?.to_string());
    let defined = |token: &String| processor.get("special_tokens").is_some_and(|d| d.get(token).is_some());
    let mut named = list("single").chain(list("pair")).filter_map(|piece| id(piece, "SpecialToken"));
    if let Some(token) = named.find(|token| !defined(token)) {
        return Err(format!("post_processor: '{token}' is not among its special tokens"));
    }
    if list("single").any(|piece| id(piece, "Sequence").is_some_and(|text| text != "A")) {
        return Err("post_processor: a second text where there is one".into());
    }
    Ok(())
}

/// The tokenizer that GGUF's metadata tells of: WordPiece, lower case and without accents, as llama.cpp takes every vocabulary of BERT.
fn of_metadata(metadata: &Metadata) -> Result<tokenizers::Tokenizer, String> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let value =
        |name: &str| metadata.get(&key(name)).ok_or_else(|| format!("the key '{}' is missing", key(name)));
    let model = value("model")?;
    if model.as_str() != Some("bert") {
        return Err(format!("'{}': {model}; lowbit runs tokenizers of bert", key("model")));
    }
    let Value::Array(tokens) = value("tokens")? else {
        return Err(format!("'{}' is no list", key("tokens")));
    };
    let id = |name: &str| -> Result<u32, String> {
        let id = value(name)?.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|&id| (id as usize) < tokens.len()).ok_or_else(|| format!("'{}' is no token", key(name)))
    };
    let ids = ["bos_token_id", "seperator_token_id", "unknown_token_id"].map(id);
    let [first, last, unknown] = ids;
    let (first, last, unknown) = (first?, last?, unknown?);
    let mut texts = Vec::with_capacity(tokens.len());
    for token in tokens.values() {
        let token = token.as_str().ok_or_else(|| format!("'{}' holds what is no text", key("tokens")))?;
        texts.push(match token.strip_prefix(BEGINS_WORD) {
            Some(word) => word.to_string(),
            // Special tokens are as they are.
            None if token.starts_with('[') && token.ends_with(']') => token.to_string(),
            None => format!("##{token}"),
        });
    }
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let added = (0u32..).zip(&texts).filter(|(_, text)| special.contains(&text.as_str())).map(|(id, text)| {
        json!({
            "id": id, "content": text, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let around = |id: u32| json!([texts[id as usize], id]);
    let whole = json!({
        "version": "1.0",
        "added_tokens": Json::from_iter(added),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "cls": around(first), "sep": around(last) },
        "model": {
            "type": "WordPiece", "unk_token": texts[unknown as usize], "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": texts.iter().zip(0u32..).map(|(text, id)| (text.clone(), id.into())).collect::<Map<_, _>>(),
        },
    });
    tokenizers::Tokenizer::from_bytes(whole.to_string()).map_err(|e| e.to_string())
}
