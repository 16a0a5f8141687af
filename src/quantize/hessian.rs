//! X^T X of what goes into a layer: how much each error of a weight counts, alone and together with others.
//!
//! ```text
//! e = w - q, a row's errors:     |X e|^2 = e X^T X e^T          rows of w add up: tr(E X^T X E^T), the proxy loss
//! ```
//!
//! Checked once: whoever holds a [`Hessian`] may rely on finite, symmetric numbers and a diagonal that is not negative. Of the true second derivative it lacks a factor of 2,
//! which nothing here depends on.

use crate::product::Product;
use crate::transform::Transform;
use crate::{Error, Result, Tensor, cpu};

/// Entries on both sides of the diagonal may differ by this much of the geometric mean of their diagonals.
const SYMMETRIC: f32 = 1e-3;

/// X^T X `[K, K]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    k: usize,
    values: Vec<f32>,
    /// Rows of X; 1 where it is not known.
    rows: u64,
}

impl Hessian {
    /// X^T X of `rows` rows for the layer `name`.
    ///
    /// # Errors
    /// Of the layer, by name: [`Error::Shape`] for another number of entries; [`Error::Check`] for no rows, NaN and infinities, a negative diagonal, and entries that are
    /// not the same on both sides of it.
    pub fn new(name: &str, k: usize, values: Vec<f32>, rows: u64) -> Result<Self> {
        let bad = |what: String| Err(Error::Check { what }.in_tensor(name));
        if k == 0 || k.checked_mul(k) != Some(values.len()) {
            return Err(Error::shape("entries of X^T X", format!("{k} x {k}"), values.len()).in_tensor(name));
        }
        if rows == 0 {
            return bad("its calibration is empty: no row of inputs was seen".into());
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return bad(format!("X^T X has {} in row {}, column {}", values[at], at / k, at % k));
        }
        if let Some(i) = (0..k).find(|i| values[i * k + i] < 0.0) {
            return bad(format!("X^T X has {} on its diagonal, in row {i}", values[i * k + i]));
        }
        let roots: Vec<f32> = (0..k).map(|i| values[i * k + i].sqrt()).collect();
        for i in 0..k {
            let apart = |j: &usize| {
                let within = SYMMETRIC * roots[i] * roots[*j] + f32::MIN_POSITIVE;
                (values[i * k + j] - values[j * k + i]).abs() > within
            };
            if let Some(j) = (0..i).find(apart) {
                let (a, b) = (values[i * k + j], values[j * k + i]);
                return bad(format!(
                    "X^T X is not symmetric: {a} in row {i}, column {j}, and {b} in row {j}"
                ));
            }
        }
        Ok(Self { k, values, rows })
    }

    /// X^T X of rows x `[T, K]` of the inputs of the layer `name`.
    ///
    /// # Errors
    /// As [`Self::new`]; [`Error::Shape`] if K does not divide x.
    pub fn of_rows(name: &str, k: usize, x: &[f32]) -> Result<Self> {
        if k == 0 || !x.len().is_multiple_of(k) {
            return Err(Error::shape("columns of the inputs", k, x.len()).in_tensor(name));
        }
        Self::new(name, k, cpu::gram(x, k, None), (x.len() / k) as u64)
    }

    /// One whose columns know nothing of each other: `importance` `[K]` on the diagonal, as llama.cpp's importance matrices have it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_importance(name: &str, importance: &[f32]) -> Result<Self> {
        let k = importance.len();
        let mut values = vec![0.0; k * k];
        values.iter_mut().step_by(k + 1).zip(importance).for_each(|(to, v)| *to = *v);
        Self::new(name, k, values, 1)
    }

    /// Columns of X.
    pub fn k(&self) -> usize {
        self.k
    }

    /// X^T X, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The sum of squares of a column.
    pub fn diagonal(&self, i: usize) -> f32 {
        self.values[i * self.k + i]
    }

    /// The root mean square of each column.
    pub fn root_mean_squares(&self) -> Vec<f32> {
        let rows = self.rows as f64;
        (0..self.k).map(|i| (f64::from(self.diagonal(i)) / rows).sqrt() as f32).collect()
    }

    /// That of transformed inputs.
    ///
    /// # Panics
    /// If the transform is of another K.
    pub fn transformed(&self, by: &Transform) -> Self {
        Self { values: cpu::transform_moments(&self.values, by), ..self.clone() }
    }

    /// tr(E H E^T) of errors `[N, K]`: what they do to the outputs, squares summed over all rows of X.
    ///
    /// # Errors
    /// [`Error::Shape`] for errors of another K.
    pub fn loss(&self, errors: &[f32]) -> Result<f64> {
        let k = self.k;
        if !errors.len().is_multiple_of(k) {
            return Err(Error::shape("columns of the errors", k, errors.len()));
        }
        if errors.is_empty() {
            return Ok(0.0);
        }
        // A product with plain numbers, H being its own transpose.
        let h = Tensor::from_f32([k, k], self.values.clone())?;
        let h = cpu::quantize(&h, "X^T X", &"f32".parse()?, None)?;
        let x = Tensor::from_f32([errors.len() / k, k], errors.to_vec())?;
        let y = cpu::matmul(&x, &h, 0..k, &Product::default(), None, None)?;
        Ok(y.to_f32().iter().zip(errors).map(|(y, e)| f64::from(*y) * f64::from(*e)).sum())
    }

    /// Whether it fits a weight `[.., N, K]`.
    ///
    /// # Errors
    /// [`Error::Shape`] with the layer's name.
    pub fn check(&self, tensor: &Tensor, name: &str) -> Result<()> {
        match tensor.shape().last() {
            Some(k) if *k == self.k => Ok(()),
            other => {
                let got = format!("{} columns", other.unwrap_or(&0));
                Err(Error::shape("weight for inputs", format!("K = {}", self.k), got).in_tensor(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hessian_is_refused_by_name() {
        let wrong = |k: usize, values: &[f32], rows: u64| {
            Hessian::new("a.weight", k, values.to_vec(), rows).unwrap_err().to_string()
        };
        for (error, word) in [
            (wrong(2, &[1.0, 0.5, 0.5], 9), "2 x 2"),
            (wrong(0, &[], 9), "0 x 0"),
            (wrong(2, &[1.0, 0.5, 0.5, 1.0], 0), "empty"),
            (wrong(2, &[1.0, f32::NAN, f32::NAN, 1.0], 9), "NaN in row 0, column 1"),
            (wrong(2, &[1.0, 0.0, 0.0, f32::INFINITY], 9), "inf in row 1"),
            (wrong(2, &[1.0, 0.5, 0.5, -1.0], 9), "-1 on its diagonal, in row 1"),
            (wrong(2, &[1.0, 0.5, 0.6, 1.0], 9), "not symmetric: 0.6 in row 1, column 0, and 0.5 in row 0"),
        ] {
            assert!(error.starts_with("tensor 'a.weight': ") && error.contains(word), "{error}");
        }
        // The last bits may differ.
        assert!(Hessian::new("a", 2, vec![1.0, 0.5, 0.5001, 1.0], 9).is_ok());
        let hessian = Hessian::of_importance("a", &[1.0, 2.0]).unwrap();
        let other = Tensor::from_f32([1, 3], vec![0.0; 3]).unwrap();
        let error = hessian.check(&other, "b").unwrap_err().to_string();
        assert!(error.contains("'b'") && error.contains("K = 2") && error.contains("3 columns"), "{error}");
        assert!(Hessian::of_rows("a", 2, &[1.0; 3]).is_err() && Hessian::of_rows("a", 2, &[]).is_err());
    }

    #[test]
    fn the_loss_is_that_of_outputs() {
        let x = [1.0, 2.0, -1.0, 0.5, 3.0, 1.0];
        let hessian = Hessian::of_rows("a", 2, &x).unwrap();
        let errors = [0.5, -1.0, 2.0, 0.25];
        let outputs = errors.chunks(2).flat_map(|e| x.chunks(2).map(move |x| x[0] * e[0] + x[1] * e[1]));
        let expected: f32 = outputs.map(|y| y * y).sum();
        assert!((hessian.loss(&errors).unwrap() - f64::from(expected)).abs() < 1e-5);
        // Errors of scaled columns meet inputs that are scaled back.
        let scales = [2.0, 0.25];
        let scaled: Vec<f32> = errors.chunks(2).flat_map(|e| [e[0] * scales[0], e[1] * scales[1]]).collect();
        let back = hessian.transformed(&Transform::dividing(&scales).unwrap()).loss(&scaled).unwrap();
        assert!((back - f64::from(expected)).abs() < 1e-5);
        // And errors of rotated columns rotated inputs: e H e^T stays.
        let by = Transform::new(vec![-0.5, 4.0], 2).unwrap();
        let turned = cpu::transform_weight(&Tensor::from_f32([2, 2], errors.to_vec()).unwrap(), &by).unwrap();
        let back = hessian.transformed(&by).loss(&turned.to_f32()).unwrap();
        assert!((back - f64::from(expected)).abs() < 1e-4, "{back} {expected}");
        assert!((hessian.root_mean_squares()[0] - (11f32 / 3.0).sqrt()).abs() < 1e-6);
        assert!(hessian.loss(&[1.0]).is_err());
    }
}
