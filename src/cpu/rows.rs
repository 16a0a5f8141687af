//! A dense tensor as rows of f32, widened one row at a time.

use super::half_float::{widen_bf16, widen_f16, widen_f32};
use crate::{DType, Tensor};

/// The rows of a tensor `[rows, k]`.
pub struct DenseRows<'a> {
    bytes: &'a [u8],
    dtype: DType,
    pub rows: usize,
    pub k: usize,
}

impl<'a> DenseRows<'a> {
    /// A view of `t` with leading dimensions multiplied.
    pub fn new(t: &'a Tensor) -> Self {
        let (rows, k) = t.matrix();
        Self { bytes: t.bytes(), dtype: t.dtype(), rows, k }
    }

    /// Row `row` as f32, borrowed where it is f32 already, else widened into `scratch`.
    pub fn row<'s>(&'s self, row: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let size = self.k * self.dtype.size();
        let bytes = &self.bytes[row * size..(row + 1) * size];
        if self.dtype == DType::F32
            && cfg!(target_endian = "little")
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return values;
        }
        scratch.resize(self.k, 0.0);
        match self.dtype {
            DType::F32 => widen_f32(bytes, scratch),
            DType::F16 => widen_f16(bytes, scratch),
            DType::Bf16 => widen_bf16(bytes, scratch),
        }
        scratch
    }
}
