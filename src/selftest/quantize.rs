//! Quantization against the reference: planes bit for bit, and refusal of what cannot be quantized.
//!
//! Where a format's own definition divides or multiplies and adds (GGUF's), devices may round it differently: a code may be off by one
//! step and an f16 or E4M3 scale by one unit, counted, and in no more than 1 of 200 cases of all that are compared for a scheme.

use super::data::{self, Random, divides};
use super::{Options, Report, sizes_of_k};
use crate::scheme::{Encoder, PlaneKind, Value};
use crate::{Engine, Error, PackedTensor, Result, Scheme, Tensor, reference};

pub(super) async fn run(
    engine: &Engine,
    kernel: &'static str,
    scheme: &Scheme,
    options: &Options,
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let mut off = OffByOne::default();
    for k in sizes_of_k(scheme, options.full, rng) {
        for rows in [1, 6, 13] {
            let x = data::weights(scheme, rows, k, rng);
            let tensor = Tensor::from_f32([rows, k], x.clone())?;
            let case = format!("{scheme} [{rows}, {k}]");
            let got = engine.quantize(&tensor, scheme).await?.read().await?;
            let table = (scheme.value == Value::Learned).then(|| got.codebook());
            let want = reference::quantize(&x, rows, k, *scheme, table.as_deref())?;
            off.add(compare(kernel, &case, &got, &want, report));
            let mut wrong = got.clone();
            super::plant(&mut wrong, rows - 1, k - 1);
            report.teeth(kernel, &case, wrong != got);
        }
    }
    if off.codes * 200 > off.all_codes || off.scales * 200 > off.all_scales {
        report.fail(format!("{kernel} {scheme}: more than 1 of 200 off by one: {off:?}"));
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
    report: &mut Report,
) -> OffByOne {
    let scheme = got.scheme();
    let mut off = OffByOne::default();
    if !divides(scheme) {
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
