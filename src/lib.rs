//! Quantized models and low-bit matrix products on any GPU, through WGSL and wgpu, with a CPU engine beside it.
//!
//! ```
//! # fn main() -> lowbit::Result<()> { pollster::block_on(async {
//! use lowbit::{Engine, MatmulOptions, Tensor};
//!
//! let engine = Engine::auto().await?; //                                a real GPU, else the CPU
//! let weights = Tensor::from_f32([64, 256], vec![0.5; 64 * 256])?; //   [out, in], as a linear layer has them
//! let w = engine.quantize(&weights, &"q4_0".parse()?).await?;
//! let x = engine.upload(&Tensor::from_f32([1, 256], vec![1.0; 256])?)?;
//! let y = engine.matmul(&x, &w, &MatmulOptions::default())?; //         y = x * w^T, recorded and not yet waited for
//! let y = y.read().await?; //                                           one submit, one wait
//! assert_eq!(y.shape(), [1, 64]);
//! # Ok(()) }) }
//! ```
//!
//! One idea carries the crate: a weight format is a *value*. A [`Scheme`] says how many bits a code has, how a code becomes a number, which weights
//! share a scale, what a scale is and what is subtracted or added; `q4_0`, `int4-g128-asym`, `nf4-g64` and `mxfp4` are points in that space, and one
//! set of kernels serves them all.
//!
//! ```text
//! file bytes -> Tensor -> Engine::quantize -> PackedTensor -> Engine::upload_packed -> Engine::matmul -> read -> report / file
//! ```
//!
//! | module | what it has |
//! |---|---|
//! | [`scheme`] | the space of formats, their names, tables and planes |
//! | [`tensor`], [`packed`] | tensors on the host, dense and quantized |
//! | [`engine`] | what you call: the same asynchronous API on GPU and CPU |
//! | [`product`] | activation precision, accumulation, epilogue |
//! | [`kv`] | caches of keys and values in 8 and 4 bits |
//! | [`transform`] | what the inputs of a layer are multiplied and rotated by |
//! | `kernels`, `gpu` | WGSL templates and their dispatch; wgpu without quantization (feature `gpu`) |
//! | [`cpu`] | the CPU engine |
//! | [`mod@reference`] | what is right: one obvious loop per operation |
//! | [`selftest`] | engines against the reference |
//! | [`train`], [`learning`] | quantization-aware training, and its words |
//! | [`quantize`] | methods that look at activations: GPTQ, AWQ, smoothing, rotation; which scheme each layer gets within a budget |
//! | [`calibrate`] | what goes into linear layers: moments, ranges, histograms |
//! | [`model`] | networks on the engine: texts to embeddings |
//! | [`file`](mod@file), [`report`] | formats on disk; error metrics |
//!
//! Features: `cli` (default; the command), `gpu` (wgpu), `parallel` (rayon), `mmap`, `tokenizer` (texts for [`model`]). Without any of them the crate is the CPU engine on one thread.
#![deny(unsafe_code)]

#[cfg(all(feature = "gpu", any(not(target_arch = "wasm32"), feature = "web")))]
// Without the command only what tuning and bindings take of it is used.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
mod bench;
mod bins;
pub mod calibrate;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "gpu")]
mod clock;
pub mod configuration;
pub mod cpu;
pub mod engine;
pub mod error;
pub mod file;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(feature = "gpu")]
pub mod kernels;
pub mod kv;
pub mod learning;
pub mod model;
pub mod packed;
pub mod product;
pub mod quantize;
pub mod random;
mod recycle;
pub mod reference;
pub mod report;
pub mod scheme;
pub mod selftest;
pub mod tensor;
mod threads;
pub mod train;
pub mod transform;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
mod tune;
#[cfg(all(any(feature = "web", feature = "web-tokenizer"), target_arch = "wasm32"))]
mod web;

pub use engine::{
    Array, Counts, Engine, EngineInfo, EngineOptions, Int8Array, Int8Tensor, KvCache, MatmulOptions,
    PackedArray, Plan, TransformArray,
};
pub use error::{Error, Result};
pub use kv::KvSettings;
pub use packed::PackedTensor;
pub use scheme::Scheme;
pub use tensor::{DType, Tensor};
pub use transform::Transform;
