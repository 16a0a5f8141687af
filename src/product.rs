//! What a product computes: precisions, accumulation, epilogue. Shared words of the engines and the reference.
//!
//! ```text
//! y[m,n] = function( sum_k a(x[m,k]) * w[n,k] + bias[n] + residual[m,n] )        a = activation precision
//! ```
//!
//! x is `[M, K]`, w `[N, K]` (a linear layer's `[out, in]`), y `[M, N]`. No arithmetic here.

use crate::{DType, Error, Result};

/// How activations enter the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// As f32.
    #[default]
    F32,
    /// Rounded to f16 (nearest even) first.
    F16,
    /// Quantized to int8 first, symmetric and dynamic: one f32 scale per `Int8Group` of x, `scale = amax * C(127)` (one product),
    /// `q = steps(|x|, scale, 127)` with the sign of x, in the words of [`Encoder`](crate::scheme::Encoder): `|x| / scale` rounded
    /// half away from zero, decided by single products. Scale and codes are 0 where `amax < 2^-100`. Products of codes are
    /// summed in integers.
    Int8(Int8Group),
    /// Quantized to int8 first with a scale and a zero-point that were known beforehand: see [`Int8Scale`]. Products of codes are summed in
    /// integers too.
    Int8Static(Int8Scale),
}

impl std::str::FromStr for Activation {
    type Err = Error;

    /// `f32`, `f16`; `int8` with a scale per row, `int8-g32` and `int8-g128` with one per group.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "int8" => Ok(Self::Int8(Int8Group::Row)),
            "int8-g32" => Ok(Self::Int8(Int8Group::Cols(32))),
            "int8-g128" => Ok(Self::Int8(Int8Group::Cols(128))),
            _ => {
                let why = "there are f32, f16, int8, int8-g32 and int8-g128";
                Err(Error::Usage(format!("activations '{text}': {why}")))
            }
        }
    }
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Int8(Int8Group::Row) => f.write_str("int8"),
            Self::Int8(Int8Group::Cols(g)) => write!(f, "int8-g{g}"),
            Self::Int8Static(s) => write!(f, "int8 by {} from {}", s.scale, s.zero),
        }
    }
}

/// Which activations share an int8 scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Int8Group {
    /// One scale per row of x (per token).
    Row,
    /// One scale per this many values along K; 32 or 128.
    Cols(u32),
}

/// One scale and zero-point for all values: `q = clamp(sign(v) * steps(|v|, scale, 255) + zero, -128, 127)` (as in [`Activation::Int8`]: rounded
/// half away from zero), which stands for `scale * (q - zero)`. NaN becomes the zero-point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Int8Scale {
    scale: f32,
    zero: i8,
}

impl Eq for Int8Scale {}

impl std::hash::Hash for Int8Scale {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.scale.to_bits(), self.zero).hash(state);
    }
}

impl Int8Scale {
    /// # Errors
    /// [`Error::Unsupported`] for a scale that is not between 2^-100 and 2^100.
    pub fn new(scale: f32, zero: i8) -> Result<Self> {
        let range = (-100f32).exp2()..=100f32.exp2();
        if !range.contains(&scale) {
            return Err(Error::unsupported(format!("an int8 scale of {scale}"), "it lies in 2^-100..=2^100"));
        }
        Ok(Self { scale, zero })
    }

    /// What a step of a code is worth.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// The code of 0.
    pub fn zero(self) -> i8 {
        self.zero
    }
}

/// How products are summed. A policy is a ceiling on error: an engine without f16 arithmetic sums in f32, and matrix units sum the products of f16
/// operands in f32 under both policies of f16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Accumulate {
    /// In f32.
    #[default]
    F32,
    /// In f16 throughout.
    F16,
    /// In f16 within a group of at most 32 values, in f32 between groups.
    F16Chunked,
}

impl Accumulate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::F16Chunked];

    /// As command lines and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F16Chunked => "f16-chunked",
        }
    }

    /// The policy of a [`Accumulate::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// The function applied last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Function {
    #[default]
    Identity,
    /// `max(0, v)`.
    Relu,
    /// `v / 2 * (1 + erf(v / sqrt 2))`, the exact form.
    Gelu,
    /// `v / (1 + exp(-v))`.
    Silu,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Identity, Self::Relu, Self::Gelu, Self::Silu];

    /// As bindings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
        }
    }

    /// The function of a [`Function::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }
}

/// The fixed part of a product: everything but the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    pub activation: Activation,
    pub accumulate: Accumulate,
    pub function: Function,
    /// Element type of y: f32 or f16.
    pub output: DType,
}

impl Default for Product {
    fn default() -> Self {
        Self {
            activation: Activation::default(),
            accumulate: Accumulate::default(),
            function: Function::default(),
            output: DType::F32,
        }
    }
}

/// The shape of a sum, from which error bounds are derived: every product of a term is rounded at most `chain` times in
/// sequence and then `depth` times on the way up a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summation {
    /// Roundings in sequence within one accumulator.
    pub chain: usize,
    /// Levels of the tree that joins accumulators.
    pub depth: usize,
    /// Whether codes, zeros and biases are summed apart and joined afterwards, so that rounding is relative to the terms of a weight
    /// and not to the weight.
    pub folded: bool,
}
