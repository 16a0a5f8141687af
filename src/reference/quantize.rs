//! The oracle of encoding: the definitions of [`Encoder`], group by group, in single f32 operations.
//!
//! ```text
//! x [rows, k] -> groups (contiguous in x) -> stored scale, zero, codes of each group -> planes
//!                super-groups of groups for two-level scales
//! ```
//!
//! `steps` counts, tables are searched from end to end: nothing here is quick. Tables are given and not learned. GGUF's searches for scales
//! are in `search`.

use super::dequantize::direct_scale;
use super::method::{self, Found};
use super::{search, store_code};
use crate::scheme::method::{Form, Method};
use crate::scheme::{Encoder, Float, Group, PlaneKind, Scale, ScaleType, Scheme, SubScale, Value, Zero};
use crate::{Error, PackedTensor, Result};
use half::{bf16, f16};

/// Bounds of the largest magnitude of a table that is given: 2^-20 and 2^20.
const ENTRIES: std::ops::RangeInclusive<f32> =
    f32::from_bits((127 - 20) << 23)..=f32::from_bits((127 + 20) << 23);

/// Below this, magnitudes count as zero: 2^-100.
pub(super) const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Encodes x `[rows, k]` by the scheme's own encoder. `codebook` is the table, `2^bits` entries, of a learned scheme, or those of all groups,
/// `[rows, groups, 2^bits]`.
///
/// # Errors
/// As [`Scheme::check_shape`]; [`Error::Shape`] if x has another length than `rows * k`, or a learned scheme has no table that
/// fits; [`Error::NotRepresentable`] for a NaN, an infinity or a value beyond [`Scheme::limit`] (with an empty tensor name).
pub fn quantize(
    x: &[f32],
    rows: usize,
    k: usize,
    scheme: Scheme,
    codebook: Option<&[f32]>,
) -> Result<PackedTensor> {
    encode(x, rows, k, &Method::Own.form(&scheme)?, scheme, codebook, None)
}

/// As [`quantize`], scales and zeros found by a method.
///
/// # Errors
/// As [`quantize`] and [`Method::form`].
pub fn quantize_by(
    x: &[f32],
    rows: usize,
    k: usize,
    scheme: Scheme,
    method: Method,
    codebook: Option<&[f32]>,
) -> Result<PackedTensor> {
    encode(x, rows, k, &method.form(&scheme)?, scheme, codebook, None)
}

/// As [`quantize`], errors of a column weighing as much as its `importance` [k] says, where the scheme weighs.
///
/// # Errors
/// As [`quantize`]; [`Error::Shape`] for another number of columns.
pub fn quantize_weighted(
    x: &[f32],
    rows: usize,
    k: usize,
    scheme: Scheme,
    importance: &[f32],
) -> Result<PackedTensor> {
    if importance.len() != k {
        return Err(Error::shape("importance of columns", k, importance.len()));
    }
    encode(
        x,
        rows,
        k,
        &Method::Own.form(&scheme)?,
        scheme,
        None,
        Some(importance).filter(|_| scheme.encoder.weighs()),
    )
}

fn encode(
    x: &[f32],
    rows: usize,
    k: usize,
    form: &Form,
    scheme: Scheme,
    codebook: Option<&[f32]>,
    importance: Option<&[f32]>,
) -> Result<PackedTensor> {
    let mut out = PackedTensor::zeroed(scheme, [rows, k])?;
    if x.len() != rows * k {
        return Err(Error::shape(format!("values of a weight [{rows}, {k}]"), rows * k, x.len()));
    }
    let limit = scheme.limit();
    for (i, value) in x.iter().enumerate() {
        if value.to_bits() & 0x7fff_ffff > limit.to_bits() {
            return Err(Error::NotRepresentable {
                tensor: String::new(),
                index: i as u64,
                value: *value,
                scheme: scheme.to_string(),
                limit,
            });
        }
    }
    if scheme.value == Value::Learned {
        out.set_codebook(check_table(&scheme, codebook)?);
    }
    if scheme.value == Value::Tables {
        encode_by_tables(x, k, &mut out, codebook.unwrap_or(&[]))?;
        return Ok(out);
    }
    let table = sorted_table(&out.codebook());
    let mut scales = Vec::new();
    if scheme.encoder == Encoder::GlobalScale {
        scales = global_scales(x);
        for (i, entry) in scales.iter().enumerate() {
            put(out.plane_mut(PlaneKind::ScaleTable), i, &entry.to_le_bytes());
        }
    }
    match form.scheme.encoder {
        Encoder::Round => {
            for (i, &value) in x.iter().enumerate() {
                let code = match scheme.value {
                    Value::Float(Float::F16) => u32::from(f16::from_f32(value).to_bits()),
                    Value::Float(Float::Bf16) => u32::from(bf16::from_f32(value).to_bits()),
                    _ => value.to_bits(),
                };
                store_code(&mut out, i / k, i % k, code);
            }
        }
        encoder if encoder.searches() || importance.is_some() => {
            let group = scheme.group_len(k);
            for (row, x) in x.chunks(k).enumerate() {
                let parts = search::row(x, importance, &scheme, group);
                let span = k / parts.len();
                for (i, part) in parts.into_iter().enumerate() {
                    store_searched(&mut out, row, row * (k / span) + i, i * span, part);
                }
            }
        }
        _ => {
            let mut first = 0;
            let mut index = 0;
            while first < x.len() {
                let len = match scheme.group {
                    Group::Tensor => rows * k,
                    Group::Row => k,
                    Group::Cols(g) => (g as usize).min(k - first % k),
                };
                let group = encode_group(&x[first..first + len], k, form, &table, &scales);
                put(out.plane_mut(PlaneKind::Scales), index, &group.scale);
                put(out.plane_mut(PlaneKind::Zeros), index, &group.zero);
                for (i, code) in group.codes.into_iter().enumerate() {
                    store_code(&mut out, (first + i) / k, (first + i) % k, code);
                }
                first += len;
                index += 1;
            }
        }
    }
    Ok(out)
}

/// Bytes of the stored scale and zero, and the codes, of one group.
struct EncodedGroup {
    scale: Vec<u8>,
    zero: Vec<u8>,
    codes: Vec<u32>,
}

fn put(plane: &mut [u8], index: usize, bytes: &[u8]) {
    plane[index * bytes.len()..(index + 1) * bytes.len()].copy_from_slice(bytes);
}

/// Stores the tables of groups, each number of which has to be a finite f16, and the codes of their nearest entries.
fn encode_by_tables(x: &[f32], k: usize, out: &mut PackedTensor, tables: &[f32]) -> Result<()> {
    let scheme = *out.scheme();
    let (entries, group) = (1usize << scheme.bits, scheme.group_len(k));
    let groups = k.div_ceil(group);
    let expected = x.len() / k * groups * entries;
    if tables.len() != expected {
        return Err(Error::shape(format!("entries of the tables of {scheme}"), expected, tables.len()));
    }
    for (i, &entry) in tables.iter().enumerate() {
        if !entry.is_finite() || f16::from_f32(entry).to_f32() != entry {
            return Err(Error::shape(format!("entry {i} of the tables of {scheme}"), "a finite f16", entry));
        }
        put(out.plane_mut(PlaneKind::Tables), i, &f16::from_f32(entry).to_le_bytes());
    }
    for (row, x) in x.chunks(k).enumerate() {
        for (g, x) in x.chunks(group).enumerate() {
            let first = (row * groups + g) * entries;
            let table = sorted_table(&tables[first..first + entries]);
            for (i, &value) in x.iter().enumerate() {
                store_code(out, row, g * group + i, nearest(value, 1.0, &table));
            }
        }
    }
    Ok(())
}

/// A learned table is usable when it has `2^bits` entries and a largest finite magnitude with a reciprocal.
fn check_table<'a>(scheme: &Scheme, codebook: Option<&'a [f32]>) -> Result<&'a [f32]> {
    let entries = 1usize << scheme.bits;
    let given = codebook.unwrap_or(&[]);
    if given.len() != entries {
        return Err(Error::shape(format!("entries of the table of {scheme}"), entries, given.len()));
    }
    let largest = largest_magnitude(given);
    if !ENTRIES.contains(&largest) {
        return Err(Error::shape(
            format!("largest finite magnitude in the table of {scheme}"),
            "2^-20 to 2^20",
            largest,
        ));
    }
    Ok(given)
}

pub(super) fn largest_magnitude(entries: &[f32]) -> f32 {
    let mut largest = 0.0;
    for v in entries {
        if v.is_finite() && v.abs() > largest {
            largest = v.abs();
        }
    }
    largest
}

/// The finite entries with their codes, ascending, of equal entries the one with the lowest code.
fn sorted_table(entries: &[f32]) -> Vec<(f32, u32)> {
    let mut sorted: Vec<(f32, u32)> = Vec::new();
    for (code, &value) in entries.iter().enumerate() {
        let known = sorted.iter().any(|&(v, _)| v == value);
        if value.is_finite() && !known {
            let at = sorted.iter().filter(|&&(v, _)| v < value).count();
            sorted.insert(at, (value, code as u32));
        }
    }
    sorted
}

/// The code whose interval holds x.
pub(super) fn nearest(x: f32, scale: f32, table: &[(f32, u32)]) -> u32 {
    let mut passed = 0;
    for pair in table.windows(2) {
        let mid = (pair[0].0 + pair[1].0) * 0.5;
        let boundary = mid * scale;
        if (mid > 0.0 && x > boundary) || (mid <= 0.0 && x >= boundary) {
            passed += 1;
        }
    }
    table[passed].1
}

/// The largest `q <= q_max` with `q = 0` or `(q - 0.5) * s <= t`.
pub(super) fn steps(t: f32, s: f32, q_max: i32) -> i32 {
    let mut q = 0;
    while q < q_max && ((q + 1) as f32 - 0.5) * s <= t {
        q += 1;
    }
    q
}

/// `steps` of a magnitude, with a sign, up to `above` or down to `-below`.
fn signed_steps(magnitude: f32, negative: bool, s: f32, above: i32, below: i32) -> i32 {
    if negative { -steps(magnitude, s, below) } else { steps(magnitude, s, above) }
}

/// `1/n`, rounded once.
pub(super) fn reciprocal(n: f32) -> f32 {
    1.0 / n
}

fn to_f16(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

/// The bytes of a scale and the value that they decode to.
pub(super) fn round_to_type(scale: f32, kind: ScaleType) -> (Vec<u8>, f32) {
    match kind {
        ScaleType::F32 => (scale.to_le_bytes().to_vec(), scale),
        ScaleType::F16 => {
            let rounded = to_f16(scale);
            (rounded.to_le_bytes().to_vec(), rounded.to_f32())
        }
        ScaleType::Bf16 => {
            let rounded = bf16::from_f32(scale);
            (rounded.to_le_bytes().to_vec(), rounded.to_f32())
        }
        _ => panic!("byte scales have encoders of their own"),
    }
}

/// `(min, max, amax)` with +0 included.
pub(super) fn extremes(x: &[f32]) -> (f32, f32, f32) {
    let (mut min, mut max) = (0.0, 0.0);
    for &v in x {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
    }
    (min, max, if -min > max { -min } else { max })
}

/// The value of largest magnitude with its sign, the first of equals; +0 for zeros.
fn extreme(x: &[f32]) -> f32 {
    let mut v: f32 = 0.0;
    for &candidate in x {
        if candidate.abs() > v.abs() {
            v = candidate;
        }
    }
    v
}

/// The scale table of [`Encoder::GlobalScale`].
fn global_scales(x: &[f32]) -> Vec<f32> {
    let (_, _, amax) = extremes(x);
    let global = if amax < TINY { 1.0 } else { 448.0 * 6.0 / amax };
    let entry = |byte: u8| {
        let magnitude = direct_scale(&[byte], ScaleType::Ue4M3, 0) / global;
        if byte >= 0x80 && byte != 0xff { -magnitude } else { magnitude }
    };
    (0..=255u8).map(entry).collect()
}

/// The byte of [`Encoder::GlobalScale`].
pub(super) fn global_byte(amax: f32, scales: &[f32]) -> u8 {
    let a = amax * reciprocal(6.0);
    let mut byte = 0;
    while byte < 0x7e && a > (scales[byte] + scales[byte + 1]) * 0.5 {
        byte += 1;
    }
    byte as u8
}

/// `scales` is the table of table-coded scales.
fn encode_group(x: &[f32], k: usize, form: &Form, table: &[(f32, u32)], scales: &[f32]) -> EncodedGroup {
    let scheme = &form.scheme;
    let Scale::Direct(kind) = scheme.scale else { panic!("{scheme} has no scale per group") };
    let bits = u32::from(scheme.bits);
    let (levels, half) = ((1i32 << bits) - 1, (1i32 << bits) / 2);
    let offset = match scheme.value {
        Value::Linear { offset, .. } => offset,
        _ => 0,
    };
    let Found { min, max, tiny, byte: found_byte, zero: found_zero } =
        method::find(x, k, form, table, scales);
    let amax = max.max(-min);
    let mut zero = Vec::new();
    let scale;
    let codes = match scheme.encoder {
        Encoder::Absmax | Encoder::Ternary => {
            let [above, below] = if scheme.encoder == Encoder::Ternary { [1; 2] } else { [half - 1, half] };
            let wanted = if tiny { 0.0 } else { amax * reciprocal(above as f32) };
            let (bytes, s) = round_to_type(wanted, kind);
            scale = bytes;
            let code = |&v: &f32| match s {
                0.0 => offset as u32,
                _ => (signed_steps(v.abs(), v < 0.0, s, above, below) + offset) as u32,
            };
            x.iter().map(code).collect()
        }
        Encoder::MinMax => {
            let wanted = if tiny { 0.0 } else { (max - min) * reciprocal(levels as f32) };
            let (bytes, s) = round_to_type(wanted, kind);
            scale = bytes;
            let own = if s == 0.0 { 0 } else { steps(-min, s, levels) };
            let z = found_zero.map_or(own, |z| z as i32);
            zero = vec![z as u8];
            let code = |&v: &f32| match s {
                0.0 => z as u32,
                _ => (signed_steps(v.abs(), v < 0.0, s, levels + 1, levels + 1) + z).clamp(0, levels) as u32,
            };
            x.iter().map(code).collect()
        }
        Encoder::MinMaxBias => {
            let wanted = if tiny { 0.0 } else { (max - min) * reciprocal(levels as f32) };
            let (bytes, s) = round_to_type(wanted, kind);
            scale = bytes;
            let wanted = if s == 0.0 || min > -TINY { 0.0 } else { min };
            let (bytes, bias) = round_to_type(wanted, kind);
            zero = bytes;
            let code = |&v: &f32| {
                let t = v - bias;
                if s == 0.0 || t <= 0.0 { 0 } else { steps(t, s, levels) as u32 }
            };
            x.iter().map(code).collect()
        }
        Encoder::MinMaxZero => {
            let wanted = if tiny { 0.0 } else { (max - min) * reciprocal(levels as f32) };
            let (bytes, s) = round_to_type(wanted, kind);
            scale = bytes;
            let sixteenths = if s == 0.0 { 0 } else { steps(-min, s / 16.0, 16 * levels) };
            let (bytes, z) = round_to_type(found_zero.unwrap_or(sixteenths as f32 / 16.0), kind);
            zero = bytes;
            let code = |&v: &f32| {
                let mut code = 0;
                while s > 0.0 && code < levels && (((code + 1) as f32 - 0.5) - z) * s <= v {
                    code += 1;
                }
                code as u32
            };
            x.iter().map(code).collect()
        }
        Encoder::MeanAbs => {
            let sum = match scheme.group {
                Group::Cols(g) if g <= 256 => sum_in_sequence(x),
                Group::Cols(_) | Group::Row => sum_in_lanes(x),
                Group::Tensor => sum_in_lanes(&x.chunks(k).map(sum_in_lanes).collect::<Vec<_>>()),
            };
            let n = x.len() as f64;
            let wanted = if sum < TINY { 0.0 } else { sum * (1.0 / n) as f32 };
            (scale, _) = round_to_type(wanted, kind);
            x.iter().map(|&v| if v < 0.0 { 0 } else { 1 }).collect()
        }
        Encoder::Nearest => {
            let entries: Vec<f32> = table.iter().map(|e| e.0).collect();
            let wanted = if tiny { 0.0 } else { amax * reciprocal(largest_magnitude(&entries)) };
            let (bytes, s) = round_to_type(wanted, kind);
            scale = bytes;
            let code = |&v: &f32| if s == 0.0 { nearest(0.0, 1.0, table) } else { nearest(v, s, table) };
            x.iter().map(code).collect()
        }
        Encoder::SharedExponent { emax } => {
            let own = if tiny { 0 } else { (floor_log2(amax) - emax + 127).clamp(1, 254) as u8 };
            scale = vec![found_byte.unwrap_or(own)];
            let s = direct_scale(&scale, kind, 0);
            let code = |&v: &f32| if tiny { nearest(0.0, 1.0, table) } else { nearest(v, s, table) };
            x.iter().map(code).collect()
        }
        Encoder::GlobalScale => {
            let byte = found_byte.unwrap_or(if tiny { 0 } else { global_byte(amax, scales) });
            scale = vec![byte];
            let s = scales[usize::from(byte)];
            let code = |&v: &f32| if s == 0.0 { nearest(0.0, 1.0, table) } else { nearest(v, s, table) };
            x.iter().map(code).collect()
        }
        Encoder::GgmlExtreme => {
            let d = extreme(x) * (-1.0 / half as f32);
            let id = inverse(d);
            (scale, _) = round_to_type(d, kind);
            let code = |&v: &f32| (v * id + (half as f32 + 0.5)).trunc().min(levels as f32) as u32;
            x.iter().map(code).collect()
        }
        Encoder::GgmlMinMax => {
            let (mut min, mut max) = (x[0], x[0]);
            for &v in x {
                if v < min {
                    min = v;
                }
                if v > max {
                    max = v;
                }
            }
            let d = (max - min) / levels as f32;
            let id = inverse(d);
            (scale, _) = round_to_type(d, kind);
            zero = to_f16(min).to_le_bytes().to_vec();
            let code = |&v: &f32| ((v - min) * id + 0.5).trunc().min(levels as f32) as u32;
            x.iter().map(code).collect()
        }
        Encoder::GgmlAbsmax | Encoder::GgmlTernary => {
            let d = if scheme.encoder == Encoder::GgmlAbsmax { amax / 127.0 } else { amax };
            let id = inverse(d);
            (scale, _) = round_to_type(d, kind);
            x.iter().map(|&v| ((v * id).round() as i32 + offset) as u32).collect()
        }
        Encoder::GgmlMeanAbs => {
            let mut sum = 0.0;
            for v in x {
                sum += v.abs();
            }
            (scale, _) = round_to_type(sum / x.len() as f32, kind);
            x.iter().map(|&v| if v >= 0.0 { 1 } else { 0 }).collect()
        }
        Encoder::GgmlNvfp4 => {
            scale = vec![found_byte.unwrap_or(ue4m3_like_ggml(amax / 6.0))];
            let s = direct_scale(&scale, kind, 0);
            let code = |&v: &f32| if s == 0.0 { nearest(0.0, 1.0, table) } else { nearest(v, s, table) };
            x.iter().map(code).collect()
        }
        Encoder::Round
        | Encoder::Clusters
        | Encoder::GgmlIq4
        | Encoder::GgmlAffine
        | Encoder::GgmlDescent
        | Encoder::GgmlSymmetric => {
            panic!("{scheme} is not encoded group by group")
        }
    };
    EncodedGroup { scale, zero, codes }
}

fn inverse(d: f32) -> f32 {
    let id = 1.0 / d;
    if id.is_finite() { id } else { 0.0 }
}

/// The exponent field of a normal number.
pub(super) fn floor_log2(x: f32) -> i32 {
    ((x.to_bits() >> 23) & 0xff) as i32 - 127
}

/// ggml's rounding of a scale to E4M3: half up, and 448 from 2^8 on.
pub(super) fn ue4m3_like_ggml(a: f32) -> u8 {
    let smallest_normal = 1.0 / 64.0;
    if a < smallest_normal {
        return ((a * 512.0 + 0.5) as u8).min(7);
    }
    let exponent = floor_log2(a);
    // 8 to 16 in eighths of the power of two below; exact, as the mantissa has more bits than are asked for.
    let eighths = (f64::from(a) / 2f64.powi(exponent - 3) + 0.5).floor();
    let (exponent, eighths) = if eighths == 16.0 { (exponent + 1, 8.0) } else { (exponent, eighths) };
    if exponent >= 8 { 0x7e } else { ((exponent + 7) * 8 + (eighths as i32 - 8)) as u8 }
}

/// The terms of a mean of magnitudes.
fn counted(v: f32) -> f32 {
    if v.abs() < TINY { 0.0 } else { v.abs() }
}

fn sum_in_sequence(x: &[f32]) -> f32 {
    let mut sum = 0.0;
    for &v in x {
        sum += counted(v);
    }
    sum
}

fn sum_in_lanes(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 64];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % 64] += counted(v);
    }
    for distance in [32, 16, 8, 4, 2, 1] {
        for l in 0..distance {
            lanes[l] += lanes[l + distance];
        }
    }
    lanes[0]
}

/// Stores part `index` of the tensor, whose values begin at column `first` of `row`.
fn store_searched(out: &mut PackedTensor, row: usize, index: usize, first: usize, part: search::Searched) {
    let scheme = *out.scheme();
    match scheme.scale {
        Scale::TwoLevel { sub, .. } => {
            put(out.plane_mut(PlaneKind::SuperScales), index, &part.d.to_le_bytes());
            if sub != SubScale::I8 {
                put(out.plane_mut(PlaneKind::SuperMins), index, &part.dm.to_le_bytes());
            }
            let groups = part.subs.len();
            for (g, (scale, min)) in part.subs.into_iter().enumerate() {
                let at = index * groups + g;
                let byte = if sub == SubScale::U4Min { scale | min << 4 } else { scale };
                put(out.plane_mut(PlaneKind::Scales), at, &[byte as u8]);
                if sub == SubScale::U8Min {
                    put(out.plane_mut(PlaneKind::Zeros), at, &[min as u8]);
                }
            }
        }
        _ => {
            put(out.plane_mut(PlaneKind::Scales), index, &part.d.to_le_bytes());
            if scheme.zero == Zero::Bias {
                put(out.plane_mut(PlaneKind::Zeros), index, &part.dm.to_le_bytes());
            }
        }
    }
    for (i, code) in part.codes.into_iter().enumerate() {
        store_code(out, row, first + i, code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_row(name: &str, x: &[f32]) -> PackedTensor {
        quantize(x, 1, x.len(), name.parse().unwrap(), None).unwrap()
    }

    fn codes(w: &PackedTensor) -> Vec<u32> {
        (0..w.len()).map(|i| w.code(0, i)).collect()
    }

    #[test]
    fn steps_round_half_away_and_stop() {
        assert_eq!([0.49, 0.5, 1.49, 1.5, 6.5, 7.5, 1e9].map(|t| steps(t, 1.0, 7)), [0, 1, 1, 2, 7, 7, 7]);
        assert_eq!(signed_steps(2.5, true, 1.0, 1, 2), -2);
        assert_eq!(signed_steps(2.5, false, 1.0, 1, 2), 1);
    }

    #[test]
    fn groups_worked_out_by_hand() {
        // amax 7, scale 1: halves go away from zero.
        let w = one_row("int4-g8", &[7.0, -7.0, 3.5, -3.5, 0.49, -0.0, 2.0, -1.0]);
        assert_eq!(w.plane(PlaneKind::Scales), f16::from_f32(7.0 * (1.0 / 7.0)).to_le_bytes());
        assert_eq!(codes(&w), [15, 1, 12, 4, 8, 8, 10, 7]);
        // min -1, max 14, scale 1 (15 * C(15) rounds to it), zero-point 1.
        let w = one_row("int4-g4-asym", &[-1.0, 14.0, 0.0, 6.6]);
        assert_eq!((w.plane(PlaneKind::Zeros), codes(&w)), (&[1u8][..], vec![0, 15, 1, 8]));
        // min -1, max 2, scale 1, bias -1: halves go up. A float zero of 1/2 where the smallest is -1/2.
        let w = one_row("int2-g4-bias", &[-1.0, 2.0, 0.0, 0.5]);
        assert_eq!((w.plane(PlaneKind::Zeros), codes(&w)), (&[0, 0xbc][..], vec![0, 3, 1, 2]));
        let w = one_row("int2-g4-fzero-f32", &[-0.5, 2.5, 0.0, 0.25]);
        assert_eq!((w.plane(PlaneKind::Zeros), codes(&w)), (&0.5f32.to_le_bytes()[..], vec![0, 3, 1, 1]));
        // bf16 has 8 bits: 9 / 7 is 0x3fa4.92.., the bias -9 is 0xc110.
        let w = one_row("int4-g4-bf16", &[9.0, 0.0, -9.0, 1.0]);
        assert_eq!((w.plane(PlaneKind::Scales), codes(&w)), (&[0xa5, 0x3f][..], vec![15, 8, 1, 9]));
        let w = one_row("int8-row-bias-bf16", &[-9.0, 0.0, 246.0]);
        assert_eq!((w.plane(PlaneKind::Zeros), codes(&w)), (&[0x10, 0xc1][..], vec![0, 9, 255]));
        // The largest of all has the scale 448 / g, a group of 1/896 of it the scale 1 / 2g.
        let mut x = [0.0; 20];
        (x[3], x[16], x[17]) = (-2688.0, 3.0, 1.1);
        let w = one_row("nvfp4-global", &x);
        let (own, table) = (codes(&w), w.scale_table());
        assert_eq!((w.plane(PlaneKind::Scales), table[0x38]), (&[0x7e, 0x30][..], 1.0));
        assert_eq!((table[0x7e], table[0xb8], table[0x7f]), (448.0, -1.0, 0.0));
        // A quotient, and not the product with an inverse: 2688 / 7 is 384, whose inverse no f32 is.
        x[3] = 7.0;
        assert_eq!(one_row("nvfp4-global", &x).scale_table()[0x3c], 1.5 / 384.0);
        assert_eq!((own[3], own[4], own[16], own[17]), (15, 0, 7, 4));
        // Halfway between entries, the one nearer to zero: 1.25 -> 1, 1.75 -> 1.5, 2.5 -> 2, 5 -> 4, and at 0.25 -> 0.
        let w = one_row("fp4-g8", &[6.0, 1.25, -1.75, 2.5, -5.0, 0.25, -0.25, 5.01]);
        assert_eq!(codes(&w), [7, 2, 11, 4, 14, 0, 0, 7]);
    }

    #[test]
    fn tiny_groups_have_scale_zero_and_the_code_of_zero() {
        let x = [2f32.powi(-101), -(2f32.powi(-101)), 0.0, 1e-45];
        for (name, scale, code) in [
            ("int4-row", &[0u8; 4][..], 8),
            ("int8-g4", &[0; 2], 128),
            ("int4-row-asym", &[0; 4], 0),
            ("nf4-g4", &[0; 2], 7),
            ("e4m3-row", &[0; 4], 0),
            ("mxfp8", &[0], 0),
            ("int4-g4-bias", &[0; 2], 0),
            ("int4-g4-bias-bf16", &[0; 2], 0),
            ("int4-row-fzero", &[0; 4], 0),
            ("nvfp4-global", &[0], 0),
        ] {
            let w = one_row(name, &x);
            assert_eq!((w.plane(PlaneKind::Scales), codes(&w)), (scale, vec![code; 4]), "{name}");
        }
        // f16 rounds these scales to 0 though the groups are not tiny.
        let w = one_row("int4-g4-asym", &[-1e-8, 1e-8, 0.0, 5e-9]);
        assert_eq!((w.plane(PlaneKind::Scales), w.plane(PlaneKind::Zeros)), (&[0u8; 2][..], &[0u8][..]));
        assert_eq!(codes(&w), [0; 4]);
        for name in ["int4-g4-bias", "int4-g4-fzero"] {
            let w = one_row(name, &[-1e-8, 1e-8, 0.0, 5e-9]);
            assert_eq!((w.plane(PlaneKind::Zeros), codes(&w)), (&[0u8; 2][..], vec![0; 4]), "{name}");
        }
        let w = one_row("int1-row", &x);
        assert_eq!((w.plane(PlaneKind::Scales), codes(&w)), (&[0u8; 4][..], vec![1, 0, 1, 1]));
    }

    #[test]
    fn sums_are_taken_in_the_stated_order() {
        // 1 + 2^-24 rounds to 1, 2^-24 + 2^-24 does not vanish: which partial sums there are shows.
        let mut x = vec![2f32.powi(-24); 256];
        x[0] = 1.0;
        assert_eq!(sum_in_sequence(&x), 1.0);
        // Lane 0 holds 1, which swallows its three 2^-24; the other 63 lanes hold 2^-22 each, which it does not.
        assert_eq!(sum_in_lanes(&x), 1.0 + 63.0 * 2f32.powi(-22));
        let scale = |name: &str, rows: usize| {
            let w = quantize(&x, rows, 256 / rows, name.parse().unwrap(), None).unwrap();
            direct_scale(w.plane(PlaneKind::Scales), ScaleType::F32, 0)
        };
        assert_eq!(scale("int1-row", 1), sum_in_lanes(&x) * 2f32.powi(-8));
        let by_rows: Vec<f32> = x.chunks(64).map(sum_in_lanes).collect();
        assert_eq!(scale("int1-tensor", 4), sum_in_lanes(&by_rows) * 2f32.powi(-8));
    }

    /// Landmarks of ggml's rounding, ties up: 1.0625 lies between 0x38 and 0x39, 7.9/512 would be the smallest normal.
    #[test]
    fn nvfp4_scales_round_as_in_ggml() {
        for (a, byte) in [
            (0.0, 0),
            (0.49 / 512.0, 0),
            (0.5 / 512.0, 1),
            (7.4 / 512.0, 7),
            (7.9 / 512.0, 7),
            (8.0 / 512.0, 8),
            (1.0, 0x38),
            (1.0624, 0x38),
            (1.0625, 0x39),
            (1.9376, 0x40),
            (240.0, 0x77),
            (247.9, 0x77),
            (248.0, 0x7e),
            (300.0, 0x7e),
            (448.0, 0x7e),
        ] {
            assert_eq!(ue4m3_like_ggml(a), byte, "{a}");
        }
    }
}
