//! Activations to int8 and back, on devices that have kernels for it.
//!
//! Codes and scales are equal to the reference's, bit for bit: rounding is decided by single products. Values are one difference and
//! one product.

use super::{Report, bits, data::Random};
use crate::kernels::{self, Int8Reference, StaticReference};
use crate::product::{Activation, Int8Group, Int8Scale};
use crate::{Engine, Result, Tensor};
use half::f16;

/// Sizes around the padding of rows, groups of 32 and 128, and the 256 values of a workgroup.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (3, 31), (2, 32), (5, 100), (2, 129), (3, 256), (4, 260), (1, 1031), (70, 64)];

fn activations() -> Result<Vec<Activation>> {
    Ok(vec![
        Activation::Int8(Int8Group::Row),
        Activation::Int8(Int8Group::Cols(32)),
        Activation::Int8(Int8Group::Cols(128)),
        Activation::Int8Static(Int8Scale::new(0.013, 0)?),
        Activation::Int8Static(Int8Scale::new(0.25, -100)?),
    ])
}

/// Normal numbers with groups of zeros, of tiny numbers, of halves (ties) and with outliers.
fn numbers(n: usize, rng: &mut Random) -> Vec<f32> {
    let mut x: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
    for part in x.chunks_mut(32) {
        match rng.below(8) {
            0 => part.fill(rng.pick(&[0.0, -0.0])),
            1 => part.iter_mut().for_each(|v| *v *= 1e-31),
            2 => part.iter_mut().for_each(|v| *v = (*v * 4.0).round() * 0.25),
            3 => part[0] = 60.0 * rng.normal(),
            4 => part.iter_mut().for_each(|v| *v *= 1e-20),
            _ => {}
        }
    }
    x
}

/// `int8_rows` through the engine, x as f32 and as f16.
pub async fn rows(
    engine: &Engine,
    kernel: &'static str,
    (reference, fixed): (Int8Reference, StaticReference),
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    for (m, k) in SHAPES {
        for (activation, halves) in activations()?.into_iter().flat_map(|a| [(a, false), (a, true)]) {
            let mut x = numbers(m * k, rng);
            let tensor = match halves {
                true => {
                    let x16: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
                    x = x16.iter().map(|v| v.to_f32()).collect();
                    Tensor::from_f16([m, k], &x16)?
                }
                false => Tensor::from_f32([m, k], x.clone())?,
            };
            let expected = |x: &[f32]| match activation {
                Activation::Int8(group) => reference(x, k, group),
                Activation::Int8Static(s) => (fixed(x, s), vec![s.scale()]),
                Activation::F32 | Activation::F16 => unreachable!("activations() has only int8"),
            };
            let case = format!("[{m}, {k}] {}, {activation:?}", if halves { "f16" } else { "f32" });
            let got = engine.quantize_activations(&engine.upload(&tensor)?, activation)?.read().await?;
            let (codes, scales) = expected(&x);
            report.equal(kernel, &format!("{case} codes"), &got.codes, &codes);
            report.equal(kernel, &format!("{case} scales"), &bits(&got.scales), &bits(&scales));
            // One number of another sign and size.
            let at = rng.below(m * k);
            x[at] = if x[at] > 0.0 { -2.0 } else { 2.0 };
            report.teeth(kernel, &case, expected(&x) != (got.codes, got.scales));
        }
    }
    Ok(())
}

/// `int8_values` by itself, into poison and a guard behind it.
pub async fn values(
    engine: &Engine,
    kernel: &'static str,
    reference: fn(&[i8], &[f32], usize, i8) -> Vec<f32>,
    rng: &mut Random,
    report: &mut Report,
) -> Result<()> {
    const POISON: u8 = 0xff;
    let Some(gpu) = engine.gpu() else { return Ok(()) };
    for (m, k) in SHAPES {
        for activation in activations()? {
            let x = kernels::int8::DeviceInt8::alloc(gpu, m, k, activation)?;
            let dense = gpu.upload(bytemuck::cast_slice(&numbers(m * k, rng)), "x")?;
            let target = &mut crate::gpu::Target::Recorder;
            kernels::int8_rows::record(gpu, target, (&dense, 0, crate::DType::F32), &x)?;
            let bytes = m * k * 4;
            let y = gpu.upload(&vec![POISON; bytes + 256], "values")?;
            kernels::int8_values::record(gpu, target, &x, &y)?;
            let got = gpu.read(&y).await?;
            let (got, guard) = got.split_at(bytes);
            let case = format!("[{m}, {k}] {activation:?}");
            if let Some(at) = guard.iter().position(|&b| b != POISON) {
                report.fail(format!("{kernel} {case}: wrote byte {at} behind the result"));
            }
            let (codes, scales) = x.read(gpu).await?;
            let want: Vec<f32> = match activation {
                Activation::Int8Static(s) => reference(&codes, &[s.scale()], m * k, s.zero()),
                _ => {
                    let group = kernels::int8::group(activation, k);
                    let rows = codes.chunks(k).zip(scales.chunks(k.div_ceil(group)));
                    rows.flat_map(|(codes, scales)| reference(codes, scales, group, 0)).collect()
                }
            };
            let got: Vec<f32> = got.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            // -0 and 0 are one value: a code of 0 has no sign.
            let plain = |v: &[f32]| bits(&v.iter().map(|&v| v + 0.0).collect::<Vec<_>>());
            report.equal(kernel, &case, &plain(&got), &plain(&want));
            let mut wrong = want.clone();
            wrong[rng.below(m * k)] += 1.0;
            report.teeth(kernel, &case, plain(&got) != plain(&wrong));
        }
    }
    Ok(())
}
