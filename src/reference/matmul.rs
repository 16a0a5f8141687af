//! The oracle of products: three loops in f64.
//!
//! ```text
//! y[m,n] = function( sum_k a(x[m,k]) * w[n,k] + bias[n] + residual[m,n] )        w = dequantize(packed)
//! ```
//!
//! x is `[M, K]` and w `[N, K]`, leading dimensions of w in N. The activation is rounded or quantized as the product says; the
//! accumulation policy and the output type are the engines' business and change nothing here.

use super::dequantize::{dequantize, term_magnitudes};
use crate::product::{Activation, Function, Int8Group, Int8Scale, Product};
use crate::{Error, PackedTensor, Result};
use half::f16;

/// What is added to a product before the function: `bias` `[N]`, `residual` `[M, N]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
}

/// y `[M, N]` of x `[M, K]` and w `[N, K]`, unrounded.
///
/// # Errors
/// [`Error::Shape`] if x has not `m * K` values, or an operand of the epilogue does not fit y.
pub fn matmul(x: &[f32], m: usize, w: &PackedTensor, added: Added, product: &Product) -> Result<Vec<f64>> {
    let (_, k) = check(x, m, w, added)?;
    let x = activations(x, k, product.activation);
    let weights: Vec<f64> = dequantize(w).into_iter().map(f64::from).collect();
    let sums = sums_of_products(&x, &weights, k, added, |term| term);
    Ok(sums.into_iter().map(|sum| apply(product.function, sum)).collect())
}

/// The sum of the magnitudes of all that [`matmul`] adds up for y `[M, N]`: `sum_k |a(x)| * terms(w) + |bias| + |residual|`, with
/// [`term_magnitudes`] of w. Rounding errors of any order of summation are in proportion to it.
///
/// # Errors
/// As [`matmul`].
pub fn magnitude(x: &[f32], m: usize, w: &PackedTensor, added: Added, product: &Product) -> Result<Vec<f64>> {
    let (_, k) = check(x, m, w, added)?;
    let x = match product.activation {
        // Codes and the zero-point may be summed apart.
        Activation::Int8Static(s) => {
            let term = |q: i8| f64::from(s.scale()) * (f64::from(q).abs() + f64::from(s.zero()).abs());
            int8_static(x, s).into_iter().map(term).collect()
        }
        other => activations(x, k, other),
    };
    Ok(sums_of_products(&x, &term_magnitudes(w), k, added, f64::abs))
}

/// `sum_k of(x[m,k] * w[n,k]) + of(bias[n]) + of(residual[m,n])` for x `[M, K]` and w `[N, K]`.
fn sums_of_products(x: &[f64], w: &[f64], k: usize, added: Added, of: impl Fn(f64) -> f64) -> Vec<f64> {
    let n = w.len() / k;
    let mut y = Vec::with_capacity(x.len() / k * n);
    for (row, x) in x.chunks(k).enumerate() {
        for (col, w) in w.chunks(k).enumerate() {
            let mut sum = 0.0;
            for (x, w) in x.iter().zip(w) {
                sum += of(x * w);
            }
            sum += added.bias.map_or(0.0, |b| of(b[col].into()));
            sum += added.residual.map_or(0.0, |r| of(r[row * n + col].into()));
            y.push(sum);
        }
    }
    y
}

/// The function of an epilogue, in f64.
pub fn apply(function: Function, v: f64) -> f64 {
    match function {
        Function::Identity => v,
        // Not `max`, which would turn a NaN into 0.
        Function::Relu => {
            if v < 0.0 {
                0.0
            } else {
                v
            }
        }
        // 1 + erf(z) = erfc(-z), which keeps its digits where erf(z) is close to -1.
        Function::Gelu => v / 2.0 * libm::erfc(-v / std::f64::consts::SQRT_2),
        Function::Silu => v / (1.0 + (-v).exp()),
    }
}

/// x `[M, K]` as int8: codes, and one f32 scale for each of the `ceil(K / group)` groups of a row. See [`Activation::Int8`].
pub fn int8(x: &[f32], k: usize, group: Int8Group) -> (Vec<i8>, Vec<f32>) {
    let group = match group {
        Int8Group::Row => k,
        Int8Group::Cols(g) => g as usize,
    };
    let tiny = f32::from_bits((127 - 100) << 23);
    let (mut codes, mut scales) = (Vec::with_capacity(x.len()), Vec::new());
    for row in x.chunks(k) {
        for part in row.chunks(group) {
            let mut amax: f32 = 0.0;
            for v in part {
                if v.abs() > amax {
                    amax = v.abs();
                }
            }
            let scale = if amax < tiny { 0.0 } else { amax * (1.0 / 127.0) };
            scales.push(scale);
            for v in part {
                let mut q = 0;
                while scale > 0.0 && q < 127 && ((q + 1) as f32 - 0.5) * scale <= v.abs() {
                    q += 1;
                }
                codes.push(if *v < 0.0 { -q as i8 } else { q as i8 });
            }
        }
    }
    (codes, scales)
}

/// x as int8 with a scale and a zero-point. See [`Int8Scale`].
pub fn int8_static(x: &[f32], s: Int8Scale) -> Vec<i8> {
    let mut codes = Vec::with_capacity(x.len());
    for v in x {
        let mut q = 0;
        while q < 255 && ((q + 1) as f32 - 0.5) * s.scale() <= v.abs() {
            q += 1;
        }
        let q = if *v < 0.0 { -q } else { q };
        codes.push((q + i32::from(s.zero())).clamp(-128, 127) as i8);
    }
    codes
}

/// What int8 codes `[M, K]` stand for, given the scales of `K / group` groups of a row, as f32: one difference and one product.
pub fn int8_values(codes: &[i8], scales: &[f32], group: usize, zero: i8) -> Vec<f32> {
    let mut values = Vec::with_capacity(codes.len());
    for (part, scale) in codes.chunks(group).zip(scales) {
        values.extend(part.iter().map(|&q| scale * (f32::from(q) - f32::from(zero))));
    }
    values
}

/// The activations as the product uses them.
fn activations(x: &[f32], k: usize, activation: Activation) -> Vec<f64> {
    match activation {
        Activation::F32 => x.iter().map(|&v| f64::from(v)).collect(),
        Activation::F16 => x.iter().map(|&v| f16::from_f32(v).to_f64()).collect(),
        Activation::Int8Static(s) => {
            let value = |q| f64::from(s.scale()) * (f64::from(q) - f64::from(s.zero()));
            int8_static(x, s).into_iter().map(value).collect()
        }
        Activation::Int8(group) => {
            let (codes, scales) = int8(x, k, group);
            let group = match group {
                Int8Group::Row => k,
                Int8Group::Cols(g) => g as usize,
            };
            let groups = k.div_ceil(group);
            let value =
                |(i, &q): (usize, &i8)| f64::from(q) * f64::from(scales[i / k * groups + i % k / group]);
            codes.iter().enumerate().map(value).collect()
        }
    }
}

fn check(x: &[f32], m: usize, w: &PackedTensor, added: Added) -> Result<(usize, usize)> {
    let (n, k) = w.matrix();
    let fits = |what: String, expected: Option<usize>, got: usize| match expected {
        Some(e) if e == got => Ok(()),
        Some(e) => Err(Error::shape(what, e, got)),
        None => Err(Error::shape(what, "a size that can be counted", got)),
    };
    fits(format!("values of x [{m}, {k}]"), m.checked_mul(k), x.len())?;
    if let Some(bias) = added.bias {
        fits(format!("values of the bias [{n}]"), Some(n), bias.len())?;
    }
    if let Some(residual) = added.residual {
        fits(format!("values of the residual [{m}, {n}]"), m.checked_mul(n), residual.len())?;
    }
    Ok((n, k))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::quantize;

    #[test]
    fn a_product_worked_out_by_hand() {
        let w = quantize(&[1.0, -2.0, 0.5, 3.0, 0.0, -1.0], 2, 3, "f32".parse().unwrap(), None).unwrap();
        let x = [2.0, 1.0, -4.0];
        let added = Added { bias: Some(&[0.5, 1.0]), residual: Some(&[0.25, 0.0]) };
        let run = |function| matmul(&x, 1, &w, added, &Product { function, ..Product::default() }).unwrap();
        assert_eq!(run(Function::Identity), [-1.25, 11.0]);
        assert_eq!(run(Function::Relu), [0.0, 11.0]);
        assert_eq!(magnitude(&x, 1, &w, added, &Product::default()).unwrap(), [6.75, 11.0]);
        assert!(matches!(matmul(&x, 2, &w, Added::default(), &Product::default()), Err(Error::Shape { .. })));
        let added = Added { bias: Some(&[1.0; 3]), residual: None };
        assert!(matches!(matmul(&x, 1, &w, added, &Product::default()), Err(Error::Shape { .. })));
    }

    /// Values of the functions from their tables (erf(1) = 0.8427007929, e = 2.718281828).
    #[test]
    fn functions_have_their_landmarks() {
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-9, "{got} {want}");
        close(apply(Function::Gelu, std::f64::consts::SQRT_2), 1.0 / 2f64.sqrt() * 1.842_700_792_949_7);
        close(apply(Function::Silu, 1.0), 0.731_058_578_630_0);
        close(apply(Function::Silu, -1.0), -0.268_941_421_37);
        for f in [Function::Relu, Function::Gelu, Function::Silu, Function::Identity] {
            assert_eq!(apply(f, 0.0), 0.0);
            assert!(apply(f, f64::NAN).is_nan(), "{f:?}");
        }
    }

    #[test]
    fn int8_activations_round_half_away_and_keep_groups_apart() {
        let x = [127.0, 0.5, -0.5, 0.49, -126.5, 0.0, 2.54, 1e-38];
        let (codes, scales) = int8(&x, 8, Int8Group::Cols(6));
        assert_eq!(codes, [127, 1, -1, 0, -127, 0, 127, 0]);
        assert_eq!(scales[0], 127.0 * (1.0 / 127.0));
        let (codes, scales) = int8(&[0.0, 1e-38, -0.0], 3, Int8Group::Row);
        assert_eq!((codes, scales), (vec![0, 0, 0], vec![0.0]));
    }

    #[test]
    fn static_int8_has_its_zero_and_saturates() {
        let s = Int8Scale::new(0.5, -3).unwrap();
        let x = [0.0, 0.25, -0.25, 0.24, 1.0, 65.0, 65.25, 1e9, -62.5, -62.75, -1e9, f32::NAN];
        let codes = int8_static(&x, s);
        assert_eq!(codes, [-3, -2, -4, -3, -1, 127, 127, 127, -128, -128, -128, -3]);
        let w = quantize(&[1.0; 4], 1, 4, "f32".parse().unwrap(), None).unwrap();
        let product = Product { activation: Activation::Int8Static(s), ..Product::default() };
        let x = [0.0, 0.25, -0.25, 1e9];
        assert_eq!(matmul(&x, 1, &w, Added::default(), &product).unwrap(), [65.0]);
        // |-3| + 3, |-2| + 3, |-4| + 3, 127 + 3, in halves.
        let terms = 0.5 * (6.0 + 5.0 + 7.0 + 130.0);
        assert_eq!(magnitude(&x, 1, &w, Added::default(), &product).unwrap(), [terms]);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-31, 2e30] {
            assert!(Int8Scale::new(scale, 0).is_err(), "{scale}");
        }
    }
}
