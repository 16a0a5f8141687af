//! The oracle of products of two dense matrices: three loops, in f64.
//!
//! ```text
//! y[m,n] = sum over t of a(m,t) * b(n,t)  (+ bias[n])        a is [M, T], or turned [T, M]; b is [N, T], or turned [T, N]
//! ```

/// y `[M, N]`; `turned` says of a and b whether they are.
pub fn dense(
    a: &[f32],
    b: &[f32],
    [m, n, t]: [usize; 3],
    turned: [bool; 2],
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let mut y = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[j]));
            for s in 0..t {
                let left = if turned[0] { a[s * m + i] } else { a[i * t + s] };
                let right = if turned[1] { b[s * n + j] } else { b[j * t + s] };
                sum += f64::from(left) * f64::from(right);
            }
            y.push(sum);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_worked_out_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0, 2.0, 1.0, 0.5]);
        // Rows of [2, 3] with rows of [2, 3]; then columns of [3, 2] with columns of [3, 2].
        assert_eq!(dense(&a, &b, [2, 2, 3], [false, false], None), [-2.0, 5.5, -2.0, 16.0]);
        assert_eq!(dense(&a, &b, [2, 2, 3], [true, true], Some(&[1.0, 0.0])), [4.0, 8.5, 5.0, 11.0]);
        assert_eq!(dense(&a, &b, [2, 2, 3], [false, true], None)[0], 1.0 - 2.0 + 3.0);
        assert_eq!(dense(&a, &b, [2, 2, 3], [true, false], None)[1], 2.0 + 3.0 + 2.5);
    }
}
