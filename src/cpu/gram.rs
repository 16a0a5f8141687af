//! Second moments of columns, X^T X: the product of all columns of x with all of them.
//!
//! Operands have been checked by who calls.

use super::dense::{Operand, dense_at};
use super::level::Level;

/// y `[K, K]` of x `[T, K]` and `onto` `[K, K]`.
pub fn gram(x: &[f32], k: usize, onto: Option<&[f32]>) -> Vec<f32> {
    gram_at(Level::best(), x, k, onto)
}

pub(super) fn gram_at(level: Level, x: &[f32], k: usize, onto: Option<&[f32]>) -> Vec<f32> {
    let columns = Operand { values: x, rows: k, t: x.len() / k, turned: true };
    dense_at(level, columns, columns, onto)
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
