//! The differential suite: every kernel in `KERNELS`, on every scheme, against the reference.
//!
//! ```text
//! for kernel in KERNELS, scheme in samples():  inputs (data.rs) -> engine -> compare with reference -> Report
//!     dequantize   bit for bit (f16: the rounded f32)
//!     products     bit for bit on exact inputs; on random ones within a bound from the kernel's own summation
//!     quantize     planes bit for bit; where a format's definition divides, codes off by one are counted and bounded; where it searches, GPUs'
//!                  codes that differ are counted and their noise is bounded
//!     convert      bit for bit
//!     int8_rows    codes and scales bit for bit; int8_values too
//!     fake_quantize        bit for bit; dense, step_gradient, activate, cross_entropy, update within derived bounds
//!     kv_store, kv_pack    words of a cache bit for bit; kv_attention within a derived bound
//!     embed, layer_norm, attention, mean_pool, normalize, gram, histogram, transform    exact inputs bit for bit where there are any; else within derived bounds
//! ```
//!
//! Every comparison is on outputs that were poisoned before, between guard words, and shows its teeth: a wrong code that
//! is planted must be seen, and a bound that zeros would pass is a failure. It runs in `cargo test`, on users' own devices as
//! `lowbit selftest`, and on the CPU engine.

pub mod data;
mod encoder;
#[cfg(feature = "gpu")]
mod int8;
pub(crate) mod kv;
mod product;
mod quantize;
mod training;

use crate::product::Accumulate;
use crate::scheme::preset::samples;
use crate::{DType, Engine, PackedTensor, Plan, Result, Scheme, reference};
use data::Random;
use serde_json::json;
use std::collections::BTreeMap;

/// How much to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The full cross of the axes instead of pairs of them.
    pub full: bool,
    /// Only these schemes; empty: all.
    pub schemes: Vec<Scheme>,
    /// Only kernels with these names; empty: all.
    pub kernels: Vec<String>,
    /// Added to the fixed seeds: other random sizes and numbers.
    pub seed: u64,
}

/// What one kernel showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Comparisons made.
    pub checks: usize,
    /// Largest error as a share of its bound; 0 where results must be equal.
    pub worst: f64,
    /// The worst comparison in words.
    pub worst_case: String,
    /// Codes off by one where the format's definition divides, codes that differ where it searches, and codes compared there.
    pub off_by_one: (usize, usize),
    /// Planted faults that were seen.
    pub teeth: usize,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kernel.
    pub kernels: BTreeMap<&'static str, Tally>,
    /// One line each.
    pub failures: Vec<String>,
    /// What could not run on this engine, and why.
    pub left_out: Vec<String>,
}

impl Report {
    /// Comparisons made in all.
    pub fn checks(&self) -> usize {
        self.kernels.values().map(|t| t.checks).sum()
    }

    /// For other programs. `device` and `seconds` say where and how long it ran.
    pub fn to_json(&self, device: &str, seconds: f64) -> serde_json::Value {
        let kernels = self.kernels.iter().map(|(kernel, t)| {
            json!({"kernel": kernel, "checks": t.checks, "worst_part_of_bound": t.worst, "worst_case": t.worst_case,
                   "codes_off_by_one": t.off_by_one.0, "codes_compared": t.off_by_one.1, "planted_faults_seen": t.teeth})
        });
        json!({"device": device, "kernels": kernels.collect::<Vec<_>>(), "checks": self.checks(), "failures": self.failures,
               "left_out": self.left_out, "seconds": seconds})
    }

    fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    fn tally(&mut self, kernel: &'static str) -> &mut Tally {
        self.kernels.entry(kernel).or_default()
    }

    /// Notes a bit-for-bit comparison; what differs is a failure.
    fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        kernel: &'static str,
        case: &str,
        got: &[T],
        want: &[T],
    ) {
        self.tally(kernel).checks += 1;
        if let Some(why) = difference(got, want) {
            self.fail(format!("{kernel} {case}: {why}"));
        }
    }

    /// Notes a comparison in which each number has a bound for its error. What is beyond is a failure, and so is a bound that zeros would pass.
    fn within(&mut self, kernel: &'static str, case: &str, got: &[f32], want: &[f64], bounds: &[f64]) {
        let inside = inside(got, want, bounds);
        let beyond = inside.iter().filter(|part| part.is_none()).count();
        let worst = inside.iter().fold(0f64, |worst, part| part.unwrap_or(f64::INFINITY).max(worst));
        let tally = self.tally(kernel);
        tally.checks += 1;
        if worst > tally.worst {
            tally.worst = worst;
            tally.worst_case = case.into();
        }
        if got.len() != want.len() {
            self.fail(format!("{kernel} {case}: {} values instead of {}", got.len(), want.len()));
        }
        if beyond > 0 {
            self.fail(format!("{kernel} {case}: {beyond} of {} beyond the bound", got.len()));
        }
        let telling = want.iter().zip(bounds).any(|(want, bound)| want.abs() > *bound);
        if !telling && want.iter().any(|v| *v != 0.0) {
            self.fail(format!("{kernel} {case}: zeros would pass the bound"));
        }
    }

    /// Notes that a planted fault was seen, or fails.
    fn teeth(&mut self, kernel: &'static str, case: &str, seen: bool) {
        match seen {
            true => self.tally(kernel).teeth += 1,
            false => self.fail(format!("{kernel} {case}: a planted wrong code went unnoticed")),
        }
    }
}

/// Where two slices differ first.
fn difference<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} values instead of {}", got.len(), want.len()));
    }
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| got[i] != want[i]).collect();
    let first = *wrong.first()?;
    Some(format!(
        "{} of {} differ, first at {first}: {:?} instead of {:?}",
        wrong.len(),
        got.len(),
        got[first],
        want[first]
    ))
}

/// Each number's error as a part of its bound; None beyond it.
fn inside(got: &[f32], want: &[f64], bounds: &[f64]) -> Vec<Option<f64>> {
    let part = |((&got, want), bound): ((&f32, &f64), &f64)| {
        let error = (f64::from(got) - want).abs();
        // Written so that a NaN is beyond every bound.
        (error <= *bound).then(|| error / bound.max(f64::MIN_POSITIVE))
    };
    got.iter().zip(want).zip(bounds).map(part).collect()
}

/// Numbers as bits, so that NaN equals itself and -0 does not equal 0.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Kernels of an engine, by name and the largest M they take (products only). Those that its device does not run are noted.
fn kernels(engine: &Engine, report: &mut Report) -> Vec<(&'static str, Subject)> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = engine.gpu() {
        let tier = crate::kernels::Tier::of(gpu.capabilities());
        let (run, not) = crate::kernels::KERNELS.iter().partition::<Vec<_>, _>(|k| (k.runs)(tier));
        report.left_out.extend(not.iter().map(|k| format!("{}: there is no form for {tier}", k.name)));
        return run.into_iter().map(|k| (k.name, Subject::of(k))).collect();
    }
    let _ = (engine, report);
    vec![
        ("dequantize", Subject::Dequantize(reference::dequantize)),
        (
            "matmul",
            Subject::Product(product::Axes {
                variants: &[None],
                accumulates: &Accumulate::ALL,
                max_rows: usize::MAX,
                activations: product::Activations::All,
                takes: |_| true,
            }),
        ),
        ("quantize", Subject::Quantize),
        ("embed", Subject::Encoder(encoder::Operation::Embed)),
        ("layer_norm", Subject::Encoder(encoder::Operation::LayerNorm)),
        ("attention", Subject::Encoder(encoder::Operation::Attention)),
        ("mean_pool", Subject::Encoder(encoder::Operation::MeanPool)),
        ("normalize", Subject::Encoder(encoder::Operation::Normalize)),
        ("gram", Subject::Encoder(encoder::Operation::Gram)),
        ("histogram", Subject::Encoder(encoder::Operation::Histogram)),
        ("transform", Subject::Encoder(encoder::Operation::Transform)),
        ("kv_store", Subject::Kv(kv::Operation::Store)),
        ("kv_pack", Subject::Kv(kv::Operation::Pack)),
        ("kv_attention", Subject::Kv(kv::Operation::Attention)),
        ("dense", Subject::Training(training::Operation::Dense)),
        ("fake_quantize", Subject::Training(training::Operation::FakeQuantize)),
        ("step_gradient", Subject::Training(training::Operation::StepGradient)),
        ("activate", Subject::Training(training::Operation::Activate)),
        ("cross_entropy", Subject::Training(training::Operation::CrossEntropy)),
        ("update", Subject::Training(training::Operation::Update)),
    ]
}

/// What to do with a kernel.
#[derive(Clone, Copy)]
enum Subject {
    Dequantize(fn(&PackedTensor) -> Vec<f32>),
    Product(product::Axes),
    Quantize,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Convert,
    #[cfg(feature = "gpu")]
    Int8Rows(crate::kernels::Int8Reference, crate::kernels::StaticReference),
    #[cfg(feature = "gpu")]
    Int8Values(fn(&[i8], &[f32], usize, i8) -> Vec<f32>),
    Encoder(encoder::Operation),
    Training(training::Operation),
    Kv(kv::Operation),
}

#[cfg(feature = "gpu")]
impl Subject {
    fn of(kernel: &crate::kernels::Kernel) -> Self {
        use crate::kernels::{Activations, Operation::*};
        match kernel.operation {
            Dequantize { reference } => Self::Dequantize(reference),
            Product { variants, accumulates, max_rows, activations, .. } => Self::Product(product::Axes {
                variants,
                accumulates,
                max_rows: max_rows.unwrap_or(usize::MAX),
                activations: match activations {
                    Activations::Float => product::Activations::Float,
                    Activations::Int8 => product::Activations::Int8,
                    Activations::Int8Rows => product::Activations::Int8Rows,
                },
                takes: kernel.takes,
            }),
            Quantize { .. } => Self::Quantize,
            Convert { .. } => Self::Convert,
            Int8Rows { reference, fixed } => Self::Int8Rows(reference, fixed),
            Int8Values { reference } => Self::Int8Values(reference),
            Embed { .. } => Self::Encoder(encoder::Operation::Embed),
            LayerNorm { .. } => Self::Encoder(encoder::Operation::LayerNorm),
            Attention { .. } => Self::Encoder(encoder::Operation::Attention),
            MeanPool { .. } => Self::Encoder(encoder::Operation::MeanPool),
            Gram { .. } => Self::Encoder(encoder::Operation::Gram),
            Histogram { .. } => Self::Encoder(encoder::Operation::Histogram),
            Transform { .. } => Self::Encoder(encoder::Operation::Transform),
            Normalize { .. } => Self::Encoder(encoder::Operation::Normalize),
            KvStore { .. } => Self::Kv(kv::Operation::Store),
            KvPack { .. } => Self::Kv(kv::Operation::Pack),
            KvAttention { .. } => Self::Kv(kv::Operation::Attention),
            Dense { .. } => Self::Training(training::Operation::Dense),
            FakeQuantize { .. } => Self::Training(training::Operation::FakeQuantize),
            StepGradient { .. } => Self::Training(training::Operation::StepGradient),
            Activate { .. } => Self::Training(training::Operation::Activate),
            CrossEntropy { .. } => Self::Training(training::Operation::CrossEntropy),
            Update { .. } => Self::Training(training::Operation::Update),
        }
    }
}

/// Runs the suite on an engine. `progress` hears of every kernel and scheme as it is begun.
///
/// # Errors
/// Errors of the device that end the run, such as its loss. Wrong results are not errors but failures in the report.
pub async fn run(
    engine: &Engine,
    options: &Options,
    mut progress: impl FnMut(&str, &Scheme),
) -> Result<Report> {
    let mut report = Report::default();
    let schemes = if options.schemes.is_empty() { samples() } else { options.schemes.clone() };
    let mut quantized = false;
    for (kernel, subject) in kernels(engine, &mut report) {
        if !options.kernels.is_empty() && !options.kernels.iter().any(|only| only == kernel) {
            continue;
        }
        // Both passes of quantization are seen in one comparison.
        if matches!(subject, Subject::Quantize) && std::mem::replace(&mut quantized, true) {
            continue;
        }
        for (i, scheme) in schemes.iter().enumerate() {
            progress(kernel, scheme);
            let mut rng = Random::new(options.seed.wrapping_add(i as u64 * 7919 + 1));
            match subject {
                Subject::Dequantize(reference) => {
                    dequantize(engine, kernel, reference, scheme, options, &mut rng, &mut report).await?;
                }
                Subject::Product(axes) if !(axes.takes)(scheme) => {}
                Subject::Product(axes) => {
                    let suite = product::Suite { engine, kernel, axes, scheme, options, index: i };
                    suite.run(&mut rng, &mut report).await?;
                }
                Subject::Quantize => {
                    quantize::run(engine, kernel, scheme, options, &mut rng, &mut report).await?
                }
                Subject::Convert if i == 0 => convert(engine, kernel, &mut rng, &mut report).await?,
                Subject::Convert => {}
                #[cfg(feature = "gpu")]
                Subject::Int8Rows(reference, fixed) if i == 0 => {
                    int8::rows(engine, kernel, (reference, fixed), &mut rng, &mut report).await?
                }
                #[cfg(feature = "gpu")]
                Subject::Int8Values(reference) if i == 0 => {
                    int8::values(engine, kernel, reference, &mut rng, &mut report).await?
                }
                #[cfg(feature = "gpu")]
                Subject::Int8Rows(..) | Subject::Int8Values(_) => {}
                Subject::Encoder(operation) => {
                    let mut suite =
                        encoder::Suite { engine, kernel, options, rng: &mut rng, report: &mut report };
                    suite.run(operation, scheme, i == 0).await?;
                }
                Subject::Training(operation) if i == 0 => {
                    let mut suite =
                        encoder::Suite { engine, kernel, options, rng: &mut rng, report: &mut report };
                    suite.train(operation).await?;
                }
                Subject::Kv(operation) if i == 0 => {
                    let mut suite =
                        encoder::Suite { engine, kernel, options, rng: &mut rng, report: &mut report };
                    suite.cache(operation).await?;
                }
                Subject::Training(_) | Subject::Kv(_) => {}
            }
        }
    }
    Ok(report)
}

/// Sizes of K: for formats of whole blocks multiples of them, else also around the group and odd ones.
fn sizes_of_k(scheme: &Scheme, full: bool, rng: &mut Random) -> Vec<usize> {
    if let Some(ggml) = scheme.ggml {
        let block = ggml.block();
        return if full { vec![block, 2 * block, 3 * block] } else { vec![block, 3 * block] };
    }
    let group = if let crate::scheme::Group::Cols(g) = scheme.group { g as usize } else { 64 };
    let random = 1 + rng.below(400);
    match full {
        true => vec![1, 3, 4, 31, 32, group - 1, group, group + 1, 2 * group + 20, 256, 300, random],
        false => vec![1, group + 1, 2 * group + 20, 256, random],
    }
}

async fn dequantize(
    engine: &Engine,
    kernel: &'static str,
    reference: fn(&PackedTensor) -> Vec<f32>,
    scheme: &Scheme,
    options: &Options,
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    for k in sizes_of_k(scheme, options.full, rng) {
        let rows = rng.pick(&[1, 3, 5]);
        let packed = data::packed(scheme, &[rows, k], false, rng)?;
        let want = reference(&packed);
        let mut wrong = packed.clone();
        plant(&mut wrong, rows - 1, k - 1);
        for dtype in [DType::F32, DType::F16] {
            let case = format!("{scheme} [{rows}, {k}] to {dtype}");
            let want: Vec<f32> = match dtype {
                DType::F16 => want.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect(),
                _ => want.clone(),
            };
            let got = decoded(engine, &packed, dtype).await?;
            match got {
                Ok(got) => report.equal(kernel, &case, &bits(&got), &bits(&want)),
                Err(why) => report.fail(format!("{kernel} {case}: {why}")),
            }
            if dtype == DType::F32
                && let Ok(got) = decoded(engine, &wrong, dtype).await?
            {
                report.teeth(kernel, &case, bits(&got) != bits(&want));
            }
        }
    }
    Ok(())
}

/// Decodes on the engine, on a GPU into a poisoned buffer between guard words.
async fn decoded(engine: &Engine, packed: &PackedTensor, dtype: DType) -> Result<Result<Vec<f32>, String>> {
    let w = engine.upload_packed(packed)?;
    #[cfg(feature = "gpu")]
    if let Some(gpu) = engine.gpu() {
        let guarded = Guarded::new(gpu, engine, packed.shape(), dtype)?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        engine.encode_dequantize(&mut encoder, &w, &guarded.array)?;
        gpu.queue().submit([encoder.finish()]);
        return guarded.read(gpu).await;
    }
    Ok(Ok(engine.dequantize(&w, dtype)?.read().await?.to_f32().into_owned()))
}

/// Changes the code of one weight, `col` being the position where it is stored, so that its value changes too: where there is such a code by 1/8 or more, which no rounding of
/// exact inputs hides, to a number that f16 holds.
fn plant(packed: &mut PackedTensor, row: usize, col: usize) {
    let mut alone = packed.slice_rows(row..row + 1);
    let column = packed.permutation().map_or(col, |columns| columns[col] as usize);
    let before = reference::dequantize(&alone)[column];
    if packed.scheme().is_float() {
        let other = reference::quantize(&[before + 1.0], 1, 1, *packed.scheme(), None);
        let other = other.expect("a small number fits a float");
        let plane = crate::scheme::PlaneKind::CodesLow;
        let bytes = packed.scheme().bits as usize / 8;
        let at = row * packed.layout().plane(plane).map_or(0, |p| p.row_stride) + col * bytes;
        packed.plane_mut(plane)[at..at + bytes].copy_from_slice(&other.plane(plane)[..bytes]);
        return;
    }
    let code = packed.code(row, col) as u8;
    let levels = 1usize << packed.scheme().bits;
    let mut best = None;
    for other in (0..=u8::MAX).filter(|&c| usize::from(c) < levels && c != code) {
        alone.set_code(0, col, other);
        let value = reference::dequantize(&alone)[column];
        if value.is_finite() && value != before {
            best.get_or_insert(other);
            if (value - before).abs() >= 0.125 && value.abs() <= 64.0 {
                best = Some(other);
                break;
            }
        }
    }
    // With a scale of 0 every code is the same number; planes still differ.
    packed.set_code(row, col, best.unwrap_or(code ^ 1));
}

/// A buffer of the application's with poison where the result goes and guard words around it.
#[cfg(feature = "gpu")]
struct Guarded {
    raw: wgpu::Buffer,
    array: crate::engine::Array,
    bytes: usize,
}

#[cfg(feature = "gpu")]
impl Guarded {
    const GUARD: usize = 256;
    const POISON: u8 = 0xff;

    fn new(gpu: &crate::gpu::Gpu, engine: &Engine, shape: &[usize], dtype: DType) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let len = bytes.next_multiple_of(16) + 2 * Self::GUARD;
        let raw = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("guarded"),
            size: len as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&raw, 0, &vec![Self::POISON; len]);
        let array = engine.wrap_buffer(raw.clone(), Self::GUARD as u64, shape, dtype)?;
        Ok(Self { raw, array, bytes })
    }

    /// The result as f32, or which guard was written over or which value was not written.
    async fn read(&self, gpu: &crate::gpu::Gpu) -> Result<Result<Vec<f32>, String>> {
        let all = gpu.read(&crate::gpu::Buffer::from_wgpu(self.raw.clone())).await?;
        let (head, rest) = all.split_at(Self::GUARD);
        let (result, tail) = rest.split_at(self.bytes);
        // The array owns its bytes up to the next multiple of 16.
        let tail = &tail[self.bytes.next_multiple_of(16) - self.bytes..];
        for (name, guard) in [("before", head), ("after", tail)] {
            if let Some(at) = guard.iter().position(|&b| b != Self::POISON) {
                return Ok(Err(format!("wrote {name} the result, at byte {at} of the guard")));
            }
        }
        let size = self.array.dtype().size();
        if let Some(at) = result.chunks(size).position(|v| v.iter().all(|&b| b == Self::POISON)) {
            return Ok(Err(format!("value {at} was not written")));
        }
        let tensor = crate::Tensor::from_bytes(self.array.shape(), self.array.dtype(), result.to_vec())?;
        Ok(Ok(tensor.to_f32().into_owned()))
    }
}

/// f32 to f16 through a product with f16 output on the identity would hide rounding, so the kernel is run by itself.
#[cfg(feature = "gpu")]
async fn convert(engine: &Engine, kernel: &'static str, rng: &mut Random, report: &mut Report) -> Result<()> {
    let Some(gpu) = engine.gpu() else { return Ok(()) };
    // Around every rounding case: random bits, ties, subnormals, overflow, specials.
    let mut x: Vec<f32> =
        (0..4096).map(|_| f32::from_bits(rng.bits() as u32)).filter(|v| !v.is_nan()).collect();
    for e in 90..145u32 {
        for low in [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fffff, 0x7ff000, 0x7fefff] {
            x.push(f32::from_bits((e << 23) | low));
            x.push(-f32::from_bits((e << 23) | low));
        }
    }
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 65504.0, 65519.9, 65520.0]);
    let input = gpu.upload(bytemuck::cast_slice(&x), "numbers")?;
    let output = gpu.alloc(x.len() as u64 * 2, "rounded")?;
    let mut target = crate::gpu::Target::Recorder;
    crate::kernels::convert::record(gpu, &mut target, (&input, 0), (&output, 0), x.len(), true)?;
    let back = gpu.alloc(x.len() as u64 * 4, "widened")?;
    crate::kernels::convert::record(gpu, &mut target, (&output, 0), (&back, 0), x.len(), false)?;
    let bytes = gpu.read_many(&[(&output, 0..output.len()), (&back, 0..back.len())]).await?;
    let got: Vec<u16> = bytes[0].as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
    let want: Vec<u16> = x.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
    report.equal(kernel, "f32 to f16", &got, &want);
    let got: Vec<u32> = bytes[1].as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let want: Vec<u32> = want.iter().map(|&b| half::f16::from_bits(b).to_f32().to_bits()).collect();
    report.equal(kernel, "f16 to f32", &got, &want);
    Ok(())
}

#[cfg(not(feature = "gpu"))]
async fn convert(_: &Engine, _: &'static str, _: &mut Random, _: &mut Report) -> Result<()> {
    Err(crate::Error::unsupported("the convert kernel", "built without GPU"))
}

/// How far a sum over K may be off by the way it is formed: a part of the magnitudes of all its terms, and an amount beside that. See `product.rs`.
pub fn allowance(plan: &Plan, k: usize) -> (f64, f64) {
    let steps = (plan.summation.chain + plan.summation.depth + 4) as f64 * roundoff(plan.accumulate);
    match plan.halves {
        false => (steps, 0.0),
        // Weights and activations enter as f16, which has no digits below 2^-24: each of the terms of a sum may lose that much.
        true => (steps + 2.0 * 2f64.powi(-10), k as f64 * 2f64.powi(-24)),
    }
}

/// Unit roundoff of sums under a policy.
fn roundoff(accumulate: Accumulate) -> f64 {
    match accumulate {
        Accumulate::F32 => f64::from(f32::EPSILON) / 2.0,
        Accumulate::F16 | Accumulate::F16Chunked => 2f64.powi(-11),
    }
}
