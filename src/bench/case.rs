//! A case: its operands, the comparison with the reference, and only then its times.
//!
//! ```text
//! Case -> Subject (random operands on the engine, as many copies as caches cannot hold) -> verify -> sample per regime -> Measured
//! ```
//!
//! What is compared is a sample of rows, the first and the last among them, of the first copy and the last. Codes are random for
//! products and decoding, so that nothing has to be encoded; a period of rows that no power of two divides is repeated. Where sums may be f16,
//! a bound for sums in sequence may be wider than they are; such products are compared bit for bit on inputs whose sums are exact, too.

use super::cases::{Call, Case, Operation};
use super::file::{Ceiling, Demand, Measured, Regime, bound};
use super::sample::{Effort, Times, cache_bytes, dram_bytes, sample};
use crate::gpu::{Buffer, Gpu, Target};
use crate::kernels::{self, DeviceWeights, quantize::Encoding};
use crate::product::{Accumulate, Activation, Product};
use crate::reference::{self, matmul};
use crate::scheme::method::{Form, Range as Finds};
use crate::scheme::{Encoder, Group, Layout, Value};
use crate::selftest::allowance;
use crate::selftest::data::{self, Random};
use crate::threads;
use crate::{
    Array, DType, Engine, Error, MatmulOptions, PackedArray, PackedTensor, Plan, Result, Tensor, cpu,
};
use half::f16;
use std::ops::Range;

/// Rows of random weights before they repeat.
const PERIOD: usize = 251;
/// Copies of operands at most. What is so small that caches hold all of them is measured there only.
const MOST_COPIES: u64 = 512;
/// Activations of a row that are not zero where sums are to be exact, in f16 too.
const EXACT_TERMS: usize = 8;
/// Rows of x that are compared.
const X_ROWS: usize = 12;

/// Verifies a case and measures it in memory and, if it is small enough to stay in a cache, there.
///
/// # Errors
/// [`Error::Check`] if the engine computes something else than the reference; what the engine cannot do; errors of the device.
pub async fn measure(
    engine: &Engine,
    case: &Case,
    ceilings: &[Ceiling],
    effort: &Effort,
) -> Result<Vec<Measured>> {
    Subject::new(engine, case)?.measure(ceilings, effort).await
}

/// A variant with its times, or why it has none.
pub struct Contestant {
    pub variant: &'static str,
    pub outcome: Result<Timed>,
}

/// Times of a product that is right.
pub struct Timed {
    pub times: Times,
    pub regime: Regime,
    /// Values compared.
    pub verified: usize,
}

/// Verifies and times variants of a product's kernel on the same operands: in memory if there are enough of them, else in a cache. `progress`
/// hears of each as it is begun.
///
/// # Errors
/// What the engine cannot do with any of them; the loss of the device.
pub async fn contest(
    engine: &Engine,
    case: &Case,
    variants: &[&'static str],
    effort: &Effort,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Contestant>> {
    let mut subject = Subject::new(engine, case)?;
    let (regime, copies) = subject.regimes().into_iter().next().unwrap_or((Regime::Cache, 1));
    let mut all = Vec::new();
    for &variant in variants {
        progress(variant);
        if let Operands::Product(_, _, options) = &mut subject.operands {
            options.kernel = Some(variant);
        }
        match subject.timed(regime, copies, effort).await {
            Err(lost @ Error::DeviceLost { .. }) => return Err(lost),
            outcome => all.push(Contestant { variant, outcome }),
        }
    }
    Ok(all)
}

/// Operands of a case on an engine.
struct Subject<'a> {
    engine: &'a Engine,
    case: &'a Case,
    /// How scales are found.
    form: Form,
    operands: Operands,
    /// What the reference computes with.
    truth: Truth,
    /// What a run has to touch.
    bytes: u64,
    /// Whether all copies together are more than caches hold.
    fills_caches: bool,
}

/// One entry for each copy.
enum Operands {
    Product(Vec<PackedArray>, Array, Box<MatmulOptions>),
    /// On the CPU engine.
    Decode(Vec<PackedArray>),
    Encode(Vec<Tensor>),
    /// On a GPU, where results have buffers of their own and inputs are there already.
    DeviceDecode(Vec<(DeviceWeights, Buffer)>),
    DeviceEncode(Vec<Encoding>),
}

enum Truth {
    Product(PackedTensor, Vec<f32>),
    Decode(PackedTensor),
    Encode(Tensor),
}

/// A result on the host.
enum Output {
    Dense(Vec<f32>),
    Packed(PackedTensor),
}

/// How many values were compared, and the largest error as a part of its bound.
#[derive(Clone, Copy, Debug, Default)]
struct Verified {
    values: usize,
    worst: f64,
}

impl Verified {
    fn and(self, other: Self) -> Self {
        Self { values: self.values + other.values, worst: self.worst.max(other.worst) }
    }
}

impl<'a> Subject<'a> {
    fn new(engine: &'a Engine, case: &'a Case) -> Result<Self> {
        let (n, k) = (case.weight.n, case.weight.k);
        let scheme = &case.scheme;
        scheme.check_shape(&[n, k])?;
        let form = case.method.form(scheme)?;
        let packed_bytes = Layout::new(scheme, n, k).len() as u64;
        let dense_bytes = (n * k * 4) as u64;
        let x_size = if case.call.activation == Activation::F16 { 2 } else { 4 };
        let bytes = match case.operation.is_product() {
            true => packed_bytes + (case.m * k * x_size + case.m * n * 4) as u64,
            false => packed_bytes + dense_bytes,
        };
        // x and y of a product stay where they are.
        let rotated = if case.operation.is_product() { packed_bytes } else { bytes };
        let copies = dram_bytes(engine).div_ceil(rotated);
        let fills_caches = copies <= MOST_COPIES;
        let copies = if fills_caches { copies as usize } else { 1 };
        let (operands, truth) = match case.operation {
            Operation::Matvec | Operation::Matmul => product(engine, case, copies)?,
            Operation::Dequantize => decode(engine, case, copies)?,
            Operation::Quantize => encode(engine, case, &form, copies)?,
            Operation::KvAppend | Operation::KvAttention => {
                return Err(Error::unsupported(case.operation.name(), "a cache of keys has no weight"));
            }
        };
        Ok(Self { engine, case, form, operands, truth, bytes, fills_caches })
    }

    fn copies(&self) -> usize {
        match &self.operands {
            Operands::Product(all, ..) | Operands::Decode(all) => all.len(),
            Operands::Encode(all) => all.len(),
            Operands::DeviceDecode(all) => all.len(),
            Operands::DeviceEncode(all) => all.len(),
        }
    }

    /// Runs the operation on one of the copies, on a GPU recording it. Results on the CPU are thrown away.
    fn run(&self, copy: usize) -> Result<()> {
        match &self.operands {
            Operands::Product(all, x, options) => self.engine.matmul(x, &all[copy], options).map(drop),
            Operands::Decode(all) => self.engine.dequantize(&all[copy], DType::F32).map(drop),
            Operands::Encode(all) => at_once(self.encoded(&all[copy])).map(drop),
            Operands::DeviceDecode(all) => {
                let (gpu, (w, y)) = (self.gpu()?, &all[copy]);
                kernels::dequantize::record(gpu, &mut Target::Recorder, w, (y, 0), DType::F32)
            }
            Operands::DeviceEncode(all) => all[copy].record(self.gpu()?, None),
        }
    }

    async fn encoded(&self, x: &Tensor) -> Result<PackedArray> {
        self.engine.quantize_by(x, "weight", &self.case.scheme, self.case.method).await
    }

    fn gpu(&self) -> Result<&Gpu> {
        self.engine.gpu().ok_or_else(|| Error::unsupported("an operand of a GPU", "the engine is on the CPU"))
    }

    /// Runs the operation on one of the copies and brings the result.
    async fn output(&self, copy: usize) -> Result<Output> {
        let dense = async |y: Array| Ok(Output::Dense(y.read().await?.to_f32().into_owned()));
        match &self.operands {
            Operands::Product(all, x, options) => dense(self.engine.matmul(x, &all[copy], options)?).await,
            Operands::Decode(all) => dense(self.engine.dequantize(&all[copy], DType::F32)?).await,
            Operands::Encode(all) => Ok(Output::Packed(self.encoded(&all[copy]).await?.into_packed().await?)),
            Operands::DeviceDecode(all) => {
                self.run(copy)?;
                let bytes = self.gpu()?.read(&all[copy].1).await?;
                Ok(Output::Dense(bytemuck::pod_collect_to_vec(&bytes)))
            }
            Operands::DeviceEncode(all) => {
                self.run(copy)?;
                Ok(Output::Packed(all[copy].weights.read(self.gpu()?).await?))
            }
        }
    }

    fn plan(&self) -> Result<Option<Plan>> {
        match &self.operands {
            Operands::Product(all, _, options) => {
                let first = all.first().ok_or_else(|| self.wrong("there are no operands".into()))?;
                self.engine.plan(self.case.m, first, options).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn wrong(&self, why: String) -> Error {
        Error::Check { what: why }
    }

    async fn measure(&self, ceilings: &[Ceiling], effort: &Effort) -> Result<Vec<Measured>> {
        let verified = self.verify_all().await?;
        let mut all = Vec::new();
        for (regime, copies) in self.regimes() {
            let times = self.time(copies, effort).await?;
            all.push(self.result(ceilings, regime, copies, &times, verified)?);
        }
        Ok(all)
    }

    /// Where operands can be, and how many copies of them take turns then.
    fn regimes(&self) -> Vec<(Regime, usize)> {
        let dram = self.fills_caches.then(|| (Regime::Dram, self.copies()));
        let cache = (self.bytes <= cache_bytes()).then_some((Regime::Cache, 1));
        dram.into_iter().chain(cache).collect()
    }

    /// Verified first.
    async fn timed(&self, regime: Regime, copies: usize, effort: &Effort) -> Result<Timed> {
        let verified = self.verify_all().await?.values;
        Ok(Timed { times: self.time(copies, effort).await?, regime, verified })
    }

    async fn time(&self, copies: usize, effort: &Effort) -> Result<Times> {
        let mut next = 0;
        let run = || {
            next = (next + 1) % copies;
            self.run(next)
        };
        sample(self.engine, effort, run).await
    }

    /// Compares the results for the first copy and the last.
    async fn verify_all(&self) -> Result<Verified> {
        let mut verified = self.verify(0).await?;
        if self.copies() > 1 {
            verified = verified.and(self.verify(self.copies() - 1).await?);
        }
        if self.case.operation.is_product() && self.case.call.accumulate != Accumulate::F32 {
            verified = verified.and(self.verify_exact().await?);
        }
        match verified.values {
            0 => Err(self.wrong("nothing could be compared".into())),
            _ => Ok(verified),
        }
    }

    fn result(
        &self,
        ceilings: &[Ceiling],
        regime: Regime,
        copies: usize,
        times: &Times,
        verified: Verified,
    ) -> Result<Measured> {
        let case = self.case;
        let (n, k) = (case.weight.n, case.weight.k);
        let flops = 2 * (case.m * n * k) as u64;
        let plan = self.plan()?;
        let demand = Demand { operation: case.operation, call: case.call, regime, bytes: self.bytes, flops };
        let limit = bound(ceilings, &demand);
        let product = case.operation.is_product();
        let (kernel, tile) = match plan {
            Some(plan) => (plan.variant.to_string(), plan.detail),
            None => (self.kernels(), self.engine.info().tier),
        };
        Ok(Measured {
            operation: case.operation,
            scheme: case.scheme.to_string(),
            m: product.then_some(case.m),
            n,
            k,
            label: case.weight.label.clone(),
            activation: product.then(|| case.call.activation.to_string()),
            method: (case.operation == Operation::Quantize).then(|| case.method.to_string()),
            accumulate: product.then(|| case.call.accumulate.name().into()),
            regime,
            copies,
            kernel,
            tile,
            bytes: self.bytes,
            flops,
            median_s: times.median,
            quartiles_s: times.quartiles,
            samples: times.samples,
            runs_per_sample: times.runs,
            clock: times.clock,
            gb_per_s: self.bytes as f64 / times.median * 1e-9,
            tflop_per_s: flops as f64 / times.median * 1e-12,
            ceiling: limit.map(|(ceiling, _)| ceiling.name.clone()),
            percent: limit.map(|(_, seconds)| 100.0 * seconds / times.median),
            verified: verified.values,
            worst_error: verified.worst,
        })
    }

    /// The kernels of an operation that is no product.
    fn kernels(&self) -> String {
        let scheme = &self.case.scheme;
        match &self.operands {
            Operands::DeviceDecode(_) => "dequantize".into(),
            Operands::DeviceEncode(_) if self.form.range != Finds::Own => {
                "quantize_range, quantize_codes".into()
            }
            Operands::DeviceEncode(_) if scheme.encoder.searches() => {
                "quantize_search, quantize_codes".into()
            }
            Operands::DeviceEncode(_) if kernels::quantize::has_scales_pass(scheme) => {
                "quantize_scales, quantize_codes".into()
            }
            Operands::DeviceEncode(_) => "quantize_codes".into(),
            Operands::Product(..) | Operands::Decode(_) | Operands::Encode(_) => "cpu".into(),
        }
    }

    /// Compares the result for one of the copies with the reference.
    ///
    /// # Errors
    /// [`Error::Check`] if it is wrong; those of the device.
    async fn verify(&self, copy: usize) -> Result<Verified> {
        match (&self.truth, self.output(copy).await?) {
            (Truth::Product(w, x), Output::Dense(y)) => self.verify_product(w, x, &y),
            (Truth::Decode(w), Output::Dense(y)) => self.verify_decoded(w, &y),
            (Truth::Encode(x), Output::Packed(w)) => self.verify_encoded(x, &w),
            _ => Err(self.wrong("a result of another kind".into())),
        }
    }

    /// First, middle and last rows of the weight.
    fn samples(&self) -> Vec<Range<usize>> {
        let n = self.case.weight.n;
        if n <= 12 { threads::ranges(n, n) } else { vec![0..4, n / 2..n / 2 + 4, n - 4..n] }
    }

    /// The bound of the self-test, from the plan of the product. Not all of it may be so wide that zeros would pass. Sums that are f16 are
    /// [`Subject::verify_exact`]'s business.
    fn verify_product(&self, w: &PackedTensor, x: &[f32], y: &[f32]) -> Result<Verified> {
        let (_, k) = w.matrix();
        let plan = self.plan()?.ok_or_else(|| self.wrong("no product".into()))?;
        if plan.accumulate != Accumulate::F32 {
            return Ok(Verified::default());
        }
        let (steps, floor) = allowance(&plan, k);
        self.verify_rows(w, x, y, |size| 1.001 * steps * size + floor)
    }

    /// Small numbers, few of which are not zero: no sum is rounded, and results are equal.
    async fn verify_exact(&self) -> Result<Verified> {
        let (Truth::Product(w, _), Operands::Product(all, _, options)) = (&self.truth, &self.operands) else {
            return Err(self.wrong("no product".into()));
        };
        let (m, k) = (self.case.m, self.case.weight.k);
        let mut rng = Random::new((m * 31 + k) as u64);
        let x = data::activations(m, k, Some(EXACT_TERMS), &mut rng);
        let tensor = self.engine.upload(&Tensor::from_f32([m, k], x.clone())?)?;
        let y = self.engine.matmul(&tensor, &all[0], options)?;
        self.verify_rows(w, &x, &y.read().await?.to_f32(), |_| 0.0)
    }

    /// Compares rows of y with the reference; `bound` of the magnitudes of all terms of a sum is how far it may be off.
    fn verify_rows(
        &self,
        w: &PackedTensor,
        x: &[f32],
        y: &[f32],
        bound: impl Fn(f64) -> f64,
    ) -> Result<Verified> {
        let (n, k) = w.matrix();
        let m = self.case.m;
        if y.len() != m * n {
            return Err(self.wrong(format!("{} values instead of {}", y.len(), m * n)));
        }
        let chosen: Vec<usize> = match m {
            0..=X_ROWS => (0..m).collect(),
            _ => (0..X_ROWS).map(|i| i * (m - 1) / (X_ROWS - 1)).collect(),
        };
        let x: Vec<f32> = chosen.iter().flat_map(|&row| &x[row * k..][..k]).copied().collect();
        let product = Product { activation: self.case.call.activation, ..Product::default() };
        let (mut verified, mut telling) = (Verified::default(), false);
        for rows in self.samples() {
            let w = w.slice_rows(rows.clone());
            let want = matmul::matmul(&x, chosen.len(), &w, Default::default(), &product)?;
            let size = matmul::magnitude(&x, chosen.len(), &w, Default::default(), &product)?;
            for (i, (want, size)) in want.iter().zip(&size).enumerate() {
                let (row, col) = (chosen[i / rows.len()], rows.start + i % rows.len());
                let got = f64::from(y[row * n + col]);
                let bound = bound(*size);
                let error = (got - want).abs();
                // A NaN is not inside.
                let inside = error <= bound;
                if !inside {
                    return Err(
                        self.wrong(format!("y[{row}, {col}] is {got} instead of {want} +- {bound:e}"))
                    );
                }
                telling |= want.abs() > bound;
                verified.values += 1;
                verified.worst = verified.worst.max(if bound > 0.0 { error / bound } else { 0.0 });
            }
        }
        match telling {
            true => Ok(verified),
            false => Err(self.wrong("zeros would pass the bound".into())),
        }
    }

    /// Decoded numbers are equal to the bit.
    fn verify_decoded(&self, w: &PackedTensor, y: &[f32]) -> Result<Verified> {
        let (_, k) = w.matrix();
        let mut verified = Verified::default();
        for rows in self.samples() {
            let want = reference::dequantize(&w.slice_rows(rows.clone()));
            let got = y.get(rows.start * k..rows.end * k).unwrap_or_default();
            let differs = |i: &usize| got.get(*i).map(|v| v.to_bits()) != Some(want[*i].to_bits());
            if let Some(i) = (0..want.len()).find(differs) {
                let what =
                    format!("weight {} is {:?} instead of {}", rows.start * k + i, got.get(i), want[i]);
                return Err(self.wrong(what));
            }
            verified.values += want.len();
        }
        Ok(verified)
    }

    /// Planes are equal. In GGUF's formats, which divide, at most 1 of 200 codes is one off, or off at all where the format searches, and the
    /// squared error is no more than 1 % above the reference's: scales count too. Where a device searches for the scales of any format, it may decide ties in
    /// another way, and only the squared error counts, in both directions.
    fn verify_encoded(&self, x: &Tensor, packed: &PackedTensor) -> Result<Verified> {
        let (n, k) = packed.matrix();
        let scheme = packed.scheme();
        let dense = x.to_f32();
        // A scale of all rows can only be found with all of them.
        let is_whole = scheme.group == Group::Tensor || scheme.encoder == Encoder::GlobalScale;
        let on_device = matches!(self.operands, Operands::DeviceEncode(_));
        let searched = on_device && self.form.range.compares();
        let samples = if is_whole { threads::ranges(n, n) } else { self.samples() };
        let (mut off, mut noise, mut right, mut verified) = (0, 0.0, 0.0, Verified::default());
        for rows in samples {
            let part = &dense[rows.start * k..rows.end * k];
            let got = packed.slice_rows(rows.clone());
            let tables = got.learned_tables();
            let want =
                reference::quantize_by(part, rows.len(), k, *scheme, self.case.method, tables.as_deref())?;
            verified.values += part.len();
            if got == want {
                continue;
            }
            if scheme.ggml.is_none() && !searched {
                return Err(self.wrong(format!("rows {rows:?} differ from the reference")));
            }
            for at in 0..part.len() {
                let by = got.code(at / k, at % k).abs_diff(want.code(at / k, at % k));
                if by > 1 && !searched && !scheme.encoder.searches() {
                    return Err(self.wrong(format!("code {} is {by} off", rows.start * k + at)));
                }
                off += usize::from(by > 0);
            }
            let squares = |w: &PackedTensor| -> f64 {
                let decoded = reference::dequantize(w);
                decoded.iter().zip(part).map(|(w, x)| f64::from(w - x).powi(2)).sum()
            };
            noise += squares(&got);
            right += squares(&want);
        }
        if !searched && off * 200 > verified.values {
            return Err(self.wrong(format!("{off} of {} codes are off", verified.values)));
        }
        // A NaN is not inside.
        let inside = noise <= 1.01 * right && (!searched || noise >= 0.99 * right);
        match inside {
            true => Ok(verified),
            false => {
                Err(self
                    .wrong(format!("squared errors add up to {noise}, those of the reference to {right}")))
            }
        }
    }
}

/// What the CPU engine does: all of it in the call.
fn at_once<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let waits = || Error::unsupported("a measurement that waits", "only the CPU engine is called like this");
    futures::FutureExt::now_or_never(work).ok_or_else(waits)?
}

/// A weight [n, k] with random codes and scales.
fn random_weight(case: &Case) -> Result<PackedTensor> {
    let (n, k) = (case.weight.n, case.weight.k);
    let mut rng = Random::new((n * 31 + k) as u64);
    // Codes are as random in numbers that f16 sums hold.
    let exact = case.call.accumulate != Accumulate::F32;
    let some = data::packed(&case.scheme, &[n.min(PERIOD), k], exact, &mut rng)?;
    if n <= PERIOD {
        return Ok(some);
    }
    // What rows share (a table, a scale of the tensor, a permutation) comes along with any of them.
    let mut all = PackedTensor::zeroed(case.scheme, [n, k])?;
    for start in (0..n).step_by(PERIOD) {
        all.write_rows(start, &some.slice_rows(0..PERIOD.min(n - start)));
    }
    Ok(all)
}

/// Numbers [rows, k] as of a normal distribution, on all threads.
fn random_rows(rows: usize, k: usize) -> Vec<f32> {
    let mut x = vec![0f32; rows * k];
    let tasks: Vec<_> = x.chunks_mut(k).enumerate().collect();
    threads::for_each(tasks, rows * k, |(row, values)| {
        let mut rng = Random::new(row as u64);
        values.iter_mut().for_each(|v| *v = rng.normal());
    });
    x
}

fn product(engine: &Engine, case: &Case, copies: usize) -> Result<(Operands, Truth)> {
    let packed = random_weight(case)?;
    let k = case.weight.k;
    let mut x = random_rows(case.m, k);
    let Call { activation, accumulate, kernel } = case.call;
    let tensor = match activation {
        Activation::F16 => {
            let halves: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
            x = halves.iter().map(|v| v.to_f32()).collect();
            Tensor::from_f16([case.m, k], &halves)?
        }
        _ => Tensor::from_f32([case.m, k], x.clone())?,
    };
    let options = Box::new(MatmulOptions { activation, accumulate, kernel, ..MatmulOptions::default() });
    let weights = (0..copies).map(|_| engine.upload_packed(&packed)).collect::<Result<Vec<_>>>()?;
    Ok((Operands::Product(weights, engine.upload(&tensor)?, options), Truth::Product(packed, x)))
}

fn decode(engine: &Engine, case: &Case, copies: usize) -> Result<(Operands, Truth)> {
    let packed = random_weight(case)?;
    let operands = match engine.gpu() {
        None => Operands::Decode((0..copies).map(|_| engine.upload_packed(&packed)).collect::<Result<_>>()?),
        Some(gpu) => {
            let dense = (case.weight.n * case.weight.k * 4) as u64;
            let copy = || Ok((DeviceWeights::upload(gpu, &packed)?, gpu.alloc_persistent(dense, "decoded")?));
            Operands::DeviceDecode((0..copies).map(|_| copy()).collect::<Result<_>>()?)
        }
    };
    Ok((operands, Truth::Decode(packed)))
}

fn encode(engine: &Engine, case: &Case, form: &Form, copies: usize) -> Result<(Operands, Truth)> {
    let (n, k) = (case.weight.n, case.weight.k);
    let x = random_rows(n, k);
    let dense = Tensor::from_f32([n, k], x.clone())?;
    let operands = match engine.gpu() {
        // A clone of a tensor shares its bytes.
        None => {
            Operands::Encode((0..copies).map(|_| Tensor::from_f32([n, k], x.clone())).collect::<Result<_>>()?)
        }
        Some(gpu) => {
            let scheme = &case.scheme;
            if !kernels::quantize::form_on_gpu(form) {
                let what = format!("quantize {scheme} by {} on a GPU", case.method);
                return Err(Error::unsupported(what, "the CPU engine does it there too; take --device cpu"));
            }
            let table = match scheme.value {
                Value::Learned => Some(cpu::learn_codebook(&dense, "weight", scheme)?),
                _ => None,
            };
            let copy = || Encoding::new(gpu, &dense, scheme, form, table.as_deref());
            Operands::DeviceEncode((0..copies).map(|_| copy()).collect::<Result<_>>()?)
        }
    };
    Ok((operands, Truth::Encode(dense)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;
    use crate::bench::cases::{Weight, all};
    use crate::scheme::Method;
    use pollster::block_on;
    use std::time::Duration;

    const ONCE: Effort = Effort { sample: 0.0, budget: Duration::ZERO, least: 1, most: 1 };

    fn cases(scheme: &str) -> Vec<Case> {
        let shapes = [(Weight::new(300, 128), vec![1, 20])];
        let scheme: Scheme = scheme.parse().unwrap();
        let methods: Vec<Method> = [Method::Own].into_iter().chain(Method::of(&scheme)).collect();
        all(Operation::ALL, &[scheme], &shapes, Call::default(), &methods)
    }

    /// Every operation passes as it is, and has no time with a fault in what it is given: one weight of a row that is compared.
    #[test]
    fn a_wrong_result_is_not_timed() {
        let engine = Engine::cpu();
        for scheme in ["q4_0", "int4-g32", "nf4-g64", "int8-tensor", "codebook4-g64", "nvfp4-global", "f16"] {
            for case in cases(scheme) {
                let mut subject = Subject::new(&engine, &case).unwrap();
                let times = block_on(subject.measure(&[], &ONCE)).unwrap();
                assert!(times.iter().all(|m| m.verified > 0 && m.worst_error <= 1.0), "{case}");
                assert_eq!(times.len(), 1, "{case}: small enough for a cache, too small for memory");
                match &mut subject.truth {
                    Truth::Product(w, _) | Truth::Decode(w) => {
                        let mut values = reference::dequantize(w);
                        let row = 151 * 128;
                        values[row..row + 128].iter_mut().for_each(|v| *v = 1.0 - *v);
                        *w = reference::quantize(&values, 300, 128, "f32".parse().unwrap(), None).unwrap();
                    }
                    Truth::Encode(x) => {
                        let mut values = x.to_f32().into_owned();
                        values[299 * 128..].iter_mut().for_each(|v| *v = -*v);
                        *x = Tensor::from_f32([300, 128], values).unwrap();
                    }
                }
                let error = block_on(subject.measure(&[], &ONCE)).unwrap_err();
                assert!(matches!(error, Error::Check { .. }), "{case}: {error}");
            }
        }
    }

    #[test]
    fn copies_of_a_large_weight_are_more_than_caches_hold() {
        let engine = Engine::cpu();
        let case = Case {
            operation: Operation::Matvec,
            scheme: "q8_0".parse().unwrap(),
            m: 1,
            weight: Weight::new(1024, 1024),
            call: Call { activation: Activation::F16, ..Call::default() },
            method: Method::Own,
        };
        let all = block_on(super::measure(&engine, &case, &[], &ONCE)).unwrap();
        let regimes: Vec<_> = all.iter().map(|m| (m.regime, m.copies > 1)).collect();
        assert_eq!(regimes, [(Regime::Dram, true), (Regime::Cache, false)]);
        let packed = Layout::new(&case.scheme, 1024, 1024).len() as u64;
        assert!(all[0].copies as u64 * packed >= dram_bytes(&engine));
        assert_eq!(all[0].bytes, packed + 2 * 1024 + 4 * 1024);
        assert_eq!((all[0].activation.as_deref(), all[0].ceiling.as_deref()), (Some("f16"), None));
    }

    #[test]
    fn rows_beyond_the_period_repeat() {
        let case = &cases("q5_1")[0];
        let w = random_weight(case).unwrap();
        assert_eq!(w.slice_rows(0..49), w.slice_rows(251..300));
        assert_ne!(w.slice_rows(0..44), w.slice_rows(256..300));
    }
}
