//! How the words of a weight row meet vector lanes, for the kernels that take few rows of x.
//!
//! ```text
//! code plane, 16 words at a time:   lane l = word 16 t + l = 4 * fields consecutive values of K
//! scales, zeros, biases of a block of rows:   one entry per `lanes_per_scale` lanes
//! ```
//!
//! Entries are prepared for a whole block of rows before any is used: a load that spans several stores still under way would wait for them.

use super::decode::{Groups, Weights};
use super::dot::LANES;
use super::level::{Level, Work, vectorized_at};
use crate::scheme::{Zero, layout::code_widths};
use std::ops::Range;

#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// Fields of a word, four codes each.
    pub fields: usize,
    /// Lanes that share an entry, of the weights and of x: 1, 2, 4, 8 or 16.
    pub lanes_per_scale: usize,
    /// Lanes of one group; those of a step where a row has one group.
    lanes_per_group: usize,
    /// Codes are unpacked to bytes first: they have two planes, or a lane of the plane would cross groups.
    unpack: bool,
    /// Steps of [`LANES`] words in a row.
    pub steps: usize,
}

impl Lanes {
    /// For weights of at most 8 bits and x in groups of `x_group` (or [`usize::MAX`]).
    pub fn of(w: &Weights, x_group: usize) -> Self {
        let single = w.groups_per_row == 1;
        let (low, high) = code_widths(w.scheme.bits);
        let fits = |fields: usize| {
            let lane = 4 * fields;
            (single || w.group_len.is_multiple_of(lane)) && (x_group >= w.k || x_group.is_multiple_of(lane))
        };
        let unpack = high > 0 || !fits(8 / low);
        let fields = if unpack { 1 } else { 8 / low };
        let lanes_per_group = if single { LANES } else { w.group_len / (4 * fields) };
        let lanes_per_x_group = if x_group >= w.k { LANES } else { x_group / (4 * fields) };
        let shared = (lanes_per_group | lanes_per_x_group | LANES).trailing_zeros();
        let lanes_per_scale = 1 << shared;
        Self { fields, lanes_per_scale, lanes_per_group, unpack, steps: w.k.div_ceil(4 * fields * LANES) }
    }

    /// Values of K in a lane.
    pub fn values(&self) -> usize {
        4 * self.fields
    }

    /// Entries of one row, those past the end included.
    pub fn entries(&self) -> usize {
        self.steps * LANES / self.lanes_per_scale + LANES
    }

    /// How many rows [`Lanes::codes`] is asked for at a time: all, or where they are copied a few, which stay in the nearest cache.
    pub fn rows_at_once(&self, w: &Weights, rows: usize) -> usize {
        if self.in_place(w) { rows } else { rows.min(4) }
    }

    /// Whether [`Lanes::codes`] are where they lie.
    pub fn in_place(&self, w: &Weights) -> bool {
        !self.unpack && w.low_rows(0..0).1 == 4 * LANES * self.steps
    }

    /// The words of rows, whole steps, `[rows, steps]`: where they lie, or a copy in `scratch`.
    pub fn codes<'a>(
        &self,
        level: Level,
        w: &Weights<'a>,
        rows: Range<usize>,
        scratch: &'a mut Vec<u32>,
    ) -> &'a [u8] {
        if self.in_place(w) {
            return w.low_rows(rows).0;
        }
        let words = LANES * self.steps;
        scratch.resize(words * rows.len(), 0);
        for (row, out) in rows.zip(scratch.chunks_mut(words)) {
            if self.unpack {
                vectorized_at(level, Unpack { w, row, out: &mut out[..w.k.div_ceil(4)] });
            } else {
                let (plane, out) = (w.low(row), bytemuck::cast_slice_mut(out));
                let n = plane.len().min(out.len());
                out[..n].copy_from_slice(&plane[..n]);
            }
        }
        bytemuck::cast_slice(scratch)
    }

    /// Groups of a row to entries.
    #[inline(always)]
    fn spread<T: Copy, U: Copy>(&self, groups: &[T], entries: &mut [U], f: impl Fn(T) -> U) {
        let repeat = self.lanes_per_group / self.lanes_per_scale;
        match groups {
            [one] => entries.fill(f(*one)),
            _ if repeat == 1 => entries.iter_mut().zip(groups).for_each(|(e, &g)| *e = f(g)),
            _ => entries.chunks_mut(repeat).zip(groups).for_each(|(e, &g)| e.fill(f(g))),
        }
    }
}

/// Entries of [`RowBlock::group_bias`] per row: a multiple of [`LANES`], 0 without biases.
pub(super) fn bias_entries(w: &Weights) -> usize {
    if w.has_correction() { w.groups_per_row.next_multiple_of(LANES) } else { 0 }
}

/// Entries of a block of rows, `[rows, entries]` each. Reused from block to block.
#[derive(Default)]
pub(super) struct RowBlock {
    pub scale: Vec<f32>,
    /// Zero-points; empty without.
    pub zero: Vec<i32>,
    /// Zero-points (or float zeros) and offset as numbers, where asked for.
    pub minus: Vec<f32>,
    /// Biases by entry, where asked for; empty without.
    pub bias: Vec<f32>,
    /// Biases by group, `-(scale * zero)` for float zeros, `[rows, bias_entries]`, padded with zeros; empty without.
    pub group_bias: Vec<f32>,
    groups: Groups,
}

/// What a [`RowBlock`] is to hold.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// What scales are multiplied with, a power of two.
    pub unit: f32,
    /// Fill `minus`: what to subtract from codes.
    pub minus: bool,
    /// Fill `bias`.
    pub bias: bool,
}

struct Prepare<'a> {
    w: &'a Weights<'a>,
    lanes: &'a Lanes,
    rows: Range<usize>,
    wanted: Wanted,
    to: &'a mut RowBlock,
}

impl Work for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { w, lanes, rows, wanted, to } = self;
        let n = lanes.entries();
        let has_zero = w.scheme.zero == Zero::Point;
        let float_zero = w.scheme.zero == Zero::Float;
        to.scale.resize(rows.len() * n, 0.0);
        to.zero.resize(if has_zero { rows.len() * n } else { 0 }, 0);
        to.minus.resize(if wanted.minus { rows.len() * n } else { 0 }, 0.0);
        to.bias.resize(if wanted.bias && w.has_bias() { rows.len() * n } else { 0 }, 0.0);
        to.group_bias.resize(rows.len() * bias_entries(w), 0.0);
        let offset = w.offset();
        for (i, row) in rows.enumerate() {
            let range = i * n..(i + 1) * n;
            let unit = wanted.unit;
            if lanes.lanes_per_group == lanes.lanes_per_scale && w.groups_per_row > 1 {
                // An entry per group.
                let scale = &mut to.scale[range.clone()][..w.groups_per_row];
                w.scales(row, scale);
                if unit != 1.0 {
                    scale.iter_mut().for_each(|s| *s *= unit);
                }
            } else {
                to.groups.scale.resize(w.groups_per_row, 0.0);
                w.scales(row, &mut to.groups.scale);
                lanes.spread(&to.groups.scale, &mut to.scale[range.clone()], |s| s * unit);
            }
            if has_zero {
                to.groups.zero.resize(w.groups_per_row, 0);
                w.zeros(row, &mut to.groups.zero);
                lanes.spread(&to.groups.zero, &mut to.zero[range.clone()], |z| z);
            }
            if float_zero {
                to.groups.float_zero.resize(w.groups_per_row, 0.0);
                w.float_zeros(row, &mut to.groups.float_zero);
            }
            if wanted.minus {
                let minus = &mut to.minus[range.clone()];
                if has_zero {
                    lanes.spread(&to.groups.zero, minus, |z| (z + offset) as f32);
                } else if float_zero {
                    lanes.spread(&to.groups.float_zero, minus, |z| z);
                } else {
                    minus.fill(offset as f32);
                }
            }
            let biases = bias_entries(w);
            if biases > 0 {
                let bias = &mut to.group_bias[i * biases..][..w.groups_per_row];
                if float_zero {
                    w.scales(row, bias);
                    bias.iter_mut().zip(&to.groups.float_zero).for_each(|(b, z)| *b = -(*b * z));
                } else {
                    w.biases(row, bias);
                    if wanted.bias {
                        lanes.spread(bias, &mut to.bias[range], |b| b);
                    }
                }
            }
        }
    }
}

struct Unpack<'a> {
    w: &'a Weights<'a>,
    row: usize,
    out: &'a mut [u32],
}

impl Work for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.w.codes(self.row, self.out);
    }
}

impl RowBlock {
    /// Prepares the entries of `rows`.
    pub fn prepare(&mut self, level: Level, w: &Weights, lanes: &Lanes, rows: Range<usize>, wanted: Wanted) {
        vectorized_at(level, Prepare { w, lanes, rows, wanted, to: self });
    }
}
