//! Products with int8 activations for schemes whose codes stand for small integers.
//!
//! ```text
//! value = (u - offset) * unit          u: a byte made of the code;  offset: the format's, plus the zero-point
//! w = scale * value + bias             a float zero is the bias -(scale * zero)
//! sum_k w q a = sum over segments of  scale * a * (sum u q - offset sum q)  +  bias * (a sum q)
//!
//! few rows of x:   row by row, lanes along K, x laid out as the words of the code plane want it     (dot::int_rows)
//! many:            panels of weight rows, transposed in words of four codes                          (dot::int_panel)
//! one segment:     as few rows; with AVX-512 many too                                                (dot::int_sums)
//! ```
//!
//! Sums in parentheses are exact. A weight row is unpacked once for all rows of x; with one code plane, in registers.

use super::activations::{Int8Rows, Segment, segments};
use super::decode::Weights;
use super::dot::{self, IntPanel, IntRows, IntTile, IntX, LANES, ROWS_MR, SUMS_MR, Words};
use super::float::BLOCK;
use super::lanes::{Lanes, RowBlock, Wanted, bias_entries};
use super::level::Level;
use super::panel::Panel;
use crate::recycle::{self, Recycled};
use crate::scheme::{Value, Zero};
use crate::threads;
use std::ops::Range;

/// Up to this many rows of x are multiplied row by row, in passes of [`ROWS_MR`] or [`SUMS_MR`]. Panels of bytes are made sooner than those of codes that
/// have to be taken apart. A row that is one segment is scaled only once: nothing is gained by turning it, where registers hold the sums of several rows of
/// both sides.
fn few_rows(level: Level, w: &Weights, segments: &[Segment]) -> usize {
    match (segments, w.scheme.bits) {
        ([_], _) if dot::sums_many(level) => usize::MAX,
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

/// Whether each of many rows of x meets the weights as they lie, so that nothing is gained by taking more of them at once.
pub(super) fn is_direct(level: Level, w: &Weights, x_group: usize) -> bool {
    let single = segments(w.k, w.group_len, x_group).len() == 1;
    single && dot::sums_many(level) && Lanes::of(w, x_group).in_place(w)
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
pub(super) fn sums(level: Level, w: &Weights, bytes: &Bytes, x: &Int8Rows, rows: Range<usize>) -> Recycled {
    let segments = segments(w.k, w.group_len, x.group);
    let shared = Shared { level, w, bytes, x, segments, zero: w.scheme.zero == Zero::Point };
    let mut sums = Recycled::from(recycle::any(rows.len().div_ceil(BLOCK) * x.rows * BLOCK));
    let work = rows.len() * w.k * x.rows;
    let tasks: Vec<_> = sums
        .chunks_mut(x.rows * BLOCK)
        .zip(threads::ranges(rows.len(), BLOCK))
        .map(|(out, r)| (out, rows.start + r.start..rows.start + r.end))
        .collect();
    if x.rows <= few_rows(level, w, &shared.segments) {
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
    passes: Vec<Pass>,
}

/// Rows of x that meet a weight row together.
struct Pass {
    rows: Range<usize>,
    /// `[rows, steps, fields]`, or `[steps, fields, rows]` where there is one segment, `[rows, steps]` and `[rows, entries]`: see [`IntX`].
    codes: Vec<Words>,
    init: Vec<Words>,
    scale: Vec<f32>,
    /// `[rows, bias_entries]`: x summed over each group of the weights.
    sum: Vec<f32>,
    /// `[rows]`: what the one segment's sum starts from, where there is one.
    whole: Option<Vec<i32>>,
}

impl Pass {
    fn new(shared: &Shared, lanes: &Lanes, rows: Range<usize>) -> Self {
        let (x, w) = (shared.x, shared.w);
        let (steps, fields) = (lanes.steps, lanes.fields);
        let mut codes = vec![Words([0; LANES]); rows.len() * steps * fields];
        let mut init = Vec::new();
        let (mut scale, mut sum) = (Vec::with_capacity(rows.len() * lanes.entries()), Vec::new());
        let mut whole = (shared.segments.len() == 1).then(Vec::new);
        for (i, m) in rows.clone().enumerate() {
            let (row, scales) = x.row(m);
            let quads = row.as_chunks::<4>().0;
            let quad = |i: usize| quads.get(i).copied().unwrap_or_default();
            let word = |step: usize, f: usize| -> [[i8; 4]; LANES] {
                std::array::from_fn(|l| quad((step * LANES + l) * fields + f))
            };
            // Beside those of the other rows, or behind them.
            let (first, next) = if whole.is_some() { (i, rows.len()) } else { (i * steps * fields, 1) };
            let to = codes[first..].iter_mut().step_by(next);
            if fields == 1 {
                let lines = row.as_chunks::<{ 4 * LANES }>().0;
                to.zip(lines).for_each(|(to, line)| to.0 = bytemuck::must_cast(*line));
            } else {
                let words = (0..steps).flat_map(|step| (0..fields).map(move |f| (step, f)));
                let pack = |four: [i8; 4]| u32::from_ne_bytes(four.map(|c| c as u8));
                to.zip(words).for_each(|(to, (step, f))| to.0 = word(step, f).map(pack));
            }
            if whole.is_none() {
                for step in 0..steps {
                    let mut sums = [0i32; LANES];
                    for f in 0..fields {
                        sums.iter_mut().zip(word(step, f)).for_each(|(s, four)| *s += code_sum(&four));
                    }
                    init.push(Words(sums.map(|sum| shared.init(sum) as u32)));
                }
            }
            // Lanes of padding hold zeros; a NaN may not reach them by a group that does not exist.
            let group = |entry: usize| entry * lanes.lanes_per_scale * lanes.values() / x.group;
            scale.extend((0..lanes.entries()).map(|entry| scales.get(group(entry)).copied().unwrap_or(0.0)));
            if let Some(whole) = &mut whole {
                whole.push(shared.init(code_sum(row)));
            }
            if w.has_correction() {
                let first = sum.len();
                sum.resize(first + bias_entries(w), 0.0);
                for s in &shared.segments {
                    sum[first + s.w_group] += scales[s.x_group] * code_sum(&row[s.start..s.end]) as f32;
                }
            }
        }
        Self { rows, codes, init, scale, sum, whole }
    }
}

impl<'a> Few<'a> {
    fn new(shared: Shared<'a>) -> Self {
        let (x, lanes) = (shared.x, Lanes::of(shared.w, shared.x.group));
        let most = if shared.segments.len() == 1 { SUMS_MR } else { ROWS_MR };
        // As equal as they can be.
        let rows = threads::ranges(x.rows, x.rows.div_ceil(x.rows.div_ceil(most)));
        let passes = threads::map(rows, x.codes.len(), |rows| Pass::new(&shared, &lanes, rows));
        Self { shared, lanes, passes }
    }

    fn block(&self, of_rows: &mut RowBlock, codes: &mut Vec<u32>, rows: Range<usize>, out: &mut [f32]) {
        let Shared { level, w, bytes, .. } = self.shared;
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
            for Pass { rows, codes, init, scale, sum, whole } in &self.passes {
                let out = &mut out[rows.start * BLOCK + n.start..];
                let x = IntX { steps, codes, init, scale, sum };
                match whole {
                    None => dot::int_rows(level, some, x, rows.len(), out, BLOCK),
                    Some(init) => whole_rows(level, some, x, init, out),
                }
            }
        }
    }
}

/// [`dot::int_rows`] with a block's stride where rows are one segment: scaled once. `init` is what sums start from.
fn whole_rows(level: Level, w: IntRows, x: IntX, init: &[i32], out: &mut [f32]) {
    let mut sums = [0i32; SUMS_MR * BLOCK];
    dot::int_sums(level, w, x, init.len(), &mut sums, BLOCK);
    let first = |all: &[f32]| -> [f32; BLOCK] {
        let size = all.len() / w.rows;
        std::array::from_fn(|n| all.get(n * size).filter(|_| n < w.rows).copied().unwrap_or(0.0))
    };
    let (w_scale, bias) = (first(w.scale), first(w.bias));
    let zero_entries = w.zero.len() / w.rows;
    let (x_entries, x_biases) = (x.scale.len() / init.len(), x.sum.len() / init.len());
    let rows = out.chunks_mut(BLOCK).zip(sums.as_chunks_mut::<BLOCK>().0).zip(init).enumerate();
    for (m, ((out, sums), init)) in rows {
        if zero_entries == 0 {
            sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(*init));
        } else {
            let zeros = w.zero.iter().step_by(zero_entries);
            sums.iter_mut().zip(zeros).for_each(|(sum, zero)| *sum = sum.wrapping_add(zero * init));
        }
        let x_scale = x.scale[m * x_entries];
        let values = sums.iter().zip(&w_scale).map(|(&sum, scale)| sum as f32 * (scale * x_scale));
        out.iter_mut().zip(values).take(w.rows).for_each(|(y, value)| *y = value);
        if x_biases > 0 {
            let x_sum = x.sum[m * x_biases];
            out.iter_mut().zip(&bias).take(w.rows).for_each(|(y, bias)| *y += bias * x_sum);
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
