//! File formats: bytes <-> tensors and packed tensors.
//!
//! ```text
//! model         a file, shards or a folder of any format -> entries -> Tensor, PackedTensor; metadata
//! write         a plan in any format -> header, tensors one by one; the table of formats
//!   safetensors   headers, planes of lowbit's own layout
//!   gguf          headers, key-values, tensor types
//!   onnx          messages, MatMulNBits nodes, external data
//! checkpoint    folders of GPTQ, AWQ, bitsandbytes, ... <-> PackedTensor, bit for bit
//! hf            a HuggingFace folder -> the model that a GGUF file of it holds
//! imatrix       importance matrices, both forms
//! recast        the same weights in another scheme, where only the way of writing differs
//! metadata      keys and typed values, in order
//! activations   the precision of what layers take, a key of it
//! transforms    what their inputs are transformed by, another, and vectors beside the weights
//! ggml          rows of GGUF blocks <-> PackedTensor, bit for bit
//! bytes         mapped files, and a cursor whose errors name field and byte
//! ```
//!
//! Parsers of bytes from outside cannot panic: nothing here is indexed and no integer arithmetic is unchecked. Nothing here
//! rounds, but for `hf` where another element type was asked for: numbers are moved, not computed.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod activations;
mod bytes;
pub mod checkpoint;
pub mod ggml;
pub mod gguf;
pub mod hf;
pub mod imatrix;
pub mod metadata;
pub mod model;
mod onnx;
pub mod recast;
pub mod safetensors;
mod transforms;
pub mod write;

pub use ::safetensors::Dtype;
pub use activations::Activations;
pub use metadata::{Metadata, Value};
pub use model::{Content, Entry, Model};
pub use transforms::{Place, Transforms};
pub use write::{Files, Format, Item, Plan, Writer};

use crate::DType;

/// The element type as one that engines compute with, if it is.
pub fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The name files have for an element type.
pub fn file_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}
