//! A HuggingFace folder as the model that llama.cpp would make of it: GGUF's tensor names, row order, metadata, tokenizer.
//!
//! ```text
//! config.json       -> Architecture (row of a table), Sizes -> NAME.* metadata
//! *.safetensors     -> Model -> names mapped, shapes checked against the config -> entries that are permuted and rounded when read
//!                   a quantized checkpoint's layers are packed entries, which are permuted
//! tokenizer.json, tokenizer_config.json, chat templates -> tokenizer.* metadata
//! ```
//!
//! What comes out is a [`Model`] like any other: tensors are read one by one, and nothing is kept in memory. `architecture` is the table,
//! `config` values by key, `rope` rotary positions, `tokenizer` its metadata, `elements` the work on numbers. An architecture without
//! a row, a tensor without one, a missing or contradictory key are errors that name it. Not here: mixtures of experts, multimodal
//! models.

mod architecture;
mod config;
mod elements;
mod files;
mod rope;
mod tokenizer;

use super::bytes::{Bytes, bad};
use super::metadata::{Metadata, Value};
use super::model::{Content, Entry, Model, Parsed, Part, Shard};
use super::{Activations, Transforms, file_type, gguf, safetensors};
use crate::{DType, Error, Result};
use architecture::{Architecture, Order, Row, Size, Sizes, Source};
use config::Config;
pub(super) use elements::{Mapped, make, reorder};
use files::MODULES;
pub use files::{Files, TOKENIZER};
use std::collections::HashSet;
use std::path::Path;

/// The element type of weights: matrices that are not tables of positions or token types. The rest is f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weights {
    /// bf16 where the first one is bf16, else f16.
    Auto,
    /// The type that each has in the folder.
    AsTheyAre,
    As(DType),
}

pub const CONFIG: &str = "config.json";
/// Frequencies are divided by these.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Whether a path is a folder with the `config.json` of a model.
pub fn is_one(path: &Path) -> bool {
    path.is_dir() && path.join(CONFIG).is_file()
}

/// What of the metadata is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tokens {
    /// All of it.
    Described,
    /// All but the tokenizer's: for who has one of another making.
    LeftOut,
}

/// Opens a folder with `config.json`, `tokenizer.json` and safetensors files as the model that a GGUF file of it holds.
///
/// # Errors
/// As [`Model::open`]; [`Error::Format`] with file and key for an architecture without a map, a key that is missing or contradicts
/// another or the tensors, a tensor that the map does not have, and a tokenizer that GGUF has none like.
pub fn open(folder: &Path, weights: Weights) -> Result<Model> {
    let model = Model::open(folder)?;
    if !std::ptr::eq(model.format(), &safetensors::FORMAT) {
        return Err(bad(folder, "no safetensors file beside config.json"));
    }
    map(model, &Files::in_folder(folder), weights, Tokens::Described)
}

/// The tensors and texts of a model as what a GGUF file of it holds.
///
/// # Errors
/// As [`open`].
pub fn map(source: Model, files: &Files, weights: Weights, tokens: Tokens) -> Result<Model> {
    let config = Config::read(files, CONFIG)?;
    let architecture = Architecture::of(&config)?;
    for (key, values) in architecture.expected {
        if let Some(value) = config.text(key)?.filter(|value| !values.contains(value)) {
            let (name, known) = (architecture.name, values.join(", "));
            return Err(config.wrong(key, format!("{value}, where GGUF's {name} computes {known}")));
        }
    }
    let sizes = Sizes::of(&config, architecture)?;
    let map = Map { files, config: &config, architecture, sizes: &sizes, source: &source };
    let mut entries = map.entries(weights)?;
    let factors = match &architecture.rope {
        Some(rope) => rope::factors(&config, architecture, rope, &sizes)?,
        None => None,
    };
    let mut parsed = Parsed::new(&safetensors::FORMAT);
    let shards = source.shard_count();
    if let Some(factors) = &factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (shape, content) = (vec![factors.len()], Content::Dense(file_type(DType::F32)));
        let parts = vec![Part::of_memory(shards, 0..bytes.len())];
        let entry = Entry::new(ROPE_FACTORS.into(), shape, content, &safetensors::FORMAT, parts);
        entries.insert(0, Entry { fixed: true, ..entry });
        let bytes = Bytes::memory(bytes);
        parsed.shards.push(Shard { path: files.path(CONFIG), bytes });
    }
    parsed.metadata = map.metadata(&entries, tokens)?;
    parsed.entries = entries;
    source.mapped_to(parsed)
}

/// What a model is mapped with.
struct Map<'a> {
    files: &'a Files,
    config: &'a Config,
    architecture: &'static Architecture,
    sizes: &'a Sizes,
    source: &'a Model,
}

impl Map<'_> {
    /// The tensors in the order of the map.
    fn entries(&self, weights: Weights) -> Result<Vec<Entry>> {
        let architecture = self.architecture;
        let mut left: HashSet<&str> = self.source.entries().iter().map(|e| e.name.as_str()).collect();
        let by_plain: std::collections::HashMap<String, &Entry> =
            self.source.entries().iter().map(|e| (architecture.plain_name(&e.name), e)).collect();
        let tied = self.tied(&by_plain)?;
        let mut found: Vec<(&Row, String, &Entry)> = Vec::new();
        for (row, from, to) in architecture.tensors(self.sizes.get(Size::Layers)) {
            match by_plain.get(&from) {
                Some(entry) => {
                    left.remove(entry.name.as_str());
                    if !(tied && architecture.output.as_ref().is_some_and(|o| o.from == from)) {
                        found.push((row, to, *entry));
                    }
                }
                None if row.optional => {}
                None => return Err(bad(self.files.place(), format!("tensor '{from}' is missing"))),
            }
        }
        let dropped = |name: &&str| architecture.dropped.iter().any(|d| d.is(&architecture.plain_name(name)));
        // The vectors of transforms go with the layers, by their own names.
        let transforms = Transforms::of(self.source)?;
        let vectors = self.source.entries().iter().filter(|e| transforms.has_tensor(&e.name));
        let vectors: Vec<Entry> = vectors.map(|e| Entry { fixed: true, ..e.clone() }).collect();
        left.retain(|name| !transforms.has_tensor(name));
        if let Some(name) = left.into_iter().filter(|name| !dropped(name)).min() {
            let what = format!("tensor '{name}' has no place in GGUF's {}", architecture.name);
            return Err(bad(self.files.place(), what));
        }
        let first = found.iter().find(|(row, _, e)| !row.fixed && e.shape.len() > 1);
        let wanted = match (weights, first.and_then(|(_, _, e)| source_type(e))) {
            (Weights::As(dtype), _) => Some(dtype),
            (Weights::AsTheyAre, _) => None,
            (Weights::Auto, Some(DType::Bf16)) => Some(DType::Bf16),
            (Weights::Auto, _) => Some(DType::F16),
        };
        let mapped = found.into_iter().map(|(row, to, entry)| self.entry(row, to, entry, wanted));
        mapped.chain(vectors.into_iter().map(Ok)).collect()
    }

    /// One tensor, its shape checked.
    fn entry(&self, row: &Row, name: String, from: &Entry, wanted: Option<DType>) -> Result<Entry> {
        let stored = source_type(from).ok_or_else(|| {
            let why = "f32, f16, bf16 and packed tensors are mapped";
            Error::unsupported(format!("type {}", from.scheme_name()), why).in_tensor(&from.name)
        })?;
        let shape: Vec<usize> = row.shape.iter().map(|size| self.sizes.get(*size)).collect();
        if from.shape != shape {
            let names: Vec<String> = row.shape.iter().map(|size| format!("{size:?}")).collect();
            let expected = format!("{shape:?} ({} by {CONFIG})", names.join(", "));
            return Err(Error::shape("shape", expected, format!("{:?}", from.shape)).in_tensor(&from.name));
        }
        let fixed = row.fixed || shape.len() < 2;
        let heads = match row.order {
            Order::AsTheyAre => None,
            Order::Interleaved(heads) => Some(self.sizes.get(heads)),
        };
        let (content, bytes) = match from.content {
            Content::Packed { .. } => (from.content.clone(), from.bytes),
            _ => {
                let dtype = if fixed { DType::F32 } else { wanted.unwrap_or(stored) };
                (Content::Dense(file_type(dtype)), from.len().saturating_mul(dtype.size()) as u64)
            }
        };
        Ok(Entry {
            name,
            shape,
            content,
            bytes,
            fixed,
            format: from.format,
            parts: from.parts.clone(),
            mapped: Some(Mapped { from: from.name.clone(), stored, heads }),
        })
    }

    /// Whether the output matrix is the embedding; then it is not written twice.
    fn tied(&self, by_plain: &std::collections::HashMap<String, &Entry>) -> Result<bool> {
        let Some(output) = &self.architecture.output else { return Ok(false) };
        let key = "tie_word_embeddings";
        let said = self.config.truth(key)?.unwrap_or(false);
        match (said, by_plain.get(output.from), by_plain.get(output.tied_to)) {
            (false, None, _) => {
                let what = format!("false, and there is no tensor '{}'", output.from);
                Err(self.config.wrong(key, what))
            }
            (true, Some(a), Some(b))
                if a.content != b.content || self.source.data_of(a) != self.source.data_of(b) =>
            {
                let what = format!("true, and '{}' is not '{}'", output.from, output.tied_to);
                Err(self.config.wrong(key, what))
            }
            (said, ..) => Ok(said),
        }
    }

    /// All metadata, in llama.cpp's order.
    fn metadata(&self, entries: &[Entry], tokens: Tokens) -> Result<Metadata> {
        let (architecture, sizes) = (self.architecture, self.sizes);
        let mut out = Metadata::default();
        let text = |text: &str| Value::String(text.into());
        out.set("general.architecture", text(architecture.name));
        out.set("general.type", text("model"));
        let place = std::fs::canonicalize(self.files.place()).ok();
        let name =
            place.as_deref().and_then(if self.files.is_folder() { Path::file_name } else { Path::file_stem });
        if let Some(name) = name {
            out.set("general.name", text(&name.to_string_lossy()));
        }
        let weights: u64 = entries.iter().map(|e| e.len() as u64).fold(0, u64::saturating_add);
        out.set("general.size_label", text(&size_label(weights)));
        for (key, source) in architecture.fields.iter().copied().flatten() {
            let value = match source {
                // A u32 when it was read.
                Source::Size(size) => Value::U32(sizes.get(*size) as u32),
                Source::Real(from) => {
                    let value = self.config.real(from)?.ok_or_else(|| self.config.missing(from))?;
                    Value::F32(value as f32)
                }
                Source::Bool(value) => Value::Bool(*value),
            };
            out.set(&architecture.key(key), value);
        }
        if let Some(rope) = &architecture.rope {
            rope::describe(self.config, architecture, rope, sizes, &mut out)?;
        }
        if architecture.rope.is_none() {
            pooling(self.files, architecture, &mut out)?;
        }
        let first = entries.iter().find(|e| !e.fixed).and_then(Entry::float).unwrap_or(DType::F32);
        // Of packed tensors the writer says what most are.
        let packed = entries.iter().any(|e| matches!(e.content, Content::Packed { .. }));
        if let Some(id) = gguf::types::file_type_id(&first.to_string().to_uppercase()).filter(|_| !packed) {
            out.set("general.file_type", Value::U32(id));
        }
        out.set("general.quantization_version", Value::U32(gguf::QUANTIZATION_VERSION));
        let activations = Activations::of(self.source.metadata(), self.files.place())?;
        let name = |from: &str| entries.iter().find(|e| e.name_in_file() == from).map(|e| e.name.as_str());
        activations.renamed(name).put(&mut out);
        let transforms = Transforms::of(self.source)?;
        transforms.renamed(name).put(&mut out)?;
        if tokens == Tokens::Described {
            tokenizer::describe(self.files, self.config, sizes.get(Size::Vocab), &mut out)?;
        }
        Ok(out)
    }
}

/// The type of the weights in the folder, or the one they had before they were packed.
fn source_type(entry: &Entry) -> Option<DType> {
    match entry.content {
        Content::Packed { source, .. } => Some(source),
        _ => entry.float(),
    }
}

/// The folder of the settings of pooling, where the files of sentence-transformers name one.
fn pooling_folder(files: &Files) -> Result<Option<String>> {
    let Some(text) = files.text(MODULES)? else { return Ok(None) };
    let path = files.path(MODULES);
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(&path, e.to_string()))?;
    let text = |json: &serde_json::Value, key: &str| json.get(key)?.as_str().map(str::to_string);
    let list = json.as_array().map_or(&[][..], Vec::as_slice);
    let found = list.iter().find(|m| text(m, "type").is_some_and(|t| t.ends_with("Pooling")));
    let Some(folder) = found.and_then(|m| text(m, "path")) else { return Ok(None) };
    // A downloaded list must not reach files outside its folder.
    if Path::new(&folder).file_name().is_none_or(|n| n != folder.as_str()) {
        return Err(bad(&path, format!("'{folder}' is not the name of a folder")));
    }
    Ok(Some(folder))
}

/// Whether an encoder of BERT's, the mean of its tokens and L2 norm 1 are all that the files ask for: [`map`] leaves out what else they say.
///
/// # Errors
/// [`Error::Unsupported`] with what is asked for; [`Error::Format`] for files that cannot be read.
pub fn check_encoder(files: &Files) -> Result<()> {
    if Config::read(files, CONFIG)?.truth("is_decoder")? == Some(true) {
        return Err(Error::unsupported(
            "a decoder (is_decoder in config.json)",
            "in lowbit a token sees all tokens of its text",
        ));
    }
    let Some(text) = files.text(MODULES)? else { return Ok(()) };
    let path = files.path(MODULES);
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(&path, e.to_string()))?;
    let types = json.as_array().into_iter().flatten().filter_map(|module| module.get("type")?.as_str());
    let known =
        |kind: &str| ["Transformer", "Pooling", "Normalize"].iter().any(|known| kind.ends_with(known));
    match types.into_iter().find(|kind| !known(kind)) {
        None => Ok(()),
        Some(other) => {
            let why = "lowbit runs Transformer, Pooling and Normalize";
            Err(Error::unsupported(format!("the module {other} of {}", path.display()), why))
        }
    }
}

/// How an embedding is made of those of the tokens, where the files of sentence-transformers say it.
fn pooling(files: &Files, architecture: &Architecture, out: &mut Metadata) -> Result<()> {
    const MEAN: u32 = 1;
    const FIRST: u32 = 2;
    const LAST: u32 = 3;
    let Some(folder) = pooling_folder(files)? else { return Ok(()) };
    let config = Config::read(files, &format!("{folder}/{CONFIG}"))?;
    let modes = [
        "mean_tokens",
        "cls_token",
        "lasttoken",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
    ];
    let mut on = Vec::new();
    for mode in modes.map(|mode| format!("pooling_mode_{mode}")) {
        if config.truth(&mode)? == Some(true) {
            on.push(mode);
        }
    }
    if let [one, another, ..] = &on[..] {
        let why = format!("beside {one}: embeddings of several kinds, which GGUF has no word for");
        return Err(config.wrong(another, why));
    }
    for (key, kind) in [
        ("pooling_mode_mean_tokens", MEAN),
        ("pooling_mode_cls_token", FIRST),
        ("pooling_mode_lasttoken", LAST),
    ] {
        if config.truth(key)? == Some(true) {
            out.set(&architecture.key("pooling_type"), Value::U32(kind));
            return Ok(());
        }
    }
    for (mode, kind) in [("mean", MEAN), ("cls", FIRST), ("lasttoken", LAST)] {
        if config.text("pooling_mode")? == Some(mode) {
            out.set(&architecture.key("pooling_type"), Value::U32(kind));
            return Ok(());
        }
    }
    Err(config.wrong("pooling_mode", "neither mean_tokens nor cls_token nor lasttoken, which GGUF has"))
}

/// The number of weights as people say it, two digits at least: `1.2B`, `22M`, `0.46K`.
fn size_label(weights: u64) -> String {
    let n = weights as f64;
    let (unit, letter) =
        [(1e12, "T"), (1e9, "B"), (1e6, "M")].into_iter().find(|(u, _)| n > *u).unwrap_or((1e3, "K"));
    let scaled = n / unit;
    let rounded = scaled.round_ties_even();
    let digits = if rounded == 0.0 { 0 } else { rounded.to_string().len() };
    format!("{scaled:.*}{letter}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_labelled_as_llama_cpp_does() {
        // Made with gguf-py 0.19: size_label(n, n, 0, 0).
        for (n, label) in LABELS {
            assert_eq!(size_label(n), label, "{n}");
        }
    }

    const LABELS: [(u64, &str); 16] = [
        (0, "0.00K"),
        (1, "0.00K"),
        (460, "0.46K"),
        (1000, "1.0K"),
        (9499, "9.5K"),
        (9500, "10K"),
        (12345, "12K"),
        (450_000, "450K"),
        (1_000_000, "1000K"),
        (1_000_001, "1.0M"),
        (22_713_216, "23M"),
        (99_500_000, "100M"),
        (109_482_240, "109M"),
        (1_235_814_400, "1.2B"),
        (8_030_261_248, "8.0B"),
        (2_000_000_000_000, "2.0T"),
    ];
}
