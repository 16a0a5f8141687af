//! Reading safetensors: headers are parsed once and checked against the file, tensors are read when asked for.
//!
//! ```text
//! path -> shards (memory maps) -> headers -> entries, planes joined into packed tensors -> Tensor | PackedTensor | raw bytes
//! ```
//!
//! With the feature `mmap` a file is mapped, so that only what is read takes memory; a file that another process shortens
//! meanwhile then ends the program (the operating system's rule for maps). Without it the file is loaded whole.

use super::{Described, Dtype, MAX_HEADER, TENSORS_KEY, VERSION, VERSION_KEY, float_type};
use crate::scheme::{Layout, PlaneKind};
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor};
use ::safetensors::tensor::Metadata;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The bytes of one file.
enum Bytes {
    #[cfg(feature = "mmap")]
    Map(memmap2::Mmap),
    Memory(Cow<'static, [u8]>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Self::Map(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

/// Where a run of bytes lies.
#[derive(Clone, Debug)]
struct Part {
    shard: usize,
    range: Range<usize>,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Plain elements of any type safetensors knows.
    Dense(Dtype),
    /// Planes of a scheme; `source` is the type the weights had before.
    Packed { scheme: Scheme, source: DType },
}

/// One tensor of a model.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    pub content: Content,
    /// Bytes in the file, planes together.
    pub bytes: u64,
    parts: Vec<(Option<PlaneKind>, Part)>,
}

impl Entry {
    /// The element type, if it is plain f32, f16 or bf16.
    pub fn float(&self) -> Option<DType> {
        match self.content {
            Content::Dense(dtype) => float_type(dtype),
            Content::Packed { .. } => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scheme's name, or the element type in lower case.
    pub fn scheme_name(&self) -> String {
        match &self.content {
            Content::Dense(dtype) => dtype.to_string().to_ascii_lowercase(),
            Content::Packed { scheme, .. } => scheme.to_string(),
        }
    }

    /// Bits per weight: the scheme's own count, or those of the element type.
    pub fn bits_per_weight(&self) -> f64 {
        match &self.content {
            Content::Dense(dtype) => dtype.bitsize() as f64,
            Content::Packed { scheme, .. } => match scheme.check_shape(&self.shape) {
                Ok((rows, k)) => scheme.bits_per_weight(rows, k),
                Err(_) => f64::NAN,
            },
        }
    }
}

/// An open model: one safetensors file or the shards of one.
pub struct Model {
    /// The index that names the shards, if there is one.
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), what: what.into() }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

impl Model {
    /// Opens a safetensors file, a `*.safetensors.index.json`, or a folder with either in it.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Format`] if a header is truncated, is not JSON, or describes other data than
    /// the file has; if an index names files or tensors that are not there; if a packed tensor lacks planes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let info = std::fs::metadata(path).map_err(io(path))?;
        let path = if info.is_dir() { find_in_folder(path)? } else { path.to_path_buf() };
        if path.extension().is_some_and(|e| e == "json") {
            return open_index(&path);
        }
        let bytes = load(&path)?;
        Self::build(vec![Shard { path, bytes }], None)
    }

    /// A model from the bytes of one file; `label` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(label: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let shard = Shard { path: label.into(), bytes: Bytes::Memory(bytes.into()) };
        Self::build(vec![shard], None)
    }

    /// All tensors, names in natural order (`layer.2` before `layer.10`).
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A tensor by name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).and_then(|&i| self.entries.get(i))
    }

    /// The user's metadata: everything but lowbit's own keys. Of shards that differ, the first counts.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files behind the model, an index included.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path()).chain(self.index.as_deref())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.bytes).fold(0, u64::saturating_add)
    }

    fn slice(&self, part: &Part) -> &[u8] {
        // Ranges were checked against the file when the header was read.
        self.shards.get(part.shard).and_then(|s| s.bytes.get().get(part.range.clone())).unwrap_or(&[])
    }

    /// The bytes of a dense entry; of a packed one, of its first plane.
    pub fn raw(&self, entry: &Entry) -> &[u8] {
        entry.parts.first().map_or(&[], |(_, part)| self.slice(part))
    }

    /// A dense f32, f16 or bf16 entry as a tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other entries.
    pub fn tensor(&self, entry: &Entry) -> Result<Tensor> {
        let dtype = entry.float().ok_or_else(|| {
            Error::unsupported(
                format!("tensor '{}' of type {}", entry.name, entry.scheme_name()),
                "f32, f16 and bf16 are read as numbers",
            )
        })?;
        Tensor::from_bytes(entry.shape.clone(), dtype, self.raw(entry).to_vec())
    }

    /// A packed entry with its planes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for dense entries; [`Error::Plane`] if planes do not belong to the scheme.
    pub fn packed(&self, entry: &Entry) -> Result<PackedTensor> {
        let Content::Packed { scheme, .. } = entry.content else {
            return Err(Error::unsupported(
                format!("tensor '{}' as packed", entry.name),
                "it is a dense one",
            ));
        };
        let planes: Vec<_> =
            entry.parts.iter().filter_map(|(kind, part)| Some(((*kind)?, self.slice(part)))).collect();
        PackedTensor::from_planes(scheme, entry.shape.clone(), &planes)
    }

    /// Joins the shards. `wanted`: tensor -> shard, where an index says so.
    fn build(shards: Vec<Shard>, wanted: Option<&HashMap<String, usize>>) -> Result<Self> {
        let mut dense = Vec::new();
        let mut described = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (shard, Shard { path, bytes }) in shards.iter().enumerate() {
            let (header, start) = parse_header(path, bytes.get())?;
            described.extend(take_own_metadata(path, &header, &mut metadata)?);
            for name in header.offset_keys() {
                let Some(info) = header.info(&name) else { continue };
                if wanted.and_then(|w| w.get(&name)).is_some_and(|&w| w != shard) {
                    continue;
                }
                let (from, to) = info.data_offsets;
                let range = (start.checked_add(from), start.checked_add(to));
                let (Some(from), Some(to)) = range else { return Err(bad(path, "data offsets overflow")) };
                let part = Part { shard, range: from..to };
                dense.push(Entry {
                    name,
                    shape: info.shape.clone(),
                    content: Content::Dense(info.dtype),
                    bytes: to.saturating_sub(from) as u64,
                    parts: vec![(None, part)],
                });
            }
        }
        let first = shards.first().map(|s| s.path.clone()).unwrap_or_default();
        let mut entries = join_planes(&first, dense, described)?;
        entries.sort_by(|a, b| natural(&a.name, &b.name));
        let mut by_name = HashMap::with_capacity(entries.len());
        for (i, entry) in entries.iter().enumerate() {
            if by_name.insert(entry.name.clone(), i).is_some() {
                return Err(bad(&first, format!("tensor '{}' occurs twice", entry.name)));
            }
        }
        Ok(Self { index: None, shards, entries, by_name, metadata })
    }
}

/// Maps or loads a regular file.
fn load(path: &Path) -> Result<Bytes> {
    // Asked before opening, which would wait for a writer at the other end of a pipe.
    if !std::fs::metadata(path).map_err(io(path))?.is_file() {
        return Err(bad(path, "not a regular file"));
    }
    let file = File::open(path).map_err(io(path))?;
    #[cfg(feature = "mmap")]
    {
        // SAFETY: the map is only read, through `&[u8]`. Another process that writes to the file changes what is read, which
        // no code here relies on (ranges are checked against the length at the time of mapping, values are plain numbers);
        // one that shortens it makes reads fault, which ends the process without undefined results. The module text says so.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io(path))?;
        Ok(Bytes::Map(map))
    }
    #[cfg(not(feature = "mmap"))]
    {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(io(path))?;
        Ok(Bytes::Memory(bytes.into()))
    }
}

/// The header and where the data starts.
fn parse_header(path: &Path, bytes: &[u8]) -> Result<(Metadata, usize)> {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(
            path,
            format!("not a safetensors file: {} bytes, the header length alone takes 8", bytes.len()),
        ));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(bad(path, format!("not a safetensors file: a header of {len} bytes is announced")));
    }
    let header = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let Some((header, data)) = header else {
        return Err(bad(
            path,
            format!("truncated: a header of {len} bytes is announced, {} bytes follow", rest.len()),
        ));
    };
    let parsed: Metadata = serde_json::from_slice(header).map_err(|e| bad(path, format!("header: {e}")))?;
    if parsed.data_len() > data.len() {
        let need = parsed.data_len();
        return Err(bad(
            path,
            format!("truncated: the header describes {need} bytes of data, {} follow", data.len()),
        ));
    }
    if parsed.data_len() < data.len() {
        let need = parsed.data_len();
        return Err(bad(path, format!("the header describes {need} bytes of data, {} follow", data.len())));
    }
    Ok((parsed, bytes.len().saturating_sub(data.len())))
}

/// Adds the user's metadata to `into` and returns what lowbit's own says of packed tensors.
fn take_own_metadata(
    path: &Path,
    header: &Metadata,
    into: &mut BTreeMap<String, String>,
) -> Result<BTreeMap<String, Described>> {
    let mut described = BTreeMap::new();
    let Some(metadata) = header.metadata() else { return Ok(described) };
    match metadata.get(VERSION_KEY).map(|v| (v, v.parse::<u32>())) {
        None => {}
        Some((_, Ok(1..=VERSION))) => {
            let text = metadata.get(TENSORS_KEY).map_or("{}", String::as_str);
            described =
                serde_json::from_str(text).map_err(|e| bad(path, format!("metadata {TENSORS_KEY}: {e}")))?;
        }
        Some((v, _)) => {
            let what = format!("version '{v}' of lowbit's packed layout; this lowbit reads up to {VERSION}");
            return Err(bad(path, what));
        }
    }
    for (key, value) in metadata {
        if key != VERSION_KEY && key != TENSORS_KEY {
            into.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(described)
}

/// Replaces the planes among `dense` by the packed tensors they belong to.
fn join_planes(path: &Path, dense: Vec<Entry>, described: BTreeMap<String, Described>) -> Result<Vec<Entry>> {
    let index: HashMap<&str, &Entry> = dense.iter().map(|e| (e.name.as_str(), e)).collect();
    let mut used = HashSet::new();
    let mut entries = Vec::with_capacity(dense.len());
    for (name, Described { scheme, shape, dtype }) in described {
        let wrong = |what: String| bad(path, format!("packed tensor '{name}': {what}"));
        let scheme: Scheme = scheme.parse().map_err(|e: Error| wrong(e.to_string()))?;
        let (rows, k) = scheme.check_shape(&shape).map_err(|e| wrong(e.to_string()))?;
        let source = float_type(dtype).ok_or_else(|| wrong(format!("original type {dtype}")))?;
        let layout = Layout::new(&scheme, rows, k);
        let mut parts = Vec::new();
        for plane in layout.planes().iter().filter(|p| super::write::stored(&scheme, p.kind)) {
            let plane_name = format!("{name}.{}", plane.kind.name());
            let entry =
                index.get(plane_name.as_str()).ok_or_else(|| wrong(format!("no plane '{plane_name}'")))?;
            if entry.content != Content::Dense(Dtype::U8) || entry.bytes != plane.len as u64 {
                let got = format!("{} bytes of {}", entry.bytes, entry.scheme_name());
                return Err(wrong(format!(
                    "plane '{plane_name}': expected {} bytes of u8, got {got}",
                    plane.len
                )));
            }
            parts.extend(entry.parts.first().map(|(_, part)| (Some(plane.kind), part.clone())));
            used.insert(plane_name);
        }
        // A plane that the scheme does not have: the tensor is of another one.
        let foreign = PlaneKind::ALL.iter().map(|kind| format!("{name}.{}", kind.name()));
        if let Some(plane) = foreign.into_iter().find(|n| index.contains_key(n.as_str()) && !used.contains(n))
        {
            return Err(wrong(format!("'{plane}' is no plane of {scheme}")));
        }
        let bytes = parts.iter().map(|(_, p)| p.range.len() as u64).fold(0, u64::saturating_add);
        entries.push(Entry { name, shape, content: Content::Packed { scheme, source }, bytes, parts });
    }
    entries.extend(dense.into_iter().filter(|e| !used.contains(&e.name)));
    Ok(entries)
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
        } else if name.ends_with(".safetensors") && !name.starts_with('.') {
            files.push(path);
        }
    }
    let named = |name: &str| Some(folder.join(name)).filter(|p| p.is_file());
    if let Some(path) = named("model.safetensors.index.json").or_else(|| named("model.safetensors")) {
        return Ok(path);
    }
    match (indices.as_slice(), files.as_slice()) {
        ([index], _) => Ok(index.clone()),
        ([], [file]) => Ok(file.clone()),
        ([], []) => Err(bad(folder, "no .safetensors file and no .safetensors.index.json in this folder")),
        _ => Err(bad(folder, "several safetensors files and no single index among them; name one")),
    }
}

/// The part of an index that is used.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_index(path: &Path) -> Result<Model> {
    let text = std::fs::read(path).map_err(io(path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| bad(path, format!("index: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() {
        return Err(bad(path, "index: weight_map is empty"));
    }
    let mut shards = Vec::with_capacity(files.len());
    for file in &files {
        // A downloaded index must not reach files outside its folder.
        let plain = !file.is_empty() && Path::new(file).file_name().is_some_and(|n| n == *file);
        if !plain {
            return Err(bad(path, format!("index: '{file}' is not a plain file name")));
        }
        let path = folder.join(file);
        let bytes = load(&path)?;
        shards.push(Shard { path, bytes });
    }
    let wanted: HashMap<String, usize> = index
        .weight_map
        .iter()
        .filter_map(|(name, file)| Some((name.clone(), files.binary_search(&file.as_str()).ok()?)))
        .collect();
    let mut model = Model::build(shards, Some(&wanted))?;
    model.index = Some(path.to_path_buf());
    let planes = |name: &str| model.entries.iter().any(|e| is_plane_of(e, name));
    match wanted.keys().filter(|name| model.entry(name).is_none() && !planes(name)).min() {
        None => Ok(model),
        Some(name) => {
            let file = index.weight_map.get(name).map_or("", String::as_str);
            Err(bad(path, format!("index: tensor '{name}' is not in '{file}'")))
        }
    }
}

/// Whether `name` is that of a plane of a packed entry.
fn is_plane_of(entry: &Entry, name: &str) -> bool {
    let suffix = name.strip_prefix(entry.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
    suffix.is_some_and(|s| entry.parts.iter().any(|(kind, _)| kind.is_some_and(|k| k.name() == s)))
}

/// Order of names with runs of digits compared as numbers.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |s: &str| -> Vec<(String, Option<(usize, String)>)> {
        let mut parts = Vec::new();
        let mut rest = s;
        while !rest.is_empty() {
            let (text, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
            let (digits, tail) =
                tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()));
            let digits = digits.trim_start_matches('0');
            // Without leading zeros, a longer number is the larger one.
            let number = (text.len() < rest.len()).then(|| (digits.len(), digits.to_string()));
            parts.push((text.to_string(), number));
            rest = tail;
        }
        parts
    };
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<Model> {
        Model::from_bytes("x.safetensors", bytes)
    }

    fn refused(bytes: Vec<u8>) -> String {
        match open(bytes) {
            Err(e @ Error::Format { .. }) => e.to_string(),
            Err(e) => panic!("{e:?}"),
            Ok(m) => panic!("accepted {:?}", m.entries()),
        }
    }

    #[test]
    fn lying_headers_are_refused_with_the_path() {
        let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_eq!(open(file(good, &[0; 8])).unwrap().entries().len(), 1);
        for (what, bytes) in [
            ("empty", vec![]),
            ("seven bytes", vec![1; 7]),
            ("a huge header", u64::MAX.to_le_bytes().to_vec()),
            ("a header longer than the file", 1000u64.to_le_bytes().to_vec()),
            ("data cut", file(good, &[0; 7])),
            ("data too long", file(good, &[0; 9])),
            ("not json", file("{", &[])),
            ("not utf-8", [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            ("no map", file("[]", &[])),
            ("a short extent", file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, &[0; 4])),
            ("a gap", file(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#, &[0; 4])),
            ("backwards", file(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[4,2]}}"#, &[0; 4])),
            ("a type of no kind", file(r#"{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8])),
            ("negative", file(r#"{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,8]}}"#, &[0; 8])),
            (
                "an overflowing shape",
                file(
                    r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
            ),
        ] {
            let message = refused(bytes);
            assert!(message.starts_with("x.safetensors: "), "{what}: {message}");
        }
        // Eight extents of 2^61 bytes: the sum of all overflows when the header is added.
        let size = usize::MAX / 8;
        let extents: Vec<String> = (0..8usize)
            .map(|i| {
                let (from, to) = (i * size, (i + 1) * size);
                format!(r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{from},{to}]}}"#)
            })
            .collect();
        refused(file(&format!("{{{}}}", extents.join(",")), &[]));
    }

    #[test]
    fn packed_metadata_is_checked() {
        let meta = |version: &str, tensors: &str| {
            let meta =
                serde_json::json!({"lowbit.version": version, "lowbit.tensors": tensors, "mine": "kept"});
            let planes = r#""w.codes":{"dtype":"U8","shape":[2,16],"data_offsets":[0,32]},
                            "w.scales":{"dtype":"U8","shape":[2,2],"data_offsets":[32,36]}"#;
            file(&format!(r#"{{"__metadata__":{meta},{planes}}}"#), &[0; 36])
        };
        let good = r#"{"w":{"scheme":"q4_0","shape":[2,32],"dtype":"F16"}}"#;
        let model = open(meta("1", good)).unwrap();
        assert_eq!(model.entries().len(), 1);
        let entry = model.entry("w").unwrap();
        assert_eq!((entry.bytes, entry.scheme_name().as_str(), entry.bits_per_weight()), (36, "q4_0", 4.5));
        assert_eq!(model.packed(entry).unwrap().shape(), &[2, 32]);
        assert_eq!(model.metadata().len(), 1);
        for (version, tensors) in [
            ("2", good),
            ("x", good),
            ("1", "{"),
            ("1", r#"{"w":{"scheme":"q4_9","shape":[2,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[2,33],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[3,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[18446744073709551615,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[2,32],"dtype":"I8"}}"#),
            ("1", r#"{"w":{"scheme":"q4_1","shape":[2,32],"dtype":"F16"}}"#),
            // Its codes would be the same bytes, but it has no scales.
            ("1", r#"{"w":{"scheme":"f32","shape":[1,8],"dtype":"F16"}}"#),
            ("1", r#"{"v":{"scheme":"q4_0","shape":[2,32],"dtype":"F16"}}"#),
        ] {
            refused(meta(version, tensors));
        }
    }

    #[test]
    fn names_are_ordered_as_people_do() {
        let mut names = ["l.10.w", "l.2.w", "l.2.b", "l.02.w", "a", "l", "l.2", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a", "l", "l.2", "l.2.b", "l.02.w", "l.2.w", "l.10.w"]);
    }
}
