//! Products with int8 activations for schemes whose codes stand for small integers.
//!
//! ```text
//! value = (u - offset) * unit          u: a byte made of the code;  offset: the format's, plus the zero-point
//! w = scale * value + bias             a float zero is the bias -(scale * zero)
//! sum_k w q a = sum over segments of  scale * a * (sum u q - offset sum q)  +  bias * (a sum q)
//!
//! few rows of x:   row by row, lanes along K, x laid out as the words of the code plane want it     (dot::int_rows)
//! many:            panels of weight rows, transposed in words of four codes                          (dot::int_panel)
//! ```
//!
//! Sums in parentheses are exact. A weight row is unpacked once for all rows of x; with one code plane, in registers.

use super::activations::{Int8Rows, Segment, segments};
use super::decode::Weights;
use super::dot::{self, IntPanel, IntRow, IntTile, IntX, LANES, ROWS_MR, ROWS_NW, Words};
use super::float::BLOCK;
use super::lanes::{Lanes, RowBlock, Wanted, bias_entries};
use super::level::Level;
use super::panel::Panel;
use crate::scheme::{Value, Zero};
use crate::threads;
use std::ops::Range;

/// Up to this many rows of x are multiplied row by row. Panels of bytes are made sooner than those of codes that have to be taken apart.
fn few_rows(w: &Weights) -> usize {
    if w.scheme.bits == 8 { 2 } else { 4 }
}

/// How codes become bytes.
pub(super) struct Bytes {
    /// u by code, where u is not the code itself.
    map: Option<[u8; 16]>,
    offset: i32,
    unit: f32,
}

impl Bytes {
    /// None for schemes whose values are no small integers times a power of two.
    pub fn of(w: &Weights) -> Option<Self> {
        let unit = w.scheme.integer_unit()?;
        if let Value::Linear { step, offset } = w.scheme.value {
            let map = (step != 1).then(|| std::array::from_fn(|c| (step as usize * c) as u8));
            return Some(Self { map, offset, unit });
        }
        let map = std::array::from_fn(|c| (w.table[c] / unit) as i32 as i8 as u8 ^ 0x80);
        Some(Self { map: Some(map), offset: 128, unit })
    }
}

/// The right-hand side of a product: everything about x and K that all weight rows share.
struct Shared<'a> {
    level: Level,
    w: &'a Weights<'a>,
    bytes: &'a Bytes,
    x: &'a Int8Rows,
    segments: Vec<Segment>,
    /// Zero-points differ between groups.
    zero: bool,
}

impl Shared<'_> {
    /// What integer sums start from, given the sum of x codes: with zero-points, what they are multiplied with.
    fn init(&self, sum: i32) -> i32 {
        if self.zero { -sum } else { -sum * self.bytes.offset }
    }
}

fn code_sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&c| i32::from(c)).sum()
}

/// Sums of products as blocks `[N / BLOCK][M][BLOCK]`, for the weight rows `rows`.
pub(super) fn sums(level: Level, w: &Weights, bytes: &Bytes, x: &Int8Rows, rows: Range<usize>) -> Vec<f32> {
    let segments = segments(w.k, w.group_len, x.group);
    let shared = Shared { level, w, bytes, x, segments, zero: w.scheme.zero == Zero::Point };
    let mut sums = vec![0f32; rows.len().div_ceil(BLOCK) * x.rows * BLOCK];
    let work = rows.len() * w.k * x.rows;
    let tasks: Vec<_> = sums
        .chunks_mut(x.rows * BLOCK)
        .zip(threads::ranges(rows.len(), BLOCK))
        .map(|(out, r)| (out, rows.start + r.start..rows.start + r.end))
        .collect();
    if x.rows <= few_rows(w) {
        let few = Few::new(shared);
        threads::for_each_with(
            tasks,
            work,
            <(RowBlock, [Vec<u32>; ROWS_NW])>::default,
            |(entries, codes), (out, rows)| few.block(entries, codes, rows, out),
        );
    } else {
        let many = Many::new(shared);
        let nr = dot::int_tile(level).nr;
        threads::for_each_with(
            tasks,
            work,
            || Panel::new(nr),
            |panel, (out, rows)| many.block(panel, rows, out),
        );
    }
    sums
}

/// Few rows of x.
struct Few<'a> {
    shared: Shared<'a>,
    lanes: Lanes,
    /// `[M, steps, fields]`, `[M, steps]` and `[M, steps]`, see [`IntX`].
    codes: Vec<Words>,
    init: Vec<Words>,
    scale: Vec<Words>,
    /// `[M, bias_entries]`: x summed over each group of the weights.
    sum: Vec<f32>,
}

impl<'a> Few<'a> {
    fn new(shared: Shared<'a>) -> Self {
        let (x, w) = (shared.x, shared.w);
        let lanes = Lanes::of(w, x.group);
        let words = |per_step: usize| Vec::with_capacity(x.rows * lanes.steps * per_step);
        let (codes, init, scale) = (words(lanes.fields), words(1), words(1));
        let mut few = Self { lanes, codes, init, scale, sum: Vec::new(), shared };
        for m in 0..x.rows {
            let (codes, scales) = x.row(m);
            let quads = codes.as_chunks::<4>().0;
            let quad = |i: usize| quads.get(i).copied().unwrap_or_default();
            for first in (0..lanes.steps).map(|t| t * LANES) {
                let mut sums = [0i32; LANES];
                for f in 0..lanes.fields {
                    let fours: [[i8; 4]; LANES] =
                        std::array::from_fn(|l| quad((first + l) * lanes.fields + f));
                    sums.iter_mut().zip(&fours).for_each(|(s, four)| *s += code_sum(four));
                    few.codes.push(Words(fours.map(|four| u32::from_le_bytes(four.map(|c| c as u8)))));
                }
                few.init.push(Words(sums.map(|sum| few.shared.init(sum) as u32)));
                // Lanes of padding hold zeros; a NaN may not reach them by a group that does not exist.
                let group = |l: usize| (first + l) * lanes.values() / x.group;
                let scale = |l: usize| scales.get(group(l)).copied().unwrap_or(0.0);
                few.scale.push(Words(std::array::from_fn(|l| scale(l).to_bits())));
            }
            if w.has_correction() {
                let first = few.sum.len();
                few.sum.resize(first + bias_entries(w), 0.0);
                for s in &few.shared.segments {
                    few.sum[first + s.w_group] += scales[s.x_group] * code_sum(&codes[s.start..s.end]) as f32;
                }
            }
        }
        few
    }

    fn block(
        &self,
        of_rows: &mut RowBlock,
        codes: &mut [Vec<u32>; ROWS_NW],
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        let Shared { level, w, bytes, x, .. } = self.shared;
        let Lanes { fields, lanes_per_scale, steps, .. } = self.lanes;
        let entries = self.lanes.entries();
        let wanted = Wanted { unit: bytes.unit, minus: false, bias: false };
        of_rows.prepare(level, w, &self.lanes, rows.clone(), wanted);
        let groups = bias_entries(w);
        let RowBlock { scale, zero, group_bias, .. } = of_rows;
        let int_row = |n: usize| IntRow {
            codes: &[],
            fields,
            map: bytes.map.as_ref(),
            lanes_per_scale,
            scale: &scale[n * entries..(n + 1) * entries],
            zero: zero.get(n * entries..(n + 1) * entries).unwrap_or_default(),
            bias: &group_bias[n * groups..(n + 1) * groups],
        };
        // Some at a time; a last few are filled up with the last of them, which is not kept.
        for n in (0..rows.len()).step_by(ROWS_NW) {
            let count = (rows.len() - n).min(ROWS_NW);
            let mut i = n;
            let some = codes.each_mut().map(|scratch| {
                let at = i.min(rows.len() - 1);
                i += 1;
                IntRow { codes: self.lanes.codes(level, w, rows.start + at, scratch), ..int_row(at) }
            });
            for m in (0..x.rows).step_by(ROWS_MR) {
                let mr = (x.rows - m).min(ROWS_MR);
                let part = IntX {
                    steps,
                    codes: &self.codes[m * steps * fields..(m + mr) * steps * fields],
                    init: &self.init[m * steps..(m + mr) * steps],
                    scale: &self.scale[m * steps..(m + mr) * steps],
                    sum: &self.sum[m * groups..(m + mr) * groups],
                };
                let mut y = [[0f32; ROWS_MR]; ROWS_NW];
                dot::int_rows(level, &some[..count], part, mr, &mut y[..count]);
                for (i, y) in y[..count].iter().enumerate() {
                    for (j, y) in y[..mr].iter().enumerate() {
                        out[(m + j) * BLOCK + n + i] = *y;
                    }
                }
            }
        }
    }
}

/// Many rows of x, in tiles of `mr`.
struct Many<'a> {
    shared: Shared<'a>,
    /// Words at which segments end.
    ends: Vec<u32>,
    tiles: Vec<OwnedTile>,
}

/// The parts of an [`IntTile`].
struct OwnedTile {
    mr: usize,
    codes: Vec<u32>,
    scale: Vec<f32>,
    init: Vec<i32>,
    sum: Vec<f32>,
}

impl<'a> Many<'a> {
    fn new(shared: Shared<'a>) -> Self {
        let (x, segments) = (shared.x, &shared.segments);
        let mr = dot::int_tile(shared.level).mr;
        let words = x.padded / 4;
        let tile = |range: Range<usize>| {
            let mr = range.len();
            let per_segment = segments.len() * mr;
            let mut tile = OwnedTile {
                mr,
                codes: vec![0; words * mr],
                scale: vec![0.0; per_segment],
                init: vec![0; per_segment],
                sum: vec![0.0; per_segment],
            };
            for (m, row) in range.enumerate() {
                let (codes, scales) = x.row(row);
                for (i, four) in codes.as_chunks::<4>().0.iter().enumerate() {
                    tile.codes[i * mr + m] = u32::from_le_bytes(four.map(|c| c as u8));
                }
                for (i, s) in segments.iter().enumerate() {
                    let sum = code_sum(&codes[s.start..s.end]);
                    tile.scale[i * mr + m] = scales[s.x_group];
                    tile.init[i * mr + m] = shared.init(sum);
                    tile.sum[i * mr + m] = scales[s.x_group] * sum as f32;
                }
            }
            tile
        };
        let tiles = threads::map(threads::ranges(x.rows, mr), x.codes.len(), tile);
        let ends = segments.iter().map(|s| s.end.div_ceil(4) as u32).collect();
        Self { shared, ends, tiles }
    }

    fn block(&self, panel: &mut Panel, rows: Range<usize>, out: &mut [f32]) {
        let Shared { level, w, bytes, .. } = self.shared;
        let segments = &self.shared.segments;
        let nr = dot::int_tile(level).nr;
        // Segments are the groups themselves, or parts of them.
        let by_segment = segments.len() != w.groups_per_row;
        let (mut scale, mut zero, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for first in rows.clone().step_by(nr) {
            // Columns beyond the last row repeat it and are not part of the product.
            panel.load(level, w, first..rows.end);
            if let Some(map) = &bytes.map {
                dot::map_bytes(level, map, &mut panel.codes);
            }
            if bytes.unit != 1.0 {
                panel.scale.iter_mut().for_each(|s| *s *= bytes.unit);
            }
            if !panel.float_zero.is_empty() {
                panel.bias.clear();
                panel.bias.extend(panel.scale.iter().zip(&panel.float_zero).map(|(s, z)| -(s * z)));
            }
            if by_segment {
                for_segments(segments, nr, &panel.scale, &mut scale);
                for_segments(segments, nr, &panel.zero, &mut zero);
                for_segments(segments, nr, &panel.bias, &mut bias);
            }
            let operand = IntPanel {
                codes: &panel.codes,
                scale: if by_segment { &scale } else { &panel.scale },
                zero: if by_segment { &zero } else { &panel.zero },
                bias: if by_segment { &bias } else { &panel.bias },
            };
            let mut m = 0;
            for t in &self.tiles {
                let tile = IntTile { mr: t.mr, codes: &t.codes, scale: &t.scale, init: &t.init, sum: &t.sum };
                let at = m * BLOCK + (first - rows.start);
                dot::int_panel(level, &self.ends, operand, tile, &mut out[at..], BLOCK);
                m += t.mr;
            }
        }
    }
}

/// Rows of `nr` by group to rows by segment.
fn for_segments<T: Copy>(segments: &[Segment], nr: usize, groups: &[T], out: &mut Vec<T>) {
    out.clear();
    if !groups.is_empty() {
        segments.iter().for_each(|s| out.extend_from_slice(&groups[s.w_group * nr..(s.w_group + 1) * nr]));
    }
}
