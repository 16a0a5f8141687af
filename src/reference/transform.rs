//! The oracle of transformed inputs: a sum over each block, by the definition of Hadamard's matrix.
//!
//! ```text
//! y[j] = sum over i of the block of x[i] v[i] (-1)^(bits that i and j have in common) / sqrt(b)
//! ```

/// x `[.., K]` with columns multiplied by `by` `[K]` and blocks of `block` columns rotated.
pub fn transform(x: &[f32], by: &[f32], block: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(by.len()) {
        for j in 0..by.len() {
            let first = j / block * block;
            let mut sum = 0.0;
            for i in 0..block {
                let sign = if (i & (j - first)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                sum += sign * f64::from(row[first + i]) * f64::from(by[first + i]);
            }
            y.push(sum / (block as f64).sqrt());
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_worked_out_by_hand() {
        let x = [1.0, 2.0, 3.0, 4.0, 0.5, -1.0, 0.0, 8.0];
        let by = [1.0, -1.0, 2.0, 0.5];
        assert_eq!(transform(&x, &by, 1), [1.0, -2.0, 6.0, 2.0, 0.5, 1.0, 0.0, 4.0]);
        // (1, -2, 6, 2) and (0.5, 1, 0, 4) times rows of H_4, halved.
        assert_eq!(transform(&x, &by, 4), [3.5, 3.5, -4.5, -0.5, 2.75, -2.25, -1.25, 1.75]);
        let two: Vec<f64> =
            [-1.0, 3.0, 8.0, 4.0, 1.5, -0.5, 4.0, -4.0].iter().map(|v| v / 2f64.sqrt()).collect();
        assert!(transform(&x, &by, 2).iter().zip(two).all(|(a, b)| (a - b).abs() < 1e-15));
    }
}
