//! Inputs of the differential suite: packed tensors with every kind of code and scale, and activations.
//!
//! *Random* tensors have any code and scales of mixed size and sign. *Exact* ones have powers of two as scales and small numbers as
//! values, all multiples of 1/8, so that every partial sum of a product is exact and engines must agree bit for bit.
//! Fixed seeds: the same inputs on every device.

pub use crate::random::Random;
use crate::scheme::layout::TABLE_ENTRY;
use crate::scheme::{Encoder, PlaneKind, Scale, ScaleType, SubScale, Value, Zero};
use crate::{PackedTensor, Result, Scheme, reference};
use half::{bf16, f16};

fn fill(plane: &mut [u8], size: usize, mut value: impl FnMut() -> [u8; 4]) {
    for chunk in plane.chunks_exact_mut(size) {
        chunk.copy_from_slice(&value()[..size]);
    }
}

fn half_bytes(v: f32) -> [u8; 4] {
    let [a, b] = f16::from_f32(v).to_le_bytes();
    [a, b, 0, 0]
}

/// A number as a scale of type `kind` stores it: f32, f16 or bf16.
fn number_bytes(kind: ScaleType, v: f32) -> [u8; 4] {
    let brain = bf16::from_f32(v).to_le_bytes();
    match kind {
        ScaleType::F32 => v.to_le_bytes(),
        ScaleType::Bf16 => [brain[0], brain[1], 0, 0],
        _ => half_bytes(v),
    }
}

/// The table of a learned scheme: spread over -1..=1, or small multiples of 1/2.
pub fn table(scheme: &Scheme, exact: bool, rng: &mut Random) -> Vec<f32> {
    let n = 1usize << scheme.bits;
    match exact {
        true => (0..n).map(|i| ((i * 7) % 17) as f32 * 0.5 - 4.0).collect(),
        false => (0..n).map(|i| (i as f32 + 0.5 + 0.3 * rng.uniform()) * 2.0 / n as f32 - 1.0).collect(),
    }
}

/// A packed tensor `[rows, k]` with random codes and scales; see the file's text for `exact`.
///
/// # Errors
/// As [`Scheme::check_shape`].
pub fn packed(scheme: &Scheme, shape: &[usize], exact: bool, rng: &mut Random) -> Result<PackedTensor> {
    let (rows, k) = scheme.check_shape(shape)?;
    if scheme.is_float() {
        let x: Vec<f32> = (0..rows * k)
            .map(|_| if exact { rng.below(17) as f32 * 0.5 - 4.0 } else { rng.normal() })
            .collect();
        let flat = reference::quantize(&x, rows, k, *scheme, None)?;
        return PackedTensor::from_data(*scheme, shape, flat.data());
    }
    let mut p = PackedTensor::zeroed(*scheme, shape)?;
    if let Some(mut columns) = p.permutation() {
        (1..k).for_each(|j| columns.swap(j, rng.below(j + 1)));
        p.set_permutation(&columns)?;
    }
    if scheme.value == Value::Learned {
        p.set_codebook(&table(scheme, exact, rng));
    }
    // Of each group in an order of its own, as a file may hold it.
    fill(p.plane_mut(PlaneKind::Tables), TABLE_ENTRY, || {
        half_bytes(if exact {
            rng.below(17) as f32 * 0.5 - 4.0
        } else {
            rng.normal() * rng.pick(&[0.03, 1.0])
        })
    });
    let entries = p.codebook();
    let levels = 1usize << scheme.bits;
    let allowed: Vec<u8> = (0..levels)
        .filter(|&c| match entries.get(c) {
            None => true,
            Some(v) if exact => v.abs() <= 16.0 && (v * 2.0).fract() == 0.0,
            Some(v) => v.is_finite(),
        })
        .map(|c| c as u8)
        .collect();
    let offset = if let Value::Linear { offset, .. } = scheme.value { offset as usize } else { 0 };
    // Zero-points in the middle let exact codes lie on both sides.
    let zero = |rng: &mut Random| rng.below(levels) as u8;
    let mut zeros = vec![offset as u8; 1];
    if scheme.zero == Zero::Point {
        zeros = p.plane(PlaneKind::Zeros).iter().map(|_| zero(rng)).collect();
        p.plane_mut(PlaneKind::Zeros).copy_from_slice(&zeros);
    }
    if let (Zero::Float, Scale::Direct(kind)) = (scheme.zero, scheme.scale) {
        // Zeros between codes, or halfway. Exact codes lie around them.
        let count = p.plane(PlaneKind::Zeros).len() / kind.size();
        zeros = (0..count).map(|_| zero(rng)).collect();
        let mut codes = zeros.iter();
        fill(p.plane_mut(PlaneKind::Zeros), kind.size(), || {
            let fraction = if exact { rng.below(2) as f32 * 0.5 } else { 0.5 * rng.uniform() };
            number_bytes(kind, codes.next().map_or(0.0, |&z| f32::from(z)) + fraction)
        });
    }
    let (groups, group) = (scheme.groups_per_row(k), scheme.group_len(k));
    for row in 0..rows {
        for col in 0..k {
            let code = if exact && entries.is_empty() && !scheme.has_group_tables() {
                let centre = zeros[(row * groups + col / group).min(zeros.len() - 1)];
                (i64::from(centre) + rng.below(9) as i64 - 4).clamp(0, levels as i64 - 1) as u8
            } else {
                rng.pick(&allowed)
            };
            p.set_code(row, col, code);
        }
    }
    // Tables of floats reach far beyond 1; products have to fit f16.
    let top = entries.iter().filter(|v| v.is_finite()).fold(1.0f32, |m, v| m.max(v.abs()));
    let number = |rng: &mut Random| match exact {
        true => rng.pick(&[0.5f32, 1.0]),
        false => (0.01 + rng.uniform().abs()) * rng.pick(&[0.03f32, 1.0, -1.0]) * (4.0 / top).min(1.0),
    };
    let plane = PlaneKind::Scales;
    match scheme.scale {
        Scale::None => {}
        Scale::Direct(t @ (ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16)) => {
            fill(p.plane_mut(plane), t.size(), || number_bytes(t, number(rng)));
        }
        Scale::Direct(ScaleType::Table) => {
            fill(p.plane_mut(PlaneKind::ScaleTable), 4, || number(rng).to_le_bytes());
            fill(p.plane_mut(plane), 1, || [rng.bits() as u8; 4]);
        }
        Scale::Direct(t @ (ScaleType::E8M0 | ScaleType::E8M0Half)) => {
            let one = if t == ScaleType::E8M0 { 127 } else { 128 };
            let spread: &[u8] = if exact { &[1, 0] } else { &[9, 5, 3, 2, 1, 0] };
            fill(p.plane_mut(plane), 1, || [one - rng.pick(spread); 4]);
        }
        Scale::Direct(ScaleType::Ue4M3) => {
            fill(p.plane_mut(plane), 1, || {
                [if exact { rng.pick(&[0x30, 0x38]) } else { rng.below(0x60) as u8 }; 4]
            });
        }
        Scale::TwoLevel { sub, .. } => {
            fill(p.plane_mut(plane), 1, || {
                let byte = match (sub, exact) {
                    (SubScale::I8, true) => rng.pick(&[1i8, 2, -1, -2]) as u8,
                    (SubScale::I8, false) => (rng.below(64) as i8 - 32) as u8,
                    (SubScale::U8Min, true) => rng.pick(&[1, 2]),
                    (SubScale::U8Min, false) => rng.below(64) as u8,
                    (SubScale::U4Min, true) => rng.pick(&[0x01, 0x12, 0x11, 0x02]),
                    (SubScale::U4Min, false) => rng.bits() as u8,
                };
                [byte; 4]
            });
            if sub == SubScale::U8Min {
                fill(p.plane_mut(PlaneKind::Zeros), 1, || [rng.below(if exact { 2 } else { 64 }) as u8; 4]);
            }
            fill(p.plane_mut(PlaneKind::SuperScales), 2, || half_bytes(number(rng)));
            fill(p.plane_mut(PlaneKind::SuperMins), 2, || half_bytes(number(rng).abs()));
        }
    }
    if let (Zero::Bias, Scale::Direct(kind)) = (scheme.zero, scheme.scale) {
        let value = |rng: &mut Random| if exact { rng.below(5) as f32 * 0.5 - 1.0 } else { rng.uniform() };
        fill(p.plane_mut(PlaneKind::Zeros), kind.size(), || number_bytes(kind, value(rng)));
    }
    Ok(p)
}

/// Activations `[m, k]`: normal; or exact, small integers of which only `terms` per row are not zero.
pub fn activations(m: usize, k: usize, exact: Option<usize>, rng: &mut Random) -> Vec<f32> {
    let Some(terms) = exact else { return (0..m * k).map(|_| rng.normal()).collect() };
    let mut x = vec![0.0; m * k];
    for row in x.chunks_mut(k) {
        for _ in 0..terms.min(k) {
            row[rng.below(k)] = rng.pick(&[1.0, -1.0]);
        }
    }
    x
}

/// Whether the scheme's definition divides or multiplies and adds, and so leaves room for a device's rounding.
pub fn divides(scheme: &Scheme) -> bool {
    use Encoder::*;
    matches!(scheme.encoder, GgmlExtreme | GgmlMinMax | GgmlAbsmax | GgmlTernary | GgmlMeanAbs | GgmlNvfp4)
}

/// Weights to quantize, `[rows, k]`: normal rows, with groups of zeros, of one constant, of tiny values, of values that f16 scales
/// round to 0, with an outlier, and with both zeros.
pub fn weights(scheme: &Scheme, rows: usize, k: usize, rng: &mut Random) -> Vec<f32> {
    let group = scheme.group_len(k);
    let mut x: Vec<f32> = (0..rows * k).map(|_| rng.normal()).collect();
    for (r, row) in x.chunks_mut(k).enumerate() {
        // Whole rows, so that super-groups too are zero, or round to it.
        match r % 6 {
            4 => {
                let tiny = rng.pick(&[0.0, -0.0, 1e-31, 1e-9]);
                row.iter_mut().for_each(|v| *v *= tiny);
                continue;
            }
            5 => {
                row.fill(rng.pick(&[0.0, -0.0]));
                continue;
            }
            _ => {}
        }
        for part in row.chunks_mut(group) {
            let n = part.len();
            match rng.below(12) {
                0 => part.fill(0.0),
                1 => part.fill(rng.normal()),
                2 => part.iter_mut().for_each(|v| *v *= 1e-31),
                3 => part.iter_mut().for_each(|v| *v *= 1e-8),
                4 => part[rng.below(n)] = 60.0 * rng.normal(),
                5 => part.iter_mut().for_each(|v| *v = v.abs()),
                6 => part.iter_mut().for_each(|v| *v = -v.abs()),
                7 => part.iter_mut().enumerate().for_each(|(i, v)| *v = if i % 2 == 0 { 0.0 } else { -0.0 }),
                // Halfway between codes. GGUF's definitions round a quotient there, whose last bit is the device's; lowbit's compare.
                8 if !divides(scheme) => part.iter_mut().for_each(|v| *v = (*v * 4.0).round() * 0.25),
                _ => {}
            }
        }
    }
    if scheme.encoder == Encoder::GgmlNvfp4 || scheme.encoder.searches() {
        off_the_edge(&mut x);
    }
    x
}

/// Takes values near underflow for 0: GGUF's searches are not defined there, and devices differ.
pub fn off_the_edge(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = if v.abs() < 1e-20 { 0.0 } else { *v });
}

/// An importance of columns, `[matrices, k]`: squares of normal numbers, some columns far above the others, some without any.
pub fn importance(matrices: usize, k: usize, rng: &mut Random) -> Vec<f32> {
    let entry =
        |rng: &mut Random| rng.normal().powi(2) * rng.pick(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 40.0, 0.0]);
    (0..matrices * k).map(|_| entry(rng)).collect()
}
