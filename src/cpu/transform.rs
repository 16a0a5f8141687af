//! Inputs and weights of linear layers, transformed: columns multiplied, then each block of them times Hadamard's matrix in log2(b) rounds of sums and differences.
//!
//! ```text
//! x * v -> halves of 1, 2, 4, .. b / 2: (a, b) -> (a + b, a - b) -> * 1 / sqrt(b)
//! ```

use super::level::{Work, vectorized};
use crate::product::Summation;
use crate::threads;
use crate::transform::Transform;
use crate::{Error, Result, Tensor};

/// x' of inputs x `[.., K]`, all of them one after the other.
///
/// # Panics
/// If K does not divide x.
pub fn transform(x: &[f32], by: &Transform) -> Vec<f32> {
    assert_eq!(x.len() % by.k(), 0, "whole rows");
    let mut y = x.to_vec();
    in_rows(&mut y, by, |row| {
        multiply(row, by.by());
        rotate(row, by);
    });
    y
}

/// w' of a weight `[.., N, K]`, as f32.
///
/// # Errors
/// [`Error::Shape`] for another K.
pub fn transform_weight(w: &Tensor, by: &Transform) -> Result<Tensor> {
    let inverse = by.inverse();
    turned(w, by, |row| {
        multiply(row, &inverse);
        rotate(row, by);
    })
}

/// The weight of which w' was made, as f32.
///
/// # Errors
/// [`Error::Shape`] for another K.
pub fn restore_weight(w: &Tensor, by: &Transform) -> Result<Tensor> {
    turned(w, by, |row| {
        rotate(row, by);
        multiply(row, by.by());
    })
}

/// X^T X `[K, K]` of inputs that are transformed: its rows, then its columns.
///
/// # Panics
/// If the transform is of another K.
pub fn transform_moments(moments: &[f32], by: &Transform) -> Vec<f32> {
    let k = by.k();
    assert_eq!(moments.len(), k * k, "a transform of the same K");
    let half = transform(moments, by);
    let mut turned = vec![0.0; k * k];
    for (j, row) in turned.chunks_mut(k).enumerate() {
        row.iter_mut().zip(half.iter().skip(j).step_by(k)).for_each(|(to, from)| *to = *from);
    }
    transform(&turned, by)
}

/// Roundings that a term of the sum of a block meets: of its product, of the rounds, of the last product and its factor.
pub fn transform_summation(block: usize) -> Summation {
    // The root of the block is rounded, and its inverse.
    Summation { chain: 4, depth: block.ilog2() as usize, folded: false }
}

fn turned(w: &Tensor, by: &Transform, of_row: impl Fn(&mut [f32]) + Sync + Send) -> Result<Tensor> {
    let (_, k) = w.matrix();
    if k != by.k() {
        return Err(Error::shape("columns to transform", by.k(), k));
    }
    let mut values = w.to_f32().into_owned();
    in_rows(&mut values, by, of_row);
    Tensor::from_f32(w.shape(), values)
}

fn in_rows(values: &mut [f32], by: &Transform, of_row: impl Fn(&mut [f32]) + Sync + Send) {
    let work = values.len() * (1 + by.block().ilog2() as usize);
    threads::for_each(values.chunks_mut(by.k()).collect(), work, of_row);
}

fn multiply(row: &mut [f32], by: &[f32]) {
    row.iter_mut().zip(by).for_each(|(v, by)| *v *= by);
}

fn rotate(row: &mut [f32], by: &Transform) {
    if !by.only_scales() {
        vectorized(Rotate { row, block: by.block(), share: by.share() });
    }
}

struct Rotate<'a> {
    row: &'a mut [f32],
    block: usize,
    share: f32,
}

impl Work for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for block in self.row.chunks_mut(self.block) {
            let mut half = 1;
            while half < block.len() {
                for pair in block.chunks_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
            block.iter_mut().for_each(|v| *v *= self.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_stay_and_weights_come_back() {
        for (k, seed) in [(1, 1), (7, 2), (8, 3), (384, 4), (96, 5), (1024, 6)] {
            let values = |by: usize| (0..3 * k).map(|i| ((i * by) % 17) as f32 - 8.0).collect::<Vec<_>>();
            let (x, w) = (values(7), Tensor::from_f32([3, k], values(11)).unwrap());
            let rotation = Transform::rotation(k, seed).unwrap();
            let both = rotation.by().iter().enumerate().map(|(i, v)| v * (1.0 + (i % 5) as f32)).collect();
            for by in [rotation.clone(), Transform::new(both, rotation.block()).unwrap()] {
                let (x_turned, w_turned) = (transform(&x, &by), transform_weight(&w, &by).unwrap());
                let dot = |x: &[f32], w: &[f32]| {
                    x[..k].iter().zip(&w[k..2 * k]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                };
                let (before, after) = (dot(&x, &w.to_f32()), dot(&x_turned, &w_turned.to_f32()));
                assert!((before - after).abs() <= 1e-6 * 64.0 * k as f64, "{k}: {before} {after}");
                let back = restore_weight(&w_turned, &by).unwrap();
                assert!(
                    back.to_f32().iter().zip(w.to_f32().iter()).all(|(a, b)| (a - b).abs() < 1e-4),
                    "{k}"
                );
            }
            // One number becomes as many as the block has.
            let mut one = vec![0.0; k];
            one[k - 1] = 4.0;
            let other = transform(&one, &rotation).iter().filter(|v| **v != 0.0).count();
            assert_eq!(other, rotation.block());
        }
        let other = Tensor::from_f32([2, 4], vec![0.0; 8]).unwrap();
        assert!(transform_weight(&other, &Transform::rotation(8, 1).unwrap()).is_err());
    }
}
