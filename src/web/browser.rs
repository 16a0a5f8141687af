//! Objects of the page's own as wgpu's: an adapter that it asked for, a device that it made, a buffer.
//!
//! ```text
//! GPUAdapter (prepared by lowbit.js) -> navigator.gpu.requestAdapter, for one call -> wgpu::Adapter -> adapter.requestDevice -> wgpu::Device
//! GPUBuffer                          -> device.createBuffer, for one call          -> wgpu::Buffer
//! ```
//!
//! wgpu gives its WebGPU objects out (`as_webgpu`) and has no way in for them (but for textures). It makes each by calling one method
//! of another object, at once and not in a future. So that method is shadowed on that one object for that one call by one that gives
//! what is there already. No prototype is touched, and nothing of the page runs in between.

use crate::{Error, Result};
use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;

/// Runs `call` while `object[method]` gives `value`.
fn shadowed<T>(object: &JsValue, method: &str, value: &JsValue, call: impl FnOnce() -> T) -> Result<T> {
    let refused = |_| Error::Gpu { message: format!("{method} cannot be set on the browser's object") };
    let value = value.clone();
    let give = Closure::<dyn FnMut() -> JsValue>::new(move || value.clone());
    let give: &Function = give.as_ref().unchecked_ref();
    Reflect::set(object, &method.into(), give).map_err(refused)?;
    let result = call();
    let object: &js_sys::Object = object.unchecked_ref();
    Reflect::delete_property(object, &method.into()).map_err(refused)?;
    Ok(result)
}

/// wgpu's handle of a `GPUAdapter`.
pub async fn adapter(adapter: &JsValue) -> Result<wgpu::Adapter> {
    let lacking = || Error::NoAdapter { wanted: "at all".into(), found: "no WebGPU here".into() };
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).map_err(|_| lacking())?;
    let gpu = Reflect::get(&navigator, &"gpu".into()).ok().filter(JsValue::is_object).ok_or_else(lacking)?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let options = wgpu::RequestAdapterOptions::default();
    let found = Promise::resolve(adapter).into();
    let asked = shadowed(&gpu, "requestAdapter", &found, || instance.request_adapter(&options))?;
    asked.await.map_err(|e| Error::NoAdapter { wanted: "at all".into(), found: e.to_string() })
}

/// wgpu's handle of a `GPUBuffer` of `device`. The page keeps owning it.
pub fn buffer(device: &wgpu::Device, buffer: &JsValue) -> Result<wgpu::Buffer> {
    let number = |key: &str| {
        let number = Reflect::get(buffer, &key.into()).ok().and_then(|n| n.as_f64());
        number.ok_or_else(|| Error::unsupported("an object that is no GPUBuffer", format!("it has no {key}")))
    };
    let (size, usage) = (number("size")? as u64, number("usage")? as u32);
    let descriptor = wgpu::BufferDescriptor {
        label: None,
        size,
        usage: wgpu::BufferUsages::from_bits_truncate(usage),
        mapped_at_creation: false,
    };
    let object = device.as_webgpu().ok_or_else(|| Error::unsupported("a buffer of another backend", ""))?;
    shadowed(object, "createBuffer", buffer, || device.create_buffer(&descriptor))
}
