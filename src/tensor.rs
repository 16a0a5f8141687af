//! A dense tensor in host memory: shape, element type, bytes.
//!
//! Row-major, little-endian. It is what files are read into and what engines are fed with; arithmetic lives in the engines. The bytes
//! are shared: a clone copies nothing, and a tensor of a mapped file is the file's own bytes.

use crate::recycle::Recycled;
use crate::{Error, Result};
use bytes::Bytes;
use half::{bf16, f16};
use std::borrow::Cow;

/// Element types of a dense tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    Bf16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// A dense row-major tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    bytes: Bytes,
}

/// Numbers seen as bytes, as aligned as they are.
struct Numbers(Recycled);

impl AsRef<[u8]> for Numbers {
    fn as_ref(&self) -> &[u8] {
        bytemuck::must_cast_slice::<f32, u8>(&self.0)
    }
}

/// The product of the dimensions, or `None` if it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl Tensor {
    /// A tensor of `shape` from its little-endian bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length of `bytes` is not the number of elements times their size.
    pub fn from_bytes(shape: impl Into<Vec<usize>>, dtype: DType, bytes: Vec<u8>) -> Result<Self> {
        Self::from_shared(shape, dtype, bytes.into())
    }

    /// As [`Self::from_bytes`], of bytes that others may hold too: part of a mapped file, for one.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn from_shared(shape: impl Into<Vec<usize>>, dtype: DType, bytes: Bytes) -> Result<Self> {
        let shape = shape.into();
        let need = element_count(&shape).and_then(|n| n.checked_mul(dtype.size()));
        if need != Some(bytes.len()) {
            let expected = need.map_or("a shape that fits in memory".into(), |n| format!("{n} bytes"));
            return Err(Error::shape(
                format!("{dtype} tensor {shape:?}"),
                expected,
                format!("{} bytes", bytes.len()),
            ));
        }
        Ok(Self { shape, dtype, bytes })
    }

    /// An f32 tensor of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `values` does not have one value per element.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Result<Self> {
        Self::from_shared(shape, DType::F32, Bytes::from_owner(Numbers(values.into())))
    }

    /// An f16 tensor of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `values` does not have one value per element.
    pub fn from_f16(shape: impl Into<Vec<usize>>, values: &[f16]) -> Result<Self> {
        Self::from_bytes(shape, DType::F16, bytemuck::cast_slice(values).to_vec())
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements as little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes away.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All dimensions but the last, multiplied, and the last: the tensor seen as a matrix `[rows, k]`.
    /// A scalar (rank 0) is `[1, 1]`.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape.split_last() {
            Some((&k, lead)) => (lead.iter().product(), k),
            None => (1, 1),
        }
    }

    /// The elements as f32 (f16 and bf16 widen exactly), borrowed where they are f32 already.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self.dtype {
            DType::F32 => match bytemuck::try_cast_slice(&self.bytes) {
                Ok(values) => Cow::Borrowed(values),
                Err(_) => Cow::Owned(widen(&self.bytes, f32::from_le_bytes)),
            },
            DType::F16 => Cow::Owned(widen(&self.bytes, |b| f16::from_le_bytes(b).to_f32())),
            DType::Bf16 => Cow::Owned(widen(&self.bytes, |b| bf16::from_le_bytes(b).to_f32())),
        }
    }
}

/// Reads consecutive `N`-byte elements.
fn widen<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert!(Tensor::from_f32([2, 3], vec![0.0; 6]).is_ok());
        assert!(matches!(Tensor::from_f32([2, 3], vec![0.0; 5]), Err(Error::Shape { .. })));
        assert!(matches!(Tensor::from_f32([usize::MAX, 3], vec![]), Err(Error::Shape { .. })));
        assert_eq!(Tensor::from_f32([0, 3], vec![]).unwrap().len(), 0);
    }

    #[test]
    fn odd_alignment_is_read_too() {
        let t = Tensor::from_f16([3], &[f16::from_f32(0.5), f16::from_f32(-2.0), f16::MAX]).unwrap();
        assert_eq!(&*t.to_f32(), &[0.5, -2.0, 65504.0]);
    }
}
