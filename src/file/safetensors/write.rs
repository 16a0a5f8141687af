//! Writing safetensors: the header of a plan, and the planes of a tensor.
//!
//! ```text
//! Plan -> items by element size, the largest first, packed ones last -> JSON header       PackedTensor -> stored planes
//! ```
//!
//! The order is that of the safetensors library, so that dense tensors are aligned.

use super::{Described, MAX_HEADER, METADATA_KEY, OWN, TENSORS_KEY, VERSION, VERSION_KEY};
use crate::file::write::{Item, Laid, Plan};
use crate::file::{Dtype, file_type};
use crate::scheme::{Layout, Plane, PlaneKind};
use crate::{Error, PackedTensor, Result, Scheme};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Whether a plane is stored in files: tables that the scheme fixes are not.
pub(super) fn stored(scheme: &Scheme, kind: PlaneKind) -> bool {
    kind != PlaneKind::Codebook || scheme.codebook().is_none()
}

/// Every item can be held.
pub fn holds(_: &Item) -> Result<()> {
    Ok(())
}

/// The header of a plan, whose items are brought into data order.
pub fn lay_out(plan: &mut Plan, path: &Path) -> Result<Laid> {
    plan.items.sort_by_key(|item| match item {
        Item::Dense { dtype, .. } => (false, std::cmp::Reverse(dtype.bitsize())),
        Item::Packed { .. } => (true, std::cmp::Reverse(8)),
    });
    Ok(Laid { header: header(plan, path)?, alignment: 1 })
}

/// The bytes of an item's data.
pub fn data_bytes(item: &Item) -> Result<usize> {
    match item {
        Item::Dense { bytes, .. } => Ok(*bytes),
        Item::Packed { scheme, shape, .. } => {
            Ok(planes(scheme, shape)?.iter().map(|p| p.len).fold(0, usize::saturating_add))
        }
    }
}

/// The planes of a tensor that are stored.
fn planes(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Plane>> {
    let (rows, k) = scheme.check_shape(shape)?;
    let mut planes = Layout::new(scheme, rows, k).planes().to_vec();
    planes.retain(|p| stored(scheme, p.kind));
    Ok(planes)
}

/// The plans of shards: each with all metadata, as each is a file of its own.
pub fn split(plan: &Plan, parts: Vec<Vec<Item>>, _: &Path) -> Result<Vec<Plan>> {
    Ok(parts.into_iter().map(|items| Plan { items, shard: true, ..plan.clone() }).collect())
}

/// The index of shards: which tensor is where, a packed one by its planes.
pub fn index(shards: &[(String, Plan)]) -> Result<Vec<u8>> {
    let mut total = 0usize;
    let mut places = BTreeMap::new();
    for (file, plan) in shards {
        for item in &plan.items {
            total = total.saturating_add(data_bytes(item)?);
            match item {
                Item::Dense { name, .. } => drop(places.insert(name.clone(), file)),
                Item::Packed { name, scheme, shape, .. } => {
                    let planes = planes(scheme, shape)?;
                    places.extend(planes.iter().map(|p| (format!("{name}.{}", p.kind.name()), file)));
                }
            }
        }
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": places});
    let path = Path::new("index").to_path_buf();
    let text = serde_json::to_string_pretty(&index);
    Ok((text.map_err(|e| Error::Format { path, what: e.to_string() })? + "\n").into_bytes())
}

/// The stored planes.
pub fn encode(tensor: &PackedTensor) -> Result<Vec<Cow<'_, [u8]>>> {
    let planes = tensor.layout().planes().iter().filter(|p| stored(tensor.scheme(), p.kind));
    Ok(planes.map(|p| tensor.plane(p.kind).into()).collect())
}

/// The reverse of [`encode`].
pub fn decode(scheme: Scheme, shape: &[usize], data: &[&[u8]]) -> Result<PackedTensor> {
    let (rows, k) = scheme.check_shape(shape)?;
    let layout = Layout::new(&scheme, rows, k);
    let kinds = layout.planes().iter().map(|p| p.kind).filter(|kind| stored(&scheme, *kind));
    PackedTensor::from_planes(scheme, shape, &kinds.zip(data.iter().copied()).collect::<Vec<_>>())
}

/// The header's JSON behind its length. Items must be in data order.
fn header(plan: &Plan, path: &Path) -> Result<Vec<u8>> {
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
    for item in &plan.items {
        match item {
            Item::Dense { name, dtype, shape, bytes } => push(name.clone(), *dtype, shape.clone(), *bytes)?,
            Item::Packed { name, scheme, shape, source } => {
                let (rows, _) = scheme.check_shape(shape)?;
                for plane in planes(scheme, shape)? {
                    let shape =
                        if plane.row_stride == 0 { vec![plane.len] } else { vec![rows, plane.row_stride] };
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
    // What texts in sorted order cannot say is said as one text.
    let own = plan.metadata.iter().any(|(key, _)| key.starts_with(OWN));
    let typed = own || !plan.metadata.is_sorted_text();
    let texts = plan.metadata.iter().filter(|_| !typed);
    let mut metadata: Map<String, Value> =
        texts.filter_map(|(k, v)| Some((k.to_string(), v.as_str()?.into()))).collect();
    if typed || !described.is_empty() {
        metadata.insert(VERSION_KEY.into(), VERSION.to_string().into());
    }
    if typed {
        metadata.insert(METADATA_KEY.into(), plan.metadata.to_typed_json().to_string().into());
    }
    if !described.is_empty() {
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
        0..=MAX_HEADER => Ok([&(bytes.len() as u64).to_le_bytes(), bytes.as_slice()].concat()),
        len => Err(bad(format!("a header of {len} bytes; readers accept {MAX_HEADER}"))),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::super::FORMAT;
    use super::*;
    use crate::DType;
    use crate::file::metadata::Value;
    use crate::file::{Content, Metadata, Model, Writer};
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
        let mut plan = Plan::new(BTreeMap::from([("format".to_string(), "pt".to_string())]).into());
        plan.dense("ids", Dtype::I64, [3]).unwrap();
        plan.dense("flags", Dtype::BOOL, [0, 4]).unwrap();
        plan.dense("half", Dtype::F16, [2, 2]).unwrap();
        for s in &schemes {
            plan.packed(format!("w.{s}"), *s, shape(s), DType::Bf16).unwrap();
        }
        let mut writer = Writer::new(Vec::new(), "out", &FORMAT, plan.clone()).unwrap();
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
        assert_eq!(model.metadata().get("format").and_then(Value::as_str), Some("pt"));
        assert_eq!(model.raw(model.entry("ids").unwrap()), &[1; 24]);
        for s in &schemes {
            let entry = model.entry(&format!("w.{s}")).unwrap();
            assert_eq!(entry.content, Content::Packed { scheme: *s, source: DType::Bf16 });
            assert_eq!(model.packed(entry).unwrap(), filled(*s, &shape(s), s.to_string().len()), "{s}");
        }
        let mut again = Vec::new();
        drop(Writer::new(&mut again, "out", &FORMAT, plan).unwrap());
        assert_eq!(again, bytes[..again.len()]);
    }

    #[test]
    fn wrong_calls_are_refused() {
        let q: Scheme = "q4_0".parse().unwrap();
        let mut plan = Plan::default();
        plan.packed("w", q, [2, 32], DType::F32).unwrap();
        plan.dense("a", Dtype::U8, [4]).unwrap();
        let mut writer = Writer::new(Vec::new(), "out", &FORMAT, plan.clone()).unwrap();
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
            assert!(
                matches!(Writer::new(Vec::new(), "out", &FORMAT, twice), Err(Error::Format { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn metadata_with_kinds_comes_back_in_order() {
        let mut metadata = Metadata::default();
        metadata.set("z", Value::String("first".into()));
        metadata.set("a", Value::F32(f32::NAN));
        metadata.set("lowbit.version", Value::U8(9));
        let mut sorted = Metadata::default();
        sorted.set("lowbit.tensors", Value::String("mine".into()));
        for metadata in [metadata, sorted] {
            let mut plan = Plan::new(metadata.clone());
            plan.dense("a", Dtype::U8, [1]).unwrap();
            let mut writer = Writer::new(Vec::new(), "out", &FORMAT, plan).unwrap();
            writer.dense(&[1]).unwrap();
            let model = Model::from_bytes("out", writer.finish().unwrap()).unwrap();
            assert_eq!(model.metadata().to_typed_json(), metadata.to_typed_json());
        }
    }
}
