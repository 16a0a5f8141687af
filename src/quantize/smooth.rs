//! SmoothQuant: inputs with outliers in a few columns are divided, and the weight's columns multiplied, by numbers that leave both with ranges that int8 can hold.
//!
//! ```text
//! s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)        x w^T = (x / s) (w * s)^T        max|w_j| over all weights that share x
//! alpha: given, or of 0, 1/20, .. 1 the one with the least |x w^T - Q(x / s) Q(w * s)^T|^2 over a sample
//! ```
//!
//! What is found is a [`Transform`], which a file carries. Source: Xiao et al. 2022.

use super::Layer;
use crate::product::Product;
use crate::transform::Transform;
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
        widen(&mut most, row);
    }
    most
}

/// Raises ranges to the magnitudes of others.
fn widen(ranges: &mut [f32], others: &[f32]) {
    ranges.iter_mut().zip(others).for_each(|(m, v)| *m = m.max(v.abs()));
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

/// y of a layer, of both sides as they are and rounded: x w^T, and Q(x') Q(w')^T of both sides transformed. x `[T, K]` is rounded as a tensor of its own: in `int8-row` for a scale per
/// token, `int8-tensor` for one in all, or not.
///
/// # Errors
/// As [`cpu::quantize_by`]; [`Error::Shape`] for sides that do not meet.
pub fn outputs(x: &Tensor, layer: &Layer, by: &Transform, inputs: Option<&Scheme>) -> Result<[Tensor; 2]> {
    let exact = product(x, &cpu::quantize(layer.tensor, layer.name, &"f32".parse()?, None)?)?;
    Ok([exact, rounded(x, layer, by, inputs)?])
}

fn rounded(x: &Tensor, layer: &Layer, by: &Transform, inputs: Option<&Scheme>) -> Result<Tensor> {
    if x.matrix().1 != by.k() {
        return Err(Error::shape("columns to transform", by.k(), x.matrix().1));
    }
    let mut x = Tensor::from_f32(x.shape(), cpu::transform(&x.to_f32(), by))?;
    if let Some(scheme) = inputs {
        x = cpu::dequantize(&cpu::quantize(&x, "inputs", scheme, None)?, DType::F32);
    }
    let w = cpu::transform_weight(layer.tensor, by)?;
    product(&x, &cpu::quantize_by(&w, layer.name, layer.scheme, layer.method, None)?)
}

fn product(x: &Tensor, w: &crate::PackedTensor) -> Result<Tensor> {
    cpu::matmul(x, w, 0..w.matrix().0, &Product::default(), None, None)
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub alpha: f32,
    pub transform: Transform,
    /// The squared errors of the outputs, those of all layers together.
    pub loss: f64,
}

/// The transform of layers that share inputs, whose columns have these ranges `[K]`.
///
/// # Errors
/// As [`scales`] and [`Transform::new`]; [`Error::Shape`] for no layer.
pub fn of_alpha(ranges: &[f32], layers: &[Layer], alpha: f32) -> Result<Transform> {
    let Some(first) = layers.first() else {
        return Err(Error::shape("weights that share an input", "at least one", 0));
    };
    let mut weights = column_ranges(first.tensor);
    for layer in &layers[1..] {
        widen(&mut weights, &column_ranges(layer.tensor));
    }
    Transform::dividing(&scales(ranges, &weights, alpha)?)
}

/// The alpha of least loss for inputs whose columns have these ranges `[K]`, of which x `[T, K]` is a sample.
///
/// # Errors
/// As [`of_alpha`] and [`outputs`].
pub fn search(ranges: &[f32], x: &Tensor, layers: &[Layer], inputs: Option<&Scheme>) -> Result<Found> {
    let f32s: Scheme = "f32".parse()?;
    let exact = layers.iter().map(|layer| product(x, &cpu::quantize(layer.tensor, layer.name, &f32s, None)?));
    let exact: Vec<Tensor> = exact.collect::<Result<_>>()?;
    let (mut best, mut beyond): (Option<Found>, _) = (None, None);
    for step in 0..=STEPS {
        let alpha = step as f32 / STEPS as f32;
        let transform = of_alpha(ranges, layers, alpha)?;
        let losses = layers.iter().zip(&exact).map(|(layer, exact)| {
            let y = rounded(x, layer, &transform, inputs)?;
            let (exact, y) = (exact.to_f32(), y.to_f32());
            Ok(exact.iter().zip(y.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>())
        });
        let loss = match losses.sum::<Result<f64>>() {
            // Columns that were made too large for the scheme are no candidate.
            Err(error @ Error::NotRepresentable { .. }) => {
                beyond = Some(error);
                continue;
            }
            loss => loss?,
        };
        if best.as_ref().is_none_or(|found| loss < found.loss) {
            best = Some(Found { alpha, transform, loss });
        }
    }
    best.ok_or_else(|| beyond.unwrap_or_else(|| Error::Check { what: "no alpha has a loss".into() }))
}
