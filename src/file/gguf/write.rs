//! Writing GGUF: the header of a plan, and the bytes of a tensor.
//!
//! ```text
//! Plan -> general.* keys made true -> key-values -> infos, offsets counted up in the plan's order -> header
//! PackedTensor -> rows of blocks (`ggml`), or plain elements where the scheme is a float
//! ```
//!
//! Tensors lie in the order of their infos without gaps, each padded to the alignment, the last one too: ggml's reader wants it so.

use super::types::{self, Holds};
use super::{
    ALIGNMENT, ALIGNMENT_KEY, FILE_TYPE_KEY, MAGIC, MAX_KEY, MAX_NAME, MAX_RANK, QUANTIZATION_VERSION,
    QUANTIZATION_VERSION_KEY, SPLIT_KEYS, VERSION,
};
use crate::file::bytes::bad;
use crate::file::ggml;
use crate::file::metadata::{Metadata, Value, put_string};
use crate::file::write::{Item, Laid, Plan};
use crate::scheme::PlaneKind;
use crate::{Error, PackedTensor, Result, Scheme};
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

/// More would be a file of padding.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// Whether a file can hold an item; why not.
pub fn holds(item: &Item) -> Result<()> {
    kind(item)?;
    let (name, shape) = (item.name(), item.shape());
    if name.len() > MAX_NAME {
        let why = format!("it has {} bytes and ggml reads {MAX_NAME}", name.len());
        return Err(Error::unsupported("the tensor's name in a GGUF file", why));
    }
    if shape.len() > MAX_RANK {
        let why = format!("{} dimensions, and ggml reads {MAX_RANK}", shape.len());
        return Err(Error::unsupported(format!("shape {shape:?} in a GGUF file"), why));
    }
    Ok(())
}

fn kind(item: &Item) -> Result<&'static types::Type> {
    match item {
        Item::Dense { dtype, .. } => types::of_dense(*dtype).ok_or_else(|| {
            Error::unsupported(format!("the element type {dtype} in a GGUF file"), "GGUF has none like it")
        }),
        Item::Packed { scheme, .. } => types::of_scheme(scheme).ok_or_else(|| {
            Error::unsupported(
                format!("the scheme {scheme} in a GGUF file"),
                "GGUF has no block type like it",
            )
        }),
    }
}

/// The bytes of an item's data.
pub fn data_bytes(item: &Item) -> Result<usize> {
    match item {
        Item::Dense { bytes, .. } => Ok(*bytes),
        Item::Packed { scheme, shape, .. } => match float_bytes(scheme) {
            Some(size) => {
                let (rows, k) = scheme.check_shape(shape)?;
                Ok(rows.saturating_mul(k).saturating_mul(size))
            }
            None => ggml::tensor_bytes(scheme, shape),
        },
    }
}

/// The header of a plan, whose items stay in order.
pub fn lay_out(plan: &mut Plan, path: &Path) -> Result<Laid> {
    let metadata = if plan.shard { plan.metadata.clone() } else { completed(plan, path)? };
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => ALIGNMENT,
        Some(Value::U32(n)) if n.is_power_of_two() && *n <= MAX_ALIGNMENT => *n,
        Some(other) => {
            let what = format!("{ALIGNMENT_KEY}: {other} ({})", other.kind_name());
            return Err(bad(
                path,
                format!("{what}; what is written is a u32 power of two up to {MAX_ALIGNMENT}"),
            ));
        }
    };
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((plan.items.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        if key.is_empty() || key.len() as u64 > MAX_KEY {
            return Err(bad(path, format!("a metadata key of {} bytes; GGUF has 1 to {MAX_KEY}", key.len())));
        }
        put_string(&mut header, key);
        header.extend((value.kind() as u32).to_le_bytes());
        value.put(&mut header);
    }
    let mut names = HashSet::new();
    let mut offset = 0u64;
    for item in &plan.items {
        if !names.insert(item.name()) {
            return Err(bad(path, format!("two tensors would be called '{}'", item.name())));
        }
        put_string(&mut header, item.name());
        header.extend((item.shape().len() as u32).to_le_bytes());
        for n in item.shape().iter().rev() {
            header.extend((*n as u64).to_le_bytes());
        }
        header.extend(kind(item)?.id.to_le_bytes());
        header.extend(offset.to_le_bytes());
        let end = offset.checked_add(data_bytes(item)? as u64);
        offset = end
            .and_then(|end| end.checked_next_multiple_of(alignment.into()))
            .ok_or_else(|| bad(path, "more bytes than can be counted"))?;
    }
    let len = header.len().checked_next_multiple_of(alignment as usize);
    header.resize(len.ok_or_else(|| bad(path, "more bytes than can be counted"))?, 0);
    Ok(Laid { header, alignment: alignment as usize })
}

/// The plans of shards: the first has all metadata, the others what their own reading takes.
pub fn split(plan: &Plan, parts: Vec<Vec<Item>>, path: &Path) -> Result<Vec<Plan>> {
    let whole = completed(plan, path)?;
    let (count, tensors) = (parts.len(), plan.items.len());
    let number =
        |n: usize| u16::try_from(n).map_err(|_| bad(path, format!("{count} shards; GGUF numbers 65535")));
    let tensors = i32::try_from(tensors).map_err(|_| bad(path, format!("{tensors} tensors in shards")))?;
    let mut plans = Vec::with_capacity(count);
    for (no, items) in parts.into_iter().enumerate() {
        let mut metadata = whole.clone();
        if no > 0 {
            metadata.retain(|key| key == ALIGNMENT_KEY);
        }
        let values = [Value::U16(number(no)?), Value::U16(number(count)?), Value::I32(tensors)];
        SPLIT_KEYS.into_iter().zip(values).for_each(|(key, value)| metadata.set(key, value));
        plans.push(Plan { items, metadata, shard: true, ..Plan::default() });
    }
    Ok(plans)
}

/// The plan's metadata with what GGUF says about its own tensors.
fn completed(plan: &Plan, path: &Path) -> Result<Metadata> {
    let mut metadata = plan.metadata.clone();
    let mut weights: Vec<(&types::Type, usize)> = Vec::new();
    for item in &plan.items {
        let kind = kind(item)?;
        let n = crate::tensor::element_count(item.shape());
        let n = n.ok_or_else(|| {
            bad(path, format!("tensor '{}' has more elements than can be counted", item.name()))
        })?;
        match weights.iter_mut().find(|(k, _)| k.id == kind.id) {
            Some((_, sum)) => *sum = sum.saturating_add(n),
            None => weights.push((kind, n)),
        }
    }
    let packed = weights.iter().any(|(kind, _)| matches!(kind.holds, Holds::Blocks(_)));
    if packed && metadata.get(QUANTIZATION_VERSION_KEY).is_none() {
        metadata.set(QUANTIZATION_VERSION_KEY, Value::U32(QUANTIZATION_VERSION));
    }
    let stated = metadata.get(FILE_TYPE_KEY).is_some();
    if let Some(id) = plan.file_type {
        metadata.set(FILE_TYPE_KEY, Value::U32(id));
    } else if (stated && plan.changed) || (!stated && packed) {
        let most = weights.iter().max_by_key(|(kind, n)| (*n, std::cmp::Reverse(kind.id)));
        match most.and_then(|(kind, _)| types::file_type_id(kind.name)) {
            Some(id) => metadata.set(FILE_TYPE_KEY, Value::U32(id)),
            // llama.cpp has no name for it; what is there would be wrong.
            None => metadata.retain(|key| key != FILE_TYPE_KEY),
        }
    }
    Ok(metadata)
}

/// Bytes per element where codes are plain floats.
fn float_bytes(scheme: &Scheme) -> Option<usize> {
    types::plain(scheme).map(|dtype| dtype.size())
}

/// The data of a packed tensor.
pub fn encode(tensor: &PackedTensor) -> Result<Vec<Cow<'_, [u8]>>> {
    let Some(size) = float_bytes(tensor.scheme()) else { return Ok(vec![ggml::pack(tensor)?.into()]) };
    let stride = tensor.layout().plane(PlaneKind::CodesLow).map_or(0, |p| p.row_stride);
    let (_, k) = tensor.matrix();
    let row = k.saturating_mul(size);
    let rows = tensor.plane(PlaneKind::CodesLow).chunks(stride.max(1));
    Ok(vec![rows.flat_map(|r| r.iter().take(row)).copied().collect::<Vec<u8>>().into()])
}

/// The reverse of [`encode`].
pub fn decode(scheme: Scheme, shape: &[usize], data: &[&[u8]]) -> Result<PackedTensor> {
    let bytes = data.first().copied().unwrap_or(&[]);
    let Some(size) = float_bytes(&scheme) else { return ggml::unpack(scheme, shape, bytes) };
    let (rows, k) = scheme.check_shape(shape)?;
    let row = k.saturating_mul(size);
    if bytes.len() != rows.saturating_mul(row) {
        return Err(Error::shape(
            format!("bytes of {scheme} {shape:?}"),
            rows.saturating_mul(row),
            bytes.len(),
        ));
    }
    let mut tensor = PackedTensor::zeroed(scheme, shape)?;
    let stride = tensor.layout().plane(PlaneKind::CodesLow).map_or(0, |p| p.row_stride);
    let plane = tensor.plane_mut(PlaneKind::CodesLow).chunks_mut(stride.max(1));
    for (to, from) in plane.zip(bytes.chunks(row.max(1))) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    Ok(tensor)
}

/// Bits per weight in a file: those of whole blocks.
pub fn bits_per_weight(scheme: &Scheme, _rows: usize, _k: usize) -> f64 {
    types::of_scheme(scheme).map_or(f64::NAN, |t| t.bytes as f64 * 8.0 / t.block as f64)
}
