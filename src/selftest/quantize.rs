//! Quantization against the reference: planes bit for bit, and refusal of what cannot be quantized.
//!
//! Where a format's own definition divides or multiplies and adds (GGUF's), devices may round it differently: a code may be off by one
//! step and an f16 or E4M3 scale by one unit, counted, and in no more than 1 of 200 cases of all that are compared for a scheme.
//!
//! Where it searches for scales, a GPU that fuses a product into a sum may prefer another scale near a tie, and then any code may differ. Codes that do
//! are counted, and what they cost is bounded: the signal-to-noise ratio is within 0.02 dB of the reference's. Encoders that weigh are run without
//! importance of columns and with it; the ratio is then of weighed squares.

use super::data::{self, Random, divides};
use super::{Options, Report, sizes_of_k};
use crate::scheme::method::Method;
use crate::scheme::{Encoder, PlaneKind};
use crate::{Engine, Error, PackedTensor, Result, Scheme, Tensor, reference};

pub(super) async fn run(
    engine: &Engine,
    kernel: &'static str,
    scheme: &Scheme,
    options: &Options,
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let weighted = scheme.encoder.weighs().then_some(How::Weighted);
    let methods = Method::of(scheme).map(How::By);
    for how in [How::By(Method::Own)].into_iter().chain(weighted).chain(methods) {
        encoded(engine, kernel, scheme, how, options, rng, report).await?;
    }
    let k = scheme.ggml.map_or(70, |g| g.block());
    for (at, value) in
        [(0, f32::NAN), (k, f32::INFINITY), (2 * k - 1, f32::NEG_INFINITY), (3 * k - 1, scheme.limit() * 1.5)]
    {
        let mut x = data::weights(scheme, 3, k, rng);
        x[at] = value;
        let result = engine.quantize(&Tensor::from_f32([3, k], x)?, scheme).await;
        report.tally(kernel).checks += 1;
        match result {
            Err(Error::NotRepresentable { index, .. }) if index == at as u64 => {}
            Err(Error::DeviceLost { reason }) => return Err(Error::DeviceLost { reason }),
            other => {
                let got = other.map(|_| "accepted".to_string()).unwrap_or_else(|e| e.to_string());
                report.fail(format!("{kernel} {scheme}: {value} at {at}: {got}"));
            }
        }
    }
    Ok(())
}

/// What scales are found by.
#[derive(Clone, Copy, PartialEq)]
enum How {
    By(Method),
    /// The scheme's own method with importance of columns.
    Weighted,
}

/// Weights of all sizes. Methods besides the scheme's own, of which the reference is slow, have fewer of them.
async fn encoded(
    engine: &Engine,
    kernel: &'static str,
    scheme: &Scheme,
    how: How,
    options: &Options,
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let mut off = OffByOne::default();
    let weighted = how == How::Weighted;
    let (subject, method) = match how {
        How::Weighted => (format!("{scheme} with importance"), Method::Own),
        How::By(Method::Own) => (scheme.to_string(), Method::Own),
        How::By(method) => (format!("{scheme} by {method}"), method),
    };
    let form = method.form(scheme)?;
    let (range, encoder) = (form.range, form.scheme.encoder);
    let searches = weighted || encoder.searches() || range.compares();
    // What the device leaves to the CPU engine is compared as there.
    #[cfg(feature = "gpu")]
    let on_device = !engine.is_cpu() && crate::kernels::quantize::form_on_gpu(&form);
    #[cfg(not(feature = "gpu"))]
    let on_device = false;
    let divides = divides(&Scheme { encoder, ..*scheme }) && !weighted;
    let mut noise = Noise::default();
    let sizes: &[[usize; 2]] = match how {
        How::By(Method::Own) | How::Weighted => &[[1, 1], [2, 3], [1, 13]],
        How::By(_) => &[[1, 1], [1, 7]],
    };
    for k in sizes_of_k(scheme, options.full, rng) {
        for &[matrices, n] in sizes {
            let rows = matrices * n;
            let mut x = data::weights(scheme, rows, k, rng);
            let case = format!("{subject} [{rows}, {k}]");
            let importance = weighted.then(|| data::importance(matrices, k, rng));
            let (got, want) = match (how, &importance) {
                (How::By(method), _) => {
                    let tensor = Tensor::from_f32([rows, k], x.clone())?;
                    let got = engine.quantize_by(&tensor, "weight", scheme, method).await?.read().await?;
                    let table = got.learned_tables();
                    let want = reference::quantize_by(&x, rows, k, *scheme, method, table.as_deref())?;
                    (got, want)
                }
                (How::Weighted, c) => {
                    let c = c.as_deref().unwrap_or_default();
                    data::off_the_edge(&mut x);
                    let tensor = Tensor::from_f32([matrices, n, k], x.clone())?;
                    let got = engine.quantize_weighted(&tensor, "weight", scheme, c).await?.read().await?;
                    let mut want = PackedTensor::zeroed(*scheme, [matrices, n, k])?;
                    for (i, (x, c)) in x.chunks(n * k).zip(c.chunks(k)).enumerate() {
                        // Importance chooses tables, which are given; codes are the nearest whatever it says.
                        let of_matrix = match got.slice_rows(i * n..(i + 1) * n).learned_tables() {
                            Some(tables) => reference::quantize(x, n, k, *scheme, Some(&tables))?,
                            None => reference::quantize_weighted(x, n, k, *scheme, c)?,
                        };
                        want.write_rows(i * n, &of_matrix);
                    }
                    (got, want)
                }
            };
            if searches && on_device {
                let importance = importance.unwrap_or_else(|| vec![1.0; matrices * k]);
                noise.add(kernel, &case, (&x, &importance), (&got, &want), report);
            } else {
                off.add(compare(kernel, &case, &got, &want, divides, report));
            }
            let mut wrong = got.clone();
            super::plant(&mut wrong, rows - 1, k - 1);
            report.teeth(kernel, &case, wrong != got);
        }
    }
    if off.codes * 200 > off.all_codes || off.scales * 200 > off.all_scales {
        report.fail(format!("{kernel} {subject}: more than 1 of 200 off by one: {off:?}"));
    }
    if searches && on_device {
        noise.judge(kernel, &subject, report);
    }
    Ok(())
}

/// Squared errors as a share of each row's squares, both weighed by the importance of columns, over all rows: of what was found, of what the
/// reference finds, and of the reference with one code in eight, the most important, one step off. A row that the reference leaves with more
/// noise than signal (an outlier in a column without importance spoils the rest) counts as one of as much noise as signal, or it would drown the others.
#[derive(Clone, Copy, Debug, Default)]
struct Noise {
    got: f64,
    want: f64,
    worse: f64,
}

impl Noise {
    /// 0.02 dB.
    const RATIO: f64 = 1.004_616;

    fn add(
        &mut self,
        kernel: &'static str,
        case: &str,
        (x, importance): (&[f32], &[f32]),
        (got, want): (&PackedTensor, &PackedTensor),
        report: &mut Report,
    ) {
        let (rows, k) = got.matrix();
        let rows_of_matrix = rows * k / importance.len();
        let importance_of = |row: usize| &importance[row / rows_of_matrix * k..][..k];
        let mut worse = want.clone();
        for row in 0..rows {
            for (i, c) in importance_of(row).chunks(8).enumerate() {
                let col = i * 8 + (0..c.len()).max_by(|&a, &b| c[a].total_cmp(&c[b])).unwrap_or(0);
                let code = want.code(row, col) as u8;
                worse.set_code(row, col, if code == 0 { 1 } else { code - 1 });
            }
        }
        let [w_got, w_want, w_worse] = [got, want, &worse].map(reference::dequantize);
        let mut wrong = w_got.iter().filter(|v| !v.is_finite()).count();
        for row in 0..rows {
            let range = row * k..(row + 1) * k;
            let x = &x[range.clone()];
            let c = importance_of(row);
            let squares = |w: Option<&[f32]>| -> f64 {
                let difference = |i| f64::from(x[i]) - w.map_or(0.0, |w| f64::from(w[i]));
                (0..k).map(|i| f64::from(c[i]) * difference(i).powi(2)).sum()
            };
            let signal = squares(None);
            let [got, want, worse] = [&w_got, &w_want, &w_worse].map(|w| squares(Some(&w[range.clone()])));
            if signal > 0.0 && w_want[range.clone()].iter().all(|&w| w == 0.0) {
                // Scales that are 0: all of it is noise, and would drown the others.
                wrong += usize::from(w_got[range].iter().any(|&w| w != 0.0));
            } else if signal > 0.0 {
                let whole = signal.max(want);
                self.got += got / whole;
                self.want += want / whole;
                self.worse += worse / whole;
            } else {
                wrong += usize::from(got != 0.0);
            }
        }
        let differ = |at: usize| {
            // With a scale of 0 every code means the same.
            got.code(at / k, at % k) != want.code(at / k, at % k) && w_got[at] != w_want[at]
        };
        let tally = report.tally(kernel);
        tally.checks += 1;
        tally.off_by_one.0 += (0..rows * k).filter(|&at| differ(at)).count();
        tally.off_by_one.1 += rows * k;
        if wrong > 0 {
            report.fail(format!(
                "{kernel} {case}: {wrong} numbers that are not finite, or rows of zeros that are not"
            ));
        }
    }

    fn judge(&self, kernel: &'static str, subject: &str, report: &mut Report) {
        let decibels = |noise: f64| 10.0 * (noise / self.want).log10();
        // Two-sided: a search that finds better scales than its definition is another one. NaN is not within.
        let within = |noise: f64| noise <= self.want * Self::RATIO && noise >= self.want / Self::RATIO;
        report.tally(kernel).checks += 1;
        if !within(self.got) {
            let db = decibels(self.got);
            report
                .fail(format!("{kernel} {subject}: {db:+.4} dB of noise beside the reference, 0.02 allowed"));
        }
        report.teeth(kernel, subject, !within(self.worse));
    }
}

/// Where rounding was left to the device: how often a code or a scale was one step off.
#[derive(Clone, Copy, Debug, Default)]
struct OffByOne {
    codes: usize,
    all_codes: usize,
    scales: usize,
    all_scales: usize,
}

impl OffByOne {
    fn add(&mut self, other: Self) {
        self.codes += other.codes;
        self.all_codes += other.all_codes;
        self.scales += other.scales;
        self.all_scales += other.all_scales;
    }
}

fn compare(
    kernel: &'static str,
    case: &str,
    got: &PackedTensor,
    want: &PackedTensor,
    divides: bool,
    report: &mut Report,
) -> OffByOne {
    let scheme = got.scheme();
    let mut off = OffByOne::default();
    if !divides {
        for plane in PlaneKind::ALL {
            report.equal(
                kernel,
                &format!("{case} plane {}", plane.name()),
                got.plane(plane),
                want.plane(plane),
            );
        }
        return off;
    }
    let (rows, k) = got.matrix();
    let mut wrong = 0;
    for row in 0..rows {
        for col in 0..k {
            off.all_codes += 1;
            match got.code(row, col).abs_diff(want.code(row, col)) {
                0 => {}
                1 => off.codes += 1,
                _ => wrong += 1,
            }
        }
    }
    // Scales and biases by themselves: f16 or bytes, whose neighbours are neighbouring integers. -0 and +0 are one number: which of them is
    // the smaller, devices need not know.
    let size = if scheme.encoder == Encoder::GgmlNvfp4 { 1 } else { 2 };
    for plane in [PlaneKind::Scales, PlaneKind::Zeros] {
        for (a, b) in got.plane(plane).chunks(size).zip(want.plane(plane).chunks(size)) {
            let number = |bytes: &[u8]| match *bytes {
                [low, high] => {
                    let magnitude = i32::from(high & 0x7f) << 8 | i32::from(low);
                    if high & 0x80 == 0 { magnitude } else { -magnitude }
                }
                _ => i32::from(bytes[0]),
            };
            off.all_scales += 1;
            match number(a).abs_diff(number(b)) {
                0 => {}
                1 => off.scales += 1,
                _ => wrong += 1,
            }
        }
    }
    let tally = report.tally(kernel);
    tally.checks += 1;
    tally.off_by_one.0 += off.codes;
    tally.off_by_one.1 += off.all_codes;
    if wrong > 0 {
        report.fail(format!("{kernel} {case}: {wrong} codes or scales more than one off"));
    }
    off
}
