//! H = T D T^T of a symmetric positive definite H: T with ones on its diagonal and zeros below it, D a diagonal.
//!
//! ```text
//! H, rows and columns reversed -> A [n, n], lower half        for each 128 columns:
//!     the block on the diagonal: Cholesky in f64, its inverse -> P = A[below, block] * inverse^T -> A[below, below] -= P * P^T (panels, on all threads)
//! A = L -> reversed again, columns divided by their diagonal -> T; D = the diagonal's squares
//! ```
//!
//! What T is for: with errors e of a row's numbers, e H e^T = sum over j of D_j (e_j + sum over i < j of e_i T[i, j])^2, so that a column can be chosen for the errors
//! of those before it. It is the inverse of the factor of the inverse of H that GPTQ is written with, and needs neither of the two inverses.

use super::dot;
use super::level::Level;
use crate::threads;

/// Columns of a step.
const STEP: usize = 128;
/// Rows of a task, a multiple of every tile's.
const ROWS: usize = 96;

/// H = T D T^T.
#[derive(Clone, Debug)]
pub struct Factor {
    pub k: usize,
    /// T `[K, K]`.
    pub upper: Vec<f32>,
    /// D `[K]`: what is left of H's diagonal when the columns before have been made use of.
    pub diagonal: Vec<f32>,
}

/// Factors H `[K, K]`, symmetric, with `damping` added to its diagonal. None where it is not positive definite: where an entry of D comes out below half of the damping, which
/// it cannot in exact arithmetic, or below 2^-100.
///
/// # Panics
/// If `h` has not `k * k` entries.
pub fn factor(h: &[f32], k: usize, damping: f32) -> Option<Factor> {
    factor_at(Level::best(), h, k, damping)
}

fn factor_at(level: Level, h: &[f32], k: usize, damping: f32) -> Option<Factor> {
    assert_eq!(h.len(), k * k, "a square matrix");
    let least = f64::from(damping * 0.5).max(2f64.powi(-100));
    // Whole panels: what is beyond K is a part of the identity.
    let n = k.next_multiple_of(32);
    let mut a = vec![0f32; n * n];
    let rows: Vec<_> = a.chunks_mut(n).enumerate().collect();
    threads::for_each(rows, n * n, |(i, row)| {
        if i >= k {
            row[i] = 1.0;
            return;
        }
        let from = &h[(k - 1 - i) * k..][..k];
        row[..=i].iter_mut().zip(from.iter().rev()).for_each(|(to, v)| *to = *v);
        row[i] += damping;
    });
    for start in (0..n).step_by(STEP) {
        let end = (start + STEP).min(n);
        let inverse = diagonal_block(&mut a, n, start..end, least, k)?;
        eliminate(level, &mut a, n, start..end, &inverse);
    }
    let diagonal: Vec<f32> = (0..k).rev().map(|i| a[i * n + i] * a[i * n + i]).collect();
    let inverse: Vec<f32> = (0..k).map(|i| 1.0 / a[i * n + i]).collect();
    let mut upper = vec![0f32; k * k];
    let rows: Vec<_> = upper.chunks_mut(k).enumerate().collect();
    threads::for_each(rows, k * k, |(p, row)| {
        let i = k - 1 - p;
        row[p] = 1.0;
        let from = a[i * n..][..i].iter().zip(&inverse);
        row[p + 1..].iter_mut().rev().zip(from).for_each(|(to, (v, inverse))| *to = v * inverse);
    });
    Some(Factor { k, upper, diagonal })
}

/// Replaces a block on the diagonal by its Cholesky factor, and returns that one's inverse, rows of [`STEP`].
fn diagonal_block(
    a: &mut [f32],
    n: usize,
    block: std::ops::Range<usize>,
    least: f64,
    k: usize,
) -> Option<Vec<f32>> {
    let len = block.len();
    let mut l = vec![0f64; len * len];
    for i in 0..len {
        let from = &a[(block.start + i) * n + block.start..][..=i];
        l[i * len..][..=i].iter_mut().zip(from).for_each(|(to, v)| *to = f64::from(*v));
    }
    for j in 0..len {
        let (done, rest) = l.split_at_mut((j + 1) * len);
        let row = &mut done[j * len..];
        let pivot = row[j] - row[..j].iter().map(|v| v * v).sum::<f64>();
        // NaN is not above.
        let above = pivot >= least || block.start + j >= k;
        if !above {
            return None;
        }
        row[j] = pivot.sqrt();
        for below in rest.chunks_mut(len) {
            let sum: f64 = below[..j].iter().zip(&row[..j]).map(|(a, b)| a * b).sum();
            below[j] = (below[j] - sum) / row[j];
        }
    }
    // Column by column of the identity.
    let mut inverse = vec![0f64; len * len];
    for i in 0..len {
        let (done, rest) = inverse.split_at_mut(i * len);
        let row = &mut rest[..len];
        for (j, of_row) in done.chunks(len).enumerate() {
            let by = l[i * len + j];
            row[..=j].iter_mut().zip(of_row).for_each(|(to, v)| *to -= by * v);
        }
        row[i] = 1.0;
        row[..=i].iter_mut().for_each(|v| *v /= l[i * len + i]);
    }
    for i in 0..len {
        let to = &mut a[(block.start + i) * n + block.start..][..=i];
        to.iter_mut().zip(&l[i * len..]).for_each(|(to, v)| *to = *v as f32);
    }
    Some(inverse.iter().map(|v| *v as f32).collect())
}

/// Finishes the columns of a block below it, and subtracts their products from what is right of them.
fn eliminate(level: Level, a: &mut [f32], n: usize, block: std::ops::Range<usize>, inverse: &[f32]) {
    let (len, end) = (block.len(), block.end);
    let dot::Tile { nr, mr } = dot::f32_tile(level);
    let below = &mut a[end * n..];
    if below.is_empty() {
        return;
    }
    let work = below.len() * len;
    // P, row by row; the inverse's rows are the panels' columns.
    let panels: Vec<Vec<f32>> =
        (0..len).step_by(nr).map(|first| turned(inverse, len, 0, first, nr)).collect();
    let mut finished = vec![0f32; (n - end) * len];
    let tasks: Vec<_> = below.chunks_mut(ROWS * n).zip(finished.chunks_mut(ROWS * len)).collect();
    threads::for_each(tasks, work, |(rows, out)| {
        for (rows, out) in rows.chunks_mut(mr * n).zip(out.chunks_mut(mr * len)) {
            let mr = rows.len() / n;
            let tile = turned(rows, n, block.start, 0, mr);
            for (i, panel) in panels.iter().enumerate() {
                dot::f32_panel(level, panel, &tile, mr, &mut out[i * nr..], len);
            }
            for (row, out) in rows.chunks_mut(n).zip(out.chunks(len)) {
                row[block.clone()].copy_from_slice(out);
            }
        }
    });
    let columns: Vec<usize> = (0..n - end).step_by(nr).collect();
    let panels = threads::map(columns, finished.len(), |first| turned(&finished, len, 0, first, nr));
    let mut tasks: Vec<_> = below.chunks_mut(ROWS * n).enumerate().collect();
    // The longest rows first.
    tasks.reverse();
    threads::for_each(tasks, work, |(task, rows)| {
        for (t, rows) in rows.chunks_mut(mr * n).enumerate() {
            let (first, mr) = (task * ROWS + t * mr, rows.len() / n);
            let mut tile = turned(&finished, len, 0, first, mr);
            tile.iter_mut().for_each(|v| *v = -*v);
            for (i, panel) in panels.iter().enumerate().take_while(|(i, _)| i * nr < first + mr) {
                dot::f32_panel(level, panel, &tile, mr, &mut rows[end + i * nr..], n);
            }
        }
    });
}

/// `len` columns from `column` on of `width` rows from `first` on, turned: `[len, width]`, where `len` is the rest of a row of [`STEP`] at most.
fn turned(rows: &[f32], stride: usize, column: usize, first: usize, width: usize) -> Vec<f32> {
    let len = (stride - column).min(STEP);
    let mut out = vec![0f32; len * width];
    for (i, row) in rows[first * stride..].chunks(stride).take(width).enumerate() {
        out[i..].iter_mut().step_by(width).zip(&row[column..]).for_each(|(to, v)| *to = *v);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::gram::gram;
    use super::super::tests::noise;
    use super::*;

    #[test]
    fn the_factor_multiplies_back() {
        for level in Level::available() {
            for k in [1, 5, 32, 130, 300, 513] {
                let h = gram(&noise(2 * k * k, 3), k, None);
                let mean = (0..k).map(|i| h[i * k + i]).sum::<f32>() / k as f32;
                let damping = 0.01 * mean;
                let Factor { upper, diagonal, .. } = factor_at(level, &h, k, damping).unwrap();
                let mut most = 0f64;
                for i in 0..k {
                    for j in i..k {
                        let terms = (j..k).map(|m| {
                            f64::from(upper[i * k + m]) * f64::from(diagonal[m]) * f64::from(upper[j * k + m])
                        });
                        let expected =
                            f64::from(h[i * k + j]) + if i == j { f64::from(damping) } else { 0.0 };
                        most = most.max((terms.sum::<f64>() - expected).abs());
                    }
                    assert!(upper[i * k + i] == 1.0 && upper[i * k..][..i].iter().all(|v| *v == 0.0));
                }
                // Sums of up to K products of f32 beside the largest entry of H.
                let bound = k as f64 * 6e-8 * f64::from(h.iter().fold(0f32, |m, v| m.max(v.abs())));
                assert!(most <= bound.max(1e-6), "{level:?} {k}: {most}, {bound}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_has_no_factor() {
        // Eigenvalues 3 and -1.
        assert!(factor(&[1.0, 2.0, 2.0, 1.0], 2, 0.01).is_none());
        assert!(factor(&[1.0, 2.0, 2.0, 1.0], 2, 1.5).is_some());
        assert!(factor(&[0.0; 9], 3, 0.0).is_none());
        assert!(factor(&[f32::NAN; 4], 2, 0.1).is_none());
        // One direction only, and damping that f32 does not lose.
        let singular = vec![1.0; 200 * 200];
        let damped = factor(&singular, 200, 0.01).unwrap();
        assert!(damped.diagonal.iter().all(|d| *d >= 0.005), "{:?}", damped.diagonal);
    }
}
