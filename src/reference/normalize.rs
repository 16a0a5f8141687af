//! The oracle of L2 normalization: a row at a time, in f64.
//!
//! ```text
//! y[m,d] = x[m,d] / sqrt(sum_d x[m,d]^2)        a row of zeros stays one
//! ```

/// y `[M, D]` of x `[M, D]`, rows of norm 1.
pub fn normalize(x: &[f32], d: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(d) {
        let mut squares = 0.0;
        for &v in row {
            squares += f64::from(v).powi(2);
        }
        for &v in row {
            y.push(if squares == 0.0 { 0.0 } else { f64::from(v) / squares.sqrt() });
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_worked_out_by_hand() {
        assert_eq!(normalize(&[3.0, -4.0, 0.0, 0.0, 0.0, 1e-30], 2), [0.6, -0.8, 0.0, 0.0, 0.0, 1.0]);
    }
}
