//! AWQ of 4 bits, versions gemm (read and written) and gemv (read).
//!
//! ```text
//! gemm   X.qweight I32 [in, out / 8]       eight outputs to a word, output j of a word in nibble 0 4 1 5 2 6 3 7
//!        X.qzeros  I32 [groups, out / 8]   in the same order
//!        X.scales  F16 [groups, out]
//! gemv   X.qweight I32 [out, in / 8]       a row is the stream of the codes of one output
//!        X.qzeros  I32 [out, words]        streams, filled up with 0
//!        X.scales  F16 [out, 8 * words]    filled up with 0
//!
//! w[n, k] = scales[g, n] * (code[k, n] - zero[g, n])       g = k / group_size
//! ```
//!
//! `zero_point: false` says that all zero-points are 8. What is written says `true` whatever they are, as kernels expect.
//!
//! Source: AutoAWQ `modules/linear/gemm.py`, `gemv.py`, `utils/packing_utils.py`.

use super::super::{Dtype, Model};
use super::bits::{turned, unpack_stream};
use super::config::Config;
use super::parts::{
    FLOATS, Grouping, Integers, View, fill, gather_scales, group_of, modules, of_codes, pack_rows, row_of,
    scheme, source_of, turned_scales,
};
use super::write::{Held, Part, Target, most_common, refuse};
use super::{Format, Layer};
use crate::scheme::{PlaneKind, ScaleType, Scheme};
use crate::{Error, PackedTensor, Result};
use serde_json::{Map, Value};

pub static FORMAT: Format = Format {
    name: "awq",
    claims: |config| match config.method().as_str() {
        "awq" => true,
        "" => config.found == "quant_config.json",
        _ => false,
    },
    layers,
    packed,
    companions: &[".qweight", ".qzeros"],
};

pub static GEMM: Target = Target {
    name: "awq",
    aliases: &[],
    about: "AWQ, version gemm",
    parts,
    encode,
    settings,
    key: "quantization_config",
    metadata: "pt",
};

/// The nibble of each of the eight outputs of a word.
const NIBBLE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The nibble of a row in its words.
fn nibble(row: usize) -> u32 {
    NIBBLE.get(row % 8).copied().unwrap_or(0)
}

/// The codes of an output in each word.
fn output(words: &[u8], nibble: u32) -> impl Iterator<Item = u8> + '_ {
    let shift = nibble.wrapping_mul(4);
    let words = words.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b));
    words.map(move |word| (word.wrapping_shr(shift) & 15) as u8)
}

struct Linear<'a> {
    gemm: bool,
    shape: [usize; 2],
    groups: usize,
    zero_point: bool,
    scale: ScaleType,
    qweight: View<'a>,
    qzeros: View<'a>,
    scales: View<'a>,
    scheme: Scheme,
}

impl<'a> Linear<'a> {
    fn new(config: &Config, model: &'a Model, module: &str) -> Result<Self> {
        config.check_not_listed("modules_to_not_convert", module)?;
        let settings = config.of_model();
        // AutoAWQ's own file has other names for the same.
        let mut renamed = Map::new();
        for (old, new) in [("w_bit", "bits"), ("q_group_size", "group_size")] {
            if let Some(value) = config.settings.get(old) {
                renamed.insert(new.into(), value.clone());
            }
        }
        let settings = if renamed.is_empty() { settings } else { config.of_module(&renamed) };
        settings.bits("bits", &[4])?;
        let gemm = match settings.text("version")?.as_deref() {
            None | Some("gemm") => true,
            Some("gemv") => false,
            Some(other) => {
                return Err(config.bad(format!("version: expected gemm or gemv, got {other}")));
            }
        };
        let zero_point = settings.flag("zero_point")?.unwrap_or(true);
        let size = settings.group_size()?;
        let qweight = View::of(model, module, ".qweight")?;
        let [rows, columns] = qweight.matrix(&[Dtype::I32])?;
        let shape = if gemm { [columns.saturating_mul(8), rows] } else { [rows, columns.saturating_mul(8)] };
        let [out, k] = shape;
        let group = size.unwrap_or(k).max(1);
        if k.checked_rem(group) != Some(0) {
            return Err(qweight.wrong(format!("inputs in groups of {group}"), k));
        }
        let groups = k.div_euclid(group);
        let (zeros, scaled) = if gemm {
            ([groups, columns], [groups, out])
        } else {
            let multiple = match group {
                128.. => 1,
                64 => 2,
                32 => 4,
                _ => return Err(config.bad(format!("group_size: gemv has 32, 64 or 128 on, got {group}"))),
            };
            let words = groups.div_ceil(8).div_ceil(multiple).saturating_mul(multiple);
            ([out, words], [out, words.saturating_mul(8)])
        };
        let qzeros = View::of(model, module, ".qzeros")?.expect(&[Dtype::I32], &zeros)?;
        let scales = View::of(model, module, ".scales")?.expect(&FLOATS, &scaled)?;
        let scale = scales.scale_type()?;
        let zero = if zero_point { "-asym" } else { "" };
        let scheme = scheme("int4", group_of(size), zero, scale, false);
        let scheme = scheme.map_err(|e| e.in_tensor(qweight.name))?;
        Ok(Self { gemm, shape, groups, zero_point, scale, qweight, qzeros, scales, scheme })
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [out, k] = self.shape;
        let mut zeros = Vec::with_capacity(out.saturating_mul(self.groups));
        let (mut tensor, scales) = if self.gemm {
            let columns = out.div_euclid(8);
            let words = turned::<4>(self.qweight.data, columns);
            let tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
                let words = row_of(&words, k.saturating_mul(4), row.div_euclid(8));
                codes.iter_mut().zip(output(words, nibble(row))).for_each(|(to, code)| *to = code);
            })?;
            let row = self.groups.saturating_mul(4).max(4);
            for words in turned::<4>(self.qzeros.data, columns).chunks(row) {
                NIBBLE.iter().for_each(|&nibble| zeros.extend(output(words, nibble)));
            }
            (tensor, turned_scales(self.scales.data, out, self.scale))
        } else {
            let tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
                unpack_stream(row_of(self.qweight.data, k.div_euclid(2), row), 4, codes);
            })?;
            let mut of_row = vec![0; self.groups];
            for row in self.qzeros.data.chunks(self.qzeros.data.len().div_euclid(out).max(1)) {
                unpack_stream(row, 4, &mut of_row);
                zeros.extend_from_slice(&of_row);
            }
            let padded = self.scales.shape.last().copied().unwrap_or(0);
            let first = Grouping { order: None, size: None, from: (0..self.groups).collect() };
            (tensor, gather_scales(&first, self.scales.data, padded, self.scale))
        };
        fill(&mut tensor, PlaneKind::Scales, &scales)?;
        if self.zero_point {
            fill(&mut tensor, PlaneKind::Zeros, &zeros)?;
        } else if let Some(zero) = zeros.iter().find(|&&z| z != 8) {
            return Err(self.qzeros.wrong("zero-points 8, for the config says no zero_point", zero));
        }
        Ok(tensor)
    }
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let layer = |module: &str| {
        let linear = Linear::new(config, model, module)?;
        let suffixes = [".qweight", ".qzeros", ".scales"];
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
        .filter(|(i, _)| i.bits == 4)
        .ok_or_else(|| refuse(scheme, "matrices of integers of 4 bits with or without zero-points"))?;
    if integers.scale != ScaleType::F16 {
        return Err(refuse(scheme, "f16 scales"));
    }
    if integers.permuted {
        return Err(refuse(scheme, "columns where they are"));
    }
    if out % 8 != 0 || integers.group.is_some_and(|g| k.checked_rem(g) != Some(0)) {
        return Err(refuse(scheme, "a number of rows that is a multiple of 8, and no short last group"));
    }
    let groups = integers.groups(k);
    Ok(vec![
        Part::new(".qweight", Dtype::I32, [k, out.div_euclid(8)]),
        Part::new(".qzeros", Dtype::I32, [groups, out.div_euclid(8)]),
        Part::new(".scales", Dtype::F16, [groups, out]),
    ])
}

/// Adds the codes of a row to words of eight rows.
fn add(row: usize, codes: &[u8], words: &mut [u8]) {
    let shift = nibble(row).wrapping_mul(4);
    for (word, &code) in words.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
        *word = (u32::from_le_bytes(*word) | u32::from(code).wrapping_shl(shift)).to_le_bytes();
    }
}

fn encode(tensor: &PackedTensor, suffix: &str) -> Result<Vec<u8>> {
    let (_, k) = tensor.matrix();
    let integers = Integers::of(tensor.scheme()).ok_or_else(|| refuse(tensor.scheme(), "integers"))?;
    let groups = integers.groups(k);
    match suffix {
        ".qweight" => {
            let words = pack_rows(tensor, 8, k.saturating_mul(4), add);
            Ok(turned::<4>(&words, k))
        }
        ".qzeros" => {
            let zeros = integers.zeros(tensor)?;
            let mut words = vec![0; zeros.len().div_euclid(2)];
            let of_words = words.chunks_mut(groups.saturating_mul(4).max(1));
            for (words, rows) in of_words.zip(zeros.chunks(groups.saturating_mul(8).max(1))) {
                rows.chunks(groups.max(1)).enumerate().for_each(|(row, zeros)| add(row, zeros, words));
            }
            Ok(turned::<4>(&words, groups))
        }
        ".scales" => Ok(turned::<2>(tensor.plane(PlaneKind::Scales), groups)),
        other => Err(Error::shape("part of an AWQ layer", ".qweight, .qzeros or .scales", other)),
    }
}

fn settings(held: &[Held], dense: &[&str]) -> Result<Map<String, Value>> {
    let key = |h: &Held| Integers::of(&h.scheme).map(|i| i.group.map_or(-1, |g| g as i64));
    let group = most_common(held.iter().filter_map(key)).unwrap_or(128);
    if let Some(other) = held.iter().find(|h| key(h) != Some(group)) {
        let why = format!("one group size for all tensors, here {group}");
        return Err(refuse(&other.scheme, &why).in_tensor(&other.module));
    }
    let mut settings = Map::new();
    settings.insert("quant_method".into(), "awq".into());
    settings.insert("bits".into(), 4.into());
    settings.insert("group_size".into(), group.into());
    settings.insert("zero_point".into(), true.into());
    settings.insert("version".into(), "gemm".into());
    settings.insert("modules_to_not_convert".into(), dense.to_vec().into());
    Ok(settings)
}
