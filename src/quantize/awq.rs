//! AWQ: columns that meet large inputs are made larger before they are rounded, and so lose less; ranges are clipped where that costs the outputs least.
//!
//! ```text
//! s_j = (root mean square of input j)^alpha, normalized        alpha of 0, 1/20, .. 19/20 with the least tr(E H E^T),  E = w - Q(w * s) / s
//! w * s --clip: each group's range shrunk by 1, 0.95, .. 0.55, the least e H e^T within the group--> encoder of the scheme
//! ```
//!
//! A layer whose weight has been scaled wants its input divided by s. Who calls takes that back into what stands before the layer (the gain of a norm that feeds nothing else, the
//! rows of a linear layer with nothing but linear steps between), or makes it a [`crate::Transform`] that the file carries, or does without scales.
//!
//! Source: Lin et al. 2023. Differs: root mean squares in the place of mean magnitudes, errors by X^T X in the place of a sample, and clipping is left out where it does
//! not lower the loss of the whole layer.

use super::{Hessian, Layer};
use crate::scheme::Group;
use crate::{DType, Error, PackedTensor, Result, Tensor, cpu, threads};

/// Exponents that are tried, from 0 on, and what they are counted in.
const STEPS: usize = 20;
/// Ranges that are tried, from the whole one on, shrunk by a [`STEPS`]th each.
const RANGES: usize = 10;
/// The least root mean square of a column beside the largest one.
const FLOOR: f32 = 1e-4;

impl Layer<'_> {
    /// Encoded and decoded again, with columns multiplied by `scales` in between.
    fn errors(&self, scales: &[f32]) -> Result<Vec<f32>> {
        let packed =
            cpu::quantize_by(&scaled(self.tensor, scales)?, self.name, self.scheme, self.method, None)?;
        let mut errors = cpu::dequantize(&packed, DType::F32).to_f32().into_owned();
        let w = self.tensor.to_f32();
        for (errors, w) in errors.chunks_mut(scales.len()).zip(w.chunks(scales.len())) {
            for ((e, s), w) in errors.iter_mut().zip(scales).zip(w) {
                *e = w - *e / s;
            }
        }
        Ok(errors)
    }
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub alpha: f32,
    /// What columns are multiplied by `[K]`.
    pub scales: Vec<f32>,
    /// tr(E H E^T) with them.
    pub loss: f64,
    /// The same without.
    pub nearest: f64,
}

/// The scales of least loss for weights that share an input.
///
/// # Errors
/// As [`cpu::quantize_by`]; [`Error::Shape`] for weights of another K, and for none.
pub fn search(layers: &[Layer], hessian: &Hessian) -> Result<Found> {
    if layers.is_empty() {
        return Err(Error::shape("weights that share an input", "at least one", 0));
    }
    layers.iter().try_for_each(|layer| hessian.check(layer.tensor, layer.name))?;
    let sizes = hessian.root_mean_squares();
    let mut best: Option<Found> = None;
    for step in 0..STEPS {
        let alpha = step as f32 / STEPS as f32;
        let scales = scales(&sizes, alpha);
        let loss = layers.iter().map(|layer| hessian.loss(&layer.errors(&scales)?)).sum::<Result<f64>>();
        let loss = match loss {
            // Columns that were made too large for the scheme are no candidate.
            Err(Error::NotRepresentable { .. }) if step > 0 => continue,
            loss => loss?,
        };
        let nearest = best.as_ref().map_or(loss, |found| found.nearest);
        if best.as_ref().is_none_or(|found| loss < found.loss) {
            best = Some(Found { alpha, scales, loss, nearest });
        }
    }
    best.ok_or_else(|| Error::Check { what: "no scale of columns has a loss".into() })
}

/// s of columns with these root mean squares: the geometric mean of the least and the largest is 1.
fn scales(sizes: &[f32], alpha: f32) -> Vec<f32> {
    let most = sizes.iter().fold(0f32, |m, v| m.max(*v));
    if most == 0.0 {
        return vec![1.0; sizes.len()];
    }
    let scales: Vec<f32> = sizes.iter().map(|v| (v / most).max(FLOOR).powf(alpha)).collect();
    let least = scales.iter().fold(f32::INFINITY, |m, v| m.min(*v));
    // The largest is 1.
    let middle = least.sqrt();
    scales.iter().map(|s| s / middle).collect()
}

/// `tensor` with its columns multiplied by `scales` `[K]`, as f32.
///
/// # Errors
/// [`Error::Shape`] for another number of scales.
pub fn scaled(tensor: &Tensor, scales: &[f32]) -> Result<Tensor> {
    let (_, k) = tensor.matrix();
    if scales.len() != k {
        return Err(Error::shape("scales of columns", k, scales.len()));
    }
    let mut w = tensor.to_f32().into_owned();
    for row in w.chunks_mut(k.max(1)) {
        row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s);
    }
    Tensor::from_f32(tensor.shape(), w)
}

/// `tensor`, a vector or `[N, K]`, with its rows (the numbers of the vector) multiplied by `scales` `[N]`, as f32.
///
/// # Errors
/// [`Error::Shape`] for another number of scales.
pub fn scaled_rows(tensor: &Tensor, scales: &[f32]) -> Result<Tensor> {
    let rows = tensor.shape().first().copied().unwrap_or(0);
    if scales.len() != rows || tensor.is_empty() {
        return Err(Error::shape("scales of rows", rows, scales.len()));
    }
    let mut w = tensor.to_f32().into_owned();
    let k = w.len() / rows;
    for (row, s) in w.chunks_mut(k).zip(scales) {
        row.iter_mut().for_each(|w| *w *= s);
    }
    Tensor::from_f32(tensor.shape(), w)
}

/// Encodes a weight with the ranges of its groups clipped where that lowers the loss.
///
/// # Errors
/// As [`cpu::quantize_by`]; [`Error::Shape`] for a Hessian of another K.
pub fn quantize(layer: &Layer, hessian: &Hessian) -> Result<PackedTensor> {
    hessian.check(layer.tensor, layer.name)?;
    let encode = |w: &Tensor| cpu::quantize_by(w, layer.name, layer.scheme, layer.method, None);
    let plain = encode(layer.tensor)?;
    if layer.scheme.is_float() || layer.scheme.group == Group::Tensor {
        return Ok(plain);
    }
    let w = layer.tensor.to_f32();
    let k = hessian.k();
    let group = layer.scheme.group_len(k);
    let mut least = group_losses(&w, &plain, hessian, group);
    let mut shares = vec![1.0f32; least.len()];
    for step in 1..RANGES {
        let share = 1.0 - step as f32 / STEPS as f32;
        let tried = vec![share; shares.len()];
        let packed = encode(&Tensor::from_f32(layer.tensor.shape(), clipped(&w, k, group, &tried))?)?;
        let losses = group_losses(&w, &packed, hessian, group);
        for ((least, best), loss) in least.iter_mut().zip(&mut shares).zip(losses) {
            if loss < *least {
                (*least, *best) = (loss, share);
            }
        }
    }
    let clipped = encode(&Tensor::from_f32(layer.tensor.shape(), clipped(&w, k, group, &shares))?)?;
    let loss = |packed: &PackedTensor| {
        let decoded = cpu::dequantize(packed, DType::F32);
        let errors: Vec<f32> = w.iter().zip(decoded.to_f32().iter()).map(|(w, q)| w - q).collect();
        hessian.loss(&errors)
    };
    Ok(if loss(&clipped)? < loss(&plain)? { clipped } else { plain })
}

/// Groups of rows within a share of their largest magnitude.
fn clipped(w: &[f32], k: usize, group: usize, shares: &[f32]) -> Vec<f32> {
    let mut w = w.to_vec();
    for (w, share) in w.chunks_mut(k).flat_map(|row| row.chunks_mut(group)).zip(shares) {
        let most = w.iter().fold(0f32, |m, v| m.max(v.abs())) * share;
        if *share < 1.0 {
            w.iter_mut().for_each(|v| *v = v.clamp(-most, most));
        }
    }
    w
}

/// e H e^T of each group of each row by itself.
fn group_losses(w: &[f32], packed: &PackedTensor, hessian: &Hessian, group: usize) -> Vec<f32> {
    let k = hessian.k();
    let decoded = cpu::dequantize(packed, DType::F32);
    let decoded = decoded.to_f32();
    let rows: Vec<_> = w.chunks(k).zip(decoded.chunks(k)).collect();
    let losses = threads::map(rows, w.len() * group, |(w, q)| {
        let groups = w.chunks(group).zip(q.chunks(group)).enumerate().map(|(g, (w, q))| {
            let first = g * group;
            let errors: Vec<f32> = w.iter().zip(q).map(|(w, q)| w - q).collect();
            let mut y = vec![0f32; errors.len()];
            for (i, e) in errors.iter().enumerate() {
                let h = &hessian.values()[(first + i) * k + first..][..y.len()];
                y.iter_mut().zip(h).for_each(|(y, h)| *y += e * h);
            }
            y.iter().zip(&errors).map(|(y, e)| y * e).sum::<f32>()
        });
        groups.collect::<Vec<_>>()
    });
    losses.concat()
}
