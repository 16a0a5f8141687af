//! bitsandbytes: NF4 and FP4, with and without double quantization, and LLM.int8. Read only.
//!
//! ```text
//! X.weight U8 [ceil(n / 2), 1]               n = out * in, row-major; the first of two codes in the high nibble
//! X.weight.absmax F32 [blocks]               one per block of the flattened tensor, which may cross rows
//! X.weight.quant_map F32 [16]                what the codes stand for
//! X.weight.quant_state.bitsandbytes__nf4     JSON: blocksize, shape, dtype
//! double quantization:
//! X.weight.absmax U8 [blocks]                absmax[i] = nested_quant_map[byte] * nested_absmax[i / nested_blocksize] + nested_offset
//! X.weight.nested_absmax F32, X.weight.nested_quant_map F32 [256]
//!
//! X.weight I8 [out, in], X.SCB F32 [out]     w = code * SCB / 127
//! ```
//!
//! Double quantization is worked out once, in f32 and in the order above, so that decoding gives the same bits. A block that crosses rows is cut into groups that do not, with its absmax
//! repeated. LLM.int8 multiplies before it divides; here the scale is SCB / 127, so that a weight may differ in its last bit.
//!
//! Source: bitsandbytes `functional.py` (`QuantState`), `nn/modules.py`.

use super::super::{Dtype, Model};
use super::config::Config;
use super::parts::{View, common_group, fill, group_of, modules, modules_with, of_codes, row_of, scheme};
use super::{Format, Layer};
use crate::scheme::{Codebook, PlaneKind, ScaleType, Scheme};
use crate::{DType, Error, PackedTensor, Result};
use serde_json::Value;

pub static FORMAT: Format = Format {
    name: "bitsandbytes",
    claims: |config| config.method() == "bitsandbytes",
    layers,
    packed,
    companions: &[
        ".quant_map",
        ".absmax",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_state.bitsandbytes__nf4",
        ".quant_state.bitsandbytes__fp4",
        ".SCB",
    ],
};

const STATES: [&str; 2] = [".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"];

/// A layer of 4 bits.
struct FourBits<'a> {
    state: &'static str,
    shape: [usize; 2],
    block: usize,
    group: usize,
    source: DType,
    codes: View<'a>,
    absmax: View<'a>,
    nested: Option<Nested>,
    map: Vec<f32>,
    scheme: Scheme,
}

struct Nested {
    block: usize,
    offset: f32,
    map: Vec<f32>,
    absmax: Vec<f32>,
}

fn float(name: &str) -> Option<DType> {
    match name {
        "float32" => Some(DType::F32),
        "float16" => Some(DType::F16),
        "bfloat16" => Some(DType::Bf16),
        _ => None,
    }
}

impl<'a> FourBits<'a> {
    fn new(model: &'a Model, module: &str, state_suffix: &'static str) -> Result<Self> {
        let state_view = View::of(model, module, state_suffix)?;
        let state: Value = serde_json::from_slice(state_view.data)
            .map_err(|e| state_view.wrong("a JSON object", format!("what is not JSON: {e}")))?;
        let field = |key: &str, expected: &str| {
            state_view.wrong(format!("{key}: {expected}"), state.get(key).unwrap_or(&Value::Null))
        };
        let count = |key: &str| {
            let n = state.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            n.filter(|&n| n > 0).ok_or_else(|| field(key, "a number from 1 on"))
        };
        let kind = state.get("quant_type").and_then(Value::as_str);
        let expected = state_suffix.rsplit('_').next();
        if kind != expected {
            return Err(field("quant_type", expected.unwrap_or("")));
        }
        let block = count("blocksize")?;
        let shape = state
            .get("shape")
            .and_then(Value::as_array)
            .map(|dims| dims.iter().filter_map(|d| usize::try_from(d.as_u64()?).ok()).collect::<Vec<_>>());
        let shape: [usize; 2] = shape
            .and_then(|s| s.try_into().ok())
            .filter(|s: &[usize; 2]| !s.contains(&0))
            .ok_or_else(|| field("shape", "two dimensions"))?;
        let [out, k] = shape;
        let n = out.checked_mul(k).ok_or_else(|| field("shape", "dimensions that can be multiplied"))?;
        let source = state.get("dtype").and_then(Value::as_str).and_then(float);
        let source = source.ok_or_else(|| field("dtype", "float32, float16 or bfloat16"))?;

        // Stored in words of any type.
        let codes = View::of(model, module, ".weight")?;
        if codes.data.len() != n.div_ceil(2) {
            let got = format!("{} bytes", codes.data.len());
            return Err(codes.wrong(format!("{} bytes for {shape:?}", n.div_ceil(2)), got));
        }
        let blocks = n.div_ceil(block);
        let map = View::of(model, module, ".weight.quant_map")?.expect(&[Dtype::F32], &[16])?.floats();
        let absmax = View::of(model, module, ".weight.absmax")?;
        let nested = if absmax.dtype == Dtype::U8 {
            let nested_block = count("nested_blocksize")?;
            let offset = state.get("nested_offset").and_then(Value::as_f64);
            let offset = offset.ok_or_else(|| field("nested_offset", "a number"))? as f32;
            let nested = View::of(model, module, ".weight.nested_absmax")?;
            let nested_map = View::of(model, module, ".weight.nested_quant_map")?;
            Some(Nested {
                block: nested_block,
                offset,
                map: nested_map.expect(&[Dtype::F32], &[256])?.floats(),
                absmax: nested.expect(&[Dtype::F32], &[blocks.div_ceil(nested_block)])?.floats(),
            })
        } else {
            None
        };
        absmax.expect(&[Dtype::F32, Dtype::U8], &[blocks])?;
        let group = common_group(k, block);
        if !group.is_multiple_of(4) {
            let what = format!("tensor '{}', blocks of {block} in rows of {k}", codes.name);
            return Err(Error::unsupported(what, "groups of lowbit begin on multiples of 4"));
        }
        let same = |table: Codebook| table.entries() == map;
        let family = if same(Codebook::Nf4) {
            "nf4"
        } else if same(Codebook::BnbFp4) {
            "bnbfp4"
        } else {
            "codebook4"
        };
        let scheme = scheme(family, group_of(Some(group)), "", ScaleType::F32, false);
        let scheme = scheme.map_err(|e| e.in_tensor(codes.name))?;
        Ok(Self { state: state_suffix, shape, block, group, source, codes, absmax, nested, map, scheme })
    }

    /// The scale of each block.
    fn scales(&self) -> Vec<f32> {
        let Some(nested) = &self.nested else { return self.absmax.floats() };
        let of = |(i, &byte): (usize, &u8)| {
            let outer = nested.absmax.get(i.checked_div(nested.block)?)?;
            Some(nested.map.get(usize::from(byte))? * outer + nested.offset)
        };
        self.absmax.data.iter().enumerate().filter_map(of).collect()
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [out, k] = self.shape;
        let mut tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
            let first = row.saturating_mul(k);
            let mut bytes = self.codes.data.iter().skip(first / 2);
            // A row may begin and end within a byte.
            let (begun, codes) = codes.split_at_mut(first % 2);
            begun.iter_mut().zip(&mut bytes).for_each(|(code, byte)| *code = byte & 15);
            let (pairs, last) = codes.as_chunks_mut::<2>();
            for (pair, byte) in pairs.iter_mut().zip(&mut bytes) {
                *pair = [byte.wrapping_shr(4), byte & 15];
            }
            last.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte.wrapping_shr(4));
        })?;
        let scales = self.scales();
        let groups = out.saturating_mul(k).checked_div(self.group).unwrap_or(0);
        let of = |group: usize| {
            let block = group.saturating_mul(self.group).checked_div(self.block)?;
            scales.get(block).copied()
        };
        let of_groups: Vec<[u8; 4]> = (0..groups).filter_map(of).map(f32::to_le_bytes).collect();
        fill(&mut tensor, PlaneKind::Scales, of_groups.as_flattened())?;
        if self.scheme.codebook().is_none() {
            let map: Vec<u8> = self.map.iter().flat_map(|v| v.to_le_bytes()).collect();
            fill(&mut tensor, PlaneKind::Codebook, &map)?;
        }
        Ok(tensor)
    }
}

/// A layer of LLM.int8.
struct EightBits<'a> {
    shape: [usize; 2],
    codes: View<'a>,
    scb: View<'a>,
    scheme: Scheme,
}

impl<'a> EightBits<'a> {
    fn new(model: &'a Model, module: &str) -> Result<Self> {
        let codes = View::of(model, module, ".weight")?;
        let shape @ [out, _] = codes.matrix(&[Dtype::I8])?;
        let scb = View::of(model, module, ".SCB")?.expect(&[Dtype::F32], &[out])?;
        if let Some(format) = View::get(model, &format!("{module}.weight_format"))
            && format.number()? != 0
        {
            return Err(format.wrong("0, rows", format.number()?));
        }
        Ok(Self { shape, codes, scb, scheme: scheme("int8", group_of(None), "", ScaleType::F32, false)? })
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [_, k] = self.shape;
        let mut tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
            // Two's complement with the sign bit turned is the code with an offset of 128.
            let row = row_of(self.codes.data, k, row);
            codes.iter_mut().zip(row).for_each(|(to, code)| *to = code ^ 0x80);
        })?;
        let scales: Vec<u8> = self.scb.floats().iter().flat_map(|s| (s / 127.0).to_le_bytes()).collect();
        fill(&mut tensor, PlaneKind::Scales, &scales)?;
        Ok(tensor)
    }
}

fn state_of(model: &Model, module: &str) -> Option<&'static str> {
    STATES.into_iter().find(|state| View::get(model, &format!("{module}{state}")).is_some())
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let excluded = |module: &str| config.check_not_listed("llm_int8_skip_modules", module);
    let mut layers = Vec::new();
    for state in STATES {
        for module in modules(model, state) {
            excluded(module)?;
            let layer = FourBits::new(model, module, state)?;
            let suffixes = [
                ".weight",
                ".weight.absmax",
                ".weight.quant_map",
                ".weight.nested_absmax",
                ".weight.nested_quant_map",
                layer.state,
            ];
            layers.push(Layer::new(module, &layer.shape, layer.scheme, layer.source, &suffixes));
        }
    }
    for module in modules_with(model, &[".SCB"], &[Dtype::I8]) {
        excluded(module)?;
        let layer = EightBits::new(model, module)?;
        let suffixes = [".weight", ".SCB", ".weight_format"];
        layers.push(Layer::new(module, &layer.shape, layer.scheme, DType::F16, &suffixes));
    }
    Ok(layers)
}

fn packed(_: &Config, model: &Model, module: &str) -> Result<PackedTensor> {
    match state_of(model, module) {
        Some(state) => FourBits::new(model, module, state)?.packed(),
        None => EightBits::new(model, module)?.packed(),
    }
}
