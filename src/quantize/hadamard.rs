//! A randomized Hadamard rotation of a layer's input, with its inverse in the weight: outliers of a few columns are spread over all of them.
//!
//! ```text
//! R = diag(signs) * (H_b / sqrt(b) in blocks on the diagonal)        b the largest power of two that divides K
//! x w^T = (x R) (w R)^T,  R R^T = 1
//! ```
//!
//! Signs follow from a seed, so that a file needs to hold no more than that. Where K is odd b is 1, and nothing is spread. The same function turns x and w; the inverse is for
//! what has been turned already.

use crate::{Error, Result, Tensor, threads};

/// A rotation of rows of K numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    block: usize,
    signs: Vec<f32>,
}

impl Rotation {
    /// That of a seed.
    pub fn new(k: usize, seed: u64) -> Self {
        let sign = |i: usize| if mixed(seed.wrapping_add(i as u64)) >> 63 == 0 { 1.0 } else { -1.0 };
        Self { block: 1 << k.trailing_zeros().min(usize::BITS - 1), signs: (0..k).map(sign).collect() }
    }

    /// Columns that are mixed with each other.
    pub fn block(&self) -> usize {
        self.block
    }

    /// `t * R` of a tensor `[.., K]`, as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for another K.
    pub fn apply(&self, t: &Tensor) -> Result<Tensor> {
        self.turn(t, |row| {
            row.iter_mut().zip(&self.signs).for_each(|(v, s)| *v *= s);
            row.chunks_mut(self.block).for_each(transform);
        })
    }

    /// `t * R^T`: what undoes [`Self::apply`].
    ///
    /// # Errors
    /// [`Error::Shape`] for another K.
    pub fn undo(&self, t: &Tensor) -> Result<Tensor> {
        self.turn(t, |row| {
            row.chunks_mut(self.block).for_each(transform);
            row.iter_mut().zip(&self.signs).for_each(|(v, s)| *v *= s);
        })
    }

    fn turn(&self, t: &Tensor, of_row: impl Fn(&mut [f32]) + Sync + Send) -> Result<Tensor> {
        let (_, k) = t.matrix();
        if k != self.signs.len() {
            return Err(Error::shape("columns to rotate", self.signs.len(), k));
        }
        let mut values = t.to_f32().into_owned();
        let work = values.len() * (1 + self.block.ilog2() as usize);
        threads::for_each(values.chunks_mut(k.max(1)).collect(), work, of_row);
        Tensor::from_f32(t.shape(), values)
    }
}

/// A block times the symmetric Hadamard matrix of its size, divided by the root of that size.
fn transform(v: &mut [f32]) {
    let mut half = 1;
    while half < v.len() {
        for pair in v.chunks_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let by = 1.0 / (v.len() as f32).sqrt();
    v.iter_mut().for_each(|v| *v *= by);
}

/// Steele, Lea and Flood's SplitMix64 of a counter.
fn mixed(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_keep_products_and_come_back() {
        for (k, block) in [(1, 1), (7, 1), (8, 8), (384, 128), (96, 32), (1024, 1024)] {
            let rotation = Rotation::new(k, 5);
            assert_eq!(rotation.block(), block);
            let values = |by: usize| (0..3 * k).map(|i| ((i * by) % 17) as f32 - 8.0).collect::<Vec<_>>();
            let [a, b] = [7, 11].map(|by| Tensor::from_f32([3, k], values(by)).unwrap());
            let [a_turned, b_turned] = [&a, &b].map(|t| rotation.apply(t).unwrap());
            let dot = |a: &Tensor, b: &Tensor| {
                let (a, b) = (a.to_f32(), b.to_f32());
                a[..k].iter().zip(&b[k..2 * k]).map(|(a, b)| f64::from(a * b)).sum::<f64>()
            };
            let bound = 1e-6 * 64.0 * k as f64;
            assert!((dot(&a, &b) - dot(&a_turned, &b_turned)).abs() <= bound, "{k}");
            let back = rotation.undo(&a_turned).unwrap();
            assert!(back.to_f32().iter().zip(a.to_f32().iter()).all(|(a, b)| (a - b).abs() < 1e-4), "{k}");
            if block > 1 {
                assert_ne!(a_turned, a);
                // One number becomes as many as the block has.
                let mut one = vec![0.0; k];
                one[k - 1] = 4.0;
                let spread = rotation.apply(&Tensor::from_f32([k], one).unwrap()).unwrap();
                let other = spread.to_f32().iter().filter(|v| **v != 0.0).count();
                assert_eq!(other, block);
            }
        }
        assert_ne!(Rotation::new(64, 1), Rotation::new(64, 2));
        assert!(Rotation::new(8, 1).apply(&Tensor::from_f32([2, 4], vec![0.0; 8]).unwrap()).is_err());
    }
}
