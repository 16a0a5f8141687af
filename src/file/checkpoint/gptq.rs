//! GPTQ, versions 1 and 2, of 2, 3, 4 and 8 bits: read and written.
//!
//! ```text
//! X.qweight I32 [in * bits / 32, out]       a column is the stream of the codes of one output
//! X.qzeros  I32 [groups, out * bits / 32]   a row is the stream of the zero-points of one group; version 1: a constant subtracted from each word
//! X.scales  F16 [groups, out]
//! X.g_idx   I32 [in]                        the group of each input
//!
//! w[n, k] = scales[g, n] * (code[k, n] - zero[g, n])       g = g_idx[k]
//! ```
//!
//! In act-order columns of a group lie anywhere: they are stored sorted by group, with a permutation. The constant of version 1 is added to whole
//! words, as its converters do, so that a zero-point 0 comes back although it borrowed from its neighbours. For 3 bits the constant of the
//! converters is not a 1 in each code. Symmetric files are read whether they were converted or have 1 subtracted from each
//! zero-point; others are taken to be converted, and are written so.
//!
//! Source: GPTQModel `qlinear/__init__.py`, `utils/model.py`. The planar layout (`gptq_p`) of 5, 6 and 7 bits is refused.

use super::super::{Dtype, Model};
use super::bits::{pack_stream, stream_bytes, turned, unpack_stream};
use super::config::{Config, Settings};
use super::parts::{
    FLOATS, Grouping, Integers, View, fill, gather_scales, group_of, modules, of_codes, row_of, scheme,
    source_of, streams, turned_scales,
};
use super::write::{Held, Part, Target, most_common, refuse};
use super::{Format, Layer};
use crate::scheme::{PlaneKind, ScaleType, Scheme};
use crate::{Error, PackedTensor, Result};
use serde_json::{Map, Value, json};

pub static FORMAT: Format = Format {
    name: "gptq",
    claims: |config| match config.method().as_str() {
        "gptq" => true,
        "" => config.found == "quantize_config.json",
        _ => false,
    },
    layers,
    packed,
    companions: &[".qweight", ".qzeros", ".g_idx"],
};

pub static V1: Target = Target {
    name: "gptq",
    aliases: &[],
    about: "GPTQ, version 1",
    parts,
    encode: |tensor, suffix| encode(tensor, suffix, true),
    settings: |held, dense| settings(held, dense, "gptq"),
    key: "quantization_config",
    metadata: "pt",
};

pub static V2: Target = Target {
    name: "gptq_v2",
    aliases: &[],
    about: "GPTQ, version 2",
    parts,
    encode: |tensor, suffix| encode(tensor, suffix, false),
    settings: |held, dense| settings(held, dense, "gptq_v2"),
    key: "quantization_config",
    metadata: "pt",
};

const BITS: [u32; 4] = [2, 3, 4, 8];

/// What version 1 subtracts from word i of a row: entry i % 3.
fn constants(bits: u32) -> [u32; 3] {
    match bits {
        2 => [0x5555_5555; 3],
        3 => [0x2492_4924, 0x9249_2492, 0x4924_9249],
        4 => [0x1111_1111; 3],
        _ => [0x0101_0101; 3],
    }
}

/// Changes each word of rows, of which it is given the place modulo 3.
fn each_word(bytes: &mut [u8], row_words: usize, change: impl Fn(u32, usize) -> u32) {
    for row in bytes.as_chunks_mut::<4>().0.chunks_mut(row_words.max(1)) {
        for (i, word) in row.iter_mut().enumerate() {
            *word = change(u32::from_le_bytes(*word), i % 3).to_le_bytes();
        }
    }
}

/// Rows of streams of `n` codes each.
fn unpack_rows(bytes: &[u8], row_bytes: usize, bits: u32, n: usize) -> Vec<u8> {
    let mut all = vec![0; bytes.len().div_euclid(row_bytes.max(1)).saturating_mul(n)];
    for (codes, row) in all.chunks_mut(n.max(1)).zip(bytes.chunks(row_bytes.max(1))) {
        unpack_stream(row, bits, codes);
    }
    all
}

/// One layer, its tensors checked against each other.
struct Linear<'a> {
    bits: u32,
    version_1: bool,
    sym: bool,
    shape: [usize; 2],
    groups: usize,
    grouping: Grouping,
    scale: ScaleType,
    qweight: View<'a>,
    qzeros: View<'a>,
    scales: View<'a>,
    scheme: Scheme,
}

fn own_settings(config: &Config, module: &str) -> Result<Map<String, Value>> {
    for (pattern, value) in config.of_model().object("dynamic")?.into_iter().flatten() {
        let excluded = pattern.strip_prefix("-:");
        let pattern = excluded.or_else(|| pattern.strip_prefix("+:")).unwrap_or(pattern);
        if !config.matches(pattern, module)? {
            continue;
        }
        if excluded.is_some() {
            let what = format!("dynamic: '-:{pattern}' excludes '{module}', which is quantized in the files");
            return Err(config.bad(what));
        }
        let wrong = || config.bad(format!("dynamic: '{pattern}': expected an object, got {value}"));
        return value.as_object().cloned().ok_or_else(wrong);
    }
    Ok(Map::new())
}

impl<'a> Linear<'a> {
    fn new(config: &Config, model: &'a Model, module: &str) -> Result<Self> {
        let own = own_settings(config, module)?;
        let settings: Settings = config.of_module(&own);
        let version_1 = match settings.text("checkpoint_format")?.as_deref() {
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            Some(other) => {
                let what = format!("checkpoint_format: expected gptq or gptq_v2, got {other}");
                return Err(config.bad(what));
            }
        };
        if let Some(dtype) = settings.text("pack_dtype")?.filter(|t| t != "int32") {
            return Err(config.bad(format!("pack_dtype: expected int32, got {dtype}")));
        }
        let bits = settings.bits("bits", &BITS)?;
        let size = settings.group_size()?;
        let sym = settings.flag("sym")?.unwrap_or(false);

        let qweight = View::of(model, module, ".qweight")?;
        let [words, out] = qweight.matrix(&[Dtype::I32])?;
        let k = words.saturating_mul(32).div_euclid(bits as usize);
        if k.saturating_mul(bits as usize) != words.saturating_mul(32) || k % 32 != 0 && bits == 3 {
            return Err(qweight.wrong(format!("rows that are whole codes of {bits} bits"), words));
        }
        if out.saturating_mul(bits as usize) % 32 != 0 {
            return Err(qweight.wrong(format!("columns whose codes of {bits} bits fill words"), out));
        }
        let scales = View::of(model, module, ".scales")?;
        let scale = scales.scale_type()?;
        let groups = size.map_or(1, |size| k.div_ceil(size.max(1)));
        scales.expect(&FLOATS, &[groups, out])?;
        let zero_words = out.saturating_mul(bits as usize).div_euclid(32);
        let qzeros = View::of(model, module, ".qzeros")?.expect(&[Dtype::I32], &[groups, zero_words])?;
        let grouping = match View::get(model, &format!("{module}.g_idx")) {
            Some(g_idx) => {
                g_idx.expect(&[Dtype::I32, Dtype::I64], &[k])?;
                Grouping::of_indices(g_idx, &g_idx.integers()?, size, groups)?
            }
            None if settings.flag("desc_act")?.unwrap_or(false) => {
                View::of(model, module, ".g_idx")?;
                Grouping::sequential(k, size)
            }
            None => Grouping::sequential(k, size),
        };
        let zero = if sym { "" } else { "-asym" };
        let family = format!("int{bits}");
        let scheme = scheme(&family, group_of(grouping.size), zero, scale, grouping.order.is_some());
        let scheme = scheme.map_err(|e| e.in_tensor(qweight.name))?;
        let shape = [out, k];
        Ok(Self { bits, version_1, sym, shape, groups, grouping, scale, qweight, qzeros, scales, scheme })
    }

    /// Zero-points [out, groups of the file], where `add` is what version 1 took from the words.
    fn zeros(&self, add: Option<[u32; 3]>) -> Vec<u8> {
        let [out, _] = self.shape;
        let row_words = out.saturating_mul(self.bits as usize).div_euclid(32);
        let added =
            |word: u32, i: usize| word.wrapping_add(add.and_then(|add| add.get(i).copied()).unwrap_or(0));
        let mut words = self.qzeros.data.to_vec();
        each_word(&mut words, row_words, added);
        turned::<1>(&unpack_rows(&words, row_words.saturating_mul(4), self.bits, out), out)
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [out, k] = self.shape;
        let words = turned::<4>(self.qweight.data, out);
        let of_row = stream_bytes(k, self.bits);
        let mut tensor = of_codes(self.scheme, &self.shape, self.grouping.order.as_deref(), |row, codes| {
            unpack_stream(row_of(&words, of_row, row), self.bits, codes);
        })?;
        let scales = turned_scales(self.scales.data, out, self.scale);
        let scales = gather_scales(&self.grouping, &scales, self.groups, self.scale);
        fill(&mut tensor, PlaneKind::Scales, &scales)?;
        let zeros = self.zeros(self.version_1.then(|| constants(self.bits)));
        if self.sym {
            let middle = Integers::middle(self.bits);
            let never_converted = || {
                let less = middle.wrapping_sub(1);
                self.version_1 && self.bits == 3 && self.zeros(None).iter().all(|&z| z == less)
            };
            if let Some(zero) = zeros.iter().find(|&&z| z != middle)
                && !never_converted()
            {
                return Err(self
                    .qzeros
                    .wrong(format!("zero-points {middle}, for the config says sym"), zero));
            }
        } else {
            fill(&mut tensor, PlaneKind::Zeros, &self.grouping.gather::<1>(&zeros, self.groups))?;
        }
        Ok(tensor)
    }
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let layer = |module: &str| {
        let linear = Linear::new(config, model, module)?;
        let suffixes = [".qweight", ".qzeros", ".scales", ".g_idx"];
        Ok(Layer::new(module, &linear.shape, linear.scheme, source_of(linear.scale), &suffixes))
    };
    modules(model, ".qweight").into_iter().map(layer).collect()
}

fn packed(config: &Config, model: &Model, module: &str) -> Result<PackedTensor> {
    Linear::new(config, model, module)?.packed()
}

fn parts(scheme: &Scheme, shape: &[usize]) -> Result<Vec<Part>> {
    let (integers, [out, k]) = Integers::of(scheme)
        .zip(<[usize; 2]>::try_from(shape).ok())
        .filter(|(i, _)| BITS.contains(&i.bits))
        .ok_or_else(|| {
            refuse(scheme, "matrices of integers of 2, 3, 4 or 8 bits with or without zero-points")
        })?;
    if integers.scale != ScaleType::F16 {
        return Err(refuse(scheme, "f16 scales"));
    }
    if k % 32 != 0 || out % 32 != 0 {
        return Err(refuse(scheme, "numbers of rows and columns that are multiples of 32"));
    }
    let words = |n: usize| n.div_euclid(32).saturating_mul(integers.bits as usize);
    let groups = integers.groups(k);
    Ok(vec![
        Part::new(".qweight", Dtype::I32, [words(k), out]),
        Part::new(".qzeros", Dtype::I32, [groups, words(out)]),
        Part::new(".scales", Dtype::F16, [groups, out]),
        Part::new(".g_idx", Dtype::I32, [k]),
    ])
}

fn encode(tensor: &PackedTensor, suffix: &str, version_1: bool) -> Result<Vec<u8>> {
    let (out, k) = tensor.matrix();
    let integers = Integers::of(tensor.scheme()).ok_or_else(|| refuse(tensor.scheme(), "integers"))?;
    let groups = integers.groups(k);
    match suffix {
        ".qweight" => Ok(turned::<4>(&streams(tensor), stream_bytes(k, integers.bits).div_euclid(4))),
        ".qzeros" => {
            let of_group = stream_bytes(out, integers.bits);
            let mut bytes = vec![0; of_group.saturating_mul(groups)];
            let zeros = turned::<1>(&integers.zeros(tensor)?, groups);
            for (to, zeros) in bytes.chunks_mut(of_group.max(1)).zip(zeros.chunks(out.max(1))) {
                pack_stream(zeros, integers.bits, to);
            }
            let row_words = of_group.div_euclid(4);
            let constants = if version_1 { constants(integers.bits) } else { [0; 3] };
            let less = |word: u32, i: usize| word.wrapping_sub(constants.get(i).copied().unwrap_or(0));
            each_word(&mut bytes, row_words, less);
            Ok(bytes)
        }
        ".scales" => Ok(turned::<2>(tensor.plane(PlaneKind::Scales), groups)),
        ".g_idx" => {
            let order = tensor.permutation().unwrap_or_else(|| (0..k as u32).collect());
            let size = integers.group.unwrap_or(k).max(1);
            let mut of: Vec<(u32, u32)> = order
                .into_iter()
                .enumerate()
                .map(|(j, column)| (column, j.div_euclid(size) as u32))
                .collect();
            of.sort_unstable();
            Ok(of.into_iter().flat_map(|(_, group)| group.to_le_bytes()).collect())
        }
        other => Err(Error::shape("part of a GPTQ layer", ".qweight, .qzeros, .scales or .g_idx", other)),
    }
}

fn settings(held: &[Held], dense: &[&str], version: &str) -> Result<Map<String, Value>> {
    let key = |h: &Held| {
        let integers = Integers::of(&h.scheme);
        integers.map(|i| (i.bits, i.group.map_or(-1, |g| g as i64), i.symmetric()))
    };
    let (bits, group, sym) = most_common(held.iter().filter_map(key)).unwrap_or((4, 128, true));
    let desc_act = held.iter().any(|h| h.scheme.is_permuted());
    let mut dynamic = Map::new();
    let exactly = |module: &str| format!("^{}$", regex::escape(module));
    for h in held {
        if let Some((b, g, s)) = key(h)
            && (b, g, s) != (bits, group, sym)
        {
            let own = json!({"bits": b, "group_size": g, "sym": s});
            dynamic.insert(format!("+:{}", exactly(&h.module)), own);
        }
    }
    for module in dense {
        dynamic.insert(format!("-:{}", exactly(module)), json!({}));
    }
    let mut settings = Map::new();
    settings.insert("quant_method".into(), "gptq".into());
    settings.insert("bits".into(), bits.into());
    settings.insert("group_size".into(), group.into());
    settings.insert("desc_act".into(), desc_act.into());
    settings.insert("sym".into(), sym.into());
    settings.insert("lm_head".into(), held.iter().any(|h| h.module == "lm_head").into());
    settings.insert("checkpoint_format".into(), version.into());
    settings.insert("pack_dtype".into(), "int32".into());
    if !dynamic.is_empty() {
        settings.insert("dynamic".into(), dynamic.into());
    }
    Ok(settings)
}
