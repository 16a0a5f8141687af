//! Quantized checkpoints: what is read from them, what is written, and what is refused.
//!
//! ```text
//! build        safetensors and settings in memory -> Checkpoint; random packed tensors
//! vectors      words and arrays that other implementations made, and every weight by the format's own formula
//! round_trips  packed -> each target -> read again, bit for bit; folders, shards, other keys of config.json
//! recasts      the same weights in another scheme: equal numbers, or refused
//! refused      one fault at a time: the error names the tensor or the key
//! onnx         ONNX files put together by hand (protobuf), written ones, and each field wrong
//! onnxruntime  its checker, its sums with written nodes, models of its own quantizer
//! mutations    random bytes and settings do not panic
//! ```

mod build;
#[path = "../common/mod.rs"]
mod common;
mod mutations;
mod onnx;
mod onnxruntime;
mod protobuf;
mod recasts;
mod refused;
mod round_trips;
mod vectors;
mod written;
