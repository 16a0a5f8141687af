//! SmoothQuant: inputs with outliers in a few columns are divided, and the weight's columns multiplied, by numbers that leave both with ranges that int8 can hold.
//!
//! ```text
//! s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)        x w^T = (x / s) (w * s)^T
//! alpha: given, or of 0, 1/20, .. 1 the one with the least |x w^T - Q(x / s) Q(w * s)^T|^2 over a sample
//! ```
//!
//! As with [`super::awq`], who calls takes 1 / s back into what stands before the layer. Source: Xiao et al. 2022.

use super::awq::scaled;
use crate::product::Product;
use crate::{DType, Error, Result, Scheme, Tensor, cpu};

/// Exponents that are tried are multiples of 1 / this.
const STEPS: usize = 20;
/// Smaller ranges count as this much.
const FLOOR: f32 = 1e-5;

/// The largest magnitude of each column of `[.., K]`.
pub fn column_ranges(tensor: &Tensor) -> Vec<f32> {
    let (_, k) = tensor.matrix();
    let mut most = vec![0f32; k];
    for row in tensor.to_f32().chunks(k.max(1)) {
        most.iter_mut().zip(row).for_each(|(m, v)| *m = m.max(v.abs()));
    }
    most
}

/// What the weight's columns are multiplied by, and the inputs' divided: of the ranges of both `[K]`.
///
/// # Errors
/// [`Error::Shape`] for ranges of different lengths; [`Error::Usage`] for alpha beyond 0 to 1.
pub fn scales(inputs: &[f32], weights: &[f32], alpha: f32) -> Result<Vec<f32>> {
    if inputs.len() != weights.len() {
        return Err(Error::shape("ranges of the inputs' columns", weights.len(), inputs.len()));
    }
    if !(0.0..=1.0).contains(&alpha) {
        return Err(Error::Usage(format!("alpha {alpha}: from 0 to 1")));
    }
    let each = inputs.iter().zip(weights);
    Ok(each.map(|(x, w)| x.max(FLOOR).powf(alpha) / w.max(FLOOR).powf(1.0 - alpha)).collect())
}

/// What both sides of a product are rounded to: x as a tensor of its own, `int8-row` for a scale per token, `int8-tensor` for one in all.
#[derive(Clone, Copy, Debug)]
pub struct Schemes {
    pub inputs: Scheme,
    pub weights: Scheme,
}

/// y of a product, of both sides as they are and rounded: x w^T and Q(x) Q(w)^T, with x `[T, K]` divided and w `[N, K]` multiplied by `scales`.
///
/// # Errors
/// As [`cpu::quantize`]; [`Error::Shape`] for sides that do not meet.
pub fn outputs(x: &Tensor, w: &Tensor, scales: &[f32], schemes: &Schemes) -> Result<[Tensor; 2]> {
    let inverse: Vec<f32> = scales.iter().map(|s| 1.0 / s).collect();
    let (x, w) = (scaled(x, &inverse)?, scaled(w, scales)?);
    let (n, _) = w.matrix();
    let product = |x: &Tensor, scheme: &Scheme| {
        let packed = cpu::quantize(&w, "weight", scheme, None)?;
        cpu::matmul(x, &packed, 0..n, &Product::default(), None, None)
    };
    let rounded = cpu::dequantize(&cpu::quantize(&x, "inputs", &schemes.inputs, None)?, DType::F32);
    Ok([product(&x, &"f32".parse()?)?, product(&rounded, &schemes.weights)?])
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub alpha: f32,
    pub scales: Vec<f32>,
    /// The squared errors of the outputs.
    pub loss: f64,
}

/// The alpha of least loss for the inputs x `[T, K]` of a layer.
///
/// # Errors
/// As [`outputs`].
pub fn search(x: &Tensor, w: &Tensor, schemes: &Schemes) -> Result<Found> {
    let (inputs, weights) = (column_ranges(x), column_ranges(w));
    let mut best: Option<Found> = None;
    for step in 0..=STEPS {
        let alpha = step as f32 / STEPS as f32;
        let scales = scales(&inputs, &weights, alpha)?;
        let [exact, rounded] = outputs(x, w, &scales, schemes)?;
        let pairs = exact.to_f32().into_owned().into_iter().zip(rounded.to_f32().into_owned());
        let loss = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        if best.as_ref().is_none_or(|found| loss < found.loss) {
            best = Some(Found { alpha, scales, loss });
        }
    }
    best.ok_or_else(|| Error::Check { what: "no alpha has a loss".into() })
}
