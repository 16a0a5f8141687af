//! The oracle of an embedding: decoded rows of tables, added up in f64.
//!
//! ```text
//! y[t,d] = sum over tables of w[ids[t], d]        w = dequantize(packed)
//! ```

use super::dequantize::dequantize;
use crate::PackedTensor;

/// y `[T, D]` of tables `[N, D]`, each with the T rows that are wanted of it.
pub fn embed(tables: &[(&PackedTensor, &[u32])]) -> Vec<f64> {
    let mut y = Vec::new();
    for &(table, ids) in tables {
        let (_, d) = table.matrix();
        let weights = dequantize(table);
        y.resize(ids.len() * d, 0.0);
        for (t, &id) in ids.iter().enumerate() {
            for i in 0..d {
                y[t * d + i] += f64::from(weights[id as usize * d + i]);
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::quantize;

    #[test]
    fn rows_worked_out_by_hand() {
        let table = |values: &[f32]| quantize(values, 2, 2, "f32".parse().unwrap(), None).unwrap();
        let (words, kinds) = (table(&[1.0, 2.0, 3.0, 4.0]), table(&[0.5, 0.25, -1.0, -2.0]));
        assert_eq!(embed(&[(&words, &[1, 1, 0])]), [3.0, 4.0, 3.0, 4.0, 1.0, 2.0]);
        assert_eq!(embed(&[(&words, &[1, 0]), (&kinds, &[0, 1])]), [3.5, 4.25, 0.0, 0.0]);
    }
}
