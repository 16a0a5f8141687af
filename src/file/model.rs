//! A model on disk, whatever format it is in: its tensors, read when asked for, and what the file says beside them.
//!
//! ```text
//! path -> file, index or folder -> format by content -> Parsed (shards mapped, entries, metadata) -> Tensor | PackedTensor | raw bytes
//! ```
//!
//! What is asked of a [`Model`] is the same for every format; the formats differ in how they are opened (`safetensors`, `gguf`, `onnx`) and in the
//! row of [`super::write::FORMATS`] that an entry carries.

use super::bytes::{Bytes, bad, io, load};
use super::checkpoint::{self, Checkpoint};
use super::metadata::Metadata;
use super::write::Format;
use super::{Dtype, float_type, gguf, hf, onnx, safetensors};
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file of a model.
pub(super) struct Shard {
    pub path: PathBuf,
    pub bytes: Bytes,
}

/// Where a run of bytes lies.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub shard: usize,
    /// Inside the file: checked when the header was read. A file may be longer than memory.
    pub range: Range<u64>,
}

impl Part {
    /// A part of bytes that are in memory.
    pub fn of_memory(shard: usize, range: Range<usize>) -> Self {
        Self { shard, range: range.start as u64..range.end as u64 }
    }

    fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Plain elements.
    Dense(Dtype),
    /// A tensor in a scheme; `source` is the type the weights had before.
    Packed { scheme: Scheme, source: DType },
    /// Something that is known by name and size only (GGUF's IQ1, IQ2 and IQ3).
    Listed { name: &'static str },
}

/// One tensor of a model.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    pub content: Content,
    /// Bytes of its data, planes together.
    pub bytes: u64,
    /// Whether the type belongs to the tensor, which is not to be quantized then.
    pub fixed: bool,
    pub(super) format: &'static Format,
    /// As the format's `encode` makes them, in order.
    pub(super) parts: Vec<Part>,
    /// How a tensor of a HuggingFace folder becomes one of GGUF; none: it is taken as it lies in the file.
    pub(super) mapped: Option<hf::Mapped>,
}

impl Entry {
    /// An entry that lies in the file as it is read. Its bytes are those of its parts.
    pub(super) fn new(
        name: String,
        shape: Vec<usize>,
        content: Content,
        format: &'static Format,
        parts: Vec<Part>,
    ) -> Self {
        let bytes = parts.iter().map(Part::len).fold(0, u64::saturating_add);
        Self { name, shape, content, bytes, fixed: false, format, parts, mapped: None }
    }

    /// The element type, if it is plain f32, f16 or bf16.
    pub fn float(&self) -> Option<DType> {
        match self.content {
            Content::Dense(dtype) => float_type(dtype),
            Content::Packed { .. } | Content::Listed { .. } => None,
        }
    }

    /// The name that the tensor has where it was read.
    pub fn name_in_file(&self) -> &str {
        self.mapped.as_ref().map_or(&self.name, |m| &m.from)
    }

    /// Number of elements, as far as can be counted here.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scheme's name, or the type in lower case.
    pub fn scheme_name(&self) -> String {
        match &self.content {
            Content::Dense(dtype) => dtype.to_string().to_ascii_lowercase(),
            Content::Packed { scheme, .. } => scheme.to_string(),
            Content::Listed { name } => name.to_ascii_lowercase(),
        }
    }

    /// Bits per weight: the count of the scheme in this file, or those of the element type.
    pub fn bits_per_weight(&self) -> f64 {
        match &self.content {
            Content::Dense(dtype) => dtype.bitsize() as f64,
            Content::Packed { scheme, .. } => match scheme.check_shape(&self.shape) {
                Ok((rows, k)) => (self.format.bits_per_weight)(scheme, rows, k),
                Err(_) => f64::NAN,
            },
            Content::Listed { .. } => self.bytes as f64 * 8.0 / self.len() as f64,
        }
    }

    /// Whether there is more to be had than name and size.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for [`Content::Listed`], with the tensor's name.
    pub fn readable(&self) -> Result<()> {
        match self.content {
            Content::Listed { name } => {
                let why = "lowbit lists tensors of this type and does not decode or copy them";
                Err(Error::unsupported(format!("type {name}"), why).in_tensor(&self.name))
            }
            Content::Dense(_) | Content::Packed { .. } => Ok(()),
        }
    }
}

/// What the reader of a format found.
pub(super) struct Parsed {
    pub format: &'static Format,
    /// The index that names the shards, if there is one.
    pub index: Option<PathBuf>,
    pub shards: Vec<Shard>,
    pub entries: Vec<Entry>,
    pub metadata: Metadata,
    /// Numbers of the format's own, for listings.
    pub details: Vec<(&'static str, u64)>,
}

impl Parsed {
    pub fn new(format: &'static Format) -> Self {
        Self {
            format,
            index: None,
            shards: Vec::new(),
            entries: Vec::new(),
            metadata: Metadata::default(),
            details: Vec::new(),
        }
    }
}

/// An open model: one file or the shards of one.
pub struct Model {
    parsed: Parsed,
    by_name: HashMap<String, usize>,
    /// What has the files and reads the quantized layers, if the model is one of another quantizer.
    checkpoint: Option<Box<Checkpoint>>,
}

impl Model {
    /// Opens a safetensors, GGUF (any shard of a model) or ONNX file, a `*.safetensors.index.json`, or a folder with one of them. A file's
    /// content decides, and not its name. Of a folder whose `config.json` says that it is quantized, the layers are packed entries: see
    /// [`checkpoint`].
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Format`] if a header is truncated or broken, or describes other data than
    /// the file has; if an index names files or tensors that are not there; if shards or planes are missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let settings = if path.is_dir() { checkpoint::settings(path)? } else { None };
        let model = Self::open_files(path)?;
        match settings.filter(|_| std::ptr::eq(model.format(), &safetensors::FORMAT)) {
            Some(config) => Self::of_checkpoint(Checkpoint::new(config, model)?),
            None => Ok(model),
        }
    }

    fn of_checkpoint(checkpoint: Checkpoint) -> Result<Self> {
        let files = checkpoint.files();
        let metadata = files.metadata().clone();
        let mut parsed = Parsed { metadata, ..Parsed::new(&safetensors::FORMAT) };
        parsed.entries = checkpoint.as_entries();
        Ok(Self { checkpoint: Some(Box::new(checkpoint)), ..Self::build(parsed)? })
    }

    /// The tensors as they lie in the files, whatever settings say of them.
    pub(super) fn open_files(path: &Path) -> Result<Self> {
        let info = std::fs::metadata(path).map_err(io(path))?;
        let path = if info.is_dir() { find_in_folder(path)? } else { path.to_path_buf() };
        if path.extension().is_some_and(|e| e == "json") {
            return Self::build(safetensors::read::open_index(&path)?);
        }
        let bytes = load(&path)?;
        Self::from_loaded(&path, bytes)
    }

    /// A model from the bytes of one file; `label` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(label: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::from_loaded(&label.into(), Bytes::memory(bytes))
    }

    pub(super) fn from_loaded(path: &Path, bytes: Bytes) -> Result<Self> {
        let open = match bytes.get() {
            b if b.starts_with(gguf::MAGIC) => gguf::read::open,
            b if onnx::is_one(b) => onnx::read::open,
            _ => safetensors::read::open,
        };
        Self::build(open(path, bytes)?)
    }

    fn build(parsed: Parsed) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(parsed.entries.len());
        for (i, entry) in parsed.entries.iter().enumerate() {
            if by_name.insert(entry.name.clone(), i).is_some() {
                let first = parsed.shards.first().map(|s| s.path.clone()).unwrap_or_default();
                return Err(bad(&first, format!("tensor '{}' occurs twice", entry.name)));
            }
        }
        Ok(Self { parsed, by_name, checkpoint: None })
    }

    /// Number of files that hold data.
    pub(super) fn shard_count(&self) -> usize {
        self.shards().count()
    }

    /// The model that `to` says, whose entries are parts of this one's shards and of those that it brings, counted behind them.
    pub(super) fn mapped_to(self, mut to: Parsed) -> Result<Self> {
        let mut shards = self.parsed.shards;
        shards.append(&mut to.shards);
        let built = Self::build(Parsed { index: self.parsed.index, shards, ..to })?;
        Ok(Self { checkpoint: self.checkpoint, ..built })
    }

    /// All tensors: those of safetensors in the natural order of their names (`layer.2` before `layer.10`), those of GGUF in the file's.
    pub fn entries(&self) -> &[Entry] {
        &self.parsed.entries
    }

    /// A tensor by name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).and_then(|&i| self.parsed.entries.get(i))
    }

    /// The user's metadata: everything but lowbit's own keys and the numbers of shards. Of shards that differ, the first counts.
    pub fn metadata(&self) -> &Metadata {
        &self.parsed.metadata
    }

    /// The same, to be added to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.parsed.metadata
    }

    /// The format's row.
    pub fn format(&self) -> &'static Format {
        self.parsed.format
    }

    /// What the model is in: the format's name, or that of the checkpoint.
    pub fn format_name(&self) -> &'static str {
        self.checkpoint.as_ref().map_or(self.format().name, |c| c.format())
    }

    /// The quantized checkpoint that the model is, if it is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_deref()
    }

    /// The files with data: those of the checkpoint, then the model's own.
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        let of_checkpoint = self.checkpoint.as_ref().map_or(&[][..], |c| &c.files().parsed.shards);
        of_checkpoint.iter().chain(&self.parsed.shards)
    }

    fn shard(&self, part: &Part) -> Option<&Shard> {
        self.shards().nth(part.shard)
    }

    /// Numbers of the format's own (version, alignment), for listings.
    pub fn details(&self) -> &[(&'static str, u64)] {
        &self.parsed.details
    }

    /// The files behind the model, an index and settings included.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = self.checkpoint.as_ref().map_or(self, |c| c.files());
        let settings = self.checkpoint.as_ref().map(|c| c.settings_path());
        let mut shards: Vec<&Path> = files.parsed.shards.iter().map(|s| s.path.as_path()).collect();
        // Numbers that were made of a file's fields are a shard of its path.
        shards.dedup();
        shards.into_iter().chain(files.parsed.index.as_deref()).chain(settings)
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.entries().iter().map(|e| e.bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors as they lie in the files, before any of them is mapped.
    pub fn stored_bytes(&self) -> u64 {
        let parts = self.entries().iter().flat_map(|e| &e.parts);
        parts.map(Part::len).fold(0, u64::saturating_add)
    }

    fn slice(&self, part: &Part) -> &[u8] {
        // Ranges were checked against the file when the header was read.
        self.shard(part).map_or(&[], |s| s.bytes.slice(&part.range))
    }

    /// As [`Self::slice`], to be kept.
    fn share(&self, part: &Part) -> bytes::Bytes {
        self.shard(part).map(|s| s.bytes.share(&part.range)).unwrap_or_default()
    }

    /// The elements of a dense entry, as its type and shape say; of another, as [`Self::raw`].
    ///
    /// # Errors
    /// [`Error::NotRepresentable`] if the entry is rounded and a number is beyond the range of its type.
    pub fn data(&self, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        match (&entry.mapped, entry.float()) {
            (Some(mapped), Some(dtype)) => {
                let made = hf::make(self.raw(entry), &entry.shape, mapped, dtype);
                made.map_err(|e| e.in_tensor(&entry.name))
            }
            _ => Ok(Cow::Borrowed(self.raw(entry))),
        }
    }

    /// The bytes that lie in the file: of a dense entry its elements, of a packed one its first plane or its blocks.
    pub fn raw(&self, entry: &Entry) -> &[u8] {
        entry.parts.first().map_or(&[], |part| self.slice(part))
    }

    /// Says that an entry has been read and will not be soon, so that its part of a mapped file need not stay in memory.
    pub fn release(&self, entry: &Entry) {
        for part in &entry.parts {
            if let Some(shard) = self.shard(part) {
                shard.bytes.release(&part.range);
            }
        }
    }

    /// The file of an entry, which is in memory, and the byte at which its data starts.
    pub(super) fn place(&self, entry: &Entry) -> (&Path, usize) {
        let part = entry.parts.first();
        let path = part.and_then(|p| self.shard(p)).map_or(Path::new(""), |s| s.path.as_path());
        (path, part.map_or(0, |p| p.range.start as usize))
    }

    /// A model of which the first bytes are here and the others are fetched when they are asked for: see [`Self::ranges`]. GGUF and safetensors. None if the
    /// header goes on behind `head`, of which more is wanted then; `len` is the length of the file, `label` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_head(label: impl Into<PathBuf>, head: Vec<u8>, len: u64) -> Result<Option<Self>> {
        let path = label.into();
        let bytes = Bytes::Head(Arc::new(head), len);
        let ends = match bytes.get() {
            head if head.starts_with(gguf::MAGIC) => gguf::read::is_whole(&path, &bytes),
            _ => safetensors::read::is_whole(&path, &bytes)?,
        };
        if !ends {
            return Ok(None);
        }
        let open =
            if bytes.get().starts_with(gguf::MAGIC) { gguf::read::open } else { safetensors::read::open };
        Self::build(open(&path, bytes)?).map(Some)
    }

    /// Where the data of an entry lies in its file: what [`Self::packed_of`] and [`Self::tensor_of`] want of a model from [`Self::from_head`].
    pub fn ranges(&self, entry: &Entry) -> Vec<Range<u64>> {
        entry.parts.iter().map(|part| part.range.clone()).collect()
    }

    /// As [`Self::tensor`], of the bytes of the entry's ranges.
    ///
    /// # Errors
    /// As [`Self::tensor`]; [`Error::Shape`] for other bytes than its shape says.
    pub fn tensor_of(&self, entry: &Entry, data: Vec<u8>) -> Result<Tensor> {
        Tensor::from_bytes(entry.shape.clone(), dense(entry)?, data)
    }

    /// As [`Self::packed`], of the bytes of the entry's ranges.
    ///
    /// # Errors
    /// As [`Self::packed`].
    pub fn packed_of(&self, entry: &Entry, data: &[&[u8]]) -> Result<PackedTensor> {
        let scheme = packed_in(entry)?;
        Ok(entry.format.read(scheme, &entry.shape, data, false)?.0)
    }

    /// A dense f32, f16 or bf16 entry as a tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other entries.
    pub fn tensor(&self, entry: &Entry) -> Result<Tensor> {
        let dtype = dense(entry)?;
        let bytes = match self.data(entry)? {
            Cow::Owned(bytes) => bytes.into(),
            Cow::Borrowed(_) => entry.parts.first().map(|part| self.share(part)).unwrap_or_default(),
        };
        Tensor::from_shared(entry.shape.clone(), dtype, bytes)
    }

    /// A packed entry with its planes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other entries; [`Error::Plane`] if planes do not belong to the scheme.
    pub fn packed(&self, entry: &Entry) -> Result<PackedTensor> {
        let scheme = packed_in(entry)?;
        let packed = match self.layers(entry) {
            Some(checkpoint) => checkpoint.packed(entry.name_in_file())?,
            None => entry.format.read(scheme, &entry.shape, &self.data_of(entry), false)?.0,
        };
        match &entry.mapped {
            Some(mapped) => hf::reorder(packed, mapped).map_err(|e| e.in_tensor(&entry.name)),
            None => Ok(packed),
        }
    }

    /// The data of an entry, piece by piece.
    pub(super) fn data_of(&self, entry: &Entry) -> Vec<&[u8]> {
        entry.parts.iter().map(|part| self.slice(part)).collect()
    }

    /// The blocks of a packed entry as they lie in the file, if a file of `format` has the same: for [`super::Writer::blocks`].
    pub fn blocks(&self, entry: &Entry, format: &Format) -> Option<&[u8]> {
        let packed = matches!(entry.content, Content::Packed { .. }) && self.layers(entry).is_none();
        let packed = packed && entry.mapped.is_none();
        (packed && format.by_rows && std::ptr::eq(entry.format, format)).then(|| self.raw(entry))
    }

    /// The checkpoint, if the entry is one of its quantized layers.
    fn layers(&self, entry: &Entry) -> Option<&Checkpoint> {
        self.checkpoint().filter(|c| c.is_layer(entry.name_in_file()))
    }

    /// A packed entry as [`Self::packed`], once it is sure that the file's bytes could be made from it again. Layers of checkpoints and ONNX nodes have
    /// several forms (words that borrow, indices of groups, blocks filled up with anything) and are not asked.
    ///
    /// # Errors
    /// [`Error::Check`] if they could not, with the first byte that would differ; as [`Self::packed`].
    pub fn packed_exactly(&self, entry: &Entry) -> Result<PackedTensor> {
        let Content::Packed { scheme, .. } = entry.content else { return self.packed(entry) };
        if self.layers(entry).is_some() || entry.mapped.is_some() || !entry.format.one_form {
            return self.packed(entry);
        }
        let (packed, differs) = entry.format.read(scheme, &entry.shape, &self.data_of(entry), true)?;
        if let Some(at) = differs {
            let what = format!(
                "tensor '{}': its {} blocks are not in the one form that planes keep: byte {at} of its data would come back changed",
                entry.name,
                entry.scheme_name(),
            );
            return Err(Error::Check { what });
        }
        Ok(packed)
    }
}

/// The element type of an entry that is read as numbers.
fn dense(entry: &Entry) -> Result<DType> {
    entry.float().ok_or_else(|| {
        Error::unsupported(
            format!("tensor '{}' of type {}", entry.name, entry.scheme_name()),
            "f32, f16 and bf16 are read as numbers",
        )
    })
}

/// The scheme of a packed entry.
fn packed_in(entry: &Entry) -> Result<Scheme> {
    entry.readable()?;
    match entry.content {
        Content::Packed { scheme, .. } => Ok(scheme),
        _ => Err(Error::unsupported(format!("tensor '{}' as packed", entry.name), "it is a dense one")),
    }
}

/// The index or file to open in a folder.
fn find_in_folder(folder: &Path) -> Result<PathBuf> {
    let mut indices = Vec::new();
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).map_err(io(folder))? {
        let path = item.map_err(io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".safetensors.index.json") {
            indices.push(path);
        } else if (name.ends_with(".safetensors") || name.ends_with(".gguf")) && !name.starts_with('.') {
            // Of the shards of a GGUF model, the first stands for all.
            let of = name.rsplit_once("-of-").filter(|_| name.ends_with(".gguf"));
            if of.is_none_or(|(stem, _)| stem.ends_with("-00001")) {
                files.push(path);
            }
        }
    }
    let named = |name: &str| Some(folder.join(name)).filter(|p| p.is_file());
    if let Some(path) = named("model.safetensors.index.json").or_else(|| named("model.safetensors")) {
        return Ok(path);
    }
    match (indices.as_slice(), files.as_slice()) {
        ([index], _) => Ok(index.clone()),
        ([], [file]) => Ok(file.clone()),
        ([], []) => Err(bad(
            folder,
            "no .safetensors file, no .safetensors.index.json and no .gguf file in this folder",
        )),
        _ => Err(bad(
            folder,
            "several safetensors files or GGUF models and no single index among them; name one",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::file::{Plan, Value, Writer};

    /// A dense tensor and a packed one, and metadata.
    fn written(format: &str) -> Vec<u8> {
        let mut metadata = Metadata::default();
        metadata.push("general.name".into(), Value::String("a model".into()));
        let mut plan = Plan::new(metadata);
        plan.dense("a", Dtype::F32, [2, 3]).unwrap();
        let scheme: Scheme = "q4_0".parse().unwrap();
        plan.packed("b", scheme, [4, 64], DType::F32).unwrap();
        let mut packed = PackedTensor::zeroed(scheme, [4, 64]).unwrap();
        (0..256).for_each(|i| packed.set_code(i / 64, i % 64, (i % 15) as u8));
        let mut writer = Writer::new(Vec::new(), "f", Format::named(format).unwrap(), plan).unwrap();
        while let Some(item) = writer.next_item().map(|item| item.name().to_string()) {
            if item == "a" { writer.dense(&[7; 24]).unwrap() } else { writer.packed(&packed).unwrap() }
        }
        writer.finish().unwrap()
    }

    #[test]
    fn a_header_is_read_from_the_first_bytes_and_tensors_from_their_ranges() {
        for format in ["gguf", "lowbit"] {
            let bytes = written(format);
            let whole = Model::from_bytes("f", bytes.clone()).unwrap();
            let mut wanted_more = 0;
            for n in 0..=bytes.len() {
                let head = bytes[..n].to_vec();
                let Some(model) = Model::from_head("f", head, bytes.len() as u64).unwrap() else {
                    assert_eq!(wanted_more, n, "{format}: {n} bytes are not enough, fewer were");
                    wanted_more += 1;
                    continue;
                };
                assert_eq!(model.metadata(), whole.metadata());
                for (entry, same) in model.entries().iter().zip(whole.entries()) {
                    assert_eq!(
                        (&entry.name, &entry.shape, entry.bytes),
                        (&same.name, &same.shape, same.bytes)
                    );
                    let ranges = model.ranges(entry).into_iter();
                    let data: Vec<&[u8]> = ranges.map(|r| &bytes[r.start as usize..r.end as usize]).collect();
                    match entry.float() {
                        Some(_) => {
                            assert_eq!(
                                model.tensor_of(entry, data[0].to_vec()).unwrap(),
                                whole.tensor(same).unwrap()
                            );
                            assert!(model.tensor_of(entry, data[0][1..].to_vec()).is_err());
                        }
                        None => {
                            assert_eq!(model.packed_of(entry, &data).unwrap(), whole.packed(same).unwrap());
                            assert!(model.packed_of(entry, &data[1..]).is_err());
                        }
                    }
                }
            }
            let header = whole.entries().iter().flat_map(|e| whole.ranges(e)).map(|r| r.start).min().unwrap();
            assert!(wanted_more > 8 && wanted_more as u64 <= header, "{format}: {wanted_more} of {header}");
        }
    }

    #[test]
    fn a_file_longer_than_memory_has_a_header_too() {
        let giga = 1u64 << 30;
        let large: Vec<String> = (0..6)
            .map(|i| {
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[1024,1048576],"data_offsets":[{},{}]}}"#,
                    i * giga,
                    (i + 1) * giga
                )
            })
            .collect();
        let header = format!("{{{}}}", large.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        let start = bytes.len() as u64;
        let model = Model::from_head("f", bytes.clone(), start + 6 * giga).unwrap().unwrap();
        let ranges = model.ranges(model.entry("t5").unwrap());
        assert_eq!(ranges.first(), Some(&(start + 5 * giga..start + 6 * giga)));
        let cut = Model::from_head("f", bytes, start + 5 * giga).map(drop).unwrap_err().to_string();
        assert!(cut.contains("'t5'") && cut.contains("truncated"), "{cut}");
    }
}
