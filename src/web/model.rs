//! Files: a header opened from the first bytes, tensors from the bytes that lowbit.js fetches, and the way back into a file.
//!
//! ```text
//! first bytes, length -> openHead -> RawModel: entries, metadata, ranges of an entry
//! bytes of the ranges -> dense | packed -> host tensor -> upload | values | weight
//! RawModel + a type for each entry -> RawWriter: header, tensors one by one -> bytes for a Blob
//! ```
//!
//! The module never holds a file: whoever has it (a Blob, a server, an ArrayBuffer) is asked for ranges.

use super::arrays::{RawTensor, RawWeight};
use super::engine::RawEngine;
use super::{promise, thrown};
use crate::file::write::{Format, Item, Plan, Writer};
use crate::file::{Content, Entry, Model, Value};
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor};
use js_sys::{Float32Array, Promise, Uint8Array};
use serde_json::{Map, json};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// An open file of a model.
#[wasm_bindgen]
pub struct RawModel(Rc<Model>);

/// A file from its first bytes; undefined if its header goes on behind them. `name` stands in errors.
#[wasm_bindgen(js_name = openHead)]
pub fn open_head(name: String, head: Vec<u8>, length: f64) -> Result<Option<RawModel>, JsValue> {
    let model = Model::from_head(name, head, length as u64).map_err(thrown)?;
    Ok(model.map(|model| RawModel(Rc::new(model))))
}

impl RawModel {
    fn entry(&self, index: u32) -> Result<&Entry> {
        let entries = self.0.entries();
        let none = || Error::shape("number of a tensor", format!("below {}", entries.len()), index);
        entries.get(index as usize).ok_or_else(none)
    }

    fn packed_of(&self, index: u32, data: &[u8]) -> Result<PackedTensor> {
        let entry = self.entry(index)?;
        let mut rest = data;
        let mut pieces = Vec::new();
        for range in self.0.ranges(entry) {
            let piece = rest.split_at_checked((range.end - range.start) as usize);
            let (piece, behind) = piece.ok_or_else(|| short(entry, data.len()))?;
            pieces.push(piece);
            rest = behind;
        }
        self.0.packed_of(entry, &pieces).map_err(|e| e.in_tensor(&entry.name))
    }

    /// An entry as numbers, decoded by the CPU engine if it is packed.
    fn decoded(&self, index: u32, data: Vec<u8>) -> Result<Tensor> {
        let entry = self.entry(index)?;
        match entry.float() {
            Some(_) => self.0.tensor_of(entry, data),
            None => Ok(crate::cpu::dequantize(&self.packed_of(index, &data)?, DType::F32)),
        }
    }
}

fn short(entry: &Entry, got: usize) -> Error {
    Error::shape(format!("data of tensor '{}'", entry.name), format!("{} bytes", entry.bytes), got)
}

#[wasm_bindgen]
impl RawModel {
    /// The format's name.
    #[wasm_bindgen(getter)]
    pub fn format(&self) -> String {
        self.0.format().extension.into()
    }

    /// All tensors as JSON, in order.
    #[wasm_bindgen(getter)]
    pub fn entries(&self) -> String {
        let rows = self.0.entries().iter().map(|entry| {
            json!({
                "name": entry.name,
                "shape": entry.shape,
                "type": entry.scheme_name(),
                "packed": matches!(entry.content, Content::Packed { .. }),
                "readable": entry.readable().is_ok() && (entry.float().is_some() || matches!(entry.content, Content::Packed { .. })),
                "bytes": entry.bytes,
                "bitsPerWeight": entry.bits_per_weight(),
            })
        });
        serde_json::Value::from_iter(rows).to_string()
    }

    /// What the file says beside its tensors, as JSON; lists in words.
    #[wasm_bindgen(getter)]
    pub fn metadata(&self) -> String {
        let pairs = self.0.metadata().iter().map(|(key, value)| match value {
            Value::Array(_) => (key.to_string(), value.to_string().into()),
            _ => (key.to_string(), value.to_json()),
        });
        serde_json::Value::from(pairs.collect::<Map<_, _>>()).to_string()
    }

    /// Starts and ends of an entry's data in the file, in pairs.
    pub fn ranges(&self, index: u32) -> Result<Vec<f64>, JsValue> {
        let entry = self.entry(index).map_err(thrown)?;
        let ranges = self.0.ranges(entry).into_iter();
        Ok(ranges.flat_map(|range| [range.start as f64, range.end as f64]).collect())
    }

    /// A dense entry on an engine.
    pub fn tensor(&self, index: u32, data: Vec<u8>, engine: &RawEngine) -> Result<RawTensor, JsValue> {
        let tensor = self.entry(index).and_then(|entry| self.0.tensor_of(entry, data));
        tensor.and_then(|tensor| engine.0.upload(&tensor)).map(RawTensor).map_err(thrown)
    }

    /// A packed entry on an engine.
    pub fn weight(&self, index: u32, data: &[u8], engine: &RawEngine) -> Result<RawWeight, JsValue> {
        let packed = self.packed_of(index, data);
        packed.and_then(|packed| engine.0.take_packed(packed)).map(RawWeight).map_err(thrown)
    }

    /// An entry as f32.
    pub fn values(&self, index: u32, data: Vec<u8>) -> Result<Float32Array, JsValue> {
        let tensor = self.decoded(index, data);
        tensor.map(|tensor| Float32Array::from(&*tensor.to_f32())).map_err(thrown)
    }

    /// An entry quantized by an engine: a promise of a [`RawWeight`].
    pub fn quantize(&self, index: u32, data: Vec<u8>, engine: &RawEngine, scheme: &str) -> Promise {
        let name = self.entry(index).map(|entry| entry.name.clone());
        let made = name.and_then(|name| Ok((name, self.decoded(index, data)?, scheme.parse::<Scheme>()?)));
        let engine = engine.0.clone();
        promise(async move {
            let (name, tensor, scheme) = made?;
            Ok(RawWeight(engine.quantize_named(&tensor, &name, &scheme).await?))
        })
    }

    /// A file of the same tensors. `types`: for each the scheme it is to be in, or nothing to take it as it is.
    pub fn writer(&self, format: &str, types: Vec<String>) -> Result<RawWriter, JsValue> {
        RawWriter::new(&self.0, format, &types).map_err(thrown)
    }
}

/// What has been written and not fetched yet.
#[derive(Clone, Default)]
struct Out(Rc<RefCell<Vec<u8>>>);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is being written.
#[wasm_bindgen]
pub struct RawWriter {
    out: Out,
    /// Taken at the end, and while a weight is on its way.
    writer: Rc<RefCell<Option<Writer<Out>>>>,
}

impl RawWriter {
    fn new(model: &Model, format: &str, types: &[String]) -> Result<Self> {
        let format = match format {
            "safetensors" => Format::named("lowbit")?,
            "gguf" => Format::named("gguf")?,
            _ => return Err(Error::Usage(format!("file format '{format}': there are gguf and safetensors"))),
        };
        let changes = types.iter().any(|to| !to.is_empty());
        let mut plan = if changes { Plan::changing } else { Plan::new }(model.metadata().clone());
        for (entry, to) in model.entries().iter().zip(types) {
            entry.readable()?;
            match (&entry.content, to.as_str()) {
                (Content::Dense(dtype), "") => plan.dense(&entry.name, *dtype, entry.shape.clone())?,
                (Content::Packed { scheme, source }, "") => {
                    plan.packed(&entry.name, *scheme, entry.shape.clone(), *source)?;
                }
                (_, name) => {
                    let source = entry.float().unwrap_or(DType::F32);
                    let added = name
                        .parse()
                        .and_then(|scheme| plan.packed(&entry.name, scheme, entry.shape.clone(), source));
                    added.map_err(|e| e.in_tensor(&entry.name))?;
                }
            }
        }
        let out = Out::default();
        let name = format!("a {} file", format.extension);
        let writer = Writer::new(out.clone(), name, format, plan)?;
        Ok(Self { out, writer: Rc::new(RefCell::new(Some(writer))) })
    }
}

fn ended() -> Error {
    Error::Usage("this file has been ended".into())
}

#[wasm_bindgen]
impl RawWriter {
    /// The name of the tensor to be written now; undefined at the end.
    #[wasm_bindgen(getter)]
    pub fn next(&self) -> Option<String> {
        self.writer.borrow().as_ref().and_then(|w| w.next_item()).map(|item: &Item| item.name().to_string())
    }

    /// What was written since it was asked for last.
    pub fn take(&self) -> Uint8Array {
        Uint8Array::from(&*std::mem::take(&mut *self.out.0.borrow_mut()))
    }

    /// The next tensor, a dense one, as it lies in its file.
    pub fn dense(&self, data: &[u8]) -> Result<(), JsValue> {
        self.writer.borrow_mut().as_mut().ok_or_else(ended).and_then(|w| w.dense(data)).map_err(thrown)
    }

    /// The next tensor, a packed one of a file.
    pub fn packed(&self, model: &RawModel, index: u32, data: &[u8]) -> Result<(), JsValue> {
        let packed = model.packed_of(index, data);
        let mut writer = self.writer.borrow_mut();
        packed.and_then(|packed| writer.as_mut().ok_or_else(ended)?.packed(&packed)).map_err(thrown)
    }

    /// The next tensor, a weight of an engine: a promise of nothing.
    pub fn weight(&self, weight: &RawWeight) -> Promise {
        let (weight, writer) = (weight.0.clone(), self.writer.clone());
        promise(async move {
            let packed = weight.read().await?;
            writer.borrow_mut().as_mut().ok_or_else(ended)?.packed(&packed)?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Ends the file.
    pub fn finish(&self) -> Result<(), JsValue> {
        let writer = self.writer.borrow_mut().take();
        writer.ok_or_else(ended).and_then(Writer::finish).map(drop).map_err(thrown)
    }
}

/// How far numbers are from their originals: SQNR in dB, cosine, largest and mean absolute difference.
#[wasm_bindgen]
pub fn errors(reference: &[f32], got: &[f32]) -> Result<Vec<f64>, JsValue> {
    if reference.len() != got.len() {
        return Err(thrown(Error::shape("numbers to compare", reference.len(), got.len())));
    }
    let errors = crate::report::metrics::Errors::of(reference, got);
    Ok(vec![errors.sqnr_db(), errors.cosine(), errors.max_abs(), errors.mean_abs()])
}
