//! Activations as int8: quantized once for any number of products, and from layer to layer.
//!
//! ```text
//! Array --quantize_activations--> Int8Array --matmul_int8--> Array        --matmul_to_int8--> Int8Array
//! ```

use super::array::{Array, ArrayData, Int8Array, Int8Data, PackedArray, PackedData};
use super::{Backend, Call, Engine, MatmulOptions};
use crate::product::{Activation, Int8Scale};
use crate::{DType, Error, Result, Tensor, cpu};
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::foreign;
#[cfg(feature = "gpu")]
use crate::{
    gpu::Target,
    kernels::{
        self,
        int8::DeviceInt8,
        product::{Input, Output},
    },
};

impl Engine {
    /// Quantizes activations [.., K] to int8, as `activation` says, for any number of products.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an activation that is not int8 and for arrays of another engine; [`Error::Shape`] for a scalar or a
    /// dimension of size 0; errors of the device.
    pub fn quantize_activations(&self, x: &Array, activation: Activation) -> Result<Int8Array> {
        let Some(&k) = x.shape.last().filter(|_| !x.shape.contains(&0)) else {
            let got = format!("{:?}", x.shape);
            return Err(Error::shape("activations", "[.., K] with no dimension of size 0", got));
        };
        let data = match (&self.backend, &x.data) {
            (Backend::Cpu, ArrayData::Host(tensor)) => {
                Int8Data::Host(Arc::new(cpu::Int8Rows::new(tensor, activation)?))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), ArrayData::Device(owner, buffer, offset)) if owner.same(gpu) => {
                let rows = x.shape.iter().product::<usize>() / k;
                let int8 = DeviceInt8::alloc(gpu, rows, k, activation)?;
                let x = (buffer, *offset, x.dtype);
                kernels::int8_rows::record(gpu, &mut Target::Recorder, x, &int8)?;
                Int8Data::Device(gpu.clone(), int8)
            }
            #[cfg(feature = "gpu")]
            _ => return Err(foreign()),
        };
        #[cfg(not(feature = "gpu"))]
        let _ = k;
        Ok(Int8Array { shape: x.shape.clone(), data })
    }

    /// As [`Engine::matmul`] with activations that are int8 already; `options.activation` does not count.
    ///
    /// # Errors
    /// As [`Engine::matmul`].
    pub fn matmul_int8(&self, x: &Int8Array, w: &PackedArray, options: &MatmulOptions) -> Result<Array> {
        let options = &MatmulOptions { activation: x.activation(), ..options.clone() };
        let call = Call::new(&x.shape, w, options)?;
        let data = match (&self.backend, &x.data, &w.data) {
            (Backend::Cpu, Int8Data::Host(rows), PackedData::Host(packed)) => {
                let [bias, residual] = options.on_host()?;
                let (bias, residual) = (bias.as_deref(), residual.as_deref());
                let y = cpu::matmul_int8(rows, packed, call.rows, &options.product(), bias, residual)?;
                ArrayData::Host(Arc::new(Tensor::from_shared(call.shape.clone(), y.dtype(), y.into_bytes())?))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Int8Data::Device(owner, int8), _) if owner.same(gpu) => {
                let bytes = call.m * call.rows.len() * options.output.size();
                let y = gpu.alloc(bytes as u64, "product")?;
                let (input, output) = (Input::Int8(int8), Output::Dense(&y, 0));
                self.encode(gpu, &mut Target::Recorder, input, w, output, options, &call)?;
                ArrayData::Device(gpu.clone(), y, 0)
            }
            #[cfg(feature = "gpu")]
            _ => return Err(foreign()),
        };
        Ok(Array { shape: call.shape, dtype: options.output, data })
    }

    /// As [`Engine::matmul_int8`] with y as int8 of a scale that is given, for the next layer: no f32 of it is in memory, but on a GPU with a
    /// scheme whose values are no integers or whose columns are permuted. `options.output` does not count.
    ///
    /// # Errors
    /// As [`Engine::matmul`]; on a GPU [`Error::Unsupported`] for an expert of a weight that is split within four rows.
    pub fn matmul_to_int8(
        &self,
        x: &Int8Array,
        w: &PackedArray,
        options: &MatmulOptions,
        to: Int8Scale,
    ) -> Result<Int8Array> {
        let options = &MatmulOptions { activation: x.activation(), output: DType::F32, ..options.clone() };
        let call = Call::new(&x.shape, w, options)?;
        let data = match (&self.backend, &x.data, &w.data) {
            (Backend::Cpu, Int8Data::Host(rows), PackedData::Host(packed)) => {
                let [bias, residual] = options.on_host()?;
                let (bias, residual) = (bias.as_deref(), residual.as_deref());
                let product = options.product();
                let y = cpu::matmul_to_int8(rows, packed, call.rows, &product, bias, residual, to)?;
                Int8Data::Host(Arc::new(y))
            }
            #[cfg(feature = "gpu")]
            (Backend::Gpu(gpu), Int8Data::Device(owner, int8), _) if owner.same(gpu) => {
                let y = DeviceInt8::alloc(gpu, call.m, call.rows.len(), Activation::Int8Static(to))?;
                let (input, output) = (Input::Int8(int8), Output::Int8(&y));
                self.encode(gpu, &mut Target::Recorder, input, w, output, options, &call)?;
                Int8Data::Device(gpu.clone(), y)
            }
            #[cfg(feature = "gpu")]
            _ => return Err(foreign()),
        };
        Ok(Int8Array { shape: call.shape, data })
    }
}
