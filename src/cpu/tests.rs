//! The engine against plain loops: every scheme, ragged shapes, every level of instructions.

use super::level::Level;
use super::matmul::matmul_at;
use super::*;
use crate::product::{Activation, Function, Int8Group, Int8Scale, Product};
use crate::scheme::preset::samples;
use crate::{DType, Error, PackedTensor, Scheme, Tensor};

/// Numbers in -1..1, the same ones for a seed.
pub(super) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(12345);
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn weights(scheme: Scheme, n: usize, k: usize) -> PackedTensor {
    let values = Tensor::from_f32([n, k], noise(n * k, (n * 31 + k) as u32)).unwrap();
    quantize(&values, "w", &scheme, None).unwrap()
}

/// Int8 activations as the definition has them, dequantized.
fn int8(x: &[f32], k: usize, group: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(k) {
        for g in row.chunks(group) {
            let amax = g.iter().fold(0f32, |m, v| m.max(v.abs()));
            let s = amax * (1.0 / 127.0);
            for v in g {
                let mut q = 0.0;
                while q < 127.0 && (q + 0.5) * s <= v.abs() && s > 0.0 {
                    q += 1.0;
                }
                out.push(f64::from(if *v < 0.0 { -q } else { q }) * f64::from(s));
            }
        }
    }
    out
}

/// Codes by a scale as the definition has them.
pub(super) fn int8_static(x: &[f32], by: Int8Scale) -> Vec<i8> {
    let code = |v: &f32| {
        let q = (0..255).rfind(|&q| (q as f32 + 0.5) * by.scale() <= v.abs()).map_or(0, |q| q + 1);
        (by.zero() as i32 + if *v < 0.0 { -q } else { q }).clamp(-128, 127) as i8
    };
    x.iter().map(code).collect()
}

/// A scale that does not divide anything, and a zero-point that leaves no room for large values.
fn static_int8() -> Activation {
    Activation::Int8Static(Int8Scale::new(0.013, -60).unwrap())
}

/// y and the sum of magnitudes of its terms, from which the bound follows. A weight with a bias (`[n, k]` or empty) is two terms, and so is
/// an activation with a zero-point: `offset` is its second.
fn reference(
    (x, offset): (&[f64], f64),
    w: &[f32],
    bias: &[f32],
    [m, k, n]: [usize; 3],
) -> (Vec<f64>, Vec<f64>) {
    let mut y = vec![0.0; m * n];
    let mut magnitude = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for c in 0..k {
                let term = x[i * k + c] * f64::from(w[j * k + c]);
                y[i * n + j] += term;
                let b = f64::from(bias.get(j * k + c).copied().unwrap_or(0.0));
                let parts = (f64::from(w[j * k + c]) - b).abs() + b.abs();
                magnitude[i * n + j] += ((x[i * k + c] + offset).abs() + offset.abs()) * parts;
            }
        }
    }
    (y, magnitude)
}

/// The bias, minimum or scaled zero of every weight, which may be summed apart; empty for schemes without.
fn biases(w: &PackedTensor) -> Vec<f32> {
    let view = super::decode::Weights::new(w);
    let (rows, k) = w.matrix();
    let mut groups = super::decode::Groups::default();
    let mut all = Vec::new();
    for row in (0..rows).filter(|_| view.has_correction()) {
        view.groups(row, &mut groups);
        let zeros = groups.scale.iter().zip(&groups.float_zero).map(|(s, z)| -s * z);
        let apart: Vec<f32> = groups.bias.iter().copied().chain(zeros).collect();
        all.extend((0..k).map(|c| apart[c / view.group_len]));
    }
    all
}

fn check(level: Level, scheme: Scheme, m: usize, k: usize, n: usize, activation: Activation) {
    let w = weights(scheme, n, k);
    let x = noise(m * k, (m + k) as u32);
    let values = dequantize(&w, DType::F32);
    let a: Vec<f64> = match activation {
        Activation::F32 => x.iter().map(|&v| f64::from(v)).collect(),
        Activation::F16 => x.iter().map(|&v| half::f16::from_f32(v).to_f64()).collect(),
        Activation::Int8(Int8Group::Row) => int8(&x, k, k),
        Activation::Int8(Int8Group::Cols(g)) => int8(&x, k, g as usize),
        Activation::Int8Static(s) => {
            let value = |q| f64::from(s.scale()) * (f64::from(q) - f64::from(s.zero()));
            int8_static(&x, s).into_iter().map(value).collect()
        }
    };
    let offset = match activation {
        Activation::Int8Static(s) => f64::from(s.scale()) * f64::from(s.zero()),
        _ => 0.0,
    };
    let product = Product { activation, ..Product::default() };
    let x = Tensor::from_f32([m, k], x).unwrap();
    let y = matmul_at(level, &x, &w, 0..n, &product, None, None).unwrap();
    assert_eq!(y.shape(), &[m, n]);
    let (want, magnitude) = reference((&a, offset), &values.to_f32(), &biases(&w), [m, k, n]);
    let sum = summation(&product, &scheme, k);
    let unit = f64::from(f32::EPSILON) / 2.0 * (sum.chain + sum.depth) as f64;
    for (i, (y, want)) in y.to_f32().iter().zip(&want).enumerate() {
        let bound = magnitude[i] * unit + 1e-30;
        let off = (f64::from(*y) - want).abs();
        assert!(
            off <= bound,
            "{scheme} {m}x{k}x{n} {activation:?} {level:?} at {i}: {y} not {want}, bound {bound:e}"
        );
    }
    assert!(want.iter().zip(&magnitude).any(|(w, m)| w.abs() > m * unit), "zeros would pass");
}

const ACTIVATIONS: [Activation; 5] = [
    Activation::F32,
    Activation::F16,
    Activation::Int8(Int8Group::Row),
    Activation::Int8(Int8Group::Cols(32)),
    Activation::Int8(Int8Group::Cols(128)),
];

#[test]
fn every_scheme_multiplies() {
    for scheme in samples() {
        let shapes: &[_] = if scheme.check_shape(&[1, 33]).is_ok() {
            &[(1, 1, 1), (2, 31, 3), (5, 33, 3), (9, 100, 3), (1, 100, 35)]
        } else {
            &[(1, 256, 3), (5, 512, 35), (2, 768, 1)]
        };
        for activation in ACTIVATIONS.into_iter().chain([static_int8()]) {
            for &(m, k, n) in shapes {
                check(Level::best(), scheme, m, k, n, activation);
            }
        }
    }
}

#[test]
fn every_level_multiplies() {
    for level in Level::available() {
        for name in [
            "q4_0",
            "q4_k",
            "q8_0",
            "q6_k",
            "int4-g20",
            "int4-g128-asym",
            "int8-row-asym",
            "nf4-g64",
            "f16",
            "mxfp4",
        ] {
            let scheme: Scheme = name.parse().unwrap();
            for activation in ACTIVATIONS {
                for m in [1, 3, 4, 5, 13, 130] {
                    check(level, scheme, m, 512, 35, activation);
                }
            }
        }
        // As they lie: more than one piece of K, the last of part of a vector, part of a tile; and rows of x side by side.
        for (name, k) in [("f32", 1043), ("f32", 9), ("int8-row", 192), ("int4-row", 256)] {
            for activation in ACTIVATIONS {
                for m in [1, 6, 7, 24 * crate::threads::count() + 5] {
                    check(level, name.parse().unwrap(), m, k, 39, activation);
                }
            }
        }
    }
}

#[test]
fn integer_products_are_alike_on_every_level() {
    for scheme in samples() {
        let k = if scheme.ggml.is_some() { 1536 } else { 1500 };
        let w = weights(scheme, 37, k);
        for m in [1, 2, 3, 4, 11] {
            let x = Tensor::from_f32([m, k], noise(m * k, 3)).unwrap();
            for activation in ACTIVATIONS.into_iter().chain([static_int8()]) {
                let product = Product { activation, ..Product::default() };
                if !super::matmul::in_integers(&scheme, activation) {
                    continue;
                }
                let run = |level| matmul_at(level, &x, &w, 0..37, &product, None, None).unwrap();
                let want = run(Level::Portable);
                for level in Level::available() {
                    assert!(run(level) == want, "{scheme} {m} {activation:?} {level:?}");
                }
            }
        }
    }
}

#[test]
fn rows_are_decoded_as_in_the_whole() {
    let (rows, k) = (7, 256);
    for scheme in samples() {
        let w = weights(scheme, rows, k);
        let whole = dequantize(&w, DType::F32);
        for range in [0..7, 2..3, 3..7] {
            let mut some = vec![f32::NAN; range.len() * k + 1];
            dequantize_rows(&w, range.clone(), &mut some);
            assert_eq!(
                some[..range.len() * k],
                whole.to_f32()[range.start * k..range.end * k],
                "{scheme} {range:?}"
            );
            assert!(some[range.len() * k].is_nan(), "{scheme}: more than the rows");
        }
    }
}

#[test]
fn experts_and_epilogues() {
    let scheme: Scheme = "int4-g32".parse().unwrap();
    let values = Tensor::from_f32([3, 40, 64], noise(3 * 40 * 64, 5)).unwrap();
    let w = quantize(&values, "w", &scheme, None).unwrap();
    let x = Tensor::from_f32([2, 3, 64], noise(6 * 64, 6)).unwrap();
    let (bias, residual) = (noise(40, 7), noise(240, 8));
    let expert = w.slice_rows(40..80);
    for function in [Function::Identity, Function::Relu, Function::Gelu, Function::Silu] {
        let product = Product { function, ..Product::default() };
        let y = matmul(&x, &w, 40..80, &product, Some(&bias), Some(&residual)).unwrap();
        assert_eq!(y.shape(), &[2, 3, 40]);
        let plain = matmul(&x, &expert, 0..40, &Product::default(), None, None).unwrap();
        for (i, (y, sum)) in y.to_f32().iter().zip(plain.to_f32().iter()).enumerate() {
            let v = f64::from(sum + bias[i % 40] + residual[i]);
            let want = match function {
                Function::Identity => v,
                Function::Relu => v.max(0.0),
                Function::Gelu => v / 2.0 * (1.0 + libm::erf(v / 2f64.sqrt())),
                Function::Silu => v / (1.0 + (-v).exp()),
            };
            assert!((f64::from(*y) - want).abs() < 4e-7 * v.abs().max(1.0), "{function:?} {y} {want}");
        }
        let half = Product { output: DType::F16, ..product };
        let h = matmul(&x, &w, 40..80, &half, Some(&bias), Some(&residual)).unwrap();
        let rounded: Vec<f32> = y.to_f32().iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
        assert_eq!(h.dtype(), DType::F16);
        assert_eq!(&*h.to_f32(), &rounded);
    }
}

#[test]
fn nan_reaches_y() {
    for name in ["q4_0", "int8-row", "nf4-g64", "f32"] {
        let w = weights(name.parse().unwrap(), 33, 64);
        for activation in ACTIVATIONS {
            for m in [1, 6] {
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut x = noise(m * 64, 1);
                    x[(m - 1) * 64 + 40] = bad;
                    let x = Tensor::from_f32([m, 64], x).unwrap();
                    let product = Product { activation, ..Product::default() };
                    let y = matmul(&x, &w, 0..33, &product, None, None).unwrap();
                    let y = y.to_f32();
                    let (good, last) = y.split_at((m - 1) * 33);
                    assert!(good.iter().all(|v| v.is_finite()), "{name} {activation:?}");
                    let int8 = matches!(activation, Activation::Int8(_));
                    let lost = |v: &f32| if int8 || bad.is_nan() { v.is_nan() } else { !v.is_finite() };
                    assert!(last.iter().all(lost), "{name} {activation:?} {last:?}");
                }
            }
        }
    }
}

#[test]
fn wrong_operands_are_explained() {
    let w = weights("q4_0".parse().unwrap(), 3, 64);
    let x = Tensor::from_f32([2, 64], vec![0.0; 128]).unwrap();
    let p = Product::default();
    let shape = |r: crate::Result<Tensor>| assert!(matches!(r, Err(Error::Shape { .. })), "{r:?}");
    shape(matmul(&Tensor::from_f32([2, 63], vec![0.0; 126]).unwrap(), &w, 0..3, &p, None, None));
    shape(matmul(&Tensor::from_f32([], vec![0.0]).unwrap(), &w, 0..3, &p, None, None));
    shape(matmul(&x, &w, 0..4, &p, None, None));
    shape(matmul(&x, &w, 2..2, &p, None, None));
    shape(matmul(&x, &w, 0..3, &p, Some(&[0.0; 2]), None));
    shape(matmul(&x, &w, 0..3, &p, None, Some(&[0.0; 5])));
    let none = Tensor::from_f32([0, 64], vec![]).unwrap();
    assert_eq!(matmul(&none, &w, 0..3, &p, None, None).unwrap().shape(), &[0, 3]);
    for product in [
        Product { output: DType::Bf16, ..p },
        Product { activation: Activation::Int8(Int8Group::Cols(64)), ..p },
    ] {
        assert!(matches!(matmul(&x, &w, 0..3, &product, None, None), Err(Error::Unsupported { .. })));
    }
}

#[test]
fn values_that_do_not_fit_are_named() {
    for (scheme, value) in
        [("q4_0", f32::NAN), ("int4-g32", f32::INFINITY), ("q4_k", 65505.0), ("f32", f32::NAN)]
    {
        let mut x = noise(1024, 1);
        (x[700], x[900]) = (value, value);
        let x = Tensor::from_f32([4, 256], x).unwrap();
        match quantize(&x, "some.weight", &scheme.parse().unwrap(), None) {
            Err(Error::NotRepresentable { tensor, index, value: v, .. }) => {
                assert_eq!((tensor.as_str(), index), ("some.weight", 700));
                assert_eq!(v.to_bits(), value.to_bits());
            }
            other => panic!("{scheme}: {other:?}"),
        }
    }
}

#[test]
fn half_tensors_are_quantized_as_their_values() {
    let values: Vec<half::f16> = noise(128, 2).into_iter().map(half::f16::from_f32).collect();
    let wide = Tensor::from_f32([2, 64], values.iter().map(|v| v.to_f32()).collect()).unwrap();
    let half = Tensor::from_f16([2, 64], &values).unwrap();
    let scheme = "int5-g32".parse().unwrap();
    assert_eq!(quantize(&half, "x", &scheme, None).unwrap(), quantize(&wide, "x", &scheme, None).unwrap());
}

#[test]
fn codebooks_are_given_or_learned() {
    let scheme: Scheme = "codebook2-g32".parse().unwrap();
    let x = Tensor::from_f32([4, 64], noise(256, 9)).unwrap();
    let given = quantize(&x, "x", &scheme, Some(&[-1.0, -0.25, 0.25, 1.0])).unwrap();
    assert_eq!(given.codebook(), [-1.0, -0.25, 0.25, 1.0]);
    for bad in [vec![1.0; 3], vec![0.0; 4], vec![f32::NAN; 4]] {
        assert!(matches!(quantize(&x, "x", &scheme, Some(&bad)), Err(Error::Shape { .. })));
    }
    let learned = quantize(&x, "x", &scheme, None).unwrap();
    let error = |q: &PackedTensor| -> f64 {
        let y = dequantize(q, DType::F32);
        x.to_f32().iter().zip(y.to_f32().iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    assert!(error(&learned) < error(&given), "{} {}", error(&learned), error(&given));
    let zeros = Tensor::from_f32([4, 64], vec![0.0; 256]).unwrap();
    assert!(
        dequantize(&quantize(&zeros, "x", &scheme, None).unwrap(), DType::F32)
            .to_f32()
            .iter()
            .all(|v| *v == 0.0)
    );
}

/// Each matrix of the leading dimensions has its own row of importance.
#[test]
fn importance_is_that_of_the_matrix() {
    let x = noise(2 * 3 * 512, 5);
    let importance: Vec<f32> = noise(2 * 512, 6).iter().map(|v| (3.0 * v).exp()).collect();
    for name in ["q4_0", "q5_1", "q2_k", "q4_k", "q6_k", "iq4_xs"] {
        let scheme: Scheme = name.parse().unwrap();
        let encode = |shape: &[usize], x: &[f32], importance: &[f32]| {
            let tensor = Tensor::from_f32(shape, x.to_vec()).unwrap();
            quantize_weighted(&tensor, "x", &scheme, importance)
        };
        let both = encode(&[2, 3, 512], &x, &importance).unwrap();
        for (i, (x, importance)) in x.chunks(3 * 512).zip(importance.chunks(512)).enumerate() {
            let one = encode(&[3, 512], x, importance).unwrap();
            let decoded = dequantize(&both, DType::F32).to_f32()[i * 1536..(i + 1) * 1536].to_vec();
            assert_eq!(dequantize(&one, DType::F32).to_f32(), decoded, "{name} {i}");
        }
        assert!(both != encode(&[2, 3, 512], &x, &[1.0; 1024]).unwrap(), "{name}");
        for bad in [f32::NAN, f32::INFINITY, -1.0, 1e21] {
            let mut importance = importance.clone();
            importance[1000] = bad;
            assert!(
                matches!(encode(&[2, 3, 512], &x, &importance), Err(Error::Shape { .. })),
                "{name} {bad}"
            );
        }
        assert!(matches!(encode(&[2, 3, 512], &x, &importance[..512]), Err(Error::Shape { .. })), "{name}");
    }
}

/// Two layers of int8 in a row are the codes of each product on its own.
#[test]
fn int8_layers_chain() {
    let to = Int8Scale::new(0.02, 7).unwrap();
    let product = Product { function: Function::Relu, ..Product::default() };
    for (scheme, m, k, n) in [("int8-row", 3, 70, 67), ("q4_0", 9, 96, 64), ("nf4-g64", 2, 64, 5)] {
        let w = weights(scheme.parse().unwrap(), n, k);
        let x = Tensor::from_f32([m, k], noise(m * k, 5)).unwrap();
        let (bias, residual) = (noise(n, 6), noise(m * n, 7));
        let x = Int8Rows::new(&x, static_int8()).unwrap();
        let float = matmul_int8(&x, &w, 0..n, &product, Some(&bias), Some(&residual)).unwrap();
        let y = matmul_to_int8(&x, &w, 0..n, &product, Some(&bias), Some(&residual), to).unwrap();
        assert_eq!((y.rows, y.k), (m, n));
        assert_eq!(y.codes(), int8_static(&float.to_f32(), to), "{scheme}");
        // Padding is zero, whatever the zero-point is, or it would count in the next layer.
        assert!(y.codes.chunks(y.padded).all(|row| row[n..].iter().all(|&q| q == 0)));
        let second = weights("int8-row".parse().unwrap(), 4, n);
        let chained = matmul_int8(&y, &second, 0..4, &product, None, None).unwrap();
        let apart = Int8Rows::new(&float, Activation::Int8Static(to)).unwrap();
        assert!(chained == matmul_int8(&apart, &second, 0..4, &product, None, None).unwrap());
    }
    let none = Int8Rows::zeroed(0, 64, static_int8()).unwrap();
    let w = weights("q4_0".parse().unwrap(), 3, 64);
    assert_eq!(matmul_int8(&none, &w, 0..3, &product, None, None).unwrap().shape(), [0, 3]);
}
