//! MLX: affine of 2, 3, 4, 5, 6 and 8 bits, mxfp4, nvfp4 and mxfp8, read and written.
//!
//! ```text
//! X.weight U32 [.., out, in * bits / 32]    a row is the stream of its codes
//! X.scales, X.biases [.., out, groups]      affine: f16 or bf16; w = scale * code + bias
//! X.scales U8 [.., out, groups]             mxfp4, mxfp8: exponents; nvfp4: E4M3; no biases
//! ```
//!
//! Bits and group of a module are not in its tensors: they are in its own entry of the settings, or else in those of the model. Written is what has biases, and
//! integers with zero-points where `-scale * zero` is a number of the scale's type.
//!
//! Source: mlx `mlx/ops.cpp`, `python/mlx/nn/layers/quantized.py`.

use super::super::{Dtype, Model};
use super::bits::{stream_bytes, unpack_stream};
use super::config::{Config, Settings};
use super::parts::{Integers, View, fill, group_of, modules, of_codes, row_of, scheme, source_of, streams};
use super::write::{Held, Part, Target, most_common, refuse};
use super::{Format, Layer};
use crate::scheme::{Group, PlaneKind, Scale, ScaleType, Scheme, Value as Values, Zero};
use crate::{DType, Error, PackedTensor, Result};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

pub static FORMAT: Format = Format {
    name: "mlx",
    claims: |config| {
        config.method().is_empty()
            && matches!(config.found, "quantization" | "quantization_config")
            && ["bits", "group_size"].iter().all(|key| config.settings.contains_key(*key))
    },
    layers,
    packed,
    companions: &[".scales", ".biases"],
};

pub static TARGET: Target = Target {
    name: "mlx",
    aliases: &[],
    about: "MLX: affine, mxfp4, nvfp4, mxfp8",
    parts,
    encode,
    settings,
    key: "quantization",
    metadata: "mlx",
};

const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
const GROUPS: [usize; 3] = [32, 64, 128];

const AFFINE: &str = "affine";

/// A mode with block scales of a byte: its name, bits, group, scheme, and the largest byte that is a scale.
const BLOCK_MODES: [(&str, u32, usize, &str, u8); 3] = [
    ("mxfp4", 4, 32, "fp4-g32-e8m0", 0xfe),
    ("nvfp4", 4, 16, "nvfp4", 0x7e),
    ("mxfp8", 8, 32, "mxfp8", 0xfe),
];

/// The mode of a scheme with block scales of a byte: its name, bits and group.
fn block_mode(scheme: &Scheme) -> Option<(&'static str, u32, usize)> {
    let held = scheme.to_string();
    BLOCK_MODES.iter().find(|m| m.3 == held).map(|&(name, bits, group, ..)| (name, bits, group))
}

struct Linear<'a> {
    bits: u32,
    shape: Vec<usize>,
    codes: View<'a>,
    scales: View<'a>,
    /// Affine has them.
    biases: Option<View<'a>>,
    /// Of block scales.
    largest: u8,
    scheme: Scheme,
}

impl<'a> Linear<'a> {
    fn new(config: &Config, model: &'a Model, module: &str) -> Result<Self> {
        let settings: Settings = match config.settings.get(module) {
            None | Some(Value::Bool(true)) => config.of_model(),
            // Nothing of the model's: what the entry leaves out has the default.
            Some(Value::Object(own)) => config.only(own),
            Some(other) => {
                let what = format!("'{module}' is {other}, and is quantized in the files");
                return Err(config.bad(what));
            }
        };
        let mode = settings.text("mode")?.unwrap_or_else(|| AFFINE.into());
        let block_mode = BLOCK_MODES.iter().find(|m| m.0 == mode);
        let (bits, size) = match block_mode {
            Some(&(_, bits, size, ..)) => (bits, size),
            None if mode == AFFINE => (4, 64),
            None => {
                let what = format!("mode: expected affine, mxfp4, nvfp4 or mxfp8, got {mode}");
                return Err(config.bad(what));
            }
        };
        let known = if block_mode.is_some() { &[bits][..] } else { &BITS };
        let bits = if settings.integer("bits")?.is_some() { settings.bits("bits", known)? } else { bits };
        let size =
            if settings.integer("group_size")?.is_some() { settings.count("group_size")? } else { size };
        if block_mode.is_some_and(|m| m.2 != size) {
            return Err(config.bad(format!("group_size: {mode} has groups of another size than {size}")));
        }

        let codes = View::of(model, module, ".weight")?;
        let (&words, lead) = codes.shape.split_last().unwrap_or((&0, &[]));
        let k = words.saturating_mul(32).checked_div(bits as usize).unwrap_or(0);
        let whole = k.saturating_mul(bits as usize) == words.saturating_mul(32);
        if codes.dtype != Dtype::U32 || lead.is_empty() || lead.contains(&0) || words == 0 || !whole {
            let got = format!("{} {:?}", codes.dtype, codes.shape);
            return Err(codes.wrong(format!("U32 [.., rows, words of {bits}-bit codes]"), got));
        }
        if k.checked_rem(size) != Some(0) {
            return Err(codes.wrong(format!("columns in groups of {size}"), k));
        }
        let shape = [lead, &[k]].concat();
        let grouped = [lead, &[k.checked_div(size).unwrap_or(0)]].concat();
        let scales = View::of(model, module, ".scales")?;
        let (scheme, biases, largest) = match block_mode {
            None => {
                let biases = View::of(model, module, ".biases")?;
                scales.expect(&[Dtype::F16, Dtype::BF16], &grouped)?;
                biases.expect(&[scales.dtype], &grouped)?;
                let scale = scales.scale_type()?;
                let scheme = scheme(&format!("int{bits}"), group_of(Some(size)), "-bias", scale, false);
                (scheme.map_err(|e| e.in_tensor(codes.name))?, Some(biases), 0)
            }
            Some(&(_, _, _, scheme, largest)) => {
                scales.expect(&[Dtype::U8], &grouped)?;
                if let Some(global) = View::get(model, &format!("{module}.global_scale")) {
                    return Err(global.wrong("no such tensor", "one"));
                }
                (scheme.parse::<Scheme>()?, None, largest)
            }
        };
        scheme.check_shape(&shape).map_err(|e| e.in_tensor(codes.name))?;
        Ok(Self { bits, shape, codes, scales, biases, largest, scheme })
    }

    fn packed(&self) -> Result<PackedTensor> {
        let k = self.shape.last().copied().unwrap_or(1);
        let of_row = stream_bytes(k, self.bits);
        let mut tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
            unpack_stream(row_of(self.codes.data, of_row, row), self.bits, codes);
        })?;
        fill(&mut tensor, PlaneKind::Scales, self.scales.data)?;
        match self.biases {
            Some(biases) => fill(&mut tensor, PlaneKind::Zeros, biases.data)?,
            None => {
                if let Some(byte) = self.scales.data.iter().find(|&&byte| byte > self.largest) {
                    return Err(self.scales.wrong(format!("bytes up to {}", self.largest), byte));
                }
            }
        }
        Ok(tensor)
    }
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let layer = |module: &str| {
        let linear = Linear::new(config, model, module)?;
        let source = match linear.biases {
            Some(_) => source_of(linear.scales.scale_type()?),
            None => DType::Bf16,
        };
        let suffixes = [".weight", ".scales", ".biases"];
        Ok(Layer::new(module, &linear.shape, linear.scheme, source, &suffixes))
    };
    modules(model, ".scales").into_iter().map(layer).collect()
}

fn packed(config: &Config, model: &Model, module: &str) -> Result<PackedTensor> {
    Linear::new(config, model, module)?.packed()
}

/// The group and the type of scales and biases of an affine scheme that can be written.
fn affine(scheme: &Scheme) -> Option<(usize, ScaleType)> {
    let Values::Linear { step: 1, offset } = scheme.value else { return None };
    let Scale::Direct(scale @ (ScaleType::F16 | ScaleType::Bf16)) = scheme.scale else { return None };
    let Group::Cols(group) = scheme.group else { return None };
    let biased = scheme.zero == Zero::Bias && offset == 0;
    let known = BITS.contains(&u32::from(scheme.bits)) && GROUPS.contains(&(group as usize));
    let held = biased || Integers::of(scheme).is_some();
    (held && known && !scheme.is_permuted()).then_some((group as usize, scale))
}

fn parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    let needs = "integers of 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128 with f16 or bf16 scales, mxfp4, nvfp4 and mxfp8";
    let (group, float) = match (block_mode(scheme), affine(scheme)) {
        (Some((_, _, group)), _) => (group, Dtype::U8),
        (None, Some((group, ScaleType::F16))) => (group, Dtype::F16),
        (None, Some((group, _))) => (group, Dtype::BF16),
        (None, None) => return Err(refuse(scheme, needs)),
    };
    let (&k, lead) = shape.split_last().unwrap_or((&0, &[]));
    if lead.is_empty() || k.checked_rem(group) != Some(0) {
        return Err(refuse(scheme, "matrices without a short last group"));
    }
    let words = k.saturating_mul(usize::from(scheme.bits)).div_euclid(32);
    let groups = k.checked_div(group).unwrap_or(0);
    let with = |last: usize| [lead, &[last]].concat();
    let mut parts =
        vec![Part::new(".weight", Dtype::U32, with(words)), Part::new(".scales", float, with(groups))];
    if float != Dtype::U8 {
        parts.push(Part::new(".biases", float, with(groups)));
    }
    Ok(parts)
}

/// `-scale * zero`, if the scale's type has this number.
fn bias(scale: [u8; 2], zero: u8, kind: ScaleType) -> Option<[u8; 2]> {
    let zero = f32::from(zero);
    let same = |exact: f32, rounded: f32| (exact == rounded && rounded.is_finite()).then_some(());
    if kind == ScaleType::F16 {
        // 11 and 8 bits: exact in f32.
        let exact = -(f16::from_le_bytes(scale).to_f32() * zero);
        let rounded = f16::from_f32(exact);
        same(exact, rounded.to_f32()).map(|()| rounded.to_le_bytes())
    } else {
        let exact = -(bf16::from_le_bytes(scale).to_f32() * zero);
        let rounded = bf16::from_f32(exact);
        same(exact, rounded.to_f32()).map(|()| rounded.to_le_bytes())
    }
}

fn encode(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    let scheme = tensor.scheme();
    match suffix {
        ".weight" => Ok(streams(tensor)),
        ".scales" => Ok(tensor.plane(PlaneKind::Scales).to_vec()),
        ".biases" if scheme.zero == Zero::Bias => Ok(tensor.plane(PlaneKind::Zeros).to_vec()),
        ".biases" => {
            let (integers, (_, kind)) = Integers::of(scheme)
                .zip(affine(scheme))
                .ok_or_else(|| refuse(scheme, "integers with zero-points"))?;
            let scales = tensor.plane(PlaneKind::Scales).as_chunks::<2>().0;
            let mut biases = vec![[0; 2]; scales.len()];
            let of_groups = biases.iter_mut().zip(scales).zip(integers.zeros(tensor)?);
            for (group, ((to, scale), zero)) in of_groups.enumerate() {
                let inexact = || {
                    let why = format!("scale * zero of group {group} has to be rounded to be a bias");
                    Error::unsupported(format!("scheme {scheme} in MLX"), why)
                };
                *to = bias(*scale, zero, kind).ok_or_else(inexact)?;
            }
            Ok(biases.into_flattened())
        }
        other => Err(Error::shape("part of an MLX layer", ".weight, .scales or .biases", other)),
    }
}

fn settings(held: &[Held], _: &[&str]) -> Result<Map<String, Value>> {
    let key = |h: &Held| match block_mode(&h.scheme) {
        Some((mode, bits, group)) => Some((mode, group, bits)),
        None => affine(&h.scheme).map(|(group, _)| (AFFINE, group, u32::from(h.scheme.bits))),
    };
    let settings = |(mode, group, bits)| {
        let Value::Object(settings) = json!({"group_size": group, "bits": bits, "mode": mode}) else {
            return Map::new();
        };
        settings
    };
    let of_model = most_common(held.iter().filter_map(key)).unwrap_or((AFFINE, 64, 4));
    let mut all = settings(of_model);
    for h in held {
        if let Some(own) = key(h).filter(|own| *own != of_model) {
            all.insert(h.module.clone(), settings(own).into());
        }
    }
    Ok(all)
}
