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
//! Metadata that is no sorted list of texts, as that of a GGUF file is not, is kept whole in `lowbit.metadata`, a JSON list of
//! `[key, kind, value]`. `read` opens files, `write` gives headers and planes to the writer of all formats.

mod header;
pub(super) mod read;
pub(super) mod write;

use super::Dtype;
use super::write::{Format, Index};

/// The version of the packed layout that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// What lowbit's own metadata keys begin with.
pub(super) const OWN: &str = "lowbit.";
/// Metadata key of the layout's version.
pub const VERSION_KEY: &str = "lowbit.version";
/// Metadata key of the JSON object that describes the packed tensors.
pub const TENSORS_KEY: &str = "lowbit.tensors";
/// Metadata key of the JSON list that holds metadata with kinds.
pub const METADATA_KEY: &str = "lowbit.metadata";
/// Headers beyond this are refused, as the safetensors library does.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// Safetensors, plain or with packed tensors, as a row of the table of formats.
pub(super) static FORMAT: Format = Format {
    name: "lowbit",
    extension: "safetensors",
    runs: false,
    one_form: true,
    holds: write::holds,
    lay_out: write::lay_out,
    encode: write::encode,
    decode: write::decode,
    by_rows: false,
    bits_per_weight: crate::Scheme::bits_per_weight,
    data_bytes: write::data_bytes,
    split: write::split,
    index: Some(Index::OfShards(".safetensors.index.json", write::index)),
};

/// What `lowbit.tensors` says of one packed tensor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Described {
    scheme: String,
    shape: Vec<usize>,
    /// The element type before quantization: `F32`, `F16` or `BF16`.
    dtype: Dtype,
}
