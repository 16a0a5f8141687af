//! Products of two dense matrices, either of them turned or not, by the panel kernel of f32 products.
//!
//! ```text
//! a [M, T] or [T, M], KC of T at a time -> tiles [KC][mr] of rows   ─┐
//! b [N, T] or [T, N]                    -> panels [KC][nr] of rows  ─┴ dot::f32_panel -> blocks [M][nr] -> y [M, N] (+ what is added)
//! ```
//!
//! Operands have been checked by who calls.

use super::dot;
use super::float::KC;
use super::level::Level;
use crate::product::Summation;
use crate::recycle::{self, Recycled};
use crate::threads;
use std::ops::Range;

/// How a number of y is summed over `t` terms, what is added included.
pub fn dense_summation(t: usize) -> Summation {
    Summation { chain: t.min(KC) + t.div_ceil(KC) + 1, depth: 0, folded: false }
}

/// An operand: `rows` vectors of `t` numbers, the rows of `values` or, turned, its columns.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub t: usize,
    pub turned: bool,
}

impl Operand<'_> {
    /// The numbers `part` of some rows as `[part][width]`; columns beyond the last row are zeros.
    fn load(&self, rows: &Range<usize>, part: &Range<usize>, width: usize, out: &mut [f32]) {
        if self.turned {
            for (out, t) in out.chunks_mut(width).zip(part.clone()) {
                let (own, beyond) = out.split_at_mut(rows.len());
                own.copy_from_slice(&self.values[t * self.rows..][rows.clone()]);
                beyond.fill(0.0);
            }
            return;
        }
        if rows.len() < width {
            out.fill(0.0);
        }
        for (i, row) in rows.clone().enumerate() {
            let from = &self.values[row * self.t..][part.clone()];
            out[i..].iter_mut().step_by(width).zip(from).for_each(|(out, v)| *out = *v);
        }
    }
}

/// y `[M, N]`: the products of all rows of a with all of b. `bias` `[N]` is added to each row. `turned` says of a and b whether their rows lie as columns.
pub fn dense(
    a: &[f32],
    b: &[f32],
    [m, n, t]: [usize; 3],
    turned: [bool; 2],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let a = Operand { values: a, rows: m, t, turned: turned[0] };
    dense_at(Level::best(), a, Operand { values: b, rows: n, t, turned: turned[1] }, bias)
}

/// As [`dense`]; `added` is `[N]` or `[M, N]`.
pub(super) fn dense_at(level: Level, a: Operand<'_>, b: Operand<'_>, added: Option<&[f32]>) -> Vec<f32> {
    let dot::Tile { nr, mr } = dot::f32_tile(level);
    let (m, n, work) = (a.rows, b.rows, a.rows * b.rows * a.t);
    let tiles = threads::ranges(m, mr);
    let parts = threads::ranges(a.t, KC);
    let jobs: Vec<_> = parts.iter().flat_map(|part| tiles.iter().map(move |tile| (part, tile))).collect();
    let loaded: Vec<Vec<f32>> = threads::map(jobs, m * a.t, |(part, tile)| {
        let mut values = vec![0f32; part.len() * tile.len()];
        a.load(tile, part, tile.len(), &mut values);
        values
    });
    let panels = threads::ranges(n, nr);
    let mut blocks = Recycled::from(recycle::zeros(panels.len() * m * nr));
    let tasks: Vec<_> = blocks.chunks_mut(m * nr).zip(&panels).collect();
    threads::for_each_with(
        tasks,
        work,
        || vec![0f32; KC * nr],
        |values, (block, panel)| {
            for (part, loaded) in parts.iter().zip(loaded.chunks(tiles.len())) {
                let values = &mut values[..part.len() * nr];
                b.load(panel, part, nr, values);
                for (tile, loaded) in tiles.iter().zip(loaded) {
                    dot::f32_panel(level, values, loaded, tile.len(), &mut block[tile.start * nr..], nr);
                }
            }
        },
    );
    let mut y = recycle::any(m * n);
    let rows: Vec<_> = y.chunks_mut(n).enumerate().collect();
    threads::for_each(rows, m * n, |(i, row)| {
        for (part, block) in row.chunks_mut(nr).zip(blocks.chunks(m * nr)) {
            part.copy_from_slice(&block[i * nr..][..part.len()]);
        }
        if let Some(added) = added {
            let added = if added.len() == n { added } else { &added[i * n..] };
            row.iter_mut().zip(added).for_each(|(y, added)| *y += added);
        }
    });
    y
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    #[test]
    fn every_level_multiplies_rows_and_columns() {
        for level in Level::available() {
            for (i, [m, n, t]) in
                [[1, 1, 1], [3, 5, 7], [33, 70, 300], [13, 31, 520], [64, 32, 256]].into_iter().enumerate()
            {
                for turned in [[false, false], [false, true], [true, false], [true, true]] {
                    let (a, b, bias) = (noise(m * t, 1), noise(n * t, 2), noise(n, 3));
                    let of = |values, rows, turned| Operand { values, rows, t, turned };
                    let added = (i % 2 == 0).then_some(&bias[..]);
                    let y = dense_at(level, of(&a, m, turned[0]), of(&b, n, turned[1]), added);
                    for (at, y) in y.iter().enumerate() {
                        let (row, column) = (at / n, at % n);
                        let left = |s: usize| a[if turned[0] { s * m + row } else { row * t + s }];
                        let right = |s: usize| b[if turned[1] { s * n + column } else { column * t + s }];
                        let terms = (0..t).map(|s| f64::from(left(s)) * f64::from(right(s)));
                        let first = added.map_or(0.0, |bias| f64::from(bias[column]));
                        let (sum, size) =
                            terms.fold((first, first.abs()), |(sum, size), v| (sum + v, size + v.abs()));
                        let summation = dense_summation(t);
                        let bound = (summation.chain + 1) as f64 * 6e-8 * size;
                        assert!((f64::from(*y) - sum).abs() <= bound, "{level:?} {turned:?} [{m}, {n}, {t}]");
                    }
                }
            }
        }
    }
}
