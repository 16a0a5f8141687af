//! GGUF, versions 2 and 3: one file or the shards of one.
//!
//! ```text
//! | "GGUF" | u32 version | i64 tensors | i64 key-values | key-values | tensor infos | zeros | data |
//!   key-value     key, u32 kind, value                     string = u64 length, UTF-8
//!   tensor info   name, u32 rank, u64 dimensions (innermost first), u32 type, u64 offset in the data
//!   data          on a multiple of the alignment (`general.alignment`, else 32), and so is every tensor
//! ```
//!
//! Dimensions are turned round: outside this module a weight is `[.., N, K]` as everywhere. [`types`] lists the tensor types, the
//! blocks themselves are [`super::ggml`]'s. Source: ggml's `gguf.cpp`, whose checks are made here too; what it additionally demands
//! of the layout (tensors in the order of their infos, no gaps) is what is written, and not asked of what is read.

pub(super) mod read;
pub mod types;
pub(super) mod write;

use super::write::Format;

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"GGUF";
/// The version that is written.
const VERSION: u32 = 3;
/// Where data starts, unless the file says otherwise.
const ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
/// The version of the block layouts, the only one there is.
pub(super) const QUANTIZATION_VERSION: u32 = 2;
const QUANTIZATION_VERSION_KEY: &str = "general.quantization_version";
const FILE_TYPE_KEY: &str = "general.file_type";
/// What a shard says of itself: its number from 0, how many there are, the tensors of all.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
/// Dimensions of a tensor, at most.
const MAX_RANK: usize = 4;
/// Bytes of a tensor's name that ggml has room for.
const MAX_NAME: usize = 63;
/// Bytes of a key, at most.
const MAX_KEY: u64 = 65535;
/// Bytes of a string and values of an array, at most.
const MAX_LENGTH: u64 = 1 << 30;

/// GGUF as a row of the table of formats.
pub(super) static FORMAT: Format = Format {
    name: "gguf",
    extension: "gguf",
    runs: true,
    one_form: true,
    holds: write::holds,
    lay_out: write::lay_out,
    encode: write::encode,
    decode: write::decode,
    by_rows: true,
    bits_per_weight: write::bits_per_weight,
    data_bytes: write::data_bytes,
    split: write::split,
    index: None,
};
