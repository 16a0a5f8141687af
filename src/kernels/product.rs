//! Products on the device: operands, checks, and the dispatches of whichever product kernel was chosen.
//!
//! ```text
//! x [M, K] --(round to f16, or to int8)--> x' ; for each part of w, for each block of rows of x that a binding holds:
//!     kernel(w part, x', e = bias | residual) -> y [M, N] f32, or f16 where the tier stores it --(convert)--> y f16
//!                                                or int8 from int8
//! ```
//!
//! K may be split over workgroups: kernel -> parts [parts, M, N] f32 -> sum_parts, which finishes them.
//!
//! The kernels (`matvec`, `matmul`, `direct`, `coop`; `dot_matvec`, `dot_matmul` and `dot_coop` for int8
//! activations) give specializations and workgroup
//! counts; everything they share is here.

use super::choice::{self, Facts};
use super::context::WeightParams;
use super::dot::{self, DotSpec};
use super::int8::{self, DeviceInt8};
use super::weights::{DeviceWeights, Part, binding_limit, row_step};
use super::{Columns, Specialization, Tier};
use super::{
    convert, coop, direct, dot_coop, dot_matmul, dot_matvec, int8_rows, int8_values, matmul, matvec,
    sum_parts,
};
use crate::gpu::{Access, Binding, Buffer, Gpu, Pipeline, Target};
use crate::product::{Accumulate, Activation, Function, Int8Scale, Product, Summation};
use crate::{DType, Error, Result, Scheme};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// What every product kernel is specialized by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ProductSpec {
    #[serde(rename = "s", serialize_with = "super::context::scheme")]
    pub scheme: Scheme,
    pub ragged: bool,
    pub full: bool,
    pub x_f16: bool,
    pub y_f16: bool,
    /// Only where x is int8.
    pub y_int8: bool,
    /// Whether the text has f16 in it, see [`ProductSpec::uses_f16`].
    pub f16: bool,
    #[serde(serialize_with = "accumulate_name")]
    pub accumulate: Accumulate,
    #[serde(serialize_with = "function_name")]
    pub function: Curve,
    pub bias: bool,
    pub residual: bool,
    /// Whether each workgroup sums one part of K, and `sum_parts` the parts.
    pub split: bool,
}

fn accumulate_name<S: serde::Serializer>(a: &Accumulate, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match a {
        Accumulate::F32 => "f32",
        Accumulate::F16 => "f16",
        Accumulate::F16Chunked => "f16chunked",
    })
}

pub(super) fn function_name<S: serde::Serializer>(f: &Curve, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match f {
        Curve::Straight => "straight",
        Curve::Gelu => "gelu",
        Curve::Silu => "silu",
    })
}

/// The part of a [`Function`] that is compiled in. ReLU is a parameter ([`Params::relu`]): it costs next to nothing, a pipeline of its own
/// would cost compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// Identity and ReLU.
    Straight,
    Gelu,
    Silu,
}

impl Curve {
    fn of(function: Function) -> Self {
        match function {
            Function::Identity | Function::Relu => Self::Straight,
            Function::Gelu => Self::Gelu,
            Function::Silu => Self::Silu,
        }
    }
}

impl ProductSpec {
    /// The storage bindings of every product kernel.
    pub fn storage(&self) -> Vec<Access> {
        let mut all = vec![Access::Read, Access::Read, Access::Read, Access::ReadWrite];
        if self.bias || self.residual {
            all.push(Access::Read);
        }
        all
    }

    /// The same product when K is split: the sums as they are.
    pub fn of_part(self) -> Self {
        let words = self.ragged || self.scheme.is_permuted();
        let f16 = self.f16 && (self.accumulate != Accumulate::F32 || (self.x_f16 && !words));
        let function = Curve::Straight;
        Self { y_f16: false, f16, function, bias: false, residual: false, split: true, ..self }
    }

    /// Whether a product on `tier` computes in f16 or has bindings of it. One that does not is the portable one on every tier
    /// without subgroups; f16 that are read one by one (rows that are not aligned, permuted columns) are read as words.
    fn uses_f16(tier: Tier, words: bool, x_f16: bool, y_f16: bool, accumulate: Accumulate) -> bool {
        tier.f16 && (accumulate != Accumulate::F32 || y_f16 || (x_f16 && !words))
    }

    /// A few specializations per scheme that between them, over all schemes, have every pair of choices.
    pub fn samples(scheme: &Scheme, tier: Tier) -> Vec<Self> {
        let columns: &[Columns] = match scheme.ggml {
            Some(_) => &[Columns::Full],
            None => &[Columns::Full, Columns::Quads, Columns::Ragged],
        };
        let accumulates: &[Accumulate] = match tier.f16 {
            true => &[Accumulate::F32, Accumulate::F16, Accumulate::F16Chunked],
            false => &[Accumulate::F32],
        };
        let functions = [Curve::Straight, Curve::Gelu, Curve::Silu];
        let mut all = Vec::new();
        for &columns in columns {
            for &accumulate in accumulates {
                for x_f16 in [false, true] {
                    let i = all.len();
                    let ragged = columns == Columns::Ragged;
                    // Axes that no loop is over turn with the number of the sample, each at its own pace, and with the scheme.
                    let turn = |pace: usize| i + i / pace + usize::from(scheme.bits) * 2 / pace;
                    let y_f16 = tier.f16 && turn(3) % 2 == 1;
                    all.push(Self {
                        scheme: *scheme,
                        ragged,
                        full: columns == Columns::Full,
                        x_f16,
                        y_f16,
                        y_int8: false,
                        f16: Self::uses_f16(tier, ragged || scheme.is_permuted(), x_f16, y_f16, accumulate),
                        accumulate,
                        function: functions[turn(2) % 3],
                        bias: turn(4) % 2 == 1,
                        residual: turn(4) / 2 % 2 == 1,
                        split: false,
                    });
                }
            }
        }
        all
    }
}

/// The uniform of the product kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub weights: WeightParams,
    pub m: u32,
    pub n0: u32,
    pub n_total: u32,
    pub row0: u32,
    pub n: u32,
    pub bias_at: u32,
    pub residual_at: u32,
    /// 1 for ReLU.
    pub relu: u32,
    /// Chunks of 32 columns of a part, and how many parts; 0 where K is not split.
    pub k_part: u32,
    pub parts: u32,
}

/// What runs a product: a kernel, and over how many parts of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    pub form: Form,
    /// 1: K is not split.
    pub parts: u32,
}

/// The end of the name of a variant that splits K.
pub(super) const SPLIT: &str = ":split";

impl Choice {
    /// The kernel and shape of a name on a device. Which name it is, where none is asked for, is decided in `choice.rs`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is no product kernel, or one that does not take so many rows, needs what the device has not, or
    /// is less exact than the product allows.
    pub fn new(name: &str, on: &Facts, shape: &choice::Shape) -> Result<Self> {
        let Some(whole) = name.strip_suffix(SPLIT) else {
            return Ok(Self { form: Form::new(name, on, shape)?, parts: 1 });
        };
        let form = Form::new(whole, on, shape)?;
        match form.parts(shape) {
            Some(parts) => Ok(Self { form, parts }),
            None => Err(Error::unsupported(format!("product kernel '{name}'"), "it does not split K")),
        }
    }

    /// The kernel's name in `KERNELS`.
    pub fn kernel(&self) -> &'static str {
        self.form.kernel()
    }

    /// Of one dispatch.
    pub fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        let [x, y, z] = self.form.workgroups(gpu, m, n)?;
        Ok([x, y, z * self.parts])
    }

    /// Chunks of 32 columns of a part.
    fn k_part(&self, k: usize) -> usize {
        k.div_ceil(32).div_ceil(self.parts as usize)
    }

    /// How sums are formed, for error bounds.
    pub fn summation(&self, scheme: &Scheme, product: &Product, k: usize) -> Summation {
        match self.parts {
            1 => self.form.summation(scheme, product, k),
            parts => {
                let part = self.form.summation(scheme, product, 32 * self.k_part(k));
                Summation { chain: part.chain + parts as usize, ..part }
            }
        }
    }

    /// The sums that are really carried out under a policy.
    pub fn accumulate(&self, policy: Accumulate, tier: Tier) -> Accumulate {
        self.form.accumulate(policy, tier)
    }

    /// Whether operands are rounded to f16 under a policy.
    pub fn halves(&self, policy: Accumulate, tier: Tier) -> bool {
        matches!(self.form, Form::Coop(_)) || self.accumulate(policy, tier) != Accumulate::F32
    }
}

/// Which product kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Matvec(matvec::Shape),
    Matmul(matmul::Shape),
    Direct(direct::Shape),
    Coop(coop::Shape),
    DotMatvec(dot_matvec::Shape),
    DotMatmul(dot_matmul::Shape),
    DotCoop(dot_coop::Shape),
}

impl Form {
    fn kernel(&self) -> &'static str {
        match self {
            Self::Matvec(_) => matvec::Matvec::KERNEL,
            Self::Matmul(_) => matmul::Matmul::KERNEL,
            Self::Direct(_) => direct::Direct::KERNEL,
            Self::Coop(_) => coop::Coop::KERNEL,
            Self::DotMatvec(_) => dot_matvec::DotMatvec::KERNEL,
            Self::DotMatmul(_) => dot_matmul::DotMatmul::KERNEL,
            Self::DotCoop(_) => dot_coop::DotCoop::KERNEL,
        }
    }

    fn new(name: &str, on: &Facts, shape: &choice::Shape) -> Result<Self> {
        let (tier, software, m) = (on.tier, on.info.software, shape.m);
        // Which one is meant, then whether it takes the product.
        let form = match name {
            "matvec" => Some(Self::Matvec(matvec::Shape::new(tier, m))),
            "direct" => Some(Self::Direct(direct::Shape::new(tier, m))),
            _ => None,
        };
        let form = form
            .or_else(|| matmul::Shape::named(name, software).map(Self::Matmul))
            .or_else(|| coop::Shape::named(name, tier, software).map(Self::Coop))
            .or_else(|| dot_matvec::Shape::named(name, tier, m, software).map(Self::DotMatvec))
            .or_else(|| dot_matmul::Shape::named(name, software).map(Self::DotMatmul))
            .or_else(|| dot_coop::Shape::named(name, tier, software).map(Self::DotCoop));
        let units = "the device has no cooperative matrices of f16 with sums in f32".to_string();
        let why = match form {
            None => "there are matvec, matmul, direct, coop, dot_matvec, dot_matmul and dot_coop".into(),
            Some(Self::Matvec(_)) if m > matvec::MAX_ROWS => {
                format!("it takes up to {} rows of x", matvec::MAX_ROWS)
            }
            Some(Self::Coop(_) | Self::DotCoop(_)) if tier.coop == 0 => units,
            Some(Self::DotCoop(_)) if !dot_coop::runs(tier) => "subgroups are of no fixed size".into(),
            Some(Self::Coop(_)) if shape.accumulate == Accumulate::F32 => {
                "it rounds operands to f16; ask for f16 or f16-chunked sums".into()
            }
            Some(Self::DotMatvec(_) | Self::DotMatmul(_)) if !shape.in_integers() => {
                "it is for int8 activations, and schemes whose values are integers".into()
            }
            Some(Self::DotCoop(_)) if !dot_coop::multiplies(&shape.scheme, shape.activation, shape.k) => {
                "it is for int8 activations and weights with one scale for a row each, K up to 32768".into()
            }
            Some(form) => return Ok(form),
        };
        Err(Error::unsupported(format!("product kernel '{name}' for M = {m}"), why))
    }

    /// Whether it multiplies int8 activations.
    pub fn is_dot(&self) -> bool {
        matches!(self, Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_))
    }

    /// The same kernel for a block of `m` rows.
    fn for_rows(self, tier: Tier, m: usize) -> Self {
        match self {
            Self::Matvec(_) => Self::Matvec(matvec::Shape::new(tier, m)),
            Self::DotMatvec(shape) => Self::DotMatvec(dot_matvec::Shape::new(tier, m, shape.wide)),
            Self::Matmul(_) | Self::Direct(_) | Self::Coop(_) | Self::DotMatmul(_) | Self::DotCoop(_) => self,
        }
    }

    fn pipeline(&self, gpu: &Gpu, spec: DotSpec) -> Result<Arc<Pipeline>> {
        match *self {
            Self::Matvec(shape) => matvec::Matvec { spec: spec.product, shape }.pipeline(gpu),
            Self::Matmul(shape) => matmul::Matmul { spec: spec.product, shape }.pipeline(gpu),
            Self::Direct(shape) => direct::Direct { spec: spec.product, shape }.pipeline(gpu),
            Self::Coop(shape) => coop::Coop::new(spec.product, shape).pipeline(gpu),
            Self::DotMatvec(shape) => dot_matvec::DotMatvec { spec, shape }.pipeline(gpu),
            Self::DotMatmul(shape) => dot_matmul::DotMatmul { spec, shape }.pipeline(gpu),
            Self::DotCoop(shape) => dot_coop::DotCoop::new(spec, shape).pipeline(gpu),
        }
    }

    /// Over how many parts of K: so many that a GPU has enough workgroups, as long as a part is worth one; None for kernels that do not split.
    fn parts(&self, shape: &choice::Shape) -> Option<u32> {
        let tiles = |bm: u32, bn: u32| shape.m.div_ceil(bm as usize) * shape.n.div_ceil(bn as usize);
        // Workgroups, how many are wanted (a large GPU has some 130 units; those of `matvec` are of 64 threads), and chunks of a part at least.
        let (groups, wanted, least): (usize, usize, usize) = match self {
            Self::Matvec(own) => (shape.n.div_ceil(own.rows() as usize), 512, 2 * own.lanes as usize),
            Self::Matmul(own) => (tiles(own.bm, own.bn), 256, 16),
            Self::Coop(own) => (tiles(own.bm, own.bn), 256, 16),
            Self::Direct(_) | Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_) => return None,
        };
        let chunks = shape.k.div_ceil(32);
        let parts = wanted.div_ceil(groups).clamp(2, (chunks / least).max(2));
        // None of them empty: of a single chunk there is one.
        Some(chunks.div_ceil(chunks.div_ceil(parts)) as u32)
    }

    fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        match self {
            Self::Matvec(shape) => shape.workgroups(gpu, n),
            Self::DotMatvec(shape) => shape.workgroups(gpu, m, n),
            Self::Matmul(shape) => shape.workgroups(gpu, m, n),
            Self::Direct(shape) => shape.workgroups(gpu, m, n),
            Self::Coop(shape) => shape.workgroups(gpu, m, n),
            Self::DotMatmul(shape) => shape.workgroups(gpu, m, n),
            Self::DotCoop(shape) => shape.workgroups(gpu, m, n),
        }
    }

    /// Rows of x that one dispatch takes.
    fn max_rows(&self) -> usize {
        match self {
            Self::Matvec(shape) => shape.m as usize,
            Self::DotMatvec(shape) => shape.max_rows(),
            Self::Matmul(shape) => shape.max_rows(),
            Self::Direct(shape) => shape.max_rows(),
            Self::Coop(shape) => shape.max_rows(),
            Self::DotMatmul(shape) => shape.max_rows(),
            Self::DotCoop(shape) => shape.max_rows(),
        }
    }

    fn summation(&self, scheme: &Scheme, product: &Product, k: usize) -> Summation {
        match self {
            Self::Matvec(shape) => shape.summation(scheme, product.accumulate, k),
            Self::Matmul(shape) => shape.summation(product.accumulate, k),
            Self::Direct(shape) => shape.summation(k),
            Self::Coop(shape) => shape.summation(k),
            Self::DotMatvec(shape) => {
                dot::summation(scheme, product.activation, k, shape.team.lanes as usize)
            }
            Self::DotMatmul(_) | Self::DotCoop(_) => dot::summation(scheme, product.activation, k, 1),
        }
    }

    fn accumulate(&self, policy: Accumulate, tier: Tier) -> Accumulate {
        match self {
            Self::Matvec(_) | Self::Matmul(_) => effective(policy, tier),
            Self::Direct(_) | Self::Coop(_) | Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_) => {
                Accumulate::F32
            }
        }
    }
}

/// Tiles along one dimension of a dispatch: WebGPU's default limit of workgroups.
pub(super) const MAX_TILES: usize = 65535;

/// Workgroups for tiles over [x, y] outputs.
pub(super) fn tiles(gpu: &Gpu, outputs: [usize; 2], tile: [u32; 2]) -> Result<[u32; 3]> {
    let [x, y] = [0, 1].map(|i| outputs[i].div_ceil(tile[i] as usize));
    let limit = gpu.limits().max_compute_workgroups_per_dimension;
    match u32::try_from(x.max(y)) {
        Ok(most) if most <= limit => Ok([x as u32, y as u32, 1]),
        _ => {
            let what = "tiles of a product".into();
            Err(Error::TooLarge { what, need: x.max(y) as u64, limit: limit.into() })
        }
    }
}

/// The policy that is really carried out: without f16 arithmetic sums are f32.
fn effective(accumulate: Accumulate, tier: Tier) -> Accumulate {
    if tier.f16 { accumulate } else { Accumulate::F32 }
}

/// x [M, K].
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// f32 or f16 from a byte that is a multiple of 256.
    Dense(&'a Buffer, u64, DType),
    Int8(&'a DeviceInt8),
}

/// y [M, N].
#[derive(Clone, Copy)]
pub enum Output<'a> {
    /// Of the product's output type, from a byte that is a multiple of 256.
    Dense(&'a Buffer, u64),
    /// By the static scale that it names.
    Int8(&'a DeviceInt8),
}

/// The operands of a product in device memory.
#[derive(Clone)]
pub struct Operands<'a> {
    pub x: Input<'a>,
    pub m: usize,
    pub w: &'a DeviceWeights,
    /// Rows of w to multiply with: all, or those of one expert.
    pub rows: Range<usize>,
    /// [N] f32.
    pub bias: Option<&'a Buffer>,
    /// [M, N] f32.
    pub residual: Option<&'a Buffer>,
    pub y: Output<'a>,
}

/// Whether int8 activations are multiplied in integers: not with schemes of other values, nor where their columns are permuted.
pub fn in_integers(scheme: &Scheme, activation: Activation) -> bool {
    let int8 = matches!(activation, Activation::Int8(_) | Activation::Int8Static(_));
    int8 && dot::takes(scheme)
}

/// Largest multiple of `step` up to `n`, or `n` itself where it is smaller than a step.
fn round_down(n: usize, step: usize) -> usize {
    if n < step { n } else { n / step * step }
}

/// Records a product with the kernel of `choice`. Shapes have been checked by the engine. Int8 activations are prepared here unless they
/// come so, and are decoded for kernels of numbers.
///
/// # Errors
/// [`Error::Unsupported`] for bf16; [`Error::TooLarge`] if a row of x or y is larger than a binding, or int8 activations are; those of the
/// device.
pub fn record(
    gpu: &Gpu,
    tier: Tier,
    target: &mut Target<'_>,
    op: &Operands<'_>,
    product: &Product,
    choice: Choice,
) -> Result<()> {
    let k = op.w.k;
    let (prepared, decoded);
    let int8 = match (op.x, product.activation) {
        (Input::Int8(int8), _) => Some(int8),
        (Input::Dense(..), Activation::F32 | Activation::F16) => None,
        (Input::Dense(buffer, offset, dtype), activation) => {
            prepared = DeviceInt8::alloc(gpu, op.m, k, activation)?;
            int8_rows::record(gpu, target, (buffer, offset, dtype), &prepared)?;
            Some(&prepared)
        }
    };
    match int8 {
        Some(int8) if choice.form.is_dot() => record_kernel(
            gpu,
            tier,
            target,
            &Operands { x: Input::Int8(int8), ..op.clone() },
            product,
            choice,
        ),
        Some(int8) => {
            decoded = gpu.alloc((op.m * k * 4) as u64, "values of int8 activations")?;
            int8_values::record(gpu, target, int8, &decoded)?;
            let x = Input::Dense(&decoded, 0, DType::F32);
            record_kernel(gpu, tier, target, &Operands { x, ..op.clone() }, product, choice)
        }
        None => record_kernel(gpu, tier, target, op, product, choice),
    }
}

/// A product with outputs that its kernel does not write itself.
fn record_kernel(
    gpu: &Gpu,
    tier: Tier,
    target: &mut Target<'_>,
    op: &Operands<'_>,
    product: &Product,
    choice: Choice,
) -> Result<()> {
    let own = match op.y {
        Output::Dense(..) => product.output != DType::F16 || tier.f16,
        Output::Int8(_) => choice.form.is_dot(),
    };
    if own {
        return record_blocks(gpu, tier, target, op, product, choice);
    }
    let elements = op.m * op.rows.len();
    let scratch = gpu.alloc((elements * 4) as u64, "product before rounding")?;
    let wide = Operands { y: Output::Dense(&scratch, 0), ..op.clone() };
    record_blocks(gpu, tier, target, &wide, &Product { output: DType::F32, ..*product }, choice)?;
    match op.y {
        Output::Dense(y, offset) => convert::record(gpu, target, (&scratch, 0), (y, offset), elements, true),
        Output::Int8(y) => int8_rows::record(gpu, target, (&scratch, 0, DType::F32), y),
    }
}

/// A product of a kernel, for each part of w and each block of rows of x that bindings hold.
fn record_blocks(
    gpu: &Gpu,
    tier: Tier,
    target: &mut Target<'_>,
    op: &Operands<'_>,
    product: &Product,
    choice: Choice,
) -> Result<()> {
    let (k, n) = (op.w.k, op.rows.len());
    let rounded;
    let (x, activation) = match (op.x, product.activation) {
        (Input::Dense(x, offset, DType::F32), Activation::F16) => {
            rounded = gpu.alloc((op.m * k * 2) as u64, "activations rounded to f16")?;
            convert::record(gpu, target, (x, offset), (&rounded, 0), op.m * k, true)?;
            (Input::Dense(&rounded, 0, DType::F16), Activation::F16)
        }
        (Input::Dense(_, _, DType::Bf16), _) => {
            return Err(Error::unsupported("bf16 activations on the GPU", "f32 and f16 are"));
        }
        (Input::Int8(int8), _) => (op.x, int8.activation),
        (x, activation) => (x, activation),
    };
    let x_f16 = matches!(x, Input::Dense(_, _, DType::F16));
    let y_int8 = matches!(op.y, Output::Int8(_));
    let y_f16 = product.output == DType::F16 && !y_int8;
    let columns = Columns::of(k);
    let ragged = columns == Columns::Ragged;
    let accumulate = choice.accumulate(product.accumulate, tier);
    let spec = ProductSpec {
        scheme: op.w.scheme,
        ragged,
        full: columns == Columns::Full,
        x_f16,
        y_f16,
        y_int8,
        f16: ProductSpec::uses_f16(tier, ragged || op.w.scheme.is_permuted(), x_f16, y_f16, accumulate),
        accumulate,
        function: Curve::of(product.function),
        bias: op.bias.is_some(),
        residual: op.residual.is_some(),
        split: false,
    };
    let spec = DotSpec::new(spec, activation, k);
    // int8 rows are bound whole, other rows by the block.
    let (x_row, y_row) = (
        if matches!(x, Input::Int8(_)) { 0 } else { k * if x_f16 { 2 } else { 4 } },
        if y_int8 { 0 } else { n * if y_f16 { 2 } else { 4 } },
    );
    let limit = binding_limit(gpu);
    // The bias lies before the residual in the epilogue's binding.
    let bias_bytes =
        if op.residual.is_some() && op.bias.is_some() { (n * 4).next_multiple_of(256) } else { 0 };
    let split = choice.parts > 1;
    let of_y = (limit.saturating_sub(bias_bytes) / (n * 4)).min(limit / (n * 4 * choice.parts as usize));
    let fit = (limit / x_row.max(1)).min(limit / y_row.max(1)).min(of_y);
    if fit == 0 {
        let need = x_row.max(n * 4 + bias_bytes) as u64;
        return Err(Error::TooLarge { what: "a row of activations".into(), need, limit: limit as u64 });
    }
    // Blocks of rows start on 256 bytes in x, y and the residual if they are multiples of this, or if there is one block.
    let step = row_step(k).max(row_step(n));
    let block = match choice.form.max_rows() {
        most if op.m <= fit && op.m <= most => op.m,
        most => round_down(fit.min(most), step),
    };
    if block < op.m && [x_row, y_row, n * 4].iter().any(|row| block * row % 256 != 0) {
        return Err(Error::TooLarge {
            what: format!("{step} rows of activations (K = {k}, N = {n})"),
            need: (step * x_row.max(n * 4)) as u64,
            limit: limit as u64,
        });
    }
    for m0 in (0..op.m).step_by(block) {
        let m = block.min(op.m - m0);
        // A kernel made for more rows than there are would read and write beyond them.
        let choice = Choice { form: choice.form.for_rows(tier, m), ..choice };
        let of_part = DotSpec { product: spec.product.of_part(), ..spec };
        let pipeline = choice.form.pipeline(gpu, if split { of_part } else { spec })?;
        let parts = match split {
            true => Some(gpu.alloc((choice.parts as usize * m * n * 4) as u64, "parts of a product")?),
            false => None,
        };
        let packed;
        let mut e = None;
        let mut residual_at = 0;
        match (op.bias, op.residual) {
            (None, None) => {}
            (Some(bias), None) => e = Some(Binding::range(bias, 0, (n * 4) as u64)),
            (None, Some(residual)) => {
                e = Some(Binding::range(residual, (m0 * n * 4) as u64, (m * n * 4) as u64));
            }
            (Some(bias), Some(residual)) => {
                residual_at = (bias_bytes / 4) as u32;
                packed = gpu.alloc((bias_bytes + m * n * 4) as u64, "bias and residual")?;
                gpu.copy(target, (bias, 0), (&packed, 0), (n * 4) as u64)?;
                gpu.copy(
                    target,
                    (residual, (m0 * n * 4) as u64),
                    (&packed, bias_bytes as u64),
                    (m * n * 4) as u64,
                )?;
                e = Some(Binding::whole(&packed));
            }
        }
        // An odd number of f16 ends in the middle of a word; allocations are padded to 16 bytes.
        let rows_of = |buffer, offset: u64, row: usize| {
            let start = offset + (m0 * row) as u64;
            let size = ((m * row) as u64).next_multiple_of(16);
            Binding::range(buffer, start, size.min(Buffer::padded_len(buffer) - start))
        };
        let y = match op.y {
            Output::Dense(y, offset) => rows_of(y, offset, y_row),
            Output::Int8(y) => Binding::whole(&y.buffer),
        };
        let whole_block = Params {
            m: m as u32,
            n_total: n as u32,
            n: n as u32,
            residual_at,
            relu: u32::from(product.function == Function::Relu),
            k_part: choice.k_part(k) as u32,
            parts: choice.parts,
            ..Params::default()
        };
        for part in &op.w.parts {
            let start = part.rows.start.max(op.rows.start);
            let end = part.rows.end.min(op.rows.end);
            if start >= end {
                continue;
            }
            let n0 = start - op.rows.start;
            if y_int8 && !n0.is_multiple_of(4) {
                let why = format!("the weight is split at row {}, no multiple of 4", part.rows.start);
                return Err(Error::unsupported("an int8 output of this weight", why));
            }
            let mut params = dot::Params {
                product: Params {
                    weights: part.params,
                    n0: n0 as u32,
                    row0: (start - part.rows.start) as u32,
                    n: (end - start) as u32,
                    ..whole_block
                },
                ..dot::Params::default()
            };
            let whole = Binding::whole(&part.buffer);
            let x = match x {
                Input::Dense(x, offset, _) => rows_of(x, offset, x_row),
                Input::Int8(x) => {
                    params.set_x(x, m0);
                    Binding::whole(&x.buffer)
                }
            };
            if let Output::Int8(y) = op.y {
                params.set_y(y, m0);
            }
            let row_sums;
            let mut bindings = vec![whole, whole, x];
            match &parts {
                Some(parts) => bindings.push(Binding::whole(parts)),
                None => bindings.extend([Some(y), e].into_iter().flatten()),
            }
            if spec.x_zero && choice.form.is_dot() {
                row_sums = sums_of_rows(gpu, spec, op.w, part)?;
                bindings.push(Binding::whole(&row_sums));
            }
            let workgroups = choice.workgroups(gpu, m, end - start)?;
            let bytes = match choice.form.is_dot() {
                true => bytemuck::bytes_of(&params),
                false => bytemuck::bytes_of(&params.product),
            };
            gpu.dispatch(target, &pipeline, &bindings, bytes, workgroups)?;
        }
        if let Some(parts) = &parts {
            let bindings: Vec<_> = [Some(Binding::whole(parts)), Some(y), e].into_iter().flatten().collect();
            sum_parts::record(gpu, target, &spec.product, whole_block, &bindings)?;
        }
    }
    Ok(())
}

/// The sum of each row of a part of a weight, which a zero-point of x is multiplied with: its product with ones, made once and kept.
fn sums_of_rows(gpu: &Gpu, spec: DotSpec, w: &DeviceWeights, part: &Part) -> Result<Buffer> {
    if let Some(sums) = part.row_sums(spec.whole) {
        return Ok(sums);
    }
    let ones = Activation::Int8Static(Int8Scale::new(1.0, 0)?);
    let x = DeviceInt8::alloc(gpu, 1, w.k, ones)?;
    let codes: Vec<u8> = (0..int8::stride(w.k)).map(|i| u8::from(i < w.k)).collect();
    gpu.write(&x.buffer, 0, &codes)?;
    let n = part.rows.len();
    let y = gpu.alloc_persistent(n as u64 * 4, "sums of rows")?;
    let mut params = dot::Params {
        product: Params { weights: part.params, m: 1, n_total: n as u32, n: n as u32, ..Params::default() },
        ..dot::Params::default()
    };
    params.set_x(&x, 0);
    let on = Facts::of(gpu);
    let form = Form::DotMatvec(dot_matvec::Shape::new(on.tier, 1, !on.info.software));
    let bindings = [&part.buffer, &part.buffer, &x.buffer, &y].map(Binding::whole);
    let pipeline = form.pipeline(gpu, spec.of_row_sums())?;
    let bytes = bytemuck::bytes_of(&params);
    // Not into an encoder of the caller's, who may never submit it.
    gpu.dispatch(&mut Target::Recorder, &pipeline, &bindings, bytes, form.workgroups(gpu, 1, n)?)?;
    part.keep_row_sums(spec.whole, y.clone());
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::preset;
    use std::collections::HashSet;

    #[test]
    fn samples_have_every_pair_of_choices() {
        for tier in Tier::ALL {
            let samples: Vec<_> =
                preset::samples().iter().flat_map(|scheme| ProductSpec::samples(scheme, tier)).collect();
            let choices = |s: &ProductSpec| {
                let columns = usize::from(s.full) + 2 * usize::from(s.ragged);
                let [x, y, bias, residual] = [s.x_f16, s.y_f16, s.bias, s.residual].map(usize::from);
                [columns, s.accumulate as usize, x, y, bias, residual, s.function as usize]
            };
            let single: HashSet<_> =
                samples.iter().flat_map(|s| choices(s).into_iter().enumerate()).collect();
            let pairs: HashSet<_> = samples
                .iter()
                .flat_map(|s| {
                    let all = choices(s);
                    (0..all.len()).flat_map(move |a| (0..all.len()).map(move |b| ((a, all[a]), (b, all[b]))))
                })
                .collect();
            assert_eq!(single.len(), if tier.f16 { 3 + 3 + 4 * 2 + 3 } else { 3 + 1 + 2 + 1 + 2 * 2 + 3 });
            for a in &single {
                for b in single.iter().filter(|b| b.0 != a.0) {
                    assert!(pairs.contains(&(*a, *b)), "{tier}: no sample with {a:?} and {b:?}");
                }
            }
        }
    }
}
