//! Second moments of columns, X^T X, by the panel kernel of f32 products.
//!
//! ```text
//! x [T, K], KC rows at a time -> panels [KC][nr] and tiles [KC][mr] of columns -> dot::f32_panel -> blocks [K][nr] -> y [K, K] (+ onto)
//! ```
//!
//! Operands have been checked by who calls.

use super::dot;
use super::float::KC;
use super::level::Level;
use crate::product::Summation;
use crate::recycle::{self, Recycled};
use crate::threads;

/// How a number of y is summed over `tokens` rows, `onto` included.
pub fn gram_summation(tokens: usize) -> Summation {
    Summation { chain: tokens.min(KC) + tokens.div_ceil(KC) + 1, depth: 0, folded: false }
}

/// y `[K, K]` of x `[T, K]` and `onto` `[K, K]`.
pub fn gram(x: &[f32], k: usize, onto: Option<&[f32]>) -> Vec<f32> {
    gram_at(Level::best(), x, k, onto)
}

pub(super) fn gram_at(level: Level, x: &[f32], k: usize, onto: Option<&[f32]>) -> Vec<f32> {
    let dot::Tile { nr, mr } = dot::f32_tile(level);
    let tokens = x.len() / k;
    // Columns of x, `[KC][mr]` for each tile of them and each KC rows; the last tile has what is left.
    let tiles = threads::ranges(k, mr);
    let parts = threads::ranges(tokens, KC);
    let jobs: Vec<_> = parts.iter().flat_map(|part| tiles.iter().map(move |tile| (part, tile))).collect();
    let turned: Vec<Vec<f32>> = threads::map(jobs, x.len(), |(part, tile)| {
        part.clone().flat_map(|t| &x[t * k..][tile.clone()]).copied().collect()
    });
    let panels = threads::ranges(k, nr);
    let mut blocks = Recycled::from(recycle::zeros(panels.len() * k * nr));
    let tasks: Vec<_> = blocks.chunks_mut(k * nr).zip(&panels).collect();
    threads::for_each_with(
        tasks,
        x.len() * k,
        || vec![0f32; KC * nr],
        |values, (block, panel)| {
            for (part, turned) in parts.iter().zip(turned.chunks(tiles.len())) {
                // Columns beyond the last are zeros.
                let values = &mut values[..part.len() * nr];
                for (row, t) in values.chunks_mut(nr).zip(part.clone()) {
                    let (own, beyond) = row.split_at_mut(panel.len());
                    own.copy_from_slice(&x[t * k..][panel.clone()]);
                    beyond.fill(0.0);
                }
                for (tile, turned) in tiles.iter().zip(turned) {
                    dot::f32_panel(level, values, turned, tile.len(), &mut block[tile.start * nr..], nr);
                }
            }
        },
    );
    let mut y = recycle::any(k * k);
    let rows: Vec<_> = y.chunks_mut(k).enumerate().collect();
    threads::for_each(rows, k * k, |(i, row)| {
        for (part, block) in row.chunks_mut(nr).zip(blocks.chunks(k * nr)) {
            part.copy_from_slice(&block[i * nr..][..part.len()]);
        }
        if let Some(onto) = onto {
            row.iter_mut().zip(&onto[i * k..]).for_each(|(y, onto)| *y += onto);
        }
    });
    y
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    #[test]
    fn every_level_sums_moments() {
        for level in Level::available() {
            for (tokens, k) in [(1, 1), (3, 5), (300, 33), (520, 70), (7, 130)] {
                let (x, onto) = (noise(tokens * k, 1), noise(k * k, 2));
                let (one, two) = (gram_at(level, &x, k, None), gram_at(level, &x, k, Some(&onto)));
                for i in 0..k * k {
                    let terms = x.chunks(k).map(|row| f64::from(row[i / k]) * f64::from(row[i % k]));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    let bound = (tokens as f64 + 2.0) * 6e-8 * (size + 1.0);
                    assert!((f64::from(one[i]) - sum).abs() <= bound, "{level:?} {tokens} {k}");
                    let added = sum + f64::from(onto[i]);
                    assert!((f64::from(two[i]) - added).abs() <= bound, "{level:?} {tokens} {k}");
                }
                let symmetric = (0..k * k).all(|i| one[i].to_bits() == one[i % k * k + i / k].to_bits());
                assert!(symmetric, "{level:?} {tokens} {k}");
            }
        }
    }
}
