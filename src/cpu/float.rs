//! Products with f32 activations, any scheme.
//!
//! ```text
//! few rows of x:   a weight row -> f32 -> dot::f32_rows with each row of x
//! many:            a panel of weight rows -> f32, transposed, KC values of K at a time -> dot::f32_panel
//! ```
//!
//! Weights are decoded exactly as `dequantize` does, once for all rows of x.

use super::decode::{Groups, Weights};
use super::dot::{self, F32_ACCUMULATORS, LANES, ROWS_MR};
use super::level::{Level, Work, vectorized_at};
use super::panel::Panel;
use super::threads;
use std::ops::Range;

/// Weight rows of one task, and the width of a block of sums.
pub(super) const BLOCK: usize = 32;
/// Up to this many rows of x are multiplied row by row.
const FEW_ROWS: usize = 4;
/// Length of a chain of the panel kernel.
pub(super) const KC: usize = 256;

/// Sums of products as blocks `[N / BLOCK][M][BLOCK]`: `x` is `[m, k]`, the weight rows are `rows`.
pub(super) fn sums(level: Level, w: &Weights, x: &[f32], m: usize, rows: Range<usize>) -> Vec<f32> {
    let mut sums = vec![0f32; rows.len().div_ceil(BLOCK) * m * BLOCK];
    let work = rows.len() * w.k * m;
    let tasks: Vec<_> = sums
        .chunks_mut(m * BLOCK)
        .zip(threads::ranges(rows.len(), BLOCK))
        .map(|(out, r)| (out, rows.start + r.start..rows.start + r.end))
        .collect();
    if m <= FEW_ROWS {
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

/// A row of weights, decoded.
struct DecodeRow<'a> {
    w: &'a Weights<'a>,
    row: usize,
    codes: &'a mut Vec<u8>,
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
