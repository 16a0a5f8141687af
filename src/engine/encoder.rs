//! What a transformer encoder is made of besides products: embeddings, layer normalization, attention, pooling.
//!
//! ```text
//! embed(tables, ids) -> [T, D]    layer_norm [.., D]    attention(q, k, v [T, D])    mean_pool [T, D] -> [B, D]    normalize [.., D]    gram [.., K] -> [K, K]    histogram -> [BINS]    transform [.., K]
//! ```
//!
//! A batch of sentences is their tokens one after the other, `[T, D]` without padding, and the sentences' lengths. Operands are f32 or f16, results f32;
//! everything is worked out in f32. Recorded on a GPU as products are.

use super::array::{Array, ArrayData, Counts, PackedArray, PackedData, TransformArray};
use super::training::Training;
use super::{Backend, Engine};
use crate::bins::BINS;
use crate::product::Summation;
use crate::tensor::element_count;
use crate::{DType, Error, Result, Tensor, Transform, cpu};
use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::foreign;
#[cfg(feature = "gpu")]
use crate::{
    gpu::{Buffer, Gpu, Target},
    kernels::{self, Tier, teams::Rows, teams::Teams},
};

/// The most columns of a head.
const MAX_HEAD: usize = 256;

/// One of the operations and its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Embed {
        tables: &'a [(&'a PackedArray, &'a [u32])],
    },
    LayerNorm {
        x: &'a Array,
        gamma: &'a Array,
        beta: &'a Array,
        eps: f32,
    },
    Attention {
        q: &'a Array,
        k: &'a Array,
        v: &'a Array,
        lengths: &'a [usize],
        heads: usize,
    },
    MeanPool {
        x: &'a Array,
        lengths: &'a [usize],
    },
    Normalize {
        x: &'a Array,
    },
    Gram {
        x: &'a Array,
        onto: Option<&'a Array>,
    },
    /// y has the bits of u32 numbers, as `onto` has.
    Histogram {
        x: &'a Array,
        onto: Option<&'a Array>,
    },
    Transform {
        x: &'a Array,
        by: &'a TransformArray,
    },
    /// What training is made of.
    Training(Training<'a>),
}

impl Engine {
    /// Looks up and adds rows: row t of y `[T, D]` is the sum of the decoded rows `ids[t]` of each table `[N, D]`. Words, positions and kinds of tokens are one
    /// call with three tables.
    ///
    /// # Errors
    /// [`Error::Shape`] for tables of different D, ids that are none or of different numbers, and an id beyond its table;
    /// [`Error::Unsupported`] for arrays of another engine; errors of the device.
    pub fn embed(&self, tables: &[(&PackedArray, &[u32])]) -> Result<Array> {
        self.run(Step::Embed { tables })
    }

    /// Layer normalization of x `[.., D]`: `y = (x - mean) / sqrt(variance + eps) * gamma + beta`, mean and variance of a row in two passes,
    /// gamma and beta `[D]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match; [`Error::Unsupported`] for an eps that is no positive number and for arrays of another
    /// engine; errors of the device.
    pub fn layer_norm(&self, x: &Array, gamma: &Array, beta: &Array, eps: f32) -> Result<Array> {
        self.run(Step::LayerNorm { x, gamma, beta, eps })
    }

    /// Multi-head attention: `softmax(q . k / sqrt(D / heads)) v` for each token and head over all tokens of the same sentence. q, k, v and y are `[T, D]`,
    /// heads lie side by side, and `lengths` of the sentences sum to T. Memory beside these is in proportion to them, however long a sentence is.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes and lengths that do not match, and for heads of more than 256 columns or of unequal ones;
    /// [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if one is larger than a binding; errors of the device.
    pub fn attention(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        lengths: &[usize],
        heads: usize,
    ) -> Result<Array> {
        self.run(Step::Attention { q, k, v, lengths, heads })
    }

    /// The mean of each sentence's rows: y `[B, D]` of x `[T, D]`; `lengths` are those of the B sentences and sum to T.
    ///
    /// # Errors
    /// [`Error::Shape`] for lengths that do not match; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if x is larger
    /// than a binding; errors of the device.
    pub fn mean_pool(&self, x: &Array, lengths: &[usize]) -> Result<Array> {
        self.run(Step::MeanPool { x, lengths })
    }

    /// The rows of x `[.., D]` at L2 norm 1. A row of zeros stays one; magnitudes below 2^-126 count as 0.
    ///
    /// # Errors
    /// [`Error::Shape`] for a scalar or a dimension of size 0; [`Error::Unsupported`] for arrays of another engine; errors of the device.
    pub fn normalize(&self, x: &Array) -> Result<Array> {
        self.run(Step::Normalize { x })
    }

    /// The second moments of the columns of x `[.., K]`: `X^T X` `[K, K]`, added to `onto` `[K, K]` if there is one. Of a linear layer's inputs it is half of the Hessian of
    /// the squared error of its outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if one is larger than a
    /// binding; errors of the device.
    pub fn gram(&self, x: &Array, onto: Option<&Array>) -> Result<Array> {
        self.run(Step::Gram { x, onto })
    }

    /// Counts the numbers of x in [`BINS`] bins, added to those that were counted before. [`Counts`] says what the bins are.
    ///
    /// # Errors
    /// [`Error::Shape`] for a scalar or a dimension of size 0; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if x is larger
    /// than a binding; errors of the device.
    pub fn histogram(&self, x: &Array, onto: Option<&Counts>) -> Result<Counts> {
        self.run(Step::Histogram { x, onto: onto.map(|counts| &counts.0) }).map(Counts)
    }

    /// Brings a transform to the engine.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload_transform(&self, by: &Transform) -> Result<TransformArray> {
        let v = self.upload(&Tensor::from_f32([by.k()], by.by().to_vec())?)?;
        Ok(TransformArray { by: by.clone(), v })
    }

    /// The inputs x `[.., K]` of a layer as its transformed weight wants them: columns multiplied, blocks of them rotated.
    ///
    /// # Errors
    /// [`Error::Shape`] for another K and for a dimension of size 0; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if x is larger
    /// than a binding; errors of the device.
    pub fn transform(&self, x: &Array, by: &TransformArray) -> Result<Array> {
        self.run(Step::Transform { x, by })
    }

    /// The operation, as its own method.
    ///
    /// # Errors
    /// Those of the method.
    pub(crate) fn run(&self, step: Step<'_>) -> Result<Array> {
        let shape = step.shape()?;
        let data = match &self.backend {
            Backend::Cpu => ArrayData::Host(Arc::new(Tensor::from_f32(shape.clone(), step.on_cpu()?)?)),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let y = gpu.alloc(shape.iter().product::<usize>() as u64 * 4, "encoder")?;
                step.record(gpu, (&y, 0))?;
                ArrayData::Device(gpu.clone(), y, 0)
            }
        };
        Ok(Array { shape, dtype: DType::F32, data })
    }

    /// As the operation's own method, on a GPU into an array of y's shape in f32.
    ///
    /// # Errors
    /// Those of the method.
    #[cfg(feature = "gpu")]
    pub(crate) fn run_into(&self, step: Step<'_>, y: &Array) -> Result<()> {
        let (Backend::Gpu(gpu), ArrayData::Device(_, buffer, offset)) = (&self.backend, &y.data) else {
            return Err(foreign());
        };
        let shape = step.shape()?;
        if (&y.shape, y.dtype) != (&shape, DType::F32) {
            return Err(Error::shape(
                "y",
                format!("{shape:?} in f32"),
                format!("{:?} in {}", y.shape, y.dtype),
            ));
        }
        step.record(gpu, (buffer, *offset))
    }

    /// Roundings in such a sum, of each of its terms, on this engine.
    pub(crate) fn roundings(&self, of: Sum) -> usize {
        let all = |sum: Summation| sum.chain + sum.depth;
        match (&self.backend, of) {
            (Backend::Cpu, Sum::Row { d }) => all(cpu::row_summation(d)),
            (Backend::Cpu, Sum::Pool { length }) => all(cpu::pool_summation(length)),
            (Backend::Cpu, Sum::Score { head }) => all(cpu::score_summation(head)),
            (Backend::Cpu, Sum::Weighted { length }) => all(cpu::weighted_summation(length)),
            (_, Sum::Block { block }) => all(cpu::transform_summation(block)),
            (Backend::Cpu, Sum::Powers { .. }) => 1,
            (Backend::Cpu, Sum::Gram { tokens } | Sum::Dense { terms: tokens }) => {
                all(cpu::dense_summation(tokens))
            }
            (Backend::Cpu, Sum::Step { group }) => all(cpu::step_summation(group)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Sum::Row { d }) => {
                all(Teams::new(Tier::of(gpu.capabilities()), d).summation(d))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(_), Sum::Gram { tokens }) => all(kernels::gram::summation(tokens)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(_), Sum::Dense { terms }) => all(kernels::dense::summation(terms)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(_), Sum::Step { group }) => all(kernels::step_gradient::summation(group)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(_), Sum::Pool { length }) => all(kernels::mean_pool::summation(length)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Sum::Score { head }) => all(kernels::attention::score_summation(gpu, head)),
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Sum::Weighted { length }) => {
                all(kernels::attention::weighted_summation(gpu, length))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Sum::Powers { length }) => kernels::attention::powers(gpu, length),
        }
    }
}

/// A sum within one of the operations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sum {
    /// Of a row of D numbers.
    Row { d: usize },
    /// Of the rows of a sentence.
    Pool { length: usize },
    /// Of a block of columns, by Hadamard's matrix.
    Block { block: usize },
    /// Of products of two columns of so many rows.
    Gram { tokens: usize },
    /// Of products of two rows.
    Dense { terms: usize },
    /// Of what the numbers of a group say of its step.
    Step { group: usize },
    /// Of the products of q and k.
    Score { head: usize },
    /// Of the weights of a sentence's tokens, or of rows of v by weight.
    Weighted { length: usize },
    /// No sum: the exponentials that a weight is a product of.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Powers { length: usize },
}

impl Step<'_> {
    /// The shape of y, if the operands fit together.
    fn shape(&self) -> Result<Vec<usize>> {
        match *self {
            Self::Embed { tables } => embedded(tables),
            Self::LayerNorm { x, gamma, beta, eps } => {
                let (_, d) = rows(x)?;
                for (what, array) in [("gamma", gamma), ("beta", beta)] {
                    if array.shape != [d] {
                        return Err(Error::shape(what, format!("[{d}]"), format!("{:?}", array.shape)));
                    }
                }
                if !(eps.is_finite() && eps > 0.0) {
                    return Err(Error::unsupported(format!("layer_norm with eps {eps}"), "it is positive"));
                }
                Ok(x.shape.clone())
            }
            Self::Attention { q, k, v, lengths, heads } => {
                let d = tokens(q, lengths)?;
                for (what, array) in [("k", k), ("v", v)] {
                    if array.shape != q.shape {
                        return Err(Error::shape(
                            what,
                            format!("{:?}", q.shape),
                            format!("{:?}", array.shape),
                        ));
                    }
                }
                if heads == 0 || d % heads != 0 || d / heads > MAX_HEAD {
                    let expected = format!("equal ones, of up to {MAX_HEAD} columns, of {d}");
                    return Err(Error::shape("heads", expected, heads));
                }
                Ok(q.shape.clone())
            }
            Self::MeanPool { x, lengths } => Ok(vec![lengths.len(), tokens(x, lengths)?]),
            Self::Normalize { x } => rows(x).map(|_| x.shape.clone()),
            Self::Gram { x, onto } => {
                let (_, k) = rows(x)?;
                match onto.filter(|onto| onto.shape != [k, k]) {
                    Some(other) => {
                        Err(Error::shape("onto", format!("[{k}, {k}]"), format!("{:?}", other.shape)))
                    }
                    None => Ok(vec![k, k]),
                }
            }
            Self::Histogram { x, onto } => {
                rows(x)?;
                match onto.filter(|onto| onto.shape != [BINS]) {
                    Some(other) => {
                        Err(Error::shape("onto", format!("[{BINS}]"), format!("{:?}", other.shape)))
                    }
                    None => Ok(vec![BINS]),
                }
            }
            Self::Transform { x, by } => {
                let (_, k) = rows(x)?;
                if k != by.by.k() {
                    return Err(Error::shape("columns to transform", by.by.k(), k));
                }
                Ok(x.shape.clone())
            }
            Self::Training(step) => step.shape(),
        }
    }

    fn on_cpu(&self) -> Result<Vec<f32>> {
        Ok(match *self {
            Self::Embed { tables } => {
                let tables: Vec<_> = tables
                    .iter()
                    .map(|&(table, ids)| match &table.data {
                        PackedData::Host(packed) => Ok((&**packed, ids)),
                        #[cfg(feature = "gpu")]
                        PackedData::Device(..) => Err(foreign()),
                    })
                    .collect::<Result<_>>()?;
                cpu::embed(&tables)
            }
            Self::LayerNorm { x, gamma, beta, eps } => {
                cpu::layer_norm(&on_host(x)?, &on_host(gamma)?, &on_host(beta)?, eps)
            }
            Self::Attention { q, k, v, lengths, heads } => {
                cpu::attention(&on_host(q)?, &on_host(k)?, &on_host(v)?, lengths, heads)
            }
            Self::MeanPool { x, lengths } => cpu::mean_pool(&on_host(x)?, rows(x)?.1, lengths),
            Self::Normalize { x } => cpu::normalize(&on_host(x)?, rows(x)?.1),
            Self::Gram { x, onto } => {
                let onto = onto.map(on_host).transpose()?;
                cpu::gram(&on_host(x)?, rows(x)?.1, onto.as_deref())
            }
            Self::Histogram { x, onto } => {
                let onto = onto.map(on_host).transpose()?;
                let onto: Option<Vec<u32>> = onto.map(|onto| onto.iter().map(|v| v.to_bits()).collect());
                let counts = cpu::histogram(&on_host(x)?, onto.as_deref());
                counts.into_iter().map(f32::from_bits).collect()
            }
            Self::Transform { x, by } => {
                // Of this engine, as x.
                on_host(&by.v)?;
                cpu::transform(&on_host(x)?, &by.by)
            }
            Self::Training(step) => step.on_cpu()?,
        })
    }

    /// Records the operation, its operands checked, into y.
    #[cfg(feature = "gpu")]
    fn record(&self, gpu: &Gpu, y: Rows<'_>) -> Result<()> {
        let target = &mut Target::Recorder;
        match *self {
            Self::Embed { tables } => {
                for (i, &(table, ids)) in tables.iter().enumerate() {
                    let weights = match &table.data {
                        PackedData::Device(owner, weights) if owner.same(gpu) => weights,
                        _ => return Err(foreign()),
                    };
                    kernels::embed::record(gpu, target, (weights, ids), y, i > 0)?;
                }
                Ok(())
            }
            Self::LayerNorm { x, gamma, beta, eps } => {
                let (m, d) = rows(x)?;
                let [x, gamma, beta] = [x, gamma, beta].map(|array| on_device(gpu, target, array));
                let (x, gamma, beta) = (x?, gamma?, beta?);
                let operands = [(&x.0, x.1), (&gamma.0, gamma.1), (&beta.0, beta.1), y];
                kernels::layer_norm::record(gpu, target, [m, d], operands, eps)
            }
            Self::Attention { q, k, v, lengths, heads } => {
                let (_, d) = rows(q)?;
                let [q, k, v] = [q, k, v].map(|array| on_device(gpu, target, array));
                let (q, k, v) = (q?, k?, v?);
                let operands = [(&q.0, q.1), (&k.0, k.1), (&v.0, v.1), y];
                kernels::attention::record(gpu, target, (lengths, heads), d, operands)
            }
            Self::MeanPool { x, lengths } => {
                let (_, d) = rows(x)?;
                let x = on_device(gpu, target, x)?;
                kernels::mean_pool::record(gpu, target, lengths, d, [(&x.0, x.1), y])
            }
            Self::Gram { x, onto } => {
                let (tokens, k) = rows(x)?;
                let x = on_device(gpu, target, x)?;
                let onto = onto.map(|onto| on_device(gpu, target, onto)).transpose()?;
                let onto = onto.as_ref().map(|onto| (&onto.0, onto.1));
                kernels::gram::record(gpu, target, [tokens, k], [(&x.0, x.1), y], onto)
            }
            Self::Histogram { x, onto } => {
                let (m, d) = rows(x)?;
                let x = on_device(gpu, target, x)?;
                let onto = onto.map(|onto| on_device(gpu, target, onto)).transpose()?;
                let onto = onto.as_ref().map(|onto| (&onto.0, onto.1));
                kernels::histogram::record(gpu, target, ((&x.0, x.1), m * d), y, onto)
            }
            Self::Transform { x, by } => {
                let (m, k) = rows(x)?;
                let (x, v) = (on_device(gpu, target, x)?, on_device(gpu, target, &by.v)?);
                let operands = [(&x.0, x.1), (&v.0, v.1), y];
                kernels::transform::record(gpu, target, [m, k], operands, by.by.block())
            }
            Self::Training(step) => step.record(gpu, y),
            Self::Normalize { x } => {
                let (m, d) = rows(x)?;
                let x = on_device(gpu, target, x)?;
                kernels::normalize::record(gpu, target, [m, d], [(&x.0, x.1), y])
            }
        }
    }
}

/// `[M, D]` of an array `[.., D]`.
pub(super) fn rows(x: &Array) -> Result<(usize, usize)> {
    match x.shape.split_last() {
        Some((&d, leading)) if !x.shape.contains(&0) => Ok((leading.iter().product(), d)),
        _ => Err(Error::shape("x", "[.., D] with no dimension of size 0", format!("{:?}", x.shape))),
    }
}

/// D of an array `[T, D]` that holds sentences of these lengths.
fn tokens(x: &Array, lengths: &[usize]) -> Result<usize> {
    let (&[t, d], false) = (&x.shape[..], x.shape.contains(&0)) else {
        return Err(Error::shape("tokens", "[T, D] with T and D above 0", format!("{:?}", x.shape)));
    };
    if lengths.contains(&0) {
        return Err(Error::shape("lengths of sentences", "each above 0", "0"));
    }
    let sum = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    if sum != Some(t) {
        let got = sum.map_or("more than can be counted".into(), |sum| sum.to_string());
        return Err(Error::shape("sum of the lengths of sentences", t, got));
    }
    Ok(d)
}

/// The shape of an embedding.
fn embedded(tables: &[(&PackedArray, &[u32])]) -> Result<Vec<usize>> {
    let Some((first, ids)) = tables.first().filter(|(_, ids)| !ids.is_empty()) else {
        return Err(Error::shape("an embedding", "a table and an id at least", "none"));
    };
    let (t, d) = (ids.len(), first.shape().last().copied().unwrap_or(1));
    for (i, (table, ids)) in tables.iter().enumerate() {
        let shape = table.shape();
        if shape.last() != Some(&d) {
            return Err(Error::shape(format!("table {i}"), format!("[N, {d}]"), format!("{shape:?}")));
        }
        if ids.len() != t {
            return Err(Error::shape(format!("ids of table {i}"), t, ids.len()));
        }
        let n: usize = shape[..shape.len() - 1].iter().product();
        if let Some(at) = ids.iter().position(|&id| id as usize >= n) {
            return Err(Error::shape(format!("id {at} of table {i}"), format!("below {n}"), ids[at]));
        }
    }
    match element_count(&[t, d]).and_then(|n| n.checked_mul(4)) {
        Some(_) => Ok(vec![t, d]),
        None => Err(Error::shape("an embedding", "a size that can be counted", format!("[{t}, {d}]"))),
    }
}

/// The numbers of an array of the CPU engine.
pub(super) fn on_host(array: &Array) -> Result<Cow<'_, [f32]>> {
    match &array.data {
        ArrayData::Host(tensor) => Ok(tensor.to_f32()),
        #[cfg(feature = "gpu")]
        ArrayData::Device(..) => Err(foreign()),
    }
}

/// An array of this device as f32: where it is, or widened.
#[cfg(feature = "gpu")]
pub(super) fn on_device(gpu: &Gpu, target: &mut Target<'_>, array: &Array) -> Result<(Buffer, u64)> {
    match &array.data {
        ArrayData::Device(owner, buffer, offset) if owner.same(gpu) => {
            if array.dtype == DType::F32 {
                return Ok((buffer.clone(), *offset));
            }
            let elements: usize = array.shape.iter().product();
            let wide = gpu.alloc(elements as u64 * 4, "f16 as f32")?;
            kernels::convert::record(gpu, target, (buffer, *offset), (&wide, 0), elements, false)?;
            Ok((wide, 0))
        }
        _ => Err(foreign()),
    }
}
