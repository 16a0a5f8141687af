//! Rows of a packed tensor to f32.
//!
//! ```text
//! planes --Weights::groups--> per group: scale, offset, bias, or table (f32)
//! planes --codes::unpack----> codes (u8) --Values--> v --scale * v (+ bias)--> w
//! ```
//!
//! The order of single f32 operations is that of [`crate::scheme`]. One row at a time, in stored order; threads and products are not here.

use super::half_float::{f16_to_f32, widen_bf16, widen_f16, widen_f32};
use crate::PackedTensor;
use crate::scheme::layout::TABLE_ENTRY;
use crate::scheme::{Float, PlaneKind, Scale, ScaleType, Scheme, SubScale, Value, Zero, codes};
use std::borrow::Cow;
use std::ops::Range;

/// A packed tensor seen as rows `[rows, k]`, its planes at hand.
pub struct Weights<'a> {
    pub scheme: Scheme,
    pub k: usize,
    pub groups_per_row: usize,
    pub group_len: usize,
    /// The table of a codebook scheme in code order.
    pub table: Vec<f32>,
    /// The column that each stored position holds, where that is not the position itself.
    pub permutation: Option<Vec<u32>>,
    /// What the bytes of a table-coded scale stand for.
    scale_table: Vec<f32>,
    low: Rows<'a>,
    high: Rows<'a>,
    scales: Rows<'a>,
    zeros: Rows<'a>,
    super_scales: Rows<'a>,
    super_mins: Rows<'a>,
    tables: Rows<'a>,
}

/// One plane cut in rows. A stride of 0 is a plane that all rows share.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        if self.stride == 0 { self.bytes } else { &self.bytes[row * self.stride..(row + 1) * self.stride] }
    }
}

/// What the groups of one row scale and add with.
#[derive(Default)]
pub struct Groups {
    pub scale: Vec<f32>,
    /// Zero-points; empty for schemes without.
    pub zero: Vec<i32>,
    /// Float zeros; empty for schemes without.
    pub float_zero: Vec<f32>,
    /// Empty for schemes without a bias or minimum.
    pub bias: Vec<f32>,
    /// `[groups, 2^bits]`, the groups' own tables; empty for schemes without.
    pub table: Vec<f32>,
}

/// Decodes stored numbers: scales that are not two-level, float zeros, biases. `table` is that of table-coded scales.
#[inline(always)]
fn numbers(table: &[f32], kind: ScaleType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        ScaleType::F32 => widen_f32(bytes, out),
        ScaleType::F16 => widen_f16(bytes, out),
        ScaleType::Bf16 => widen_bf16(bytes, out),
        ScaleType::Table => bytes.iter().zip(out).for_each(|(&b, o)| *o = table[usize::from(b)]),
        _ => bytes.iter().zip(out).for_each(|(&b, o)| *o = byte_scale(kind, b)),
    }
}

/// A scale of one byte.
#[inline(always)]
pub fn byte_scale(kind: ScaleType, b: u8) -> f32 {
    match (kind, b) {
        (ScaleType::E8M0, 0) => f32::from_bits(1 << 22),
        (ScaleType::E8M0, e) => f32::from_bits(u32::from(e) << 23),
        (ScaleType::E8M0Half, e @ 0..=1) => f32::from_bits(1 << (21 + u32::from(e))),
        (ScaleType::E8M0Half, e) => f32::from_bits((u32::from(e) - 1) << 23),
        (_, b) if b & 0x7f == 0x7f => 0.0,
        // The fields of E4M3 placed in those of an f32; the product mends the bias and normalises subnormals.
        (_, b) => f32::from_bits(u32::from(b & 0x7f) << 20) * f32::from_bits((127 + 120) << 23),
    }
}

impl<'a> Weights<'a> {
    /// A view of `w`.
    pub fn new(w: &'a PackedTensor) -> Self {
        let (_, k) = w.matrix();
        let scheme = *w.scheme();
        let rows =
            |kind| Rows { bytes: w.plane(kind), stride: w.layout().plane(kind).map_or(0, |p| p.row_stride) };
        Self {
            scheme,
            k,
            groups_per_row: scheme.groups_per_row(k),
            group_len: scheme.group_len(k),
            table: if scheme.has_table() { w.codebook() } else { Vec::new() },
            permutation: w.permutation(),
            scale_table: w.scale_table(),
            low: rows(PlaneKind::CodesLow),
            high: rows(PlaneKind::CodesHigh),
            scales: rows(PlaneKind::Scales),
            zeros: rows(PlaneKind::Zeros),
            super_scales: rows(PlaneKind::SuperScales),
            super_mins: rows(PlaneKind::SuperMins),
            tables: rows(PlaneKind::Tables),
        }
    }

    /// The bytes of a row of the low code plane, padding included.
    pub fn low(&self, row: usize) -> &'a [u8] {
        self.low.row(row)
    }

    /// The low code plane of some rows, and the bytes from one to the next.
    pub fn low_rows(&self, rows: Range<usize>) -> (&'a [u8], usize) {
        let stride = self.low.stride;
        (&self.low.bytes[rows.start * stride..rows.end * stride], stride)
    }

    /// The bytes of a row of the high code plane; empty if there is none.
    pub fn high(&self, row: usize) -> &'a [u8] {
        self.high.row(row)
    }

    /// Whether groups have a bias or a minimum.
    pub fn has_bias(&self) -> bool {
        self.scheme.zero == Zero::Bias
            || matches!(self.scheme.scale, Scale::TwoLevel { sub: SubScale::U8Min | SubScale::U4Min, .. })
    }

    /// Whether groups have something that integer sums are corrected with after scaling: a bias, a minimum, or a float zero.
    pub fn has_correction(&self) -> bool {
        self.has_bias() || self.scheme.zero == Zero::Float
    }

    /// x `[m, K]` in the order of the stored columns.
    pub fn in_stored_order<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match &self.permutation {
            None => Cow::Borrowed(x),
            Some(columns) => {
                let rows = x.chunks(self.k.max(1));
                rows.flat_map(|row| columns.iter().map(|&c| row[c as usize])).collect()
            }
        }
    }

    /// Codes of a row, four to a word; `out` covers at most the padded row.
    #[inline(always)]
    pub fn codes(&self, row: usize, out: &mut [u32]) {
        let out = bytemuck::must_cast_slice_mut(out);
        codes::unpack(self.scheme.bits, self.low.row(row), self.high.row(row), out);
    }

    /// What is subtracted from `step * code` besides a zero-point; 0 for tables.
    pub fn offset(&self) -> i32 {
        match self.scheme.value {
            Value::Linear { offset, .. } => offset,
            _ => 0,
        }
    }

    /// Scales, zero-points and biases of a row's groups.
    #[inline(always)]
    pub fn groups(&self, row: usize, out: &mut Groups) {
        let n = self.groups_per_row;
        out.scale.resize(n, 1.0);
        self.scales(row, &mut out.scale);
        if self.scheme.zero == Zero::Point {
            out.zero.resize(n, 0);
            self.zeros(row, &mut out.zero);
        }
        if self.has_bias() {
            out.bias.resize(n, 0.0);
            self.biases(row, &mut out.bias);
        }
        if self.scheme.zero == Zero::Float {
            out.float_zero.resize(n, 0.0);
            self.float_zeros(row, &mut out.float_zero);
        }
        if self.scheme.has_group_tables() {
            out.table.resize(n << self.scheme.bits, 0.0);
            self.tables(row, &mut out.table);
        }
    }

    /// The tables of a row's groups, `[groups, 2^bits]`, of a scheme that has them.
    #[inline(always)]
    pub fn tables(&self, row: usize, out: &mut [f32]) {
        widen_f16(self.tables.row(row), out);
    }

    /// The scales of a row's groups.
    #[inline(always)]
    pub fn scales(&self, row: usize, out: &mut [f32]) {
        let bytes = self.scales.row(row);
        match self.scheme.scale {
            Scale::None => out.fill(1.0),
            Scale::Direct(kind) => numbers(&self.scale_table, kind, bytes, out),
            Scale::TwoLevel { sub, .. } => {
                let scales = self.super_scales.row(row);
                match sub {
                    SubScale::I8 => self.each(scales, bytes, out, |d, s| d * f32::from(s as i8)),
                    SubScale::U8Min => self.each(scales, bytes, out, |d, s| d * f32::from(s)),
                    SubScale::U4Min => self.each(scales, bytes, out, |d, s| d * f32::from(s & 15)),
                }
            }
        }
    }

    /// The zero-points of a row's groups, of a scheme that has them.
    #[inline(always)]
    pub fn zeros(&self, row: usize, out: &mut [i32]) {
        out.iter_mut().zip(self.zeros.row(row)).for_each(|(o, &z)| *o = i32::from(z));
    }

    /// The biases of a row's groups, negated minima among them, of a scheme that has them.
    #[inline(always)]
    pub fn biases(&self, row: usize, out: &mut [f32]) {
        let (scales, zeros, mins) = (self.scales.row(row), self.zeros.row(row), self.super_mins.row(row));
        match self.scheme.scale {
            Scale::TwoLevel { sub: SubScale::U8Min, .. } => {
                self.each(mins, zeros, out, |d, s| -(d * f32::from(s)));
            }
            Scale::TwoLevel { sub: SubScale::U4Min, .. } => {
                self.each(mins, scales, out, |d, s| -(d * f32::from(s >> 4)));
            }
            Scale::Direct(kind) => numbers(&[], kind, zeros, out),
            _ => {}
        }
    }

    /// The zeros that are numbers, of a scheme that has them.
    #[inline(always)]
    pub fn float_zeros(&self, row: usize, out: &mut [f32]) {
        if let Scale::Direct(kind) = self.scheme.scale {
            numbers(&[], kind, self.zeros.row(row), out);
        }
    }

    /// The one table of a row, of at most 16 entries, repeated up to 16.
    pub fn table_of_16(&self, row: usize) -> [f32; 16] {
        let entries = self.tables.row(row).as_chunks::<TABLE_ENTRY>().0;
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes(entries[i & (entries.len() - 1)])))
    }

    /// Whether code 0 stands for a finite number in the one table of each row: times 0, as in the padding of rows, it is 0 then.
    pub fn first_entries_are_finite(&self, mut rows: Range<usize>) -> bool {
        rows.all(|row| {
            let table = self.tables.row(row);
            f16_to_f32(u16::from_le_bytes([table[0], table[1]])).is_finite()
        })
    }

    /// `f(super, sub)` for each group of a row.
    #[inline(always)]
    fn each(&self, supers: &[u8], sub: &[u8], out: &mut [f32], f: impl Fn(f32, u8) -> f32) {
        let Scale::TwoLevel { super_group, .. } = self.scheme.scale else { return };
        match super_group as usize / self.group_len {
            8 => each_of::<8>(supers, sub, out, f),
            16 => each_of::<16>(supers, sub, out, f),
            _ => unreachable!("a super-group has 8 or 16 groups"),
        }
    }

    /// Decodes a row into `out` `[k]`, in stored order. `codes` and `groups` are scratch.
    #[inline(always)]
    pub fn row(&self, row: usize, codes: &mut Vec<u32>, groups: &mut Groups, out: &mut [f32]) {
        if let Value::Float(kind) = self.scheme.value {
            let bytes = self.low.row(row);
            return match kind {
                Float::F32 => widen_f32(bytes, out),
                Float::F16 => widen_f16(bytes, out),
                Float::Bf16 => widen_bf16(bytes, out),
            };
        }
        codes.resize(self.k.div_ceil(4), 0);
        self.codes(row, codes);
        self.groups(row, groups);
        let codes: &[u8] = bytemuck::cast_slice(codes);
        for (g, (out, codes)) in out.chunks_mut(self.group_len).zip(codes.chunks(self.group_len)).enumerate()
        {
            let scale = groups.scale[g];
            match self.scheme.value {
                Value::Linear { step, .. } => {
                    let offset = self.offset() + groups.zero.get(g).copied().unwrap_or(0);
                    match groups.float_zero.get(g) {
                        Some(&zero) => linear(codes, step, offset, |v| scale * (v - zero), out),
                        None => linear(codes, step, offset, |v| scale * v, out),
                    }
                }
                Value::Tables => {
                    let entries = 1 << self.scheme.bits;
                    look_up(&groups.table[g * entries..][..entries], codes, scale, out);
                }
                _ => look_up(&self.table, codes, scale, out),
            }
            if let Some(&bias) = groups.bias.get(g) {
                out.iter_mut().for_each(|w| *w += bias);
            }
        }
    }
}

#[inline(always)]
fn look_up(table: &[f32], codes: &[u8], scale: f32, out: &mut [f32]) {
    if let Ok(table) = <&[f32; 16]>::try_from(table) {
        out.iter_mut().zip(codes).for_each(|(o, &c)| *o = scale * table[usize::from(c & 15)]);
    } else if let Ok(table) = <&[f32; 256]>::try_from(table) {
        out.iter_mut().zip(codes).for_each(|(o, &c)| *o = scale * table[usize::from(c)]);
    } else {
        out.iter_mut().zip(codes).for_each(|(o, &c)| *o = scale * table[usize::from(c)]);
    }
}

/// `f(super, sub)` for super-groups of N groups.
#[inline(always)]
fn each_of<const N: usize>(supers: &[u8], sub: &[u8], out: &mut [f32], f: impl Fn(f32, u8) -> f32) {
    // Super-scales are widened sixteen at a time, and groups taken sixteen at a time, one vector or two.
    const SUPERS: usize = 16;
    let mut wide = [0f32; SUPERS];
    for (i, supers) in supers.chunks(2 * SUPERS).enumerate() {
        widen_f16(supers, &mut wide);
        let range = i * SUPERS * N..i * SUPERS * N + supers.len() / 2 * N;
        let (sub, sub_rest) = sub[range.clone()].as_chunks::<16>();
        let (out, out_rest) = out[range].as_chunks_mut::<16>();
        let whole = sub.len() * (16 / N);
        for ((sub, out), d) in sub.iter().zip(out).zip(wide.chunks_exact(16 / N)) {
            *out = std::array::from_fn(|g| f(d[g / N], sub[g]));
        }
        for (g, (sub, out)) in sub_rest.iter().zip(out_rest).enumerate() {
            *out = f(wide[whole + g / N], *sub);
        }
    }
}

#[inline(always)]
fn linear(codes: &[u8], step: i32, offset: i32, weight: impl Fn(f32) -> f32, out: &mut [f32]) {
    for (o, &c) in out.iter_mut().zip(codes) {
        *o = weight((step * i32::from(c) - offset) as f32);
    }
}
