//! `tokenizer.json` and the files beside it, as the metadata that llama.cpp's tokenizers are made of.
//!
//! ```text
//! tokenizer.json model -> Kind: byte-level BPE ("gpt2"), BPE with bytes to fall back on ("llama"), WordPiece ("bert")
//!   vocabulary, added tokens -> tokens, token_type [, scores]      pre-tokenizer -> pre      merges -> merges
//! tokenizer.json, tokenizer_config.json, config.json -> ids of special tokens, which of them are added to a text
//! chat_template.jinja, chat_template.json, tokenizer_config.json -> chat templates
//! ```
//!
//! Source: llama.cpp `conversion/base.py`, `gguf-py/gguf/vocab.py`. Differs: the pre-tokenizer is known by its rules and not by what a
//! test sentence becomes; scores of the "llama" kind are the ranks of merges, which is what SentencePiece's are, where llama.cpp
//! without `tokenizer.model` writes one constant. One that has no row in [`PRES`] is an error.

use super::config::{Config, shortened};
use super::files::{Files, TOKENIZER, TOKENIZER_CONFIG};
use crate::Result;
use crate::file::metadata::{Array, Kind as ValueKind, Metadata, Value};
use serde_json::Value as Json;
use std::collections::HashMap;

/// Types of tokens, as llama.cpp numbers them.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
enum Type {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The kinds of tokenizers, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// BPE over bytes that stand for themselves as printable characters.
    Gpt2,
    /// BPE over characters, with a token for each byte.
    Llama,
    /// WordPiece.
    Bert,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Bert => "bert",
        }
    }
}

/// How a text is cut before merges: the splitting rules of `tokenizer.json`, one regular expression or a name of their own.
struct Pre {
    name: &'static str,
    rules: &'static [Rule<'static>],
    /// Whether words that are tokens are not made by merging, where that tells names apart.
    whole_words: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule<'a> {
    /// A regular expression whose matches stand alone.
    Split(&'a str),
    /// Each digit stands alone.
    Digits,
    /// The expression that ByteLevel has of its own.
    ByteLevel,
}

const THREE_DIGITS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const ONE_DIGIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CASES: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Those that llama.cpp has under a name. Source: llama.cpp `src/llama-vocab.cpp`.
const PRES: &[Pre] = &[
    Pre { name: "llama-bpe", rules: &[Rule::Split(THREE_DIGITS)], whole_words: Some(true) },
    Pre { name: "smaug-bpe", rules: &[Rule::Split(THREE_DIGITS)], whole_words: Some(false) },
    Pre { name: "qwen2", rules: &[Rule::Split(ONE_DIGIT)], whole_words: None },
    Pre { name: "tekken", rules: &[Rule::Split(CASES)], whole_words: None },
    Pre { name: "smollm", rules: &[Rule::Digits, Rule::ByteLevel], whole_words: None },
    Pre { name: "gpt-2", rules: &[Rule::ByteLevel], whole_words: None },
];

/// Special tokens: as the files of transformers call them, and the end of GGUF's key where it has one.
const SPECIAL: &[(&str, Option<&str>)] = &[
    ("bos", Some("bos_token_id")),
    ("eos", Some("eos_token_id")),
    ("unk", Some("unknown_token_id")),
    ("sep", Some("seperator_token_id")),
    ("pad", Some("padding_token_id")),
    ("cls", None),
    ("mask", Some("mask_token_id")),
    ("eot", Some("eot_token_id")),
];

/// The score of tokens that are only matched as a whole.
const MATCHED_WHOLE: f32 = -1000.0;

/// Adds the metadata of a tokenizer; `vocab_size` tokens are the model's.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Format`] naming file and key, for tokenizers that have no kind or no pre-tokenizer here, and for
/// tokens that the model has no row for.
pub fn describe(files: &Files, config: &Config, vocab_size: usize, out: &mut Metadata) -> Result<()> {
    let sources = Sources {
        tokenizer: Config::read(files, TOKENIZER)?,
        tokenizer_config: Config::read_if_there(files, TOKENIZER_CONFIG)?,
        config,
    };
    let file = &sources.tokenizer;
    let kind = sources.kind()?;
    let added = sources.added()?;
    let mut tokens = vocabulary(file, vocab_size, &added)?;
    let set = &mut |key: &str, value: Value| out.set(&format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String(kind.name().into()));
    let pre = if kind == Kind::Gpt2 { pre_tokenizer(file)? } else { "default" };
    set("pre", Value::String(pre.into()));
    let merges = if kind == Kind::Bert { Vec::new() } else { merges(file)? };
    match kind {
        Kind::Gpt2 => {}
        Kind::Llama => {
            let unknown = file.text("model.unk_token")?;
            for token in &mut tokens {
                if is_byte(&token.text) {
                    token.kind = Type::Byte;
                } else if unknown == Some(token.text.as_str()) {
                    token.kind = Type::Unknown;
                }
            }
            let scores: Vec<Value> = scores(&tokens, &merges).into_iter().map(Value::F32).collect();
            if let Some(space) = sources.add_prefix_space()? {
                set("add_space_prefix", Value::Bool(space));
            }
            set("scores", array(ValueKind::F32, &scores));
        }
        Kind::Bert => {
            for token in tokens.iter_mut().filter(|t| t.kind != Type::Control) {
                token.text = match token.text.strip_prefix("##") {
                    Some(rest) => rest.to_string(),
                    None => format!("\u{2581}{}", token.text),
                };
            }
            let types = config.count("type_vocab_size")?.unwrap_or(1);
            // A u32 when it was read.
            set("token_type_count", Value::U32(types as u32));
        }
    }
    let kinds: Vec<Value> = tokens.iter().map(|t| Value::I32(t.kind as i32)).collect();
    let texts: Vec<Value> = tokens.into_iter().map(|t| Value::String(t.text)).collect();
    set("tokens", array(ValueKind::String, &texts));
    set("token_type", array(ValueKind::I32, &kinds));
    if kind == Kind::Gpt2 {
        let merges: Vec<Value> = merges.iter().map(|m| Value::String(m.text())).collect();
        set("merges", array(ValueKind::String, &merges));
    }
    let special = sources.special(&added)?;
    for (name, key) in SPECIAL {
        if let (Some(key), Some(&id)) = (key, special.ids.get(name)) {
            if usize::try_from(id).map_or(true, |id| id >= vocab_size) {
                let what = format!("{id}, and the model has {vocab_size} tokens");
                return Err(config.wrong(&format!("{name}_token_id"), what));
            }
            set(key, Value::U32(id));
        }
    }
    for name in ["bos", "eos", "sep"] {
        if let Some(&add) = special.add.get(name) {
            set(&format!("add_{name}_token"), Value::Bool(add));
        }
    }
    sources.chat_templates(files, out)
}

/// An array of values of one kind.
fn array(kind: ValueKind, values: &[Value]) -> Value {
    // Made of one kind right before.
    Value::Array(Array::new(kind, values).unwrap_or_else(|| unreachable!("values of one kind")))
}

/// A token that is not among those that merges make.
struct Added {
    id: usize,
    text: String,
    special: bool,
}

struct Token {
    text: String,
    kind: Type,
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Tokens that some models forgot to mark as special.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// One rule for two neighbouring pieces.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
}

impl<'a> Merge<'a> {
    /// `"a b"` or `["a", "b"]`.
    fn of(json: &'a Json) -> Option<Self> {
        let (left, right) = match json {
            Json::String(text) => text.split_once(' ')?,
            other => match other.as_array()?.as_slice() {
                [Json::String(left), Json::String(right)] => (left.as_str(), right.as_str()),
                _ => return None,
            },
        };
        Some(Self { left, right })
    }

    /// As GGUF has it: between the pieces a space, in them the character that stands for one.
    fn text(&self) -> String {
        format!("{} {}", self.left.replace(' ', "\u{120}"), self.right.replace(' ', "\u{120}"))
    }
}

/// The merges in order; either form of the file.
fn merges(file: &Config) -> Result<Vec<Merge<'_>>> {
    let key = "model.merges";
    let list = file.get(key).and_then(Json::as_array).ok_or_else(|| file.wrong(key, "expected a list"))?;
    let found = list.iter().enumerate().map(|(i, json)| {
        let merge = Merge::of(json);
        merge.ok_or_else(|| file.wrong(key, format!("entry {i} is no pair: {}", shortened(json))))
    });
    found.collect()
}

/// Scores by which SentencePiece's algorithm merges in the order of the merges: the better the earlier.
fn scores(tokens: &[Token], merges: &[Merge]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(format!("{}{}", merge.left, merge.right)).or_insert(rank);
    }
    let of = |token: &Token| match token.kind {
        // What no merge makes comes after all that one makes.
        Type::Normal => -(ranks.get(&token.text).copied().unwrap_or(merges.len()) as f32),
        Type::UserDefined | Type::Unused => MATCHED_WHOLE,
        Type::Unknown | Type::Control | Type::Byte => 0.0,
    };
    tokens.iter().map(of).collect()
}

/// All tokens in the order of their ids; what the model has rows for and the tokenizer no tokens is filled up.
fn vocabulary(file: &Config, vocab_size: usize, added: &[Added]) -> Result<Vec<Token>> {
    let key = "model.vocab";
    let map = file.get(key).and_then(Json::as_object);
    let map = map.ok_or_else(|| file.wrong(key, "expected an object of tokens and ids"))?;
    let count = map.len().max(added.iter().map(|a| a.id.saturating_add(1)).max().unwrap_or(0));
    if count > vocab_size {
        let what = format!("{count} tokens, and config.json says vocab_size = {vocab_size}");
        return Err(file.wrong(key, what));
    }
    let mut tokens: Vec<Option<Token>> = Vec::new();
    tokens.resize_with(vocab_size, || None);
    for (text, id) in map {
        let slot = id.as_u64().and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
        let Some(slot) = slot else {
            let what = format!("token {text:?} has the id {id}, and there are {vocab_size}");
            return Err(file.wrong(key, what));
        };
        if let Some(first) = slot {
            let what = format!("tokens {:?} and {text:?} share the id {id}", first.text);
            return Err(file.wrong(key, what));
        }
        *slot = Some(Token { text: text.clone(), kind: Type::Normal });
    }
    for Added { id, text, special } in added {
        let Some(slot) = tokens.get_mut(*id) else { continue };
        let control = *special || looks_special(text);
        let (kind, text) = match control {
            true => (Type::Control, text.clone()),
            // Matched in the plain text, where spaces are spaces.
            false => (Type::UserDefined, text.replace('\u{2581}', " ")),
        };
        *slot = Some(Token { text, kind });
    }
    let filled = tokens
        .into_iter()
        .enumerate()
        .map(|(i, token)| token.unwrap_or_else(|| Token { text: format!("[PAD{i}]"), kind: Type::Unused }));
    Ok(filled.collect())
}

/// llama.cpp's name of the rules by which a text is cut.
fn pre_tokenizer(file: &Config) -> Result<&'static str> {
    let key = "pre_tokenizer";
    let json = file.get(key).ok_or_else(|| file.missing(key))?;
    let steps = match json.get("pretokenizers").and_then(Json::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(json),
    };
    let truth =
        |step: &Json, key: &str, default: bool| step.get(key).and_then(Json::as_bool).unwrap_or(default);
    let mut rules = Vec::new();
    for step in steps {
        let text = |key: &str| step.get(key).and_then(Json::as_str);
        match text("type") {
            Some("ByteLevel") if !truth(step, "add_prefix_space", true) => {
                if truth(step, "use_regex", true) {
                    rules.push(Rule::ByteLevel);
                }
            }
            Some("Digits") if truth(step, "individual_digits", false) => rules.push(Rule::Digits),
            Some("Split") => {
                let pattern = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::as_str);
                match (pattern, text("behavior"), truth(step, "invert", false)) {
                    (Some(pattern), Some("Isolated"), false) => rules.push(Rule::Split(pattern)),
                    (pattern, behavior, invert) => {
                        let how = format!("pattern {pattern:?}, behavior {behavior:?}, invert {invert}");
                        return Err(file.wrong(key, format!("no map to GGUF for a Split of {how}")));
                    }
                }
            }
            _ => return Err(file.wrong(key, format!("no map to GGUF for {}", shortened(step)))),
        }
    }
    let whole = file.truth("model.ignore_merges")?.unwrap_or(false);
    let found = PRES.iter().find(|p| p.rules == rules && p.whole_words.is_none_or(|w| w == whole));
    found.map(|p| p.name).ok_or_else(|| {
        let known: Vec<&str> = PRES.iter().map(|p| p.name).collect();
        file.wrong(key, format!("rules that none of {} has: {}", known.join(", "), shortened(json)))
    })
}

/// The files that speak of tokens.
struct Sources<'a> {
    tokenizer: Config,
    tokenizer_config: Option<Config>,
    config: &'a Config,
}

/// Ids of special tokens, and which are added to a text.
#[derive(Default)]
struct Special {
    ids: HashMap<&'static str, u32>,
    add: HashMap<&'static str, bool>,
}

impl Sources<'_> {
    fn kind(&self) -> Result<Kind> {
        let file = &self.tokenizer;
        let bytes = |part: &str| {
            let json = file.get(part);
            let inside = ["pretokenizers", "decoders"].iter().find_map(|k| json?.get(*k)?.as_array());
            let is = |step: &Json| step.get("type").and_then(Json::as_str) == Some("ByteLevel");
            json.is_some_and(is) || inside.is_some_and(|steps| steps.iter().any(is))
        };
        match file.text("model.type")?.ok_or_else(|| file.missing("model.type"))? {
            "BPE" if file.truth("model.byte_fallback")?.unwrap_or(false) => Ok(Kind::Llama),
            "BPE" if bytes("pre_tokenizer") || bytes("decoder") => Ok(Kind::Gpt2),
            "BPE" => Err(file.wrong("model", "BPE of neither kind in GGUF: no ByteLevel, no byte_fallback")),
            "WordPiece" => {
                let key = "model.continuing_subword_prefix";
                match file.text(key)? {
                    None | Some("##") => Ok(Kind::Bert),
                    Some(other) => Err(file.wrong(key, format!("'{other}'; GGUF's WordPiece has '##'"))),
                }
            }
            other => Err(file
                .wrong("model.type", format!("no map to GGUF for {other}; there is one for BPE, WordPiece"))),
        }
    }

    /// The tokens beside the vocabulary.
    fn added(&self) -> Result<Vec<Added>> {
        let (file, key) = (&self.tokenizer, "added_tokens");
        let Some(json) = file.get(key) else { return Ok(Vec::new()) };
        let token = |json: &Json| {
            let id = u32::try_from(json.get("id")?.as_u64()?).ok()?;
            let text = json.get("content")?.as_str()?.to_string();
            let special = json.get("special").and_then(Json::as_bool).unwrap_or(false);
            Some(Added { id: usize::try_from(id).ok()?, text, special })
        };
        let list = json.as_array().ok_or_else(|| file.wrong(key, "expected a list"))?;
        let found = list.iter().enumerate().map(|(i, json)| {
            token(json).ok_or_else(|| file.wrong(key, format!("entry {i} is no token: {}", shortened(json))))
        });
        found.collect()
    }

    fn add_prefix_space(&self) -> Result<Option<bool>> {
        self.tokenizer_config.as_ref().map_or(Ok(None), |c| c.truth("add_prefix_space"))
    }

    /// The text that `tokenizer_config.json` has for a special token.
    fn text_of(&self, name: &str) -> Option<&str> {
        let json = self.tokenizer_config.as_ref()?.get(&format!("{name}_token"))?;
        json.as_str().or_else(|| json.get("content")?.as_str())
    }

    /// What the files say of special tokens; those of the tokenizer before those of the model.
    fn special(&self, added: &[Added]) -> Result<Special> {
        let mut special = Special::default();
        let mut texts: HashMap<&'static str, String> = HashMap::new();
        for (name, _) in SPECIAL {
            if let Some(text) = self.text_of(name) {
                texts.insert(name, text.to_string());
            }
        }
        // Models that begin with a class token begin with nothing else.
        for (name, instead) in [("bos", "cls"), ("eos", "sep")] {
            if let (false, Some(text)) = (texts.contains_key(name), texts.get(instead).cloned()) {
                texts.insert(name, text);
            }
        }
        self.added_by_template(&mut texts, &mut special)?;
        for (name, _) in SPECIAL {
            if let Some(config) = &self.tokenizer_config
                && let Some(Json::Bool(add)) = config.get(&format!("add_{name}_token"))
            {
                special.add.insert(name, *add);
            }
            let by_text = texts.get(name).and_then(|text| added.iter().find(|a| a.text == *text));
            // Several ends of text are a list, of which the tokenizer names one.
            let by_id = self.config.get(&format!("{name}_token_id")).and_then(Json::as_u64);
            let id = by_text.and_then(|a| u64::try_from(a.id).ok()).or(by_id);
            if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
                special.ids.insert(name, id);
            }
        }
        Ok(special)
    }

    /// What the post-processor puts around a text.
    fn added_by_template(
        &self,
        texts: &mut HashMap<&'static str, String>,
        special: &mut Special,
    ) -> Result<()> {
        let Some(json) = self.tokenizer.get("post_processor") else { return Ok(()) };
        let steps = match json.get("processors").and_then(Json::as_array) {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(json),
        };
        for step in steps {
            let kind = step.get("type").and_then(Json::as_str);
            if kind == Some("RobertaProcessing") {
                special.add.extend([("bos", true), ("eos", true), ("sep", true)]);
            }
            if kind != Some("TemplateProcessing") {
                continue;
            }
            let list = |key: &str| step.get(key).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            let token =
                |piece: Option<&Json>| Some(piece?.get("SpecialToken")?.get("id")?.as_str()?.to_string());
            let (single, pair) = (list("single"), list("pair"));
            let (mut first, mut last) = (None, None);
            if single.len() > 1 {
                first = token(single.first());
                last = token(single.last());
            }
            if let Some(text) = &first {
                if self.tokenizer_config.is_none() {
                    texts.insert("bos", text.clone());
                }
                let known = [texts.get("bos"), texts.get("cls")].contains(&Some(text));
                special.add.insert("bos", known);
            }
            if let Some(text) = &last {
                // What ends a text is not what ends an answer: the configured one stays as the end of a turn.
                if let Some(old) = texts.insert("eos", text.clone()).filter(|old| old != text)
                    && self.tokenizer_config.is_some()
                {
                    texts.entry("eot").or_insert(old);
                }
                special.add.insert("eos", true);
            }
            // A, then what stands between, then B.
            let start = usize::from(first.is_some() && token(pair.first()) == first);
            let end = pair.len().saturating_sub(usize::from(last.is_some() && token(pair.last()) == last));
            if let [_, between @ .., _] = pair.get(start..end).unwrap_or_default()
                && !between.is_empty()
            {
                let separates = |piece: &Json| {
                    let text = token(Some(piece));
                    text.is_some() && [texts.get("sep"), texts.get("eos")].contains(&text.as_ref())
                };
                let two = between.len() == 2 && between.last().is_some_and(separates);
                let one = between.first().is_some_and(separates) && last.is_none();
                special.add.insert("sep", one || two);
            }
        }
        Ok(())
    }

    /// The chat templates: one text, or several with names.
    fn chat_templates(&self, files: &Files, out: &mut Metadata) -> Result<()> {
        let inside = self.tokenizer_config.as_ref().and_then(|c| c.get("chat_template").cloned());
        let template = match inside {
            Some(json) => Some(json),
            None => match files.text("chat_template.jinja")? {
                Some(text) => Some(Json::String(text)),
                None => Config::read_if_there(files, "chat_template.json")?
                    .and_then(|c| c.get("chat_template").cloned()),
            },
        };
        let key = "tokenizer.chat_template";
        let mut names = Vec::new();
        match template {
            Some(Json::String(text)) => out.set(key, Value::String(text)),
            Some(Json::Array(list)) => {
                for json in &list {
                    let text = |key: &str| json.get(key).and_then(Json::as_str).map(str::to_string);
                    let (Some(name), Some(text)) = (text("name"), text("template")) else { continue };
                    if name == "default" {
                        out.set(key, Value::String(text));
                    } else {
                        out.set(&format!("{key}.{name}"), Value::String(text));
                        names.push(Value::String(name));
                    }
                }
            }
            _ => {}
        }
        if !names.is_empty() {
            out.set("tokenizer.chat_templates", array(ValueKind::String, &names));
        }
        Ok(())
    }
}
