//! A scheme as the templates see it, and the planes of a weight as the kernels' parameters.
//!
//! `shaders/scheme/weights.wgsl` and `encode.wgsl` say what each field selects. Nothing here dispatches.

use crate::scheme::layout::code_widths;
use crate::scheme::{Encoder, Float, Group, Layout, PlaneKind, Scale, ScaleType, SubScale, Value, Zero};
use crate::{Result, Scheme};
use bytemuck::{Pod, Zeroable};
use serde::{Serialize, Serializer};

/// The template variable `s`.
#[derive(Clone, Debug, Serialize)]
pub struct SchemeContext {
    pub bits: u8,
    /// `linear`, `table` (of the tensor), `tables` (of groups), or the float's name.
    pub kind: &'static str,
    pub float: bool,
    /// Entries of the tensor's table, 0 if there is none.
    pub table: usize,
    pub step: i32,
    pub offset: i32,
    /// Values per group along K; 0 for a row or tensor.
    pub group: u32,
    /// See [`sub`].
    pub sub: usize,
    pub tensor: bool,
    pub scale: &'static str,
    pub zero: &'static str,
    /// Whether something is added after scaling.
    pub biased: bool,
    /// Whether something may be subtracted before scaling, or added after it.
    pub zeroed: bool,
    /// Whether columns are stored in an order of their own.
    pub permuted: bool,
    pub two_level: bool,
    pub groups_per_super: u32,
    /// Bits of the code planes.
    pub low: usize,
    pub high: usize,
    pub encoder: &'static str,
    /// Whether codes come from the block's own statistics instead of the stored scale.
    pub block_encoder: bool,
    pub emax: i32,
}

impl From<&Scheme> for SchemeContext {
    fn from(s: &Scheme) -> Self {
        let (low, high) = code_widths(s.bits);
        let (step, offset) = match s.value {
            Value::Linear { step, offset } => (step, offset),
            _ => (1, 0),
        };
        let group = match s.group {
            Group::Cols(g) => g,
            Group::Row | Group::Tensor => 0,
        };
        let (scale, per_super, sub_min) = match s.scale {
            Scale::None => ("none", 0, false),
            Scale::Direct(ScaleType::F32) => ("f32", 0, false),
            Scale::Direct(ScaleType::F16) => ("f16", 0, false),
            Scale::Direct(ScaleType::Bf16) => ("bf16", 0, false),
            Scale::Direct(ScaleType::Table) => ("table", 0, false),
            Scale::Direct(ScaleType::E8M0) => ("e8m0", 0, false),
            Scale::Direct(ScaleType::E8M0Half) => ("e8m0half", 0, false),
            Scale::Direct(ScaleType::Ue4M3) => ("ue4m3", 0, false),
            Scale::TwoLevel { sub: SubScale::I8, super_group } => ("two_i8", super_group / group, false),
            Scale::TwoLevel { sub: SubScale::U8Min, super_group } => ("two_u8min", super_group / group, true),
            Scale::TwoLevel { sub: SubScale::U4Min, super_group } => ("two_u4min", super_group / group, true),
        };
        let zero = match s.zero {
            Zero::None => "none",
            Zero::Point => "point",
            Zero::Float => "float",
            Zero::Bias => "bias",
        };
        let biased = sub_min || s.zero == Zero::Bias;
        Self {
            bits: s.bits,
            kind: match s.value {
                Value::Linear { .. } => "linear",
                Value::Codebook(_) | Value::Learned => "table",
                Value::Tables => "tables",
                Value::Float(Float::F32) => "f32",
                Value::Float(Float::F16) => "f16",
                Value::Float(Float::Bf16) => "bf16",
            },
            float: s.is_float(),
            table: if s.has_table() { 1 << s.bits } else { 0 },
            step,
            offset,
            group,
            sub: sub(s),
            tensor: s.group == Group::Tensor,
            scale,
            zero,
            biased,
            zeroed: biased || offset != 0 || s.zero != Zero::None,
            permuted: s.is_permuted(),
            two_level: per_super > 0,
            groups_per_super: per_super,
            low,
            high,
            encoder: encoder_name(s.encoder),
            block_encoder: matches!(
                s.encoder,
                Encoder::GgmlExtreme | Encoder::GgmlMinMax | Encoder::GgmlAbsmax | Encoder::GgmlTernary
            ),
            emax: if let Encoder::SharedExponent { emax } = s.encoder { emax } else { 0 },
        }
    }
}

/// Values that share a scale within a chunk of 32.
pub fn sub(scheme: &Scheme) -> usize {
    match scheme.group {
        Group::Cols(g) => gcd(g as usize, 32),
        Group::Row | Group::Tensor => 32,
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn encoder_name(encoder: Encoder) -> &'static str {
    match encoder {
        Encoder::Round => "round",
        Encoder::Absmax => "absmax",
        Encoder::Ternary => "ternary",
        Encoder::MinMax => "minmax",
        Encoder::MinMaxBias => "minmax_bias",
        Encoder::MinMaxZero => "minmax_zero",
        Encoder::MeanAbs => "meanabs",
        Encoder::Nearest => "nearest",
        Encoder::Clusters => "clusters",
        Encoder::SharedExponent { .. } => "shared_exponent",
        Encoder::GlobalScale => "global_scale",
        Encoder::GgmlExtreme => "ggml_extreme",
        Encoder::GgmlMinMax => "ggml_minmax",
        Encoder::GgmlAbsmax => "ggml_absmax",
        Encoder::GgmlTernary => "ggml_ternary",
        Encoder::GgmlMeanAbs => "ggml_meanabs",
        Encoder::GgmlNvfp4 => "nvfp4",
        Encoder::GgmlIq4 => "iq4",
        Encoder::GgmlAffine => "affine",
        Encoder::GgmlDescent => "descent",
        Encoder::GgmlSymmetric => "symmetric",
    }
}

/// Serializes a scheme field of a specialization as its [`SchemeContext`].
pub fn scheme<S: Serializer>(scheme: &Scheme, to: S) -> Result<S::Ok, S::Error> {
    SchemeContext::from(scheme).serialize(to)
}

/// Planes of a weight as word offsets; the fields of `shaders/scheme/fields.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct WeightParams {
    pub rows: u32,
    pub k: u32,
    pub low: u32,
    pub low_stride: u32,
    pub high: u32,
    pub high_stride: u32,
    pub scales: u32,
    pub zeros: u32,
    pub supers: u32,
    pub mins: u32,
    pub table: u32,
    pub groups: u32,
    pub supers_per_row: u32,
    pub scale_table: u32,
    pub perm: u32,
}

impl WeightParams {
    /// The parameters of `rows` x `k` weights. Word offsets fit in u32 because a binding does.
    pub fn new(scheme: &Scheme, layout: &Layout, rows: usize, k: usize) -> Self {
        let at = |kind| layout.plane(kind).map_or(0, |p| (p.offset / 4) as u32);
        let stride = |kind| layout.plane(kind).map_or(0, |p| (p.row_stride / 4) as u32);
        Self {
            rows: rows as u32,
            k: k as u32,
            low: at(PlaneKind::CodesLow),
            low_stride: stride(PlaneKind::CodesLow),
            high: at(PlaneKind::CodesHigh),
            high_stride: stride(PlaneKind::CodesHigh),
            scales: at(PlaneKind::Scales),
            zeros: at(PlaneKind::Zeros),
            supers: at(PlaneKind::SuperScales),
            mins: at(PlaneKind::SuperMins),
            table: at(if scheme.has_group_tables() { PlaneKind::Tables } else { PlaneKind::Codebook }),
            groups: scheme.groups_per_row(k) as u32,
            supers_per_row: layout.plane(PlaneKind::SuperScales).map_or(0, |p| (p.row_stride / 2) as u32),
            scale_table: at(PlaneKind::ScaleTable),
            perm: at(PlaneKind::Permutation),
        }
    }
}
