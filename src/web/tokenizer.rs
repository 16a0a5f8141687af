//! Texts to ids, as JavaScript calls it: a module by itself, since it is half as large as all the rest and few pages want it.
//!
//! ```text
//! tokenizer.json -> RawTokenizer -> tokenize: texts -> ids of all chunks, tokens of each chunk, chunks of each text, texts that were cut
//! ```

use super::thrown;
use crate::model::{Long, Tokenizer};
use crate::{Error, Result};
use js_sys::Uint32Array;
use std::path::Path;
use wasm_bindgen::prelude::*;

/// Texts to ids.
#[wasm_bindgen]
pub struct RawTokenizer(Tokenizer);

#[wasm_bindgen]
impl RawTokenizer {
    /// The tokenizer of a model with a table of `vocab` tokens that takes `most` at once; `place` stands in errors.
    #[wasm_bindgen(constructor)]
    pub fn new(json: &str, place: &str, vocab: u32, most: u32) -> Result<Self, JsValue> {
        let made = Tokenizer::from_json(json, Path::new(place), vocab as usize, most as usize);
        made.map(Self).map_err(thrown)
    }

    /// Texts of more tokens than the model takes are cut (`long` is `cut`) or taken in chunks (`chunk`): an array of `Uint32Array`s, the ids of all chunks, how many
    /// each chunk has, how many chunks each text has, and of each text that was cut its number and its tokens.
    pub fn tokenize(&self, texts: Vec<String>, long: &str) -> Result<js_sys::Array, JsValue> {
        let long = match long {
            "cut" => Long::Cut,
            "chunk" => Long::Chunk,
            _ => return Err(thrown(Error::Usage(format!("long '{long}': there are cut and chunk")))),
        };
        let passages = self.0.passages(&texts, long).map_err(thrown)?;
        let (ids, lengths) = passages.joined();
        let counts =
            |counts: &[usize]| Uint32Array::from(&*counts.iter().map(|&n| n as u32).collect::<Vec<_>>());
        let cut: Vec<usize> = passages.cut.iter().flat_map(|&(text, tokens)| [text, tokens]).collect();
        let parts = [Uint32Array::from(&*ids), counts(&lengths), counts(passages.per_text()), counts(&cut)];
        Ok(js_sys::Array::from_iter(parts))
    }
}
