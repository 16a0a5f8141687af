//! Packed tensors to dense ones.

use super::decode::{Groups, Weights};
use super::half_float::{f32_to_bf16, f32_to_f16};
use super::level::{Work, vectorized};
use crate::threads;
use crate::{DType, PackedTensor, Tensor};
use std::ops::Range;

/// Values decoded by one task.
const TASK_VALUES: usize = 1 << 16;

/// Decodes a tensor `[.., N, K]` to the same shape. f32 values are exactly those of the scheme's decoding rule; f16 and bf16
/// are rounded from them, ties to even, without saturation.
///
/// # Panics
/// Never for a tensor whose planes its constructors have checked.
pub fn dequantize(packed: &PackedTensor, dtype: DType) -> Tensor {
    let (rows, k) = packed.matrix();
    let weights = Weights::new(packed);
    let mut bytes = vec![0u8; rows * k * dtype.size()];
    let per_task = (TASK_VALUES / k).max(1);
    let tasks: Vec<_> = bytes.chunks_mut(per_task * k * dtype.size()).enumerate().collect();
    threads::for_each(tasks, rows * k, |(task, out)| {
        vectorized(DecodeRows { weights: &weights, first: task * per_task, dtype, out })
    });
    match Tensor::from_bytes(packed.shape(), dtype, bytes) {
        Ok(t) => t,
        Err(e) => unreachable!("the bytes were sized by the shape: {e}"),
    }
}

/// Decodes some rows of a tensor into `out` `[rows, k]`, on this thread: the numbers that [`dequantize`] gives as f32.
///
/// # Panics
/// If the rows reach beyond the tensor's.
pub fn dequantize_rows(packed: &PackedTensor, rows: Range<usize>, out: &mut [f32]) {
    let weights = Weights::new(packed);
    let out = bytemuck::must_cast_slice_mut(&mut out[..rows.len() * weights.k]);
    vectorized(DecodeRows { weights: &weights, first: rows.start, dtype: DType::F32, out })
}

/// Decodes the rows from `first` on into the bytes `out` `[rows, k]`.
struct DecodeRows<'a> {
    weights: &'a Weights<'a>,
    first: usize,
    dtype: DType,
    out: &'a mut [u8],
}

impl Work for DecodeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { weights, first, dtype, out } = self;
        let (mut codes, mut groups) = (Vec::new(), Groups::default());
        let mut values = vec![0f32; weights.k];
        let mut stored = vec![0f32; if weights.permutation.is_some() { weights.k } else { 0 }];
        for (i, out) in out.chunks_mut(weights.k * dtype.size()).enumerate() {
            // Without a copy where that is possible.
            if let (DType::F32, None, Ok(out)) =
                (dtype, &weights.permutation, bytemuck::try_cast_slice_mut(&mut *out))
            {
                weights.row(first + i, &mut codes, &mut groups, out);
                continue;
            }
            match &weights.permutation {
                None => weights.row(first + i, &mut codes, &mut groups, &mut values),
                Some(columns) => {
                    weights.row(first + i, &mut codes, &mut groups, &mut stored);
                    stored.iter().zip(columns).for_each(|(v, &c)| values[c as usize] = *v);
                }
            }
            match dtype {
                DType::F32 => {
                    for (o, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(&values) {
                        *o = v.to_le_bytes();
                    }
                }
                DType::F16 => {
                    for (o, v) in out.as_chunks_mut::<2>().0.iter_mut().zip(&values) {
                        *o = f32_to_f16(*v).to_le_bytes();
                    }
                }
                DType::Bf16 => {
                    for (o, v) in out.as_chunks_mut::<2>().0.iter_mut().zip(&values) {
                        *o = if v.is_nan() { 0x7fc0 } else { f32_to_bf16(*v) }.to_le_bytes();
                    }
                }
            }
        }
    }
}
