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

use super::choice::Facts;
use super::context::WeightParams;
use super::dot::{self, DotSpec};
use super::form::{Choice, Form};
use super::int8::{self, DeviceInt8};
use super::weights::{DeviceWeights, Part, binding_limit, row_step};
use super::{Columns, Tier, convert, dot_matvec, int8_rows, int8_values, sum_parts};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target};
use crate::product::{Accumulate, Activation, Function, Int8Scale, Product};
use crate::{DType, Error, Result, Scheme};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;
use std::ops::Range;

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
