//! Writing safetensors as a stream: the header follows from names, schemes and shapes, before any data exists.
//!
//! ```text
//! Plan (names, types, schemes, shapes, metadata) -> header -> items one by one, in the order the writer asks for them
//! ```
//!
//! Nothing but the tensor at hand is in memory. Data is ordered by element size, the largest first, as the safetensors library
//! does, so that dense tensors are aligned; packed tensors come last. Equal plans give equal bytes. Where the bytes go, and
//! whether a file is replaced atomically, is up to the caller's `Write`.

use super::{Described, Dtype, MAX_HEADER, TENSORS_KEY, VERSION, VERSION_KEY, file_type};
use crate::scheme::{Layout, PlaneKind};
use crate::{DType, Error, PackedTensor, Result, Scheme};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Whether a plane is stored in files: tables that the scheme fixes are not.
pub(super) fn stored(scheme: &Scheme, kind: PlaneKind) -> bool {
    kind != PlaneKind::Codebook || scheme.codebook().is_none()
}

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Plain elements: `bytes` of them will follow.
    Dense { name: String, dtype: Dtype, shape: Vec<usize>, bytes: usize },
    /// Planes of a scheme; `source` is the type the weights had before.
    Packed { name: String, scheme: Scheme, shape: Vec<usize>, source: DType },
}

impl Item {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Dense { name, .. } | Self::Packed { name, .. } => name,
        }
    }
}

/// What a file will hold.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    items: Vec<Item>,
    metadata: BTreeMap<String, String>,
}

impl Plan {
    /// A plan with the user's metadata; lowbit's own keys are added by the writer.
    pub fn new(metadata: BTreeMap<String, String>) -> Self {
        Self { items: Vec::new(), metadata }
    }

    /// Adds a dense tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] if its bytes cannot be counted.
    pub fn dense(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
    ) -> Result<()> {
        let (name, shape) = (name.into(), shape.into());
        let bits = crate::tensor::element_count(&shape).and_then(|n| n.checked_mul(dtype.bitsize()));
        let bytes = bits.filter(|b| b % 8 == 0).map(|b| b / 8).ok_or_else(|| {
            Error::shape(
                format!("tensor '{name}' of type {dtype}"),
                "a whole number of bytes",
                format!("{shape:?}"),
            )
        })?;
        self.items.push(Item::Dense { name, dtype, shape, bytes });
        Ok(())
    }

    /// Adds a packed tensor of `shape` [.., N, K].
    ///
    /// # Errors
    /// As [`Scheme::check_shape`].
    pub fn packed(
        &mut self,
        name: impl Into<String>,
        scheme: Scheme,
        shape: impl Into<Vec<usize>>,
        source: DType,
    ) -> Result<()> {
        let shape = shape.into();
        scheme.check_shape(&shape)?;
        self.items.push(Item::Packed { name: name.into(), scheme, shape, source });
        Ok(())
    }

    /// The header's JSON. Items must be in data order.
    fn header(&self, path: &Path) -> Result<Vec<u8>> {
        let bad = |what: String| Error::Format { path: path.to_path_buf(), what };
        let mut described = BTreeMap::new();
        let mut tensors = Map::new();
        let mut names = HashSet::new();
        let mut end = 0usize;
        let mut push = |name: String, dtype: Dtype, shape: Vec<usize>, len: usize| {
            let start = end;
            end = start.checked_add(len).ok_or_else(|| bad("more bytes than can be counted".into()))?;
            if !names.insert(name.clone()) {
                return Err(bad(format!("two tensors would be called '{name}'")));
            }
            let info = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
            tensors.insert(name, info);
            Ok(())
        };
        for item in &self.items {
            match item {
                Item::Dense { name, dtype, shape, bytes } => {
                    push(name.clone(), *dtype, shape.clone(), *bytes)?
                }
                Item::Packed { name, scheme, shape, source } => {
                    let (rows, k) = scheme.check_shape(shape)?;
                    for plane in
                        Layout::new(scheme, rows, k).planes().iter().filter(|p| stored(scheme, p.kind))
                    {
                        let shape = if plane.row_stride == 0 {
                            vec![plane.len]
                        } else {
                            vec![rows, plane.row_stride]
                        };
                        push(format!("{name}.{}", plane.kind.name()), Dtype::U8, shape, plane.len)?;
                    }
                    let dtype = file_type(*source);
                    let entry = Described { scheme: scheme.to_string(), shape: shape.clone(), dtype };
                    described.insert(name.clone(), entry);
                }
            }
        }
        if let Some(name) = described.keys().find(|name| tensors.contains_key(*name)) {
            return Err(bad(format!("two tensors would be called '{name}'")));
        }
        let json_error = |e: serde_json::Error| bad(format!("header: {e}"));
        let mut metadata: Map<String, Value> =
            self.metadata.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect();
        if !described.is_empty() {
            metadata.insert(VERSION_KEY.into(), VERSION.to_string().into());
            let text = serde_json::to_string(&described).map_err(json_error)?;
            metadata.insert(TENSORS_KEY.into(), text.into());
        }
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), metadata.into());
        }
        header.extend(tensors);
        let mut bytes = serde_json::to_vec(&header).map_err(json_error)?;
        bytes.resize(bytes.len().next_multiple_of(8), b' ');
        match bytes.len() as u64 {
            0..=MAX_HEADER => Ok(bytes),
            len => Err(bad(format!("a header of {len} bytes; readers accept {MAX_HEADER}"))),
        }
    }
}

/// A file being written.
pub struct Writer<W> {
    out: W,
    path: PathBuf,
    written: u64,
    /// In data order, reversed: the next is the last.
    left: Vec<Item>,
}

impl<W: Write> Writer<W> {
    /// Writes the header. `path` is for error messages.
    ///
    /// # Errors
    /// [`Error::Format`] if two tensors have one name or the header is too large for readers; [`Error::Io`].
    pub fn new(out: W, path: impl Into<PathBuf>, mut plan: Plan) -> Result<Self> {
        let path = path.into();
        plan.items.sort_by_key(|item| match item {
            Item::Dense { dtype, .. } => (false, std::cmp::Reverse(dtype.bitsize())),
            Item::Packed { .. } => (true, std::cmp::Reverse(8)),
        });
        let header = plan.header(&path)?;
        plan.items.reverse();
        let mut writer = Self { out, path, written: 0, left: plan.items };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// Bytes written so far, header included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The tensor to be written now.
    pub fn next_item(&self) -> Option<&Item> {
        self.left.last()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Writes the next tensor, a dense one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the next item is packed or has another length; [`Error::Io`].
    pub fn dense(&mut self, data: &[u8]) -> Result<()> {
        match self.left.last() {
            Some(Item::Dense { bytes, .. }) if *bytes == data.len() => {}
            other => return Err(unexpected(other, format!("{} bytes", data.len()))),
        }
        self.write(data)?;
        self.left.pop();
        Ok(())
    }

    /// Writes the next tensor, a packed one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the next item is dense, or of another scheme or shape; [`Error::Io`].
    pub fn packed(&mut self, tensor: &PackedTensor) -> Result<()> {
        match self.left.last() {
            Some(Item::Packed { scheme, shape, .. })
                if scheme == tensor.scheme() && *shape == tensor.shape() => {}
            other => return Err(unexpected(other, format!("{} {:?}", tensor.scheme(), tensor.shape()))),
        }
        for plane in tensor.layout().planes() {
            if stored(tensor.scheme(), plane.kind) {
                self.write(tensor.plane(plane.kind))?;
            }
        }
        self.left.pop();
        Ok(())
    }

    /// Ends the file and gives the output back, flushed.
    ///
    /// # Errors
    /// [`Error::Shape`] if tensors of the plan are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<W> {
        if let Some(item) = self.left.last() {
            return Err(unexpected(Some(item), "the end".into()));
        }
        self.out.flush().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(self.out)
    }
}

fn unexpected(item: Option<&Item>, got: String) -> Error {
    let expected = match item {
        None => "nothing more".to_string(),
        Some(Item::Dense { name, bytes, .. }) => format!("'{name}', {bytes} bytes"),
        Some(Item::Packed { name, scheme, shape, .. }) => format!("'{name}', {scheme} {shape:?}"),
    };
    Error::shape("next tensor of the file", expected, got)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::super::{Content, Model};
    use super::*;
    use crate::scheme::preset::samples;

    fn filled(scheme: Scheme, shape: &[usize], seed: usize) -> PackedTensor {
        let mut p = PackedTensor::zeroed(scheme, shape).unwrap();
        for plane in p.layout().clone().planes() {
            if stored(&scheme, plane.kind) {
                let bytes = p.plane_mut(plane.kind);
                bytes.iter_mut().enumerate().for_each(|(i, b)| *b = ((i + seed) * 37 % 251) as u8);
            }
        }
        p
    }

    #[test]
    fn every_scheme_comes_back_whole() {
        let schemes = samples();
        let shape = |s: &Scheme| if s.ggml.is_some() { vec![2, 3, 512] } else { vec![5, 77] };
        let mut plan = Plan::new(BTreeMap::from([("format".to_string(), "pt".to_string())]));
        plan.dense("ids", Dtype::I64, [3]).unwrap();
        plan.dense("flags", Dtype::BOOL, [0, 4]).unwrap();
        plan.dense("half", Dtype::F16, [2, 2]).unwrap();
        for s in &schemes {
            plan.packed(format!("w.{s}"), *s, shape(s), DType::Bf16).unwrap();
        }
        let mut writer = Writer::new(Vec::new(), "out", plan.clone()).unwrap();
        let mut seen = 0;
        while let Some(item) = writer.next_item().cloned() {
            seen += 1;
            match item {
                Item::Dense { bytes, .. } => writer.dense(&vec![seen as u8; bytes]).unwrap(),
                Item::Packed { scheme, shape, .. } => {
                    writer.packed(&filled(scheme, &shape, scheme.to_string().len())).unwrap()
                }
            }
        }
        assert_eq!(seen, schemes.len() + 3);
        let bytes = writer.finish().unwrap();
        // The library's own reader accepts the file.
        assert!(::safetensors::SafeTensors::deserialize(&bytes).is_ok());
        let model = Model::from_bytes("out", bytes.clone()).unwrap();
        assert_eq!(model.entries().len(), schemes.len() + 3);
        assert_eq!(model.metadata().get("format").map(String::as_str), Some("pt"));
        assert_eq!(model.raw(model.entry("ids").unwrap()), &[1; 24]);
        for s in &schemes {
            let entry = model.entry(&format!("w.{s}")).unwrap();
            assert_eq!(entry.content, Content::Packed { scheme: *s, source: DType::Bf16 });
            assert_eq!(model.packed(entry).unwrap(), filled(*s, &shape(s), s.to_string().len()), "{s}");
        }
        let again = Writer::new(Vec::new(), "out", plan).unwrap();
        assert_eq!(again.out, bytes[..again.out.len()]);
    }

    #[test]
    fn wrong_calls_are_refused() {
        let q: Scheme = "q4_0".parse().unwrap();
        let mut plan = Plan::default();
        plan.packed("w", q, [2, 32], DType::F32).unwrap();
        plan.dense("a", Dtype::U8, [4]).unwrap();
        let mut writer = Writer::new(Vec::new(), "out", plan.clone()).unwrap();
        assert!(writer.packed(&filled(q, &[2, 32], 0)).is_err());
        assert!(writer.dense(&[0; 5]).is_err());
        writer.dense(&[0; 4]).unwrap();
        assert!(writer.dense(&[0; 4]).is_err());
        assert!(writer.packed(&filled(q, &[1, 32], 0)).is_err());
        assert!(writer.finish().is_err());

        assert!(plan.packed("v", q, [2, 33], DType::F32).is_err());
        assert!(plan.dense("b", Dtype::F4, [3]).is_err());
        for name in ["a", "w", "w.codes"] {
            let mut twice = plan.clone();
            twice.dense(name, Dtype::U8, [1]).unwrap();
            assert!(matches!(Writer::new(Vec::new(), "out", twice), Err(Error::Format { .. })), "{name}");
        }
    }
}
