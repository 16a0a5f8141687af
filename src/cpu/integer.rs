//! Products with int8 activations for schemes whose codes stand for small integers.
//!
//! ```text
//! value = (u - offset) * unit          u: a byte made of the code;  offset: the format's, plus the zero-point
//! w = scale * value + bias             a float zero is the bias -(scale * zero)
//! sum_k w q a = sum over segments of  scale * a * (sum u q - offset sum q)  +  bias * (a sum q)
//!
//! few rows of x:   row by row, lanes along K, x laid out as the words of the code plane want it     (dot::int_rows; dot::int_sums with one
//!                  segment)
//! many:            panels of weight rows, transposed in words of four codes                          (dot::int_panel)
//! ```
//!
//! Sums in parentheses are exact. A weight row is unpacked once for all rows of x; with one code plane, in registers.

use super::activations::{Int8Rows, Segment, segments};
use super::decode::Weights;
use super::dot::{self, IntPanel, IntRows, IntTile, IntX, LANES, ROWS_MR, Words};
use super::float::BLOCK;
use super::lanes::{Lanes, RowBlock, Wanted, bias_entries};
use super::level::Level;
use super::panel::Panel;
use crate::scheme::{Value, Zero};
use crate::threads;
use std::ops::Range;

/// Up to this many rows of x are multiplied row by row, in passes of [`ROWS_MR`]. Panels of bytes are made sooner than those of codes that have to be
/// taken apart; a row that is one segment is scaled only once.
fn few_rows(w: &Weights, segments: &[Segment]) -> usize {
    match (segments, w.scheme.bits) {
        ([_], _) => 8,
        (_, 8) => 4,
        _ => 6,
    }
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
    if x.rows <= few_rows(w, &shared.segments) {
        let few = Few::new(shared);
        threads::for_each_with(
            tasks,
            work,
            <(RowBlock, Vec<u32>)>::default,
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
    /// `[M, steps, fields]`, `[M, steps]` and `[M, entries]`, see [`IntX`].
    codes: Vec<Words>,
    init: Vec<Words>,
    scale: Vec<f32>,
    /// `[M, bias_entries]`: x summed over each group of the weights.
    sum: Vec<f32>,
    /// `[M]`: what the one segment's sum starts from, where there is one.
    whole: Option<Vec<i32>>,
}

impl<'a> Few<'a> {
    fn new(shared: Shared<'a>) -> Self {
        let (x, w) = (shared.x, shared.w);
        let lanes = Lanes::of(w, x.group);
        let words = |per_step: usize| Vec::with_capacity(x.rows * lanes.steps * per_step);
        let (codes, init) = (words(lanes.fields), words(1));
        let scale = Vec::with_capacity(x.rows * lanes.entries());
        let whole = (shared.segments.len() == 1).then(Vec::new);
        let mut few = Self { lanes, codes, init, scale, sum: Vec::new(), whole, shared };
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
            }
            // Lanes of padding hold zeros; a NaN may not reach them by a group that does not exist.
            let group = |entry: usize| entry * lanes.lanes_per_scale * lanes.values() / x.group;
            let scale = |entry: usize| scales.get(group(entry)).copied().unwrap_or(0.0);
            few.scale.extend((0..lanes.entries()).map(scale));
            if let Some(whole) = &mut few.whole {
                whole.push(few.shared.init(code_sum(codes)));
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

    fn block(&self, of_rows: &mut RowBlock, codes: &mut Vec<u32>, rows: Range<usize>, out: &mut [f32]) {
        let Shared { level, w, bytes, x, .. } = self.shared;
        let Lanes { fields, lanes_per_scale, steps, .. } = self.lanes;
        let (entries, groups) = (self.lanes.entries(), bias_entries(w));
        let wanted = Wanted { unit: bytes.unit, minus: false, bias: false };
        of_rows.prepare(level, w, &self.lanes, rows.clone(), wanted);
        for n in threads::ranges(rows.len(), self.lanes.rows_at_once(w, rows.len())) {
            let of = |size: usize| n.start * size..n.end * size;
            let some = IntRows {
                rows: n.len(),
                codes: self.lanes.codes(level, w, rows.start + n.start..rows.start + n.end, codes),
                fields,
                map: bytes.map.as_ref(),
                lanes_per_scale,
                scale: &of_rows.scale[of(entries)],
                zero: of_rows.zero.get(of(entries)).unwrap_or_default(),
                bias: &of_rows.group_bias[of(groups)],
            };
            for m in threads::ranges(x.rows, ROWS_MR) {
                let of = |size: usize| m.start * size..m.end * size;
                let part = IntX {
                    steps,
                    codes: &self.codes[of(steps * fields)],
                    init: &self.init[of(steps)],
                    scale: &self.scale[of(entries)],
                    sum: &self.sum[of(groups)],
                };
                let out = &mut out[m.start * BLOCK + n.start..];
                match &self.whole {
                    None => dot::int_rows(level, some, part, m.len(), out, BLOCK),
                    Some(init) => whole_rows(level, some, part, &init[m], out),
                }
            }
        }
    }
}

/// [`dot::int_rows`] with a blocks's stride where rows are one segment: scaled once. `init` is what sums start from.
fn whole_rows(level: Level, w: IntRows, x: IntX, init: &[i32], out: &mut [f32]) {
    let mut sums = [0i32; ROWS_MR * BLOCK];
    dot::int_sums(level, w, x, init.len(), &mut sums, BLOCK);
    let (w_entries, biases) = (w.scale.len() / w.rows, w.bias.len() / w.rows);
    let x_entries = x.scale.len() / init.len();
    for (m, init) in init.iter().enumerate() {
        for n in 0..w.rows {
            let start = w.zero.get(n * w_entries).map_or(*init, |zero| zero * init);
            let scale = w.scale[n * w_entries] * x.scale[m * x_entries];
            let y = &mut out[m * BLOCK + n];
            *y = start.wrapping_add(sums[m * BLOCK + n]) as f32 * scale;
            if biases > 0 {
                *y += w.bias[n * biases] * x.sum[m * biases];
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
