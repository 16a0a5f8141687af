//! The WordPiece vocabulary of a GGUF file as a `tokenizer.json`, so that one reader serves both.

use crate::file::{Metadata, Value};
use serde_json::{Map, Value as Json, json};

/// Marks a token that begins a word in GGUF's vocabularies of BERT, where HuggingFace marks those that do not, by `##`.
const BEGINS_WORD: char = '\u{2581}';

/// The `tokenizer.json` that GGUF's metadata tells of: WordPiece, lower case and without accents, as llama.cpp takes every vocabulary of BERT.
pub(super) fn of_metadata(metadata: &Metadata) -> Result<String, String> {
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
    Ok(whole.to_string())
}
