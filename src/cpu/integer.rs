//! Products with int8 activations for schemes whose codes stand for small integers.
//!
//! ```text
//! value = (u - offset) * unit          u: a byte made of the code;  offset: the format's, plus the zero-point
//! w = scale * value + bias
//! sum_k w q a = sum over segments of  scale * a * (sum u q - offset sum q)  +  bias * (a sum q)
//!
//! few rows of x:   row by row, lanes along K        (dot::int_rows), biases in LANES chains over segments
//! many:            panels of weight rows, transposed in words of four codes        (dot::int_panel)
//! ```
//!
//! Sums in parentheses are exact. A weight row is unpacked once for all rows of x.

use super::activations::{Int8Rows, Segment, segments};
use super::decode::{Groups, Weights};
use super::dot::{self, IntPanel, IntRow, IntTile, IntX, LANES, ROWS_MR};
use super::float::BLOCK;
use super::level::{Level, Work, vectorized_at};
use super::threads;
use crate::scheme::{Codebook, Value, Zero};
use std::ops::Range;

/// Up to this many rows of x are multiplied row by row.
const FEW_ROWS: usize = 3;

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
        let unit = match w.scheme.value {
            Value::Linear { step: 1, offset } => return Some(Self { map: None, offset, unit: 1.0 }),
            Value::Linear { step, offset } if w.scheme.bits <= 4 => {
                let map = std::array::from_fn(|c| (step as usize * c) as u8);
                return Some(Self { map: Some(map), offset, unit: 1.0 });
            }
            Value::Codebook(Codebook::E2M1) => 0.5,
            Value::Codebook(Codebook::E2M1Doubled | Codebook::Iq4Nl) => 1.0,
            _ => return None,
        };
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
    if x.rows <= FEW_ROWS {
        let few = Few::new(shared);
        threads::for_each(tasks, work, |(out, rows)| few.block(rows, out));
    } else {
        let many = Many::new(shared);
        threads::for_each(tasks, work, |(out, rows)| many.block(rows, out));
    }
    sums
}

/// Codes of one row as bytes, padded with zeros.
struct UnpackRow<'a> {
    w: &'a Weights<'a>,
    bytes: &'a Bytes,
    row: usize,
    groups: &'a mut Groups,
    out: &'a mut [u8],
}

impl Work for UnpackRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { w, bytes, row, groups, out } = self;
        let n = w.k.next_multiple_of(4);
        w.groups(row, groups);
        w.codes(row, &mut out[..n]);
        out[n..].fill(0);
        if let Some(map) = &bytes.map {
            out.iter_mut().for_each(|u| *u = map[usize::from(*u & 15)]);
        }
        if bytes.unit != 1.0 {
            groups.scale.iter_mut().for_each(|s| *s *= bytes.unit);
        }
    }
}

/// Few rows of x.
struct Few<'a> {
    shared: Shared<'a>,
    words: usize,
    /// `[M, words]`
    scale: Vec<f32>,
    init: Vec<i32>,
    /// `[M, segments]`
    sum: Vec<f32>,
}

impl<'a> Few<'a> {
    fn new(shared: Shared<'a>) -> Self {
        let x = shared.x;
        let words = x.padded / 4;
        let (mut scale, mut init) = (vec![0f32; x.rows * words], vec![0i32; x.rows * words]);
        let mut sum = Vec::new();
        for m in 0..x.rows {
            let (codes, scales) = x.row(m);
            for (i, four) in codes.chunks(4).enumerate() {
                // Words of padding hold zeros; a NaN of the last group may not reach them by a group that does not exist.
                scale[m * words + i] = scales.get(4 * i / x.group).copied().unwrap_or(0.0);
                init[m * words + i] = shared.init(code_sum(four));
            }
            let of = |s: &Segment| scales[s.x_group] * code_sum(&codes[s.start..s.end]) as f32;
            sum.extend(shared.segments.iter().map(of));
        }
        Self { shared, words, scale, init, sum }
    }

    fn block(&self, rows: Range<usize>, out: &mut [f32]) {
        let Shared { level, w, bytes, x, .. } = self.shared;
        let words = self.words;
        let (mut groups, mut codes) = (Groups::default(), vec![0u8; x.padded]);
        let (mut scale, mut zero) = (vec![0f32; words], vec![0i32; if self.shared.zero { words } else { 0 }]);
        let per_group = w.group_len.div_ceil(4);
        for (n, row) in rows.enumerate() {
            vectorized_at(level, UnpackRow { w, bytes, row, groups: &mut groups, out: &mut codes });
            scale.chunks_mut(per_group).zip(&groups.scale).for_each(|(to, &s)| to.fill(s));
            zero.chunks_mut(per_group).zip(&groups.offset).for_each(|(to, &z)| to.fill(z));
            let row = IntRow { codes: &codes, scale: &scale, zero: &zero };
            for m in (0..x.rows).step_by(ROWS_MR) {
                let mr = (x.rows - m).min(ROWS_MR);
                let part = IntX {
                    words,
                    codes: &x.codes[m * x.padded..(m + mr) * x.padded],
                    scale: &self.scale[m * words..(m + mr) * words],
                    init: &self.init[m * words..(m + mr) * words],
                };
                let mut y = [0f32; ROWS_MR];
                dot::int_rows(level, row, part, &mut y[..mr]);
                for (i, y) in y[..mr].iter().enumerate() {
                    out[(m + i) * BLOCK + n] = y + self.bias(&groups, m + i);
                }
            }
        }
    }

    /// The part of the biases, in lanes over segments.
    fn bias(&self, groups: &Groups, m: usize) -> f32 {
        if groups.bias.is_empty() {
            return 0.0;
        }
        let segments = &self.shared.segments;
        let mut lanes = [0f32; LANES];
        for (i, (s, sum)) in segments.iter().zip(&self.sum[m * segments.len()..]).enumerate() {
            lanes[i % LANES] += groups.bias[s.w_group] * sum;
        }
        dot::join_lanes(lanes)
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

    fn block(&self, rows: Range<usize>, out: &mut [f32]) {
        let Shared { level, w, bytes, x, zero, .. } = self.shared;
        let segments = &self.shared.segments;
        let nr = dot::int_tile(level).nr;
        let words = x.padded / 4;
        let mut groups = Groups::default();
        let mut lines = vec![0u8; nr * x.padded];
        let mut codes = vec![0u32; words * nr];
        let per_segment = segments.len() * nr;
        let mut scale = vec![0f32; per_segment];
        let mut zeros = vec![0i32; if zero { per_segment } else { 0 }];
        let mut bias = vec![0f32; if w.has_bias() { per_segment } else { 0 }];
        for first in rows.clone().step_by(nr) {
            let count = (rows.end - first).min(nr);
            // Rows beyond the last keep what was there: their columns are not part of the product.
            for r in 0..count {
                let line = &mut lines[r * x.padded..(r + 1) * x.padded];
                vectorized_at(level, UnpackRow { w, bytes, row: first + r, groups: &mut groups, out: line });
                for (i, s) in segments.iter().enumerate() {
                    scale[i * nr + r] = groups.scale[s.w_group];
                    if let Some(z) = zeros.get_mut(i * nr + r) {
                        *z = groups.offset[s.w_group];
                    }
                    if let Some(b) = bias.get_mut(i * nr + r) {
                        *b = groups.bias[s.w_group];
                    }
                }
            }
            transpose(&lines, words, nr, &mut codes);
            let panel = IntPanel { codes: &codes, scale: &scale, zero: &zeros, bias: &bias };
            let mut m = 0;
            for t in &self.tiles {
                let tile = IntTile { mr: t.mr, codes: &t.codes, scale: &t.scale, init: &t.init, sum: &t.sum };
                let at = m * BLOCK + (first - rows.start);
                dot::int_panel(level, &self.ends, panel, tile, &mut out[at..], BLOCK);
                m += t.mr;
            }
        }
    }
}

/// `[nr, words]` to `[words, nr]`, words of four bytes.
fn transpose(lines: &[u8], words: usize, nr: usize, out: &mut [u32]) {
    for (r, line) in lines.chunks(4 * words).enumerate() {
        for (word, out) in line.as_chunks::<4>().0.iter().zip(out[r..].iter_mut().step_by(nr)) {
            *out = u32::from_le_bytes(*word);
        }
    }
}
