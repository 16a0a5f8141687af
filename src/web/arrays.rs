//! Tensors where the engine computes, as JavaScript holds them.
//!
//! ```text
//! RawTensor   Array            RawInt8   Int8Array            RawWeight   PackedArray
//! ```

use super::promise;
use crate::engine::{Array, Int8Array, PackedArray};
use crate::product::Activation;
use js_sys::{Float32Array, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

fn counts(shape: &[usize]) -> Vec<u32> {
    shape.iter().map(|&d| d as u32).collect()
}

/// A dense tensor.
#[wasm_bindgen]
pub struct RawTensor(pub(super) Array);

#[wasm_bindgen]
impl RawTensor {
    /// The dimensions, outermost first.
    #[wasm_bindgen(getter)]
    pub fn shape(&self) -> Vec<u32> {
        counts(self.0.shape())
    }

    /// `f32` or `f16`.
    #[wasm_bindgen(getter)]
    pub fn dtype(&self) -> String {
        self.0.dtype().to_string()
    }

    /// The numbers, f16 widened: a promise of a `Float32Array`.
    pub fn read(&self) -> Promise {
        let array = self.0.clone();
        promise(async move { Ok(Float32Array::from(&*array.read().await?.to_f32())) })
    }

    /// The elements as little-endian bytes: a promise of a `Uint8Array`.
    pub fn bytes(&self) -> Promise {
        let array = self.0.clone();
        promise(async move { Ok(Uint8Array::from(array.read().await?.bytes())) })
    }

    /// The `GPUBuffer`; undefined on the CPU.
    #[wasm_bindgen(getter)]
    pub fn buffer(&self) -> JsValue {
        let buffer = self.0.buffer().and_then(|(buffer, _)| buffer.as_webgpu());
        buffer.map_or(JsValue::UNDEFINED, |buffer| buffer.into())
    }

    /// The byte of the buffer where the tensor begins.
    #[wasm_bindgen(getter)]
    pub fn offset(&self) -> f64 {
        self.0.buffer().map_or(0.0, |(_, offset)| offset as f64)
    }
}

/// Activations as int8.
#[wasm_bindgen]
pub struct RawInt8(pub(super) Int8Array);

#[wasm_bindgen]
impl RawInt8 {
    /// The dimensions, outermost first; the last is K.
    #[wasm_bindgen(getter)]
    pub fn shape(&self) -> Vec<u32> {
        counts(self.0.shape())
    }

    /// A promise of an array: codes as an `Int8Array`, scales as a `Float32Array`, the zero-point.
    pub fn read(&self) -> Promise {
        let array = self.0.clone();
        promise(async move {
            let int8 = array.read().await?;
            let zero = if let Activation::Int8Static(s) = int8.activation { s.zero() } else { 0 };
            let parts: [JsValue; 3] = [
                js_sys::Int8Array::from(&*int8.codes).into(),
                Float32Array::from(&*int8.scales).into(),
                zero.into(),
            ];
            Ok(js_sys::Array::from_iter(parts))
        })
    }
}

/// A weight in a scheme.
#[wasm_bindgen]
pub struct RawWeight(pub(super) PackedArray);

#[wasm_bindgen]
impl RawWeight {
    /// The dimensions, outermost first; the last is K.
    #[wasm_bindgen(getter)]
    pub fn shape(&self) -> Vec<u32> {
        counts(self.0.shape())
    }

    /// The scheme's name.
    #[wasm_bindgen(getter)]
    pub fn scheme(&self) -> String {
        self.0.scheme().to_string()
    }

    /// Bytes of all planes where they are.
    #[wasm_bindgen(getter, js_name = byteLength)]
    pub fn byte_length(&self) -> f64 {
        self.0.bytes() as f64
    }

    /// Bits per weight, scales and zero-points counted, without padding.
    #[wasm_bindgen(getter, js_name = bitsPerWeight)]
    pub fn bits_per_weight(&self) -> f64 {
        match self.0.scheme().check_shape(self.0.shape()) {
            Ok((rows, k)) => self.0.scheme().bits_per_weight(rows, k),
            Err(_) => f64::NAN,
        }
    }
}
