//! Writing checkpoints as a stream: names, types and shapes follow from the schemes, before any data exists.
//!
//! ```text
//! items (name, shape, dense or scheme) -> Target -> Layers: parts of each layer -> Plan -> header -> parts one by one, from one tensor at a time
//!                                                           settings -> config.json, its other keys kept
//! ```
//!
//! Each layer is read from the bytes made of it, under the settings of the whole, and must be the same tensor, before a byte of it is written: those that
//! were read. A tensor is fetched once per element type of its parts, because files are ordered by it, and is not kept longer. What a format cannot hold without loss is
//! refused before any tensor is written, except where it depends on values.

use super::super::Model;
use super::super::recast::recast;
use super::super::{Content, Dtype, Format, Item as Planned, Metadata, Plan, Writer, safetensors};
use super::config::{Config, KEYS};
use super::{Checkpoint, awq, compressed, gptq, mlx};
use crate::{Error, PackedTensor, Result, Scheme};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The settings of a checkpoint, from its quantized layers and the modules of its dense matrices.
pub(super) type Settings = fn(&[Held], &[&str]) -> Result<Map<String, Value>>;

/// A form of checkpoint that is written.
pub struct Target {
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it is, for listings.
    pub about: &'static str,
    /// The tensors of a weight of a scheme and shape; the error says what the format holds.
    pub(super) parts: fn(&Scheme, &[usize]) -> Result<Vec<Part>>,
    /// The bytes of one of them, by its suffix.
    pub(super) encode: fn(&PackedTensor, &str) -> Result<Vec<u8>>,
    pub(super) settings: Settings,
    /// The key of the settings.
    pub(super) key: &'static str,
    /// The entry `format` of the file's metadata.
    pub(super) metadata: &'static str,
}

/// The forms that are written.
pub static TARGETS: &[&Target] = &[
    &gptq::V1,
    &gptq::V2,
    &awq::GEMM,
    &compressed::PACK,
    &compressed::INT,
    &compressed::FLOAT,
    &mlx::TARGET,
];

/// A tensor of a layer.
pub(super) struct Part {
    suffix: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Part {
    pub fn new(suffix: &'static str, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { suffix, dtype, shape: shape.into() }
    }
}

/// A quantized layer.
pub(super) struct Held {
    pub module: String,
    pub scheme: Scheme,
}

/// That a format does not hold a scheme, and what it holds.
pub(super) fn refuse(scheme: &Scheme, holds: &str) -> Error {
    Error::unsupported(format!("scheme {scheme} in this format"), format!("it holds {holds}"))
}

/// What occurs most often; of several the least.
pub(super) fn most_common<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| {
        let count = counts.entry(value).or_default();
        *count = count.saturating_add(1);
    });
    let best = counts.values().max().copied()?;
    counts.into_iter().find(|(_, count)| *count == best).map(|(value, _)| value)
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub name: String,
    pub shape: Vec<usize>,
    pub content: Content,
}

impl From<&Planned> for Item {
    fn from(item: &Planned) -> Self {
        let content = match item {
            Planned::Dense { dtype, .. } => Content::Dense(*dtype),
            Planned::Packed { scheme, source, .. } => Content::Packed { scheme: *scheme, source: *source },
        };
        Self { name: item.name().to_string(), shape: item.shape().to_vec(), content }
    }
}

/// The content of an [`Item`].
pub enum Data<'a> {
    Dense(Cow<'a, [u8]>),
    Packed(PackedTensor),
}

impl Target {
    /// Its names, the first one first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The target of this name.
    ///
    /// # Errors
    /// [`Error::Usage`], with the names there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = TARGETS.iter().copied().find(|t| t.names().any(|n| n.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
            Error::Usage(format!("no form of checkpoint '{name}'; there are {}", names.join(", ")))
        })
    }

    /// Writes the tensors as one safetensors file to `out`, and gives it back with what `config.json` has to be. `path` is for errors,
    /// `config` the object whose other keys are kept, `fetch` gives the content of an item; it is asked several times for one.
    ///
    /// # Errors
    /// As [`Self::lay_out`] and [`Layers::put`].
    pub fn write<'a, W: Write>(
        &'static self,
        out: W,
        path: &Path,
        config: &Map<String, Value>,
        items: &'a [Item],
        fetch: &mut Fetch<'_, 'a>,
    ) -> Result<(W, Value)> {
        let mut layers = self.lay_out(path, config, items)?;
        let mut writer = Writer::new(out, path, layers.format(), layers.plan().clone())?;
        while writer.next_item().is_some() {
            layers.put(&mut writer, fetch, &|_, _| Ok(()))?;
        }
        Ok((writer.finish()?, layers.config().clone().into()))
    }

    /// What the tensors become: a plan of plain tensors, and the settings. `path` is for errors, `config` the object whose other keys are
    /// kept.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that the format does not hold without loss.
    pub fn lay_out<'a>(
        &'static self,
        path: &Path,
        config: &Map<String, Value>,
        items: &'a [Item],
    ) -> Result<Layers<'a>> {
        let metadata = BTreeMap::from([("format".to_string(), self.metadata.to_string())]);
        let mut plan = Plan::new(metadata.into());
        let mut held = Vec::new();
        let mut dense = Vec::new();
        let mut parts: HashMap<String, (&Item, bool)> = HashMap::new();
        for item in items {
            match &item.content {
                Content::Dense(dtype) => {
                    plan.dense(&item.name, *dtype, item.shape.clone())?;
                    parts.insert(item.name.clone(), (item, false));
                    let float = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
                    if let Some(module) =
                        item.name.strip_suffix(".weight").filter(|_| float && item.shape.len() == 2)
                    {
                        dense.push(module);
                    }
                }
                Content::Packed { scheme, .. } => {
                    let no_layer = || {
                        Error::unsupported("a name that does not end in .weight", "layers are named by it")
                    };
                    let module = item.name.strip_suffix(".weight").ok_or_else(no_layer);
                    let module = module.map_err(|e| e.in_tensor(&item.name))?;
                    let of_layer = (self.parts)(scheme, &item.shape).map_err(|e| e.in_tensor(&item.name))?;
                    for part in of_layer {
                        let name = format!("{module}{}", part.suffix);
                        plan.dense(&name, part.dtype, part.shape)?;
                        parts.insert(name, (item, true));
                    }
                    held.push(Held { module: module.to_string(), scheme: *scheme });
                }
                Content::Listed { name } => {
                    let why = "tensors of this type are listed and no more";
                    return Err(Error::unsupported(format!("type {name}"), why).in_tensor(&item.name));
                }
            }
        }
        let settings = (self.settings)(&held, &dense)?;
        let mut root = config.clone();
        KEYS.iter().for_each(|key| {
            root.shift_remove(*key);
        });
        if self.key != "quantization_config" {
            root.insert("quantization_config".into(), settings.clone().into());
        }
        root.insert(self.key.into(), settings.into());
        let path = path.to_path_buf();
        Ok(Layers { target: self, path, root, plan, parts, last: None, checked: HashSet::new() })
    }

    /// Whether the format holds a scheme; values may still be refused when they are written.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what it holds.
    pub fn holds(&self, scheme: &Scheme, shape: &[usize]) -> Result<()> {
        (self.parts)(scheme, shape).map(drop)
    }

    /// Writes `model.safetensors` and `config.json` into a folder, which is made if it is not there. Both appear when they are complete.
    ///
    /// # Errors
    /// [`Error::Exists`] if either file is there; as [`Self::write`].
    pub fn write_folder<'a>(
        &'static self,
        folder: &Path,
        config: &Map<String, Value>,
        items: &'a [Item],
        fetch: &mut Fetch<'_, 'a>,
    ) -> Result<()> {
        let io = |path: &Path| {
            let path: PathBuf = path.into();
            move |source| Error::Io { path, source }
        };
        let [weights, settings] = ["model.safetensors", "config.json"].map(|name| folder.join(name));
        for path in [&weights, &settings] {
            if path.exists() {
                return Err(Error::Exists { path: path.clone() });
            }
        }
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let unfinished = folder.join("model.safetensors.part");
        let written = File::create(&unfinished).map_err(io(&unfinished)).and_then(|file| {
            let (_, config) = self.write(BufWriter::new(file), &weights, config, items, fetch)?;
            let json_error =
                |e: serde_json::Error| Error::Format { path: settings.clone(), what: e.to_string() };
            let text = serde_json::to_string_pretty(&config).map_err(json_error)?;
            std::fs::rename(&unfinished, &weights).map_err(io(&weights))?;
            std::fs::write(&settings, text).map_err(io(&settings))
        });
        if written.is_err() && unfinished.exists() {
            std::fs::remove_file(&unfinished).map_err(io(&unfinished))?;
        }
        written
    }
}

/// Bytes beside the data of a layer that is a file of its own: more than its header has.
const ROOM: u64 = 1 << 12;

/// What gives the content of an item.
pub type Fetch<'f, 'a> = dyn FnMut(&'a Item) -> Result<Data<'a>> + 'f;

/// What is asked of a layer that is read back in another scheme: whether both hold the same numbers.
pub type Same = dyn Fn(&PackedTensor, &PackedTensor) -> Result<()>;

/// A checkpoint laid out: what its file holds, to be written tensor by tensor.
pub struct Layers<'a> {
    target: &'static Target,
    path: PathBuf,
    root: Map<String, Value>,
    plan: Plan,
    /// Of each tensor of the plan: the item it is of, and whether that is a quantized layer.
    parts: HashMap<String, (&'a Item, bool)>,
    /// The tensors that are written of the layer at hand.
    last: Option<Model>,
    /// Layers that were read back.
    checked: HashSet<&'a str>,
}

impl<'a> Layers<'a> {
    /// The format of its files.
    pub fn format(&self) -> &'static Format {
        &safetensors::FORMAT
    }

    /// The tensors of its files.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What `config.json` has to be.
    pub fn config(&self) -> &Map<String, Value> {
        &self.root
    }

    /// Keeps metadata of the source beside the format's own.
    pub fn keep(&mut self, metadata: &Metadata) {
        for (key, value) in metadata.iter() {
            if self.plan.metadata_mut().get(key).is_none() {
                self.plan.metadata_mut().set(key, value.clone());
            }
        }
    }

    /// The item that a tensor of the plan is made of.
    pub fn item(&self, name: &str) -> Option<&'a Item> {
        self.parts.get(name).map(|(item, _)| *item)
    }

    /// Writes the next tensor. `fetch` gives the content of its item, `same` is asked where a layer would be read in another scheme.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and others for values that the format does not hold; [`Error::Check`] if a layer would be read as another; those of `fetch`
    /// and `same`; [`Error::Io`].
    pub fn put<W: Write>(
        &mut self,
        writer: &mut Writer<W>,
        fetch: &mut Fetch<'_, 'a>,
        same: &Same,
    ) -> Result<()> {
        let name = writer.next_item().map_or("", Planned::name);
        let lost = || Error::shape("next tensor of the file", "one of the plan", name);
        let (item, in_layer) = self.parts.get(name).copied().ok_or_else(lost)?;
        if !in_layer {
            return match fetch(item)? {
                Data::Dense(bytes) => writer.dense(&bytes),
                Data::Packed(_) => Err(other_content(item)),
            };
        }
        let bits = match writer.next_item() {
            Some(Planned::Dense { dtype, .. }) => dtype.bitsize(),
            _ => 0,
        };
        if self.last.as_ref().is_none_or(|last| last.entry(name).is_none()) {
            // Not two layers at a time.
            drop(self.last.take());
            let Data::Packed(tensor) = fetch(item)? else { return Err(other_content(item)) };
            let of_scheme =
                matches!(item.content, Content::Packed { scheme, .. } if scheme == *tensor.scheme());
            if !of_scheme || tensor.shape() != item.shape {
                return Err(other_content(item));
            }
            let encoded = match self.checked.contains(item.name.as_str()) {
                false => self.encode_checked(item, &tensor, same)?,
                // Those of other types lie elsewhere.
                true => self.encode(item, &tensor, |part| part.dtype.bitsize() == bits)?,
            };
            self.checked.insert(&item.name);
            self.last = Some(encoded);
        }
        let bytes = self.last.as_ref().and_then(|last| Some(last.raw(last.entry(name)?)));
        writer.dense(bytes.ok_or_else(lost)?)
    }

    /// The parts of a layer that are wanted, as a file of its own.
    fn encode(&self, item: &Item, tensor: &PackedTensor, wanted: impl Fn(&Part) -> bool) -> Result<Model> {
        let in_tensor = |e: Error| e.in_tensor(&item.name);
        let module = item.name.strip_suffix(".weight").unwrap_or(&item.name);
        let parts = (self.target.parts)(tensor.scheme(), tensor.shape()).map_err(in_tensor)?;
        let mut plan = Plan::default();
        for part in parts.iter().filter(|part| wanted(part)) {
            plan.dense(format!("{module}{}", part.suffix), part.dtype, part.shape.clone())?;
        }
        let bytes = plan.items().iter().map(|part| safetensors::FORMAT.data_bytes(part));
        let bytes = bytes.sum::<Result<u64>>()?.saturating_add(ROOM);
        let out = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let mut writer = Writer::new(out, &self.path, &safetensors::FORMAT, plan)?;
        while let Some(name) = writer.next_item().map(Planned::name) {
            let suffix = name.get(module.len()..).unwrap_or_default();
            let bytes = (self.target.encode)(tensor, suffix).map_err(in_tensor)?;
            writer.dense(&bytes)?;
        }
        Model::from_bytes(&self.path, writer.finish()?)
    }

    /// All parts of a layer, once it was read from them under the settings of the whole.
    fn encode_checked(&self, item: &Item, tensor: &PackedTensor, same: &Same) -> Result<Model> {
        let encoded = self.encode(item, tensor, |_| true)?;
        let text = Value::from(self.root.clone()).to_string().into_bytes();
        let config = Config::parse(&[("config.json".into(), text)])?;
        let config =
            config.ok_or_else(|| Error::Check { what: "settings that were made are none".into() })?;
        let encoded = Checkpoint::new(config, encoded)?;
        let read = encoded.packed(&item.name)?;
        if read == *tensor {
            return Ok(encoded.into_files());
        }
        // The indices of groups do not tell in which order the columns of a group were.
        let regrouped = tensor.scheme().is_permuted() && read.scheme() == tensor.scheme();
        if regrouped || recast(tensor, *read.scheme()).is_ok_and(|other| other == read) {
            same(tensor, &read).map_err(|e| e.in_tensor(&item.name))?;
            return Ok(encoded.into_files());
        }
        let what = format!("tensor '{}': read back from {} it would be another", item.name, self.target.name);
        Err(Error::Check { what })
    }
}

fn other_content(item: &Item) -> Error {
    Error::shape(format!("content of tensor '{}'", item.name), "what the item says", "another")
}
