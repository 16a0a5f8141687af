//! The layer between lowbit and wgpu: adapters, devices, buffers, pipelines, recorded commands, timestamps.
//!
//! ```text
//! adapter::pick -> Gpu::open ─┐                 template::render(name, ctx) -> WGSL
//! the caller's wgpu device ───┴-> Gpu                        │
//!                                  │ pipeline(spec, wgsl) <──┘  (compiled once per name and key)
//!            alloc / upload ──> Buffer ──> dispatch(Target::Recorder | Target::Encoder, ...)
//!                                  │               └─ params: immutable uniform buffers, shared by content
//!                                read().await = one submit, one wait
//! ```
//!
//! A [`Gpu`] is a handle that clones cheaply and may be used from several threads at once (natively; a browser has one).
//! Commands are recorded into one pending encoder and submitted together, at the latest by a read.
//!
//! Every failure of the device is an [`Error`](crate::Error): loss, lack of memory, a limit, a shader that does not
//! compile. Natively wgpu reports errors while the failing call runs, so the call itself returns them; a browser reports
//! them later, and the next [`Gpu::read`] (or any other fallible call) returns them.
//!
//! This module knows no quantization: no scheme, no packed tensor, no kernel.

pub mod adapter;
mod buffer;
mod device;
mod fault;
mod groups;
mod pipeline;
mod recorder;
pub mod template;
mod timing;
mod transfer;

pub use adapter::{AdapterInfo, Capabilities, Disable, Found};
pub use buffer::Buffer;
pub use device::{Gpu, GpuOptions, Stats};
pub use pipeline::{Access, Pipeline, PipelineSpec};
pub use recorder::{Binding, Target, fold_workgroups};
pub use timing::{Clock, Elapsed};
