//! ONNX: the weights of a model's MatMulNBits nodes and its other constant tensors.
//!
//! ```text
//! x.onnx       ModelProto: metadata, graph: nodes, initializers (raw bytes, numbers, or where in another file they are)
//! x.onnx.data  the bytes of tensors, each on a multiple of 4096
//!
//! MatMulNBits(A, B, scales, zero_points, g_idx) of domain com.microsoft <-> a packed tensor [N, K], named by B
//! any other initializer, the tensor of a Constant node                  <-> a dense tensor
//! ```
//!
//! lowbit knows weights and no graphs: what is read are the constants of the main graph, and what is written is a model in which every packed
//! weight has a node with an input `NAME.input` [M, K] and an output `NAME.output` [M, N] of its own, to be called or to be copied into a graph. B is
//! called as onnxruntime's quantizer does (`NAME_Q4`, `NAME_scales`, `NAME_zero_points`), and such endings are taken off when it is read. [`types`] lists
//! the element types; the operands of a node are [`super::checkpoint::onnx`]'s. There is no magic number: see [`is_one`].

mod proto;
pub(super) mod read;
mod types;
pub(super) mod write;

use super::write::{Format, Index};

/// The version of the file's own form that is written: external data, int4 types; read by onnxruntime from 1.18 on.
const IR_VERSION: i64 = 10;
/// The operator sets that are written.
const OPSETS: [(&str, i64); 2] = [("", 21), (DOMAIN, 1)];
const DOMAIN: &str = "com.microsoft";
const OPERATOR: &str = "MatMulNBits";
/// What a file that is written says of where it is from.
const PRODUCER: &str = "lowbit";
/// What the name of the data file has behind that of the model.
const DATA: &str = ".data";
/// Tensors start on multiples of it, so that readers can map them.
const ALIGNMENT: usize = 4096;

/// ONNX as a row of the table of formats. The writer's stream is the data file; the model beside it is its index.
pub(super) static FORMAT: Format = Format {
    name: "onnx",
    extension: "onnx",
    runs: false,
    one_form: false,
    holds: write::holds,
    lay_out: write::lay_out,
    encode: write::encode,
    decode: read::decode,
    by_rows: false,
    bits_per_weight: write::bits_per_weight,
    data_bytes: write::data_bytes,
    split: super::safetensors::write::split,
    index: Some(Index::Always(DATA, write::model)),
};

/// Whether bytes may be an ONNX model: its first field is `ir_version`, and read as the length of a safetensors header they are none.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    const IR_VERSION_TAG: u8 = 8;
    let Some((start, _)) = bytes.split_first_chunk::<8>() else { return false };
    start.first() == Some(&IR_VERSION_TAG) && u64::from_le_bytes(*start) > super::safetensors::MAX_HEADER
}
