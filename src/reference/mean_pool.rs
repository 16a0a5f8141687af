//! The oracle of mean pooling: the mean of each sentence's rows, in f64.
//!
//! ```text
//! y[b,d] = sum of x[t,d] over the tokens t of sentence b, divided by their number        sentences lie one after the other
//! ```

/// y `[B, D]` of x `[T, D]`; `lengths` are those of the B sentences and sum to T.
pub fn mean_pool(x: &[f32], d: usize, lengths: &[usize]) -> Vec<f64> {
    let mut y = Vec::with_capacity(lengths.len() * d);
    let mut start = 0;
    for &length in lengths {
        for i in 0..d {
            let mut sum = 0.0;
            for t in start..start + length {
                sum += f64::from(x[t * d + i]);
            }
            y.push(sum / length as f64);
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
        let x = [1.0, 2.0, 3.0, 4.0, 8.0, -9.0];
        assert_eq!(mean_pool(&x, 2, &[2, 1]), [2.0, 3.0, 8.0, -9.0]);
        assert_eq!(mean_pool(&x, 1, &[1, 2, 3]), [1.0, 2.5, 1.0]);
    }
}
