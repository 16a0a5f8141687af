//! The one error type of the crate.
//!
//! Variants carry the values that were expected and found, so that the one line printed by the command line says what
//! to change. Wrong input is always an `Error`; a panic is a bug of lowbit's own.

use std::path::PathBuf;

/// What went wrong, with the values involved.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two shapes or lengths that must agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape { what: String, expected: String, got: String },
    /// A scheme name that does not parse.
    #[error("unknown scheme '{name}'{}", suggestion.as_ref().map(|s| format!("; did you mean '{s}'?")).unwrap_or_default())]
    UnknownScheme { name: String, suggestion: Option<String> },
    /// A scheme name that parses, with a parameter that the scheme does not allow.
    #[error("scheme '{name}': {why}")]
    BadScheme { name: String, why: String },
    /// The format has no short last group and K is not a multiple of its block.
    #[error("scheme {scheme} needs K to be a multiple of {group}, got K = {k}")]
    GroupMismatch { scheme: String, k: usize, group: usize },
    /// A value that the scheme cannot hold: NaN, an infinity, or beyond the range of its scale type.
    #[error(
        "tensor '{tensor}', index {index}: {value} cannot be quantized to {scheme} (finite values up to {limit:e} can)"
    )]
    NotRepresentable { tensor: String, index: u64, value: f32, scheme: String, limit: f32 },
    /// What went wrong with one tensor of a model.
    #[error("tensor '{tensor}': {source}")]
    Tensor { tensor: String, source: Box<Error> },
    /// A plane of a packed tensor that is missing, unknown or of the wrong length.
    #[error("{scheme} plane '{plane}': expected {expected} bytes, got {got}")]
    Plane { scheme: String, plane: &'static str, expected: usize, got: usize },
    /// A permutation of columns that is none.
    #[error("{scheme} plane 'permutation': position {position} holds column {column}, {why} (K = {k})")]
    Permutation { scheme: String, position: usize, column: u32, k: usize, why: &'static str },
    /// Something that exists elsewhere, but not on this engine, adapter or build.
    #[error("{what} is not supported{}{}", if why.is_empty() { "" } else { ": " }, why)]
    Unsupported { what: String, why: String },
    /// No adapter fits the request.
    #[error("no adapter {wanted}; found: {found}")]
    NoAdapter { wanted: String, found: String },
    /// The device went away (driver reset, unplugged, destroyed).
    #[error("the device was lost: {reason}")]
    DeviceLost { reason: String },
    /// The device has no memory left for an allocation.
    #[error("out of device memory: {what} needs {bytes} bytes")]
    OutOfMemory { what: String, bytes: u64 },
    /// Larger than a limit of the device.
    #[error("{what} needs {need}, the device's limit is {limit}")]
    TooLarge { what: String, need: u64, limit: u64 },
    /// Any other error reported by the graphics API.
    #[error("graphics API: {message}")]
    Gpu { message: String },
    /// A generated shader that a compiler refused.
    #[error("shader {kernel}: {message}")]
    Shader { kernel: String, message: String },
    /// A shader template that does not render.
    #[error("shader template {name}: {message}")]
    Template { name: String, message: String },
    /// An operating-system error on a file.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file whose content is not what its format says.
    #[error("{}: {what}", path.display())]
    Format { path: PathBuf, what: String },
    /// A file in which there is nothing to work on.
    #[error("{}: {what}", path.display())]
    Nothing { path: PathBuf, what: String },
    /// An output that exists and was not to be overwritten.
    #[error("{} exists (use --force to overwrite it)", path.display())]
    Exists { path: PathBuf },
    /// A result that is not what the reference says it should be.
    #[error("{what}")]
    Check { what: String },
    /// A command-line argument that does not make sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// A [`Error::Shape`] from anything printable.
    pub fn shape(what: impl Into<String>, expected: impl ToString, got: impl ToString) -> Self {
        Self::Shape { what: what.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// This error as that of a named tensor. [`Error::NotRepresentable`] already carries the name and is given this one.
    pub fn in_tensor(self, name: &str) -> Self {
        match self {
            Self::NotRepresentable { index, value, scheme, limit, .. } => {
                Self::NotRepresentable { tensor: name.into(), index, value, scheme, limit }
            }
            other => Self::Tensor { tensor: name.into(), source: Box::new(other) },
        }
    }

    /// A [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
