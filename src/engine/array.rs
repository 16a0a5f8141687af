//! Tensors where the engine computes: in host memory or on a device.
//!
//! ```text
//! Array        dense f32 or f16: an Arc'd Tensor, or a buffer and the byte where it begins
//! PackedArray  quantized: an Arc'd PackedTensor, or its parts on the device
//! Int8Array    activations as int8: rows of codes and their scales, or the same in a buffer
//! ```
//!
//! They clone cheaply and come back to the host with `read`. Operations on them are the engine's.

use crate::product::Activation;
use crate::tensor::element_count;
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor, Transform, cpu};
#[cfg(feature = "gpu")]
use crate::{
    gpu::{Buffer, Gpu},
    kernels::{DeviceWeights, int8::DeviceInt8},
};
use std::sync::Arc;

/// A dense tensor where the engine computes. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) data: ArrayData,
}

#[derive(Clone, Debug)]
pub(super) enum ArrayData {
    Host(Arc<Tensor>),
    /// The buffer, and the byte where the tensor begins.
    #[cfg(feature = "gpu")]
    Device(Gpu, Buffer, u64),
}

/// A packed tensor where the engine computes. Clones share the memory.
#[derive(Clone, Debug)]
pub struct PackedArray {
    pub(super) data: PackedData,
}

#[derive(Clone, Debug)]
pub(super) enum PackedData {
    Host(Arc<PackedTensor>),
    #[cfg(feature = "gpu")]
    Device(Gpu, Arc<DeviceWeights>),
}

/// Activations as int8 where the engine computes: quantized once, for any number of products. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Int8Array {
    pub(super) shape: Vec<usize>,
    pub(super) data: Int8Data,
}

#[derive(Clone, Debug)]
pub(super) enum Int8Data {
    Host(Arc<cpu::Int8Rows>),
    #[cfg(feature = "gpu")]
    Device(Gpu, DeviceInt8),
}

/// Activations as int8 on the host, [.., K].
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Tensor {
    pub shape: Vec<usize>,
    pub codes: Vec<i8>,
    /// One for each of the groups of a row; one in all where it is static.
    pub scales: Vec<f32>,
    /// How they were quantized: one of int8, with the zero-point where it is static.
    pub activation: Activation,
}

impl Int8Array {
    /// The dimensions, outermost first; the last is K.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How they were quantized: one of int8.
    pub fn activation(&self) -> Activation {
        match &self.data {
            Int8Data::Host(rows) => rows.activation,
            #[cfg(feature = "gpu")]
            Int8Data::Device(_, int8) => int8.activation,
        }
    }

    /// Submits everything recorded so far, waits for these activations and copies them to the host.
    ///
    /// # Errors
    /// As [`Array::read`].
    pub async fn read(&self) -> Result<Int8Tensor> {
        let activation = self.activation();
        let (codes, mut scales) = match &self.data {
            Int8Data::Host(rows) => (rows.codes(), rows.scales().to_vec()),
            #[cfg(feature = "gpu")]
            Int8Data::Device(gpu, int8) => int8.read(gpu).await?,
        };
        if let Activation::Int8Static(s) = activation {
            scales = vec![s.scale()];
        }
        Ok(Int8Tensor { shape: self.shape.clone(), codes, scales, activation })
    }
}

impl Array {
    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The buffer on the GPU and the byte where the tensor begins; None on the CPU. Submit before using it elsewhere.
    #[cfg(feature = "gpu")]
    pub fn buffer(&self) -> Option<(&wgpu::Buffer, u64)> {
        match &self.data {
            ArrayData::Device(_, buffer, offset) => Some((buffer.raw(), *offset)),
            ArrayData::Host(_) => None,
        }
    }

    /// The first numbers of this array as another of `shape`, in the same memory.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not so many.
    pub fn first(&self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let (shape, all) = (shape.into(), self.shape.iter().product::<usize>());
        let Some(n) = element_count(&shape).filter(|&n| n <= all) else {
            return Err(Error::shape(
                "part of an array",
                format!("up to {all} numbers"),
                format!("{shape:?}"),
            ));
        };
        let data = match &self.data {
            ArrayData::Host(tensor) => {
                let bytes = Tensor::clone(tensor).into_bytes().slice(..n * self.dtype.size());
                ArrayData::Host(Arc::new(Tensor::from_shared(shape.clone(), self.dtype, bytes)?))
            }
            #[cfg(feature = "gpu")]
            device => device.clone(),
        };
        Ok(Self { shape, dtype: self.dtype, data })
    }

    /// Submits everything recorded so far, waits for this array and copies it to the host.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] and whatever else went wrong on the device since the last read.
    pub async fn read(&self) -> Result<Tensor> {
        match &self.data {
            ArrayData::Host(tensor) => Ok(Tensor::clone(tensor)),
            #[cfg(feature = "gpu")]
            ArrayData::Device(gpu, buffer, offset) => {
                let bytes = (self.shape.iter().product::<usize>() * self.dtype.size()) as u64;
                let data = gpu.read_range(buffer, *offset..offset + bytes).await?;
                Tensor::from_bytes(self.shape.clone(), self.dtype, data)
            }
        }
    }
}

/// A [`Transform`] where the engine computes. Clones share the memory.
#[derive(Clone, Debug)]
pub struct TransformArray {
    pub(super) by: Transform,
    /// Its numbers v `[K]`.
    pub(super) v: Array,
}

impl TransformArray {
    /// The transform.
    pub fn transform(&self) -> &Transform {
        &self.by
    }
}

/// Counts of numbers in [`BINS`](crate::calibrate::BINS) bins where the engine computes ([`crate::calibrate::bin`] has the bin of a number). Clones share the memory. A
/// count is a u32, and begins again at 0 beyond that.
#[derive(Clone, Debug)]
pub struct Counts(
    /// The bits of u32 numbers, typed as f32: memory that operations share.
    pub(super) Array,
);

impl Counts {
    /// Submits everything recorded so far, waits for these counts and copies them to the host.
    ///
    /// # Errors
    /// As [`Array::read`].
    pub async fn read(&self) -> Result<Vec<u32>> {
        Ok(self.0.read().await?.to_f32().iter().map(|v| v.to_bits()).collect())
    }
}

impl PackedArray {
    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        match &self.data {
            PackedData::Host(packed) => packed.scheme(),
            #[cfg(feature = "gpu")]
            PackedData::Device(_, weights) => &weights.scheme,
        }
    }

    /// The dimensions, outermost first; the last is K.
    pub fn shape(&self) -> &[usize] {
        match &self.data {
            PackedData::Host(packed) => packed.shape(),
            #[cfg(feature = "gpu")]
            PackedData::Device(_, weights) => &weights.shape,
        }
    }

    /// Bytes of all planes where they are.
    pub fn bytes(&self) -> usize {
        match &self.data {
            PackedData::Host(packed) => packed.data().len(),
            #[cfg(feature = "gpu")]
            PackedData::Device(_, weights) => weights.bytes(),
        }
    }

    /// Submits everything recorded so far, waits for this tensor and copies it to the host.
    ///
    /// # Errors
    /// As [`Array::read`].
    pub async fn read(&self) -> Result<PackedTensor> {
        match &self.data {
            PackedData::Host(packed) => Ok(PackedTensor::clone(packed)),
            #[cfg(feature = "gpu")]
            PackedData::Device(gpu, weights) => weights.read(gpu).await,
        }
    }

    /// As [`Self::read`], giving the array up: nothing is copied that is on the host alone.
    ///
    /// # Errors
    /// As [`Array::read`].
    pub async fn into_packed(self) -> Result<PackedTensor> {
        match self.data {
            PackedData::Host(packed) => Ok(Arc::unwrap_or_clone(packed)),
            #[cfg(feature = "gpu")]
            PackedData::Device(ref gpu, ref weights) => weights.read(gpu).await,
        }
    }
}
