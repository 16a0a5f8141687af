//! Weights: brought to the engine packed, quantized on it, decoded on it.
//!
//! ```text
//! PackedTensor --upload_packed--> PackedArray <--quantize[_weighted, _by]-- Tensor         PackedArray --dequantize--> Array
//! ```

use super::array::{Array, ArrayData, PackedArray, PackedData};
use super::{Backend, Engine};
use crate::scheme::Method;
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor, cpu};
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::foreign;
#[cfg(feature = "gpu")]
use crate::{
    gpu::Target,
    kernels::{self, DeviceWeights},
};

impl Engine {
    /// Brings a packed tensor to the engine; one larger than a binding is split by rows.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a single row is larger than a binding, [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn upload_packed(&self, packed: &PackedTensor) -> Result<PackedArray> {
        let data = match &self.backend {
            Backend::Cpu => PackedData::Host(Arc::new(packed.clone())),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                PackedData::Device(gpu.clone(), Arc::new(DeviceWeights::upload(gpu, packed)?))
            }
        };
        Ok(PackedArray { data })
    }

    /// As [`Self::upload_packed`], of a tensor that the caller does not keep: the CPU engine takes it as it is, without a copy.
    ///
    /// # Errors
    /// As [`Self::upload_packed`].
    pub fn take_packed(&self, packed: PackedTensor) -> Result<PackedArray> {
        match &self.backend {
            Backend::Cpu => Ok(PackedArray { data: PackedData::Host(Arc::new(packed)) }),
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) => self.upload_packed(&packed),
        }
    }

    /// Quantizes a weight [.., N, K] by the scheme's direct encoder, on the GPU where it has one for the scheme.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`]; [`Error::NotRepresentable`] for NaN, infinities and values beyond the scheme's range; errors of the
    /// device.
    pub async fn quantize(&self, tensor: &Tensor, scheme: &Scheme) -> Result<PackedArray> {
        self.quantize_named(tensor, "weight", scheme).await
    }

    /// As [`Engine::quantize`], with the tensor's name for errors.
    ///
    /// # Errors
    /// As [`Engine::quantize`].
    pub async fn quantize_named(&self, tensor: &Tensor, name: &str, scheme: &Scheme) -> Result<PackedArray> {
        self.quantize_by(tensor, name, scheme, Method::Own).await
    }

    /// As [`Engine::quantize_named`], scales and zeros found by a method instead of the scheme's own rule: `Method::Mse` searches for those of least
    /// squared error, see [`crate::scheme::method`]. The format is the same.
    ///
    /// # Errors
    /// As [`Engine::quantize`]; [`Error::Unsupported`] where the method makes no sense for the scheme, with the reason.
    pub async fn quantize_by(
        &self,
        tensor: &Tensor,
        name: &str,
        scheme: &Scheme,
        method: Method,
    ) -> Result<PackedArray> {
        self.encode_weights(tensor, name, scheme, method, None).await
    }

    /// As [`Engine::quantize_named`], errors of a column weighing as much as its `importance`: GGUF's importance matrix, the mean square of the
    /// activation that meets the column. `[.., K]`: one row for each matrix of the leading dimensions. It counts for Q4_0 to Q5_1, Q2_K to
    /// Q6_K and IQ4 ([`Encoder::weighs`](crate::scheme::Encoder::weighs)), whose bytes are those of ggml; other schemes ignore it.
    ///
    /// # Errors
    /// As [`Engine::quantize`]; [`Error::Shape`] for another number of entries, and for one that is negative, NaN or beyond 1e20.
    pub async fn quantize_weighted(
        &self,
        tensor: &Tensor,
        name: &str,
        scheme: &Scheme,
        importance: &[f32],
    ) -> Result<PackedArray> {
        cpu::check_importance(tensor, name, importance)?;
        let importance = Some(importance).filter(|_| scheme.encoder.weighs());
        self.encode_weights(tensor, name, scheme, Method::Own, importance).await
    }

    async fn encode_weights(
        &self,
        tensor: &Tensor,
        name: &str,
        scheme: &Scheme,
        method: Method,
        importance: Option<&[f32]>,
    ) -> Result<PackedArray> {
        scheme.check_shape(tensor.shape())?;
        #[cfg_attr(not(feature = "gpu"), allow(unused_variables))]
        let form = method.form(scheme)?;
        let on_cpu = || match importance {
            Some(importance) => cpu::quantize_weighted(tensor, name, scheme, importance),
            None => cpu::quantize_by(tensor, name, scheme, method, None),
        };
        match &self.backend {
            Backend::Cpu => Ok(PackedArray { data: PackedData::Host(Arc::new(on_cpu()?)) }),
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) if !kernels::quantize::form_on_gpu(&form) => self.take_packed(on_cpu()?),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let table = match scheme.value {
                    crate::scheme::Value::Learned => Some(cpu::learn_codebook(tensor, name, scheme)?),
                    _ => None,
                };
                let encoding =
                    kernels::quantize::Encoding::new(gpu, tensor, scheme, &form, table.as_deref())?;
                encoding.record(gpu, importance)?;
                encoding.check(gpu, tensor, name).await?;
                Ok(PackedArray { data: PackedData::Device(gpu.clone(), Arc::new(encoding.weights)) })
            }
        }
    }

    /// Decodes a packed weight to a dense array of its shape, f32 or f16.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for bf16 and for arrays of another engine; errors of the device.
    pub fn dequantize(&self, packed: &PackedArray, dtype: DType) -> Result<Array> {
        if dtype == DType::Bf16 {
            return Err(Error::unsupported("dequantizing to bf16", "f32 and f16 are"));
        }
        let shape = packed.shape().to_vec();
        let data = match (&self.backend, &packed.data) {
            (Backend::Cpu, PackedData::Host(packed)) => {
                ArrayData::Host(Arc::new(cpu::dequantize(packed, dtype)))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), PackedData::Device(owner, weights)) if owner.same(gpu) => {
                let elements: usize = shape.iter().product();
                let y = gpu.alloc((elements * dtype.size()) as u64, "dense weights")?;
                kernels::dequantize::record(gpu, &mut Target::Recorder, weights, (&y, 0), dtype)?;
                ArrayData::Device(gpu.clone(), y, 0)
            }
            #[cfg(feature = "gpu")]
            _ => return Err(foreign()),
        };
        Ok(Array { shape, dtype, data })
    }

    /// As [`Engine::dequantize`], recorded into the caller's encoder and written to `y` of the weight's shape; the caller submits. GPU only.
    ///
    /// # Errors
    /// As [`Engine::dequantize`]; [`Error::Shape`] if y has another shape.
    #[cfg(feature = "gpu")]
    pub fn encode_dequantize(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        packed: &PackedArray,
        y: &Array,
    ) -> Result<()> {
        let (Backend::Gpu(gpu), ArrayData::Device(owner, buffer, offset), PackedData::Device(maker, weights)) =
            (&self.backend, &y.data, &packed.data)
        else {
            return Err(foreign());
        };
        if !owner.same(gpu) || !maker.same(gpu) {
            return Err(foreign());
        }
        if y.shape != weights.shape {
            return Err(Error::shape(
                "y of a dequantization",
                format!("{:?}", weights.shape),
                format!("{:?}", y.shape),
            ));
        }
        kernels::dequantize::record(gpu, &mut Target::Encoder(encoder), weights, (buffer, *offset), y.dtype)
    }
}
