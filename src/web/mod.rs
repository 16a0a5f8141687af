//! The package for browsers: what JavaScript calls, compiled for wasm32 with the feature `web` and nowhere else.
//!
//! ```text
//! page -> web/lowbit.js (classes, checks of arguments, files) -> the types here -> Engine -> wgpu -> navigator.gpu
//! ```
//!
//! The types here are the raw side of `web/lowbit.js`, which is what users see (`web/lowbit.d.ts` describes it). They take and give typed arrays,
//! strings and JSON, and turn an [`Error`](crate::Error) into a JavaScript `Error` with the same message and the variant's name as `code`. Whatever
//! waits is a promise; handles are cloned into it, so that freeing them meanwhile is harmless.
//!
//! | file | subject |
//! |---|---|
//! | `engine` | opening a device, operations |
//! | `browser` | objects of the page's own (adapter, device, buffers) as wgpu's |
//! | `arrays` | tensors where the engine computes |
//! | `measure` | the differential suite, the bench |
//! | `model` | files: opened from their first bytes, read by ranges, written |
//! | `encoder` | models of texts: ids to embeddings |
//! | `tokenizer` | texts to ids: a wasm module by itself (feature `web-tokenizer`), loaded where it is wanted |

#[cfg(feature = "web")]
mod arrays;
#[cfg(feature = "web")]
mod browser;
#[cfg(feature = "web")]
mod encoder;
#[cfg(feature = "web")]
mod engine;
#[cfg(feature = "web")]
mod measure;
#[cfg(feature = "web")]
mod model;
#[cfg(feature = "web-tokenizer")]
mod tokenizer;

use crate::Error;
#[cfg(feature = "web")]
use js_sys::Promise;
use js_sys::Reflect;
use wasm_bindgen::prelude::*;

/// An error as JavaScript has it: the message, and the variant's name as `code`.
fn thrown(error: Error) -> JsValue {
    let debug = format!("{error:?}");
    let code = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    js_error(&error.to_string(), code)
}

/// A promise of what `work` gives.
#[cfg(feature = "web")]
fn promise<T: Into<JsValue>>(work: impl Future<Output = crate::Result<T>> + 'static) -> Promise {
    wasm_bindgen_futures::future_to_promise(async move { work.await.map(Into::into).map_err(thrown) })
}

/// Dimensions as JavaScript counts them.
#[cfg(feature = "web")]
fn shape_of(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&d| d as usize).collect()
}

/// A panic is a bug of lowbit's own: it becomes a JavaScript error with its message and the code `Bug`, and the module stops. `lowbit.js` tells whoever
/// waits.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| wasm_bindgen::throw_val(js_error(&info.to_string(), "Bug"))));
}

fn js_error(message: &str, code: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    // An object of our own takes any property.
    let _ = Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

/// This version of lowbit.
#[cfg(feature = "web")]
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// Every scheme that has a name of its own, as JSON: name and bits per weight of a large matrix.
#[cfg(feature = "web")]
#[wasm_bindgen]
pub fn schemes() -> String {
    let rows = crate::scheme::preset::samples().into_iter().map(|scheme| {
        let bits = scheme.bits_per_weight(4096, 4096);
        serde_json::json!({ "name": scheme.to_string(), "bitsPerWeight": bits })
    });
    serde_json::Value::from_iter(rows).to_string()
}

/// Whether so many bytes can be had of the module's memory, which ends the module where it fails unasked.
#[cfg(feature = "web")]
#[wasm_bindgen(js_name = hasRoom)]
pub fn has_room(bytes: f64) -> bool {
    bytes < isize::MAX as f64 && Vec::<u8>::new().try_reserve_exact(bytes as usize).is_ok()
}
