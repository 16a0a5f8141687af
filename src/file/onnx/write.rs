//! Writing ONNX: where the tensors of a plan lie in the data file, the model that says so, and the operands of a packed tensor.
//!
//! ```text
//! Plan -> tensors (name, type, shape, bytes), places counted up in the plan's order -> model: initializers, nodes, inputs, outputs
//! PackedTensor -> B, scales, zero_points, one behind the other: each begins on a multiple of its element's size
//! ```

use super::proto::{
    AttributeProto, DimensionProto, EXTERNAL, GraphProto, INT, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{ALIGNMENT, DOMAIN, IR_VERSION, OPERATOR, OPSETS, PRODUCER, types};
use crate::file::bytes::bad;
use crate::file::checkpoint::onnx::{Form, MatMulNBits, ZeroPoints};
use crate::file::metadata::{Metadata, Value};
use crate::file::safetensors::{METADATA_KEY, OWN};
use crate::file::write::{Item, Laid, Plan};
use crate::file::{Dtype, file_type};
use crate::scheme::Zero;
use crate::{Error, PackedTensor, Result, Scheme};
use prost::Message;
use prost::bytes::Bytes;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

/// What the data file begins with, filled up with zeros.
const HEADER: &[u8] = b"lowbit: tensors of the ONNX model beside this file, which says where they are\n";
/// Readers of protocol buffers take no more.
const MAX_MODEL: usize = i32::MAX as usize;

/// Whether a file can hold an item; why not.
pub fn holds(item: &Item) -> Result<()> {
    tensors(item).map(drop)
}

/// A tensor of the data file.
struct Tensor {
    name: String,
    kind: &'static types::Type,
    shape: Vec<usize>,
    bytes: usize,
}

impl Tensor {
    fn new(name: String, dtype: Dtype, shape: &[usize], bytes: usize) -> Result<Self> {
        let none = || {
            Error::unsupported(
                format!("the element type {dtype} in an ONNX file"),
                "lowbit writes none like it",
            )
        };
        Ok(Self { name, kind: types::of_dense(dtype).ok_or_else(none)?, shape: shape.to_vec(), bytes })
    }
}

/// The form of the node of a weight, which is read as the same scheme again.
fn form(scheme: &Scheme, shape: &[usize]) -> Result<(Form, usize, usize)> {
    let form = Form::of(scheme)?;
    if form.scheme(false)? != *scheme {
        let why = format!("MatMulNBits holds it as {}", form.scheme(false)?);
        return Err(Error::unsupported(format!("scheme {scheme} in an ONNX file"), why));
    }
    match *shape {
        [n, k] if n > 0 && k > 0 => Ok((form, n, k)),
        _ => Err(Error::unsupported(format!("shape {shape:?} in MatMulNBits"), "it holds matrices")),
    }
}

/// The tensors that an item becomes: of a packed one B, scales and, where it has some, zero-points.
fn tensors(item: &Item) -> Result<Vec<Tensor>> {
    let (name, scheme, shape) = match item {
        Item::Dense { name, dtype, shape, bytes } => {
            return Ok(vec![Tensor::new(name.clone(), *dtype, shape, *bytes)?]);
        }
        Item::Packed { name, scheme, shape, .. } => (name, scheme, shape),
    };
    let (form, n, k) = form(scheme, shape)?;
    let too_large = || Error::shape("MatMulNBits", "N and K that can be counted", format!("{shape:?}"));
    let rows = form.rows(k).ok_or_else(too_large)?;
    let whole = |row: usize| row.checked_mul(n).ok_or_else(too_large);
    let blob = rows.b.checked_div(rows.blocks).unwrap_or(0);
    let b =
        Tensor::new(format!("{name}_Q{}", form.bits), Dtype::U8, &[n, rows.blocks, blob], whole(rows.b)?)?;
    let floats = file_type(form.dtype);
    let mut all = vec![b];
    all.push(Tensor::new(format!("{name}_scales"), floats, &[n, rows.blocks], whole(rows.scales)?)?);
    let (dtype, columns) = match form.zero {
        Zero::Float => (floats, rows.blocks),
        Zero::Point => (Dtype::U8, rows.zeros),
        _ => return Ok(all),
    };
    all.push(Tensor::new(format!("{name}_zero_points"), dtype, &[n, columns], whole(rows.zeros)?)?);
    Ok(all)
}

/// The bytes of an item's data.
pub fn data_bytes(item: &Item) -> Result<usize> {
    Ok(tensors(item)?.iter().map(|t| t.bytes).fold(0, usize::saturating_add))
}

/// Bits per weight: codes, a scale and a zero-point for each block.
pub fn bits_per_weight(scheme: &Scheme, _rows: usize, _k: usize) -> f64 {
    let Ok(Form { bits, block_size, dtype, zero }) = Form::of(scheme) else { return f64::NAN };
    let zero = match zero {
        Zero::Float => dtype.size() as f64 * 8.0,
        Zero::Point => f64::from(bits),
        _ => 0.0,
    };
    f64::from(bits) + (dtype.size() as f64 * 8.0 + zero) / block_size as f64
}

/// The start of the data file. Items stay in order.
pub fn lay_out(plan: &mut Plan, path: &Path) -> Result<Laid> {
    // Made here to see that it can be.
    model_of(&[("".into(), plan.clone())], path)?;
    let mut header = HEADER.to_vec();
    header.resize(ALIGNMENT, 0);
    Ok(Laid { header, alignment: ALIGNMENT })
}

/// B, scales and zero-points.
pub fn encode(tensor: &PackedTensor) -> Result<Vec<Cow<'_, [u8]>>> {
    let node = MatMulNBits::of(tensor)?;
    let mut pieces = vec![node.b, node.scales];
    match node.zero_points {
        ZeroPoints::Middle => {}
        ZeroPoints::Packed(zeros) | ZeroPoints::Float(zeros) => pieces.push(zeros),
    }
    Ok(pieces)
}

/// The bytes of the model whose tensors lie in these files.
pub fn model(files: &[(String, Plan)]) -> Result<Vec<u8>> {
    model_of(files, Path::new("the ONNX model"))
}

fn model_of(files: &[(String, Plan)], path: &Path) -> Result<Vec<u8>> {
    let mut graph = GraphProto { name: PRODUCER.into(), ..GraphProto::default() };
    let mut names = HashSet::new();
    let mut new_name = |name: &str| match names.insert(name.to_string()) {
        true => Ok(()),
        false => Err(bad(path, format!("two tensors would be called '{name}'"))),
    };
    for (file, plan) in files {
        let mut at = ALIGNMENT as u64;
        for item in &plan.items {
            let tensors = tensors(item).map_err(|e| e.in_tensor(item.name()))?;
            for tensor in &tensors {
                new_name(&tensor.name)?;
                graph.initializer.push(initializer(tensor, file, at)?.encode_to_vec().into());
                let end = at.checked_add(tensor.bytes as u64);
                at = end.ok_or_else(|| bad(path, "more bytes than can be counted"))?;
            }
            at = at
                .checked_next_multiple_of(ALIGNMENT as u64)
                .ok_or_else(|| bad(path, "more bytes than can be counted"))?;
            if let Item::Packed { name, scheme, shape, .. } = item {
                let (form, n, k) = form(scheme, shape)?;
                let ends = [format!("{name}.input"), format!("{name}.output")];
                ends.iter().try_for_each(|end| new_name(end))?;
                let kind = types::of_dense(file_type(form.dtype)).map(|t| t.id);
                let [input, output] = &ends;
                graph.input.push(value(input, kind, k)?);
                graph.output.push(value(output, kind, n)?);
                graph.node.push(node(name, &ends, &tensors, &form, n, k)?);
            }
        }
    }
    let opset = |(domain, version): &(&str, i64)| -> Bytes {
        let set = OperatorSetIdProto { domain: (*domain).into(), version: Some(*version) };
        set.encode_to_vec().into()
    };
    let metadata = files.first().map(|(_, plan)| props(&plan.metadata)).unwrap_or_default();
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: PRODUCER.into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: OPSETS.iter().map(opset).collect(),
        metadata_props: metadata.iter().map(|entry| entry.encode_to_vec().into()).collect(),
        ..ModelProto::default()
    };
    let bytes = model.encode_to_vec();
    match bytes.len() {
        0..=MAX_MODEL => Ok(bytes),
        n => {
            Err(bad(path, format!("a model of {n} bytes without its tensors; at most {MAX_MODEL} are read")))
        }
    }
}

/// Texts as they are; what texts cannot say as one of JSON.
fn props(metadata: &Metadata) -> Vec<StringStringEntryProto> {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let text = |(key, value): (&str, &Value)| {
        value.as_str().filter(|_| !key.starts_with(OWN)).map(|value| entry(key, value))
    };
    let texts: Option<Vec<_>> = metadata.iter().map(text).collect();
    texts.unwrap_or_else(|| vec![entry(METADATA_KEY, &metadata.to_typed_json().to_string())])
}

fn dimension(n: usize) -> Result<i64> {
    i64::try_from(n).map_err(|_| Error::shape("dimension of an ONNX tensor", "at most 2^63 - 1", n))
}

fn initializer(tensor: &Tensor, file: &str, at: u64) -> Result<TensorProto> {
    let dims: Result<Vec<i64>> = tensor.shape.iter().map(|&n| dimension(n)).collect();
    let proto = TensorProto {
        dims: dims?,
        data_type: Some(tensor.kind.id),
        name: tensor.name.clone(),
        ..TensorProto::default()
    };
    if tensor.bytes == 0 {
        return Ok(TensorProto { raw_data: Some(Bytes::new()), ..proto });
    }
    let place =
        [("location", file.to_string()), ("offset", at.to_string()), ("length", tensor.bytes.to_string())];
    let place = place.map(|(key, value)| StringStringEntryProto { key: key.into(), value });
    Ok(TensorProto { external_data: place.into(), data_location: Some(EXTERNAL), ..proto })
}

/// An input or output [M, columns] of the graph.
fn value(name: &str, elem_type: Option<i32>, columns: usize) -> Result<Bytes> {
    let rows = DimensionProto { dim_param: Some("M".into()), ..DimensionProto::default() };
    let columns = DimensionProto { dim_value: Some(dimension(columns)?), ..DimensionProto::default() };
    let shape = Some(TensorShapeProto { dim: vec![rows, columns] });
    let kind = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }) });
    Ok(ValueInfoProto { name: name.into(), kind }.encode_to_vec().into())
}

/// The node of a weight.
fn node(
    name: &str,
    [input, output]: &[String; 2],
    tensors: &[Tensor],
    form: &Form,
    n: usize,
    k: usize,
) -> Result<Bytes> {
    let attribute = |(name, value): (&str, usize)| -> Result<Bytes> {
        let i = Some(dimension(value)?);
        let attribute = AttributeProto { name: name.into(), i, kind: Some(INT), ..AttributeProto::default() };
        Ok(attribute.encode_to_vec().into())
    };
    let values = [
        ("K", k),
        ("N", n),
        ("accuracy_level", 0),
        ("bits", form.bits as usize),
        ("block_size", form.block_size),
    ];
    let attributes: Result<Vec<Bytes>> = values.into_iter().map(attribute).collect();
    let node = NodeProto {
        input: std::iter::once(input).chain(tensors.iter().map(|t| &t.name)).cloned().collect(),
        output: vec![output.clone()],
        name: name.into(),
        op_type: OPERATOR.into(),
        attribute: attributes?,
        domain: DOMAIN.into(),
    };
    Ok(node.encode_to_vec().into())
}
