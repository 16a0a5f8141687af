//! Models of texts: a file of one as an encoder, ids as embeddings. How texts become ids is `tokenizer`'s, which may be another module.
//!
//! ```text
//! first bytes -> encoderHead -> the sizes as JSON, or why it is no such model      all of the file -> loadEncoder -> RawEncoder -> embed
//! ```

use super::engine::RawEngine;
use super::{promise, thrown};
use crate::Result;
use crate::file::Model;
use crate::model::{Encoder, Passages, Settings, Sizes, Source};
use js_sys::{Float32Array, Function, Promise};
use serde_json::json;
use std::path::Path;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

fn json(sizes: &Sizes) -> String {
    let Sizes { layers, hidden, heads, inner, positions, vocab } = sizes;
    json!({ "layers": layers, "hidden": hidden, "heads": heads, "inner": inner, "positions": positions, "vocab": vocab }).to_string()
}

/// The sizes of the model in a file, from its first bytes; undefined if its header goes on behind them. `name` stands in errors.
#[wasm_bindgen(js_name = encoderHead)]
pub fn encoder_head(name: String, head: Vec<u8>, length: f64) -> Result<Option<String>, JsValue> {
    let sizes = || {
        let Some(model) = Model::from_head(&name, head, length as u64)? else { return Ok(None) };
        Sizes::of(&Source::of(model, None, Path::new(&name))?.model).map(Some)
    };
    Ok(sizes().map_err(thrown)?.as_ref().map(json))
}

/// A model of texts on an engine, from all of its file: a promise of a [`RawEncoder`]. `activation` undefined: as the file says.
#[wasm_bindgen(js_name = loadEncoder)]
pub fn load_encoder(engine: &RawEngine, name: String, file: Vec<u8>, activation: Option<String>) -> Promise {
    let (engine, activation) = (engine.0.clone(), activation.map(|text| text.parse()).transpose());
    promise(async move {
        let settings = Settings { activation: activation? };
        let source = Source::of(Model::from_bytes(&name, file)?, None, Path::new(&name))?;
        let (place, tokenizer) = source.tokenizer()?;
        let encoder = Rc::new(Encoder::load(&engine, &source.model, settings).await?);
        Ok(RawEncoder { encoder, place: place.display().to_string(), tokenizer })
    })
}

/// A model of texts.
#[wasm_bindgen]
pub struct RawEncoder {
    encoder: Rc<Encoder>,
    place: String,
    tokenizer: String,
}

#[wasm_bindgen]
impl RawEncoder {
    /// Its sizes, as JSON.
    #[wasm_bindgen(getter)]
    pub fn sizes(&self) -> String {
        json(&self.encoder.sizes())
    }

    /// What is in its `tokenizer.json`; the second time nothing.
    #[wasm_bindgen(js_name = takeTokenizer)]
    pub fn take_tokenizer(&mut self) -> String {
        std::mem::take(&mut self.tokenizer)
    }

    /// Where the tokenizer is from, for errors.
    #[wasm_bindgen(getter)]
    pub fn place(&self) -> String {
        self.place.clone()
    }

    /// Embeddings of texts whose chunks have these ids, as [`Passages::new`] takes them; `progress` hears of tokens that are done: a promise of a `Float32Array`.
    pub fn embed(&self, ids: &[u32], lengths: &[u32], per_text: &[u32], progress: Function) -> Promise {
        let counts = |counts: &[u32]| counts.iter().map(|&n| n as usize).collect::<Vec<_>>();
        let passages = Passages::new(ids, &counts(lengths), counts(per_text));
        let encoder = self.encoder.clone();
        promise(async move {
            let tell = |tokens: usize| drop(progress.call1(&JsValue::UNDEFINED, &(tokens as f64).into()));
            let embeddings = encoder.embed_passages(&passages?, tell).await?;
            Ok(Float32Array::from(&*embeddings.to_f32()))
        })
    }
}
