//! File formats: bytes <-> tensors and packed tensors.
//!
//! ```text
//! safetensors   files, shards, headers <-> Tensor, PackedTensor
//! ggml          rows of GGUF blocks    <-> PackedTensor, bit for bit
//! checkpoint    folders of GPTQ, AWQ, bitsandbytes, ... <-> PackedTensor, bit for bit
//! codes         rows of codes          <-> code planes in quad order, for the transcoders
//! ```
//!
//! Parsers of bytes from outside cannot panic: nothing here is indexed and no integer arithmetic is unchecked. Nothing here
//! rounds: numbers are moved, not computed.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod checkpoint;
pub mod codes;
pub mod ggml;
pub mod safetensors;
