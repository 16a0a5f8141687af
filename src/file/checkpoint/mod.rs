//! Quantized checkpoints as Hugging Face folders have them: tensors of a format <-> packed tensors, bit for bit.
//!
//! ```text
//! folder -> config.json -> Config -> FORMATS: which claims it -> layers (tensors that belong together, scheme, shape)
//!           *.safetensors -> Model  ----------------------------^        -> entries: X.weight [out, in], packed; the rest dense, as it is
//! items -> TARGETS -> model.safetensors, config.json                      (`write`)
//! ```
//!
//! [`onnx`] is apart from the tables: the operands of a node of a graph.
//!
//! One file per format, each a transcoder: no number is rounded on the way, except where its text says so. What a format is called is known to its
//! file and to the two tables. Layers are looked up when a checkpoint is opened, which reads shapes and the small tensors that decide the scheme; codes and
//! scales are read when a tensor is asked for.

mod awq;
mod bits;
mod bnb;
mod compressed;
mod config;
mod gptq;
mod hqq;
mod mlx;
pub mod onnx;
mod parts;
mod write;

pub use config::Config;
pub use write::{Data, Item, Layers, TARGETS, Target};

use super::model::{self, Part};
use super::{Content, Model, safetensors};
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A format that is read.
pub struct Format {
    pub name: &'static str,
    /// Whether the settings are of this format.
    claims: fn(&Config) -> bool,
    /// The quantized layers.
    layers: fn(&Config, &Model) -> Result<Vec<Layer>>,
    /// The weight of a module.
    packed: fn(&Config, &Model, &str) -> Result<PackedTensor>,
    /// Endings of names that only tensors of a layer have.
    companions: &'static [&'static str],
}

/// The formats that are read. The first that claims a config has it.
pub static FORMATS: &[&Format] =
    &[&gptq::FORMAT, &awq::FORMAT, &bnb::FORMAT, &compressed::FORMAT, &hqq::FORMAT, &mlx::FORMAT];

/// A quantized layer as its format found it.
struct Layer {
    module: String,
    shape: Vec<usize>,
    scheme: Scheme,
    source: DType,
    /// Names of the tensors it may be made of.
    tensors: Vec<String>,
}

impl Layer {
    fn new(module: &str, shape: &[usize], scheme: Scheme, source: DType, suffixes: &[&str]) -> Self {
        let tensors = suffixes.iter().map(|suffix| format!("{module}{suffix}")).collect();
        Self { module: module.into(), shape: shape.to_vec(), scheme, source, tensors }
    }
}

/// One tensor of a checkpoint: the weight of a quantized layer, or one that is dense.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    pub content: Content,
    /// Bytes in the files, those of companions included.
    pub bytes: u64,
    module: Option<String>,
}

/// An open checkpoint.
pub struct Checkpoint {
    config: Config,
    format: &'static Format,
    model: Model,
    entries: Vec<Entry>,
    /// Of each entry.
    parts: Vec<Vec<Part>>,
    by_name: HashMap<String, usize>,
}

/// The settings of the checkpoint in a folder; none if its files do not say that it is quantized.
///
/// # Errors
/// [`Error::Format`] for files that are no JSON; [`Error::Io`].
pub fn settings(folder: &Path) -> Result<Option<Config>> {
    let mut files = Vec::new();
    for name in ["config.json"].into_iter().chain(config::FILES) {
        let path = folder.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            files.push((path, bytes));
        }
    }
    Config::parse(&files)
}

/// All of a folder's `config.json`; empty if there is none.
///
/// # Errors
/// [`Error::Format`] for what is no JSON object; [`Error::Io`].
pub fn config_of(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    config::object(&path, &bytes)
}

/// The name of the format of the checkpoint in a folder; none if its files do not say that it is quantized.
///
/// # Errors
/// [`Error::Format`] for a method that is not known and for files that are no JSON; [`Error::Io`].
pub fn detect(folder: impl AsRef<Path>) -> Result<Option<&'static str>> {
    let config = settings(folder.as_ref())?;
    config.map(|config| format_of(&config).map(|format| format.name)).transpose()
}

fn format_of(config: &Config) -> Result<&'static Format> {
    let found = FORMATS.iter().copied().find(|format| (format.claims)(config));
    found.ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
        let method = config.method();
        let what =
            if method.is_empty() { "no quant_method".into() } else { format!("quant_method '{method}'") };
        let names = names.join(", ");
        config.bad(format!(
            "{}: {what}; lowbit reads {names}; the safetensors file by its own name has the tensors as they are",
            config.found
        ))
    })
}

/// Opens the checkpoint in a folder: its settings (`config.json`, `quantize_config.json` or `quant_config.json`) and its safetensors.
///
/// # Errors
/// [`Error::Format`] if there are no settings, if they are of no format that is read, or contradict the tensors; as [`Model::open`];
/// [`Error::Shape`] for tensors that are missing or of other types and shapes than they should be; [`Error::Unsupported`] for what no scheme holds.
pub fn open(folder: impl AsRef<Path>) -> Result<Checkpoint> {
    let folder = folder.as_ref();
    let config = settings(folder)?.ok_or_else(|| Error::Format {
        path: folder.to_path_buf(),
        what: format!("no settings of a quantization in config.json, {}", config::FILES.join(" or ")),
    })?;
    Checkpoint::new(config, Model::open_files(folder)?)
}

impl Checkpoint {
    /// A checkpoint from its settings and its tensors.
    ///
    /// # Errors
    /// As [`open`].
    pub fn new(config: Config, model: Model) -> Result<Self> {
        let format = format_of(&config)?;
        let layers = (format.layers)(&config, &model)?;
        let mut layer_of: HashMap<&str, usize> = HashMap::new();
        for (i, layer) in layers.iter().enumerate() {
            layer_of.extend(layer.tensors.iter().map(|name| (name.as_str(), i)));
        }
        let mut bytes = vec![0u64; layers.len()];
        let mut of_layer: Vec<Vec<Part>> = vec![Vec::new(); layers.len()];
        for entry in model.entries() {
            let i = layer_of.get(entry.name.as_str()).copied();
            if let Some((total, all)) = i.and_then(|i| bytes.get_mut(i).zip(of_layer.get_mut(i))) {
                *total = total.saturating_add(entry.bytes);
                all.extend_from_slice(&entry.parts);
            }
        }
        let mut seen = HashSet::new();
        let (mut entries, mut parts) = (Vec::new(), Vec::new());
        for entry in model.entries() {
            let Some(&i) = layer_of.get(entry.name.as_str()) else {
                if let Some(suffix) = format.companions.iter().find(|suffix| entry.name.ends_with(**suffix)) {
                    let what = format!("tensor '{}'", entry.name);
                    let expected = format!("the rest of the quantized layer that '{suffix}' belongs to");
                    return Err(Error::shape(what, expected, "none"));
                }
                parts.push(entry.parts.clone());
                entries.push(Entry {
                    name: entry.name.clone(),
                    shape: entry.shape.clone(),
                    content: entry.content.clone(),
                    bytes: entry.bytes,
                    module: None,
                });
                continue;
            };
            if let Some(layer) = layers.get(i).filter(|_| seen.insert(i)) {
                parts.push(of_layer.get_mut(i).map(std::mem::take).unwrap_or_default());
                entries.push(Entry {
                    name: format!("{}.weight", layer.module),
                    shape: layer.shape.clone(),
                    content: Content::Packed { scheme: layer.scheme, source: layer.source },
                    bytes: bytes.get(i).copied().unwrap_or(0),
                    module: Some(layer.module.clone()),
                });
            }
        }
        let mut by_name = HashMap::with_capacity(entries.len());
        for (i, entry) in entries.iter().enumerate() {
            if by_name.insert(entry.name.clone(), i).is_some() {
                return Err(config.bad(format!("tensor '{}' is both quantized and dense", entry.name)));
            }
        }
        Ok(Self { config, format, model, entries, parts, by_name })
    }

    /// The format's name.
    pub fn format(&self) -> &'static str {
        self.format.name
    }

    /// All of `config.json`.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config.root
    }

    /// The file that the settings are in.
    pub fn settings_path(&self) -> &Path {
        &self.config.path
    }

    /// The tensors as they lie in the files.
    pub(super) fn files(&self) -> &Model {
        &self.model
    }

    /// As [`Self::files`], and nothing else.
    pub(super) fn into_files(self) -> Model {
        self.model
    }

    /// Whether a tensor is the weight of a quantized layer.
    pub(super) fn is_layer(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|e| e.module.is_some())
    }

    /// All tensors as entries of a model.
    pub(super) fn as_entries(&self) -> Vec<model::Entry> {
        let entry = |(entry, parts): (&Entry, &Vec<Part>)| {
            let Entry { name, shape, content, .. } = entry.clone();
            // Its companions, and not only the first part, count.
            model::Entry {
                bytes: entry.bytes,
                ..model::Entry::new(name, shape, content, &safetensors::FORMAT, parts.clone())
            }
        };
        self.entries.iter().zip(&self.parts).map(entry).collect()
    }

    /// The files of tensors.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.model.paths().map(Path::to_path_buf).collect()
    }

    /// All tensors: dense ones, and one for each quantized layer, where the first of its tensors is in the order of names.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A tensor by name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).and_then(|&i| self.entries.get(i))
    }

    /// The weight of a quantized layer, by its name `X.weight`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other names; [`Error::Shape`] for values that contradict the settings or the format.
    pub fn packed(&self, name: &str) -> Result<PackedTensor> {
        if let Some(entry) = self.entry(name) {
            if let Some(module) = &entry.module {
                return (self.format.packed)(&self.config, &self.model, module);
            }
            if let (Content::Packed { .. }, Some(own)) = (&entry.content, self.model.entry(name)) {
                return self.model.packed(own);
            }
        }
        Err(Error::unsupported(format!("tensor '{name}' as packed"), "it is no quantized layer"))
    }

    /// The bytes of a dense tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other names.
    pub fn raw(&self, name: &str) -> Result<&[u8]> {
        match (self.entry(name), self.model.entry(name)) {
            (Some(Entry { content: Content::Dense(_), .. }), Some(entry)) => Ok(self.model.raw(entry)),
            _ => Err(Error::unsupported(format!("tensor '{name}' as dense"), "it is not")),
        }
    }

    /// A dense f32, f16 or bf16 tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for others.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.raw(name)?;
        match self.model.entry(name) {
            Some(entry) => self.model.tensor(entry),
            None => Err(Error::unsupported(format!("tensor '{name}'"), "it is not there")),
        }
    }
}
