//! Products against the reference: exact inputs bit for bit, random inputs within a derived bound.
//!
//! The bound of an output, with `u` the unit roundoff of the sum and `S` the sum of the magnitudes of everything that is added: of the
//! products with whole weights, or, where a kernel sums codes, zeros and biases apart, with their terms
//! (`reference::matmul::magnitude`):
//!
//! ```text
//! |y - y_ref| <= (chain + depth + decode) * u * S        chain, depth: the kernel's own `Summation`
//! decode = 4   the product, the scale, the zero and the bias of a term are each rounded once
//! f16 sums: weights and activations are rounded to f16 first, u_f16 each (2^-10: a device may truncate)
//! function:   |f(a) - f(b)| <= 1.13 |a - b|, and what the device's own formula of f may be off: 2^-20 * (|y| + 1)
//! f16 output: 2^-10 |y| + 2^-24
//! ```

use super::data::{self, Random};
use super::{Options, Report, allowance, bits, difference, plant, sizes_of_k};
use crate::product::{Accumulate, Activation, Function, Int8Group, Int8Scale, Product};
use crate::reference::matmul::{Added, magnitude, matmul};
use crate::{DType, Engine, MatmulOptions, PackedTensor, Result, Scheme, Tensor};
use half::f16;

pub(super) struct Suite<'a> {
    pub engine: &'a Engine,
    pub kernel: &'static str,
    pub axes: Axes,
    pub scheme: &'a Scheme,
    pub options: &'a Options,
    /// Of the scheme: where the pairing of axes starts.
    pub index: usize,
}

/// What a kernel takes.
#[derive(Clone, Copy)]
pub(super) struct Axes {
    /// Names that pin it, its default shape first; one None on the CPU engine.
    pub variants: &'static [Option<&'static str>],
    pub accumulates: &'static [Accumulate],
    pub max_rows: usize,
    pub activations: Activations,
    pub takes: fn(&Scheme) -> bool,
}

/// The precisions of activations that a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activations {
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Float,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Int8,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Int8Rows,
    All,
}

impl Activations {
    /// All of them. The scale of static ones follows the numbers of a case.
    fn list(self) -> Result<Vec<Activation>> {
        let float = [Activation::F32, Activation::F16];
        let int8 = [
            Activation::Int8(Int8Group::Cols(32)),
            Activation::Int8(Int8Group::Row),
            Activation::Int8(Int8Group::Cols(128)),
            Activation::Int8Static(Int8Scale::new(1.0, -61)?),
            Activation::Int8Static(Int8Scale::new(1.0, 0)?),
        ];
        Ok(match self {
            Self::Float => float.to_vec(),
            Self::Int8 => int8.to_vec(),
            Self::Int8Rows => vec![int8[1], int8[3], int8[4]],
            // Without a zero-point a static scale is a row's on the CPU engine.
            Self::All => [&float[..], &int8[..4]].concat(),
        })
    }
}

/// One point of the axes.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: DType,
    product: Product,
    bias: bool,
    residual: bool,
    variant: Option<&'static str>,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Product { activation, accumulate, function, output } = self.product;
        write!(
            f,
            "[{}, {}] x [{}, {}]^T, x {} as {activation:?}, {accumulate:?} sums",
            self.m, self.k, self.n, self.k, self.x
        )?;
        write!(f, ", {function:?}, y {output}{}", if self.bias { ", bias" } else { "" })?;
        f.write_str(if self.residual { ", residual" } else { "" })?;
        self.variant.map_or(Ok(()), |v| write!(f, ", {v}"))
    }
}

/// Shapes, and the other axes paired with them.
///
/// Sizes of K that a kernel treats alike (multiples of 32, of 4, others) share the other axes, because each combination of those is a
/// shader to compile. A scheme meets multiples of 32 and, in turn, one of the other classes; over the schemes every pair of values comes
/// up (a test holds that). `full`: all classes and two dozen combinations each.
fn cases(scheme: &Scheme, index: usize, axes: Axes, full: bool, rng: &mut Random) -> Result<Vec<Case>> {
    let Axes { variants, accumulates, max_rows, activations, .. } = axes;
    let activations = &activations.list()?;
    let mut all = Vec::new();
    for (i, &k) in sizes_of_k(scheme, full, rng).iter().enumerate() {
        let class = usize::from(k % 32 != 0) + usize::from(k % 4 != 0);
        if !full && class == 1 + index % 2 {
            continue;
        }
        for j in 0..if full { 24 } else { 1 } {
            // The same for all sizes of a class, so that they share shaders.
            let mut axes = Random::new((index * 3 + class) as u64 * 1009 + j);
            let m = if max_rows <= 16 {
                1 + axes.below(max_rows)
            } else {
                [1, 9, 65, 70, 5][(index + class) % 5]
            };
            all.push(Case {
                m,
                n: [1, 7, 67, 1 + rng.below(90)][(index + i) % 4],
                k,
                x: axes.pick(&[DType::F32, DType::F32, DType::F16]),
                product: Product {
                    activation: activations[(index / 2 + class + j as usize) % activations.len()],
                    accumulate: axes.pick(accumulates),
                    function: if axes.below(4) == 0 { axes.pick(&Function::ALL) } else { Function::Identity },
                    output: axes.pick(&[DType::F32, DType::F32, DType::F16]),
                },
                bias: axes.below(2) == 1,
                residual: axes.below(3) == 1,
                variant: if axes.below(4) == 0 { axes.pick(variants) } else { variants[0] },
            });
        }
    }
    Ok(all)
}

impl Suite<'_> {
    pub async fn run(&self, rng: &mut Random, report: &mut Report) -> Result<()> {
        let full = self.options.full;
        for case in cases(self.scheme, self.index, self.axes, full, rng)? {
            self.exact(case, rng, report).await?;
            self.random(case, rng, report).await?;
        }
        if self.axes.activations == Activations::Int8Rows && self.scheme.bits == 8 {
            self.cancelling(rng, report).await?;
        }
        Ok(())
    }

    /// Sums of bytes that grow beyond what f32 counts and come back to a small number: one unit lost on the way is seen.
    async fn cancelling(&self, rng: &mut Random, report: &mut Report) -> Result<()> {
        let (m, n, half) = (3, 5, 2048);
        let k = 2 * half;
        let mut twice = |rows: usize, sign: f32| -> Vec<f32> {
            let mut all = Vec::new();
            for _ in 0..rows {
                let part: Vec<f32> = (0..half).map(|_| 127.0 - rng.below(3) as f32).collect();
                all.extend(part.iter().copied().chain(part.iter().map(|v| v * sign)));
            }
            all
        };
        let (mut x, mut weights) = (twice(m, -1.0), twice(n, 1.0));
        x.chunks_mut(k).for_each(|row| row[k - 1] += 1.0);
        // Both ends, so that a scale of 1 covers them in every scheme.
        weights.chunks_mut(k).for_each(|row| (row[0], row[half]) = (-128.0, -128.0));
        let w = crate::reference::quantize(&weights, n, k, *self.scheme, None)?;
        let case = Case {
            m,
            n,
            k,
            x: DType::F32,
            product: Product {
                activation: Activation::Int8Static(Int8Scale::new(1.0, 0)?),
                ..Product::default()
            },
            bias: false,
            residual: false,
            variant: self.axes.variants[0],
        };
        let what = format!("{} cancelling {case}", self.scheme);
        let want = matmul(&x, m, &w, Added::default(), &case.product)?;
        let got = match self.product(&case, &x, &w, Added::default()).await? {
            Ok(got) => got,
            Err(why) => {
                report.fail(format!("{} {what}: {why}", self.kernel));
                return Ok(());
            }
        };
        // The sum itself is exact; a scale that is no power of two rounds twice.
        let near = |(got, want): (&f32, &f64)| (f64::from(*got) - want).abs() <= want.abs() * 2f64.powi(-22);
        report.tally(self.kernel).checks += 1;
        if !got.iter().zip(&want).all(near) {
            report.fail(format!("{} {what}: {got:?} is not {want:?}", self.kernel));
        }
        Ok(())
    }

    fn options(&self, case: &Case, added: Added<'_>) -> Result<MatmulOptions> {
        let Product { activation, accumulate, function, output } = case.product;
        let array = |values: Option<&[f32]>, shape: &[usize]| {
            values.map(|v| self.engine.upload(&Tensor::from_f32(shape, v.to_vec())?)).transpose()
        };
        Ok(MatmulOptions {
            activation,
            accumulate,
            function,
            output,
            bias: array(added.bias, &[case.n])?,
            residual: array(added.residual, &[case.m, case.n])?,
            expert: None,
            kernel: case.variant,
        })
    }

    /// Runs the product, on a GPU into a poisoned buffer between guard words.
    async fn product(
        &self,
        case: &Case,
        x: &[f32],
        w: &PackedTensor,
        added: Added<'_>,
    ) -> Result<Result<Vec<f32>, String>> {
        let halves: Vec<f16>;
        let x = match case.x {
            DType::F16 => {
                halves = x.iter().map(|&v| f16::from_f32(v)).collect();
                Tensor::from_f16([case.m, case.k], &halves)?
            }
            _ => Tensor::from_f32([case.m, case.k], x.to_vec())?,
        };
        let (x, w, options) =
            (self.engine.upload(&x)?, self.engine.upload_packed(w)?, self.options(case, added)?);
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.engine.gpu() {
            let guarded = super::Guarded::new(gpu, self.engine, &[case.m, case.n], case.product.output)?;
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            self.engine.encode_matmul(&mut encoder, &x, &w, &guarded.array, &options)?;
            gpu.queue().submit([encoder.finish()]);
            return guarded.read(gpu).await;
        }
        Ok(Ok(self.engine.matmul(&x, &w, &options)?.read().await?.to_f32().into_owned()))
    }

    fn added<'a>(case: &Case, exact: bool, rng: &mut Random, store: &'a mut [Vec<f32>; 2]) -> Added<'a> {
        let mut number = || if exact { rng.below(9) as f32 * 0.5 - 2.0 } else { rng.normal() };
        store[0] = (0..case.n).map(|_| number()).collect();
        store[1] = (0..case.m * case.n).map(|_| number()).collect();
        Added { bias: case.bias.then_some(&store[0]), residual: case.residual.then_some(&store[1]) }
    }

    /// Sums without rounding: results are equal to the last bit, and one wrong code is seen.
    async fn exact(&self, mut case: Case, rng: &mut Random, report: &mut Report) -> Result<()> {
        // Functions with a formula of their own are not exact (and a common pipeline is compiled once). Nor are int8 activations that a kernel
        // may decode and multiply as f32.
        if !matches!(case.product.function, Function::Identity | Function::Relu) {
            case.product.function = Function::Identity;
        }
        case.product.activation = match (case.product.activation, self.axes.activations) {
            (Activation::Int8(_) | Activation::Int8Static(_), Activations::All) => Activation::F32,
            (other, _) => other,
        };
        let terms = if case.product.accumulate == Accumulate::F32 { 4 * case.k } else { 8 };
        let mut w = data::packed(self.scheme, &[case.n, case.k], true, rng)?;
        let mut x = data::activations(case.m, case.k, Some(terms), rng);
        // The weight whose code will be wrong counts.
        let position = rng.below(case.k);
        let at = w.permutation().map_or(position, |columns| columns[position] as usize);
        if case.product.accumulate == Accumulate::F32 {
            x[at] = 1.0;
        } else {
            x[..case.k].fill(0.0);
            x[at] = 1.0;
        }
        if let Activation::Int8(group) = case.product.activation {
            // A 127 in each group makes its scale 127 * C(1/127) = 1, and sums that f16 does not hold.
            case.product.output = DType::F32;
            let group = if let Int8Group::Cols(g) = group { g as usize } else { case.k };
            for part in x.chunks_mut(case.k).flat_map(|row| row.chunks_mut(group)) {
                part[rng.below(part.len())] = rng.pick(&[127.0, -127.0]);
            }
        }
        let mut store = Default::default();
        let added = Self::added(&case, true, rng, &mut store);
        let what = format!("{} exact {case}", self.scheme);
        let want: Vec<f32> =
            matmul(&x, case.m, &w, added, &case.product)?.iter().map(|&v| v as f32).collect();
        // -0 and 0 are one result: an empty sum may have either sign.
        let plain = |v: &[f32]| bits(&v.iter().map(|&v| v + 0.0).collect::<Vec<_>>());
        match self.product(&case, &x, &w, added).await? {
            Ok(got) => report.equal(self.kernel, &what, &plain(&got), &plain(&want)),
            Err(why) => report.fail(format!("{} {what}: {why}", self.kernel)),
        }
        case.product.function = Function::Identity;
        let want: Vec<f32> =
            matmul(&x, case.m, &w, added, &case.product)?.iter().map(|&v| v as f32).collect();
        plant(&mut w, 0, position);
        if let Ok(got) = self.product(&case, &x, &w, added).await? {
            report.teeth(self.kernel, &what, difference(&plain(&got), &plain(&want)).is_some());
        }
        Ok(())
    }

    async fn random(&self, mut case: Case, rng: &mut Random, report: &mut Report) -> Result<()> {
        let w = data::packed(self.scheme, &[case.n, case.k], false, rng)?;
        // Activations have the signs of the first row of weights, so that its sums are as large as their terms: zeros cannot pass.
        // They are scaled to sums that f16 holds.
        let mut x = data::activations(case.m, case.k, None, rng);
        let first = crate::reference::dequantize(&w.slice_rows(0..1));
        x.iter_mut().zip(first.iter().cycle()).for_each(|(v, w)| *v = v.abs().copysign(*w));
        let top = whole_magnitude(&x, &w, Added::default(), case.n).into_iter().fold(0.0, f64::max);
        let scale = if top > 64.0 { (64.0 / top).log2().floor().exp2() as f32 } else { 1.0 };
        x.iter_mut().for_each(|v| *v *= scale);
        if case.x == DType::F16 {
            x.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
        }
        if let Activation::Int8Static(s) = case.product.activation {
            // With a zero-point some of them are beyond the last code.
            let top = x.iter().fold(0f32, |top, v| top.max(v.abs()));
            case.product.activation = Activation::Int8Static(Int8Scale::new(top * 0.01, s.zero())?);
        }
        let mut store = Default::default();
        let added = Self::added(&case, false, rng, &mut store);
        let want = matmul(&x, case.m, &w, added, &case.product)?;
        let what = format!("{} {case}", self.scheme);
        let got = match self.product(&case, &x, &w, added).await? {
            Ok(got) => got,
            Err(why) => {
                report.fail(format!("{} {what}: {why}", self.kernel));
                return Ok(());
            }
        };
        let plan = self.engine.plan(case.m, &self.engine.upload_packed(&w)?, &self.options(&case, added)?)?;
        let size = match plan.summation.folded {
            true => magnitude(&x, case.m, &w, added, &case.product)?,
            false => whole_magnitude(&x, &w, added, case.n),
        };
        let (steps, floor) = allowance(&plan, case.k);
        let bound = |(size, want): (&f64, &f64)| {
            let mut bound = steps * size + floor;
            if case.product.function != Function::Identity {
                bound = 1.13 * bound + 2f64.powi(-20) * (want.abs() + 1.0);
            }
            if case.product.output == DType::F16 {
                bound += 2f64.powi(-10) * want.abs() + 2f64.powi(-24);
            }
            bound
        };
        let bounds: Vec<f64> = size.iter().zip(&want).map(bound).collect();
        report.within(self.kernel, &what, &got, &want, &bounds);
        Ok(())
    }
}

/// `sum_k |x| |w| + |bias| + |residual|` of y [M, N]. Rounding x to f16 changes it by less than the factor.
fn whole_magnitude(x: &[f32], w: &PackedTensor, added: Added<'_>, n: usize) -> Vec<f64> {
    let (_, k) = w.matrix();
    let weights = crate::reference::dequantize(w);
    let mut all = Vec::new();
    for (m, x) in x.chunks(k).enumerate() {
        for (col, w) in weights.chunks(k).enumerate() {
            let sum: f64 = x.iter().zip(w).map(|(&a, &b)| f64::from(a.abs()) * f64::from(b.abs())).sum();
            let bias = added.bias.map_or(0.0, |b| f64::from(b[col].abs()));
            let residual = added.residual.map_or(0.0, |r| f64::from(r[m * n + col].abs()));
            all.push(1.001 * sum + bias + residual);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Every pair of values of two axes comes up in a plain run.
    #[test]
    fn axes_are_paired() {
        let all = &Accumulate::ALL[..];
        let tiles: &[_] = &[Some("a"), Some("a:64x64"), Some("a:32x32")];
        for (activations, max_rows, variants, accumulates) in [
            (Activations::All, usize::MAX, &[None][..], all),
            (Activations::Float, 16, &[Some("a")], all),
            (Activations::Float, usize::MAX, tiles, all),
            (Activations::Float, usize::MAX, tiles, &all[1..]),
            (Activations::Int8, 8, &[Some("a")], &all[..1]),
            (Activations::Int8, usize::MAX, tiles, &all[..1]),
            (Activations::Int8Rows, usize::MAX, tiles, &all[..1]),
        ] {
            let axes = Axes { variants, accumulates, max_rows, activations, takes: |_| true };
            let mut values: [HashSet<String>; 6] = Default::default();
            let mut pairs = HashSet::new();
            for (i, scheme) in crate::scheme::preset::samples().iter().enumerate() {
                for c in cases(scheme, i, axes, false, &mut Random::new(i as u64)).unwrap() {
                    let class = usize::from(c.k % 32 != 0) + usize::from(c.k % 4 != 0);
                    let point = [
                        class.to_string(),
                        c.x.to_string(),
                        format!("{:?}", c.product.activation),
                        format!("{:?}", c.product.accumulate),
                        c.product.output.to_string(),
                        format!("{} {}", c.bias, c.residual),
                    ];
                    for a in 0..6 {
                        values[a].insert(point[a].clone());
                        pairs.extend((0..a).map(|b| (a, b, point[a].clone(), point[b].clone())));
                    }
                }
            }
            let want: usize = (0..6)
                .flat_map(|a| (0..a).map(move |b| (a, b)))
                .map(|(a, b)| values[a].len() * values[b].len())
                .sum();
            assert_eq!(pairs.len(), want, "{activations:?}, up to {max_rows} rows");
        }
    }
}
