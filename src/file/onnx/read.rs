//! Reading ONNX: messages are decoded one at a time and checked against the file, data is read when asked for.
//!
//! ```text
//! bytes -> ModelProto -> initializers, Constant nodes -> tensors: type, shape, where the bytes are (this file, another, numbers made into bytes)
//!                     -> MatMulNBits nodes -> which tensors make a weight                -> entries
//! ```
//!
//! The bytes of tensors are never copied, but for those that are stored as numbers. Every error names the file, the message with its
//! field, and a byte: where the message starts, or where decoding stopped.

use super::proto::{
    AttributeProto, EXTERNAL, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
};
use super::types::{self, Field, Type};
use super::{DOMAIN, FORMAT, OPERATOR, PRODUCER};
use crate::file::bytes::{Bytes, bad, load};
use crate::file::checkpoint::onnx::{Form, MatMulNBits, ZeroPoints};
use crate::file::metadata::{Metadata, Value};
use crate::file::model::{Content, Entry, Parsed, Part, Shard};
use crate::file::safetensors::METADATA_KEY;
use crate::file::{Dtype, float_type};
use crate::scheme::Zero;
use crate::{DType, Error, PackedTensor, Result, Scheme};
use prost::Message;
use prost::bytes::{Buf, Bytes as Slice};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The shards of a model: the file, the bytes that were made of numbers, the files of external data.
const FILE: usize = 0;
const MADE: usize = 1;

/// The file that is read.
struct Reader {
    path: PathBuf,
    bytes: Bytes,
    /// Of tensors that are stored as numbers.
    made: Vec<u8>,
    external: Vec<Shard>,
    by_location: HashMap<String, usize>,
}

/// A constant of the graph.
struct Tensor {
    name: String,
    kind: &'static Type,
    shape: Vec<usize>,
    /// Where its message starts.
    at: usize,
    bytes: usize,
    part: Option<Part>,
}

/// A weight of the graph: its scheme, its shape, and which tensors it is made of, B first.
#[derive(PartialEq)]
struct Weight {
    scheme: Scheme,
    source: DType,
    shape: [usize; 2],
    operands: Vec<usize>,
}

/// Opens the bytes of `path`, and the files that it has external data in.
pub fn open(path: &Path, bytes: Bytes) -> Result<Parsed> {
    let whole = Slice::from_owner(bytes.clone());
    let mut reader = Reader {
        path: path.into(),
        bytes,
        made: Vec::new(),
        external: Vec::new(),
        by_location: HashMap::new(),
    };
    let model: ModelProto = reader.decode("ModelProto", whole)?;
    let graph = model.graph.as_ref().ok_or_else(|| bad(path, "ModelProto at byte 0: it has no graph"))?;
    if let Some(sparse) = graph.sparse_initializer.first() {
        let what = "a sparse tensor; lowbit reads none";
        return Err(reader.error("sparse_initializer 0", reader.offset(sparse), what));
    }
    let mut tensors = Vec::new();
    for (i, slice) in graph.initializer.iter().enumerate() {
        let proto = reader.decode(&format!("initializer {i}"), slice.clone())?;
        tensors.push(reader.tensor(&format!("initializer {i}"), reader.offset(slice), proto, None)?);
    }
    let mut nodes = Vec::new();
    let mut used = HashSet::new();
    let mut subgraphs = model.functions.len() as u64;
    for (i, slice) in graph.node.iter().enumerate() {
        let what = format!("node {i}");
        let node: NodeProto = reader.decode(&what, slice.clone())?;
        let at = reader.offset(slice);
        if node.op_type == OPERATOR && node.domain == DOMAIN {
            nodes.push((what, at, node));
            continue;
        }
        used.extend(node.input);
        for attribute in &node.attribute {
            let attribute: AttributeProto =
                reader.decode(&format!("attribute of {what}"), attribute.clone())?;
            let graphs = attribute.graphs.len().saturating_add(usize::from(attribute.g.is_some()));
            subgraphs = subgraphs.saturating_add(graphs as u64);
            if let (Some(slice), "Constant", Some(name)) =
                (attribute.t, node.op_type.as_str(), node.output.first())
            {
                let what = format!("value of {what}");
                let proto = reader.decode(&what, slice.clone())?;
                tensors.push(reader.tensor(&what, reader.offset(&slice), proto, Some(name))?);
            }
        }
    }
    reader.check_apart(&tensors)?;
    let mut by_name = HashMap::new();
    for (i, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.as_str(), i).is_some() {
            let what = format!("'{}' occurs twice", tensor.name);
            return Err(reader.error("name of a tensor", tensor.at, what));
        }
    }
    let mut weights: HashMap<usize, Weight> = HashMap::new();
    for (what, at, node) in &nodes {
        let Some((b, weight)) = reader.weight(what, *at, node, &tensors, &by_name)? else {
            used.extend(node.input.iter().cloned());
            continue;
        };
        // A bias is a tensor of its own.
        used.extend(node.input.get(5).cloned());
        match weights.get(&b).filter(|other| **other != weight) {
            None => drop(weights.insert(b, weight)),
            Some(_) => {
                let name = tensors.get(b).map_or("", |t| t.name.as_str());
                let why = format!("another node reads B, '{name}', in another way");
                return Err(reader.error(what, *at, why));
            }
        }
    }
    let mut parsed = Parsed::new(&FORMAT);
    parsed.details = vec![("IR version", model.ir_version.unwrap_or(0).max(0).unsigned_abs())];
    for (i, slice) in model.opset_import.iter().enumerate() {
        let set: OperatorSetIdProto = reader.decode(&format!("opset_import {i}"), slice.clone())?;
        if ["", "ai.onnx"].contains(&set.domain.as_str()) {
            parsed.details.push(("opset", set.version.unwrap_or(0).max(0).unsigned_abs()));
        }
    }
    if subgraphs > 0 {
        parsed.details.push(("subgraphs that are not read:", subgraphs));
    }
    parsed.metadata = reader.metadata(&model)?;
    parsed.entries = entries(&tensors, &weights, &used);
    parsed.shards = reader.shards();
    Ok(parsed)
}

/// The entries: weights where their B is, other tensors but for those that only weights are made of.
fn entries(tensors: &[Tensor], weights: &HashMap<usize, Weight>, used: &HashSet<String>) -> Vec<Entry> {
    let operands: HashSet<usize> = weights.values().flat_map(|w| w.operands.iter().copied()).collect();
    let is_left = |i: usize, t: &Tensor| !operands.contains(&i) || used.contains(&t.name);
    let left = || tensors.iter().enumerate().filter(|(i, t)| !weights.contains_key(i) && is_left(*i, t));
    let mut taken: HashMap<&str, usize> = HashMap::new();
    let mut count = |name| {
        let n = taken.entry(name).or_default();
        *n = n.saturating_add(1);
    };
    left().for_each(|(_, t)| count(t.name.as_str()));
    let of_weight = |i: &usize| tensors.get(*i).map(|t| weight_name(&t.name));
    let short: Vec<Cow<str>> = weights.keys().filter_map(of_weight).collect();
    short.iter().for_each(|name| count(name));
    let mut entries = Vec::new();
    for (i, tensor) in tensors.iter().enumerate() {
        let part = |i: &usize| tensors.get(*i).and_then(|t| t.part.clone());
        if let Some(weight) = weights.get(&i) {
            let content = Content::Packed { scheme: weight.scheme, source: weight.source };
            let parts = weight.operands.iter().filter_map(part).collect();
            // A short name that is not its own alone is left whole.
            let short = weight_name(&tensor.name);
            let name = if taken.get(&*short) == Some(&1) { short.into_owned() } else { tensor.name.clone() };
            entries.push(Entry::new(name, weight.shape.to_vec(), content, &FORMAT, parts));
        } else if is_left(i, tensor) {
            let content = match tensor.kind.dtype {
                Some(dtype) => Content::Dense(dtype),
                None => Content::Listed { name: tensor.kind.name },
            };
            let parts = part(&i).into_iter().collect();
            let entry = Entry::new(tensor.name.clone(), tensor.shape.clone(), content, &FORMAT, parts);
            entries.push(Entry { bytes: tensor.bytes as u64, ..entry });
        }
    }
    entries
}

/// What B of a node is called without the ending that quantizers gave it.
fn weight_name(b: &str) -> Cow<'_, str> {
    if let Some(stem) = b.strip_suffix(".qweight") {
        return format!("{stem}.weight").into();
    }
    let quantized = |ending: &str| match ending.strip_prefix('Q') {
        None => ending == "quant" || ending == "quantized",
        Some(rest) => {
            let (bits, block) = rest.split_once('G').unwrap_or((rest, "0"));
            ["2", "4", "8"].contains(&bits) && !block.is_empty() && block.bytes().all(|c| c.is_ascii_digit())
        }
    };
    match b.rsplit_once('_') {
        Some((stem, ending)) if !stem.is_empty() && quantized(ending) => stem.into(),
        _ => b.into(),
    }
}

impl Reader {
    fn error(&self, what: &str, at: usize, why: impl std::fmt::Display) -> Error {
        bad(&self.path, format!("{what} at byte {at}: {why}"))
    }

    /// The byte of the file that a slice of it starts at.
    fn offset(&self, slice: &Slice) -> usize {
        (slice.as_ptr() as usize).saturating_sub(self.bytes.get().as_ptr() as usize)
    }

    /// A message.
    fn decode<M: Message + Default>(&self, what: &str, slice: Slice) -> Result<M> {
        let start = self.offset(&slice);
        let mut left = slice.clone();
        M::decode(&mut left).map_err(|e| {
            let read = slice.len().saturating_sub(left.remaining());
            let text = e.to_string();
            let why = text.rsplit_once("message: ").map_or(text.as_str(), |(_, why)| why);
            self.error(what, start.saturating_add(read), why)
        })
    }

    /// Checks a tensor and finds its bytes. `name`: of one that has none of its own.
    fn tensor(&mut self, what: &str, at: usize, proto: TensorProto, name: Option<&str>) -> Result<Tensor> {
        let name = name.map_or(proto.name.clone(), str::to_string);
        let what = format!("{what} '{name}'");
        if name.is_empty() {
            return Err(self.error(&what, at, "it has no name"));
        }
        let id = proto.data_type.unwrap_or(0);
        let kind = types::of_id(id)
            .ok_or_else(|| self.error(&format!("data_type of {what}"), at, format!("unknown type {id}")))?;
        let wrong = |field: &str, why: String| self.error(&format!("{field} of {what}"), at, why);
        let shape: Option<Vec<usize>> = proto.dims.iter().map(|&n| usize::try_from(n).ok()).collect();
        let shape = shape.ok_or_else(|| wrong("dims", format!("{:?}: a negative one", proto.dims)))?;
        let n = crate::tensor::element_count(&shape);
        let bytes = n.and_then(|n| n.checked_mul(kind.bits)).map(|bits| bits.div_ceil(8));
        let (n, bytes) =
            n.zip(bytes).ok_or_else(|| wrong("dims", format!("{shape:?}: their product overflows")))?;
        let tensor = |part| Tensor { name: name.clone(), kind, shape: shape.clone(), at, bytes, part };
        if proto.data_location == Some(EXTERNAL) {
            let part = self.external(&what, at, &proto.external_data, bytes)?;
            return Ok(tensor(Some(part)));
        }
        if kind.field == Field::Strings {
            return Ok(tensor(None));
        }
        if let Some(raw) = &proto.raw_data {
            if raw.len() != bytes {
                let why = format!("{shape:?} {} are {bytes} bytes, there are {}", kind.name, raw.len());
                return Err(self.error(&format!("raw_data of {what}"), self.offset(raw), why));
            }
            return Ok(tensor(Some(self.part_of(raw))));
        }
        if kind.dtype.is_none() {
            return Ok(tensor(None));
        }
        let range = match self.number_bytes(kind, &proto, n, bytes) {
            Ok(range) => range,
            Err(why) => return Err(self.error(&format!("elements of {what}"), at, why)),
        };
        Ok(tensor(Some(Part::of_memory(MADE, range))))
    }

    fn part_of(&self, raw: &Slice) -> Part {
        let start = if raw.is_empty() { 0 } else { self.offset(raw) };
        Part::of_memory(FILE, start..start.saturating_add(raw.len()))
    }

    /// Appends the bytes of elements that are stored as numbers; says what is wrong with them.
    fn number_bytes(
        &mut self,
        kind: &Type,
        proto: &TensorProto,
        n: usize,
        bytes: usize,
    ) -> Result<Range<usize>, String> {
        // Complex ones are two each.
        let per = if kind.dtype == Some(Dtype::C64) { 2 } else { 1 };
        let (field, len) = match kind.field {
            Field::Float => ("float_data", proto.float_data.len()),
            Field::Int32 => ("int32_data", proto.int32_data.len()),
            Field::Int64 => ("int64_data", proto.int64_data.len()),
            Field::Double => ("double_data", proto.double_data.len()),
            Field::Uint64 => ("uint64_data", proto.uint64_data.len()),
            Field::Strings => ("string_data", 0),
        };
        if Some(len) != n.checked_mul(per) {
            let shape = format!("{:?} {}", proto.dims, kind.name);
            return Err(format!(
                "{shape} are {n} numbers times {per}, {field} has {len}, and there is no raw_data"
            ));
        }
        let start = self.made.len();
        let made = &mut self.made;
        let size = kind.bits.div_ceil(8);
        match kind.field {
            Field::Float => proto.float_data.iter().for_each(|v| made.extend(v.to_le_bytes())),
            Field::Int64 => proto.int64_data.iter().for_each(|v| made.extend(v.to_le_bytes())),
            Field::Double => proto.double_data.iter().for_each(|v| made.extend(v.to_le_bytes())),
            Field::Strings => {}
            Field::Int32 | Field::Uint64 => {
                let ints: Box<dyn Iterator<Item = i128>> = match kind.field {
                    Field::Int32 => Box::new(proto.int32_data.iter().map(|&v| v.into())),
                    _ => Box::new(proto.uint64_data.iter().map(|&v| v.into())),
                };
                let values =
                    1i128.wrapping_shl(if kind.dtype == Some(Dtype::BOOL) { 1 } else { kind.bits as u32 });
                let least = if kind.signed { values.wrapping_shr(1).saturating_neg() } else { 0 };
                let range = least..least.saturating_add(values);
                for value in ints {
                    if !range.contains(&value) {
                        return Err(format!("{value} in {field} is no {}", kind.name));
                    }
                    made.extend(value.to_le_bytes().iter().take(size));
                }
            }
        }
        let end = made.len();
        // As many as the shape says.
        if end.saturating_sub(start) != bytes {
            return Err(format!("{field} has {} bytes instead of {bytes}", end.saturating_sub(start)));
        }
        Ok(start..end)
    }

    /// Where the bytes of a tensor lie in another file.
    fn external(
        &mut self,
        what: &str,
        at: usize,
        entries: &[StringStringEntryProto],
        bytes: usize,
    ) -> Result<Part> {
        let wrong = |reader: &Self, why: String| reader.error(&format!("external_data of {what}"), at, why);
        let get = |key: &str| entries.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match get(key) {
            None => Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(wrong(self, format!("{key} '{text}' is no number of bytes"))),
            },
        };
        let location = get("location").ok_or_else(|| wrong(self, "no location".into()))?;
        let (start, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(bytes));
        // A downloaded model must not reach files outside its folder.
        if location.is_empty() || Path::new(location).file_name().is_none_or(|name| name != location) {
            let why = format!("location '{location}' is not a plain file name; other folders are not read");
            return Err(wrong(self, why));
        }
        if length != bytes {
            let why = format!("length {length}, its type and shape say {bytes}");
            return Err(wrong(self, why));
        }
        let shard = match self.by_location.get(location) {
            Some(&shard) => shard,
            None => {
                let path = self.path.parent().unwrap_or(Path::new("")).join(location);
                let bytes = load(&path).map_err(|e| wrong(self, e.to_string()))?;
                let shard = self.external.len().saturating_add(MADE).saturating_add(1);
                self.external.push(Shard { path, bytes });
                self.by_location.insert(location.to_string(), shard);
                shard
            }
        };
        let index = shard.saturating_sub(MADE).saturating_sub(1);
        let has = self.external.get(index).map_or(0, |s| s.bytes.get().len());
        match start.checked_add(length).filter(|end| *end <= has) {
            Some(end) => Ok(Part::of_memory(shard, start..end)),
            None => {
                let why =
                    format!("offset {start} and length {length} are beyond the {has} bytes of '{location}'");
                Err(wrong(self, why))
            }
        }
    }

    /// Refuses external data that overlaps other, unless it is the same.
    fn check_apart(&self, tensors: &[Tensor]) -> Result<()> {
        let outside = |t: &&Tensor| t.part.as_ref().is_some_and(|p| p.shard > MADE && !p.range.is_empty());
        let place =
            |t: &&Tensor| t.part.as_ref().map_or((0, 0, 0), |p| (p.shard, p.range.start, p.range.end));
        let mut outside: Vec<&Tensor> = tensors.iter().filter(outside).collect();
        outside.sort_by_key(place);
        for pair in outside.windows(2) {
            let [a, b] = pair else { continue };
            let ((shard, start, end), (of_b, from, to)) = (place(a), place(b));
            if shard == of_b && from < end && (start, end) != (from, to) {
                let why = format!("bytes {from}..{to} overlap those of '{}', {start}..{end}", a.name);
                return Err(self.error(&format!("external_data of '{}'", b.name), b.at, why));
            }
        }
        Ok(())
    }

    /// The weight of a node and the index of its B, if its operands are constants.
    fn weight(
        &self,
        what: &str,
        at: usize,
        node: &NodeProto,
        tensors: &[Tensor],
        by_name: &HashMap<&str, usize>,
    ) -> Result<Option<(usize, Weight)>> {
        let wrong = |why: String| self.error(&format!("{what}, {OPERATOR}"), at, why);
        let input = |i: usize| node.input.get(i).map(String::as_str).filter(|name| !name.is_empty());
        let constant = |i: usize| input(i).map(|name| by_name.get(name).copied());
        let (b, scales, zeros, g_idx) = match (constant(1), constant(2), constant(3), constant(4)) {
            (None, _, _, _) => return Err(wrong("it has no B".into())),
            (_, None, _, _) => return Err(wrong("it has no scales".into())),
            // Made elsewhere in the graph.
            (Some(None), ..) | (_, Some(None), ..) | (_, _, Some(None), _) | (_, _, _, Some(None)) => {
                return Ok(None);
            }
            (Some(Some(b)), Some(Some(scales)), zeros, g_idx) => {
                (b, scales, zeros.flatten(), g_idx.flatten())
            }
        };
        let mut attributes = HashMap::new();
        for slice in &node.attribute {
            let attribute: AttributeProto = self.decode(&format!("attribute of {what}"), slice.clone())?;
            let (name, here) = (attribute.name, self.offset(slice));
            if attributes.insert(name.clone(), attribute.i).is_some() {
                return Err(self.error(
                    &format!("attribute of {what}"),
                    here,
                    format!("'{name}' occurs twice"),
                ));
            }
        }
        let number = |name: &str, default: Option<i64>| {
            let value = attributes.get(name).copied().flatten().or(default);
            let positive = value.and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
            positive.ok_or_else(|| wrong(format!("{name} is {value:?}, and should be a number from 1 on")))
        };
        let (n, k) = (number("N", None)?, number("K", None)?);
        let (bits, block_size) = (number("bits", Some(4))?, number("block_size", None)?);
        let tensor = |i: usize| tensors.get(i).ok_or_else(|| wrong("an operand is lost".into()));
        let data = |i: usize, operand: &str, dtypes: &[Dtype]| -> Result<(&[u8], Dtype)> {
            let tensor = tensor(i)?;
            match tensor.kind.dtype.filter(|dtype| dtypes.contains(dtype)) {
                Some(dtype) => Ok((self.slice(tensor), dtype)),
                None => Err(wrong(format!("{operand}, '{}', is {}", tensor.name, tensor.kind.name))),
            }
        };
        let floats = [Dtype::F32, Dtype::F16, Dtype::BF16];
        let (b_bytes, _) = data(b, "B", &[Dtype::U8])?;
        let (scale_bytes, scale_type) = data(scales, "scales", &floats)?;
        let zero_points = match zeros {
            None => ZeroPoints::Middle,
            Some(zeros) => match data(zeros, "zero_points", &[Dtype::U8, scale_type])? {
                (bytes, Dtype::U8) => ZeroPoints::Packed(bytes.into()),
                (bytes, _) => ZeroPoints::Float(bytes.into()),
            },
        };
        let g_idx_bytes = g_idx.map(|i| data(i, "g_idx", &[Dtype::I32])).transpose()?;
        let source = float_type(scale_type).unwrap_or(DType::F32);
        let form = MatMulNBits {
            n,
            k,
            bits: u32::try_from(bits).unwrap_or(u32::MAX),
            block_size,
            b: b_bytes.into(),
            dtype: source,
            scales: scale_bytes.into(),
            zero_points,
            g_idx: g_idx_bytes.map(|(bytes, _)| bytes.into()),
        };
        let named = |e: Error| wrong(format!("of B '{}': {e}", tensor(b).map_or("", |t| t.name.as_str())));
        let scheme = form.scheme().map_err(named)?;
        scheme.check_shape(&[n, k]).map_err(named)?;
        // Blocks that follow each other need no g_idx.
        let order = g_idx.filter(|_| scheme.is_permuted());
        let operands = [Some(b), Some(scales), zeros, order].into_iter().flatten().collect();
        Ok(Some((b, Weight { scheme, source, shape: [n, k], operands })))
    }

    /// The bytes of a tensor.
    fn slice(&self, tensor: &Tensor) -> &[u8] {
        let Some(Part { shard, range }) = &tensor.part else { return &[] };
        match *shard {
            FILE => self.bytes.slice(range),
            MADE => self.made.get(range.start as usize..range.end as usize).unwrap_or(&[]),
            n => n.checked_sub(2).and_then(|n| self.external.get(n)).map_or(&[], |s| s.bytes.slice(range)),
        }
    }

    /// What the model says beside its graph, and who made it if that was not lowbit.
    fn metadata(&self, model: &ModelProto) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        let mut typed = None;
        let mut keys = HashSet::new();
        for (i, slice) in model.metadata_props.iter().enumerate() {
            let what = format!("metadata_props {i}");
            let prop: StringStringEntryProto = self.decode(&what, slice.clone())?;
            let wrong = |why: String| self.error(&what, self.offset(slice), why);
            if !keys.insert(prop.key.clone()) {
                return Err(wrong(format!("'{}' occurs twice", prop.key)));
            }
            if prop.key == METADATA_KEY {
                let json = serde_json::from_str(&prop.value).map_err(|e| e.to_string());
                let read = json.and_then(|json| Metadata::from_typed_json(&json));
                typed = Some(read.map_err(|e| wrong(format!("{METADATA_KEY}: {e}")))?);
                continue;
            }
            metadata.push(prop.key, Value::String(prop.value));
        }
        if let Some(typed) = typed {
            typed.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
        }
        let of_lowbit = model.producer_name == PRODUCER;
        for (key, text) in [
            ("onnx.producer_name", &model.producer_name),
            ("onnx.producer_version", &model.producer_version),
            ("onnx.domain", &model.domain),
            ("onnx.doc_string", &model.doc_string),
        ] {
            if !of_lowbit && !text.is_empty() && metadata.get(key).is_none() {
                metadata.push(key.into(), Value::String(text.clone()));
            }
        }
        Ok(metadata)
    }

    /// The files, in the order that parts count them.
    fn shards(self) -> Vec<Shard> {
        let made = Shard { path: self.path.clone(), bytes: Bytes::memory(self.made) };
        let file = Shard { path: self.path, bytes: self.bytes };
        [file, made].into_iter().chain(self.external).collect()
    }
}

/// A weight from its operands.
pub fn decode(scheme: Scheme, shape: &[usize], data: &[&[u8]]) -> Result<PackedTensor> {
    let (n, k) = scheme.check_shape(shape)?;
    let permuted = scheme.is_permuted();
    let in_place = Scheme { order: crate::scheme::Order::Natural, ..scheme };
    let Form { bits, block_size, dtype, zero } = Form::of(&in_place)?;
    let mut operands = data.iter().copied();
    let mut next = || Cow::Borrowed(operands.next().unwrap_or(&[]));
    let (b, scales) = (next(), next());
    let zero_points = match zero {
        Zero::Point => ZeroPoints::Packed(next()),
        Zero::Float => ZeroPoints::Float(next()),
        _ => ZeroPoints::Middle,
    };
    let g_idx = permuted.then(next);
    MatMulNBits { n, k, bits, block_size, b, dtype, scales, zero_points, g_idx }.packed()
}
