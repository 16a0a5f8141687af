//! The oracle of second moments: X^T X, in f64.
//!
//! ```text
//! y[i,j] = sum over t of x[t,i] * x[t,j]  (+ onto[i,j])
//! ```

/// y `[K, K]` of x `[T, K]` and `onto` `[K, K]`.
pub fn gram(x: &[f32], k: usize, onto: Option<&[f32]>) -> Vec<f64> {
    let mut y = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            let mut sum = onto.map_or(0.0, |onto| f64::from(onto[i * k + j]));
            for row in x.chunks(k) {
                sum += f64::from(row[i]) * f64::from(row[j]);
            }
            y[i * k + j] = sum;
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_worked_out_by_hand() {
        let x = [1.0, 2.0, -3.0, 0.5];
        assert_eq!(gram(&x, 2, None), [10.0, 0.5, 0.5, 4.25]);
        assert_eq!(gram(&x, 2, Some(&[1.0, 2.0, 3.0, 4.0])), [11.0, 2.5, 3.5, 8.25]);
        assert_eq!(gram(&x, 1, None), [14.25]);
    }
}
