//! compressed-tensors (llm-compressor, vLLM): integers of 2 to 8 bits, FP8, NVFP4 and MXFP4, read and written.
//!
//! ```text
//! pack-quantized    X.weight_packed I32 [out, words]            fields of code = q + 2^(bits - 1); X.weight_shape [2]
//!                   X.weight_zero_point I32 [words, groups]     the same along dimension 0, or I8 [out, groups]
//!                   X.weight_g_idx I32 [in]                     the group of each input, in act-order
//! int-quantized     X.weight I8 [out, in]                       X.weight_zero_point I8 [out, groups]
//! float-quantized   X.weight F8_E4M3 [out, in]
//!   all of these    X.weight_scale [out, groups], [out, 1], [1], or [out / rows, in / columns] of blocks
//! nvfp4             X.weight_packed U8 [out, in / 2], X.weight_scale F8_E4M3 [out, in / 16], X.weight_global_scale F32 [1]
//! mxfp4             X.weight_packed U8 [out, in / 2], X.weight_scale U8 [out, in / 32], exponents
//!
//! w = scale * (q - zero)                      NVFP4: w = e2m1 * (weight_scale / weight_global_scale)
//! ```
//!
//! The scale of a block of FP8 is repeated for its rows. Which settings a module has is said by `config_groups`: by its name, by an expression,
//! by the name of its class (which every quantized module here is taken to be of).
//!
//! Source: compressed-tensors `compressors/quantized_compressors`, `quantization/quant_args.py`.

use super::super::{Dtype, Model};
use super::bits::{field_bytes, pack_fields, per_word, turned, unpack_fields, unpack_stream};
use super::config::{Config, Settings};
use super::parts::{
    FLOATS, Grouping, Integers, View, check_zeros, fill, gather_scales, group_of, modules_with, of_codes,
    pack_rows, row_of, scheme, source_of, streams, two_dimensions,
};
use super::write::{Held, Part, Target, refuse};
use super::{Format, Layer};
use crate::scheme::{Codebook, Encoder, Group, PlaneKind, Scale, ScaleType, Scheme, Value as Values};
use crate::{DType, Error, PackedTensor, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub static FORMAT: Format = Format {
    name: "compressed-tensors",
    claims: |config| config.method() == "compressed-tensors",
    layers,
    packed,
    companions: &[".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_g_idx"],
};

pub static PACK: Target = Target {
    name: "compressed-tensors",
    aliases: &["ct"],
    about: "compressed-tensors, pack-quantized, NVFP4 and MXFP4",
    parts: pack_parts,
    encode: encode_packed,
    settings: |held, dense| settings(held, dense, "pack-quantized"),
    key: "quantization_config",
    metadata: "pt",
};

pub static INT: Target = Target {
    name: "compressed-tensors-int",
    aliases: &["ct-int"],
    about: "compressed-tensors, int-quantized",
    parts: int_parts,
    encode: encode_int,
    settings: |held, dense| settings(held, dense, "int-quantized"),
    key: "quantization_config",
    metadata: "pt",
};

pub static FLOAT: Target = Target {
    name: "compressed-tensors-float",
    aliases: &["ct-float"],
    about: "compressed-tensors, float-quantized",
    parts: float_parts,
    encode: encode_float,
    settings: |held, dense| settings(held, dense, "float-quantized"),
    key: "quantization_config",
    metadata: "pt",
};

const BITS: [u32; 7] = [2, 3, 4, 5, 6, 7, 8];

/// The formats of FP4, and the schemes that they hold.
const NVFP4: &str = "nvfp4-pack-quantized";
const MXFP4: &str = "mxfp4-pack-quantized";
const FP4: [(&str, &str); 2] = [(NVFP4, "nvfp4-global"), (MXFP4, "fp4-g32-e8m0")];

/// What the codes of a module are.
enum Codes {
    /// Fields of words.
    Packed,
    /// A signed byte each.
    Bytes,
    /// The bytes of FP8.
    Float,
    /// Nibbles of FP4, with E4M3 scales and a global one.
    Nvfp4 { global: f32 },
    /// Nibbles of FP4, with exponents.
    Mxfp4,
}

/// Which weights share a scale in the file.
enum Sharing {
    Tensor,
    Groups(Grouping),
    Blocks { rows: usize },
}

struct Linear<'a> {
    bits: u32,
    codes_as: Codes,
    sharing: Sharing,
    shape: [usize; 2],
    groups: usize,
    scale: ScaleType,
    codes: View<'a>,
    scales: View<'a>,
    zeros: Option<View<'a>>,
    scheme: Scheme,
}

fn wrong_strategy(config: &Config, strategy: &str, codes: &str) -> Error {
    config.bad(format!("strategy: '{strategy}' is none that {codes} weights have"))
}

/// The group of `config_groups` that a module belongs to.
fn group_of_module<'c>(config: &'c Config, module: &str) -> Result<&'c Map<String, Value>> {
    let groups = config.of_model().object("config_groups")?;
    let groups = groups.ok_or_else(|| config.bad("no 'config_groups'"))?;
    let rank = |target: &str| {
        Ok(match target.strip_prefix("re:") {
            _ if target == module => Some(0),
            Some(pattern) if config.matches(pattern, module)? => Some(1),
            None if target.starts_with(|c: char| c.is_ascii_uppercase()) => Some(2),
            _ => None,
        })
    };
    for ignored in config.of_model().strings("ignore")? {
        if rank(ignored)?.is_some_and(|rank| rank < 2) {
            let what = format!("ignore: '{ignored}' excludes '{module}', which is quantized in the files");
            return Err(config.bad(what));
        }
    }
    let mut best: Option<(i32, &Map<String, Value>)> = None;
    for (name, group) in groups {
        let group = group.as_object();
        let group = group.ok_or_else(|| config.bad(format!("config_groups: {name}: expected an object")))?;
        for target in config.only(group).strings("targets")? {
            if let Some(rank) = rank(target)?
                && best.is_none_or(|(of_best, _)| rank < of_best)
            {
                best = Some((rank, group));
            }
        }
    }
    best.map(|(_, group)| group)
        .ok_or_else(|| config.bad(format!("config_groups: no targets match '{module}'")))
}

impl<'a> Linear<'a> {
    fn new(config: &Config, model: &'a Model, module: &str) -> Result<Self> {
        let group = group_of_module(config, module)?;
        let weights = config.only(group).object("weights")?;
        let weights =
            weights.ok_or_else(|| config.bad(format!("config_groups: no 'weights' for '{module}'")))?;
        let settings = config.only(weights);
        let format = match config.only(group).text("format")? {
            Some(format) => format,
            None => config.of_model().text("format")?.ok_or_else(|| config.bad("no 'format'"))?,
        };
        match format.as_str() {
            "pack-quantized" => Self::integers(config, model, module, &settings, true),
            "int-quantized" => Self::integers(config, model, module, &settings, false),
            "float-quantized" => Self::fp8(config, model, module, &settings),
            "naive-quantized" if settings.text("type")?.as_deref() == Some("float") => {
                Self::fp8(config, model, module, &settings)
            }
            "naive-quantized" => Self::integers(config, model, module, &settings, false),
            NVFP4 => Self::nvfp4(model, module),
            MXFP4 => Self::mxfp4(model, module),
            other => Err(config.bad(format!("format: '{other}' is none that lowbit reads"))),
        }
    }

    /// Strategy and group size.
    fn strategy(settings: &Settings) -> Result<(String, Option<usize>)> {
        let size = match settings.integer("group_size")? {
            None | Some(-1) => None,
            Some(_) => settings.group_size()?,
        };
        let strategy = settings.text("strategy")?;
        let strategy = strategy.unwrap_or_else(|| if size.is_some() { "group" } else { "tensor" }.into());
        Ok((strategy, size))
    }

    fn integers(
        config: &Config,
        model: &'a Model,
        module: &str,
        settings: &Settings,
        pack: bool,
    ) -> Result<Self> {
        if settings.text("type")?.is_some_and(|t| t != "int") {
            return Err(config.bad("type: expected int for integer codes"));
        }
        let bits = settings.bits("num_bits", &BITS)?;
        let symmetric = settings.flag("symmetric")?.unwrap_or(true);
        let (codes, shape) = if pack {
            let codes = View::of(model, module, ".weight_packed")?;
            let shape_view = View::of(model, module, ".weight_shape")?;
            let dims = shape_view.integers()?;
            let shape = two_dimensions(shape_view, &dims)?;
            let [out, k] = shape;
            (codes.expect(&[Dtype::I32], &[out, k.div_ceil(per_word(bits))])?, shape)
        } else {
            let codes = View::of(model, module, ".weight")?;
            (codes, codes.matrix(&[Dtype::I8])?)
        };
        let [out, k] = shape;
        let (strategy, size) = Self::strategy(settings)?;
        let scales = View::of(model, module, ".weight_scale")?;
        let scale = scales.scale_type()?;
        let g_idx = View::get(model, &format!("{module}.weight_g_idx"));
        let sharing = match (strategy.as_str(), size) {
            ("tensor", _) if symmetric => Sharing::Tensor,
            ("channel", _) => Sharing::Groups(Grouping::sequential(k, None)),
            ("group", Some(size)) => {
                let groups = k.div_ceil(size);
                Sharing::Groups(match g_idx {
                    Some(g_idx) if pack => {
                        g_idx.expect(&[Dtype::I32, Dtype::I64], &[k])?;
                        Grouping::of_indices(g_idx, &g_idx.integers()?, Some(size), groups)?
                    }
                    _ => Grouping::sequential(k, Some(size)),
                })
            }
            _ => {
                return Err(wrong_strategy(
                    config,
                    &strategy,
                    if symmetric { "integer" } else { "asymmetric" },
                ));
            }
        };
        let (groups, group, permuted) = match &sharing {
            Sharing::Groups(grouping) => {
                let n = size.filter(|_| strategy == "group").map_or(1, |size| k.div_ceil(size));
                (n, group_of(grouping.size), grouping.order.is_some())
            }
            _ => (1, Group::Tensor, false),
        };
        match &sharing {
            Sharing::Tensor if scales.data.len() == scale.size() => {}
            Sharing::Tensor => return Err(scales.wrong("one number", format!("{:?}", scales.shape))),
            _ if groups == 1 && scales.shape == [out] => {}
            _ => {
                scales.expect(&FLOATS, &[out, groups])?;
            }
        }
        let zeros = match (symmetric, pack) {
            (true, _) => None,
            (false, _) => {
                let zeros = View::of(model, module, ".weight_zero_point")?;
                if pack && zeros.dtype == Dtype::I32 {
                    Some(zeros.expect(&[Dtype::I32], &[out.div_ceil(per_word(bits)), groups])?)
                } else {
                    Some(zeros.expect(&[Dtype::I8], &[out, groups])?)
                }
            }
        };
        let zero = if symmetric { "" } else { "-asym" };
        let scheme = scheme(&format!("int{bits}"), group, zero, scale, permuted);
        let scheme = scheme.map_err(|e| e.in_tensor(codes.name))?;
        let codes_as = if pack { Codes::Packed } else { Codes::Bytes };
        Ok(Self { bits, codes_as, sharing, shape, groups, scale, codes, scales, zeros, scheme })
    }

    fn fp8(config: &Config, model: &'a Model, module: &str, settings: &Settings) -> Result<Self> {
        settings.bits("num_bits", &[8])?;
        let codes = View::of(model, module, ".weight")?;
        let shape @ [out, k] = codes.matrix(&[Dtype::F8_E4M3])?;
        let scales = View::of(model, module, ".weight_scale")?;
        let scale = scales.scale_type()?;
        let (strategy, size) = Self::strategy(settings)?;
        let (sharing, group, expected) = match (strategy.as_str(), size) {
            ("tensor", _) => (Sharing::Tensor, Group::Tensor, vec![1]),
            ("channel", _) => (Sharing::Groups(Grouping::sequential(k, None)), Group::Row, vec![out, 1]),
            ("group", Some(size)) => {
                let grouping = Grouping::sequential(k, Some(size));
                let expected = vec![out, k.div_ceil(size)];
                (Sharing::Groups(grouping), group_of(Some(size)), expected)
            }
            ("block", _) => {
                let block = settings.counts("block_structure")?;
                let Ok([rows, columns]) = <[usize; 2]>::try_from(block) else {
                    return Err(config.bad("block_structure: expected two numbers from 1 on"));
                };
                let expected = vec![out.div_ceil(rows), k.div_ceil(columns)];
                (Sharing::Blocks { rows }, group_of(Some(columns)), expected)
            }
            _ => return Err(wrong_strategy(config, &strategy, "FP8")),
        };
        let one = expected.iter().product::<usize>() == 1 && scales.data.len() == scale.size();
        let flat = expected == [out, 1] && scales.shape == [out];
        if !one && !flat {
            scales.expect(&FLOATS, &expected)?;
        }
        let scheme = scheme("e4m3", group, "", scale, false).map_err(|e| e.in_tensor(codes.name))?;
        let groups = expected.get(1).copied().unwrap_or(1);
        let codes_as = Codes::Float;
        Ok(Self { bits: 8, codes_as, sharing, shape, groups, scale, codes, scales, zeros: None, scheme })
    }

    /// FP4 in bytes of two, with a scale of `dtype` for each `group` columns.
    fn fp4(
        model: &'a Model,
        module: &str,
        group: usize,
        dtype: Dtype,
        codes_as: Codes,
        scheme: &str,
    ) -> Result<Self> {
        let codes = View::of(model, module, ".weight_packed")?;
        let [out, bytes] = codes.matrix(&[Dtype::U8])?;
        let k = bytes.saturating_mul(2);
        if k.checked_rem(group) != Some(0) {
            return Err(codes.wrong(format!("columns in groups of {group}"), k));
        }
        let groups = k.checked_div(group).unwrap_or(0);
        let scales = View::of(model, module, ".weight_scale")?.expect(&[dtype], &[out, groups])?;
        Ok(Self {
            bits: 4,
            codes_as,
            sharing: Sharing::Groups(Grouping::sequential(k, Some(group))),
            shape: [out, k],
            groups,
            scale: ScaleType::E8M0,
            codes,
            scales,
            zeros: None,
            scheme: scheme.parse()?,
        })
    }

    fn nvfp4(model: &'a Model, module: &str) -> Result<Self> {
        let global = View::of(model, module, ".weight_global_scale")?.expect(&[Dtype::F32], &[1])?;
        let value = global.floats().first().copied().unwrap_or(0.0);
        if !value.is_finite() || value <= 0.0 {
            return Err(global.wrong("a number above 0", value));
        }
        Self::fp4(model, module, 16, Dtype::F8_E4M3, Codes::Nvfp4 { global: value }, "nvfp4-global")
    }

    fn mxfp4(model: &'a Model, module: &str) -> Result<Self> {
        Self::fp4(model, module, 32, Dtype::U8, Codes::Mxfp4, "fp4-g32-e8m0")
    }

    fn scales(&self) -> Result<Vec<u8>> {
        let [out, _] = self.shape;
        let nan = |is: fn(u8) -> bool| match self.scales.data.iter().find(|&&b| is(b)) {
            Some(byte) => Err(self.scales.wrong("numbers", format!("NaN (byte {byte:#04x})"))),
            None => Ok(self.scales.data.to_vec()),
        };
        match (&self.codes_as, &self.sharing) {
            (Codes::Nvfp4 { .. }, _) => nan(|byte| byte & 0x7f == 0x7f),
            (Codes::Mxfp4, _) => nan(|byte| byte == 0xff),
            (_, Sharing::Tensor) => Ok(self.scales.data.to_vec()),
            (_, Sharing::Groups(grouping)) => {
                Ok(gather_scales(grouping, self.scales.data, self.groups, self.scale))
            }
            (_, Sharing::Blocks { rows }) => {
                let of_block = self.groups.saturating_mul(self.scale.size()).max(1);
                let repeated =
                    self.scales.data.chunks(of_block).flat_map(|row| std::iter::repeat_n(row, *rows));
                Ok(repeated.take(out).flatten().copied().collect())
            }
        }
    }

    /// Zero-points [out, groups of the file].
    fn zeros(&self, view: View) -> Result<Vec<u8>> {
        let [out, _] = self.shape;
        let zeros = if view.dtype == Dtype::I32 {
            let columns = turned::<4>(view.data, self.groups);
            let mut all = Vec::with_capacity(out.saturating_mul(self.groups));
            let mut codes = vec![0; out];
            for words in columns.chunks(columns.len().checked_div(self.groups).unwrap_or(0).max(1)) {
                unpack_fields(words, self.bits, &mut codes);
                all.extend_from_slice(&codes);
            }
            turned::<1>(&all, out)
        } else {
            self.check_signed(view)?;
            view.data.iter().map(|byte| byte.wrapping_add(Integers::middle(self.bits))).collect()
        };
        check_zeros(&zeros, self.bits).map_err(|e| e.in_tensor(view.name))?;
        Ok(zeros)
    }

    /// Refuses bytes that are no signed numbers of the bits there are.
    fn check_signed(&self, view: View) -> Result<()> {
        let middle = Integers::middle(self.bits);
        let limit = u8::MAX.wrapping_shr(8u32.saturating_sub(self.bits));
        let wrong = |byte: &&u8| byte.wrapping_add(middle) > limit;
        // All bytes are numbers of 8 bits.
        let narrow = if limit < u8::MAX { view.data } else { &[] };
        match narrow.iter().find(wrong) {
            Some(byte) => Err(view.wrong(format!("signed numbers of {} bits", self.bits), *byte as i8)),
            None => Ok(()),
        }
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [out, _] = self.shape;
        let order = match &self.sharing {
            Sharing::Groups(grouping) => grouping.order.as_deref(),
            _ => None,
        };
        if let Codes::Bytes = self.codes_as {
            self.check_signed(self.codes)?;
        }
        let middle = Integers::middle(self.bits);
        let row_bytes = self.codes.data.len().checked_div(out).unwrap_or(0);
        let mut tensor = of_codes(self.scheme, &self.shape, order, |row, codes| {
            let row = row_of(self.codes.data, row_bytes, row);
            match &self.codes_as {
                Codes::Bytes => {
                    codes.iter_mut().zip(row).for_each(|(code, byte)| *code = byte.wrapping_add(middle));
                }
                Codes::Float => unpack_stream(row, 8, codes),
                Codes::Packed => unpack_fields(row, self.bits, codes),
                Codes::Nvfp4 { .. } | Codes::Mxfp4 => unpack_stream(row, 4, codes),
            }
        })?;
        fill(&mut tensor, PlaneKind::Scales, &self.scales()?)?;
        if let Codes::Nvfp4 { global } = self.codes_as {
            let table: Vec<u8> = quotients(global).flat_map(f32::to_le_bytes).collect();
            fill(&mut tensor, PlaneKind::ScaleTable, &table)?;
        }
        if let (Some(view), Sharing::Groups(grouping)) = (self.zeros, &self.sharing) {
            fill(&mut tensor, PlaneKind::Zeros, &grouping.gather::<1>(&self.zeros(view)?, self.groups))?;
        }
        Ok(tensor)
    }
}

/// The scales of NVFP4 under a global scale, by their bytes.
fn quotients(global: f32) -> impl Iterator<Item = f32> {
    Codebook::E4M3.entries().iter().map(move |v| if v.is_nan() { 0.0 } else { v / global })
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let suffixes = [".weight_packed", ".weight_scale"];
    let all = modules_with(model, &suffixes, &[Dtype::I8, Dtype::F8_E4M3]);
    let layer = |module: &str| {
        let linear = Linear::new(config, model, module)?;
        let suffixes = [
            ".weight",
            ".weight_packed",
            ".weight_scale",
            ".weight_shape",
            ".weight_zero_point",
            ".weight_g_idx",
            ".weight_global_scale",
        ];
        let source = match linear.codes_as {
            Codes::Nvfp4 { .. } | Codes::Mxfp4 => DType::Bf16,
            _ => source_of(linear.scale),
        };
        Ok(Layer::new(module, &linear.shape, linear.scheme, source, &suffixes))
    };
    all.into_iter().map(layer).collect()
}

fn packed(config: &Config, model: &Model, module: &str) -> Result<PackedTensor> {
    Linear::new(config, model, module)?.packed()
}

fn float_of(scale: ScaleType) -> Dtype {
    match scale {
        ScaleType::F32 => Dtype::F32,
        ScaleType::Bf16 => Dtype::BF16,
        _ => Dtype::F16,
    }
}

/// What the three targets ask of integers.
fn integers_of(scheme: &Scheme, shape: &[usize]) -> Result<(Integers, [usize; 2])> {
    let (integers, shape @ [_, k]) = Integers::of(scheme)
        .zip(<[usize; 2]>::try_from(shape).ok())
        .filter(|(i, _)| BITS.contains(&i.bits))
        .ok_or_else(|| refuse(scheme, "matrices of integers of 2 to 8 bits with or without zero-points"))?;
    if integers.group.is_some_and(|g| k.checked_rem(g) != Some(0)) {
        return Err(refuse(scheme, "no short last group"));
    }
    Ok((integers, shape))
}

/// The format of a scheme of FP4.
fn fp4_format(scheme: &Scheme) -> Option<&'static str> {
    FP4.iter().find(|(_, held)| scheme.to_string() == *held).map(|(format, _)| *format)
}

fn fp4_parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    let &[out, k] = shape else { return Err(refuse(scheme, "matrices")) };
    let group = scheme.group_len(k);
    if k.checked_rem(group) != Some(0) {
        return Err(refuse(scheme, "no short last group"));
    }
    let (bytes, groups) = (k.div_ceil(2), scheme.groups_per_row(k));
    let global = scheme.encoder == Encoder::GlobalScale;
    let scales = if global { Dtype::F8_E4M3 } else { Dtype::U8 };
    let mut parts = vec![
        Part::new(".weight_packed", Dtype::U8, [out, bytes]),
        Part::new(".weight_scale", scales, [out, groups]),
    ];
    if global {
        parts.push(Part::new(".weight_global_scale", Dtype::F32, [1]));
    }
    Ok(parts)
}

/// The global scale that a table of scales was divided by.
fn global_of(tensor: &PackedTensor) -> Result<f32> {
    let table = tensor.scale_table();
    // The quotient of 1 is the inverse, rounded: the number sought is a neighbour of its inverse.
    let one = Codebook::E4M3.entries().iter().position(|v| *v == 1.0);
    let inverse = one.and_then(|at| table.get(at)).map_or(0, |one| (1.0 / one).to_bits());
    let mut near = (-4i32..=4).map(|step| f32::from_bits(inverse.wrapping_add_signed(step)));
    let same = |global: &f32| {
        let bits = quotients(*global).map(f32::to_bits);
        global.is_finite() && *global > 0.0 && bits.eq(table.iter().map(|v| v.to_bits()))
    };
    let why = "its scales are no E4M3 numbers divided by one global scale";
    near.find(same)
        .ok_or_else(|| Error::unsupported(format!("scheme {} in this format", tensor.scheme()), why))
}

fn encode_fp4(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    match suffix {
        ".weight_packed" => Ok(streams(tensor)),
        ".weight_scale" => Ok(tensor.plane(PlaneKind::Scales).to_vec()),
        ".weight_global_scale" => Ok(global_of(tensor)?.to_le_bytes().to_vec()),
        other => Err(Error::shape("part of a compressed-tensors layer", "one of FP4", other)),
    }
}

fn pack_parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    if fp4_format(scheme).is_some() {
        return fp4_parts(scheme, shape);
    }
    let (integers, [out, k]) = integers_of(scheme, shape)?;
    let words = |n: usize| n.div_ceil(per_word(integers.bits));
    let groups = integers.groups(k);
    let mut parts = vec![
        Part::new(".weight_packed", Dtype::I32, [out, words(k)]),
        Part::new(".weight_scale", float_of(integers.scale), [out, groups]),
        Part::new(".weight_shape", Dtype::I64, [2]),
    ];
    if !integers.symmetric() {
        parts.push(Part::new(".weight_zero_point", Dtype::I32, [words(out), groups]));
    }
    if integers.permuted {
        parts.push(Part::new(".weight_g_idx", Dtype::I32, [k]));
    }
    Ok(parts)
}

fn encode_packed(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    if fp4_format(tensor.scheme()).is_some() {
        return encode_fp4(tensor, suffix);
    }
    let (out, k) = tensor.matrix();
    let integers = Integers::of(tensor.scheme()).ok_or_else(|| refuse(tensor.scheme(), "integers"))?;
    let groups = integers.groups(k);
    match suffix {
        ".weight_packed" => Ok(pack_rows(tensor, 1, field_bytes(k, integers.bits), |_, codes, out| {
            pack_fields(codes, integers.bits, out);
        })),
        ".weight_scale" => Ok(tensor.plane(PlaneKind::Scales).to_vec()),
        ".weight_shape" => Ok([out as u64, k as u64].iter().flat_map(|d| d.to_le_bytes()).collect()),
        ".weight_zero_point" => {
            let of_column = field_bytes(out, integers.bits);
            let mut columns = vec![0; of_column.saturating_mul(groups)];
            let zeros = turned::<1>(&integers.zeros(tensor)?, groups);
            for (to, zeros) in columns.chunks_mut(of_column.max(1)).zip(zeros.chunks(out.max(1))) {
                pack_fields(zeros, integers.bits, to);
            }
            Ok(turned::<4>(&columns, of_column.div_euclid(4)))
        }
        ".weight_g_idx" => {
            let order = tensor.permutation().unwrap_or_default();
            let size = integers.group.unwrap_or(k).max(1);
            let group = |(j, column): (usize, u32)| (column, j.div_euclid(size) as u32);
            let mut of: Vec<(u32, u32)> = order.into_iter().enumerate().map(group).collect();
            of.sort_unstable();
            Ok(of.into_iter().flat_map(|(_, group)| group.to_le_bytes()).collect())
        }
        other => Err(Error::shape("part of a compressed-tensors layer", "one of pack-quantized", other)),
    }
}

fn int_parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    let (integers, [out, k]) = integers_of(scheme, shape)?;
    if integers.permuted {
        return Err(refuse(scheme, "columns where they are"));
    }
    let groups = integers.groups(k);
    let mut parts = vec![
        Part::new(".weight", Dtype::I8, [out, k]),
        Part::new(".weight_scale", float_of(integers.scale), [out, groups]),
    ];
    if !integers.symmetric() {
        parts.push(Part::new(".weight_zero_point", Dtype::I8, [out, groups]));
    }
    Ok(parts)
}

fn encode_int(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    let integers = Integers::of(tensor.scheme()).ok_or_else(|| refuse(tensor.scheme(), "integers"))?;
    let middle = Integers::middle(integers.bits);
    let signed = |code: &u8| code.wrapping_sub(middle);
    let (_, k) = tensor.matrix();
    match suffix {
        ".weight" => Ok(pack_rows(tensor, 1, k, |_, codes, out| {
            out.iter_mut().zip(codes).for_each(|(to, code)| *to = signed(code));
        })),
        ".weight_scale" => Ok(tensor.plane(PlaneKind::Scales).to_vec()),
        ".weight_zero_point" => Ok(integers.zeros(tensor)?.iter().map(signed).collect()),
        other => Err(Error::shape("part of a compressed-tensors layer", "one of int-quantized", other)),
    }
}

fn float_parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    let scale = match (scheme.value, scheme.scale) {
        (
            Values::Codebook(Codebook::E4M3),
            Scale::Direct(scale @ (ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16)),
        ) if !scheme.is_permuted() => scale,
        _ => return Err(refuse(scheme, "E4M3 with f32, f16 or bf16 scales, columns where they are")),
    };
    let &[out, k] = shape else { return Err(refuse(scheme, "matrices")) };
    let scales = match scheme.group {
        Group::Tensor => vec![1],
        Group::Row => vec![out, 1],
        Group::Cols(g) if k.checked_rem(g as usize) == Some(0) => vec![out, k.div_ceil(g as usize)],
        Group::Cols(_) => return Err(refuse(scheme, "no short last group")),
    };
    Ok(vec![
        Part::new(".weight", Dtype::F8_E4M3, [out, k]),
        Part::new(".weight_scale", float_of(scale), scales),
    ])
}

fn encode_float(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    match suffix {
        ".weight" => Ok(streams(tensor)),
        ".weight_scale" => Ok(tensor.plane(PlaneKind::Scales).to_vec()),
        other => Err(Error::shape("part of a compressed-tensors layer", "one of float-quantized", other)),
    }
}

/// The settings of the weights of a scheme.
fn weights_of(scheme: &Scheme) -> Value {
    let integers = Integers::of(scheme);
    let (strategy, size) = match scheme.group {
        Group::Tensor => ("tensor", None),
        Group::Row => ("channel", None),
        Group::Cols(g) if scheme.encoder == Encoder::GlobalScale => ("tensor_group", Some(g)),
        Group::Cols(g) => ("group", Some(g)),
    };
    json!({
        "num_bits": scheme.bits,
        "type": if integers.is_some() { "int" } else { "float" },
        "symmetric": integers.is_none_or(|i| i.symmetric()),
        "strategy": strategy,
        "group_size": size,
        "actorder": scheme.is_permuted().then_some("group"),
        "dynamic": false,
        "observer": "minmax",
    })
}

fn settings(held: &[Held], dense: &[&str], format: &str) -> Result<Map<String, Value>> {
    let mut kinds: BTreeMap<String, (Value, &str, Vec<&str>)> = BTreeMap::new();
    for h in held {
        let weights = weights_of(&h.scheme);
        let format = fp4_format(&h.scheme).unwrap_or(format);
        kinds.entry(format!("{format} {weights}")).or_insert((weights, format, Vec::new())).2.push(&h.module);
    }
    let one = kinds.len() == 1;
    let formats: BTreeSet<&str> = kinds.values().map(|(_, format, _)| *format).collect();
    let format = match formats.first() {
        None => format,
        Some(only) if formats.len() == 1 => only,
        // Each group says its own.
        Some(_) => "mixed-precision",
    };
    let mut groups = Map::new();
    for (i, (weights, own, targets)) in kinds.into_values().enumerate() {
        let targets = if one { vec!["Linear"] } else { targets };
        let mut group = json!({
            "targets": targets, "weights": weights, "input_activations": null, "output_activations": null,
        });
        if own != format
            && let Some(group) = group.as_object_mut()
        {
            group.insert("format".into(), own.into());
        }
        groups.insert(format!("group_{i}"), group);
    }
    let mut settings = Map::new();
    settings.insert("quant_method".into(), "compressed-tensors".into());
    settings.insert("format".into(), format.into());
    settings.insert("quantization_status".into(), "compressed".into());
    settings.insert("config_groups".into(), groups.into());
    settings.insert("ignore".into(), dense.to_vec().into());
    settings.insert("kv_cache_scheme".into(), Value::Null);
    Ok(settings)
}
