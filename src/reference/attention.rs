//! The oracle of multi-head attention: a token and a head at a time, in f64.
//!
//! ```text
//! head h of y[t] = sum over tokens j of t's sentence of p[j] * head h of v[j]
//! p = exp(s - max s) / sum exp(s - max s)        s[j] = head h of q[t] . head h of k[j] / sqrt(head size)
//! ```
//!
//! A token sees all tokens of its own sentence, and none of others.

/// y `[T, D]` of q, k, v `[T, D]`, `heads` of D / heads columns side by side; `lengths` are those of the sentences and sum to T.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], lengths: &[usize], heads: usize) -> Vec<f64> {
    let d = q.len() / lengths.iter().sum::<usize>();
    let size = d / heads;
    let mut y = vec![0.0; q.len()];
    let mut start = 0;
    for &length in lengths {
        for t in start..start + length {
            for first in (0..d).step_by(size) {
                let mut scores = vec![0.0; length];
                for (j, score) in scores.iter_mut().enumerate() {
                    for i in first..first + size {
                        *score += f64::from(q[t * d + i]) * f64::from(k[(start + j) * d + i]);
                    }
                    *score /= (size as f64).sqrt();
                }
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mut sum = 0.0;
                for score in &mut scores {
                    *score = (*score - top).exp();
                    sum += *score;
                }
                for (j, p) in scores.iter().enumerate() {
                    for i in first..first + size {
                        y[t * d + i] += p / sum * f64::from(v[(start + j) * d + i]);
                    }
                }
            }
        }
        start += length;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_worked_out_by_hand() {
        let ln = |v: f64| v.ln() as f32;
        // One head of one column. The second sentence has weights 1 : 3 and 1 : 1.
        let (q, k) = ([5.0, 1.0, 0.0], [7.0, ln(2.0), ln(6.0)]);
        let y = attention(&q, &k, &[9.0, 4.0, 8.0], &[1, 2], 1);
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");
        y.iter().zip([9.0, 7.0, 6.0]).for_each(|(&y, want)| close(y, want));
        // Two heads of four columns: scores are halved, and heads do not see each other.
        let mut q = vec![0.0; 16];
        let mut k = vec![0.0; 16];
        (q[0], k[8], q[12]) = (2.0, ln(3.0), 1000.0);
        k[4] = 1000.0;
        let v: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let y = attention(&q, &k, &v, &[2], 2);
        // Token 0: head 0 has weights 1 : 3, head 1 equal ones; token 1: head 0 has q = 0, head 1 sees token 0 alone.
        y.iter().zip([6.0, 7.0, 8.0, 9.0, 8.0, 9.0, 10.0, 11.0]).for_each(|(&y, want)| close(y, want));
        y[8..].iter().zip([4.0, 5.0, 6.0, 7.0, 4.0, 5.0, 6.0, 7.0]).for_each(|(&y, want)| close(y, want));
    }
}
