//! The engine as JavaScript holds it: opening a device, then operations on arrays.
//!
//! ```text
//! GPUAdapter [GPUDevice] -> open -> RawEngine -> upload | wrap | quantize | dequantize | matmul -> RawTensor, RawInt8, RawWeight
//! ```

use super::arrays::{RawInt8, RawTensor, RawWeight};
use super::{browser, promise, shape_of, thrown};
use crate::engine::{Engine, EngineOptions, MatmulOptions, Tune, plan};
use crate::gpu::Disable;
use crate::kernels::choice;
use crate::product::{Accumulate, Activation, Function, Int8Scale};
use crate::{DType, Error, Result, Scheme, Tensor};
use js_sys::Promise;
use serde_json::json;
use wasm_bindgen::prelude::*;

/// f32 or f16 by name.
fn dtype_named(name: &str) -> Result<DType> {
    [DType::F32, DType::F16]
        .into_iter()
        .find(|dtype| dtype.to_string() == name)
        .ok_or_else(|| Error::Usage(format!("element type '{name}': there are f32 and f16")))
}

/// How a product is computed; lowbit.js fills it in and frees it.
#[wasm_bindgen]
#[derive(Default)]
pub struct RawOptions {
    product: MatmulOptions,
    /// The scale of an int8 output.
    to: Option<Int8Scale>,
}

#[wasm_bindgen]
impl RawOptions {
    /// f32 throughout, no epilogue.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// `f32`, `f16`, `int8`, `int8-g32` or `int8-g128`.
    pub fn activation(&mut self, name: &str) -> Result<(), JsValue> {
        self.product.activation = name.parse().map_err(thrown)?;
        Ok(())
    }

    /// int8 with a scale and a zero-point that are given.
    #[wasm_bindgen(js_name = activationScale)]
    pub fn activation_scale(&mut self, scale: f32, zero: i8) -> Result<(), JsValue> {
        self.product.activation = Int8Scale::new(scale, zero).map(Activation::Int8Static).map_err(thrown)?;
        Ok(())
    }

    /// `f32`, `f16` or `f16-chunked`.
    pub fn accumulate(&mut self, name: &str) -> Result<(), JsValue> {
        let why = || Error::Usage(format!("accumulate '{name}': there are f32, f16 and f16-chunked"));
        self.product.accumulate = Accumulate::named(name).ok_or_else(why).map_err(thrown)?;
        Ok(())
    }

    /// `identity`, `relu`, `gelu` or `silu`.
    pub fn function(&mut self, name: &str) -> Result<(), JsValue> {
        let why = || Error::Usage(format!("function '{name}': there are identity, relu, gelu and silu"));
        self.product.function = Function::named(name).ok_or_else(why).map_err(thrown)?;
        Ok(())
    }

    /// `f32` or `f16`.
    pub fn output(&mut self, name: &str) -> Result<(), JsValue> {
        self.product.output = dtype_named(name).map_err(thrown)?;
        Ok(())
    }

    /// y as int8 with a scale and a zero-point.
    #[wasm_bindgen(js_name = outputScale)]
    pub fn output_scale(&mut self, scale: f32, zero: i8) -> Result<(), JsValue> {
        self.to = Some(Int8Scale::new(scale, zero).map_err(thrown)?);
        Ok(())
    }

    /// [N].
    pub fn bias(&mut self, bias: &RawTensor) {
        self.product.bias = Some(bias.0.clone());
    }

    /// [M, N].
    pub fn residual(&mut self, residual: &RawTensor) {
        self.product.residual = Some(residual.0.clone());
    }

    /// Which matrix of a weight with leading dimensions.
    pub fn expert(&mut self, expert: u32) {
        self.product.expert = Some(expert as usize);
    }

    /// Pins the kernel.
    pub fn kernel(&mut self, name: &str) -> Result<(), JsValue> {
        let why = || {
            Error::Usage(format!(
                "no kernel '{name}'; there are {}",
                choice::variants().collect::<Vec<_>>().join(", ")
            ))
        };
        self.product.kernel = Some(choice::named(name).ok_or_else(why).map_err(thrown)?);
        Ok(())
    }
}

/// A device with its kernels, or the CPU.
#[wasm_bindgen]
pub struct RawEngine(pub(super) Engine);

#[wasm_bindgen]
impl RawEngine {
    /// The CPU engine.
    pub fn cpu() -> Self {
        Self(Engine::cpu())
    }

    /// An engine on a `GPUAdapter`, without the capabilities that `without` names: a promise of it. With `own`, the adapter's `requestDevice` gives a device
    /// that the page made.
    pub fn open(adapter: JsValue, own: bool, without: Vec<String>) -> Promise {
        promise(async move {
            let mut disable = Disable::default();
            for name in &without {
                *disable.named(name).ok_or_else(|| {
                    let why = "there are f16, subgroups, int_dot, coop and timestamps";
                    Error::Usage(format!("capability '{name}': {why}"))
                })? = true;
            }
            let adapter = browser::adapter(&adapter).await?;
            // Nothing is kept between visits of a page.
            let options = EngineOptions { disable, tune: Tune::Off, ..EngineOptions::default() };
            let engine = match own {
                true => {
                    // It has the features and limits that the page gave it.
                    let given = adapter.request_device(&wgpu::DeviceDescriptor::default()).await;
                    let (device, queue) = given.map_err(|e| Error::Gpu { message: e.to_string() })?;
                    Engine::from_wgpu(device, queue, Some(&adapter))
                }
                false => Engine::open_adapter(&adapter, &options).await?,
            };
            Ok(Self(engine))
        })
    }

    /// Who computes and what it can do, as JSON.
    #[wasm_bindgen(getter)]
    pub fn info(&self) -> String {
        let info = self.0.info();
        let mut json = json!({
            "device": if self.0.is_cpu() { "cpu" } else { "gpu" },
            "name": info.name,
            "backend": info.backend,
            "software": info.software,
            "tier": info.tier,
            "capabilities": null,
            "limits": null,
        });
        if let Some(gpu) = self.0.gpu() {
            let caps = gpu.capabilities();
            let sizes = [caps.subgroup_min, caps.subgroup_max];
            json["capabilities"] = json!({
                "f16": caps.f16,
                "subgroups": caps.subgroups,
                "subgroupSizes": if caps.subgroups { json!(sizes) } else { json!(null) },
                "dot4I8Packed": caps.int_dot,
                "timestamps": caps.timestamps,
            });
            let limits = &caps.limits;
            json["limits"] = json!({
                "maxBufferSize": limits.max_buffer_size,
                "maxStorageBufferBindingSize": limits.max_storage_buffer_binding_size,
                "maxStorageBuffersPerShaderStage": limits.max_storage_buffers_per_shader_stage,
                "maxComputeWorkgroupStorageSize": limits.max_compute_workgroup_storage_size,
                "maxComputeInvocationsPerWorkgroup": limits.max_compute_invocations_per_workgroup,
                "maxComputeWorkgroupsPerDimension": limits.max_compute_workgroups_per_dimension,
            });
        }
        json.to_string()
    }

    /// The `GPUDevice`; undefined on the CPU.
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> JsValue {
        let device = self.0.gpu().and_then(|gpu| gpu.device().as_webgpu());
        device.map_or(JsValue::UNDEFINED, |device| device.into())
    }

    /// Brings f32 numbers to the engine.
    pub fn upload(&self, values: Vec<f32>, shape: &[u32]) -> Result<RawTensor, JsValue> {
        let tensor = Tensor::from_f32(shape_of(shape), values);
        tensor.and_then(|tensor| self.0.upload(&tensor)).map(RawTensor).map_err(thrown)
    }

    /// Brings elements of a type (`f32`, `f16`) to the engine from their little-endian bytes.
    #[wasm_bindgen(js_name = uploadBytes)]
    pub fn upload_bytes(&self, bytes: Vec<u8>, shape: &[u32], dtype: &str) -> Result<RawTensor, JsValue> {
        let tensor = dtype_named(dtype).and_then(|dtype| Tensor::from_bytes(shape_of(shape), dtype, bytes));
        tensor.and_then(|tensor| self.0.upload(&tensor)).map(RawTensor).map_err(thrown)
    }

    /// A `GPUBuffer` of the engine's device as a dense tensor.
    pub fn wrap(
        &self,
        buffer: &JsValue,
        offset: f64,
        shape: &[u32],
        dtype: &str,
    ) -> Result<RawTensor, JsValue> {
        let wrapped = dtype_named(dtype).and_then(|dtype| {
            let gpu = self
                .0
                .gpu()
                .ok_or_else(|| Error::unsupported("wrapping a GPUBuffer on the CPU engine", ""))?;
            let buffer = browser::buffer(gpu.device(), buffer)?;
            self.0.wrap_buffer(buffer, offset as u64, shape_of(shape), dtype)
        });
        wrapped.map(RawTensor).map_err(thrown)
    }

    /// Quantizes a weight [.., N, K]: a promise of a [`RawWeight`]. `name` stands in errors.
    pub fn quantize(
        &self,
        values: Vec<f32>,
        shape: &[u32],
        scheme: &str,
        name: String,
        importance: Option<Vec<f32>>,
    ) -> Promise {
        let (engine, shape, scheme) = (self.0.clone(), shape_of(shape), scheme.parse::<Scheme>());
        promise(async move {
            let (tensor, scheme) = (Tensor::from_f32(shape, values)?, scheme?);
            let packed = match importance {
                None => engine.quantize_named(&tensor, &name, &scheme).await?,
                Some(weights) => engine.quantize_weighted(&tensor, &name, &scheme, &weights).await?,
            };
            Ok(RawWeight(packed))
        })
    }

    /// Decodes a weight to `f32` or `f16`.
    pub fn dequantize(&self, weight: &RawWeight, dtype: &str) -> Result<RawTensor, JsValue> {
        let decoded = dtype_named(dtype).and_then(|dtype| self.0.dequantize(&weight.0, dtype));
        decoded.map(RawTensor).map_err(thrown)
    }

    /// `y = function(x * w^T + bias + residual)`.
    pub fn matmul(&self, x: &RawTensor, w: &RawWeight, options: &RawOptions) -> Result<RawTensor, JsValue> {
        self.0.matmul(&x.0, &w.0, &options.product).map(RawTensor).map_err(thrown)
    }

    /// The same with activations that are int8 already.
    #[wasm_bindgen(js_name = matmulInt8)]
    pub fn matmul_int8(
        &self,
        x: &RawInt8,
        w: &RawWeight,
        options: &RawOptions,
    ) -> Result<RawTensor, JsValue> {
        self.0.matmul_int8(&x.0, &w.0, &options.product).map(RawTensor).map_err(thrown)
    }

    /// The same with y as int8, of the scale in the options.
    #[wasm_bindgen(js_name = matmulToInt8)]
    pub fn matmul_to_int8(
        &self,
        x: &RawInt8,
        w: &RawWeight,
        options: &RawOptions,
    ) -> Result<RawInt8, JsValue> {
        let to = options.to.ok_or_else(|| thrown(Error::Usage("an int8 output needs a scale".into())))?;
        self.0.matmul_to_int8(&x.0, &w.0, &options.product, to).map(RawInt8).map_err(thrown)
    }

    /// Activations as int8, as the options say.
    #[wasm_bindgen(js_name = quantizeActivations)]
    pub fn quantize_activations(&self, x: &RawTensor, options: &RawOptions) -> Result<RawInt8, JsValue> {
        self.0.quantize_activations(&x.0, options.product.activation).map(RawInt8).map_err(thrown)
    }

    /// What a product of `m` rows would run and why, as JSON.
    pub fn explain(&self, m: u32, w: &RawWeight, options: &RawOptions) -> Result<String, JsValue> {
        let size = plan::size(m as usize, &w.0, &options.product);
        let explained = self.0.explain(size, w.0.scheme(), &options.product);
        explained.map(|explained| explained.to_json().to_string()).map_err(thrown)
    }

    /// Submits what is recorded.
    pub fn submit(&self) -> Result<(), JsValue> {
        self.0.submit().map_err(thrown)
    }
}
