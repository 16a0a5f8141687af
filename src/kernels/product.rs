//! Products on the device: operands, checks, and the dispatches of whichever product kernel was chosen.
//!
//! ```text
//! x [M, K] --(round to f16)--> x' ; for each part of w, for each block of rows of x that a binding holds:
//!     kernel(w part, x', e = bias | residual) -> y [M, N] f32, or f16 where the tier stores it --(convert)--> y f16
//! ```
//!
//! The kernels (`matvec`, `matmul`, `coop`) give specializations and workgroup counts; everything they share is here.

use super::choice::{self, Facts};
use super::context::WeightParams;
use super::weights::{DeviceWeights, binding_limit, row_step};
use super::{Columns, Specialization, Tier, convert, coop, matmul, matvec};
use crate::gpu::{Access, Binding, Buffer, Gpu, Pipeline, Target};
use crate::product::{Accumulate, Activation, Function, Product, Summation};
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
    /// Whether the text has f16 in it, see [`ProductSpec::uses_f16`].
    pub f16: bool,
    #[serde(serialize_with = "accumulate_name")]
    pub accumulate: Accumulate,
    #[serde(serialize_with = "function_name")]
    pub function: Curve,
    pub bias: bool,
    pub residual: bool,
}

fn accumulate_name<S: serde::Serializer>(a: &Accumulate, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match a {
        Accumulate::F32 => "f32",
        Accumulate::F16 => "f16",
        Accumulate::F16Chunked => "f16chunked",
    })
}

fn function_name<S: serde::Serializer>(f: &Curve, to: S) -> Result<S::Ok, S::Error> {
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
                        f16: Self::uses_f16(tier, ragged || scheme.is_permuted(), x_f16, y_f16, accumulate),
                        accumulate,
                        function: functions[turn(2) % 3],
                        bias: turn(4) % 2 == 1,
                        residual: turn(4) / 2 % 2 == 1,
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
}

/// Which product kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    Matvec(matvec::Shape),
    Matmul(matmul::Shape),
    Coop(coop::Shape),
}

impl Choice {
    /// The kernel's name in `KERNELS`.
    pub fn kernel(&self) -> &'static str {
        match self {
            Self::Matvec(_) => matvec::Matvec::KERNEL,
            Self::Matmul(_) => matmul::Matmul::KERNEL,
            Self::Coop(_) => coop::Coop::KERNEL,
        }
    }

    /// The kernel and shape of a name on a device. Which name it is, where none is asked for, is decided in `choice.rs`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is no product kernel, or one that does not take so many rows, needs what the device has not, or
    /// is less exact than the product allows.
    pub fn new(name: &str, on: &Facts, shape: &choice::Shape) -> Result<Self> {
        let (tier, software, m) = (on.tier, on.info.software, shape.m);
        if name == "matvec" && m > matvec::MAX_ROWS {
            let why = format!("it takes up to {}", matvec::MAX_ROWS);
            return Err(Error::unsupported(format!("kernel matvec for M = {m}"), why));
        }
        if name == "matvec" {
            return Ok(Self::Matvec(matvec::Shape::new(tier, m)));
        }
        if let Some(shape) = matmul::Shape::named(name, software) {
            return Ok(Self::Matmul(shape));
        }
        let refuse = |why: &str| Err(Error::unsupported(format!("product kernel '{name}'"), why));
        match coop::Shape::named(name, tier, software) {
            None => refuse("there are matvec, matmul and coop"),
            Some(_) if tier.coop == 0 => {
                refuse("the device has no cooperative matrices of f16 with sums in f32")
            }
            Some(_) if shape.accumulate == Accumulate::F32 => {
                refuse("it rounds operands to f16; ask for f16 or f16-chunked sums")
            }
            Some(shape) => Ok(Self::Coop(shape)),
        }
    }

    /// The same kernel for a block of `m` rows.
    fn for_rows(self, tier: Tier, m: usize) -> Self {
        match self {
            Self::Matvec(_) => Self::Matvec(matvec::Shape::new(tier, m)),
            Self::Matmul(_) | Self::Coop(_) => self,
        }
    }

    fn pipeline(&self, gpu: &Gpu, spec: ProductSpec) -> Result<Arc<Pipeline>> {
        match *self {
            Self::Matvec(shape) => matvec::Matvec { spec, shape }.pipeline(gpu),
            Self::Matmul(shape) => matmul::Matmul { spec, shape }.pipeline(gpu),
            Self::Coop(shape) => coop::Coop::new(spec, shape).pipeline(gpu),
        }
    }

    /// Of one dispatch.
    pub fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        match self {
            Self::Matvec(shape) => shape.workgroups(gpu, n),
            Self::Matmul(shape) => shape.workgroups(gpu, m, n),
            Self::Coop(shape) => shape.workgroups(gpu, m, n),
        }
    }

    /// Rows of x that one dispatch takes.
    fn max_rows(&self) -> usize {
        match self {
            Self::Matvec(shape) => shape.m as usize,
            Self::Matmul(shape) => shape.max_rows(),
            Self::Coop(shape) => shape.max_rows(),
        }
    }

    /// How sums are formed, for error bounds.
    pub fn summation(&self, scheme: &Scheme, accumulate: Accumulate, k: usize) -> Summation {
        match self {
            Self::Matvec(shape) => shape.summation(scheme, accumulate, k),
            Self::Matmul(shape) => shape.summation(accumulate, k),
            Self::Coop(shape) => shape.summation(k),
        }
    }

    /// The sums that are really carried out under a policy.
    pub fn accumulate(&self, policy: Accumulate, tier: Tier) -> Accumulate {
        match self {
            Self::Matvec(_) | Self::Matmul(_) => effective(policy, tier),
            Self::Coop(_) => Accumulate::F32,
        }
    }

    /// Whether operands are rounded to f16 under a policy.
    pub fn halves(&self, policy: Accumulate, tier: Tier) -> bool {
        matches!(self, Self::Coop(_)) || effective(policy, tier) != Accumulate::F32
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

/// The operands of a product in device memory.
pub struct Operands<'a> {
    /// [M, K], f32 or f16.
    pub x: &'a Buffer,
    /// Byte where x begins, a multiple of 256.
    pub x_offset: u64,
    pub x_dtype: DType,
    pub m: usize,
    pub w: &'a DeviceWeights,
    /// Rows of w to multiply with: all, or those of one expert.
    pub rows: Range<usize>,
    /// [N] f32.
    pub bias: Option<&'a Buffer>,
    /// [M, N] f32.
    pub residual: Option<&'a Buffer>,
    /// [M, N] of the product's output type, and the byte where it begins, a multiple of 256.
    pub y: &'a Buffer,
    pub y_offset: u64,
}

/// Whether the kernels compute such a product.
///
/// # Errors
/// [`Error::Unsupported`] for int8 activations.
pub fn supported(product: &Product) -> Result<()> {
    match product.activation {
        Activation::Int8(_) | Activation::Int8Static(_) => {
            Err(Error::unsupported("int8 activations on the GPU", "the CPU engine has them"))
        }
        Activation::F32 | Activation::F16 => Ok(()),
    }
}

/// Largest multiple of `step` up to `n`, or `n` itself where it is smaller than a step.
fn round_down(n: usize, step: usize) -> usize {
    if n < step { n } else { n / step * step }
}

/// Records a product with the kernel of `choice`. Shapes have been checked by the engine.
///
/// # Errors
/// [`Error::Unsupported`] for int8 activations; [`Error::TooLarge`] if a row of x or y is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    tier: Tier,
    target: &mut Target<'_>,
    op: &Operands<'_>,
    product: &Product,
    choice: Choice,
) -> Result<()> {
    supported(product)?;
    let (k, n) = (op.w.k, op.rows.len());
    let rounded;
    let (x, x_offset, x_f16) = match (product.activation, op.x_dtype) {
        (Activation::F32, DType::F32) => (op.x, op.x_offset, false),
        (Activation::F32 | Activation::F16, DType::F16) => (op.x, op.x_offset, true),
        (Activation::F16, DType::F32) => {
            rounded = gpu.alloc((op.m * k * 2) as u64, "activations rounded to f16")?;
            convert::record(gpu, target, (op.x, op.x_offset), (&rounded, 0), op.m * k, true)?;
            (&rounded, 0, true)
        }
        (Activation::Int8(_) | Activation::Int8Static(_), _) | (_, DType::Bf16) => {
            return Err(Error::unsupported("bf16 activations on the GPU", "f32 and f16 are"));
        }
    };
    let out_f16 = product.output == DType::F16;
    let y_f16 = out_f16 && tier.f16;
    let scratch;
    let (y, y_offset) = if out_f16 && !y_f16 {
        scratch = gpu.alloc((op.m * n * 4) as u64, "product before rounding to f16")?;
        (&scratch, 0)
    } else {
        (op.y, op.y_offset)
    };
    let columns = Columns::of(k);
    let ragged = columns == Columns::Ragged;
    let accumulate = choice.accumulate(product.accumulate, tier);
    let spec = ProductSpec {
        scheme: op.w.scheme,
        ragged,
        full: columns == Columns::Full,
        x_f16,
        y_f16,
        f16: ProductSpec::uses_f16(tier, ragged || op.w.scheme.is_permuted(), x_f16, y_f16, accumulate),
        accumulate,
        function: Curve::of(product.function),
        bias: op.bias.is_some(),
        residual: op.residual.is_some(),
    };
    let (x_row, y_row) = (k * if x_f16 { 2 } else { 4 }, n * if y_f16 { 2 } else { 4 });
    let limit = binding_limit(gpu);
    // The bias lies before the residual in the epilogue's binding.
    let bias_bytes =
        if op.residual.is_some() && op.bias.is_some() { (n * 4).next_multiple_of(256) } else { 0 };
    let fit = (limit / x_row).min(limit / y_row).min(limit.saturating_sub(bias_bytes) / (n * 4));
    if fit == 0 {
        let need = x_row.max(n * 4 + bias_bytes) as u64;
        return Err(Error::TooLarge { what: "a row of activations".into(), need, limit: limit as u64 });
    }
    // Blocks of rows start on 256 bytes in x, y and the residual if they are multiples of this, or if there is one block.
    let step = row_step(k).max(row_step(n));
    let block = match choice.max_rows() {
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
        let choice = choice.for_rows(tier, m);
        let pipeline = choice.pipeline(gpu, spec)?;
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
        for part in &op.w.parts {
            let start = part.rows.start.max(op.rows.start);
            let end = part.rows.end.min(op.rows.end);
            if start >= end {
                continue;
            }
            let params = Params {
                weights: part.params,
                m: m as u32,
                n0: (start - op.rows.start) as u32,
                n_total: n as u32,
                row0: (start - part.rows.start) as u32,
                n: (end - start) as u32,
                bias_at: 0,
                residual_at,
                relu: u32::from(product.function == Function::Relu),
            };
            let whole = Binding::whole(&part.buffer);
            // An odd number of f16 ends in the middle of a word; allocations are padded to 16 bytes.
            let rows_of = |buffer: &'_ Buffer, offset: u64, row: usize| {
                let start = offset + (m0 * row) as u64;
                let size = ((m * row) as u64).next_multiple_of(16).min(buffer.padded_len() - start);
                (start, size)
            };
            let (x_start, x_size) = rows_of(x, x_offset, x_row);
            let (y_start, y_size) = rows_of(y, y_offset, y_row);
            let mut bindings =
                vec![whole, whole, Binding::range(x, x_start, x_size), Binding::range(y, y_start, y_size)];
            bindings.extend(e);
            let workgroups = choice.workgroups(gpu, m, end - start)?;
            gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), workgroups)?;
        }
    }
    if out_f16 && !y_f16 {
        convert::record(gpu, target, (y, 0), (op.y, op.y_offset), op.m * n, true)?;
    }
    Ok(())
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
