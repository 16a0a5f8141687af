//! Products with f32 activations, any scheme.
//!
//! ```text
//! weights in f32:  as they lie, KC_DIRECT values of K at a time (dot::f32_direct), where vectors are long
//! few rows of x:   codes of a weight row decoded in registers (dot::code_rows), or
//!                  a weight row -> f32 -> dot::f32_rows with each row of x
//! many:            a panel of weight rows -> f32, transposed, KC values of K at a time -> dot::f32_panel
//! ```
//!
//! Weights are decoded exactly as `dequantize` does, once for all rows of x.

use super::decode::{Groups, Weights};
use super::dot::{self, CodeRow, F32_ACCUMULATORS, LANES, ROWS_MR, Tile};
use super::lanes::{Lanes, RowBlock, Wanted};
use super::level::{Level, Work, vectorized_at};
use super::panel::Panel;
use crate::recycle::{self, Recycled};
use crate::scheme::{Float, Value, Zero};
use crate::threads;
use std::ops::Range;

/// Weight rows of one task, and the width of a block of sums.
pub(super) const BLOCK: usize = 32;
/// Up to this many rows of x are multiplied row by row.
const FEW_ROWS: usize = 6;
/// Length of a chain of the panel kernel.
pub(super) const KC: usize = 256;
/// Values of K that rows of a direct tile have at a time: those of all its rows stay in a core's first cache.
const KC_DIRECT: usize = 512;

/// Sums of products as blocks `[N / BLOCK][M][BLOCK]`: `x` is `[m, k]`, the weight rows are `rows`.
pub(super) fn sums(level: Level, w: &Weights, x: &[f32], m: usize, rows: Range<usize>) -> Recycled {
    let mut sums = Recycled::from(recycle::any(rows.len().div_ceil(BLOCK) * m * BLOCK));
    let work = rows.len() * w.k * m;
    let tasks: Vec<_> = sums
        .chunks_mut(m * BLOCK)
        .zip(threads::ranges(rows.len(), BLOCK))
        .map(|(out, r)| (out, rows.start + r.start..rows.start + r.end))
        .collect();
    if let Some(Tile { nr, mr }) = direct_tile(level, w) {
        threads::for_each(tasks, work, |(out, rows)| direct(level, w, x, (nr, mr), rows, out));
    } else if m <= FEW_ROWS
        && let Some(codes) = Codes::of(w, rows.clone())
    {
        let few = Few::new(level, w, codes, x, m);
        let scratch = <(RowBlock, Vec<u32>)>::default;
        threads::for_each_with(tasks, work, scratch, |(entries, codes), (out, rows)| {
            few.block(entries, codes, rows, out);
        });
    } else if m <= FEW_ROWS {
        let padded = w.k.next_multiple_of(LANES * F32_ACCUMULATORS);
        let mut x_padded = vec![0f32; m * padded];
        for (to, from) in x_padded.chunks_mut(padded).zip(x.chunks(w.k)) {
            to[..w.k].copy_from_slice(from);
        }
        let x = &x_padded;
        threads::for_each(tasks, work, |(out, rows)| few(level, w, x, m, padded, rows, out));
    } else {
        let tiles = tiles(level, x, m, w.k);
        let nr = dot::f32_tile(level).nr;
        let scratch = || (Panel::new(nr), vec![0f32; KC * nr]);
        threads::for_each_with(tasks, work, scratch, |(panel, values), (out, rows)| {
            many(level, w, &tiles, panel, values, rows, out);
        });
    }
    sums
}

/// The tile of weights that are f32 as they lie.
fn direct_tile(level: Level, w: &Weights) -> Option<Tile> {
    dot::direct_tile(level).filter(|_| matches!(w.scheme.value, Value::Float(Float::F32)))
}

/// As [`super::integer::is_direct`].
pub(super) fn is_direct(level: Level, w: &Weights) -> bool {
    direct_tile(level, w).is_some()
}

/// Weights that are f32 as they lie.
fn direct(
    level: Level,
    w: &Weights,
    x: &[f32],
    (nr, mr): (usize, usize),
    rows: Range<usize>,
    out: &mut [f32],
) {
    let w_rows: Vec<&[f32]> = rows.map(|row| &bytemuck::cast_slice(w.low(row))[..w.k]).collect();
    let x_rows: Vec<&[f32]> = x.chunks(w.k).collect();
    for start in (0..w.k).step_by(KC_DIRECT) {
        let range = start..w.k.min(start + KC_DIRECT);
        let (w_part, x_part) = (columns(&w_rows, &range), columns(&x_rows, &range));
        for (x, out) in x_part.chunks(mr).zip(out.chunks_mut(mr * BLOCK)) {
            if start == 0 {
                out.fill(0.0);
            }
            for (n, w) in w_part.chunks(nr).enumerate() {
                dot::f32_direct(level, w, x, &mut out[n * nr..], BLOCK);
            }
        }
    }
}

fn columns<'a>(rows: &[&'a [f32]], range: &Range<usize>) -> Vec<&'a [f32]> {
    rows.iter().map(|row| &row[range.clone()]).collect()
}

/// What codes stand for, where a word of them is decoded in registers.
struct Codes {
    table: Option<[f32; 16]>,
    /// Every row has a table of its own, which takes the place of `table`.
    per_row: bool,
    /// Offset and zero are subtracted from the table's values or the codes.
    minus: bool,
}

impl Codes {
    /// None for plain floats, for tables of more than 16 entries, and for several in a row.
    fn of(w: &Weights, rows: Range<usize>) -> Option<Self> {
        let bits = u32::from(w.scheme.bits);
        let own = |table, minus| Some(Self { table, per_row: false, minus });
        // A float zero stands beside no offset.
        let zero = matches!(w.scheme.zero, Zero::Point | Zero::Float);
        match w.scheme.value {
            Value::Linear { step: 1, .. } if bits > 4 => own(None, true),
            Value::Linear { step, .. } if bits <= 4 => {
                let mask = (1 << bits) - 1;
                let value = |i: i32| step * (i & mask) - if zero { 0 } else { w.offset() };
                own(Some(std::array::from_fn(|i| value(i as i32) as f32)), zero)
            }
            // Padding is code 0 times 0, which has to be 0.
            Value::Codebook(_) | Value::Learned if bits <= 4 && w.table[0].is_finite() => {
                let mask = (1 << bits) - 1;
                own(Some(std::array::from_fn(|i| w.table[i & mask])), false)
            }
            Value::Tables if bits <= 4 && w.groups_per_row == 1 && w.first_entries_are_finite(rows) => {
                Some(Self { table: None, per_row: true, minus: false })
            }
            _ => None,
        }
    }
}

/// Few rows of x, with weights that are decoded in registers.
struct Few<'a> {
    level: Level,
    w: &'a Weights<'a>,
    codes: Codes,
    lanes: Lanes,
    m: usize,
    /// `[m, steps, 4 * fields, LANES]`
    x: Vec<f32>,
}

impl<'a> Few<'a> {
    fn new(level: Level, w: &'a Weights<'a>, codes: Codes, x: &[f32], m: usize) -> Self {
        let lanes = Lanes::of(w, usize::MAX);
        let values = lanes.values();
        let mut turned = Vec::with_capacity(m * lanes.steps * values * LANES);
        for row in x.chunks(w.k) {
            for first in (0..lanes.steps).map(|t| t * LANES * values) {
                for p in 0..values {
                    turned
                        .extend((0..LANES).map(|l| row.get(first + l * values + p).copied().unwrap_or(0.0)));
                }
            }
        }
        Self { level, w, codes, lanes, m, x: turned }
    }

    fn block(&self, of_rows: &mut RowBlock, codes: &mut Vec<u32>, rows: Range<usize>, out: &mut [f32]) {
        let Self { level, w, ref lanes, m, .. } = *self;
        let wanted = Wanted { unit: 1.0, minus: self.codes.minus, bias: true };
        of_rows.prepare(level, w, lanes, rows.clone(), wanted);
        let entries = lanes.entries();
        let size = self.x.len() / m;
        for (n, row) in rows.enumerate() {
            let own = n * entries..(n + 1) * entries;
            let table = if self.codes.per_row { Some(w.table_of_16(row)) } else { self.codes.table };
            let code_row = CodeRow {
                codes: lanes.codes(level, w, row..row + 1, codes),
                fields: lanes.fields,
                table: table.as_ref(),
                lanes_per_scale: lanes.lanes_per_scale,
                scale: &of_rows.scale[own.clone()],
                minus: of_rows.minus.get(own.clone()).unwrap_or_default(),
                bias: of_rows.bias.get(own).unwrap_or_default(),
            };
            for first in (0..m).step_by(ROWS_MR) {
                let mr = (m - first).min(ROWS_MR);
                let mut y = [0f32; ROWS_MR];
                dot::code_rows(level, code_row, &self.x[first * size..(first + mr) * size], &mut y[..mr]);
                for (i, y) in y[..mr].iter().enumerate() {
                    out[(first + i) * BLOCK + n] = *y;
                }
            }
        }
    }
}

/// A row of weights, decoded.
struct DecodeRow<'a> {
    w: &'a Weights<'a>,
    row: usize,
    codes: &'a mut Vec<u32>,
    groups: &'a mut Groups,
    out: &'a mut [f32],
}

impl Work for DecodeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.w.row(self.row, self.codes, self.groups, self.out);
    }
}

fn few(level: Level, w: &Weights, x: &[f32], m: usize, padded: usize, rows: Range<usize>, out: &mut [f32]) {
    let (mut codes, mut groups) = (Vec::new(), Groups::default());
    let mut values = vec![0f32; padded];
    for (n, row) in rows.enumerate() {
        let decode = DecodeRow { w, row, codes: &mut codes, groups: &mut groups, out: &mut values[..w.k] };
        vectorized_at(level, decode);
        for first in (0..m).step_by(ROWS_MR) {
            let mr = (m - first).min(ROWS_MR);
            let mut y = [0f32; ROWS_MR];
            dot::f32_rows(level, &values, &x[first * padded..(first + mr) * padded], &mut y[..mr]);
            for (i, y) in y[..mr].iter().enumerate() {
                out[(first + i) * BLOCK + n] = *y;
            }
        }
    }
}

/// x in tiles `[k, mr]`.
fn tiles(level: Level, x: &[f32], m: usize, k: usize) -> Vec<(usize, Vec<f32>)> {
    let mr = dot::f32_tile(level).mr;
    threads::map(threads::ranges(m, mr), m * k, |range| {
        let mr = range.len();
        let mut tile = vec![0f32; k * mr];
        for (i, row) in x[range.start * k..range.end * k].chunks(k).enumerate() {
            tile[i..].iter_mut().step_by(mr).zip(row).for_each(|(t, v)| *t = *v);
        }
        (mr, tile)
    })
}

fn many(
    level: Level,
    w: &Weights,
    tiles: &[(usize, Vec<f32>)],
    panel: &mut Panel,
    values: &mut [f32],
    rows: Range<usize>,
    out: &mut [f32],
) {
    let nr = dot::f32_tile(level).nr;
    out.fill(0.0);
    for first in rows.clone().step_by(nr) {
        // Columns beyond the last row repeat it and are not part of the product.
        panel.load(level, w, first..rows.end);
        for start in (0..w.k).step_by(KC) {
            let len = (w.k - start).min(KC);
            let values = &mut values[..len * nr];
            panel.values(level, w, start..start + len, values);
            let mut m = 0;
            for (mr, tile) in tiles {
                let x = &tile[start * mr..(start + len) * mr];
                let at = m * BLOCK + (first - rows.start);
                dot::f32_panel(level, values, x, *mr, &mut out[at..], BLOCK);
                m += mr;
            }
        }
    }
}
