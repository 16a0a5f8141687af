//! What the input of a linear layer is turned into before it is rounded, and its weight with it, so that the product stays: columns multiplied, blocks of them rotated.
//!
//! ```text
//! x' = (x * v) R        R = H_b / sqrt(b) in blocks on the diagonal, H_b Hadamard's matrix of size b (Sylvester's), v [K]
//! w' = (w / v) R        x w^T = x' w'^T, as R R^T = 1
//! ```
//!
//! SmoothQuant and AWQ are v alone (b = 1); a randomized Hadamard rotation is v of signs and the largest b. This file has the numbers, engines the arithmetic. Files keep a
//! transform beside the weight that it was made for, whoever runs the layer applies it.

use crate::{Error, Result};

/// The largest block: what fits the workgroup memory of every device.
pub const MOST: usize = 4096;
/// Magnitudes of v lie between the inverse of this and this, so that inverses and products stay numbers.
const RANGE: f32 = 1e18;

/// Numbers v and the size of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    by: Vec<f32>,
    block: usize,
}

impl Transform {
    /// One of v `[K]` and blocks of `block` columns, 1 where nothing is rotated.
    ///
    /// # Errors
    /// [`Error::Shape`] for no column and for a block that is no power of two up to [`MOST`] or does not divide K; [`Error::Check`] for a number of v that is 0, not finite or beyond
    /// 1e-18 to 1e18.
    pub fn new(by: Vec<f32>, block: usize) -> Result<Self> {
        if by.is_empty() || !block.is_power_of_two() || block > MOST || !by.len().is_multiple_of(block) {
            let expected = format!("a power of two up to {MOST} that divides {} columns", by.len());
            return Err(Error::shape("block of a rotation", expected, block));
        }
        if let Some(at) = by.iter().position(|v| !(1.0 / RANGE..=RANGE).contains(&v.abs())) {
            return Err(Error::Check {
                what: format!("column {at} of an input is multiplied by {}", by[at]),
            });
        }
        Ok(Self { by, block })
    }

    /// Inputs divided and weights multiplied by `scales` `[K]`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn dividing(scales: &[f32]) -> Result<Self> {
        Self::new(scales.iter().map(|s| 1.0 / s).collect(), 1)
    }

    /// A randomized Hadamard rotation of K columns: signs by a seed, and the largest block. Where K is odd nothing is mixed.
    ///
    /// # Errors
    /// [`Error::Shape`] for no column.
    pub fn rotation(k: usize, seed: u64) -> Result<Self> {
        let start = mixed(seed);
        let sign = |i: usize| if mixed(start.wrapping_add(i as u64)) >> 63 == 0 { 1.0 } else { -1.0 };
        let block = 1 << k.trailing_zeros().min(MOST.ilog2());
        Self::new((0..k).map(sign).collect(), block)
    }

    /// v, a number for each column.
    pub fn by(&self) -> &[f32] {
        &self.by
    }

    /// Columns of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.by.len()
    }

    /// Whether columns are no more than multiplied.
    pub fn only_scales(&self) -> bool {
        self.block == 1
    }

    /// 1 / v: what columns of a weight are multiplied by, and those of one that is turned back are divided by.
    pub fn inverse(&self) -> Vec<f32> {
        self.by.iter().map(|v| 1.0 / v).collect()
    }

    /// What sums within a block are multiplied by.
    pub fn share(&self) -> f32 {
        1.0 / (self.block as f32).sqrt()
    }
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
    fn rotations_have_the_largest_block_that_divides() {
        for (k, block) in [(1, 1), (7, 1), (8, 8), (384, 128), (96, 32), (4096, 4096), (16384, 4096)] {
            let rotation = Transform::rotation(k, 5).unwrap();
            assert_eq!((rotation.k(), rotation.block(), rotation.only_scales()), (k, block, block == 1));
            assert!(rotation.by().iter().all(|v| v.abs() == 1.0));
        }
        let signs = Transform::rotation(4096, 1).unwrap();
        let up = signs.by().iter().filter(|v| **v > 0.0).count();
        assert!((1920..2176).contains(&up), "{up} of 4096");
        assert_ne!(Transform::rotation(64, 1).unwrap(), Transform::rotation(64, 2).unwrap());
    }

    #[test]
    fn what_cannot_be_undone_is_refused() {
        for (by, block) in
            [(vec![], 1), (vec![1.0; 6], 4), (vec![1.0; 6], 3), (vec![1.0; 6], 0), (vec![1.0; 8192], 8192)]
        {
            assert!(matches!(Transform::new(by, block), Err(Error::Shape { .. })), "{block}");
        }
        for wrong in [0.0, f32::NAN, f32::INFINITY, 1e-30, -1e30] {
            let error = Transform::new(vec![1.0, wrong], 2).unwrap_err().to_string();
            assert!(error.contains("column 1"), "{error}");
        }
        assert!(Transform::dividing(&[1.0, 0.0]).is_err() && Transform::rotation(0, 1).is_err());
    }
}
