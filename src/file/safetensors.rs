//! Safetensors, plain and packed: single files, sharded models, and lowbit's own self-describing layout inside them.
//!
//! ```text
//! | u64 header length | JSON header                                          | data                              |
//!                       "__metadata__": {"lowbit.version": "1",
//!                                        "lowbit.tensors": "{NAME: {scheme, shape, dtype}, ...}", the user's own}
//!                       NAME.codes   U8 [rows, bytes per row]                   the planes of `scheme::layout`
//!                       NAME.scales  U8 [rows, bytes per row] ...
//!                       anything else, copied untouched
//! ```
//!
//! A packed file is an ordinary safetensors file. Each packed tensor `NAME` is stored as its planes, U8 tensors called `NAME.` +
//! [`PlaneKind::name`](crate::scheme::PlaneKind::name); the metadata entry `lowbit.tensors` is a JSON object (as text, as safetensors
//! wants it) that gives for each `NAME` the scheme's name, the shape `[.., N, K]` and the type the weights had before. Tables
//! that the scheme fixes (NF4, E2M1, ...) are not stored; learned ones are, as `NAME.codebook`. Bytes per row are those of the
//! plane's row (codes: padded to 32 values and 16 bytes); a plane that all rows share has one dimension. `docs/FORMAT.md` describes it for
//! readers in other languages.
//!
//! [`read`] opens files, [`mod@write`] writes them as a stream. Neither quantizes, and neither replaces files atomically: that is the
//! caller's choice of `Write`.

mod read;
mod write;

pub use ::safetensors::Dtype;
pub use read::{Content, Entry, Model};
pub use write::{Item, Plan, Writer};

use crate::DType;

/// The version of the packed layout that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Metadata key of the layout's version.
pub const VERSION_KEY: &str = "lowbit.version";
/// Metadata key of the JSON object that describes the packed tensors.
pub const TENSORS_KEY: &str = "lowbit.tensors";
/// Headers beyond this are refused, as the safetensors library does.
const MAX_HEADER: u64 = 100_000_000;

/// What `lowbit.tensors` says of one packed tensor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Described {
    scheme: String,
    shape: Vec<usize>,
    /// The element type before quantization: `F32`, `F16` or `BF16`.
    dtype: Dtype,
}

/// The element type as one that engines compute with, if it is.
pub fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The name safetensors has for an element type.
pub fn file_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}
