//! lowbit: quantized models and low-bit matrix products on any GPU, with a CPU engine beside it.
#![deny(unsafe_code)]

pub mod cpu;
pub mod engine;
pub mod error;
pub mod file;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(feature = "gpu")]
pub mod kernels;
pub mod packed;
pub mod product;
pub mod reference;
pub mod report;
pub mod scheme;
pub mod selftest;
pub mod tensor;

pub use engine::{Array, Engine, EngineInfo, EngineOptions, MatmulOptions, PackedArray, Plan};
pub use error::{Error, Result};
pub use packed::PackedTensor;
pub use scheme::Scheme;
pub use tensor::{DType, Tensor};
