//! HuggingFace folders into GGUF: small random models made here, converted and quantized by the binary, read by lowbit and by others.
//!
//! ```text
//! fixture     folders with config, tokenizer, safetensors
//! mapping     names, shapes, order of rows, types, metadata, tokenizers: as stated here
//! refused     what has no map: by file and key, or by the tensor's name
//! outside     gguf-py: its own map of names, its own reading of special tokens, the data
//! plan        a scheme for each layer by the errors of outputs
//! readme      every command of the README
//! llama_cpp   llama.cpp: what it quantizes, and what it says
//! ```

#[path = "../common/binary.rs"]
mod binary;
#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod llama_cpp;
mod mapping;
mod outside;
mod plan;
mod readme;
mod refused;
