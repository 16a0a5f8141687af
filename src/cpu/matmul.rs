//! `y = function(x * W^T + bias + residual)` for packed weights: checks, the choice of a path, the epilogue.
//!
//! ```text
//! x --activations--> f32 | f16 as f32 | int8      Int8 and integer-valued scheme -> integer
//!                                                 else                           -> float (int8 activations dequantized)
//! permuted columns: x in their order, before or (float) after it is quantized
//! sums -> epilogue -> y
//! ```

use super::activations::{Int8Rows, PAD, float_rows, segments};
use super::decode::Weights;
use super::dot::{F32_ACCUMULATORS, LANES};
use super::epilogue::{Epilogue, finish};
use super::float::{self, KC};
use super::integer::{self, Bytes};
use super::level::Level;
use crate::product::{Activation, Int8Group, Product, Summation};
use crate::scheme::{Codebook, Scheme, Value};
use crate::{DType, Error, PackedTensor, Result, Tensor};
use std::ops::Range;

/// `x` `[.., K]` times the transpose of the rows `rows` of `w` (an expert, or all): y `[.., N]` with `N = rows.len()`, as
/// [`crate::product`] defines it. `bias` is `[N]`, `residual` `[M, N]`.
///
/// NaN and infinities in x reach y as they do in f32 arithmetic; with int8 activations a row of x that has any gives a row of NaN.
/// Values above 65504 are infinite as f16 activations. With [`Activation::Int8`], schemes whose values are not small integers (NF4,
/// E4M3, E5M2, learned codebooks, plain floats) are multiplied in f32 with `scale * code` of the activations, and so are permuted weights where
/// activations have scales per group. The accumulation policy makes no
/// difference here: sums are in f32.
///
/// The result does not depend on the number of threads. Rows of x may be summed differently in a call with more of them, see [`summation`].
///
/// # Errors
/// [`Error::Shape`] if K, the rows, the bias or the residual do not fit; [`Error::Unsupported`] for an output other than f32 and f16 or
/// int8 groups other than 32 and 128.
pub fn matmul(
    x: &Tensor,
    w: &PackedTensor,
    rows: Range<usize>,
    product: &Product,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Result<Tensor> {
    matmul_at(Level::best(), x, w, rows, product, bias, residual)
}

/// [`matmul`] on a level of instructions.
pub(super) fn matmul_at(
    level: Level,
    x: &Tensor,
    w: &PackedTensor,
    rows: Range<usize>,
    product: &Product,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Result<Tensor> {
    let (m, x_k) = x.matrix();
    let (w_rows, k) = w.matrix();
    let n = rows.len();
    if x.shape().is_empty() || x_k != k {
        return Err(Error::shape(
            format!("x {:?} times a weight of K = {k}", x.shape()),
            format!("[.., {k}]"),
            x_k,
        ));
    }
    if rows.start >= rows.end || rows.end > w_rows {
        return Err(Error::shape("weight rows", format!("a range within 0..{w_rows}"), format!("{rows:?}")));
    }
    if let Some(bias) = bias.filter(|b| b.len() != n) {
        return Err(Error::shape("bias", n, bias.len()));
    }
    if let Some(residual) = residual.filter(|r| r.len() != m * n) {
        return Err(Error::shape("residual", format!("{m} x {n}"), residual.len()));
    }
    if !matches!(product.output, DType::F32 | DType::F16) {
        return Err(Error::unsupported(
            format!("a product with {} output", product.output),
            "f32 and f16 are",
        ));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    if m == 0 {
        return Tensor::from_bytes(shape, product.output, Vec::new());
    }
    let weights = Weights::new(w);
    let sums = match product.activation {
        Activation::F32 | Activation::F16 => {
            let x = float_rows(x, product.activation == Activation::F16);
            float::sums(level, &weights, &weights.in_stored_order(&x), m, rows)
        }
        Activation::Int8(Int8Group::Cols(g)) if g != 32 && g != 128 => {
            return Err(Error::unsupported(format!("int8 activations in groups of {g}"), "32 and 128 are"));
        }
        Activation::Int8(group) => {
            // With a scale per row the order of the columns does not matter to the codes.
            let ordered = match group {
                Int8Group::Row if w.scheme().is_permuted() => {
                    let values = weights.in_stored_order(&x.to_f32()).into_owned();
                    Some(Tensor::from_f32(x.shape(), values)?)
                }
                _ => None,
            };
            let quantized = Int8Rows::new(ordered.as_ref().unwrap_or(x), group);
            match Bytes::of(&weights).filter(|_| in_integers(w.scheme(), group)) {
                Some(bytes) => integer::sums(level, &weights, &bytes, &quantized, rows),
                None => {
                    let values = quantized.dequantized(k);
                    let values =
                        if ordered.is_some() { values.into() } else { weights.in_stored_order(&values) };
                    float::sums(level, &weights, &values, m, rows)
                }
            }
        }
    };
    let epilogue = Epilogue { bias, residual, function: product.function, output: product.output };
    Tensor::from_bytes(shape, product.output, finish(&sums, m, n, epilogue))
}

/// Whether int8 activations are multiplied in integers: not where the scales of a group of them would meet columns of all groups.
pub(super) fn in_integers(scheme: &Scheme, group: Int8Group) -> bool {
    let integers = matches!(
        scheme.value,
        Value::Linear { .. }
            | Value::Codebook(
                Codebook::E2M1 | Codebook::E2M1PlainZero | Codebook::E2M1Doubled | Codebook::Iq4Nl
            )
    );
    integers && (group == Int8Group::Row || !scheme.is_permuted())
}

/// How the terms of a product over `k` are summed, the worst of the paths that a number of rows may take: error bounds follow from it.
/// Counts the rounding of a product as one of its chain, two more for what a scale and an activation are multiplied with.
pub fn summation(product: &Product, scheme: &Scheme, k: usize) -> Summation {
    let lane_depth = LANES.ilog2() as usize;
    match product.activation {
        Activation::Int8(group) if in_integers(scheme, group) => {
            let x_group = match group {
                Int8Group::Row => k,
                Int8Group::Cols(g) => g as usize,
            };
            // Panels: per segment a product and an addition, twice with biases. Rows: a word per lane and step.
            let panel = segments(k, scheme.group_len(k), x_group).len() * 2;
            let rows = k.div_ceil(PAD);
            Summation { chain: panel.max(rows) + 3, depth: lane_depth + 1, folded: true }
        }
        _ => {
            let panel = k.min(KC) + k.div_ceil(KC);
            // Half of a lane's positions to each of two sums; at most 512 values in a step of 16 lanes.
            let rows = k.div_ceil(512) * (512 / LANES / 2);
            Summation {
                chain: panel.max(rows) + 3,
                depth: lane_depth + F32_ACCUMULATORS.ilog2() as usize,
                folded: false,
            }
        }
    }
}
