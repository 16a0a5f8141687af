//! `y = function(x * W^T + bias + residual)` for packed weights: checks, the choice of a path, the epilogue.
//!
//! ```text
//! x --activations--> f32 | f16 as f32 | int8      int8 and integer-valued scheme -> integer (zero-point of x: by the sums of w's rows)
//!                                                 else                           -> float (int8 activations dequantized)
//! permuted columns: x in their order
//! sums -> epilogue -> y f32 | f16 | int8
//! ```

use super::activations::{Int8Rows, PAD, float_rows, segments};
use super::decode::Weights;
use super::dot::{F32_ACCUMULATORS, LANES, SUMS_MR};
use super::epilogue::{Epilogue, Output, finish};
use super::float::{self, BLOCK, KC};
use super::integer::{self, Bytes};
use super::level::Level;
use crate::product::{Activation, Int8Group, Int8Scale, Product, Summation};
use crate::recycle::{self, Recycled};
use crate::scheme::Scheme;
use crate::threads;
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
    let (n, output) = (rows.len(), output(product)?);
    let Some((last, leading)) = x.shape().split_last() else {
        return Err(Error::shape("x", "[.., K]", "a scalar"));
    };
    let shape: Vec<usize> = leading.iter().copied().chain([n]).collect();
    let m = x.matrix().0;
    check((m, *last), w, &rows, bias, residual)?;
    if m == 0 {
        return Tensor::from_bytes(shape, product.output, Vec::new());
    }
    let epilogue = Epilogue { bias, residual, function: product.function, output };
    match product.activation {
        Activation::F32 | Activation::F16 => {
            let weights = Weights::new(w);
            let x = float_rows(x, product.activation == Activation::F16);
            let (x, k) = (weights.in_stored_order(&x), weights.k);
            in_passes(shape, Passes::of(k, float::is_direct(level, &weights), 4), epilogue, |part| {
                float::sums(level, &weights, &x[part.start * k..part.end * k], part.len(), rows.clone())
            })
        }
        int8 => {
            let (x, weights) = (Int8Rows::new(x, int8)?, Weights::new(w));
            in_passes(shape, Passes::int8(level, &x, &weights), epilogue, |part| {
                int8_sums(level, &x.part(part), &weights, rows.clone())
            })
        }
    }
}

/// As [`matmul`] with x quantized beforehand; the product's activation does not count. y is `[M, N]`.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_int8(
    x: &Int8Rows,
    w: &PackedTensor,
    rows: Range<usize>,
    product: &Product,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Result<Tensor> {
    let (n, output) = (rows.len(), output(product)?);
    check((x.rows, x.k), w, &rows, bias, residual)?;
    let epilogue = Epilogue { bias, residual, function: product.function, output };
    let (level, weights) = (Level::best(), Weights::new(w));
    let sums = |part| int8_sums(level, &x.part(part), &weights, rows.clone());
    in_passes(vec![x.rows, n], Passes::int8(level, x, &weights), epilogue, sums)
}

/// How rows of x are taken: passes one after the other that each divide the weights among the threads, or passes side by side.
enum Passes {
    /// Of so many rows that what is done for each weight counts little, and so few that they stay in the caches of a core.
    InTurn { rows: usize },
    /// Nothing is done for each weight but to read it.
    SideBySide,
}

impl Passes {
    /// Of x with `k` numbers of `bytes` bytes; `direct` if weights are multiplied as they lie.
    fn of(k: usize, direct: bool, bytes: usize) -> Self {
        const CACHED: usize = 512 << 10;
        if direct {
            Self::SideBySide
        } else {
            Self::InTurn { rows: (CACHED / (bytes * k).max(1)).clamp(256, 1024) }
        }
    }

    fn int8(level: Level, x: &Int8Rows, weights: &Weights) -> Self {
        let direct =
            in_integers(&weights.scheme, x.activation) && integer::is_direct(level, weights, x.group);
        Self::of(x.k, direct, 1)
    }

    /// Ranges of `m` rows of x, of about the same number so that the last one is none of few, and whether they are taken side by side.
    fn ranges(self, m: usize) -> (Vec<Range<usize>>, bool) {
        /// Rows side by side: more, with their sums and y, do not stay in the second cache of a core; fewer are not worth the way of all weights through it.
        const MOST: usize = 96;
        const FEWEST: usize = 24;
        let threads = threads::count();
        match self {
            Self::InTurn { rows } => (threads::ranges(m, m.div_ceil(m.div_ceil(rows).max(1))), false),
            Self::SideBySide if m < FEWEST * threads => (threads::ranges(m, m), false),
            Self::SideBySide => {
                let parts = m.div_ceil(MOST).next_multiple_of(threads);
                // Whole tiles.
                (threads::ranges(m, m.div_ceil(parts).next_multiple_of(SUMS_MR)), true)
            }
        }
    }
}

/// y of `shape` `[.., N]`, f32 or f16, of the sums of passes.
fn in_passes(
    shape: Vec<usize>,
    passes: Passes,
    epilogue: Epilogue,
    sums: impl Fn(Range<usize>) -> Recycled + Sync,
) -> Result<Tensor> {
    let n = shape.last().copied().unwrap_or(0);
    let m: usize = shape[..shape.len() - 1].iter().product();
    let (ranges, side_by_side) = passes.ranges(m);
    let fill = |bytes: &mut [u8]| {
        let row = bytes.len() / m.max(1);
        let most = ranges.first().map_or(0, Range::len);
        let tasks: Vec<_> = ranges.iter().cloned().zip(bytes.chunks_mut((most * row).max(1))).collect();
        let pass = |(part, bytes): (Range<usize>, &mut [u8])| {
            let residual = epilogue.residual.map(|r| &r[part.start * n..part.end * n]);
            finish(&sums(part.clone()), part.len(), n, Epilogue { residual, ..epilogue }, bytes);
        };
        if side_by_side {
            threads::for_each(tasks, usize::MAX, pass);
        } else {
            tasks.into_iter().for_each(pass);
        }
    };
    if epilogue.output == Output::F32 {
        // Every number is written.
        let mut y = recycle::any(m * n);
        fill(bytemuck::must_cast_slice_mut(&mut y));
        return Tensor::from_f32(shape, y);
    }
    let mut bytes = vec![0; m * n * DType::F16.size()];
    fill(&mut bytes);
    Tensor::from_bytes(shape, DType::F16, bytes)
}

/// As [`matmul_int8`] with y as int8 of a given scale, no f32 of it in memory but the sums.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_to_int8(
    x: &Int8Rows,
    w: &PackedTensor,
    rows: Range<usize>,
    product: &Product,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    to: Int8Scale,
) -> Result<Int8Rows> {
    let n = rows.len();
    check((x.rows, x.k), w, &rows, bias, residual)?;
    let sums = int8_sums(Level::best(), x, &Weights::new(w), rows);
    let mut y = Int8Rows::zeroed(x.rows, n, Activation::Int8Static(to))?;
    let epilogue = Epilogue { bias, residual, function: product.function, output: Output::Int8(to) };
    finish(&sums, x.rows, n, epilogue, bytemuck::must_cast_slice_mut(&mut y.codes));
    Ok(y)
}

/// The output that a product names.
fn output(product: &Product) -> Result<Output> {
    match product.output {
        DType::F32 => Ok(Output::F32),
        DType::F16 => Ok(Output::F16),
        other => Err(Error::unsupported(format!("a product with {other} output"), "f32 and f16 are")),
    }
}

/// Whether x `[m, x_k]`, the rows of w and the epilogue fit together.
fn check(
    (m, x_k): (usize, usize),
    w: &PackedTensor,
    rows: &Range<usize>,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Result<()> {
    let (w_rows, k) = w.matrix();
    let n = rows.len();
    if x_k != k {
        return Err(Error::shape(format!("x times a weight of K = {k}"), format!("[.., {k}]"), x_k));
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
    Ok(())
}

/// Sums of products of int8 activations, as blocks `[N / BLOCK][M][BLOCK]`.
fn int8_sums(level: Level, x: &Int8Rows, weights: &Weights, rows: Range<usize>) -> Recycled {
    if x.rows == 0 {
        return Recycled::default();
    }
    let Some(bytes) = Bytes::of(weights).filter(|_| in_integers(&weights.scheme, x.activation)) else {
        return float::sums(level, weights, &weights.in_stored_order(&x.dequantized()), x.rows, rows);
    };
    let ordered = weights.permutation.as_ref().map(|columns| x.in_order(columns));
    let x = ordered.as_ref().unwrap_or(x);
    if x.zero == 0 {
        return integer::sums(level, weights, &bytes, x, rows);
    }
    // sum w s (q - z) = s sum w q - s z sum w
    let sums = integer::sums(level, weights, &bytes, &x.with_ones(), rows);
    let of_ones = x.rows * BLOCK;
    let mut corrected = Vec::with_capacity(sums.len());
    for block in sums.chunks(of_ones + BLOCK) {
        let (block, w_sums) = block.split_at(of_ones);
        for (m, row) in block.chunks(BLOCK).enumerate() {
            let by = x.scales[m * x.groups] * f32::from(x.zero);
            corrected.extend(row.iter().zip(w_sums).map(|(y, w)| y - by * w));
        }
    }
    corrected.into()
}

/// Whether int8 activations are multiplied in integers: not where the scales of a group of them would meet columns of all groups.
pub(super) fn in_integers(scheme: &Scheme, activation: Activation) -> bool {
    let int8 = match activation {
        Activation::F32 | Activation::F16 => false,
        Activation::Int8(Int8Group::Cols(_)) => !scheme.is_permuted(),
        Activation::Int8(Int8Group::Row) | Activation::Int8Static(_) => true,
    };
    scheme.integer_unit().is_some() && int8
}

/// How the terms of a product over `k` are summed, the worst of the paths that a number of rows may take: error bounds follow from it.
/// Counts the rounding of a product as one of its chain, two more for what a scale and an activation are multiplied with.
pub fn summation(product: &Product, scheme: &Scheme, k: usize) -> Summation {
    let lane_depth = LANES.ilog2() as usize;
    match product.activation {
        activation if in_integers(scheme, activation) => {
            let x_group = match activation {
                Activation::Int8(Int8Group::Cols(g)) => g as usize,
                _ => k,
            };
            // Panels: per segment a product and an addition, twice with biases. Rows: a word per lane and step.
            let panel = segments(k, scheme.group_len(k), x_group).len() * 2;
            let rows = k.div_ceil(PAD);
            // A zero-point of x is a product and an addition at the end.
            let corrected = if matches!(activation, Activation::Int8Static(_)) { 3 } else { 0 };
            Summation { chain: panel.max(rows) + 3 + corrected, depth: lane_depth + 1, folded: true }
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
