//! A weight format as a value: one point in a small space of orthogonal choices.
//!
//! ```text
//! w[n, c(j)] = scale(n, g) * (value(code[n,j]) - zero(n, g)) + bias(n, g)        g = the group that j falls in
//! ```
//!
//! j is the position in which a code is stored and c(j) the column of the weight that it belongs to: j itself, or `permutation[j]`.
//!
//! [`Scheme`] holds the choices, [`codebook`] the tables, [`preset`] the named points and the text form, [`layout`]
//! the planes in which codes and scales lie in memory, [`search`] GGUF's searches for scales, [`method`] other ways to find scales and zeros, [`grid`] codes with a free step, for training, [`mix`] which weights of a model get which scheme (by [`names`]). Every engine, kernel and file transcoder is written over these
//! fields; none of them asks for a format by name.
//!
//! **Decoding** is a fixed list of single f32 operations, so that every engine gives the same bits:
//!
//! 1. `v` = the entry of the tensor's or the group's table, or `step * code - offset - zero_point` (integers, exact in f32);
//! 2. with a float zero: `v = v - zero`, the zero widened to f32;
//! 3. `s` = the scale, widened to f32 or looked up; two-level: `super_scale * sub_scale`;
//! 4. `w = s * v`;
//! 5. with a bias: `w = w + bias`; two-level: `w = w - super_min * sub_min`.
//!
//! In every scheme with a bias the products of steps 3 to 5 fit in 24 bits, so that a compiler that fuses the last
//! two operations changes nothing: that is why scales beside a bias are f16 or bf16. A scale, zero or bias below 2^-126 (subnormal in f32)
//! may be taken for 0 by a GPU.
//!
//! **Encoding** is [`Encoder`]. This file does not encode or decode anything.

pub mod codebook;
pub mod codes;
pub mod grid;
pub mod layout;
pub mod method;
pub mod mix;
pub mod names;
pub mod preset;
pub mod search;

pub use codebook::Codebook;
pub use grid::Grid;
pub use layout::{Layout, Plane, PlaneKind};
pub use method::Method;
pub use preset::PRESETS;

use crate::{Error, Result};

/// Values of the longest group whose clusters are those of least error among all there are; see [`Encoder::Clusters`].
pub const LONGEST_EXACT: usize = 4096;

/// How a code becomes a number before the scale is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// `step * code - offset`. `step` is 2 for the one-bit plus-or-minus schemes, else 1.
    Linear { step: i32, offset: i32 },
    /// An entry of a fixed table of `2^bits`.
    Codebook(Codebook),
    /// An entry of a table of `2^bits` f32 that belongs to the tensor.
    Learned,
    /// An entry of a table of `2^bits` f16 that belongs to the group, or with [`Group::Row`] to the row, which has no scale beside it. f16 and not f32, because a
    /// table is of a few weights and would weigh twice as much: the entries lie in the middle of their weights, so that the rounding of 2^-12 of an
    /// entry is lost in the distance of the weights from it.
    Tables,
    /// The code is the number, an IEEE or brain float of `bits` bits; no scale.
    Float(Float),
}

/// Plain element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    F32,
    F16,
    Bf16,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// All of the tensor, leading dimensions (experts) included.
    Tensor,
    /// One row of K values: "per channel".
    Row,
    /// This many consecutive values along K; a multiple of 4. The last group of a row may be short.
    Cols(u32),
}

/// Storage type of a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    F32,
    F16,
    Bf16,
    /// One byte `e`: `2^(e - 127)`; `e = 0` is the subnormal `2^-127`, `e = 255` (NaN in OCP, never encoded) is infinity.
    E8M0,
    /// One byte `e`: `2^(e - 128)`, for tables that hold twice the value (GGUF MXFP4).
    E8M0Half,
    /// One byte, unsigned: 4 exponent bits of bias 7, 3 mantissa bits, the top bit ignored; `0x7f` decodes to 0 as in GGUF
    /// NVFP4. Exponent 15 is a power of two like the others: `0x7e` is 448.
    Ue4M3,
    /// One byte, the index in a table of 256 f32 that belongs to the tensor: E4M3 scales of a tensor that has a global scale besides,
    /// their product (or quotient) worked out once per tensor.
    Table,
}

impl ScaleType {
    /// Bytes per scale.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E8M0 | Self::E8M0Half | Self::Ue4M3 | Self::Table => 1,
        }
    }
}

/// Sub-scales of a two-level scale, one per group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubScale {
    /// A signed byte; no minimum. (Q3_K's and IQ4_XS's six bits, Q6_K's eight.)
    I8,
    /// An unsigned byte of scale in the scale plane and one of minimum in the zero plane. (Q4_K's and Q5_K's six bits.)
    U8Min,
    /// Scale in the low nibble, minimum in the high nibble of one byte. (Q2_K.)
    U4Min,
}

/// Where a group's scale comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// Plain floats have none, nor have tables of groups.
    None,
    /// One number per group.
    Direct(ScaleType),
    /// `super_scale (f16, one per `super_group` values) * sub_scale (one per group)`; with minima also
    /// `super_min (f16) * sub_min`, subtracted.
    TwoLevel { sub: SubScale, super_group: u32 },
}

/// What is subtracted or added besides the value's own offset. Minima of two-level scales are part of [`SubScale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zero {
    None,
    /// An unsigned byte per group, subtracted from the code.
    Point,
    /// A number of the scale's type per group, subtracted before scaling from codes without an offset: f32, f16 or bf16.
    Float,
    /// A number of the scale's type per group, added after scaling: f16 or bf16.
    Bias,
}

/// In which order the columns of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// As they are.
    Natural,
    /// By a permutation that belongs to the tensor and all its rows share; groups are consecutive in stored order (GPTQ's act-order).
    /// Encoders leave the columns where they are: the permutation is then 0, 1, 2, ...
    Permuted,
}

/// The GGUF block type a scheme is laid out as in a file. It fixes the encoder and the divisor of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Ggml {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    NVFP4,
    TQ1_0,
    TQ2_0,
    Q1_0,
    Q2_0,
}

impl Ggml {
    /// Values per block: K must be a multiple of it.
    pub const fn block(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => 32,
            Self::NVFP4 | Self::Q2_0 => 64,
            Self::Q1_0 => 128,
            Self::Q2_K
            | Self::Q3_K
            | Self::Q4_K
            | Self::Q5_K
            | Self::Q6_K
            | Self::IQ4_XS
            | Self::TQ1_0
            | Self::TQ2_0 => 256,
        }
    }
}

/// How scales and codes are chosen directly from the weights of a group.
///
/// Notation: all operations are single f32 operations, rounded to nearest even, in the order written. `C(n)` is the
/// f32 nearest to `1/n`. `f16(x)` rounds to the nearest even f16 and saturates at 65504. `round_to_type` is that for f16, rounds to the
/// nearest even bf16, and leaves f32 as it is. `amax` is `max |x|`, `max`
/// and `min` are the extremes *with +0 included* (`max >= 0 >= min`). `n` is the number of values of the group (fewer in a short last
/// one). "The sign of" is the sign bit; a code is counted from an integer, so `q = -0` does not exist.
///
/// `steps(t, s, q_max)` is the largest integer `q <= q_max` with `q = 0` or `(q - 0.5) * s <= t`, for `t >= 0, s > 0`: rounding
/// `t / s` half away from zero with single products and no division.
///
/// For every encoder that is lowbit's own (no `Ggml` in the name):
/// - `s` in the rounding of codes is the *stored* scale (after `round_to_type`).
/// - A *tiny* group has `amax < 2^-100` (compared by bits): its scale is +0 (its byte 0 for E8M0 types), its zero-point, float zero or bias +0, and its
///   codes are those of the next rule, for E8M0 too, although byte 0 decodes to a (subnormal) power of two.
/// - Where the scale of a group is 0, because the group is tiny or because f16 rounded it to 0, the zero-point, float zero or bias is +0 and every
///   code is the one that x = 0 gets with a positive scale: the offset, the zero-point, the table's entry nearest to 0 (of -a and +a
///   the latter). Only [`Encoder::MeanAbs`] keeps to its sign rule, which does not look at the scale.
///
/// The `Ggml*` encoders have no tiny groups and compute codes from the unrounded `d`, also where `f16(d)` is 0: that is what
/// makes their bytes those of ggml. In them `id = 1/d`, and 0 where d = 0 or 1/d is infinite. Those that search, and [`Encoder::GgmlExtreme`] and
/// [`Encoder::GgmlMinMax`], have a second form that weighs errors by the importance of columns: [`search`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoder {
    /// Plain floats: each value is rounded to nearest even. No scale.
    Round,
    /// Linear codes, symmetric: `q_max = 2^(bits-1) - 1`, `scale = round_to_type(amax * C(q_max))`,
    /// `q = steps(|x|, scale, if x < 0 {q_max + 1} else {q_max})` with the sign of x, `code = q + offset`.
    /// `bits = 1` is [`Encoder::MeanAbs`] instead. `int2` has codes -2..=1.
    Absmax,
    /// Codes -1, 0 and 1: as `Absmax` with `q_max = 1` on both sides, `code = q + offset`.
    Ternary,
    /// Linear codes with a zero-point: `scale = round_to_type((max - min) * C(2^bits - 1))`,
    /// `z = steps(-min, scale, 2^bits - 1)`, `q = steps(|x|, scale, 2^bits)` with the sign of x,
    /// `code = clamp(q + z, 0, 2^bits - 1)`. `z = 0` where the scale is 0.
    MinMax,
    /// Linear codes with a bias: the scale of `MinMax`, `bias = round_to_type(min)` (+0 where `min > -2^-100`), `t = x - bias` with the stored
    /// bias, `code = 0 if t <= 0, else steps(t, scale, 2^bits - 1)`.
    MinMaxBias,
    /// Linear codes with a float zero: the scale of `MinMax`, `zero = round_to_type(steps(-min, scale / 16, 16 * (2^bits - 1)) / 16)`,
    /// a sixteenth being fine enough and needing no division; `code` is the largest integer up to `2^bits - 1` that is 0 or has
    /// `((code - 0.5) - zero) * scale <= x`.
    MinMaxZero,
    /// One bit: `scale = round_to_type(sum(|x|) * C(n))`, code 0 where x is negative, else 1 (so 1 for -0). Values below
    /// `2^-100` count as 0 in the sum, and here a group is tiny when the *sum* is below `2^-100`. Order of the sum, every accumulator
    /// starting at +0: groups `Cols(g)` with g <= 256: in sequence. Rows (of any length) and `Cols(g)` with g > 256 (a short last group
    /// too): lane `l` of 64 adds `x[l], x[l+64], ...` in sequence, then the lanes are added in pairs, `lane[l] += lane[l + 32]` for
    /// l < 32, then the same with 16, 8, 4, 2, 1. Tensor: the sums of the rows, each formed like that, are added in the same way by
    /// 64 lanes.
    MeanAbs,
    /// Nearest entry of a table: `scale = round_to_type(amax * C(largest magnitude of a finite entry))`; the code is that of the entry
    /// whose interval holds x, intervals being split at `mid * scale` (one product), `mid = (a + b) * 0.5` of neighbours `a < b` in
    /// the sorted table; on the boundary the entry nearer to zero wins, the upper one where `mid` is 0. Equal entries (+0, -0): the lower code.
    /// NaN and infinite entries are never chosen. `Learned`: as here, the table given, whose largest finite magnitude must lie in
    /// `2^-20..=2^20`, so that scales stay within f32; one scale of a whole tensor is searched for ([`method`]).
    Nearest,
    /// A table for each group ([`Value::Tables`]): the `2^bits` clusters of least squared error of the group's values, errors weighing as much as the
    /// importance of their columns where there is one, exactly, by dynamic programming over the values in order. Groups of more than
    /// [`LONGEST_EXACT`] values are put together in as many runs first, and clusters of runs then follow Lloyd's iteration over the values. Entries are the means,
    /// rounded to f32 and then to f16, in ascending order; fewer values than entries leave entries that repeat the last. Codes as `Nearest` with a
    /// scale of 1, from the rounded entries; so also with tables that are given.
    Clusters,
    /// As `Nearest`, with a shared exponent: `e = floor(log2(amax)) - emax + 127`, clamped to `1..=254` and stored as the scale byte
    /// (0 for a tiny group), `emax` = floor(log2) of the largest entry of the OCP element type: 2 for E2M1, 8 for E4M3, 15 for E5M2. The
    /// scale in `mid * scale` is the byte's decoded value, `2^(e - 127)` or `2^(e - 128)`. `floor(log2(amax))` is amax's exponent: the
    /// bytes are those of ggml for MXFP4, but where its `log2f` rounds up to an integer (amax a few ulp below a power of two).
    SharedExponent { emax: i32 },
    /// As `Nearest`, with two levels of scales and a table of their quotients, those of compressed-tensors. `g = 2688 / amax of the tensor`, 2688 being
    /// 448 * 6, and 1 for a tiny tensor. Entry b of the scale table is `e4m3(b) / g`, with its sign, and 0 where that is NaN. Per group
    /// `a = amax * C(6)`; the scale byte is the number of b below 0x7e with `a > (entry(b) + entry(b + 1)) * 0.5`. Tiny groups have byte 0.
    GlobalScale,
    /// GGUF Q4_0, Q5_0: `v` = the value of largest magnitude with its sign (the first wins; +0 in a group of zeros),
    /// `d = v * (-1/2^(bits-1))` (so -0 for zeros), `code = min(2^bits - 1, trunc(x * id + (2^(bits-1) + 0.5)))`; scale `f16(d)`.
    GgmlExtreme,
    /// GGUF Q4_1, Q5_1: true `min` and `max` (0 not included; of +0 and -0 the first), `d = (max - min) / (2^bits - 1)`,
    /// `code = min(2^bits - 1, trunc((x - min) * id + 0.5))`; scale `f16(d)`, bias `f16(min)`.
    GgmlMinMax,
    /// GGUF Q8_0: `d = amax / 127`, `q = round_half_away(x * id)`, `code = q + offset`; scale `f16(d)`.
    GgmlAbsmax,
    /// GGUF TQ1_0, TQ2_0, Q2_0: `d = amax`, `q = round_half_away(x * id)` in -1..=1, `code = q + offset`; scale `f16(d)`.
    GgmlTernary,
    /// GGUF Q1_0: `d = sum(|x|) / n` in sequence, code 1 where `x >= 0` (so for -0); scale `f16(d)`.
    GgmlMeanAbs,
    /// GGUF NVFP4: `a = amax / 6`; scale byte: `min(7, trunc(a * 512 + 0.5))` where `a < 2^-6`, else a's exponent and mantissa
    /// rounded half *up* to 3 bits, and `0x7e` (448) where that reaches 2^8 = 256, as in ggml. Codes as `Nearest` with the decoded scale, and the
    /// entry nearest to 0 where that is 0.
    GgmlNvfp4,
    /// GGUF IQ4_NL, IQ4_XS: a search over the scales of the table. This and the next three are specified in [`search`].
    GgmlIq4,
    /// GGUF Q2_K, Q4_K, Q5_K: a search over scales and minima.
    GgmlAffine,
    /// GGUF Q3_K: scales by coordinate descent over the codes.
    GgmlDescent,
    /// GGUF Q6_K: a search over scales.
    GgmlSymmetric,
}

impl Encoder {
    /// Whether scales are searched for: sums of products decide, which a device may fuse, so that engines need not agree on every code.
    pub const fn searches(self) -> bool {
        matches!(self, Self::GgmlIq4 | Self::GgmlAffine | Self::GgmlDescent | Self::GgmlSymmetric)
    }

    /// Whether the importance of columns changes anything.
    pub const fn weighs(self) -> bool {
        self.searches() || matches!(self, Self::GgmlExtreme | Self::GgmlMinMax | Self::Clusters)
    }
}

/// A weight format. See the module text for the decoding rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// Bits per code: 1 to 8; 16 or 32 for plain floats.
    pub bits: u8,
    pub value: Value,
    pub group: Group,
    pub scale: Scale,
    pub zero: Zero,
    pub order: Order,
    pub encoder: Encoder,
    /// The GGUF block type, if it is one.
    pub ggml: Option<Ggml>,
}

impl Scheme {
    /// Values of one group in a row of `k`: the length of every group but a short last one. `k` for rows and tensors.
    pub fn group_len(&self, k: usize) -> usize {
        match self.group {
            Group::Cols(g) => g as usize,
            Group::Row | Group::Tensor => k,
        }
    }

    /// Groups per row of `k` values. One for a per-tensor scale, which all rows share.
    pub fn groups_per_row(&self, k: usize) -> usize {
        match self.group {
            Group::Cols(g) => k.div_ceil(g as usize),
            Group::Row | Group::Tensor => 1,
        }
    }

    /// Columns whose scales are found together: those of a group, or of the super-group or block that it is a part of.
    pub fn unit_len(&self, k: usize) -> usize {
        let super_group = match self.scale {
            Scale::TwoLevel { super_group, .. } => super_group as usize,
            _ => 1,
        };
        self.group_len(k).max(super_group).max(self.ggml.map_or(1, Ggml::block))
    }

    /// The table that codes index, 2^bits entries, where it is the same for every tensor.
    pub fn codebook(&self) -> Option<&'static [f32]> {
        match self.value {
            Value::Codebook(c) => Some(c.entries()),
            _ => None,
        }
    }

    /// Whether decoding looks codes up in a table of the whole tensor (fixed or learned).
    pub fn has_table(&self) -> bool {
        matches!(self.value, Value::Codebook(_) | Value::Learned)
    }

    /// Whether decoding looks codes up in a table of each group.
    pub fn has_group_tables(&self) -> bool {
        self.value == Value::Tables
    }

    /// What all values (before zero, scale and bias) are small integers of, so that products with int8 activations are summed in integers; None
    /// where they are other numbers.
    pub fn integer_unit(&self) -> Option<f32> {
        match self.value {
            Value::Linear { step, .. } => (step == 1 || self.bits <= 4).then_some(1.0),
            Value::Codebook(Codebook::E2M1 | Codebook::E2M1PlainZero) => Some(0.5),
            Value::Codebook(Codebook::E2M1Doubled | Codebook::Iq4Nl) => Some(1.0),
            _ => None,
        }
    }

    /// Whether this is plain f32, f16 or bf16.
    pub fn is_float(&self) -> bool {
        matches!(self.value, Value::Float(_))
    }

    /// Whether the tensor has a plane that tells which column a stored position is.
    pub fn is_permuted(&self) -> bool {
        self.order == Order::Permuted
    }

    /// Bytes per group in the plane of zeros: zero-points, float zeros, biases or the minima of two levels. 0 if there is none.
    pub fn zero_size(&self) -> usize {
        match (self.zero, self.scale) {
            (Zero::Bias | Zero::Float, Scale::Direct(t)) => t.size(),
            (Zero::Point, _) | (_, Scale::TwoLevel { sub: SubScale::U8Min, .. }) => 1,
            _ => 0,
        }
    }

    /// Checks that a weight of `shape` [.., N, K] can be held and returns `(rows, k)`, the leading dimensions in `rows`.
    ///
    /// # Errors
    /// [`Error::Shape`] for rank 0, a zero dimension or a size that overflows; [`Error::GroupMismatch`] if the format has
    /// whole blocks only and K is not a multiple.
    pub fn check_shape(&self, shape: &[usize]) -> Result<(usize, usize)> {
        let bad = |why: &str| Error::shape(format!("weight shape {shape:?} for {self}"), "[.., N, K]", why);
        let (&k, lead) = shape.split_last().ok_or_else(|| bad("a scalar"))?;
        if shape.contains(&0) {
            return Err(bad("a dimension of size 0"));
        }
        let rows = crate::tensor::element_count(lead).ok_or_else(|| bad("too many elements"))?;
        // 4 bytes per element and the padding of a row still have to be countable.
        let padded = k.checked_next_multiple_of(32).and_then(|k| k.checked_mul(8));
        if self.is_permuted() && u32::try_from(k).is_err() {
            return Err(bad("more columns than a permutation of 32-bit numbers has"));
        }
        padded.and_then(|k| k.checked_mul(rows)).ok_or_else(|| bad("too many elements"))?;
        if let Some(ggml) = self.ggml
            && k % ggml.block() != 0
        {
            return Err(Error::GroupMismatch { scheme: self.to_string(), k, group: ggml.block() });
        }
        Ok((rows, k))
    }

    /// Magnitudes above this are refused by quantization, as NaN is: 65504 where the scale or a group's table is f16 (so that
    /// nothing saturates), what the largest scale times the largest entry holds for E4M3 scales, and 2^100 elsewhere, so that no
    /// product overflows.
    pub fn limit(&self) -> f32 {
        match (self.value, self.scale) {
            (Value::Float(Float::F32), _) => f32::MAX,
            (Value::Float(Float::Bf16), _) => f32::from_bits(0x7f7f_0000),
            (Value::Float(Float::F16), _) => 65504.0,
            (Value::Tables, _) | (_, Scale::Direct(ScaleType::F16)) | (_, Scale::TwoLevel { .. }) => 65504.0,
            (_, Scale::Direct(ScaleType::Ue4M3)) => 448.0 * 6.0,
            _ => f32::from_bits((127 + 100) << 23),
        }
    }

    /// Bits per weight for rows of `k`: codes, scales, zeros and a permutation; without row padding and without tables.
    pub fn bits_per_weight(&self, rows: usize, k: usize) -> f64 {
        let bits: usize = Layout::new(self, rows, k).planes().iter().map(|p| p.payload_bits).sum();
        bits as f64 / (rows * k) as f64
    }
}
