//! The oracle of layer normalization: a row at a time, in f64.
//!
//! ```text
//! y[m,d] = (x[m,d] - mean[m]) / sqrt(variance[m] + eps) * gamma[d] + beta[d]        variance: mean of the squared differences
//! ```

/// y `[M, D]` of x `[M, D]`, gamma `[D]` and beta `[D]`.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f64> {
    let d = gamma.len();
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(d) {
        let mut mean = 0.0;
        for &v in row {
            mean += f64::from(v) / d as f64;
        }
        let mut variance = 0.0;
        for &v in row {
            variance += (f64::from(v) - mean).powi(2) / d as f64;
        }
        let deviation = (variance + f64::from(eps)).sqrt();
        for i in 0..d {
            y.push((f64::from(row[i]) - mean) / deviation * f64::from(gamma[i]) + f64::from(beta[i]));
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_worked_out_by_hand() {
        // Mean 2, variance 4, and with eps 5 a deviation of 3.
        let y = layer_norm(&[0.0, 4.0, 7.0, 7.0], &[3.0, 1.5], &[1.0, -1.0], 5.0);
        assert_eq!(y, [-1.0, 0.0, 1.0, -1.0]);
    }
}
